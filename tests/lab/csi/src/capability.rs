//! How somebody wants to use a volume.

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::filesystem::Kind;
use crate::messages::{Mode, MountVolume, VolumeCapability};

/// How somebody wants to use a volume: a checked `VolumeCapability`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Use {
    /// As a folder; nothing for a block volume.
    pub(crate) folder: Option<Folder>,
    /// From where, and to do what.
    pub(crate) mode: Mode,
}

/// How a volume is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    /// The file system that is made if there is none.
    pub(crate) kind: Kind,
    /// Further options of mount(8).
    pub(crate) flags: Vec<String>,
}

/// What a volume is. It never changes: the file system of one would be content of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Access {
    /// A folder.
    Mount,
    /// A device.
    Block,
}

impl Use {
    /// What a request asks for.
    pub(crate) fn parse(capability: Option<&VolumeCapability>) -> Result<Self, Error> {
        let invalid = |what: &str| Error::InvalidArgument(what.to_owned());
        let capability = capability.ok_or_else(|| invalid("no volume capability is given"))?;
        let folder = match (&capability.block, &capability.mount) {
            (Some(_), None) => None,
            (None, Some(mount)) => Some(Folder::parse(mount)?),
            _ => return Err(invalid("a volume is either block or mount")),
        };
        let mode = capability.access_mode.as_ref().map_or(Mode::Unknown, |access| access.mode());
        match mode {
            Mode::Unknown => Err(invalid("no access mode is given")),
            Mode::MultiNodeSingleWriter => {
                Err(invalid("one writer and readers on other nodes cannot be told apart here"))
            }
            mode => Ok(Self { folder, mode }),
        }
    }

    /// What kind of volume that is.
    pub(crate) fn access(&self) -> Access {
        if self.folder.is_some() { Access::Mount } else { Access::Block }
    }

    /// Fails for the other kind of volume.
    pub(crate) fn check(&self, access: Access) -> Result<(), Error> {
        if self.access() == access {
            return Ok(());
        }
        Err(Error::InvalidArgument(format!("the volume is {access:?}, asked for is {:?}", self.access())))
    }
}

impl Folder {
    fn parse(mount: &MountVolume) -> Result<Self, Error> {
        Ok(Self { kind: Kind::parse(&mount.fs_type)?, flags: mount.mount_flags.clone() })
    }
}

impl Mode {
    /// Whether only one node at a time may have the volume.
    pub(crate) fn is_single_node(self) -> bool {
        !matches!(self, Self::MultiNodeReaderOnly | Self::MultiNodeSingleWriter | Self::MultiNodeMultiWriter)
    }

    /// Whether nobody may write.
    pub(crate) fn is_reader(self) -> bool {
        matches!(self, Self::SingleNodeReaderOnly | Self::MultiNodeReaderOnly)
    }
}
