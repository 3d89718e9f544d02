//! A tree with everything in it that a Linux file system can hold.
//!
//! Each item fills a folder of its own name, so that a difference names the item. What cannot be made here is said.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::fs::{lsetxattr, makedev, mkdirat, mknodat, openat, statat, utimensat};

use crate::random::Random;

/// One kind of thing.
struct Item {
    name: &'static str,
    /// Whether only root can make it.
    needs_root: bool,
    make: fn(&Path) -> io::Result<()>,
}

const fn item(name: &'static str, make: fn(&Path) -> io::Result<()>) -> Item {
    Item { name, needs_root: false, make }
}

const fn root_item(name: &'static str, make: fn(&Path) -> io::Result<()>) -> Item {
    Item { name, needs_root: true, make }
}

const ITEMS: &[Item] = &[
    item("files-of-edge-sizes", files_of_edge_sizes),
    item("sparse-file", sparse_file),
    item("directories", directories),
    item("deep-directories", deep_directories),
    item("symlinks", symlinks),
    item("longest-symlink", longest_symlink),
    item("hard-links", hard_links),
    item("fifo", fifo),
    item("socket", socket),
    root_item("device-nodes", device_nodes),
    item("names", names),
    item("modes", modes),
    item("unreadable-modes", unreadable_modes),
    root_item("owners", owners),
    item("times", times),
    item("times-far-away", times_far_away),
    item("user-xattrs", user_xattrs),
    root_item("trusted-xattrs", trusted_xattrs),
    root_item("capabilities", capabilities),
    root_item("acls", acls),
];

/// What came of it.
#[derive(Debug, Default)]
pub struct Variety {
    /// Items that are there.
    pub made: Vec<&'static str>,
    /// Items that are not, and why.
    pub left_out: Vec<(&'static str, String)>,
}

impl Variety {
    /// Makes every item that this user can make on this file system, beneath `root`, which exists.
    pub fn make(root: &Path) -> io::Result<Self> {
        let names: Vec<_> = ITEMS.iter().map(|item| item.name).collect();
        Self::make_only(root, &names)
    }

    /// The same for these items.
    pub fn make_only(root: &Path, names: &[&str]) -> io::Result<Self> {
        let is_root = rustix::process::geteuid().is_root();
        let mut variety = Self::default();
        for item in ITEMS.iter().filter(|item| names.contains(&item.name)) {
            if item.needs_root && !is_root {
                variety.left_out.push((item.name, "only root can make it".into()));
                continue;
            }
            let folder = root.join(item.name);
            fs::create_dir(&folder)?;
            match (item.make)(&folder) {
                Ok(()) => variety.made.push(item.name),
                Err(error) => {
                    fs::remove_dir_all(&folder)?;
                    variety.left_out.push((item.name, error.to_string()));
                }
            }
        }
        Ok(variety)
    }

