//! A volume in memory, with the crashes, the errors and the lies that disks have: for the simulation.
//!
//! What was not flushed can be lost in part when the power goes. Names survive in the order in which they were changed,
//! up to some point, as in a file system with a journal; attributes and data survive or not, each write on its own and
//! torn between sectors. Time is the caller's.

mod application;
mod content;
mod inode;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustix::io::Errno;
use tranship_engine::Stat;
use tranship_proto::entry::{Kind, Meta, Place, Time};
use tranship_proto::message::{Fidelity, Gap, VolumeKind};

use super::{Access, Content, Facts, LeftOut, Look, Volume, VolumeError, Walked};
use content::Handle;
use inode::Inode;

pub use application::{Saved, Seen};

/// Gives a number below its argument: what chance decides.
pub type Dice<'a> = dyn FnMut(u64) -> u64 + 'a;

/// What is called before each operation that came through [`Volume`]. An error keeps it from happening; an application
/// may change the volume in between.
pub type Hook = Arc<dyn Fn(&MemoryVolume, Operation) -> Result<(), Errno> + Send + Sync>;

/// Kinds of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Reads names or metadata.
    Look,
    /// Reads content.
    Read,
    /// Writes content.
    Write,
    /// Changes names or metadata.
    Change,
    /// Makes everything durable.
    Flush,
}

/// Time that passes only when it is told to.
#[derive(Debug, Clone, Default)]
pub struct VirtualClock {
    nanos: Arc<AtomicU64>,
}

impl VirtualClock {
    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.nanos.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
    }

    /// What has passed since the clock was made.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    /// The time of day, which began some time after 1970.
    pub fn now(&self) -> Time {
        time_of(self.elapsed())
    }
}

fn time_of(elapsed: Duration) -> Time {
    Time { seconds: 1_800_000_000 + elapsed.as_secs() as i64, nanos: elapsed.subsec_nanos() }
}

/// What kind of volume it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A tree.
    Tree,
    /// A device of so many bytes, whose stat says nothing about changes.
    Device(u64),
    /// An image file that can grow to so many bytes.
    Image(u64),
}

/// A tree or a block volume in memory. Clones are the same volume.
#[derive(Clone)]
pub struct MemoryVolume {
    shape: Shape,
    identity: u64,
    clock: VirtualClock,
    time_step: Duration,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Clone, Default)]
struct Inner {
    names: Names,
    durable: Names,
    /// Changes of names since the last flush, each whole or not at all.
    journal: Vec<Vec<(Place, Option<Arc<Inode>>)>>,
    next_inode: u64,
    free_inodes: Vec<u64>,
    hook: Option<Hook>,
    faults: Vec<Fault>,
    drops_writes_after: Option<u64>,
    dice: u64,
    counts: Counts,
}

type Names = BTreeMap<Place, Arc<Inode>>;

#[derive(Clone)]
struct Fault {
    operation: Operation,
    after: u64,
    errno: Errno,
}

/// How often the volume was used through [`Volume`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Writes, changes of names and of metadata.
    pub changes: u64,
    /// Bytes of content that were read.
    pub read_bytes: u64,
    /// Flushes that failed.
    pub failed_flushes: u64,
    /// Writes that were acknowledged and dropped.
    pub dropped_writes: u64,
}

impl MemoryVolume {
    /// An empty volume. Two with the same identity are the same volume to whoever asks.
    pub fn new(shape: Shape, identity: u64, clock: VirtualClock, time_step: Duration) -> Self {
        let volume = Self { shape, identity, clock, time_step, inner: Arc::default() };
        let kind = if shape == Shape::Tree { Kind::Directory } else { Kind::Block };
        let mut inner = volume.lock();
        let root = inner.make(kind, volume.tick());
        if let Shape::Device(bytes) = shape {
            root.lock().resize(bytes as usize, volume.tick());
        }
        inner.commit(vec![(Place::root(), Some(root))]);
        inner.flush();
        drop(inner);
        volume
    }

    /// Calls this before every operation.
    pub fn set_hook(&self, hook: Option<Hook>) {
        self.lock().hook = hook;
    }

    /// Lets an operation fail after so many of its kind. A flush that fails loses data, and the next one succeeds.
    pub fn fail_after(&self, operation: Operation, after: u64, errno: Errno) {
        self.lock().faults.push(Fault { operation, after, errno });
    }

    /// Lets the device acknowledge and drop one write of content, after so many others.
    pub fn drop_write_after(&self, after: u64) {
        self.lock().drops_writes_after = Some(after);
    }

    /// Forgets all faults that have not happened.
    pub fn heal(&self) {
        let mut inner = self.lock();
        inner.faults.clear();
        inner.drops_writes_after = None;
    }

