//! Objects that have another name than before: how they are found, and what becomes of a list of entries by them.
//!
//! An inode that left one place and arrived at another was renamed. The destination does the same: what moves is taken
//! out of the tree first, deepest first, and put in at its new place, parents first, in place of what is there. From
//! then on both sides take their lists for what they would be if the destination had always looked like that. A wrong
//! pair therefore costs bytes and nothing else: what a place holds is told by digests.

use std::cmp::Ordering;
use std::collections::HashMap;

use tranship_proto::codec::{Reader, WireError, Writer};
use tranship_proto::entry::{Kind, Place, Time};
use tranship_proto::limit::{DEPTH_MAX, MOVES_MAX, PLACE_BYTES_MAX};

use crate::entry::Entry;
use crate::plan::Scanned;
use crate::run::Record;
use crate::stat::Stat;

/// An object that is no longer where it was, or that is where it was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    identity: Identity,
    /// Whether it came here.
    pub has_arrived: bool,
    /// Where it was, or is.
    pub place: Place,
}

/// What tells an object under both of its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    inode: u64,
    kind: Kind,
    btime: Option<Time>,
    /// Size and time of modification, where no time of birth tells an inode from a later one with the same number.
    state: Option<(u64, Time)>,
}

/// What three lists say of one place, as far as it tells of a move: an object that left it, and one that arrived.
pub fn traces(found: Option<&Scanned>, known: Option<&Entry>, held: Option<&Entry>) -> [Option<Trace>; 2] {
    let stat = known.and_then(|known| known.stat);
    let stays = matches!((found, &stat), (Some(found), Some(stat)) if found.stat.is_same_object(stat));
    if stays {
        return [None, None];
    }
    let is_held = matches!((known, held), (Some(known), Some(held)) if known.is_same_object(held));
    let left = stat.as_ref().filter(|_| is_held).zip(known);
    let left = left.and_then(|(stat, known)| Trace::of(stat, &known.place, false));
    let arrived = found.and_then(|found| Trace::of(&found.stat, &found.place, true));
    [left, arrived]
}

impl Trace {
    /// Directories and files with one name only: which of several names is the first one is a matter of order.
    fn of(stat: &Stat, place: &Place, has_arrived: bool) -> Option<Self> {
        let may_move = match stat.kind {
            Kind::Directory => true,
            Kind::File => stat.links == 1,
            _ => false,
        };
        if !may_move || place.is_root() {
            return None;
        }
        let state = stat.btime.is_none().then_some((stat.size, stat.mtime));
        let identity = Identity { inode: stat.inode, kind: stat.kind, btime: stat.btime, state };
        Some(Self { identity, has_arrived, place: place.clone() })
    }

    /// Whether both are of the same object.
    pub fn is_of(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.identity.kind == Kind::Directory
    }

    /// Traces of one object come together, those that left first.
    pub fn compare(a: &Self, b: &Self) -> Ordering {
        let key = |trace: &Self| {
            let Identity { inode, kind, btime, state } = trace.identity;
            (inode, kind, btime, state, trace.has_arrived)
        };
        key(a).cmp(&key(b)).then_with(|| a.place.cmp(&b.place))
    }
}

/// An object that is moved, with all that is beneath it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// From where, in the tree as it was.
    pub from: Place,
    /// To where, in the tree as it becomes.
    pub to: Place,
    /// Whether it is a directory.
    pub is_directory: bool,
}

impl Move {
    /// Directories come first, and in the order of places: what goes with an ancestor is found out by then.
    pub fn compare(a: &Self, b: &Self) -> Ordering {
        (!a.is_directory, &a.from).cmp(&(!b.is_directory, &b.from))
    }
}

/// The moves of a pass. Each has its position as its slot.
#[derive(Debug, Clone, Default)]
pub struct Moves {
    list: Vec<Move>,
    by_from: HashMap<Box<[u8]>, usize>,
    by_to: HashMap<Box<[u8]>, usize>,
}

impl Moves {
    /// Adds a move, unless it is implied by those before it, or there are too many already: then the object is copied.
    pub fn offer(&mut self, moved: Move) {
        let is_implied = self.place_of(&moved.from).as_ref() == Some(&moved.to);
        if !is_implied && self.list.len() < MOVES_MAX {
            self.push(moved);
        }
    }

