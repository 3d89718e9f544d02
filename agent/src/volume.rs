//! The only disk code that touches a volume.
//!
//! A [`Volume`] is a tree of files or one block volume, opened once by its root. Everything else names objects by
//! [`Place`] and gets them beneath that root or not at all. All calls block; callers use threads.
//!
//! The trait has three homes: [`tree`] and [`block`] for the real thing, and a volume in memory for the simulation.

pub mod aligned;
mod beneath;
mod beside;
pub mod block;
mod bytes;
mod claim;
mod durable;
mod file;
mod listing;
mod meta;
mod remove;
mod seen;
pub mod temporary;
pub mod tree;
mod walk;

pub mod memory;

use std::io;
use std::sync::atomic::AtomicBool;

use thiserror::Error;
use tranship_engine::Stat;
use tranship_proto::entry::{Kind, Meta, Place, Time};
use tranship_proto::message::{Fidelity, Gap};

pub use beneath::OpenError;
pub use claim::Claim;
pub use tranship_proto::message::VolumeKind;

/// Why an operation on a volume did not happen.
#[derive(Debug, Error)]
pub enum VolumeError {
    /// Nothing is there (any more).
    #[error("{} is not there", named(place))]
    Vanished {
        /// Where.
        place: Place,
    },
    /// Something else is there than was expected: another kind, or a symbolic link on the way.
    #[error("{} is not what it was: {found}", named(place))]
    Replaced {
        /// Where.
        place: Place,
        /// What was found.
        found: String,
    },
    /// The volume is full: bytes, inodes or quota.
    #[error("no room for {}", named(place))]
    Full {
        /// Where.
        place: Place,
        /// What the kernel said: `ENOSPC` or `EDQUOT`.
        source: io::Error,
    },
    /// The kernel said no, or the device did.
    #[error("cannot {operation} {}", named(place))]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// Where.
        place: Place,
        /// What the kernel said.
        source: io::Error,
    },
    /// The caller was told to stop.
    #[error("stopped")]
    Stopped,
}

/// The root is the volume itself, of which a dot says little.
fn named(place: &Place) -> String {
    if place.is_root() { "the volume".to_owned() } else { place.to_string() }
}

impl VolumeError {
    /// The stable code that users and scripts see.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Vanished { .. } => "TS-E252",
            Self::Replaced { .. } => "TS-E253",
            Self::Full { .. } => "TS-E230",
            Self::Io { .. } => "TS-E250",
            Self::Stopped => "TS-P109",
        }
    }

    /// Sorts an error of the kernel: `ENOENT` and `ENOTDIR` are [`VolumeError::Vanished`], `ELOOP` and `EXDEV` (a
    /// symbolic link or a mount on the way) are [`VolumeError::Replaced`], `ENOSPC` and `EDQUOT` are
    /// [`VolumeError::Full`].
    pub fn of(operation: &'static str, place: &Place, source: impl Into<io::Error>) -> Self {
        use rustix::io::Errno;
        let (place, source) = (place.clone(), source.into());
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::NOTDIR) => Self::Vanished { place },
            Some(Errno::LOOP | Errno::XDEV) => Self::Replaced { place, found: source.to_string() },
            Some(Errno::NOSPC | Errno::DQUOT) => Self::Full { place, source },
            _ => Self::Io { operation, place, source },
        }
    }
}

/// What a volume is, as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Tree or block.
    pub kind: VolumeKind,
    /// What tells this volume from every other one, also from one that is made later at the same path: for a tree the
    /// file system's identity with the root's inode and birth time, for a device its number, serial and size, for an
    /// image the same as for a tree. Bytes to be compared, nothing else.
    pub identity: Vec<u8>,
    /// Bytes that it can hold.
    pub capacity_bytes: u64,
    /// Bytes that are free in it; for a block volume its capacity.
    pub free_bytes: u64,
    /// Whether it is an empty directory, or an image without bytes.
    pub is_empty: bool,
    /// Time steps of the file system's timestamps: two changes within one step may look like one.
    pub time_step: std::time::Duration,
}

