//! What an agent remembers between passes: plain files, outside the volume.
//!
//! A [`Store`] holds the files of one volume in one role. Nothing in it is needed for the data to be right: whatever is
//! lost, damaged or of another version is discarded with a reason, and contents are compared instead.
//!
//! ```text
//! head              which manifest counts, bound to the volume; replaced as a whole
//! manifest-<token>  the volume's entries after that pass, in order
//! map-<token>       the leaf digests of its large contents
//! journal-<n>       destination only: what was touched and what was done since, in order
//! *.tmp             lists of the pass that runs; worthless afterwards
//! ```

pub mod disk;
pub mod head;
pub mod journal;
pub mod map;
pub mod memory;
pub mod sorter;

use std::io::{self, Read, Write};
use std::sync::Arc;

use thiserror::Error;
use tranship_engine::Entry;
use tranship_engine::run::{self, Record, RunError, RunReader, RunWriter};

/// The files of one volume in one role.
pub trait Store: Send + Sync {
    /// A file of this name that is empty, whatever was there.
    fn create(&self, name: &str) -> io::Result<Arc<dyn StateFile>>;
    /// The file of this name, if there is one.
    fn open(&self, name: &str) -> io::Result<Option<Arc<dyn StateFile>>>;
    /// Gives a synced file another name, replacing what had it; durable when this returns.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file, if it is there.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// All names.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Makes the names of created files durable.
    fn sync_names(&self) -> io::Result<()>;
}

/// One file.
pub trait StateFile: Send + Sync {
    /// Reads until `buffer` is full or the file ends.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Its size in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Makes its bytes durable. An error is final for this file.
    fn sync(&self) -> io::Result<()>;
}

/// Why the state cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// The file system that holds it failed.
    #[error("cannot use the state folder")]
    Io(#[from] io::Error),
    /// A list in it is damaged.
    #[error("a list in the state folder cannot be read")]
    Run(#[from] RunError),
    /// The leaf digests of a content are damaged.
    #[error("the map of leaf digests is damaged at {offset}")]
    Map {
        /// Where in the file.
        offset: u64,
    },
}

impl StateError {
    /// Whether what is stored is wrong, and will be as wrong the next time.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Io(_) | Self::Run(RunError::Io(_)))
    }

    /// The stable code that users and scripts see.
    pub fn code(&self) -> &'static str {
        "TS-E251"
    }
}

/// Bytes that are read or written at a time.
const BUFFER_BYTES: usize = 128 << 10;

/// Reads a file from its start.
pub struct Sequential {
    file: Arc<dyn StateFile>,
    buffer: Vec<u8>,
    at: usize,
    offset: u64,
}

impl Sequential {
    /// From the start of `file`.
    pub fn new(file: Arc<dyn StateFile>) -> Self {
        Self { file, buffer: Vec::new(), at: 0, offset: 0 }
    }
}

impl Read for Sequential {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.buffer.len() {
            self.buffer.resize(BUFFER_BYTES, 0);
            let read = self.file.read_at(&mut self.buffer, self.offset)?;
            self.buffer.truncate(read);
            self.offset += read as u64;
            self.at = 0;
        }
        let count = out.len().min(self.buffer.len() - self.at);
        out[..count].copy_from_slice(&self.buffer[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Writes a file from its start.
pub struct Appending {
    file: Arc<dyn StateFile>,
    buffer: Vec<u8>,
    offset: u64,
}

impl Appending {
    /// From the start of `file`.
    pub fn new(file: Arc<dyn StateFile>) -> Self {
        Self { file, buffer: Vec::with_capacity(BUFFER_BYTES), offset: 0 }
    }

    /// Where the next byte goes.
    pub fn offset(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    /// Writes what is buffered and makes it durable.
    pub fn sync(mut self) -> io::Result<()> {
        self.flush()?;
        self.file.sync()
    }
}

impl Write for Appending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// A stored list.
pub type Reading<R> = RunReader<R, Sequential>;
/// A list that is being stored.
pub type Writing<R> = RunWriter<R, Appending>;

/// Records in order.
pub type Records<R> = Box<dyn Iterator<Item = Result<R, StateError>> + Send>;
/// The stream that every merge works on.
pub type Entries = Records<Entry>;

/// A list under this name, if there is one.
pub fn read_list<R: Record + Send + 'static>(store: &dyn Store, name: &str) -> Result<Option<Records<R>>, StateError> {
    let Some(file) = store.open(name)? else { return Ok(None) };
    let list = RunReader::open(Sequential::new(file))?;
    Ok(Some(Box::new(list.map(|record| record.map_err(StateError::from)))))
}

/// Whether there is a list under this name and all of it is as it was written: a damaged one is as good as none.
pub fn is_whole_list(store: &dyn Store, name: &str) -> Result<bool, StateError> {
    let Some(file) = store.open(name)? else { return Ok(false) };
    match run::check(Sequential::new(file)) {
        Ok(()) => Ok(true),
        Err(RunError::Io(error)) => Err(error.into()),
        Err(_) => Ok(false),
    }
}

/// The entries of a list under this name; none if there is no such list.
pub fn read_entries(store: &dyn Store, name: Option<&str>) -> Result<Entries, StateError> {
    Ok(match name {
        Some(name) => read_list(store, name)?.unwrap_or_else(|| Box::new(std::iter::empty())),
        None => Box::new(std::iter::empty()),
    })
}

/// A new list under this name.
pub fn write_list<R: Record>(store: &dyn Store, name: &str) -> io::Result<Writing<R>> {
    RunWriter::create(Appending::new(store.create(name)?))
}

/// Ends a list that is needed only in this pass.
pub fn finish_list<R: Record>(list: Writing<R>) -> io::Result<()> {
    list.finish()?.flush()
}
