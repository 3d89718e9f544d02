//! A tree of files on a mounted file system.

use std::ffi::CStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use tranship_engine::Stat;
use tranship_proto::codec::Writer;
use tranship_proto::entry::{Kind, Meta, Name, Place};
use tranship_proto::message::{Fidelity, Gap, GapKind, VolumeKind};

use super::beneath::{OpenError, Root};
use super::beside::Beside;
use super::bytes::{Bytes, Cache, Direct, SPARING_BYTES_MIN};
use super::durable::Durable;
use super::file::File;
use super::meta::Object;
use super::remove::remove;
use super::seen::Seen;
use super::walk::{Limits, walk};
use super::{Access, Content, Facts, LeftOut, Look, Volume, VolumeError, Walked, temporary};

/// How often a name is cleared for something that somebody else keeps putting back.
const TRIES_MAX: usize = 16;

/// Two ticks of the slowest clock that Linux is built with (100 Hz): what the kernel stamps may be one behind.
const TIME_STEP: Duration = Duration::from_millis(20);

/// Where times are kept in seconds, at worst in even ones, or belong to another host's clock.
const COARSE_TIME_STEP: Duration = Duration::from_secs(2);

/// How a file is opened that is not there yet.
const NEW_FILE: OFlags =
    OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// An open tree.
#[derive(Debug)]
pub struct Tree {
    root: Root,
    durable: Durable,
    file_system: u64,
    /// Whether files can be made without a name here, and named later.
    has_nameless: AtomicBool,
}

