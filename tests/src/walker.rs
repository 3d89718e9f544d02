//! An independent judge: reads two trees and says what differs.
//!
//! It shares nothing with the product: it takes each directory by a handle and each object in it by the path
//! `/proc/self/fd/HANDLE/NAME`, so that no depth is too deep, follows no link, and compares what it finds one by one.
//! What cannot be read is a difference, never silence.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, OsStr};
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat, openat, readlinkat, seek, statat};
use rustix::io::Errno;

/// Which differences count.
#[derive(Debug, Clone)]
pub struct Contract {
    /// Whether owners and groups must be the same.
    pub owners: bool,
    /// Whether device nodes must be there; otherwise they are left out on both sides.
    pub devices: bool,
    /// Whether sockets must be there; otherwise they are left out on both sides.
    pub sockets: bool,
    /// Whether the root directory's own metadata must be the same.
    pub root: bool,
    /// Beginnings of the names of extended attributes that must be the same.
    pub xattrs: &'static [&'static str],
    /// Names in the root directory that are left out on both sides.
    pub leaves_out: &'static [&'static str],
}

impl Contract {
    /// Content, names, modes, times and `user.*`.
    pub fn plain() -> Self {
        let leaves_out = &["lost+found"];
        Self { owners: false, devices: false, sockets: false, root: true, xattrs: &["user."], leaves_out }
    }

    /// And owners, ACLs and file capabilities.
    pub fn owner() -> Self {
        Self { owners: true, xattrs: &["user.", "system.posix_acl_", "security.capability"], ..Self::plain() }
    }

    /// And device nodes and `trusted.*`.
    pub fn exact() -> Self {
        let xattrs = &["user.", "system.posix_acl_", "security.capability", "trusted."];
        Self { devices: true, xattrs, ..Self::owner() }
    }

    /// Everything that this walker sees, sockets too.
    pub fn everything() -> Self {
        Self { sockets: true, xattrs: &[""], ..Self::exact() }
    }

    fn counts(&self, path: &[u8], kind: FileType) -> bool {
        match kind {
            FileType::Socket => self.sockets,
            FileType::BlockDevice | FileType::CharacterDevice => self.devices,
            _ => !self.leaves_out.iter().any(|name| path.split(|&byte| byte == b'/').next() == Some(name.as_bytes())),
        }
    }
}

/// One object, as it was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// What it is.
    pub kind: FileType,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of content; 0 for directories.
    pub size: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u64),
    /// Number of a device node.
    pub device: u64,
    /// Bytes that the file system has allocated: reported, not compared.
    pub allocated_bytes: u64,
    /// Where a symbolic link points.
    pub target: Vec<u8>,
    /// Digest of a regular file's bytes.
    pub content: String,
    /// Extended attributes by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// File system and inode.
    pub inode: (u64, u64),
    /// The first path of the same inode, if it has more than one in the tree.
    pub linked_to: Option<Vec<u8>>,
    /// What could not be read.
    pub unreadable: Option<String>,
}

/// A tree by path, `/` between names; the root is the empty path.
pub type Tree = BTreeMap<Vec<u8>, Found>;

/// Reads both trees and lists what differs; none if they are the same under the contract. What is at the left comes
/// first in each line.
pub fn compare(left: &Path, right: &Path, contract: &Contract) -> io::Result<Vec<String>> {
    Ok(differences(&walk(left)?, &walk(right)?, contract))
}

/// Lists what differs between two trees that were read before.
pub fn differences(left: &Tree, right: &Tree, contract: &Contract) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, found) in left.iter().filter(|(path, found)| contract.counts(path, found.kind)) {
        match right.get(path) {
            Some(other) => compare_one(path, found, other, contract, &mut lines),
            None => lines.push(format!("{}: {:?} | missing", show(path), found.kind)),
        }
    }
    for (path, found) in right.iter().filter(|(path, found)| contract.counts(path, found.kind)) {
        if !left.contains_key(path) {
            lines.push(format!("{}: missing | {:?}", show(path), found.kind));
        }
    }
    lines
}

