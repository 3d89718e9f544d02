//! What a destination was about to touch, and what it finished, in the order of history.
//!
//! A record counts only if it is whole and all before it are: a crash can cut off or tear only the last ones, and what
//! they said had no effect yet, since every intent is durable before it has one. Each checksum covers the one before,
//! so that a whole record behind a torn one cannot come back to life when the torn one is written over.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use tranship_engine::entry::Change;
use tranship_engine::overlay::Dated;
use tranship_engine::session::destination::Touch;
use tranship_proto::Place;
use tranship_proto::codec::{Reader, WireError, Writer};

use super::sorter::Sorter;
use super::{StateError, StateFile, Store};

const HEADER_BYTES: usize = 12;
const RECORD_BYTES_MAX: usize = 4 << 20;

/// One record.
#[expect(clippy::large_enum_variant, reason = "most records are entries, and they are short-lived")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// This is about to be touched.
    Touch(Touch),
    /// What is at `from` is about to go to the temporary name `slot`.
    Slot {
        /// Where it belongs.
        from: Place,
        /// Where it is found if it does not arrive.
        slot: Place,
    },
    /// This is done and durable.
    Done(Change),
    /// This piece of the block volume is done and durable; its leaves are in the scratch map.
    PieceDone(u64),
}

/// A journal's file name.
pub fn name(number: u64) -> String {
    format!("journal-{number}")
}

/// A journal that is being written.
pub struct Journal {
    file: Arc<dyn StateFile>,
    end: End,
}

/// Where the last whole record ends.
#[derive(Default)]
struct End {
    offset: u64,
    checksum: [u8; 8],
}

impl Journal {
    /// Opens the journal `number` to append to it, and reads what is in it.
    pub fn open(store: &Arc<dyn Store>, number: u64) -> Result<(Self, History), StateError> {
        let (file, is_new) = match store.open(&name(number))? {
            Some(file) => (file, false),
            None => (store.create(&name(number))?, true),
        };
        if is_new {
            store.sync_names()?;
        }
        let (history, end) = History::read(store, &*file)?;
        Ok((Self { file, end }, history))
    }

    /// Appends records; durable when this returns.
    pub fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut chain = self.end.checksum;
        for record in records {
            record.frame(&mut chain, &mut bytes);
        }
        self.file.write_at(&bytes, self.end.offset)?;
        self.file.sync()?;
        self.end = End { offset: self.end.offset + bytes.len() as u64, checksum: chain };
        Ok(())
    }
}

/// What a journal tells about the passes that were cut off.
#[derive(Default)]
pub struct History {
    /// Whether anything was touched.
    pub is_interrupted: bool,
    /// Whether anything may have been touched.
    pub everything: bool,
    /// Places that were touched and not finished since.
    pub places: BTreeSet<Place>,
    /// What went into slots, in the order of history: where it was, and the slot's name.
    pub slots: Vec<(Place, Place)>,
    /// Pieces of a block volume that were touched and not finished since.
    pub pieces: BTreeSet<u64>,
    /// Pieces of a block volume that were finished.
    pub pieces_done: BTreeSet<u64>,
    /// What was finished, in the order of places.
    pub changes: Option<Sorter<Dated>>,
    /// The number that the next change gets.
    pub next_number: u64,
}

impl History {
    /// Reads a journal that is no longer written.
    pub fn load(store: &Arc<dyn Store>, number: u64) -> Result<Self, StateError> {
        match store.open(&name(number))? {
            Some(file) => Ok(Self::read(store, &*file)?.0),
            None => Ok(Self::default()),
        }
    }

    fn read(store: &Arc<dyn Store>, file: &dyn StateFile) -> Result<(Self, End), StateError> {
        let mut history = Self { changes: Some(Sorter::dated(store.clone(), "history")), ..Self::default() };
        let mut end = End::default();
        let mut header = [0; HEADER_BYTES];
        loop {
            if file.read_at(&mut header, end.offset)? < HEADER_BYTES {
                break;
            }
            let bytes = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
            if bytes == 0 || bytes > RECORD_BYTES_MAX {
                break;
            }
            let mut payload = vec![0; bytes];
            let read = file.read_at(&mut payload, end.offset + HEADER_BYTES as u64)?;
            let checksum = checksum(&end.checksum, &payload);
            if read < bytes || checksum != header[4..] {
                break;
            }
            let Ok(record) = Record::decode(&payload) else { break };
            history.take(record)?;
            end = End { offset: end.offset + (HEADER_BYTES + bytes) as u64, checksum };
        }
        Ok((history, end))
    }

