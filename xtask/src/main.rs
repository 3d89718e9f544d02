//! The only automation: what a developer types, and what CI runs.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people talks on a terminal")]

mod bench;
mod cargo;
mod lab;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The only automation")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Holds the house rules that the compiler does not know.
    Tidy,
    /// Measures.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Two real clusters on this machine, for tests.
    Lab(lab::Lab),
    /// The product as an image of containers: one static file.
    Image(lab::Image),
}

fn main() -> ExitCode {
    match Arguments::parse().task {
        Task::Tidy => tidy::run(&root()),
        Task::Bench(bench) => bench::run(&root(), &bench),
        Task::Lab(lab) => lab::run(&root(), &lab),
        Task::Image(image) => lab::image(&root(), &image),
    }
}

/// The workspace's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}
