//! What a command says while it works, for whoever shows it.

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedSender;
use tranship_proto::control::Progress;

/// Something to be shown.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// A step begins.
    Step(String),
    /// A pass over this volume of the record is so far.
    Progress(usize, Box<Progress>),
    /// A pass over this volume is over.
    Passed(usize),
    /// A line for people.
    Note(String),
    /// The application stands still since then.
    Stopped(Timestamp),
    /// It runs again.
    Runs,
}

/// Where updates go. Clones lead to the same place.
#[derive(Debug, Clone)]
pub struct Watch(Option<UnboundedSender<Update>>);

impl Watch {
    /// Updates go to the other end of this channel.
    pub fn new(sender: UnboundedSender<Update>) -> Self {
        Self(Some(sender))
    }

    /// Nobody looks.
    pub fn nobody() -> Self {
        Self(None)
    }

    /// Shows it.
    pub fn show(&self, update: Update) {
        if let Some(sender) = &self.0 {
            // Whoever no longer looks is no reason to stop.
            let _ = sender.send(update);
        }
    }

    /// A step begins.
    pub fn step(&self, what: impl Into<String>) {
        self.show(Update::Step(what.into()));
    }

    /// A line for people.
    pub fn note(&self, what: impl Into<String>) {
        self.show(Update::Note(what.into()));
    }
}