    /// Adds a move.
    pub fn push(&mut self, moved: Move) {
        self.by_from.insert(moved.from.as_bytes().into(), self.list.len());
        self.by_to.insert(moved.to.as_bytes().into(), self.list.len());
        self.list.push(moved);
    }

    /// Whether nothing moves.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Every move with its slot, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Move)> {
        (0..).zip(&self.list)
    }

    /// The move that takes away what was at `place`, or something above it.
    pub fn departure(&self, place: &Place) -> Option<&Move> {
        nearest(&self.by_from, place).map(|at| &self.list[at])
    }

    /// The move that brings what is at `place`, or something above it.
    pub fn arrival(&self, place: &Place) -> Option<&Move> {
        nearest(&self.by_to, place).map(|at| &self.list[at])
    }

    /// Whether something arrives at exactly this place.
    pub fn arrives_at(&self, place: &Place) -> bool {
        self.by_to.contains_key(place.as_bytes())
    }

    /// Where what was at `place` is afterwards; nothing if something else arrives in its stead.
    pub fn place_of(&self, place: &Place) -> Option<Place> {
        let by = nearest(&self.by_from, place);
        let new = match by.map(|by| &self.list[by]) {
            Some(Move { from, to, .. }) => place.rebased(from, to)?,
            None => place.clone(),
        };
        // Parents arrive first: what they bring along gives way to what arrives in them.
        (nearest(&self.by_to, &new) == by).then_some(new)
    }

    /// What an entry becomes; nothing if something else arrives in its stead.
    pub fn entry_of(&self, mut entry: Entry) -> Option<Entry> {
        entry.place = self.place_of(&entry.place)?;
        if let Some(leader) = entry.leader.take() {
            entry.leader = self.place_of(&leader);
            if entry.leader.is_none() {
                // Its content was described under a name that is gone.
                (entry.stat, entry.meta, entry.content) = (None, None, None);
            }
        }
        Some(entry)
    }
}

/// Whether a place is within the limits, which a directory that moves deeper can carry what it holds beyond.
pub fn fits(place: &Place) -> bool {
    place.as_bytes().len() <= PLACE_BYTES_MAX && place.depth() <= DEPTH_MAX
}

/// The value at `place`, or at the first place above it that has one.
fn nearest(map: &HashMap<Box<[u8]>, usize>, place: &Place) -> Option<usize> {
    let mut bytes = place.as_bytes();
    loop {
        if let Some(&value) = map.get(bytes) {
            return Some(value);
        }
        bytes = &bytes[..bytes.iter().rposition(|&byte| byte == 0)?];
    }
}

impl Record for Trace {
    fn encode(&self, previous: Option<&Self>, w: &mut Writer) {
        let Identity { inode, kind, btime, state } = self.identity;
        w.u64(inode);
        w.u8(kind.number());
        w.option(btime, |w, time| time.encode(w));
        w.option(state, |w, (size, mtime)| {
            w.u64(size);
            mtime.encode(w);
        });
        w.bool(self.has_arrived);
        let root = Place::root();
        self.place.encode_after(previous.map_or(&root, |trace| &trace.place), w);
    }

    fn decode(previous: Option<&Self>, r: &mut Reader<'_>) -> Result<Self, WireError> {
        let identity = Identity {
            inode: r.u64("inode")?,
            kind: Kind::from_number(r.u8("kind")?)?,
            btime: r.option("birth time", Time::decode)?,
            state: r.option("state", |r| Ok((r.u64("size")?, Time::decode(r)?)))?,
        };
        let (has_arrived, root) = (r.bool("arrived")?, Place::root());
        let place = Place::decode_after(previous.map_or(&root, |trace| &trace.place), r)?;
        Ok(Self { identity, has_arrived, place })
    }
}

impl Record for Move {
    fn encode(&self, previous: Option<&Self>, w: &mut Writer) {
        let root = Place::root();
        w.bool(self.is_directory);
        self.from.encode_after(previous.map_or(&root, |moved| &moved.from), w);
        self.to.encode_after(previous.map_or(&root, |moved| &moved.to), w);
    }

