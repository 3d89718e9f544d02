//! A life for a tree: changes of every kind, in an order that a seed decides.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, lsetxattr};

use crate::random::Random;
use crate::walker::show;

/// What can happen to a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A new file with bytes.
    CreateFile,
    /// A new empty folder.
    CreateFolder,
    /// A new symbolic link.
    CreateSymlink,
    /// More bytes at the end.
    Append,
    /// Other bytes at the same place.
    Rewrite,
    /// Bytes in the middle that move what follows.
    Insert,
    /// Fewer bytes.
    Truncate,
    /// A few bytes far beyond the end.
    WriteSparse,
    /// No more file.
    DeleteFile,
    /// No more folder, with all that is in it.
    DeleteFolder,
    /// Another name or folder for a file.
    RenameFile,
    /// Another name or folder for a folder.
    RenameFolder,
    /// A file becomes a folder, or the other way round.
    ChangeType,
    /// Other permissions.
    ChangeMode,
    /// Another owner; only root can.
    ChangeOwner,
    /// Another extended attribute.
    SetXattr,
    /// One more name of the same file.
    AddLink,
    /// One name less.
    RemoveLink,
}

/// All kinds.
pub const KINDS: &[Kind] = &[
    Kind::CreateFile,
    Kind::CreateFolder,
    Kind::CreateSymlink,
    Kind::Append,
    Kind::Rewrite,
    Kind::Insert,
    Kind::Truncate,
    Kind::WriteSparse,
    Kind::DeleteFile,
    Kind::DeleteFolder,
    Kind::RenameFile,
    Kind::RenameFolder,
    Kind::ChangeType,
    Kind::ChangeMode,
    Kind::ChangeOwner,
    Kind::SetXattr,
    Kind::AddLink,
    Kind::RemoveLink,
];

/// One change that was made.
#[derive(Debug, Clone)]
pub struct Change {
    /// What.
    pub kind: Kind,
    /// Where, relative to the root.
    pub path: PathBuf,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, show(self.path.as_os_str().as_encoded_bytes()))
    }
}

/// The changes to one tree. The same seed and the same tree give the same changes.
#[derive(Debug)]
pub struct Changes {
    root: PathBuf,
    random: Random,
    made: u64,
}

impl Changes {
    /// Changes to the tree at `root`; says the seed, so that a failure can be repeated with `TRANSHIP_SEED`.
    #[expect(clippy::print_stderr, reason = "shown only when a test fails")]
    pub fn new(root: &Path, seed: u64) -> Self {
        let seed = Random::seed_or(seed);
        eprintln!("changes with TRANSHIP_SEED={seed}");
        Self { root: root.to_owned(), random: Random::new(seed), made: 0 }
    }

    /// Makes this many changes.
    pub fn make(&mut self, count: usize) -> io::Result<Vec<Change>> {
        let mut changes = Vec::with_capacity(count);
        while changes.len() < count {
            let kind = *self.random.choose(KINDS).expect("there are kinds");
            changes.extend(self.make_one(kind)?);
        }
        Ok(changes)
    }

    /// Makes a change of this kind, unless there is nothing in the tree for it.
    pub fn make_one(&mut self, kind: Kind) -> io::Result<Option<Change>> {
        let (files, mut folders) = listed(&self.root)?;
        let folder = self.random.choose(&folders).cloned().unwrap_or_default();
        folders.retain(|folder| folder != Path::new(""));
        let subject = match kind {
            Kind::CreateFile | Kind::CreateFolder | Kind::CreateSymlink => Some(folder.join(self.name())),
            Kind::DeleteFolder | Kind::RenameFolder => self.random.choose(&folders).cloned(),
            Kind::ChangeType if self.random.below(2) == 0 => self.random.choose(&folders).cloned(),
            Kind::RemoveLink => {
                let has_links =
                    |path: &&PathBuf| self.root.join(path).symlink_metadata().is_ok_and(|stat| stat.nlink() > 1);
                let linked: Vec<_> = files.iter().filter(has_links).cloned().collect();
                self.random.choose(&linked).cloned()
            }
            _ => self.random.choose(&files).cloned(),
        };
        if kind == Kind::ChangeOwner && !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let Some(path) = subject else { return Ok(None) };
        let target = folder.join(self.name());
        let was_made = self.apply(kind, &self.root.join(&path), &self.root.join(target))?;
        self.made += u64::from(was_made);
        Ok(was_made.then_some(Change { kind, path }))
    }

