//! Whatever somebody does inside a volume, nothing outside of it is touched or read.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};
use tranship_agent::volume::tree::Tree;
use tranship_agent::volume::{Access, Volume, VolumeError};
use tranship_proto::entry::{Kind, Meta};
use tranship_proto::message::Fidelity;

use crate::support::{meta, place, walk};

/// Races that are run at least, and no longer than that.
const RACES: u64 = 20_000;
const RACES_AT_MOST: Duration = Duration::from_secs(5);

/// Ends a race, also one that found something.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A volume, and beside it what must stay as it is.
struct Field {
    folder: tempfile::TempDir,
}

impl Field {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("volume/a")).unwrap();
        std::fs::create_dir_all(folder.path().join("outside")).unwrap();
        std::fs::write(folder.path().join("outside/f"), "canary").unwrap();
        std::fs::create_dir(folder.path().join("outside/sub")).unwrap();
        std::fs::write(folder.path().join("outside/sub/f"), "canary").unwrap();
        Self { folder }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Everything that can be seen of the canaries but access times.
    fn canary(&self) -> Vec<String> {
        let look = |path: &Path| {
            let m = std::fs::symlink_metadata(path).unwrap();
            format!("{path:?} {} {:o} {} {} {} {}", m.ino(), m.mode(), m.uid(), m.nlink(), m.ctime(), m.ctime_nsec())
        };
        let names = std::fs::read_dir(self.at("outside")).unwrap().map(|entry| entry.unwrap().path());
        let mut seen: Vec<_> = names.map(|path| look(&path)).collect();
        seen.push(look(&self.at("outside")));
        seen.push(look(&self.at("outside/sub/f")));
        seen.sort();
        seen
    }

    /// Swaps `volume/a` between a directory and a link to the outside as fast as it can while `act` is raced.
    fn race(&self, act: impl Fn(&Tree, u64)) {
        let before = self.canary();
        let (dir, link) = (self.at("volume/a"), self.at("volume/link"));
        symlink(self.at("outside"), &link).unwrap();
        let is_over = AtomicBool::new(false);
        let swaps = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let _end = End(&is_over);
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    renameat_with(CWD, &dir, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            });
            let tree = Tree::open(&self.at("volume")).unwrap();
            let since = Instant::now();
            let races =
                (0..RACES).take_while(|_| since.elapsed() < RACES_AT_MOST).inspect(|&race| act(&tree, race)).count();
            eprintln!("{races} races against {} swaps", swaps.load(Ordering::Relaxed));
        });
        assert_eq!(self.canary(), before);
        assert_eq!(std::fs::read(self.at("outside/f")).unwrap(), b"canary");
    }
}

#[test]
fn writes_that_race_a_link_stay_inside() {
    let field = Field::new();
    let attempts = AtomicU64::new(0);
    field.race(|tree, race| {
        let owned = Meta { uid: 7, gid: 7, ..meta() };
        let exact = Fidelity::Exact;
        let done = match race % 10 {
            0 => tree.put(&place("a/f"), b"x", &owned, exact).is_ok(),
            1 => tree.open(&place("a/f"), Access::Create).and_then(|content| content.write_at(b"x", 0)).is_ok(),
            2 => tree.open(&place("a/f"), Access::Write).and_then(|content| content.set_size(0)).is_ok(),
            3 => tree.set_meta(&place("a/f"), Kind::File, &owned, exact).is_ok(),
            4 => tree.set_meta(&place("a"), Kind::Directory, &owned, exact).is_ok(),
            5 => tree.make_directory(&place("a/new")).is_ok(),
            6 => tree.make_symlink(&place("a/s"), b"x", &owned, exact).is_ok(),
            7 => tree.make_special(&place("a/p"), Kind::Fifo, 0, &owned, exact).is_ok(),
            8 => tree.rename(&place("a/f"), &place("a/g")).is_ok(),
            _ => tree.make_link(&place("a/l"), &place("a/f")).is_ok(),
        };
        attempts.fetch_add(u64::from(done), Ordering::Relaxed);
    });
    assert!(attempts.into_inner() > 0, "some must have met the directory");
}

