//! The names in one directory, in order, and what the kernel tells about them.
//!
//! A directory's names are all needed before the first can be said, because they come in no order: they are kept end to
//! end, so that memory for them is their own length and 9 bytes each. Everything larger than a name is read for
//! [`BATCH`] names at a time.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::RawDir;
use rustix::io::Errno;
use tranship_proto::entry::Kind;

use super::seen::Seen;

/// Names that are looked at together.
const BATCH: usize = 1_024;

/// Bytes in which the kernel hands out names.
const DIRENTS_BYTES: usize = 32 << 10;

/// A directory's content.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The names, each with a NUL after it.
    names: Vec<u8>,
    entries: Vec<Entry>,
    /// The first entry that no batch has had yet.
    next: usize,
    batch: Vec<(Entry, Seen)>,
    visited: usize,
    announced: usize,
}

/// Where a name is in the arena.
#[derive(Debug, Clone, Copy)]
struct Entry {
    at: u32,
    bytes: u8,
}

impl Listing {
    /// Reads all names, and looks at the first batch of them.
    pub(super) fn read(directory: &OwnedFd, stop: &AtomicBool) -> Result<Self, Errno> {
        let mut listing = Self::names_of(directory, stop)?;
        listing.look(directory)?;
        Ok(listing)
    }

    /// Reads all names after `last` only.
    pub(super) fn read_after(directory: &OwnedFd, last: &[u8], stop: &AtomicBool) -> Result<Self, Errno> {
        let mut listing = Self::names_of(directory, stop)?;
        listing.next = listing.entries.partition_point(|&entry| name_in(&listing.names, entry) <= last);
        listing.look(directory)?;
        Ok(listing)
    }

    /// Looks at the next batch, once the former is used up.
    pub(super) fn look(&mut self, directory: impl AsFd) -> Result<(), Errno> {
        let batch = &self.entries[self.next..self.entries.len().min(self.next + BATCH)];
        self.next += batch.len();
        (self.visited, self.announced) = (0, 0);
        self.batch.clear();
        self.batch.reserve_exact(batch.len());
        for &entry in batch {
            let end = entry.at as usize + usize::from(entry.bytes);
            let name =
                CStr::from_bytes_with_nul(&self.names[entry.at as usize..=end]).expect("came from the kernel as one");
            match Seen::at(&directory, name) {
                Ok(seen) => self.batch.push((entry, seen)),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// The next name of the batch, with what was seen.
    pub(super) fn next(&mut self) -> Option<(&[u8], &Seen)> {
        let (entry, seen) = self.batch.get(self.visited)?;
        self.visited += 1;
        Some((name_in(&self.names, *entry), seen))
    }

    /// Whether there are names after this batch.
    pub(super) fn has_more(&self) -> bool {
        self.next < self.entries.len()
    }

    /// The next directory of the batch that was neither visited nor announced by this yet.
    pub(super) fn next_upcoming_directory(&mut self) -> Option<(&[u8], &Seen)> {
        let from = self.announced.max(self.visited);
        let found = self.batch[from..].iter().position(|(_, seen)| seen.stat.kind == Kind::Directory);
        self.announced = found.map_or(self.batch.len(), |at| from + at + 1);
        let (entry, seen) = self.batch.get(from + found?)?;
        Some((name_in(&self.names, *entry), seen))
    }

    /// Memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.names.capacity()
            + self.entries.capacity() * size_of::<Entry>()
            + self.batch.capacity() * size_of::<(Entry, Seen)>()
    }

    fn names_of(directory: &OwnedFd, stop: &AtomicBool) -> Result<Self, Errno> {
        let mut listing = Self::default();
        let mut buffer = Vec::with_capacity(DIRENTS_BYTES);
        let mut dirents = RawDir::new(directory, buffer.spare_capacity_mut());
        while let Some(dirent) = dirents.next() {
            let dirent = match dirent {
                // The directory was removed while it was read.
                Err(Errno::NOENT) => break,
                dirent => dirent?,
            };
            let name = dirent.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            listing.push(name)?;
            if dirents.is_buffer_empty() && stop.load(Ordering::Relaxed) {
                return Err(Errno::CANCELED);
            }
        }
        let names = std::mem::take(&mut listing.names);
        listing.entries.sort_unstable_by(|&a, &b| name_in(&names, a).cmp(name_in(&names, b)));
        // A directory that changes while it is read can tell a name twice.
        listing.entries.dedup_by(|a, b| name_in(&names, *a) == name_in(&names, *b));
        listing.names = names;
        Ok(listing)
    }

    fn push(&mut self, name: &[u8]) -> Result<(), Errno> {
        let at = u32::try_from(self.names.len()).map_err(|_| Errno::OVERFLOW)?;
        let bytes = u8::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        self.names.extend_from_slice(name);
        self.names.push(0);
        self.entries.push(Entry { at, bytes });
        Ok(())
    }
}

fn name_in(names: &[u8], entry: Entry) -> &[u8] {
    &names[entry.at as usize..][..usize::from(entry.bytes)]
}
