//! The loop of the side that has the truth.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tranship_engine::session::source::{Action, Event, Order, SourceSession};
use tranship_engine::session::{Channel, Failure};
use tranship_proto::Message;
use tranship_proto::refusal::{Reason, Refusal};

use super::DriveError;
use super::lanes::Lanes;
use super::streams::{Held, Incoming, QUEUE, Traffic, open_beside, send_held};
use super::transport::{Advice, Choice, Progress, Trial};
use crate::link::{FrameSender, Link, LinkError, LinkStats, Streams};
use crate::monitor::{Monitor, Phase};
use crate::pass::{Counters, show_reading};
use crate::source::Source;

/// How long a last word may take to get through.
const PARTING: Duration = Duration::from_secs(2);
/// How often the pace of the link is measured.
const MEASURING: Duration = Duration::from_millis(250);

/// What a session came to.
#[derive(Debug)]
pub struct Sent {
    /// The session, done.
    pub session: SourceSession,
    /// Bytes that the link carried since it was set up, in UDP payloads or TCP segments.
    pub sent_bytes: u64,
    /// The same in the other direction.
    pub received_bytes: u64,
    /// The link as it was at the end.
    pub link: LinkStats,
    /// From the first operation to the end of the copying.
    pub copying: Duration,
    /// Between the end of the pass and the end of the proof.
    pub proving: Duration,
}

/// The part of a congestion window below which what is sent is not held up by it. Of a link that is the limit most of the
/// window is used, by a controller that follows the delivery rate at least half of it.
const OPEN_WINDOW_SHARE: u64 = 4;

/// Runs a source's session over `link` until it is done; `trial` says when TCP is tried beside QUIC. `stop` ends it early, with nothing committed.
pub async fn send(
    source: Arc<Source>,
    order: Order,
    trial: Trial,
    link: Link,
    monitor: Arc<Monitor>,
    stop: impl Future<Output = ()>,
) -> Result<Sent, DriveError> {
    let Link { control, streams } = link;
    let before = streams.stats();
    // While nobody may write, a round trip costs more than the bytes that may turn out to be for nothing. A comparison
    // sends no contents at all.
    if order.is_final && !order.only_examines {
        streams.prepare();
    }
    if let Some(limit) = streams.bandwidth() {
        source.compressor.set_goodput(limit.get() / 8);
    }
    let mut traffic = Traffic::new();
    let (queue, incoming) = mpsc::channel(QUEUE);
    let control_out = traffic.send_to(control.0);
    traffic.receive_from(control.1, queue);
    let lanes = Lanes::new({
        let source = source.clone();
        move |action| source.perform(action)
    });
    let data_streams = order.data_streams;
    let mut run = Run {
        session: SourceSession::new(order),
        data_streams,
        // Within a limit either transport carries what it may.
        choice: Choice::new(trial, streams.has_choice() && streams.bandwidth().is_none()),
        opening: JoinSet::new(),
        is_link_limit: false,
        rtt: None,
        lanes,
        streams: streams.clone(),
        outgoing: HashMap::from([(Channel::Control, control_out)]),
        held: None,
        incoming,
        traffic,
        monitor,
        source,
        pace: Pace::new(),
        phases: Phases::default(),
    };
    let result = run.until_done(stop).await;
    let Run { session, mut traffic, outgoing, phases, .. } = run;
    drop(outgoing);
    if session.failure().is_none_or(|failure| !failure.is_from_peer) {
        traffic.drain(PARTING).await;
    }
    let after = streams.stats();
    streams.close(0, "done").await;
    result?;
    match session.failure() {
        Some(failure) => Err(DriveError::Refused(failure.clone())),
        None => Ok(Sent {
            session,
            sent_bytes: after.sent_bytes.saturating_sub(before.sent_bytes),
            received_bytes: after.received_bytes.saturating_sub(before.received_bytes),
            link: after,
            copying: phases.copying(),
            proving: phases.proving(),
        }),
    }
}

