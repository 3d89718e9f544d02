//! What is copied: the same bytes for everybody, from a seed.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use tranship_tests::random::Random;

const BLOCK_BYTES: u64 = 4 << 10;

/// A file that does not compress.
pub(crate) fn make_random_file(path: &Path, bytes: u64, seed: u64) -> io::Result<()> {
    let mut random = Random::new(seed);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut block = vec![0; BLOCK_BYTES as usize];
    for _ in 0..bytes / BLOCK_BYTES {
        random.fill(&mut block);
        file.write_all(&block)?;
    }
    file.into_inner()?.sync_all()
}

/// A file of words: it compresses to about a third.
pub(crate) fn make_text_file(path: &Path, bytes: u64, seed: u64) -> io::Result<()> {
    let mut random = Random::new(seed);
    let words: Vec<Vec<u8>> = (0..4_096)
        .map(|_| (0..2 + random.below(8)).map(|_| b'a' + random.below(26) as u8).chain([b' ']).collect())
        .collect();
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut written = 0;
    while written < bytes {
        // Some words are more frequent than others.
        let rarity = random.below(4_096) + 1;
        let word = &words[random.below(rarity) as usize];
        file.write_all(word)?;
        written += word.len() as u64;
    }
    file.into_inner()?.sync_all()
}

/// Rewrites one in a hundred blocks where it is.
pub(crate) fn rewrite_blocks(path: &Path, seed: u64) -> io::Result<()> {
    let mut random = Random::new(seed);
    let file = File::options().write(true).open(path)?;
    let blocks = file.metadata()?.len() / BLOCK_BYTES;
    for _ in 0..blocks / 100 {
        let at = random.below(blocks) * BLOCK_BYTES;
        file.write_all_at(&random.bytes(BLOCK_BYTES as usize), at)?;
    }
    file.sync_all()
}

/// Writes 4 KiB somewhere in each MiB.
pub(crate) fn write_in_each_mebibyte(path: &Path, seed: u64) -> io::Result<()> {
    let mut random = Random::new(seed);
    let file = File::options().write(true).open(path)?;
    for mebibyte in 0..file.metadata()?.len() >> 20 {
        let at = (mebibyte << 20) + random.below((1 << 20) / BLOCK_BYTES) * BLOCK_BYTES;
        file.write_all_at(&random.bytes(BLOCK_BYTES as usize), at)?;
    }
    file.sync_all()
}

/// Files of 20 bytes with so many names each, so many in each folder; returns their bytes.
pub(crate) fn make_tiny_files(root: &Path, files: u64, in_folder: u64, names: u64) -> io::Result<u64> {
    for number in 0..files {
        let folder = root.join(format!("folder-{:05}", number / in_folder));
        if number % in_folder == 0 {
            fs::create_dir_all(&folder)?;
        }
        let path = folder.join(format!("file-{number:07}"));
        fs::write(&path, format!("{number:020}"))?;
        for name in 1..names {
            fs::hard_link(&path, folder.join(format!("file-{number:07}-{name}")))?;
        }
    }
    Ok(files * 20)
}

/// Inserts 64 bytes near the front, in place.
pub(crate) fn insert_near_the_front(path: &Path, seed: u64) -> io::Result<()> {
    const AT: u64 = 300_000;
    let file = File::options().read(true).write(true).open(path)?;
    let (mut at, mut buffer) = (AT, vec![0; 4 << 20]);
    // What still has to be written at `at`.
    let mut carried = Random::new(seed).bytes(64);
    loop {
        let read = file.read_at(&mut buffer, at)?;
        carried.extend_from_slice(&buffer[..read]);
        let rest = carried.split_off(if read == 0 { carried.len() } else { read });
        file.write_all_at(&carried, at)?;
        if read == 0 {
            break;
        }
        at += carried.len() as u64;
        carried = rest;
    }
    file.sync_all()
}

/// Files of 1 to 16 KiB, a hundred in each folder; returns their bytes.
pub(crate) fn make_small_files(root: &Path, files: u64, seed: u64) -> io::Result<u64> {
    let mut random = Random::new(seed);
    let mut total = 0;
    for number in 0..files {
        let folder = root.join(format!("folder-{:04}", number / 100));
        if number % 100 == 0 {
            fs::create_dir_all(&folder)?;
        }
        let size = (1 << 10) + random.below(15 << 10);
        fs::write(folder.join(format!("file-{number:06}")), random.bytes(size as usize))?;
        total += size;
    }
    Ok(total)
}

/// Whether two files hold the same bytes.
pub(crate) fn is_same_file(left: &Path, right: &Path) -> io::Result<bool> {
    let (mut left, mut right) = (BufReader::new(File::open(left)?), BufReader::new(File::open(right)?));
    let (mut a, mut b) = (Vec::new(), Vec::new());
    loop {
        for (file, buffer) in [(&mut left, &mut a), (&mut right, &mut b)] {
            buffer.clear();
            file.by_ref().take(1 << 20).read_to_end(buffer)?;
        }
        if a != b {
            return Ok(false);
        }
        if a.is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_block_in_a_hundred_changes_at_most() {
        let folder = tempfile::tempdir().expect("made");
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        make_random_file(&one, 2 << 20, 1).expect("made");
        make_random_file(&other, 2 << 20, 1).expect("made");
        assert!(is_same_file(&one, &other).expect("read"));
        rewrite_blocks(&other, 2).expect("written");
        assert!(!is_same_file(&one, &other).expect("read"));
        let (one, other) = (fs::read(one).expect("read"), fs::read(other).expect("read"));
        let changed = one.chunks(4096).zip(other.chunks(4096)).filter(|(a, b)| a != b).count();
        assert!((1..=5).contains(&changed), "{changed}");
    }
}
