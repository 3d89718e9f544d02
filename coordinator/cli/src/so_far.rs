//! How far a pass is, in words: the same for one of this process, one that is heard of, and one that a record tells of.

use tranship_api::view::Running;
use tranship_proto::control::Progress;

use crate::human;

/// How far a pass is within its phase. A total is 0 while it is not known.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SoFar<'a> {
    pub(crate) phase: &'a str,
    pub(crate) entries_done: u64,
    pub(crate) entries_total: u64,
    pub(crate) bytes_done: u64,
    pub(crate) bytes_total: u64,
    pub(crate) bytes_per_second: f64,
    pub(crate) seconds_left: Option<f64>,
    pub(crate) gaps: u64,
}

impl SoFar<'_> {
    /// Bytes if their number is known, else entries: how many are done, of how many.
    pub(crate) fn share(&self) -> (u64, u64) {
        let (done, total) = match self.bytes_total {
            0 => (self.entries_done, self.entries_total),
            total => (self.bytes_done, total),
        };
        (done.min(total), total)
    }

    /// One line.
    pub(crate) fn sentence(&self) -> String {
        let of =
            |done: String, total: String, is_known: bool| if is_known { format!("{done} of {total}") } else { done };
        let mut parts = vec![self.phase.to_owned()];
        if self.bytes_done > 0 || self.bytes_total > 0 {
            parts.push(of(human::bytes(self.bytes_done), human::bytes(self.bytes_total), self.bytes_total > 0));
        }
        if self.bytes_per_second >= 1.0 {
            parts.push(human::rate(self.bytes_per_second));
        }
        parts.extend(self.seconds_left.map(|seconds| format!("{} left", human::seconds(seconds))));
        // Last, since a narrow terminal cuts it; and of a single one the bytes say more.
        if self.entries_done > 1 || self.entries_total > 1 {
            let (done, total) = (human::count(self.entries_done), human::count(self.entries_total));
            parts.push(format!("{} entries", of(done, total, self.entries_total > 0)));
        }
        if self.gaps > 0 {
            parts.push(format!("{} gaps", human::count(self.gaps)));
        }
        parts.join(", ")
    }
}

impl<'a> From<&'a Progress> for SoFar<'a> {
    fn from(heard: &'a Progress) -> Self {
        Self {
            phase: &heard.phase,
            entries_done: heard.entries_done,
            entries_total: heard.entries_total,
            bytes_done: heard.bytes_done,
            bytes_total: heard.bytes_total,
            bytes_per_second: heard.bytes_per_second,
            seconds_left: heard.seconds_left,
            gaps: heard.gaps,
        }
    }
}

impl<'a> From<&'a Running> for SoFar<'a> {
    fn from(running: &'a Running) -> Self {
        Self {
            phase: &running.phase,
            entries_done: running.entries_done,
            entries_total: running.entries_total,
            bytes_done: running.bytes_done,
            bytes_total: running.bytes_total,
            bytes_per_second: running.bytes_per_second,
            seconds_left: running.seconds_left,
            gaps: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_has_only_what_is_known() {
        let nothing = SoFar { phase: "connecting", ..SoFar::default() };
        assert_eq!((nothing.sentence().as_str(), nothing.share()), ("connecting", (0, 0)));
        let scanning = SoFar { phase: "scanning", entries_done: 1_200, ..SoFar::default() };
        assert_eq!(scanning.sentence(), "scanning, 1,200 entries");
        let copying = SoFar {
            phase: "copying",
            entries_done: 3,
            entries_total: 12,
            bytes_done: 1 << 20,
            bytes_total: 4 << 20,
            bytes_per_second: (1 << 20) as f64,
            seconds_left: Some(3.0),
            gaps: 2,
        };
        assert_eq!(copying.share(), (1 << 20, 4 << 20));
        let sentence = "copying, 1.00 MiB of 4.00 MiB, 1.00 MiB/s, 3.00 s left, 3 of 12 entries, 2 gaps";
        assert_eq!(copying.sentence(), sentence);
    }
}
