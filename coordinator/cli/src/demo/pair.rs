//! The real thing: for each volume a source and a destination, each in a process of its own, over QUIC.

use std::process::Stdio;
use std::sync::Arc;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tranship_agent::monitor::{Monitor, Phase, Snapshot};

use super::{Mover, Passed, Volume, blocking};
use crate::error::RunError;
use crate::exit::Exit;
use crate::receiver::{Receiver, complaint};
use crate::run::Stop;

/// Runs passes between processes that it starts.
pub(super) struct AgentPair;

impl Mover for AgentPair {
    type Receiver = Receiver;

    async fn ready(&self, volume: &Volume) -> Result<Receiver, RunError> {
        let (destination, state, makes_image) =
            (volume.destination.clone(), volume.destination_state(), volume.is_image());
        blocking(move || Receiver::start(&destination, &state, makes_image)).await?
    }

    async fn pass(
        &self,
        volume: &Volume,
        receiver: Receiver,
        is_final: bool,
        monitor: Arc<Monitor>,
        stop: &Stop,
    ) -> Result<Passed, RunError> {
        let source = run_source(volume, receiver.ticket().as_str(), is_final, monitor);
        let passed = tokio::select! {
            passed = source => passed,
            () = stop.wait() => Err(super::stopped()),
        };
        match passed {
            Ok(passed) => receiver.finish().await.map(|()| passed),
            Err(error) => {
                receiver.dismiss().await;
                Err(error)
            }
        }
    }
}

/// One pass by a `sync` of its own, which is killed if this is dropped.
async fn run_source(volume: &Volume, ticket: &str, is_final: bool, monitor: Arc<Monitor>) -> Result<Passed, RunError> {
    let failed = |error| no_source("it cannot be run").because(error);
    let mut child = start(volume, is_final).map_err(failed)?;
    // Open for as long as this process cares for it.
    let mut stdin = child.stdin.take().expect("it was asked for");
    let mut stdout = child.stdout.take().expect("it was asked for");
    let stderr = child.stderr.take().expect("it was asked for");
    stdin.write_all(format!("{ticket}\n").as_bytes()).await.map_err(failed)?;
    let mut said = String::new();
    let (status, read, ()) = tokio::join!(child.wait(), stdout.read_to_string(&mut said), relay(stderr, &monitor));
    let (status, _) = (status.map_err(failed)?, read.map_err(failed)?);
    drop(stdin);
    let last = said.lines().last().unwrap_or_default();
    match serde_json::from_str::<Value>(last) {
        // A final pass without a proof ends with a report, too.
        Ok(report) if report["version"].is_u64() => {
            let is_proven = is_final && status.code() == Some(Exit::Done.number().into());
            Ok(Passed { is_proven, report })
        }
        _ => Err(no_source(&format!("it ended with {status}")).because(complaint(last))),
    }
}

fn start(volume: &Volume, is_final: bool) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--output", "json", "sync", "--attached", "--mode", "plain", "--transport", "quic", "--state"]);
    command.arg(volume.source_state()).args(is_final.then_some("--final")).arg("--").arg(&volume.source).arg("-");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Shows what the source says of its progress.
async fn relay(stderr: impl AsyncRead + Unpin, monitor: &Monitor) {
    let mut lines = BufReader::new(stderr).lines();
    // What cannot be read any more is not shown.
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(note) = value["note"].as_str() {
            monitor.note(note);
        }
        if let Some(seen) = snapshot(&value["progress"]) {
            monitor.repeat(&seen);
        }
    }
}

fn snapshot(progress: &Value) -> Option<Snapshot> {
    let number = |key: &str| progress[key].as_u64();
    let word = progress["phase"].as_str()?;
    Some(Snapshot {
        phase: *Phase::ALL.iter().find(|phase| phase.word() == word)?,
        entries_total: number("entries_total")?,
        entries_done: number("entries_done")?,
        bytes_total: number("bytes_total")?,
        bytes_done: number("bytes_done")?,
        bytes_sent: number("bytes_sent")?,
        gaps: number("gaps")?,
    })
}

fn no_source(why: &str) -> RunError {
    RunError::failed("TS-U084", format!("the source's process failed: {why}"))
}