struct Run {
    session: SourceSession,
    data_streams: u32,
    choice: Choice,
    /// Streams over TCP beside QUIC, as many as there are over QUIC.
    opening: JoinSet<Result<Vec<FrameSender>, LinkError>>,
    /// Whether the link is what everything waited for, and its shortest round trip, the last time that it was measured.
    is_link_limit: bool,
    rtt: Option<Duration>,
    lanes: Lanes<Action, Event>,
    streams: Streams,
    outgoing: HashMap<Channel, mpsc::Sender<Message>>,
    /// The next message, while its stream has no room.
    held: Held,
    incoming: mpsc::Receiver<Incoming>,
    traffic: Traffic,
    monitor: Arc<Monitor>,
    source: Arc<Source>,
    pace: Pace,
    phases: Phases,
}

impl Run {
    async fn until_done(&mut self, stop: impl Future<Output = ()>) -> Result<(), DriveError> {
        tokio::pin!(stop);
        let mut measuring = tokio::time::interval(MEASURING);
        let mut is_stopped = false;
        let parting = tokio::time::sleep(Duration::MAX);
        tokio::pin!(parting);
        loop {
            self.work_off();
            if self.session.is_done() && self.held.is_none() {
                return Ok(());
            }
            self.choose();
            tokio::select! {
                Some(event) = self.lanes.events.recv() => {
                    if matches!(&event, Event::Planned(planned) if planned.bytes > 0) {
                        self.streams.prepare();
                    }
                    self.session.handle_event(event);
                }
                incoming = self.incoming.recv(), if self.session.wants_control() => self.take(incoming)?,
                sent = send_held(&mut self.held) => {
                    if !sent && !self.session.is_done() {
                        return Err(self.traffic.failed().await.into());
                    }
                }
                error = self.traffic.failed() => return Err(error.into()),
                _ = measuring.tick() => self.measure(),
                Some(opened) = self.opening.join_next() => self.take_beside(opened.unwrap_or(Err(LinkError::Closed))),
                () = &mut stop, if !is_stopped => {
                    is_stopped = true;
                    let refusal = Refusal::new(Reason::Stopped, "the source was stopped");
                    self.session.handle_event(Event::Failed(refusal));
                    parting.as_mut().reset(tokio::time::Instant::now() + PARTING);
                }
                // A stream that takes nothing any more is not waited for.
                () = &mut parting => return Ok(()),
            }
        }
    }

    /// Starts every action and queues every message that can be.
    fn work_off(&mut self) {
        loop {
            while let Some(action) = self.session.poll_action() {
                tracing::trace!(?action, state = self.session.state(), "doing");
                match action {
                    Action::Scan | Action::Read | Action::Refine(_) | Action::Prove(_) => self.lanes.beside(action),
                    action => self.lanes.in_order(action),
                }
            }
            if self.held.is_some() {
                break;
            }
            let Some((channel, message)) = self.session.poll_transmit() else { break };
            tracing::trace!(message = message.name(), ?channel, state = self.session.state(), "saying");
            let queue = self.outgoing.entry(channel).or_insert_with(|| self.traffic.send_to_new(self.streams.clone()));
            if let Err(error) = queue.try_send(message) {
                let queue = queue.clone();
                self.pace.block();
                self.held = Some((queue, error.into_inner()));
            }
        }
        self.show();
    }

    fn take(&mut self, incoming: Option<Incoming>) -> Result<(), DriveError> {
        match incoming {
            Some(Incoming::Message(message)) => self.session.handle_event(Event::Received(message)),
            Some(Incoming::Foreign(refusal)) => self.session.handle_event(Event::Failed(refusal)),
            Some(Incoming::Ended(Err(error))) => return Err(error.into()),
            Some(Incoming::Ended(Ok(()))) | None if self.session.is_done() => {}
            Some(Incoming::Ended(Ok(()))) | None => return Err(DriveError::Left { state: self.session.state() }),
        }
        Ok(())
    }

