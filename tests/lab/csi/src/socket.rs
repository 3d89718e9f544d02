//! Sockets in the file system, served until a signal.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::codegen::tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::router::Router;

/// How long those who are connected may take to leave when we end.
const GRACE: Duration = Duration::from_secs(2);

/// Why a socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// There is none to be had at this path.
    #[error("cannot listen at {}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// It broke later.
    #[error("cannot serve")]
    Serve(#[from] tonic::transport::Error),
}

/// A socket that others may connect to; removed when dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    _removal: Removal,
}

/// Removes the path of a socket when dropped.
#[derive(Debug)]
struct Removal(PathBuf);

impl Socket {
    /// Listens at a path, in the place of a socket that a process before this one left there.
    pub(crate) fn listen(path: &Path) -> Result<Self, SocketError> {
        let listen = || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            remove_stale(path)?;
            UnixListener::bind(path)
        };
        let failed = |source| SocketError::Listen { path: path.to_owned(), source };
        let listener = listen().map_err(failed)?;
        Ok(Self { listener, _removal: Removal(path.to_owned()) })
    }

    /// Answers calls until told to stop. Those that came before have a moment left; who asked is not waited for longer.
    /// What a call has begun it also ends, since the runtime waits for its threads.
    pub(crate) async fn serve(self, router: Router, stop: watch::Receiver<bool>) -> Result<(), SocketError> {
        let incoming = UnixListenerStream::new(self.listener);
        let server = Server::builder().serve_with_incoming_shutdown(router, incoming, told(stop.clone()));
        let mut server = pin!(server);
        tokio::select! {
            ended = &mut server => return Ok(ended?),
            () = told(stop) => {}
        }
        match timeout(GRACE, server).await {
            Ok(ended) => Ok(ended?),
            Err(_) => Ok(()),
        }
    }
}

/// Waits for the word to stop. That nobody is left to give it is such a word, too.
async fn told(mut stop: watch::Receiver<bool>) {
    drop(stop.wait_for(|is_told| *is_told).await);
}

impl Drop for Removal {
    fn drop(&mut self) {
        if let Err(error) = remove_stale(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "a socket stays behind");
        }
    }
}

/// Removes a socket; anything else at its path is somebody else's.
fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else than a socket is there")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
