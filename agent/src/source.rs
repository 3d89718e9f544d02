//! Does what a source's session asks for, on a volume and a store.
//!
//! Every method blocks and may be called from any thread; [`Source::read`] from several at a time. The volume is never
//! changed.

mod asking;
mod closing;
mod doubts;
mod plan;
mod read;
mod shifted;
mod structure;
mod tracked;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};

use tranship_engine::digest;
use tranship_engine::entry::{Change, Entry};
use tranship_engine::exclude::Excludes;
use tranship_engine::moves::Moves;
use tranship_engine::overlay::{Dated, overlay};
use tranship_engine::pack::Compressor;
use tranship_engine::plan::Candidate;
use tranship_engine::session::source::{Action, Event};
use tranship_engine::stat::Stat;
use tranship_proto::Place;
use tranship_proto::entry::{Kind, Time};
use tranship_proto::id::{Digest, Token};
use tranship_proto::message::{Basis, Challenge, Contract, Gap, GapKind, Listed, Proof, SurveyItem};

use self::doubts::Doubts;
use crate::gaps::Gaps;
use crate::pass::{Changes, Clock, Counters, PassError, Scan, is_within_any};
use crate::prove::{Comparing, DIFFERENCES_MAX, Proving};
use crate::state::head::{Head, Pace, manifest_name, map_name};
use crate::state::map::Map;
use crate::state::{StateFile, Store, Writing, finish_list, is_whole_list, read_entries, write_list};
use crate::track::{Pieces, Tracking};
use crate::volume::{Access, Facts, LeftOut, Look, Volume, VolumeError, trusted_before};

use asking::Asking;
use closing::Closing;
use read::Reading;
use structure::Structure;

/// Opens the store for the pair of this volume and the destination that is named.
pub type OpenStore = Arc<dyn Fn(&str) -> std::io::Result<Arc<dyn Store>> + Send + Sync>;

/// How a pass is done at the source.
pub struct Settings {
    /// What counts as equal.
    pub contract: Contract,
    /// Whether there are no writers.
    pub is_final: bool,
    /// Whether what is read is read again for a proof.
    pub reads_twice: bool,
    /// What is left out, in gitignore's syntax.
    pub excludes: Vec<String>,
    /// Threads for reading and hashing.
    pub threads: usize,
    /// Tracking of the volume, if it is a device and that is wanted.
    pub tracking: Option<Arc<Tracking>>,
}

/// Marks the place of piece digests of the destination's survey, as opposed to leaves in our own map.
const SURVEYED: u64 = 1 << 63;

/// One pass at the source.
pub struct Source {
    volume: Arc<dyn Volume>,
    facts: Facts,
    open_store: OpenStore,
    settings: Settings,
    excludes: Excludes,
    clock: Clock,
    began: Time,
    /// When the write-back before the scan began.
    settled: Mutex<Time>,
    stop: Arc<AtomicBool>,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// What is counted when the volume is read for a proof.
    pub proof_counters: Counters,
    /// Packs what is sent.
    pub compressor: Arc<Compressor>,
    inner: Mutex<Inner>,
    reading: Mutex<Option<Reading>>,
    /// Told when small files were given back, or will not be any more.
    given_back: Condvar,
    asking: Mutex<Asking>,
    results: Mutex<Option<Changes>>,
    gaps: Mutex<Gaps>,
    /// Places that the destination could not take over as they are.
    doubts: Mutex<Doubts>,
    /// Places at which something did not arrive that was to be moved, so that what is beneath is not there either.
    missing: Mutex<BTreeSet<Place>>,
    /// What was written to the device since our manifest was made, if that is known; nothing else has to be read.
    written: OnceLock<Arc<Pieces>>,
}

#[derive(Default)]
struct Inner {
    state: Option<State>,
    scan: Option<Scan>,
    left_out: Vec<LeftOut>,
    survey: Option<Survey>,
    structure: Option<Structure>,
    closing: Option<Closing>,
    has_candidates: bool,
    /// The list that our next manifest is made from, if it is not the last manifest.
    base: Option<String>,
    moves: Moves,
    last_began_ms: Option<u64>,
    comparing: Option<Comparing>,
}

/// What we remember of this pair.
#[derive(Clone)]
struct State {
    store: Arc<dyn Store>,
    head: Head,
    /// Leaves of what our manifest describes.
    known_map: Option<Map>,
    /// Leaves of what this pass reads.
    map: Map,
    /// Bytes that were free at the destination.
    room_bytes: u64,
}

