//! What of a device need not be read, since nothing was written there.

use std::sync::atomic::Ordering;

use tranship_engine::digest::{self, Digester};
use tranship_engine::entry::Entry;
use tranship_engine::piece;
use tranship_proto::Place;
use tranship_proto::entry::Kind;
use tranship_proto::id::Digest;
use tranship_proto::limit::PIECE_BYTES;
use tranship_proto::message::{BasisChoice, Challenge, Level, VolumeKind};

use super::read::{Held, Large};
use super::{Source, State};
use crate::pass::{Counters, PassError};
use crate::prove::is_sampled;
use crate::state::head::{manifest_name, map_name};
use crate::state::map::Map;
use crate::state::read_entries;
use crate::volume::{Access, VolumeError};

impl Source {
    /// Finds out which pieces have to be read, after the basis was chosen.
    pub(super) fn ask_tracking(&self, choice: BasisChoice) {
        let (BasisChoice::Common(token), Some(tracking)) = (choice, &self.settings.tracking) else { return };
        if let Some(written) = tracking.written_since(token) {
            self.written.set(written).expect("a pass is planned once");
        }
    }

    /// Takes over the leaves of a piece to which nothing was written since our manifest was made; false if it has to be
    /// read.
    ///
    /// They count only as long as the destination holds what they are of: a survey names it by its pieces, and what a
    /// proof found different has no stat any more.
    pub(super) fn take_over(&self, state: &State, large: &Large, index: u64) -> Result<bool, PassError> {
        let (Some(written), Some(map)) = (self.written.get(), &state.known_map) else { return Ok(false) };
        let (Kind::Block, Held::Leaves(start, size)) = (large.open.kind, &large.basis) else { return Ok(false) };
        let is_believed = large.candidate.held.as_ref().is_some_and(Entry::is_settled);
        if !is_believed || *size != large.size || written.contains(index) {
            return Ok(false);
        }
        // A damaged map costs reading the piece, nothing else.
        let Ok(leaves) = map.read(*start, *size, index) else { return Ok(false) };
        state.map.write(large.map_start, index, &leaves)?;
        Counters::add(&self.counters.bytes_tracked, piece::bytes(large.size, index) as u64);
        Ok(true)
    }

    /// Whether a proof may take our manifest's word for the device: at level `tracked`, if nothing was written since the
    /// pass has read it, and a sample of it is what the manifest says. Gives the bytes that were read for that.
    pub(super) fn check_device(&self, state: &State, challenge: &Challenge) -> Result<Option<u64>, PassError> {
        let (Level::Tracked, VolumeKind::Block) = (challenge.level, self.facts.kind) else { return Ok(None) };
        let (Some(tracking), Some(token)) = (&self.settings.tracking, state.head.token) else { return Ok(None) };
        let entry = read_entries(&*state.store, Some(&manifest_name(token)))?.next().transpose()?;
        let (Some(entry), Some(map)) = (entry, state.store.open(&map_name(token))?) else { return Ok(None) };
        let Some(start) = entry.map.filter(|_| entry.is_settled()) else { return Ok(None) };
        if !tracking.goes_back_to(token) {
            return Ok(None);
        }
        let sampled = self.check_sample(&Map::new(map)?, start, entry.size, challenge)?;
        // What waits in the page cache has not come by the tracker yet.
        self.volume.settle()?;
        // Asked last, so that it holds for what was read, too.
        Ok(sampled.filter(|_| tracking.is_untouched_since(token)))
    }

    fn check_sample(&self, map: &Map, start: u64, size: u64, challenge: &Challenge) -> Result<Option<u64>, PassError> {
        let content = self.volume.open(&Place::root(), Access::Read)?;
        let mut buffer = vec![0; PIECE_BYTES];
        let mut sampled = 0;
        for index in (0..piece::count(size)).filter(|index| is_sampled(challenge, &index.to_le_bytes())) {
            if self.stop.load(Ordering::Relaxed) {
                return Err(VolumeError::Stopped.into());
            }
            let bytes = &mut buffer[..piece::bytes(size, index)];
            let read = content.read_at(bytes, index * PIECE_BYTES as u64)?;
            let leaves: Vec<Digest> = Digester::canonical().leaves(&bytes[..read]).collect();
            Counters::add(&self.proof_counters.bytes_done, read as u64);
            // A damaged map costs reading all of it, nothing else.
            let Ok(known) = map.read(start, size, index) else { return Ok(None) };
            if digest::piece(&leaves) != digest::piece(&known) {
                tracing::warn!(index, "a piece of the device is not what tracking and the manifest say");
                return Ok(None);
            }
            sampled += read as u64;
        }
        Ok(Some(sampled).filter(|_| content.stat().is_ok_and(|stat| stat.size == size)))
    }
}
