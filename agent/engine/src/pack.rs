//! Compression of bodies, only while it pays.
//!
//! A body says how many bytes it has unpacked before it is unpacked, and the buffer has exactly that size: a bomb has
//! nowhere to go off. A body that would not become smaller travels as it is.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use thiserror::Error;
use tranship_proto::limit::BODY_BYTES_MAX;
use tranship_proto::message::Codec;

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// What makes the link faster, by measurement.
    Auto,
    /// Nothing.
    None,
    /// LZ4: about 10 times faster than zstd, and packs less.
    Lz4,
    /// Zstandard with this level.
    Zstd(i32),
}

/// Goodput below which compression pays: a gigabit. A faster link is mostly limited by the processors, which it would take
/// from, as would a search for what pays there.
const PAYS_BELOW_BYTES_PER_SECOND: u64 = 120_000_000;

/// Bytes of a body that are tried first.
const SAMPLE_BYTES: usize = 32 << 10;

/// Packs bodies, and learns how fast the link is.
#[derive(Debug)]
pub struct Compressor {
    compression: Compression,
    goodput_bytes_per_second: AtomicU64,
}

impl Compressor {
    /// Packs as `compression` says.
    pub fn new(compression: Compression) -> Self {
        // Until the link was measured it is taken for a fast one: packing would only slow a fast one down.
        Self { compression, goodput_bytes_per_second: AtomicU64::new(u64::MAX) }
    }

    /// What the link carried of late.
    pub fn set_goodput(&self, bytes_per_second: u64) {
        self.goodput_bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    /// The same again, in bytes per second; [`u64::MAX`] if the link keeps up with everything.
    pub fn goodput(&self) -> u64 {
        self.goodput_bytes_per_second.load(Ordering::Relaxed)
    }

    /// Packs `raw` if that makes it smaller.
    pub fn pack(&self, raw: Bytes) -> (Codec, Bytes) {
        let packed = match self.codec() {
            Compression::Zstd(level) if self.looks_worth_it(&raw) => {
                zstd::bulk::compress(&raw, level).ok().map(|packed| (Codec::Zstd, packed))
            }
            Compression::Lz4 if self.looks_worth_it(&raw) => Some((Codec::Lz4, lz4_flex::block::compress(&raw))),
            _ => None,
        };
        match packed {
            Some((codec, packed)) if packed.len() < raw.len() => (codec, packed.into()),
            _ => (Codec::Plain, raw),
        }
    }

    fn codec(&self) -> Compression {
        if self.compression != Compression::Auto {
            return self.compression;
        }
        if self.goodput() < PAYS_BELOW_BYTES_PER_SECOND { Compression::Zstd(1) } else { Compression::None }
    }

    /// Whether a sample shrinks by a tenth. What was asked for by name is always tried whole.
    fn looks_worth_it(&self, raw: &[u8]) -> bool {
        if self.compression != Compression::Auto || raw.len() <= SAMPLE_BYTES {
            return raw.len() > 64;
        }
        let from = (raw.len() - SAMPLE_BYTES) / 2;
        let sample = lz4_flex::block::compress(&raw[from..from + SAMPLE_BYTES]);
        sample.len() < SAMPLE_BYTES * 9 / 10
    }
}

/// Why a body cannot be unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PackError {
    /// Not what the codec makes, or of another length than announced.
    #[error("a packed body is not what it was announced to be")]
    Damaged,
}

/// The `raw_bytes` that were packed into `body`.
pub fn unpack(codec: Codec, body: &Bytes, raw_bytes: usize) -> Result<Bytes, PackError> {
    if raw_bytes > BODY_BYTES_MAX {
        return Err(PackError::Damaged);
    }
    let raw = match codec {
        Codec::Plain => body.clone(),
        Codec::Lz4 => {
            let mut raw = vec![0; raw_bytes];
            let len = lz4_flex::block::decompress_into(body, &mut raw).map_err(|_| PackError::Damaged)?;
            raw.truncate(len);
            raw.into()
        }
        // The window of a single frame of known size is never larger than its content.
        Codec::Zstd => zstd::bulk::decompress(body, raw_bytes).map_err(|_| PackError::Damaged)?.into(),
    };
    if raw.len() == raw_bytes { Ok(raw) } else { Err(PackError::Damaged) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(bytes: usize) -> Bytes {
        let mut state = 1u64;
        (0..bytes)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect()
    }

    #[test]
    fn a_fast_link_is_left_alone_and_a_slow_one_gets_zstd() {
        let compressor = Compressor::new(Compression::Auto);
        let text: Bytes = b"a line of a log\n".repeat(60_000).into();
        assert_eq!(compressor.pack(text.clone()).0, Codec::Plain);
        compressor.set_goodput(6_000_000);
        let (codec, packed) = compressor.pack(text.clone());
        assert_eq!(codec, Codec::Zstd);
        assert_eq!(unpack(codec, &packed, text.len()), Ok(text));
        assert_eq!(compressor.pack(noise(1 << 20)).0, Codec::Plain);
    }

    #[test]
    fn a_body_that_unpacks_to_more_or_less_than_announced_is_refused() {
        let raw: Bytes = vec![7; 100_000].into();
        for compression in [Compression::Lz4, Compression::Zstd(3)] {
            let (codec, packed) = Compressor::new(compression).pack(raw.clone());
            assert_ne!(codec, Codec::Plain);
            for wrong in [0, 99_999, 100_001, BODY_BYTES_MAX, BODY_BYTES_MAX + 1] {
                assert_eq!(unpack(codec, &packed, wrong), Err(PackError::Damaged), "{codec:?} {wrong}");
            }
        }
    }
}
