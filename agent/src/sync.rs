//! One pass between two hosts, from either side, and the comparison of two volumes on one.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tranship_engine::exclude::Excludes;
pub use tranship_engine::pack::Compression;
use tranship_engine::pack::Compressor;
use tranship_engine::predict::Observed;
use tranship_engine::session::Greeting;
use tranship_engine::session::source::{Order, Verdict};
use tranship_proto::id::{Epoch, Token};
use tranship_proto::message::{BasisChoice, Challenge, Contract, Fidelity, Gap, GapKind, Level, VolumeKind};
use tranship_proto::refusal::Reason;
use tranship_proto::{Message, Place};

use crate::destination::Destination;
use crate::driver::{self, DriveError, Received, Sent, Trial};
use crate::link::Link;
use crate::monitor::{Monitor, Phase};
use crate::pass::{Counters, PassError, wall_clock};
use crate::prove::{Comparing, Proving};
use crate::report::{self, Report};
use crate::source::{OpenStore, Settings, Source};
use crate::state::Store;
use crate::state::disk::{DiskStore, make_folder as make_state_folder};
use crate::track::Tracking;
use crate::volume::block::Block;
use crate::volume::tree::Tree;
use crate::volume::{Access, Claim, Facts, LeftOut, Volume, is_folder, is_there, make_folder};

/// Data streams of one link: one keeps a core busy, and four keep a lossy one from waiting for itself.
const DATA_STREAMS: u32 = 4;

/// What we are, for people.
pub const BUILD: &str = concat!("tranship ", env!("CARGO_PKG_VERSION"));

/// What a source is to do.
#[derive(Clone)]
pub struct Pass {
    /// The volume.
    pub volume: Arc<dyn Volume>,
    /// The folder for what is remembered.
    pub state: PathBuf,
    /// How much metadata is carried.
    pub fidelity: Fidelity,
    /// What may be missing.
    pub accepted_gaps: Vec<GapKind>,
    /// Whether there are no writers: then both sides are proven equal.
    pub is_final: bool,
    /// How much is read for the proof. A stage gets ready for it: for `tracked` the destination reads back what it wrote.
    pub level: Level,
    /// What is left out.
    pub excludes: Vec<String>,
    /// How contents are packed.
    pub compression: Compression,
    /// Tracking of the volume, if it is a device and that is wanted.
    pub tracking: Option<Arc<Tracking>>,
    /// When TCP gets its chance beside QUIC.
    pub trial: Trial,
}

/// How many threads read, hash and write: as many as there are cores, within reason.
pub fn threads() -> usize {
    crate::parallel::processors().clamp(2, 8)
}

/// Runs one pass from the source's side.
pub async fn send(
    pass: &Pass,
    link: Link,
    monitor: Arc<Monitor>,
    stop: impl Future<Output = ()>,
) -> Result<Report, DriveError> {
    let began = Instant::now();
    let is_over = Arc::new(AtomicBool::new(false));
    let contract = pass.accepted_gaps.iter().fold(Contract::all(pass.fidelity), |all, gap| all.accepting(*gap));
    let settings = Settings {
        contract,
        is_final: pass.is_final,
        reads_twice: pass.is_final && pass.level == Level::Full,
        excludes: pass.excludes.clone(),
        threads: threads(),
        tracking: pass.tracking.clone(),
    };
    let compressor = Arc::new(Compressor::new(pass.compression));
    let facts = pass.volume.facts().map_err(PassError::from)?;
    let open_store = stores(&pass.state, &facts);
    let source = Source::new(pass.volume.clone(), open_store, settings, compressor, wall_clock(), is_over.clone())?;
    let source = Arc::new(source);
    let order = Order {
        greeting: greeting(&facts),
        contract,
        is_final: pass.is_final,
        block_bytes: block_bytes(&*pass.volume, &facts)?,
        excludes: pass.excludes.clone(),
        only_examines: false,
        rechecks: pass.level == Level::Tracked,
        proof: pass.is_final.then(|| (pass.level, random())),
        token: Token(random()),
        data_streams: DATA_STREAMS,
        reads_max: threads() + 2,
    };
    let sent =
        until_over(&is_over, driver::send(source.clone(), order, pass.trial.clone(), link, monitor.clone(), stop))
            .await?;
    let report = report(pass, &facts, &source, &sent, began.elapsed());
    report.notes.iter().for_each(|note| monitor.note(note.clone()));
    monitor.enter(Phase::Done, 0, 0);
    Ok(report)
}

