//! What several messages are made of.

use crate::codec::{Reader, WireError, Writer};
use crate::entry::Place;
use crate::id::{Digest, Token};

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

pub(super) fn decode_list<T>(
    r: &mut Reader<'_>,
    what: &'static str,
    max: usize,
    mut decode: impl FnMut(Place, &mut Reader<'_>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let mut previous = Place::root();
    (0..r.count(what, max)?)
        .map(|_| {
            let place = Place::decode_after(&previous, r)?;
            previous = place.clone();
            decode(place, r)
        })
        .collect()
}