    fn measure(&mut self) {
        if self.held.is_none() {
            self.pace.unblock();
        }
        let compressor = &self.source.compressor;
        let (rate, is_limit) = self.pace.measure(self.traffic.sent_bytes());
        let link = self.streams.stats();
        self.rtt = link.rtt_min;
        self.is_link_limit = is_limit;
        // Within a limit of the user's the window says nothing.
        let window = link.window_bytes_per_second.filter(|_| self.streams.bandwidth().is_none());
        if let Some(goodput) = goodput(rate, is_limit, window, compressor.goodput()) {
            compressor.set_goodput(goodput);
        }
    }

    fn choose(&mut self) {
        if self.choice.is_made() {
            return;
        }
        let planned = self.session.planned().bytes;
        let advice = self.choice.advise(Progress {
            now: Instant::now(),
            sent_bytes: self.traffic.sent_bytes(),
            left_bytes: planned.saturating_sub(Counters::get(&self.source.counters.bytes_done)),
            is_limit: self.is_link_limit,
            rtt: self.rtt,
        });
        match advice {
            Advice::TryTcp if self.outgoing.contains_key(&Channel::Data(self.data_streams)) => self.turn_to_tcp(),
            Advice::TryTcp => {
                self.opening.spawn(open_beside(self.streams.clone(), self.data_streams));
            }
            Advice::ReturnToQuic => self.session.spread_from(0),
            Advice::StayWithTcp | Advice::None => {}
        }
    }

    fn take_beside(&mut self, opened: Result<Vec<FrameSender>, LinkError>) {
        let senders = match opened {
            Ok(senders) => senders,
            Err(error) => {
                tracing::debug!(%error, "no TCP beside QUIC");
                return self.choice.give_up();
            }
        };
        for (number, sender) in (self.data_streams..).zip(senders) {
            self.outgoing.insert(Channel::Data(number), self.traffic.send_to(sender));
        }
        self.turn_to_tcp();
    }

    fn turn_to_tcp(&mut self) {
        self.session.spread_from(self.data_streams);
        self.choice.begin_turn(Instant::now(), self.traffic.sent_bytes());
    }

    fn show(&mut self) {
        let phase = match self.session.state() {
            "Greeting" | "Meeting" | "Resolving" => Phase::Connecting,
            "Preparing" => Phase::Scanning,
            "Planning" => Phase::Planning,
            "Structure" | "Contents" => Phase::Copying,
            "Closing" | "Finishing" => Phase::Finishing,
            "Committing" => Phase::Committing,
            "Rechecking" | "Proving" | "Explaining" => Phase::Proving,
            _ => Phase::Done,
        };
        let counters = &self.source.counters;
        if self.phases.enter(phase) {
            let planned = self.session.planned();
            let (entries, bytes) = match phase {
                Phase::Copying => (planned.candidates, planned.bytes),
                _ => (0, 0),
            };
            self.monitor.enter(phase, entries, bytes);
        }
        if self.session.state() == "Rechecking" {
            self.monitor.reach(0, self.session.rechecked().map_or(0, |rechecked| rechecked.read_bytes));
        } else if phase == Phase::Proving {
            show_reading(&self.monitor, &[&self.source.proof_counters]);
        }
        let (entries, bytes) = match phase {
            Phase::Scanning => (&counters.entries_scanned, &counters.bytes_scanned),
            _ => (&counters.entries_done, &counters.bytes_done),
        };
        let done = Done {
            entries: Counters::get(entries),
            bytes: Counters::get(bytes),
            sent_bytes: self.traffic.sent_bytes(),
            gaps: self.source.gap_count(),
        };
        self.phases.advance(&self.monitor, done);
    }
}

/// What the goodput of the link is taken for from now on, in bytes per second: what was sent where the link was the limit, and
/// without end where it is not. Nothing if this interval does not tell.
fn goodput(rate: Option<u64>, is_limit: bool, window: Option<u64>, known: u64) -> Option<u64> {
    let rate = rate?;
    // Where the window stays open the network would take more, and who sends or receives is the limit: work that saves
    // bytes would only add to theirs.
    let is_window_open = window.is_some_and(|window| window / OPEN_WINDOW_SHARE > rate);
    match is_limit {
        true if is_window_open => Some(u64::MAX),
        true => Some(rate),
        // A link that keeps up may be faster than whatever can be measured on it, once it is faster than it was.
        false => (rate > known).then_some(u64::MAX),
    }
}

