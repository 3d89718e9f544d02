//! Does what a destination's session asks for, on a volume and a store.
//!
//! Every method blocks and may be called from any thread; [`Destination::apply`] from several at a time. Whatever
//! happens, the store tells which places of the volume are as its manifest says and which are in doubt.

mod apply;
mod fresh;
mod moving;
mod recheck;
mod survey;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tranship_engine::digest::Digester;
use tranship_engine::entry::{Change, Entry};
use tranship_engine::exclude::Excludes;
use tranship_engine::overlay::overlay;
use tranship_engine::session::destination::{Action, Event, Touch};
use tranship_proto::Place;
use tranship_proto::id::{ContentId, Digest, Token};
use tranship_proto::message::{Basis, Begin, Challenge, Committed, Examine, Finish, Gap, Listed, Proof, VolumeKind};
use tranship_proto::refusal::Reason;

use crate::pass::{Changes, Counters, PassError};
use crate::prove::{Listing, Listings, Proving};
use crate::state::head::{Head, manifest_name, map_name};
use crate::state::journal::{History, Journal, Record};
use crate::state::map::Map;
use crate::state::{Store, is_whole_list, read_entries, write_list};
use crate::volume::{Access, Claim, Facts, Volume};

pub use apply::Applied;
use apply::{BasisContents, Target};
use fresh::Fresh;
use moving::Moving;
use recheck::Touched;
use survey::Survey;

/// Entries in one message of a listing.
const LISTED: usize = 2_048;

/// One session at the destination.
pub struct Destination {
    volume: Arc<dyn Volume>,
    facts: Facts,
    store: Arc<dyn Store>,
    threads: usize,
    stop: Arc<AtomicBool>,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// What is counted when what was written is read back.
    pub recheck_counters: Counters,
    /// What is counted when the volume is read for a proof.
    pub proof_counters: Counters,
    inner: Mutex<Inner>,
    journal: Mutex<Option<Journal>>,
    /// Done and not flushed yet.
    pending: Mutex<Vec<Record>>,
    /// Places where what the source said could not be done.
    undone: Mutex<BTreeSet<Place>>,
    targets: Mutex<HashMap<ContentId, Arc<Target>>>,
    basis_contents: BasisContents,
    /// What this pass wrote of contents that had been read back, by where their leaves are: in the map of this session, and
    /// in that of the manifest once there is one.
    touched: Mutex<BTreeMap<u64, Touched>>,
    /// What is to be read back once it is flushed.
    fresh: Mutex<Vec<Fresh>>,
    moving: Mutex<Moving>,
    has_touched: AtomicBool,
    /// Goes with the last of the threads that still work for this session.
    _claim: Option<Claim>,
}

#[derive(Default)]
struct Inner {
    head: Option<Head>,
    history: Option<History>,
    pass: Option<Pass>,
    survey: Option<Survey>,
    listing: Option<Listings>,
    compared: Option<Compared>,
}

/// What is read to be compared, where there is no pass.
#[derive(Clone)]
struct Compared {
    excludes: Excludes,
    block_bytes: Option<u64>,
    reads_rest: bool,
}

/// The pass that runs.
#[derive(Clone)]
struct Pass {
    begin: Begin,
    excludes: Excludes,
    /// The list of what the volume holds, and the leaves of it.
    basis: Option<String>,
    /// Entries of large contents in the basis, by where their leaves are.
    known_map: Option<Map>,
    /// Leaves that this session made, for the survey and for what it applies.
    map: Map,
    changes: Arc<Mutex<Option<Changes>>>,
}

/// Marks the place of leaves that this session made.
const FRESH: u64 = 1 << 62;

