//! Finding out what the destination holds, as far as the source does not know it.
//!
//! After a clean pass that is nothing, and nothing is read. After one that was cut off, before a final one, and when
//! the manifests of the two sides do not match, the volume is walked: what still has the stat that our manifest or our
//! journal recorded is believed, and everything else is read.

use std::collections::BTreeSet;
use std::iter::Peekable;

use tranship_engine::digest::{self, Digester};
use tranship_engine::entry::{Change, Entry};
use tranship_engine::overlay::overlay;
use tranship_engine::piece;
use tranship_engine::plan::Scanned;
use tranship_engine::stat::Stat;
use tranship_proto::Place;
use tranship_proto::entry::Kind;
use tranship_proto::limit::{BATCH_MAX, PACKED_FILE_BYTES_MAX, PIECE_BYTES};
use tranship_proto::message::{BasisChoice, Batch, Contract, SurveyItem, Surveyed, VolumeKind};

use super::{Destination, FRESH, Pass, lock};
use crate::pass::{Counters, PassError, Scan, is_within_any};
use crate::state::head::{Head, manifest_name};
use crate::state::journal::History;
use crate::state::{Entries, StateError, Writing, finish_list, read_entries, read_list, write_list};
use crate::volume::{Access, VolumeError};
use crate::{content, parallel};

/// Entries that are read together.
const BATCH_ENTRIES: usize = 1_024;
/// Bytes of content from which several threads read one file.
const SHARED_BYTES: u64 = 8 << 20;

/// What is told to the source, and what the pass builds on.
pub(super) struct Survey {
    /// The list of what the volume holds.
    pub(super) basis: Option<String>,
    told: Peekable<Box<dyn Iterator<Item = Result<Change, StateError>> + Send>>,
    /// Pieces of the last entry that still have to be told: its leaves, its size, the next piece.
    pieces: Option<(u64, u64, u64)>,
}

/// An entry of the walk, and what is believed about it.
struct Found {
    scanned: Scanned,
    known: Option<Entry>,
    is_doubted: bool,
    /// Whether a pass that was cut off may have left it like this.
    is_ours: bool,
    /// Whether the source believes the same of it.
    is_common: bool,
}

/// What is believed about the volume before it is walked: three lists in the order of places.
struct Believed<'a> {
    common: Peekable<Entries>,
    known: Peekable<Entries>,
    doubts: Peekable<std::collections::btree_set::Iter<'a, Place>>,
}

impl Believed<'_> {
    /// The first place that any of them has, if it comes before `end`.
    fn next_before(&mut self, end: Option<&Place>) -> Result<Option<Place>, StateError> {
        let mut first = self.doubts.peek().map(|&place| place.clone());
        for list in [&mut self.common, &mut self.known] {
            if let Some(Err(error)) = list.next_if(Result::is_err) {
                return Err(error);
            }
            if let Some(Ok(entry)) = list.peek()
                && first.as_ref().is_none_or(|first| entry.place < *first)
            {
                first = Some(entry.place.clone());
            }
        }
        Ok(first.filter(|first| end.is_none_or(|end| first < end)))
    }

    /// What the two manifests say about `place`, which no list is before.
    fn take(&mut self, place: &Place) -> Result<(Option<Entry>, Option<Entry>), StateError> {
        self.doubts.next_if(|&doubted| doubted == place);
        let take = |list: &mut Peekable<Entries>| {
            list.next_if(|entry| entry.as_ref().map_or(true, |entry| entry.place == *place)).transpose()
        };
        Ok((take(&mut self.common)?, take(&mut self.known)?))
    }
}

impl Destination {
    pub(super) fn survey(&self, pass: &Pass, head: &Head, history: History) -> Result<Survey, PassError> {
        let choice = pass.begin.basis;
        let manifest = head.token.map(manifest_name);
        let nothing: Box<dyn Iterator<Item = _> + Send> = Box::new(std::iter::empty());
        if choice == BasisChoice::Nothing {
            return Ok(Survey { basis: None, told: nothing.peekable(), pieces: None });
        }
        let is_clean = matches!(choice, BasisChoice::Common(_)) && !history.is_interrupted;
        if is_clean && !pass.begin.is_final {
            return Ok(Survey { basis: manifest, told: nothing.peekable(), pieces: None });
        }
        // What an earlier session left in caches becomes durable before it counts as held, and is read from the device:
        // after a write-back that failed, the cache still shows what the device never got.
        self.volume.flush()?;
        let mut basis = write_list::<Entry>(&*self.store, "basis.tmp")?;
        let mut told = write_list::<Change>(&*self.store, "told.tmp")?;
        let tells_all = choice == BasisChoice::Survey;
        match self.facts.kind {
            VolumeKind::Tree => self.survey_tree(pass, head, history, tells_all, &mut basis, &mut told)?,
            VolumeKind::Block => self.survey_block(pass, head, &history, tells_all, &mut basis, &mut told)?,
        }
        finish_list(basis)?;
        finish_list(told)?;
        let told = read_list(&*self.store, "told.tmp")?.expect("it has just been written");
        Ok(Survey { basis: Some("basis.tmp".to_owned()), told: told.peekable(), pieces: None })
    }

