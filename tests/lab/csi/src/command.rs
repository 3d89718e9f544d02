//! Programs of the host.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use crate::error::Error;

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Its exit code; nothing if a signal ended it.
    pub(crate) code: Option<i32>,
    /// Its standard output, without white space around it.
    pub(crate) stdout: String,
    /// Its standard error, without white space around it.
    pub(crate) stderr: String,
    command: String,
}

impl Outcome {
    /// Its standard output, if it ended well.
    pub(crate) fn success(self) -> Result<String, Error> {
        match self.code {
            Some(0) => Ok(self.stdout),
            _ => Err(self.failure()),
        }
    }

    /// It as an error, whatever its code.
    pub(crate) fn failure(self) -> Error {
        let stderr = if self.stderr.is_empty() { format!("ended with {:?}", self.code) } else { self.stderr };
        Error::Command { command: self.command, stderr }
    }
}

/// Runs a program that has to succeed, and returns its standard output.
pub(crate) fn run(program: &str, arguments: &[&dyn AsRef<OsStr>]) -> Result<String, Error> {
    outcome(program, arguments)?.success()
}

/// Runs a program whose failure says something. It speaks English, whatever the host does.
pub(crate) fn outcome(program: &str, arguments: &[&dyn AsRef<OsStr>]) -> Result<Outcome, Error> {
    let mut command = Command::new(program);
    command.args(arguments.iter().map(|argument| argument.as_ref())).stdin(Stdio::null());
    let line = format!("{command:?}");
    let output = command.env("LC_ALL", "C").output().map_err(Error::io(format!("run {program}")))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let outcome = Outcome {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
        command: line,
    };
    tracing::debug!(command = outcome.command, code = outcome.code, "ran");
    Ok(outcome)
}
