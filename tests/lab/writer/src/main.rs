//! Applications that never stop writing, and that know afterwards what they wrote.
//!
//! What a writer has acknowledged on its standard output is durable on its volume. `check` says what of that is there;
//! only the one act that was going on when a writer was killed may be half done. A writer that finds what another one
//! left checks it, and goes on from there.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is what a test reads")]

mod blocks;
mod error;
mod files;
mod journal;
mod noise;
mod pace;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::json;

use crate::error::WriterError;
use crate::pace::Pace;

/// Applications that never stop writing, and that know afterwards what they wrote.
#[derive(Parser)]
#[command(version)]
enum Writer {
    /// Files in a folder, which come, change, are renamed and go.
    #[command(subcommand)]
    Files(Act),
    /// Records at random places of a device or an image.
    #[command(subcommand)]
    Blocks(Act),
}

#[derive(Subcommand)]
enum Act {
    /// Write until SIGTERM, and print a line of JSON for each act that is durable.
    Write {
        /// The folder, the device or the image.
        volume: PathBuf,
        #[command(flatten)]
        limits: Limits,
    },
    /// Check everything, print one line of JSON, and end with 0 if it is as it must be.
    Check {
        /// The folder, the device or the image.
        volume: PathBuf,
        /// The last act that was acknowledged: it must be there.
        #[arg(long, default_value_t = 0)]
        acknowledged: u64,
    },
}

#[derive(Args)]
struct Limits {
    /// Acts per second at the most; 0 for as many as there can be.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Ends after so many acts of its own; 0 for never.
    #[arg(long, default_value_t = 0)]
    acts: u64,
}

impl Limits {
    fn pace(&self) -> Result<Pace, WriterError> {
        Pace::new(self.rate, self.acts, Box::new(std::io::stdout()))
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    /// The number of the last act that is whole; they begin with 1.
    last: u64,
    /// Whether a later one had begun.
    is_interrupted: bool,
    /// Files, or blocks that hold a record.
    items: usize,
    /// What was compared.
    bytes: u64,
}

fn main() -> ExitCode {
    let done = match Writer::parse() {
        Writer::Files(Act::Write { volume, limits }) => {
            limits.pace().and_then(|mut pace| files::write(&volume, &mut pace))
        }
        Writer::Blocks(Act::Write { volume, limits }) => {
            limits.pace().and_then(|mut pace| blocks::write(&volume, &mut pace))
        }
        Writer::Files(Act::Check { volume, acknowledged }) => report(files::check(&volume), acknowledged),
        Writer::Blocks(Act::Check { volume, acknowledged }) => report(blocks::check(&volume), acknowledged),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn report(found: Result<Found, WriterError>, acknowledged: u64) -> Result<(), WriterError> {
    let Found { last, is_interrupted, items, bytes } = found?;
    if last < acknowledged {
        return Err(WriterError::Lost { last, acknowledged });
    }
    println!("{}", json!({"last": last, "interrupted": is_interrupted, "items": items, "bytes": bytes}));
    Ok(())
}
