//! The leaf digests of large contents: one record for each piece, where it can be found without reading the others.
//!
//! ```text
//! record = leaf digest: 32 bytes … │ BLAKE3 of them: 16 bytes
//! ```
//!
//! All records of a content but its last have the same size, so that piece `i` is at `start + i × 2064`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tranship_engine::digest::{self, ContentHasher, Digester};
use tranship_engine::piece;
use tranship_proto::id::Digest;
use tranship_proto::limit::{LEAF_BYTES, LEAVES_PER_PIECE};

use super::{StateError, StateFile};

const CHECKSUM_BYTES: usize = 16;
const RECORD_BYTES: u64 = (LEAVES_PER_PIECE * 32 + CHECKSUM_BYTES) as u64;

/// A file of leaf digests.
#[derive(Clone)]
pub struct Map {
    file: Arc<dyn StateFile>,
    end: Arc<AtomicU64>,
}

impl Map {
    /// The map in `file`.
    pub fn new(file: Arc<dyn StateFile>) -> Result<Self, StateError> {
        let end = Arc::new(AtomicU64::new(file.len()?));
        Ok(Self { file, end })
    }

    /// Room for a content of `size` bytes; gives where it starts.
    pub fn reserve(&self, size: u64) -> u64 {
        self.end.fetch_add(content_bytes(size), Ordering::Relaxed)
    }

    /// The leaves of piece `index` of the content of `size` bytes that starts at `start`.
    pub fn read(&self, start: u64, size: u64, index: u64) -> Result<Vec<Digest>, StateError> {
        let leaves = leaves(size, index);
        let offset = start + index * RECORD_BYTES;
        let mut record = vec![0; leaves * 32 + CHECKSUM_BYTES];
        let read = self.file.read_at(&mut record, offset)?;
        let (digests, checksum) = record.split_at(leaves * 32);
        if read < record.len() || blake3::hash(digests).as_bytes()[..CHECKSUM_BYTES] != *checksum {
            return Err(StateError::Map { offset });
        }
        Ok(digests.as_chunks::<32>().0.iter().map(|bytes| Digest(*bytes)).collect())
    }

    /// Keeps the leaves of piece `index`.
    pub fn write(&self, start: u64, index: u64, leaves: &[Digest]) -> Result<(), StateError> {
        let mut record: Vec<u8> = leaves.iter().flat_map(|leaf| leaf.0).collect();
        let checksum = blake3::hash(&record);
        record.extend_from_slice(&checksum.as_bytes()[..CHECKSUM_BYTES]);
        Ok(self.file.write_at(&record, start + index * RECORD_BYTES)?)
    }

    /// Copies a whole content into another map; gives where it starts there.
    pub fn copy_to(&self, other: &Map, start: u64, size: u64) -> Result<u64, StateError> {
        let to = other.reserve(size);
        let total = content_bytes(size);
        let mut buffer = vec![0; (RECORD_BYTES as usize * 128).min(total as usize)];
        let mut done = 0;
        while done < total {
            let want = buffer.len().min((total - done) as usize);
            let read = self.file.read_at(&mut buffer[..want], start + done)?;
            if read < want {
                return Err(StateError::Map { offset: start + done });
            }
            other.file.write_at(&buffer[..want], to + done)?;
            done += want as u64;
        }
        Ok(to)
    }

    /// The digest of the content of `size` bytes that starts at `start`.
    pub fn content_digest(&self, start: u64, size: u64) -> Result<Digest, StateError> {
        let mut content = ContentHasher::default();
        for index in 0..piece::count(size) {
            content.push(digest::piece(&self.read(start, size, index)?));
        }
        Ok(content.finish(size))
    }

    /// Makes it durable.
    pub fn sync(&self) -> Result<(), StateError> {
        Ok(self.file.sync()?)
    }
}

/// The leaves of a piece of zeros in a content of `size` bytes.
pub fn zero_leaves(size: u64, index: u64) -> Vec<Digest> {
    let bytes = piece::bytes(size, index);
    let digester = Digester::canonical();
    (0..bytes.div_ceil(LEAF_BYTES))
        .map(|leaf| digester.leaf(&[0; LEAF_BYTES][..LEAF_BYTES.min(bytes - leaf * LEAF_BYTES)]))
        .collect()
}

fn leaves(size: u64, index: u64) -> usize {
    piece::bytes(size, index).div_ceil(LEAF_BYTES)
}

fn content_bytes(size: u64) -> u64 {
    match piece::count(size) {
        0 => 0,
        count => (count - 1) * RECORD_BYTES + (leaves(size, count - 1) * 32 + CHECKSUM_BYTES) as u64,
    }
}
