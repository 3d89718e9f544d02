//! One object: what applications see of it, and what of that is on the device.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use tranship_engine::Stat;
use tranship_proto::entry::{Kind, Meta, Time, Xattr};
use tranship_proto::message::Fidelity;

use super::Dice;

/// Bytes that a device writes as a whole or not at all.
const SECTOR_BYTES: usize = 512;
/// Unflushed states of an object's attributes that a crash chooses from.
const STATES_MAX: usize = 8;

/// An object with its identity.
pub(super) struct Inode {
    pub(super) number: u64,
    pub(super) kind: Kind,
    pub(super) born: Time,
    pub(super) device: u64,
    pub(super) target: Option<Box<[u8]>>,
    state: Mutex<State>,
}

#[derive(Clone)]
pub(super) struct State {
    pub(super) attributes: Attributes,
    pub(super) links: u64,
    pub(super) data: Data,
    /// Whether a mapping has written since the last write-back: more of it does not touch the times.
    pub(super) is_mapped_dirty: bool,
    durable: Attributes,
    unflushed: Vec<Attributes>,
}

/// What is in an inode besides its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) mtime: Time,
    pub(super) ctime: Time,
    pub(super) xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
}

/// Bytes in the page cache, and bytes on the device.
#[derive(Clone, Default)]
pub(super) struct Data {
    pub(super) cache: Vec<u8>,
    device: Vec<u8>,
    /// Ranges that the device has not got yet.
    pending: Vec<(usize, usize)>,
}

impl Inode {
    pub(super) fn new(number: u64, kind: Kind, now: Time, owner: (u32, u32)) -> Self {
        let attributes = Attributes {
            mode: if kind == Kind::Directory { 0o700 } else { 0o600 },
            uid: owner.0,
            gid: owner.1,
            size: 0,
            mtime: now,
            ctime: now,
            xattrs: BTreeMap::new(),
        };
        let durable = attributes.clone();
        let state = State {
            attributes,
            links: 1,
            data: Data::default(),
            is_mapped_dirty: false,
            durable,
            unflushed: Vec::new(),
        };
        Self { number, kind, born: now, device: 0, target: None, state: Mutex::new(state) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the lock")
    }

    /// The same object with the same history, independent of this one.
    pub(super) fn copy(&self) -> Self {
        let (target, state) = (self.target.clone(), Mutex::new(self.lock().clone()));
        let Self { number, kind, born, device, .. } = *self;
        Self { number, kind, born, device, target, state }
    }

    /// What `statx(2)` says.
    pub(super) fn stat(&self) -> Stat {
        let state = self.lock();
        let attributes = &state.attributes;
        Stat {
            kind: self.kind,
            mode: if self.kind == Kind::Symlink { 0o777 } else { attributes.mode },
            uid: attributes.uid,
            gid: attributes.gid,
            size: match (&self.target, self.kind) {
                (Some(target), _) => target.len() as u64,
                (None, Kind::Directory) => 0,
                (None, _) => attributes.size,
            },
            mtime: attributes.mtime,
            ctime: attributes.ctime,
            btime: Some(self.born),
            inode: self.number,
            links: if self.kind == Kind::Directory { 1 } else { state.links },
            device: self.device,
        }
    }

    /// What `fidelity` carries of its metadata.
    pub(super) fn meta(&self, fidelity: Fidelity) -> Meta {
        let state = self.lock();
        let attributes = &state.attributes;
        let xattrs = attributes.xattrs.iter().filter(|(name, _)| carries(fidelity, name));
        Meta {
            mode: if self.kind == Kind::Symlink { 0o777 } else { attributes.mode },
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: attributes.mtime,
            xattrs: xattrs.map(|(name, value)| Xattr { name: name.clone(), value: value.clone() }).collect(),
        }
    }

    /// Sets what `fidelity` carries.
    pub(super) fn set_meta(&self, meta: &Meta, fidelity: Fidelity, now: Time) {
        self.lock().change(now, |attributes| {
            attributes.mode = meta.mode;
            if fidelity > Fidelity::Plain {
                (attributes.uid, attributes.gid) = (meta.uid, meta.gid);
            }
            attributes.mtime = meta.mtime;
            attributes.xattrs.retain(|name, _| !carries(fidelity, name));
            attributes.xattrs.extend(meta.xattrs.iter().map(|xattr| (xattr.name.clone(), xattr.value.clone())));
        });
    }

    /// Everything is on the device.
    pub(super) fn flush(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        state.durable = state.attributes.clone();
        state.unflushed.clear();
        state.is_mapped_dirty = false;
        state.data.flush();
    }

    /// What a failed write-back does: attributes are kept by the file system's journal, of the data some is lost, and
    /// nothing is dirty any more.
    pub(super) fn fail_flush(&self, dice: &mut Dice<'_>) {
        let mut state = self.lock();
        state.data.pending.retain(|_| dice(2) == 0);
        drop(state);
        self.flush();
    }

    /// What is left when the power goes.
    pub(super) fn crash(&self, dice: &mut Dice<'_>) {
        let mut state = self.lock();
        let state = &mut *state;
        let chosen = dice(state.unflushed.len() as u64 + 1) as usize;
        if let Some(survived) = state.unflushed.get(chosen) {
            state.durable = survived.clone();
        }
        state.unflushed.clear();
        state.attributes = state.durable.clone();
        state.is_mapped_dirty = false;
        state.data.crash(state.attributes.size as usize, dice);
    }
}

impl State {
    /// Changes attributes at `now`, which becomes the time of change.
    pub(super) fn change(&mut self, now: Time, change: impl FnOnce(&mut Attributes)) {
        change(&mut self.attributes);
        self.attributes.ctime = now;
        if self.unflushed.len() == STATES_MAX {
            self.unflushed.remove(0);
        }
        self.unflushed.push(self.attributes.clone());
    }

