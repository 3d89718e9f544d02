//! Reading a volume once more, to prove what it holds, and naming what differs.
//!
//! The canonical digest and the answer to the challenge are made in the same read. A source is read as its applications
//! read it; a destination is read past the page cache, after its last flush: what a device acknowledged and dropped
//! looks right from the cache and wrong from the device.

use std::iter::Peekable;
use std::mem;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use tranship_engine::digest::{self, Digester, VolumeHasher};
use tranship_engine::entry::Entry;
use tranship_engine::exclude::Excludes;
use tranship_engine::plan::Scanned;
use tranship_engine::run::Record;
use tranship_proto::Place;
use tranship_proto::codec::{Reader, WireError, Writer};
use tranship_proto::entry::Kind;
use tranship_proto::id::Digest;
use tranship_proto::message::{Challenge, Fidelity, Gap, GapKind, Level, Listed, Proof};

use crate::content;
use crate::gaps::Gaps;
use crate::parallel;
use crate::pass::{Counters, PassError, Scan};
use crate::state::{StateError, Store, finish_list, read_entries, read_list, write_list};
use crate::volume::{Access, Content, LeftOut, Volume, VolumeError};

/// Entries that are looked at together.
const BATCH_ENTRIES: usize = 1_024;
/// Bytes of content from which several threads read one file.
const SHARED_BYTES: u64 = 8 << 20;
/// One in so many unchanged files, or pieces of a device, is read at level `tracked`.
const SAMPLE: u64 = 100;

/// How a volume is read again.
pub struct Proving<'a> {
    /// The volume.
    pub volume: &'a dyn Volume,
    /// Where lists go.
    pub store: &'a Arc<dyn Store>,
    /// What is left out.
    pub excludes: &'a Excludes,
    /// From the page cache, or past it.
    pub access: Access,
    /// Bytes of a block volume that count; a larger destination has zeros after them.
    pub block_bytes: Option<u64>,
    /// Whether those zeros are read too. A pass has written them itself; a volume from elsewhere may have anything.
    pub reads_rest: bool,
    /// The manifest whose digests are taken for granted at level `tracked`, where nothing has moved since.
    pub manifest: Option<String>,
    /// Whether it counts only for what was read back from the device since it was written: on the side that writes, its
    /// digests are those of what was received.
    pub needs_read_back: bool,
    /// Whether that holds for a device, too, which has no stat that would have moved.
    pub is_device_known: bool,
    /// Threads for reading.
    pub threads: usize,
    /// Whether to end early.
    pub stop: &'a AtomicBool,
    /// What the scan finds, and of that what was read.
    pub counters: &'a Counters,
    /// What the volume has and the contract's mode does not carry, whether or not a pass had a reason to look at it.
    pub gaps: Mutex<Gaps>,
}

/// One entry's digests.
struct Proven {
    listed: Listed,
    challenge: Digest,
    leader: Option<Place>,
}

impl Proving<'_> {
    /// Reads the volume and answers `challenge`; also gives the digest of each entry.
    pub fn prove(&self, challenge: &Challenge) -> Result<(Proof, Listing), PassError> {
        let read_before = Counters::get(&self.counters.bytes_done);
        let scan = Scan::make(self.volume, self.store, "proof-scan.tmp", self.excludes, self.counters, self.stop)?;
        let known = match challenge.level {
            Level::Full => None,
            Level::Tracked => self.manifest.as_deref(),
        };
        let mut known = read_entries(&**self.store, known)?.peekable();
        let mut canonical = VolumeHasher::default();
        let mut challenged = VolumeHasher::default();
        let mut proof =
            Proof { canonical: Digest([0; 32]), challenge: Digest([0; 32]), entries: 0, bytes: 0, read_bytes: 0 };
        let reader = EntryReader { proving: self, challenge, nonce: Digester::challenged(&challenge.nonce) };
        let mut listing = write_list::<Line>(&**self.store, "listing.tmp")?;
        let mut batch = Vec::with_capacity(BATCH_ENTRIES);
        let left_out = scan.left_out.clone();
        let mut scanned = scan.entries(&**self.store)?;
        loop {
            let next = scanned.next().transpose()?;
            let is_end = next.is_none();
            if let Some(scanned) = next {
                let known = self.take_known(&mut known, &scanned)?;
                batch.push((scanned, known));
            }
            if batch.len() >= BATCH_ENTRIES || is_end {
                let entries = batch.len() as u64;
                for proven in reader.read_all(&mem::take(&mut batch))? {
                    let Proven { listed, challenge, leader } = proven;
                    let Listed { place, kind, size, meta, content } = &listed;
                    canonical.push(place, *kind, *size, *meta, *content, leader.as_ref());
                    challenged.push(place, *kind, *size, *meta, challenge, leader.as_ref());
                    proof.entries += 1;
                    proof.bytes += if leader.is_none() { *size } else { 0 };
                    listing.push(Line(listed))?;
                }
                Counters::add(&self.counters.entries_done, entries);
            }
            if is_end {
                break;
            }
        }
        finish_list(listing)?;
        proof.canonical = canonical.finish();
        proof.challenge = match challenge.level {
            Level::Full => challenged.finish(),
            // What was not read cannot answer under a nonce: here it only ties both answers to this challenge.
            Level::Tracked => Digest(blake3::keyed_hash(&challenge.nonce, &proof.canonical.0).into()),
        };
        proof.read_bytes = Counters::get(&self.counters.bytes_done) - read_before;
        Ok((proof, Listing { left_out }))
    }

    /// The digest that the manifest has for what the scan found, if it can be taken for granted.
    fn take_known(
        &self,
        known: &mut Peekable<crate::state::Entries>,
        scanned: &Scanned,
    ) -> Result<Option<Digest>, StateError> {
        while let Some(entry) = known.next_if(|entry| entry.as_ref().map_or(true, |entry| entry.place <= scanned.place))
        {
            let entry: Entry = entry?;
            if entry.place == scanned.place {
                let is_same = entry.stat.is_some_and(|stat| {
                    scanned.stat.is_unchanged_since(&stat) || (self.is_device_known && scanned.stat == stat)
                });
                let is_held = entry.is_read_back || !self.needs_read_back;
                return Ok(entry.content.filter(|_| is_same && is_held));
            }
        }
        Ok(None)
    }
}

