//! Renaming what the source renamed, by way of slots: temporary names in the root of the volume.
//!
//! Which place goes into which slot is durable before it does. What a session that was cut off left in slots is put back
//! before anything else, so that it need not be sent again. What was moved stays in doubt until the pass is committed:
//! only the tree itself tells how far the moves got.

use std::collections::{BTreeMap, BTreeSet};

use tranship_engine::entry::Entry;
use tranship_engine::moves::{Move, Moves};
use tranship_engine::stat::Stat;
use tranship_proto::Place;
use tranship_proto::entry::Kind;
use tranship_proto::limit::MOVES_MAX;
use tranship_proto::message::{Fidelity, Gap, GapKind};

use super::apply::is_of_one_object;
use super::{Destination, Pass, lock};
use crate::pass::{PassError, is_within_any};
use crate::remap::remap;
use crate::state::read_entries;
use crate::volume::{VolumeError, temporary};

/// The list of what the volume holds once everything is moved.
const REMAPPED: &str = "remapped.tmp";

/// What was moved in this pass.
#[derive(Default)]
pub(super) struct Moving {
    slots: BTreeMap<u32, Slot>,
    moves: Moves,
    /// What is known of the objects that arrived, by their new places.
    arrived: BTreeMap<Place, Arrived>,
    /// Places at which nothing arrived.
    missing: BTreeSet<Place>,
    is_remapped: bool,
}

/// A temporary name that something goes to.
struct Slot {
    name: Place,
    from: Option<Place>,
    /// What went into it, if it did.
    taken: Option<Taken>,
}

#[derive(Clone, Copy)]
struct Taken {
    before: Stat,
    /// What it was like in its slot.
    inside: Option<Stat>,
}

struct Arrived {
    before: Stat,
    /// What it is like now, if nobody touched it on the way.
    after: Option<Stat>,
}

impl Destination {
    /// Chooses the name of a slot for `from`.
    pub(super) fn reserve_slot(&self, from: &Place, number: u32) -> Result<Place, PassError> {
        let mut moving = lock(&self.moving);
        if from.is_root() || moving.slots.contains_key(&number) || moving.slots.len() >= MOVES_MAX {
            return Err(nonsense(format!("{from} cannot be moved to slot {number}")));
        }
        let seed = lock(&self.inner).head.as_ref().map(|head| (head.token, head.journal));
        for attempt in 0.. {
            let name = temporary::slot(&format!("{seed:?} {number} {attempt}"));
            if !self.is_there(&name)? {
                moving.slots.insert(number, Slot { name: name.clone(), from: None, taken: None });
                return Ok(name);
            }
        }
        unreachable!("there are more names than objects")
    }

    /// Takes an object out of the tree.
    pub(super) fn move_out(&self, place: Place, number: u32, fidelity: Fidelity) -> Result<(), PassError> {
        let mut moving = lock(&self.moving);
        let slot = moving.slots.get_mut(&number).filter(|slot| slot.from.is_none());
        let slot = slot.ok_or_else(|| nonsense(format!("slot {number} is used twice")))?;
        slot.from = Some(place.clone());
        let before = self.volume.look(&place, fidelity)?.stat;
        self.volume.rename(&place, &slot.name)?;
        slot.taken = Some(Taken { before, inside: None });
        let inside = self.stat_of(&slot.name, fidelity)?;
        slot.taken = Some(Taken { before, inside });
        Ok(())
    }

    /// Puts it in at its new place, in place of what is there. If there is nothing to put in, or it does not go in,
    /// what should be there is missing: the place, and all beneath it.
    pub(super) fn move_in(&self, place: Place, number: u32, fidelity: Fidelity) -> Result<Vec<Gap>, PassError> {
        let mut moving = lock(&self.moving);
        let unexpected = moving.is_remapped || place.is_root() || moving.moves.arrives_at(&place);
        let slot = moving.slots.remove(&number).filter(|_| !unexpected);
        let from = slot.as_ref().and_then(|slot| slot.from.clone());
        let (Some(slot), Some(from)) = (slot, from) else {
            return Err(nonsense(format!("{place} cannot come from slot {number}")));
        };
        moving.missing.insert(place.clone());
        moving.moves.push(Move { from, to: place.clone(), is_directory: false });
        let Some(Taken { before, inside }) = slot.taken else {
            lock(&self.undone).insert(place.clone());
            let detail = "what was to be moved here was not where it was left".to_owned();
            return Ok(vec![Gap { place, what: GapKind::Limit, detail }]);
        };
        let still = self.stat_of(&slot.name, fidelity)?;
        if let Err(error) = self.volume.rename(&slot.name, &place) {
            if is_of_one_object(&error) {
                // It is the copy of something, and will be made again.
                self.volume.remove(&slot.name)?;
            }
            return Err(error.into());
        }
        let after = self.stat_of(&place, fidelity)?;
        let is_same = match (inside, still, after) {
            (Some(inside), Some(still), Some(after)) => {
                is_renamed(&before, &inside) && inside == still && is_renamed(&still, &after)
            }
            _ => false,
        };
        moving.missing.remove(&place);
        moving.arrived.insert(place, Arrived { before, after: after.filter(|_| is_same) });
        Ok(Vec::new())
    }

