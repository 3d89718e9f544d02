//! The walk through a tree, in the order of places.
//!
//! One thread visits; the others read directories ahead of it, the next one in order first. Nothing in the walk grows
//! with the tree, or with its depth:
//!
//! - names of the directories that are being read: one for each thread, of any size (`listing` says how large);
//! - listings of the directories that the walk is inside of: [`Limits::retained_bytes`]; beyond that the outermost are
//!   given up, and read again from where they were when the walk comes back;
//! - listings that were read ahead: [`Limits::ahead_bytes`], and at most [`Limits::wanted`] more to do;
//! - open directories: one for each thread, since every directory is resolved anew from the root.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use tranship_proto::entry::{Kind, Name, Place};

use super::beneath::Root;
use super::listing::Listing;
use super::seen::Seen;
use super::{LeftOut, VolumeError, Walked};

/// Which places to leave out.
pub(super) type Skip<'a> = dyn Fn(&Place, Kind) -> bool + Sync + 'a;
/// What to do with each.
pub(super) type Visit<'a> = dyn FnMut(Walked) -> Result<(), VolumeError> + 'a;

/// What bounds a walk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Threads, the one that visits included.
    pub(super) threads: usize,
    /// Bytes of listings of directories that the walk is inside of.
    pub(super) retained_bytes: usize,
    /// Bytes of listings that were read ahead.
    pub(super) ahead_bytes: usize,
    /// Directories that wait to be read ahead.
    pub(super) wanted: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let threads = crate::parallel::processors().min(4);
        Self { threads, retained_bytes: 32 << 20, ahead_bytes: 8 << 20, wanted: 32 }
    }
}

/// Walks everything beneath `root`. With `has_lost_and_found`, a directory of that name in the root that belongs to
/// root is the file system's and not the volume's.
pub(super) fn walk(
    root: &Root,
    has_lost_and_found: bool,
    limits: Limits,
    skip: &Skip<'_>,
    stop: &AtomicBool,
    visit: &mut Visit<'_>,
) -> Result<Vec<LeftOut>, VolumeError> {
    let ahead = Ahead::default();
    let top = Seen::of(root.handle()).map_err(|errno| VolumeError::of("stat", &Place::root(), errno))?;
    let walk = Walk { root, top, has_lost_and_found, limits, skip, stop, ahead: &ahead };
    std::thread::scope(|scope| {
        // Also when a visitor panics: the scope waits for the readers.
        let _end = End(&ahead);
        for _ in 1..limits.threads {
            scope.spawn(|| walk.read_ahead());
        }
        walk.run(visit)
    })
}

struct Walk<'a> {
    root: &'a Root,
    top: Seen,
    has_lost_and_found: bool,
    limits: Limits,
    skip: &'a Skip<'a>,
    stop: &'a AtomicBool,
    ahead: &'a Ahead,
}

/// A directory that the walk is inside of.
#[derive(Default)]
struct Frame {
    /// Nothing when it was given up for the memory that it took.
    listing: Option<Listing>,
    /// The name that the walk went into, kept when the listing is given up.
    last: Box<[u8]>,
    /// Whether it was read again, so that what was read ahead of it may not be met any more.
    is_again: bool,
}

