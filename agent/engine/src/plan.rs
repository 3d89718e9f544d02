//! Which places a pass must look at, from three lists in the same order.
//!
//! * the *scan*: what the source has, without having looked into it;
//! * what is *known*: the source's own manifest, whose digests hold wherever the stat still does;
//! * what is *held*: what the destination has. After a clean pass that is the source's manifest too.
//!
//! A place is left alone only if nothing that the kernel maintains has moved since its digests were made, nothing about
//! them is in doubt, and the destination holds the same. Everything else is a candidate.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::iter::Peekable;

use tranship_proto::codec::{Reader, WireError, Writer};
use tranship_proto::entry::Place;

use crate::entry::Entry;
use crate::run::Record;
use crate::stat::Stat;

/// A line of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// Where.
    pub place: Place,
    /// What the kernel says.
    pub stat: Stat,
    /// The first name of this inode, if this is a later one.
    pub leader: Option<Place>,
}

/// A place that must be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Where.
    pub place: Place,
    /// What the source has there; nothing if it is gone.
    pub found: Option<Scanned>,
    /// What the source knew of it, if that still counts.
    pub known: Option<Entry>,
    /// What the destination holds there.
    pub held: Option<Entry>,
}

/// The candidates of a pass, in order. Without a list of what is held, that is what is known. `observe` is told what the
/// three lists have at each place.
pub fn candidates<E>(
    scan: impl Iterator<Item = Result<Scanned, E>>,
    known: impl Iterator<Item = Result<Entry, E>>,
    held: Option<impl Iterator<Item = Result<Entry, E>>>,
    mut observe: impl FnMut(Option<&Scanned>, Option<&Entry>, Option<&Entry>) -> Result<(), E>,
) -> impl Iterator<Item = Result<Candidate, E>> {
    let mut scan = scan.peekable();
    let mut known = known.peekable();
    let mut held = held.map(Iterator::peekable);
    // Inodes whose first name may be replaced at the destination: their other names have to be linked to it again.
    let mut replaced = HashSet::new();
    std::iter::from_fn(move || {
        loop {
            let next = next_place(&mut scan, &mut known, held.as_mut())?;
            let candidate = next.and_then(|place| {
                let found = take_at(&mut scan, |scanned| &scanned.place, &place)?;
                let known = take_at(&mut known, |entry| &entry.place, &place)?;
                let held = match &mut held {
                    Some(held) => take_at(held, |entry| &entry.place, &place)?,
                    None => known.clone(),
                };
                observe(found.as_ref(), known.as_ref(), held.as_ref())?;
                let links_again =
                    found.as_ref().is_some_and(|found| found.leader.is_some() && replaced.contains(&found.stat.inode));
                let candidate = consider(place, found, known, held, links_again);
                if let Some(Candidate { found: Some(found), held: Some(_), .. }) = &candidate
                    && found.leader.is_none()
                    && found.stat.links > 1
                {
                    replaced.insert(found.stat.inode);
                }
                Ok(candidate)
            });
            if let Some(candidate) = candidate.transpose() {
                return Some(candidate);
            }
        }
    })
}

fn next_place<E>(
    scan: &mut Peekable<impl Iterator<Item = Result<Scanned, E>>>,
    known: &mut Peekable<impl Iterator<Item = Result<Entry, E>>>,
    held: Option<&mut Peekable<impl Iterator<Item = Result<Entry, E>>>>,
) -> Option<Result<Place, E>> {
    let mut first: Option<Place> = None;
    let mut consider = |place: &Place| {
        if first.as_ref().is_none_or(|first| place < first) {
            first = Some(place.clone());
        }
    };
    // An error counts as the smallest place, so that it is met at once and not after everything else.
    let mut failed = None;
    match scan.peek() {
        Some(Ok(scanned)) => consider(&scanned.place),
        Some(Err(_)) => failed = scan.next().and_then(Result::err),
        None => {}
    }
    match known.peek() {
        Some(Ok(entry)) => consider(&entry.place),
        Some(Err(_)) => failed = known.next().and_then(Result::err),
        None => {}
    }
    if let Some(held) = held {
        match held.peek() {
            Some(Ok(entry)) => consider(&entry.place),
            Some(Err(_)) => failed = held.next().and_then(Result::err),
            None => {}
        }
    }
    failed.map(Err).or(first.map(Ok))
}

