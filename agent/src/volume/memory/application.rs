//! What applications do to a volume in memory, and what a bystander sees in it. None of it meets faults or hooks.

use std::collections::BTreeMap;
use std::sync::Arc;

use tranship_engine::Stat;
use tranship_proto::entry::{Kind, Meta, Place, Time, Xattr};
use tranship_proto::message::Fidelity;

use super::inode::Inode;
use super::{Access, MemoryVolume, Operation, VolumeError};

/// All that a mode promises of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What it is.
    pub kind: Kind,
    /// Mode, owner, time and attributes, as far as they are promised.
    pub meta: Option<Meta>,
    /// Where a symbolic link points.
    pub target: Option<Box<[u8]>>,
    /// Device number.
    pub device: u64,
    /// All bytes, at the first name.
    pub bytes: Vec<u8>,
    /// The first name, if this is another one.
    pub leader: Option<Place>,
}

/// What a volume was like at some time.
pub struct Saved(BTreeMap<Place, Arc<Inode>>);

impl MemoryVolume {
    /// Everything, compared by nothing that the agents use. Content is what `access` reads.
    pub fn seen(&self, fidelity: Fidelity, access: Access) -> BTreeMap<Place, Seen> {
        let names = self.lock().names.clone();
        let mut leaders: BTreeMap<*const Inode, Place> = BTreeMap::new();
        let mut seen = BTreeMap::new();
        for (place, inode) in names {
            let leader = leaders.get(&Arc::as_ptr(&inode)).cloned();
            leaders.entry(Arc::as_ptr(&inode)).or_insert_with(|| place.clone());
            let bytes = match (&leader, access) {
                (Some(_), _) => Vec::new(),
                (None, Access::ReadDevice) => inode.lock().data.on_device(),
                (None, _) => inode.lock().data.cache.clone(),
            };
            let is_promised = inode.kind != Kind::Block && !(place.is_root() && fidelity == Fidelity::Plain);
            let mut meta = inode.meta(fidelity);
            if fidelity == Fidelity::Plain {
                (meta.uid, meta.gid) = (0, 0);
            }
            let (target, meta) = (inode.target.clone(), is_promised.then_some(meta));
            seen.insert(place, Seen { kind: inode.kind, meta, target, device: inode.device, bytes, leader });
        }
        seen
    }

    /// One object; its only name, if `is_alone`.
    pub fn seen_at(&self, place: &Place, access: Access) -> Option<(Seen, bool)> {
        let inode = self.lock().names.get(place)?.clone();
        let state = inode.lock();
        let is_alone = state.links == 1;
        let bytes = if access == Access::ReadDevice { state.data.on_device() } else { state.data.cache.clone() };
        drop(state);
        let (target, meta) = (inode.target.clone(), Some(inode.meta(Fidelity::Exact)));
        Some((Seen { kind: inode.kind, meta, target, device: inode.device, bytes, leader: None }, is_alone))
    }

    /// All places with what is there.
    pub fn places(&self) -> Vec<(Place, Kind, u64)> {
        self.lock().names.iter().map(|(place, inode)| (place.clone(), inode.kind, inode.stat().size)).collect()
    }

    /// What it is like now.
    pub fn save(&self) -> Saved {
        Saved(copies(&self.lock().names))
    }

    /// Makes it again what it was like, down to every time, as a snapshot of the storage does.
    pub fn restore(&self, saved: &Saved) {
        let mut inner = self.lock();
        inner.names = copies(&saved.0);
        inner.free_inodes.clear();
        inner.flush();
    }

    /// Writes to a file or to the block volume.
    pub fn write(&self, place: &Place, bytes: &[u8], offset: usize) {
        if let Some(inode) = self.with_content(place) {
            inode.lock().write(bytes, offset, self.tick(), false);
        }
    }

    /// Writes through a mapping.
    pub fn write_mapped(&self, place: &Place, bytes: &[u8], offset: usize) {
        if let Some(inode) = self.with_content(place) {
            inode.lock().write_mapped(bytes, offset, self.tick());
        }
    }

    /// Cuts off or extends.
    pub fn truncate(&self, place: &Place, size: usize) {
        if let Some(inode) = self.with_content(place) {
            inode.lock().resize(size, self.tick());
        }
    }

    /// Makes an object without content, replacing what is there.
    pub fn make(&self, place: &Place, kind: Kind, target: Option<&[u8]>) {
        let now = self.tick();
        let mut inner = self.lock();
        let inode = inner.make(kind, now);
        let mut inode = Arc::into_inner(inode).expect("nobody else has it yet");
        inode.target = target.map(Into::into);
        // Where its parent is gone, so is the wish to make it.
        let _ = self.place_new(&mut inner, place, Arc::new(inode), now);
    }

