//! What both sides of a pass share: how it can fail, what it counts, and the scan.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use thiserror::Error;
use tranship_engine::exclude::{ExcludeError, Excludes};
use tranship_engine::overlay::Dated;
use tranship_engine::piece::PieceError;
use tranship_engine::plan::Scanned;
use tranship_engine::run::Record;
use tranship_proto::Place;
use tranship_proto::codec::{Reader, WireError, Writer};
use tranship_proto::entry::{Kind, Time};
use tranship_proto::refusal::{Reason, Refusal};

use crate::monitor::Monitor;
use crate::state::sorter::Sorter;
use crate::state::{StateError, Store, finish_list, read_list, write_list};
use crate::volume::{LeftOut, OpenError, Volume, VolumeError};

/// Why a pass cannot go on. The state that it leaves is always one that a later pass takes up.
#[derive(Debug, Error)]
pub enum PassError {
    /// The volume failed.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The volume cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The state folder failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The state folder failed, at the level of files.
    #[error("cannot use the state folder")]
    Store(#[from] std::io::Error),
    /// The exclusion patterns cannot be understood.
    #[error(transparent)]
    Exclude(#[from] ExcludeError),
    /// A piece did not arrive as it was sent, or not on what it was made for.
    #[error("{place}, piece {index}")]
    Piece {
        /// Which content.
        place: Place,
        /// Which piece of it.
        index: u64,
        /// What is wrong.
        source: PieceError,
    },
    /// A content did not come out as the source has it.
    #[error("{place} did not come out as the source has it")]
    Content {
        /// Which content.
        place: Place,
    },
    /// The source changed during a pass that said there are no writers.
    #[error("{place} changed during the final pass: something still writes to the source")]
    Changed {
        /// What changed.
        place: Place,
    },
    /// The peer said what no peer of ours says.
    #[error("{0}")]
    Protocol(String),
    /// The pass cannot be done as ordered.
    #[error("{detail}")]
    Refused {
        /// Why.
        reason: Reason,
        /// In words.
        detail: String,
    },
}

impl PassError {
    /// Why a store cannot be opened: its lock is somebody else's, or its folder cannot be used.
    pub fn of_store(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock => {
                Self::Refused { reason: Reason::Busy, detail: "another agent is at work on this volume".to_owned() }
            }
            _ => error.into(),
        }
    }

    /// Whether a manifest turned out to be damaged.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::State(error) if error.is_damage())
    }

    /// The stable code that users and scripts see: that of what is beneath it, which says more than the reason.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Volume(error) => error.code(),
            Self::Open(OpenError::Io { .. }) => self.refusal().reason.code(),
            Self::Open(error) => error.code(),
            _ => self.refusal().reason.code(),
        }
    }

    /// What is said to the peer, and to the user.
    pub fn refusal(&self) -> Refusal {
        let reason = match self {
            Self::Volume(VolumeError::Full { .. }) => Reason::Full,
            Self::Volume(VolumeError::Stopped) => Reason::Stopped,
            // A device that is mounted, or that another pass writes.
            Self::Open(OpenError::Io { source, .. }) if source.kind() == ErrorKind::ResourceBusy => Reason::Busy,
            Self::Open(OpenError::Kind { .. }) => Reason::Kind,
            Self::Volume(_) | Self::Open(_) => Reason::Storage,
            Self::State(_) | Self::Store(_) => Reason::State,
            Self::Exclude(_) | Self::Protocol(_) => Reason::Protocol,
            Self::Piece { .. } | Self::Content { .. } => Reason::Digest,
            Self::Changed { .. } => Reason::Changed,
            Self::Refused { reason, .. } => *reason,
        };
        Refusal::new(reason, chain(self))
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line.push_str(": ");
        line.push_str(&error.to_string());
        source = error.source();
    }
    line
}

/// Tells the wall-clock time; the simulation has its own.
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

/// The wall clock of this machine.
pub fn wall_clock() -> Clock {
    Arc::new(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Time { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() }
    })
}