fn take_at<T, E>(
    list: &mut Peekable<impl Iterator<Item = Result<T, E>>>,
    place_of: impl Fn(&T) -> &Place,
    place: &Place,
) -> Result<Option<T>, E> {
    match list.peek() {
        Some(Ok(item)) if place_of(item).cmp(place) == Ordering::Equal => list.next().transpose(),
        _ => Ok(None),
    }
}

fn consider(
    place: Place,
    found: Option<Scanned>,
    known: Option<Entry>,
    held: Option<Entry>,
    links_again: bool,
) -> Option<Candidate> {
    let Some(scanned) = found else {
        // Known and no longer held still has to leave the manifest.
        return (known.is_some() || held.is_some()).then_some(Candidate { place, found: None, known, held });
    };
    let known = known
        .filter(|entry| entry.is_settled() && entry.leader == scanned.leader && is_same_stat(entry, &scanned.stat));
    if let (Some(known), Some(held)) = (&known, &held)
        && known.is_same_object(held)
        && !links_again
    {
        return None;
    }
    Some(Candidate { place, found: Some(scanned), known, held })
}

fn is_same_stat(entry: &Entry, stat: &Stat) -> bool {
    entry.stat.is_some_and(|known| stat.is_unchanged_since(&known))
}

impl Record for Scanned {
    fn encode(&self, previous: Option<&Self>, w: &mut Writer) {
        let root = Place::root();
        self.place.encode_after(previous.map_or(&root, |scanned| &scanned.place), w);
        self.stat.encode(w);
        w.option(self.leader.as_ref(), |w, leader| leader.encode_after(&Place::root(), w));
    }

    fn decode(previous: Option<&Self>, r: &mut Reader<'_>) -> Result<Self, WireError> {
        let root = Place::root();
        Ok(Self {
            place: Place::decode_after(previous.map_or(&root, |scanned| &scanned.place), r)?,
            stat: Stat::decode(r)?,
            leader: r.option("leader", |r| Place::decode_after(&Place::root(), r))?,
        })
    }
}

impl Record for Candidate {
    fn encode(&self, previous: Option<&Self>, w: &mut Writer) {
        let root = Place::root();
        self.place.encode_after(previous.map_or(&root, |candidate| &candidate.place), w);
        let after = |w: &mut Writer, entry: &Entry| entry.encode_after(&self.place, w);
        w.option(self.found.as_ref(), |w, found| {
            found.stat.encode(w);
            w.option(found.leader.as_ref(), |w, leader| leader.encode_after(&Place::root(), w));
        });
        w.option(self.known.as_ref(), after);
        w.option(self.held.as_ref(), after);
    }