    /// Loses the power, and comes back.
    pub fn crash(&self, dice: &mut Dice<'_>) {
        let mut inner = self.lock();
        let survived = dice(inner.journal.len() as u64 + 1) as usize;
        let mut names = std::mem::take(&mut inner.durable);
        for change in inner.journal.drain(..).take(survived).flatten() {
            match change {
                (place, Some(inode)) => names.insert(place, inode),
                (place, None) => names.remove(&place),
            };
        }
        let mut links: BTreeMap<*const Inode, u64> = BTreeMap::new();
        names.values().for_each(|inode| *links.entry(Arc::as_ptr(inode)).or_default() += 1);
        // What still has the old inodes open writes to objects that are no longer there.
        let mut copies: BTreeMap<*const Inode, Arc<Inode>> = BTreeMap::new();
        for inode in names.values_mut() {
            let (old, count) = (Arc::as_ptr(inode), links[&Arc::as_ptr(inode)]);
            *inode = copies
                .entry(old)
                .or_insert_with(|| {
                    let copy = inode.copy();
                    copy.lock().links = count;
                    copy.crash(dice);
                    Arc::new(copy)
                })
                .clone();
        }
        inner.durable = names.clone();
        inner.names = names;
        inner.free_inodes.clear();
    }

    /// How often it was used.
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no thread panics while it holds the lock")
    }

    /// The kernel's clock: it moves in steps.
    fn tick(&self) -> Time {
        let step = self.time_step.as_nanos().max(1) as u64;
        time_of(Duration::from_nanos(self.clock.elapsed().as_nanos() as u64 / step * step))
    }

    /// What comes before each operation: other people's work, and errors.
    fn begin(&self, operation: Operation, verb: &'static str, place: &Place) -> Result<(), VolumeError> {
        let hook = self.lock().hook.clone();
        let failed = |errno| VolumeError::of(verb, place, errno);
        if let Some(hook) = hook {
            hook(self, operation).map_err(failed)?;
        }
        let mut inner = self.lock();
        let mut due = None;
        inner.faults.retain_mut(|fault| {
            let is_due = fault.operation == operation && fault.after == 0 && due.is_none();
            if is_due {
                due = Some(fault.errno);
            } else if fault.operation == operation {
                fault.after = fault.after.saturating_sub(1);
            }
            !is_due
        });
        if let Some(errno) = due {
            return Err(failed(errno));
        }
        if matches!(operation, Operation::Write | Operation::Change) {
            inner.counts.changes += 1;
        }
        Ok(())
    }

    /// Puts a new object in place, whatever is there.
    fn place_new(&self, inner: &mut Inner, place: &Place, inode: Arc<Inode>, now: Time) -> Result<(), VolumeError> {
        inner.expect_parent("make", place)?;
        inner.remove_beneath(place, now);
        inner.commit(vec![(place.clone(), Some(inode))]);
        inner.touch_parent(place, now);
        Ok(())
    }
}

impl Inner {
    fn make(&mut self, kind: Kind, now: Time) -> Arc<Inode> {
        let number = self.free_inodes.pop().unwrap_or_else(|| {
            self.next_inode += 1;
            self.next_inode
        });
        Arc::new(Inode::new(number, kind, now, (1000, 1000)))
    }

    fn get(&self, verb: &'static str, place: &Place) -> Result<&Arc<Inode>, VolumeError> {
        self.names.get(place).ok_or_else(|| VolumeError::of(verb, place, Errno::NOENT))
    }

    fn expect_parent(&self, verb: &'static str, place: &Place) -> Result<(), VolumeError> {
        match place.split().and_then(|(parent, _)| self.names.get(&parent)) {
            Some(parent) if parent.kind == Kind::Directory => Ok(()),
            Some(_) => Err(VolumeError::of(verb, place, Errno::NOTDIR)),
            None => Err(VolumeError::of(verb, place, Errno::NOENT)),
        }
    }

    fn touch_parent(&self, place: &Place, now: Time) {
        if let Some(parent) = place.split().and_then(|(parent, _)| self.names.get(&parent)) {
            parent.lock().change(now, |attributes| attributes.mtime = now);
        }
    }

    fn beneath(&self, place: &Place) -> Vec<Place> {
        let within = self.names.range(place.clone()..).take_while(|(other, _)| other.is_within(place));
        within.map(|(other, _)| other.clone()).skip(1).collect()
    }

    /// Empties a directory, deepest first.
    fn remove_beneath(&mut self, place: &Place, now: Time) {
        if self.names.contains_key(place) {
            for inner in self.beneath(place).into_iter().rev() {
                self.commit(vec![(inner.clone(), None)]);
                self.touch_parent(&inner, now);
            }
        }
    }

