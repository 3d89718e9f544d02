//! A machine's power, which can fail between any two operations on its disks.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rustix::io::Errno;
use tranship_agent::state::memory::MemoryStore;
use tranship_agent::state::{StateFile, Store};

/// The power of one machine. Without it nothing happens any more, and everything says so.
#[derive(Clone)]
pub(crate) struct Power(Arc<AtomicI64>);

const FOR_EVER: i64 = i64::MAX;

impl Power {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicI64::new(FOR_EVER)))
    }

    /// Fails after so many operations.
    pub(crate) fn fail_after(&self, operations: u64) {
        self.0.store(operations as i64, Ordering::Relaxed);
    }

    pub(crate) fn restore(&self) {
        self.0.store(FOR_EVER, Ordering::Relaxed);
    }

    pub(crate) fn is_off(&self) -> bool {
        self.0.load(Ordering::Relaxed) <= 0
    }

    pub(crate) fn spend(&self) -> Result<(), Errno> {
        match self.0.load(Ordering::Relaxed) {
            FOR_EVER => Ok(()),
            left if left <= 0 => Err(Errno::IO),
            left => {
                self.0.store(left - 1, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

/// A store on a machine that can lose its power.
#[derive(Clone)]
pub(crate) struct PoweredStore {
    pub(crate) store: MemoryStore,
    pub(crate) power: Power,
}

struct PoweredFile {
    file: Arc<dyn StateFile>,
    power: Power,
}

impl PoweredStore {
    fn file(&self, file: Arc<dyn StateFile>) -> Arc<dyn StateFile> {
        Arc::new(PoweredFile { file, power: self.power.clone() })
    }
}

impl Store for PoweredStore {
    fn create(&self, name: &str) -> io::Result<Arc<dyn StateFile>> {
        self.power.spend()?;
        Ok(self.file(self.store.create(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Option<Arc<dyn StateFile>>> {
        self.power.spend()?;
        Ok(self.store.open(name)?.map(|file| self.file(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.power.spend()?;
        self.store.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.power.spend()?;
        self.store.remove(name)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.power.spend()?;
        self.store.names()
    }

    fn sync_names(&self) -> io::Result<()> {
        self.power.spend()?;
        self.store.sync_names()
    }
}

impl StateFile for PoweredFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.power.spend()?;
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.power.spend()?;
        self.file.write_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.power.spend()?;
        self.file.len()
    }

    fn sync(&self) -> io::Result<()> {
        self.power.spend()?;
        self.file.sync()
    }
}
