//! The form of every stored list: manifests, scans, changes.
//!
//! ```text
//! file   = magic "tranrun1" │ block… │ end block
//! block  = bytes: u32 LE │ records: u32 LE │ BLAKE3 of both and of the payload: 16 bytes │ payload
//! end    = block of 0 bytes and 0 records, whose payload is missing: a file without it was cut off
//! ```
//!
//! Records have their own form; within a block, each place is written as its difference from the one before.

use std::io::{self, Read, Write};

use thiserror::Error;
use tranship_proto::codec::{Reader, WireError, Writer};

const MAGIC: &[u8; 8] = b"tranrun1";
const HEADER_BYTES: usize = 24;
/// Bytes after which a block is closed.
const BLOCK_BYTES: usize = 64 << 10;
/// Bytes that no block can exceed: one record of any size begins in a block that is not full.
const BLOCK_BYTES_MAX: usize = 4 << 20;

/// Why a stored list cannot be read.
#[derive(Debug, Error)]
pub enum RunError {
    /// The storage failed.
    #[error("cannot read a stored list")]
    Io(#[from] io::Error),
    /// It is not one of our files, or of a later version.
    #[error("not a list of this version")]
    Foreign,
    /// Its bytes changed since it was written, or its end is missing.
    #[error("damaged in block {block}")]
    Damaged {
        /// Which block.
        block: u64,
    },
    /// Its checksum is right and its content is not.
    #[error("meaningless in block {block}")]
    Meaningless {
        /// Which block.
        block: u64,
        /// What is wrong.
        source: WireError,
    },
}

/// A value that a list holds.
pub trait Record: Sized {
    /// Writes it after `previous` in the same block.
    fn encode(&self, previous: Option<&Self>, w: &mut Writer);
    /// Reads it after `previous` in the same block.
    fn decode(previous: Option<&Self>, r: &mut Reader<'_>) -> Result<Self, WireError>;
}

/// Writes a list.
pub struct RunWriter<R, W> {
    out: W,
    block: Writer,
    records: u32,
    previous: Option<R>,
    written_bytes: u64,
    total_records: u64,
}

impl<R: Record, W: Write> RunWriter<R, W> {
    /// A list that starts here.
    pub fn create(mut out: W) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        let written_bytes = MAGIC.len() as u64;
        Ok(Self { out, block: Writer::new(), records: 0, previous: None, written_bytes, total_records: 0 })
    }

    /// The next record.
    pub fn push(&mut self, record: R) -> io::Result<()> {
        record.encode(self.previous.as_ref(), &mut self.block);
        self.previous = Some(record);
        self.records += 1;
        self.total_records += 1;
        if self.block.len() >= BLOCK_BYTES { self.close_block() } else { Ok(()) }
    }

    /// Records so far.
    pub fn len(&self) -> u64 {
        self.total_records
    }

    /// Whether nothing was pushed yet.
    pub fn is_empty(&self) -> bool {
        self.total_records == 0
    }

    /// Ends the list; making it durable is the caller's part.
    pub fn finish(mut self) -> io::Result<W> {
        self.close_block()?;
        self.write_block(&[], 0)?;
        Ok(self.out)
    }

    fn close_block(&mut self) -> io::Result<()> {
        if self.records == 0 {
            return Ok(());
        }
        let payload = std::mem::take(&mut self.block).finish();
        self.write_block(&payload, self.records)?;
        let mut payload = payload;
        payload.clear();
        self.block = Writer::onto(payload);
        self.records = 0;
        self.previous = None;
        Ok(())
    }

    fn write_block(&mut self, payload: &[u8], records: u32) -> io::Result<()> {
        self.out.write_all(&header(payload, records))?;
        self.out.write_all(payload)?;
        self.written_bytes += (HEADER_BYTES + payload.len()) as u64;
        Ok(())
    }
}

fn header(payload: &[u8], records: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[4..8].copy_from_slice(&records.to_le_bytes());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&header[..8]);
    hasher.update(payload);
    header[8..].copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    header
}

/// Reads a list, block by block.
pub struct RunReader<R, I> {
    input: I,
    block: u64,
    records: std::vec::IntoIter<R>,
    is_done: bool,
}

impl<R: Record, I: Read> RunReader<R, I> {
    /// A list that starts here.
    pub fn open(mut input: I) -> Result<Self, RunError> {
        read_magic(&mut input)?;
        Ok(Self { input, block: 0, records: Vec::new().into_iter(), is_done: false })
    }