fn compare_one(path: &[u8], left: &Found, right: &Found, contract: &Contract, lines: &mut Vec<String>) {
    let mut differs = |what: &str, left: String, right: String| {
        if left != right {
            lines.push(format!("{}: {what}: {left} | {right}", show(path)));
        }
    };
    differs("kind", format!("{:?}", left.kind), format!("{:?}", right.kind));
    for side in [left, right] {
        differs("unreadable", String::new(), side.unreadable.clone().unwrap_or_default());
    }
    if left.kind == right.kind {
        differs("size", left.size.to_string(), right.size.to_string());
        differs("content", left.content.clone(), right.content.clone());
        differs("target", show(&left.target), show(&right.target));
        differs("device", left.device.to_string(), right.device.to_string());
        let group = |found: &Found| found.linked_to.as_deref().map(show).unwrap_or_default();
        differs("hard link", group(left), group(right));
    }
    if path.is_empty() && !contract.root {
        return;
    }
    differs("mode", format!("{:04o}", left.mode), format!("{:04o}", right.mode));
    differs("mtime", format!("{:?}", left.mtime), format!("{:?}", right.mtime));
    if contract.owners {
        differs("owner", format!("{}:{}", left.uid, left.gid), format!("{}:{}", right.uid, right.gid));
    }
    let counts = |name: &&Vec<u8>| contract.xattrs.iter().any(|prefix| name.starts_with(prefix.as_bytes()));
    let mut names: Vec<_> = left.xattrs.keys().chain(right.xattrs.keys()).filter(counts).collect();
    names.sort();
    names.dedup();
    for name in names {
        let value =
            |found: &Found| found.xattrs.get(name).map_or("missing".into(), |value| format!("\"{}\"", show(value)));
        differs(&format!("xattr {}", show(name)), value(left), value(right));
    }
}

/// Reads a tree. Errors are about the root; what is wrong beneath it stands in [`Found::unreadable`].
pub fn walk(root: &Path) -> io::Result<Tree> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = Rc::new(rustix::fs::open(root, flags, Mode::empty())?);
    let mut tree = Tree::new();
    // A handle is closed when its last subdirectory was taken: a chain of any depth needs two at a time.
    let mut open: Vec<(Rc<OwnedFd>, CString, Vec<u8>)> = vec![(handle, CString::from(c"."), Vec::new())];
    while let Some((parent, name, path)) = open.pop() {
        let stat = statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mut found = look(&parent, &name, &stat);
        if found.kind == FileType::Directory {
            match list(&parent, &name) {
                Ok((directory, names)) => {
                    let directory = Rc::new(directory);
                    open.extend(names.into_iter().map(|name| {
                        let slash = if path.is_empty() { &b""[..] } else { b"/" };
                        let path = [&path, slash, name.as_bytes()].concat();
                        (Rc::clone(&directory), name, path)
                    }));
                }
                Err(error) => found.unreadable = Some(error.to_string()),
            }
        }
        tree.insert(path, found);
    }
    name_link_groups(&mut tree);
    Ok(tree)
}

/// Says for each object with several names in the tree which of them is the first; names outside do not count.
fn name_link_groups(tree: &mut Tree) {
    let mut groups: HashMap<(u64, u64), Vec<Vec<u8>>> = HashMap::new();
    for (path, found) in tree.iter().filter(|(_, found)| found.kind != FileType::Directory) {
        groups.entry(found.inode).or_default().push(path.clone());
    }
    for paths in groups.into_values().filter(|paths| paths.len() > 1) {
        for path in &paths {
            tree.get_mut(path).expect("it was found there").linked_to = Some(paths[0].clone());
        }
    }
}

