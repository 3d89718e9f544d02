//! One line of the trace: a request to a device, as it was queued.
//!
//! The text is that of the tracepoint `block_bio_queue` (`include/trace/events/block.h`) without context:
//! `block_bio_queue: 7,0 WS 800 + 8 [dd]` is device, kind, first sector, sectors and the process. The process's
//! name is any bytes, line ends included. It has at most 15 of them, so that what follows such a line end is too short
//! to be a line with this beginning: a name can neither hide a request nor feign one.

/// A request. Sectors are of 512 bytes and counted from the start of the whole disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) is_write: bool,
    pub(super) sector: u64,
    pub(super) sectors: u64,
}

const PREFIX: &[u8] = b"block_bio_queue: ";

/// Bytes of a line that matter: more than two numbers of devices, a kind and two numbers of sectors ever have.
const LINE_BYTES_MAX: usize = 256;

impl Event {
    /// Reads a line, if it is one.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        // Older kernels pad the name of the event.
        let start = line.iter().position(|byte| *byte != b' ')?;
        let line = line[start..].strip_prefix(PREFIX)?;
        let end = line.windows(2).position(|two| two == b" [")?;
        let mut words = std::str::from_utf8(&line[..end]).ok()?.split_ascii_whitespace();
        let (major, minor) = words.next()?.split_once(',')?;
        let kind = words.next()?;
        let sector = words.next()?.parse().ok()?;
        let plus = words.next()?;
        let sectors: u64 = words.next()?.parse().ok()?;
        (plus == "+" && words.next().is_none()).then_some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            is_write: is_write(kind),
            sector,
            sectors,
        })
    }
}

/// Everything but a read: `W`rites, `D`iscards, and what kernels show as `N`one, writing zeros among it. A leading
/// `F` asks for a flush before the request.
fn is_write(kind: &str) -> bool {
    !kind.strip_prefix('F').unwrap_or(kind).starts_with('R')
}

/// Cuts a stream into lines, whatever pieces it comes in.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    pub(super) fn feed(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        let mut parts = bytes.split_inclusive(|byte| *byte == b'\n');
        if !self.rest.is_empty() {
            let Some(first) = parts.next() else { return };
            self.rest.extend_from_slice(first);
            if !first.ends_with(b"\n") {
                // What is longer is no line of ours; its beginning is kept, to be counted as such.
                return self.rest.truncate(LINE_BYTES_MAX);
            }
            line(trimmed(&self.rest));
            self.rest.clear();
        }
        for part in parts {
            match part.ends_with(b"\n") {
                true => line(trimmed(part)),
                false => self.rest.extend_from_slice(&part[..part.len().min(LINE_BYTES_MAX)]),
            }
        }
    }
}

fn trimmed(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, wanted: Option<(u32, u32, bool, u64, u64)>) {
        let wanted =
            wanted.map(|(major, minor, is_write, sector, sectors)| Event { major, minor, is_write, sector, sectors });
        assert_eq!(Event::parse(line.as_bytes()), wanted, "{line:?}");
    }

    #[test]
    fn lines_that_kernels_print_are_read() {
        check("block_bio_queue: 7,0 WS 800 + 8 [dd]", Some((7, 0, true, 800, 8)));
        check("  block_bio_queue: 7,0 WS 800 + 8 [dd]", Some((7, 0, true, 800, 8)));
        check("block_bio_queue: 7,0 DS 2048 + 4096 [blkdiscard]", Some((7, 0, true, 2048, 4096)));
        check("block_bio_queue: 7,0 NS 8 + 8 [fallocate]", Some((7, 0, true, 8, 8)));
        check(
            "block_bio_queue: 259,17 FWFSM 18446744073709551 + 0 [x]",
            Some((259, 17, true, 18_446_744_073_709_551, 0)),
        );
        check("block_bio_queue: 254,0 RA 12935128 + 32 [sh]", Some((254, 0, false, 12_935_128, 32)));
        check("block_bio_queue: 254,0 FR 1 + 1 [sh]", Some((254, 0, false, 1, 1)));
    }

    #[test]
    fn a_name_cannot_hide_a_request() {
        check("block_bio_queue: 7,0 W 800 + 8 [] [ + 9]", Some((7, 0, true, 800, 8)));
        check("block_bio_queue: 7,0 W 800 + 8 [", Some((7, 0, true, 800, 8)));
    }

    #[test]
    fn what_is_no_line_is_not_read() {
        for line in [
            "",
            "CPU:0 [LOST 12 EVENTS]",
            "7,0 W 0 + 8 [x]",
            "block_bio_queue: 7,0 W 0 + 8",
            "block_bio_queue: 7,0 W -1 + 8 [x]",
        ] {
            check(line, None);
        }
        check("block_bio_queue: 7 W 0 + 8 [x]", None);
        check("block_bio_queue: 7,0 W 0 - 8 [x]", None);
        check("block_bio_queue: 7,0 W 99999999999999999999 + 8 [x]", None);
    }

    #[test]
    fn lines_are_the_same_however_the_stream_is_cut() {
        let text = b"one\ntwo and more\n\nthree\nrest";
        for size in 1..=text.len() {
            let (mut lines, mut seen) = (Lines::default(), Vec::new());
            for part in text.chunks(size) {
                lines.feed(part, |line| seen.push(String::from_utf8(line.to_vec()).unwrap()));
            }
            assert_eq!(seen, ["one", "two and more", "", "three"], "cut by {size}");
            assert_eq!(lines.rest, b"rest");
        }
    }
}
