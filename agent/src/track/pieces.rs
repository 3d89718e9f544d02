//! A set of pieces of a device: one bit for each, so that it is bounded by the device and not by what is written.

use std::ops::Range;

use tranship_proto::codec::{Reader, WireError, Writer};
use tranship_proto::limit::PIECE_BYTES;

/// Bytes in a sector, whatever the device's own are: the unit of the kernel's block layer.
pub(super) const SECTOR_BYTES: u64 = 512;

/// Bytes in the largest device that is tracked: each of its sets has 8 MiB.
pub(super) const DEVICE_BYTES_MAX: u64 = 1 << 46;

const PIECE: u64 = PIECE_BYTES as u64;

/// Some of the pieces of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces {
    bits: Vec<u64>,
    bytes: u64,
}

impl Pieces {
    /// None of a volume of `bytes`, which are at most [`DEVICE_BYTES_MAX`].
    pub(super) fn none(bytes: u64) -> Self {
        assert!(bytes <= DEVICE_BYTES_MAX, "checked when the device was looked at");
        Self { bits: vec![0; bytes.div_ceil(PIECE).div_ceil(64) as usize], bytes }
    }

    /// Adds the pieces that a range of bytes touches; what is beyond the volume is left out.
    pub(super) fn add(&mut self, range: Range<u64>) {
        let end = range.end.min(self.bytes);
        if range.start >= end {
            return;
        }
        for piece in range.start / PIECE..=(end - 1) / PIECE {
            self.bits[(piece / 64) as usize] |= 1 << (piece % 64);
        }
    }

    /// Adds everything from `other`, a set of the same volume, and empties it.
    pub(super) fn absorb(&mut self, other: &mut Self) {
        for (mine, theirs) in self.bits.iter_mut().zip(&mut other.bits) {
            *mine |= std::mem::take(theirs);
        }
    }

    pub(super) fn clear(&mut self) {
        self.bits.fill(0);
    }

    /// Ranges of bytes, in order, as few as possible; all begin at a piece and end at one, or with the volume.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.next(at, true)?;
            at = self.next(start, false).unwrap_or(self.bits.len() as u64 * 64);
            Some(start * PIECE..(at * PIECE).min(self.bytes))
        })
    }

    /// Whether the piece of this number is in the set.
    pub fn contains(&self, piece: u64) -> bool {
        self.bits.get((piece / 64) as usize).is_some_and(|bits| bits >> (piece % 64) & 1 == 1)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|&bits| bits == 0)
    }

    /// Bytes in all of them.
    pub fn bytes(&self) -> u64 {
        self.ranges().map(|range| range.end - range.start).sum()
    }

    /// The first piece from `from` on that is in the set, or is not.
    fn next(&self, from: u64, is_in: bool) -> Option<u64> {
        let first = (from / 64) as usize;
        self.bits.iter().enumerate().skip(first).find_map(|(index, bits)| {
            let bits = if is_in { *bits } else { !*bits };
            let bits = if index == first { bits & (u64::MAX << (from % 64)) } else { bits };
            (bits != 0).then(|| index as u64 * 64 + u64::from(bits.trailing_zeros()))
        })
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        self.bits.iter().for_each(|bits| w.array(&bits.to_le_bytes()));
    }

    /// Reads a set of a volume of `bytes`.
    pub(super) fn decode(r: &mut Reader<'_>, bytes: u64) -> Result<Self, WireError> {
        let mut pieces = Self::none(bytes);
        for bits in &mut pieces.bits {
            *bits = u64::from_le_bytes(r.array("pieces")?);
        }
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: u64, added: &[Range<u64>], wanted: &[Range<u64>]) {
        let mut pieces = Pieces::none(bytes);
        for range in added {
            pieces.add(range.clone());
        }
        assert_eq!(pieces.ranges().collect::<Vec<_>>(), wanted);
        let mut writer = Writer::new();
        pieces.encode(&mut writer);
        let bytes_of_it = writer.finish();
        let mut reader = Reader::new(&bytes_of_it);
        assert_eq!(Pieces::decode(&mut reader, bytes).unwrap(), pieces);
        reader.finish().unwrap();
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "one range is meant, not what it spans")]
    fn what_a_range_touches_is_in_the_set() {
        let bytes = 200 * PIECE + 512;
        check(bytes, &[], &[]);
        check(bytes, &[5..5], &[]);
        check(bytes, &[0..1], &[0..PIECE]);
        check(bytes, &[PIECE - 1..PIECE + 1], &[0..2 * PIECE]);
        check(bytes, &[63 * PIECE..65 * PIECE], &[63 * PIECE..65 * PIECE]);
        check(bytes, &[PIECE..2 * PIECE, 3 * PIECE..4 * PIECE], &[PIECE..2 * PIECE, 3 * PIECE..4 * PIECE]);
        check(bytes, &[200 * PIECE..bytes], &[200 * PIECE..bytes]);
        check(bytes, &[0..bytes], &[0..bytes]);
        check(bytes, &[bytes..bytes + PIECE], &[]);
        check(bytes, &[bytes - 1..u64::MAX], &[200 * PIECE..bytes]);
    }

    #[test]
    fn absorbing_leaves_the_other_empty() {
        let (mut one, mut other) = (Pieces::none(10 * PIECE), Pieces::none(10 * PIECE));
        one.add(0..1);
        other.add(PIECE..PIECE + 1);
        one.absorb(&mut other);
        assert_eq!(one.ranges().next(), Some(0..2 * PIECE));
        assert_eq!((one.bytes(), other.bytes()), (2 * PIECE, 0));
    }
}
