//! Where what was typed meets the agent: one function for each command.
//!
//! These are the seam: what is above them knows nothing of volumes and links, what is below nothing of flags and
//! terminals. Each leaves the source as it was. A destination that is left by a failure or a stop is no copy, and the
//! next pass goes on from it.

use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tranship_agent::driver::{DriveError, Trial};
use tranship_agent::link::{self, Admission, Bandwidth, Identity, Link, LinkError, Listener, Secret};
use tranship_agent::monitor::{Monitor, Phase};
use tranship_agent::pass::{Counters, chain, show_reading};
use tranship_agent::probe;
use tranship_agent::report::{self, Contract, Report, Verdict};
use tranship_agent::sync::{self, Pass, Receiving};
use tranship_proto::control::Ways;

use crate::confined::{ConfinedDestination, ConfinedReader, ConfinedSource, Meeting, facts, open};
pub(crate) use crate::error::RunError;
use crate::options::{Compression, Congestion, LinkOptions, ProbeOptions, ReceiveOptions, SyncOptions, VerifyOptions};
use crate::rate::Rate;

/// How often a lost link is dialled again before it is given up, and how long to wait first; each wait is twice the
/// one before.
const REDIALS: u32 = 6;
const REDIAL_WAIT: Duration = Duration::from_millis(500);

/// How often a comparison says how far it is.
const SHOWING: Duration = Duration::from_millis(100);

/// How often a volume that is in use is asked for.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// What a pass is given besides its options.
#[derive(Clone)]
pub(crate) struct Context {
    /// Where it says how far it is.
    pub(crate) monitor: Arc<Monitor>,
    /// Whether it has to end.
    pub(crate) stop: Stop,
    /// The most that it may send, whenever that changes.
    pub(crate) bandwidth: watch::Receiver<Option<Rate>>,
    /// To whom the ticket is given, once the address is bound.
    pub(crate) announce: Announce,
}

impl Context {
    /// Waits until then, unless it has to end.
    async fn pause(&self, until: Instant) {
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            () = self.stop.wait() => {}
        }
    }
}

/// Takes the text of a ticket.
pub(crate) type Announce = Arc<dyn Fn(&str) + Send + Sync>;

/// Runs one pass from the source's side. Stopped, it commits nothing, and returns [`RunError::stopped`].
pub(crate) async fn sync(options: SyncOptions, confined: ConfinedSource, context: Context) -> Result<Report, RunError> {
    let ConfinedSource { volume, meeting, receiver, tracking, applied } = confined;
    let pass = Pass {
        volume,
        state: options.state.clone(),
        fidelity: options.fidelity,
        accepted_gaps: options.accepted_gaps.clone(),
        is_final: options.is_final,
        level: options.level,
        excludes: options.exclude.clone(),
        compression: compression(options.compression),
        tracking,
        trial: Trial::default(),
    };
    let result = match Peer::new(meeting, &options.link, true, &context) {
        Ok(peer) => send(&pass, peer, options.link.waits, &context).await,
        Err(error) => Err(error),
    };
    let mut report = match (result, receiver) {
        (Ok(report), None) => report,
        (Ok(report), Some(receiver)) => receiver.finish().await.map(|()| report)?,
        (Err(error), None) => return Err(error),
        (Err(error), Some(receiver)) => {
            receiver.dismiss().await;
            return Err(error);
        }
    };
    report.confinement = Some(applied);
    Ok(report)
}