    fn take(&mut self, record: Record) -> Result<(), StateError> {
        match record {
            Record::Touch(Touch::Everything) => self.everything = true,
            Record::Touch(Touch::Place(place) | Touch::Slot(place, _)) => {
                self.places.insert(place);
            }
            Record::Slot { from, slot } => {
                self.places.insert(from.clone());
                self.slots.push((from, slot));
            }
            Record::Touch(Touch::Piece(index)) => {
                self.pieces_done.remove(&index);
                self.pieces.insert(index);
            }
            Record::PieceDone(index) => {
                self.pieces.remove(&index);
                self.pieces_done.insert(index);
            }
            Record::Done(change) => {
                self.places.remove(change.place());
                let number = self.next_number;
                self.next_number += 1;
                if let Some(changes) = &mut self.changes {
                    changes.push(Dated { number, change })?;
                }
            }
        }
        self.is_interrupted = true;
        Ok(())
    }
}

impl Record {
    fn frame(&self, chain: &mut [u8; 8], out: &mut Vec<u8>) {
        let mut w = Writer::new();
        match self {
            Self::Touch(Touch::Everything) => w.u8(1),
            Self::Touch(Touch::Place(place) | Touch::Slot(place, _)) => {
                w.u8(2);
                place.encode_after(&Place::root(), &mut w);
            }
            Self::Touch(Touch::Piece(index)) => {
                w.u8(3);
                w.u64(*index);
            }
            Self::Done(change) => {
                w.u8(4);
                change.encode(&mut w);
            }
            Self::PieceDone(index) => {
                w.u8(5);
                w.u64(*index);
            }
            Self::Slot { from, slot } => {
                w.u8(6);
                from.encode_after(&Place::root(), &mut w);
                slot.encode_after(&Place::root(), &mut w);
            }
        }
        let payload = w.finish();
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        *chain = checksum(chain, &payload);
        out.extend_from_slice(chain);
        out.extend_from_slice(&payload);
    }

    fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(payload);
        let record = match r.u8("record")? {
            1 => Self::Touch(Touch::Everything),
            2 => Self::Touch(Touch::Place(Place::decode_after(&Place::root(), &mut r)?)),
            3 => Self::Touch(Touch::Piece(r.u64("piece")?)),
            4 => Self::Done(Change::decode(&mut r)?),
            5 => Self::PieceDone(r.u64("piece")?),
            6 => Self::Slot {
                from: Place::decode_after(&Place::root(), &mut r)?,
                slot: Place::decode_after(&Place::root(), &mut r)?,
            },
            value => return Err(WireError::Meaningless { what: "record", value: u64::from(value) }),
        };
        r.finish()?;
        Ok(record)
    }
}

fn checksum(before: &[u8; 8], payload: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before).update(payload);
    let mut checksum = [0; 8];
    checksum.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    checksum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::memory::MemoryStore;

    fn place(name: &str) -> Place {
        Place::from_bytes(name.as_bytes()).expect("valid")
    }

    #[test]
    fn only_what_is_whole_counts_and_nothing_comes_back_to_life() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let touch = |name| Record::Touch(Touch::Place(place(name)));
        let (mut journal, _) = Journal::open(&store, 0).expect("new");
        journal.append(&[touch("a")]).expect("memory");
        let end = journal.end.offset;
        journal.append(&[touch("b"), touch("c")]).expect("memory");
        // The record of `b` is torn, the one of `c` is whole.
        journal.file.write_at(&[0xff], end + 5).expect("memory");
        let (mut journal, history) = Journal::open(&store, 0).expect("readable");
        assert_eq!(history.places, BTreeSet::from([place("a")]));
        journal.append(&[touch("x")]).expect("memory");
        let history = History::load(&store, 0).expect("readable");
        assert_eq!(history.places, BTreeSet::from([place("a"), place("x")]));
    }

    #[test]
    fn what_was_finished_is_no_longer_in_doubt() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let (mut journal, _) = Journal::open(&store, 3).expect("new");
        let touch = |name| Record::Touch(Touch::Place(place(name)));
        let done = Record::Done(Change::Removed(place("a")));
        journal.append(&[touch("a"), touch("b"), done, Record::Touch(Touch::Piece(7))]).expect("memory");
        journal.append(&[Record::PieceDone(7), Record::Touch(Touch::Piece(8))]).expect("memory");
        let history = History::load(&store, 3).expect("readable");
        assert_eq!(history.places, BTreeSet::from([place("b")]));
        assert_eq!((history.pieces, history.pieces_done), (BTreeSet::from([8]), BTreeSet::from([7])));
    }
}
