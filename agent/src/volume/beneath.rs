//! The only place where a [`Place`] becomes something that the kernel resolves.
//!
//! Every resolution starts at the open root and is `openat2(2)` with `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS`,
//! `RESOLVE_NO_MAGICLINKS` and `RESOLVE_NO_XDEV`: it arrives at an object beneath the root in the same mount, or fails.
//! What has no descriptor of its own yet, or is named anew, is reached by its parent's handle and its one last name.
//! No check of a path is ever followed by a use of that path.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use thiserror::Error;
use tranship_proto::entry::{Name, Place};

use super::seen::Seen;

/// Why a volume could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The kernel cannot keep us beneath a directory, or does not report failed writes.
    #[error("this kernel, or its sandbox, lacks {missing}; Linux 5.8 or newer is needed")]
    Kernel {
        /// What is missing.
        missing: &'static str,
    },
    /// It is neither a directory, nor a block device or an image file where one was asked for.
    #[error("{path:?} is a {found}")]
    Kind {
        /// The path that was given.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// The kernel said no. A block device that is mounted or otherwise in use is `EBUSY`.
    #[error("cannot open {path:?}")]
    Io {
        /// The path that was given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl OpenError {
    /// The stable code that users and scripts see.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Kernel { .. } => "TS-E240",
            Self::Kind { .. } => "TS-E233",
            Self::Io { .. } => "TS-E250",
        }
    }
}

/// Bytes in a path that the kernel takes, without the final NUL (`PATH_MAX` − 1).
const PATH_BYTES_MAX: usize = 4_095;

/// Parents that are kept open at most; fewer where `RLIMIT_NOFILE` is low.
const PARENTS_MAX: usize = 256;

/// How long a kept parent is believed to be where it was. Our own renames and removals are seen at once; this bounds
/// what happens when somebody else moves a directory while we write into it.
const PARENT_AGE_MAX: Duration = Duration::from_secs(1);

/// How often a resolution is repeated that the kernel could not finish because names moved meanwhile.
const AGAIN_MAX: usize = 128;

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// A handle that only names a directory: enough for every `*at` call.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// An open root.
#[derive(Debug)]
pub(super) struct Root {
    handle: OwnedFd,
    has_proc: bool,
    parents: Mutex<Parents>,
}