    fn decode(previous: Option<&Self>, r: &mut Reader<'_>) -> Result<Self, WireError> {
        let root = Place::root();
        let place = Place::decode_after(previous.map_or(&root, |candidate| &candidate.place), r)?;
        let found = r.option("found", |r| {
            Ok(Scanned {
                place: place.clone(),
                stat: Stat::decode(r)?,
                leader: r.option("leader", |r| Place::decode_after(&Place::root(), r))?,
            })
        })?;
        let known = r.option("known", |r| Entry::decode_after(&place, r))?;
        let held = r.option("held", |r| Entry::decode_after(&place, r))?;
        Ok(Self { place, found, known, held })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use tranship_proto::entry::{Kind, Time};
    use tranship_proto::id::Digest;

    fn place(path: &str) -> Place {
        Place::from_bytes(path.replace('/', "\0").into_bytes()).expect("valid")
    }

    fn scanned(path: &str, version: i64) -> Scanned {
        let time = Time { seconds: version, nanos: 0 };
        let stat = Stat {
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 1,
            mtime: time,
            ctime: time,
            btime: None,
            inode: 1,
            links: 1,
            device: 0,
        };
        Scanned { place: place(path), stat, leader: None }
    }

    fn entry(path: &str, version: i64) -> Entry {
        Entry {
            place: place(path),
            kind: Kind::File,
            size: 1,
            stat: Some(scanned(path, version).stat),
            meta: Some(Digest([0; 32])),
            content: Some(Digest([version as u8; 32])),
            map: None,
            leader: None,
            is_read_back: false,
        }
    }

    fn names(scan: &[Scanned], known: &[Entry], held: Option<&[Entry]>) -> Vec<String> {
        fn list<T: Clone>(items: &[T]) -> impl Iterator<Item = Result<T, Infallible>> + '_ {
            items.iter().cloned().map(Ok)
        }
        candidates(list(scan), list(known), held.map(list), |_, _, _| Ok(()))
            .map(|candidate| candidate.expect("infallible"))
            .map(|c| format!("{}{}", if c.found.is_none() { "-" } else { "" }, c.place))
            .collect()
    }

    #[test]
    fn what_moved_is_new_or_is_gone_is_a_candidate_and_nothing_else() {
        let scan = [scanned("a", 1), scanned("b", 2), scanned("d", 1)];
        let known = [entry("a", 1), entry("b", 1), entry("c", 1)];
        assert_eq!(names(&scan, &known, None), ["b", "-c", "d"]);
    }

    #[test]
    fn what_has_no_times_is_always_a_candidate() {
        let (mut found, mut known) = (scanned("a", 0), entry("a", 0));
        found.stat.kind = Kind::Block;
        (known.kind, known.stat) = (Kind::Block, Some(found.stat));
        assert_eq!(names(&[found], &[known], None), ["a"]);
    }

    #[test]
    fn what_is_in_doubt_is_a_candidate_although_nothing_moved() {
        let scan = [scanned("a", 1), scanned("b", 1), scanned("c", 1)];
        let mut known = [entry("a", 1), entry("b", 1), entry("c", 1)];
        known[0].stat = None;
        known[1].content = None;
        assert_eq!(names(&scan, &known, None), ["a", "b"]);
    }

    #[test]
    fn what_the_destination_holds_counts_and_not_what_we_remember() {
        let scan = [scanned("a", 1), scanned("b", 1), scanned("c", 1)];
        let known = [entry("a", 1), entry("b", 1), entry("c", 1)];
        // The pass that wrote `b` at version 2 was cut off, and then the source went back to version 1.
        let held = [entry("a", 1), entry("b", 2), entry("x", 1)];
        assert_eq!(names(&scan, &known, Some(&held)), ["b", "c", "-x"]);
    }

    #[test]
    fn other_names_go_with_a_first_name_that_may_be_replaced() {
        let linked = |path| {
            let mut scanned = scanned(path, 1);
            scanned.stat.links = 2;
            scanned.leader = (path != "a").then(|| place("a"));
            let entry = Entry { stat: Some(scanned.stat), leader: scanned.leader.clone(), ..entry(path, 1) };
            (scanned, entry)
        };
        let (scan, known): (Vec<_>, Vec<_>) = ["a", "b"].map(linked).into_iter().unzip();
        assert_eq!(names(&scan, &known, None), [""; 0]);
        let mut held = known.clone();
        held[0].content = Some(Digest([9; 32]));
        assert_eq!(names(&scan, &known, Some(&held)), ["a", "b"]);
    }

    #[test]
    fn candidates_come_back_from_a_list() {
        let candidate =
            Candidate { place: place("a/b"), found: Some(scanned("a/b", 2)), known: None, held: Some(entry("a/b", 1)) };
        let mut w = Writer::new();
        candidate.encode(None, &mut w);
        assert_eq!(Candidate::decode(None, &mut Reader::new(&w.finish())), Ok(candidate));
    }
}
