//! One writer at a time, whatever state folders the writers have.

use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::OpenError;

/// A folder or image that other agents do not write to as long as this lives: an advisory lock, `flock(2)`, which goes
/// with the process at the latest. A device needs none, since it is opened for exclusive use.
#[derive(Debug)]
pub struct Claim {
    _handle: Option<OwnedFd>,
}

impl Claim {
    /// Claims what is at `path`; `EBUSY` if another agent has it. File systems without such locks are taken as they are.
    pub fn on(path: &Path) -> Result<Self, OpenError> {
        let flags = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let open = |access| rustix::fs::open(path, flags | access, Mode::empty());
        let Ok(handle) = open(OFlags::RDONLY) else { return Ok(Self { _handle: None }) };
        // The system's own look at a new device holds such a lock for a moment.
        let handle = match rustix::fs::fstat(&handle).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::Directory) => handle,
            // Over NFS the lock is one of byte ranges, which takes a handle that may write; folders have none there.
            Ok(FileType::RegularFile) => open(OFlags::RDWR).unwrap_or(handle),
            _ => return Ok(Self { _handle: None }),
        };
        match rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _handle: Some(handle) }),
            Err(Errno::WOULDBLOCK) => Err(OpenError::Io { path: path.into(), source: Errno::BUSY.into() }),
            Err(error) => {
                tracing::warn!(%error, "this file system has no locks: nothing else may write to the destination");
                Ok(Self { _handle: None })
            }
        }
    }
}
