//! Something that was made beside its place, under a temporary name.

use std::sync::Arc;

use rustix::fd::OwnedFd;
use rustix::fs::AtFlags;
use rustix::io::Errno;
use tranship_proto::Place;

/// What goes away again unless it lands.
#[derive(Debug)]
pub(super) struct Beside {
    pub(super) parent: Arc<OwnedFd>,
    pub(super) name: String,
    is_there: bool,
}

impl Beside {
    /// What has just been made in `parent` under this name.
    pub(super) fn new(parent: Arc<OwnedFd>, name: String) -> Self {
        Self { parent, name, is_there: true }
    }

    /// Gives it the last name of `place`, in place of anything but a directory (`EISDIR`).
    pub(super) fn land(mut self, place: &Place) -> Result<(), Errno> {
        self.try_land(place)
    }

    /// The same, for somebody who can do something about a directory.
    pub(super) fn try_land(&mut self, place: &Place) -> Result<(), Errno> {
        let (_, name) = place.split().ok_or(Errno::BUSY)?;
        rustix::fs::renameat(&*self.parent, &self.name, &*self.parent, name.as_bytes())?;
        self.is_there = false;
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if self.is_there {
            // What cannot be removed now is recognised by its name later.
            let _ = rustix::fs::unlinkat(&*self.parent, &self.name, AtFlags::empty());
        }
    }
}