fn look(parent: &OwnedFd, name: &CString, stat: &Stat) -> Found {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mut found = Found {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: if kind == FileType::Directory { 0 } else { stat.st_size as u64 },
        mtime: (stat.st_mtime, stat.st_mtime_nsec),
        device: if is_device(kind) { stat.st_rdev } else { 0 },
        allocated_bytes: stat.st_blocks as u64 * 512,
        target: Vec::new(),
        content: String::new(),
        xattrs: BTreeMap::new(),
        inode: (stat.st_dev, stat.st_ino),
        linked_to: None,
        unreadable: None,
    };
    let result = (|| {
        match kind {
            FileType::RegularFile => found.content = digest(parent, name)?,
            FileType::Symlink => found.target = readlinkat(parent, name, Vec::new())?.into_bytes(),
            _ => {}
        }
        found.xattrs = xattrs(&beside(parent, name))?;
        io::Result::Ok(())
    })();
    found.unreadable = result.err().map(|error| error.to_string());
    found
}

fn is_device(kind: FileType) -> bool {
    matches!(kind, FileType::BlockDevice | FileType::CharacterDevice)
}

fn list(parent: &OwnedFd, name: &CString) -> io::Result<(OwnedFd, Vec<CString>)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(parent, name, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let name = entry?.file_name().to_owned();
        if name.as_bytes() != b"." && name.as_bytes() != b".." {
            names.push(name);
        }
    }
    Ok((directory, names))
}

/// A path of an object that does not grow with its depth.
fn beside(parent: &OwnedFd, name: &CString) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(OsStr::from_bytes(name.as_bytes()))
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut buffer = vec![0; 64 << 10];
    let listed = match rustix::fs::llistxattr(path, &mut buffer[..]) {
        Ok(bytes) => bytes,
        // This file system has none.
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    let names: Vec<Vec<u8>> =
        buffer[..listed].split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
    let mut xattrs = BTreeMap::new();
    for name in names {
        let bytes = rustix::fs::lgetxattr(path, &name[..], &mut buffer[..])?;
        xattrs.insert(name, buffer[..bytes].to_vec());
    }
    Ok(xattrs)
}

/// Bytes up to which a file is read whole; what is longer is read without its holes, which are zeros by definition.
const READ_WHOLE_BYTES_MAX: u64 = 64 << 20;

