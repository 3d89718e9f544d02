//! The writer of blocks: a header, and records at random places, each of which names the digest of the one before.
//!
//! Where a record lies and what is in it follows from the run and its number alone. So a check can tell which record each
//! block must hold, however often it was overwritten.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::Found;
use crate::error::WriterError;
use crate::noise;
use crate::pace::Pace;

/// Length of a record, and of the header.
const BLOCK_BYTES: usize = 4096;
/// Blocks that are read at once.
const READ_BLOCKS: usize = 256;
const HEADER: &[u8; 8] = b"TSWHEAD1";
const RECORD: &[u8; 8] = b"TSWRECD1";
/// Where the number of a record stands: after its mark and the run.
const NUMBER_AT: usize = 8 + RUN_BYTES;
const RUN_BYTES: usize = 32;
const DIGEST_BYTES: usize = 32;
/// Where the digest of all before it stands.
const DIGEST_AT: usize = BLOCK_BYTES - DIGEST_BYTES;

type Block = [u8; BLOCK_BYTES];
type Digest = [u8; DIGEST_BYTES];

/// Writes on `device` for as long as it is time.
pub(crate) fn write(device: &Path, pace: &mut Pace) -> Result<(), WriterError> {
    let file = OpenOptions::new().read(true).write(true).open(device).map_err(WriterError::io(device))?;
    let volume = match Volume::open(device, file)? {
        Ok(volume) => volume,
        Err(file) => Volume::make(device, file)?,
    };
    let (found, mut digest) = volume.check()?;
    let mut last = found.last;
    while pace.wait() {
        last += 1;
        let record = volume.record(last, &digest);
        volume.put(volume.place(last), &record)?;
        digest = digest_of(&record);
        pace.acknowledge(last)?;
    }
    Ok(())
}

/// Checks that the records on `device` are one unbroken chain.
pub(crate) fn check(device: &Path) -> Result<Found, WriterError> {
    let file = File::open(device).map_err(WriterError::io(device))?;
    match Volume::open(device, file)? {
        Ok(volume) => volume.check().map(|(found, _)| found),
        Err(_) => Err(WriterError::Empty(device.to_owned())),
    }
}

/// A device that holds a run.
struct Volume {
    path: PathBuf,
    file: File,
    run: String,
    /// How many blocks the run may use, its header included.
    blocks: u64,
}

impl Volume {
    /// The one that is there; if there is none, the file again.
    fn open(path: &Path, file: File) -> Result<Result<Self, File>, WriterError> {
        let mut header = [0; BLOCK_BYTES];
        if file.read_exact_at(&mut header, 0).is_err() || !is_whole(&header, HEADER) {
            return Ok(Err(file));
        }
        let run = String::from_utf8_lossy(&header[8..NUMBER_AT]).into_owned();
        let volume = Self { path: path.to_owned(), file, run, blocks: number_in(&header) };
        let (has, needs) = (volume.file_bytes()?, volume.blocks * BLOCK_BYTES as u64);
        if has < needs {
            return Err(WriterError::Small { path: path.to_owned(), bytes: has });
        }
        Ok(Ok(volume))
    }

    /// A new run, which uses all of the device.
    fn make(path: &Path, file: File) -> Result<Self, WriterError> {
        let mut volume = Self { path: path.to_owned(), file, run: noise::new_run(), blocks: 0 };
        let bytes = volume.file_bytes()?;
        volume.blocks = bytes / BLOCK_BYTES as u64;
        if volume.blocks < 3 {
            return Err(WriterError::Small { path: path.to_owned(), bytes });
        }
        let mut header = [0; BLOCK_BYTES];
        header[..8].copy_from_slice(HEADER);
        header[8..NUMBER_AT].copy_from_slice(volume.run.as_bytes());
        header[NUMBER_AT..NUMBER_AT + 8].copy_from_slice(&volume.blocks.to_le_bytes());
        seal(&mut header);
        volume.put(0, &header)?;
        Ok(volume)
    }

