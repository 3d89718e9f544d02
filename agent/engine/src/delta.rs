//! Bytes as copies of others: signatures and deltas in librsync's formats, with `fast_rsync` behind them.
//!
//! A delta is never trusted. Whatever comes out is compared with the digest of the piece before it is written, so that
//! a base that is not what it was taken for, and a collision of a weak checksum, cost sending the bytes and nothing else.

use bytes::Bytes;
use fast_rsync::{Signature, SignatureOptions};
use thiserror::Error;
use tranship_proto::limit::BODY_BYTES_MAX;

/// `DELTA_MAGIC`, and the commands of librsync's `prototab` that are written here.
const MAGIC: [u8; 4] = 0x7273_0236_u32.to_be_bytes();
const END: u8 = 0;
const LITERAL_MAX: u8 = 0x40;
const LITERAL_N4: u8 = 0x43;
const LITERAL_N8: u8 = 0x44;
const COPY_N1_N1: u8 = 0x45;
const COPY_N4_N4: u8 = 0x4f;
const COPY_N8_N8: u8 = 0x54;

/// `RS_MD4_SIG_MAGIC`, the one kind of signature that is made and taken here.
const SIGNATURE_MAGIC: [u8; 4] = 0x7273_0136_u32.to_be_bytes();
/// Bytes of a signature's head, and of each block in it: a rolling checksum and eight bytes of MD4.
const SIGNATURE_HEAD_BYTES: usize = 12;
const BLOCK_HASH_BYTES: u32 = 8;
const BLOCK_ENTRY_BYTES: usize = 4 + BLOCK_HASH_BYTES as usize;

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

/// The signature of `base`, in blocks of `block_bytes`.
pub fn sign(base: &[u8], block_bytes: u32) -> Bytes {
    let options = SignatureOptions { block_size: block_bytes, crypto_hash_size: BLOCK_HASH_BYTES };
    Signature::calculate(base, options).into_serialized().into()
}

/// A delta from the base that `signature` is of, and what is to be known of it.
#[derive(Debug)]
pub struct Difference {
    /// The delta.
    pub delta: Bytes,
    /// Bytes that it carries.
    pub literal_bytes: usize,
    /// Where the last copied bytes are in the new bytes, and where in the base.
    pub last_copy: Option<(usize, u64)>,
}

/// The difference of `new` from a base of `base_bytes`; nothing if the signature is not one of such a base in blocks of
/// `block_bytes`, or if the delta is too large to be sent.
pub fn difference(signature: &Bytes, base_bytes: usize, block_bytes: u32, new: &[u8]) -> Option<Difference> {
    // The library believes what the head says.
    let blocks = base_bytes.div_ceil(block_bytes as usize);
    let head = [SIGNATURE_MAGIC, block_bytes.to_be_bytes(), BLOCK_HASH_BYTES.to_be_bytes()].concat();
    if signature.len() != SIGNATURE_HEAD_BYTES + blocks * BLOCK_ENTRY_BYTES || !signature.starts_with(&head) {
        return None;
    }
    let signature = Signature::deserialize(signature.to_vec()).ok()?;
    let mut delta = Vec::new();
    fast_rsync::diff(&signature.index(), new, &mut delta).ok()?;
    let (literal_bytes, last_copy) = summary(&delta)?;
    (delta.len() <= BODY_BYTES_MAX).then(|| Difference { delta: delta.into(), literal_bytes, last_copy })
}

/// Bytes that a well-formed delta carries, and its last copy.
fn summary(delta: &[u8]) -> Option<(usize, Option<(usize, u64)>)> {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number: u64, &byte| number << 8 | u64::from(byte));
    let mut rest = delta.strip_prefix(&MAGIC[..])?;
    let (mut made, mut literal_bytes, mut last_copy) = (0, 0, None);
    loop {
        let (&command, after) = rest.split_first()?;
        rest = after;
        match command {
            END => return Some((literal_bytes, last_copy)),
            1..=LITERAL_N8 => {
                let width = if command <= LITERAL_MAX { 0 } else { 1 << (command - LITERAL_MAX - 1) };
                let (length, after) = rest.split_at_checked(width)?;
                let bytes = if width == 0 { usize::from(command) } else { usize::try_from(number(length)).ok()? };
                rest = after.get(bytes..)?;
                (made, literal_bytes) = (made + bytes, literal_bytes + bytes);
            }
            COPY_N1_N1..=COPY_N8_N8 => {
                let widths = command - COPY_N1_N1;
                let (offset, after) = rest.split_at_checked(1 << (widths / 4))?;
                let (length, after) = after.split_at_checked(1 << (widths % 4))?;
                rest = after;
                last_copy = Some((made, number(offset)));
                made += usize::try_from(number(length)).ok()?;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_change_in_signed_bytes_becomes_a_small_delta() {
        let base: Vec<u8> = (0..40_000u32).flat_map(|number| number.to_be_bytes()).collect();
        let mut new = base.clone();
        new[100_000..100_010].fill(9);
        new.splice(70_000..70_000, *b"inserted");
        let signature = sign(&base, 256);
        let difference = difference(&signature, base.len(), 256, &new).unwrap();
        assert!(difference.literal_bytes < 1_500, "{}", difference.literal_bytes);
        let (at, from) = difference.last_copy.unwrap();
        assert_eq!(at as u64 - from, 8);
        assert_eq!(apply(&base, &difference.delta, new.len()).unwrap(), new);
    }

    #[test]
    fn a_signature_of_something_else_is_not_believed() {
        let base = vec![1; 10_000];
        let signature = sign(&base, 256);
        let is_taken = |signature: &[u8], bytes, block| {
            difference(&Bytes::copy_from_slice(signature), bytes, block, &base).is_some()
        };
        assert!(is_taken(&signature, 10_000, 256));
        assert!(!is_taken(&signature, 10_000, 128));
        assert!(!is_taken(&signature, 20_000, 256));
        assert!(!is_taken(&signature[..signature.len() - 1], 10_000, 256));
        assert!(!is_taken(&[&signature[..7], &[0; 5], &signature[12..]].concat(), 10_000, 256));
        assert!(!is_taken(b"", 0, 256));
    }

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
