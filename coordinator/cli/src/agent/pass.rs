//! A pass, which is a process of its own: started, listened to, told to end.

use std::io;
use std::num::NonZeroU64;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tranship_agent::link::Ticket;
use tranship_agent::report::printable;
use tranship_proto::control::{Ended, Event, Listening, Order, Progress, Purpose, Role, Secret, code};

use super::Input;
use super::command::{Typed, rate};
use super::lines::Lines;
use super::options::Place;
use super::record::{shorten_error, shorten_report};
use super::relay::Relay;
use crate::run::Stop;
use crate::signals::BANDWIDTH_FILE;

/// How long a pass may take to end in order once it was told to.
pub(super) const STOPPING: Duration = Duration::from_secs(20);

/// Bytes in a line of a process's output: more than its longest report.
const OUTPUT_LINE_BYTES_MAX: usize = 32 << 20;

/// What a pass is given.
pub(super) struct Pass {
    pub(super) order: Order,
    pub(super) place: Place,
    pub(super) typed: Typed,
    pub(super) relay: Option<Relay>,
    /// What it may send, in bits per second, whenever that changes.
    pub(super) share: watch::Receiver<Option<NonZeroU64>>,
    /// Whether it has to end.
    pub(super) stop: Stop,
    /// Whom it tells.
    pub(super) inputs: mpsc::Sender<Input>,
}

impl Pass {
    /// Runs it to its end, which is the last thing that it tells.
    pub(super) async fn run(mut self) {
        let over = Stop::new();
        let relaying = self.relay.take().map(|relay| tokio::spawn(relay.run(over.clone())));
        let result = self.supervise().await;
        over.set();
        if let Some(relaying) = relaying {
            // A relay that panicked has shown that already.
            let _ = relaying.await;
        }
        let ended = self.ended(result);
        // Whoever does not take it is at an end itself.
        let _ = self.inputs.send(Input::Ended(ended)).await;
    }

    /// The process from its start to its end, and the last line that it printed.
    async fn supervise(&mut self) -> io::Result<(ExitStatus, Vec<u8>)> {
        let mut child = self.start()?;
        // Open for as long as this process lives: the other ends when it is closed.
        let mut stdin = child.stdin.take().expect("it was asked for");
        let stdout = child.stdout.take().expect("it was asked for");
        let stderr = child.stderr.take().expect("it was asked for");
        if let Some(ticket) = self.typed.ticket.take() {
            // A process that is gone already says why.
            let _ = stdin.write_all(format!("{ticket}\n").as_bytes()).await;
        }
        let is_ready = watch::Sender::new(false);
        let teller = Teller { order: &self.order, inputs: &self.inputs, is_ready: &is_ready };
        let control = Control { stop: &self.stop, state: &self.place.state, ready: is_ready.subscribe() };
        // What compares sends no contents, and has no bandwidth to read again.
        let sends_none = self.order.purpose == Purpose::Comparison && self.order.role == Role::Source;
        let share = if sends_none { watch::channel(None).1 } else { self.share.clone() };
        let (status, last, ()) =
            tokio::join!(control.until_end(child, share), teller.results(stdout), teller.progress(stderr));
        drop(stdin);
        Ok((status?, last))
    }

    fn start(&self) -> io::Result<Child> {
        Command::new(std::env::current_exe()?)
            .args(&self.typed.arguments)
            // What this process was given is not that one's business.
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }

    fn ended(&self, result: io::Result<(ExitStatus, Vec<u8>)>) -> Ended {
        let Order { pass, volume, role, .. } = &self.order;
        let failed = |why: String| Some(json!({ "code": code::PROCESS, "message": why, "causes": [], "hint": "" }));
        let (exit, report, error) = match result {
            Err(error) => (crate::exit::Exit::Failed.number(), None, failed(format!("cannot run the pass: {error}"))),
            Ok((status, last)) => {
                let mut said: Value = serde_json::from_slice(&last).unwrap_or_default();
                let exit = exit_number(status);
                if said["version"].is_u64() {
                    (exit, Some(shorten_report(said)), None)
                } else if said["error"].is_object() {
                    (exit, None, Some(shorten_error(said["error"].take())))
                } else if self.stop.is_set() {
                    // The signal came before the process listened for it.
                    let stopped = json!({ "code": "TS-P109", "message": "stopped", "causes": [], "hint": "" });
                    (exit, None, Some(stopped))
                } else {
                    (exit, None, failed(format!("it ended without a word: {status}")))
                }
            }
        };
        Ended { pass: pass.clone(), volume: volume.clone(), role: *role, exit, report, error }
    }
}

