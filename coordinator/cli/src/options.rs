//! What was typed, as types that cannot be wrong: converted once, with every refusal of a combination.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::BufRead;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use tranship_agent::report::{Fidelity, GapKind, Level};
use tranship_agent::volume::VolumeKind;
use tranship_proto::control::Role;

use crate::args::{
    ANY_ADDRESS, CongestionWord, DemoArgs, LevelWord, LinkArgs, ModeWord, ProbeArgs, ReceiveArgs, RoleWord, StateArgs,
    SyncArgs, TransportWord, VerifyArgs,
};
use crate::error::RunError;
use crate::migrate::args::{NamedArgs, PlaceArgs};
use crate::rate::Rate;
use crate::ticket::Ticket;

/// Exclusion patterns, and bytes in each: as many as the agent takes.
const PATTERNS_MAX: usize = 1_000;
const PATTERN_BYTES_MAX: usize = 1_024;

/// Bytes of a demonstration: below, nothing is seen; above, it is no demonstration.
const DEMO_BYTES_MIN: u64 = 8 << 20;
const DEMO_BYTES_MAX: u64 = 16 << 30;

/// One pass, as its source runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyncOptions {
    /// The volume that is read.
    pub(crate) source: PathBuf,
    /// Who receives it.
    pub(crate) destination: Destination,
    /// Whether this is a final pass.
    pub(crate) is_final: bool,
    /// How much is read for the proof of the final pass.
    pub(crate) level: Level,
    /// The contract for metadata.
    pub(crate) fidelity: Fidelity,
    /// What a final pass may leave behind.
    pub(crate) accepted_gaps: Vec<GapKind>,
    /// What does not belong to the volume, as in a .gitignore.
    pub(crate) exclude: Vec<String>,
    /// How contents are packed.
    pub(crate) compression: Compression,
    /// Whether writes to the device are tracked until the next pass.
    pub(crate) tracks_writes: bool,
    /// How the other side is reached.
    pub(crate) link: LinkOptions,
    /// Folder for manifests.
    pub(crate) state: PathBuf,
}

/// Who receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// A volume on this machine.
    Local(PathBuf),
    /// The receiver that this ticket leads to.
    Dial(Ticket),
    /// Whoever comes with the ticket that is printed.
    Listen(SocketAddr),
}

/// One pass, or pass after pass, as the destination runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReceiveOptions {
    /// The volume that is written.
    pub(crate) destination: PathBuf,
    /// Where the source comes from.
    pub(crate) source: Origin,
    /// What is made there if nothing is.
    pub(crate) made: VolumeKind,
    /// Whether it ends after one pass; otherwise it stays for more, with the same ticket.
    pub(crate) is_once: bool,
    /// How the other side is reached.
    pub(crate) link: LinkOptions,
    /// Folder for manifests.
    pub(crate) state: PathBuf,
}

/// Where a source comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It comes with the ticket that is printed.
    Listen(SocketAddr),
    /// It listens where this ticket leads.
    Dial(Ticket),
}

/// A comparison of two volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VerifyOptions {
    /// One, on this machine.
    pub(crate) a: PathBuf,
    /// The other.
    pub(crate) b: Compared,
    /// The contract under which metadata counts.
    pub(crate) fidelity: Fidelity,
    /// What does not belong to the volumes.
    pub(crate) exclude: Vec<String>,
    /// How the other side is reached.
    pub(crate) link: LinkOptions,
}

/// The second volume of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Compared {
    /// On this machine.
    Local(PathBuf),
    /// What the receiver holds that this ticket leads to.
    Dial(Ticket),
    /// What the receiver holds that comes with the ticket that is printed.
    Listen(SocketAddr),
}

/// A measurement of the ways to another agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProbeOptions {
    /// A folder, for the confinement.
    pub(crate) path: PathBuf,
    /// Where the other side is, or comes from.
    pub(crate) peer: Origin,
    /// Which side this is.
    pub(crate) role: Role,
    /// How the other side is reached.
    pub(crate) link: LinkOptions,
    /// Folder from which a new bandwidth is read.
    pub(crate) state: PathBuf,
}

