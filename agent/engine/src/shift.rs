//! Bytes that moved inside a content, found by the digests of where they were.
//!
//! What is inserted moves everything behind it: the old leaves then stand in the new content at a *distance*, new offset
//! less old offset, which is the same until the next insertion or deletion. So little has to be searched for. A distance
//! is guessed, from the piece before, from what the sizes differ by, and the digest of each old leaf decides.

use tranship_proto::id::Digest;
use tranship_proto::limit::LEAF_BYTES;
use tranship_proto::message::Extent;

use crate::delta::Writer;
use crate::digest::Digester;

const LEAF: i64 = LEAF_BYTES as i64;

/// Old bytes in the new content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Where they are now.
    pub new: u64,
    /// Where they were.
    pub old: u64,
    /// How many there are.
    pub bytes: u64,
}

impl Run {
    /// New offset less old offset.
    pub fn distance(&self) -> i64 {
        self.new as i64 - self.old as i64
    }

    fn end(&self) -> u64 {
        self.new + self.bytes
    }
}

/// A part of the new content, in memory.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    /// Its offset.
    pub at: u64,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl Window<'_> {
    fn get(&self, at: i64, bytes: usize) -> Option<&[u8]> {
        let from = usize::try_from(at - self.at as i64).ok()?;
        self.bytes.get(from..from + bytes)
    }
}

/// The old content, as far as anybody knows it.
pub struct Old<'a> {
    /// Bytes that it had.
    pub size: u64,
    /// The digest of its leaf of this number, if it is known.
    pub leaf: &'a dyn Fn(u64) -> Option<Digest>,
}

/// Old bytes in `[from, to)` of the new content at one of `distances`, of which earlier ones come first; in the order
/// of the new content. A leaf of which a part lies outside of `window` is not found.
pub fn find(window: Window<'_>, from: u64, to: u64, distances: &[i64], old: &Old<'_>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for &distance in distances {
        let mut found = Vec::new();
        let mut gap = from;
        for run in runs.iter().copied().chain([Run { new: to, old: 0, bytes: 0 }]) {
            if gap < run.new {
                find_at(window, gap, run.new, distance, old, &mut found);
            }
            gap = run.end();
        }
        runs.extend(found);
        runs.sort_unstable_by_key(|run| run.new);
        if runs.iter().map(|run| run.bytes).sum::<u64>() == to - from {
            break;
        }
    }
    runs
}

fn find_at(window: Window<'_>, from: u64, to: u64, distance: i64, old: &Old<'_>, found: &mut Vec<Run>) {
    let digester = Digester::canonical();
    let (from, to) = (from as i64, to as i64);
    let mut number = (from - distance).div_euclid(LEAF).max(0);
    while number * LEAF + distance < to && ((number * LEAF) as u64) < old.size {
        let at = number * LEAF + distance;
        let bytes = LEAF.min(old.size as i64 - number * LEAF);
        let is_there = window.get(at, bytes as usize).is_some_and(|now| {
            // A digest that is not known is not made for nothing.
            (old.leaf)(number as u64).is_some_and(|leaf| digester.leaf(now) == leaf)
        });
        let (start, end) = (at.max(from), (at + bytes).min(to));
        if is_there && start < end {
            let run = Run { new: start as u64, old: (start - distance) as u64, bytes: (end - start) as u64 };
            match found.last_mut().filter(|last| last.end() == run.new && last.distance() == distance) {
                Some(last) => last.bytes += run.bytes,
                None => found.push(run),
            }
        }
        number += 1;
    }
}

