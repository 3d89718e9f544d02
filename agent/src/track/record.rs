//! What is kept between two processes: a small file.
//!
//! `magic, version, fields, BLAKE3 digest of all that`. It is replaced by a rename and not flushed: after a crash of
//! the machine tracking is void anyway, whatever the file says.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use tranship_proto::codec::{Reader, WireError, Writer};
use tranship_proto::id::Token;
use tranship_proto::limit::PIECE_BYTES;

use super::device::Shape;
use super::pieces::{DEVICE_BYTES_MAX, Pieces};

const MAGIC: &[u8; 16] = b"tranship track 1";
const DIGEST_BYTES: usize = 32;

/// Bytes in a file: two sets of the largest device, and more than enough for the rest.
const FILE_BYTES_MAX: u64 = 2 * DEVICE_BYTES_MAX / PIECE_BYTES as u64 / 8 + (64 << 10);

/// Why a file says nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    #[error("its digest does not fit its bytes")]
    Digest,
    #[error("it is no record of tracking of a known version")]
    Magic,
    #[error(transparent)]
    Field(#[from] WireError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The state of tracking between two passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Which start of the machine: the ring is gone with it.
    pub(super) boot: String,
    /// Name of the instance.
    pub(super) instance: String,
    pub(super) shape: Shape,
    /// The disk's own count when nothing had been seen yet.
    pub(super) base_sectors: u64,
    /// Sectors written to the disk since then, and events read.
    pub(super) seen_sectors: u64,
    pub(super) events: u64,
    /// Why what was written is not known; for good.
    pub(super) void: Option<String>,
    /// What the sets below lie behind.
    pub(super) basis: Option<Token>,
    /// Reported to a pass that has not committed.
    pub(super) reported: Pieces,
    /// Written since.
    pub(super) written: Pieces,
}

impl Record {
    /// Reads a file; nothing if there is none.
    pub(super) fn load(path: &Path) -> Result<Option<Self>, RecordError> {
        let file = match rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            other => other.map_err(io::Error::from)?,
        };
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(std::fs::File::from(file), FILE_BYTES_MAX), &mut bytes)?;
        Self::decode(&bytes).map(Some)
    }

    /// Puts it in the file's place, whole.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let new = beside(path);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = rustix::fs::open(&new, flags, Mode::RUSR | Mode::WUSR)?;
        io::Write::write_all(&mut std::fs::File::from(file), &self.encode())?;
        Ok(rustix::fs::renameat(CWD, &new, CWD, path)?)
    }

    /// Removes the file.
    pub(super) fn remove(path: &Path) -> io::Result<()> {
        match rustix::fs::unlink(path) {
            Err(rustix::io::Errno::NOENT) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.array(MAGIC);
        w.bytes(self.boot.as_bytes());
        w.bytes(self.instance.as_bytes());
        self.shape.encode(&mut w);
        w.u64(self.base_sectors);
        w.u64(self.seen_sectors);
        w.u64(self.events);
        w.option(self.void.as_deref(), |w, why| w.bytes(why.as_bytes()));
        w.option(self.basis, |w, token| w.array(&token.0));
        self.reported.encode(&mut w);
        self.written.encode(&mut w);
        let mut bytes = w.finish();
        let digest = blake3::hash(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (body, digest) = bytes.split_last_chunk::<DIGEST_BYTES>().ok_or(RecordError::Magic)?;
        if blake3::hash(body) != *digest {
            return Err(RecordError::Digest);
        }
        let mut r = Reader::new(body);
        if r.array("magic")? != *MAGIC {
            return Err(RecordError::Magic);
        }
        let (boot, instance, shape) = (r.text("boot")?, r.text("instance")?, Shape::decode(&mut r)?);
        let record = Self {
            boot,
            instance,
            base_sectors: r.u64("base")?,
            seen_sectors: r.u64("seen")?,
            events: r.u64("events")?,
            void: r.option("void", |r| r.text("why"))?,
            basis: r.option("basis", |r| r.array("token").map(Token))?,
            reported: Pieces::decode(&mut r, shape.bytes())?,
            written: Pieces::decode(&mut r, shape.bytes())?,
            shape,
        };
        r.finish()?;
        Ok(record)
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::super::device::Number;
    use super::*;

    fn example() -> Record {
        let shape = Shape {
            volume: Number { major: 7, minor: 0 },
            sequence: 31,
            start_sector: 0,
            sectors: 131_072,
            members: vec![Number { major: 7, minor: 0 }],
        };
        let (mut reported, mut written) = (Pieces::none(shape.bytes()), Pieces::none(shape.bytes()));
        reported.add(0..1);
        written.add(5 << 20..7 << 20);
        Record {
            boot: "2ebbe6c0".into(),
            instance: "tranship-0011".into(),
            shape,
            base_sectors: 4401,
            seen_sectors: 40,
            events: 5,
            void: Some("it was full".into()),
            basis: Some(Token([7; 16])),
            reported,
            written,
        }
    }

    #[test]
    fn a_record_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("track");
        assert!(Record::load(&path).unwrap().is_none());
        example().save(&path).unwrap();
        assert_eq!(Record::load(&path).unwrap(), Some(example()));
        Record::remove(&path).unwrap();
        Record::remove(&path).unwrap();
        assert!(Record::load(&path).unwrap().is_none());
    }

    #[test]
    fn no_damaged_record_is_believed() {
        let whole = example().encode();
        for len in 0..whole.len() {
            Record::decode(&whole[..len]).unwrap_err();
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            Record::decode(&damaged).unwrap_err();
        }
    }
}
