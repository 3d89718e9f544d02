//! Reading contents to their digests, with as many threads as pay.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use tranship_engine::digest::{self, ContentHasher, Digester};
use tranship_engine::piece;
use tranship_proto::id::Digest;
use tranship_proto::limit::PIECE_BYTES;

use crate::pass::PassError;
use crate::state::map::Map;
use crate::volume::aligned::{ALIGNMENT_BYTES, Aligned};
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
            if !digest::is_zero(&buffer[..read]) {
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

/// How a content is read.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// With so many threads.
    pub threads: usize,
    /// Whether to end early.
    pub stop: &'a AtomicBool,
    /// What counts the bytes as they come.
    pub read_bytes: &'a AtomicU64,
}

/// Reads all of `content`, which had `size` bytes, holes included, and digests it with each of `digesters`. With a
/// map, the leaves under the first digester are kept there.
pub fn read(
    content: &dyn Content,
    size: u64,
    digesters: &[&Digester],
    map: Option<(&Map, u64)>,
    reading: Reading<'_>,
) -> Result<ReadContent, PassError> {
    let count = piece::count(size);
    let threads = reading.threads.min(count as usize).max(1);
    let next = AtomicU64::new(0);
    let order = Mutex::new(Order::new(size, digesters.len()));
    let work = || -> Result<(), PassError> {
        let mut buffer = Aligned::new(PIECE_BYTES.min(size as usize), ALIGNMENT_BYTES);
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(());
            }
            if reading.stop.load(Ordering::Relaxed) {
                return Err(VolumeError::Stopped.into());
            }
            let bytes = &mut buffer[..piece::bytes(size, index)];
            let read = content.read_at(bytes, index * PIECE_BYTES as u64)?;
            reading.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
            let bytes = &bytes[..read];
            let mut digests = Vec::with_capacity(digesters.len());
            for (number, digester) in digesters.iter().enumerate() {
                match map.filter(|_| number == 0 && read > 0) {
                    Some((map, start)) => {
                        let leaves: Vec<Digest> = digester.leaves(bytes).collect();
                        map.write(start, index, &leaves)?;
                        digests.push(digest::piece(&leaves));
                    }
                    None => digests.push(digester.piece(bytes)),
                }
            }
            order.lock().expect("no thread panics while it holds the lock").put(index, read, digests);
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
    let Order { size, hashers, .. } = order.into_inner().expect("no thread panicked");
    Ok(ReadContent { size, digests: hashers.into_iter().map(|hasher| hasher.finish(size)).collect() })
}

/// Puts pieces in order. Only those wait that came before their turn.
struct Order {
    size: u64,
    next: u64,
    waiting: BTreeMap<u64, (usize, Vec<Digest>)>,
    hashers: Vec<ContentHasher>,
}

impl Order {
    fn new(size: u64, digesters: usize) -> Self {
        let hashers = (0..digesters).map(|_| ContentHasher::default()).collect();
        Self { size, next: 0, waiting: BTreeMap::new(), hashers }
    }

    fn put(&mut self, index: u64, read: usize, digests: Vec<Digest>) {
        self.waiting.insert(index, (read, digests));
        while let Some((read, digests)) = self.waiting.remove(&self.next) {
            let (offset, index) = (self.next * PIECE_BYTES as u64, self.next);
            self.next += 1;
            // Beyond the end of a content that has shrunk there are no pieces.
            if offset >= self.size {
                continue;
            }
            if read < piece::bytes(self.size, index) {
                self.size = offset + read as u64;
            }
            if read > 0 {
                self.hashers.iter_mut().zip(digests).for_each(|(hasher, digest)| hasher.push(digest));
            }
        }
    }
}
