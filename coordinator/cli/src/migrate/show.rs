//! What a command that works shows meanwhile: bars on a terminal, else lines, of text or JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tranship_coordinator::watch::{Update, Watch};
use tranship_proto::control::Progress;

use crate::human;
use crate::progress::Show;
use crate::so_far::SoFar;

/// Shows updates until it is dropped.
pub(crate) struct Screen {
    task: JoinHandle<()>,
}

impl Screen {
    /// A watch, and what shows it. `names` are those of the volumes.
    pub(crate) fn start(show: Show, names: Vec<String>) -> (Watch, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let task = tokio::spawn(Board::new(show, names).run(receiver));
        (Watch::new(sender), Self { task })
    }

    /// Returns when everything was shown; all watches have to be gone.
    pub(crate) async fn finish(self) {
        // A board that panicked has shown that already.
        let _ = self.task.await;
    }
}

struct Board {
    show: Show,
    names: Vec<String>,
    bars: MultiProgress,
    rows: BTreeMap<usize, Row>,
    downtime: Option<(Timestamp, ProgressBar)>,
}

/// How long an application stands still that was stopped then, perhaps by another machine, whose clock may be ahead.
fn downtime(since: Timestamp) -> String {
    let seconds = Timestamp::now().duration_since(since).as_secs_f64().max(0.0);
    format!("downtime {}", human::seconds(seconds))
}

struct Row {
    bar: ProgressBar,
    last: Option<Progress>,
}

impl Board {
    fn new(show: Show, names: Vec<String>) -> Self {
        let target = if show == Show::Bars { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { show, names, bars: MultiProgress::with_draw_target(target), rows: BTreeMap::new(), downtime: None }
    }

    async fn run(mut self, mut updates: mpsc::UnboundedReceiver<Update>) {
        let mut ticks = tokio::time::interval(match self.show {
            Show::Bars => Duration::from_millis(100),
            Show::Json | Show::Relayed => Duration::from_secs(1),
            Show::Nothing | Show::Text => Duration::from_secs(5),
        });
        loop {
            tokio::select! {
                update = updates.recv() => match update {
                    Some(update) => self.take(update),
                    None => break,
                },
                _ = ticks.tick() => self.tick(),
            }
        }
        self.rows.values().for_each(|row| row.bar.finish_and_clear());
        if let Some((_, bar)) = self.downtime {
            bar.finish_and_clear();
        }
    }

    fn take(&mut self, update: Update) {
        match update {
            Update::Step(what) => self.line("step", &what),
            Update::Note(what) => self.line("note", &what),
            Update::Progress(volume, progress) => {
                let row = self.row(volume);
                row.last = Some(*progress);
            }
            Update::Passed(volume) => {
                if let Some(row) = self.rows.remove(&volume) {
                    row.bar.finish_and_clear();
                }
            }
            Update::Stopped(since) => {
                let style = ProgressStyle::with_template("{spinner} {msg}").expect("the template is constant");
                let bar = self.bars.add(ProgressBar::new_spinner().with_style(style));
                self.downtime.get_or_insert((since, bar));
            }
            Update::Runs => {
                if let Some((since, bar)) = self.downtime.take() {
                    bar.finish_and_clear();
                    self.line("note", &downtime(since));
                }
            }
        }
    }

    fn row(&mut self, volume: usize) -> &mut Row {
        let name = self.names.get(volume).cloned().unwrap_or_default();
        let bars = &self.bars;
        self.rows.entry(volume).or_insert_with(|| {
            let style = ProgressStyle::with_template("{prefix:<12.bold} {bar:20} {wide_msg}")
                .expect("the template is constant")
                .progress_chars("━╸ ");
            Row { bar: bars.add(ProgressBar::new(1).with_style(style).with_prefix(name)), last: None }
        })
    }

    fn tick(&mut self) {
        if let Some((since, bar)) = &self.downtime {
            bar.set_message(downtime(*since));
        }
        for (&volume, row) in &self.rows {
            let Some(seen) = &row.last else { continue };
            let name = self.names.get(volume).map_or("", String::as_str);
            match self.show {
                Show::Bars => {
                    let (done, total) = SoFar::from(seen).share();
                    row.bar.set_length(total.max(1));
                    row.bar.set_position(done);
                    row.bar.set_message(SoFar::from(seen).sentence());
                }
                Show::Text => write_line(&format!("{name}: {}", SoFar::from(seen).sentence())),
                Show::Json | Show::Relayed => {
                    let mut value = serde_json::to_value(seen).unwrap_or_default();
                    value["volume"] = json!(name);
                    write_line(&json!({ "progress": value }).to_string());
                }
                Show::Nothing => {}
            }
        }
    }

    fn line(&self, kind: &str, what: &str) {
        match self.show {
            // Only a terminal that is gone can refuse it.
            Show::Bars => drop(self.bars.println(if kind == "step" { what.to_owned() } else { format!("  {what}") })),
            Show::Text => write_line(&if kind == "step" { what.to_owned() } else { format!("  {what}") }),
            Show::Json | Show::Relayed => write_line(&json!({ kind: what }).to_string()),
            Show::Nothing => {}
        }
    }
}

/// Progress that nobody can read any more is no reason to stop.
fn write_line(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