struct EntryReader<'a> {
    proving: &'a Proving<'a>,
    challenge: &'a Challenge,
    nonce: Digester,
}

impl EntryReader<'_> {
    fn read_all(&self, batch: &[(Scanned, Option<Digest>)]) -> Result<Vec<Proven>, PassError> {
        let is_large =
            |(scanned, _): &(Scanned, _)| scanned.stat.kind.has_content() && scanned.stat.size >= SHARED_BYTES;
        let read = |(scanned, known): &(Scanned, Option<Digest>), threads| match self.read(scanned, *known, threads) {
            // Somebody changes the volume meanwhile. It holds what was found, and the other side's list tells the rest.
            Err(PassError::Volume(VolumeError::Vanished { .. } | VolumeError::Replaced { .. })) => Ok(None),
            read => read,
        };
        let proven = parallel::map(batch, self.proving.threads, is_large, read)?;
        Ok(proven.into_iter().flatten().collect())
    }

    fn read(&self, scanned: &Scanned, known: Option<Digest>, threads: usize) -> Result<Option<Proven>, PassError> {
        let contract = self.challenge.contract;
        let kind = scanned.stat.kind;
        let is_outside = match kind {
            Kind::Socket => true,
            Kind::CharDevice | Kind::BlockDevice => contract.fidelity < Fidelity::Exact,
            _ => false,
        };
        if is_outside {
            let (what, detail) = match kind {
                Kind::Socket => (GapKind::Socket, "not made"),
                _ => (GapKind::Device, "needs mode exact"),
            };
            self.note([Gap { place: scanned.place.clone(), what, detail: detail.to_owned() }]);
            return Ok(None);
        }
        let none = Digest([0; 32]);
        let (mut size, mut content, mut challenge) = (0, none, none);
        let meta = if kind.has_content() && scanned.leader.is_none() {
            // Of a device that is known, a sample was taken before.
            let is_sampled = !self.proving.is_device_known && is_sampled(self.challenge, scanned.place.as_bytes());
            let known = known.filter(|_| !is_sampled);
            let opened = self.proving.volume.open(&scanned.place, self.proving.access)?;
            size = self.size_of(&*opened, kind)?;
            match known {
                Some(known) => (content, challenge) = (known, known),
                None => {
                    let digesters = [Digester::canonical(), &self.nonce];
                    let read_bytes = &self.proving.counters.bytes_done;
                    let reading = content::Reading { threads, stop: self.proving.stop, read_bytes };
                    let read = content::read(&*opened, size, &digesters, None, reading)?;
                    size = read.size;
                    (content, challenge) = (read.digests[0], read.digests[1]);
                }
            }
            if kind == Kind::Block {
                none
            } else {
                let look = opened.look(contract.fidelity)?;
                self.note(look.gaps);
                digest::meta(contract, kind, &look.meta, None, 0)
            }
        } else {
            let mut look = self.proving.volume.look(&scanned.place, contract.fidelity)?;
            self.note(look.gaps.drain(..));
            let device = look.stat.device;
            digest::meta(contract, kind, &look.meta, look.target.as_deref(), device)
        };
        // In mode `plain` the root directory belongs to whoever made the volume.
        let meta = if scanned.place.is_root() && contract.fidelity == Fidelity::Plain { none } else { meta };
        let listed = Listed { place: scanned.place.clone(), kind, size, meta, content };
        Ok(Some(Proven { listed, challenge, leader: scanned.leader.clone() }))
    }

    /// How much of a content counts: of a block volume that is larger than its source what the source has, if all the
    /// rest is zeros.
    fn size_of(&self, content: &dyn Content, kind: Kind) -> Result<u64, PassError> {
        let size = content.stat()?.size;
        match self.proving.block_bytes.filter(|_| kind == Kind::Block) {
            Some(bytes) if self.proving.reads_rest => {
                Ok(if content::is_zero_from(content, bytes, self.proving.stop)? { bytes.min(size) } else { size })
            }
            Some(bytes) => Ok(bytes),
            None => Ok(size),
        }
    }

    fn note(&self, gaps: impl IntoIterator<Item = Gap>) {
        self.proving.gaps.lock().expect("no thread panics while it holds the lock").extend(gaps);
    }
}