    fn decode(previous: Option<&Self>, r: &mut Reader<'_>) -> Result<Self, WireError> {
        let root = Place::root();
        Ok(Self {
            is_directory: r.bool("directory")?,
            from: Place::decode_after(previous.map_or(&root, |moved| &moved.from), r)?,
            to: Place::decode_after(previous.map_or(&root, |moved| &moved.to), r)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    fn place(path: &str) -> Place {
        Place::from_bytes(path.replace('/', "\0").into_bytes()).expect("valid")
    }

    fn moved(from: &str, to: &str) -> Move {
        Move { from: place(from), to: place(to), is_directory: true }
    }

    fn moves(list: &[(&str, &str)]) -> Moves {
        let mut moves = Moves::default();
        list.iter().for_each(|(from, to)| moves.push(moved(from, to)));
        moves
    }

    fn entry(path: &str, leader: Option<&str>) -> Entry {
        Entry {
            place: place(path),
            kind: Kind::File,
            size: 0,
            stat: None,
            meta: Some(tranship_proto::id::Digest([0; 32])),
            content: None,
            map: None,
            leader: leader.map(place),
            is_read_back: false,
        }
    }

    /// Takes a subtree away.
    fn take(tree: &mut BTreeMap<Place, usize>, at: &Place) -> Vec<(Place, usize)> {
        tree.extract_if(.., |place, _| place.is_within(at)).collect()
    }

    proptest! {
        /// The same as doing on a map what the destination does on its volume.
        #[test]
        fn every_entry_ends_where_the_moves_bring_it(
            paths in prop::collection::btree_set("[abc](/[abc](/[abc](/[abc])?)?)?", 1..16),
            pairs in prop::collection::btree_map("[abc](/[abc](/[abc])?)?", "[abcx](/[abc](/[abc])?)?", 0..6),
        ) {
            let before: BTreeMap<Place, usize> = (0..).zip(&paths).map(|(number, path)| (place(path), number)).collect();
            let mut moves = Moves::default();
            for (from, to) in &pairs {
                if !moves.arrives_at(&place(to)) && before.contains_key(&place(from)) {
                    moves.push(moved(from, to));
                }
            }
            let (mut tree, mut slots) = (before.clone(), BTreeMap::new());
            let mut outs: Vec<_> = moves.iter().collect();
            outs.sort_by(|(_, a), (_, b)| (b.from.depth(), &b.from).cmp(&(a.from.depth(), &a.from)));
            for (slot, Move { from, .. }) in &outs {
                slots.insert(*slot, take(&mut tree, from));
            }
            let mut ins = outs;
            ins.sort_by(|(_, a), (_, b)| a.to.cmp(&b.to));
            for (slot, Move { from, to, .. }) in ins {
                take(&mut tree, to);
                let arriving = slots.remove(&slot).expect("each goes in once");
                tree.extend(arriving.into_iter().map(|(old, number)| (old.rebased(from, to).expect("beneath"), number)));
            }
            let remapped: BTreeMap<_, _> = before
                .into_iter()
                .filter_map(|(place, number)| Some((moves.place_of(&place)?, number)))
                .collect();
            prop_assert_eq!(remapped, tree);
        }
    }

    #[test]
    fn what_goes_with_an_ancestor_is_no_move_of_its_own() {
        let mut moves = Moves::default();
        for (from, to) in [("a", "z"), ("a/b", "z/b"), ("a/c", "z/d"), ("a/c/e", "z/d/e"), ("a/f", "f")] {
            moves.offer(moved(from, to));
        }
        let kept: Vec<_> = moves.iter().map(|(_, moved)| moved.to.to_string()).collect();
        assert_eq!(kept, ["z", "z/d", "f"]);
    }

    #[test]
    fn there_are_never_more_moves_than_memory_is_for() {
        let mut moves = Moves::default();
        for number in 0..MOVES_MAX + 9 {
            moves.offer(moved(&format!("a{number}"), &format!("b{number}")));
        }
        assert_eq!(moves.len(), MOVES_MAX);
    }

    #[test]
    fn a_leader_moves_with_its_folder_and_one_that_is_replaced_leaves_a_doubt() {
        let moves = moves(&[("a", "z"), ("n", "b")]);
        let follow = |leader| moves.entry_of(entry("c", Some(leader))).expect("it stays");
        assert_eq!(follow("a/x").leader, Some(place("z/x")));
        assert_eq!(follow("a/x").meta, entry("c", None).meta);
        assert_eq!((follow("b/x").leader, follow("b/x").meta), (None, None));
        assert_eq!(moves.entry_of(entry("b/x", None)), None);
    }
}
