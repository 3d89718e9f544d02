//! Where a pass is, for whoever watches it: shared counters that cost nothing to move, and a few lines for the user.
//!
//! The pass writes and never waits; watchers take a [`Snapshot`] when they like. Nothing here prints, and nothing here
//! is evidence: what counts in the end is the [`Report`](crate::report::Report).

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// Notes that are kept until they are taken; more are counted and not kept.
const NOTES_MAX: usize = 64;

macro_rules! phases {
    ($($(#[$doc:meta])* $name:ident, $word:literal;)*) => {
        /// What a pass is doing, in the order in which it does it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Phase { $($(#[$doc])* $name,)* }

        impl Phase {
            /// All phases, in order.
            pub const ALL: &'static [Phase] = &[$(Self::$name),*];

            /// The word that users and scripts see.
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

phases! {
    /// The two agents find and greet each other.
    Connecting, "connecting";
    /// The source looks for what changed.
    Scanning, "scanning";
    /// The destination reads what no common manifest tells.
    Surveying, "surveying";
    /// The source decides what to send.
    Planning, "planning";
    /// Contents travel.
    Copying, "copying";
    /// Links, special files and metadata.
    Finishing, "finishing";
    /// Both sides make their manifests durable.
    Committing, "committing";
    /// What was written is read back, and for a proof both volumes are read again.
    Proving, "proving";
    /// Nothing is left to do.
    Done, "done";
}

/// The counters of one pass, shared between those who move them and those who watch.
///
/// Counters are moved one by one, so a snapshot may show a `done` that is newer than its `total`: watchers clamp.
#[derive(Debug, Default)]
pub struct Monitor {
    phase: AtomicU8,
    entries_total: AtomicU64,
    entries_done: AtomicU64,
    bytes_total: AtomicU64,
    bytes_done: AtomicU64,
    bytes_sent: AtomicU64,
    gaps: AtomicU64,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    kept: Vec<String>,
    dropped: u64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// What the pass is doing.
    pub phase: Phase,
    /// Entries that this phase has to deal with, as far as it is known; 0 while it is not.
    pub entries_total: u64,
    /// Entries of them that were dealt with.
    pub entries_done: u64,
    /// Bytes of content that this phase has to deal with, as far as it is known; 0 while it is not.
    pub bytes_total: u64,
    /// Bytes of them that were dealt with.
    pub bytes_done: u64,
    /// Bytes that this side has given to the link in this pass.
    pub bytes_sent: u64,
    /// Things that could not be carried so far.
    pub gaps: u64,
}

impl Monitor {
    /// A monitor of a pass that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes to another phase, with what is known of its size; what was done starts at 0 again.
    pub fn enter(&self, phase: Phase, entries_total: u64, bytes_total: u64) {
        self.reach(0, 0);
        self.expect(entries_total, bytes_total);
        // The discriminant is the index in `ALL`.
        self.phase.store(phase as u8, Relaxed);
    }

    /// What this phase has to deal with, when it becomes known or changes.
    pub fn expect(&self, entries_total: u64, bytes_total: u64) {
        self.entries_total.store(entries_total, Relaxed);
        self.bytes_total.store(bytes_total, Relaxed);
    }

    /// So much more was dealt with in this phase.
    pub fn advance(&self, entries: u64, bytes: u64) {
        self.entries_done.fetch_add(entries, Relaxed);
        self.bytes_done.fetch_add(bytes, Relaxed);
    }

    /// So much was dealt with in this phase up to now.
    pub fn reach(&self, entries: u64, bytes: u64) {
        self.entries_done.store(entries, Relaxed);
        self.bytes_done.store(bytes, Relaxed);
    }

    /// So many more bytes were given to the link.
    pub fn sent(&self, bytes: u64) {
        self.bytes_sent.fetch_add(bytes, Relaxed);
    }

    /// So many more things could not be carried.
    pub fn gaps(&self, gaps: u64) {
        self.gaps.fetch_add(gaps, Relaxed);
    }

    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        let phase = usize::from(self.phase.load(Relaxed));
        Snapshot {
            phase: Phase::ALL.get(phase).copied().unwrap_or(Phase::Done),
            entries_total: self.entries_total.load(Relaxed),
            entries_done: self.entries_done.load(Relaxed),
            bytes_total: self.bytes_total.load(Relaxed),
            bytes_done: self.bytes_done.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            gaps: self.gaps.load(Relaxed),
        }
    }

    /// Shows what another process showed of itself.
    pub fn repeat(&self, seen: &Snapshot) {
        self.phase.store(seen.phase as u8, Relaxed);
        self.expect(seen.entries_total, seen.bytes_total);
        self.reach(seen.entries_done, seen.bytes_done);
        self.bytes_sent.store(seen.bytes_sent, Relaxed);
        self.gaps.store(seen.gaps, Relaxed);
    }

    /// Keeps a line for the user, such as `the manifest of the destination was lost: contents are compared`.
    ///
    /// For what the user must know of the whole pass, not for single entries: beyond a small number lines are only
    /// counted.
    pub fn note(&self, line: impl Into<String>) {
        let mut notes = self.notes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if notes.kept.len() < NOTES_MAX {
            notes.kept.push(line.into());
        } else {
            notes.dropped += 1;
        }
    }

    /// The lines since the last call, and one more if some were not kept.
    pub fn take_notes(&self) -> Vec<String> {
        let Notes { mut kept, dropped } =
            std::mem::take(&mut *self.notes.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        if dropped > 0 {
            kept.push(format!("{dropped} more notes were not kept"));
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_what_was_entered_last_and_starts_at_nothing() {
        let monitor = Monitor::new();
        assert_eq!(monitor.snapshot().phase, Phase::Connecting);
        for &phase in Phase::ALL {
            monitor.enter(phase, 10, 1_000);
            monitor.advance(1, 100);
            monitor.sent(7);
            let seen = monitor.snapshot();
            assert_eq!((seen.phase, seen.entries_done, seen.bytes_done), (phase, 1, 100));
        }
        assert_eq!(monitor.snapshot().bytes_sent, 7 * Phase::ALL.len() as u64);
    }

    #[test]
    fn notes_are_taken_once_and_never_grow_without_end() {
        let monitor = Monitor::new();
        for number in 0..NOTES_MAX + 3 {
            monitor.note(format!("note {number}"));
        }
        let notes = monitor.take_notes();
        assert_eq!(notes.len(), NOTES_MAX + 1);
        assert_eq!(notes.last().map(String::as_str), Some("3 more notes were not kept"));
        assert!(monitor.take_notes().is_empty());
    }
}
