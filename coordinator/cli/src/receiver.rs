//! A destination on this machine: a process of its own, which this one talks to as it would to another host.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use tranship_agent::report::printable;

use crate::error::RunError;
use crate::ticket::Ticket;

/// A receiver prints its ticket within this time, and ends within it after its source has.
const RECEIVER_WAIT: Duration = Duration::from_secs(10);

/// A receiver that has printed its ticket. Dropped, its process is killed.
pub(crate) struct Receiver {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    ticket: Ticket,
}

impl Receiver {
    /// Starts one for one pass into `destination`, which remembers things in `state`.
    pub(crate) async fn start(destination: &Path, state: &Path) -> Result<Self, RunError> {
        let program = std::env::current_exe().map_err(|error| no_receiver("it cannot be found").because(error))?;
        let mut child = Command::new(program)
            .args([
                "--output",
                "json",
                "--quiet",
                "receive",
                "--once",
                "--attached",
                "--listen",
                "127.0.0.1:0",
                "--state",
            ])
            .arg(state)
            .arg("--")
            .arg(destination)
            // However we end, the kernel closes our end of it.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| no_receiver("it cannot be started").because(error))?;
        let stdout = child.stdout.take().expect("it was asked for");
        let mut lines = BufReader::new(stdout).lines();
        let line = timeout(RECEIVER_WAIT, lines.next_line()).await;
        let line = line.map_err(|late| no_receiver("it printed no ticket in time").because(late))?;
        let line = line.map_err(|error| no_receiver("it cannot be read").because(error))?.unwrap_or_default();
        let ticket = match Ticket::parse(&line, "the receiver".to_owned()) {
            Ok(ticket) => ticket,
            Err(_) => {
                let value: Value = serde_json::from_str(&line).unwrap_or_default();
                return Err(no_receiver("it printed no ticket").because(complaint(&value, &line)));
            }
        };
        Ok(Self { child, lines, ticket })
    }

    /// How it is reached.
    pub(crate) fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Waits for its end; it has to be of the source's opinion.
    pub(crate) async fn finish(mut self) -> Result<(), RunError> {
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