    /// Does it; `target` is a name that is free.
    fn apply(&mut self, kind: Kind, path: &Path, target: &Path) -> io::Result<bool> {
        let random = &mut self.random;
        match kind {
            Kind::CreateFile => {
                let size = 1 << random.below(22);
                fs::write(path, random.bytes(random.clone().below(size) as usize))?;
            }
            Kind::CreateFolder => fs::create_dir(path)?,
            Kind::CreateSymlink => {
                symlink(OsString::from_vec(random.bytes(9).into_iter().map(|b| b | 1).collect()), path)?
            }
            Kind::Append | Kind::Rewrite | Kind::Insert | Kind::Truncate | Kind::WriteSparse => {
                rewrite(kind, path, random)?
            }
            Kind::DeleteFile | Kind::RemoveLink => fs::remove_file(path)?,
            Kind::DeleteFolder => fs::remove_dir_all(path)?,
            // A folder cannot move into itself.
            Kind::RenameFolder if target.starts_with(path) => return Ok(false),
            Kind::RenameFile | Kind::RenameFolder => fs::rename(path, target)?,
            Kind::ChangeType if path.is_dir() => {
                fs::remove_dir_all(path)?;
                fs::write(path, "a folder before")?;
            }
            Kind::ChangeType => {
                fs::remove_file(path)?;
                fs::create_dir(path)?;
                fs::write(path.join("within"), "a file before")?;
            }
            // The owner keeps the right to go on.
            Kind::ChangeMode => {
                fs::set_permissions(path, Permissions::from_mode(random.below(0o10000) as u32 | 0o600))?
            }
            Kind::ChangeOwner => chown(path, Some(random.below(70_000) as u32), Some(random.below(70_000) as u32))?,
            Kind::SetXattr => {
                let (name, size) = (format!("user.{}", random.below(3)), random.below(200) as usize);
                lsetxattr(path, name, &random.bytes(size), XattrFlags::empty())?;
            }
            Kind::AddLink => fs::hard_link(path, target)?,
        }
        Ok(true)
    }

    /// A name that was not used before, sometimes a strange one.
    fn name(&mut self) -> OsString {
        let number = self.random.next_u64() >> 16;
        let strange: &[&[u8]] = &[b"", b"", b"", b"\xff", b"\n", b" ", b"-", b".", b"\x1b[1m"];
        let strange = self.random.choose(strange).expect("there are some");
        OsString::from_vec([strange, number.to_string().as_bytes()].concat())
    }
}

fn rewrite(kind: Kind, path: &Path, random: &mut Random) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let size = file.metadata()?.len();
    let at = random.below(size + 1);
    let count = random.below(20_000) as usize + 1;
    match kind {
        Kind::Append => file.write_all_at(&random.bytes(count), size),
        Kind::Rewrite => file.write_all_at(&random.bytes(count.min((size - at) as usize)), at),
        Kind::Insert if size < 16 << 20 => {
            let mut rest = vec![0; (size - at) as usize];
            file.read_exact_at(&mut rest, at)?;
            file.write_all_at(&[random.bytes(count), rest].concat(), at)
        }
        Kind::Insert => file.write_all_at(&random.bytes(count), at),
        Kind::Truncate => file.set_len(at),
        _ => file.write_all_at(&random.bytes(10), size + random.below(8 << 20)),
    }
}

/// Deeper than this nothing is changed: the calls used here take paths of 4,096 bytes.
const PATH_BYTES_MAX: usize = 1_024;

/// Regular files, and folders with the root among them, relative to the root and in order.
fn listed(root: &Path) -> io::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut files, mut folders, mut open) = (Vec::new(), Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let path = folder.join(entry.file_name());
            if path.as_os_str().len() > PATH_BYTES_MAX {
                continue;
            }
            if kind.is_dir() && entry.file_name() != "lost+found" {
                open.push(path);
            } else if kind.is_file() {
                files.push(path);
            }
        }
        folders.push(folder);
    }
    files.sort();
    folders.sort();
    Ok((files, folders))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystems::FileSystem;
    use crate::walker::{Contract, differences, walk};

    #[test]
    fn a_seed_gives_the_same_tree() {
        let trees = [7, 7, 8].map(|seed| {
            let folder = FileSystem::folder().expect("made");
            let mut changes = Changes { root: folder.path().to_owned(), random: Random::new(seed), made: 0 };
            changes.make(300).expect("made");
            walk(folder.path()).expect("walked")
        });
        let without_times = |mut tree: crate::walker::Tree| {
            tree.values_mut().for_each(|found| found.mtime = (0, 0));
            tree
        };
        let [one, same, other] = trees.map(without_times);
        assert_eq!(differences(&one, &same, &Contract::everything()), Vec::<String>::new());
        assert!(!differences(&one, &other, &Contract::everything()).is_empty());
    }

    #[test]
    fn each_kind_leaves_a_difference() {
        let folder = FileSystem::folder().expect("made");
        let mut changes = Changes { root: folder.path().to_owned(), random: Random::new(3), made: 0 };
        let is_root = rustix::process::geteuid().is_root();
        for kind in KINDS.iter().filter(|kind| **kind != Kind::ChangeOwner || is_root) {
            for kind in [Kind::CreateFile, Kind::CreateFile, Kind::CreateFolder, Kind::CreateFolder, Kind::AddLink] {
                changes.make_one(kind).expect("made");
            }
            let before = walk(folder.path()).expect("walked");
            // Now and then a change meets a file without bytes, or a mode that was there before.
            let is_different = (0..20).any(|_| {
                changes.make_one(*kind).expect("made").is_some()
                    && !differences(&before, &walk(folder.path()).expect("walked"), &Contract::everything()).is_empty()
            });
            assert!(is_different, "{kind:?}");
        }
    }
}