    fn file_bytes(&self) -> Result<u64, WriterError> {
        (&self.file).seek(SeekFrom::End(0)).map_err(WriterError::io(&self.path))
    }

    /// Writes a block; after that it is durable.
    fn put(&self, at: u64, block: &Block) -> Result<(), WriterError> {
        self.file.write_all_at(block, at * BLOCK_BYTES as u64).map_err(WriterError::io(&self.path))?;
        self.file.sync_data().map_err(WriterError::io(&self.path))
    }

    /// The block in which a record lies: never that of the one before, which a record that is torn must not take along.
    fn place(&self, number: u64) -> u64 {
        1 + number % 2 + 2 * (noise::number(&self.run, number, "place") % ((self.blocks - 1) / 2))
    }

    fn record(&self, number: u64, before: &Digest) -> Block {
        let mut record = [0; BLOCK_BYTES];
        let content_at = NUMBER_AT + 8 + DIGEST_BYTES;
        noise::fill(&self.run, number, "content", &mut record[content_at..DIGEST_AT]);
        record[..8].copy_from_slice(RECORD);
        record[8..NUMBER_AT].copy_from_slice(self.run.as_bytes());
        record[NUMBER_AT..NUMBER_AT + 8].copy_from_slice(&number.to_le_bytes());
        record[NUMBER_AT + 8..content_at].copy_from_slice(before);
        seal(&mut record);
        record
    }

    /// What is there, and the digest of the last record.
    fn check(&self) -> Result<(Found, Digest), WriterError> {
        let there = self.read_all()?;
        let last = there.values().map(|(number, _)| *number).max().unwrap_or(0);
        let mut wanted = HashMap::new();
        let mut digest = [0; DIGEST_BYTES];
        for number in 1..=last {
            digest = digest_of(&self.record(number, &digest));
            wanted.insert(self.place(number), (number, digest));
        }
        // The next one may have been on its way, and have spoilt what it was to replace.
        let next = self.place(last + 1);
        let mut is_interrupted = false;
        for (&block, &(record, digest)) in &wanted {
            let found = there.get(&block);
            if found == Some(&(record, digest)) {
                continue;
            }
            if found.is_none() && block == next {
                is_interrupted = true;
                continue;
            }
            let what = match found {
                None => "no record".to_owned(),
                Some((other, _)) if *other == record => "another record of that number".to_owned(),
                Some((other, _)) => format!("record {other}"),
            };
            return Err(WriterError::Block { block, record, what });
        }
        if let Some((block, (record, _))) = there.iter().find(|(block, _)| !wanted.contains_key(block)) {
            let what = format!("record {record}, which belongs elsewhere,");
            return Err(WriterError::Block { block: *block, record: 0, what });
        }
        let bytes = (wanted.len() * BLOCK_BYTES) as u64;
        Ok((Found { last, is_interrupted, items: wanted.len(), bytes }, digest))
    }

    /// All whole records of the run, by their block: number and digest.
    fn read_all(&self) -> Result<HashMap<u64, (u64, Digest)>, WriterError> {
        let mut records = HashMap::new();
        let mut buffer = vec![0; READ_BLOCKS * BLOCK_BYTES];
        let mut at = 1;
        while at < self.blocks {
            let count = (self.blocks - at).min(READ_BLOCKS as u64) as usize;
            let read = &mut buffer[..count * BLOCK_BYTES];
            self.file.read_exact_at(read, at * BLOCK_BYTES as u64).map_err(WriterError::io(&self.path))?;
            for (block, n) in read.chunks_exact(BLOCK_BYTES).zip(at..) {
                let block: &Block = block.try_into().expect("that is their length");
                if is_whole(block, RECORD) && &block[8..NUMBER_AT] == self.run.as_bytes() {
                    records.insert(n, (number_in(block), digest_of(block)));
                }
            }
            at += count as u64;
        }
        Ok(records)
    }
}