impl Tree {
    /// Opens the directory at `path` as a volume's root. Symbolic links in this one path are followed.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let root = Root::open(path)?;
        let about = rustix::fs::fstatfs(root.handle())
            .map_err(|errno| OpenError::Io { path: path.into(), source: errno.into() })?;
        let has_nameless = AtomicBool::new(root.path_of(root.handle()).is_some());
        Ok(Self { root, durable: Durable::default(), file_system: about.f_type as u64, has_nameless })
    }

    /// Whether a `lost+found` in the root is the file system's.
    fn has_lost_and_found(&self) -> bool {
        /// `EXT4_SUPER_MAGIC` of `statfs(2)`, for ext2, ext3 and ext4.
        const EXT_MAGIC: u64 = 0xef53;
        self.file_system == EXT_MAGIC
    }

    fn is_empty(&self) -> Result<bool, Errno> {
        let root = self.root.resolve_listable(&Place::root())?;
        for dirent in Dir::read_from(&root)? {
            match dirent?.file_name().to_bytes() {
                b"." | b".." => {}
                b"lost+found" if self.has_lost_and_found() => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Opens what is at `place` as a place, and looks at it.
    fn find(&self, place: &Place) -> Result<(OwnedFd, Seen), Errno> {
        let handle = self.root.resolve(place, OFlags::PATH)?;
        let seen = Seen::of(&handle)?;
        Ok((handle, seen))
    }

    /// Opens an existing regular file: what is not one is never opened for data, as that could wait or have effects.
    fn open_file(&self, place: &Place, access: Access) -> Result<Bytes, VolumeError> {
        let failed = |errno| VolumeError::of("open", place, errno);
        let (handle, seen) = self.find(place).map_err(failed)?;
        expect_kind(place, Kind::File, seen.stat.kind)?;
        let flags = if access == Access::Write { OFlags::RDWR } else { OFlags::RDONLY };
        let fd = Arc::new(self.root.reopen(place, &handle, flags).map_err(failed)?);
        let direct = || self.root.reopen(place, &handle, OFlags::RDONLY | OFlags::DIRECT).ok();
        let direct = || direct().and_then(Direct::new).map(Arc::new);
        let cache = match access {
            Access::ReadDevice => Cache::Passed(direct()),
            Access::Read if seen.stat.size > SPARING_BYTES_MIN => Cache::Spared(direct()),
            Access::Read | Access::ReadFirst | Access::Write | Access::Create | Access::Beside => Cache::Used,
        };
        Ok(Bytes::new(fd, cache, place.clone()))
    }

    /// Makes a new regular file where something else may be.
    fn create_file(&self, place: &Place) -> Result<Bytes, VolumeError> {
        let fd = self.make_anew(place, "create", |parent, name| {
            rustix::fs::openat(parent, name.as_bytes(), NEW_FILE, Mode::RUSR | Mode::WUSR)
        })?;
        Ok(Bytes::new(Arc::new(fd), Cache::Used, place.clone()))
    }

    /// Makes a file that nobody sees at `place` yet: without a name, or else beside it.
    ///
    /// Measured with 20,000 files of 4 KiB in one directory, files a second on ext4, xfs, btrfs and tmpfs: without a
    /// name and then named 33,000, 17,000, 11,000 and 50,000; beside and then renamed 25,000, 13,000, 10,000 and
    /// 53,000; in place from the start, which may not be, 45,000, 17,000, 13,000 and 77,000.
    fn create_unseen(&self, place: &Place) -> Result<(OwnedFd, Option<Beside>), VolumeError> {
        let (flags, mode) = (OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
        if self.has_nameless.load(Ordering::Relaxed) {
            let create =
                |parent: &Arc<OwnedFd>, _: Name<'_>| rustix::fs::openat(&**parent, c".", flags | OFlags::TMPFILE, mode);
            match self.root.in_parent(place, create) {
                // What file systems and kernels say that do not know it.
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::ISDIR) => {
                    self.has_nameless.store(false, Ordering::Relaxed)
                }
                made => return Ok((made.map_err(|errno| VolumeError::of("create", place, errno))?, None)),
            }
        }
        let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let (beside, fd) =
            self.make_beside(place, "create", |parent, name| rustix::fs::openat(parent, name, flags, mode))?;
        Ok((fd, Some(beside)))
    }

    /// Gives a file without a name, which has this path in `/proc/self/fd`, its name if nothing has it.
    fn name(&self, path: &CStr, place: &Place) -> Result<(), Errno> {
        self.root.in_parent(place, |parent, name| {
            rustix::fs::linkat(CWD, path, &**parent, name.as_bytes(), AtFlags::SYMLINK_FOLLOW)
        })
    }

    /// Makes something at `place` by a call that fails where anything is, removing what is there.
    fn make_anew<T>(
        &self,
        place: &Place,
        operation: &'static str,
        make: impl Fn(&OwnedFd, Name<'_>) -> Result<T, Errno>,
    ) -> Result<T, VolumeError> {
        for _ in 0..TRIES_MAX {
            match self.root.in_parent(place, |parent, name| make(parent, name)) {
                Err(Errno::EXIST) => remove(&self.root, place)?,
                result => return result.map_err(|errno| VolumeError::of(operation, place, errno)),
            }
        }
        Err(VolumeError::of(operation, place, Errno::EXIST))
    }

    /// Makes something beside `place`, under a temporary name.
    fn make_beside<T>(
        &self,
        place: &Place,
        operation: &'static str,
        make: impl Fn(&OwnedFd, &str) -> Result<T, Errno>,
    ) -> Result<(Beside, T), VolumeError> {
        let made = self.root.in_parent(place, |parent, _| {
            let name = temporary::name()?;
            let made = make(parent, &name)?;
            Ok((Beside::new(Arc::clone(parent), name), made))
        });
        made.map_err(|errno| VolumeError::of(operation, place, errno))
    }

    /// Gives what was made beside `place` its name there, in place of anything.
    fn land(&self, mut beside: Beside, place: &Place) -> Result<(), VolumeError> {
        for _ in 0..TRIES_MAX {
            match beside.try_land(place) {
                Ok(()) => return Ok(()),
                // A directory is there, which no rename replaces.
                Err(Errno::ISDIR) => remove(&self.root, place)?,
                Err(errno) => return Err(VolumeError::of("replace", place, errno)),
            }
        }
        Err(VolumeError::of("replace", place, Errno::ISDIR))
    }

    /// Opens what was just made under a temporary name, and makes sure that it is that and nobody else's.
    fn open_beside(&self, beside: &Beside, place: &Place, kind: Kind) -> Result<OwnedFd, VolumeError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |errno| VolumeError::of("make", place, errno);
        let fd = rustix::fs::openat(&*beside.parent, &beside.name, flags, Mode::empty()).map_err(failed)?;
        let stat = Seen::of(&fd).map_err(failed)?.stat;
        expect_kind(place, kind, stat.kind)?;
        if stat.links != 1 {
            return Err(VolumeError::Replaced { place: place.clone(), found: "another name of something".into() });
        }
        Ok(fd)
    }

    fn set_named(
        &self,
        fd: &OwnedFd,
        place: &Place,
        meta: &Meta,
        fidelity: Fidelity,
    ) -> Result<(Stat, Vec<Gap>), VolumeError> {
        Object::named(fd, self.root.path_of(fd)).set(place, meta, fidelity)
    }
}

impl Volume for Tree {
    /// The identity holds the file system's number as `statfs(2)` tells it. On ext4 and btrfs that comes from its
    /// UUID; on xfs from the number of its device, so that a tree on xfs is another one after its disk moved, and is
    /// compared in full.
    fn facts(&self) -> Result<Facts, VolumeError> {
        let failed = |errno| VolumeError::of("look at", &Place::root(), errno);
        let about = rustix::fs::fstatvfs(self.root.handle()).map_err(failed)?;
        let stat = Seen::of(self.root.handle()).map_err(failed)?.stat;
        let mut identity = Writer::new();
        identity.bytes(b"tree");
        identity.u64(self.file_system);
        identity.u64(about.f_fsid);
        identity.u64(stat.inode);
        identity.option(stat.btime, |w, time| time.encode(w));
        Ok(Facts {
            kind: VolumeKind::Tree,
            identity: identity.finish(),
            capacity_bytes: about.f_blocks.saturating_mul(about.f_frsize),
            free_bytes: about.f_bavail.saturating_mul(about.f_frsize),
            is_empty: self.is_empty().map_err(failed)?,
            time_step: time_step(self.file_system, &stat),
        })
    }

    fn settle(&self) -> Result<(), VolumeError> {
        self.durable.sync("settle", || rustix::fs::syncfs(self.root.handle()))
    }

    fn walk(
        &self,
        skip: &(dyn Fn(&Place, Kind) -> bool + Sync),
        stop: &AtomicBool,
        visit: &mut dyn FnMut(Walked) -> Result<(), VolumeError>,
    ) -> Result<Vec<LeftOut>, VolumeError> {
        walk(&self.root, self.has_lost_and_found(), Limits::default(), skip, stop, visit)
    }

    fn look(&self, place: &Place, fidelity: Fidelity) -> Result<Look, VolumeError> {
        let failed = |errno| VolumeError::of("look at", place, errno);
        let (fd, seen) = self.find(place).map_err(failed)?;
        let target = match seen.stat.kind {
            Kind::Symlink => Some(rustix::fs::readlinkat(&fd, c"", Vec::new()).map_err(failed)?.into_bytes().into()),
            _ => None,
        };
        let read = Object::named(&fd, self.root.path_of(&fd)).read(place, fidelity)?;
        Ok(Look { stat: read.stat, meta: read.meta, target, gaps: read.gaps })
    }

    fn open(&self, place: &Place, access: Access) -> Result<Box<dyn Content>, VolumeError> {
        Ok(Box::new(match access {
            Access::Create => File::new(self.create_file(place)?),
            Access::Beside => {
                let (flags, mode) = (NEW_FILE, Mode::RUSR | Mode::WUSR);
                let open = |parent: &OwnedFd, name: &str| rustix::fs::openat(parent, name, flags, mode);
                let (beside, fd) = self.make_beside(place, "create", open)?;
                File::beside(Bytes::new(Arc::new(fd), Cache::Used, place.clone()), beside)
            }
            Access::Read | Access::ReadFirst | Access::ReadDevice | Access::Write => {
                File::new(self.open_file(place, access)?)
            }
        }))
    }

    fn put(
        &self,
        place: &Place,
        bytes: &[u8],
        meta: &Meta,
        fidelity: Fidelity,
    ) -> Result<(Stat, Vec<Gap>), VolumeError> {
        let (fd, beside) = self.create_unseen(place)?;
        let content = Bytes::new(Arc::new(fd), Cache::Used, place.clone());
        content.write_at(bytes, 0)?;
        let (_, gaps) = Object::open(content.fd()).set(place, meta, fidelity)?;
        match (beside, self.root.path_of(content.fd())) {
            (Some(beside), _) => self.land(beside, place)?,
            (None, Some(path)) => match self.name(&path, place) {
                // The file's owner is another one by now, and hard links to files of others are forbidden.
                Err(Errno::PERM) => {
                    self.has_nameless.store(false, Ordering::Relaxed);
                    return self.put(place, bytes, meta, fidelity);
                }
                Err(Errno::EXIST) => {
                    let link = |parent: &OwnedFd, name: &str| {
                        rustix::fs::linkat(CWD, &path, parent, name, AtFlags::SYMLINK_FOLLOW)
                    };
                    let (beside, ()) = self.make_beside(place, "name", link)?;
                    self.land(beside, place)?;
                }
                result => result.map_err(content.failed("name"))?,
            },
            (None, None) => unreachable!("nameless files are made only where they can be named"),
        }
        // The name is a change that time shows.
        let stat = Seen::of(content.fd()).map_err(content.failed("stat"))?.stat;
        Ok((stat, gaps))
    }

    fn make_directory(&self, place: &Place) -> Result<(), VolumeError> {
        if place.is_root() {
            return Ok(());
        }
        for _ in 0..TRIES_MAX {
            let make = |parent: &Arc<OwnedFd>, name: Name<'_>| match rustix::fs::mkdirat(
                &**parent,
                name.as_bytes(),
                Mode::RWXU,
            ) {
                Err(Errno::EXIST) => Ok(Seen::at(&**parent, name.as_bytes())?.stat.kind == Kind::Directory),
                result => result.map(|()| true),
            };
            match self.root.in_parent(place, make) {
                Ok(true) => return Ok(()),
                Ok(false) => remove(&self.root, place)?,
                Err(errno) => return Err(VolumeError::of("make directory", place, errno)),
            }
        }
        Err(VolumeError::of("make directory", place, Errno::EXIST))
    }

    fn make_symlink(
        &self,
        place: &Place,
        target: &[u8],
        meta: &Meta,
        fidelity: Fidelity,
    ) -> Result<(Stat, Vec<Gap>), VolumeError> {
        let (beside, ()) =
            self.make_beside(place, "make symlink", |parent, name| rustix::fs::symlinkat(target, parent, name))?;
        let fd = self.open_beside(&beside, place, Kind::Symlink)?;
        let (_, gaps) = self.set_named(&fd, place, meta, fidelity)?;
        self.land(beside, place)?;
        let stat = Seen::of(&fd).map_err(|errno| VolumeError::of("stat", place, errno))?.stat;
        Ok((stat, gaps))
    }

    fn make_link(&self, place: &Place, leader: &Place) -> Result<Stat, VolumeError> {
        let failed = |errno| VolumeError::of("link", place, errno);
        let (fd, seen) = self.find(leader).map_err(|errno| VolumeError::of("link to", leader, errno))?;
        if seen.stat.kind == Kind::Directory {
            return Err(VolumeError::Replaced { place: leader.clone(), found: Kind::Directory.to_string() });
        }
        match self.find(place) {
            Ok((_, there)) if there.is_same(&seen) => return Ok(seen.stat),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let path = self.root.path_of(&fd);
        let (beside, ()) = self.make_beside(place, "link", |parent, name| match &path {
            Some(path) => rustix::fs::linkat(CWD, path, parent, name, AtFlags::SYMLINK_FOLLOW),
            // Needs a privilege, or a kernel that sees that the handle is our own (6.10).
            None => rustix::fs::linkat(&fd, c"", parent, name, AtFlags::EMPTY_PATH),
        })?;
        self.land(beside, place)?;
        Ok(Seen::of(&fd).map_err(failed)?.stat)
    }

    fn make_special(
        &self,
        place: &Place,
        kind: Kind,
        device: u64,
        meta: &Meta,
        fidelity: Fidelity,
    ) -> Result<(Option<Stat>, Vec<Gap>), VolumeError> {
        let gap = |what, detail: &str| Ok((None, vec![Gap { place: place.clone(), what, detail: detail.into() }]));
        let (file_type, device) = match kind {
            Kind::Socket => return gap(GapKind::Socket, "recorded, not made"),
            Kind::Fifo => (FileType::Fifo, 0),
            Kind::CharDevice | Kind::BlockDevice if fidelity != Fidelity::Exact => {
                return gap(GapKind::Device, "device nodes need the mode exact");
            }
            Kind::CharDevice => (FileType::CharacterDevice, device),
            Kind::BlockDevice => (FileType::BlockDevice, device),
            Kind::Directory | Kind::File | Kind::Symlink | Kind::Block => {
                return Err(VolumeError::of("make special file", place, Errno::INVAL));
            }
        };
        let made = self.make_beside(place, "make special file", |parent, name| {
            match rustix::fs::mknodat(parent, name, file_type, Mode::RUSR | Mode::WUSR, device) {
                Err(errno @ (Errno::PERM | Errno::OPNOTSUPP)) => Ok(Err(errno)),
                result => result.map(Ok),
            }
        })?;
        let beside = match made {
            (beside, Ok(())) => beside,
            // Dropping the name that nothing got removes nothing.
            (_, Err(errno)) => return gap(GapKind::Device, &format!("cannot be made: {errno}")),
        };
        let fd = self.open_beside(&beside, place, kind)?;
        let (_, gaps) = self.set_named(&fd, place, meta, fidelity)?;
        self.land(beside, place)?;
        let stat = Seen::of(&fd).map_err(|errno| VolumeError::of("stat", place, errno))?.stat;
        Ok((Some(stat), gaps))
    }

    fn set_meta(
        &self,
        place: &Place,
        kind: Kind,
        meta: &Meta,
        fidelity: Fidelity,
    ) -> Result<(Stat, Vec<Gap>), VolumeError> {
        let (fd, seen) = self.find(place).map_err(|errno| VolumeError::of("set metadata of", place, errno))?;
        expect_kind(place, kind, seen.stat.kind)?;
        self.set_named(&fd, place, meta, fidelity)
    }

    fn remove(&self, place: &Place) -> Result<(), VolumeError> {
        remove(&self.root, place)
    }

    fn rename(&self, from: &Place, to: &Place) -> Result<(), VolumeError> {
        if from == to {
            return Ok(());
        }
        let failed = |errno| VolumeError::of("rename", from, errno);
        let (_, seen) = self.find(from).map_err(failed)?;
        match self.find(to) {
            // The kernel leaves two names of one file as they are.
            Ok((_, there)) if there.is_same(&seen) => return remove(&self.root, from),
            Ok((_, there)) if Kind::Directory == there.stat.kind || Kind::Directory == seen.stat.kind => {
                if from.is_within(to) || to.is_within(from) {
                    return Err(failed(Errno::INVAL));
                }
                remove(&self.root, to)?;
            }
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(VolumeError::of("rename to", to, errno)),
        }
        let moved = self.root.in_parent(from, |from_parent, from_name| {
            let (from_name, from_parent) = (from_name.as_bytes(), &**from_parent);
            self.root.in_parent(to, |to_parent, to_name| {
                rustix::fs::renameat(from_parent, from_name, &**to_parent, to_name.as_bytes())
            })
        });
        self.root.forget(from);
        self.root.forget(to);
        moved.map_err(failed)
    }

    fn flush(&self) -> Result<(), VolumeError> {
        self.durable.sync("flush", || {
            rustix::fs::syncfs(self.root.handle())?;
            // A file system that stopped itself after an error has nothing to sync, and says that all is well.
            let flags = rustix::fs::fstatvfs(self.root.handle())?.f_flag;
            if flags.contains(rustix::fs::StatVfsMountFlags::RDONLY) { Err(Errno::ROFS) } else { Ok(()) }
        })
    }
}

fn expect_kind(place: &Place, expected: Kind, found: Kind) -> Result<(), VolumeError> {
    if expected == found {
        return Ok(());
    }
    Err(VolumeError::Replaced { place: place.clone(), found: found.to_string() })
}

/// The step of a file system's times. Where a change after a stat always gets a time of its own (since Linux 6.13) the
/// step is really zero; being careful costs a second read of what changed in the last moment.
fn time_step(file_system: u64, root: &Stat) -> Duration {
    /// NFS, CIFS, SMB2, FUSE, Ceph and 9P, of `statfs(2)`.
    const REMOTE: [u64; 6] = [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546, 0x00c3_6400, 0x0102_1997];
    let has_whole_seconds = root.mtime.nanos == 0 && root.ctime.nanos == 0;
    if REMOTE.contains(&file_system) || has_whole_seconds { COARSE_TIME_STEP } else { TIME_STEP }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str) -> Place {
        Place::from_bytes(path.replace('/', "\0").into_bytes()).unwrap()
    }

    fn check_puts(tree: &Tree, folder: &Path) {
        let meta = Meta { mode: 0o604, ..Meta::default() };
        for content in ["new", "replaced"] {
            let (stat, _) = tree.put(&place("x"), content.as_bytes(), &meta, Fidelity::Plain).unwrap();
            assert_eq!((stat.mode, stat.links), (0o604, 1));
            assert_eq!(std::fs::read_to_string(folder.join("x")).unwrap(), content);
        }
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
    }

    #[test]
    fn in_mode_plain_it_is_no_gap_to_whom_the_root_belongs() {
        // Nobody else can give things away.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x"), "").unwrap();
        for path in [folder.path(), &folder.path().join("x")] {
            std::os::unix::fs::chown(path, Some(12_345), Some(12_345)).unwrap();
        }
        let tree = Tree::open(folder.path()).unwrap();
        let gaps = |place: &Place, fidelity| -> Vec<GapKind> {
            tree.look(place, fidelity).unwrap().gaps.iter().map(|gap| gap.what).collect()
        };
        assert_eq!(gaps(&Place::root(), Fidelity::Plain), []);
        assert_eq!(gaps(&place("x"), Fidelity::Plain), [GapKind::Owner]);
    }

    #[test]
    fn files_arrive_whole_where_none_can_be_without_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::open(folder.path()).unwrap();
        tree.has_nameless.store(false, Ordering::Relaxed);
        check_puts(&tree, folder.path());
    }

    #[test]
    fn without_proc_what_cannot_be_seen_or_set_is_a_gap() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(folder.path()).unwrap();
        tree.root.hide_proc();
        tree.has_nameless.store(false, Ordering::Relaxed);
        check_puts(&tree, folder.path());
        let look = tree.look(&place("x"), Fidelity::Plain).unwrap();
        assert_eq!(look.gaps.iter().map(|gap| gap.what).collect::<Vec<_>>(), [GapKind::Unreadable]);
        let meta = Meta { mode: 0o777, ..look.meta };
        let (stat, gaps) = tree.set_meta(&place("x"), Kind::File, &meta, Fidelity::Plain).unwrap();
        assert_eq!((stat.mode, gaps.iter().map(|gap| gap.what).collect()), (0o604, vec![GapKind::Mode]));
        let content = tree.open(&place("x"), Access::Read).unwrap();
        assert_eq!(content.look(Fidelity::Plain).unwrap().gaps, []);
        assert_eq!(content.read_at(&mut [0; 99], 0).unwrap(), 8);
    }
}
