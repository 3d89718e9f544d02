//! What may be touched is recorded before it is: jobs wait here until it is.

use std::mem;

use tranship_proto::entry::Place;

use super::destination::{Action, Job, JobId};

/// Something that a pass is about to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touch {
    /// Anything.
    Everything,
    /// This place, and what is beneath it.
    Place(Place),
    /// This place, and what is beneath it, which goes into this slot.
    Slot(Place, u32),
    /// One piece of the block volume.
    Piece(u64),
}

/// Jobs that wait until what they touch is recorded; one record serves all that wait at the time.
#[derive(Debug, Default)]
pub(super) struct Intents {
    covers_everything: bool,
    waiting: Vec<(Vec<Touch>, JobId, Job)>,
    recording: Vec<(JobId, Job)>,
    is_recording: bool,
}

impl Intents {
    /// Whether a record is being made.
    pub(super) fn is_recording(&self) -> bool {
        self.is_recording
    }

    /// A record that covers all jobs to come, if there is none yet.
    pub(super) fn cover_everything(&mut self) -> Option<Action> {
        if mem::replace(&mut self.covers_everything, true) {
            return None;
        }
        self.is_recording = true;
        Some(Action::Intend(vec![Touch::Everything]))
    }

    /// A job that touches this.
    pub(super) fn push(&mut self, touches: Vec<Touch>, id: JobId, job: Job) {
        self.waiting.push((touches, id, job));
    }

    /// What can be done for the jobs that wait: apply them, or record what they touch.
    pub(super) fn take(&mut self) -> Vec<Action> {
        if self.is_recording || self.waiting.is_empty() {
            return Vec::new();
        }
        let (mut actions, mut touches) = (Vec::new(), Vec::new());
        for (mut needed, id, job) in mem::take(&mut self.waiting) {
            if self.covers_everything {
                // What goes into a slot must be found there again.
                needed.retain(|touch| matches!(touch, Touch::Slot(..)));
                if needed.is_empty() {
                    actions.push(Action::Apply(id, job));
                    continue;
                }
            }
            touches.extend(needed);
            self.recording.push((id, job));
        }
        if !self.recording.is_empty() {
            touches.dedup();
            self.is_recording = true;
            actions.push(Action::Intend(touches));
        }
        actions
    }

    /// The record is durable: the jobs that it was made for.
    pub(super) fn recorded(&mut self) -> impl Iterator<Item = Action> {
        self.is_recording = false;
        mem::take(&mut self.recording).into_iter().map(|(id, job)| Action::Apply(id, job))
    }
}