fn seal(block: &mut Block) {
    let digest = blake3::hash(&block[..DIGEST_AT]);
    block[DIGEST_AT..].copy_from_slice(digest.as_bytes());
}

fn is_whole(block: &Block, mark: &[u8; 8]) -> bool {
    block.starts_with(mark) && blake3::hash(&block[..DIGEST_AT]).as_bytes() == &block[DIGEST_AT..]
}

fn digest_of(block: &Block) -> Digest {
    block[DIGEST_AT..].try_into().expect("that is its length")
}

fn number_in(block: &Block) -> u64 {
    u64::from_le_bytes(block[NUMBER_AT..NUMBER_AT + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(blocks: u64, acts: u64) -> tempfile::NamedTempFile {
        let image = tempfile::NamedTempFile::new().expect("a file");
        image.as_file().set_len(blocks * BLOCK_BYTES as u64).expect("sized");
        write_some(image.path(), acts);
        image
    }

    fn write_some(path: &Path, acts: u64) {
        write(path, &mut Pace::new(0, acts, Box::new(std::io::sink())).expect("a pace")).expect("written");
    }

    fn volume(path: &Path) -> Volume {
        let file = OpenOptions::new().read(true).write(true).open(path).expect("opened");
        Volume::open(path, file).expect("read").expect("a run")
    }

    #[test]
    fn a_writer_goes_on_where_another_stopped_and_the_chain_holds() {
        let image = image(50, 100);
        write_some(image.path(), 60);
        // It may have come to a larger device.
        image.as_file().set_len(80 * BLOCK_BYTES as u64).expect("sized");
        let found = check(image.path()).expect("a chain");
        assert_eq!((found.last, found.is_interrupted), (160, false));
        assert!((30..50).contains(&found.items), "{found:?}");
    }

    #[test]
    fn a_record_that_is_lost_stale_or_changed_is_found() {
        let image = image(50, 100);
        let volume = volume(image.path());
        let newest = |block: u64| (1..=100).rev().find(|number| volume.place(*number) == block);
        // Not the one that the next record would replace, and not the last: without that the chain is only shorter.
        let is_fit = |block: &u64| newest(*block).is_some_and(|n| n != 100) && *block != volume.place(101);
        let block = (1..50).find(is_fit).expect("most are");
        let mut bytes = [0; BLOCK_BYTES];
        volume.file.read_exact_at(&mut bytes, block * BLOCK_BYTES as u64).expect("read");
        let mut changed = bytes;
        changed[2000] ^= 1;
        for wrong in [[0; BLOCK_BYTES], changed, volume.record(1, &[7; DIGEST_BYTES])] {
            volume.put(block, &wrong).expect("written");
            assert!(matches!(check(image.path()), Err(WriterError::Block { .. })));
        }
        volume.put(block, &bytes).expect("written");
        check(image.path()).expect("as before");
    }

    #[test]
    fn only_the_record_that_was_being_written_may_be_torn() {
        let image = image(20, 100);
        let volume = volume(image.path());
        let (_, digest) = volume.check().expect("a chain");
        let next = volume.place(101);
        let half = &volume.record(101, &digest)[..512];
        volume.file.write_all_at(half, next * BLOCK_BYTES as u64).expect("written");
        let found = check(image.path()).expect("a chain");
        let was_used = (1..=100).any(|number| volume.place(number) == next);
        assert_eq!((found.last, found.is_interrupted), (100, was_used));
        write_some(image.path(), 5);
        check(image.path()).expect("mended");
    }

    #[test]
    fn a_device_without_a_run_is_no_chain() {
        let image = tempfile::NamedTempFile::new().expect("a file");
        assert!(matches!(check(image.path()), Err(WriterError::Empty(_))));
        assert!(matches!(
            write(image.path(), &mut Pace::new(0, 1, Box::new(std::io::sink())).expect("a pace")),
            Err(WriterError::Small { .. })
        ));
    }
}