#[test]
fn removals_that_race_a_link_stay_inside() {
    let field = Field::new();
    // Filled by its handle, wherever its name is by now.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let dir = rustix::fs::open(field.at("volume/a"), flags, Mode::empty()).unwrap();
    let removed = AtomicU64::new(0);
    field.race(|tree, _| {
        let _ = rustix::fs::mkdirat(&dir, c"sub", Mode::RWXU);
        let sub = rustix::fs::openat(&dir, c"sub", flags, Mode::empty()).unwrap();
        rustix::fs::openat(&sub, c"f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
        removed.fetch_add(u64::from(tree.remove(&place("a/sub")).is_ok()), Ordering::Relaxed);
    });
    assert!(removed.into_inner() > 0, "some must have met the directory");
}

#[test]
fn reads_that_race_a_link_see_nothing_of_the_outside() {
    let field = Field::new();
    std::fs::write(field.at("volume/a/f"), "inside").unwrap();
    let inside = std::fs::metadata(field.at("volume/a/f")).unwrap().ino();
    let reads = AtomicU64::new(0);
    field.race(|tree, race| {
        let mut buffer = [0; 6];
        match tree.open(&place("a/f"), if race % 2 == 0 { Access::Read } else { Access::ReadDevice }) {
            Ok(content) => {
                content.read_at(&mut buffer, 0).unwrap();
                assert_eq!(&buffer, b"inside");
                reads.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                assert!(matches!(error, VolumeError::Vanished { .. } | VolumeError::Replaced { .. }), "{error:?}")
            }
        }
        if let Ok(look) = tree.look(&place("a/f"), Fidelity::Exact) {
            assert_eq!(look.stat.inode, inside);
        }
        if race % 100 == 0 {
            let (walked, _) = walk(tree);
            assert!(walked.iter().all(|walked| walked.stat.kind != Kind::File || walked.stat.inode == inside));
        }
    });
    assert!(reads.into_inner() > 0, "some must have met the directory");
}

#[test]
fn a_fifo_without_a_writer_does_not_stall() {
    let field = Field::new();
    let tree = Tree::open(&field.at("volume")).unwrap();
    tree.make_special(&place("fifo"), Kind::Fifo, 0, &meta(), Fidelity::Plain).unwrap();
    for access in [Access::Read, Access::ReadDevice, Access::Write] {
        assert!(matches!(tree.open(&place("fifo"), access), Err(VolumeError::Replaced { .. })));
    }
    tree.look(&place("fifo"), Fidelity::Exact).unwrap();
    tree.set_meta(&place("fifo"), Kind::Fifo, &meta(), Fidelity::Exact).unwrap();
    assert!(matches!(
        tree.set_meta(&place("fifo"), Kind::File, &meta(), Fidelity::Exact),
        Err(VolumeError::Replaced { .. })
    ));
    walk(&tree);
}

#[test]
fn a_file_that_turns_into_a_fifo_is_never_opened_as_one() {
    let field = Field::new();
    let (file, fifo, at) = (field.at("volume/file"), field.at("volume/fifo"), field.at("volume/x"));
    std::fs::write(&file, "file").unwrap();
    rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = End(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                for from in [&file, &fifo] {
                    std::fs::rename(from, &at).unwrap();
                    // A writer that does not wait finds a reader only if one of our openings was of the FIFO.
                    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
                    let opened = rustix::fs::open(&at, flags, rustix::fs::Mode::empty());
                    assert_eq!(opened.is_err(), std::ptr::eq(from, &fifo), "somebody reads the FIFO");
                    std::fs::rename(&at, from).unwrap();
                }
            }
        });
        let tree = Tree::open(&field.at("volume")).unwrap();
        let opened = (0..RACES).filter(|_| tree.open(&place("x"), Access::Read).is_ok()).count();
        assert!(opened > 0);
    });
}
