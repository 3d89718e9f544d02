//! What several messages are made of.

use crate::codec::{Reader, WireError, Writer};
use crate::entry::Place;
use crate::id::{Digest, Token};
use crate::limit::HEAD_BYTES_MAX;

pub(super) fn decode_token(r: &mut Reader<'_>) -> Result<Token, WireError> {
    Ok(Token(r.array("token")?))
}

pub(super) fn decode_digest(r: &mut Reader<'_>) -> Result<Digest, WireError> {
    Ok(Digest(r.array("digest")?))
}

/// Items with places, each place as its difference from the one before.
pub(super) fn encode_list<T>(
    items: &[T],
    place: impl Fn(&T) -> &Place,
    w: &mut Writer,
    mut encode: impl FnMut(&mut Writer, &T),
) {
    w.u64(items.len() as u64);
    let root = Place::root();
    let mut previous = &root;
    for item in items {
        place(item).encode_after(previous, w);
        encode(w, item);
        previous = place(item);
    }
}

/// Places of a list, each of which was written as its difference from the one before. What they share is not sent, but it
/// takes memory again and again.
pub(super) struct Places {
    previous: Place,
    bytes: usize,
}

impl Places {
    pub(super) fn new() -> Self {
        Self { previous: Place::root(), bytes: 0 }
    }

    pub(super) fn decode(&mut self, r: &mut Reader<'_>) -> Result<Place, WireError> {
        self.previous = Place::decode_after(&self.previous, r)?;
        self.bytes += self.previous.as_bytes().len();
        if self.bytes > HEAD_BYTES_MAX {
            let (value, max) = (self.bytes as u64, HEAD_BYTES_MAX as u64);
            return Err(WireError::Limit { what: "places of a message", value, max });
        }
        Ok(self.previous.clone())
    }
}

pub(super) fn decode_list<T>(
    r: &mut Reader<'_>,
    what: &'static str,
    max: usize,
    mut decode: impl FnMut(Place, &mut Reader<'_>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let mut places = Places::new();
    (0..r.count(what, max)?)
        .map(|_| {
            let place = places.decode(r)?;
            decode(place, r)
        })
        .collect()
}