    /// The next lines of the survey, and whether these are the last.
    pub fn next_survey(&self) -> Result<(Vec<SurveyItem>, bool), PassError> {
        let pass = self.pass();
        let mut inner = lock(&self.inner);
        let survey = inner.survey.as_mut().expect("begun before it is surveyed");
        let (mut items, mut batch) = (Vec::new(), Batch::default());
        while batch.has_room() {
            if let Some((start, size, next)) = survey.pieces.take() {
                let to = (next + BATCH_MAX as u64).min(piece::count(size));
                let digests: Vec<_> = (next..to)
                    .map(|index| Ok(digest::piece(&pass.leaves(start, size, index)?)))
                    .collect::<Result<_, PassError>>()?;
                survey.pieces = (to < piece::count(size)).then_some((start, size, to));
                items.push(SurveyItem::Pieces(digests));
                batch.add(&items[items.len() - 1]);
                continue;
            }
            items.push(match survey.told.next().transpose()? {
                None => break,
                Some(Change::Entry(entry)) => {
                    survey.pieces = entry.map.filter(|_| entry.size > 0).map(|start| (start, entry.size, 0));
                    SurveyItem::Present(Box::new(Surveyed {
                        place: entry.place,
                        kind: entry.kind,
                        size: entry.size,
                        meta: entry.meta,
                        content: entry.content,
                        leader: entry.leader,
                    }))
                }
                Some(change) => SurveyItem::Absent(change.place().clone()),
            });
            batch.add(&items[items.len() - 1]);
        }
        let is_last = survey.pieces.is_none() && survey.told.peek().is_none();
        Ok((items, is_last))
    }

    fn survey_tree(
        &self,
        pass: &Pass,
        head: &Head,
        history: History,
        tells_all: bool,
        basis: &mut Writing<Entry>,
        told: &mut Writing<Change>,
    ) -> Result<(), PassError> {
        let scope = Head::scope(pass.begin.fidelity, &pass.begin.excludes);
        let doubts = history.places;
        // What is not as it was left is somebody else's work, unless a pass that was cut off may have done it, or it was
        // left with other things than are looked for now.
        let tells_drift = head.scope == scope && !history.everything;
        // What the source takes for held after a common pass, whatever a pass that was cut off did since.
        let common = read_entries(&*self.store, head.token.map(manifest_name).as_deref())?.peekable();
        let known = self.known(head, head.scope == scope, history.everything, history.changes)?.peekable();
        let mut believed = Believed { common, known, doubts: doubts.iter().peekable() };
        let counters = Counters::default();
        let scan = Scan::make(&*self.volume, &self.store, "walk.tmp", &pass.excludes, &counters, &self.stop)?;
        let mut batch = Vec::with_capacity(BATCH_ENTRIES);
        let mut scanned = scan.entries(&*self.store)?;
        loop {
            let next = scanned.next().transpose()?;
            while let Some(gone) = believed.next_before(next.as_ref().map(|next| &next.place))? {
                let (_, known) = believed.take(&gone)?;
                self.write_found(pass, &mut batch, tells_all, basis, told)?;
                let is_drift = tells_drift && known.is_some() && !is_within_any(&doubts, &gone);
                Counters::add(&self.counters.drifted_entries, u64::from(is_drift));
                told.push(Change::Removed(gone))?;
            }
            let Some(scanned) = next else { break };
            let (common, known) = believed.take(&scanned.place)?;
            let is_doubted = is_within_any(&doubts, &scanned.place);
            let is_common = match (&common, &known) {
                (Some(common), Some(known)) => common.is_same_object(known),
                _ => false,
            };
            // Whatever a pass makes, moves or removes gives its folder another time, until the end of the pass sets it.
            let is_ours = is_doubted || (history.is_interrupted && scanned.stat.kind == Kind::Directory);
            batch.push(Found { scanned, known, is_doubted, is_ours, is_common });
            if batch.len() >= BATCH_ENTRIES {
                self.write_found(pass, &mut batch, tells_all, basis, told)?;
            }
        }
        self.write_found(pass, &mut batch, tells_all, basis, told)
    }