fn report(pass: &Pass, facts: &Facts, source: &Source, sent: &Sent, duration: Duration) -> Report {
    let basis = match sent.session.choice() {
        BasisChoice::Common(_) => report::Basis::Common,
        BasisChoice::Survey => report::Basis::Survey,
        BasisChoice::Nothing => report::Basis::Nothing,
    };
    let stage = source.stage();
    let mut report = Report::new(stage, pass.is_final, report_kind(facts.kind), basis);
    let counters = &source.counters;
    let get = Counters::get;
    let committed = sent.session.committed().unwrap_or_default();
    let rechecked = sent.session.rechecked().unwrap_or_default();
    report.counts = report::Counts {
        entries_scanned: get(&counters.entries_scanned),
        entries_changed: get(&counters.entries_changed),
        entries_moved: get(&counters.entries_moved),
        racy_entries: get(&counters.racy_entries),
        bytes_scanned: get(&counters.bytes_scanned),
        bytes_read_source: get(&counters.bytes_read),
        bytes_tracked: get(&counters.bytes_tracked),
        bytes_read_destination: committed.read_bytes + rechecked.read_bytes,
        bytes_written_destination: committed.written_bytes,
        bytes_sent: sent.sent_bytes,
        bytes_received: sent.received_bytes,
        bytes_literal: get(&counters.bytes_literal),
        bytes_matched: get(&counters.bytes_matched),
        bytes_compressed: get(&counters.bytes_compressed),
        ..report::Counts::default()
    };
    report.duration_seconds = duration.as_secs_f64();
    report.rate_bytes_per_second = get(&counters.bytes_literal) as f64 / sent.copying.as_secs_f64().max(0.001);
    let reads_all = facts.kind == VolumeKind::Block && pass.tracking.is_none();
    predict(&mut report, source, sent, duration, reads_all);
    report.left_out = show_left_out(source.left_out());
    let gaps = source.gaps();
    report.gaps = gaps.listed().iter().map(|gap| report::Gap::new(gap, &pass.accepted_gaps)).collect();
    report.gap_counts = gaps.counts().iter().map(|(&kind, &count)| report::GapCount { kind, count }).collect();
    if let Some(verdict) = sent.session.verdict() {
        let versions =
            report::Versions { source: BUILD.to_owned(), destination: report::printable(sent.session.peer_build()) };
        prove(&mut report, verdict, pass.level, pass.fidelity, versions);
    }
    report.transport = Some(report::Transport {
        name: sent.link.transport.to_owned(),
        mtu: sent.link.mtu.map(u64::from),
        rtt_ms: sent.link.rtt.unwrap_or_default().as_secs_f64() * 1_000.0,
        lost: sent.link.lost_packets,
    });
    if let Some(note) = sent.session.note() {
        report.notes.push(note.to_owned());
    }
    if let Some(tracking) = pass.tracking.as_ref().filter(|_| report.is_proven()) {
        tracking.conclude();
    }
    report.notes.extend(pass.tracking.iter().flat_map(|tracking| tracking.notes()));
    if committed.drifted_entries > 0 {
        let count = committed.drifted_entries;
        report.notes.push(format!("{count} entries had been changed at the destination by somebody else: healed"));
    }
    if rechecked.lost_entries > 0 {
        let count = rechecked.lost_entries;
        report.notes.push(format!(
            "{count} entries are not on the destination's device as they were written and flushed: the next pass writes \
             them again"
        ));
    }
    report
}

/// What a final pass would take; `reads_all` says whether its proof reads everything at any level.
fn predict(report: &mut Report, source: &Source, sent: &Sent, duration: Duration, reads_all: bool) {
    let Some(interval_ms) = source.interval_ms() else { return };
    let observed = Observed {
        duration: duration.saturating_sub(sent.proving),
        copying: sent.copying,
        changed_bytes: report.counts.bytes_literal,
        interval: Duration::from_millis(interval_ms),
        volume_bytes: report.counts.bytes_scanned,
        read_bytes_per_second: source.last_pace().bytes_per_second,
    };
    report.change_bytes_per_second = Some(observed.change_bytes_per_second());
    report.predicted_final_seconds = Some(observed.final_seconds(true));
    report.predicted_final_seconds_tracked = Some(observed.final_seconds(reads_all));
}