/// How the other side is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LinkOptions {
    /// The limit when the pass starts; [`crate::run::Context::bandwidth`] changes it while it runs.
    pub(crate) bandwidth: Option<Rate>,
    /// How packets travel.
    pub(crate) transport: Transport,
    /// How QUIC finds its pace.
    pub(crate) congestion: Congestion,
    /// QUIC connections that carry contents; nothing for one.
    pub(crate) connections: Option<u8>,
    /// Whether to wait for a peer that cannot be reached yet, and for a volume in use.
    pub(crate) waits: bool,
}

/// How packets travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Transport {
    /// QUIC where UDP comes through, else TCP.
    #[default]
    Auto,
    /// QUIC only.
    Quic,
    /// TCP with TLS only.
    Tcp,
}

/// How QUIC finds its pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Congestion {
    /// What suits the path.
    #[default]
    Auto,
    /// Loss means congestion.
    Cubic,
    /// Delivery tells the pace.
    Wan,
}

/// How contents are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Whatever pays, measured piece by piece.
    Auto,
    /// Never.
    None,
    /// LZ4.
    Lz4,
    /// Zstandard, at this level.
    Zstd(i32),
}

/// A demonstration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DemoOptions {
    /// Bytes that the application starts with.
    pub(crate) size_bytes: u64,
    /// Seed of what it does; nothing for a random one.
    pub(crate) seed: Option<u64>,
    /// Whether the folder is kept.
    pub(crate) keeps: bool,
}

/// The level of Zstandard where none is given.
const ZSTD_LEVEL: i32 = 3;

impl SyncArgs {
    /// What it means. Reads a ticket from `stdin` if it is meant to come from there.
    pub(crate) fn validate(self, env: &Environment, stdin: &mut dyn BufRead) -> Result<SyncOptions, RunError> {
        if is_ticket_text(&self.source) {
            return Err(RunError::usage(
                "SRC is a ticket, and a source is always on this machine",
                "to receive from a source that listens, run `tranship receive DST --connect TICKET`",
            ));
        }
        let source = PathBuf::from(self.source);
        let destination = match (self.destination, self.listen) {
            (Some(_), Some(_)) => {
                return Err(RunError::usage(
                    "both a destination and --listen were given",
                    "give DST or a ticket to go there, or --listen to wait for `receive --connect`",
                ));
            }
            (None, None) => {
                return Err(RunError::usage(
                    "there is no destination",
                    "give a folder, a device, or the ticket that `tranship receive DST` prints; or --listen",
                ));
            }
            (None, Some(address)) => Destination::Listen(address_of(&address)?),
            (Some(text), None) if Ticket::is_meant_by(&text) => Destination::Dial(read_ticket(&text, stdin)?),
            (Some(path), None) => Destination::Local(PathBuf::from(path)),
        };
        let state = self.state.validate(env)?;
        if let Destination::Local(path) = &destination {
            refuse_link_flags(&self.link)?;
            refuse_overlap(("SRC", &source), ("DST", path))?;
            refuse_inside(("the state folder", &state), ("DST", path))?;
        }
        refuse_inside(("the state folder", &state), ("SRC", &source))?;
        let link = self.link.validate()?;
        Ok(SyncOptions {
            source,
            destination,
            is_final: self.is_final,
            level: self.verify.map_or(Level::Full, Level::from),
            fidelity: fidelity_of(self.mode),
            accepted_gaps: GapKind::ALL
                .iter()
                .copied()
                .filter(|kind| self.accept_gap.iter().any(|word| word == kind.word()))
                .collect(),
            exclude: validate_patterns(self.exclude)?,
            compression: parse_compression(&self.compress)?,
            tracks_writes: self.track,
            link,
            state,
        })
    }
}

