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
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let Ok(handle) = rustix::fs::open(path, flags, Mode::empty()) else { return Ok(Self { _handle: None }) };
        // The system's own look at a new device holds such a lock for a moment.
        let is_device = rustix::fs::fstat(&handle).is_ok_and(|stat| {
            !matches!(FileType::from_raw_mode(stat.st_mode), FileType::Directory | FileType::RegularFile)
        });
        if is_device {
            return Ok(Self { _handle: None });
        }
        match rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _handle: Some(handle) }),
            Err(Errno::WOULDBLOCK) => Err(OpenError::Io { path: path.into(), source: Errno::BUSY.into() }),
            Err(error) => {
                tracing::debug!(%error, "this file system has no locks");
                Ok(Self { _handle: None })
            }
        }
    }
}
