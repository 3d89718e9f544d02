//! Values to bytes and back, total on any input.
//!
//! Integers are LEB128 and canonical: exactly one encoding is accepted for each value. Byte strings carry their length,
//! which is checked against the caller's limit before anything is allocated.

use thiserror::Error;

/// Why bytes of a peer, or of a stored file, are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WireError {
    /// The input ended inside a value.
    #[error("input ends inside {what}")]
    Truncated {
        /// The value that was being read.
        what: &'static str,
    },
    /// Bytes are left after the last value.
    #[error("{bytes} bytes follow the last value")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// An integer in more bytes than it needs, or beyond 64 bits.
    #[error("{what} is not a canonical integer")]
    Integer {
        /// The value that was being read.
        what: &'static str,
    },
    /// A length, count or size beyond its limit.
    #[error("{what} of {value} exceeds {max}")]
    Limit {
        /// What was measured.
        what: &'static str,
        /// What the peer said.
        value: u64,
        /// What is allowed.
        max: u64,
    },
    /// A value that has no meaning in its place.
    #[error("{what} has the meaningless value {value}")]
    Meaningless {
        /// The value that was being read.
        what: &'static str,
        /// The value itself, or its length.
        value: u64,
    },
    /// A name, place or target that could not exist on Linux, or that could lead out of a volume.
    #[error("{what} is not a valid name: {why}")]
    Name {
        /// Name, place or target.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Values in an order that the message does not allow.
    #[error("{what} is out of order")]
    Order {
        /// What should have been ordered.
        what: &'static str,
    },
}

impl WireError {
    /// The stable code that users and scripts see.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Limit { .. } => "TS-P101",
            Self::Truncated { .. } | Self::Trailing { .. } | Self::Meaningless { .. } => "TS-P102",
            Self::Integer { .. } => "TS-P104",
            Self::Name { .. } => "TS-P110",
            Self::Order { .. } => "TS-P112",
        }
    }
}

/// Appends values to a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Self {
        Self::default()
    }

    /// A writer that appends to `bytes`.
    pub fn onto(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// A canonical LEB128 integer.
    pub fn u64(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// A signed integer, zigzag and then LEB128.
    pub fn i64(&mut self, value: i64) {
        self.u64(((value << 1) ^ (value >> 63)) as u64);
    }

    /// A truth value.
    pub fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    /// Bytes whose length both sides know.
    pub fn array(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
    }

    /// Bytes after their length.
    pub fn bytes(&mut self, value: &[u8]) {
        self.u64(value.len() as u64);
        self.array(value);
    }

    /// A value that may be missing.
    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.bool(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }
}

/// Takes values from a buffer.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// Succeeds if everything was read.
    pub fn finish(self) -> Result<(), WireError> {
        match self.bytes.len() {
            0 => Ok(()),
            bytes => Err(WireError::Trailing { bytes }),
        }
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, WireError> {
        let (&first, rest) = self.bytes.split_first().ok_or(WireError::Truncated { what })?;
        self.bytes = rest;
        Ok(first)
    }

    /// A canonical LEB128 integer.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit, and a final zero byte would be a second way to say the same.
            if (shift == 63 && bits > 1) || (byte == 0 && shift > 0) {
                return Err(WireError::Integer { what });
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::Integer { what })
    }

    /// An integer of at most `max`.
    pub fn at_most(&mut self, what: &'static str, max: u64) -> Result<u64, WireError> {
        match self.u64(what)? {
            value if value <= max => Ok(value),
            value => Err(WireError::Limit { what, value, max }),
        }
    }

    /// An integer of 32 bits.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        Ok(self.at_most(what, u64::from(u32::MAX))? as u32)
    }

    /// A signed integer.
    pub fn i64(&mut self, what: &'static str) -> Result<i64, WireError> {
        let value = self.u64(what)?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A truth value.
    pub fn bool(&mut self, what: &'static str) -> Result<bool, WireError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(WireError::Meaningless { what, value: u64::from(value) }),
        }
    }

    /// `N` bytes.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        let (head, rest) = self.bytes.split_first_chunk().ok_or(WireError::Truncated { what })?;
        self.bytes = rest;
        Ok(*head)
    }

    /// Bytes after their length, which is at most `max`.
    pub fn bytes(&mut self, what: &'static str, max: usize) -> Result<&'a [u8], WireError> {
        let len = self.at_most(what, max as u64)? as usize;
        let (head, rest) = self.bytes.split_at_checked(len).ok_or(WireError::Truncated { what })?;
        self.bytes = rest;
        Ok(head)
    }

    /// Text for people: UTF-8 of bounded length. Whoever prints it escapes it.
    pub fn text(&mut self, what: &'static str) -> Result<String, WireError> {
        let bytes = self.bytes(what, crate::limit::TEXT_BYTES_MAX)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| WireError::Meaningless { what, value: bytes.len() as u64 })
    }

    /// A count of at most `max` values, each of at least one byte: a count that the rest cannot hold is refused
    /// before anything is allocated for it.
    pub fn count(&mut self, what: &'static str, max: usize) -> Result<usize, WireError> {
        let count = self.at_most(what, max as u64)? as usize;
        if count > self.remaining() {
            return Err(WireError::Truncated { what });
        }
        Ok(count)
    }

    /// A value that may be missing.
    pub fn option<T>(
        &mut self,
        what: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, WireError>,
    ) -> Result<Option<T>, WireError> {
        if self.bool(what)? { read(self).map(Some) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_come_back_and_have_one_encoding() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), i64::MAX as u64, u64::MAX] {
            let mut writer = Writer::new();
            writer.u64(value);
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.u64("value"), Ok(value));
            assert_eq!(reader.finish(), Ok(()));
        }
        for overlong in [&[0x80, 0x00][..], &[0xff, 0x80, 0x00], &[0xff; 10], &[0xff; 11]] {
            assert_eq!(Reader::new(overlong).u64("value"), Err(WireError::Integer { what: "value" }));
        }
    }

    #[test]
    fn signed_integers_come_back() {
        for value in [0, -1, 1, i64::MIN, i64::MAX] {
            let mut writer = Writer::new();
            writer.i64(value);
            assert_eq!(Reader::new(&writer.finish()).i64("value"), Ok(value));
        }
    }

    #[test]
    fn a_length_beyond_its_limit_is_refused_before_it_is_read() {
        let mut writer = Writer::new();
        writer.u64(u64::MAX);
        let bytes = writer.finish();
        assert_eq!(
            Reader::new(&bytes).bytes("xattr", 10),
            Err(WireError::Limit { what: "xattr", value: u64::MAX, max: 10 })
        );
    }
}
