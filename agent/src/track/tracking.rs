//! What the passes of one process make of a tracker.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use tranship_proto::id::Token;

use super::{Agreement, Interval, Pieces, RING_BYTES_DEFAULT, TrackError, Tracker};
use crate::pass::chain;

/// Tracking of the volume that a process sends. Whatever goes wrong with it costs reading, and is said in a note.
///
/// Made before the process is confined and before anything of the volume is read.
#[derive(Debug)]
pub struct Tracking {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    tracker: Option<Tracker>,
    /// What was written since the tracker's basis. It counts for one commit: what is written later is not in it.
    written: Option<Arc<Pieces>>,
    notes: Vec<String>,
}

impl Tracking {
    /// Goes on with what the file `state` remembers of the device at this path, or begins anew.
    pub fn begin(device: &Path, state: &Path) -> Self {
        let inner = Inner::begin(device, state).unwrap_or_else(|error| {
            let note =
                format!("writes are not tracked, and everything is compared: {} {}", error.code(), chain(&error));
            Inner { tracker: None, written: None, notes: vec![note] }
        });
        Self { inner: Mutex::new(inner) }
    }

    /// Ends what a former process began, if it did.
    pub fn end(state: &Path) -> Result<(), TrackError> {
        Tracker::resume(state)?.map_or(Ok(()), Tracker::remove)
    }

    /// What a confined process has to be allowed to read, and where it has to be allowed to remove folders.
    pub fn folders(&self) -> Option<(PathBuf, PathBuf)> {
        self.lock().tracker.as_ref().and_then(Tracker::folders)
    }

    /// The pieces that were written since the pass that committed `basis` read the volume, if they are known.
    pub fn written_since(&self, basis: Token) -> Option<Arc<Pieces>> {
        let mut inner = self.lock();
        let written = inner.written.clone()?;
        if inner.tracker.as_ref().and_then(Tracker::basis) == Some(basis) {
            return Some(written);
        }
        inner.notes.push(
            "what was tracked is not what happened since the last pass to this destination: everything \
                          was compared"
                .to_owned(),
        );
        None
    }

    /// Whether it is known what was written since the pass that committed `basis`.
    pub fn goes_back_to(&self, basis: Token) -> bool {
        self.lock().tracker.as_ref().and_then(Tracker::basis) == Some(basis)
    }

    /// Whether nothing was written to the volume since the pass that committed `basis` began to read it, and nothing is
    /// on its way to it.
    pub fn is_untouched_since(&self, basis: Token) -> bool {
        let mut inner = self.lock();
        let Some(tracker) = inner.tracker.as_mut().filter(|tracker| tracker.basis() == Some(basis)) else {
            return false;
        };
        let why = match tracker.take() {
            Ok(Interval::Tracked { written, agreement: Agreement::Exact }) if written.is_empty() => return true,
            Ok(Interval::Tracked { .. }) => "it was written to during this pass".to_owned(),
            Ok(Interval::Void { why }) => why.to_string(),
            Err(error) => chain(&error),
        };
        inner.notes.push(format!("the source was read in full for the proof: {why}"));
        false
    }

    /// Says that a pass has committed as `basis` what was written, or the whole volume.
    pub fn commit(&self, basis: Token) {
        let mut inner = self.lock();
        inner.written = None;
        if let Some(Err(error)) = inner.tracker.as_mut().map(|tracker| tracker.commit(basis)) {
            inner.tracker = None;
            inner.notes.push(format!("the next pass compares everything: {} {}", error.code(), chain(&error)));
        }
    }

    /// Ends tracking: nothing comes after a final pass that was proven.
    pub fn conclude(&self) {
        let mut inner = self.lock();
        if let Some(Err(error)) = inner.tracker.take().map(Tracker::remove) {
            inner.notes.push(format!("writes are still tracked: {} {}", error.code(), chain(&error)));
        }
    }

    /// Why more was read than was written, and what else is to be told.
    pub fn notes(&self) -> Vec<String> {
        self.lock().notes.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no thread panics while it holds the lock")
    }
}

impl Inner {
    fn begin(path: &Path, state: &Path) -> Result<Self, TrackError> {
        let device = File::open(path).map_err(TrackError::io("open the device"))?;
        let why = match Tracker::resume(state) {
            Ok(None) => "tracking begins".to_owned(),
            Ok(Some(mut tracker)) if tracker.is_of(&device)? => match tracker.take() {
                Ok(Interval::Tracked { written, .. }) => return Ok(Self::going_on(tracker, written)),
                Ok(Interval::Void { why }) => format!("writes were not followed to the end: {why}"),
                Err(error) => format!("writes cannot be told: {} {}", error.code(), chain(&error)),
            },
            Ok(Some(_)) => "the device has changed".to_owned(),
            Err(error) => format!("{} {}", error.code(), chain(&error)),
        };
        let tracker = Tracker::start(&device, state, RING_BYTES_DEFAULT)?;
        let note = format!("{why}: all of the device was read, and what is written to it is tracked from now on");
        Ok(Self { tracker: Some(tracker), written: None, notes: vec![note] })
    }

    fn going_on(tracker: Tracker, written: Pieces) -> Self {
        if tracker.basis().is_some() {
            return Self { tracker: Some(tracker), written: Some(Arc::new(written)), notes: Vec::new() };
        }
        let note = "no pass was committed since tracking began: all of the device was read".to_owned();
        Self { tracker: Some(tracker), written: None, notes: vec![note] }
    }
}
