//! What changed in one piece of a content, found by its leaves.
//!
//! The basis of a piece is what the destination holds in its place. A leaf that has the basis' digest is not sent; a
//! leaf of zeros is named and not sent. The destination puts its own record of the basis together with the leaves that
//! it received, and compares the digest of the whole piece with the source's before it writes anything: a basis that
//! is not what the source took it for cannot go unnoticed, and is never read for that.

use bytes::Bytes;
use thiserror::Error;
use tranship_proto::id::{ContentId, Digest};
use tranship_proto::limit::{BODY_BYTES_MAX, LEAF_BYTES, LEAVES_PER_PIECE, PIECE_BYTES};
use tranship_proto::message::{Delta, Extent, Piece};

use crate::delta::{self, DeltaError};
use crate::digest::{self, Digester, is_zero};
use crate::pack::{Compressor, PackError, unpack};
use crate::shift::{self, Run};

/// What the destination holds where a piece goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Basis {
    /// Nobody knows.
    Unknown,
    /// Bytes with these leaves, and zeros after the last.
    Leaves(Vec<Digest>),
}

impl Basis {
    /// Zeros: a new file, or what lies beyond the end of an old one.
    pub fn zeros() -> Self {
        Self::Leaves(Vec::new())
    }

    fn holds(&self, index: usize, leaf: &Digest, bytes: &[u8]) -> bool {
        match self {
            Self::Unknown => false,
            Self::Leaves(leaves) => match leaves.get(index) {
                Some(held) => held == leaf,
                None => is_zero(bytes),
            },
        }
    }
}

/// A piece as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// The digests of its leaves.
    pub leaves: Vec<Digest>,
    /// Leaves that the basis does not hold.
    pub changed: u64,
    /// Those of them that are all zeros.
    pub zeros: u64,
}

/// Compares a piece that was read with its basis.
pub fn examine(bytes: &[u8], basis: &Basis) -> Examined {
    let digester = Digester::canonical();
    let mut examined = Examined { leaves: Vec::with_capacity(bytes.len().div_ceil(LEAF_BYTES)), changed: 0, zeros: 0 };
    for (index, bytes) in bytes.chunks(LEAF_BYTES).enumerate() {
        let leaf = digester.leaf(bytes);
        if !basis.holds(index, &leaf, bytes) {
            examined.changed |= 1 << index;
            examined.zeros |= u64::from(is_zero(bytes)) << index;
        }
        examined.leaves.push(leaf);
    }
    examined
}

/// What to send of a piece that changed. `bytes` is not copied if all of it goes as it is.
pub fn message(content: ContentId, index: u64, bytes: &Bytes, examined: &Examined, compressor: &Compressor) -> Piece {
    let sent = examined.changed & !examined.zeros;
    let (codec, body) = compressor.pack(gather(bytes, sent));
    Piece {
        content,
        index,
        bytes: bytes.len() as u32,
        changed: examined.changed,
        zeros: examined.zeros,
        leaves: set_bits(sent).map(|leaf| examined.leaves[leaf]).collect(),
        digest: digest::piece(&examined.leaves),
        delta: None,
        codec,
        body,
    }
}

/// What to send of a piece of which `runs` stood elsewhere in the old content: as many as they are, they are copied
/// there. Nothing if sending the bytes is no worse; else with the bytes that the delta carries.
pub fn shifted_message(
    content: ContentId,
    index: u64,
    bytes: &Bytes,
    examined: &Examined,
    runs: &[Run],
    compressor: &Compressor,
) -> Option<(Piece, usize)> {
    let runs = &runs[..runs.len().min(LEAVES_PER_PIECE)];
    let (base, writer) = shift::delta(bytes, index * PIECE_BYTES as u64, examined.sent(), runs);
    let literal = writer.literal_bytes();
    let piece = delta_message(content, index, bytes, examined, (base, writer.finish()), compressor)?;
    Some((piece, literal))
}

/// What to send of a piece whose changed leaves come out of a delta against the extents `base`. Nothing if sending the
/// leaves is no worse.
pub fn delta_message(
    content: ContentId,
    index: u64,
    bytes: &Bytes,
    examined: &Examined,
    (base, delta): (Vec<Extent>, Bytes),
    compressor: &Compressor,
) -> Option<Piece> {
    let sent = examined.changed & !examined.zeros;
    if delta.len() > sent.count_ones() as usize * LEAF_BYTES / 2 || delta.len() > BODY_BYTES_MAX {
        return None;
    }
    let delta_bytes = delta.len() as u32;
    let (codec, body) = compressor.pack(delta);
    Some(Piece {
        content,
        index,
        bytes: bytes.len() as u32,
        changed: examined.changed,
        zeros: examined.zeros,
        leaves: Vec::new(),
        digest: digest::piece(&examined.leaves),
        delta: Some(Delta { base, bytes: delta_bytes }),
        codec,
        body,
    })
}

