//! Where actions run: threads that may block.

use std::sync::{Arc, mpsc as blocking};
use std::thread;

use tokio::sync::mpsc;

/// Runs actions: some in order, some side by side.
pub(super) struct Lanes<A, E> {
    perform: Arc<dyn Fn(A) -> E + Send + Sync>,
    serial: blocking::Sender<A>,
    done: mpsc::UnboundedSender<E>,
    /// What came of the actions.
    pub(super) events: mpsc::UnboundedReceiver<E>,
}

impl<A: Send + 'static, E: Send + 'static> Lanes<A, E> {
    /// Lanes that run `perform`.
    pub(super) fn new(perform: impl Fn(A) -> E + Send + Sync + 'static) -> Self {
        let perform: Arc<dyn Fn(A) -> E + Send + Sync> = Arc::new(perform);
        // Neither channel can grow without end: a session has a bounded number of actions under way.
        let (serial, actions) = blocking::channel::<A>();
        let (done, events) = mpsc::unbounded_channel();
        thread::spawn({
            let (perform, done) = (perform.clone(), done.clone());
            move || {
                for action in actions {
                    if done.send(perform(action)).is_err() {
                        break;
                    }
                }
            }
        });
        Self { perform, serial, done, events }
    }

    /// Runs `action` after everything that was given to this lane before.
    pub(super) fn in_order(&self, action: A) {
        // The thread ends only when we do.
        let _ = self.serial.send(action);
    }

    /// Runs `action` as soon as a thread is free.
    pub(super) fn beside(&self, action: A) {
        let (perform, done) = (self.perform.clone(), self.done.clone());
        tokio::task::spawn_blocking(move || {
            let _ = done.send(perform(action));
        });
    }
}
