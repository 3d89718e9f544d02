//! The outcomes of a case, side by side.

use crate::outcome::{LAST_COPY, Outcome};

const LABEL_WIDTH: usize = 40;

/// The table, as people read it. What a contestant does not have, or was not seen, is a dash.
pub(crate) fn text(outcomes: &[Outcome]) -> String {
    let mut lines = vec![line("", outcomes.iter().map(|outcome| outcome.who.name().to_owned()))];
    for step in ["stop", "release", LAST_COPY, "commit", "start until ready"] {
        let seconds = |outcome: &Outcome| outcome.steps().into_iter().find(|(name, _)| *name == step).map(|(_, s)| s);
        lines.push(figures(step, outcomes.iter().map(seconds)));
        if step == LAST_COPY {
            lines.push(figures("  of it between the agents", outcomes.iter().map(|one| one.told.pass_seconds)));
            if outcomes.iter().any(|one| one.reading().is_some()) {
                lines.push(figures("  reading both sides once, on this disk", outcomes.iter().map(Outcome::reading)));
            }
        }
    }
    lines.push(figures("all of it", outcomes.iter().map(|outcome| Some(outcome.own_downtime()))));
    lines.push(figures("projected before", outcomes.iter().map(|outcome| outcome.told.projected_seconds)));
    let applications = outcomes.first().map_or(&[][..], |outcome| &outcome.downtimes[..]);
    for (at, (application, _)) in applications.iter().enumerate() {
        lines.push(format!("  {}, as its client saw it", application.name()));
        let downtimes = || outcomes.iter().map(move |outcome| outcome.downtimes[at].1);
        lines.push(figures("  down", downtimes().map(|one| Some(one?.whole))));
        lines.push(figures("  its own stop", downtimes().map(|one| Some(one?.stop))));
        lines.push(figures("  its own start", downtimes().map(|one| Some(one?.start))));
        lines.push(figures("    of it until its container ran", downtimes().map(|one| Some(one?.volumes))));
        lines.push(figures("  added", downtimes().map(|one| Some(one?.added()))));
    }
    lines.push(line("acknowledged and lost", outcomes.iter().map(|outcome| outcome.lost.to_string())));
    let proven = |outcome: &Outcome| {
        outcome
            .told
            .bytes
            .map_or("nothing".to_owned(), |bytes| format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64))
    };
    lines.push(line("proven equal", outcomes.iter().map(proven)));
    lines.join("\n")
}

fn figures(label: &str, seconds: impl Iterator<Item = Option<f64>>) -> String {
    line(label, seconds.map(|seconds| seconds.map_or("–".to_owned(), |seconds| format!("{seconds:.2} s"))))
}

fn line(label: &str, cells: impl Iterator<Item = String>) -> String {
    cells.fold(format!("  {label:<LABEL_WIDTH$}"), |line, cell| format!("{line} {cell:>12}"))
}
