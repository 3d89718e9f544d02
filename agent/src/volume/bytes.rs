//! The bytes of an open regular file or block device.

use std::io::{IoSliceMut, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Advice, AtFlags, FallocateFlags, SeekFrom, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};
use tranship_proto::entry::Place;

use super::VolumeError;
use super::aligned::{ALIGNMENT_BYTES, Aligned, is_aligned};

/// Reads of files that are larger than this leave the page cache alone; one of this size does no harm to anyone.
pub(super) const SPARING_BYTES_MIN: u64 = 1 << 20;

/// `RWF_DONTCACHE` (Linux 6.14): what the read itself brings into the page cache leaves it afterwards, what was there
/// stays.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// Bytes that are read at once into memory of our own.
const BOUNCE_BYTES: usize = 1 << 20;

/// Zeros, for where they must be written.
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// How reads treat the page cache.
#[derive(Debug, Clone)]
pub(super) enum Cache {
    /// As any other reader.
    Used,
    /// Nothing is left in it that was not there before, by the kernel's means if it has them, else past it.
    Spared(Option<Arc<Direct>>),
    /// It is not believed: the device is asked.
    Passed(Option<Arc<Direct>>),
}

/// An open content.
#[derive(Debug)]
pub(super) struct Bytes {
    fd: Arc<OwnedFd>,
    cache: Cache,
    has_dontcache: AtomicBool,
    place: Place,
}

impl Bytes {
    pub(super) fn new(fd: Arc<OwnedFd>, cache: Cache, place: Place) -> Self {
        Self { fd, cache, has_dontcache: AtomicBool::new(true), place }
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn failed(&self, operation: &'static str) -> impl Fn(Errno) -> VolumeError {
        move |errno| VolumeError::of(operation, &self.place, errno)
    }

    /// See [`super::Content::read_at`].
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, VolumeError> {
        let read = match &self.cache {
            Cache::Used => self.read_with(buffer, offset, ReadWriteFlags::empty()),
            Cache::Spared(direct) => self.read_sparing(direct.as_deref(), buffer, offset),
            Cache::Passed(direct) => self.read_passing(direct.as_deref(), buffer, offset)?,
        };
        read.map_err(self.failed("read"))
    }

    fn read_sparing(&self, direct: Option<&Direct>, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        if self.has_dontcache.load(Ordering::Relaxed) {
            match self.read_with(buffer, offset, DONTCACHE) {
                Err(Errno::OPNOTSUPP | Errno::INVAL) => self.has_dontcache.store(false, Ordering::Relaxed),
                read => return read,
            }
        }
        match direct.map(|direct| direct.read_at(buffer, offset)) {
            Some(Err(Errno::INVAL | Errno::OPNOTSUPP)) | None => {
                self.read_with(buffer, offset, ReadWriteFlags::empty())
            }
            Some(read) => read,
        }
    }

    /// What is cached there is dropped first: a file system may answer a direct read from it, and one that has no direct reads
    /// does. What else is cached of the content stays, for whoever uses it next.
    fn read_passing(
        &self,
        direct: Option<&Direct>,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<Result<usize, Errno>, VolumeError> {
        if let Some(direct) = direct {
            self.drop_cached(offset, buffer.len() as u64);
            match direct.read_at(buffer, offset) {
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {}
                read => return Ok(read),
            }
        }
        rustix::fs::fdatasync(&*self.fd).map_err(self.failed("write back"))?;
        self.drop_cached(offset, buffer.len() as u64);
        Ok(self.read_with(buffer, offset, ReadWriteFlags::empty()))
    }

    fn read_with(&self, buffer: &mut [u8], offset: u64, flags: ReadWriteFlags) -> Result<usize, Errno> {
        read_full(&self.fd, buffer, offset, flags, 1)
    }

    /// See [`super::Content::data_from`].
    pub(super) fn data_from(&self, offset: u64, size: u64) -> Result<Option<u64>, VolumeError> {
        if offset >= size {
            return Ok(None);
        }
        match rustix::fs::seek(&*self.fd, SeekFrom::Data(offset)) {
            Ok(start) => Ok(Some(start.max(offset))),
            Err(Errno::NXIO) => Ok(None),
            // A device, or a file system that does not tell.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(offset)),
            Err(errno) => Err(self.failed("find data in")(errno)),
        }
    }

    /// See [`super::Content::next_data`].
    pub(super) fn next_data(&self, offset: u64, size: u64) -> Result<Option<(u64, u64)>, VolumeError> {
        let Some(start) = self.data_from(offset, size)? else { return Ok(None) };
        match rustix::fs::seek(&*self.fd, SeekFrom::Hole(start)) {
            Ok(end) if end > start => Ok(Some((start, end))),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some((start, size))),
            // It became shorter meanwhile; whoever reads there finds out.
            Ok(_) | Err(Errno::NXIO) => Ok(None),
            Err(errno) => Err(self.failed("find data in")(errno)),
        }
    }

    /// See [`super::Content::write_at`].
    pub(super) fn write_at(&self, mut bytes: &[u8], mut offset: u64) -> Result<(), VolumeError> {
        while !bytes.is_empty() {
            match rustix::io::pwrite(&*self.fd, bytes, offset) {
                Ok(0) => return Err(self.failed("write")(Errno::IO)),
                Ok(written) => (bytes, offset) = (&bytes[written..], offset + written as u64),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed("write")(errno)),
            }
        }
        Ok(())
    }

