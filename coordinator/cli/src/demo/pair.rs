//! The real thing: for each volume a source in this process, and a destination in a process of its own.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::timeout;
use tranship_agent::monitor::Monitor;
use tranship_agent::report::{Fidelity, Level, Report, printable};

use super::{Mover, Volume};
use crate::error::RunError;
use crate::options::{Compression, Destination, LinkOptions, SyncOptions};
use crate::run::{self, Context, Stop};
use crate::ticket::Ticket;

/// A receiver prints its ticket within this time, and ends within it after its source has.
const RECEIVER_WAIT: Duration = Duration::from_secs(10);

/// Runs passes between this process and receivers that it starts.
pub(super) struct AgentPair;

/// A receiver that has printed its ticket. Dropped, its process is killed.
pub(super) struct Receiver {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    ticket: Ticket,
}

impl Mover for AgentPair {
    type Receiver = Receiver;

    async fn ready(&self, volume: &Volume) -> Result<Receiver, RunError> {
        let program = std::env::current_exe().map_err(|error| no_receiver("it cannot be found").because(error))?;
        let mut child = Command::new(program)
            .args(["--output", "json", "--quiet", "receive", "--listen", "127.0.0.1:0", "--state"])
            .arg(volume.destination_state())
            .arg("--")
            .arg(&volume.destination)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| no_receiver("it cannot be started").because(error))?;
        let stdout = child.stdout.take().expect("it was asked for");
        let mut lines = BufReader::new(stdout).lines();
        let line = timeout(RECEIVER_WAIT, lines.next_line()).await;
        let line = line.map_err(|late| no_receiver("it printed no ticket in time").because(late))?;
        let line = line.map_err(|error| no_receiver("it cannot be read").because(error))?.unwrap_or_default();
        let value: Value = serde_json::from_str(&line).unwrap_or_default();
        let Some(ticket) = value["ticket"].as_str() else {
            return Err(no_receiver("it printed no ticket").because(complaint(&value, &line)));
        };
        let ticket = Ticket::parse(ticket, "the receiver".to_owned());
        let ticket = ticket.map_err(|error| no_receiver("it printed something else").because(error))?;
        Ok(Receiver { child, lines, ticket })
    }

    async fn pass(
        &self,
        volume: &Volume,
        receiver: Receiver,
        is_final: bool,
        monitor: Arc<Monitor>,
        stop: &Stop,
    ) -> Result<Report, RunError> {
        let options = SyncOptions {
            source: volume.source.clone(),
            destination: Destination::Dial(receiver.ticket.clone()),
            final_level: is_final.then_some(Level::Full),
            fidelity: Fidelity::Plain,
            accepted_gaps: Vec::new(),
            exclude: Vec::new(),
            compression: Compression::Auto,
            tracks_writes: false,
            link: LinkOptions::default(),
            state: volume.source_state(),
        };
        let bandwidth = watch::channel(None).1;
        let context = Context { monitor, stop: stop.clone(), bandwidth, announce: Arc::new(|_| {}) };
        let report = run::sync(options, context).await?;
        receiver.finish().await?;
        Ok(report)
    }
}

impl Receiver {
    /// Waits for the end of the receiver, which has to be of the source's opinion.
    async fn finish(mut self) -> Result<(), RunError> {
        let end = async {
            let mut last = String::new();
            while let Some(line) = self.lines.next_line().await? {
                last = line;
            }
            Ok::<(ExitStatus, String), std::io::Error>((self.child.wait().await?, last))
        };
        let end = timeout(RECEIVER_WAIT, end).await.map_err(|late| disagreement("it does not end").because(late))?;
        let (status, last) = end.map_err(|error| disagreement("it cannot be read").because(error))?;
        if status.success() {
            return Ok(());
        }
        let value = serde_json::from_str(&last).unwrap_or_default();
        Err(disagreement(&format!("it ended with {status}")).because(complaint(&value, &last)))
    }
}

/// What a receiver said instead of what was expected.
fn complaint(value: &Value, line: &str) -> String {
    match (value["error"]["code"].as_str(), value["error"]["message"].as_str()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        _ if line.is_empty() => "it ended without a word".to_owned(),
        _ => printable(line),
    }
}

fn no_receiver(why: &str) -> RunError {
    RunError::refused("TS-U082", format!("there is no receiver: {why}"))
}

fn disagreement(why: &str) -> RunError {
    RunError::failed("TS-U083", format!("the source is done and the receiver is not: {why}"))
}
