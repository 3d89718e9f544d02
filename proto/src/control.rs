//! What a coordinator and the agent of a pod say to each other: one JSON object on each line, in both directions.
//!
//! ```text
//!   coordinator                              agent
//!        │ Hello ─────────────────────────────▶ │   the secret, the migration, the epoch
//!        │ ◀─────────────────────────── Welcome │   or Refused; volumes, and how their last passes went
//!        │ Begin ─────────────────────────────▶ │   or Rejected
//!        │ ◀───────────── Listening, Progress, … │
//!        │ ◀───────────────────────────── Ended │
//!        │ Leave ─────────────────────────────▶ │
//! ```
//!
//! The agent acts for whoever came with the highest epoch. Without a coordinator it goes on with what it has begun, and
//! tells the next one of it. Fields that are not known are ignored, so that either side may be older; a message of a type
//! that is not known is an error.

// The names of addresses, without the sockets that `std` has for them.
use core::net::SocketAddr;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::limit;

/// The loopback port at which an agent listens for its coordinator.
pub const PORT: u16 = 7400;

/// The version of these messages. It changes only when something that is there gets another meaning.
pub const VERSION: u32 = 1;

/// What the agent writes to a forwarded connection (see [`Meeting::Relayed`]) when the connection begins to carry a link.
pub const RELAY_BEGINS: u8 = 1;

/// Why an agent says no, as [`Event::Refused`] and [`Event::Rejected`] carry it.
pub mod code {
    /// The secret is not this agent's.
    pub const SECRET: &str = "TS-C700";
    /// The version of the control protocol is not spoken.
    pub const VERSION: &str = "TS-C701";
    /// The epoch is older than one that was seen.
    pub const EPOCH: &str = "TS-C702";
    /// A line is too long, has no meaning, or comes out of turn.
    pub const LINE: &str = "TS-C703";
    /// The agent serves another migration.
    pub const MIGRATION: &str = "TS-C704";
    /// There is no such volume here.
    pub const VOLUME: &str = "TS-C705";
    /// A pass runs.
    pub const BUSY: &str = "TS-C706";
    /// A port cannot be had.
    pub const PORT: &str = "TS-C707";
    /// There is no such pass.
    pub const PASS: &str = "TS-C708";
    /// An order that cannot be followed as it stands.
    pub const ORDER: &str = "TS-C709";
    /// The agent is about to end.
    pub const ENDING: &str = "TS-C710";
    /// The process of a pass did not start, or ended without a word.
    pub const PROCESS: &str = "TS-C711";
}

/// What a coordinator says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// The first line of every connection.
    Hello(Hello),
    /// Begin a pass.
    Begin(Order),
    /// End a pass; the next one goes on from there.
    Stop {
        /// Which.
        pass: String,
    },
    /// What this agent may send, all passes together, from now on.
    Bandwidth {
        /// Bits per second; nothing for no limit.
        bits_per_second: Option<u64>,
    },
    /// There is nothing more to do: the agent ends. Rejected with [`code::BUSY`] while a pass runs.
    Leave,
}

/// Who comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// What the agent was given in its pod.
    pub secret: Secret,
    /// The migration for which the agent was started.
    pub migration: String,
    /// The coordinator's epoch: who comes with a lower one than was seen is refused.
    pub epoch: u64,
    /// Who it is, for people.
    pub coordinator: String,
    /// Whether it only wants to hear how things are: its epoch does not count then, it takes nobody's place, and what it
    /// asks for is not followed.
    #[serde(default)]
    pub observes: bool,
}

/// A pass that is to be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its name, chosen by the coordinator and never used again: 1 to 128 letters, digits, `-`, `_` and `.`.
    pub pass: String,
    /// The name of a volume of this agent.
    pub volume: String,
    /// What this agent does with it.
    pub role: Role,
    /// How the two sides come together.
    pub meeting: Meeting,
    /// What comes of it.
    pub purpose: Purpose,
    /// `plain`, `owner` or `exact`. The source's matter, like all that follows but `transport`, `bits_per_second` and `kind`.
    pub mode: String,
    /// Kinds of gaps that a final pass may leave behind.
    pub accept_gaps: Vec<String>,
    /// Patterns as in a .gitignore.
    pub exclude: Vec<String>,
    /// `auto`, `none`, `lz4`, `zstd` or `zstd:LEVEL`.
    pub compress: String,
    /// `auto`, `quic` or `tcp`.
    pub transport: String,
    /// The most that this pass sends, in bits per second, whatever the agent's budget leaves it; nothing for no limit.
    pub bits_per_second: Option<u64>,
    /// What the volume is expected to be.
    pub kind: VolumeKind,
}

