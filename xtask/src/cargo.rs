//! What is built and run by cargo.

use std::path::Path;
use std::process::Command;

/// Runs `cargo STEP… ARGUMENTS…` in the workspace; false if it fails.
pub(crate) fn cargo(root: &Path, step: &[&str], arguments: &[String]) -> bool {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    match Command::new(cargo).current_dir(root).args(step).args(arguments).status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("cannot start cargo: {error}");
            false
        }
    }
}
