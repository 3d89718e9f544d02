//! Two machines, a clock, and what is known to be durable.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tranship_agent::destination::Destination;
use tranship_agent::pass::Clock;
use tranship_agent::source::{Settings, Source};
use tranship_agent::state::Store;
use tranship_agent::state::memory::MemoryStore;
use tranship_agent::volume::Access;
use tranship_agent::volume::memory::{MemoryVolume, Operation, Seen, Shape, VirtualClock};
use tranship_agent::volume::temporary::is_temporary;
use tranship_engine::pack::{Compression, Compressor};
use tranship_engine::session::destination::{Job, Touch};
use tranship_engine::session::source::Order;
use tranship_proto::entry::{Kind, Place};
use tranship_proto::limit::PIECE_BYTES;
use tranship_proto::message::{Fidelity, Onto, Op};

use crate::application;
use crate::chance::Chance;
use crate::power::{Power, PoweredStore};
use crate::reach::Reach;

/// Everything that there is in one run.
pub(crate) struct World {
    pub(crate) chance: Chance,
    pub(crate) clock: VirtualClock,
    pub(crate) is_block: bool,
    pub(crate) fidelity: Fidelity,
    pub(crate) source: Machine,
    pub(crate) destination: Machine,
    /// Whether applications write to the source while it is read.
    pub(crate) has_writers: Arc<Mutex<Option<Chance>>>,
    /// What must still be at the destination after a loss of power.
    durable: Durable,
    pub(crate) reach: Reach,
    /// Whether anything ever went wrong.
    pub(crate) has_crashed: bool,
    /// Whether the source's machine ever did.
    pub(crate) has_source_crashed: bool,
    /// Damages of state folders that nobody has stumbled over yet.
    pub(crate) damages: u64,
    /// Whether a stage may come upon a stranger's work at the destination.
    pub(crate) may_stumble: bool,
    /// Whether the destination's device ever lied.
    pub(crate) has_lied: bool,
    /// Whether somebody else ever wrote to the destination.
    pub(crate) is_meddled_with: bool,
    pub(crate) log: Vec<String>,
}

/// A machine with a volume and a state folder.
pub(crate) struct Machine {
    pub(crate) volume: MemoryVolume,
    pub(crate) store: MemoryStore,
    pub(crate) power: Power,
}

#[derive(Default)]
struct Durable {
    objects: BTreeMap<Place, Seen>,
    pieces: BTreeMap<u64, Vec<u8>>,
    /// Applied, and not covered by a checkpoint yet.
    applied: Vec<Touch>,
}

impl Machine {
    fn new(volume: MemoryVolume) -> Self {
        Self { volume, store: MemoryStore::default(), power: Power::new() }
    }

    pub(crate) fn powered_store(&self) -> Arc<dyn Store> {
        Arc::new(PoweredStore { store: self.store.clone(), power: self.power.clone() })
    }

    /// Loses its power and comes back.
    pub(crate) fn crash(&self, chance: &mut Chance) {
        self.volume.crash(&mut |below| chance.below(below));
        self.store.crash(|bytes| chance.below(bytes as u64 + 1) as usize);
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let clock = VirtualClock::default();
        clock.advance(Duration::from_secs(1));
        let is_block = chance.one_in(4);
        let step = Duration::from_millis([0, 1, 4, 4, 1000][chance.below(5) as usize]);
        let pieces = if chance.one_in(8) { chance.below(24) } else { chance.below(4) } + 1;
        let bytes = pieces * PIECE_BYTES as u64 - if chance.one_in(2) { chance.below(1 << 20) } else { 0 };
        let (from, to) = match (is_block, chance.below(4)) {
            (false, _) => (Shape::Tree, Shape::Tree),
            (true, 0) => (Shape::Device(bytes), Shape::Device(bytes + chance.below(2) * chance.below(3 << 20))),
            (true, 1) => (Shape::Device(bytes), Shape::Image(64 << 20)),
            (true, 2) => (Shape::Image(bytes), Shape::Device(bytes)),
            (true, _) => (Shape::Image(bytes), Shape::Image(64 << 20)),
        };
        let fidelity = [Fidelity::Plain, Fidelity::Owner, Fidelity::Exact][chance.below(3) as usize];
        let mut world = Self::with(chance, from, to, fidelity, clock, step);
        let (chance, clock) = (&mut world.chance, &world.clock);
        if let Shape::Image(bytes) = from {
            world.source.volume.truncate(&Place::root(), bytes as usize);
        }
        application::fill(&world.source.volume, chance, clock, is_block);
        if chance.one_in(4) {
            application::fill(&world.destination.volume, chance, clock, is_block);
        }
        world.install_hooks();
        world
    }

    /// Empty volumes, and no one who meddles.
    pub(crate) fn bare(seed: u64, from: Shape, to: Shape) -> Self {
        let clock = VirtualClock::default();
        clock.advance(Duration::from_secs(1));
        Self::with(Chance::new(seed), from, to, Fidelity::Exact, clock, Duration::from_millis(4))
    }

