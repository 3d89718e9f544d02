//! One unbroken chain of everything that the application did.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

/// Its name in the tree.
pub(super) const NAME: &str = "counter.log";

/// Records that share one flush to the disk.
const BATCH: u64 = 32;

/// What comes before the first record.
const GENESIS: &str = "tranship-demo";

/// The journal, open to append. Each line holds the counter, what was done, and a digest of this and the line before.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    pending: Vec<u8>,
    last: Link,
}

/// The end of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// Number of the last record.
    pub(super) counter: u64,
    /// Digest of the chain up to there.
    pub(super) chain: String,
}

impl Link {
    /// Of a journal without records.
    pub(super) fn genesis() -> Self {
        Self { counter: 0, chain: GENESIS.to_owned() }
    }

    fn next(&self, event: &str) -> Self {
        let counter = self.counter + 1;
        let digest = blake3::hash(format!("{} {counter} {event}", self.chain).as_bytes());
        Self { counter, chain: digest.to_hex()[..32].to_owned() }
    }
}

impl Journal {
    /// Goes on after `last`, which is where the file ends.
    pub(super) fn open(tree: &Path, last: Link) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(tree.join(NAME))?;
        Ok(Self { file, pending: Vec::new(), last })
    }

    /// Records an event and returns its number. It is durable after the batch that it belongs to.
    pub(super) fn append(&mut self, event: &str) -> io::Result<u64> {
        self.last = self.last.next(event);
        writeln!(self.pending, "{} {event} {}", self.last.counter, self.last.chain)?;
        if self.last.counter.is_multiple_of(BATCH) {
            self.flush()?;
        }
        Ok(self.last.counter)
    }

    /// Makes everything durable that was recorded.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.pending)?;
        self.pending.clear();
        self.file.sync_data()
    }

    /// The end of the chain.
    pub(super) fn last(&self) -> &Link {
        &self.last
    }
}

/// Reads a journal from its beginning; what is wrong comes with the number of the line.
pub(super) fn check(tree: &Path) -> Result<Link, (u64, String)> {
    let fail = |line, error: io::Error| (line, error.to_string());
    let reader = BufReader::new(File::open(tree.join(NAME)).map_err(|error| fail(0, error))?);
    let mut last = Link::genesis();
    for line in reader.lines() {
        let number = last.counter + 1;
        let line = line.map_err(|error| fail(number, error))?;
        let event = line.strip_prefix(&format!("{number} ")).and_then(|rest| rest.rsplit_once(' '));
        let (event, chain) = event.ok_or_else(|| (number, "the record is not the next one".to_owned()))?;
        last = last.next(event);
        if last.chain != chain {
            return Err((number, "its checksum does not follow from the line before".to_owned()));
        }
    }
    Ok(last)
}