/// One pass, over as many links as it takes. What another pass is at work on is waited for, if that is wanted.
async fn send(pass: &Pass, mut peer: Peer, waits: bool, context: &Context) -> Result<Report, RunError> {
    let began = Instant::now();
    let (mut links, mut breaks) = (0, 0);
    let mut report = loop {
        // What has begun is not given up at the first break, nor at the first dial in vain: the other side may be on
        // its way back.
        let may_go_on = |breaks| breaks < REDIALS && !context.stop.is_set();
        let dialled = Instant::now();
        let link = match peer.meet(&context.stop).await {
            Ok(link) => link,
            Err(error) if links == 0 => return Err(error),
            Err(error) if may_go_on(breaks) => {
                wait_again(context, &error, dialled, &mut breaks).await;
                continue;
            }
            Err(error) => return Err(error.after_the_start()),
        };
        warn(&link);
        links += 1;
        let result = sync::send(pass, link, context.monitor.clone(), context.stop.wait()).await;
        match result {
            Ok(report) => break report,
            Err(error) if waits && error.is_busy() && !context.stop.is_set() => {
                context.monitor.note(format!("{}: waiting for it", chain(&error)));
                (links, breaks) = (0, 0);
                context.pause(Instant::now() + BUSY_WAIT).await;
            }
            // After a break, what was at work for the last link may take a moment to end.
            Err(error) if (error.is_of_link() || (links > 1 && error.is_busy())) && may_go_on(breaks) => {
                wait_again(context, &error, Instant::now(), &mut breaks).await;
            }
            Err(error) => return Err(failed(error, &context.stop)),
        }
    };
    report.counts.reconnects = links - 1;
    report.duration_seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

/// Waits before the link is dialled again, each time longer. A dial that took its time has waited for as long.
async fn wait_again(context: &Context, error: &impl fmt::Display, since: Instant, breaks: &mut u32) {
    context.monitor.note(format!("{error}: taken up again"));
    context.pause(since + REDIAL_WAIT * 2u32.pow(*breaks)).await;
    *breaks += 1;
}

/// Runs passes from the destination's side: pass after pass, or one. Returns the report of the last.
pub(crate) async fn receive(
    options: ReceiveOptions,
    confined: ConfinedDestination,
    context: Context,
) -> Result<Report, RunError> {
    let mut peer = Peer::new(confined.meeting, &options.link, false, &context)?;
    let receiving = Receiving { path: &options.destination, state: &options.state, monitor: context.monitor.clone() };
    let mut report = Report::new(0, false, report::Kind::Tree, report::Basis::Common);
    report.confinement = Some(confined.applied);
    loop {
        let link = tokio::select! {
            link = peer.meet(&context.stop) => link,
            () = context.stop.wait() => return Ok(report),
        };
        let link = match link {
            Ok(link) => link,
            Err(_) if context.stop.is_set() => return Ok(report),
            Err(error) => return Err(error),
        };
        warn(&link);
        let began = Instant::now();
        match sync::receive(&receiving, link, context.stop.wait()).await {
            // Somebody compared, and nothing came.
            Ok(received) if received.session.is_examined() => {
                context.monitor.enter(Phase::Done, 0, 0);
                if options.is_once {
                    return Ok(report);
                }
            }
            Ok(received) => {
                report.stage += 1;
                report.counts.bytes_received = received.received_bytes;
                report.duration_seconds = began.elapsed().as_secs_f64();
                context.monitor.enter(Phase::Done, 0, 0);
                if options.is_once {
                    return Ok(report);
                }
            }
            // A source whose link broke comes back with the same ticket, and so may one that found a volume in use.
            Err(error) if context.stop.is_set() || (options.is_once && !error.is_of_link() && !error.is_busy()) => {
                return Err(failed(error, &context.stop));
            }
            Err(error) => context.monitor.note(format!("a pass ended early: {error}; waiting for the next")),
        }
    }
}

/// Reads two volumes of this machine and compares them.
pub(crate) async fn verify(options: VerifyOptions, other: PathBuf, context: Context) -> Result<Verdict, RunError> {
    let began = Instant::now();
    let volumes = [open(&options.a)?, open(&other)?];
    let contract = Contract::all(options.fidelity);
    context.monitor.enter(Phase::Proving, 0, 0);
    let (exclude, halt, stop) = (options.exclude, context.stop.flag(), context.stop.clone());
    let (a, b) = (facts(&*volumes[0], &options.a)?.kind, facts(&*volumes[1], &other)?.kind);
    if a != b {
        return Err(RunError::refused("TS-E233", "one is a folder and the other is a block volume"));
    }
    let counters = Arc::new([Counters::default(), Counters::default()]);
    let counted = counters.clone();
    let compare = move || sync::compare(volumes, contract, &exclude, &counted, &halt);
    let mut comparing = tokio::task::spawn_blocking(compare);
    let mut showing = tokio::time::interval(SHOWING);
    let compared = loop {
        tokio::select! {
            compared = &mut comparing => break compared.map_err(|error| broken().because(error))?,
            _ = showing.tick() => show_reading(&context.monitor, &counters.each_ref()),
        }
    };
    let compared = compared.map_err(|error| {
        if stop.is_set() { RunError::stopped("the comparison was stopped") } else { broken().because(error) }
    })?;
    context.monitor.enter(Phase::Done, 0, 0);
    Ok(sync::verdict(compared, a, options.fidelity, began.elapsed()))
}

/// Compares a volume of this machine with what a running receiver holds.
pub(crate) async fn verify_afar(
    options: VerifyOptions,
    confined: ConfinedReader,
    context: Context,
) -> Result<Verdict, RunError> {
    let began = Instant::now();
    let ConfinedReader { volume, meeting } = confined;
    let kind = facts(&*volume, &options.a)?.kind;
    let contract = Contract::all(options.fidelity);
    let link = Peer::new(meeting, &options.link, false, &context)?.meet(&context.stop).await?;
    warn(&link);
    let (monitor, stop) = (context.monitor.clone(), context.stop.wait());
    let compared = sync::examine(volume, contract, &options.exclude, link, monitor, stop).await;
    let compared = compared.map_err(|error| failed(error, &context.stop))?;
    context.monitor.enter(Phase::Done, 0, 0);
    Ok(sync::verdict(compared, kind, options.fidelity, began.elapsed()))
}

/// Measures the ways to whoever listens, or answers those who measure, of which nothing is reported.
pub(crate) async fn probe(options: ProbeOptions, meeting: Meeting, context: Context) -> Result<Ways, RunError> {
    let ways = match Peer::new(meeting, &options.link, true, &context)? {
        Peer::Listen(mut listener) => {
            probe::serve(&mut listener, options.role, context.stop.wait()).await;
            Vec::new()
        }
        Peer::Dial { ticket, identity, options: link, .. } => {
            let admission = ticket.admission();
            tokio::select! {
                ways = probe::dial(&ticket.addresses, &identity, &admission, &link, options.role) => ways,
                () = context.stop.wait() => return Err(RunError::stopped("stopped before all ways were measured")),
            }
        }
    };
    Ok(Ways { version: 1, ways })
}

/// Where the other side is, or comes from.
enum Peer {
    Dial { ticket: link::Ticket, identity: Identity, options: link::LinkOptions, waits: bool },
    Listen(Listener),
}

impl Peer {
    fn new(meeting: Meeting, options: &LinkOptions, sends_contents: bool, context: &Context) -> Result<Self, RunError> {
        let identity = Identity::generate().map_err(no_link)?;
        let waits = options.waits;
        let options = link::LinkOptions { sends_contents, ..link_options(options, context) };
        match meeting {
            Meeting::Dial(ticket) => Ok(Self::Dial { ticket, identity, options, waits }),
            Meeting::Listen(sockets) => Self::listen(sockets, &identity, &options, context),
        }
    }

    fn listen(
        sockets: link::Sockets,
        identity: &Identity,
        options: &link::LinkOptions,
        context: &Context,
    ) -> Result<Self, RunError> {
        let secret = Secret::generate().map_err(no_link)?;
        let admission = Admission::Secret(secret.clone());
        let listener = Listener::listen(sockets, identity, admission, options).map_err(no_link)?;
        listener.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        let addresses = listener.local_addresses().into_iter().take(link::TICKET_ADDRESSES_MAX).collect();
        let ticket = link::Ticket { addresses, fingerprint: identity.fingerprint(), secret };
        (context.announce)(&ticket.to_string());
        Ok(Self::Listen(listener))
    }

    /// A link to the other side.
    async fn meet(&mut self, stop: &Stop) -> Result<Link, RunError> {
        let meeting = async {
            match self {
                Self::Listen(listener) => listener.accept().await,
                Self::Dial { ticket, identity, options, waits } => loop {
                    match link::dial(&ticket.addresses, identity, ticket.admission(), options).await {
                        Err(LinkError::Unreachable { .. }) if *waits => tokio::time::sleep(REDIAL_WAIT).await,
                        result => return result,
                    }
                },
            }
        };
        tokio::select! {
            link = meeting => link.map_err(no_link),
            () = stop.wait() => Err(RunError::stopped("stopped before the other side was reached")),
        }
    }
}

fn link_options(options: &LinkOptions, context: &Context) -> link::LinkOptions {
    let bits =
        |rate: Option<Rate>| rate.and_then(|rate| NonZeroU64::new(rate.bytes_per_second().get().saturating_mul(8)));
    let bandwidth = Bandwidth::new(bits(options.bandwidth));
    let (shared, mut changes) = (bandwidth.clone(), context.bandwidth.clone());
    tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            shared.set(bits(*changes.borrow_and_update()));
        }
    });
    link::LinkOptions {
        transport: options.transport.into(),
        connections: options.connections.unwrap_or(1),
        congestion: match options.congestion {
            Congestion::Auto => link::Congestion::Auto,
            Congestion::Cubic => link::Congestion::Cubic,
            Congestion::Wan => link::Congestion::Wan,
        },
        bandwidth: Some(bandwidth),
        ..link::LinkOptions::default()
    }
}

