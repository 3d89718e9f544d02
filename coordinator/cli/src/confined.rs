//! What a process opens, makes and starts while it still can, and how it is confined then.
//!
//! Everything here runs with one thread, before the asynchronous runtime: on most kernels a second thread would stay
//! free. What a peer says is never looked at before.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tranship_agent::confine::{self, Applied, Confinement, Grant, Network, Root};
use tranship_agent::pass::PassError;
use tranship_agent::track::Tracking;
use tranship_agent::volume::{Facts, Volume, VolumeKind, block};
use tranship_agent::{link, parallel, state, sync};

use crate::error::RunError;
use crate::options::{
    Compared, Destination, LinkOptions, Origin, ProbeOptions, ReceiveOptions, SyncOptions, Transport, VerifyOptions,
};
use crate::receiver::Receiver;
use crate::ticket::Ticket;

/// Where the other side is, or comes from.
pub(crate) enum Meeting {
    /// It listens where this ticket leads.
    Dial(link::Ticket),
    /// It comes here.
    Listen(link::Sockets),
}

/// A source that is confined to reading its volume.
pub(crate) struct ConfinedSource {
    /// The volume, open.
    pub(crate) volume: Arc<dyn Volume>,
    /// Where the destination is.
    pub(crate) meeting: Meeting,
    /// The process that receives, if the destination is on this machine.
    pub(crate) receiver: Option<Receiver>,
    /// Tracking of what is written to the volume, if that is wanted.
    pub(crate) tracking: Option<Arc<Tracking>>,
    /// What holds.
    pub(crate) applied: Applied,
}

/// One side of a comparison, confined to reading its volume.
pub(crate) struct ConfinedReader {
    /// The volume, open.
    pub(crate) volume: Arc<dyn Volume>,
    /// Where the other side is.
    pub(crate) meeting: Meeting,
}

/// A destination that is confined to its volume.
pub(crate) struct ConfinedDestination {
    /// Where the source is.
    pub(crate) meeting: Meeting,
    /// What holds.
    pub(crate) applied: Applied,
}

impl ConfinedSource {
    /// Opens the source, starts the receiver of a destination on this machine, and confines this process.
    pub(crate) fn enter(options: &SyncOptions) -> Result<Self, RunError> {
        let volume = if options.is_final { open_idle(&options.source) } else { open(&options.source) }?;
        make_state(&options.state)?;
        let tracking = sync::track(&*volume, &options.source, &options.state, options.tracks_writes)
            .map_err(|error| RunError::refused(error.code(), "writes cannot be tracked").because(error))?;
        let (meeting, receiver) = match &options.destination {
            Destination::Dial(ticket) => (Meeting::at(ticket)?, None),
            Destination::Listen(address) => (Meeting::here(*address, &options.link)?, None),
            Destination::Local(path) => {
                let kind = facts(&*volume, &options.source)?.kind;
                let receiver = Receiver::start(path, &options.state, kind == VolumeKind::Block)?;
                (Meeting::at(receiver.ticket())?, Some(receiver))
            }
        };
        let folders = tracking.as_ref().and_then(|tracking| tracking.folders());
        let applied = confine(&options.source, Grant::Read, Some(&options.state), folders, &meeting, &options.link)?;
        Ok(Self { volume, meeting, receiver, tracking, applied })
    }
}

impl ConfinedReader {
    /// Opens the volume and confines this process, which remembers nothing. Nothing where both volumes are on this machine:
    /// then no word of a peer is read.
    pub(crate) fn enter(options: &VerifyOptions) -> Result<Option<Self>, RunError> {
        let meeting = match &options.b {
            Compared::Dial(ticket) => Meeting::at(ticket)?,
            Compared::Listen(address) => Meeting::here(*address, &options.link)?,
            Compared::Local(_) => return Ok(None),
        };
        let volume = open(&options.a)?;
        confine(&options.a, Grant::Read, None, None, &meeting, &options.link)?;
        Ok(Some(Self { volume, meeting }))
    }
}

impl ConfinedDestination {
    /// Makes what is not there yet, and confines this process.
    pub(crate) fn enter(options: &ReceiveOptions) -> Result<Self, RunError> {
        let path = &options.destination;
        sync::make_destination(path, options.made).map_err(|error| no_destination(path, error))?;
        make_state(&options.state)?;
        let meeting = match &options.source {
            Origin::Dial(ticket) => Meeting::at(ticket)?,
            Origin::Listen(address) => Meeting::here(*address, &options.link)?,
        };
        // The source says in which mode it comes. Device nodes are root's to make in any case.
        let grant = if rustix::process::geteuid().is_root() { Grant::WriteDevices } else { Grant::Write };
        let applied = confine(path, grant, Some(&options.state), None, &meeting, &options.link)?;
        Ok(Self { meeting, applied })
    }
}

impl Meeting {
    /// Of a measurement, for which this process is confined to a folder that it only reads.
    pub(crate) fn of_probe(options: &ProbeOptions) -> Result<Self, RunError> {
        make_state(&options.state)?;
        let meeting = match &options.peer {
            Origin::Dial(ticket) => Self::at(ticket)?,
            Origin::Listen(address) => Self::here(*address, &options.link)?,
        };
        confine(&options.path, Grant::Read, Some(&options.state), None, &meeting, &options.link)?;
        Ok(meeting)
    }

