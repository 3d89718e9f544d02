//! What files there must be.

use std::collections::BTreeMap;
use std::fmt;

use crate::noise;

/// How many folders files are spread over.
pub(crate) const FOLDERS: u64 = 16;
/// How many names there are; at most half of them are files.
const NAMES: u64 = 400;
/// Length of an ordinary piece of a file.
const PIECE_BYTES_MAX: u64 = 32 << 10;
/// Length of a rare large one.
const LARGE_BYTES: u64 = 1 << 20;

/// Something that is done to the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// A file comes, or is replaced as a whole.
    Put { name: String, bytes: usize },
    /// A part of a file is written in place; it may grow by that.
    Patch { name: String, offset: usize, bytes: usize },
    /// A file gets a name that no other has.
    Rename { from: String, to: String },
    /// A file goes.
    Delete { name: String },
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { name, bytes } => write!(f, "put {name} {bytes}"),
            Self::Patch { name, offset, bytes } => write!(f, "patch {name} {offset} {bytes}"),
            Self::Rename { from, to } => write!(f, "rename {from} {to}"),
            Self::Delete { name } => write!(f, "delete {name}"),
        }
    }
}

impl Act {
    /// Reads what was written by `Display`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let name = |at: usize| words.get(at).map(|name| (*name).to_owned());
        let number = |at: usize| words.get(at).and_then(|number| number.parse().ok());
        Some(match *words.first()? {
            "put" => Self::Put { name: name(1)?, bytes: number(2)? },
            "patch" => Self::Patch { name: name(1)?, offset: number(2)?, bytes: number(3)? },
            "rename" => Self::Rename { from: name(1)?, to: name(2)? },
            "delete" => Self::Delete { name: name(1)? },
            _ => return None,
        })
    }

    /// Names of files that it touches.
    pub(crate) fn names(&self) -> Vec<&str> {
        match self {
            Self::Put { name, .. } | Self::Patch { name, .. } | Self::Delete { name } => vec![name],
            Self::Rename { from, to } => vec![from, to],
        }
    }
}

/// All files of a run, with what is in them.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    run: String,
    files: BTreeMap<String, Vec<u8>>,
}

impl Tree {
    /// Before the first act.
    pub(crate) fn new(run: &str) -> Self {
        Self { run: run.to_owned(), files: BTreeMap::new() }
    }

    pub(crate) fn files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.files
    }

    /// What an act writes.
    pub(crate) fn content(&self, number: u64, bytes: usize) -> Vec<u8> {
        let mut content = vec![0; bytes];
        noise::fill(&self.run, number, "content", &mut content);
        content
    }

    /// The act with this number.
    pub(crate) fn choose(&self, number: u64) -> Act {
        let random = |usage: &str, below: u64| noise::number(&self.run, number, usage) % below;
        let name = |n: u64| format!("d{:02}/f{n:03}", n % FOLDERS);
        let bytes = if random("large", 128) == 0 { LARGE_BYTES } else { random("bytes", PIECE_BYTES_MAX) } as usize;
        let count = self.files.len() as u64;
        let put = || Act::Put { name: name(random("name", NAMES)), bytes };
        let Some((old, content)) = self.files.iter().nth(random("old", count.max(1)) as usize) else { return put() };
        match random("kind", 10) {
            _ if count >= NAMES / 2 => Act::Delete { name: old.clone() },
            0..4 => put(),
            4..7 => {
                let offset = random("offset", content.len() as u64 + 1) as usize;
                Act::Patch { name: old.clone(), offset, bytes: bytes.min(PIECE_BYTES_MAX as usize) }
            }
            7..9 => {
                let first = random("name", NAMES);
                let free = (first..first + NAMES).map(|n| name(n % NAMES)).find(|to| !self.files.contains_key(to));
                Act::Rename { from: old.clone(), to: free.expect("half of the names are free") }
            }
            _ => Act::Delete { name: old.clone() },
        }
    }

    /// Does to this tree what the act does to the files.
    pub(crate) fn apply(&mut self, number: u64, act: &Act) {
        match act {
            Act::Put { name, bytes } => {
                let content = self.content(number, *bytes);
                self.files.insert(name.clone(), content);
            }
            Act::Patch { name, offset, bytes } => {
                let piece = self.content(number, *bytes);
                let file = self.files.entry(name.clone()).or_default();
                file.resize(file.len().max(offset + bytes), 0);
                file[*offset..offset + bytes].copy_from_slice(&piece);
            }
            Act::Rename { from, to } => {
                if let Some(content) = self.files.remove(from) {
                    self.files.insert(to.clone(), content);
                }
            }
            Act::Delete { name } => {
                self.files.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acts_are_read_as_they_were_written_and_all_kinds_come() {
        let mut tree = Tree::new("run");
        let mut kinds = std::collections::BTreeSet::new();
        for number in 1..2000 {
            let act = tree.choose(number);
            assert_eq!(Act::parse(&act.to_string()).as_ref(), Some(&act));
            kinds.insert(act.to_string().split(' ').next().expect("a word").to_owned());
            tree.apply(number, &act);
        }
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["delete", "patch", "put", "rename"]);
        assert!(tree.files().len() > 20, "{} files", tree.files().len());
    }
}
