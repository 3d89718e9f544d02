//! The lab, by hand.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use tranship_lab::{LabError, Version, down, status, up};

/// What to do with it.
#[derive(Subcommand)]
pub(crate) enum Lab {
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

pub(crate) fn run(root: &Path, lab: &Lab) -> ExitCode {
    match act(root, lab) {
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

fn act(root: &Path, lab: &Lab) -> Result<String, LabError> {
    match lab {
        Lab::Up { mixed } => {
            let newer = if *mixed { Version::NEWER } else { Version::OLDER };
            up(root, [Version::OLDER, newer], &|line| println!("{line}")).map(|_| String::new())
        }
        Lab::Down => down(root).map(|()| String::new()),
        Lab::Status => status(root),
    }
}