/// 128 and the signal's number, as shells have it.
fn exit_number(status: ExitStatus) -> u8 {
    let number = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// What a process is told while it runs.
struct Control<'a> {
    stop: &'a Stop,
    state: &'a Path,
    /// Whether the process listens for signals; before that SIGHUP would end it.
    ready: watch::Receiver<bool>,
}

impl Control<'_> {
    async fn until_end(
        mut self,
        mut child: Child,
        mut share: watch::Receiver<Option<NonZeroU64>>,
    ) -> io::Result<ExitStatus> {
        let (mut is_stopping, mut is_share_due, mut is_ready) = (false, false, false);
        let mut kill_at = Instant::now();
        loop {
            tokio::select! {
                status = child.wait() => return status,
                () = self.stop.wait(), if !is_stopping => {
                    (is_stopping, kill_at) = (true, Instant::now() + STOPPING);
                    signal(&child, Signal::TERM);
                }
                () = sleep_until(kill_at), if is_stopping => {
                    // An error means that it is over.
                    let _ = child.start_kill();
                    kill_at += STOPPING;
                }
                Ok(()) = share.changed() => is_share_due = true,
                Ok(_) = self.ready.wait_for(|is_ready| *is_ready), if !is_ready => is_ready = true,
            }
            if is_share_due && is_ready {
                is_share_due = false;
                let text = share.borrow_and_update().map_or("none".to_owned(), rate);
                match std::fs::write(self.state.join(BANDWIDTH_FILE), text + "\n") {
                    Ok(()) => signal(&child, Signal::HUP),
                    Err(error) => tracing::warn!(%error, "the bandwidth of a pass stays as it is"),
                }
            }
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    // There is no identifier once it was waited for, and so nobody else's is hit.
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
        tracing::warn!(%error, "a signal did not reach a pass");
    }
}

/// What a process says, passed on.
struct Teller<'a> {
    order: &'a Order,
    inputs: &'a mpsc::Sender<Input>,
    is_ready: &'a watch::Sender<bool>,
}

impl Teller<'_> {
    /// The ticket, if there is one, and the last line.
    async fn results(&self, stdout: impl AsyncRead + Unpin) -> Vec<u8> {
        let mut lines = Lines::new(stdout, OUTPUT_LINE_BYTES_MAX);
        let mut last = Vec::new();
        loop {
            match lines.next().await {
                Ok(Some(line)) => match self.listening(line) {
                    Some(listening) => self.tell(Event::Listening(listening)).await,
                    None => last = line.to_vec(),
                },
                Ok(None) => return last,
                Err(error) => {
                    tracing::warn!(%error, "the results of a pass cannot be read");
                    lines.drain().await;
                    return Vec::new();
                }
            }
        }
    }

    fn listening(&self, line: &[u8]) -> Option<Listening> {
        let ticket: Ticket = std::str::from_utf8(line).ok()?.trim().parse().ok()?;
        Some(Listening {
            pass: self.order.pass.clone(),
            port: ticket.addresses.first()?.port(),
            fingerprint: ticket.fingerprint.to_string(),
            secret: Secret(blake3::Hash::from(*ticket.secret.expose()).to_hex().to_string()),
        })
    }

    /// Progress and notes; what is neither goes to the log.
    async fn progress(&self, stderr: impl AsyncRead + Unpin) {
        let mut lines = Lines::new(stderr, OUTPUT_LINE_BYTES_MAX);
        loop {
            match lines.next().await {
                Ok(Some(line)) => match event(self.order, line) {
                    Some(event) => self.tell(event).await,
                    None => {
                        let line = printable(String::from_utf8_lossy(line).trim_end());
                        tracing::warn!(pass = self.order.pass, volume = self.order.volume, "{line}");
                    }
                },
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "the progress of a pass cannot be read");
                    return lines.drain().await;
                }
            }
        }
    }

    async fn tell(&self, event: Event) {
        // Whoever prints has set up its signals before.
        if matches!(event, Event::Listening(_) | Event::Progress(_)) {
            self.is_ready.send_replace(true);
        }
        // Whoever does not take it is at an end itself.
        let _ = self.inputs.send(Input::Told(event)).await;
    }
}

/// What a line of progress says.
fn event(order: &Order, line: &[u8]) -> Option<Event> {
    let mut said: Value = serde_json::from_slice(line).ok()?;
    if let Some(note) = said["note"].as_str() {
        return Some(Event::Note { pass: order.pass.clone(), text: printable(note) });
    }
    let mut progress = said.get_mut("progress")?.take();
    progress
        .as_object_mut()?
        .extend([("pass".to_owned(), Value::from(&*order.pass)), ("volume".to_owned(), Value::from(&*order.volume))]);
    serde_json::from_value::<Progress>(progress).ok().map(Event::Progress)
}
