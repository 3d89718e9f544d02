//! What of the destination became unknown in this pass.

use std::collections::BTreeSet;

use tranship_proto::Place;

/// Bytes of places beyond which everything is doubted: a peer may name very many.
const BYTES_MAX: usize = 8 << 20;

/// Places whose state at the destination is unknown, or all of them.
#[derive(Default)]
pub(super) struct Doubts {
    places: BTreeSet<Place>,
    bytes: usize,
}

impl Doubts {
    pub(super) fn add(&mut self, place: &Place) {
        if self.bytes <= BYTES_MAX && self.places.insert(place.clone()) {
            self.bytes += 64 + place.as_bytes().len();
        }
    }

    pub(super) fn cover(&self, place: &Place) -> bool {
        self.bytes > BYTES_MAX || self.places.contains(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(number: usize) -> Place {
        Place::from_bytes(format!("{number:0200}").into_bytes()).expect("a name")
    }

    #[test]
    fn what_was_named_is_doubted_and_if_too_much_was_named_everything_is() {
        let mut doubts = Doubts::default();
        (0..1_000).for_each(|number| doubts.add(&place(number)));
        assert!((0..1_000).all(|number| doubts.cover(&place(number))) && !doubts.cover(&place(1_000)));
        (0..1_000_000).for_each(|number| doubts.add(&place(number)));
        assert!(doubts.cover(&place(2_000_000)) && doubts.places.len() < 50_000);
    }
}
