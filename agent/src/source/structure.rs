//! Operations that make room: everything that moves is taken out of the tree; then deletions, new directories and what
//! is put in again, in the order of places.
//!
//! By that order a parent is there before what comes into it, and what moves is in place before it is changed. The
//! candidates were found as if the moves had always been done.

use std::iter::Peekable;
use std::sync::Arc;
use std::vec::IntoIter;

use tranship_engine::entry::Change;
use tranship_engine::moves::{Move, Moves};
use tranship_engine::plan::Candidate;
use tranship_engine::run::Record;
use tranship_proto::Place;
use tranship_proto::codec::{Reader, WireError, Writer};
use tranship_proto::entry::Kind;
use tranship_proto::id::Digest;
use tranship_proto::message::Op;

use super::{Source, lock};
use crate::pass::PassError;
use crate::state::sorter::Sorter;
use crate::state::{StateError, Store, read_list};

/// Operations in one message.
const BATCH: usize = 1_024;

type Candidates = Box<dyn Iterator<Item = Result<Candidate, StateError>> + Send>;

/// Where the pass over the candidates stands.
pub(super) struct Structure {
    /// What moves has still to be taken out, deepest first.
    outs: IntoIter<(u32, Place)>,
    /// And put in, in the order of places.
    ins: Peekable<IntoIter<(u32, Place)>>,
    candidates: Peekable<Candidates>,
    /// What was deleted last; what was beneath it is gone with it.
    deleted: Option<Place>,
    /// Directories whose metadata has to be set at the end.
    pub(super) directories: Sorter<Dirty>,
    last_parent: Option<Place>,
}

/// A directory to be closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dirty {
    pub(super) place: Place,
    /// Whether something in it changes, so that its times have to be set again.
    pub(super) is_touched: bool,
    /// Whether it is there. What lost something to another place may be gone itself.
    pub(super) is_there: bool,
    /// Its metadata at the destination, if it is a candidate itself.
    pub(super) held: Option<Digest>,
}

impl Structure {
    pub(super) fn new(store: Arc<dyn Store>, moves: &Moves) -> Result<Self, StateError> {
        let candidates = read_list(&*store, "candidates.tmp")?.expect("it was written by us");
        // Deepest first: closing a directory may take away our right to enter it.
        let directories = Sorter::new(store, "directories", |a: &Dirty, b| {
            (b.place.depth(), &a.place).cmp(&(a.place.depth(), &b.place))
        });
        let mut outs: Vec<_> = moves.iter().map(|(slot, Move { from, .. })| (slot, from.clone())).collect();
        outs.sort_by(|(_, a), (_, b)| (b.depth(), a).cmp(&(a.depth(), b)));
        let mut ins: Vec<_> = moves.iter().map(|(slot, Move { to, .. })| (slot, to.clone())).collect();
        ins.sort_by(|(_, a), (_, b)| a.cmp(b));
        let (outs, ins) = (outs.into_iter(), ins.into_iter().peekable());
        let candidates = candidates.peekable();
        let mut structure = Self { outs, ins, candidates, deleted: None, directories, last_parent: None };
        structure.touch_ends(moves)?;
        Ok(structure)
    }

    /// A move changes the times of the directories at its ends, and of the root, which slots are in.
    fn touch_ends(&mut self, moves: &Moves) -> Result<(), StateError> {
        for (_, Move { from, to, is_directory }) in moves.iter() {
            let left = from.split().and_then(|(parent, _)| moves.place_of(&parent));
            for place in left.into_iter().chain(is_directory.then(|| to.clone())) {
                // If it is there, its time of change has moved at the source as well, and it is a candidate.
                self.directories.push(Dirty { place, is_touched: true, is_there: false, held: None })?;
            }
            self.touch_parent(to)?;
        }
        if moves.is_empty() {
            return Ok(());
        }
        self.directories.push(Dirty { place: Place::root(), is_touched: true, is_there: true, held: None })
    }