/// Digest of a file's bytes: of each block that is not all zeros, with its number.
fn digest(parent: &OwnedFd, name: &CString) -> io::Result<String> {
    const BLOCK_BYTES: u64 = 64 << 10;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(parent, name, flags, Mode::empty())?);
    let size = file.metadata()?.len();
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK_BYTES as usize];
    let mut at = 0;
    while at < size {
        if size > READ_WHOLE_BYTES_MAX {
            match seek(&file, SeekFrom::Data(at)) {
                Ok(data) => at = data / BLOCK_BYTES * BLOCK_BYTES,
                Err(Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let bytes = BLOCK_BYTES.min(size - at) as usize;
        file.read_exact_at(&mut block[..bytes], at)?;
        if block[..bytes].iter().any(|&byte| byte != 0) {
            hasher.update(&at.to_le_bytes()).update(&block[..bytes]);
        }
        at += BLOCK_BYTES;
    }
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}

/// A path or value for people: what is not printable ASCII is escaped, and what is long is cut in the middle.
pub fn show(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 120;
    let mut text = String::new();
    for &byte in bytes {
        match byte {
            b'\\' => text.push_str("\\\\"),
            0x20..=0x7e => text.push(byte as char),
            _ => write!(text, "\\x{byte:02x}").expect("a String takes everything"),
        }
    }
    match text.len() {
        0..=SHOWN_MAX => text,
        len => format!("{}… {len} characters …{}", &text[..SHOWN_MAX / 2], &text[len - SHOWN_MAX / 2..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::time::{Duration, UNIX_EPOCH};

    use rustix::fs::XattrFlags;

    use crate::filesystems::FileSystem;

    /// The tree that each case starts from; all times are the same, so that only what a case does can differ.
    fn plant(root: &Path) {
        fs::create_dir_all(root.join("folder/empty")).expect("made");
        fs::write(root.join("file"), vec![7; 100_000]).expect("written");
        fs::write(root.join("folder/zeros"), [0; 10]).expect("written");
        fs::hard_link(root.join("file"), root.join("folder/linked")).expect("linked");
        fs::write(root.join("same"), vec![7; 100_000]).expect("written");
        symlink("file", root.join("symlink")).expect("made");
        rustix::fs::setxattr(root.join("file"), "user.a", b"1", XattrFlags::empty()).expect("set");
        rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), FileType::Fifo, Mode::RUSR, 0).expect("made");
    }

    fn stop_clock(root: &Path) {
        let stamp = rustix::fs::Timespec { tv_sec: 1_000_000, tv_nsec: 5 };
        let times = rustix::fs::Timestamps { last_access: stamp, last_modification: stamp };
        let tree = walk(root).expect("walked");
        for path in tree.keys().rev() {
            let path = root.join(OsStr::from_bytes(path));
            rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("set");
        }
    }

    /// Plants one change at the right and says what the walker tells.
    fn lines_after(change: impl FnOnce(&Path), contract: &Contract) -> Vec<String> {
        let (left, right) = (FileSystem::folder().expect("made"), FileSystem::folder().expect("made"));
        for root in [left.path(), right.path()] {
            fs::set_permissions(root, fs::Permissions::from_mode(0o755)).expect("set");
            plant(root);
        }
        change(right.path());
        stop_clock(left.path());
        stop_clock(right.path());
        compare(left.path(), right.path(), contract).expect("compared")
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    }

    #[test]
    fn equal_trees_do_not_differ() {
        assert_eq!(lines_after(|_| {}, &Contract::everything()), Vec::<String>::new());
    }

    #[test]
    fn each_planted_difference_is_found_and_named() {
        type Case = (&'static str, &'static str, fn(&Path));
        let cases: &[Case] = &[
            ("file", "content", |root| {
                fs::File::options()
                    .write(true)
                    .open(root.join("file"))
                    .and_then(|f| f.write_all_at(&[8], 99_999))
                    .expect("written");
            }),
            ("folder/zeros", "size", |root| fs::write(root.join("folder/zeros"), [0; 11]).expect("written")),
            ("folder/zeros", "content", |root| fs::write(root.join("folder/zeros"), [1; 10]).expect("written")),
            ("same", "missing", |root| fs::remove_file(root.join("same")).expect("removed")),
            ("folder/empty", "missing", |root| fs::remove_dir(root.join("folder/empty")).expect("removed")),
            ("more", "missing", |root| fs::write(root.join("more"), []).expect("written")),
            ("folder", "mode", |root| set_mode(&root.join("folder"), 0o700)),
            ("", "mode", |root| set_mode(root, 0o700)),
            ("file", "mode", |root| set_mode(&root.join("file"), 0o4644)),
            ("file", "xattr user.a", |root| {
                rustix::fs::setxattr(root.join("file"), "user.a", b"2", XattrFlags::empty()).expect("set");
            }),
            ("folder", "xattr user.b", |root| {
                rustix::fs::setxattr(root.join("folder"), "user.b", b"", XattrFlags::empty()).expect("set");
            }),
            ("symlink", "target", |root| {
                fs::remove_file(root.join("symlink"))
                    .and_then(|()| symlink("same", root.join("symlink")))
                    .expect("made");
            }),
            ("symlink", "kind", |root| {
                fs::remove_file(root.join("symlink"))
                    .and_then(|()| fs::write(root.join("symlink"), "file"))
                    .expect("made");
            }),
            ("folder/linked", "hard link", |root| {
                fs::remove_file(root.join("folder/linked")).expect("removed");
                fs::copy(root.join("file"), root.join("folder/linked")).expect("copied");
                rustix::fs::setxattr(root.join("folder/linked"), "user.a", b"1", XattrFlags::empty()).expect("set");
            }),
            ("fifo", "mode", |root| set_mode(&root.join("fifo"), 0o444)),
        ];
        for (path, what, change) in cases {
            let lines = lines_after(change, &Contract::everything());
            let wanted = |line: &String| {
                line.strip_prefix(path).is_some_and(|rest| rest.starts_with(": ") && rest.contains(what))
            };
            assert!(lines.iter().any(wanted), "{path}: {what} is not in {lines:?}");
        }
    }

    #[test]
    fn times_differ_by_a_nanosecond() {
        let (left, right) = (FileSystem::folder().expect("made"), FileSystem::folder().expect("made"));
        for (root, nanos) in [(left.path(), 5), (right.path(), 6)] {
            let file = fs::File::create(root.join("a")).expect("made");
            file.set_modified(UNIX_EPOCH + Duration::new(1_000_000, nanos)).expect("set");
            fs::File::open(root).and_then(|root| root.set_modified(UNIX_EPOCH)).expect("set");
        }
        let lines = compare(left.path(), right.path(), &Contract::plain()).expect("compared");
        assert_eq!(lines, ["a: mtime: (1000000, 5) | (1000000, 6)"]);
    }

    #[test]
    fn the_contract_says_what_counts() {
        let change = |root: &Path| {
            rustix::fs::setxattr(root.join("file"), "user.b", b"", XattrFlags::empty()).expect("set");
            std::os::unix::net::UnixListener::bind(root.join("socket")).expect("bound");
            fs::create_dir(root.join("lost+found")).expect("made");
            set_mode(root, 0o700);
        };
        let contract = Contract { root: false, xattrs: &["trusted."], ..Contract::plain() };
        assert_eq!(lines_after(change, &contract), Vec::<String>::new());
        // The file and its second name, the socket and the root's mode.
        assert_eq!(lines_after(change, &Contract { sockets: true, ..Contract::plain() }).len(), 4);
    }

    #[test]
    fn owners_count_where_they_are_carried() {
        let change = |root: &Path| std::os::unix::fs::chown(root.join("same"), Some(1234), Some(1234));
        if !rustix::process::geteuid().is_root() {
            return;
        }
        assert_eq!(lines_after(|root| change(root).expect("set"), &Contract::owner()).len(), 1);
        assert_eq!(lines_after(|root| change(root).expect("set"), &Contract::plain()).len(), 0);
    }

    #[test]
    fn what_cannot_be_read_is_a_difference_even_to_itself() {
        let folder = FileSystem::folder().expect("made");
        fs::write(folder.path().join("a"), "").expect("written");
        let mut tree = walk(folder.path()).expect("walked");
        tree.get_mut(&b"a"[..]).expect("it is there").unreadable = Some("permission denied".into());
        let lines = differences(&tree, &tree, &Contract::plain());
        assert_eq!(lines, ["a: unreadable:  | permission denied"; 2]);
    }

    #[test]
    fn holes_are_zeros_and_are_reported() {
        let folder = FileSystem::folder().expect("made");
        let file = fs::File::create(folder.path().join("sparse")).expect("made");
        file.set_len(READ_WHOLE_BYTES_MAX * 4).expect("extended");
        file.write_all_at(b"x", READ_WHOLE_BYTES_MAX * 2 + 1).expect("written");
        file.sync_all().expect("flushed");
        let tree = walk(folder.path()).expect("walked");
        assert!(tree[&b"sparse"[..]].allocated_bytes < 1 << 20, "{:?}", file.metadata().map(|m| m.blocks()));
        let before = tree[&b"sparse"[..]].content.clone();
        file.write_all_at(&[0; 100_000], 0).expect("written");
        assert_eq!(walk(folder.path()).expect("walked")[&b"sparse"[..]].content, before);
        file.write_all_at(b"y", READ_WHOLE_BYTES_MAX * 2 + 1).expect("written");
        assert_ne!(walk(folder.path()).expect("walked")[&b"sparse"[..]].content, before);
    }
}