fn prove(report: &mut Report, verdict: &Verdict, level: Level, fidelity: Fidelity, versions: report::Versions) {
    report.digest_source = Some(verdict.ours.canonical);
    report.digest_destination = Some(verdict.theirs.canonical);
    for difference in &verdict.differences {
        report.notes.push(format!("{} {}", difference.place, difference.detail));
    }
    if verdict.is_equal() {
        let now = (wall_clock())();
        report.proof = Some(report::Proof {
            level,
            mode: fidelity,
            canonical: verdict.ours.canonical,
            challenge: verdict.ours.challenge,
            entries: verdict.ours.entries,
            bytes: verdict.ours.bytes,
            read_source_bytes: verdict.ours.read_bytes,
            read_destination_bytes: verdict.theirs.read_bytes,
            read_at: now.seconds.max(0) as u64,
            versions,
        });
    }
}

/// What a destination needs to know before it meets a source.
pub struct Receiving<'a> {
    /// The folder, device or image; made, if nothing is there, as the source's volume demands.
    pub path: &'a Path,
    /// The folder for what is remembered.
    pub state: &'a Path,
    /// Where it says how far it is.
    pub monitor: Arc<Monitor>,
}

/// Runs one session from the destination's side.
pub async fn receive(
    receiving: &Receiving<'_>,
    mut link: Link,
    stop: impl Future<Output = ()>,
) -> Result<Received, DriveError> {
    let limit = Duration::from_millis(tranship_proto::limit::HANDSHAKE_MS_MAX);
    let hello = match tokio::time::timeout(limit, link.control.1.recv()).await {
        Ok(frame) => frame?.map(Message::decode),
        Err(_) => None,
    };
    let Some(Ok(Message::Hello(hello))) = hello else {
        return Err(DriveError::Left { state: "Inspecting" });
    };
    let is_over = Arc::new(AtomicBool::new(false));
    match destination(receiving, hello.volume.unwrap_or(VolumeKind::Tree), is_over.clone()) {
        Ok((destination, facts)) => {
            let first = Message::Hello(hello);
            let monitor = receiving.monitor.clone();
            let session = driver::receive(destination, greeting(&facts), first, link, monitor, stop);
            until_over(&is_over, session).await
        }
        Err(error) => {
            // The source hears why, too.
            let frame = Message::Refuse(error.refusal()).encode();
            if link.control.0.send(frame).await.is_ok() {
                let _ = tokio::time::timeout(Duration::from_secs(2), link.control.0.finish()).await;
            }
            Err(error.into())
        }
    }
}

fn destination(
    receiving: &Receiving<'_>,
    kind: VolumeKind,
    stop: Arc<AtomicBool>,
) -> Result<(Arc<Destination>, Facts), PassError> {
    let volume = open_destination(receiving.path, kind)?;
    let claim = Claim::on(receiving.path)?;
    let facts = volume.facts()?;
    let name = Destination::volume_name(&facts).to_string();
    let store = open_store(&receiving.state.join(format!("destination-{}", &name[..32])))?;
    Ok((Arc::new(Destination::new(volume, store, threads(), stop)?.holding(claim)), facts))
}

/// Opens a volume that is only read: a folder as a tree, a device or a file as a block volume.
pub fn open_source(path: &Path) -> Result<Arc<dyn Volume>, PassError> {
    Ok(if is_folder(path)? { Arc::new(Tree::open(path)?) } else { Arc::new(Block::open_source(path)?) })
}

/// The same for a last pass: a device must not be mounted, and cannot be as long as it is open here.
pub fn open_idle_source(path: &Path) -> Result<Arc<dyn Volume>, PassError> {
    Ok(if is_folder(path)? { Arc::new(Tree::open(path)?) } else { Arc::new(Block::open_idle_source(path)?) })
}

/// Makes a volume of this kind at `path` if nothing is there: an empty folder, or an empty image.
pub fn make_destination(path: &Path, kind: VolumeKind) -> Result<(), PassError> {
    if is_there(path) {
        return Ok(());
    }
    match kind {
        VolumeKind::Tree => make_folder(path)?,
        // Its name is durable before anything is in it.
        VolumeKind::Block => Block::open_destination(path)?.flush()?,
    }
    Ok(())
}

