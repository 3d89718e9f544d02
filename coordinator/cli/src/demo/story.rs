//! What the demonstration prints: a short story with a table, or one JSON value for each of its parts.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tranship_agent::report::{Digest, Report};

use super::app::{Checked, Summary};
use super::{Passes, STAGES};
use crate::human;
use crate::print::Printer;

/// Tells what happens, as it happens.
pub(super) struct Story {
    printer: Printer,
    is_quiet: bool,
}

impl Story {
    pub(super) fn new(printer: Printer, is_quiet: bool) -> Self {
        Self { printer, is_quiet }
    }

    pub(super) fn begin(&self, seed: u64, bytes: u64, kept: Option<&std::path::PathBuf>) {
        let paint = self.printer.paint;
        self.say(&format!("{}  seed {seed}, {}", paint.bold("tranship demo"), human::bytes(bytes)));
        if let Some(path) = kept {
            self.printer.line(&format!("both sides are kept in {}", path.display()));
        }
        let path = kept.map(|path: &std::path::PathBuf| Path::new(path).display().to_string());
        self.printer.json(&json!({ "demo": { "seed": seed, "bytes": bytes, "kept": path } }));
    }

    pub(super) fn application_runs(&self, counter: u64) {
        self.say(&format!(
            "an application writes to a tree of files and to a block image, {} acts so far, and does not stop\n",
            human::count(counter)
        ));
        self.printer.line(&self.printer.paint.dim(HEADING));
    }

    pub(super) fn stage(&self, stage: u64, passes: &Passes) {
        self.printer.line(&row(&stage.to_string(), passes, passes.predicted_seconds()));
        self.json_passes(stage, passes);
    }

    pub(super) fn prediction(&self, predicted: Option<f64>) {
        let text = predicted.map_or("cannot be told".to_owned(), human::seconds);
        self.printer.line(&format!("\npredicted downtime {}", self.printer.paint.bold(text)));
    }

    pub(super) fn stopped(&self, summary: &Summary) {
        self.say(&format!(
            "the application stops after {} acts, with {} files and {} block records; the last pass begins\n",
            human::count(summary.counter),
            human::count(summary.files),
            human::count(summary.blocks)
        ));
    }

    pub(super) fn last_pass(&self, passes: &Passes, predicted: Option<f64>, downtime: Duration) {
        let line = |text: String| self.printer.line(&text);
        line(self.printer.paint.dim(HEADING));
        line(row("last", passes, None));
        line(String::new());
        for (name, report) in ["tree", "image"].into_iter().zip(passes.each()) {
            line(format!("{name:<6} source       {}", digest(report.digest_source)));
            line(format!("{:<6} destination  {}  {}", "", digest(report.digest_destination), self.opinion(report)));
        }
        let predicted = predicted.map_or("unknown".to_owned(), human::seconds);
        let actual = human::seconds(downtime.as_secs_f64());
        line(format!("\ndowntime predicted {predicted}, actual {}", self.printer.paint.bold(actual)));
        self.json_passes(STAGES + 1, passes);
    }

    pub(super) fn checked(&self, checked: &Checked) {
        self.say(&format!(
            "the application finds everything on the destination: {} files, {} block records, {} read, chain of {} acts",
            human::count(checked.files),
            human::count(checked.blocks),
            human::bytes(checked.bytes),
            human::count(checked.counter)
        ));
    }

    pub(super) fn proven(&self, passes: &Passes, continued: &Checked, downtime: Duration) {
        let entries = passes.sum(|report| report.proof.as_ref().map_or(0, |proof| proof.entries));
        let bytes = passes.sum(|report| report.proof.as_ref().map_or(0, |proof| proof.bytes));
        self.printer.line(&format!(
            "{} both volumes were equal: {} entries, {}; the application went on there to act {} without a gap",
            self.printer.paint.green("PROVEN"),
            human::count(entries),
            human::bytes(bytes),
            human::count(continued.counter)
        ));
        self.printer.json(&json!({ "demo": {
            "proven": true,
            "counter": continued.counter,
            "downtime_seconds": downtime.as_secs_f64(),
        } }));
    }

    fn opinion(&self, report: &Report) -> String {
        let paint = self.printer.paint;
        if report.is_proven() { paint.green("equal") } else { paint.red("NOT PROVEN") }
    }

    fn say(&self, line: &str) {
        if !self.is_quiet {
            self.printer.line(line);
        }
    }

    fn json_passes(&self, stage: u64, passes: &Passes) {
        let volumes: Value = json!({ "tree": passes.tree, "image": passes.image });
        self.printer.json(&json!({ "stage": stage, "volumes": volumes }));
    }
}

const HEADING: &str = "stage     scanned   changed        read        sent      time          rate  downtime now";

fn row(name: &str, passes: &Passes, predicted: Option<f64>) -> String {
    let bytes = |count: fn(&Report) -> u64| human::bytes(passes.sum(count));
    format!(
        "{name:<5}{:>12}{:>10}{:>12}{:>12}{:>10}{:>14}{:>14}",
        bytes(|report| report.counts.bytes_scanned),
        human::count(passes.sum(|report| report.counts.entries_changed)),
        bytes(|report| report.counts.bytes_read_source + report.counts.bytes_read_destination),
        bytes(|report| report.counts.bytes_sent),
        human::seconds(passes.duration.as_secs_f64()),
        human::rate(passes.each().iter().map(|report| report.rate_bytes_per_second).sum()),
        predicted.map_or("-".to_owned(), human::seconds),
    )
    .trim_end()
    .to_owned()
}

fn digest(digest: Option<Digest>) -> String {
    digest.map_or("was not read".to_owned(), |digest| digest.to_string())
}

#[cfg(test)]
mod tests {
    use tranship_agent::report::{Basis, Kind};

    use super::*;

    #[test]
    fn every_column_ends_where_its_heading_ends() {
        let mut report = Report::new(1, false, Kind::Tree, Basis::Nothing);
        report.counts.bytes_scanned = 1_000 << 20;
        report.counts.entries_changed = 61_234;
        report.rate_bytes_per_second = 1e9;
        let passes = Passes { tree: report.clone(), image: report, duration: Duration::from_secs(125) };
        let row = row("1", &passes, Some(0.5));
        assert_eq!(row.len(), HEADING.len(), "\n{HEADING}\n{row}");
        for (column, value) in
            [("scanned", "1.95 GiB"), ("changed", "122,468"), ("time", "2 min 05 s"), ("rate", "1.86 GiB/s")]
        {
            let ends = |text: &str, part: &str| text.find(part).map(|at| at + part.len());
            assert_eq!(ends(HEADING, column), ends(&row, value), "{column}\n{HEADING}\n{row}");
        }
    }
}
