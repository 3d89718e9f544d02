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
                // Before the sender, whose end says that this has been let go.
                drop(perform);
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
            drop(perform);
        });
    }

    /// Waits until the last thread has let go of what it worked on: an event comes before the thread that sent it ends,
    /// and until then the volume is still claimed.
    pub(super) async fn ended(self) {
        let Self { perform, serial, done, mut events } = self;
        drop((perform, serial, done));
        while events.recv().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_lanes_worked_on_is_let_go_when_they_have_ended() {
        for round in 0..2_000 {
            let volume = Arc::new(());
            let mut lanes = Lanes::new({
                let volume = volume.clone();
                move |action: u32| {
                    let _volume = &volume;
                    action
                }
            });
            lanes.in_order(1);
            lanes.beside(2);
            for _ in 0..2 {
                lanes.events.recv().await.expect("something came of it");
            }
            lanes.ended().await;
            assert_eq!(Arc::strong_count(&volume), 1, "round {round}");
        }
    }
}
