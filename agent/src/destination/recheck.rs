//! Reading back what was written, so that a proof at level `tracked` can believe it.
//!
//! The digests of a manifest are those of what was received. That a device acknowledged it, and the flush after it, does
//! not show that it has it: only reading past the page cache does. What was read so is marked in the manifest, and a proof
//! believes nothing else. It is done after the commit, so that a session that is cut off here has lost nothing but time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use tranship_engine::digest::Digester;
use tranship_engine::entry::Entry;
use tranship_engine::piece;
use tranship_engine::session::destination::Touch;
use tranship_proto::id::Digest;
use tranship_proto::limit::PIECE_BYTES;
use tranship_proto::message::Rechecked;

use super::apply::is_of_one_object;
use super::fresh::Pieces;
use super::{Destination, lock};
use crate::pass::{Counters, PassError};
use crate::state::head::{manifest_name, map_name};
use crate::state::map::Map;
use crate::state::{read_entries, write_list};
use crate::volume::aligned::{ALIGNMENT_BYTES, Aligned};
use crate::volume::{Access, Content, VolumeError};
use crate::{content, parallel};

/// Entries that are looked at together.
const BATCH_ENTRIES: usize = 1_024;
/// Bytes to read from which several threads read one file.
const SHARED_BYTES: u64 = 8 << 20;

/// What of a large content was written in this pass, if all of it had been read back before.
pub(super) struct Touched {
    pieces: Arc<Pieces>,
    /// The first of the pieces that a change of its size has touched: it and all after it.
    from: u64,
}

/// What is left to read back.
struct Rechecking<'a> {
    destination: &'a Destination,
    map: Option<Map>,
    /// By where the leaves of the content are in the map.
    touched: &'a BTreeMap<u64, Touched>,
}

impl Destination {
    /// Reads from the device what was written and not read from there since, and records durably what is as it should be.
    /// What is not is in doubt from now on, so that the next pass heals it.
    ///
    /// An error means that the volume or the state folder failed; what is committed stays, and is read back in the next
    /// pass.
    pub fn recheck(&self) -> Result<Rechecked, PassError> {
        let store = &*self.store;
        let head = lock(&self.inner).head.clone().expect("inspected before anything else");
        // What checkpoints have read was told with the commit.
        let read_before = Counters::get(&self.recheck_counters.bytes_done);
        let done = |lost_entries| {
            let read_bytes = Counters::get(&self.recheck_counters.bytes_done) - read_before;
            Ok(Rechecked { read_bytes, lost_entries, is_done: true })
        };
        let Some(token) = head.token else { return done(0) };
        let touched = std::mem::take(&mut *lock(&self.touched));
        let map = store.open(&map_name(token))?.map(Map::new).transpose()?;
        let rechecking = Rechecking { destination: self, map, touched: &touched };
        let name = manifest_name(token);
        if !rechecking.count(read_entries(store, Some(&name))?)? {
            return done(0);
        }
        let is_shared = |entry: &Entry| rechecking.bytes_of(entry) >= SHARED_BYTES;
        let mut list = write_list::<Entry>(store, "manifest.new")?;
        let mut lost_entries = 0;
        let mut entries = read_entries(store, Some(&name))?;
        loop {
            let batch: Vec<Entry> = entries.by_ref().take(BATCH_ENTRIES).collect::<Result<_, _>>()?;
            if batch.is_empty() {
                break;
            }
            let found = parallel::map(&batch, self.threads, is_shared, |entry, threads| {
                if entry.is_unread() { rechecking.is_held(entry, threads) } else { Ok(None) }
            })?;
            let mut lost = Vec::new();
            for (mut entry, is_held) in batch.into_iter().zip(found) {
                if is_held == Some(false) {
                    tracing::warn!(place = %entry.place, "the device does not hold what was written and flushed");
                    lost.push(Touch::Place(entry.place.clone()));
                }
                entry.is_read_back |= is_held == Some(true);
                list.push(entry)?;
            }
            if !lost.is_empty() {
                lost_entries += lost.len() as u64;
                self.intend(lost)?;
            }
        }
        list.finish()?.sync()?;
        // All else in it is as it was, so that it does not matter which of the two a crash leaves.
        store.rename("manifest.new", &name)?;
        done(lost_entries)
    }
}