impl ReceiveArgs {
    /// What it means. Reads a ticket from `stdin` if it is meant to come from there.
    pub(crate) fn validate(self, env: &Environment, stdin: &mut dyn BufRead) -> Result<ReceiveOptions, RunError> {
        if is_ticket_text(&self.destination) {
            return Err(RunError::usage(
                "DST is a ticket, and `receive` needs a folder or a device to write to",
                "run `tranship receive DST --connect TICKET`",
            ));
        }
        let destination = PathBuf::from(self.destination);
        // A source's ticket is good for its one pass.
        let is_once = self.once || self.connect.is_some();
        let source = match (self.connect, self.listen) {
            (Some(text), _) => Origin::Dial(read_ticket(&text, stdin)?),
            (None, address) => Origin::Listen(address_of(address.as_deref().unwrap_or(ANY_ADDRESS))?),
        };
        let state = self.state.validate(env)?;
        refuse_inside(("the state folder", &state), ("DST", &destination))?;
        let made = if self.image { VolumeKind::Block } else { VolumeKind::Tree };
        Ok(ReceiveOptions { destination, source, made, is_once, link: self.link.validate()?, state })
    }
}

impl VerifyArgs {
    /// The migration that is meant, if no second volume is given.
    pub(crate) fn migration(&self) -> Result<Option<NamedArgs>, RunError> {
        if self.b.is_some() || self.listen.is_some() {
            return Ok(None);
        }
        let name = self.a.to_str().filter(|name| !name.contains('/')).ok_or_else(|| {
            RunError::usage(
                "there is no second volume, and what is given is no name of a migration",
                "give two volumes, a volume and a ticket, or the name of a migration",
            )
        })?;
        if self.mode.is_some() || !self.exclude.is_empty() {
            return Err(RunError::usage(
                "--mode and --exclude are in the migration already",
                "leave them out; `tranship status` shows them",
            ));
        }
        Ok(Some(NamedArgs { name: name.to_owned(), place: self.clusters.clone() }))
    }

    /// What it means. Reads a ticket from `stdin` if it is meant to come from there.
    pub(crate) fn validate(self, stdin: &mut dyn BufRead) -> Result<VerifyOptions, RunError> {
        if is_ticket_text(&self.a) {
            return Err(RunError::usage(
                "A is a ticket, and the first volume is always on this machine",
                "run `tranship verify PATH TICKET`",
            ));
        }
        if self.clusters != PlaceArgs::default() {
            return Err(RunError::usage(
                "--from, --to and --namespace are for a migration, and two volumes were given",
                "run `tranship verify NAME` to compare the volumes of a migration",
            ));
        }
        let a = PathBuf::from(self.a);
        let b = match (self.b, self.listen) {
            (Some(b), _) if Ticket::is_meant_by(&b) => Compared::Dial(read_ticket(&b, stdin)?),
            (Some(b), _) => {
                refuse_link_flags(&self.link)?;
                Compared::Local(PathBuf::from(b))
            }
            (None, address) => Compared::Listen(address_of(address.as_deref().unwrap_or(ANY_ADDRESS))?),
        };
        if let Compared::Local(b) = &b
            && same_place(&a, b)
        {
            return Err(RunError::usage("A and B are the same volume", "give two volumes"));
        }
        let (fidelity, exclude) = (fidelity_of(self.mode), validate_patterns(self.exclude)?);
        Ok(VerifyOptions { a, b, fidelity, exclude, link: self.link.validate()? })
    }
}

impl ProbeArgs {
    /// What it means. Reads a ticket from `stdin` if it is meant to come from there.
    pub(crate) fn validate(self, env: &Environment, stdin: &mut dyn BufRead) -> Result<ProbeOptions, RunError> {
        let peer = match self.ticket {
            Some(text) => Origin::Dial(read_ticket(&text, stdin)?),
            None => Origin::Listen(address_of(self.listen.as_deref().unwrap_or(ANY_ADDRESS))?),
        };
        let role = match self.role {
            RoleWord::Source => Role::Source,
            RoleWord::Destination => Role::Destination,
        };
        let (link, state) = (self.link.validate()?, self.state.validate(env)?);
        Ok(ProbeOptions { path: self.path, peer, role, link, state })
    }
}