impl Examined {
    /// Runs of leaves that changed and are not zeros, as first and one after the last.
    pub fn sent(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        runs(self.changed & !self.zeros)
    }

    /// Their bytes, one after the other, in the piece with these bytes.
    pub fn raw(&self, bytes: &Bytes) -> Bytes {
        gather(bytes, self.changed & !self.zeros)
    }
}

fn gather(bytes: &Bytes, leaves: u64) -> Bytes {
    let count = leaves.count_ones() as usize;
    if count == bytes.len().div_ceil(LEAF_BYTES) {
        return bytes.clone();
    }
    let mut raw = Vec::with_capacity(count * LEAF_BYTES);
    for (from, to) in runs(leaves) {
        raw.extend_from_slice(&bytes[from * LEAF_BYTES..(to * LEAF_BYTES).min(bytes.len())]);
    }
    raw.into()
}

/// Why a received piece is not applied.
#[derive(Debug, Error)]
pub enum PieceError {
    /// The body cannot be unpacked.
    #[error("the body of a piece cannot be unpacked")]
    Pack(#[from] PackError),
    /// The body does not fit the bytes that it copies from.
    #[error("the body of a piece does not fit what is at the destination")]
    Delta(#[from] DeltaError),
    /// The bytes of a leaf are not those that its digest was made of.
    #[error("leaf {leaf} arrived with other bytes than were read at the source")]
    Leaf {
        /// Which leaf of the piece.
        leaf: usize,
    },
    /// The piece would not be what the source has: the two sides disagree about the basis.
    #[error("the basis of the piece is not what the source took it for")]
    Basis,
}

/// A piece that is proven to come out right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The digests of all its leaves.
    pub leaves: Vec<Digest>,
    /// What to write, in order and without gaps between neighbours.
    pub writes: Vec<Write>,
}

/// One write within a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// These bytes from this offset in the piece on.
    Bytes(usize, Bytes),
    /// This many zeros from this offset in the piece on.
    Zeros(usize, usize),
}

/// Checks a received piece against the destination's own record of the basis. `base` is what its delta copies from, if
/// it has one.
pub fn check(piece: &Piece, basis: &Basis, base: &[u8]) -> Result<Checked, PieceError> {
    let body = unpack(piece.codec, &piece.body, piece.body_bytes())?;
    let raw = match piece.delta {
        Some(_) => delta::apply(base, &body, piece.raw_bytes())?,
        None => body,
    };
    let digester = Digester::canonical();
    let total = piece.bytes as usize;
    let mut sent = piece.leaves.iter();
    let mut at = 0;
    let mut leaves = Vec::with_capacity(total.div_ceil(LEAF_BYTES));
    for index in 0..total.div_ceil(LEAF_BYTES) {
        let bytes = LEAF_BYTES.min(total - index * LEAF_BYTES);
        let is = |set: u64| set >> index & 1 == 1;
        let leaf = if is(piece.zeros) {
            digester.leaf(&[0; LEAF_BYTES][..bytes])
        } else if is(piece.changed) {
            let leaf = digester.leaf(&raw[at..at + bytes]);
            at += bytes;
            if piece.delta.is_none() && sent.next() != Some(&leaf) {
                return Err(PieceError::Leaf { leaf: index });
            }
            leaf
        } else {
            match basis {
                Basis::Unknown => return Err(PieceError::Basis),
                Basis::Leaves(leaves) => {
                    leaves.get(index).copied().unwrap_or_else(|| digester.leaf(&[0; LEAF_BYTES][..bytes]))
                }
            }
        };
        leaves.push(leaf);
    }
    if digest::piece(&leaves) != piece.digest {
        return Err(PieceError::Basis);
    }
    Ok(Checked { leaves, writes: writes(piece, &raw) })
}

fn writes(piece: &Piece, raw: &Bytes) -> Vec<Write> {
    let total = piece.bytes as usize;
    let extent = |(from, to): (usize, usize)| (from * LEAF_BYTES, (to * LEAF_BYTES).min(total) - from * LEAF_BYTES);
    let zeros = runs(piece.zeros).map(extent).map(|(offset, bytes)| Write::Zeros(offset, bytes));
    let mut at = 0;
    let bytes = runs(piece.changed & !piece.zeros).map(extent).map(|(offset, bytes)| {
        at += bytes;
        Write::Bytes(offset, raw.slice(at - bytes..at))
    });
    zeros.chain(bytes).collect()
}