fn compression(compression: Compression) -> sync::Compression {
    match compression {
        Compression::Auto => sync::Compression::Auto,
        Compression::None => sync::Compression::None,
        Compression::Lz4 => sync::Compression::Lz4,
        Compression::Zstd(level) => sync::Compression::Zstd(level),
    }
}

fn warn(link: &Link) {
    link.streams.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
}

fn failed(error: DriveError, stop: &Stop) -> RunError {
    if stop.is_set() {
        return RunError::stopped("stopped: nothing is lost, the same command goes on from here");
    }
    let message = chain(&error);
    if error.is_before_any_effect() {
        RunError::refused(error.code(), message)
    } else {
        RunError::failed(error.code(), message)
    }
}

fn no_link(error: LinkError) -> RunError {
    RunError::refused(error.code(), "there is no link to the other side").because(error)
}

fn broken() -> RunError {
    RunError::failed("TS-E250", "the volumes cannot be compared")
}

/// A request to end, which is never taken back. Threads look at the flag, tasks wait.
#[derive(Clone)]
pub(crate) struct Stop {
    flag: Arc<AtomicBool>,
    changed: watch::Sender<bool>,
}

impl Stop {
    /// Nothing is asked yet.
    pub(crate) fn new() -> Self {
        Self { flag: Arc::default(), changed: watch::Sender::new(false) }
    }

    /// Asks everyone who holds a clone to end.
    pub(crate) fn set(&self) {
        self.flag.store(true, Ordering::SeqCst);
        self.changed.send_replace(true);
    }

    /// Whether it was asked.
    pub(crate) fn is_set(&self) -> bool {
        self.flag.load(Ordering::SeqCst)
    }

    /// For threads: true once it was asked.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// Returns once it was asked.
    pub(crate) async fn wait(&self) {
        // The sender lives as long as `self`, so that the only end is the value.
        let _ = self.changed.subscribe().wait_for(|is_set| *is_set).await;
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stop({})", self.is_set())
    }
}