    /// Changes names, all together.
    fn commit(&mut self, changes: Vec<(Place, Option<Arc<Inode>>)>) {
        for (place, inode) in &changes {
            let old = match inode {
                Some(inode) => self.names.insert(place.clone(), inode.clone()),
                None => self.names.remove(place),
            };
            if let Some(old) = old.filter(|old| inode.as_ref().is_none_or(|new| !Arc::ptr_eq(old, new))) {
                let mut state = old.lock();
                // Moved names are taken away before they are given again.
                state.links = state.links.saturating_sub(1);
                if state.links == 0 && !changes.iter().any(|(_, new)| is_same(new.as_ref(), &old)) {
                    self.free_inodes.push(old.number);
                }
            }
        }
        self.journal.push(changes);
    }

    fn flush(&mut self) {
        self.names.values().for_each(|inode| inode.flush());
        self.durable = self.names.clone();
        self.journal.clear();
    }

    fn fail_flush(&mut self) {
        let mut seed = self.dice;
        let mut dice = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        self.names.values().for_each(|inode| inode.fail_flush(&mut dice));
        self.dice = self.dice.wrapping_add(1);
        self.durable = self.names.clone();
        self.journal.clear();
        self.counts.failed_flushes += 1;
    }
}

fn is_same(a: Option<&Arc<Inode>>, b: &Arc<Inode>) -> bool {
    a.is_some_and(|a| Arc::ptr_eq(a, b))
}

impl Volume for MemoryVolume {
    fn facts(&self) -> Result<Facts, VolumeError> {
        let inner = self.lock();
        let bytes = inner.names[&Place::root()].stat().size;
        let (kind, capacity_bytes, is_empty) = match self.shape {
            Shape::Tree => (VolumeKind::Tree, 1 << 40, inner.names.len() == 1),
            Shape::Device(capacity) => (VolumeKind::Block, capacity, false),
            Shape::Image(capacity) => (VolumeKind::Block, capacity, bytes == 0),
        };
        Ok(Facts {
            kind,
            identity: self.identity.to_le_bytes().to_vec(),
            capacity_bytes,
            free_bytes: capacity_bytes,
            is_empty,
            time_step: self.time_step,
        })
    }

    fn settle(&self) -> Result<(), VolumeError> {
        self.begin(Operation::Look, "settle", &Place::root())?;
        self.lock().flush();
        Ok(())
    }

    fn walk(
        &self,
        skip: &(dyn Fn(&Place, Kind) -> bool + Sync),
        _stop: &AtomicBool,
        visit: &mut dyn FnMut(Walked) -> Result<(), VolumeError>,
    ) -> Result<Vec<LeftOut>, VolumeError> {
        let mut at = Some(Place::root());
        let mut left_out = Vec::new();
        while let Some(place) = at {
            self.begin(Operation::Look, "walk", &place)?;
            let stat = self.lock().names.get(&place).map(|inode| self.stat(inode));
            let is_skipped = stat.is_some_and(|stat| !place.is_root() && skip(&place, stat.kind));
            if is_skipped {
                left_out.push(LeftOut { place: place.clone(), why: "excluded" });
            } else if let Some(stat) = stat {
                visit(Walked { place: place.clone(), stat })?;
            }
            let inner = self.lock();
            let mut later = inner.names.range(place.clone()..).map(|(other, _)| other).filter(|&other| *other != place);
            at = later.find(|other| !is_skipped || !other.is_within(&place)).cloned();
        }
        Ok(left_out)
    }

    fn look(&self, place: &Place, fidelity: Fidelity) -> Result<Look, VolumeError> {
        self.begin(Operation::Look, "look at", place)?;
        let inode = self.lock().get("look at", place)?.clone();
        Ok(self.look_at(&inode, fidelity))
    }

    fn open(&self, place: &Place, access: Access) -> Result<Box<dyn Content>, VolumeError> {
        let is_read = matches!(access, Access::Read | Access::ReadFirst | Access::ReadDevice);
        let is_change = matches!(access, Access::Create | Access::Beside);
        self.begin(if is_change { Operation::Change } else { Operation::Look }, "open", place)?;
        let now = self.tick();
        let mut inner = self.lock();
        let is_beside = access == Access::Beside;
        let inode = if is_beside {
            inner.make(Kind::File, now)
        } else {
            if access == Access::Create && self.shape == Shape::Tree {
                let inode = inner.make(Kind::File, now);
                self.place_new(&mut inner, place, inode, now)?;
            }
            inner.get("open", place)?.clone()
        };
        drop(inner);
        match inode.kind {
            Kind::File | Kind::Block => {}
            kind => return Err(VolumeError::Replaced { place: place.clone(), found: kind.to_string() }),
        }
        if access == Access::Create && matches!(self.shape, Shape::Image(_)) {
            inode.lock().resize(0, now);
        }
        // A device's own cache may lag behind the file system on it, so that it is always read past it.
        let is_device = matches!(self.shape, Shape::Device(_)) && is_read;
        let on_device = (access == Access::ReadDevice || is_device).then(|| inode.lock().data.on_device());
        if access == Access::ReadDevice {
            inode.lock().data.drop_clean();
        }
        let is_beside = AtomicBool::new(is_beside);
        Ok(Box::new(Handle { volume: self.clone(), inode, place: place.clone(), on_device, is_beside }))
    }

