//! Large contents whose bytes shifted: something was inserted or removed, and what is behind it is only copied.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use tranship_engine::digest::{Digester, is_zero};
use tranship_engine::shift::{self, Old, Run, Window};
use tranship_proto::id::Digest;
use tranship_proto::limit::{DELTA_BASE_BYTES_MAX, LEAF_BYTES, LEAVES_PER_PIECE};
use tranship_proto::message::Extent;

use super::read::Held;
use super::{Source, State};
use crate::pass::{Counters, PassError};
use crate::state::map::Map;
use crate::volume::Content;

/// Around a piece, so that the old leaves at its ends are seen whole.
pub(super) const MARGIN_BYTES: u64 = LEAF_BYTES as u64;

/// Searches of a content in vain before it is taken for new.
const MISSES_MAX: u32 = 16;

/// Old leaves that are looked for, from the end of the old content towards its middle.
const PROBES: u64 = 8;

/// Where the bytes of a content were.
pub(super) struct Shifted {
    /// Where the leaves of the old content are in our map, and its size.
    start: u64,
    old_bytes: u64,
    /// What its size changed by: what is behind the last edit moved as far.
    by_size: i64,
    /// How far the bytes had moved that were found last.
    last: AtomicI64,
    /// How often asking found nothing.
    misses: AtomicU32,
}

impl Shifted {
    /// The old bytes among which those of a piece may be; nothing if looking there has not helped so far.
    pub(super) fn search_area(&self, offset: u64, bytes: usize) -> Option<Extent> {
        if self.misses.load(Ordering::Relaxed) >= MISSES_MAX {
            return None;
        }
        let last = self.last.load(Ordering::Relaxed);
        let (mut least, mut most) = (last.min(self.by_size).min(0), last.max(self.by_size).max(0));
        let room = (DELTA_BASE_BYTES_MAX - bytes) as i64;
        if most - least > room / 2 {
            (least, most) = (last, last);
        }
        let slack = (room - (most - least)) / 2;
        let end = (offset + bytes as u64) as i64;
        let from = (offset as i64 - most - slack).clamp(0, self.old_bytes as i64);
        let to = (end - least + slack).clamp(from, self.old_bytes as i64);
        (from < to).then(|| Extent { at: from as u64, bytes: (to - from) as u32 })
    }

    /// Learns from an answer: how far bytes had moved that were found, or that none were.
    pub(super) fn learn(&self, distance: Option<i64>) {
        match distance {
            Some(distance) => self.last.store(distance, Ordering::Relaxed),
            None => drop(self.misses.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

impl Source {
    /// Whether the bytes of a content shifted: its size changed, and of the leaves in its second half that are looked at
    /// none is where it was before one is found elsewhere. The destination must have room for old and new content.
    pub(super) fn shifted(
        &self,
        state: &State,
        content: &dyn Content,
        size: u64,
        basis: &Held,
    ) -> Result<Option<Shifted>, PassError> {
        let (&Held::Leaves(start, old_bytes), Some(map)) = (basis, &state.known_map) else { return Ok(None) };
        let by_size = size as i64 - old_bytes as i64;
        let has_room = size <= state.room_bytes / 2;
        let leaves = old_bytes / LEAF_BYTES as u64;
        if by_size == 0 || !has_room {
            return Ok(None);
        }
        for probe in 0..PROBES.min(leaves) {
            let number = leaves - 1 - probe * leaves / (2 * PROBES);
            let Some(leaf) = leaf(map, start, old_bytes, number) else { return Ok(None) };
            let at = (number * LEAF_BYTES as u64) as i64;
            if self.has_leaf(content, at, &leaf)? {
                return Ok(None);
            }
            if self.has_leaf(content, at + by_size, &leaf)? {
                break;
            }
        }
        let (last, misses) = (AtomicI64::new(by_size), AtomicU32::new(0));
        Ok(Some(Shifted { start, old_bytes, by_size, last, misses }))
    }

    /// Whether these bytes are at this offset; zeros say nothing, they are everywhere.
    fn has_leaf(&self, content: &dyn Content, at: i64, leaf: &Digest) -> Result<bool, PassError> {
        let Ok(at) = u64::try_from(at) else { return Ok(false) };
        let mut bytes = vec![0; LEAF_BYTES];
        let read = content.read_at(&mut bytes, at)?;
        Counters::add(&self.counters.bytes_read, read as u64);
        Ok(read == LEAF_BYTES && !is_zero(&bytes) && Digester::canonical().leaf(&bytes) == *leaf)
    }

    /// What of a piece at `offset` stood elsewhere in the old content.
    pub(super) fn runs(
        &self,
        state: &State,
        shifted: &Shifted,
        window: Window<'_>,
        offset: u64,
        bytes: &[u8],
    ) -> Vec<Run> {
        let map = state.known_map.as_ref().expect("what moved was found by it");
        let pieces: RefCell<BTreeMap<u64, Option<Vec<Digest>>>> = RefCell::default();
        let old_leaf = |number: u64| {
            let index = number / LEAVES_PER_PIECE as u64;
            let mut pieces = pieces.borrow_mut();
            // A damaged map costs sending the bytes, nothing else.
            let leaves = pieces.entry(index).or_insert_with(|| map.read(shifted.start, shifted.old_bytes, index).ok());
            leaves.as_ref()?.get(number as usize % LEAVES_PER_PIECE).copied()
        };
        let old = Old { size: shifted.old_bytes, leaf: &old_leaf };
        let mut distances = vec![shifted.last.load(Ordering::Relaxed)];
        for distance in [shifted.by_size, 0] {
            if !distances.contains(&distance) {
                distances.push(distance);
            }
        }
        let runs = shift::find(window, offset, offset + bytes.len() as u64, &distances, &old);
        if let Some(run) = runs.last() {
            shifted.last.store(run.distance(), Ordering::Relaxed);
        }
        runs
    }
}

fn leaf(map: &Map, start: u64, size: u64, number: u64) -> Option<Digest> {
    let leaves = map.read(start, size, number / LEAVES_PER_PIECE as u64).ok()?;
    leaves.get(number as usize % LEAVES_PER_PIECE).copied()
}
