//! The lab, by hand.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people talks on a terminal")]

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use tranship_lab::{LabError, Version, down, status, up};

/// Two real clusters on this machine, for tests. Needs root on Debian.
#[derive(Parser)]
#[command(name = "cargo xtask lab")]
enum Lab {
    /// Bring both clusters up.
    Up {
        /// The second one runs the newest version of Kubernetes instead of the oldest.
        #[arg(long)]
        mixed: bool,
    },
    /// Take everything of them down.
    Down,
    /// Tell which nodes there are.
    Status,
}

fn main() -> ExitCode {
    match act(&Lab::parse()) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn act(lab: &Lab) -> Result<String, LabError> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the lab lies in the workspace");
    match lab {
        Lab::Up { mixed } => {
            let newer = if *mixed { Version::NEWER } else { Version::OLDER };
            up(root, [Version::OLDER, newer], &|line| println!("{line}")).map(|_| String::new())
        }
        Lab::Down => down(root).map(|()| String::new()),
        Lab::Status => status(root),
    }
}
