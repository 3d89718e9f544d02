//! A destination on this machine: a process of its own, which this one talks to as it would to another host.
//!
//! It is started before this process is confined. Afterwards this process can neither end it nor wait for it: a
//! receiver ends by itself when its standard input does, and its end is seen at its standard output.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::timeout;
use tranship_agent::report::printable;

use crate::error::RunError;
use crate::ticket::Ticket;

/// A receiver prints its ticket within this time, and ends within it after its source has.
const RECEIVER_WAIT: Duration = Duration::from_secs(10);

/// A receiver that has printed its ticket. Dropped, it ends.
pub(crate) struct Receiver {
    /// Closed, it tells the receiver to end.
    stdin: ChildStdin,
    stdout: ChildStdout,
    /// What it printed after the ticket.
    said: Vec<u8>,
    ticket: Ticket,
}

impl Receiver {
    /// Starts one for one pass into `destination`, which remembers things in `state`; if nothing is there, it makes an
    /// image or a folder. Blocks until it listens.
    pub(crate) fn start(destination: &Path, state: &Path, makes_image: bool) -> Result<Self, RunError> {
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
            .args(makes_image.then_some("--image"))
            .arg("--")
            .arg(destination)
            // However we end, the kernel closes our end of it.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| no_receiver("it cannot be started").because(error))?;
        let stdin = child.stdin.take().expect("it was asked for");
        let mut stdout = child.stdout.take().expect("it was asked for");
        let (line, said) = first_line(&mut stdout)?;
        match Ticket::parse(&line, "the receiver".to_owned()) {
            Ok(ticket) => Ok(Self { stdin, stdout, said, ticket }),
            Err(_) => {
                reap(child);
                Err(no_receiver("it printed no ticket").because(complaint(&line)))
            }
        }
    }

    /// How it is reached.
    pub(crate) fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Waits for its end; it has to be of the source's opinion.
    pub(crate) async fn finish(self) -> Result<(), RunError> {
        let Self { stdin, stdout, said, .. } = self;
        let end = timeout(RECEIVER_WAIT, rest(stdout, said)).await;
        drop(stdin);
        let said = end.map_err(|late| disagreement("it does not end").because(late))?;
        let said = said.map_err(|error| disagreement("it cannot be read").because(error))?;
        let last = said.trim_end().lines().last().unwrap_or_default();
        // It ends with its report, or with an error.
        match serde_json::from_str::<Value>(last) {
            Ok(report) if report["version"].is_u64() => Ok(()),
            _ => Err(disagreement("it ended without a report").because(complaint(last))),
        }
    }

    /// Tells it to end, and waits until it has: what it holds is free then.
    pub(crate) async fn dismiss(self) {
        let Self { stdin, stdout, said, .. } = self;
        drop(stdin);
        // Whatever it still has to say, the source's own error says more.
        let _ = timeout(RECEIVER_WAIT, rest(stdout, said)).await;
    }
}

/// The first line, and what came with it.
fn first_line(stdout: &mut ChildStdout) -> Result<(String, Vec<u8>), RunError> {
    let unreadable = |error| no_receiver("it cannot be read").because(error);
    let end = Instant::now() + RECEIVER_WAIT;
    let mut said = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).expect("it is short");
        let ready = poll(&mut [PollFd::new(stdout, PollFlags::IN)], Some(&left)).map_err(io::Error::from);
        if ready.map_err(unreadable)? == 0 {
            return Err(no_receiver("it printed no ticket in time"));
        }
        let read = stdout.read(&mut buffer).map_err(unreadable)?;
        said.extend_from_slice(&buffer[..read]);
        if let Some(at) = said.iter().position(|&byte| byte == b'\n') {
            let rest = said.split_off(at + 1);
            return Ok((String::from_utf8_lossy(&said).into_owned(), rest));
        }
        if read == 0 {
            return Ok((String::from_utf8_lossy(&said).into_owned(), Vec::new()));
        }
    }
}

/// Everything until its end.
async fn rest(stdout: ChildStdout, mut said: Vec<u8>) -> io::Result<String> {
    pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?.read_to_end(&mut said).await?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// One that is of no use, and has said its last word.
fn reap(mut child: Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

/// What a receiver said instead of what was expected.
pub(crate) fn complaint(line: &str) -> String {
    let value: Value = serde_json::from_str(line).unwrap_or_default();
    match (value["error"]["code"].as_str(), value["error"]["message"].as_str()) {
        (Some(code), Some(message)) => {
            let causes = value["error"]["causes"].as_array().into_iter().flatten().filter_map(Value::as_str);
            [code, message].into_iter().chain(causes).collect::<Vec<_>>().join(": ")
        }
        _ if line.is_empty() => "it ended without a word".to_owned(),
        _ => printable(line.trim_end()),
    }
}

fn no_receiver(why: &str) -> RunError {
    RunError::refused("TS-U082", format!("there is no receiver: {why}"))
}

fn disagreement(why: &str) -> RunError {
    RunError::failed("TS-U083", format!("the source is done and the receiver is not: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_process_complains_of_keeps_its_causes() {
        let error = RunError::refused("TS-U002", "cannot start").because(io::Error::from_raw_os_error(24));
        let told = complaint(&error.to_json().to_string());
        assert_eq!(told, "TS-U002: cannot start: Too many open files (os error 24)");
        assert_eq!(complaint(""), "it ended without a word");
        assert_eq!(complaint("nonsense\n"), "nonsense");
    }
}
