//! Paths: what Landlock lets an agent open.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort, PathBeneath,
    RestrictSelfAttr, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    make_bitflags,
};
use rustix::fs::{FileType, Mode, OFlags};

use super::{ConfineError, Confinement, Grant, Network, Root};

/// The newest version that this file has been written for. Rights of a later one stay as the kernel has them.
const KNOWN: ABI = ABI::V9;

const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});

/// Sockets are left out: they are recorded, not made.
const WRITE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    WriteFile | Truncate | RemoveFile | RemoveDir | MakeReg | MakeDir | MakeSym | MakeFifo | Refer
});

/// Without moves between folders, so that older kernels, which cannot grant them, treat the state folder no worse.
const STATE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    ReadFile | ReadDir | WriteFile | Truncate | RemoveFile | RemoveDir | MakeReg | MakeDir
});

/// Restricts this thread and its future children; returns the version of the interface, 0 if nothing is enforced.
pub(super) fn restrict(confinement: &Confinement<'_>, notes: &mut Vec<String>) -> Result<u32, ConfineError> {
    // The first version cannot grant moves between folders and refuses all of them, which a destination cannot do
    // without: a rename at the source is a rename at the destination.
    if confinement.grant.is_writable() && knows_landlock() && !knows_moves() {
        notes.push("paths are not confined: this kernel's Landlock would refuse every move between folders".into());
        return Ok(0);
    }
    let ruleset = rules(confinement, notes)?;
    let threads = count_threads();
    let ruleset = match threads {
        Some(1) => ruleset,
        Some(threads) => ruleset
            .set_compatibility(CompatLevel::HardRequirement)
            .all_threads(true)
            .map_err(|_| ConfineError::Threads { threads })?,
        None => {
            notes.push("threads cannot be counted: /proc is not there".into());
            ruleset
        }
    };
    let status = ruleset.restrict_self().map_err(ConfineError::Landlock)?;
    let abi = match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) | (_, LandlockStatus::NotEnabled | LandlockStatus::NotImplemented) => 0,
        (_, LandlockStatus::Available { effective_abi, .. }) => effective_abi as u32,
    };
    note_what_is_missing(abi, confinement.network, notes);
    Ok(abi)
}

fn rules(confinement: &Confinement<'_>, notes: &mut Vec<String>) -> Result<RulesetCreated, ConfineError> {
    let volume = match confinement.volume {
        Root::Path(path) => Handle::Own(open(path)?),
        Root::Handle(handle) => Handle::Lent(handle),
    };
    let mut rules = handled(confinement.network)
        .and_then(|ruleset| ruleset.add_rule(PathBeneath::new(&volume, volume_rights(&volume, confinement.grant))))
        .map_err(ConfineError::Landlock)?;
    if let Some(state) = confinement.state {
        rules = rules.add_rule(PathBeneath::new(open(state)?, STATE)).map_err(ConfineError::Landlock)?;
    }
    // Its own open files, by number: the only safe name of a file that has none.
    for path in confinement.readable.iter().copied().chain([Path::new("/proc/self")]) {
        let Ok(handle) = open(path) else {
            notes.push(format!("{} is not there and cannot be read later", path.display()));
            continue;
        };
        let rights = if is_folder(handle.as_fd()) { READ } else { AccessFs::ReadFile.into() };
        rules = rules.add_rule(PathBeneath::new(handle, rights)).map_err(ConfineError::Landlock)?;
    }
    for path in confinement.removes_in {
        let folder = PathBeneath::new(open(path)?, AccessFs::RemoveDir);
        rules = rules.add_rule(folder).map_err(ConfineError::Landlock)?;
    }
    if let Network::TcpPorts(ports) = confinement.network {
        for port in ports {
            rules = rules.add_rule(NetPort::new(*port, AccessNet::from_all(KNOWN))).map_err(ConfineError::Landlock)?;
        }
    }
    Ok(rules)
}

/// Everything that is refused unless a rule grants it.
fn handled(network: Network<'_>) -> Result<RulesetCreated, RulesetError> {
    let ruleset = Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?.scope(Scope::from_all(KNOWN))?;
    match network {
        Network::Open => ruleset,
        Network::Closed | Network::TcpPorts(_) => ruleset.handle_access(AccessNet::from_all(KNOWN))?,
    }
    .create()
}

fn volume_rights(volume: &Handle<'_>, grant: Grant) -> BitFlags<AccessFs> {
    let mut rights = match grant {
        Grant::Read => READ,
        Grant::Write => READ | WRITE,
        Grant::WriteDevices => READ | WRITE | AccessFs::MakeChar | AccessFs::MakeBlock,
    };
    if !is_folder(volume.as_fd()) {
        rights &= AccessFs::from_file(KNOWN);
    }
    // A device is asked for its sector sizes. Device nodes within a tree are carried and never used.
    if is_block_device(volume.as_fd()) {
        rights |= AccessFs::IoctlDev;
    }
    rights
}

fn note_what_is_missing(abi: u32, network: Network<'_>, notes: &mut Vec<String>) {
    if abi == 0 {
        notes.push("paths are not confined: this kernel has no Landlock, or it is switched off".into());
        return;
    }
    let is_tcp_restricted = network != Network::Open;
    for (since, applies, what) in [
        (3, true, "truncating files by an open handle"),
        (4, is_tcp_restricted, "TCP ports"),
        (5, true, "commands to devices"),
        (6, true, "signals and abstract Unix sockets"),
    ] {
        if applies && abi < since {
            notes.push(format!("Landlock {abi} does not cover {what}, version {since} does"));
        }
    }
}

fn knows_landlock() -> bool {
    is_supported(AccessFs::ReadFile)
}

fn knows_moves() -> bool {
    is_supported(AccessFs::Refer)
}

fn is_supported(right: AccessFs) -> bool {
    Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(right).is_ok()
}

/// Threads of this process; nothing if `/proc` does not tell.
fn count_threads() -> Option<usize> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open("/proc/self/task", flags, Mode::empty()).ok()?;
    let entries = rustix::fs::Dir::new(folder).ok()?;
    let names = entries.map(|entry| Some(entry.ok()?.file_name().to_bytes().to_vec()));
    Some(names.collect::<Option<Vec<_>>>()?.iter().filter(|name| !name.starts_with(b".")).count())
}

fn open(path: &Path) -> Result<OwnedFd, ConfineError> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|source| ConfineError::Open { path: path.to_owned(), source: source.into() })
}

fn is_folder(handle: BorrowedFd<'_>) -> bool {
    kind(handle) == Some(FileType::Directory)
}

fn is_block_device(handle: BorrowedFd<'_>) -> bool {
    kind(handle) == Some(FileType::BlockDevice)
}

fn kind(handle: BorrowedFd<'_>) -> Option<FileType> {
    rustix::fs::fstat(handle).ok().map(|stat| FileType::from_raw_mode(stat.st_mode))
}

enum Handle<'a> {
    Own(OwnedFd),
    Lent(BorrowedFd<'a>),
}

impl AsFd for Handle<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(handle) => handle.as_fd(),
            Self::Lent(handle) => *handle,
        }
    }
}