    /// Gives another name to what is no directory.
    pub fn link(&self, place: &Place, leader: &Place) {
        let now = self.tick();
        let mut inner = self.lock();
        let Some(inode) = inner.names.get(leader).filter(|inode| inode.kind != Kind::Directory).cloned() else {
            return;
        };
        let is_there = inner.names.contains_key(place);
        if !is_there && self.place_new(&mut inner, place, inode.clone(), now).is_ok() {
            let mut state = inode.lock();
            state.links += 1;
            state.change(now, |_| {});
        }
    }

    /// Sets mode, owner and time.
    pub fn set_attributes(&self, place: &Place, mode: u16, owner: u32, mtime: Time) {
        if let Some(inode) = self.lock().names.get(place) {
            inode.lock().change(self.tick(), |attributes| {
                (attributes.mode, attributes.uid, attributes.mtime) = (mode, owner, mtime);
            });
        }
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&self, place: &Place, xattr: Xattr) {
        if let Some(inode) = self.lock().names.get(place) {
            inode.lock().change(self.tick(), |attributes| {
                attributes.xattrs.insert(xattr.name, xattr.value);
            });
        }
    }

    /// Removes what is there, with everything beneath it.
    pub fn take_away(&self, place: &Place) {
        let now = self.tick();
        let mut inner = self.lock();
        let Some(inode) = inner.names.get(place).cloned() else { return };
        inner.remove_beneath(place, now);
        inner.commit(vec![(place.clone(), None)]);
        inode.lock().change(now, |_| {});
        inner.touch_parent(place, now);
    }

    /// Moves what is at `from` to `to`, replacing what is there.
    pub fn move_name(&self, from: &Place, to: &Place) -> Result<(), VolumeError> {
        let now = self.tick();
        let mut inner = self.lock();
        let inode = inner.get("rename", from)?.clone();
        inner.expect_parent("rename", to)?;
        if inner.names.get(to).is_some_and(|there| Arc::ptr_eq(there, &inode)) {
            return Ok(());
        }
        if from == to || to.is_within(from) || from.is_within(to) {
            return Err(VolumeError::of("rename", from, rustix::io::Errno::INVAL));
        }
        inner.remove_beneath(to, now);
        let mut moved = vec![from.clone()];
        moved.extend(inner.beneath(from));
        let mut changes: Vec<_> = moved.iter().map(|old| (old.clone(), None)).collect();
        for old in &moved {
            let inode = inner.names[old].clone();
            changes.push((old.rebased(from, to).expect("it lies beneath"), Some(inode)));
        }
        inner.commit(changes);
        // Each name was taken away once and given once.
        for old in &moved {
            let new = old.rebased(from, to).expect("it lies beneath");
            inner.names[&new].lock().links += 1;
        }
        inode.lock().change(now, |_| {});
        inner.touch_parent(from, now);
        inner.touch_parent(to, now);
        Ok(())
    }

    pub(super) fn make_other(
        &self,
        place: &Place,
        kind: Kind,
        device: u64,
        target: Option<&[u8]>,
        meta: &Meta,
        fidelity: Fidelity,
    ) -> Result<Stat, VolumeError> {
        self.begin(Operation::Change, "make", place)?;
        let now = self.tick();
        let mut inner = self.lock();
        let inode = inner.make(kind, now);
        let mut inode = Arc::into_inner(inode).expect("nobody else has it yet");
        (inode.device, inode.target) = (device, target.map(Into::into));
        inode.set_meta(meta, fidelity, now);
        inode.lock().settle_attributes();
        let stat = self.stat(&inode);
        self.place_new(&mut inner, place, Arc::new(inode), now)?;
        Ok(stat)
    }

    fn with_content(&self, place: &Place) -> Option<Arc<Inode>> {
        self.lock().names.get(place).filter(|inode| inode.kind.has_content()).cloned()
    }
}

fn copies(names: &BTreeMap<Place, Arc<Inode>>) -> BTreeMap<Place, Arc<Inode>> {
    let mut copies: BTreeMap<*const Inode, Arc<Inode>> = BTreeMap::new();
    let copy = |(place, inode): (&Place, &Arc<Inode>)| {
        let copy = copies.entry(Arc::as_ptr(inode)).or_insert_with(|| Arc::new(inode.copy()));
        (place.clone(), copy.clone())
    };
    names.iter().map(copy).collect()
}
