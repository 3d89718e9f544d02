//! One line of a manifest: an object, and what is known about it without looking.

use tranship_proto::codec::{Reader, WireError, Writer};
use tranship_proto::entry::{Kind, Place};
use tranship_proto::id::Digest;
use tranship_proto::limit::FILE_BYTES_MAX;

use crate::stat::Stat;

/// An object of a volume. Digests describe what the *destination* holds; the stat is this side's own, and tells whether
/// they can be taken for granted here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub place: Place,
    /// What.
    pub kind: Kind,
    /// Bytes of content.
    pub size: u64,
    /// What the kernel said when the digests were made; nothing when the object may have changed since: it changed
    /// while it was read, or so shortly before that the clock cannot tell.
    pub stat: Option<Stat>,
    /// Digest of the metadata; nothing when the destination could not take it over.
    pub meta: Option<Digest>,
    /// Digest of the content, for files and block volumes; nothing when it is in doubt.
    pub content: Option<Digest>,
    /// Where the digests of its leaves are in the map beside the manifest, for large contents.
    pub map: Option<u64>,
    /// The first name of this inode, if this is a later one.
    pub leader: Option<Place>,
    /// Whether the content was read from the device since it was last written, and was what `content` says. Only a
    /// destination says so: a source never writes.
    pub is_read_back: bool,
}

impl Entry {
    /// Whether nothing about it is in doubt.
    pub fn is_settled(&self) -> bool {
        self.stat.is_some() && self.meta.is_some() && (self.content.is_some() || !self.has_own_content())
    }

    /// Whether it has content that no other entry has already.
    pub fn has_own_content(&self) -> bool {
        self.kind.has_content() && self.leader.is_none()
    }

    /// Whether it has to be read back before its digest can be believed. What has no stat, or one that no write would move,
    /// is never believed.
    pub fn is_unread(&self) -> bool {
        let is_believable = self.stat.is_some_and(|stat| stat.is_unchanged_since(&stat)) && self.content.is_some();
        self.has_own_content() && is_believable && !self.is_read_back
    }

    /// Whether both say the same about the object, whichever side's stat they carry.
    pub fn is_same_object(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.size == other.size
            && self.meta == other.meta
            && self.content == other.content
            && self.leader == other.leader
    }

    /// Writes it as its difference from the entry before.
    pub fn encode_after(&self, previous: &Place, w: &mut Writer) {
        self.place.encode_after(previous, w);
        w.u8(self.kind.number());
        w.u64(self.size);
        w.option(self.stat.as_ref(), |w, stat| stat.encode(w));
        w.option(self.meta, |w, digest| w.array(&digest.0));
        w.option(self.content, |w, digest| w.array(&digest.0));
        w.option(self.map, Writer::u64);
        w.option(self.leader.as_ref(), |w, leader| leader.encode_after(&Place::root(), w));
        w.bool(self.is_read_back);
    }

    /// Reads it.
    pub fn decode_after(previous: &Place, r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            place: Place::decode_after(previous, r)?,
            kind: Kind::from_number(r.u8("kind")?)?,
            size: r.at_most("size", FILE_BYTES_MAX)?,
            stat: r.option("stat", Stat::decode)?,
            meta: r.option("metadata digest", |r| Ok(Digest(r.array("digest")?)))?,
            content: r.option("content digest", |r| Ok(Digest(r.array("digest")?)))?,
            map: r.option("map", |r| r.u64("map"))?,
            leader: r.option("leader", |r| Place::decode_after(&Place::root(), r))?,
            is_read_back: r.bool("read back")?,
        })
    }
}

/// Something that happened to a place since a manifest was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing is there any more, nor beneath it.
    Removed(Place),
    /// This is there now.
    Entry(Entry),
    /// What is there has this stat and this metadata now, and the same content.
    Meta {
        /// Where.
        place: Place,
        /// What the kernel said before: whether it still was what the manifest is about.
        before: Stat,
        /// What the kernel says now.
        stat: Option<Stat>,
        /// Digest of the metadata.
        meta: Option<Digest>,
    },
}

impl Change {
    /// Where it happened.
    pub fn place(&self) -> &Place {
        match self {
            Self::Removed(place) | Self::Meta { place, .. } => place,
            Self::Entry(entry) => &entry.place,
        }
    }

    /// Writes it, whole.
    pub fn encode(&self, w: &mut Writer) {
        match self {
            Self::Removed(place) => {
                w.u8(1);
                place.encode_after(&Place::root(), w);
            }
            Self::Entry(entry) => {
                w.u8(2);
                entry.encode_after(&Place::root(), w);
            }
            Self::Meta { place, before, stat, meta } => {
                w.u8(3);
                place.encode_after(&Place::root(), w);
                before.encode(w);
                w.option(stat.as_ref(), |w, stat| stat.encode(w));
                w.option(*meta, |w, digest| w.array(&digest.0));
            }
        }
    }

    /// Reads it.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        match r.u8("change")? {
            1 => Place::decode_after(&Place::root(), r).map(Self::Removed),
            2 => Entry::decode_after(&Place::root(), r).map(Self::Entry),
            3 => Ok(Self::Meta {
                place: Place::decode_after(&Place::root(), r)?,
                before: Stat::decode(r)?,
                stat: r.option("stat", Stat::decode)?,
                meta: r.option("metadata digest", |r| Ok(Digest(r.array("digest")?)))?,
            }),
            value => Err(WireError::Meaningless { what: "change", value: u64::from(value) }),
        }
    }
}