    /// Writes, and touches the times. What is dropped is acknowledged and never reaches the device.
    pub(super) fn write(&mut self, bytes: &[u8], offset: usize, now: Time, is_dropped: bool) {
        self.data.write(bytes, offset, is_dropped);
        let size = self.data.cache.len() as u64;
        self.change(now, |attributes| (attributes.size, attributes.mtime) = (size, now));
    }

    /// Writes through a mapping: the times move only when a clean page becomes dirty.
    pub(super) fn write_mapped(&mut self, bytes: &[u8], offset: usize, now: Time) {
        let end = self.data.cache.len().min(offset + bytes.len());
        if offset >= end {
            return;
        }
        self.data.write(&bytes[..end - offset], offset, false);
        if !self.is_mapped_dirty {
            self.is_mapped_dirty = true;
            self.change(now, |attributes| attributes.mtime = now);
        }
    }

    pub(super) fn resize(&mut self, size: usize, now: Time) {
        self.data.resize(size);
        self.change(now, |attributes| (attributes.size, attributes.mtime) = (size as u64, now));
    }

    /// Makes the present attributes those that a crash starts from: part of an operation that the journal keeps whole.
    pub(super) fn settle_attributes(&mut self) {
        self.durable = self.attributes.clone();
        self.unflushed.clear();
    }
}

impl Data {
    fn write(&mut self, bytes: &[u8], offset: usize, is_dropped: bool) {
        if self.cache.len() < offset + bytes.len() {
            self.cache.resize(offset + bytes.len(), 0);
        }
        self.cache[offset..offset + bytes.len()].copy_from_slice(bytes);
        if is_dropped {
            // What an earlier write had in the way is as lost as this one.
            self.write_back_around(offset, offset + bytes.len());
        } else {
            self.pending.push((offset, offset + bytes.len()));
        }
    }

    fn write_back_around(&mut self, from: usize, to: usize) {
        let pending = std::mem::take(&mut self.pending);
        for (start, end) in pending {
            self.pending.extend([(start, end.min(from)), (start.max(to), end)].into_iter().filter(|(a, b)| a < b));
        }
    }

    fn resize(&mut self, size: usize) {
        let before = self.cache.len();
        self.cache.resize(size, 0);
        if before != size {
            // What was cut off must not come back, and what was added is zeros.
            self.pending.push((before.min(size), before.max(size)));
        }
    }

    fn flush(&mut self) {
        for (from, to) in std::mem::take(&mut self.pending) {
            write_back(&self.cache, &mut self.device, from, to);
        }
        self.device.truncate(self.cache.len());
    }

    /// Each write survives, or not, or up to some sector of it.
    fn crash(&mut self, size: usize, dice: &mut Dice<'_>) {
        for (from, to) in std::mem::take(&mut self.pending) {
            let sectors = (to - from).div_ceil(SECTOR_BYTES) as u64;
            let survived = match dice(3) {
                0 => 0,
                1 => sectors,
                _ => dice(sectors + 1),
            };
            let cut = ((from / SECTOR_BYTES + survived as usize) * SECTOR_BYTES).clamp(from, to);
            let end = if survived == sectors { to } else { cut };
            write_back(&self.cache, &mut self.device, from, end);
        }
        self.device.truncate(size);
        self.cache.clone_from(&self.device);
        self.cache.resize(size, 0);
    }

    /// Forgets what is in the cache and not dirty: from now on everybody sees what the device holds.
    pub(super) fn drop_clean(&mut self) {
        self.cache = self.on_device();
    }

    /// What the device holds, after what is dirty was written back.
    pub(super) fn on_device(&self) -> Vec<u8> {
        let mut device = self.device.clone();
        for &(from, to) in &self.pending {
            write_back(&self.cache, &mut device, from, to);
        }
        device.resize(self.cache.len(), 0);
        device
    }
}

/// Brings a range from the cache to the device; what the cache has no longer is zeros.
fn write_back(cache: &[u8], device: &mut Vec<u8>, from: usize, to: usize) {
    if device.len() < to {
        device.resize(to, 0);
    }
    let kept = to.min(cache.len()).max(from);
    if kept > from {
        device[from..kept].copy_from_slice(&cache[from..kept]);
    }
    device[kept..to].fill(0);
}

/// Whether a mode carries this extended attribute.
pub(super) fn carries(fidelity: Fidelity, name: &[u8]) -> bool {
    match fidelity {
        Fidelity::Plain => name.starts_with(b"user."),
        Fidelity::Owner => !name.starts_with(b"trusted."),
        Fidelity::Exact => true,
    }
}
