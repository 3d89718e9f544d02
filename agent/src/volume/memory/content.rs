//! An open content of a volume in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use tranship_engine::{Stat, digest};
use tranship_proto::entry::{Kind, Meta, Place, Time};
use tranship_proto::limit::PIECE_BYTES;
use tranship_proto::message::{Fidelity, Gap};

use super::inode::Inode;
use super::{Content, Inner, Look, MemoryVolume, Operation, Shape, VolumeError};

/// A content that stays open whatever happens to its name.
pub(super) struct Handle {
    pub(super) volume: MemoryVolume,
    pub(super) inode: Arc<Inode>,
    pub(super) place: Place,
    /// What the device held when it was opened, if that is what is read.
    pub(super) on_device: Option<Vec<u8>>,
    /// Whether it has no name yet.
    pub(super) is_beside: AtomicBool,
}

impl MemoryVolume {
    /// A device's stat is the same for ever.
    pub(super) fn stat(&self, inode: &Inode) -> Stat {
        let stat = inode.stat();
        let none = Time::default();
        match self.shape {
            Shape::Tree => stat,
            Shape::Image(_) => Stat { mode: 0, uid: 0, gid: 0, ..stat },
            Shape::Device(_) => {
                Stat { mode: 0, uid: 0, gid: 0, mtime: none, ctime: none, btime: None, inode: 0, ..stat }
            }
        }
    }

    pub(super) fn look_at(&self, inode: &Inode, fidelity: Fidelity) -> Look {
        let meta = if inode.kind == Kind::Block { Meta::default() } else { inode.meta(fidelity) };
        Look { stat: self.stat(inode), meta, target: inode.target.clone(), gaps: Vec::new() }
    }
}

impl Inner {
    /// Whether the write that comes now is dropped by the device.
    pub(super) fn drops_write(&mut self) -> bool {
        let is_dropped = self.drops_writes_after == Some(0);
        self.drops_writes_after = self.drops_writes_after.and_then(|after| after.checked_sub(1));
        self.counts.dropped_writes += u64::from(is_dropped);
        is_dropped
    }
}

impl Handle {
    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), VolumeError> {
        self.volume.begin(Operation::Write, "write", &self.place)?;
        if matches!(self.volume.shape, Shape::Device(size) if offset + bytes.len() as u64 > size) {
            return Err(VolumeError::of("write", &self.place, Errno::NOSPC));
        }
        let is_dropped = self.volume.lock().drops_write();
        self.inode.lock().write(bytes, offset as usize, self.volume.tick(), is_dropped);
        Ok(())
    }
}

impl Content for Handle {
    fn stat(&self) -> Result<Stat, VolumeError> {
        self.volume.begin(Operation::Look, "stat", &self.place)?;
        Ok(self.volume.stat(&self.inode))
    }

    fn look(&self, fidelity: Fidelity) -> Result<Look, VolumeError> {
        self.volume.begin(Operation::Look, "look at", &self.place)?;
        Ok(self.volume.look_at(&self.inode, fidelity))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, VolumeError> {
        self.volume.begin(Operation::Read, "read", &self.place)?;
        let state = self.inode.lock();
        let bytes = self.on_device.as_ref().unwrap_or(&state.data.cache);
        let from = (offset as usize).min(bytes.len());
        let count = buffer.len().min(bytes.len() - from);
        buffer[..count].copy_from_slice(&bytes[from..from + count]);
        drop(state);
        self.volume.lock().counts.read_bytes += count as u64;
        Ok(count)
    }

    fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>, VolumeError> {
        self.volume.begin(Operation::Look, "look for data in", &self.place)?;
        let state = self.inode.lock();
        let cache = &state.data.cache;
        let mut at = offset as usize;
        while at < cache.len() {
            let end = (at / PIECE_BYTES * PIECE_BYTES + PIECE_BYTES).min(cache.len());
            if !digest::is_zero(&cache[at..end]) {
                return Ok(Some((at as u64, end as u64)));
            }
            at = end;
        }
        Ok(None)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), VolumeError> {
        self.write(bytes, offset)
    }

    fn zero_at(&self, offset: u64, bytes: u64) -> Result<(), VolumeError> {
        // A hole is not made longer than the content is.
        let size = self.inode.lock().data.cache.len() as u64;
        let end = if self.inode.kind == Kind::Block { offset + bytes } else { (offset + bytes).min(size) };
        self.write(&vec![0; end.saturating_sub(offset) as usize], offset)
    }

    fn land(&self) -> Result<(), VolumeError> {
        if self.is_beside.swap(false, Ordering::Relaxed) {
            self.volume.begin(Operation::Change, "replace", &self.place)?;
            let now = self.volume.tick();
            self.volume.place_new(&mut self.volume.lock(), &self.place, self.inode.clone(), now)?;
        }
        Ok(())
    }

    fn set_size(&self, bytes: u64) -> Result<(), VolumeError> {
        let size = self.inode.lock().data.cache.len() as u64;
        match self.volume.shape {
            Shape::Device(_) if bytes > size => Err(VolumeError::of("set size of", &self.place, Errno::NOSPC)),
            Shape::Device(_) => self.zero_at(bytes, size - bytes),
            _ => {
                self.volume.begin(Operation::Write, "set size of", &self.place)?;
                self.inode.lock().resize(bytes as usize, self.volume.tick());
                Ok(())
            }
        }
    }

    fn set_meta(&self, meta: &Meta, fidelity: Fidelity) -> Result<(Stat, Vec<Gap>), VolumeError> {
        self.volume.begin(Operation::Change, "set metadata of", &self.place)?;
        self.inode.set_meta(meta, fidelity, self.volume.tick());
        Ok((self.volume.stat(&self.inode), Vec::new()))
    }
}
