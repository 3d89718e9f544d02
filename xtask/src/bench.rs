//! Builds what is measured as users get it, and starts the measurement.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;

use crate::cargo::cargo;

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Runs us and our peers side by side and prints the ratios; `--help` lists the workloads.
    #[command(disable_help_flag = true)]
    Compare {
        /// Handed on: workloads such as `W2`, `--runs N`, `--scale small|full`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Moves applications between two real clusters, by us and by a script, and prints the downtime; `--help` lists the cases.
    #[command(disable_help_flag = true)]
    Cutover {
        /// Handed on: cases such as `tracked`, `--only tranship`, `--scale small|full`, `--output json`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs the micro-benchmarks.
    Micro {
        /// Handed on: part of a benchmark's name, and options of criterion.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// Runs it and returns its exit code.
pub(crate) fn run(root: &Path, bench: &Bench) -> ExitCode {
    let (steps, arguments): (&[&[&str]], _) = match bench {
        Bench::Compare { arguments } => (
            &[
                &["build", "--quiet", "--release", "--package", "tranship"],
                &["run", "--quiet", "--release", "--package", "tranship-benches", "--bin", "compare", "--"],
            ],
            arguments,
        ),
        // The program gives the clusters an image, and what is typed is the very program of that.
        Bench::Cutover { arguments } => {
            (&[&["run", "--quiet", "--release", "--package", "tranship-benches", "--bin", "cutover", "--"]], arguments)
        }
        Bench::Micro { arguments } => (&[&["bench", "--package", "tranship-benches", "--"]], arguments),
    };
    let (last, before) = steps.split_last().expect("each benchmark has a step");
    for step in before {
        if !cargo(root, step, &[]) {
            return ExitCode::FAILURE;
        }
    }
    if cargo(root, last, arguments) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        bench: Bench,
    }

    #[test]
    fn what_follows_is_handed_on() {
        for rest in [&[][..], &["W2", "W6", "--runs", "5"], &["--scale", "small", "W1"], &["--help"]] {
            let line = Line::try_parse_from([&["bench", "compare"], rest].concat());
            let Ok(Line { bench: Bench::Compare { arguments } }) = line else { panic!("{rest:?} is not handed on") };
            assert_eq!(arguments, rest);
        }
    }
}