/// Whether what has this name is read although nothing about it has moved: one in `SAMPLE`, and nobody knows which
/// before the nonce is given.
pub fn is_sampled(challenge: &Challenge, name: &[u8]) -> bool {
    let digest = blake3::keyed_hash(&challenge.nonce, name);
    let first = digest.as_bytes().first_chunk().expect("a digest has 32 bytes");
    u64::from_le_bytes(*first).is_multiple_of(SAMPLE)
}

/// The entries of the last proof, in order.
pub struct Listing {
    /// What lies below the root and was not read.
    pub left_out: Vec<LeftOut>,
}

impl Listing {
    /// Reads them.
    pub fn entries(&self, store: &dyn Store) -> Result<Listings, StateError> {
        let list = read_list::<Line>(store, "listing.tmp")?.expect("it was written by us");
        Ok(Box::new(list.map(|line| line.map(|Line(listed)| listed))))
    }
}

/// Entries of a proof.
pub type Listings = Box<dyn Iterator<Item = Result<Listed, StateError>> + Send>;

/// A comparison of two listings, of which the other one comes in parts.
pub struct Comparing {
    ours: Peekable<Listings>,
    differences: Vec<Gap>,
}

/// Differences that are named one by one; after them only their number counts.
pub const DIFFERENCES_MAX: usize = 1_000;

impl Comparing {
    /// Compares with `ours`.
    pub fn new(ours: Listings) -> Self {
        Self { ours: ours.peekable(), differences: Vec::new() }
    }

    /// The other side's next entries.
    pub fn take(&mut self, theirs: Vec<Listed>) -> Result<(), PassError> {
        for theirs in theirs {
            let before =
                |ours: &Result<Listed, StateError>| ours.as_ref().map_or(true, |ours| ours.place < theirs.place);
            while let Some(ours) = self.ours.next_if(before) {
                let place = ours?.place;
                self.differ(place, GapKind::Unreadable, "is missing at the destination");
            }
            let is_here =
                |ours: &Result<Listed, StateError>| ours.as_ref().map_or(true, |ours| ours.place == theirs.place);
            match self.ours.next_if(is_here).transpose()? {
                None => self.differ(theirs.place, GapKind::Unreadable, "is at the destination only"),
                Some(ours) => {
                    let what = if ours.kind != theirs.kind {
                        "is another kind of object"
                    } else if ours.size != theirs.size {
                        "has another size"
                    } else if ours.content != theirs.content {
                        "has other bytes"
                    } else if ours.meta != theirs.meta {
                        "has other metadata"
                    } else {
                        continue;
                    };
                    self.differ(ours.place, GapKind::Unreadable, what);
                }
            }
        }
        Ok(())
    }

    /// All differences, after the other side's last entry.
    pub fn finish(mut self) -> Result<Vec<Gap>, PassError> {
        while let Some(ours) = self.ours.next().transpose()? {
            self.differ(ours.place, GapKind::Unreadable, "is missing at the destination");
        }
        Ok(self.differences)
    }

    fn differ(&mut self, place: Place, what: GapKind, detail: &str) {
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(Gap { place, what, detail: detail.to_owned() });
        }
    }
}

struct Line(Listed);

impl Record for Line {
    fn encode(&self, previous: Option<&Self>, w: &mut Writer) {
        let root = Place::root();
        self.0.place.encode_after(previous.map_or(&root, |line| &line.0.place), w);
        w.u8(self.0.kind.number());
        w.u64(self.0.size);
        w.array(&self.0.meta.0);
        w.array(&self.0.content.0);
    }

    fn decode(previous: Option<&Self>, r: &mut Reader<'_>) -> Result<Self, WireError> {
        let root = Place::root();
        Ok(Self(Listed {
            place: Place::decode_after(previous.map_or(&root, |line| &line.0.place), r)?,
            kind: Kind::from_number(r.u8("kind")?)?,
            size: r.u64("size")?,
            meta: Digest(r.array("digest")?),
            content: Digest(r.array("digest")?),
        }))
    }
}