/// What a walk came by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walked {
    /// Where.
    pub place: Place,
    /// What.
    pub stat: Stat,
}

/// Something below the root that does not belong to the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Where.
    pub place: Place,
    /// Why, for people: `mount point`, `subvolume`, `lost+found`, `excluded`.
    pub why: &'static str,
}

/// An object's metadata, read from the object itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The stat that was taken last.
    pub stat: Stat,
    /// What the fidelity mode carries. In `plain`, which carries no owners, both numbers are 0, and setuid and the
    /// setgid of files are cleared, so that equal volumes have equal metadata.
    pub meta: Meta,
    /// Where a symbolic link points.
    pub target: Option<Box<[u8]>>,
    /// What the object has and the mode does not carry.
    pub gaps: Vec<Gap>,
}

/// How a content is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To read. Large reads leave the page cache of a running application alone.
    Read,
    /// To read what will soon be read again, when nobody runs whose page cache it is: what of a file comes into it stays.
    ReadFirst,
    /// To read what the device holds, past the page cache (`O_DIRECT`, else dropped from the cache first). What is read leaves
    /// the cache if it is not dirty, so it is meant for contents that nobody uses.
    ReadDevice,
    /// To write what is there in place.
    Write,
    /// To write a file that starts empty, whatever is there now.
    Create,
    /// To write a file that starts empty and is nowhere until it [lands](Content::land).
    Beside,
}

/// A tree or a block volume.
pub trait Volume: Send + Sync {
    /// What it is.
    fn facts(&self) -> Result<Facts, VolumeError>;

    /// Writes back what applications have written so far, so that a later write through a mapping touches the times
    /// again: the first step of a scan. Changes nothing that anyone can see.
    fn settle(&self) -> Result<(), VolumeError>;

    /// Visits everything in the order of places, the root first, following nothing and crossing no mount. `skip` says
    /// which places to leave out, with what is beneath them. What else is left out comes back.
    ///
    /// Objects that vanish during the walk are not visited. Directories that cannot be opened for other reasons are
    /// an error, as are places beyond the limits of depth and length. `skip` is asked from several threads, for a
    /// directory more than once, and while others wait for its answer.
    fn walk(
        &self,
        skip: &(dyn Fn(&Place, Kind) -> bool + Sync),
        stop: &AtomicBool,
        visit: &mut dyn FnMut(Walked) -> Result<(), VolumeError>,
    ) -> Result<Vec<LeftOut>, VolumeError>;

    /// Reads an object's metadata without opening it for data.
    fn look(&self, place: &Place, fidelity: Fidelity) -> Result<Look, VolumeError>;

    /// Opens the content of a regular file or of the block volume. Never waits on a FIFO, never follows a link. What
    /// is no regular file is [`VolumeError::Replaced`], and is not opened.
    fn open(&self, place: &Place, access: Access) -> Result<Box<dyn Content>, VolumeError>;

    /// Puts a whole small file in place, with its metadata: at no moment does the place hold a part of it. The last
    /// result is what it cannot carry.
    fn put(
        &self,
        place: &Place,
        bytes: &[u8],
        meta: &Meta,
        fidelity: Fidelity,
    ) -> Result<(Stat, Vec<Gap>), VolumeError>;

    /// Makes a directory that its owner can use; leaves an existing one as it is, and replaces anything else.
    fn make_directory(&self, place: &Place) -> Result<(), VolumeError>;

    /// Makes a symbolic link, replacing what is there.
    fn make_symlink(
        &self,
        place: &Place,
        target: &[u8],
        meta: &Meta,
        fidelity: Fidelity,
    ) -> Result<(Stat, Vec<Gap>), VolumeError>;

    /// Makes another name of `leader`, which is no directory, replacing what is there unless it is that already.
    fn make_link(&self, place: &Place, leader: &Place) -> Result<Stat, VolumeError>;

