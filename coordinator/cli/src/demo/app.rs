//! An application that keeps writing, and that can tell afterwards whether anything is missing.
//!
//! It knows nothing of tranship. It writes documents, logs, sparse files, links and directories into a tree, and
//! records into a block image, from threads of its own; each act is one link in a journal's chain. When it is stopped
//! it leaves an index of everything that must be there. [`App::check`] reads all of it again.

mod check;
mod content;
mod index;
mod journal;
mod rng;
mod tree;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;

use self::content::{BLOCK_BYTES, block};
use self::index::{Index, Slots};
use self::journal::{Journal, Link};
use self::rng::Rng;
use self::tree::TreeWriter;

/// Pauses between two acts: they bound how much changes, so that the demonstration stays small.
const TREE_PAUSE: Duration = Duration::from_millis(8);
const IMAGE_PAUSE: Duration = Duration::from_millis(8);

/// A running application. Dropped, it stops without leaving an index.
#[derive(Debug)]
pub(crate) struct App {
    workers: Option<Workers>,
    shared: Arc<Shared>,
    tree: PathBuf,
    seed: u64,
    image_bytes: u64,
}

/// What an application said when it stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Number of its last act.
    pub(crate) counter: u64,
    /// Files and links that it has.
    pub(crate) files: u64,
    /// Blocks of the image that it has written.
    pub(crate) blocks: u64,
    /// Digest of the index that it left.
    pub(crate) index: String,
}

/// Both volumes, read again, are what they must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checked {
    /// Number of the last act.
    pub(crate) counter: u64,
    /// Files and links that were checked.
    pub(crate) files: u64,
    /// Bytes that were read, holes included.
    pub(crate) bytes: u64,
    /// Written blocks of the image that were checked.
    pub(crate) blocks: u64,
    index: Index,
}

/// What is wrong.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The chain of acts.
    #[error("the journal is broken at record {line}: {why}")]
    Journal { line: u64, why: String },
    /// The list of what must be there.
    #[error("the index is broken: {why}")]
    Index { why: String },
    /// A file, or a name.
    #[error("{path} is broken: {why}")]
    File { path: String, why: String },
    /// The block image.
    #[error("the image is broken: {why}")]
    Image { why: String },
}

/// What all threads of the application share: one journal.
#[derive(Debug)]
struct Shared {
    journal: Mutex<Journal>,
    advanced: Condvar,
    has_failed: AtomicBool,
}

#[derive(Debug)]
struct Workers {
    stop: [mpsc::Sender<()>; 2],
    tree: JoinHandle<io::Result<TreeWriter>>,
    image: JoinHandle<io::Result<Slots>>,
}

impl App {
    /// Fills an empty folder and a new image with about `bytes` together, then keeps writing to both.
    pub(crate) fn start(tree: &Path, image: &Path, seed: u64, bytes: u64) -> io::Result<Self> {
        let image_bytes = (bytes / 2).next_multiple_of(BLOCK_BYTES as u64);
        let file = OpenOptions::new().create_new(true).write(true).open(image)?;
        file.set_len(image_bytes)?;
        let shared = Shared::new(Journal::open(tree, Link::genesis())?);
        let mut tree_writer = TreeWriter::new(tree, seed, 0, index::TreeIndex::default());
        tree_writer.populate(bytes / 2, &shared)?;
        let mut image_writer = ImageWriter::new(file, seed, 0, image_bytes, Slots::new());
        // The first half is full, the second is holes with some records.
        for slot in 0..image_writer.slot_count / 2 {
            image_writer.write(slot, &shared)?;
        }
        Ok(Self::spawn(tree, seed, image_bytes, shared, tree_writer, image_writer))
    }

    /// Goes on where a checked copy ends.
    pub(crate) fn resume(tree: &Path, image: &Path, checked: Checked) -> io::Result<Self> {
        let Index { seed, counter, chain, tree: tree_index, image_bytes, image: slots } = checked.index;
        let shared = Shared::new(Journal::open(tree, Link { counter, chain })?);
        let file = OpenOptions::new().write(true).open(image)?;
        let tree_writer = TreeWriter::new(tree, seed, counter, tree_index);
        let image_writer = ImageWriter::new(file, seed, counter, image_bytes, slots);
        Ok(Self::spawn(tree, seed, image_bytes, shared, tree_writer, image_writer))
    }

    /// Reads everything again. Success means: every act up to the last is in the journal, every file and every block is
    /// as it was written last, links are links, holes are zeros, and there is nothing else.
    pub(crate) fn check(tree: &Path, image: &Path, expected: &Summary) -> Result<Checked, Broken> {
        check::check(tree, image, expected)
    }