impl Walk<'_> {
    fn run(&self, visit: &mut Visit<'_>) -> Result<Vec<LeftOut>, VolumeError> {
        let mut left_out = Vec::new();
        let mut here = Place::root();
        visit(Walked { place: here.clone(), stat: self.top.stat })?;
        let mut frames = vec![Frame { listing: self.list(&here, &mut left_out)?, ..Frame::default() }];
        let mut retained_bytes = frames[0].listing.as_ref().map_or(0, Listing::bytes);
        self.want(&here, &mut frames, true);
        while let Some(frame) = frames.last_mut() {
            self.check_stop()?;
            if frame.listing.is_none() {
                (frame.listing, frame.is_again) = (self.list_after(&here, &frame.last)?, true);
                retained_bytes += frame.listing.as_ref().map_or(0, Listing::bytes);
            }
            let listing = frame.listing.get_or_insert_default();
            let Some((name, seen)) = listing.next() else {
                if listing.has_more() {
                    self.look(&here, listing)?;
                    self.want(&here, &mut frames, true);
                } else {
                    let frame = frames.pop().expect("it was there");
                    if frame.is_again {
                        self.ahead.lock().forget(&here);
                    }
                    retained_bytes = retained_bytes.saturating_sub(frame.listing.as_ref().map_or(0, Listing::bytes));
                    here = here.split().map(|(parent, _)| parent).unwrap_or_default();
                    self.want(&here, &mut frames, false);
                }
                continue;
            };
            let (place, stat) = (join(&here, name)?, seen.stat);
            if let Some(why) = self.reason_to_leave_out(&place, seen) {
                left_out.push(LeftOut { place, why });
                continue;
            }
            visit(Walked { place: place.clone(), stat })?;
            if stat.kind == Kind::Directory {
                let listing = match self.take_ahead(&place) {
                    Some(listing) => self.sort(listing, &place, &mut left_out)?,
                    None => self.list(&place, &mut left_out)?,
                };
                retained_bytes += listing.as_ref().map_or(0, Listing::bytes);
                frame.last = name.into();
                frames.push(Frame { listing: Some(listing.unwrap_or_default()), ..Frame::default() });
                here = place;
                self.give_up(&mut frames, &mut retained_bytes);
                self.want(&here, &mut frames, true);
            }
        }
        Ok(left_out)
    }

    fn check_stop(&self) -> Result<(), VolumeError> {
        if self.stop.load(Ordering::Relaxed) { Err(VolumeError::Stopped) } else { Ok(()) }
    }

    fn reason_to_leave_out(&self, place: &Place, seen: &Seen) -> Option<&'static str> {
        let is_directory = seen.stat.kind == Kind::Directory;
        // Only directories: overlay file systems tell the device of a file's layer.
        if seen.is_mount {
            Some("mount point")
        } else if is_directory && seen.device != self.top.device {
            Some("subvolume")
        } else if is_directory && self.has_lost_and_found && seen.stat.uid == 0 && place.as_bytes() == b"lost+found" {
            Some("lost+found")
        } else if (self.skip)(place, seen.stat.kind) {
            Some("excluded")
        } else {
            None
        }
    }

    /// Reads a directory now.
    fn list(&self, place: &Place, left_out: &mut Vec<LeftOut>) -> Result<Option<Listing>, VolumeError> {
        self.sort(self.read(place), place, left_out)
    }

    fn read(&self, place: &Place) -> Result<Listing, Errno> {
        Listing::read(&self.root.resolve_listable(place)?, self.stop)
    }

    /// Reads a directory again whose listing was given up.
    fn list_after(&self, place: &Place, last: &[u8]) -> Result<Option<Listing>, VolumeError> {
        let result = self.root.resolve_listable(place);
        let result = result.and_then(|directory| Listing::read_after(&directory, last, self.stop));
        self.sort(result, place, &mut Vec::new())
    }

    /// Looks at the next names of a directory.
    fn look(&self, place: &Place, listing: &mut Listing) -> Result<(), VolumeError> {
        let result = self.root.resolve_listable(place).and_then(|directory| listing.look(&directory));
        if self.sort(result, place, &mut Vec::new())?.is_none() {
            *listing = Listing::default();
        }
        Ok(())
    }

    /// Tells what is an error from what happens to a volume in use.
    fn sort<T>(
        &self,
        result: Result<T, Errno>,
        place: &Place,
        left_out: &mut Vec<LeftOut>,
    ) -> Result<Option<T>, VolumeError> {
        match result {
            Ok(listing) => Ok(Some(listing)),
            // It went, or became something else, since it was seen.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            // Something was mounted on it since.
            Err(Errno::XDEV) => {
                left_out.push(LeftOut { place: place.clone(), why: "mount point" });
                Ok(None)
            }
            Err(Errno::CANCELED) => Err(VolumeError::Stopped),
            Err(errno) => Err(VolumeError::of("list", place, errno)),
        }
    }

    /// Gives the outermost listings up while there are too many.
    fn give_up(&self, frames: &mut [Frame], retained_bytes: &mut usize) {
        let Some((_, outer)) = frames.split_last_mut() else { return };
        for frame in outer {
            if *retained_bytes <= self.limits.retained_bytes {
                return;
            }
            if let Some(listing) = frame.listing.take() {
                *retained_bytes = retained_bytes.saturating_sub(listing.bytes());
            }
        }
    }

    /// Asks for the next directories in `here` to be read ahead. In a directory that the walk comes back to, only once
    /// half of what was asked for is done, so that the others are woken up rarely.
    fn want(&self, here: &Place, frames: &mut [Frame], is_new: bool) {
        let Some(listing) = frames.last_mut().and_then(|frame| frame.listing.as_mut()) else { return };
        let limit = self.limits.wanted;
        if self.limits.threads < 2 {
            return;
        }
        let mut state = self.ahead.lock();
        if !is_new && state.wanted.len() > limit / 2 {
            return;
        }
        for _ in 0..limit {
            // What is in `here` comes before what is beside it or above, and takes its turn.
            if state.wanted.len() >= limit && state.wanted.last().is_some_and(|last| last.is_within(here)) {
                break;
            }
            let Some((name, seen)) = listing.next_upcoming_directory() else { break };
            let Ok(place) = join(here, name) else { break };
            if !state.done.contains_key(&place) && self.reason_to_leave_out(&place, seen).is_none() {
                state.wanted.insert(place);
            }
            if state.wanted.len() > limit {
                state.wanted.pop_last();
            }
        }
        state.wake_readers(self);
    }

    /// The listing of `place` if another thread has it, or is at it; nothing if nobody is. Reads others ahead rather
    /// than wait.
    fn take_ahead(&self, place: &Place) -> Option<Result<Listing, Errno>> {
        let mut state = self.ahead.lock();
        state.wanted.remove(place);
        while state.done.get(place)?.is_none() {
            state = match state.next(self) {
                Some(next) => self.read_one_ahead(next, state),
                None => {
                    state.is_waited_for = true;
                    wait(&self.ahead.done, state)
                }
            };
        }
        let listing = state.done.remove(place)??;
        state.ahead_bytes -= listing.as_ref().map_or(0, Listing::bytes);
        state.wake_readers(self);
        Some(listing)
    }

    /// What the other threads do.
    fn read_ahead(&self) {
        let mut state = self.ahead.lock();
        while !state.is_over {
            state = match state.next(self) {
                Some(next) => self.read_one_ahead(next, state),
                None => {
                    state.idle += 1;
                    let mut state = wait(&self.ahead.wanted, state);
                    state.idle -= 1;
                    state
                }
            };
            if std::mem::take(&mut state.is_waited_for) {
                self.ahead.done.notify_one();
            }
        }
    }

    fn read_one_ahead<'s>(&'s self, place: Place, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        state.done.insert(place.clone(), None);
        drop(state);
        let listing = self.read(&place);
        let mut state = self.ahead.lock();
        let bytes = listing.as_ref().map_or(0, Listing::bytes);
        if let Some(done) = state.done.get_mut(&place) {
            *done = Some(listing);
            state.ahead_bytes += bytes;
        }
        state
    }
}