    /// The list of what the volume holds, as if what was moved had always been where it is now.
    pub(super) fn basis(&self, pass: &Pass) -> Result<Option<String>, PassError> {
        let mut moving = lock(&self.moving);
        if !moving.slots.is_empty() {
            return Err(nonsense("something was taken out and not put in".to_owned()));
        }
        if moving.moves.is_empty() {
            return Ok(pass.basis.clone());
        }
        if !moving.is_remapped {
            moving.is_remapped = true;
            let basis = || read_entries(&*self.store, pass.basis.as_deref());
            if !remap(&self.store, REMAPPED, &moving.moves, basis, |entry| moving.arrive(entry))? {
                return Err(nonsense("a move makes a place too long".to_owned()));
            }
        }
        Ok(Some(REMAPPED.to_owned()))
    }

    /// Puts back what a session that was cut off left in slots, the last first. What has no place to go back to is
    /// removed. Every place that is touched by this is in doubt already.
    pub(super) fn put_back(&self, slots: &[(Place, Place)]) -> Result<(), PassError> {
        let mut has_changed = false;
        for (from, slot) in slots.iter().rev() {
            if !self.is_there(slot)? {
                continue;
            }
            has_changed = true;
            let moved = if self.is_free(from)? { self.volume.rename(slot, from).map(|()| true) } else { Ok(false) };
            let removed = match moved {
                Ok(true) => Ok(()),
                Ok(false) | Err(VolumeError::Full { .. }) => self.volume.remove(slot),
                Err(error) if is_of_one_object(&error) => self.volume.remove(slot),
                Err(error) => Err(error),
            };
            match removed {
                // The survey tells of it.
                Err(error) if is_of_one_object(&error) => {}
                result => result?,
            }
        }
        // The journal that tells of the slots may end before the next flush.
        if has_changed { Ok(self.volume.flush()?) } else { Ok(()) }
    }

    /// Whether something can be put at `place` without replacing anything.
    fn is_free(&self, place: &Place) -> Result<bool, PassError> {
        let parent = place.split().map(|(parent, _)| parent).unwrap_or_default();
        let is_directory = self.stat_of(&parent, Fidelity::Plain)?.is_some_and(|stat| stat.kind == Kind::Directory);
        Ok(is_directory && !self.is_there(place)?)
    }

    fn is_there(&self, place: &Place) -> Result<bool, PassError> {
        match self.volume.look(place, Fidelity::Plain) {
            Err(VolumeError::Vanished { .. }) => Ok(false),
            Err(error) if !is_of_one_object(&error) => Err(error.into()),
            _ => Ok(true),
        }
    }

    /// What an object is like, unless it alone cannot be looked at.
    fn stat_of(&self, place: &Place, fidelity: Fidelity) -> Result<Option<Stat>, PassError> {
        match self.volume.look(place, fidelity) {
            Ok(look) => Ok(Some(look.stat)),
            Err(error) if is_of_one_object(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Moving {
    /// What is known of an entry that was moved; nothing if it did not arrive.
    fn arrive(&self, mut entry: Entry) -> Option<Entry> {
        if is_within_any(&self.missing, &entry.place) {
            return None;
        }
        if let Some(Arrived { before, after }) = self.arrived.get(&entry.place) {
            // Somebody else's bytes do not become ours by moving them.
            entry.stat = after.filter(|_| entry.stat.is_some_and(|stat| stat.is_as_left(before)));
        }
        Some(entry)
    }
}

/// Whether nothing but a rename lies between the two.
fn is_renamed(before: &Stat, after: &Stat) -> bool {
    Stat { ctime: after.ctime, ..*before } == *after
}

fn nonsense(detail: String) -> PassError {
    PassError::Protocol(detail)
}
