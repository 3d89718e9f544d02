//! Why a call fails, in the words of the specification.

use std::io;

use tonic::{Code, Status};

/// Why a call fails. Each variant is one code of the CSI specification's error scheme.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The request is not well formed, or asks for what there is not.
    #[error("{0}")]
    InvalidArgument(String),
    /// There is no such volume, or nothing at that path.
    #[error("{0}")]
    NotFound(String),
    /// It is there already, but not as asked for.
    #[error("{0}")]
    AlreadyExists(String),
    /// Something else has to happen first.
    #[error("{0}")]
    FailedPrecondition(String),
    /// The size cannot be had within the limits.
    #[error("{0}")]
    OutOfRange(String),
    /// No node that was asked for may have the volume.
    #[error("{0}")]
    ResourceExhausted(String),
    /// A program failed.
    #[error("{command}: {stderr}")]
    Command {
        /// The program and its arguments.
        command: String,
        /// What it said.
        stderr: String,
    },
    /// A system call failed.
    #[error("{doing}")]
    Io {
        /// What was tried.
        doing: String,
        /// What came of it.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: a failed system call, with what was tried.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        |source| Self::Io { doing, source }
    }

    fn code(&self) -> Code {
        match self {
            Self::InvalidArgument(_) => Code::InvalidArgument,
            Self::NotFound(_) => Code::NotFound,
            Self::AlreadyExists(_) => Code::AlreadyExists,
            Self::FailedPrecondition(_) => Code::FailedPrecondition,
            Self::OutOfRange(_) => Code::OutOfRange,
            Self::ResourceExhausted(_) => Code::ResourceExhausted,
            Self::Command { .. } | Self::Io { .. } => Code::Internal,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        // A status is one text: the cause would be lost otherwise.
        let text = match &error {
            Error::Io { doing, source } => format!("{doing}: {source}"),
            other => other.to_string(),
        };
        Self::new(error.code(), text)
    }
}
