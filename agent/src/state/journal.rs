//! What a destination was about to touch, and what it finished, in the order of history.
//!
//! A record counts only if it is whole: a crash can cut off or tear only the last ones, and what they said had no
//! effect yet, since every intent is durable before it has one.

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// This is about to be touched.
    Touch(Touch),
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
    offset: u64,
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
        let (history, offset) = History::read(store, &*file)?;
        Ok((Self { file, offset }, history))
    }

    /// Appends records; durable when this returns.
    pub fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for record in records {
            record.frame(&mut bytes);
        }
        self.file.write_at(&bytes, self.offset)?;
        self.file.sync()?;
        self.offset += bytes.len() as u64;
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

    fn read(store: &Arc<dyn Store>, file: &dyn StateFile) -> Result<(Self, u64), StateError> {
        let mut history = Self { changes: Some(Sorter::dated(store.clone(), "history")), ..Self::default() };
        let mut offset = 0;
        let mut header = [0; HEADER_BYTES];
        loop {
            if file.read_at(&mut header, offset)? < HEADER_BYTES {
                break;
            }
            let bytes = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
            if bytes == 0 || bytes > RECORD_BYTES_MAX {
                break;
            }
            let mut payload = vec![0; bytes];
            if file.read_at(&mut payload, offset + HEADER_BYTES as u64)? < bytes || checksum(&payload) != header[4..] {
                break;
            }
            let Ok(record) = Record::decode(&payload) else { break };
            history.take(record)?;
            offset += (HEADER_BYTES + bytes) as u64;
        }
        Ok((history, offset))
    }

    fn take(&mut self, record: Record) -> Result<(), StateError> {
        match record {
            Record::Touch(Touch::Everything) => self.everything = true,
            Record::Touch(Touch::Place(place)) => {
                self.places.insert(place);
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
    fn frame(&self, out: &mut Vec<u8>) {
        let mut w = Writer::new();
        match self {
            Self::Touch(Touch::Everything) => w.u8(1),
            Self::Touch(Touch::Place(place)) => {
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
        }
        let payload = w.finish();
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&checksum(&payload));
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
            value => return Err(WireError::Meaningless { what: "record", value: u64::from(value) }),
        };
        r.finish()?;
        Ok(record)
    }
}

fn checksum(payload: &[u8]) -> [u8; 8] {
    let mut checksum = [0; 8];
    checksum.copy_from_slice(&blake3::hash(payload).as_bytes()[..8]);
    checksum
}
