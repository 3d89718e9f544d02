//! The envelope of a message: kind, lengths, bounds; nothing else.
//!
//! ```text
//! kind: u8 │ 0: u8 │ 0: u8 │ 0: u8 │ head: u32 LE │ body: u32 LE │ head bytes │ body bytes
//! ```
//!
//! The head is structured and small, the body is bulk that nobody copies: a piece of a file goes from the disk's buffer
//! to the socket as it is.

use bytes::Bytes;

use crate::codec::WireError;
use crate::limit::{BODY_BYTES_MAX, HEAD_BYTES_MAX};

/// Bytes before the head.
pub const HEADER_BYTES: usize = 12;

/// One message in its envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which message this is; unknown kinds are refused by [`crate::Message::decode`].
    pub kind: u8,
    /// The structured part.
    pub head: Bytes,
    /// The bulk part.
    pub body: Bytes,
}

/// A frame's header: what has to be read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which message follows.
    pub kind: u8,
    /// Bytes of the structured part.
    pub head_bytes: usize,
    /// Bytes of the bulk part.
    pub body_bytes: usize,
}

impl Frame {
    /// Bytes that this frame takes on a stream.
    pub fn wire_bytes(&self) -> usize {
        HEADER_BYTES + self.head.len() + self.body.len()
    }

    /// The bytes before the head.
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        debug_assert!(self.head.len() <= HEAD_BYTES_MAX && self.body.len() <= BODY_BYTES_MAX);
        let mut header = [0; HEADER_BYTES];
        header[0] = self.kind;
        header[4..8].copy_from_slice(&(self.head.len() as u32).to_le_bytes());
        header[8..12].copy_from_slice(&(self.body.len() as u32).to_le_bytes());
        header
    }

    /// The whole frame in one buffer, for tests and for streams without scatter and gather.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.header()[..], &self.head, &self.body].concat()
    }
}

impl Header {
    /// Reads a header, before anything of the announced size is allocated.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, WireError> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[1..4] != [0; 3] {
            return Err(WireError::Meaningless { what: "reserved bits", value: u64::from(bytes[1]) });
        }
        let bounded = |what, value: u32, max: usize| match value as usize {
            bytes if bytes <= max => Ok(bytes),
            _ => Err(WireError::Limit { what, value: u64::from(value), max: max as u64 }),
        };
        Ok(Self {
            kind: bytes[0],
            head_bytes: bounded("frame head", word(4), HEAD_BYTES_MAX)?,
            body_bytes: bounded("frame body", word(8), BODY_BYTES_MAX)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back() {
        let frame = Frame { kind: 7, head: Bytes::from_static(b"head"), body: Bytes::from_static(b"body!") };
        assert_eq!(Header::decode(&frame.header()), Ok(Header { kind: 7, head_bytes: 4, body_bytes: 5 }));
        assert_eq!(frame.to_bytes().len(), frame.wire_bytes());
    }

    #[test]
    fn an_oversized_frame_and_reserved_bits_are_refused() {
        let mut header = [0u8; HEADER_BYTES];
        header[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Header::decode(&header), Err(WireError::Limit { value: 0xffff_ffff, .. })));
        assert!(Header::decode(&[1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