    fn with(chance: Chance, from: Shape, to: Shape, fidelity: Fidelity, clock: VirtualClock, step: Duration) -> Self {
        let source = Machine::new(MemoryVolume::new(from, 1, clock.clone(), step));
        let destination = Machine::new(MemoryVolume::new(to, 2, clock.clone(), step));
        let has_writers = Arc::new(Mutex::new(None));
        Self {
            chance,
            clock,
            is_block: from != Shape::Tree,
            fidelity,
            source,
            destination,
            has_writers,
            durable: Durable::default(),
            reach: Reach::default(),
            has_crashed: false,
            has_source_crashed: false,
            damages: 0,
            may_stumble: false,
            has_lied: false,
            is_meddled_with: false,
            log: vec![format!("{from:?} to {to:?}, {fidelity:?}, steps of {step:?}")],
        }
    }

    pub(crate) fn note(&mut self, line: impl Into<String>) {
        self.log.push(line.into());
    }

    fn install_hooks(&self) {
        let (clock, power, writers) = (self.clock.clone(), self.source.power.clone(), self.has_writers.clone());
        let is_block = self.is_block;
        self.source.volume.set_hook(Some(Arc::new(move |volume: &MemoryVolume, _| {
            power.spend()?;
            if let Some(chance) = &mut *writers.lock().expect("no panic under it") {
                if chance.one_in(3) {
                    clock.advance(Duration::from_micros(chance.below(3_000)));
                }
                if chance.one_in(12) {
                    application::work(volume, chance, is_block);
                }
            }
            Ok(())
        })));
        let (clock, power) = (self.clock.clone(), self.destination.power.clone());
        self.destination.volume.set_hook(Some(Arc::new(move |_: &MemoryVolume, operation| {
            if operation != Operation::Look {
                clock.advance(Duration::from_micros(50));
            }
            power.spend()
        })));
    }

    /// What executes a source's actions.
    pub(crate) fn source(&self, order: &Order) -> Result<Source, String> {
        let store = self.source.powered_store();
        let clock = self.clock.clone();
        let now: Clock = Arc::new(move || clock.now());
        let settings = Settings {
            contract: order.contract,
            is_final: order.is_final,
            reads_twice: false,
            excludes: order.excludes.clone(),
            threads: 1,
            tracking: None,
        };
        let compressor = Arc::new(Compressor::new(Compression::None));
        if order.token.0[0].is_multiple_of(2) {
            // So slow that every leaf is refined.
            compressor.set_goodput(1_000);
        }
        let volume = Arc::new(self.source.volume.clone());
        Source::new(volume, Arc::new(move |_| Ok(store.clone())), settings, compressor, now, Arc::default())
            .map_err(|error| error.to_string())
    }

    /// What executes a destination's actions.
    pub(crate) fn destination(&self) -> Result<Destination, String> {
        let volume = Arc::new(self.destination.volume.clone());
        Destination::new(volume, self.destination.powered_store(), 1, Arc::default()).map_err(|error| error.to_string())
    }

    /// A job is about to change these.
    pub(crate) fn will_apply(&mut self, job: &Job) {
        let sets_only_metadata = |place: &Place| match job {
            Job::Ops(ops) => ops.iter().all(|op| op.place() != place || matches!(op, Op::SetMeta { .. })),
            _ => false,
        };
        for touch in touches(job) {
            match &touch {
                Touch::Place(place) if sets_only_metadata(place) => {
                    self.durable.objects.remove(place);
                }
                Touch::Place(place) => self.durable.objects.retain(|other, _| !other.is_within(place)),
                Touch::Piece(index) => {
                    self.durable.pieces.remove(index);
                }
                Touch::Everything | Touch::Slot(..) => unreachable!("no job says so"),
            }
        }
    }

    /// A job was applied.
    pub(crate) fn has_applied(&mut self, job: &Job) {
        match job {
            Job::Piece(open, piece) if piece.delta.is_some() => self.reach.add(match open.onto {
                Onto::Beside => "piece made of bytes that moved",
                Onto::Basis | Onto::Zeros => "piece refined",
            }),
            _ => {}
        }
        if !matches!(job, Job::Piece(open, _) if open.kind == Kind::File) {
            self.durable.applied.extend(touches(job));
        }
    }

    /// Everything that was applied is promised to be durable.
    pub(crate) fn has_flushed(&mut self) {
        // A device that lies keeps no promise.
        if self.destination.volume.counts().dropped_writes > 0 {
            return self.forget_durable();
        }
        let mut device = None;
        for touch in std::mem::take(&mut self.durable.applied) {
            match touch {
                Touch::Place(place) => {
                    if let Some((seen, true)) = self.destination.volume.seen_at(&place, Access::Read)
                        && seen.kind != Kind::Directory
                    {
                        self.durable.objects.insert(place, seen);
                    }
                }
                Touch::Piece(index) => {
                    let device = device.get_or_insert_with(|| self.device());
                    self.durable.pieces.insert(index, piece(device, index).to_vec());
                }
                Touch::Everything | Touch::Slot(..) => unreachable!("no job says so"),
            }
        }
    }