/// What a pass counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// Entries that the scan found.
    pub entries_scanned: AtomicU64,
    /// Entries that differ from the last pass.
    pub entries_changed: AtomicU64,
    /// Objects that were renamed at the destination, each with all that is beneath it.
    pub entries_moved: AtomicU64,
    /// Entries done so far.
    pub entries_done: AtomicU64,
    /// Bytes of content that the scan found.
    pub bytes_scanned: AtomicU64,
    /// Bytes of content to look at, and of those the ones done.
    pub bytes_planned: AtomicU64,
    /// Bytes of content that were looked at.
    pub bytes_done: AtomicU64,
    /// Bytes of a device that were not read, since nothing was written there.
    pub bytes_tracked: AtomicU64,
    /// Bytes of content that were read.
    pub bytes_read: AtomicU64,
    /// Bytes of content that were written.
    pub bytes_written: AtomicU64,
    /// Bytes of content that were sent as they are, before compression.
    pub bytes_literal: AtomicU64,
    /// Bytes of content that were read and that the destination had already.
    pub bytes_matched: AtomicU64,
    /// Bytes that compression saved.
    pub bytes_compressed: AtomicU64,
    /// Entries that changed while they were read, or too shortly before.
    pub racy_entries: AtomicU64,
    /// Entries that somebody else changed at the destination.
    pub drifted_entries: AtomicU64,
}

impl Counters {
    /// Adds to one of them.
    pub fn add(counter: &AtomicU64, value: u64) {
        counter.fetch_add(value, Ordering::Relaxed);
    }

