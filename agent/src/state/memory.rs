//! State in memory, with the crashes that disks have: for the simulation.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{StateFile, Store};

/// Files in memory. What was not synced can be lost in a crash.
#[derive(Clone, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Files>>,
}

#[derive(Default)]
struct Files {
    names: BTreeMap<String, MemoryFile>,
    durable_names: BTreeMap<String, MemoryFile>,
}

#[derive(Clone, Default)]
struct MemoryFile {
    inner: Arc<Mutex<Bytes>>,
}

#[derive(Default)]
struct Bytes {
    bytes: Vec<u8>,
    durable: Vec<u8>,
}

impl MemoryStore {
    /// Loses everything that was not synced. With `keeps(n)`, the first `n` bytes of what was written since survive,
    /// as a disk may have got that far.
    pub fn crash(&self, mut keeps: impl FnMut(usize) -> usize) {
        let mut files = lock(&self.inner);
        files.names = files.durable_names.clone();
        for file in files.names.values() {
            let mut file = lock(&file.inner);
            let differs = file.bytes.iter().zip(&file.durable).position(|(a, b)| a != b);
            let same = differs.unwrap_or(file.bytes.len().min(file.durable.len()));
            let cut = same + keeps(file.bytes.len() - same).min(file.bytes.len() - same);
            let mut survived = file.bytes[..cut].to_vec();
            if survived.len() < file.durable.len() {
                let rest = file.durable[survived.len()..].to_vec();
                survived.extend(rest);
            }
            file.durable = survived.clone();
            file.bytes = survived;
        }
    }

    /// Removes everything, as if the folder had been deleted.
    pub fn wipe(&self) {
        *lock(&self.inner) = Files::default();
    }
}

impl Store for MemoryStore {
    fn create(&self, name: &str) -> io::Result<Arc<dyn StateFile>> {
        let file = MemoryFile::default();
        lock(&self.inner).names.insert(name.to_owned(), file.clone());
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Option<Arc<dyn StateFile>>> {
        Ok(lock(&self.inner).names.get(name).map(|file| Arc::new(file.clone()) as Arc<dyn StateFile>))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = lock(&self.inner);
        let file = files.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.names.insert(to.to_owned(), file);
        files.durable_names = files.names.clone();
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.inner).names.remove(name);
        Ok(())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.inner).names.keys().cloned().collect())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut files = lock(&self.inner);
        files.durable_names = files.names.clone();
        Ok(())
    }
}

impl StateFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let file = lock(&self.inner);
        let from = (offset as usize).min(file.bytes.len());
        let count = buffer.len().min(file.bytes.len() - from);
        buffer[..count].copy_from_slice(&file.bytes[from..from + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut file = lock(&self.inner);
        let end = offset as usize + bytes.len();
        if file.bytes.len() < end {
            file.bytes.resize(end, 0);
        }
        file.bytes[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.inner).bytes.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        let mut file = lock(&self.inner);
        file.durable = file.bytes.clone();
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics while it holds the lock")
}