impl Root {
    /// Opens the directory at `path`, a path of the operator's: symbolic links in it are followed, this once.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOTDIR => OpenError::Kind { path: path.into(), found: "file or a device, not a directory" },
            _ => OpenError::Io { path: path.into(), source: errno.into() },
        })?;
        // A sandbox that does not know the call says EPERM instead of ENOSYS.
        if let Err(Errno::NOSYS | Errno::PERM) = resolve(&handle, b"", DIRECTORY) {
            return Err(OpenError::Kernel { missing: "openat2" });
        }
        // Came with the same release as an honest syncfs: before it, a failed write-back was nobody's error.
        let about = rustix::fs::statx(&handle, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
            .map_err(|errno| OpenError::Io { path: path.into(), source: errno.into() })?;
        if !about.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
            return Err(OpenError::Kernel { missing: "mount points in statx" });
        }
        Ok(Self { handle, has_proc: has_proc(), parents: Mutex::new(Parents::new(parents_max())) })
    }

    /// The root itself, open for reading.
    pub(super) fn handle(&self) -> &OwnedFd {
        &self.handle
    }

    /// Opens what is at `place`. With `O_PATH` a symbolic link is opened itself; otherwise it is `ELOOP`.
    pub(super) fn resolve(&self, place: &Place, flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut rest = place.as_bytes();
        let mut on_the_way: Option<OwnedFd> = None;
        while rest.len() > PATH_BYTES_MAX {
            let cut =
                rest[..=PATH_BYTES_MAX].iter().rposition(|&byte| byte == 0).expect("a name has at most 255 bytes");
            let from = on_the_way.as_ref().unwrap_or(&self.handle);
            on_the_way = Some(resolve(from, &rest[..cut], DIRECTORY)?);
            rest = &rest[cut + 1..];
        }
        resolve(on_the_way.as_ref().unwrap_or(&self.handle), rest, flags)
    }

    /// Opens the directory at `place` to read its names, and leaves its access time alone where that is allowed.
    pub(super) fn resolve_listable(&self, place: &Place) -> Result<OwnedFd, Errno> {
        without_atime(OFlags::RDONLY | OFlags::DIRECTORY, |flags| self.resolve(place, flags))
    }

    /// Opens again, for reading or writing, what `handle` (`O_PATH`) was opened at `place`: the same object, whoever
    /// has that name by now.
    pub(super) fn reopen(&self, place: &Place, handle: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        without_atime(flags, |flags| match self.path_of(handle) {
            Some(path) => rustix::fs::open(path, flags, Mode::empty()),
            None => {
                let opened = self.resolve(place, flags)?;
                let is_same = Seen::of(&opened)?.is_same(&Seen::of(handle)?);
                if is_same { Ok(opened) } else { Err(Errno::NOENT) }
            }
        })
    }

    /// A path that leads to the open object itself, not to its name; nothing where `/proc` is missing.
    pub(super) fn path_of(&self, handle: impl AsFd) -> Option<CString> {
        let number = handle.as_fd().as_raw_fd();
        self.has_proc.then(|| CString::new(format!("/proc/self/fd/{number}")).expect("a number has no NUL"))
    }

    /// Does something to the last name of `place` in the directory that holds it. The root has no parent: `EBUSY`.
    ///
    /// The parent is taken from the ones that are kept, so that a thousand files in one directory resolve it once. If
    /// it is gone by now it is resolved again, so `act` may be called twice.
    pub(super) fn in_parent<T>(
        &self,
        place: &Place,
        mut act: impl FnMut(&Arc<OwnedFd>, Name<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (parent, name) = place.split().ok_or(Errno::BUSY)?;
        let kept = self.parents().get(&parent);
        if let Some(kept) = kept {
            match act(&kept, name) {
                Err(Errno::NOENT) => self.forget(&parent),
                result => return result,
            }
        }
        let moves = self.parents().moves;
        let opened = Arc::new(self.resolve(&parent, DIRECTORY)?);
        self.parents().insert(parent, &opened, moves);
        act(&opened, name)
    }

    /// Closes the kept handles of `place` and of what lies beneath it: it is about to move or to go, or did.
    pub(super) fn forget(&self, place: &Place) {
        let mut parents = self.parents();
        parents.moves += 1;
        parents.kept.retain(|kept, _| !kept.is_within(place));
    }

    /// As where `/proc` is not mounted.
    #[cfg(test)]
    pub(super) fn hide_proc(&mut self) {
        self.has_proc = false;
    }

    fn parents(&self) -> MutexGuard<'_, Parents> {
        // The map is whole between any two statements: a panic elsewhere does not spoil it.
        self.parents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a small file of the kernel's own (`/sys`): no volume is reached by this.
pub(super) fn read_kernel_file(path: &str) -> Option<Vec<u8>> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut bytes = vec![0; 4096];
    let read = rustix::io::read(&file, &mut bytes[..]).ok()?;
    bytes.truncate(read);
    Some(bytes)
}

/// One step: `names` has NUL between its names and fits into a path.
fn resolve(from: &OwnedFd, names: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut path: Vec<u8> = names.iter().map(|&byte| if byte == 0 { b'/' } else { byte }).collect();
    if path.is_empty() {
        path.push(b'.');
    }
    let path = CString::new(path).expect("every NUL was replaced");
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    for _ in 0..AGAIN_MAX {
        match rustix::fs::openat2(from, &path, flags, Mode::empty(), RESOLVE) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Only an object's owner and root may leave its access time alone.
fn without_atime(flags: OFlags, open: impl Fn(OFlags) -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        result => result,
    }
}

fn has_proc() -> bool {
    /// `PROC_SUPER_MAGIC` of `statfs(2)`.
    const PROC_MAGIC: u64 = 0x9fa0;
    rustix::fs::open("/proc/self/fd", DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|directory| rustix::fs::fstatfs(&directory))
        .is_ok_and(|about| about.f_type as u64 == PROC_MAGIC)
}

fn parents_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(PARENTS_MAX, |limit| PARENTS_MAX.min(limit as usize / 8)).max(1)
}