impl DemoArgs {
    /// What it means.
    pub(crate) fn validate(self) -> Result<DemoOptions, RunError> {
        let size_bytes =
            parse_size(&self.size).filter(|size| (DEMO_BYTES_MIN..=DEMO_BYTES_MAX).contains(size)).ok_or_else(
                || RunError::usage("--size is not a size between 8MiB and 16GiB", "write it as 96MiB or 1GiB"),
            )?;
        Ok(DemoOptions { size_bytes, seed: self.seed, keeps: self.keep })
    }
}

/// What was asked for, or all that this user can carry.
fn fidelity_of(mode: Option<ModeWord>) -> Fidelity {
    match mode {
        Some(mode) => mode.into(),
        None if rustix::process::geteuid().is_root() => Fidelity::Exact,
        None => Fidelity::Plain,
    }
}

impl LinkArgs {
    fn validate(self) -> Result<LinkOptions, RunError> {
        let transport = self.transport.map_or(Transport::Auto, Transport::from);
        let congestion = self.congestion.map_or(Congestion::Auto, Congestion::from);
        if transport == Transport::Tcp && congestion != Congestion::Auto {
            return Err(RunError::usage(
                "--congestion is for QUIC, and with --transport tcp the kernel finds the pace",
                "leave out one of the two",
            ));
        }
        let connections = self.connections;
        Ok(LinkOptions { bandwidth: self.bandwidth, transport, congestion, connections, waits: self.wait })
    }
}

impl StateArgs {
    fn validate(self, env: &Environment) -> Result<PathBuf, RunError> {
        self.state.or_else(|| env.state_folder()).ok_or_else(|| {
            RunError::usage(
                "there is no place for the state: neither XDG_STATE_HOME nor HOME is set",
                "give --state DIR",
            )
        })
    }
}

/// What the process was given besides its arguments.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    /// `XDG_STATE_HOME`.
    pub(crate) xdg_state_home: Option<PathBuf>,
    /// `HOME`.
    pub(crate) home: Option<PathBuf>,
}

impl Environment {
    /// This process's.
    pub(crate) fn of_process() -> Self {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        Self { xdg_state_home: path("XDG_STATE_HOME"), home: path("HOME") }
    }

    /// A relative path in these variables is to be ignored (XDG Base Directory Specification).
    pub(crate) fn state_folder(&self) -> Option<PathBuf> {
        let absolute = |path: &Option<PathBuf>| path.clone().filter(|path| path.is_absolute());
        absolute(&self.xdg_state_home)
            .or_else(|| absolute(&self.home).map(|home| home.join(".local/state")))
            .map(|base| base.join("tranship"))
    }
}

impl From<LevelWord> for Level {
    fn from(word: LevelWord) -> Self {
        match word {
            LevelWord::Full => Self::Full,
            LevelWord::Tracked => Self::Tracked,
        }
    }
}

impl From<ModeWord> for Fidelity {
    fn from(word: ModeWord) -> Self {
        match word {
            ModeWord::Plain => Self::Plain,
            ModeWord::Owner => Self::Owner,
            ModeWord::Exact => Self::Exact,
        }
    }
}

impl From<TransportWord> for Transport {
    fn from(word: TransportWord) -> Self {
        match word {
            TransportWord::Auto => Self::Auto,
            TransportWord::Quic => Self::Quic,
            TransportWord::Tcp => Self::Tcp,
        }
    }
}

impl From<Transport> for tranship_agent::link::Transport {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Auto => Self::Auto,
            Transport::Quic => Self::Quic,
            Transport::Tcp => Self::Tcp,
        }
    }
}

impl From<CongestionWord> for Congestion {
    fn from(word: CongestionWord) -> Self {
        match word {
            CongestionWord::Auto => Self::Auto,
            CongestionWord::Cubic => Self::Cubic,
            CongestionWord::Wan => Self::Wan,
        }
    }
}

fn is_ticket_text(argument: &OsStr) -> bool {
    argument.as_encoded_bytes().starts_with(crate::ticket::PREFIX.as_bytes())
}

fn read_ticket(argument: &OsString, stdin: &mut dyn BufRead) -> Result<Ticket, RunError> {
    Ticket::read(argument, stdin).map_err(|error| {
        RunError::usage(
            "there is no usable ticket",
            "give what the other side printed, whole; for a path that starts with @, write ./@",
        )
        .because(error)
    })
}

