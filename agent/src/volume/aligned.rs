//! Memory at an address that `O_DIRECT` accepts.

use std::ops::{Deref, DerefMut};

/// The alignment of direct reads, unless the kernel asks for more: no file system and no device has larger blocks that
/// does not say so.
pub const ALIGNMENT_BYTES: usize = 4_096;

/// Zeroed bytes that start at a multiple of a power of two. Reading into such a buffer with `Access::ReadDevice` saves
/// a copy.
///
/// Safe code cannot choose where memory lies; it can ask for some more and start at the right place inside.
#[derive(Debug)]
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
    bytes: usize,
}

impl Aligned {
    /// Zeros at a multiple of `alignment_bytes`, which is a power of two.
    pub fn new(bytes: usize, alignment_bytes: usize) -> Self {
        assert!(alignment_bytes.is_power_of_two(), "alignments are powers of two");
        let memory = vec![0; bytes + alignment_bytes];
        let start = memory.as_ptr().align_offset(alignment_bytes);
        assert!(start <= alignment_bytes, "a byte address can always be aligned");
        Self { memory, start, bytes }
    }
}

/// Whether `buffer` lies and ends at multiples of `alignment_bytes`.
pub(super) fn is_aligned(buffer: &[u8], alignment_bytes: usize) -> bool {
    buffer.as_ptr().align_offset(alignment_bytes) == 0 && buffer.len().is_multiple_of(alignment_bytes)
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.bytes]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_lies_where_it_was_asked_to() {
        for alignment_bytes in [1, 512, 4096, 1 << 16] {
            for bytes in [0, 1, 4096, 1 << 20] {
                let buffer = Aligned::new(bytes, alignment_bytes);
                assert_eq!(buffer.len(), bytes);
                assert_eq!(buffer.as_ptr().align_offset(alignment_bytes), 0);
            }
        }
        let buffer = Aligned::new(8192, 4096);
        assert!(is_aligned(&buffer, 4096));
        assert!(!is_aligned(&buffer[1..4097], 4096));
        assert!(!is_aligned(&buffer[..4095], 4096));
    }
}