/// Tells whether the link is what everything waits for, and how fast it is then.
struct Pace {
    measured: Instant,
    sent_bytes: u64,
    blocked: Duration,
    blocked_since: Option<Instant>,
}

impl Pace {
    fn new() -> Self {
        Self { measured: Instant::now(), sent_bytes: 0, blocked: Duration::ZERO, blocked_since: None }
    }

    fn block(&mut self) {
        self.blocked_since.get_or_insert_with(Instant::now);
    }

    fn unblock(&mut self) {
        if let Some(since) = self.blocked_since.take() {
            self.blocked += since.elapsed();
        }
    }

    /// Bytes per second since the last time, if there were any, and whether the link was what held us up for most of it: a
    /// slow one may take none for a while.
    fn measure(&mut self, sent_bytes: u64) -> (Option<u64>, bool) {
        let was_blocked = self.blocked_since.is_some();
        self.unblock();
        let elapsed = self.measured.elapsed();
        let bytes = sent_bytes - self.sent_bytes;
        let is_limited = self.blocked * 2 > elapsed;
        (self.measured, self.sent_bytes, self.blocked) = (Instant::now(), sent_bytes, Duration::ZERO);
        if was_blocked {
            self.block();
        }
        ((bytes > 0).then(|| (bytes as f64 / elapsed.as_secs_f64()) as u64), is_limited)
    }
}

/// When each phase began, and what the monitor was told.
#[derive(Default)]
struct Phases {
    current: Option<Phase>,
    began: HashMap<Phase, Instant>,
    shown: Done,
}

/// What the monitor is told.
#[derive(Clone, Copy, Default)]
struct Done {
    entries: u64,
    bytes: u64,
    sent_bytes: u64,
    gaps: u64,
}

impl Phases {
    fn enter(&mut self, phase: Phase) -> bool {
        if self.current == Some(phase) {
            return false;
        }
        self.current = Some(phase);
        self.began.entry(phase).or_insert_with(Instant::now);
        true
    }

    fn advance(&mut self, monitor: &Monitor, done: Done) {
        let shown = std::mem::replace(&mut self.shown, done);
        monitor.advance(done.entries.saturating_sub(shown.entries), done.bytes.saturating_sub(shown.bytes));
        monitor.sent(done.sent_bytes - shown.sent_bytes);
        monitor.gaps(done.gaps - shown.gaps);
    }

    fn between(&self, from: Phase, to: Phase) -> Duration {
        match (self.began.get(&from), self.began.get(&to)) {
            (Some(from), Some(to)) => to.saturating_duration_since(*from),
            _ => Duration::ZERO,
        }
    }

    fn copying(&self) -> Duration {
        self.between(Phase::Copying, Phase::Finishing)
    }

    fn proving(&self) -> Duration {
        self.between(Phase::Proving, Phase::Done)
    }
}

impl From<Failure> for DriveError {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_slow_only_where_its_window_is_used() {
        const MB: u64 = 1_000_000;
        assert_eq!(goodput(Some(6 * MB), true, Some(7 * MB), u64::MAX), Some(6 * MB));
        assert_eq!(goodput(Some(6 * MB), true, Some(20 * MB), u64::MAX), Some(6 * MB), "a window of two round trips");
        assert_eq!(goodput(Some(20 * MB), true, Some(900 * MB), 6 * MB), Some(u64::MAX), "the receiver is slow");
        assert_eq!(goodput(Some(20 * MB), true, None, u64::MAX), Some(20 * MB), "nobody knows the window");
        assert_eq!(goodput(Some(20 * MB), false, Some(900 * MB), 6 * MB), Some(u64::MAX), "it keeps up");
        assert_eq!(goodput(Some(5 * MB), false, Some(900 * MB), 6 * MB), None, "there was little to send");
        assert_eq!(goodput(None, true, Some(900 * MB), 6 * MB), None, "nothing was sent");
    }
}
