//! The part of the application that writes files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use super::Shared;
use super::content::{BLOCK_BYTES, block, document};
use super::index::{Entry, Slots, TreeIndex};
use super::rng::Rng;

/// Bytes in a document's body.
const BODY_BYTES: std::ops::Range<u64> = 4 << 10..64 << 10;

/// Logical bytes of a sparse file, of which a few blocks are written.
const SPARSE_BYTES: u64 = 16 << 20;

const DIRECTORIES: u64 = 8;
const LOGS: u64 = 4;
const LINKED: u64 = 6;
const SPARSE: u64 = 2;

/// Writes into a folder, and knows what is in it.
#[derive(Debug)]
pub(super) struct TreeWriter {
    root: PathBuf,
    seed: u64,
    rng: Rng,
    index: TreeIndex,
}

impl TreeWriter {
    /// Goes on in a folder that holds what `index` says.
    pub(super) fn new(root: &Path, seed: u64, counter: u64, index: TreeIndex) -> Self {
        Self { root: root.to_owned(), seed, rng: Rng::new(seed ^ counter.rotate_left(32)), index }
    }

    /// Makes what the application starts with: about `bytes` of documents, and some of everything else.
    pub(super) fn populate(&mut self, bytes: u64, shared: &Shared) -> io::Result<()> {
        for name in ["data", "logs", "links", "sparse"] {
            self.add_directory(name.to_owned())?;
        }
        for _ in 0..DIRECTORIES {
            self.make_directory(shared)?;
        }
        for number in 0..LOGS {
            self.append_log(&format!("logs/app-{number}.log"), shared)?;
        }
        for number in 0..SPARSE {
            self.write_sparse(&format!("sparse/s-{number}"), shared)?;
        }
        for _ in 0..LINKED {
            self.make_linked(shared)?;
        }
        let mut written = 0;
        while written < bytes {
            written += self.create(shared)?;
        }
        self.point_latest(shared)
    }

    /// Does one thing that applications do.
    pub(super) fn step(&mut self, shared: &Shared) -> io::Result<()> {
        match self.rng.below(100) {
            0..30 => {
                let log = self.rng.below(LOGS);
                self.append_log(&format!("logs/app-{log}.log"), shared)
            }
            30..45 => self.replace(shared),
            45..60 => self.rewrite("data/", shared),
            60..70 => self.create(shared).map(drop),
            70..78 => self.delete(shared),
            78..85 => self.rename(shared),
            85..90 => {
                let number = self.rng.below(SPARSE);
                self.write_sparse(&format!("sparse/s-{number}"), shared)
            }
            90..94 => self.rewrite("links/", shared),
            94..96 => self.make_directory(shared),
            96..98 => self.move_directory(shared),
            _ => self.point_latest(shared),
        }
    }

    /// What the folder holds now.
    pub(super) fn into_index(self) -> TreeIndex {
        self.index
    }

    fn next_id(&mut self) -> u64 {
        self.index.next_id += 1;
        self.index.next_id
    }

    fn body_bytes(&mut self) -> u64 {
        BODY_BYTES.start + self.rng.below(BODY_BYTES.end - BODY_BYTES.start)
    }

