//! Where what was typed meets the agent: one function for each command.
//!
//! These three are the seam: what is above them knows nothing of volumes and links, what is below nothing of flags and
//! terminals. Each leaves the source as it was. A destination that is left by a failure or a stop is no copy, and the
//! next pass goes on from it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;
use tranship_agent::monitor::Monitor;
use tranship_agent::report::{Report, Verdict};

pub(crate) use crate::error::RunError;
use crate::options::{ReceiveOptions, SyncOptions, VerifyOptions};
use crate::rate::Rate;

/// What a pass is given besides its options.
#[expect(dead_code, reason = "for the pass, which is not connected yet")]
#[derive(Clone)]
pub(crate) struct Context {
    /// Where it says how far it is.
    pub(crate) monitor: Arc<Monitor>,
    /// Whether it has to end.
    pub(crate) stop: Stop,
    /// The most that it may send, whenever that changes.
    pub(crate) bandwidth: watch::Receiver<Option<Rate>>,
    /// To whom the ticket is given, once the address is bound.
    pub(crate) announce: Announce,
}

/// Takes the text of a ticket.
pub(crate) type Announce = Arc<dyn Fn(&str) + Send + Sync>;

/// Runs one pass from the source's side. Stopped, it commits nothing, and returns [`RunError::stopped`].
pub(crate) async fn sync(options: SyncOptions, context: Context) -> Result<Report, RunError> {
    let _ = (&options, &context);
    Err(RunError::not_built("run a pass"))
}

/// Runs passes from the destination's side: one, or until a final one is proven. Returns the report of the last.
pub(crate) async fn receive(options: ReceiveOptions, context: Context) -> Result<Report, RunError> {
    let _ = (&options, &context);
    Err(RunError::not_built("receive a pass"))
}

/// Reads both volumes and compares them.
pub(crate) async fn verify(options: VerifyOptions, context: Context) -> Result<Verdict, RunError> {
    let _ = (&options, &context);
    Err(RunError::not_built("compare two volumes"))
}

/// Shows that this process's confinement holds; the lines say what was tried.
pub(crate) fn self_test() -> Result<Vec<String>, RunError> {
    Err(RunError::not_built("test its confinement"))
}

/// A request to end, which is never taken back. Threads look at the flag, tasks wait.
#[derive(Clone)]
pub(crate) struct Stop {
    flag: Arc<AtomicBool>,
    changed: watch::Sender<bool>,
}

impl Stop {
    /// Nothing is asked yet.
    pub(crate) fn new() -> Self {
        Self { flag: Arc::default(), changed: watch::Sender::new(false) }
    }

    /// Asks everyone who holds a clone to end.
    pub(crate) fn set(&self) {
        self.flag.store(true, Ordering::SeqCst);
        self.changed.send_replace(true);
    }

    /// Whether it was asked.
    pub(crate) fn is_set(&self) -> bool {
        self.flag.load(Ordering::SeqCst)
    }

    /// For threads: true once it was asked.
    #[expect(dead_code, reason = "for scans, which are not connected yet")]
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// Returns once it was asked.
    pub(crate) async fn wait(&self) {
        // The sender lives as long as `self`, so that the only end is the value.
        let _ = self.changed.subscribe().wait_for(|is_set| *is_set).await;
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stop({})", self.is_set())
    }
}