fn join(here: &Place, name: &[u8]) -> Result<Place, VolumeError> {
    Name::new(name).and_then(|name| here.join(name)).map_err(|error| {
        let source = io::Error::new(io::ErrorKind::InvalidFilename, error);
        VolumeError::Io { operation: "name what is in", place: here.clone(), source }
    })
}

/// What is read before the walk comes there.
#[derive(Default)]
struct Ahead {
    state: Mutex<State>,
    /// Something is wanted, or there is room for it.
    wanted: Condvar,
    /// Something is done.
    done: Condvar,
}

#[derive(Default)]
struct State {
    /// In the order in which the walk will come to them.
    wanted: BTreeSet<Place>,
    /// Nothing while it is being read.
    done: HashMap<Place, Option<Result<Listing, Errno>>>,
    ahead_bytes: usize,
    /// Readers that wait for something to do.
    idle: usize,
    /// Whether the visitor waits for a reader.
    is_waited_for: bool,
    is_over: bool,
}

impl State {
    /// What to read ahead next, if there is room for it.
    fn next(&mut self, walk: &Walk<'_>) -> Option<Place> {
        if self.ahead_bytes < walk.limits.ahead_bytes { self.wanted.pop_first() } else { None }
    }

    /// Gives up what was read ahead in a directory.
    fn forget(&mut self, place: &Place) {
        self.wanted.retain(|wanted| !wanted.is_within(place));
        for (_, listing) in self.done.extract_if(|done, _| done.is_within(place)) {
            self.ahead_bytes -= listing.and_then(Result::ok).map_or(0, |listing| listing.bytes());
        }
    }

    fn wake_readers(&self, walk: &Walk<'_>) {
        if self.idle > 0 && !self.wanted.is_empty() && self.ahead_bytes < walk.limits.ahead_bytes {
            walk.ahead.wanted.notify_all();
        }
    }
}

impl Ahead {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condition.wait(state).unwrap_or_else(PoisonError::into_inner)
}

