//! Pieces that were written, and are read back as soon as they are flushed.
//!
//! Only those of contents of which all else had been read back before: these need nothing more to be believed once the pass is
//! committed, and a final pass, in which nearly everything may have changed a little, reads while it still copies.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tranship_engine::digest::Digester;
use tranship_proto::Place;
use tranship_proto::id::Digest;
use tranship_proto::limit::PIECE_BYTES;

use super::{Destination, Pass, lock};
use crate::parallel;
use crate::pass::{Counters, PassError};
use crate::volume::aligned::{ALIGNMENT_BYTES, Aligned};
use crate::volume::{Access, Content};

/// A piece that was written and not flushed yet.
pub(super) struct Fresh {
    pub(super) place: Place,
    /// Where the leaves of its content are in the map of this pass.
    pub(super) map_start: u64,
    pub(super) index: u64,
    pub(super) bytes: usize,
    pub(super) pieces: Arc<Pieces>,
}

/// The pieces of a large content that were written in this pass: as much as came, whatever size the source claims.
#[derive(Debug, Default)]
pub(super) struct Pieces(Mutex<BTreeMap<u64, Word>>);

/// 64 pieces.
#[derive(Debug, Default)]
struct Word {
    written: u64,
    /// Of these, those that were not read back since.
    unread: u64,
}

impl Pieces {
    /// One was written.
    pub(super) fn write(&self, index: u64) {
        let (mut words, bit) = (lock(&self.0), 1 << (index % 64));
        let word = words.entry(index / 64).or_default();
        word.written |= bit;
        word.unread |= bit;
    }

    pub(super) fn is_written(&self, index: u64) -> bool {
        lock(&self.0).get(&(index / 64)).is_some_and(|word| word.written >> (index % 64) & 1 == 1)
    }

    /// One that was written was read back, and is what it should be or not.
    fn read_back(&self, index: u64, is_held: bool) {
        let (mut words, bit) = (lock(&self.0), 1 << (index % 64));
        let word = words.entry(index / 64).or_default();
        word.unread = if is_held { word.unread & !bit } else { word.unread | bit };
    }

    /// Those that were written and not read back since, in order.
    pub(super) fn unread(&self) -> Vec<u64> {
        let words = lock(&self.0);
        let of_word = |(&word, &Word { unread, .. }): (&u64, &Word)| {
            (0..64).filter(move |bit| unread >> bit & 1 == 1).map(move |bit| word * 64 + bit)
        };
        words.iter().flat_map(of_word).collect()
    }
}

impl Destination {
    /// Reads back from the device what has just been flushed. What cannot be read, or is not what was written, stays unread, so
    /// that the reading after the commit looks at it again.
    pub(super) fn read_back(&self, pass: &Pass, fresh: &[Fresh]) -> Result<(), PassError> {
        let mut contents = BTreeMap::new();
        for Fresh { place, map_start, .. } in fresh {
            contents.entry(*map_start).or_insert_with(|| self.volume.open(place, Access::ReadDevice).ok());
        }
        let is_held = |fresh: &Fresh, _| {
            let content = contents.get(&fresh.map_start).and_then(Option::as_deref);
            let is_held = content.is_some_and(|content| self.has(pass, content, fresh));
            fresh.pieces.read_back(fresh.index, is_held);
            Ok(())
        };
        parallel::map(fresh, self.threads, |_| false, is_held).map(drop)
    }

    fn has(&self, pass: &Pass, content: &dyn Content, fresh: &Fresh) -> bool {
        let mut buffer = Aligned::new(PIECE_BYTES, ALIGNMENT_BYTES);
        Counters::add(&self.recheck_counters.bytes_scanned, fresh.bytes as u64);
        let size = fresh.index * PIECE_BYTES as u64 + fresh.bytes as u64;
        let leaves = || Ok(pass.map.read(fresh.map_start, size, fresh.index)?);
        self.holds(content, &mut buffer[..fresh.bytes], fresh.index, leaves).unwrap_or(false)
    }

    /// Whether a piece of `content` has these leaves. They are asked for after it is read: of one that is written again
    /// meanwhile they are newer, and differ.
    pub(super) fn holds(
        &self,
        content: &dyn Content,
        buffer: &mut [u8],
        index: u64,
        leaves: impl FnOnce() -> Result<Vec<Digest>, PassError>,
    ) -> Result<bool, PassError> {
        let read = content.read_at(buffer, index * PIECE_BYTES as u64)?;
        Counters::add(&self.recheck_counters.bytes_done, read as u64);
        Ok(Digester::canonical().leaves(&buffer[..read]).eq(leaves()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_that_is_written_again_after_it_was_read_back_is_unread_again() {
        let pieces = Pieces::default();
        for index in [3, 63, 64] {
            pieces.write(index);
        }
        pieces.read_back(63, true);
        assert_eq!((pieces.unread(), pieces.is_written(63), pieces.is_written(4)), (vec![3, 64], true, false));
        pieces.write(63);
        pieces.read_back(64, false);
        assert_eq!(pieces.unread(), [3, 63, 64]);
    }
}
