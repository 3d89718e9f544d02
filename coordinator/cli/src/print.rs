//! Results on standard output: sentences for people, one line of JSON for scripts.

use std::io::{self, Write};

use serde::Serialize;
use tranship_agent::report::{Basis, Kind, LeftOut, Report, Verdict, level_name};

use crate::args::Output;
use crate::error::RunError;
use crate::human;
use crate::paint::Paint;

/// Lines of a list that people are shown; scripts get all.
const LIST_LINES_MAX: usize = 20;

/// Standard output, in the form that was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    pub(crate) output: Output,
    pub(crate) paint: Paint,
}

impl Printer {
    /// Whether scripts read.
    pub(crate) fn is_json(self) -> bool {
        self.output != Output::Text
    }

    /// One line of text; nothing in JSON.
    pub(crate) fn line(self, line: &str) {
        if !self.is_json() {
            write_line(line);
        }
    }

    /// One JSON value on a line of its own; nothing in text.
    pub(crate) fn json(self, value: &impl Serialize) {
        match self.output {
            Output::Text => {}
            Output::Json => {
                write_line(&serde_json::to_string(value).expect("reports hold nothing that JSON cannot say"))
            }
            Output::Yaml => self.yaml(value),
        }
    }

    /// One value that is its own text: YAML for people, too.
    pub(crate) fn document(self, value: &impl Serialize) {
        if self.output == Output::Json { self.json(value) } else { self.yaml(value) }
    }

    fn yaml(self, value: &impl Serialize) {
        let text = tranship_coordinator::yaml::write(value).expect("reports hold nothing that YAML cannot say");
        write_line(&format!("---\n{}", text.trim_end()));
    }

    /// A remark for people on standard error; nothing for scripts.
    pub(crate) fn aside(self, line: &str) {
        if !self.is_json() {
            // There is nowhere to complain about a standard error that is gone.
            let _ = writeln!(io::stderr(), "{line}");
        }
    }

    /// The ticket: the first line that a receiver prints.
    pub(crate) fn ticket(self, ticket: &str) {
        // Alone on its line in every form, so that whoever reads it needs to know nothing else.
        write_line(ticket);
    }

    /// A pass.
    pub(crate) fn report(self, report: &Report) {
        self.line(report_text(report, self.paint).trim_end());
        self.json(report);
    }

    /// What a receiver has seen: how the passes went, their sources tell.
    pub(crate) fn received(self, report: &Report) {
        self.line(&received_text(report));
        self.json(report);
    }

    /// A comparison.
    pub(crate) fn verdict(self, verdict: &Verdict) {
        self.line(verdict_text(verdict, self.paint).trim_end());
        self.json(verdict);
    }

    /// An error, once: to people on standard error, to scripts as the last line of standard output.
    pub(crate) fn error(self, error: &RunError) {
        if self.is_json() {
            self.json(&error.to_json());
        } else {
            // There is nowhere to complain about a standard error that is gone.
            let _ = writeln!(io::stderr(), "{}", error.to_text());
        }
    }
}

