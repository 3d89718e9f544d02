//! What a cutover has to keep.

use std::fmt;

use crate::cases::Case;
use crate::outcome::Outcome;

/// Most that a pair may hold while it waits.
const IDLE_BYTES_MAX: f64 = (32u64 << 20) as f64;

/// The share of one core below which work counts as none.
const IDLE_LOAD_MAX: f64 = 0.001;

/// Most that a move may add to the downtime of an application at proof level `tracked`, in seconds.
const ADDED_SECONDS_MAX: f64 = 5.0;

/// Most that a move may add, of what the script adds.
const ADDED_SHARE_MAX: f64 = 1.0 / 3.0;

/// By what a projection and what happened may differ.
const PROJECTION_FACTOR_MAX: f64 = 1.5;

/// One limit, and what was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bar {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    /// Nothing where it was not measured.
    pub(crate) measured: Option<f64>,
    pub(crate) limit: f64,
}

impl Bar {
    pub(crate) fn is_kept(&self) -> Option<bool> {
        self.measured.map(|measured| measured < self.limit)
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, unit, measured, limit } = self;
        let word = match self.is_kept() {
            Some(true) => "kept",
            Some(false) => "MISSED",
            None => "not seen",
        };
        let measured = measured.map_or("–".to_owned(), |measured| format!("{measured:.2}{unit}"));
        write!(f, "{word:<9} {what}: {measured}, below {limit:.2}{unit}")
    }
}

/// All bars of a case, of which `ours` and `theirs` are the outcomes so far.
pub(crate) fn judge(case: &Case, ours: Option<&Outcome>, theirs: Option<&Outcome>) -> Vec<Bar> {
    let Some(ours) = ours else { return Vec::new() };
    let bar = |what: &str, unit: &'static str, measured: Option<f64>, limit: f64| Bar {
        what: what.to_owned(),
        unit,
        measured,
        limit,
    };
    let last_copy = format!("final pass and proof at level {}", case.level);
    let mut bars = vec![bar(&last_copy, " s", Some(ours.last_copy()), case.last_copy_seconds_max)];
    if case.level == "tracked" {
        bars.push(bar("downtime added", " s", ours.added(), ADDED_SECONDS_MAX));
    }
    let share = theirs.and_then(|theirs| Some(ours.added()? / theirs.added()?));
    bars.push(bar("downtime added, of what the script adds", "", share, ADDED_SHARE_MAX));
    let factor = ours.told.projected_seconds.map(|projected| factor(projected, ours.own_downtime()));
    bars.push(bar("the projection and what happened, the larger by the smaller", "", factor, PROJECTION_FACTOR_MAX));
    if case.measures_idle {
        let idle = ours.told.idle.as_ref();
        let mebibyte = (1u64 << 20) as f64;
        let memory = idle.map(|idle| idle.memory_bytes() as f64 / mebibyte);
        bars.push(bar("memory of an idle pair", " MiB", memory, IDLE_BYTES_MAX / mebibyte));
        let load = idle.map(|idle| idle.load() * 100.0);
        bars.push(bar("work of an idle pair", " % of a core", load, IDLE_LOAD_MAX * 100.0));
    }
    bars
}

fn factor(a: f64, b: f64) -> f64 {
    f64::max(a / b, b / a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_says_whether_it_is_kept_and_by_which_figure() {
        for (measured, word) in
            [(Some(1.0), "kept "), (Some(1.5), "MISSED "), (Some(2.0), "MISSED "), (None, "not seen ")]
        {
            let bar = Bar { what: "it".to_owned(), unit: " s", measured, limit: 1.5 };
            assert!(bar.to_string().starts_with(word), "{bar}");
        }
        assert_eq!((factor(3.0, 2.0), factor(2.0, 3.0)), (1.5, 1.5));
    }
}
