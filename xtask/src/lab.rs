//! The lab, by hand. It is a program of its own, so that nobody builds it for the rules alone.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use crate::cargo::cargo;

/// What to do with it.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Lab {
    /// Handed on: `up`, `down`, `status`, `load`, `link`; `--help` tells more.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// The product as an image, which the lab knows how to make.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Image {
    /// Handed on: `--out FILE`, `--debug`; `--help` tells more.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(root: &Path, lab: &Lab) -> ExitCode {
    run_program(root, &[], &lab.arguments)
}

pub(crate) fn image(root: &Path, image: &Image) -> ExitCode {
    run_program(root, &["image"], &image.arguments)
}

fn run_program(root: &Path, command: &[&str], arguments: &[String]) -> ExitCode {
    let step = [&["run", "--quiet", "--package", "tranship-lab", "--"], command].concat();
    if cargo(root, &step, arguments) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
