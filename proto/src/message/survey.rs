//! What a destination holds, where no common manifest tells.

use super::list::{Places, decode_digest};
use crate::codec::{Reader, WireError, Writer};
use crate::entry::{Kind, Place};
use crate::id::Digest;
use crate::limit::{BATCH_MAX, FILE_BYTES_MAX};

/// One line of a survey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SurveyItem {
    /// Nothing is at this place, nor beneath it.
    Absent(Place),
    /// An entry as it was found.
    Present(Box<Surveyed>),
    /// Digests of consecutive pieces of the entry before.
    Pieces(Vec<Digest>),
}

/// An entry as a destination found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surveyed {
    /// Where.
    pub place: Place,
    /// What.
    pub kind: Kind,
    /// Bytes of content.
    pub size: u64,
    /// Digest of its metadata, if it could be read.
    pub meta: Option<Digest>,
    /// Digest of its content, if it has one and it was read.
    pub content: Option<Digest>,
    /// The first name of its inode, if this is a later one.
    pub leader: Option<Place>,
}

impl SurveyItem {
    pub(super) fn encode_all(items: &[Self], w: &mut Writer) {
        w.u64(items.len() as u64);
        let root = Place::root();
        let mut previous = &root;
        for item in items {
            match item {
                SurveyItem::Absent(place) => {
                    w.u8(1);
                    place.encode_after(previous, w);
                    previous = place;
                }
                SurveyItem::Present(entry) => {
                    w.u8(2);
                    entry.place.encode_after(previous, w);
                    w.u8(entry.kind.number());
                    w.u64(entry.size);
                    w.option(entry.meta, |w, digest| w.array(&digest.0));
                    w.option(entry.content, |w, digest| w.array(&digest.0));
                    w.option(entry.leader.as_ref(), |w, leader| leader.encode_after(&Place::root(), w));
                    previous = &entry.place;
                }
                SurveyItem::Pieces(digests) => {
                    w.u8(3);
                    w.u64(digests.len() as u64);
                    digests.iter().for_each(|digest| w.array(&digest.0));
                }
            }
        }
    }

    pub(super) fn decode_all(r: &mut Reader<'_>) -> Result<Vec<Self>, WireError> {
        let mut places = Places::new();
        (0..r.count("survey", BATCH_MAX)?)
            .map(|_| {
                Ok(match r.u8("survey")? {
                    1 => SurveyItem::Absent(places.decode(r)?),
                    2 => SurveyItem::Present(Box::new(Surveyed {
                        place: places.decode(r)?,
                        kind: Kind::from_number(r.u8("kind")?)?,
                        size: r.at_most("size", FILE_BYTES_MAX)?,
                        meta: r.option("metadata digest", decode_digest)?,
                        content: r.option("content digest", decode_digest)?,
                        leader: r.option("leader", |r| Place::decode_after(&Place::root(), r))?,
                    })),
                    3 => SurveyItem::Pieces(
                        (0..r.count("pieces", BATCH_MAX)?).map(|_| decode_digest(r)).collect::<Result<_, _>>()?,
                    ),
                    value => return Err(WireError::Meaningless { what: "survey", value: u64::from(value) }),
                })
            })
            .collect()
    }
}