/// A reader that is gone (`tranship … | head -1`) is no failure of the pass.
fn write_line(line: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

fn report_text(report: &Report, paint: Paint) -> String {
    let counts = &report.counts;
    let pass = if report.is_final { "final pass" } else { "stage" };
    let (what, changed) = match (report.kind, counts.entries_changed) {
        (Kind::Tree, changed) => (format!("{}, ", human::entries(counts.entries_scanned)), human::entries(changed)),
        (Kind::Block, 0) => (String::new(), "nothing".to_owned()),
        (Kind::Block, _) => (String::new(), "parts of the volume".to_owned()),
    };
    let mut lines =
        vec![paint.bold(format!("{pass} {} done in {}", report.stage, human::seconds(report.duration_seconds)))];
    let mut row = |name: &str, value: String| lines.push(format!("  {name:<12}{value}"));
    row("scanned", format!("{what}{}", human::bytes(counts.bytes_scanned)));
    let renamed = match counts.entries_moved {
        0 => String::new(),
        moved => format!(", {} renamed", human::count(moved)),
    };
    row("changed", format!("{changed}{renamed}"));
    row(
        "read",
        format!(
            "{} at the source, {} at the destination",
            human::bytes(counts.bytes_read_source),
            human::bytes(counts.bytes_read_destination)
        ),
    );
    let content = match counts.bytes_literal {
        0 => String::new(),
        bytes => format!(", {} of content at {}", human::bytes(bytes), human::rate(report.rate_bytes_per_second)),
    };
    row("sent", format!("{}{content}", human::bytes(counts.bytes_sent)));
    row("written", human::bytes(counts.bytes_written_destination));
    row(
        "basis",
        match report.basis {
            Basis::Common => "the last pass".to_owned(),
            Basis::Survey => "what the destination holds, compared in full".to_owned(),
            Basis::Nothing => "nothing: everything was sent".to_owned(),
        },
    );
    if let Some(transport) = &report.transport {
        row("link", format!("{}, round trip {:.1} ms", transport.name, transport.rtt_ms));
    }
    if counts.racy_entries > 0 {
        row(
            "in motion",
            format!("{} changed meanwhile: the next pass takes them again", human::entries(counts.racy_entries)),
        );
    }
    if let Some(missing) = report.confinement.as_ref().filter(|confinement| !confinement.notes.is_empty()) {
        row("confined", format!("in part: {}", missing.notes.join("; ")));
    }
    if let (false, Some(seconds)) = (report.is_final, report.predicted_final_seconds) {
        row("prediction", format!("a final pass would cost {} of downtime now", human::seconds(seconds)));
    }
    list_left_out(&mut lines, &report.left_out);
    let gaps = report.gaps.iter().map(|gap| {
        let accepted = if gap.accepted { "accepted" } else { "NOT accepted" };
        format!("{} {}: {} ({accepted})", gap.kind.word(), gap.path, gap.detail)
    });
    list(&mut lines, "gaps", report.gap_counts.iter().map(|gaps| gaps.count).sum(), gaps);
    if report.is_final {
        lines.extend(proof_lines(report, paint));
    }
    lines.join("\n")
}

fn proof_lines(report: &Report, paint: Paint) -> Vec<String> {
    let digest = |digest: Option<_>| {
        digest.map_or("not read".to_owned(), |digest: tranship_agent::report::Digest| digest.to_string())
    };
    let mut lines = vec![
        format!("  {:<12}{}", "source", digest(report.digest_source)),
        format!("  {:<12}{}", "destination", digest(report.digest_destination)),
    ];
    lines.push(match &report.proof {
        Some(proof) if report.is_proven() => format!(
            "{} both volumes hold the same {} and {} (level {})",
            paint.green("PROVEN"),
            human::entries(proof.entries),
            human::bytes(proof.bytes),
            level_name(proof.level),
        ),
        _ => format!("{} do not start the application on the destination", paint.red("NOT PROVEN")),
    });
    lines
}

fn received_text(report: &Report) -> String {
    let bytes = human::bytes(report.counts.bytes_received);
    let time = human::seconds(report.duration_seconds);
    match report.stage {
        0 => "received no pass".to_owned(),
        1 => format!("received one pass: {bytes} in {time}"),
        passes => format!("received {} passes; the last: {bytes} in {time}", human::count(passes)),
    }
}

fn verdict_text(verdict: &Verdict, paint: Paint) -> String {
    let mut lines = vec![format!("A  {}", verdict.digest_a), format!("B  {}", verdict.digest_b)];
    list_left_out(&mut lines, &verdict.left_out);
    let differences = verdict.differences.iter().map(|difference| format!("{}: {}", difference.path, difference.what));
    list(&mut lines, "differences", verdict.differences.len() as u64, differences);
    let size = format!(
        "{}, {}, read in {}",
        human::entries(verdict.entries),
        human::bytes(verdict.bytes),
        human::seconds(verdict.duration_seconds)
    );
    lines.push(if verdict.is_equal() {
        format!("{} {size}", paint.green("EQUAL"))
    } else {
        format!("{} in {}; {size}", paint.red("DIFFERENT"), human::entries(verdict.differences_total))
    });
    lines.join("\n")
}

/// The first of `items`, of which there are `total`.
fn list(lines: &mut Vec<String>, name: &str, total: u64, items: impl Iterator<Item = String>) {
    if total > 0 {
        lines.push(format!("  {name} ({})", human::count(total)));
    }
    lines.extend(items.take(LIST_LINES_MAX).map(|item| format!("    {item}")));
    if total > LIST_LINES_MAX as u64 {
        lines.push(format!("    … and {} more; see --output json", human::count(total - LIST_LINES_MAX as u64)));
    }
}

fn list_left_out(lines: &mut Vec<String>, left_out: &[LeftOut]) {
    let items = left_out.iter().map(|left| format!("{} ({})", left.path, left.reason));
    list(lines, "left out", left_out.len() as u64, items);
}

#[cfg(test)]
mod tests {
    use tranship_agent::report::{Difference, Digest, Fidelity, Gap, GapKind, Place};

    use super::*;

    #[test]
    fn a_receiver_says_what_it_has_seen_and_nothing_else() {
        let mut report = Report::new(0, false, Kind::Tree, Basis::Common);
        assert_eq!(received_text(&report), "received no pass");
        (report.stage, report.counts.bytes_received, report.duration_seconds) = (1, 3 << 20, 1.5);
        assert_eq!(received_text(&report), "received one pass: 3.00 MiB in 1.50 s");
        report.stage = 2;
        assert_eq!(received_text(&report), "received 2 passes; the last: 3.00 MiB in 1.50 s");
    }

    #[test]
    fn a_final_pass_without_proof_says_so_without_colour() {
        let mut report = Report::new(4, true, Kind::Tree, Basis::Common);
        report.digest_source = Some(Digest([1; 32]));
        report.gaps = vec![Gap { path: Place::root(), kind: GapKind::Acl, detail: "EPERM".into(), accepted: false }];
        let text = report_text(&report, Paint::off());
        for part in ["final pass 4", "NOT PROVEN", "not read", "acl .: EPERM (NOT accepted)"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn a_long_list_is_cut_and_says_how_long_it_is() {
        let difference = Difference { path: Place::root(), what: "content".into() };
        let verdict = Verdict {
            version: 1,
            kind: Kind::Tree,
            mode: Fidelity::Plain,
            digest_a: Digest([1; 32]),
            digest_b: Digest([2; 32]),
            entries: 30,
            bytes: 0,
            duration_seconds: 0.0,
            differences: vec![difference; 25],
            differences_total: 25,
            left_out: Vec::new(),
        };
        let text = verdict_text(&verdict, Paint::off());
        assert!(text.contains("differences (25)") && text.contains("… and 5 more") && text.contains("DIFFERENT in 25"));
    }
}