    /// Makes a FIFO or a device node, replacing what is there. Sockets are recorded as a gap, as are device nodes in
    /// modes that do not carry them; then there is no stat.
    fn make_special(
        &self,
        place: &Place,
        kind: Kind,
        device: u64,
        meta: &Meta,
        fidelity: Fidelity,
    ) -> Result<(Option<Stat>, Vec<Gap>), VolumeError>;

    /// Sets metadata of what is there, if it is of this kind.
    fn set_meta(
        &self,
        place: &Place,
        kind: Kind,
        meta: &Meta,
        fidelity: Fidelity,
    ) -> Result<(Stat, Vec<Gap>), VolumeError>;

    /// Removes what is there, with everything beneath it; it is no error if nothing is.
    fn remove(&self, place: &Place) -> Result<(), VolumeError>;

    /// Moves what is at `from` to `to`, replacing what is there. Both are beneath the root.
    fn rename(&self, from: &Place, to: &Place) -> Result<(), VolumeError>;

    /// Makes everything durable that was written through this volume. An error means that something written may be
    /// lost: it is never cured by calling again.
    fn flush(&self) -> Result<(), VolumeError>;
}

/// An open regular file or block volume.
pub trait Content: Send + Sync {
    /// What it is now.
    fn stat(&self) -> Result<Stat, VolumeError>;

    /// Its metadata now.
    fn look(&self, fidelity: Fidelity) -> Result<Look, VolumeError>;

    /// Reads until `buffer` is full or the content ends; returns the bytes read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, VolumeError>;

    /// The first offset at or after `offset` that is not known to be a hole; nothing if only holes follow. A hint, as
    /// [`Self::next_data`], which also looks for the end of the data: some file systems search all of it for that.
    fn data_from(&self, offset: u64) -> Result<Option<u64>, VolumeError> {
        Ok(self.next_data(offset)?.map(|(start, _)| start))
    }

    /// The first offset at or after `offset` that is not known to be a hole, and the end of the data there; nothing
    /// if only holes follow. A hint: it saves reading, and proves nothing.
    fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>, VolumeError>;

    /// Writes all of `bytes`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), VolumeError>;

    /// Makes these bytes zeros, freeing them where that is possible; a file becomes as long as that takes.
    fn zero_at(&self, offset: u64, bytes: u64) -> Result<(), VolumeError>;

    /// Gives a file that was opened with [`Access::Beside`] its place, in place of any other file; what is open of that
    /// one stays. For other contents nothing happens.
    fn land(&self) -> Result<(), VolumeError>;

    /// Cuts off or extends with zeros. For a device, only checks that it is large enough and zeroes what is beyond.
    fn set_size(&self, bytes: u64) -> Result<(), VolumeError>;

    /// Sets its metadata, in the order that the kernel's side effects demand.
    fn set_meta(&self, meta: &Meta, fidelity: Fidelity) -> Result<(Stat, Vec<Gap>), VolumeError>;
}

/// Whether `path`, symbolic links in it followed, leads to a directory.
pub fn is_folder(path: &std::path::Path) -> Result<bool, OpenError> {
    let about = std::fs::metadata(path).map_err(|source| OpenError::Io { path: path.into(), source })?;
    Ok(about.is_dir())
}

/// Whether something is at `path`, or may be.
pub fn is_there(path: &std::path::Path) -> bool {
    path.try_exists().unwrap_or(true)
}

/// Makes a directory for a tree, and those above it, if nothing is there.
pub fn make_folder(path: &std::path::Path) -> Result<(), OpenError> {
    std::fs::create_dir_all(path).map_err(|source| OpenError::Io { path: path.into(), source })
}

/// The earliest change that a stat taken at `now` can be trusted to show: anything younger may be followed by another
/// change with the same timestamp.
pub fn trusted_before(now: Time, step: std::time::Duration) -> Time {
    let nanos = i128::from(now.seconds) * 1_000_000_000 + i128::from(now.nanos) - step.as_nanos() as i128;
    Time { seconds: nanos.div_euclid(1_000_000_000) as i64, nanos: nanos.rem_euclid(1_000_000_000) as u32 }
}
