//! Who speaks, and how.

use crate::codec::{Reader, WireError, Writer};
use crate::feature::{self, Feature};
use crate::id::Epoch;
use crate::version::MAGIC;

/// Who is truth and who receives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Holds the truth.
    Source,
    /// Receives it.
    Destination,
}

/// A tree of files, or one block volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeKind {
    /// Files in directories.
    Tree,
    /// A device or an image.
    Block,
}

/// The greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Oldest version that the sender speaks.
    pub oldest: u32,
    /// Newest version that the sender speaks.
    pub newest: u32,
    /// What the sender can and must have.
    pub features: Vec<Feature>,
    /// What the sender is.
    pub role: Role,
    /// The sender's fencing number.
    pub epoch: Epoch,
    /// The kind of the sender's volume, as far as it exists.
    pub volume: Option<VolumeKind>,
    /// The sender's build, for people.
    pub build: String,
}

impl Hello {
    /// The frozen layout: magic, then the versions; a peer of any version can read that far.
    pub(super) fn encode(&self, w: &mut Writer) {
        w.array(&MAGIC);
        w.u64(u64::from(self.oldest));
        w.u64(u64::from(self.newest));
        feature::encode(&self.features, w);
        w.u8(match self.role {
            Role::Source => 1,
            Role::Destination => 2,
        });
        w.u64(self.epoch.0);
        w.option(self.volume, |w, kind| {
            w.u8(match kind {
                VolumeKind::Tree => 1,
                VolumeKind::Block => 2,
            });
        });
        w.bytes(self.build.as_bytes());
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let magic: [u8; 8] = r.array("magic")?;
        if magic != MAGIC {
            return Err(WireError::Meaningless { what: "magic", value: u64::from_le_bytes(magic) });
        }
        Ok(Self {
            oldest: r.u32("version")?,
            newest: r.u32("version")?,
            features: feature::decode(r)?,
            role: match r.u8("role")? {
                1 => Role::Source,
                2 => Role::Destination,
                value => return Err(WireError::Meaningless { what: "role", value: u64::from(value) }),
            },
            epoch: Epoch(r.u64("epoch")?),
            volume: r.option("volume kind", |r| match r.u8("volume kind")? {
                1 => Ok(VolumeKind::Tree),
                2 => Ok(VolumeKind::Block),
                value => Err(WireError::Meaningless { what: "volume kind", value: u64::from(value) }),
            })?,
            build: r.text("build")?,
        })
    }
}
