//! What the user says to a running process: Ctrl-C, and SIGHUP to read the bandwidth again.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::exit::Exit;
use crate::rate::{Rate, RateError};
use crate::run::Stop;

/// Name of the file in the state folder.
pub(crate) const BANDWIDTH_FILE: &str = "bandwidth";

/// Bytes of that file that are looked at.
pub(crate) const BANDWIDTH_FILE_BYTES_MAX: u64 = 256;

/// Why the bandwidth stays as it is.
#[derive(Debug, Error)]
enum ReloadError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// It says something else.
    #[error("{}: {source}", path.display())]
    Content { path: PathBuf, source: RateError },
}

/// Makes the first SIGINT or SIGTERM set `stop`, and the second end the process at once.
pub(crate) fn watch_stop(stop: Stop, is_quiet: bool) -> io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        stop.set();
        if !is_quiet {
            // Nobody listens when the terminal is gone; the stop goes on.
            let _ = writeln!(io::stderr(), "\nstopping; press Ctrl-C again to end at once");
        }
        either(&mut interrupt, &mut terminate).await;
        std::process::exit(Exit::Failed.number().into());
    });
    Ok(())
}

/// Sets `stop` when standard input ends: a source that was killed leaves no receiver behind.
pub(crate) fn watch_stdin(stop: Stop) {
    // A thread of its own, which nobody waits for: this read may last as long as the process.
    std::thread::spawn(move || {
        // An input that cannot be read is at its end, too.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        stop.set();
    });
}

/// A bandwidth that starts with what was typed, and is read from the state folder's file at each SIGHUP.
pub(crate) fn watch_bandwidth(typed: Option<Rate>, state: &Path) -> io::Result<watch::Receiver<Option<Rate>>> {
    let (sender, receiver) = watch::channel(typed);
    let path = state.join(BANDWIDTH_FILE);
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            match read_bandwidth(&path, typed) {
                Ok(rate) => {
                    tracing::info!(rate = %rate.map_or("none".to_owned(), |rate| rate.to_string()), "bandwidth read again");
                    sender.send_replace(rate);
                }
                Err(error) => tracing::warn!(%error, "bandwidth stays as it is"),
            }
        }
    });
    Ok(receiver)
}

async fn either(a: &mut Signal, b: &mut Signal) {
    tokio::select! {
        _ = a.recv() => {}
        _ = b.recv() => {}
    }
}

/// What the file says; what was typed, if there is none.
fn read_bandwidth(path: &Path, typed: Option<Rate>) -> Result<Option<Rate>, ReloadError> {
    let fail = |source| ReloadError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(typed),
        result => result.map_err(fail)?,
    };
    let mut text = String::new();
    file.take(BANDWIDTH_FILE_BYTES_MAX).read_to_string(&mut text).map_err(fail)?;
    match text.trim() {
        "none" => Ok(None),
        rate => rate.parse().map(Some).map_err(|source| ReloadError::Content { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_overrules_what_was_typed_and_nonsense_changes_nothing() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join(BANDWIDTH_FILE);
        let typed = Some("1MB/s".parse().expect("rate"));
        let read = |content: &str| {
            std::fs::write(&path, content).expect("written");
            read_bandwidth(&path, typed)
        };
        assert_eq!(read_bandwidth(&path, typed).expect("no file"), typed);
        assert_eq!(read("2MB/s\n").expect("rate"), Some("2MB/s".parse().expect("rate")));
        assert_eq!(read("none\n").expect("none"), None);
        assert!(read("fast").is_err() && read("").is_err());
    }
}