    /// Number of the last act.
    pub(crate) fn counter(&self) -> u64 {
        self.shared.lock().last().counter
    }

    /// Whether a thread of it could not go on.
    pub(crate) fn has_failed(&self) -> bool {
        self.shared.has_failed.load(Ordering::SeqCst)
    }

    /// Waits until the application has done something after `counter`, or failed.
    #[cfg(test)]
    pub(crate) fn wait_beyond(&self, counter: u64) -> io::Result<()> {
        let mut journal = self.shared.lock();
        while journal.last().counter <= counter {
            if self.has_failed() {
                return Err(io::Error::other("the application has failed"));
            }
            let waited = self.shared.advanced.wait_timeout(journal, Duration::from_millis(100));
            journal = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Stops writing and leaves the index. An error means that the application could not write, and left none.
    pub(crate) fn stop(mut self) -> io::Result<Summary> {
        let workers = self.workers.take().expect("only stopping takes them");
        let (tree, image) = workers.join()?;
        let mut journal = self.shared.lock();
        journal.flush()?;
        let Link { counter, chain } = journal.last().clone();
        let (seed, image_bytes) = (self.seed, self.image_bytes);
        let index = Index { seed, counter, chain, tree: tree.into_index(), image_bytes, image };
        let digest = index.store(&self.tree)?;
        let (files, blocks) = (index.tree.files.len() as u64, index.image.len() as u64);
        Ok(Summary { counter, files, blocks, index: digest })
    }

    fn spawn(
        tree: &Path,
        seed: u64,
        image_bytes: u64,
        shared: Shared,
        mut tree_writer: TreeWriter,
        mut image_writer: ImageWriter,
    ) -> Self {
        let shared = Arc::new(shared);
        let (stop_tree, tree_stopped) = mpsc::channel();
        let (stop_image, image_stopped) = mpsc::channel();
        let for_tree = Arc::clone(&shared);
        let tree_thread = std::thread::spawn(move || {
            for_tree.keep(&tree_stopped, TREE_PAUSE, || tree_writer.step(&for_tree))?;
            Ok(tree_writer)
        });
        let for_image = Arc::clone(&shared);
        let image_thread = std::thread::spawn(move || {
            for_image.keep(&image_stopped, IMAGE_PAUSE, || image_writer.step(&for_image))?;
            image_writer.file.sync_all()?;
            Ok(image_writer.slots)
        });
        let workers = Workers { stop: [stop_tree, stop_image], tree: tree_thread, image: image_thread };
        Self { workers: Some(workers), shared, tree: tree.to_owned(), seed, image_bytes }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if let Some(workers) = self.workers.take() {
            // Whoever drops a running application has given up on what it wrote.
            let _ = workers.join();
        }
    }
}

impl Workers {
    fn join(self) -> io::Result<(TreeWriter, Slots)> {
        drop(self.stop);
        let panicked = |_| io::Error::other("a thread of the application has panicked");
        let (tree, image) = (self.tree.join().map_err(panicked), self.image.join().map_err(panicked));
        Ok((tree??, image??))
    }
}

impl Shared {
    fn new(journal: Journal) -> Self {
        Self { journal: Mutex::new(journal), advanced: Condvar::new(), has_failed: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an act and returns its number.
    fn record(&self, event: &str) -> io::Result<u64> {
        let counter = self.lock().append(event)?;
        self.advanced.notify_all();
        Ok(counter)
    }

    /// Acts again and again, with pauses, until the other end of `stopped` is gone.
    fn keep(
        &self,
        stopped: &mpsc::Receiver<()>,
        pause: Duration,
        mut act: impl FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            act().inspect_err(|_| self.has_failed.store(true, Ordering::SeqCst))?;
        }
        Ok(())
    }
}

/// The part of the application that writes records into the image.
struct ImageWriter {
    file: File,
    seed: u64,
    rng: Rng,
    slot_count: u64,
    slots: Slots,
}

impl ImageWriter {
    fn new(file: File, seed: u64, counter: u64, bytes: u64, slots: Slots) -> Self {
        let rng = Rng::new(!seed ^ counter.rotate_left(32));
        Self { file, seed, rng, slot_count: bytes / BLOCK_BYTES as u64, slots }
    }

    fn step(&mut self, shared: &Shared) -> io::Result<()> {
        let slot = self.rng.below(self.slot_count);
        self.write(slot, shared)
    }

    fn write(&mut self, slot: u64, shared: &Shared) -> io::Result<()> {
        let sequence = shared.record(&format!("block {slot}"))?;
        self.file.write_all_at(&block(self.seed, slot, sequence), slot * BLOCK_BYTES as u64)?;
        self.slots.insert(slot, sequence);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