    fn next_block(&mut self) -> Result<Option<Vec<R>>, RunError> {
        let block = self.block;
        let Some((payload, records)) = read_block(&mut self.input, block)? else { return Ok(None) };
        self.block += 1;
        let meaningless = |source| RunError::Meaningless { block, source };
        let mut reader = Reader::new(&payload);
        let mut list: Vec<R> = Vec::with_capacity(records);
        for _ in 0..records {
            let record = R::decode(list.last(), &mut reader).map_err(meaningless)?;
            list.push(record);
        }
        reader.finish().map_err(meaningless)?;
        Ok(Some(list))
    }
}

/// Reads a list to its end without looking into its records: an error says that it is not as it was written.
pub fn check(mut input: impl Read) -> Result<(), RunError> {
    read_magic(&mut input)?;
    let mut block = 0;
    while read_block(&mut input, block)?.is_some() {
        block += 1;
    }
    Ok(())
}

fn read_magic(input: &mut impl Read) -> Result<(), RunError> {
    let mut magic = [0; 8];
    match input.read_exact(&mut magic) {
        Ok(()) if magic == *MAGIC => Ok(()),
        Ok(()) => Err(RunError::Foreign),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(RunError::Foreign),
        Err(error) => Err(error.into()),
    }
}

/// The payload of the next block and how many records are in it; nothing at the end.
fn read_block(input: &mut impl Read, block: u64) -> Result<Option<(Vec<u8>, usize)>, RunError> {
    let damaged = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => RunError::Damaged { block },
        _ => RunError::Io(error),
    };
    let mut head = [0; HEADER_BYTES];
    input.read_exact(&mut head).map_err(damaged)?;
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
    let (bytes, records) = (word(0), word(4));
    if bytes > BLOCK_BYTES_MAX || records > bytes {
        return Err(RunError::Damaged { block });
    }
    let mut payload = vec![0; bytes];
    input.read_exact(&mut payload).map_err(damaged)?;
    if header(&payload, records as u32) != head {
        return Err(RunError::Damaged { block });
    }
    Ok((records > 0).then_some((payload, records)))
}

impl<R: Record, I: Read> Iterator for RunReader<R, I> {
    type Item = Result<R, RunError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.records.next() {
                return Some(Ok(record));
            }
            if self.is_done {
                return None;
            }
            match self.next_block() {
                Ok(Some(records)) => self.records = records.into_iter(),
                Ok(None) => self.is_done = true,
                Err(error) => {
                    self.is_done = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Record for crate::entry::Entry {
    fn encode(&self, previous: Option<&Self>, w: &mut Writer) {
        let root = tranship_proto::Place::root();
        self.encode_after(previous.map_or(&root, |entry| &entry.place), w);
    }

    fn decode(previous: Option<&Self>, r: &mut Reader<'_>) -> Result<Self, WireError> {
        let root = tranship_proto::Place::root();
        Self::decode_after(previous.map_or(&root, |entry| &entry.place), r)
    }
}

impl Record for crate::entry::Change {
    fn encode(&self, _: Option<&Self>, w: &mut Writer) {
        crate::entry::Change::encode(self, w);
    }

    fn decode(_: Option<&Self>, r: &mut Reader<'_>) -> Result<Self, WireError> {
        crate::entry::Change::decode(r)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Entry;
    use tranship_proto::entry::{Kind, Place};

    fn entries(count: usize) -> Vec<Entry> {
        (0..count)
            .map(|number| Entry {
                place: Place::from_bytes(format!("dir\0{number:08}").into_bytes()).expect("valid"),
                kind: Kind::File,
                size: number as u64,
                stat: None,
                meta: None,
                content: Some(tranship_proto::id::Digest([number as u8; 32])),
                map: None,
                leader: None,
                is_read_back: false,
            })
            .collect()
    }

    fn written(entries: &[Entry]) -> Vec<u8> {
        let mut writer = RunWriter::create(Vec::new()).expect("memory");
        entries.iter().for_each(|entry| writer.push(entry.clone()).expect("memory"));
        writer.finish().expect("memory")
    }

    fn read(bytes: &[u8]) -> Result<Vec<Entry>, RunError> {
        RunReader::open(bytes)?.collect()
    }

    #[test]
    fn a_list_of_many_blocks_comes_back() {
        for count in [0, 1, 5_000] {
            let list = entries(count);
            assert_eq!(read(&written(&list)).expect("intact"), list);
        }
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_noticed() {
        let bytes = written(&entries(40));
        check(&bytes[..]).expect("intact");
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).is_err() && check(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(read(&damaged).is_err() && check(&damaged[..]).is_err(), "flip at {at}");
        }
    }
}
