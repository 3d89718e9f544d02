//! A regular file in a tree, opened once: whatever happens to its name, its content and metadata are those of one inode.

use std::sync::{Mutex, PoisonError};

use tranship_engine::Stat;
use tranship_proto::entry::Meta;
use tranship_proto::message::{Fidelity, Gap};

use super::beside::Beside;
use super::bytes::Bytes;
use super::meta::Object;
use super::seen::Seen;
use super::{Content, Look, VolumeError};

/// An open regular file.
#[derive(Debug)]
pub(super) struct File {
    bytes: Bytes,
    /// Its temporary name, until it lands.
    beside: Mutex<Option<Beside>>,
}

impl File {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, beside: Mutex::default() }
    }

    pub(super) fn beside(bytes: Bytes, beside: Beside) -> Self {
        Self { bytes, beside: Mutex::new(Some(beside)) }
    }
}

impl Content for File {
    fn stat(&self) -> Result<Stat, VolumeError> {
        Ok(Seen::of(self.bytes.fd()).map_err(self.bytes.failed("stat"))?.stat)
    }

    fn look(&self, fidelity: Fidelity) -> Result<Look, VolumeError> {
        let read = Object::open(self.bytes.fd()).read(self.bytes.place(), fidelity)?;
        Ok(Look { stat: read.stat, meta: read.meta, target: None, gaps: read.gaps })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, VolumeError> {
        self.bytes.read_at(buffer, offset)
    }

    fn data_from(&self, offset: u64) -> Result<Option<u64>, VolumeError> {
        self.bytes.data_from(offset, self.stat()?.size)
    }

    fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>, VolumeError> {
        self.bytes.next_data(offset, self.stat()?.size)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), VolumeError> {
        self.bytes.write_at(bytes, offset)
    }

    fn zero_at(&self, offset: u64, bytes: u64) -> Result<(), VolumeError> {
        self.bytes.zero_in_file(offset, bytes, self.stat()?.size)
    }

    fn land(&self) -> Result<(), VolumeError> {
        match self.beside.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(beside) => beside.land(self.bytes.place()).map_err(self.bytes.failed("replace")),
            None => Ok(()),
        }
    }

    fn set_size(&self, bytes: u64) -> Result<(), VolumeError> {
        rustix::fs::ftruncate(self.bytes.fd(), bytes).map_err(self.bytes.failed("set size of"))
    }

    fn set_meta(&self, meta: &Meta, fidelity: Fidelity) -> Result<(Stat, Vec<Gap>), VolumeError> {
        Object::open(self.bytes.fd()).set(self.bytes.place(), meta, fidelity)
    }
}