    /// Reads one of them.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// Shows how far the reading of these volumes is, which is done when all that the scans found was read.
pub fn show_reading(monitor: &Monitor, volumes: &[&Counters]) {
    let sum = |pick: fn(&Counters) -> &AtomicU64| volumes.iter().map(|counters| Counters::get(pick(counters))).sum();
    monitor.expect(sum(|counters| &counters.entries_scanned), sum(|counters| &counters.bytes_scanned));
    monitor.reach(sum(|counters| &counters.entries_done), sum(|counters| &counters.bytes_done));
}

/// Whether `place` or a place above it is one of `places`.
pub fn is_within_any(places: &BTreeSet<Place>, place: &Place) -> bool {
    if places.is_empty() {
        return false;
    }
    let mut at = Some(place.clone());
    while let Some(here) = at {
        if places.contains(&here) {
            return true;
        }
        at = here.split().map(|(parent, _)| parent);
    }
    false
}

/// A finished walk of a volume, with the first name of every inode that has several.
pub struct Scan {
    name: String,
    /// The list of leaders, if any inode has several names.
    leaders: Option<String>,
    /// How many entries there are.
    pub entries: u64,
    /// Bytes of content in them, hard links counted once.
    pub bytes: u64,
    /// What was left out.
    pub left_out: Vec<LeftOut>,
}

impl Scan {
    /// Walks `volume` and keeps what it found in a list under `name`.
    pub fn make(
        volume: &dyn Volume,
        store: &Arc<dyn Store>,
        name: &str,
        excludes: &Excludes,
        counters: &Counters,
        stop: &AtomicBool,
    ) -> Result<Self, PassError> {
        let mut list = write_list::<Scanned>(&**store, name)?;
        let mut names =
            Sorter::<NameOf>::new(store.clone(), "names", |a, b| (a.inode, &a.place).cmp(&(b.inode, &b.place)));
        let mut failed = None;
        let left_out = volume.walk(&|place, kind| excludes.excludes(place, kind), stop, &mut |walked| {
            Counters::add(&counters.entries_scanned, 1);
            let own_bytes = if walked.stat.kind.has_content() { walked.stat.size } else { 0 };
            if walked.stat.kind != Kind::Directory && walked.stat.links > 1 {
                let name = NameOf { inode: walked.stat.inode, place: walked.place.clone(), bytes: own_bytes };
                names.push(name).unwrap_or_else(|error| failed = Some(error));
            } else {
                Counters::add(&counters.bytes_scanned, own_bytes);
            }
            list.push(Scanned { place: walked.place, stat: walked.stat, leader: None })
                .unwrap_or_else(|error| failed = Some(error.into()));
            if failed.is_some() { Err(VolumeError::Stopped) } else { Ok(()) }
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        let left_out = left_out?;
        let entries = list.len();
        finish_list(list)?;
        let leaders =
            if names.is_empty() { None } else { Some(leaders(names, store, &format!("leaders-{name}"), counters)?) };
        let bytes = Counters::get(&counters.bytes_scanned);
        Ok(Self { name: name.to_owned(), leaders, entries, bytes, left_out })
    }

    /// The entries in order, as often as they are asked for.
    pub fn entries(
        &self,
        store: &dyn Store,
    ) -> Result<Box<dyn Iterator<Item = Result<Scanned, StateError>> + Send>, StateError> {
        let list = read_list::<Scanned>(store, &self.name)?.expect("it was written by us");
        let Some(leaders) = &self.leaders else { return Ok(list) };
        let mut leaders = read_list::<Leader>(store, leaders)?.expect("it was written by us").peekable();
        Ok(Box::new(list.map(move |scanned| {
            let mut scanned = scanned?;
            if let Some(leader) = leaders.next_if(|leader| leader.as_ref().map_or(true, |l| l.place == scanned.place)) {
                scanned.leader = Some(leader?.leader);
            }
            Ok(scanned)
        })))
    }
}

/// Lists every name but the first of each inode, in the order of places.
fn leaders(
    names: Sorter<NameOf>,
    store: &Arc<dyn Store>,
    list: &str,
    counters: &Counters,
) -> Result<String, StateError> {
    let mut leaders = Sorter::<Leader>::new(store.clone(), "leaders", |a, b| a.place.cmp(&b.place));
    let mut first: Option<NameOf> = None;
    for name in names.sorted()? {
        let name = name?;
        match &first {
            Some(first) if first.inode == name.inode => {
                leaders.push(Leader { place: name.place, leader: first.place.clone() })?;
            }
            _ => {
                Counters::add(&counters.bytes_scanned, name.bytes);
                first = Some(name);
            }
        }
    }
    let mut writing = write_list::<Leader>(&**store, list)?;
    for leader in leaders.sorted()? {
        writing.push(leader?)?;
    }
    finish_list(writing)?;
    Ok(list.to_owned())
}

struct NameOf {
    inode: u64,
    place: Place,
    bytes: u64,
}

struct Leader {
    place: Place,
    leader: Place,
}

impl Record for NameOf {
    fn encode(&self, previous: Option<&Self>, w: &mut Writer) {
        w.u64(self.inode);
        w.u64(self.bytes);
        let root = Place::root();
        self.place.encode_after(previous.map_or(&root, |name| &name.place), w);
    }

    fn decode(previous: Option<&Self>, r: &mut Reader<'_>) -> Result<Self, WireError> {
        let (inode, bytes, root) = (r.u64("inode")?, r.u64("bytes")?, Place::root());
        let place = Place::decode_after(previous.map_or(&root, |name| &name.place), r)?;
        Ok(Self { inode, place, bytes })
    }
}

impl Record for Leader {
    fn encode(&self, previous: Option<&Self>, w: &mut Writer) {
        let root = Place::root();
        self.place.encode_after(previous.map_or(&root, |leader| &leader.place), w);
        self.leader.encode_after(&self.place, w);
    }

    fn decode(previous: Option<&Self>, r: &mut Reader<'_>) -> Result<Self, WireError> {
        let root = Place::root();
        let place = Place::decode_after(previous.map_or(&root, |leader| &leader.place), r)?;
        let leader = Place::decode_after(&place, r)?;
        Ok(Self { place, leader })
    }
}

/// Changes of this pass, numbered as they happen.
pub struct Changes {
    sorter: Sorter<Dated>,
    next_number: u64,
}

impl Changes {
    /// None yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { sorter: Sorter::dated(store, "changes"), next_number: 0 }
    }

    /// The next one.
    pub fn push(&mut self, change: tranship_engine::Change) -> Result<(), StateError> {
        let number = self.next_number;
        self.next_number += 1;
        self.sorter.push(Dated { number, change })
    }

    /// All of them, in the order of places.
    pub fn sorted(self) -> Result<Box<dyn Iterator<Item = Result<Dated, StateError>> + Send>, StateError> {
        self.sorter.sorted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_told_by_its_own_code_and_a_mounted_device_is_in_use() {
        let old = PassError::from(OpenError::Kernel { missing: "openat2" });
        assert_eq!((old.code(), old.refusal().reason), ("TS-E240", Reason::Storage));
        let mounted = OpenError::Io { path: "/dev/sda".into(), source: rustix::io::Errno::BUSY.into() };
        assert_eq!(PassError::from(mounted).code(), "TS-P108");
        let missing = OpenError::Io { path: "/dev/sda".into(), source: rustix::io::Errno::NOENT.into() };
        assert_eq!(PassError::from(missing).code(), "TS-E250");
    }
}
