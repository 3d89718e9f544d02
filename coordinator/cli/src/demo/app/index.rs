//! What the application knows that it has: kept in its tree, sealed with a digest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Its name in the tree.
pub(super) const NAME: &str = "index.json";

/// Sequence numbers of the blocks that were written, by slot.
pub(super) type Slots = BTreeMap<u64, u64>;

/// Everything that must be there, and nothing else may be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Index {
    /// Seed of the application.
    pub(super) seed: u64,
    /// Last number of the journal.
    pub(super) counter: u64,
    /// Digest of the journal's chain up to there.
    pub(super) chain: String,
    /// What the tree holds.
    pub(super) tree: TreeIndex,
    /// Bytes of the image.
    pub(super) image_bytes: u64,
    /// What the image holds.
    pub(super) image: Slots,
}

/// What the tree holds besides journal and index.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct TreeIndex {
    /// Number of the next name.
    pub(super) next_id: u64,
    /// Directories.
    pub(super) directories: BTreeSet<String>,
    /// Everything else, by path.
    pub(super) files: BTreeMap<String, Entry>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Entry {
    /// Written as a whole; with checksum inside.
    Document { id: u64, generation: u64, body_bytes: u64 },
    /// Appended to; as many lines, and the digest of all of them.
    Log { lines: u64, chain: String },
    /// Mostly holes.
    Sparse { bytes: u64, slots: Slots },
    /// Another name of a document.
    Link { leader: String },
    /// A symbolic link.
    Symlink { target: String },
}

impl Index {
    /// Writes it under its final name, whole, and returns its digest.
    pub(super) fn store(&self, tree: &Path) -> io::Result<String> {
        let mut bytes = serde_json::to_vec(self)?;
        let digest = blake3::hash(&bytes).to_string();
        bytes.extend_from_slice(format!("\n{digest}\n").as_bytes());
        let temporary = tree.join(format!("{NAME}.new"));
        fs::write(&temporary, bytes)?;
        fs::File::open(&temporary)?.sync_all()?;
        fs::rename(temporary, tree.join(NAME))?;
        Ok(digest)
    }

    /// Reads it, with its digest; what is wrong, in words.
    pub(super) fn load(tree: &Path) -> Result<(Self, String), String> {
        let text = fs::read_to_string(tree.join(NAME)).map_err(|error| error.to_string())?;
        let (body, digest) = text.trim_end().rsplit_once('\n').ok_or("it is cut off")?;
        if blake3::hash(body.as_bytes()).to_string() != digest {
            return Err("its checksum does not match".to_owned());
        }
        let index = serde_json::from_str(body).map_err(|error| error.to_string())?;
        Ok((index, digest.to_owned()))
    }
}
