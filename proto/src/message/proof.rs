//! What is asked and answered to show that two volumes are equal.

use super::contract::Contract;
use super::list::{decode_digest, decode_list, encode_list};
use super::pass::{decode_block_bytes, decode_patterns, encode_patterns};
use crate::codec::{Reader, WireError, Writer};
use crate::entry::{Kind, Place};
use crate::id::Digest;
use crate::limit::{BATCH_MAX, FILE_BYTES_MAX};

/// What is compared without a pass. Nothing is changed by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examine {
    /// Size of a block volume: a larger destination is equal if zeros follow.
    pub block_bytes: Option<u64>,
    /// Patterns of what is left out on both sides, in gitignore's syntax.
    pub excludes: Vec<String>,
}

impl Examine {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.option(self.block_bytes, Writer::u64);
        encode_patterns(&self.excludes, w);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { block_bytes: decode_block_bytes(r)?, excludes: decode_patterns(r)? })
    }
}

/// How much is read for a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Every byte on both sides.
    Full,
    /// What changed since the pass that read it, and a sample of the rest.
    Tracked,
}

impl Level {
    fn number(self) -> u8 {
        match self {
            Self::Full => 1,
            Self::Tracked => 2,
        }
    }

    fn from_number(number: u8) -> Result<Self, WireError> {
        match number {
            1 => Ok(Self::Full),
            2 => Ok(Self::Tracked),
            value => Err(WireError::Meaningless { what: "level", value: u64::from(value) }),
        }
    }
}

/// What became of what was written, as far as it was read back from the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rechecked {
    /// Bytes that were read for it.
    pub read_bytes: u64,
    /// Entries of which the device does not hold what was written: they are in doubt from now on.
    pub lost_entries: u64,
    /// Whether that is all. What is said before only shows that it goes on.
    pub is_done: bool,
}

impl Rechecked {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.u64(self.read_bytes);
        w.u64(self.lost_entries);
        w.bool(self.is_done);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { read_bytes: r.u64("bytes read")?, lost_entries: r.u64("lost entries")?, is_done: r.bool("done")? })
    }
}

/// Read your volume again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    /// Key of the challenge digest: nobody could have computed it before.
    pub nonce: [u8; 32],
    /// How much to read.
    pub level: Level,
    /// The contract under which metadata counts.
    pub contract: Contract,
    /// Whether each entry's digest is wanted too, because the whole one differed.
    pub lists_entries: bool,
}

impl Challenge {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.array(&self.nonce);
        w.u8(self.level.number());
        self.contract.encode(w);
        w.bool(self.lists_entries);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            nonce: r.array("nonce")?,
            level: Level::from_number(r.u8("level")?)?,
            contract: Contract::decode(r)?,
            lists_entries: r.bool("listing")?,
        })
    }
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// The canonical digest: the same for equal volumes, whenever and wherever it is made.
    pub canonical: Digest,
    /// The digest of the same bytes under the challenge's nonce.
    pub challenge: Digest,
    /// Entries in the volume.
    pub entries: u64,
    /// Logical bytes of content, holes included.
    pub bytes: u64,
    /// Bytes that were read for this proof.
    pub read_bytes: u64,
}

impl Proof {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.array(&self.canonical.0);
        w.array(&self.challenge.0);
        w.u64(self.entries);
        w.u64(self.bytes);
        w.u64(self.read_bytes);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            canonical: decode_digest(r)?,
            challenge: decode_digest(r)?,
            entries: r.u64("entries")?,
            bytes: r.u64("bytes")?,
            read_bytes: r.u64("bytes read")?,
        })
    }
}

/// One entry's digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Where.
    pub place: Place,
    /// What.
    pub kind: Kind,
    /// Bytes of content.
    pub size: u64,
    /// Digest of its metadata.
    pub meta: Digest,
    /// Digest of its content.
    pub content: Digest,
}

impl Listed {
    pub(super) fn encode_all(entries: &[Self], w: &mut Writer) {
        encode_list(
            entries,
            |entry| &entry.place,
            w,
            |w, entry| {
                w.u8(entry.kind.number());
                w.u64(entry.size);
                w.array(&entry.meta.0);
                w.array(&entry.content.0);
            },
        );
    }

    pub(super) fn decode_all(r: &mut Reader<'_>) -> Result<Vec<Self>, WireError> {
        decode_list(r, "entries", BATCH_MAX, |place, r| {
            Ok(Self {
                place,
                kind: Kind::from_number(r.u8("kind")?)?,
                size: r.at_most("size", FILE_BYTES_MAX)?,
                meta: decode_digest(r)?,
                content: decode_digest(r)?,
            })
        })
    }
}
