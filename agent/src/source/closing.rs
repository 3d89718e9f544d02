//! Operations that come after all contents: links, special files, and at last the metadata of directories.

use std::iter::Peekable;

use tranship_engine::entry::{Change, Entry};
use tranship_engine::plan::Candidate;
use tranship_engine::stat::Stat;
use tranship_proto::entry::{Kind, Place};
use tranship_proto::id::Digest;
use tranship_proto::message::Op;

use super::structure::Dirty;
use super::{Source, entry_of, lock};
use crate::pass::{Counters, PassError};
use crate::state::sorter::Sorter;
use crate::state::{Records, read_list};

/// Operations in one message: a symbolic link may carry 4 KiB and attributes.
const BATCH: usize = 128;

/// Where the closing stands.
pub(super) struct Closing {
    candidates: Records<Candidate>,
    directories: Peekable<Records<Dirty>>,
}

impl Source {
    pub(super) fn close(&self, directories: Sorter<Dirty>) -> Result<Closing, PassError> {
        // The caller holds the lock of what `state` would ask.
        let store = directories.store();
        let candidates = read_list(&*store, "candidates.tmp")?.expect("it was written by us");
        Ok(Closing { candidates, directories: directories.sorted()?.peekable() })
    }

    /// The next operations that come after all contents; none left when empty.
    pub fn next_closing(&self) -> Result<Vec<Op>, PassError> {
        let Some(mut closing) = lock(&self.inner).closing.take() else { return Ok(Vec::new()) };
        let mut ops = Vec::new();
        while ops.len() < BATCH {
            let Some(candidate) = closing.candidates.next() else { break };
            ops.extend(self.close_candidate(&candidate?)?);
        }
        while ops.len() < BATCH {
            let Some(directory) = closing.directories.next() else { break };
            let mut directory = directory?;
            while let Some(same) =
                closing.directories.next_if(|next| next.as_ref().is_ok_and(|next| next.place == directory.place))
            {
                let same = same?;
                directory.is_touched |= same.is_touched;
                directory.is_there |= same.is_there;
                directory.held = directory.held.or(same.held);
            }
            if directory.is_there {
                ops.extend(self.close_directory(&directory)?);
            }
        }
        lock(&self.inner).closing = Some(closing);
        Ok(ops)
    }

    /// What has no content of its own: symbolic links, further names, special files.
    fn close_candidate(&self, candidate: &Candidate) -> Result<Option<Op>, PassError> {
        let Some(found) = &candidate.found else { return Ok(None) };
        let kind = found.stat.kind;
        if kind == Kind::Directory || (kind.has_content() && found.leader.is_none()) {
            return Ok(None);
        }
        let mut look = match self.volume.look(&candidate.place, self.settings.contract.fidelity) {
            Ok(look) if look.stat.kind == kind => look,
            Ok(look) => {
                let found = look.stat.kind.to_string();
                let error = crate::volume::VolumeError::Replaced { place: candidate.place.clone(), found };
                self.pass_over(candidate, error)?;
                return Ok(None);
            }
            Err(error) => {
                self.pass_over(candidate, error)?;
                return Ok(None);
            }
        };
        self.note_gaps(&mut look);
        self.insist(&candidate.place, look.stat == found.stat)?;
        Counters::add(&self.counters.entries_done, 1);
        let device = look.stat.device;
        let digest = self.meta(kind, &look);
        let stat = self.settled_stat(&found.stat, &look.stat, &look.stat);
        // Bytes count at the first name.
        let entry = entry_of(candidate, kind, stat, 0, digest);
        let is_held = candidate.held.as_ref().is_some_and(|held| {
            held.kind == kind && held.leader == found.leader && (held.meta == Some(digest) || found.leader.is_some())
        });
        self.push_result(Change::Entry(entry))?;
        if is_held && found.leader.is_none() {
            return Ok(None);
        }
        let place = candidate.place.clone();
        if let Some(gap) = self.gap_of(&place, kind) {
            lock(&self.gaps).push(gap);
            self.push_result(Change::Removed(place))?;
            return Ok(None);
        }
        Ok(match (&found.leader, kind) {
            (Some(leader), _) => Some(Op::Link { place, leader: leader.clone() }),
            (None, Kind::Symlink) => {
                let target = look.target.unwrap_or_default();
                Some(Op::Symlink { place, target, meta: look.meta })
            }
            (None, _) => Some(Op::Special { place, kind, device, meta: look.meta }),
        })
    }

    fn close_directory(&self, directory: &Dirty) -> Result<Option<Op>, PassError> {
        let look = self.volume.look(&directory.place, self.settings.contract.fidelity);
        let mut look = match look {
            Ok(look) if look.stat.kind == Kind::Directory => look,
            // The destination has it: its deletion comes with the next pass, which must know that there is one to do.
            Ok(_) | Err(crate::volume::VolumeError::Vanished { .. } | crate::volume::VolumeError::Replaced { .. }) => {
                self.insist(&directory.place, false)?;
                let place = directory.place.clone();
                self.push_result(Change::Entry(directory_entry(place, None, None)))?;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        self.note_gaps(&mut look);
        Counters::add(&self.counters.entries_done, 1);
        let digest = self.meta(Kind::Directory, &look);
        let stat = self.settled_stat(&look.stat, &look.stat, &look.stat);
        self.push_result(Change::Entry(directory_entry(directory.place.clone(), stat, Some(digest))))?;
        let is_held = !directory.is_touched && directory.held == Some(digest);
        let (place, kind, meta) = (directory.place.clone(), Kind::Directory, look.meta);
        Ok((!is_held).then_some(Op::SetMeta { place, kind, meta }))
    }
}

fn directory_entry(place: Place, stat: Option<Stat>, meta: Option<Digest>) -> Entry {
    Entry {
        place,
        kind: Kind::Directory,
        size: 0,
        stat,
        meta,
        content: None,
        map: None,
        leader: None,
        is_read_back: false,
    }
}
