//! Reading contents to their digests, with as many threads as pay.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use tranship_engine::digest::{self, ContentHasher, Digester};
use tranship_engine::piece;
use tranship_proto::id::Digest;
use tranship_proto::limit::PIECE_BYTES;

use crate::pass::PassError;
use crate::state::map::Map;
use crate::volume::{Content, VolumeError};

/// What reading a content came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadContent {
    /// Bytes that it has.
    pub size: u64,
    /// Its digest under each of the digesters.
    pub digests: Vec<Digest>,
}

/// Whether `content` holds nothing but zeros from `offset` on. Holes are believed.
pub fn is_zero_from(content: &dyn Content, mut offset: u64, stop: &AtomicBool) -> Result<bool, PassError> {
    let mut buffer = vec![0; PIECE_BYTES];
    while let Some((start, end)) = content.next_data(offset)? {
        offset = start.max(offset);
        while offset < end {
            if stop.load(Ordering::Relaxed) {
                return Err(VolumeError::Stopped.into());
            }
            let want = (end - offset).min(PIECE_BYTES as u64) as usize;
            let read = content.read_at(&mut buffer[..want], offset)?;
            if buffer[..read].iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            if read < want {
                return Ok(true);
            }
            offset += read as u64;
        }
    }
    Ok(true)
}

/// Reads all of `content`, which had `size` bytes, holes included, and digests it with each of `digesters`. With a
/// map, the leaves under the first digester are kept there.
pub fn read(
    content: &dyn Content,
    size: u64,
    digesters: &[&Digester],
    map: Option<(&Map, u64)>,
    threads: usize,
    stop: &AtomicBool,
) -> Result<ReadContent, PassError> {
    let count = piece::count(size);
    let threads = threads.min(count as usize).max(1);
    let pieces: Vec<Mutex<Vec<Digest>>> = (0..count).map(|_| Mutex::new(Vec::new())).collect();
    let next = AtomicU64::new(0);
    // The first offset that turned out to be beyond the end, if the content has shrunk.
    let end = AtomicU64::new(size);
    let work = || -> Result<(), PassError> {
        let mut buffer = vec![0; PIECE_BYTES.min(size as usize)];
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(());
            }
            if stop.load(Ordering::Relaxed) {
                return Err(VolumeError::Stopped.into());
            }
            let bytes = &mut buffer[..piece::bytes(size, index)];
            let offset = index * PIECE_BYTES as u64;
            let read = content.read_at(bytes, offset)?;
            if read < bytes.len() {
                end.fetch_min(offset + read as u64, Ordering::Relaxed);
            }
            let bytes = &bytes[..read];
            let mut found = Vec::with_capacity(digesters.len());
            for (number, digester) in digesters.iter().enumerate() {
                match map.filter(|_| number == 0 && read > 0) {
                    Some((map, start)) => {
                        let leaves: Vec<Digest> = digester.leaves(bytes).collect();
                        map.write(start, index, &leaves)?;
                        found.push(digest::piece(&leaves));
                    }
                    None => found.push(digester.piece(bytes)),
                }
            }
            *pieces[index as usize].lock().expect("no thread panics while it holds the lock") = found;
        }
    };
    if threads == 1 {
        work()?;
    } else {
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("workers do not panic"))
        })?;
    }
    let size = end.into_inner();
    let mut hashers: Vec<ContentHasher> = digesters.iter().map(|_| ContentHasher::new(size)).collect();
    for piece in pieces.into_iter().take(piece::count(size) as usize) {
        let found = piece.into_inner().expect("no thread panicked");
        hashers.iter_mut().zip(found).for_each(|(hasher, digest)| hasher.push(digest));
    }
    Ok(ReadContent { size, digests: hashers.into_iter().map(ContentHasher::finish).collect() })
}
