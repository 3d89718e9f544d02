//! What a ledger decides, as functions of what was seen: whose copy leads, who may start, and what a write does about
//! something that it did not expect. What is not known never decides anything in anybody's favour.

use tranship_api::record::Authority;
use tranship_api::{Record, Side};

/// What each cluster says of the right to run the application: source, destination; nothing if that is not known.
pub(super) type Says<'a> = [Option<&'a Authority>; 2];

/// How far a word is: of two, the later one holds. The heir's word follows the owner's of the same cutover.
fn rank(authority: &Authority) -> Option<(u64, bool)> {
    match *authority {
        Authority::None => None,
        Authority::Relinquished { epoch, .. } => Some((epoch, false)),
        Authority::Authoritative { epoch, .. } => Some((epoch, true)),
    }
}

/// The side whose copy of the record leads; nothing where that cannot be told.
///
/// Who is authoritative leads: nobody else can become so before this side has given up, in its own cluster. Who has given
/// up leads until the other has taken over, which only the other's cluster can tell.
pub(super) fn lead(says: Says<'_>) -> Option<Side> {
    let leads = |side: Side| {
        let (own, other) = (rank(says[side as usize]?)?, says[side.other() as usize]);
        match other {
            Some(other) => Some(Some(own) > rank(other)),
            None => Some(own.1),
        }
    };
    Side::ALL.into_iter().find(|&side| leads(side) == Some(true))
}

/// Whether a side may start the application: by its own word, and only as long as no later one of the other is known. That
/// there is such a one beside it takes an override by a user.
pub(super) fn may_start(says: Says<'_>, side: Side) -> bool {
    matches!(says[side as usize], Some(Authority::Authoritative { .. })) && lead(says) == Some(side)
}

/// One copy: the record, and its cluster's word.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version<'a> {
    pub(super) record: &'a Record,
    pub(super) authority: &'a Authority,
}

/// What a write does that found another version than the one that it was decided from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is what was to be written: the answer was lost.
    Written,
    /// Nothing has changed that matters to what was decided: write over it.
    Over,
    /// Somebody else works on this migration.
    Theirs,
}

/// Judges a version that was `found` where `basis` was expected, or nothing, by whoever wants to write `ours`.
pub(super) fn judge(found: Version<'_>, basis: Option<Version<'_>>, ours: Version<'_>) -> Verdict {
    if (found.record, found.authority) == (ours.record, ours.authority) {
        return Verdict::Written;
    }
    // The limit of what is sent is changed by anybody, and without a new revision.
    let is_basis = basis.is_some_and(|basis| {
        is_by_the_same(found.record, basis.record) && found.record.revision == basis.record.revision
    });
    // An own write of which the answer was not heard.
    let is_own = is_by_the_same(found.record, ours.record) && found.record.revision < ours.record.revision;
    let expected = basis.map_or(ours.authority, |basis| basis.authority);
    if (is_basis || is_own) && found.authority == expected { Verdict::Over } else { Verdict::Theirs }
}

/// The same for a copy that only follows: what somebody left there who has lost the right to it is written over.
pub(super) fn judge_mirror(found: Version<'_>, basis: Option<Version<'_>>, ours: Version<'_>) -> Verdict {
    let is_left = found.record.epoch < ours.record.epoch && found.authority == ours.authority;
    if is_left { Verdict::Over } else { judge(found, basis, ours) }
}

fn is_by_the_same(one: &Record, other: &Record) -> bool {
    (one.epoch, &one.coordinator) == (other.epoch, &other.coordinator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::sim::record;

    fn authoritative(epoch: u64) -> Authority {
        Authority::Authoritative { epoch, relinquished: None }
    }

    fn relinquished(epoch: u64) -> Authority {
        Authority::Relinquished { epoch, digests: Vec::new() }
    }

    #[test]
    fn who_leads_is_told_by_the_later_word_and_never_by_a_lost_cluster() {
        use Side::{Destination, Source};
        let (first, given, taken, back) = (authoritative(0), relinquished(2), authoritative(2), authoritative(5));
        let (none, given_back) = (Authority::None, relinquished(5));
        for (says, expected, starts) in [
            ([Some(&first), Some(&none)], Some(Source), Some(Source)),
            ([Some(&given), Some(&none)], Some(Source), None),
            ([Some(&given), Some(&taken)], Some(Destination), Some(Destination)),
            ([Some(&given), Some(&given_back)], Some(Destination), None),
            ([Some(&back), Some(&given_back)], Some(Source), Some(Source)),
            // A user has overridden the source, which has come back.
            ([Some(&first), Some(&taken)], Some(Destination), Some(Destination)),
            ([Some(&first), None], Some(Source), Some(Source)),
            ([Some(&given), None], None, None),
            ([None, Some(&none)], None, None),
            ([None, None], None, None),
            ([Some(&none), Some(&none)], None, None),
        ] {
            assert_eq!(lead(says), expected, "{says:?}");
            for side in Side::ALL {
                assert_eq!(may_start(says, side), starts == Some(side), "{says:?}");
            }
        }
    }

    #[test]
    fn a_write_goes_over_its_basis_and_its_own_lost_answers_only() {
        let by = |epoch: u64, coordinator: &str, revision: u64| tranship_api::Record {
            epoch,
            coordinator: coordinator.to_owned(),
            revision,
            ..record()
        };
        let (word, given) = (authoritative(0), relinquished(6));
        let (basis, ours) = (by(6, "y", 8), by(7, "x", 9));
        let judged = |found: &Record,
                      authority: &Authority,
                      judges: fn(Version<'_>, Option<Version<'_>>, Version<'_>) -> Verdict| {
            let version = |record, authority| Version { record, authority };
            judges(version(found, authority), Some(version(&basis, &word)), version(&ours, &word))
        };
        assert_eq!(judged(&ours, &word, judge), Verdict::Written);
        assert_eq!(judged(&basis, &word, judge), Verdict::Over);
        assert_eq!(judged(&by(7, "x", 8), &word, judge), Verdict::Over);
        // What the other one did after it was read: it moved on, it gave up, it was overtaken itself.
        assert_eq!(judged(&by(6, "y", 9), &word, judge), Verdict::Theirs);
        assert_eq!(judged(&by(6, "y", 9), &given, judge_mirror), Verdict::Theirs);
        assert_eq!(judged(&by(7, "z", 9), &word, judge), Verdict::Theirs);
        assert_eq!(judged(&by(8, "z", 9), &word, judge_mirror), Verdict::Theirs);
        assert_eq!(judged(&by(6, "y", 9), &word, judge_mirror), Verdict::Over);
    }
}