/// What the destination says it holds.
struct Survey {
    list: Writing<Dated>,
    count: u64,
    pieces: Arc<dyn StateFile>,
    pieces_end: u64,
    last: Option<Entry>,
}

impl Source {
    /// A pass over `volume`.
    pub fn new(
        volume: Arc<dyn Volume>,
        open_store: OpenStore,
        settings: Settings,
        compressor: Arc<Compressor>,
        clock: Clock,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, PassError> {
        let excludes = Excludes::new(&settings.excludes)?;
        let facts = volume.facts()?;
        Ok(Self {
            volume,
            facts,
            open_store,
            settings,
            excludes,
            began: clock(),
            settled: Mutex::default(),
            clock,
            stop,
            counters: Arc::default(),
            proof_counters: Counters::default(),
            compressor,
            inner: Mutex::default(),
            reading: Mutex::default(),
            given_back: Condvar::new(),
            asking: Mutex::default(),
            results: Mutex::default(),
            gaps: Mutex::default(),
            doubts: Mutex::default(),
            missing: Mutex::default(),
            written: OnceLock::new(),
        })
    }

    /// Does what the session asks for, and says what came of it.
    pub fn perform(&self, action: Action) -> Event {
        self.try_to(action).unwrap_or_else(|error| {
            if error.is_damage() {
                self.forget_manifest();
            }
            Event::Failed(error.refusal())
        })
    }

    /// Without a manifest the next session compares contents.
    fn forget_manifest(&self) {
        let Some(State { store, head, .. }) = lock(&self.inner).state.clone() else { return };
        if let Err(error) = (Head { token: None, ..head }).store(&*store) {
            tracing::warn!(%error, "cannot discard a damaged manifest");
        }
    }

    fn try_to(&self, action: Action) -> Result<Event, PassError> {
        Ok(match action {
            Action::Resolve(basis) => Event::Resolved(self.resolve(&basis)?),
            Action::Scan => {
                self.scan()?;
                Event::Scanned
            }
            Action::Absorb(items) => {
                self.absorb(items)?;
                Event::Absorbed
            }
            Action::Plan(choice) => Event::Planned(self.plan(choice)?),
            Action::NextStructure => Event::Ops(self.next_structure()?),
            Action::Read => {
                let (produced, is_exhausted) = self.read()?;
                Event::Read { produced, is_exhausted }
            }
            Action::Refine(signature) => Event::Refined(self.refine(&signature)?),
            Action::NextClosing => Event::Ops(self.next_closing()?),
            Action::Doubt(gaps) => {
                self.doubt(gaps);
                Event::Doubted
            }
            Action::Commit(token) => {
                self.commit(token)?;
                Event::Committed
            }
            Action::Prove(challenge) => Event::Proved(self.prove(&challenge)?),
            Action::Compare(entries) => {
                self.compare(entries)?;
                Event::Compared
            }
            Action::Explain => Event::Explained(self.explain()?),
        })
    }

    /// Opens what we remember of the pair; gives our manifest's name if it can be used.
    pub fn resolve(&self, basis: &Basis) -> Result<Option<Token>, PassError> {
        let store = (self.open_store)(&format!("source-{}", &basis.volume.to_string()[..32]));
        let store = store.map_err(PassError::of_store)?;
        let scope = Head::scope(self.settings.contract.fidelity, &self.settings.excludes);
        let stored = Head::load(&*store)?;
        let stage = stored.as_ref().map_or(0, |head| head.stage);
        let mut head = stored
            .filter(|head| head.identity == self.facts.identity && head.scope == scope)
            .unwrap_or_else(|| Head { stage, ..Head::new(self.facts.identity.clone(), scope) });
        head.sweep(&*store)?;
        let known_map = match head.token {
            None => None,
            Some(token) => match (is_whole_list(&*store, &manifest_name(token))?, store.open(&map_name(token))?) {
                (true, Some(map)) => Some(Map::new(map)?),
                _ => {
                    head.token = None;
                    None
                }
            },
        };
        let map = Map::new(store.create("map.tmp")?)?;
        *lock(&self.results) = Some(Changes::new(store.clone()));
        let token = head.token;
        // A short pass is over before its link was measured.
        if head.pace.link_bytes_per_second > 0 {
            self.compressor.set_goodput(self.compressor.goodput().min(head.pace.link_bytes_per_second));
        }
        let last_began_ms = Some(head.pace.began_ms).filter(|_| head.stage > 0 && token.is_some());
        lock(&self.inner).last_began_ms = last_began_ms;
        lock(&self.inner).state = Some(State { store, head, known_map, map, room_bytes: basis.free_bytes });
        Ok(token)
    }

    /// Lists what the volume has.
    pub fn scan(&self) -> Result<(), PassError> {
        let state = self.state();
        *lock(&self.settled) = (self.clock)();
        self.volume.settle()?;
        let scan = Scan::make(&*self.volume, &state.store, "scan.tmp", &self.excludes, &self.counters, &self.stop)?;
        let mut inner = lock(&self.inner);
        inner.left_out = scan.left_out.clone();
        inner.scan = Some(scan);
        Ok(())
    }

    /// Keeps lines of the destination's survey.
    pub fn absorb(&self, items: Vec<SurveyItem>) -> Result<(), PassError> {
        let state = self.state();
        let mut inner = lock(&self.inner);
        let survey = match &mut inner.survey {
            Some(survey) => survey,
            empty => empty.insert(Survey {
                list: write_list(&*state.store, "survey.tmp")?,
                count: 0,
                pieces: state.store.create("pieces.tmp")?,
                pieces_end: 0,
                last: None,
            }),
        };
        items.into_iter().try_for_each(|item| survey.absorb(item))
    }

    /// What was left out of the scan.
    pub fn left_out(&self) -> Vec<LeftOut> {
        lock(&self.inner).left_out.clone()
    }

    /// What could not be carried, so far.
    pub fn gaps(&self) -> Gaps {
        lock(&self.gaps).clone()
    }

    /// How much could not be carried, so far.
    pub fn gap_count(&self) -> u64 {
        lock(&self.gaps).total()
    }

    /// How many passes were committed before this one.
    pub fn stage(&self) -> u64 {
        lock(&self.inner).state.as_ref().map_or(0, |state| state.head.stage)
    }

    /// When the last pass was, and how fast passes are.
    pub fn last_pace(&self) -> Pace {
        lock(&self.inner).state.as_ref().map_or(Pace::default(), |state| state.head.pace)
    }

    /// Milliseconds from the beginning of the pass before this one to the beginning of this one.
    pub fn interval_ms(&self) -> Option<u64> {
        let last = lock(&self.inner).last_began_ms?;
        Some(millis(self.began).saturating_sub(last))
    }

    /// Reads the volume again for a proof.
    pub fn prove(&self, challenge: &Challenge) -> Result<Proof, PassError> {
        let state = self.state();
        let sampled_bytes = self.check_device(&state, challenge)?;
        let reading = Proving {
            volume: &*self.volume,
            is_device_known: sampled_bytes.is_some(),
            store: &state.store,
            excludes: &self.excludes,
            access: Access::Read,
            block_bytes: None,
            reads_rest: false,
            manifest: state.head.token.map(manifest_name),
            needs_read_back: false,
            threads: self.settings.threads,
            stop: &self.stop,
            counters: &self.proof_counters,
            gaps: Mutex::default(),
        };
        let (mut proof, listing) = reading.prove(challenge)?;
        proof.read_bytes += sampled_bytes.unwrap_or(0);
        let found = std::mem::take(&mut *lock(&reading.gaps));
        lock(&self.gaps).append_reread(found);
        let mut inner = lock(&self.inner);
        inner.comparing = Some(Comparing::new(listing.entries(&*state.store)?));
        inner.left_out = listing.left_out;
        Ok(proof)
    }

    /// Compares the destination's entries, as far as it told them, with ours.
    pub fn compare(&self, theirs: Vec<Listed>) -> Result<(), PassError> {
        let mut inner = lock(&self.inner);
        inner.comparing.as_mut().expect("proved before compared").take(theirs)
    }

    /// Everything that differs.
    pub fn explain(&self) -> Result<Vec<Gap>, PassError> {
        let comparing = lock(&self.inner).comparing.take().expect("proved before compared");
        let differences = comparing.finish()?;
        self.distrust(&differences)?;
        Ok(differences)
    }

    /// What differs is read again in the next pass, whatever its stat says: a loss of power can keep the bytes of a late
    /// write and lose its time.
    fn distrust(&self, differences: &[Gap]) -> Result<(), PassError> {
        let mut state = self.state();
        let Some(token) = state.head.token else { return Ok(()) };
        let store = &*state.store;
        if differences.len() >= DIFFERENCES_MAX {
            state.head.token = None;
            state.head.store(store)?;
            lock(&self.inner).state = Some(state);
            return Ok(());
        }
        let places: BTreeSet<&Place> = differences.iter().map(|gap| &gap.place).collect();
        let mut list = write_list::<Entry>(store, "manifest.new")?;
        for entry in read_entries(store, Some(&manifest_name(token)))? {
            let mut entry = entry?;
            entry.stat = entry.stat.filter(|_| !places.contains(&entry.place));
            list.push(entry)?;
        }
        list.finish()?.sync()?;
        Ok(store.rename("manifest.new", &manifest_name(token))?)
    }

    /// Takes these places for unknown at the destination.
    pub fn doubt(&self, gaps: Vec<Gap>) {
        let mut doubts = lock(&self.doubts);
        gaps.iter().for_each(|gap| doubts.add(&gap.place));
        drop(doubts);
        // What fails at such a place later, for other reasons, costs a second look at what is beneath.
        let inner = lock(&self.inner);
        let missing = gaps.iter().filter(|gap| gap.what == GapKind::Limit && inner.moves.arrives_at(&gap.place));
        lock(&self.missing).extend(missing.map(|gap| gap.place.clone()));
        drop(inner);
        lock(&self.gaps).extend(gaps);
    }

    /// Makes our manifest of this pass durable.
    pub fn commit(&self, token: Token) -> Result<(), PassError> {
        let state = self.state();
        let mut head = state.head.clone();
        head.stage += 1;
        head.pace = self.pace(&head.pace);
        if lock(&self.inner).has_candidates || head.token != Some(token) {
            if head.token == Some(token) {
                // Manifest and map are two files: between their new versions no crash may leave the name of one for both.
                Head { token: None, ..head.clone() }.store(&*state.store)?;
            }
            self.write_manifest(&state, token)?;
            head.token = Some(token);
        }
        head.store(&*state.store)?;
        head.sweep(&*state.store)?;
        lock(&self.inner).state = Some(State { head, ..state });
        if let Some(tracking) = &self.settings.tracking {
            tracking.commit(token);
        }
        Ok(())
    }

    /// What this pass teaches about the next one.
    fn pace(&self, last: &Pace) -> Pace {
        let took = millis((self.clock)()).saturating_sub(millis(self.began)).max(1);
        let looked_at = Counters::get(&self.counters.bytes_done) - Counters::get(&self.counters.bytes_tracked);
        let bytes_per_second = looked_at * 1_000 / took;
        Pace {
            began_ms: millis(self.began),
            bytes_per_second: bytes_per_second.max(last.bytes_per_second),
            link_bytes_per_second: Some(self.compressor.goodput()).filter(|&goodput| goodput < u64::MAX).unwrap_or(0),
        }
    }

    fn write_manifest(&self, state: &State, token: Token) -> Result<(), PassError> {
        let store = &*state.store;
        let base = lock(&self.inner).base.clone().or_else(|| state.head.token.map(manifest_name));
        let known = read_entries(store, base.as_deref())?;
        let results = lock(&self.results).take().expect("a pass is committed once").sorted()?;
        let (doubts, missing) = (lock(&self.doubts), lock(&self.missing));
        let map_file = store.create("map.new")?;
        let map = Map::new(map_file)?;
        let mut list = write_list::<Entry>(store, "manifest.new")?;
        for entry in overlay(known, results) {
            let mut entry = entry?;
            if doubts.cover(&entry.place) || is_within_any(&missing, &entry.place) {
                (entry.stat, entry.meta) = (None, None);
            }
            entry.map = match entry.map {
                Some(at) if at & FRESH != 0 => Some(state.map.copy_to(&map, at & !FRESH, entry.size)?),
                Some(at) => match &state.known_map {
                    Some(known_map) => Some(known_map.copy_to(&map, at, entry.size)?),
                    None => None,
                },
                None => None,
            };
            list.push(entry)?;
        }
        list.finish()?.sync()?;
        map.sync()?;
        store.rename("map.new", &map_name(token))?;
        store.rename("manifest.new", &manifest_name(token))?;
        Ok(())
    }

    fn state(&self) -> State {
        lock(&self.inner).state.clone().expect("resolved before anything else")
    }

    /// What to remember of an object whose stat was taken before and after it was read.
    fn settled_stat(&self, scanned: &Stat, before: &Stat, after: &Stat) -> Option<Stat> {
        let is_still = scanned == before && before == after;
        // What became dirty after the write-back may be written to through a mapping without touching its times again,
        // for as long as it stays dirty: the next pass begins with a write-back, and looks again. The time of
        // modification can be set to anything; that of change cannot.
        let trusted = trusted_before(*lock(&self.settled), self.facts.time_step);
        if is_still && after.ctime < trusted {
            return Some(*after);
        }
        Counters::add(&self.counters.racy_entries, 1);
        None
    }

    /// In a pass without writers, nothing may have moved.
    fn insist(&self, place: &Place, is_still: bool) -> Result<(), PassError> {
        if self.settings.is_final && !is_still { Err(PassError::Changed { place: place.clone() }) } else { Ok(()) }
    }

    fn push_result(&self, change: Change) -> Result<(), PassError> {
        let mut results = lock(&self.results);
        Ok(results.as_mut().expect("resolved before anything else").push(change)?)
    }

    /// Remembers that the destination keeps what it has, because we could not say what should be there.
    fn keep_held(&self, candidate: &Candidate) -> Result<(), PassError> {
        let kind = candidate.found.as_ref().map(|found| found.stat.kind);
        self.push_result(match &candidate.held {
            // What was of another kind has been removed to make room.
            Some(held) if Some(held.kind) == kind => {
                Change::Entry(Entry { stat: None, map: None, content: None, meta: None, ..held.clone() })
            }
            _ => Change::Removed(candidate.place.clone()),
        })
    }

    /// What to do when an object cannot be looked at: what vanished is taken again in the next pass, what cannot be read
    /// is a gap, and anything else ends the pass.
    fn pass_over(&self, candidate: &Candidate, error: VolumeError) -> Result<(), PassError> {
        match &error {
            VolumeError::Vanished { .. } | VolumeError::Replaced { .. } => {
                self.insist(&candidate.place, false)?;
                Counters::add(&self.counters.racy_entries, 1);
            }
            VolumeError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                lock(&self.gaps).push(Gap {
                    place: candidate.place.clone(),
                    what: GapKind::Unreadable,
                    detail: "permission denied".to_owned(),
                });
            }
            _ => return Err(error.into()),
        }
        self.keep_held(candidate)
    }

