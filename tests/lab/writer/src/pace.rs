//! When a writer acts, when it stops, and what it says.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::WriterError;

/// The pace of a writer.
pub(crate) struct Pace {
    is_over: Arc<AtomicBool>,
    /// From one act to the next.
    interval: Duration,
    next: Instant,
    acts_left: Option<u64>,
    /// Who speaks: a pod's name in a cluster.
    name: String,
    /// Where it speaks.
    out: Box<dyn Write>,
}

impl Pace {
    /// At most `rate` acts per second and `acts` in all, 0 for no limit, and until SIGTERM or SIGINT. What
    /// is durable is said on `out`.
    pub(crate) fn new(rate: u32, acts: u64, out: Box<dyn Write>) -> Result<Self, WriterError> {
        let is_over = Arc::new(AtomicBool::new(false));
        listen(Arc::clone(&is_over)).map_err(WriterError::io(Path::new("signals")))?;
        Ok(Self {
            is_over,
            interval: Duration::from_secs(1).checked_div(rate).unwrap_or_default(),
            next: Instant::now(),
            acts_left: (acts > 0).then_some(acts),
            name: std::env::var("HOSTNAME").unwrap_or_default(),
            out,
        })
    }

    /// Waits until the next act is due; false if there shall be none.
    pub(crate) fn wait(&mut self) -> bool {
        let is_last = self.acts_left.is_some_and(|left| left == 0);
        self.acts_left = self.acts_left.map(|left| left.saturating_sub(1));
        while let Some(left) = self.next.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if is_last || self.is_over.load(Ordering::Relaxed) {
                break;
            }
            thread::park_timeout(left.min(Duration::from_millis(20)));
        }
        // One that is late does not hurry afterwards.
        self.next = (self.next + self.interval).max(Instant::now());
        !is_last && !self.is_over.load(Ordering::Relaxed)
    }

    /// Says that an act is durable.
    pub(crate) fn acknowledge(&mut self, act: u64) -> Result<(), WriterError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = json!({"acknowledged": act, "unix_ms": now.as_millis() as u64, "writer": self.name});
        let said = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
        said.map_err(WriterError::io(Path::new("standard output")))
    }
}

/// The first process of a container gets no signal that it does not wait for.
fn listen(is_over: Arc<AtomicBool>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        is_over.store(true, Ordering::Relaxed);
    });
    Ok(())
}
