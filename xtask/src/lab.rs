//! The lab, by hand. It is a program of its own, so that nobody builds it for the rules alone.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use crate::cargo::cargo;

/// What to do with it.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Lab {
    /// Handed on: `up`, `down`, `status`; `--help` tells more.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(root: &Path, lab: &Lab) -> ExitCode {
    let step = ["run", "--quiet", "--package", "tranship-lab", "--"];
    if cargo(root, &step, &lab.arguments) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
