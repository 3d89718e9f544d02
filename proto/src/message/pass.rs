//! What a pass builds on, how far it is, and how it ends.

use super::contract::Fidelity;
use super::list::{decode_digest, decode_token};
use crate::codec::{Reader, WireError, Writer};
use crate::id::{Digest, Token};
use crate::limit::{FILE_BYTES_MAX, PATTERNS_MAX};

/// What a destination holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basis {
    /// Names the volume, so that a source keeps one manifest for each of its destinations.
    pub volume: Digest,
    /// Its last committed manifest.
    pub token: Option<Token>,
    /// Whether a pass was cut off since.
    pub is_interrupted: bool,
    /// Whether it has nothing at all: the first copy needs no survey.
    pub is_empty: bool,
    /// Bytes that the volume can hold.
    pub capacity_bytes: u64,
    /// Bytes that are free in it.
    pub free_bytes: u64,
}

impl Basis {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.array(&self.volume.0);
        w.option(self.token, |w, token| w.array(&token.0));
        w.bool(self.is_interrupted);
        w.bool(self.is_empty);
        w.u64(self.capacity_bytes);
        w.u64(self.free_bytes);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            volume: decode_digest(r)?,
            token: r.option("token", decode_token)?,
            is_interrupted: r.bool("interrupted")?,
            is_empty: r.bool("empty")?,
            capacity_bytes: r.u64("capacity")?,
            free_bytes: r.u64("free bytes")?,
        })
    }
}

/// What a pass builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BasisChoice {
    /// Both sides hold this manifest; the survey tells only what is in doubt since.
    Common(Token),
    /// No manifest is common; the survey tells everything.
    Survey,
    /// The destination is empty, or not worth reading: everything is sent.
    Nothing,
}

/// The source begins a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// What both sides take for granted.
    pub basis: BasisChoice,
    /// The contract for metadata.
    pub fidelity: Fidelity,
    /// Whether the source has no writers.
    pub is_final: bool,
    /// Size of a block volume.
    pub block_bytes: Option<u64>,
    /// Patterns of what is left out on both sides, in gitignore's syntax.
    pub excludes: Vec<String>,
}

impl Begin {
    pub(super) fn encode(&self, w: &mut Writer) {
        match self.basis {
            BasisChoice::Common(token) => {
                w.u8(1);
                w.array(&token.0);
            }
            BasisChoice::Survey => w.u8(2),
            BasisChoice::Nothing => w.u8(3),
        }
        w.u8(self.fidelity.number());
        w.bool(self.is_final);
        w.option(self.block_bytes, Writer::u64);
        encode_patterns(&self.excludes, w);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            basis: match r.u8("basis")? {
                1 => BasisChoice::Common(decode_token(r)?),
                2 => BasisChoice::Survey,
                3 => BasisChoice::Nothing,
                value => return Err(WireError::Meaningless { what: "basis", value: u64::from(value) }),
            },
            fidelity: Fidelity::from_number(r.u8("fidelity")?)?,
            is_final: r.bool("final")?,
            block_bytes: decode_block_bytes(r)?,
            excludes: decode_patterns(r)?,
        })
    }
}

/// How much a pass may touch, and how much it is for progress and for the space check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Whether it may touch so much that listing it is not worth it.
    pub touches_everything: bool,
    /// Entries that may change.
    pub entries: u64,
    /// Bytes of content that may be sent.
    pub bytes: u64,
}

impl Plan {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.bool(self.touches_everything);
        w.u64(self.entries);
        w.u64(self.bytes);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { touches_everything: r.bool("plan")?, entries: r.u64("entries")?, bytes: r.u64("bytes")? })
    }
}

/// Everything before this must be done before anything after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Barrier {
    /// Packs that were sent so far in this pass.
    pub packs: u64,
    /// Contents that were opened so far in this pass.
    pub contents: u64,
}

impl Barrier {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.u64(self.packs);
        w.u64(self.contents);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { packs: r.u64("packs")?, contents: r.u64("contents")? })
    }
}

/// This much is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ack {
    /// Bytes of content that were applied and flushed in this pass.
    pub bytes: u64,
    /// Entries that were applied and flushed in this pass.
    pub entries: u64,
}

impl Ack {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.u64(self.bytes);
        w.u64(self.entries);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { bytes: r.u64("bytes")?, entries: r.u64("entries")? })
    }
}

/// The pass is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finish {
    /// The name of the manifest that both sides now make, if anything changed.
    pub token: Token,
    /// Entries of the volume, for a first plausibility check.
    pub entries: u64,
}

impl Finish {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.array(&self.token.0);
        w.u64(self.entries);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { token: decode_token(r)?, entries: r.u64("entries")? })
    }
}

/// What a destination did in a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Committed {
    /// The manifest that is durable now.
    pub token: Option<Token>,
    /// Bytes of the volume that were read.
    pub read_bytes: u64,
    /// Bytes of the volume that were written.
    pub written_bytes: u64,
    /// Entries that were found changed behind our back.
    pub drifted_entries: u64,
}

impl Committed {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.option(self.token, |w, token| w.array(&token.0));
        w.u64(self.read_bytes);
        w.u64(self.written_bytes);
        w.u64(self.drifted_entries);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            token: r.option("token", decode_token)?,
            read_bytes: r.u64("bytes read")?,
            written_bytes: r.u64("bytes written")?,
            drifted_entries: r.u64("drifted entries")?,
        })
    }
}

pub(super) fn encode_patterns(patterns: &[String], w: &mut Writer) {
    w.u64(patterns.len() as u64);
    patterns.iter().for_each(|pattern| w.bytes(pattern.as_bytes()));
}

pub(super) fn decode_patterns(r: &mut Reader<'_>) -> Result<Vec<String>, WireError> {
    (0..r.count("patterns", PATTERNS_MAX)?).map(|_| r.text("pattern")).collect()
}

pub(super) fn decode_block_bytes(r: &mut Reader<'_>) -> Result<Option<u64>, WireError> {
    r.option("block size", |r| r.at_most("block size", FILE_BYTES_MAX))
}
