//! What could not be carried: all of it counted, and as much of it listed as anybody reads.

use std::collections::{BTreeMap, BTreeSet};

use tranship_proto::Place;
use tranship_proto::message::{Gap, GapKind, Item};

/// Gaps that are listed, and their bytes in memory, about. Of each kind there is at least one.
const LISTED_MAX: usize = 10_000;
const LISTED_BYTES_MAX: usize = 8 << 20;

/// Gaps of one pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gaps {
    listed: Vec<Gap>,
    listed_bytes: usize,
    listed_kinds: BTreeSet<GapKind>,
    counts: BTreeMap<GapKind, u64>,
}

impl Gaps {
    /// One more.
    pub fn push(&mut self, gap: Gap) {
        *self.counts.entry(gap.what).or_default() += 1;
        self.list(gap);
    }

    /// All that another list has, in addition.
    pub fn append(&mut self, other: Self) {
        for (kind, count) in other.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        other.listed.into_iter().for_each(|gap| self.list(gap));
    }

    /// What was found when the same volume was read again: the same gaps, or most of them, and maybe more.
    pub fn append_reread(&mut self, other: Self) {
        let known: BTreeSet<(Place, GapKind)> = self.listed.iter().map(|gap| (gap.place.clone(), gap.what)).collect();
        for (kind, count) in other.counts {
            let before = self.counts.entry(kind).or_default();
            *before = count.max(*before);
        }
        for gap in other.listed {
            if !known.contains(&(gap.place.clone(), gap.what)) {
                self.list(gap);
            }
        }
    }

    fn list(&mut self, gap: Gap) {
        if self.listed_kinds.insert(gap.what)
            || (self.listed.len() < LISTED_MAX && self.listed_bytes < LISTED_BYTES_MAX)
        {
            self.listed_bytes += gap.bytes();
            self.listed.push(gap);
        }
    }

    /// The first of them.
    pub fn listed(&self) -> &[Gap] {
        &self.listed
    }

    /// How many there are of each kind.
    pub fn counts(&self) -> &BTreeMap<GapKind, u64> {
        &self.counts
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

impl Extend<Gap> for Gaps {
    fn extend<All: IntoIterator<Item = Gap>>(&mut self, gaps: All) {
        gaps.into_iter().for_each(|gap| self.push(gap));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(number: usize, what: GapKind, detail_bytes: usize) -> Gap {
        let place = Place::from_bytes(number.to_string().into_bytes()).unwrap();
        Gap { place, what, detail: "x".repeat(detail_bytes) }
    }

    #[test]
    fn all_are_counted_and_of_each_kind_there_is_one_to_see() {
        let mut gaps = Gaps::default();
        gaps.extend((0..LISTED_MAX + 5).map(|number| gap(number, GapKind::Owner, 0)));
        gaps.push(gap(1, GapKind::Acl, 0));
        gaps.push(gap(2, GapKind::Acl, 0));
        assert_eq!(gaps.total(), LISTED_MAX as u64 + 7);
        assert_eq!(gaps.counts()[&GapKind::Acl], 2);
        assert_eq!(gaps.listed().len(), LISTED_MAX + 1);
    }

    #[test]
    fn what_is_listed_takes_little_memory_whatever_a_peer_says() {
        let mut gaps = Gaps::default();
        gaps.extend((0..LISTED_MAX).map(|number| gap(number, GapKind::Limit, 100_000)));
        let bytes: usize = gaps.listed().iter().map(Item::bytes).sum();
        assert!(bytes < LISTED_BYTES_MAX + (1 << 20) && gaps.total() == LISTED_MAX as u64, "{bytes}");
    }

    #[test]
    fn what_is_found_again_counts_once() {
        let (mut gaps, mut again) = (Gaps::default(), Gaps::default());
        gaps.extend([gap(1, GapKind::Owner, 0), gap(2, GapKind::Mode, 0)]);
        again.extend([gap(1, GapKind::Owner, 3), gap(3, GapKind::Owner, 0)]);
        gaps.append_reread(again);
        assert_eq!(gaps.counts(), &BTreeMap::from([(GapKind::Owner, 2), (GapKind::Mode, 1)]));
        assert_eq!(gaps.listed().len(), 3);
    }
}