/// `IP:PORT`, `IP` or `PORT`.
fn address_of(text: &str) -> Result<SocketAddr, RunError> {
    let ip = || text.trim_matches(['[', ']']).parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0));
    let port = || text.parse::<u16>().map(|port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    text.parse().ok().or_else(|| port().ok()).or_else(|| ip().ok()).ok_or_else(|| {
        RunError::usage("--listen is not an address", "write 192.0.2.7:4433, [2001:db8::7]:4433, an address or a port")
    })
}

fn parse_compression(text: &str) -> Result<Compression, RunError> {
    let level = text.strip_prefix("zstd:").map(str::parse::<i32>);
    match (text, level) {
        ("auto", _) => Ok(Compression::Auto),
        ("none", _) => Ok(Compression::None),
        ("lz4", _) => Ok(Compression::Lz4),
        ("zstd", _) => Ok(Compression::Zstd(ZSTD_LEVEL)),
        (_, Some(Ok(level @ 1..=19))) => Ok(Compression::Zstd(level)),
        _ => Err(RunError::usage("--compress is not a codec", "write auto, none, lz4, zstd, or zstd:1 to zstd:19")),
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let unit: u64 = match &text[split..] {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    text[..split].parse::<u64>().ok()?.checked_mul(unit)
}

fn validate_patterns(patterns: Vec<String>) -> Result<Vec<String>, RunError> {
    let refuse =
        |why: &str| Err(RunError::usage(format!("--exclude {why}"), "see gitignore(5) for what a pattern can say"));
    if patterns.len() > PATTERNS_MAX {
        return refuse("was given more than 1,000 times");
    }
    for pattern in &patterns {
        if pattern.trim().is_empty() || pattern.len() > PATTERN_BYTES_MAX || pattern.contains(['\n', '\0']) {
            return refuse("takes 1 to 1,024 bytes on one line");
        }
        if pattern.split('/').any(|name| name == "..") {
            return refuse("cannot name what is outside the volume");
        }
        if matches!(pattern.trim_start_matches('/'), "" | "*" | "**" | "**/*") {
            return refuse("would leave out everything");
        }
    }
    Ok(patterns)
}

/// Between two volumes on this machine there is no link to tune.
fn refuse_link_flags(link: &LinkArgs) -> Result<(), RunError> {
    let flag = [
        (link.transport.is_some(), "--transport"),
        (link.congestion.is_some(), "--congestion"),
        (link.connections.is_some(), "--connections"),
    ]
    .into_iter()
    .find_map(|(is_given, flag)| is_given.then_some(flag));
    match flag {
        None => Ok(()),
        Some(flag) => Err(RunError::usage(
            format!("{flag} is for a link, and both volumes are on this machine"),
            format!("leave out {flag}"),
        )),
    }
}

type Named<'a> = (&'a str, &'a Path);

fn refuse_overlap(a: Named<'_>, b: Named<'_>) -> Result<(), RunError> {
    if same_place(a.1, b.1) {
        return Err(RunError::usage(format!("{} and {} are the same volume", a.0, b.0), "give two volumes"));
    }
    refuse_inside(a, b)?;
    refuse_inside(b, a)
}

fn refuse_inside(inner: Named<'_>, outer: Named<'_>) -> Result<(), RunError> {
    if resolved(inner.1).starts_with(resolved(outer.1)) {
        return Err(RunError::usage(
            format!("{} is inside {}", inner.0, outer.0),
            "choose a folder outside of it: a volume cannot hold what describes or receives it",
        ));
    }
    Ok(())
}

fn same_place(a: &Path, b: &Path) -> bool {
    resolved(a) == resolved(b)
}

/// The path without symbolic links, as far as it exists; what does not exist yet is taken literally.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for ancestor in absolute.ancestors() {
        if let Ok(real) = fs::canonicalize(ancestor) {
            let rest = absolute.strip_prefix(ancestor).unwrap_or(Path::new(""));
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    absolute
}

#[cfg(test)]
mod tests;
