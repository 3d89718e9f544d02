//! The journal of a run: lines, each with a digest of itself and of all before.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use blake3::Hash;

use crate::error::WriterError;
use crate::tree::Act;

/// Something that the journal tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A run begins; it is the first line.
    Start(String),
    /// An act is about to be done.
    Begin(u64, Act),
    /// It is done, and durable.
    Done(u64),
}

impl Entry {
    fn text(&self) -> String {
        match self {
            Self::Start(run) => format!("start {run}"),
            Self::Begin(number, act) => format!("begin {number} {act}"),
            Self::Done(number) => format!("done {number}"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (word, rest) = text.split_once(' ')?;
        match word {
            "start" => Some(Self::Start(rest.to_owned())),
            "begin" => {
                let (number, act) = rest.split_once(' ')?;
                Some(Self::Begin(number.parse().ok()?, Act::parse(act)?))
            }
            "done" => rest.parse().ok().map(Self::Done),
            _ => None,
        }
    }
}

/// A journal at its end.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// The digest of the last line.
    digest: Hash,
}

impl Journal {
    /// Opens it, or makes an empty one, to be written on. A last line that was cut off goes.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Entry>), WriterError> {
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(path).map_err(WriterError::io(path))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(WriterError::io(path))?;
        let (entries, whole, digest) = parse(&text)?;
        file.set_len(whole as u64).map_err(WriterError::io(path))?;
        file.seek(SeekFrom::End(0)).map_err(WriterError::io(path))?;
        Ok((Self { path: path.to_owned(), file, digest }, entries))
    }

    /// What one tells.
    pub(crate) fn read(path: &Path) -> Result<Vec<Entry>, WriterError> {
        let text = std::fs::read(path).map_err(WriterError::io(path))?;
        parse(&text).map(|(entries, ..)| entries)
    }

    /// Appends a line; after that it is durable.
    pub(crate) fn append(&mut self, entry: &Entry) -> Result<(), WriterError> {
        let text = entry.text();
        self.digest = chain(&self.digest, &text);
        let line = format!("{text} {}\n", self.digest.to_hex());
        self.file.write_all(line.as_bytes()).map_err(WriterError::io(&self.path))?;
        self.file.sync_data().map_err(WriterError::io(&self.path))
    }
}

fn chain(before: &Hash, text: &str) -> Hash {
    blake3::Hasher::new().update(before.as_bytes()).update(text.as_bytes()).finalize()
}

/// Entries, the length of all whole lines, and the digest of the last one.
fn parse(text: &[u8]) -> Result<(Vec<Entry>, usize, Hash), WriterError> {
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let lines = std::str::from_utf8(&text[..whole]).map_err(|_| WriterError::Journal { line: 0 })?;
    let (mut entries, mut digest) = (Vec::new(), blake3::hash(&[]));
    for (at, line) in lines.lines().enumerate() {
        let broken = || WriterError::Journal { line: at + 1 };
        let (text, told) = line.rsplit_once(' ').ok_or_else(broken)?;
        digest = chain(&digest, text);
        if digest.to_hex().as_str() != told {
            return Err(broken());
        }
        entries.push(Entry::parse(text).ok_or_else(broken)?);
    }
    Ok((entries, whole, digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> [Entry; 3] {
        let act = Act::Delete { name: "d00/f000".to_owned() };
        [Entry::Start("run".to_owned()), Entry::Begin(1, act), Entry::Done(1)]
    }

    #[test]
    fn what_was_appended_is_read_and_a_line_that_was_cut_off_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("journal");
        for entry in &entries() {
            let (mut journal, _) = Journal::open(&path).expect("opened");
            journal.append(entry).expect("appended");
        }
        assert_eq!(Journal::read(&path).expect("read"), entries());
        let text = std::fs::read(&path).expect("read");
        std::fs::write(&path, &text[..text.len() - 1]).expect("written");
        let (mut journal, before) = Journal::open(&path).expect("opened");
        assert_eq!(before, entries()[..2]);
        journal.append(&entries()[2]).expect("appended");
        assert_eq!(std::fs::read(&path).expect("read"), text);
    }

    #[test]
    fn a_line_that_is_missing_or_changed_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("journal");
        let (mut journal, _) = Journal::open(&path).expect("opened");
        entries().iter().try_for_each(|entry| journal.append(entry)).expect("appended");
        let text = std::fs::read_to_string(&path).expect("read");
        let lines: Vec<&str> = text.lines().collect();
        for broken in [format!("{}\n{}\n", lines[0], lines[2]), text.replace("f000", "f001"), format!("{text}\n")] {
            std::fs::write(&path, &broken).expect("written");
            assert!(matches!(Journal::read(&path), Err(WriterError::Journal { .. })), "{broken}");
        }
    }
}
