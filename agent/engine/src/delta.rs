//! Bytes as copies of others: deltas in librsync's format, with `fast_rsync` behind it.
//!
//! A delta is never trusted. Whatever comes out is compared with the digest of the piece before it is written, so that
//! a base that is not what it was taken for, and a collision of a weak checksum, cost sending the bytes and nothing else.

use bytes::Bytes;
use thiserror::Error;

/// `DELTA_MAGIC`, and the commands of librsync's `prototab` that are written here.
const MAGIC: [u8; 4] = 0x7273_0236_u32.to_be_bytes();
const END: u8 = 0;
const LITERAL_N4: u8 = 0x43;
const COPY_N4_N4: u8 = 0x4f;

/// A delta that is not one, or makes something else than it should.
#[derive(Debug, Error)]
pub enum DeltaError {
    /// It is damaged.
    #[error("a delta cannot be applied")]
    Apply(#[source] fast_rsync::ApplyError),
    /// It ends early.
    #[error("a delta made {made} bytes instead of {expected}")]
    Size {
        /// Bytes that came out.
        made: usize,
        /// Bytes that were announced.
        expected: usize,
    },
}

/// Writes a delta.
#[derive(Debug)]
pub struct Writer {
    delta: Vec<u8>,
    literal_bytes: usize,
}

impl Default for Writer {
    fn default() -> Self {
        Self { delta: MAGIC.to_vec(), literal_bytes: 0 }
    }
}

impl Writer {
    /// Copies `bytes` from this offset in the base.
    pub fn copy(&mut self, offset: u32, bytes: u32) {
        self.delta.push(COPY_N4_N4);
        self.delta.extend_from_slice(&offset.to_be_bytes());
        self.delta.extend_from_slice(&bytes.to_be_bytes());
    }

    /// Carries these bytes.
    pub fn literal(&mut self, bytes: &[u8]) {
        self.delta.push(LITERAL_N4);
        self.delta.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        self.delta.extend_from_slice(bytes);
        self.literal_bytes += bytes.len();
    }

    /// Bytes that were carried so far.
    pub fn literal_bytes(&self) -> usize {
        self.literal_bytes
    }

    /// The delta.
    pub fn finish(mut self) -> Bytes {
        self.delta.push(END);
        self.delta.into()
    }
}

/// What `delta` makes of `base`: exactly `bytes` bytes.
pub fn apply(base: &[u8], delta: &[u8], bytes: usize) -> Result<Bytes, DeltaError> {
    let mut made = Vec::with_capacity(bytes);
    fast_rsync::apply_limited(base, delta, &mut made, bytes).map_err(DeltaError::Apply)?;
    match made.len() {
        made_bytes if made_bytes == bytes => Ok(made.into()),
        made => Err(DeltaError::Size { made, expected: bytes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_comes_out() {
        let base: Vec<u8> = (0..=255).collect();
        let mut writer = Writer::default();
        writer.copy(200, 56);
        writer.literal(b"new");
        writer.copy(0, 1);
        assert_eq!(writer.literal_bytes(), 3);
        let expected = [&base[200..], b"new", &base[..1]].concat();
        assert_eq!(apply(&base, &writer.finish(), expected.len()).unwrap(), expected);
    }

    #[test]
    fn a_delta_makes_no_more_and_no_less_than_announced() {
        let mut writer = Writer::default();
        writer.copy(0, 10);
        let delta = writer.finish();
        assert!(matches!(apply(&[1; 10], &delta, 9), Err(DeltaError::Apply(_))));
        assert!(matches!(apply(&[1; 10], &delta, 11), Err(DeltaError::Size { made: 10, expected: 11 })));
        assert!(matches!(apply(&[1; 9], &delta, 10), Err(DeltaError::Apply(_))));
    }
}