/// The delta that makes the leaves in `sent` of the piece at offset `at` with these `bytes` from `runs`, and the extents
/// that it copies from.
pub fn delta(bytes: &[u8], at: u64, sent: impl Iterator<Item = (usize, usize)>, runs: &[Run]) -> (Vec<Extent>, Writer) {
    let base: Vec<Extent> = runs.iter().map(|run| Extent { at: run.old, bytes: run.bytes as u32 }).collect();
    let mut writer = Writer::default();
    for (from, to) in sent {
        let (mut done, end) = (from * LEAF_BYTES, (to * LEAF_BYTES).min(bytes.len()));
        let mut offset = 0;
        for run in runs {
            let (start, stop) = ((run.new - at) as usize, (run.end() - at) as usize);
            if start.max(done) < stop.min(end) {
                if done < start {
                    writer.literal(&bytes[done..start]);
                    done = start;
                }
                writer.copy(offset + (done - start) as u32, (stop.min(end) - done) as u32);
                done = stop.min(end);
            }
            offset += run.bytes as u32;
        }
        if done < end {
            writer.literal(&bytes[done..end]);
        }
    }
    (base, writer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(seed: u64, bytes: usize) -> Vec<u8> {
        let mut made = vec![0; bytes];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut made);
        made
    }

    fn found(old: &[u8], new: &[u8], from: u64, to: u64, distances: &[i64]) -> Vec<Run> {
        let leaves: Vec<Digest> = Digester::canonical().leaves(old).collect();
        let leaf = |number: u64| leaves.get(number as usize).copied();
        let old = Old { size: old.len() as u64, leaf: &leaf };
        find(Window { at: 0, bytes: new }, from, to, distances, &old)
    }

    #[test]
    fn everything_behind_an_insertion_is_found_at_its_distance() {
        let old = noise(1, 5 * LEAF_BYTES + 77);
        let new = [&old[..100], b"inserted", &old[100..]].concat();
        let runs = found(&old, &new, 0, new.len() as u64, &[8]);
        let first = Run { new: LEAF_BYTES as u64 + 8, old: LEAF_BYTES as u64, bytes: 4 * LEAF_BYTES as u64 + 77 };
        assert_eq!(runs, [first]);
    }

    #[test]
    fn two_edits_are_found_at_two_distances() {
        let old = noise(2, 20 * LEAF_BYTES);
        let cut = 10 * LEAF_BYTES + 5;
        let new = [&old[..cut], &old[cut + 1_000..], b"end"].concat();
        let runs = found(&old, &new, 0, new.len() as u64, &[0, -1_000]);
        assert_eq!(runs.iter().map(Run::distance).collect::<Vec<_>>(), [0, -1_000]);
        let old_bytes: u64 = runs.iter().map(|run| run.bytes).sum();
        assert_eq!(old_bytes, (20 - 1) * LEAF_BYTES as u64);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_delta_over_the_runs_makes_the_new_bytes(
            cut in 0usize..60_000, removed in 0usize..40_000, inserted in 0usize..40_000,
            from in 0u64..100_000, sent in prop::collection::vec(prop::bool::ANY, 12),
        ) {
            let old = noise(3, 150_000);
            let new = [&old[..cut], &noise(4, inserted), &old[cut + removed..]].concat();
            let at = from.min(new.len() as u64 - 1);
            let to = (at + 12 * LEAF_BYTES as u64).min(new.len() as u64);
            let runs = found(&old, &new, at, to, &[inserted as i64 - removed as i64, 0]);
            let piece = &new[at as usize..to as usize];
            let leaves = piece.len().div_ceil(LEAF_BYTES);
            let sent: Vec<(usize, usize)> = (0..leaves).filter(|&leaf| sent[leaf]).map(|leaf| (leaf, leaf + 1)).collect();
            let expected: Vec<u8> = sent
                .iter()
                .flat_map(|&(from, to)| &piece[from * LEAF_BYTES..(to * LEAF_BYTES).min(piece.len())])
                .copied()
                .collect();
            let (base, writer) = delta(piece, at, sent.into_iter(), &runs);
            let base: Vec<u8> = base
                .iter()
                .flat_map(|extent| &old[extent.at as usize..extent.at as usize + extent.bytes as usize])
                .copied()
                .collect();
            let made = crate::delta::apply(&base, &writer.finish(), expected.len()).unwrap();
            prop_assert_eq!(made, expected);
        }
    }
}