/// What comes of a pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Purpose {
    /// A copy, while the source may be in use.
    Stage {
        /// Whether what it writes is read back, since the final pass will be proven at level `tracked`.
        #[serde(default)]
        reads_back: bool,
    },
    /// A copy that is proven equal.
    Final {
        /// `full` or `tracked`.
        level: String,
    },
    /// A comparison: both sides are read, and neither is changed.
    Comparison,
    /// A measurement of the ways to the other side: no volume is looked at. The side that dials tries every address by
    /// every transport that is allowed, and reports [`Ways`]; the one that listens does so until it is stopped.
    Probe,
}

/// Which side of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It has the truth.
    Source,
    /// It receives.
    Destination,
}

/// What a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeKind {
    /// A folder and what is in it.
    Tree,
    /// A device or an image file.
    Block,
}

/// How the two sides of a pass come together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Meeting {
    /// This side listens, at all addresses; [`Event::Listening`] says how it is recognised.
    Listen {
        /// UDP and TCP; 0 for any that is free.
        port: u16,
    },
    /// The other side listens and can be reached.
    Dial {
        /// Where, the likeliest first.
        addresses: Vec<SocketAddr>,
        /// As the other side's [`Listening`] says it.
        fingerprint: String,
        /// The same.
        secret: Secret,
    },
    /// The other side listens and cannot be reached: the coordinator brings connections that lead there.
    Relayed {
        /// The loopback port to which it brings them. It keeps some ready; each is silent until it gets
        /// [`RELAY_BEGINS`], and carries a connection of the link from then on.
        port: u16,
        /// As the other side's [`Listening`] says it.
        fingerprint: String,
        /// The same.
        secret: Secret,
    },
}

/// 256 bits as 64 hexadecimal digits, which `Debug` does not show.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

/// What an agent says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The answer to [`Request::Hello`]: this connection has the agent's ear.
    Welcome(Welcome),
    /// The connection is closed, and nothing was done.
    Refused {
        /// One of [`code`].
        code: String,
        /// For people.
        message: String,
    },
    /// Another coordinator has come; the connection is closed.
    Superseded {
        /// Its epoch, as high as this one's or higher.
        epoch: u64,
    },
    /// A request that is not followed. Nothing was begun or changed.
    Rejected {
        /// The pass that it was about, if any.
        pass: Option<String>,
        /// One of [`code`], or `TS-E233` for a volume of the other kind.
        code: String,
        /// For people.
        message: String,
    },
    /// A pass waits for the other side.
    Listening(Listening),
    /// How far a pass is.
    Progress(Progress),
    /// A line for people.
    Note {
        /// The pass.
        pass: String,
        /// Escaped.
        text: String,
    },
    /// A pass is over.
    Ended(Ended),
}

/// What a coordinator finds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`VERSION`].
    pub version: u32,
    /// The agent's build.
    pub build: String,
    /// The epoch that holds now.
    pub epoch: u64,
    /// What the agent was started beside.
    pub volumes: Vec<VolumeFacts>,
    /// For each volume the pass that runs, and the last that ended, also under an earlier agent with the same state.
    pub passes: Vec<PassState>,
}

/// A volume as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeFacts {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: VolumeKind,
    /// Bytes of the file system, or of the device; 0 if the kernel does not tell.
    pub bytes_total: u64,
    /// Bytes in use; all of a device's.
    pub bytes_used: u64,
    /// Inodes of the file system; 0 if it does not count them, and for a device.
    pub inodes_total: u64,
    /// Inodes in use.
    pub inodes_used: u64,
}

/// A pass that runs, or has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PassState {
    /// Its name.
    pub pass: String,
    /// Its volume.
    pub volume: String,
    /// What this agent does or did with it.
    pub role: Role,
    /// Whether it runs.
    pub is_running: bool,
    /// Where it is met, if it runs and listens.
    pub listening: Option<Listening>,
    /// How it ended, if it has.
    pub ended: Option<Ended>,
}

/// How a pass that listens is met and recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// The pass.
    pub pass: String,
    /// UDP and TCP.
    pub port: u16,
    /// BLAKE3 of its key, 64 hexadecimal digits.
    pub fingerprint: String,
    /// What it asks for.
    pub secret: Secret,
}

/// How far a pass is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The pass.
    pub pass: String,
    /// Its volume.
    pub volume: String,
    /// What it does, in a word.
    pub phase: String,
    /// Entries that are done in this phase.
    pub entries_done: u64,
    /// Entries of this phase; 0 while it is not known.
    pub entries_total: u64,
    /// Bytes that are done in this phase.
    pub bytes_done: u64,
    /// Bytes of this phase; 0 while it is not known.
    pub bytes_total: u64,
    /// Bytes that were given to the link.
    pub bytes_sent: u64,
    /// Gaps that were met.
    pub gaps: u64,
    /// Pace of this phase, smoothed.
    pub bytes_per_second: f64,
    /// Until the end of this phase at this pace, if that can be said.
    pub seconds_left: Option<f64>,
}