    fn at(ticket: &Ticket) -> Result<Self, RunError> {
        let ticket = ticket.as_str().parse().map_err(|error: link::TicketError| {
            RunError::usage("the ticket cannot be used", "copy it again in full, as `receive` printed it")
                .because(error)
        })?;
        Ok(Self::Dial(ticket))
    }

    /// Bound at once, so that the process need not be able to bind anything later.
    fn here(address: SocketAddr, options: &LinkOptions) -> Result<Self, RunError> {
        let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
        let is_any = address.is_ipv6() && address.ip().is_unspecified();
        let addresses = if is_any { vec![v4, address] } else { vec![address] };
        let sockets = link::Sockets::bind(&addresses, options.transport.into());
        let refuse = |error: link::LinkError| RunError::refused(error.code(), "cannot listen").because(error);
        sockets.map(Self::Listen).map_err(refuse)
    }

    /// Ports to which TCP is spoken.
    fn tcp_ports(&self, options: &LinkOptions) -> Vec<u16> {
        match self {
            _ if options.transport == Transport::Quic => Vec::new(),
            Self::Dial(ticket) => ticket.addresses.iter().map(SocketAddr::port).collect(),
            Self::Listen(_) => Vec::new(),
        }
    }
}

/// Opens a volume that is only read.
pub(crate) fn open(path: &Path) -> Result<Arc<dyn Volume>, RunError> {
    sync::open_source(path).map_err(|error| cannot_open(path, error))
}

/// The same for a last pass: a device must not be mounted.
fn open_idle(path: &Path) -> Result<Arc<dyn Volume>, RunError> {
    sync::open_idle_source(path).map_err(|error| cannot_open(path, error))
}

fn cannot_open(path: &Path, error: PassError) -> RunError {
    RunError::refused(error.code(), format!("cannot open {}", show(path))).because(error)
}

/// What a volume is.
pub(crate) fn facts(volume: &dyn Volume, path: &Path) -> Result<Facts, RunError> {
    volume
        .facts()
        .map_err(|error| RunError::refused(error.code(), format!("cannot look at {}", show(path))).because(error))
}

/// Shows that an agent's confinement holds; the lines say what was tried. The process is good for nothing else
/// afterwards.
pub(crate) fn self_test() -> Result<Vec<String>, RunError> {
    let folders = tempfile::tempdir()
        .and_then(|folder| {
            std::fs::create_dir(folder.path().join("volume"))?;
            std::fs::create_dir(folder.path().join("state"))?;
            Ok(folder)
        })
        .map_err(|error| RunError::refused("TS-U002", "cannot make a folder for the test").because(error))?;
    let confinement = Confinement {
        volume: Root::Path(&folders.path().join("volume")),
        grant: Grant::Write,
        state: Some(&folders.path().join("state")),
        readable: &[],
        removes_in: &[],
        network: Network::Open,
    };
    let applied = apply(&confinement)?;
    let attempts = confine::self_test();
    let done = attempts.iter().filter(|attempt| !attempt.denied).count();
    let mut lines: Vec<String> = attempts
        .iter()
        .map(|attempt| {
            format!("{:8} {} ({})", if attempt.denied { "denied" } else { "DONE" }, attempt.what, attempt.by)
        })
        .collect();
    lines.extend(applied.notes);
    lines.push(format!(
        "{} attempts, {} denied; Landlock ABI {}",
        attempts.len(),
        attempts.len() - done,
        applied.landlock_abi
    ));
    if done > 0 {
        return Err(RunError::failed("TS-E284", lines.join("\n")));
    }
    Ok(lines)
}

fn confine(
    volume: &Path,
    grant: Grant,
    state: Option<&Path>,
    tracking: Option<(PathBuf, PathBuf)>,
    meeting: &Meeting,
    options: &LinkOptions,
) -> Result<Applied, RunError> {
    // What the control group allows cannot be read later.
    parallel::processors();
    let facts: Vec<PathBuf> = block::folders_of_facts(volume);
    let (instance, instances) = tracking.unzip();
    let readable: Vec<&Path> = facts.iter().chain(&instance).map(PathBuf::as_path).collect();
    let removes_in: Vec<&Path> = instances.iter().map(PathBuf::as_path).collect();
    let ports = meeting.tcp_ports(options);
    apply(&Confinement {
        volume: Root::Path(volume),
        grant,
        state,
        readable: &readable,
        removes_in: &removes_in,
        network: Network::TcpPorts(&ports),
    })
}

fn apply(confinement: &Confinement<'_>) -> Result<Applied, RunError> {
    confinement
        .apply()
        .map_err(|error| RunError::refused(error.code(), "this process cannot be confined").because(error))
}

fn make_state(path: &Path) -> Result<(), RunError> {
    state::disk::make_folder(path)
        .map_err(|error| RunError::refused("TS-E251", format!("cannot make {}", show(path))).because(error))
}

fn no_destination(path: &Path, error: tranship_agent::pass::PassError) -> RunError {
    RunError::refused(error.code(), format!("cannot make {}", show(path))).because(error)
}

fn show(path: &Path) -> String {
    tranship_agent::report::printable(&path.to_string_lossy())
}
