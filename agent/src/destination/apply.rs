//! Doing what the source says, one job at a time in each thread.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tranship_engine::delta;
use tranship_engine::digest::{self, ContentHasher, Digester};
use tranship_engine::entry::{Change, Entry};
use tranship_engine::pack::unpack;
use tranship_engine::piece::{self, Basis, PieceError, Write};
use tranship_engine::session::destination::Job;
use tranship_engine::stat::Stat;
use tranship_proto::Place;
use tranship_proto::entry::{Kind, Meta};
use tranship_proto::id::Digest;
use tranship_proto::limit::PIECE_BYTES;
use tranship_proto::message::{Ask, Close, Contract, Extent, Gap, GapKind, Onto, Op, Open, Pack, Piece, Signature};

use super::fresh::{Fresh, Pieces};
use super::recheck::Touched;
use super::{Destination, FRESH, Pass, lock};
use crate::pass::{Counters, PassError};
use crate::state::journal::Record;
use crate::state::map::zero_leaves;
use crate::state::read_entries;
use crate::volume::{Access, Content, VolumeError};

/// What a job came to.
#[derive(Debug, Default)]
pub struct Applied {
    /// Bytes of content that were written.
    pub bytes: u64,
    /// Entries that were completed.
    pub entries: u64,
    /// What could not be carried.
    pub gaps: Vec<Gap>,
}

/// A large content that is being written.
pub(super) struct Target {
    content: Box<dyn Content>,
    /// What `content` will replace, which deltas copy from.
    old: Option<Box<dyn Content>>,
    basis: TargetBasis,
    /// Whether it still was as our manifest says when it was opened. Else only reading it tells what it is afterwards.
    is_ours: bool,
    /// Its size before, if all of it had been read back by then.
    read_back_bytes: Option<u64>,
    map_start: u64,
    /// Those that were written in this pass.
    pieces: Arc<Pieces>,
}

enum TargetBasis {
    Zeros,
    Unknown,
    Leaves(u64, u64),
}

impl Destination {
    /// Applies a job.
    pub fn apply(&self, job: Job) -> Result<Applied, PassError> {
        let pass = self.pass();
        match job {
            Job::Ops(ops) => self.apply_ops(&pass, ops),
            Job::Pack(pack) => self.apply_pack(&pass, &pack),
            Job::Piece(open, piece) => self.apply_piece(&pass, &open, &piece),
            Job::Close(open, close) => self.apply_close(&pass, &open, &close),
        }
    }

