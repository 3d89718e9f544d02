//! How far passes are, on standard error: bars on a terminal, else lines of text or JSON now and then.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tranship_agent::monitor::{Monitor, Phase, Snapshot};

use crate::args::{Global, Output};
use crate::so_far::SoFar;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// Not at all.
    Nothing,
    /// Bars, redrawn in place.
    Bars,
    /// A line of text each five seconds.
    Text,
    /// A line of JSON each second.
    Json,
    /// The same ten times a second, for a process that draws it.
    Relayed,
}

impl Show {
    /// What suits the flags and standard error.
    pub(crate) fn of(global: &Global) -> Self {
        match global.output {
            _ if global.quiet => Self::Nothing,
            Output::Json | Output::Yaml => Self::Json,
            Output::Text if io::stderr().is_terminal() => Self::Bars,
            Output::Text => Self::Text,
        }
    }

    fn interval(self) -> Duration {
        match self {
            Self::Bars | Self::Relayed => Duration::from_millis(100),
            Self::Json => Duration::from_secs(1),
            Self::Nothing | Self::Text => Duration::from_secs(5),
        }
    }
}

/// A thread that shows some passes until it is dropped.
pub(crate) struct Progress {
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Begins to show each of these monitors under its name.
    pub(crate) fn start(show: Show, watched: Vec<(String, Arc<Monitor>)>) -> Self {
        if show == Show::Nothing {
            return Self { end: None, thread: None };
        }
        let (end, ended) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut board = Board::new(show, watched);
            while ended.recv_timeout(show.interval()) == Err(RecvTimeoutError::Timeout) {
                board.draw();
            }
            board.finish();
        });
        Self { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A board that panicked has shown that already, and is no reason to fail a pass.
            let _ = thread.join();
        }
    }
}

struct Board {
    show: Show,
    bars: MultiProgress,
    rows: Vec<Row>,
    started: Instant,
}

struct Row {
    name: String,
    monitor: Arc<Monitor>,
    pace: Pace,
    bar: ProgressBar,
}

impl Board {
    fn new(show: Show, watched: Vec<(String, Arc<Monitor>)>) -> Self {
        let target = if show == Show::Bars { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bars = MultiProgress::with_draw_target(target);
        let style = ProgressStyle::with_template("{prefix:<8.bold} {bar:20} {wide_msg}")
            .expect("the template is constant")
            .progress_chars("━╸ ");
        let rows = watched
            .into_iter()
            .map(|(name, monitor)| {
                let bar = bars.add(ProgressBar::new(1).with_style(style.clone()).with_prefix(name.clone()));
                Row { name, monitor, pace: Pace::default(), bar }
            })
            .collect();
        Self { show, bars, rows, started: Instant::now() }
    }

    fn draw(&mut self) {
        self.show_notes();
        let now = self.started.elapsed();
        for row in &mut self.rows {
            let seen = row.monitor.snapshot();
            row.pace.update(now, &seen);
            match self.show {
                Show::Bars => {
                    let so_far = so_far(&seen, &row.pace);
                    let (done, total) = so_far.share();
                    row.bar.set_length(total.max(1));
                    row.bar.set_position(done);
                    row.bar.set_message(so_far.sentence());
                }
                Show::Text => write_line(&format!("{}: {}", row.name, so_far(&seen, &row.pace).sentence())),
                Show::Json | Show::Relayed => write_line(&to_json(&row.name, &seen, &row.pace).to_string()),
                Show::Nothing => {}
            }
        }
    }

    fn show_notes(&self) {
        for row in &self.rows {
            for note in row.monitor.take_notes() {
                let line = format!("{}: {note}", row.name);
                match self.show {
                    // Only a terminal that is gone can refuse it.
                    Show::Bars => drop(self.bars.println(line)),
                    Show::Text => write_line(&line),
                    Show::Json | Show::Relayed => write_line(&json!({ "note": note, "volume": row.name }).to_string()),
                    Show::Nothing => {}
                }
            }
        }
    }

    /// Leaves nothing of the bars on the terminal: results come after them.
    fn finish(&mut self) {
        self.show_notes();
        self.rows.iter().for_each(|row| row.bar.finish_and_clear());
    }
}

/// How fast a phase goes, smoothed.
#[derive(Debug, Default)]
struct Pace {
    last: Option<(Duration, Phase, u64)>,
    bytes_per_second: f64,
}

/// Seconds over which the pace is smoothed: shorter flickers, longer lies.
const PACE_SECONDS: f64 = 3.0;

impl Pace {
    fn update(&mut self, now: Duration, seen: &Snapshot) {
        if let Some((before, phase, bytes)) = self.last
            && phase == seen.phase
        {
            let seconds = now.saturating_sub(before).as_secs_f64();
            if seconds > 0.0 {
                let rate = seen.bytes_done.saturating_sub(bytes) as f64 / seconds;
                let weight = if self.bytes_per_second == 0.0 { 1.0 } else { (seconds / PACE_SECONDS).min(1.0) };
                self.bytes_per_second += weight * (rate - self.bytes_per_second);
            }
        } else {
            self.bytes_per_second = 0.0;
        }
        self.last = Some((now, seen.phase, seen.bytes_done));
    }