impl Destination {
    /// A session over `volume`.
    pub fn new(
        volume: Arc<dyn Volume>,
        store: Arc<dyn Store>,
        threads: usize,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, PassError> {
        let facts = volume.facts()?;
        Ok(Self {
            volume,
            facts,
            store,
            threads,
            stop,
            counters: Arc::default(),
            recheck_counters: Counters::default(),
            proof_counters: Counters::default(),
            inner: Mutex::default(),
            journal: Mutex::default(),
            pending: Mutex::default(),
            undone: Mutex::default(),
            targets: Mutex::default(),
            basis_contents: BasisContents::new(),
            touched: Mutex::default(),
            fresh: Mutex::default(),
            moving: Mutex::default(),
            has_touched: AtomicBool::new(false),
            _claim: None,
        })
    }

    /// The same, with the volume claimed for as long as anybody works on it.
    pub fn holding(self, claim: Claim) -> Self {
        Self { _claim: Some(claim), ..self }
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

    /// Without a manifest the next session compares contents. The journal keeps what it says.
    fn forget_manifest(&self) {
        let Some(head) = lock(&self.inner).head.clone() else { return };
        if let Err(error) = (Head { token: None, ..head }).store(&*self.store) {
            tracing::warn!(%error, "cannot discard a damaged manifest");
        }
    }

    fn try_to(&self, action: Action) -> Result<Event, PassError> {
        Ok(match action {
            Action::Inspect => Event::Inspected(self.inspect()?),
            Action::Begin(begin) => {
                self.begin(begin)?;
                Event::Begun
            }
            Action::Examine(examine, challenge) => {
                self.prepare_comparison(&examine)?;
                Event::Proved(self.prove(&challenge)?)
            }
            Action::Survey => {
                let (items, is_last) = self.next_survey()?;
                Event::Surveyed { items, is_last }
            }
            Action::Intend(touches) => {
                self.intend(touches)?;
                Event::Intended
            }
            Action::Apply(id, job) => {
                let Applied { bytes, entries, gaps } = self.apply(job)?;
                Event::Applied { job: id, bytes, entries, gaps }
            }
            Action::Sign(ask) => Event::Signed(self.sign(&ask)?),
            Action::Checkpoint => {
                self.checkpoint()?;
                Event::Checkpointed
            }
            Action::Commit(finish) => Event::Committed(self.commit(finish)?),
            Action::Recheck => Event::Rechecked(self.recheck()?),
            Action::Prove(challenge) => Event::Proved(self.prove(&challenge)?),
            Action::List => Event::Listed(self.list()?),
            Action::Doubt(gaps) => {
                self.doubt(gaps)?;
                Event::Doubted
            }
        })
    }

    /// Names the volume to a source.
    pub fn volume_name(facts: &Facts) -> Digest {
        Digester::canonical().content(&facts.identity)
    }

    /// Says what we hold.
    pub fn inspect(&self) -> Result<Basis, PassError> {
        let store = &*self.store;
        let head = Head::load(store)?.filter(|head| head.identity == self.facts.identity);
        if head.is_none() {
            // Nothing says any more which volume the first journal is about.
            store.remove(&crate::state::journal::name(0))?;
        }
        let mut head = head.unwrap_or_else(|| Head::new(self.facts.identity.clone(), Digest([0; 32])));
        if let Some(token) = head.token
            && (!is_whole_list(store, &manifest_name(token))? || store.open(&map_name(token))?.is_none())
        {
            head.token = None;
        }
        // Whoever emptied it did not ask us.
        let has_root_alone =
            |token| read_entries(store, Some(&manifest_name(token))).is_ok_and(|mut entries| entries.nth(1).is_none());
        if self.facts.is_empty && !head.token.is_some_and(has_root_alone) {
            head.token = None;
        }
        head.sweep(store)?;
        let (journal, history) = Journal::open(&self.store, head.journal)?;
        let basis = Basis {
            volume: Self::volume_name(&self.facts),
            token: head.token,
            is_interrupted: history.is_interrupted,
            is_empty: self.facts.is_empty,
            capacity_bytes: self.facts.capacity_bytes,
            free_bytes: self.facts.free_bytes,
        };
        *lock(&self.journal) = Some(journal);
        let mut inner = lock(&self.inner);
        inner.head = Some(head);
        inner.history = Some(history);
        Ok(basis)
    }

    /// Gets ready for a pass: finds out what the volume holds, as far as the source does not know it.
    pub fn begin(&self, begin: Begin) -> Result<(), PassError> {
        self.expect_kind(begin.block_bytes)?;
        let excludes = Excludes::new(&begin.excludes)?;
        let map = Map::new(self.store.create("map.tmp")?)?;
        let (head, history) = {
            let mut inner = lock(&self.inner);
            let head = inner.head.clone().expect("inspected before anything else");
            (head, inner.history.take().unwrap_or_default())
        };
        let known_map = match head.token {
            Some(token) => self.store.open(&map_name(token))?.map(Map::new).transpose()?,
            None => None,
        };
        // The head must exist before the first journal record counts: it says whose volume the journal is about.
        if head.token.is_none() && Head::load(&*self.store)?.as_ref() != Some(&head) {
            head.store(&*self.store)?;
        }
        let changes = Arc::new(Mutex::new(Some(Changes::new(self.store.clone()))));
        self.put_back(&history.slots)?;
        let pass = Pass { begin, excludes, basis: head.token.map(manifest_name), known_map, map, changes };
        let survey = self.survey(&pass, &head, history)?;
        let mut inner = lock(&self.inner);
        inner.pass = Some(Pass { basis: survey.basis.clone(), ..pass });
        inner.survey = Some(survey);
        Ok(())
    }

    /// Gets ready to be compared. Neither the volume nor what is remembered of it is changed.
    pub fn prepare_comparison(&self, examine: &Examine) -> Result<(), PassError> {
        self.expect_kind(examine.block_bytes)?;
        let excludes = Excludes::new(&examine.excludes)?;
        lock(&self.inner).compared = Some(Compared { excludes, block_bytes: examine.block_bytes, reads_rest: true });
        Ok(())
    }

    fn expect_kind(&self, block_bytes: Option<u64>) -> Result<(), PassError> {
        if block_bytes.is_some() == (self.facts.kind == VolumeKind::Block) {
            return Ok(());
        }
        let detail = "a tree on one side and a block volume on the other".to_owned();
        Err(PassError::Refused { reason: Reason::Kind, detail })
    }

    /// Records durably that this is about to be touched.
    pub fn intend(&self, touches: Vec<Touch>) -> Result<(), PassError> {
        self.has_touched.store(true, Ordering::Relaxed);
        let record = |touch| match touch {
            Touch::Slot(from, number) => Ok(Record::Slot { slot: self.reserve_slot(&from, number)?, from }),
            touch => Ok(Record::Touch(touch)),
        };
        let records: Vec<Record> = touches.into_iter().map(record).collect::<Result<_, PassError>>()?;
        let mut journal = lock(&self.journal);
        Ok(journal.as_mut().expect("inspected before anything else").append(&records)?)
    }

    /// Flushes what was applied, then records it durably as done. After an error nothing of it counts, and nobody
    /// tries again: a second flush may succeed although the data is gone.
    pub fn checkpoint(&self) -> Result<(), PassError> {
        let records = std::mem::take(&mut *lock(&self.pending));
        let fresh = std::mem::take(&mut *lock(&self.fresh));
        self.volume.flush()?;
        self.read_back(&self.pass(), &fresh)?;
        if records.iter().any(|record| matches!(record, Record::PieceDone(_))) {
            self.pass().map.sync()?;
        }
        let mut journal = lock(&self.journal);
        journal.as_mut().expect("inspected before anything else").append(&records)?;
        let pass = self.pass();
        let mut changes = lock(&pass.changes);
        for record in records {
            if let (Record::Done(change), Some(changes)) = (record, changes.as_mut()) {
                changes.push(change)?;
            }
        }
        Ok(())
    }

    /// Makes the manifest of this pass durable.
    pub fn commit(&self, finish: Finish) -> Result<Committed, PassError> {
        let pass = self.pass();
        let head = lock(&self.inner).head.clone().expect("inspected before anything else");
        let has_changed = self.has_touched.load(Ordering::Relaxed) || head.token != Some(finish.token);
        if has_changed && head.token == Some(finish.token) {
            return Err(PassError::Protocol("the name of a manifest was used twice".to_owned()));
        }
        if has_changed {
            self.write_manifest(&pass, finish.token)?;
            let head = Head {
                scope: Head::scope(pass.begin.fidelity, &pass.begin.excludes),
                token: Some(finish.token),
                journal: head.journal + 1,
                stage: head.stage + 1,
                ..head
            };
            let (mut journal, _) = Journal::open(&self.store, head.journal)?;
            // What could not be done stays in doubt: the source takes it for held from now on.
            let undone = std::mem::take(&mut *lock(&self.undone));
            let records: Vec<Record> = undone.into_iter().map(|place| Record::Touch(Touch::Place(place))).collect();
            if !records.is_empty() {
                journal.append(&records)?;
            }
            head.store(&*self.store)?;
            *lock(&self.journal) = Some(journal);
            lock(&self.inner).head = Some(head);
            self.has_touched.store(false, Ordering::Relaxed);
        }
        Ok(Committed {
            token: Some(finish.token),
            read_bytes: Counters::get(&self.counters.bytes_read) + Counters::get(&self.recheck_counters.bytes_done),
            written_bytes: Counters::get(&self.counters.bytes_written),
            drifted_entries: Counters::get(&self.counters.drifted_entries),
        })
    }

    fn write_manifest(&self, pass: &Pass, token: Token) -> Result<(), PassError> {
        let store = &*self.store;
        let base = read_entries(store, self.basis(pass)?.as_deref())?;
        let changes = lock(&pass.changes).take().expect("a pass is committed once").sorted()?;
        let map = Map::new(store.create("map.new")?)?;
        let mut list = write_list::<Entry>(store, "manifest.new")?;
        let mut touched = lock(&self.touched);
        let mut touched_before = std::mem::take(&mut *touched);
        for entry in overlay(base, changes) {
            let mut entry = entry?;
            entry.map = match (entry.map, &pass.known_map) {
                (Some(at), _) if at & FRESH != 0 => {
                    let start = pass.map.copy_to(&map, at & !FRESH, entry.size)?;
                    if let Some(what) = touched_before.remove(&(at & !FRESH)) {
                        entry.is_read_back = entry.is_unread() && what.pieces(entry.size).next().is_none();
                        touched.insert(start, what);
                    }
                    Some(start)
                }
                (Some(at), Some(known)) => Some(known.copy_to(&map, at, entry.size)?),
                (Some(_), None) | (None, _) => None,
            };
            list.push(entry)?;
        }
        list.finish()?.sync()?;
        map.sync()?;
        store.rename("map.new", &map_name(token))?;
        store.rename("manifest.new", &manifest_name(token))?;
        Ok(())
    }

    /// Reads the volume again, past the page cache.
    pub fn prove(&self, challenge: &Challenge) -> Result<Proof, PassError> {
        let compared = lock(&self.inner).compared.clone();
        let Compared { excludes, block_bytes, reads_rest } = compared.unwrap_or_else(|| {
            let Pass { excludes, begin, .. } = self.pass();
            Compared { excludes, block_bytes: begin.block_bytes, reads_rest: false }
        });
        let manifest = lock(&self.inner).head.as_ref().and_then(|head| head.token).map(manifest_name);
        let proving = Proving {
            volume: &*self.volume,
            store: &self.store,
            excludes: &excludes,
            access: Access::ReadDevice,
            block_bytes,
            reads_rest,
            manifest,
            is_device_known: false,
            needs_read_back: true,
            threads: self.threads,
            stop: &self.stop,
            counters: &self.proof_counters,
            gaps: Mutex::default(),
        };
        let (proof, listing) = proving.prove(challenge)?;
        lock(&self.inner).listing = Some(Listing::entries(&listing, &*self.store)?);
        Ok(proof)
    }

    /// The next entries that were read for the proof; none left when empty.
    pub fn list(&self) -> Result<Vec<Listed>, PassError> {
        let mut inner = lock(&self.inner);
        let listing = inner.listing.as_mut();
        let listing = listing.ok_or_else(|| PassError::Protocol("a listing without a proof".to_owned()))?;
        Ok(listing.take(LISTED).collect::<Result<_, _>>()?)
    }

    /// Takes these places for unknown, so that the next pass looks at them.
    pub fn doubt(&self, gaps: Vec<Gap>) -> Result<(), PassError> {
        self.intend(gaps.into_iter().map(|gap| Touch::Place(gap.place)).collect())
    }

    fn pass(&self) -> Pass {
        lock(&self.inner).pass.clone().expect("begun before anything is applied")
    }

    fn done(&self, change: Change) {
        lock(&self.pending).push(Record::Done(change));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics while it holds the lock")
}