/// How many pieces a content of `size` bytes has.
pub fn count(size: u64) -> u64 {
    size.div_ceil(PIECE_BYTES as u64)
}

/// Bytes of piece `index` of a content of `size` bytes.
pub fn bytes(size: u64, index: u64) -> usize {
    (size - index * PIECE_BYTES as u64).min(PIECE_BYTES as u64) as usize
}

fn set_bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (set != 0).then(|| set.trailing_zeros() as usize);
        set &= set.wrapping_sub(1);
        bit
    })
}

/// Runs of set bits, as first and one after the last.
fn runs(mut set: u64) -> impl Iterator<Item = (usize, usize)> {
    std::iter::from_fn(move || {
        if set == 0 {
            return None;
        }
        let from = set.trailing_zeros();
        let to = from + (set >> from).trailing_ones();
        set &= if to == 64 { 0 } else { u64::MAX << to };
        Some((from as usize, to as usize))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::Compression;
    use proptest::prelude::*;

    fn apply(old: &[u8], piece: &Piece, checked: &Checked) -> Vec<u8> {
        let mut new = old.to_vec();
        new.resize(piece.bytes as usize, 0);
        for write in &checked.writes {
            match write {
                Write::Bytes(offset, bytes) => new[*offset..offset + bytes.len()].copy_from_slice(bytes),
                Write::Zeros(offset, bytes) => new[*offset..offset + bytes].fill(0),
            }
        }
        new
    }

    fn leaves(bytes: &[u8]) -> Basis {
        Basis::Leaves(Digester::canonical().leaves(bytes).collect())
    }

    /// Bytes of a piece in which each leaf is zeros, one repeated byte, or noise.
    fn some_piece() -> impl Strategy<Value = Vec<u8>> {
        (prop::collection::vec(0u8..4, 1..=64), 0usize..LEAF_BYTES).prop_map(|(kinds, cut)| {
            let mut bytes: Vec<u8> = kinds
                .iter()
                .flat_map(|&kind| (0..LEAF_BYTES).map(move |at| if kind == 3 { (at * 31 % 251) as u8 } else { kind }))
                .collect();
            bytes.truncate(bytes.len() - cut);
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_piece_over_any_basis_becomes_what_the_source_has(
            old in some_piece(), new in some_piece(), knows_basis: bool, compression in 0..3u8,
        ) {
            let basis = if knows_basis { leaves(&old) } else { Basis::Unknown };
            let compression = [Compression::None, Compression::Lz4, Compression::Zstd(1)][compression as usize];
            let bytes = Bytes::from(new.clone());
            let examined = examine(&bytes, &basis);
            let piece = message(ContentId(0), 0, &bytes, &examined, &Compressor::new(compression));
            let frame = tranship_proto::Message::Piece(piece.clone()).encode();
            prop_assert_eq!(tranship_proto::Message::decode(frame), Ok(tranship_proto::Message::Piece(piece.clone())));
            let checked = check(&piece, &basis, &[]).expect("sent as read");
            prop_assert_eq!(&checked.leaves, &examined.leaves);
            prop_assert_eq!(apply(&old, &piece, &checked), new);
        }
    }

    #[test]
    fn only_the_changed_leaf_is_sent() {
        let old = vec![1; PIECE_BYTES];
        let mut new = old.clone();
        new[5 * LEAF_BYTES + 9] = 2;
        let examined = examine(&new, &leaves(&old));
        let piece = message(ContentId(0), 0, &new.into(), &examined, &Compressor::new(Compression::None));
        assert_eq!((piece.changed, piece.body.len()), (1 << 5, LEAF_BYTES));
    }

    #[test]
    fn a_flipped_bit_and_a_wrong_basis_are_noticed_before_anything_is_written() {
        let old = vec![1; PIECE_BYTES];
        let mut new = old.clone();
        new[0] = 2;
        let examined = examine(&new, &leaves(&old));
        let piece = message(ContentId(0), 0, &new.into(), &examined, &Compressor::new(Compression::None));
        let mut flipped = piece.clone();
        flipped.body = flipped.body.iter().enumerate().map(|(at, byte)| if at == 77 { 3 } else { *byte }).collect();
        assert!(matches!(check(&flipped, &leaves(&old), &[]), Err(PieceError::Leaf { leaf: 0 })));
        assert!(matches!(check(&piece, &leaves(&[4; PIECE_BYTES]), &[]), Err(PieceError::Basis)));
        assert!(matches!(check(&piece, &Basis::Unknown, &[]), Err(PieceError::Basis)));
    }
}
