//! Pieces that wait for a signature of what the destination holds.
//!
//! An answer costs a round trip and a read at the destination. It pays where bytes moved and nobody knows how far, and
//! where a link is so slow that sending a whole leaf for a few bytes takes longer than the search for them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tranship_engine::delta;
use tranship_engine::piece::{self, Examined};
use tranship_engine::session::source::Produced;
use tranship_proto::limit::{ASKS_MAX, LEAF_BYTES, PIECE_BYTES};
use tranship_proto::message::{Ask, Extent, Onto, Signature};

use super::read::{Held, Large};
use super::{Source, lock};
use crate::pass::PassError;

/// Goodput below which changed leaves are refined. The search is several times faster; the rest is for the destination's
/// disk, which has to find each leaf.
const REFINES_BELOW_BYTES_PER_SECOND: u64 = 30_000_000;

/// Blocks of a signature: small ones where a change within a leaf is wanted, large ones where a megabyte is searched.
const LEAF_BLOCK_BYTES: u32 = 256;
const PIECE_BLOCK_BYTES: u32 = 1_024;

/// What was asked, by number.
#[derive(Default)]
pub(super) struct Asking {
    next: u32,
    waiting: HashMap<u32, Waiting>,
}

/// A piece that was read.
struct Waiting {
    large: Arc<Large>,
    index: u64,
    bytes: Bytes,
    examined: Examined,
    extents: Vec<Extent>,
    block_bytes: u32,
}

impl Source {
    /// Asks for what a piece may be made of, if that pays; of it `found_bytes` are found already. Gives `examined` back
    /// otherwise.
    pub(super) fn ask(
        &self,
        large: &Arc<Large>,
        index: u64,
        bytes: &Bytes,
        examined: Examined,
        found_bytes: u64,
    ) -> Result<Ask, Examined> {
        let is_found = found_bytes > bytes.len() as u64 / 2;
        let extents = match &large.shifted {
            Some(shifted) if !is_found => {
                shifted.search_area(index * PIECE_BYTES as u64, bytes.len()).into_iter().collect()
            }
            None if self.compressor.goodput() < REFINES_BELOW_BYTES_PER_SECOND => held_leaves(large, index, &examined),
            _ => Vec::new(),
        };
        let base_bytes = Extent::total_bytes(&extents);
        let mut asking = lock(&self.asking);
        if base_bytes < LEAF_BYTES || asking.waiting.len() >= ASKS_MAX {
            return Err(examined);
        }
        let block_bytes = if base_bytes > PIECE_BYTES / 4 { PIECE_BLOCK_BYTES } else { LEAF_BLOCK_BYTES };
        let question = asking.next;
        asking.next += 1;
        let ask = Ask { question, place: large.open.place.clone(), extents: extents.clone(), block_bytes };
        let waiting = Waiting { large: large.clone(), index, bytes: bytes.clone(), examined, extents, block_bytes };
        asking.waiting.insert(question, waiting);
        Ok(ask)
    }

    /// Goes on with the piece that this is the answer for.
    pub fn refine(&self, signature: &Signature) -> Result<Vec<Produced>, PassError> {
        let waiting = lock(&self.asking).waiting.remove(&signature.question);
        let waiting = waiting.ok_or_else(|| PassError::Protocol("an answer to no question".to_owned()))?;
        let Waiting { large, index, bytes, examined, extents, block_bytes } = waiting;
        let raw = examined.raw(&bytes);
        let base_bytes = Extent::total_bytes(&extents);
        let difference = delta::difference(&signature.body, base_bytes, block_bytes, &raw);
        let copied = difference.as_ref().and_then(|difference| difference.last_copy);
        if let Some(shifted) = &large.shifted {
            let distance = |(at, from): (usize, u64)| {
                (index * PIECE_BYTES as u64 + at as u64) as i64 - (extents[0].at + from) as i64
            };
            // Where some leaves are zeros and not sent, offsets in the delta are not those in the piece.
            let is_all = raw.len() == bytes.len();
            if copied.is_none() || is_all {
                shifted.learn(copied.map(distance));
            }
        }
        let refined = difference.and_then(|difference| {
            let base = (extents, difference.delta);
            let piece = piece::delta_message(large.open.content, index, &bytes, &examined, base, &self.compressor)?;
            self.count_changed(bytes.len(), difference.literal_bytes, &piece);
            Some(piece)
        });
        let piece = refined.unwrap_or_else(|| self.whole_piece(&large, index, &bytes, &examined));
        self.finish_pieces(&self.state(), &large, vec![piece], 1)
    }
}

/// The changed leaves of a piece, as far as the destination holds something in their place.
fn held_leaves(large: &Large, index: u64, examined: &Examined) -> Vec<Extent> {
    let (Onto::Basis, Held::Leaves(_, old_bytes) | Held::Pieces(_, old_bytes)) = (large.open.onto, &large.basis) else {
        return Vec::new();
    };
    let at = |leaf: usize| (index * PIECE_BYTES as u64 + (leaf * LEAF_BYTES) as u64).min(*old_bytes);
    let extents = examined.sent().map(|(from, to)| Extent { at: at(from), bytes: (at(to) - at(from)) as u32 });
    extents.filter(|extent| extent.bytes > 0).collect()
}