/// Opens a volume that is written, and makes it if nothing is there.
fn open_destination(path: &Path, kind: VolumeKind) -> Result<Arc<dyn Volume>, PassError> {
    match kind {
        // A path with nothing at it will become a folder; one that cannot be looked at says why when it is opened.
        VolumeKind::Tree if Block::open_source(path).is_ok() => Err(PassError::Refused {
            reason: Reason::Kind,
            detail: format!("the source is a folder, and {} is a block volume", path.display()),
        }),
        VolumeKind::Tree => {
            make_folder(path)?;
            Ok(Arc::new(Tree::open(path)?))
        }
        VolumeKind::Block if is_folder(path).unwrap_or(false) => Err(PassError::Refused {
            reason: Reason::Kind,
            detail: format!("the source is a block volume, and {} is a folder", path.display()),
        }),
        VolumeKind::Block => Ok(Arc::new(Block::open_destination(path)?)),
    }
}

/// Two volumes, read in full and compared.
pub struct Comparison {
    /// What was read of the first.
    pub a: tranship_proto::message::Proof,
    /// What was read of the second.
    pub b: tranship_proto::message::Proof,
    /// What differs.
    pub differences: Vec<tranship_proto::message::Gap>,
    /// What lies below the roots and was not read.
    pub left_out: Vec<LeftOut>,
}

/// Reads two volumes of this host in full and at the same time, past the page cache, and names what differs. Blocks;
/// `counters` tell how far each is.
pub fn compare(
    volumes: [Arc<dyn Volume>; 2],
    contract: Contract,
    excludes: &[String],
    counters: &[Counters; 2],
    halt: &AtomicBool,
) -> Result<Comparison, PassError> {
    let excludes = Excludes::new(excludes)?;
    let challenge = Challenge { nonce: random(), level: Level::Full, contract, lists_entries: false };
    let sizes = [volumes[0].facts()?, volumes[1].facts()?];
    let is_block = sizes.iter().all(|facts| facts.kind == VolumeKind::Block);
    // The second may be larger: then what counts is the first one's size, and zeros after that.
    let block_bytes = if is_block { block_bytes(&*volumes[0], &sizes[0])? } else { None };
    let prove = |side: usize| {
        let store: Arc<dyn Store> = Arc::new(crate::state::memory::MemoryStore::default());
        let proving = Proving {
            volume: &*volumes[side],
            store: &store,
            excludes: &excludes,
            access: Access::ReadDevice,
            block_bytes,
            reads_rest: true,
            manifest: None,
            is_device_known: false,
            needs_read_back: false,
            threads: threads(),
            stop: halt,
            counters: &counters[side],
            gaps: Mutex::default(),
        };
        let (proof, listing) = proving.prove(&challenge)?;
        Ok::<_, PassError>((proof, listing.entries(&*store)?, listing.left_out))
    };
    let (first, second) = thread::scope(|scope| {
        let second = scope.spawn(|| prove(1));
        (prove(0), second.join().expect("a proof does not panic"))
    });
    let ((a, ours, mut left_out), (b, theirs, also)) = (first?, second?);
    let mut comparing = Comparing::new(ours);
    left_out.extend(also);
    left_out.sort_by(|a, b| a.place.cmp(&b.place).then(a.why.cmp(b.why)));
    left_out.dedup();
    let mut differences = Vec::new();
    if a.canonical != b.canonical {
        comparing.take(theirs.collect::<Result<_, _>>()?)?;
        differences = comparing.finish()?;
    }
    Ok(Comparison { a, b, differences, left_out })
}

/// Compares a volume of this host with what a destination at the other end of `link` holds. Both are read in full, and
/// nothing is changed, nor remembered, on either side.
pub async fn examine(
    volume: Arc<dyn Volume>,
    contract: Contract,
    excludes: &[String],
    link: Link,
    monitor: Arc<Monitor>,
    stop: impl Future<Output = ()>,
) -> Result<Comparison, DriveError> {
    let is_over = Arc::new(AtomicBool::new(false));
    let settings = Settings {
        contract,
        is_final: true,
        reads_twice: false,
        excludes: excludes.to_vec(),
        threads: threads(),
        tracking: None,
    };
    let facts = volume.facts().map_err(PassError::from)?;
    let open_store: OpenStore = Arc::new(|_| Ok(Arc::new(crate::state::memory::MemoryStore::default())));
    let compressor = Arc::new(Compressor::new(Compression::None));
    let source = Source::new(volume.clone(), open_store, settings, compressor, wall_clock(), is_over.clone())?;
    let source = Arc::new(source);
    let order = Order {
        greeting: greeting(&facts),
        contract,
        is_final: true,
        block_bytes: block_bytes(&*volume, &facts)?,
        excludes: excludes.to_vec(),
        only_examines: true,
        rechecks: false,
        proof: Some((Level::Full, random())),
        token: Token(random()),
        data_streams: DATA_STREAMS,
        reads_max: 1,
    };
    let sent = until_over(&is_over, driver::send(source.clone(), order, Trial::default(), link, monitor, stop)).await?;
    let verdict = sent.session.verdict().expect("a session that is done has one");
    let is_equal = verdict.is_equal();
    let Verdict { ours, theirs, mut differences } = verdict.clone();
    if !is_equal && differences.is_empty() {
        // The list is the same, and the answer to the challenge is not: what was told was not read.
        let detail = "the receiver's answer to the challenge".to_owned();
        differences.push(Gap { place: Place::root(), what: GapKind::Unreadable, detail });
    }
    Ok(Comparison { a: ours, b: theirs, differences, left_out: source.left_out() })
}