/// How a pass ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// The pass.
    pub pass: String,
    /// Its volume.
    pub volume: String,
    /// What this agent did with it.
    pub role: Role,
    /// The exit code of its process, as in `docs/operations.md`; 128 and the signal's number if one ended it.
    pub exit: u8,
    /// The report as in `docs/report.md`, its lists shortened where it would exceed
    /// [`limit::CONTROL_REPORT_BYTES_MAX`]; then it has `shortened: true`. Only a source's says how the pass went.
    pub report: Option<Value>,
    /// `code`, `message`, `causes` and `hint`, if there is no report.
    pub error: Option<Value>,
}

/// The report of a probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ways {
    /// Version of this report: 1.
    pub version: u32,
    /// In the order in which they were to be tried.
    pub ways: Vec<Way>,
}

/// A way to the other side, as a probe found it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// Where it was dialled.
    pub address: SocketAddr,
    /// `quic` or `tcp`.
    pub transport: String,
    /// Why it cannot be gone; nothing if it can.
    pub error: Option<String>,
    /// Milliseconds of a round trip.
    pub rtt_ms: Option<f64>,
    /// Bytes of UDP payload that it carries, as far as was found out; never known over TCP.
    pub mtu: Option<u16>,
    /// Bytes per second that came from the source to the destination; nothing if too few came to tell.
    pub bytes_per_second: Option<f64>,
}

impl Order {
    /// Says what is wrong with it before anything is done. Words are not looked at: whoever runs the pass knows them.
    pub fn validate(&self) -> Result<(), &'static str> {
        if !is_name(&self.pass) {
            return Err("the pass needs a name of 1 to 128 letters, digits, `-`, `_` and `.`");
        }
        if let Meeting::Dial { addresses, .. } = &self.meeting
            && !(1..=limit::CONTROL_ADDRESSES_MAX).contains(&addresses.len())
        {
            return Err("there are no addresses to dial, or too many");
        }
        if self.accept_gaps.len() > limit::CONTROL_WORDS_MAX || self.exclude.len() > limit::PATTERNS_MAX {
            return Err("there are too many kinds of gaps, or patterns");
        }
        let words = [&self.mode, &self.compress, &self.transport].into_iter().chain(self.purpose.level());
        if words.chain(&self.accept_gaps).any(|word| !is_name(&word.replace(':', "-"))) {
            return Err("a mode, a level, a codec, a transport or a kind of gap is no word");
        }
        if self.exclude.iter().any(|pattern| pattern.len() > limit::PATTERN_BYTES_MAX || pattern.contains('\0')) {
            return Err("a pattern is too long, or has a zero in it");
        }
        Ok(())
    }
}

impl Default for Purpose {
    fn default() -> Self {
        Self::Stage { reads_back: false }
    }
}

impl Purpose {
    /// How much is read for the proof, if there is to be one.
    pub fn level(&self) -> Option<&String> {
        match self {
            Self::Final { level } => Some(level),
            Self::Stage { .. } | Self::Comparison | Self::Probe => None,
        }
    }
}

/// Whether a text can be the name of a pass or of a volume, and so of a folder.
pub fn is_name(text: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=limit::CONTROL_NAME_BYTES_MAX).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(is_fine)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why there is no message.
#[derive(Debug, Error)]
pub enum LineError {
    /// More than [`limit::CONTROL_LINE_BYTES_MAX`].
    #[error("a line of {bytes} bytes exceeds {}", limit::CONTROL_LINE_BYTES_MAX)]
    TooLong {
        /// Bytes, as far as they were counted.
        bytes: usize,
    },
    /// Not JSON, or no message that is known.
    #[error("a line has no meaning")]
    Meaning(#[source] serde_json::Error),
}

impl LineError {
    /// The stable code that users and scripts see.
    pub fn code(&self) -> &'static str {
        code::LINE
    }
}

/// A message as a line, the end of the line included.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, LineError> {
    let mut line = serde_json::to_vec(message).map_err(LineError::Meaning)?;
    line.push(b'\n');
    check_length(&line)?;
    Ok(line)
}

/// The message on a line, with or without its end.
pub fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, LineError> {
    check_length(line)?;
    serde_json::from_slice(line).map_err(LineError::Meaning)
}

fn check_length(line: &[u8]) -> Result<(), LineError> {
    let bytes = line.len();
    if bytes > limit::CONTROL_LINE_BYTES_MAX { Err(LineError::TooLong { bytes }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
