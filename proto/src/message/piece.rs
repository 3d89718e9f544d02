//! What changed in one piece of a content, and the questions that lead to it.

use bytes::Bytes;

use super::content::{Codec, check_body};
use super::list::decode_digest;
use crate::codec::{Reader, WireError, Writer};
use crate::entry::Place;
use crate::id::{ContentId, Digest};
use crate::limit::{
    BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, BODY_BYTES_MAX, DELTA_BASE_BYTES_MAX, FILE_BYTES_MAX, LEAF_BYTES,
    LEAVES_PER_PIECE, PIECE_BYTES,
};

/// What changed in one piece of one content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Which content.
    pub content: ContentId,
    /// Which piece of it.
    pub index: u64,
    /// Bytes of the piece: [`PIECE_BYTES`], less in the last one.
    pub bytes: u32,
    /// Leaves that changed.
    pub changed: u64,
    /// Those of them that are all zeros and are not in the body.
    pub zeros: u64,
    /// Digests of the changed leaves that are in the body, in order; none for a delta.
    pub leaves: Vec<Digest>,
    /// Digest of the whole piece, as it is when this is applied.
    pub digest: Digest,
    /// What the unpacked body is a delta against; nothing if it is the changed leaves themselves.
    pub delta: Option<Delta>,
    /// How the leaves are packed.
    pub codec: Codec,
    /// The changed leaves that are not zeros, one after the other.
    pub body: Bytes,
}

impl Piece {
    /// Bytes of the changed leaves that are not zeros.
    pub fn raw_bytes(&self) -> usize {
        let in_body = self.changed & !self.zeros;
        let full = in_body.count_ones() as usize * LEAF_BYTES;
        // Only the last leaf of a piece may be short.
        let last = (self.bytes as usize).div_ceil(LEAF_BYTES).saturating_sub(1);
        let missing = (last + 1) * LEAF_BYTES - self.bytes as usize;
        if in_body >> last & 1 == 1 { full - missing } else { full }
    }

    /// Bytes of the body, unpacked.
    pub fn body_bytes(&self) -> usize {
        self.delta.as_ref().map_or_else(|| self.raw_bytes(), |delta| delta.bytes as usize)
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.u64(u64::from(self.content.0));
        w.u64(self.index);
        w.u64(u64::from(self.bytes));
        w.array(&self.changed.to_le_bytes());
        w.array(&self.zeros.to_le_bytes());
        w.array(&self.digest.0);
        w.u8(self.codec.number());
        w.option(self.delta.as_ref(), |w, delta| delta.encode(w));
        for leaf in &self.leaves {
            w.array(&leaf.0);
        }
    }

    pub(super) fn decode(mut r: Reader<'_>, body: Bytes) -> Result<Self, WireError> {
        let content = ContentId(r.u32("content")?);
        let index = r.at_most("piece", FILE_BYTES_MAX / PIECE_BYTES as u64)?;
        let bytes = r.at_most("piece size", PIECE_BYTES as u64)? as u32;
        let changed = u64::from_le_bytes(r.array("changed leaves")?);
        let zeros = u64::from_le_bytes(r.array("zero leaves")?);
        let digest = decode_digest(&mut r)?;
        let codec = Codec::from_number(r.u8("codec")?)?;
        let last = (bytes as usize).div_ceil(LEAF_BYTES);
        let beyond = if last >= LEAVES_PER_PIECE { 0 } else { u64::MAX << last };
        if bytes == 0 || changed & beyond != 0 || zeros & !changed != 0 {
            return Err(WireError::Meaningless { what: "changed leaves", value: changed });
        }
        let delta = r.option("delta", Delta::decode)?;
        let digests = if delta.is_some() { 0 } else { (changed & !zeros).count_ones() };
        let leaves = (0..digests).map(|_| decode_digest(&mut r)).collect::<Result<Vec<_>, _>>()?;
        r.finish()?;
        let piece = Self { content, index, bytes, changed, zeros, leaves, digest, delta, codec, body };
        check_body(codec, &piece.body, piece.body_bytes())?;
        Ok(piece)
    }
}

/// A body that copies from what the destination held before the pass: a delta in librsync's format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// The extents of the old content that it copies from, one after the other.
    pub base: Vec<Extent>,
    /// Bytes of the delta, unpacked.
    pub bytes: u32,
}

impl Delta {
    fn encode(&self, w: &mut Writer) {
        encode_extents(&self.base, w);
        w.u64(u64::from(self.bytes));
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let base = decode_extents(r)?;
        Ok(Self { base, bytes: r.at_most("delta size", BODY_BYTES_MAX as u64)? as u32 })
    }
}

/// Consecutive bytes of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The offset of the first.
    pub at: u64,
    /// How many there are.
    pub bytes: u32,
}

impl Extent {
    /// Bytes of all `extents`.
    pub fn total_bytes(extents: &[Self]) -> usize {
        extents.iter().map(|extent| extent.bytes as usize).sum()
    }
}

/// A question for the signature of what the destination holds: where a change is smaller than a leaf, or bytes moved and
/// nobody knows how far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Names the question in the answer.
    pub question: u32,
    /// The content.
    pub place: Place,
    /// Which of its bytes, one extent after the other.
    pub extents: Vec<Extent>,
    /// Bytes in a block of the signature, from [`BLOCK_BYTES_MIN`] to [`BLOCK_BYTES_MAX`].
    pub block_bytes: u32,
}

impl Ask {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.u64(u64::from(self.question));
        self.place.encode_after(&Place::root(), w);
        encode_extents(&self.extents, w);
        w.u64(u64::from(self.block_bytes));
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let question = r.u32("question")?;
        let place = Place::decode_after(&Place::root(), r)?;
        let extents = decode_extents(r)?;
        let block_bytes = r.at_most("block size", u64::from(BLOCK_BYTES_MAX))? as u32;
        if block_bytes < BLOCK_BYTES_MIN {
            return Err(WireError::Meaningless { what: "block size", value: u64::from(block_bytes) });
        }
        Ok(Self { question, place, extents, block_bytes })
    }
}

/// The answer to an [`Ask`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The question.
    pub question: u32,
    /// A signature in librsync's format; empty if the bytes are not there.
    pub body: Bytes,
}

impl Signature {
    pub(super) fn decode(mut r: Reader<'_>, body: Bytes) -> Result<Self, WireError> {
        let question = r.u32("question")?;
        r.finish()?;
        Ok(Self { question, body })
    }
}

fn encode_extents(extents: &[Extent], w: &mut Writer) {
    w.u64(extents.len() as u64);
    for extent in extents {
        w.u64(extent.at);
        w.u64(u64::from(extent.bytes));
    }
}

fn decode_extents(r: &mut Reader<'_>) -> Result<Vec<Extent>, WireError> {
    let mut total = 0;
    (0..r.count("extents", LEAVES_PER_PIECE)?)
        .map(|_| {
            let at = r.at_most("extent", FILE_BYTES_MAX)?;
            let bytes = r.at_most("extents", DELTA_BASE_BYTES_MAX as u64 - total)?;
            total += bytes;
            Ok(Extent { at, bytes: bytes as u32 })
        })
        .collect()
}