    /// A manifest says what is there: all of that is promised to be durable.
    pub(crate) fn has_committed(&mut self) {
        for (place, kind, size) in self.destination.volume.places() {
            match kind {
                Kind::Block => {
                    let pieces = size.div_ceil(PIECE_BYTES as u64);
                    self.durable.applied.extend((0..pieces).map(Touch::Piece));
                }
                _ => self.durable.applied.push(Touch::Place(place)),
            }
        }
        self.has_flushed();
    }

    /// The session is over: what was not flushed is not promised.
    pub(crate) fn forget_applied(&mut self) {
        self.durable.applied.clear();
    }

    /// Somebody else had a hand in it.
    pub(crate) fn forget_durable(&mut self) {
        self.durable = Durable::default();
    }

    /// The destination loses its power, and keeps its promises.
    pub(crate) fn crash_destination(&mut self) {
        self.note("destination loses its power");
        self.destination.crash(&mut self.chance);
        // What a flush lied about is gone now.
        self.may_stumble |= self.has_lied;
        self.durable.applied.clear();
        for (place, promised) in &self.durable.objects {
            let found = self.destination.volume.seen_at(place, Access::ReadDevice).map(|(seen, _)| seen);
            assert!(found.as_ref() == Some(promised), "{place} was acknowledged and is gone or not the same");
            self.reach.add("acknowledged object is there after a crash");
        }
        let device = self.device();
        for (&index, promised) in &self.durable.pieces {
            assert!(piece(&device, index) == promised, "piece {index} was acknowledged and is not the same");
            self.reach.add("acknowledged piece is there after a crash");
        }
    }

    pub(crate) fn crash_source(&mut self) {
        self.note("source loses its power");
        self.has_source_crashed = true;
        self.source.crash(&mut self.chance);
    }

    /// What the destination's device holds of a block volume. What lies beyond the source's end is not promised.
    fn device(&self) -> Vec<u8> {
        let (mut seen, _) = self.destination.volume.seen_at(&Place::root(), Access::ReadDevice).expect("a root");
        seen.bytes.truncate(self.source.volume.places()[0].2 as usize);
        seen.bytes
    }

    /// How many objects of the destination have temporary names in its root.
    pub(crate) fn in_slots(&self) -> usize {
        let places = self.destination.volume.places();
        places.iter().filter(|(place, ..)| place.depth() == 1 && place.names().any(is_temporary)).count()
    }

    /// How the volumes differ, in words.
    pub(crate) fn difference(&self) -> Option<String> {
        let mut ours = self.source.volume.seen(self.fidelity, Access::Read);
        let mut theirs = self.destination.volume.seen(self.fidelity, Access::ReadDevice);
        if self.is_block {
            let (ours, theirs) = (&ours[&Place::root()].bytes, &theirs[&Place::root()].bytes);
            let at = ours.iter().zip(theirs).position(|(a, b)| a != b);
            let cut = (ours.len() > theirs.len()).then_some(theirs.len());
            return at.or(cut).map(|at| format!("bytes from {at} of {}", ours.len()));
        }
        // A socket is a gap in every mode.
        ours.retain(|_, seen| seen.kind != Kind::Socket);
        theirs.retain(|_, seen| seen.kind != Kind::Socket);
        let places = ours.keys().chain(theirs.keys());
        let different = places.into_iter().find(|place| ours.get(*place) != theirs.get(*place))?;
        let say = |seen: Option<&Seen>| match seen {
            None => "nothing".to_owned(),
            Some(seen) => {
                let (kind, meta, leader, len) = (seen.kind, &seen.meta, &seen.leader, seen.bytes.len());
                format!("{kind} of {len} bytes, {meta:?}, leader {leader:?}, target {:?}", seen.target)
            }
        };
        Some(format!("{different}: {} / {}", say(ours.get(different)), say(theirs.get(different))))
    }
}

fn touches(job: &Job) -> Vec<Touch> {
    match job {
        Job::Ops(ops) => ops.iter().map(|op| Touch::Place(op.place().clone())).collect(),
        Job::Pack(pack) => pack.files.iter().map(|file| Touch::Place(file.place.clone())).collect(),
        Job::Piece(open, piece) if open.kind == Kind::Block => vec![Touch::Piece(piece.index)],
        Job::Close(open, _) if open.kind == Kind::Block => Vec::new(),
        Job::Piece(open, _) | Job::Close(open, _) => vec![Touch::Place(open.place.clone())],
    }
}

fn piece(device: &[u8], index: u64) -> &[u8] {
    let from = (index as usize * PIECE_BYTES).min(device.len());
    &device[from..device.len().min(from + PIECE_BYTES)]
}
