//! What was applied and is not known to be durable yet.

use std::time::Duration;

use tranship_proto::limit::{UNFLUSHED_BYTES_MAX, UNFLUSHED_ENTRIES_MAX, UNFLUSHED_MS_MAX};
use tranship_proto::message::Ack;

/// How long writes of a final pass wait for a flush. What is not flushed when its last byte has come is waited for by an
/// application that stands still.
const HURRIED_WAIT: Duration = Duration::from_millis(200);

/// How much was applied, how much of it a flush covers, and how much was flushed.
#[derive(Debug)]
pub(super) struct Unflushed {
    /// How long the first of it waits.
    wait: Duration,
    applied: Ack,
    /// What the flush covers that is under way.
    flushing: Option<Ack>,
    flushed: Ack,
    /// When the first was applied that no flush covers.
    since: Option<Duration>,
}

impl Default for Unflushed {
    fn default() -> Self {
        Self {
            wait: Duration::from_millis(UNFLUSHED_MS_MAX),
            applied: Ack::default(),
            flushing: None,
            flushed: Ack::default(),
            since: None,
        }
    }
}

impl Unflushed {
    /// From now on flushes follow each other closely, so that little is left for the last one.
    pub(super) fn hurry(&mut self) {
        self.wait = HURRIED_WAIT;
    }

    /// This was applied at `now`.
    pub(super) fn apply(&mut self, done: Ack, now: Duration) {
        self.applied.bytes += done.bytes;
        self.applied.entries += done.entries;
        self.since.get_or_insert(now);
    }

    /// Whether it has to be flushed now.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        let covered = self.flushing.unwrap_or(self.flushed);
        self.since.is_some_and(|since| {
            self.applied.bytes - covered.bytes >= UNFLUSHED_BYTES_MAX
                || self.applied.entries - covered.entries >= UNFLUSHED_ENTRIES_MAX
                || now.saturating_sub(since) >= self.wait
        })
    }

    /// When it will be due at the latest, if no flush is under way.
    pub(super) fn due_at(&self) -> Option<Duration> {
        self.since.filter(|_| self.flushing.is_none()).map(|since| since + self.wait)
    }

    /// Whether so much waits for the flush that is under way that nothing more may be applied.
    pub(super) fn is_full(&self) -> bool {
        self.applied.entries - self.flushed.entries >= 2 * UNFLUSHED_ENTRIES_MAX
    }

    /// Whether everything is durable.
    pub(super) fn is_empty(&self) -> bool {
        self.since.is_none() && self.flushing.is_none()
    }

    /// Whether a flush of all that was applied begins, which it does unless one is under way.
    pub(super) fn begin(&mut self) -> bool {
        if self.flushing.is_some() {
            return false;
        }
        self.flushing = Some(self.applied);
        self.since = None;
        true
    }

    /// The flush is done: so much is durable.
    pub(super) fn end(&mut self) -> Ack {
        self.flushed = self.flushing.take().expect("the driver reports each checkpoint once");
        self.flushed
    }

    /// What is durable.
    pub(super) fn flushed(&self) -> Ack {
        self.flushed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(7);

    fn after(bytes: u64, entries: u64) -> Unflushed {
        let mut unflushed = Unflushed::default();
        unflushed.apply(Ack { bytes, entries }, NOW);
        unflushed
    }

    #[test]
    fn a_flush_is_due_by_bytes_by_entries_and_by_time() {
        assert!(!Unflushed::default().is_due(NOW), "nothing was applied");
        assert!(!after(UNFLUSHED_BYTES_MAX - 1, UNFLUSHED_ENTRIES_MAX - 1).is_due(NOW));
        assert!(after(UNFLUSHED_BYTES_MAX, 1).is_due(NOW));
        assert!(after(0, UNFLUSHED_ENTRIES_MAX).is_due(NOW));
        let due_at = after(1, 1).due_at().expect("it waits");
        assert!(after(1, 1).is_due(due_at) && !after(1, 1).is_due(due_at - Duration::from_millis(1)));
    }

    #[test]
    fn in_a_hurry_a_flush_is_due_sooner() {
        let mut hurried = after(1, 1);
        hurried.hurry();
        assert!(hurried.due_at() < after(1, 1).due_at() && !hurried.is_due(NOW));
        assert!(hurried.is_due(hurried.due_at().expect("it waits")));
    }

    #[test]
    fn what_is_applied_while_a_flush_runs_is_not_covered_by_it_and_does_not_pile_up() {
        let mut unflushed = after(10, UNFLUSHED_ENTRIES_MAX);
        assert!(unflushed.begin() && !unflushed.begin() && unflushed.due_at().is_none());
        unflushed.apply(Ack { bytes: 5, entries: UNFLUSHED_ENTRIES_MAX - 1 }, NOW);
        assert!(!unflushed.is_full() && !unflushed.is_due(NOW));
        unflushed.apply(Ack { bytes: 5, entries: 1 }, NOW);
        assert!(unflushed.is_full() && unflushed.is_due(NOW));
        assert_eq!(unflushed.end(), Ack { bytes: 10, entries: UNFLUSHED_ENTRIES_MAX });
        assert!(!unflushed.is_full() && !unflushed.is_empty() && unflushed.begin());
        assert_eq!(unflushed.end(), Ack { bytes: 20, entries: 2 * UNFLUSHED_ENTRIES_MAX });
        assert!(unflushed.is_empty());
    }
}
