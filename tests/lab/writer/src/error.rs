//! Why a volume does not hold what was written.

use std::io;
use std::path::{Path, PathBuf};

/// Why a writer gave up, or what a check found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriterError {
    /// A file, folder or device could not be read or written.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Nothing was ever written here.
    #[error("{}: no writer has been here", .0.display())]
    Empty(PathBuf),
    /// A device is too small for a header and some records.
    #[error("{}: {bytes} bytes are too few", path.display())]
    Small { path: PathBuf, bytes: u64 },
    /// A line of the journal does not follow from the one before.
    #[error("line {line} of the journal is not what was written")]
    Journal { line: usize },
    /// A file is not what the journal says.
    #[error("{name}: {what}")]
    File { name: String, what: &'static str },
    /// A block is not what the chain says.
    #[error("block {block}: {what} instead of record {record}")]
    Block { block: u64, record: u64, what: String },
    /// What was acknowledged is not there.
    #[error("act {acknowledged} was acknowledged, and the last one here is {last}")]
    Lost { last: u64, acknowledged: u64 },
}

impl WriterError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