    /// The signature of what is there; empty if it is not all there.
    pub fn sign(&self, ask: &Ask) -> Result<Signature, PassError> {
        let body = match self.volume.open(&ask.place, Access::Read) {
            Ok(content) => match read_extents(&*content, &ask.extents)? {
                Some(base) => {
                    Counters::add(&self.counters.bytes_read, base.len() as u64);
                    delta::sign(&base, ask.block_bytes)
                }
                None => Bytes::new(),
            },
            Err(VolumeError::Vanished { .. } | VolumeError::Replaced { .. }) => Bytes::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(Signature { question: ask.question, body })
    }

    fn apply_ops(&self, pass: &Pass, ops: Vec<Op>) -> Result<Applied, PassError> {
        let mut applied = Applied::default();
        for op in ops {
            let place = op.place().clone();
            match self.apply_op(pass, op) {
                Ok(gaps) => applied.gaps.extend(gaps),
                // One object that stands in the way, or that the kernel will not make, does not end the pass: it stays
                // in doubt, and the source is told.
                Err(PassError::Volume(error)) if is_of_one_object(&error) => {
                    let detail = crate::pass::chain(&error);
                    applied.gaps.push(Gap { place: place.clone(), what: GapKind::Limit, detail });
                    lock(&self.undone).insert(place);
                }
                Err(error) => return Err(error),
            }
            applied.entries += 1;
        }
        Ok(applied)
    }

    fn apply_op(&self, pass: &Pass, op: Op) -> Result<Vec<Gap>, PassError> {
        let fidelity = pass.begin.fidelity;
        let volume = &self.volume;
        match op {
            Op::Delete { place } => {
                volume.remove(&place)?;
                self.done(Change::Removed(place));
                Ok(Vec::new())
            }
            Op::MakeDirectory { place } => {
                volume.make_directory(&place)?;
                self.done(Change::Entry(entry(place, Kind::Directory, None, None)));
                Ok(Vec::new())
            }
            Op::MoveOut { place, slot } => self.move_out(place, slot, fidelity).map(|()| Vec::new()),
            Op::MoveIn { place, slot } => self.move_in(place, slot, fidelity),
            Op::Symlink { place, target, meta } => {
                let (stat, gaps) = volume.make_symlink(&place, &target, &meta, fidelity)?;
                let digest = made(pass, Kind::Symlink, &meta, Some(&target), 0, &gaps);
                self.done(Change::Entry(entry(place, Kind::Symlink, Some(stat), digest)));
                Ok(gaps)
            }
            Op::Link { place, leader } => {
                let stat = volume.make_link(&place, &leader)?;
                let look = volume.look(&place, fidelity)?;
                let (kind, device) = (look.stat.kind, look.stat.device);
                let digest = made(pass, kind, &look.meta, look.target.as_deref(), device, &[]);
                let link = Entry { leader: Some(leader), ..entry(place, kind, Some(stat), digest) };
                self.done(Change::Entry(link));
                Ok(Vec::new())
            }
            Op::Special { place, kind, device, meta } => {
                let (stat, gaps) = volume.make_special(&place, kind, device, &meta, fidelity)?;
                if stat.is_some() {
                    let digest = made(pass, kind, &meta, None, device, &gaps);
                    self.done(Change::Entry(entry(place, kind, stat, digest)));
                }
                Ok(gaps)
            }
            Op::SetMeta { place, kind, meta } => {
                let before = volume.look(&place, fidelity)?.stat;
                let (stat, gaps) = volume.set_meta(&place, kind, &meta, fidelity)?;
                let digest = made(pass, kind, &meta, None, 0, &gaps);
                self.done(if kind == Kind::Directory {
                    Change::Entry(entry(place, kind, Some(stat), digest))
                } else {
                    Change::Meta { place, before, stat: Some(stat), meta: digest }
                });
                Ok(gaps)
            }
        }
    }

    fn apply_pack(&self, pass: &Pass, pack: &Pack) -> Result<Applied, PassError> {
        let mut applied = Applied::default();
        let body = unpack(pack.codec, &pack.body, pack.raw_bytes()).map_err(|source| PassError::Piece {
            place: pack.files.first().map_or_else(Place::root, |file| file.place.clone()),
            index: 0,
            source: PieceError::Pack(source),
        })?;
        let mut at = 0;
        for file in &pack.files {
            let bytes = &body[at..at + file.size as usize];
            at += bytes.len();
            if Digester::canonical().content(bytes) != file.digest {
                return Err(PassError::Content { place: file.place.clone() });
            }
            applied.bytes += bytes.len() as u64;
            applied.entries += 1;
            Counters::add(&self.counters.bytes_written, bytes.len() as u64);
            match self.volume.put(&file.place, bytes, &file.meta, pass.begin.fidelity) {
                Ok((stat, gaps)) => {
                    let meta = made(pass, Kind::File, &file.meta, None, 0, &gaps);
                    self.done(Change::Entry(Entry {
                        size: bytes.len() as u64,
                        content: Some(file.digest),
                        ..entry(file.place.clone(), Kind::File, Some(stat), meta)
                    }));
                    applied.gaps.extend(gaps);
                }
                Err(error) if is_of_one_object(&error) => {
                    let (place, detail) = (file.place.clone(), crate::pass::chain(&error));
                    lock(&self.undone).insert(place.clone());
                    applied.gaps.push(Gap { place, what: GapKind::Limit, detail });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(applied)
    }

    fn apply_piece(&self, pass: &Pass, open: &Open, piece: &Piece) -> Result<Applied, PassError> {
        let target = self.target(pass, open)?;
        let wrong = |source| PassError::Piece { place: open.place.clone(), index: piece.index, source };
        if piece.index >= piece::count(open.size) {
            return Err(PassError::Protocol(format!("piece {} of {} bytes", piece.index, open.size)));
        }
        let basis = target.basis(pass, piece.index)?;
        let base = match &piece.delta {
            Some(delta) => {
                let old = target.old.as_ref().unwrap_or(&target.content);
                read_extents(&**old, &delta.base)?.ok_or(PieceError::Basis).map_err(wrong)?
            }
            None => Vec::new(),
        };
        Counters::add(&self.counters.bytes_read, base.len() as u64);
        let checked = piece::check(piece, &basis, &base).map_err(wrong)?;
        pass.map.write(target.map_start, piece.index, &checked.leaves)?;
        let offset = piece.index * PIECE_BYTES as u64;
        let mut written = 0;
        for write in checked.writes {
            match write {
                Write::Bytes(at, bytes) => {
                    target.content.write_at(&bytes, offset + at as u64)?;
                    written += bytes.len() as u64;
                }
                Write::Zeros(at, bytes) => target.content.zero_at(offset + at as u64, bytes as u64)?,
            }
        }
        target.pieces.write(piece.index);
        if target.read_back_bytes.is_some() {
            let (place, map_start, pieces) = (open.place.clone(), target.map_start, target.pieces.clone());
            let bytes = piece::bytes(open.size, piece.index);
            lock(&self.fresh).push(Fresh { place, map_start, index: piece.index, bytes, pieces });
        }
        Counters::add(&self.counters.bytes_written, written);
        if open.kind == Kind::Block {
            lock(&self.pending).push(Record::PieceDone(piece.index));
        }
        Ok(Applied { bytes: written, ..Applied::default() })
    }

    fn apply_close(&self, pass: &Pass, open: &Open, close: &Close) -> Result<Applied, PassError> {
        let target = self.target(pass, open)?;
        lock(&self.targets).remove(&open.content);
        if close.size > open.size {
            return Err(PassError::Protocol(format!("{} grew while it was sent", open.place)));
        }
        let mut content = ContentHasher::default();
        for index in 0..piece::count(close.size) {
            if self.stop.load(Ordering::Relaxed) {
                return Err(VolumeError::Stopped.into());
            }
            let leaves = if target.pieces.is_written(index) {
                // The last piece may have been sent longer than the content turned out to be.
                pass.map.read(target.map_start, close.size, index)?
            } else {
                let leaves = match target.basis(pass, index)? {
                    Basis::Unknown => return Err(PassError::Content { place: open.place.clone() }),
                    Basis::Leaves(leaves) => resized(leaves, close.size, index),
                };
                pass.map.write(target.map_start, index, &leaves)?;
                leaves
            };
            content.push(digest::piece(&leaves));
        }
        if content.finish(close.size) != close.digest {
            return Err(PassError::Content { place: open.place.clone() });
        }
        target.content.set_size(close.size)?;
        let (stat, meta, gaps) = match &close.meta {
            Some(meta) => {
                let (stat, gaps) = target.content.set_meta(meta, pass.begin.fidelity)?;
                (stat, made(pass, open.kind, meta, None, 0, &gaps), gaps)
            }
            None => (target.content.stat()?, Some(digest::block_meta()), Vec::new()),
        };
        let stat = if open.onto == Onto::Beside {
            target.content.land()?;
            // The name is a change that time shows.
            target.content.stat()?
        } else {
            stat
        };
        if let Some(old) = target.read_back_bytes {
            let touched = Touched::new(target.pieces.clone(), old, close.size);
            lock(&self.touched).insert(target.map_start, touched);
        }
        self.done(Change::Entry(Entry {
            size: close.size,
            content: Some(close.digest),
            map: Some(target.map_start | FRESH),
            ..entry(open.place.clone(), open.kind, Some(stat).filter(|_| target.is_ours), meta)
        }));
        Ok(Applied { bytes: 0, entries: 1, gaps })
    }

    /// The content that `open` says, opened by whoever needs it first.
    fn target(&self, pass: &Pass, open: &Open) -> Result<Arc<Target>, PassError> {
        let mut targets = lock(&self.targets);
        if let Some(target) = targets.get(&open.content) {
            return Ok(target.clone());
        }
        let held = match open.onto {
            Onto::Basis => self.basis_contents(pass)?.get(&open.place),
            Onto::Zeros | Onto::Beside => None,
        };
        let (access, basis) = match (open.onto, held) {
            (Onto::Basis, Some(held)) => (Access::Write, TargetBasis::Leaves(held.start, held.size)),
            (Onto::Basis, None) => (Access::Write, TargetBasis::Unknown),
            (Onto::Zeros, _) => (Access::Create, TargetBasis::Zeros),
            (Onto::Beside, _) => (Access::Beside, TargetBasis::Zeros),
        };
        let left = held.and_then(|held| held.stat);
        let old = match open.onto {
            Onto::Beside => match self.volume.open(&open.place, Access::Read) {
                // Somebody else changed it: the pieces that would copy from it will say so.
                Err(VolumeError::Vanished { .. } | VolumeError::Replaced { .. }) => None,
                old => Some(old?),
            },
            Onto::Basis | Onto::Zeros => None,
        };
        let content = self.volume.open(&open.place, access)?;
        let is_ours = match (&basis, left) {
            (TargetBasis::Leaves(..), Some(left)) => left.is_as_left(&content.stat()?),
            (TargetBasis::Leaves(..), None) => false,
            (TargetBasis::Zeros | TargetBasis::Unknown, _) => true,
        };
        if open.kind == Kind::File && content.stat()?.size < open.size {
            content.set_size(open.size)?;
        }
        let target = Arc::new(Target {
            content,
            old,
            basis,
            is_ours,
            read_back_bytes: held.filter(|held| held.is_read_back).map(|held| held.size),
            map_start: pass.map.reserve(open.size),
            pieces: Arc::default(),
        });
        targets.insert(open.content, target.clone());
        Ok(target)
    }

    /// The large contents of the basis.
    fn basis_contents<'a>(&'a self, pass: &Pass) -> Result<&'a BasisMap, PassError> {
        if let Some(contents) = self.basis_contents.get() {
            return Ok(contents);
        }
        let mut contents = BTreeMap::new();
        for entry in read_entries(&*self.store, self.basis(pass)?.as_deref())? {
            let entry = entry?;
            if let Some(start) = entry.map {
                let Entry { size, stat, is_read_back, .. } = entry;
                contents.insert(entry.place, Held { start, size, stat, is_read_back });
            }
        }
        Ok(self.basis_contents.get_or_init(|| contents))
    }
}

/// Filled when the first content with a basis is opened.
pub(super) type BasisContents = OnceLock<BasisMap>;
type BasisMap = BTreeMap<Place, Held>;

/// A large content of the basis.
pub(super) struct Held {
    /// Where its leaves are.
    start: u64,
    size: u64,
    /// What its stat was.
    stat: Option<Stat>,
    is_read_back: bool,
}

impl Target {
    fn basis(&self, pass: &Pass, index: u64) -> Result<Basis, PassError> {
        Ok(match self.basis {
            TargetBasis::Zeros => Basis::zeros(),
            TargetBasis::Unknown => Basis::Unknown,
            TargetBasis::Leaves(_, size) if index >= piece::count(size) => Basis::zeros(),
            TargetBasis::Leaves(start, size) => Basis::Leaves(pass.leaves(start, size, index)?),
        })
    }
}

/// The bytes of `extents`, one after the other, if they are all there.
fn read_extents(content: &dyn Content, extents: &[Extent]) -> Result<Option<Vec<u8>>, VolumeError> {
    let mut bytes = vec![0; Extent::total_bytes(extents)];
    let mut at = 0;
    for extent in extents {
        let into = &mut bytes[at..at + extent.bytes as usize];
        if content.read_at(into, extent.at)? < into.len() {
            return Ok(None);
        }
        at += into.len();
    }
    Ok(Some(bytes))
}

/// The leaves of a piece that was cut off after one of them, or that goes on with zeros.
fn resized(mut leaves: Vec<Digest>, size: u64, index: u64) -> Vec<Digest> {
    let zeros = zero_leaves(size, index);
    leaves.truncate(zeros.len());
    let kept = leaves.len();
    leaves.extend_from_slice(&zeros[kept..]);
    leaves
}

fn entry(place: Place, kind: Kind, stat: Option<Stat>, meta: Option<Digest>) -> Entry {
    Entry { place, kind, size: 0, stat, meta, content: None, map: None, leader: None, is_read_back: false }
}

/// The digest of metadata that was set, unless some of it could not be.
fn made(pass: &Pass, kind: Kind, meta: &Meta, target: Option<&[u8]>, device: u64, gaps: &[Gap]) -> Option<Digest> {
    let contract = Contract::all(pass.begin.fidelity);
    gaps.is_empty().then(|| digest::meta(contract, kind, meta, target, device))
}

/// Whether an error says something about one object only, and not about the volume or the device.
pub(super) fn is_of_one_object(error: &VolumeError) -> bool {
    use std::io::ErrorKind as K;
    match error {
        VolumeError::Vanished { .. } | VolumeError::Replaced { .. } => true,
        VolumeError::Io { source, .. } => matches!(
            source.kind(),
            K::PermissionDenied
                | K::InvalidFilename
                | K::TooManyLinks
                | K::FileTooLarge
                | K::Unsupported
                | K::InvalidInput
        ),
        VolumeError::Full { .. } | VolumeError::Stopped => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tranship_proto::limit::LEAF_BYTES;

    #[test]
    fn a_piece_that_only_changed_its_length_has_the_leaves_that_reading_it_would_give() {
        let leaf = LEAF_BYTES as u64;
        let read = |bytes: &[u8]| Digester::canonical().leaves(bytes).collect::<Vec<_>>();
        let old = vec![7; 4 * LEAF_BYTES];
        let mut longer = old.clone();
        longer.resize(5 * LEAF_BYTES + 9, 0);
        assert_eq!(resized(read(&old), 3 * leaf, 0), read(&old[..3 * LEAF_BYTES]));
        assert_eq!(resized(read(&old), 5 * leaf + 9, 0), read(&longer));
        assert_eq!(resized(read(&old), 4 * leaf, 0), read(&old));
    }
}