    /// What is put in before anything is done at the next candidate's place.
    fn next_in(&mut self) -> Option<Op> {
        let next = self.candidates.peek();
        let is_due = |to: &Place| match next {
            Some(Ok(candidate)) => *to <= candidate.place,
            Some(Err(_)) => false,
            None => true,
        };
        let (slot, place) = self.ins.next_if(|(_, to)| is_due(to))?;
        Some(Op::MoveIn { place, slot })
    }

    fn touch_parent(&mut self, place: &Place) -> Result<(), StateError> {
        let Some((parent, _)) = place.split() else { return Ok(()) };
        if self.last_parent.as_ref() == Some(&parent) {
            return Ok(());
        }
        self.last_parent = Some(parent.clone());
        self.directories.push(Dirty { place: parent, is_touched: true, is_there: true, held: None })
    }

    fn is_within_deleted(&self, place: &Place) -> bool {
        self.deleted.as_ref().is_some_and(|deleted| place.is_within(deleted))
    }
}

impl Source {
    /// The next operations that make room; none left when empty.
    pub fn next_structure(&self) -> Result<Vec<Op>, PassError> {
        let mut inner = lock(&self.inner);
        let Some(structure) = &mut inner.structure else { return Ok(Vec::new()) };
        let mut ops = Vec::new();
        while ops.len() < BATCH {
            if let Some((slot, place)) = structure.outs.next() {
                ops.push(Op::MoveOut { place, slot });
                continue;
            }
            if let Some(op) = structure.next_in() {
                ops.push(op);
                continue;
            }
            let Some(candidate) = structure.candidates.next() else { break };
            self.make_room(structure, &candidate?, &mut ops)?;
        }
        if ops.is_empty() {
            let structure = inner.structure.take().expect("it has just been there");
            inner.closing = Some(self.close(structure.directories)?);
        }
        Ok(ops)
    }

    fn make_room(&self, structure: &mut Structure, c: &Candidate, ops: &mut Vec<Op>) -> Result<(), PassError> {
        let found = c.found.as_ref().map(|found| found.stat.kind);
        let held = c.held.as_ref().map(|held| held.kind);
        let is_gone_already = structure.is_within_deleted(&c.place);
        // A new directory replaces what is there by itself, and what was moved into it stays.
        let is_replaced = found == Some(Kind::Directory);
        if held.is_some() && held != found && !is_gone_already && !is_replaced {
            structure.touch_parent(&c.place)?;
            ops.push(Op::Delete { place: c.place.clone() });
            self.push_result(Change::Removed(c.place.clone()))?;
            structure.deleted = Some(c.place.clone());
        } else if found.is_none() && held.is_none() {
            self.push_result(Change::Removed(c.place.clone()))?;
        }
        match found {
            Some(Kind::Directory) => {
                if held != found || is_gone_already {
                    structure.touch_parent(&c.place)?;
                    ops.push(Op::MakeDirectory { place: c.place.clone() });
                }
                let held = c.held.as_ref().filter(|held| held.kind == Kind::Directory).and_then(|held| held.meta);
                structure.directories.push(Dirty {
                    place: c.place.clone(),
                    is_touched: false,
                    is_there: true,
                    held,
                })?;
            }
            Some(_) => structure.touch_parent(&c.place)?,
            None => {}
        }
        Ok(())
    }
}

impl Record for Dirty {
    fn encode(&self, _: Option<&Self>, w: &mut Writer) {
        self.place.encode_after(&Place::root(), w);
        w.bool(self.is_touched);
        w.bool(self.is_there);
        w.option(self.held, |w, digest| w.array(&digest.0));
    }

    fn decode(_: Option<&Self>, r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            place: Place::decode_after(&Place::root(), r)?,
            is_touched: r.bool("touched")?,
            is_there: r.bool("there")?,
            held: r.option("digest", |r| Ok(Digest(r.array("digest")?)))?,
        })
    }
}