impl Rechecking<'_> {
    /// Counts what there is to do; tells whether that is anything.
    fn count(&self, entries: crate::state::Entries) -> Result<bool, PassError> {
        let counters = &self.destination.recheck_counters;
        for entry in entries {
            let entry = entry?;
            if entry.is_unread() {
                Counters::add(&counters.entries_scanned, 1);
                Counters::add(&counters.bytes_scanned, self.bytes_of(&entry));
            }
        }
        Ok(Counters::get(&counters.entries_scanned) > 0)
    }

    fn touched(&self, entry: &Entry) -> Option<(&Map, u64, &Touched)> {
        let (map, start) = (self.map.as_ref()?, entry.map?);
        Some((map, start, self.touched.get(&start)?))
    }

    /// How much of a content there is to read.
    fn bytes_of(&self, entry: &Entry) -> u64 {
        match self.touched(entry) {
            _ if !entry.is_unread() => 0,
            Some((.., touched)) => touched.pieces(entry.size).map(|index| piece::bytes(entry.size, index) as u64).sum(),
            None => entry.size,
        }
    }

    /// Whether the device holds a content; nothing if it alone cannot be looked at, or is not as it was left. That is somebody
    /// else's doing, for which a final pass looks.
    fn is_held(&self, entry: &Entry, threads: usize) -> Result<Option<bool>, PassError> {
        let Destination { volume, stop, recheck_counters: counters, .. } = self.destination;
        let content = match volume.open(&entry.place, Access::ReadDevice) {
            Err(error) if is_of_one_object(&error) => return Ok(None),
            content => content?,
        };
        let now = content.stat()?;
        if !entry.stat.is_some_and(|left| left.is_as_left(&now)) {
            return Ok(None);
        }
        let is_held = match self.touched(entry) {
            Some((map, start, touched)) => {
                let leaves = |index| Ok(map.read(start, entry.size, index)?);
                self.are_held(&*content, entry.size, touched, leaves, threads)?
            }
            None => {
                let reading = content::Reading { threads, stop, read_bytes: &counters.bytes_done };
                let read = content::read(&*content, entry.size, &[Digester::canonical()], None, reading)?;
                read.size == entry.size && read.digests.first() == entry.content.as_ref()
            }
        };
        Counters::add(&counters.entries_done, 1);
        Ok(Some(is_held))
    }

    /// Whether the device holds the pieces that were touched, which is all there is to know: the others were read before.
    fn are_held(
        &self,
        content: &dyn Content,
        size: u64,
        touched: &Touched,
        leaves: impl Fn(u64) -> Result<Vec<Digest>, PassError> + Sync,
        threads: usize,
    ) -> Result<bool, PassError> {
        let stop = &self.destination.stop;
        let pieces = Mutex::new(touched.pieces(size));
        let lost = AtomicU64::new(0);
        let work = || -> Result<(), PassError> {
            let mut buffer = Aligned::new(PIECE_BYTES.min(size as usize), ALIGNMENT_BYTES);
            loop {
                let Some(index) = lock(&pieces).next() else { return Ok(()) };
                if stop.load(Ordering::Relaxed) {
                    return Err(VolumeError::Stopped.into());
                }
                let bytes = &mut buffer[..piece::bytes(size, index)];
                let is_held = self.destination.holds(content, bytes, index, || leaves(index))?;
                lost.fetch_add(u64::from(!is_held), Ordering::Relaxed);
            }
        };
        thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            others.into_iter().map(|other| other.join().expect("workers do not panic")).fold(own, Result::and)
        })?;
        Ok(lost.into_inner() == 0)
    }
}

impl Touched {
    /// These pieces were written, and the size became `new` where it had been `old`.
    pub(super) fn new(pieces: Arc<Pieces>, old: u64, new: u64) -> Self {
        let from = if old == new { u64::MAX } else { old.min(new) / PIECE_BYTES as u64 };
        Self { pieces, from }
    }

    /// Those of a content of `size` bytes that were not read back since, in order.
    pub(super) fn pieces(&self, size: u64) -> impl Iterator<Item = u64> + Send + use<> {
        let (count, from) = (piece::count(size), self.from.min(piece::count(size)));
        self.pieces.unread().into_iter().take_while(move |&index| index < from).chain(from..count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_and_what_a_change_of_size_touches_is_read_back_and_nothing_else() {
        let mib = PIECE_BYTES as u64;
        let touched = |old, new| {
            let pieces = Arc::<Pieces>::default();
            [3, 63, 64].into_iter().for_each(|index| pieces.write(index));
            Touched::new(pieces, old, new).pieces(new).collect::<Vec<_>>()
        };
        assert_eq!(touched(70 * mib, 70 * mib), [3, 63, 64]);
        // The piece in which the content ended has other bytes, or zeros after it.
        assert_eq!(touched(66 * mib + 5, 68 * mib), [3, 63, 64, 66, 67]);
        assert_eq!(touched(68 * mib, 66 * mib + 5), [3, 63, 64, 66]);
        assert_eq!(touched(68 * mib, 66 * mib), [3, 63, 64]);
        assert_eq!(touched(68 * mib, 10 * mib), [3]);
    }
}
