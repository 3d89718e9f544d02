//! Commands of the system, run to their end.

use std::ffi::OsStr;
use std::process::{Command, Output};

use crate::LabError;

/// A command with its arguments.
pub(crate) fn command<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Runs a command, and gives what it printed on standard output.
pub(crate) fn run(command: &mut Command) -> Result<String, LabError> {
    let typed = format!("{command:?}").replace('"', "");
    let failed = |said: String| LabError::Command { command: typed.clone(), said };
    let Output { status, stdout, stderr } = command.output().map_err(|error| failed(error.to_string()))?;
    if status.success() {
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&stderr);
        Err(failed(if said.trim().is_empty() { status.to_string() } else { said.trim().to_owned() }))
    }
}

/// Runs a command line without quotes in it.
pub(crate) fn sh(line: &str) -> Result<String, LabError> {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a command");
    run(&mut command(program, words))
}
