//! What is done to a tree besides writing contents.

use super::list::{decode_list, encode_list};
use crate::codec::{Reader, WireError, Writer};
use crate::entry::{Kind, Meta, Place, decode_target};
use crate::limit::BATCH_MAX;

/// One operation on the tree, done in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Remove what is there, with everything beneath it.
    Delete {
        /// Where.
        place: Place,
    },
    /// Move it into a numbered slot outside the tree's own names, until its new place is ready.
    MoveOut {
        /// From where.
        place: Place,
        /// To which slot.
        slot: u32,
    },
    /// Move it from its slot to its new place, replacing what is there.
    MoveIn {
        /// To where.
        place: Place,
        /// From which slot.
        slot: u32,
    },
    /// Make a directory; its metadata follows later.
    MakeDirectory {
        /// Where.
        place: Place,
    },
    /// Make a symbolic link, replacing what is there.
    Symlink {
        /// Where.
        place: Place,
        /// To what, verbatim.
        target: Box<[u8]>,
        /// Owner, time and attributes.
        meta: Meta,
    },
    /// Make another name of a regular file, replacing what is there.
    Link {
        /// Where.
        place: Place,
        /// The file's first name in the order of places.
        leader: Place,
    },
    /// Make a FIFO or a device node, or record a socket.
    Special {
        /// Where.
        place: Place,
        /// Which.
        kind: Kind,
        /// Device number, 0 for others.
        device: u64,
        /// Owner, mode, time and attributes.
        meta: Meta,
    },
    /// Set metadata of what is there.
    SetMeta {
        /// Where.
        place: Place,
        /// What must be there.
        kind: Kind,
        /// To what.
        meta: Meta,
    },
}

impl Op {
    /// Where it acts.
    pub fn place(&self) -> &Place {
        match self {
            Self::Delete { place }
            | Self::MoveOut { place, .. }
            | Self::MoveIn { place, .. }
            | Self::MakeDirectory { place }
            | Self::Symlink { place, .. }
            | Self::Link { place, .. }
            | Self::Special { place, .. }
            | Self::SetMeta { place, .. } => place,
        }
    }
}

impl Op {
    fn encode(&self, w: &mut Writer) {
        match self {
            Self::Delete { .. } => w.u8(1),
            Self::MoveOut { slot, .. } => {
                w.u8(2);
                w.u64(u64::from(*slot));
            }
            Self::MoveIn { slot, .. } => {
                w.u8(3);
                w.u64(u64::from(*slot));
            }
            Self::MakeDirectory { .. } => w.u8(4),
            Self::Symlink { target, meta, .. } => {
                w.u8(5);
                w.bytes(target);
                meta.encode(w);
            }
            Self::Link { leader, .. } => {
                w.u8(6);
                leader.encode_after(&Place::root(), w);
            }
            Self::Special { kind, device, meta, .. } => {
                w.u8(7);
                w.u8(kind.number());
                w.u64(*device);
                meta.encode(w);
            }
            Self::SetMeta { kind, meta, .. } => {
                w.u8(8);
                w.u8(kind.number());
                meta.encode(w);
            }
        }
    }

    fn decode(place: Place, r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match r.u8("operation")? {
            1 => Self::Delete { place },
            2 => Self::MoveOut { place, slot: r.u32("slot")? },
            3 => Self::MoveIn { place, slot: r.u32("slot")? },
            4 => Self::MakeDirectory { place },
            5 => Self::Symlink { place, target: decode_target(r)?, meta: Meta::decode(r)? },
            6 => {
                let leader = Place::decode_after(&Place::root(), r)?;
                if leader >= place {
                    return Err(WireError::Order { what: "hard link" });
                }
                Self::Link { place, leader }
            }
            7 => Self::Special {
                place,
                kind: match Kind::from_number(r.u8("kind")?)? {
                    kind @ (Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice) => kind,
                    kind => {
                        return Err(WireError::Meaningless { what: "special kind", value: u64::from(kind.number()) });
                    }
                },
                device: r.u64("device")?,
                meta: Meta::decode(r)?,
            },
            8 => Self::SetMeta { place, kind: Kind::from_number(r.u8("kind")?)?, meta: Meta::decode(r)? },
            value => return Err(WireError::Meaningless { what: "operation", value: u64::from(value) }),
        })
    }

    pub(super) fn encode_all(ops: &[Self], w: &mut Writer) {
        encode_list(ops, Self::place, w, |w, op| op.encode(w));
    }

    pub(super) fn decode_all(r: &mut Reader<'_>) -> Result<Vec<Self>, WireError> {
        decode_list(r, "operations", BATCH_MAX, Self::decode)
    }
}
