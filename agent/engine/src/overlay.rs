//! A manifest with later changes on top of it.
//!
//! Both are streams in the order of places, so that a manifest of any size is renewed in constant memory. A removal
//! takes away what the manifest has beneath it, and what changes *before* it put there; changes after it stay.

use std::iter::Peekable;

use tranship_proto::codec::{Reader, WireError, Writer};
use tranship_proto::entry::Place;

use crate::entry::{Change, Entry};
use crate::run::Record;

/// A change with its place in history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dated {
    /// Later changes have higher numbers.
    pub number: u64,
    /// What happened.
    pub change: Change,
}

impl Record for Dated {
    fn encode(&self, _: Option<&Self>, w: &mut Writer) {
        w.u64(self.number);
        self.change.encode(w);
    }

    fn decode(_: Option<&Self>, r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { number: r.u64("number")?, change: Change::decode(r)? })
    }
}

/// The entries of `base` after `changes`, which are ordered by place and then by number.
pub fn overlay<E>(
    base: impl Iterator<Item = Result<Entry, E>>,
    changes: impl Iterator<Item = Result<Dated, E>>,
) -> impl Iterator<Item = Result<Entry, E>> {
    Overlay { base: base.peekable(), changes: changes.peekable(), removed: Vec::new() }
}

struct Overlay<E, B: Iterator<Item = Result<Entry, E>>, C: Iterator<Item = Result<Dated, E>>> {
    base: Peekable<B>,
    changes: Peekable<C>,
    /// Removals that reach the current place, outermost first.
    removed: Vec<(Place, u64)>,
}

impl<E, B, C> Overlay<E, B, C>
where
    B: Iterator<Item = Result<Entry, E>>,
    C: Iterator<Item = Result<Dated, E>>,
{
    /// Whether a removal after `number` took away what was at `place`.
    fn is_removed(&mut self, place: &Place, number: Option<u64>) -> bool {
        self.removed.retain(|(ancestor, _)| place.is_within(ancestor));
        self.removed.iter().any(|&(_, at)| number.is_none_or(|number| number < at))
    }

    /// What the changes at the next changed place come to, together with what the base has there.
    fn take_changes(&mut self) -> Result<Option<Entry>, E> {
        let first = self.changes.next().expect("the caller peeked")?;
        let place = first.change.place().clone();
        let mut entry = match self.base.peek() {
            Some(Ok(old)) if old.place == place => self.base.next().transpose()?,
            _ => None,
        };
        if self.is_removed(&place, None) {
            entry = None;
        }
        let mut next = Some(first);
        while let Some(dated) = next {
            match dated.change {
                Change::Removed(place) => {
                    entry = None;
                    self.removed.push((place, dated.number));
                }
                Change::Entry(new) => {
                    if !self.is_removed(&place, Some(dated.number)) {
                        entry = Some(new);
                    }
                }
                Change::Meta { before, stat, meta, .. } => {
                    if let Some(entry) = &mut entry {
                        // Somebody else's bytes do not become ours by setting their metadata.
                        let is_ours = entry.stat.is_some_and(|stat| stat.is_as_left(&before));
                        (entry.stat, entry.meta) = (stat.filter(|_| is_ours), meta);
                    }
                }
            }
            next = match self.changes.peek() {
                Some(Ok(later)) if *later.change.place() == place => self.changes.next().transpose()?,
                _ => None,
            };
        }
        Ok(entry)
    }
}

impl<E, B, C> Iterator for Overlay<E, B, C>
where
    B: Iterator<Item = Result<Entry, E>>,
    C: Iterator<Item = Result<Dated, E>>,
{
    type Item = Result<Entry, E>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let takes_change = match (self.base.peek(), self.changes.peek()) {
                (None, None) => return None,
                (Some(Err(_)), _) | (_, None) => false,
                (_, Some(Err(_))) | (None, _) => true,
                (Some(Ok(entry)), Some(Ok(dated))) => *dated.change.place() <= entry.place,
            };
            if !takes_change {
                match self.base.next()? {
                    Ok(entry) if self.is_removed(&entry.place, None) => continue,
                    item => return Some(item),
                }
            }
            if let Some(entry) = self.take_changes().transpose() {
                return Some(entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use proptest::prelude::*;
    use tranship_proto::entry::Kind;

    fn entry(path: &str, size: u64) -> Entry {
        let place = Place::from_bytes(path.replace('/', "\0").into_bytes()).expect("valid");
        Entry {
            place,
            kind: Kind::File,
            size,
            stat: None,
            meta: None,
            content: None,
            map: None,
            leader: None,
            is_read_back: false,
        }
    }

    fn merged(base: Vec<Entry>, mut changes: Vec<Dated>) -> Vec<Entry> {
        changes.sort_by(|a, b| (a.change.place(), a.number).cmp(&(b.change.place(), b.number)));
        let (base, changes) = (base.into_iter().map(Ok::<_, Infallible>), changes.into_iter().map(Ok));
        overlay(base, changes).map(|entry| entry.expect("infallible")).collect()
    }

    proptest! {
        /// The same as doing every change on a map, in the order of history.
        #[test]
        fn changes_come_to_what_history_says(
            base in prop::collection::btree_set("[ab](/[ab](/[ab])?)?", 0..8),
            changes in prop::collection::vec(("[ab](/[ab](/[ab])?)?", prop::bool::ANY), 0..12),
        ) {
            let base: Vec<Entry> = {
                let mut base: Vec<Entry> = base.iter().map(|path| entry(path, 0)).collect();
                base.sort_by(|a, b| a.place.cmp(&b.place));
                base
            };
            let mut expected: BTreeMap<Place, Entry> = base.iter().map(|e| (e.place.clone(), e.clone())).collect();
            let mut dated = Vec::new();
            for (number, (path, is_removal)) in changes.into_iter().enumerate() {
                let new = entry(&path, number as u64 + 1);
                let change = if is_removal {
                    expected.retain(|place, _| !place.is_within(&new.place));
                    Change::Removed(new.place)
                } else {
                    expected.insert(new.place.clone(), new.clone());
                    Change::Entry(new)
                };
                dated.push(Dated { number: number as u64, change });
            }
            prop_assert_eq!(merged(base, dated), expected.into_values().collect::<Vec<_>>());
        }
    }
}
