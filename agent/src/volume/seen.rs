//! What `statx(2)` tells.

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags, StatxTimestamp, makedev, statx};
use rustix::io::Errno;
use rustix::path::Arg;
use tranship_engine::Stat;
use tranship_proto::entry::{Kind, Time};

/// One answer of the kernel about one object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// What the engine decides with.
    pub(super) stat: Stat,
    /// The device of the file system, or of the subvolume.
    pub(super) device: u64,
    /// Whether something is mounted there, be it a piece of the same file system.
    pub(super) is_mount: bool,
    /// Immutable, append-only and the like.
    pub(super) attributes: StatxAttributes,
}

const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

impl Seen {
    /// Looks at `name` in a directory, following and mounting nothing.
    pub(super) fn at(directory: impl AsFd, name: impl Arg) -> Result<Self, Errno> {
        statx(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, WANTED).map(|x| Self::new(&x))
    }

    /// Looks at an open object.
    pub(super) fn of(object: impl AsFd) -> Result<Self, Errno> {
        statx(object, c"", AtFlags::EMPTY_PATH, WANTED).map(|x| Self::new(&x))
    }

    /// Whether both are the same inode of the same file system at this moment.
    pub(super) fn is_same(&self, other: &Seen) -> bool {
        self.device == other.device && self.stat.is_same_object(&other.stat)
    }

    fn new(x: &Statx) -> Self {
        let kind = kind(FileType::from_raw_mode(x.stx_mode.into()));
        let is_directory = kind == Kind::Directory;
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let has_birth = x.stx_mask & StatxFlags::BTIME.bits() != 0;
        Self {
            stat: Stat {
                kind,
                mode: x.stx_mode & 0o7777,
                uid: x.stx_uid,
                gid: x.stx_gid,
                size: if matches!(kind, Kind::File | Kind::Symlink) { x.stx_size } else { 0 },
                mtime: time(&x.stx_mtime),
                ctime: time(&x.stx_ctime),
                btime: has_birth.then(|| time(&x.stx_btime)),
                inode: x.stx_ino,
                links: if is_directory { 1 } else { x.stx_nlink.into() },
                device: if is_device { makedev(x.stx_rdev_major, x.stx_rdev_minor) } else { 0 },
            },
            device: makedev(x.stx_dev_major, x.stx_dev_minor),
            is_mount: x.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
            attributes: x.stx_attributes,
        }
    }
}

fn kind(file_type: FileType) -> Kind {
    match file_type {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::RegularFile | FileType::Unknown => Kind::File,
    }
}

fn time(timestamp: &StatxTimestamp) -> Time {
    Time { seconds: timestamp.tv_sec, nanos: timestamp.tv_nsec }
}
