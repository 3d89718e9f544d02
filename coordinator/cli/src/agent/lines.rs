//! Lines of whoever writes them, none longer than a limit.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// A stream that is read line by line.
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    buffer: Vec<u8>,
    bytes_max: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// The lines of `reader`, of at most so many bytes, the end of the line included.
    pub(super) fn new(reader: R, bytes_max: usize) -> Self {
        Self { reader: BufReader::new(reader), buffer: Vec::new(), bytes_max }
    }

    /// The next line with its end, which the last may lack; nothing behind the last. A line that is too long is an error
    /// of kind [`io::ErrorKind::InvalidData`], and what is left of the stream then is of no use as lines.
    pub(super) async fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.buffer.clear();
        let mut bounded = (&mut self.reader).take(self.bytes_max as u64 + 1);
        bounded.read_until(b'\n', &mut self.buffer).await?;
        if self.buffer.len() > self.bytes_max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a line exceeds {} bytes", self.bytes_max)));
        }
        Ok(Some(&*self.buffer).filter(|line| !line.is_empty()))
    }

    /// Reads what is left and forgets it, so that whoever writes is not held up.
    pub(super) async fn drain(&mut self) {
        // An error is an end, too.
        let _ = tokio::io::copy_buf(&mut self.reader, &mut tokio::io::sink()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_one_by_one_and_none_is_too_long() {
        let mut lines = Lines::new(&b"one\n\nfourx\nend"[..], 6);
        for expected in [&b"one\n"[..], b"\n", b"fourx\n", b"end"] {
            assert_eq!(lines.next().await.expect("short"), Some(expected));
        }
        assert_eq!(lines.next().await.expect("the end"), None);
        let mut lines = Lines::new(&b"sevenx\n"[..], 6);
        assert_eq!(lines.next().await.expect_err("long").kind(), io::ErrorKind::InvalidData);
        lines.drain().await;
        assert_eq!(lines.next().await.expect("the end"), None);
    }
}