    /// Makes bytes of a regular file of this size a hole, extending it where they lie beyond its end.
    pub(super) fn zero_in_file(&self, offset: u64, bytes: u64, size: u64) -> Result<(), VolumeError> {
        let end = offset + bytes;
        // Extended by a byte of our own: cutting to `end` could cut off what another thread has just written after it.
        if bytes > 0 && end > size {
            self.write_at(&[0], end - 1)?;
        }
        self.zero_by(&[FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE], offset, end, 1)
    }

    /// Makes bytes of a device zeros, and frees them where it can promise that.
    pub(super) fn zero_on_device(&self, offset: u64, bytes: u64) -> Result<(), VolumeError> {
        let ways = [FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE].map(|way| way | FallocateFlags::KEEP_SIZE);
        self.zero_by(&ways, offset, offset + bytes, ALIGNMENT_BYTES as u64)
    }

    /// Takes the first of `ways` that is known here for whole blocks, and writes zeros elsewhere.
    fn zero_by(&self, ways: &[FallocateFlags], offset: u64, end: u64, block: u64) -> Result<(), VolumeError> {
        let (first, last) = (offset.next_multiple_of(block), end - end % block);
        if first >= last {
            return self.write_zeros(offset, end);
        }
        self.write_zeros(offset, first)?;
        self.write_zeros(last, end)?;
        for &way in ways {
            match rustix::fs::fallocate(&*self.fd, way, first, last - first) {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {}
                Err(errno) => return Err(self.failed("zero")(errno)),
            }
        }
        self.write_zeros(first, last)
    }

    fn write_zeros(&self, mut offset: u64, end: u64) -> Result<(), VolumeError> {
        while offset < end {
            let bytes = (end - offset).min(ZEROS.len() as u64);
            self.write_at(&ZEROS[..bytes as usize], offset)?;
            offset += bytes;
        }
        Ok(())
    }

    fn drop_cached(&self, offset: u64, bytes: u64) {
        // Advice: what cannot be dropped is dirty or in use, and direct reads do not care.
        let _ = rustix::fs::fadvise(&*self.fd, offset, std::num::NonZeroU64::new(bytes), Advice::DontNeed);
    }
}

/// A second handle that reads from the device (`O_DIRECT`).
#[derive(Debug)]
pub(super) struct Direct {
    fd: OwnedFd,
    alignment_bytes: usize,
    /// Used ones, so that a large read costs no fresh pages.
    buffers: Mutex<Vec<Aligned>>,
}

impl Direct {
    /// Takes a handle that was opened with `O_DIRECT`; nothing if the kernel says that it reads through the cache.
    pub(super) fn new(fd: OwnedFd) -> Option<Self> {
        let mut alignment_bytes = ALIGNMENT_BYTES;
        let about = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
        if about.stx_mask & StatxFlags::DIOALIGN.bits() != 0 {
            if about.stx_dio_mem_align == 0 || about.stx_dio_offset_align == 0 {
                return None;
            }
            let asked = about.stx_dio_mem_align.max(about.stx_dio_offset_align) as usize;
            alignment_bytes = alignment_bytes.max(asked).next_power_of_two();
        }
        Some(Self { fd, alignment_bytes, buffers: Mutex::default() })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let alignment = self.alignment_bytes as u64;
        if is_aligned(buffer, self.alignment_bytes) && offset.is_multiple_of(alignment) {
            return read_full(&self.fd, buffer, offset, ReadWriteFlags::empty(), self.alignment_bytes);
        }
        let mut bounce = self.buffers().pop().unwrap_or_else(|| Aligned::new(BOUNCE_BYTES, self.alignment_bytes));
        let mut done = 0;
        let result = loop {
            let at = offset + done as u64;
            let lead = (at % alignment) as usize;
            let wanted = (buffer.len() - done + lead).next_multiple_of(self.alignment_bytes).min(bounce.len());
            let flags = ReadWriteFlags::empty();
            let read = match read_full(&self.fd, &mut bounce[..wanted], at - lead as u64, flags, self.alignment_bytes) {
                Ok(read) => read,
                Err(errno) => break Err(errno),
            };
            let fresh = bounce.get(lead..read).unwrap_or_default();
            done += (&mut buffer[done..]).write(fresh).expect("memory does not fail");
            if done == buffer.len() || read < wanted {
                break Ok(done);
            }
        };
        self.buffers().push(bounce);
        result
    }

    fn buffers(&self) -> std::sync::MutexGuard<'_, Vec<Aligned>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads until the buffer is full or the content ends. A short direct read that is no multiple of the alignment can
/// only be the end, and could not be continued anyway.
fn read_full(
    fd: impl AsFd,
    buffer: &mut [u8],
    offset: u64,
    flags: ReadWriteFlags,
    alignment_bytes: usize,
) -> Result<usize, Errno> {
    let mut done = 0;
    while done < buffer.len() && done.is_multiple_of(alignment_bytes) {
        let mut into = [IoSliceMut::new(&mut buffer[done..])];
        let at = offset + done as u64;
        let read = if flags.is_empty() {
            rustix::io::preadv(&fd, &mut into, at)
        } else {
            rustix::io::preadv2(&fd, &mut into, at, flags)
        };
        match read {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}