/// Ends the readers when the walk ends, however it does.
struct End<'a>(&'a Ahead);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.wanted.notify_all();
        self.0.done.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::*;

    fn limits(threads: usize) -> Limits {
        Limits { threads, ..Limits::default() }
    }

    fn walked(root: &Path, limits: Limits, skip: &Skip<'_>) -> Vec<Place> {
        let mut places = Vec::new();
        let mut visit = |walked: Walked| {
            places.push(walked.place);
            Ok(())
        };
        let root = Root::open(root).unwrap();
        walk(&root, false, limits, skip, &AtomicBool::new(false), &mut visit).unwrap();
        places
    }

    /// What is there, found out in another way.
    fn expected(root: &Path) -> Vec<Place> {
        let mut places = vec![Place::root()];
        let mut folders = vec![(root.to_path_buf(), Place::root())];
        while let Some((folder, place)) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let place = place.join(Name::new(entry.file_name().as_bytes()).unwrap()).unwrap();
                if entry.file_type().unwrap().is_dir() {
                    folders.push((entry.path(), place.clone()));
                }
                places.push(place);
            }
        }
        places.sort();
        places
    }

    /// Names that sort differently as paths and as places, and directories of all sizes.
    fn tree(root: &Path) {
        for path in ["a", "a/b", "a/b/c", "a.b", "a b", "a/z", "b\n", "deep/1/2/3/4/5", "empty"] {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        std::fs::create_dir(root.join(std::ffi::OsStr::from_bytes(b"\xff\xfe"))).unwrap();
        for path in ["a!", "a0", "a/b!", "a.b/x", "deep/1/2/x", "a/b/c/\u{1b}[31m"] {
            std::fs::write(root.join(path), path).unwrap();
        }
        std::os::unix::fs::symlink("/", root.join("a/link")).unwrap();
        for number in 0..300 {
            std::fs::create_dir(root.join(format!("a.b/{number}"))).unwrap();
            std::fs::write(root.join(format!("a.b/{number}/file")), "").unwrap();
        }
        for number in 10..3010 {
            std::fs::write(root.join(format!("deep/1/{number}")), "").unwrap();
        }
    }

    #[test]
    fn a_walk_visits_everything_in_the_order_of_places() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path());
        for threads in [1, 2, 4] {
            assert!(walked(folder.path(), limits(threads), &|_, _| false) == expected(folder.path()), "{threads}");
        }
    }

    #[test]
    fn a_walk_without_room_visits_the_same() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path());
        let tight = Limits { threads: 3, retained_bytes: 0, ahead_bytes: 1, wanted: 1 };
        assert!(walked(folder.path(), tight, &|_, _| false) == expected(folder.path()));
    }

    #[test]
    fn what_is_skipped_is_not_entered() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path());
        let skipped = Place::from_bytes(&b"a.b"[..]).unwrap();
        let mut expected = expected(folder.path());
        expected.retain(|place| !place.is_within(&skipped));
        assert!(walked(folder.path(), limits(2), &|place, _| *place == skipped) == expected);
    }

    #[test]
    fn a_walk_stops_when_told_and_when_its_visitor_fails() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path());
        let root = Root::open(folder.path()).unwrap();
        let stop = AtomicBool::new(false);
        let mut visits = 0;
        let result = walk(&root, false, limits(2), &|_, _| false, &stop, &mut |_| {
            visits += 1;
            stop.store(visits == 10, Ordering::Relaxed);
            Ok(())
        });
        assert!(matches!(result, Err(VolumeError::Stopped)));
        assert_eq!(visits, 10);
        let fail = &mut |_| Err(VolumeError::of("visit", &Place::root(), Errno::IO));
        assert!(walk(&root, false, limits(2), &|_, _| false, &AtomicBool::new(false), fail).is_err());
    }

    #[test]
    fn a_tree_of_4096_levels_is_walked_and_a_deeper_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path()).unwrap();
        let name = Name::new(b"d").unwrap();
        let mut place = Place::root();
        for _ in 0..tranship_proto::limit::DEPTH_MAX {
            place = place.join(name).unwrap();
            root.in_parent(&place, |parent, name| {
                rustix::fs::mkdirat(&**parent, name.as_bytes(), rustix::fs::Mode::RWXU)
            })
            .unwrap();
        }
        let places = walked(folder.path(), limits(2), &|_, _| false);
        assert_eq!(places.len(), tranship_proto::limit::DEPTH_MAX + 1);
        assert!(places.is_sorted());

        let last = root.resolve_listable(&place).unwrap();
        rustix::fs::mkdirat(&last, c"d", rustix::fs::Mode::RWXU).unwrap();
        let result = walk(&root, false, limits(2), &|_, _| false, &AtomicBool::new(false), &mut |_| Ok(()));
        assert!(matches!(result, Err(VolumeError::Io { .. })));
        rustix::fs::unlinkat(&last, c"d", rustix::fs::AtFlags::REMOVEDIR).unwrap();
        let top = Place::from_bytes(&b"d"[..]).unwrap();
        super::super::remove::remove(&root, &top).unwrap();
        assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
    }

    #[test]
    fn a_walk_beside_a_writer_comes_to_an_end() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path());
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (here, there) = (folder.path().join("a"), folder.path().join("moved"));
                while !is_over.load(Ordering::Relaxed) {
                    std::fs::rename(&here, &there).unwrap();
                    std::fs::rename(&there, &here).unwrap();
                }
            });
            for _ in 0..50 {
                assert!(walked(folder.path(), limits(3), &|_, _| false).is_sorted());
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}
