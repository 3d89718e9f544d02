//! Files as a whole, and what opens and closes those that travel in pieces.

use bytes::Bytes;

use super::list::{decode_digest, decode_list, encode_list};
use crate::codec::{Reader, WireError, Writer};
use crate::entry::{Kind, Meta, Place};
use crate::id::{ContentId, Digest};
use crate::limit::{BODY_BYTES_MAX, FILE_BYTES_MAX, PACK_FILES_MAX, PACKED_FILE_BYTES_MAX};

/// Pieces of a content may follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Its number in this pass.
    pub content: ContentId,
    /// Where it is.
    pub place: Place,
    /// File or block volume.
    pub kind: Kind,
    /// Bytes that it has at the source.
    pub size: u64,
    /// What its pieces are written onto.
    pub onto: Onto,
}

impl Open {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.u64(u64::from(self.content.0));
        self.place.encode_after(&Place::root(), w);
        w.u8(self.kind.number());
        w.u64(self.size);
        w.u8(self.onto.number());
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            content: ContentId(r.u32("content")?),
            place: Place::decode_after(&Place::root(), r)?,
            kind: Kind::from_number(r.u8("kind")?)?,
            size: r.at_most("size", FILE_BYTES_MAX)?,
            onto: Onto::from_number(r.u8("onto")?)?,
        })
    }
}

/// What pieces are written onto.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onto {
    /// A new file of zeros, which replaces what is there at once.
    Zeros,
    /// What is there.
    Basis,
    /// A new file of zeros beside what is there, which it replaces in the end: pieces may be deltas against the old one.
    Beside,
}

impl Onto {
    fn number(self) -> u8 {
        match self {
            Self::Zeros => 0,
            Self::Basis => 1,
            Self::Beside => 2,
        }
    }

    fn from_number(number: u8) -> Result<Self, WireError> {
        match number {
            0 => Ok(Self::Zeros),
            1 => Ok(Self::Basis),
            2 => Ok(Self::Beside),
            value => Err(WireError::Meaningless { what: "onto", value: u64::from(value) }),
        }
    }
}

/// All pieces of a content were sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// Its number in this pass.
    pub content: ContentId,
    /// Bytes that it has; more is cut off.
    pub size: u64,
    /// Pieces that were sent.
    pub pieces: u64,
    /// Digest of all its bytes.
    pub digest: Digest,
    /// Metadata, except for a block volume.
    pub meta: Option<Meta>,
}

impl Close {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.u64(u64::from(self.content.0));
        w.u64(self.size);
        w.u64(self.pieces);
        w.array(&self.digest.0);
        w.option(self.meta.as_ref(), |w, meta| meta.encode(w));
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            content: ContentId(r.u32("content")?),
            size: r.at_most("size", FILE_BYTES_MAX)?,
            pieces: r.u64("pieces")?,
            digest: decode_digest(r)?,
            meta: r.option("metadata", Meta::decode)?,
        })
    }
}

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// As it is.
    Plain,
    /// One LZ4 block.
    Lz4,
    /// One Zstandard frame.
    Zstd,
}

impl Codec {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    pub(super) fn from_number(number: u8) -> Result<Self, WireError> {
        match number {
            0 => Ok(Self::Plain),
            1 => Ok(Self::Lz4),
            2 => Ok(Self::Zstd),
            value => Err(WireError::Meaningless { what: "codec", value: u64::from(value) }),
        }
    }
}

/// Small files as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// The files, in the order of their bytes.
    pub files: Vec<Packed>,
    /// How the bytes are packed.
    pub codec: Codec,
    /// Their contents, one after the other.
    pub body: Bytes,
}

/// One small file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Where.
    pub place: Place,
    /// Its bytes in the body.
    pub size: u32,
    /// Digest of its content.
    pub digest: Digest,
    /// Its metadata.
    pub meta: Meta,
}

impl Pack {
    /// Bytes of all files, unpacked.
    pub fn raw_bytes(&self) -> usize {
        self.files.iter().map(|file| file.size as usize).sum()
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.u8(self.codec.number());
        encode_list(
            &self.files,
            |file| &file.place,
            w,
            |w, file| {
                w.u64(u64::from(file.size));
                w.array(&file.digest.0);
                file.meta.encode(w);
            },
        );
    }

    pub(super) fn decode(mut r: Reader<'_>, body: Bytes) -> Result<Self, WireError> {
        let codec = Codec::from_number(r.u8("codec")?)?;
        let files = decode_list(&mut r, "files", PACK_FILES_MAX, |place, r| {
            Ok(Packed {
                place,
                size: r.at_most("file size", PACKED_FILE_BYTES_MAX as u64)? as u32,
                digest: decode_digest(r)?,
                meta: Meta::decode(r)?,
            })
        })?;
        r.finish()?;
        let pack = Self { files, codec, body };
        let raw = pack.raw_bytes();
        check_body(codec, &pack.body, raw)?;
        Ok(pack)
    }
}

/// A plain body must have exactly the bytes that the head announces, and a packed one must be smaller than that.
pub(super) fn check_body(codec: Codec, body: &Bytes, raw: usize) -> Result<(), WireError> {
    let is_right = match codec {
        Codec::Plain => body.len() == raw,
        Codec::Lz4 | Codec::Zstd => body.len() < raw,
    };
    if raw > BODY_BYTES_MAX || !is_right {
        return Err(WireError::Limit { what: "body", value: body.len() as u64, max: raw.min(BODY_BYTES_MAX) as u64 });
    }
    Ok(())
}
