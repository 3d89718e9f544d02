//! Why the lab is not up.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why the lab could not be brought up or taken down.
#[derive(Debug)]
pub enum LabError {
    /// A file or folder could not be had.
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A command failed.
    Command {
        /// As it was typed.
        command: String,
        /// What it said, or why it could not be started.
        said: String,
    },
    /// Something did not come in time.
    Late {
        /// What was waited for.
        what: String,
        /// Where its log is.
        log: PathBuf,
    },
    /// Certificates could not be made.
    Certificate(rcgen::Error),
    /// What the machine lacks.
    Machine(String),
}

impl LabError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

impl fmt::Display for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Command { command, said } => write!(f, "`{command}` failed: {said}"),
            Self::Late { what, log } => write!(f, "{what} did not come in time; see {}", log.display()),
            Self::Certificate(error) => write!(f, "cannot make a certificate: {error}"),
            Self::Machine(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for LabError {}

impl From<rcgen::Error> for LabError {
    fn from(error: rcgen::Error) -> Self {
        Self::Certificate(error)
    }
}