    /// What the manifest and the journal say. Without trust in the manifest's digests only its places count.
    fn known(
        &self,
        head: &Head,
        is_same_scope: bool,
        everything: bool,
        changes: Option<crate::state::sorter::Sorter<tranship_engine::overlay::Dated>>,
    ) -> Result<Entries, PassError> {
        let base = read_entries(&*self.store, head.token.map(manifest_name).as_deref())?;
        let base = base.map(move |entry| {
            let mut entry = entry?;
            if everything || !is_same_scope {
                entry.stat = None;
            }
            Ok(entry)
        });
        let changes = match changes.filter(|_| is_same_scope || head.token.is_none()) {
            Some(changes) => changes.sorted()?,
            None => Box::new(std::iter::empty()),
        };
        // Leaves that a former session made are not kept; its digests are.
        let changes = changes.map(|dated| {
            let mut dated = dated?;
            if let Change::Entry(entry) = &mut dated.change
                && entry.map.is_some_and(|at| at & FRESH != 0)
            {
                (entry.map, entry.stat) = (None, None);
            }
            Ok(dated)
        });
        Ok(Box::new(overlay(base, changes)))
    }

    fn write_found(
        &self,
        pass: &Pass,
        batch: &mut Vec<Found>,
        tells_all: bool,
        basis: &mut Writing<Entry>,
        told: &mut Writing<Change>,
    ) -> Result<(), PassError> {
        let is_large = |found: &Found| found.scanned.stat.kind.has_content() && found.scanned.stat.size >= SHARED_BYTES;
        let believed = |found: &Found, threads| match &found.known {
            Some(known) if !found.is_doubted && is_as_known(known, &found.scanned) => Ok(Some((known.clone(), false))),
            _ => Ok(self.examine(pass, &found.scanned, threads)?.map(|entry| (entry, true))),
        };
        let entries = parallel::map(batch, self.threads, is_large, believed)?;
        for (found, entry) in batch.drain(..).zip(entries) {
            let Some((entry, was_read)) = entry else { continue };
            let left = found.known.and_then(|known| known.stat);
            let is_drift = !found.is_ours && left.is_some_and(|left| !left.is_as_left(&found.scanned.stat));
            Counters::add(&self.counters.drifted_entries, u64::from(is_drift));
            if was_read || tells_all || !found.is_common {
                told.push(Change::Entry(entry.clone()))?;
            }
            basis.push(entry)?;
        }
        Ok(())
    }