    fn seconds_left(&self, seen: &Snapshot) -> Option<f64> {
        let left = seen.bytes_total.saturating_sub(seen.bytes_done);
        // Below a byte per second nothing useful can be said.
        (left > 0 && self.bytes_per_second >= 1.0).then(|| left as f64 / self.bytes_per_second)
    }
}

fn so_far(seen: &Snapshot, pace: &Pace) -> SoFar<'static> {
    SoFar {
        phase: seen.phase.word(),
        entries_done: seen.entries_done,
        entries_total: seen.entries_total,
        bytes_done: seen.bytes_done,
        bytes_total: seen.bytes_total,
        bytes_per_second: pace.bytes_per_second,
        seconds_left: pace.seconds_left(seen),
        gaps: seen.gaps,
    }
}

fn to_json(name: &str, seen: &Snapshot, pace: &Pace) -> Value {
    json!({ "progress": {
        "volume": name,
        "phase": seen.phase.word(),
        "entries_done": seen.entries_done,
        "entries_total": seen.entries_total,
        "bytes_done": seen.bytes_done,
        "bytes_total": seen.bytes_total,
        "bytes_sent": seen.bytes_sent,
        "gaps": seen.gaps,
        "bytes_per_second": pace.bytes_per_second.round(),
        "seconds_left": pace.seconds_left(seen).map(f64::round),
    } })
}

/// Progress that nobody can read any more is no reason to stop.
fn write_line(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: &[(u64, u64)]) -> (Snapshot, Pace) {
        let monitor = Monitor::new();
        monitor.enter(Phase::Copying, 100, 10 << 20);
        let mut pace = Pace::default();
        for &(at, bytes) in seconds {
            monitor.advance(10, bytes);
            pace.update(Duration::from_secs(at), &monitor.snapshot());
        }
        (monitor.snapshot(), pace)
    }

    #[test]
    fn a_line_tells_phase_bytes_entries_rate_and_what_is_left() {
        let (seen, pace) = after(&[(0, 0), (1, 1 << 20), (2, 1 << 20)]);
        let expected = "copying, 2.00 MiB of 10.0 MiB, 1.00 MiB/s, 8.00 s left, 30 of 100 entries";
        assert_eq!(so_far(&seen, &pace).sentence(), expected);
        let json = to_json("tree", &seen, &pace);
        assert_eq!((&json["progress"]["seconds_left"], &json["progress"]["phase"]), (&json!(8.0), &json!("copying")));
    }

    #[test]
    fn several_passes_have_a_bar_each() {
        let monitors = ["tree", "image"].map(|name| (name.to_owned(), Arc::new(Monitor::new())));
        let mut board = Board::new(Show::Bars, monitors.to_vec());
        for (_, monitor) in &monitors {
            monitor.enter(Phase::Copying, 10, 100 << 20);
            monitor.advance(4, 40 << 20);
        }
        board.draw();
        let drawn: Vec<_> =
            board.rows.iter().map(|row| (row.bar.prefix(), row.bar.position(), row.bar.length())).collect();
        let expected = |name: &str| (name.to_owned(), 40 << 20, Some(100 << 20));
        assert_eq!(drawn, [expected("tree"), expected("image")]);
        board.finish();
    }

    #[test]
    fn a_new_phase_does_not_inherit_the_pace_of_the_last() {
        let (mut seen, mut pace) = after(&[(0, 0), (1, 1 << 20)]);
        seen.phase = Phase::Proving;
        pace.update(Duration::from_secs(2), &seen);
        assert_eq!((pace.bytes_per_second, pace.seconds_left(&seen)), (0.0, None));
    }

    #[test]
    fn counters_that_are_ahead_of_their_total_do_not_overflow_the_bar() {
        let (mut seen, pace) = after(&[(0, 11 << 20)]);
        assert_eq!(so_far(&seen, &pace).share(), (10 << 20, 10 << 20));
        assert_eq!(pace.seconds_left(&seen), None);
        seen.bytes_total = 0;
        assert_eq!(so_far(&seen, &pace).share(), (10, 100));
    }
}