/// Runs a session, and has the threads that still work for it end when it is over.
async fn until_over<T>(is_over: &AtomicBool, session: impl Future<Output = T>) -> T {
    let outcome = session.await;
    is_over.store(true, Ordering::Relaxed);
    outcome
}

/// What a comparison amounts to.
pub fn verdict(compared: Comparison, kind: VolumeKind, mode: Fidelity, took: Duration) -> report::Verdict {
    let Comparison { a, b, differences, left_out } = compared;
    report::Verdict {
        version: report::VERSION,
        kind: report_kind(kind),
        mode,
        digest_a: a.canonical,
        digest_b: b.canonical,
        entries: a.entries,
        bytes: a.bytes,
        duration_seconds: took.as_secs_f64(),
        differences_total: differences.len() as u64,
        differences: differences
            .into_iter()
            .map(|gap| report::Difference { path: gap.place, what: gap.detail })
            .collect(),
        left_out: show_left_out(left_out),
    }
}

fn show_left_out(left_out: Vec<LeftOut>) -> Vec<report::LeftOut> {
    left_out.into_iter().map(|left| report::LeftOut { path: left.place, reason: left.why.to_owned() }).collect()
}

fn report_kind(kind: VolumeKind) -> report::Kind {
    match kind {
        VolumeKind::Tree => report::Kind::Tree,
        VolumeKind::Block => report::Kind::Block,
    }
}

/// The size of a block volume: of an image what it has, not what it could grow to.
fn block_bytes(volume: &dyn Volume, facts: &Facts) -> Result<Option<u64>, PassError> {
    match facts.kind {
        VolumeKind::Tree => Ok(None),
        VolumeKind::Block => Ok(Some(volume.open(&Place::root(), Access::Read)?.stat()?.size)),
    }
}

fn greeting(facts: &Facts) -> Greeting {
    Greeting { epoch: Epoch(0), volume: Some(facts.kind), build: BUILD.to_owned() }
}

/// Begins or goes on to track the writes to `volume`, a device at `path`; or ends it, if that is not wanted (any more).
///
/// Comes before the process is confined, and before anything of the volume is read.
pub fn track(
    volume: &dyn Volume,
    path: &Path,
    state: &Path,
    is_wanted: bool,
) -> Result<Option<Arc<Tracking>>, PassError> {
    let facts = volume.facts()?;
    let folder = volume_folder(state, &facts);
    let record = folder.join("tracking");
    if !is_wanted {
        // What cannot be ended goes on in vain, and is removed with the next start of the machine.
        Tracking::end(&record).unwrap_or_else(|error| tracing::warn!(%error, "cannot end tracking"));
        return Ok(None);
    }
    make_state_folder(&folder)?;
    if facts.kind == VolumeKind::Block {
        // What is written already counts as written before the pass.
        volume.settle()?;
    }
    Ok(Some(Arc::new(Tracking::begin(path, &record))))
}

fn volume_folder(state: &Path, facts: &Facts) -> PathBuf {
    let name = Destination::volume_name(facts).to_string();
    state.join(format!("volume-{}", &name[..32]))
}

/// One folder for each pair of this volume and a destination.
fn stores(state: &Path, facts: &Facts) -> OpenStore {
    let folder = volume_folder(state, facts);
    Arc::new(move |pair| Ok(Arc::new(DiskStore::open(&folder.join(pair))?)))
}

fn open_store(path: &Path) -> Result<Arc<dyn Store>, PassError> {
    DiskStore::open(path).map(|store| Arc::new(store) as Arc<dyn Store>).map_err(PassError::of_store)
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel has random numbers once it is up");
    bytes
}