    /// Reads an object; nothing if it is gone meanwhile.
    fn examine(&self, pass: &Pass, scanned: &Scanned, threads: usize) -> Result<Option<Entry>, PassError> {
        let fidelity = pass.begin.fidelity;
        let contract = Contract::all(fidelity);
        let kind = scanned.stat.kind;
        let mut entry = Entry {
            place: scanned.place.clone(),
            kind,
            size: 0,
            stat: Some(scanned.stat),
            meta: None,
            content: None,
            map: None,
            leader: scanned.leader.clone(),
            is_read_back: false,
        };
        let look = match self.volume.look(&scanned.place, fidelity) {
            Ok(look) => look,
            Err(VolumeError::Vanished { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        entry.meta = Some(digest::meta(contract, kind, &look.meta, look.target.as_deref(), look.stat.device));
        if entry.has_own_content() {
            let content = self.volume.open(&scanned.place, Access::ReadDevice)?;
            let size = scanned.stat.size;
            let map = (size > PACKED_FILE_BYTES_MAX as u64).then(|| pass.map.reserve(size));
            let into = map.map(|start| (&pass.map, start));
            let reading = content::Reading { threads, stop: &self.stop, read_bytes: &self.counters.bytes_read };
            let read = content::read(&*content, size, &[Digester::canonical()], into, reading)?;
            entry.size = read.size;
            entry.content = read.digests.first().copied();
            entry.map = map.filter(|_| read.size == size).map(|start| start | FRESH);
            entry.is_read_back = true;
        }
        Ok(Some(entry))
    }

    fn survey_block(
        &self,
        pass: &Pass,
        head: &Head,
        history: &History,
        tells_all: bool,
        basis: &mut Writing<Entry>,
        told: &mut Writing<Change>,
    ) -> Result<(), PassError> {
        let content = self.volume.open(&Place::root(), Access::ReadDevice)?;
        let stat = content.stat()?;
        let size = stat.size.min(pass.begin.block_bytes.unwrap_or(stat.size));
        let known = read_entries(&*self.store, head.token.map(manifest_name).as_deref())?.next().transpose()?;
        // Pieces that were finished have leaves that nobody kept; those that were only touched have none.
        let doubts: BTreeSet<u64> = history.pieces.union(&history.pieces_done).copied().collect();
        let is_drift = |known: &Entry| {
            pass.begin.is_final && !history.is_interrupted && known.stat.is_some_and(|known| known != stat)
        };
        // What a proof found different is named by its place, which is all of it.
        let is_doubted = history.everything || !history.places.is_empty();
        let known = known.filter(|known| known.map.is_some() && known.size == size && !is_doubted);
        let entry = match known {
            Some(known) if !is_drift(&known) => self.reread_pieces(pass, &*content, known, stat, &doubts)?,
            known => {
                Counters::add(&self.counters.drifted_entries, u64::from(known.is_some()));
                let start = pass.map.reserve(size);
                let into = Some((&pass.map, start));
                let digesters = [Digester::canonical()];
                let read_bytes = &self.counters.bytes_read;
                let reading = content::Reading { threads: self.threads, stop: &self.stop, read_bytes };
                let read = content::read(&*content, size, &digesters, into, reading)?;
                Entry {
                    place: Place::root(),
                    kind: Kind::Block,
                    size,
                    stat: Some(stat),
                    meta: Some(digest::block_meta()),
                    content: read.digests.first().copied(),
                    map: Some(start | FRESH),
                    leader: None,
                    is_read_back: true,
                }
            }
        };
        if tells_all || entry.map.is_some_and(|at| at & FRESH != 0) {
            told.push(Change::Entry(entry.clone()))?;
        }
        Ok(basis.push(entry)?)
    }

    /// A block volume of which only these pieces are in doubt.
    fn reread_pieces(
        &self,
        pass: &Pass,
        content: &dyn crate::volume::Content,
        mut known: Entry,
        stat: Stat,
        doubts: &BTreeSet<u64>,
    ) -> Result<Entry, PassError> {
        // Whether it was moved by the pass that was cut off or by somebody else, nobody can tell.
        known.is_read_back &= known.stat == Some(stat);
        known.stat = Some(stat);
        let (Some(start), Some(map), false) = (known.map, &pass.known_map, doubts.is_empty()) else {
            return Ok(known);
        };
        let fresh = map.copy_to(&pass.map, start, known.size)?;
        let mut buffer = vec![0; PIECE_BYTES];
        for &index in doubts.iter().filter(|&&index| index < piece::count(known.size)) {
            let bytes = &mut buffer[..piece::bytes(known.size, index)];
            let read = content.read_at(bytes, index * PIECE_BYTES as u64)?;
            Counters::add(&self.counters.bytes_read, read as u64);
            let leaves: Vec<_> = Digester::canonical().leaves(bytes).collect();
            pass.map.write(fresh, index, &leaves)?;
        }
        known.content = Some(pass.map.content_digest(fresh, known.size)?);
        known.map = Some(fresh | FRESH);
        Ok(known)
    }
}

impl Pass {
    /// The leaves of a piece of the basis.
    pub(super) fn leaves(
        &self,
        start: u64,
        size: u64,
        index: u64,
    ) -> Result<Vec<tranship_proto::id::Digest>, PassError> {
        if start & FRESH != 0 {
            return Ok(self.map.read(start & !FRESH, size, index)?);
        }
        let map = self.known_map.as_ref().ok_or(StateError::Map { offset: start })?;
        Ok(map.read(start, size, index)?)
    }
}

/// Whether an entry is still what we made of it.
fn is_as_known(known: &Entry, scanned: &Scanned) -> bool {
    let is_as_left = known.stat.is_some_and(|stat| stat.is_as_left(&scanned.stat));
    is_as_left && known.is_settled() && known.leader == scanned.leader
}
