//! How much one message says.

use super::{Gap, Listed, Op, Packed, SurveyItem};
use crate::entry::{Meta, Place};
use crate::limit::{BATCH_BYTES, BATCH_MAX};

/// One of many in a message.
pub trait Item {
    /// Bytes that it takes in a message at most, and in memory about: its places count in full, whatever they share with
    /// the one before.
    fn bytes(&self) -> usize;
}

/// A message that is being filled.
#[derive(Debug, Default)]
pub struct Batch {
    items: usize,
    bytes: usize,
}

impl Batch {
    /// Whether another item may go into it, however large that is.
    pub fn has_room(&self) -> bool {
        self.items < BATCH_MAX && self.bytes < BATCH_BYTES
    }

    /// Counts an item that goes into it.
    pub fn add(&mut self, item: &impl Item) {
        self.items += 1;
        self.bytes += item.bytes();
    }
}

/// Bytes that items take in a message at most, and in memory about.
pub fn bytes_of(items: &[impl Item]) -> usize {
    items.iter().map(Item::bytes).sum()
}

/// Splits `items` so that each part fits in a message.
pub fn batches<T: Item>(items: Vec<T>) -> Vec<Vec<T>> {
    let (mut parts, mut batch) = (Vec::new(), Batch::default());
    for item in items {
        if parts.is_empty() || !batch.has_room() {
            parts.push(Vec::new());
            batch = Batch::default();
        }
        batch.add(&item);
        parts.last_mut().expect("it has just been pushed").push(item);
    }
    parts
}

/// Numbers, digests and lengths of an item.
const FIXED_BYTES: usize = 128;

fn place_bytes(place: &Place) -> usize {
    place.as_bytes().len()
}

impl Item for Meta {
    fn bytes(&self) -> usize {
        self.xattrs.iter().map(|xattr| 8 + xattr.name.len() + xattr.value.len()).sum()
    }
}

impl Item for Op {
    fn bytes(&self) -> usize {
        let more = match self {
            Self::Symlink { target, meta, .. } => target.len() + meta.bytes(),
            Self::Link { leader, .. } => place_bytes(leader),
            Self::Special { meta, .. } | Self::SetMeta { meta, .. } => meta.bytes(),
            Self::Delete { .. } | Self::MoveOut { .. } | Self::MoveIn { .. } | Self::MakeDirectory { .. } => 0,
        };
        FIXED_BYTES + place_bytes(self.place()) + more
    }
}

impl Item for Packed {
    fn bytes(&self) -> usize {
        FIXED_BYTES + place_bytes(&self.place) + self.meta.bytes()
    }
}

impl Item for Gap {
    fn bytes(&self) -> usize {
        FIXED_BYTES + place_bytes(&self.place) + self.detail.len()
    }
}

impl Item for Listed {
    fn bytes(&self) -> usize {
        FIXED_BYTES + place_bytes(&self.place)
    }
}

impl Item for SurveyItem {
    fn bytes(&self) -> usize {
        FIXED_BYTES
            + match self {
                Self::Absent(place) => place_bytes(place),
                Self::Present(entry) => place_bytes(&entry.place) + entry.leader.as_ref().map_or(0, place_bytes),
                Self::Pieces(digests) => digests.len() * 32,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Kind, Xattr};
    use crate::limit::{DEPTH_MAX, HEAD_BYTES_MAX, PLACE_BYTES_MAX, XATTR_VALUE_BYTES_MAX, XATTRS_BYTES_MAX};
    use crate::message::Message;

    /// As deep as it goes, and different from the others from its first name on.
    fn deep(number: usize) -> Place {
        let name = vec![b'n'; PLACE_BYTES_MAX / DEPTH_MAX - 1];
        let mut names = vec![name; DEPTH_MAX];
        names[0] = format!("{number:05}").into_bytes();
        Place::from_bytes(names.join(&0)).unwrap()
    }

    fn heavy() -> Meta {
        let count = XATTRS_BYTES_MAX / XATTR_VALUE_BYTES_MAX;
        let value = vec![7; XATTR_VALUE_BYTES_MAX - 8];
        let xattr = |number| Xattr { name: format!("user.{number}").into_bytes().into(), value: value.clone().into() };
        Meta { xattrs: (0..count).map(xattr).collect(), ..Meta::default() }
    }

    #[test]
    fn whatever_the_items_are_every_part_fits_in_a_frame_and_none_is_lost() {
        let light: Vec<Op> = (0..10_000)
            .map(|number| Op::MakeDirectory { place: Place::from_bytes(format!("{number:05}").into_bytes()).unwrap() })
            .collect();
        let meta = |number| Op::SetMeta { place: deep(number), kind: Kind::Directory, meta: heavy() };
        let heavy: Vec<Op> = (0..20).map(meta).collect();
        let links = (1..20).map(|number| Op::Link { place: deep(number), leader: deep(0) }).collect();
        for (ops, most) in [(light, 4), (heavy, 20), (links, 19)] {
            let parts = batches(ops.clone());
            assert!(parts.len() <= most, "{} parts", parts.len());
            for part in &parts {
                let frame = Message::Structure(part.clone()).encode();
                assert!(frame.head.len() <= HEAD_BYTES_MAX, "{} bytes", frame.head.len());
                assert_eq!(Message::decode(frame).unwrap(), Message::Structure(part.clone()));
            }
            assert_eq!(parts.concat(), ops);
        }
        assert!(batches(Vec::<Op>::new()).is_empty());
    }
}
