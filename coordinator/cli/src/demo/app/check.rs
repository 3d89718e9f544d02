//! Reads everything again: nothing may be missing, damaged, old, or there without reason.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::content::{BLOCK_BYTES, check_block, check_document};
use super::index::{self, Entry, Index, Slots};
use super::journal;
use super::tree::chain_of;
use super::{Broken, Checked, Summary};

/// Checks both volumes against what the application said when it stopped.
pub(super) fn check(tree: &Path, image: &Path, expected: &Summary) -> Result<Checked, Broken> {
    let (index, digest) = Index::load(tree).map_err(|why| Broken::Index { why })?;
    if digest != expected.index {
        return Err(Broken::Index { why: "it is not the one that the application wrote last".to_owned() });
    }
    check_journal(tree, &index, expected)?;
    let mut checked = Checked { counter: index.counter, files: 0, bytes: 0, blocks: 0, index };
    check_names(tree, &checked.index)?;
    for (path, entry) in &checked.index.tree.files {
        let bytes = check_file(tree, path, entry).map_err(|why| Broken::File { path: path.clone(), why })?;
        checked.files += 1;
        checked.bytes += bytes;
    }
    checked.blocks =
        check_slots(image, checked.index.image_bytes, &checked.index.image).map_err(|why| Broken::Image { why })?;
    checked.bytes += checked.index.image_bytes;
    Ok(checked)
}

fn check_journal(tree: &Path, index: &Index, expected: &Summary) -> Result<(), Broken> {
    let last = journal::check(tree).map_err(|(line, why)| Broken::Journal { line, why })?;
    if last.counter != expected.counter || last.counter != index.counter || last.chain != index.chain {
        let why = format!("it ends there, and not with {} as the application did", expected.counter);
        return Err(Broken::Journal { line: last.counter, why });
    }
    Ok(())
}

/// Compares the names in the folder with those in the index.
fn check_names(tree: &Path, index: &Index) -> Result<(), Broken> {
    let mut found = BTreeSet::new();
    list(tree, "", &mut found).map_err(|error| Broken::File { path: ".".to_owned(), why: error.to_string() })?;
    let own = [journal::NAME, index::NAME].map(str::to_owned);
    let expected: BTreeSet<String> =
        index.tree.files.keys().chain(&index.tree.directories).cloned().chain(own).collect();
    if let Some(path) = expected.difference(&found).next() {
        return Err(Broken::File { path: path.clone(), why: "it is missing".to_owned() });
    }
    if let Some(path) = found.difference(&expected).next() {
        return Err(Broken::File { path: path.clone(), why: "it should not be there".to_owned() });
    }
    Ok(())
}

fn list(root: &Path, directory: &str, found: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(directory))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
        if entry.file_type()?.is_dir() {
            list(root, &path, found)?;
        }
        found.insert(path);
    }
    Ok(())
}

/// Checks one file and returns its logical size.
fn check_file(tree: &Path, path: &str, entry: &Entry) -> Result<u64, String> {
    let full = tree.join(path);
    let words = |error: io::Error| error.to_string();
    let meta = fs::symlink_metadata(&full).map_err(words)?;
    if let Entry::Symlink { target } = entry {
        let found = fs::read_link(&full).map_err(words)?;
        return if found == Path::new(target) { Ok(0) } else { Err(format!("it points to {}", found.display())) };
    }
    if !meta.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    match entry {
        Entry::Document { id, generation, .. } => check_document(&fs::read(&full).map_err(words)?, *id, *generation)?,
        Entry::Log { lines, chain } => check_log(&full, *lines, chain)?,
        Entry::Sparse { bytes, slots } => drop(check_slots(&full, *bytes, slots)?),
        Entry::Link { leader } => {
            let other = fs::symlink_metadata(tree.join(leader)).map_err(words)?;
            if (meta.dev(), meta.ino()) != (other.dev(), other.ino()) {
                return Err(format!("it is no longer the same file as {leader}"));
            }
        }
        Entry::Symlink { .. } => {}
    }
    Ok(meta.len())
}

fn check_log(path: &Path, lines: u64, chain: &str) -> Result<(), String> {
    let reader = BufReader::new(File::open(path).map_err(|error| error.to_string())?);
    let (mut count, mut last) = (0, String::new());
    for line in reader.lines() {
        let line = line.map_err(|error| error.to_string())?;
        count += 1;
        let (text, found) = line.rsplit_once(' ').ok_or_else(|| format!("line {count} is cut off"))?;
        last = chain_of(&last, text);
        if last != found {
            return Err(format!("line {count} does not follow from the one before"));
        }
    }
    if count == lines && last == chain { Ok(()) } else { Err(format!("it has {count} lines of {lines}")) }
}

/// Reads every slot of a file, written or not, and returns how many were written.
fn check_slots(path: &Path, bytes: u64, slots: &Slots) -> Result<u64, String> {
    let words = |error: io::Error| error.to_string();
    let file = File::open(path).map_err(words)?;
    let found = file.metadata().map_err(words)?.len();
    if found != bytes {
        return Err(format!("it has {found} bytes, not {bytes}"));
    }
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut block = vec![0; BLOCK_BYTES];
    for slot in 0..bytes / BLOCK_BYTES as u64 {
        reader.read_exact(&mut block).map_err(words)?;
        check_block(&block, slot, slots.get(&slot).copied()).map_err(|why| format!("block {slot}: {why}"))?;
    }
    Ok(slots.len() as u64)
}
