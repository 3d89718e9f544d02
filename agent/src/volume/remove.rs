//! Removing a whole tree, which somebody else may be changing.
//!
//! Only names beneath an open directory are removed, directories are entered anew from the root each time (following
//! no link and crossing no mount), and neither memory nor open handles grow with depth or number.

use rustix::fs::{AtFlags, Dir};
use rustix::io::Errno;
use tranship_proto::entry::{Name, Place};

use super::VolumeError;
use super::beneath::Root;
use super::seen::Seen;

/// How often one directory is emptied that does not stay empty, although nothing in it had to be emptied first.
const ROUNDS_MAX: u8 = 100;

/// Removes what is at `place`, with everything beneath it; it is no error if nothing is.
pub(super) fn remove(root: &Root, place: &Place) -> Result<(), VolumeError> {
    let failed = |place: &Place, errno| VolumeError::of("remove", place, errno);
    let device = Seen::of(root.handle()).map_err(|errno| failed(place, errno))?.device;
    let mut here = place.clone();
    // How often each directory on the way down to `here` was tried.
    let mut rounds = vec![0_u8];
    while let Some(tried) = rounds.last_mut() {
        match remove_one(root, &here) {
            Ok(()) => {
                root.forget(&here);
                rounds.pop();
                // What held others is gone: the round in which it was met has come to something.
                if let Some(tried) = rounds.last_mut() {
                    *tried = tried.saturating_sub(1);
                }
                here = here.split().map(|(parent, _)| parent).unwrap_or_default();
                continue;
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) if *tried < ROUNDS_MAX => *tried += 1,
            Err(errno) => return Err(failed(&here, errno)),
        }
        match empty(root, &here, device) {
            Ok(None) => {}
            Ok(Some(deeper)) => {
                here = deeper;
                rounds.push(0);
            }
            // It is something else by now: the next round sees what.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(failed(&here, errno)),
        }
    }
    Ok(())
}

/// Removes one name: anything but a directory that has content.
fn remove_one(root: &Root, place: &Place) -> Result<(), Errno> {
    let result = root.in_parent(place, |parent, name| {
        match rustix::fs::unlinkat(&**parent, name.as_bytes(), AtFlags::empty()) {
            Err(Errno::ISDIR) => rustix::fs::unlinkat(&**parent, name.as_bytes(), AtFlags::REMOVEDIR),
            result => result,
        }
    });
    match result {
        // Neither it nor the directory that would hold it is there.
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Removes all names in a directory up to the first that is a directory with content, and tells that.
fn empty(root: &Root, place: &Place, device: u64) -> Result<Option<Place>, Errno> {
    let directory = root.resolve_listable(place)?;
    if Seen::of(&directory)?.device != device {
        return Err(Errno::XDEV);
    }
    for dirent in Dir::read_from(&directory)? {
        let dirent = dirent?;
        let Ok(name) = Name::new(dirent.file_name().to_bytes()) else { continue };
        match rustix::fs::unlinkat(&directory, name.as_bytes(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR) => {}
            Err(errno) => return Err(errno),
        }
        match rustix::fs::unlinkat(&directory, name.as_bytes(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => return place.join(name).map(Some).map_err(|_| Errno::NAMETOOLONG),
            // It was a directory a moment ago: the next round sees it again.
            Err(Errno::NOTDIR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(None)
}
