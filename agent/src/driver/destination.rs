//! The loop of the side that receives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tranship_engine::session::Greeting;
use tranship_engine::session::destination::{Action, DestinationSession, Event};
use tranship_proto::Message;
use tranship_proto::message::Rechecked;
use tranship_proto::refusal::{Reason, Refusal};

use super::DriveError;
use super::lanes::Lanes;
use super::streams::{Held, Incoming, QUEUE, Traffic, send_held};
use crate::destination::Destination;
use crate::link::Link;
use crate::monitor::{Monitor, Phase};
use crate::pass::{Counters, show_reading};

/// How long a last word may take to get through.
const PARTING: Duration = Duration::from_secs(2);
/// How often it says how far it is, where nothing happens meanwhile.
const SHOWING: Duration = Duration::from_millis(250);

/// How often it tells the source that it still reads back what was written: whoever looks there sees that it goes on.
const TELLING: Duration = Duration::from_secs(5);

/// What a session came to.
#[derive(Debug)]
pub struct Received {
    /// The session, done.
    pub session: DestinationSession,
    /// Bytes in frames that came.
    pub received_bytes: u64,
}

/// Runs a destination's session over `link`, on which `first` has come already, until it is done. `stop` ends it early; what was acknowledged stays.
pub async fn receive(
    destination: Arc<Destination>,
    greeting: Greeting,
    first: Message,
    link: Link,
    monitor: Arc<Monitor>,
    stop: impl Future<Output = ()>,
) -> Result<Received, DriveError> {
    let Link { control, streams } = link;
    let mut traffic = Traffic::new();
    let (control_queue, control_in) = mpsc::channel(QUEUE);
    let (data_queue, data_in) = mpsc::channel(QUEUE);
    let control_out = traffic.send_to(control.0);
    traffic.receive_from(control.1, control_queue);
    traffic.receive_all(streams.clone(), data_queue);
    let lanes = Lanes::new({
        let destination = destination.clone();
        move |action| destination.perform(action)
    });
    let mut run = Run {
        session: DestinationSession::new(greeting),
        lanes,
        control_out,
        held: None,
        control_in,
        data_in,
        traffic,
        monitor,
        destination,
        began: Instant::now(),
        shown: (0, 0),
        told: Instant::now(),
    };
    run.handle(Event::Received(first));
    let result = run.until_done(stop).await;
    let Run { session, mut traffic, control_out, lanes, destination, .. } = run;
    drop((control_out, destination));
    if result.is_ok() && session.failure().is_none_or(|failure| !failure.is_from_peer) {
        traffic.drain(PARTING).await;
    }
    streams.close(0, "done").await;
    result?;
    match session.failure() {
        Some(failure) => Err(DriveError::Refused(failure.clone())),
        None => {
            // Whoever was told that all is done may begin anew at once, and must not find the volume in use.
            lanes.ended().await;
            Ok(Received { received_bytes: traffic.received_bytes(), session })
        }
    }
}

struct Run {
    session: DestinationSession,
    lanes: Lanes<Action, Event>,
    control_out: mpsc::Sender<Message>,
    held: Held,
    control_in: mpsc::Receiver<Incoming>,
    data_in: mpsc::Receiver<Incoming>,
    traffic: Traffic,
    monitor: Arc<Monitor>,
    destination: Arc<Destination>,
    began: Instant,
    shown: (u64, u64),
    told: Instant,
}