    fn put(
        &self,
        place: &Place,
        bytes: &[u8],
        meta: &Meta,
        fidelity: Fidelity,
    ) -> Result<(Stat, Vec<Gap>), VolumeError> {
        self.begin(Operation::Change, "put", place)?;
        self.begin(Operation::Write, "write", place)?;
        let now = self.tick();
        let mut inner = self.lock();
        let is_dropped = inner.drops_write();
        let inode = inner.make(Kind::File, now);
        inode.lock().write(bytes, 0, now, is_dropped);
        inode.set_meta(meta, fidelity, now);
        inode.lock().settle_attributes();
        self.place_new(&mut inner, place, inode.clone(), now)?;
        Ok((self.stat(&inode), Vec::new()))
    }

    fn make_directory(&self, place: &Place) -> Result<(), VolumeError> {
        self.begin(Operation::Change, "make", place)?;
        let now = self.tick();
        let mut inner = self.lock();
        if inner.names.get(place).is_some_and(|inode| inode.kind == Kind::Directory) {
            return Ok(());
        }
        let inode = inner.make(Kind::Directory, now);
        self.place_new(&mut inner, place, inode, now)
    }

    fn make_symlink(
        &self,
        place: &Place,
        target: &[u8],
        meta: &Meta,
        fidelity: Fidelity,
    ) -> Result<(Stat, Vec<Gap>), VolumeError> {
        let stat = self.make_other(place, Kind::Symlink, 0, Some(target), meta, fidelity)?;
        Ok((stat, Vec::new()))
    }

    fn make_link(&self, place: &Place, leader: &Place) -> Result<Stat, VolumeError> {
        self.begin(Operation::Change, "link", place)?;
        let now = self.tick();
        let mut inner = self.lock();
        let inode = inner.get("link to", leader)?.clone();
        if inode.kind == Kind::Directory {
            return Err(VolumeError::Replaced { place: leader.clone(), found: inode.kind.to_string() });
        }
        if is_same(inner.names.get(place), &inode) {
            return Ok(self.stat(&inode));
        }
        self.place_new(&mut inner, place, inode.clone(), now)?;
        let mut state = inode.lock();
        state.links += 1;
        state.change(now, |_| {});
        drop(state);
        Ok(self.stat(&inode))
    }

    fn make_special(
        &self,
        place: &Place,
        kind: Kind,
        device: u64,
        meta: &Meta,
        fidelity: Fidelity,
    ) -> Result<(Option<Stat>, Vec<Gap>), VolumeError> {
        Ok((Some(self.make_other(place, kind, device, None, meta, fidelity)?), Vec::new()))
    }

    fn set_meta(
        &self,
        place: &Place,
        kind: Kind,
        meta: &Meta,
        fidelity: Fidelity,
    ) -> Result<(Stat, Vec<Gap>), VolumeError> {
        self.begin(Operation::Change, "set metadata of", place)?;
        let inode = self.lock().get("set metadata of", place)?.clone();
        if inode.kind != kind {
            return Err(VolumeError::Replaced { place: place.clone(), found: inode.kind.to_string() });
        }
        inode.set_meta(meta, fidelity, self.tick());
        Ok((self.stat(&inode), Vec::new()))
    }

    fn remove(&self, place: &Place) -> Result<(), VolumeError> {
        self.begin(Operation::Change, "remove", place)?;
        self.take_away(place);
        Ok(())
    }

    fn rename(&self, from: &Place, to: &Place) -> Result<(), VolumeError> {
        self.begin(Operation::Change, "rename", from)?;
        let is_another_name = {
            let inner = self.lock();
            from != to && inner.names.get(from).is_some_and(|inode| is_same(inner.names.get(to), inode))
        };
        if is_another_name {
            self.take_away(from);
            return Ok(());
        }
        self.move_name(from, to)
    }

    fn flush(&self) -> Result<(), VolumeError> {
        let result = self.begin(Operation::Flush, "flush", &Place::root());
        match result {
            Ok(()) => self.lock().flush(),
            Err(_) => self.lock().fail_flush(),
        }
        result
    }
}
