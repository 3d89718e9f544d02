//! What an agent can reach once it runs: its volume, its state folder, its sockets, and nothing else.
//!
//! An agent parses what a peer sends and runs with rights that its volume demands. Should it be taken over, what it
//! holds must be all that the intruder gets. Two layers of the kernel see to that, and neither needs a privilege:
//!
//! - **Landlock** for paths: files are opened, made, changed and removed beneath the volume and the state folder only.
//! - **seccomp** for system calls: a list of those an agent needs; every other one answers `EPERM`.
//!
//! Both are for good: nothing can take them off again. They go on top of whatever a container's runtime sets, and
//! hold also where that sets nothing. What they do not cover is said in `docs/decisions/0007-confinement.md`.
//!
//! # When to call
//!
//! Landlock restricts the calling thread and those that it starts later (before version 8 of its interface), so
//! [`Confinement::apply`] comes before the asynchronous runtime and before every worker thread: in `main`, after
//! everything outside has been opened (listening sockets, logs, certificates, the resolver's configuration) and
//! counted (processors). With a second thread alive on such a kernel it refuses rather than confine by half.

mod calls;
mod paths;
mod self_test;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;

pub use self_test::{Attempt, Guard, self_test};

/// What is left to an agent.
#[derive(Debug, Clone, Copy)]
pub struct Confinement<'a> {
    /// The volume: a folder, an image file or a block device.
    pub volume: Root<'a>,
    /// What it may do there.
    pub grant: Grant,
    /// The state folder, if there is one: read, written and listed. Its files are renamed within one folder only.
    pub state: Option<&'a Path>,
    /// Files and folders that are read later on, such as the resolver's configuration. One that is not there when
    /// confinement is applied, or is replaced by another file later, cannot be read.
    pub readable: &'a [&'a Path],
    /// Folders in which folders are removed, and nothing else is done. They have to be there.
    pub removes_in: &'a [&'a Path],
    /// Which sockets it may open.
    pub network: Network<'a>,
}

/// Where a volume begins.
#[derive(Debug, Clone, Copy)]
pub enum Root<'a> {
    /// By name, looked up when confinement is applied.
    Path(&'a Path),
    /// By a handle, which cannot be exchanged in between.
    Handle(BorrowedFd<'a>),
}

/// What an agent may do in its volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Read: a source. It cannot change metadata by path either, anywhere.
    Read,
    /// Read and write: a destination.
    Write,
    /// Read and write, and make device nodes: a destination in a mode that carries them.
    WriteDevices,
}

impl Grant {
    /// Whether anything may be changed.
    pub fn is_writable(self) -> bool {
        self != Self::Read
    }
}

/// Which sockets an agent may open after it is confined. Those that are open already stay usable in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network<'a> {
    /// None: it neither connects nor listens anew.
    Closed,
    /// UDP and TCP over IPv4 and IPv6.
    Open,
    /// UDP to and from any port, which Landlock does not cover; TCP from and to these ports only. Listening at 0, any
    /// free port, must be named like a port.
    TcpPorts(&'a [u16]),
}

/// What holds from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// The version of Landlock's interface that is enforced; 0 if paths are not confined.
    pub landlock_abi: u32,
    /// Whether system calls are filtered.
    pub seccomp: bool,
    /// What this kernel could not enforce, as sentences for people. Empty if everything holds.
    pub notes: Vec<String>,
}

/// Why an agent is not confined. The process may be confined in part and must not go on.
#[derive(Debug, Error)]
pub enum ConfineError {
    /// A root cannot be opened.
    #[error("cannot open {path} to confine the agent to it")]
    Open {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// There are threads that would stay free.
    #[error("{threads} threads run already, and this kernel confines one only")]
    Threads {
        /// How many.
        threads: usize,
    },
    /// Landlock refused the rules.
    #[error("cannot confine the agent to its paths")]
    Landlock(#[source] landlock::RulesetError),
    /// The filter cannot be built or was not taken by every thread.
    #[error("cannot filter the agent's system calls")]
    Seccomp(#[source] seccompiler::Error),
}

impl ConfineError {
    /// The stable code that users and scripts see.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Open { .. } => "TS-E280",
            Self::Threads { .. } => "TS-E281",
            Self::Landlock(_) => "TS-E282",
            Self::Seccomp(_) => "TS-E283",
        }
    }
}

impl Confinement<'_> {
    /// Confines this process, for good. What the kernel does not know is left out and noted: an old kernel is no
    /// reason not to move a volume. Everything else that goes wrong is an error.
    pub fn apply(&self) -> Result<Applied, ConfineError> {
        // A static program cannot look up the C library's call by its name, and reads random numbers from a device. It
        // opens that once, which must have been before; without one at all, whoever draws a number says so.
        let _ = getrandom::u64();
        let mut notes = Vec::new();
        let landlock_abi = paths::restrict(self, &mut notes)?;
        let seccomp = calls::restrict(self, &mut notes)?;
        Ok(Applied { landlock_abi, seccomp, notes })
    }
}