    fn documents(&self, prefix: &str) -> Vec<String> {
        let is_document = |entry: &Entry| matches!(entry, Entry::Document { .. });
        let files = self.index.files.iter();
        files
            .filter(|(path, entry)| path.starts_with(prefix) && is_document(entry))
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// A document of those that come and go, if there is one.
    fn pick_document(&mut self, prefix: &str) -> Option<(String, u64, u64)> {
        let path = self.rng.pick(&self.documents(prefix))?.clone();
        match self.index.files.get(&path) {
            Some(&Entry::Document { id, body_bytes, .. }) => Some((path, id, body_bytes)),
            _ => None,
        }
    }

    fn pick_directory(&mut self) -> String {
        let directories: Vec<String> =
            self.index.directories.iter().filter(|path| path.starts_with("data/")).cloned().collect();
        self.rng.pick(&directories).cloned().unwrap_or_else(|| "data".to_owned())
    }

    fn add_directory(&mut self, path: String) -> io::Result<()> {
        fs::create_dir(self.root.join(&path))?;
        self.index.directories.insert(path);
        Ok(())
    }

    fn make_directory(&mut self, shared: &Shared) -> io::Result<()> {
        let path = format!("data/d-{}", self.next_id());
        shared.record(&format!("mkdir {path}"))?;
        self.add_directory(path)
    }

    /// Moves a directory with everything in it.
    fn move_directory(&mut self, shared: &Shared) -> io::Result<()> {
        let from = self.pick_directory();
        if from == "data" {
            return Ok(());
        }
        let to = format!("data/d-{}", self.next_id());
        shared.record(&format!("move {from} {to}"))?;
        fs::rename(self.root.join(&from), self.root.join(&to))?;
        self.index.directories.remove(&from);
        let inside = format!("{from}/");
        let paths: Vec<String> = self.index.files.keys().filter(|path| path.starts_with(&inside)).cloned().collect();
        for path in paths {
            if let Some(entry) = self.index.files.remove(&path) {
                self.index.files.insert(format!("{to}/{}", &path[inside.len()..]), entry);
            }
        }
        self.index.directories.insert(to);
        Ok(())
    }

    /// A new document; returns its bytes.
    fn create(&mut self, shared: &Shared) -> io::Result<u64> {
        let (id, body_bytes) = (self.next_id(), self.body_bytes());
        let path = format!("{}/f-{id}", self.pick_directory());
        let generation = shared.record(&format!("create {path}"))?;
        fs::write(self.root.join(&path), document(self.seed, id, generation, body_bytes as usize))?;
        self.index.files.insert(path, Entry::Document { id, generation, body_bytes });
        Ok(body_bytes)
    }

    /// A new content under the old name, by a temporary file and a rename: another inode.
    fn replace(&mut self, shared: &Shared) -> io::Result<()> {
        let Some((path, id, _)) = self.pick_document("data/") else { return Ok(()) };
        let body_bytes = self.body_bytes();
        let generation = shared.record(&format!("replace {path}"))?;
        let temporary = self.root.join("data/.new");
        fs::write(&temporary, document(self.seed, id, generation, body_bytes as usize))?;
        fs::rename(temporary, self.root.join(&path))?;
        self.index.files.insert(path, Entry::Document { id, generation, body_bytes });
        Ok(())
    }

    /// A new content of about the same size in the old inode, as databases do.
    fn rewrite(&mut self, prefix: &str, shared: &Shared) -> io::Result<()> {
        let Some((path, id, body_bytes)) = self.pick_document(prefix) else { return Ok(()) };
        let generation = shared.record(&format!("rewrite {path}"))?;
        let bytes = document(self.seed, id, generation, body_bytes as usize);
        let file = OpenOptions::new().write(true).open(self.root.join(&path))?;
        file.write_all_at(&bytes, 0)?;
        // The header may have become longer or shorter with the generation.
        file.set_len(bytes.len() as u64)?;
        self.index.files.insert(path, Entry::Document { id, generation, body_bytes });
        Ok(())
    }

    fn delete(&mut self, shared: &Shared) -> io::Result<()> {
        let Some((path, ..)) = self.pick_document("data/") else { return Ok(()) };
        shared.record(&format!("delete {path}"))?;
        fs::remove_file(self.root.join(&path))?;
        self.index.files.remove(&path);
        Ok(())
    }

    fn rename(&mut self, shared: &Shared) -> io::Result<()> {
        let Some((from, id, _)) = self.pick_document("data/") else { return Ok(()) };
        let to = format!("{}/r-{id}-{}", self.pick_directory(), self.next_id());
        shared.record(&format!("rename {from} {to}"))?;
        fs::rename(self.root.join(&from), self.root.join(&to))?;
        if let Some(entry) = self.index.files.remove(&from) {
            self.index.files.insert(to, entry);
        }
        Ok(())
    }

    /// A document with two names; it is only ever rewritten in place, so that both stay one.
    fn make_linked(&mut self, shared: &Shared) -> io::Result<()> {
        let (id, body_bytes) = (self.next_id(), self.body_bytes());
        let (leader, link) = (format!("links/l-{id}.a"), format!("links/l-{id}.b"));
        let generation = shared.record(&format!("link {leader} {link}"))?;
        fs::write(self.root.join(&leader), document(self.seed, id, generation, body_bytes as usize))?;
        fs::hard_link(self.root.join(&leader), self.root.join(&link))?;
        self.index.files.insert(leader.clone(), Entry::Document { id, generation, body_bytes });
        self.index.files.insert(link, Entry::Link { leader });
        Ok(())
    }

    fn append_log(&mut self, path: &str, shared: &Shared) -> io::Result<()> {
        let number = shared.record(&format!("append {path}"))?;
        let entry = self.index.files.entry(path.to_owned());
        let entry = entry.or_insert_with(|| Entry::Log { lines: 0, chain: String::new() });
        let Entry::Log { lines, chain } = entry else { return Ok(()) };
        let line = format!("{number} the application says hello for the {}th time", *lines + 1);
        (*lines, *chain) = (*lines + 1, chain_of(chain, &line));
        let mut file = OpenOptions::new().create(true).append(true).open(self.root.join(path))?;
        writeln!(file, "{line} {chain}")
    }

    fn write_sparse(&mut self, path: &str, shared: &Shared) -> io::Result<()> {
        let slot = self.rng.below(SPARSE_BYTES / BLOCK_BYTES as u64);
        let sequence = shared.record(&format!("sparse {path} {slot}"))?;
        let file: File = OpenOptions::new().create(true).truncate(false).write(true).open(self.root.join(path))?;
        file.set_len(SPARSE_BYTES)?;
        file.write_all_at(&block(self.seed, slot, sequence), slot * BLOCK_BYTES as u64)?;
        let entry = self.index.files.entry(path.to_owned());
        let entry = entry.or_insert_with(|| Entry::Sparse { bytes: SPARSE_BYTES, slots: Slots::new() });
        if let Entry::Sparse { slots, .. } = entry {
            slots.insert(slot, sequence);
        }
        Ok(())
    }

    /// A symbolic link to a document that may be gone later: dangling links are links too.
    fn point_latest(&mut self, shared: &Shared) -> io::Result<()> {
        let Some((target, ..)) = self.pick_document("data/") else { return Ok(()) };
        shared.record(&format!("symlink latest {target}"))?;
        let temporary = self.root.join(".latest.new");
        symlink(&target, &temporary)?;
        fs::rename(temporary, self.root.join("latest"))?;
        self.index.files.insert("latest".to_owned(), Entry::Symlink { target });
        Ok(())
    }
}

/// The chain of a log after one more line.
pub(super) fn chain_of(chain: &str, line: &str) -> String {
    blake3::hash(format!("{chain}{line}").as_bytes()).to_hex()[..16].to_owned()
}