/// Directories that were written into lately.
#[derive(Debug)]
struct Parents {
    kept: HashMap<Place, Kept>,
    max: usize,
    uses: u64,
    /// How often something was forgotten: a handle that was resolved before is not kept after.
    moves: u64,
}

#[derive(Debug)]
struct Kept {
    handle: Arc<OwnedFd>,
    since: Instant,
    used: u64,
}

impl Parents {
    fn new(max: usize) -> Self {
        Self { kept: HashMap::new(), max, uses: 0, moves: 0 }
    }

    fn get(&mut self, place: &Place) -> Option<Arc<OwnedFd>> {
        self.uses += 1;
        let kept = self.kept.get_mut(place).filter(|kept| kept.since.elapsed() < PARENT_AGE_MAX)?;
        kept.used = self.uses;
        Some(Arc::clone(&kept.handle))
    }

    fn insert(&mut self, place: Place, handle: &Arc<OwnedFd>, moves: u64) {
        if moves != self.moves {
            return;
        }
        if self.kept.len() >= self.max && !self.kept.contains_key(&place) {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(place, _)| place.clone());
            oldest.map(|oldest| self.kept.remove(&oldest));
        }
        self.kept.insert(place, Kept { handle: Arc::clone(handle), since: Instant::now(), used: self.uses });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str) -> Place {
        Place::from_bytes(path.replace('/', "\0").into_bytes()).unwrap()
    }

    fn opened(path: &Path) -> Root {
        Root::open(path).unwrap()
    }

    #[test]
    fn nothing_is_reached_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("a")).unwrap();
        std::fs::write(folder.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("..", root.join("up")).unwrap();
        std::os::unix::fs::symlink("a", root.join("inside")).unwrap();
        std::os::unix::fs::symlink("/proc/self/root", root.join("magic")).unwrap();
        let opened = opened(&root);
        for path in ["up/secret", "inside/x", "magic/etc", "up", "inside"] {
            assert_eq!(opened.resolve(&place(path), OFlags::RDONLY).unwrap_err(), Errno::LOOP, "{path}");
        }
        let link = opened.resolve(&place("up"), OFlags::PATH).unwrap();
        assert_eq!(Seen::of(&link).unwrap().stat.kind, tranship_proto::entry::Kind::Symlink);
    }

    #[test]
    fn a_thousand_names_in_one_directory_resolve_it_once() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        let root = opened(folder.path());
        let mut handles = std::collections::HashSet::new();
        for number in 0..1000 {
            let place = place(&format!("a/{number}"));
            root.in_parent(&place, |parent, _| Ok(handles.insert(parent.as_raw_fd()))).unwrap();
        }
        assert_eq!(handles.len(), 1);
    }

    #[test]
    fn kept_parents_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let root = opened(folder.path());
        for number in 0..1000 {
            std::fs::create_dir(folder.path().join(number.to_string())).unwrap();
            root.in_parent(&place(&format!("{number}/x")), |_, _| Ok(())).unwrap();
        }
        assert!(root.parents().kept.len() <= PARENTS_MAX);
    }

    #[test]
    fn a_forgotten_directory_is_resolved_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(path("a/b")).unwrap();
        let root = opened(folder.path());
        let inode =
            |root: &Root| root.in_parent(&place("a/b/x"), |parent, _| Ok(Seen::of(parent)?.stat.inode)).unwrap();
        let before = inode(&root);
        std::fs::rename(path("a"), path("c")).unwrap();
        std::fs::create_dir_all(path("a/b")).unwrap();
        root.forget(&place("a"));
        assert_ne!(inode(&root), before);
    }

    #[test]
    fn a_kept_directory_that_somebody_removed_is_resolved_again() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        let root = opened(folder.path());
        let make = |name: &str| {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            root.in_parent(&place(&format!("a/{name}")), |parent, name| {
                rustix::fs::openat(&**parent, name.as_bytes(), flags, Mode::RUSR)
            })
        };
        make("x").unwrap();
        std::fs::remove_dir_all(folder.path().join("a")).unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        make("y").unwrap();
        assert!(folder.path().join("a/y").exists());
    }

    #[test]
    fn a_file_is_no_root() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(Root::open(file.path()).unwrap_err().code(), "TS-E233");
    }
}
