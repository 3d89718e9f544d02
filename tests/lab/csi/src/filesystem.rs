//! File systems on devices.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::command::{outcome, run};
use crate::device::Device;
use crate::error::Error;
use crate::mounts::{self, Mount};

/// A kind of file system that can be made and grown here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What there is when nobody asks.
    Ext4,
    /// At least 300 MiB.
    Xfs,
}

/// blkid(8): nothing was found, but also that the device could not be opened.
const BLKID_NOTHING: i32 = 2;

impl Kind {
    /// By the name that a request has for it.
    pub(crate) fn parse(name: &str) -> Result<Self, Error> {
        match name {
            "" | "ext4" => Ok(Self::Ext4),
            "xfs" => Ok(Self::Xfs),
            other => Err(Error::InvalidArgument(format!("there is no {other} here, only ext4 and xfs"))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    fn make(self, device: &Path) -> Result<(), Error> {
        match self {
            Self::Ext4 => run("mkfs.ext4", &[&"-q", &"-m", &"0", &device]).map(drop),
            Self::Xfs => run("mkfs.xfs", &[&"-q", &device]).map(drop),
        }
    }

    fn mount_flags(self, asked: &[String]) -> Vec<String> {
        let mut flags = asked.to_vec();
        // Both clusters have the same kernel, which would refuse to mount a volume beside its copy.
        if self == Self::Xfs && !flags.iter().any(|flag| flag == "nouuid") {
            flags.push("nouuid".into());
        }
        flags
    }
}

/// Mounts what is on a device, after making it if there is nothing at all on the device.
///
/// # Errors
/// When something else than this kind is there: it is left as it is.
pub(crate) fn mount(kind: Kind, device: &Device, point: &Path, flags: &[String]) -> Result<(), Error> {
    match probe(&device.path)? {
        None => kind.make(&device.path)?,
        Some(found) if found == kind.name() => {}
        Some(found) => {
            let text = format!("{} holds {found}, not {}", device.path.display(), kind.name());
            return Err(Error::FailedPrecondition(text));
        }
    }
    mounts::mount(&device.path, point, kind.name(), &kind.mount_flags(flags))
}

/// Grows a mounted file system to the size of its device.
pub(crate) fn grow(device: &Device, mount: &Mount) -> Result<(), Error> {
    match mount.kind.as_str() {
        "xfs" => run("xfs_growfs", &[&mount.point]).map(drop),
        _ => run("resize2fs", &[&device.path]).map(drop),
    }
}

/// What is on a device; nothing only if the device was read and nothing at all was recognised.
fn probe(device: &Path) -> Result<Option<String>, Error> {
    // What blkid cannot read is the same as nothing to it, and nothing is what we would write upon.
    let mut start = [0; 4096];
    File::open(device)
        .and_then(|mut device| device.read_exact(&mut start))
        .map_err(Error::io(format!("read {}", device.display())))?;
    let probed = outcome("blkid", &[&"--probe", &"--output", &"export", &device])?;
    match probed.code {
        Some(0) => {
            let kind = probed.stdout.lines().find_map(|line| line.strip_prefix("TYPE="));
            Ok(Some(kind.unwrap_or("something that is no file system").to_owned()))
        }
        Some(BLKID_NOTHING) if probed.stderr.is_empty() && probed.stdout.is_empty() => Ok(None),
        _ => Err(probed.failure()),
    }
}