    /// The digest of metadata as both manifests keep it: accepted gaps change what is proven, not what is copied.
    fn meta(&self, kind: Kind, look: &Look) -> Digest {
        match kind {
            Kind::Block => digest::block_meta(),
            kind => {
                let contract = Contract::all(self.settings.contract.fidelity);
                digest::meta(contract, kind, &look.meta, look.target.as_deref(), look.stat.device)
            }
        }
    }

    /// Records what the look says that the mode does not carry.
    fn note_gaps(&self, look: &mut Look) {
        if !look.gaps.is_empty() {
            lock(&self.gaps).extend(look.gaps.drain(..));
        }
    }
}

/// Marks the place of leaves that this pass read, as opposed to those of the last manifest.
const FRESH: u64 = 1 << 62;

impl Survey {
    fn absorb(&mut self, item: SurveyItem) -> Result<(), PassError> {
        match item {
            SurveyItem::Absent(place) => {
                self.close()?;
                self.push(Change::Removed(place))
            }
            SurveyItem::Present(surveyed) => {
                self.close()?;
                self.last = Some(Entry {
                    place: surveyed.place,
                    kind: surveyed.kind,
                    size: surveyed.size,
                    stat: None,
                    meta: surveyed.meta,
                    content: surveyed.content,
                    map: None,
                    leader: surveyed.leader,
                    is_read_back: false,
                });
                Ok(())
            }
            SurveyItem::Pieces(digests) => {
                let entry = self.last.as_mut();
                let entry = entry.ok_or_else(|| PassError::Protocol("pieces of nothing".to_owned()))?;
                entry.map.get_or_insert(self.pieces_end | SURVEYED);
                for Digest(digest) in digests {
                    self.pieces.write_at(&digest, self.pieces_end)?;
                    self.pieces_end += 32;
                }
                Ok(())
            }
        }
    }

    fn close(&mut self) -> Result<(), PassError> {
        match self.last.take() {
            Some(entry) => self.push(Change::Entry(entry)),
            None => Ok(()),
        }
    }

    fn push(&mut self, change: Change) -> Result<(), PassError> {
        let number = self.count;
        self.count += 1;
        Ok(self.list.push(Dated { number, change })?)
    }

    fn finish(mut self) -> Result<(), PassError> {
        self.close()?;
        Ok(finish_list(self.list)?)
    }
}

fn millis(time: Time) -> u64 {
    time.seconds.max(0) as u64 * 1_000 + u64::from(time.nanos) / 1_000_000
}

/// The entry of an object that was looked at.
fn entry_of(candidate: &Candidate, kind: Kind, stat: Option<Stat>, size: u64, meta: Digest) -> Entry {
    Entry {
        place: candidate.place.clone(),
        kind,
        size,
        stat,
        meta: Some(meta),
        content: None,
        map: None,
        leader: candidate.found.as_ref().and_then(|found| found.leader.clone()),
        is_read_back: false,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics while it holds the lock")
}