impl Run {
    async fn until_done(&mut self, stop: impl Future<Output = ()>) -> Result<(), DriveError> {
        tokio::pin!(stop);
        let mut showing = tokio::time::interval(SHOWING);
        let mut is_stopped = false;
        loop {
            self.work_off();
            if self.session.is_done() && self.held.is_none() {
                return Ok(());
            }
            let deadline = self.session.poll_timeout().map(|timeout| self.began + timeout);
            tokio::select! {
                Some(event) = self.lanes.events.recv() => self.handle(event),
                incoming = self.control_in.recv(), if self.session.wants_control() => {
                    self.take_control(incoming)?;
                }
                Some(incoming) = self.data_in.recv(), if self.session.wants_data() => self.take_data(incoming)?,
                sent = send_held(&mut self.held) => {
                    if !sent && !self.session.is_done() {
                        return Err(self.traffic.failed().await.into());
                    }
                }
                error = self.traffic.failed() => return Err(error.into()),
                _ = showing.tick() => self.tell(),
                () = sleep_until(deadline) => self.session.handle_timeout(self.began.elapsed()),
                () = &mut stop, if !is_stopped => {
                    is_stopped = true;
                    self.handle(Event::Failed(Refusal::new(Reason::Stopped, "the destination was stopped")));
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        tracing::trace!(?event, state = self.session.state(), "handling");
        self.session.handle_event(event, self.began.elapsed());
    }

    fn work_off(&mut self) {
        while self.held.is_none()
            && let Some(message) = self.session.poll_transmit()
        {
            if let Err(error) = self.control_out.try_send(message) {
                self.held = Some((self.control_out.clone(), error.into_inner()));
            }
        }
        // After that: what was sent makes room for lists.
        while let Some(action) = self.session.poll_action() {
            match action {
                Action::Apply(..)
                | Action::Sign(_)
                | Action::Checkpoint
                | Action::Recheck
                | Action::Prove(_)
                | Action::Examine(..) => self.lanes.beside(action),
                action => self.lanes.in_order(action),
            }
        }
        self.show();
    }

    fn take_control(&mut self, incoming: Option<Incoming>) -> Result<(), DriveError> {
        match incoming {
            Some(Incoming::Message(message)) => self.handle(Event::Received(message)),
            Some(Incoming::Foreign(refusal)) => self.handle(Event::Failed(refusal)),
            Some(Incoming::Ended(Err(error))) => return Err(error.into()),
            Some(Incoming::Ended(Ok(()))) | None if self.session.is_done() => {}
            Some(Incoming::Ended(Ok(()))) | None => return Err(DriveError::Left { state: self.session.state() }),
        }
        Ok(())
    }

    fn take_data(&mut self, incoming: Incoming) -> Result<(), DriveError> {
        match incoming {
            Incoming::Message(message) if message.is_data() => self.handle(Event::Received(message)),
            Incoming::Message(message) => {
                let detail = format!("{} on a data stream", message.name());
                self.handle(Event::Failed(Refusal::new(Reason::Protocol, detail)));
            }
            Incoming::Foreign(refusal) => self.handle(Event::Failed(refusal)),
            Incoming::Ended(Ok(())) => {}
            Incoming::Ended(Err(error)) => return Err(error.into()),
        }
        Ok(())
    }

    fn tell(&mut self) {
        if self.session.state() == "Rechecking" && self.told.elapsed() >= TELLING {
            self.told = Instant::now();
            let read_bytes = Counters::get(&self.destination.recheck_counters.bytes_done);
            self.handle(Event::Rechecked(Rechecked { read_bytes, ..Rechecked::default() }));
        }
    }

    fn show(&mut self) {
        let phase = match self.session.state() {
            "Inspecting" | "Meeting" => Phase::Connecting,
            "Beginning" | "Surveying" => Phase::Surveying,
            "Receiving" => Phase::Copying,
            "Committing" => Phase::Committing,
            "Rechecking" | "Proving" | "Listing" | "Doubting" => Phase::Proving,
            _ => Phase::Done,
        };
        if self.monitor.snapshot().phase != phase {
            self.monitor.enter(phase, 0, 0);
        }
        match phase {
            Phase::Surveying => self.monitor.reach(0, Counters::get(&self.destination.counters.bytes_read)),
            Phase::Proving if self.session.state() == "Rechecking" => {
                show_reading(&self.monitor, &[&self.destination.recheck_counters]);
            }
            Phase::Proving => show_reading(&self.monitor, &[&self.destination.proof_counters]),
            _ => {}
        }
        let ack = self.session.acknowledged();
        let bytes = Counters::get(&self.destination.counters.bytes_written);
        let (entries_shown, bytes_shown) = self.shown;
        self.monitor.advance(ack.entries.saturating_sub(entries_shown), bytes.saturating_sub(bytes_shown));
        self.shown = (ack.entries, bytes);
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