    /// Itself, if nothing but these items is missing.
    ///
    /// # Panics
    /// With the reasons, if more is.
    pub fn expect_all_but(self, names: &[&str]) -> Self {
        let missing: Vec<_> = self.left_out.iter().filter(|(name, _)| !names.contains(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        self
    }
}

fn files_of_edge_sizes(at: &Path) -> io::Result<()> {
    const KIB: usize = 1 << 10;
    let mut random = Random::new(1);
    let around = |size: usize| [size - 1, size, size + 1];
    let edges = [around(16 * KIB), around(64 * KIB), around(1024 * KIB)].concat();
    for size in [vec![0, 1], edges, vec![3 * 1024 * KIB + 7]].concat() {
        fs::write(at.join(format!("random-{size}")), random.bytes(size))?;
    }
    fs::write(at.join("zeros"), vec![0; 2 * 1024 * KIB + 1])?;
    fs::write(at.join("text"), "the same line again\n".repeat(50_000))
}

fn sparse_file(at: &Path) -> io::Result<()> {
    const GIB: u64 = 1 << 30;
    let file = File::create(at.join("5-gib"))?;
    file.set_len(5 * GIB)?;
    for (offset, byte) in [(0, 1), (5 * GIB / 2 + 13, 2), (5 * GIB - 5_000, 3)] {
        file.write_all_at(&[byte; 5_000], offset)?;
    }
    File::create(at.join("hole-alone"))?.set_len(10 << 20)
}

fn directories(at: &Path) -> io::Result<()> {
    fs::create_dir_all(at.join("a/b/c"))?;
    fs::create_dir(at.join("empty"))?;
    // Names that sort differently by bytes and by path.
    for name in ["a.b", "a b", "a-"] {
        fs::create_dir(at.join(name))?;
        fs::write(at.join(name).join("file"), name)?;
    }
    fs::create_dir(at.join("many"))?;
    (0..1_000).try_for_each(|number| fs::write(at.join(format!("many/{number}")), number.to_string()))
}

/// As deep as is promised: 4,096 names, the folder of the item and a file at the end included.
fn deep_directories(at: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folder = openat(CWD, at, flags, Mode::empty())?;
    for _ in 0..4_094 {
        mkdirat(&folder, "d", Mode::RWXU)?;
        folder = openat(&folder, "d", flags, Mode::empty())?;
    }
    let file = openat(&folder, "f", OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC, Mode::RUSR)?;
    File::from(file).write_all_at(b"deep", 0)
}

fn symlinks(at: &Path) -> io::Result<()> {
    fs::create_dir(at.join("directory"))?;
    fs::write(at.join("directory/file"), "file")?;
    let targets = [("to-file", "directory/file"), ("to-directory", "directory"), ("to-itself", "to-itself")];
    let outside = [("absolute", "/etc/passwd"), ("dangling", "nowhere/at/all"), ("upwards", "../../../../etc")];
    [targets, outside].concat().into_iter().try_for_each(|(name, target)| symlink(target, at.join(name)))?;
    symlink(OsStr::from_bytes(b"\xff\n\x1b[31m"), at.join("strange"))
}

/// The kernel's limit; some file systems have a lower one.
fn longest_symlink(at: &Path) -> io::Result<()> {
    symlink("x".repeat(4_095), at.join("longest"))
}

fn hard_links(at: &Path) -> io::Result<()> {
    fs::create_dir_all(at.join("other/directory"))?;
    fs::write(at.join("m-first"), vec![5; 100_000])?;
    for name in ["a-earlier", "z-later", "other/directory/further"] {
        fs::hard_link(at.join("m-first"), at.join(name))?;
    }
    fs::write(at.join("empty"), "")?;
    fs::hard_link(at.join("empty"), at.join("other/empty"))?;
    symlink("m-first", at.join("symlink"))?;
    fs::hard_link(at.join("symlink"), at.join("other/symlink"))?;
    mknodat(CWD, at.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0)?;
    fs::hard_link(at.join("fifo"), at.join("other/fifo"))
}

fn fifo(at: &Path) -> io::Result<()> {
    Ok(mknodat(CWD, at.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0)?)
}

fn socket(at: &Path) -> io::Result<()> {
    // By a short path: a socket's address has room for 108 bytes.
    let folder = openat(CWD, at, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = format!("/proc/self/fd/{}/socket", std::os::fd::AsRawFd::as_raw_fd(&folder));
    UnixListener::bind(short).map(drop)
}

fn device_nodes(at: &Path) -> io::Result<()> {
    let mode = Mode::from_raw_mode(0o660);
    mknodat(CWD, at.join("null"), FileType::CharacterDevice, mode, makedev(1, 3))?;
    mknodat(CWD, at.join("large-number"), FileType::BlockDevice, mode, makedev(259, 200_000))?;
    Ok(mknodat(CWD, at.join("whiteout"), FileType::CharacterDevice, mode, makedev(0, 0))?)
}

fn names(at: &Path) -> io::Result<()> {
    let longest = [b'x'; 255];
    let names: &[&[u8]] = &[
        b"\xff\xfe not utf-8",
        b"new\nline",
        b"\x1b[31mred\x1b[0m",
        b"-rf",
        b"--help",
        b" ",
        b"trailing space ",
        b"*?[a]",
        b"back\\slash",
        b"quote'\"`$(x)",
        b"...",
        b".hidden",
        b".tranship",
        b".tranship-0000",
        b".tranship.tmp",
        b"\x01",
        b"\x7f",
        b"A",
        b"a",
        "e\u{301} and \u{e9}".as_bytes(),
        "\u{202e}sdrawkcab".as_bytes(),
        &longest,
    ];
    for name in names {
        fs::write(at.join(OsStr::from_bytes(name)), name)?;
    }
    fs::create_dir(at.join(OsStr::from_bytes(b"\xff directory\n")))?;
    fs::write(at.join(OsStr::from_bytes(b"\xff directory\n/\xfe")), "beneath")
}

/// Modes with which the owner can still read.
fn modes(at: &Path) -> io::Result<()> {
    for mode in [0o400, 0o444, 0o600, 0o644, 0o755, 0o777, 0o1777, 0o2755, 0o4755, 0o6755, 0o7777] {
        let (file, folder) = (at.join(format!("file-{mode:04o}")), at.join(format!("folder-{:04o}", mode | 0o500)));
        fs::write(&file, "file")?;
        fs::set_permissions(&file, Permissions::from_mode(mode))?;
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("file"), "file")?;
        fs::set_permissions(&folder, Permissions::from_mode(mode | 0o500))?;
    }
    Ok(())
}

/// Modes with which only root can read.
fn unreadable_modes(at: &Path) -> io::Result<()> {
    for mode in [0o000, 0o200, 0o111, 0o044, 0o7000] {
        let (file, folder) = (at.join(format!("file-{mode:04o}")), at.join(format!("folder-{mode:04o}")));
        fs::write(&file, "file")?;
        fs::set_permissions(&file, Permissions::from_mode(mode))?;
        fs::create_dir(&folder)?;
        fs::write(folder.join("file"), "file")?;
        fs::set_permissions(&folder, Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn owners(at: &Path) -> io::Result<()> {
    for (name, uid, gid) in [("foreign", 12_345, 54_321), ("group", 0, 1_000), ("largest", u32::MAX - 1, u32::MAX - 1)]
    {
        fs::write(at.join(name), name)?;
        chown(at.join(name), Some(uid), Some(gid))?;
        // A change of owner takes these away.
        fs::set_permissions(at.join(name), Permissions::from_mode(0o6755))?;
    }
    fs::create_dir(at.join("directory"))?;
    chown(at.join("directory"), Some(1_000), Some(1_001))?;
    symlink("foreign", at.join("symlink"))?;
    lchown(at.join("symlink"), Some(1_002), Some(1_003))
}

fn times(at: &Path) -> io::Result<()> {
    for (name, seconds, nanos) in
        [("nanosecond", 1_700_000_000, 1), ("last", 1_700_000_000, 999_999_999), ("epoch", 0, 0)]
    {
        each_with_time(at, name, seconds, nanos)?;
    }
    Ok(())
}

/// Before 1970 and beyond 2038: some file systems cannot.
fn times_far_away(at: &Path) -> io::Result<()> {
    for (name, seconds) in [("1901", -2_147_483_647), ("1969", -1), ("2039", 2_177_452_800), ("2400", 13_569_465_600)] {
        each_with_time(at, name, seconds, 123_456_789)?;
    }
    Ok(())
}

/// A file, a folder and a symbolic link with this time, which must be kept to the nanosecond.
fn each_with_time(at: &Path, name: &str, seconds: i64, nanos: i64) -> io::Result<()> {
    let (file, folder) = (at.join(format!("file-{name}")), at.join(format!("folder-{name}")));
    let link = at.join(format!("symlink-{name}"));
    fs::write(&file, name)?;
    fs::create_dir(&folder)?;
    fs::write(folder.join("file"), name)?;
    symlink(name, &link)?;
    let stamp = Timespec { tv_sec: seconds, tv_nsec: nanos };
    for path in [file, folder, link] {
        let times = Timestamps { last_access: stamp, last_modification: stamp };
        utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        let stat = statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW)?;
        if (stat.st_mtime, stat.st_mtime_nsec as i64) != (seconds, nanos) {
            return Err(io::Error::other(format!("the file system does not keep the time {name}")));
        }
    }
    Ok(())
}

fn user_xattrs(at: &Path) -> io::Result<()> {
    fs::create_dir(at.join("folder"))?;
    for name in ["file", "folder/read-only"] {
        fs::write(at.join(name), name)?;
    }
    for name in ["file", "folder", "folder/read-only"] {
        set_xattr(&at.join(name), "user.text", b"text")?;
        set_xattr(&at.join(name), "user.empty", b"")?;
        set_xattr(&at.join(name), "user.binary", &[0, 0xff, b'\n', 0])?;
    }
    set_xattr(&at.join("file"), &format!("user.{}", "n".repeat(250)), &[b'v'; 1_000])?;
    fs::set_permissions(at.join("folder/read-only"), Permissions::from_mode(0o444))
}

fn trusted_xattrs(at: &Path) -> io::Result<()> {
    fs::write(at.join("file"), "file")?;
    set_xattr(&at.join("file"), "trusted.tranship", b"value")?;
    symlink("file", at.join("symlink"))?;
    set_xattr(&at.join("symlink"), "trusted.tranship", b"on a link")?;
    set_xattr(at, "trusted.tranship", b"on a folder")
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(lsetxattr(path, name, value, XattrFlags::empty())?)
}

fn capabilities(at: &Path) -> io::Result<()> {
    for name in ["file", "foreign"] {
        fs::write(at.join(name), name)?;
    }
    // A change of owner takes a capability away, so the owner comes first.
    chown(at.join("foreign"), Some(1_000), Some(1_000))?;
    run(Command::new("setcap").arg("cap_net_raw+ep").arg(at.join("file")))?;
    run(Command::new("setcap").arg("cap_net_bind_service=ep").arg(at.join("foreign")))
}

fn acls(at: &Path) -> io::Result<()> {
    fs::create_dir(at.join("folder"))?;
    fs::write(at.join("file"), "file")?;
    run(Command::new("setfacl").args(["-m", "u:1000:rw,g:1001:r,m::rw"]).arg(at.join("file")))?;
    run(Command::new("setfacl").args(["-m", "u:1000:rwx"]).arg(at.join("folder")))?;
    run(Command::new("setfacl").args(["-d", "-m", "u:1002:rx,g::r"]).arg(at.join("folder")))?;
    // This one inherits.
    fs::create_dir(at.join("folder/within"))?;
    fs::write(at.join("folder/within/file"), "file")
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystems::{FileSystem, Kind};
    use crate::walker::{Contract, compare, walk};

    #[test]
    fn root_makes_everything_on_ext4_and_what_a_file_system_can_elsewhere() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        for (kind, missing) in
            [(Kind::Ext4, &[][..]), (Kind::Xfs, &["longest-symlink"]), (Kind::Btrfs, &[]), (Kind::Tmpfs, &[])]
        {
            let system = FileSystem::mounted(kind, 400 << 20).expect("mounted");
            let variety = Variety::make(system.path()).expect("made");
            let left_out: Vec<_> = variety.left_out.iter().map(|(name, _)| *name).collect();
            assert_eq!(left_out, missing, "{kind:?}: {:?}", variety.left_out);
        }
    }

    #[test]
    fn anybody_makes_most_of_it_and_the_walker_reads_it() {
        let folder = FileSystem::folder().expect("made");
        let variety = Variety::make(folder.path()).expect("made");
        let missing: Vec<_> = ITEMS.iter().filter(|item| item.needs_root).map(|item| item.name).collect();
        let variety = variety.expect_all_but(&[&missing[..], &["times-far-away", "longest-symlink"]].concat());
        let tree = walk(folder.path()).expect("walked");
        for item in &variety.made {
            assert!(tree.keys().any(|path| path.starts_with(item.as_bytes()) && path.len() > item.len()), "{item}");
        }
        assert!(tree.keys().any(|path| path.split(|&byte| byte == b'/').count() == 4_096));
    }

    #[test]
    fn a_faithful_copy_does_not_differ() {
        let (left, right) = (FileSystem::folder().expect("made"), FileSystem::folder().expect("made"));
        // What `cp` cannot: paths beyond the kernel's limit.
        let names: Vec<_> = ITEMS.iter().map(|item| item.name).filter(|name| *name != "deep-directories").collect();
        let variety = Variety::make_only(left.path(), &names).expect("made");
        if rustix::process::geteuid().is_root() {
            run(Command::new("cp").args(["-a", "--sparse=always"]).arg(left.path().join(".")).arg(right.path()))
                .expect("copied");
            let lines = compare(left.path(), right.path(), &Contract::everything()).expect("compared");
            assert_eq!(lines, Vec::<String>::new(), "{variety:?}");
        }
    }
}
