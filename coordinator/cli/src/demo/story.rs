//! What the demonstration prints: a short story with a table, or one JSON value for each of its parts.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::app::{Checked, Summary};
use super::{Passed, Passes, STAGES};
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
        for (name, passed) in ["tree", "image"].into_iter().zip(passes.each()) {
            line(format!("{name:<6} source       {}", digest(passed, "digest_source")));
            line(format!("{:<6} destination  {}  {}", "", digest(passed, "digest_destination"), self.opinion(passed)));
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
        let (entries, bytes) = (passes.sum("/proof/entries") as u64, passes.sum("/proof/bytes") as u64);
        self.printer.line(&format!(
            "{} both volumes were equal: {}, {}; the application went on there to act {} without a gap",
            self.printer.paint.green("PROVEN"),
            human::entries(entries),
            human::bytes(bytes),
            human::count(continued.counter)
        ));
        self.printer.json(&json!({ "demo": {
            "proven": true,
            "counter": continued.counter,
            "downtime_seconds": downtime.as_secs_f64(),
        } }));
    }

    fn opinion(&self, passed: &Passed) -> String {
        let paint = self.printer.paint;
        if passed.is_proven { paint.green("equal") } else { paint.red("NOT PROVEN") }
    }

    fn say(&self, line: &str) {
        if !self.is_quiet {
            self.printer.line(line);
        }
    }

    fn json_passes(&self, stage: u64, passes: &Passes) {
        let volumes: Value = json!({ "tree": passes.tree.report, "image": passes.image.report });
        self.printer.json(&json!({ "stage": stage, "volumes": volumes }));
    }
}

const HEADING: &str = "stage     scanned   changed        read        sent      time          rate  downtime now";

fn row(name: &str, passes: &Passes, predicted: Option<f64>) -> String {
    let bytes = |pointers: &[&str]| human::bytes(pointers.iter().map(|pointer| passes.sum(pointer) as u64).sum());
    format!(
        "{name:<5}{:>12}{:>10}{:>12}{:>12}{:>10}{:>14}{:>14}",
        bytes(&["/bytes_scanned"]),
        human::count(passes.sum("/entries_changed") as u64),
        bytes(&["/bytes_read_source", "/bytes_read_destination"]),
        bytes(&["/bytes_sent"]),
        human::seconds(passes.duration.as_secs_f64()),
        human::rate(passes.sum("/rate_bytes_per_second")),
        predicted.map_or("-".to_owned(), human::seconds),
    )
    .trim_end()
    .to_owned()
}

fn digest<'a>(passed: &'a Passed, key: &str) -> &'a str {
    passed.report[key].as_str().unwrap_or("was not read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_ends_where_its_heading_ends() {
        let report = json!({ "bytes_scanned": 1_000 << 20, "entries_changed": 61_234, "rate_bytes_per_second": 1e9 });
        let passed = Passed { report, is_proven: false };
        let passes = Passes { tree: passed.clone(), image: passed, duration: Duration::from_secs(125) };
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
