//! Named abilities beyond the version. A peer may offer what we do not know; if it *requires* what we do not know, it
//! is refused by name.

use crate::codec::{Reader, WireError, Writer};
use crate::limit::FEATURES_MAX;

/// One ability in a greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Its name, for people too.
    pub name: String,
    /// Whether the sender cannot do without it.
    pub is_required: bool,
}

/// Abilities that this build has.
pub const KNOWN: &[&str] = &["lz4", "zstd"];

/// What we say we can do.
pub fn ours() -> Vec<Feature> {
    KNOWN.iter().map(|name| Feature { name: (*name).to_owned(), is_required: false }).collect()
}

/// The first feature that the peer requires and that we do not know.
pub fn first_unknown(theirs: &[Feature]) -> Option<&str> {
    theirs.iter().find(|feature| feature.is_required && !KNOWN.contains(&&*feature.name)).map(|feature| &*feature.name)
}

pub(crate) fn encode(features: &[Feature], writer: &mut Writer) {
    writer.u64(features.len() as u64);
    for feature in features {
        writer.bytes(feature.name.as_bytes());
        writer.bool(feature.is_required);
    }
}

pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Vec<Feature>, WireError> {
    (0..reader.count("features", FEATURES_MAX)?)
        .map(|_| Ok(Feature { name: reader.text("feature")?, is_required: reader.bool("feature")? }))
        .collect()
}
