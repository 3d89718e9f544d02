//! A regular file in a tree, opened once: whatever happens to its name, its content and metadata are those of one inode.

use tranship_engine::Stat;
use tranship_proto::entry::Meta;
use tranship_proto::message::{Fidelity, Gap};

use super::bytes::Bytes;
use super::meta::Object;
use super::seen::Seen;
use super::{Content, Look, VolumeError};

/// An open regular file.
#[derive(Debug)]
pub(super) struct File(Bytes);

impl File {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl Content for File {
    fn stat(&self) -> Result<Stat, VolumeError> {
        Ok(Seen::of(self.0.fd()).map_err(self.0.failed("stat"))?.stat)
    }

    fn look(&self, fidelity: Fidelity) -> Result<Look, VolumeError> {
        let read = Object::open(self.0.fd()).read(self.0.place(), fidelity)?;
        Ok(Look { stat: read.stat, meta: read.meta, target: None, gaps: read.gaps })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, VolumeError> {
        self.0.read_at(buffer, offset)
    }

    fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>, VolumeError> {
        self.0.next_data(offset, self.stat()?.size)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), VolumeError> {
        self.0.write_at(bytes, offset)
    }

    fn zero_at(&self, offset: u64, bytes: u64) -> Result<(), VolumeError> {
        self.0.zero_in_file(offset, bytes, self.stat()?.size)
    }

    fn set_size(&self, bytes: u64) -> Result<(), VolumeError> {
        rustix::fs::ftruncate(self.0.fd(), bytes).map_err(self.0.failed("set size of"))
    }

    fn set_meta(&self, meta: &Meta, fidelity: Fidelity) -> Result<(Stat, Vec<Gap>), VolumeError> {
        Object::open(self.0.fd()).set(self.0.place(), meta, fidelity)
    }
}
