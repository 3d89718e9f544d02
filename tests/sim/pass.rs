//! One pass: both sessions, what executes their actions, and the link between them, one step at a time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rustix::io::Errno;
use tranship_agent::destination::Destination;
use tranship_agent::pass::Counters;
use tranship_agent::source::Source;
use tranship_agent::volume::Volume;
use tranship_agent::volume::memory::Operation;
use tranship_engine::session::destination::{self as to, DestinationSession};
use tranship_engine::session::source::{self as from, Order, SourceSession, Verdict};
use tranship_engine::session::{Channel, Failure, Greeting};
use tranship_proto::Message;
use tranship_proto::id::{Epoch, Token};
use tranship_proto::message::{Ack, Contract, Level, Op, Rechecked, VolumeKind};

use crate::world::World;

/// How a pass is to be done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wish {
    pub(crate) is_final: bool,
    /// Whether a final pass is proven at level `tracked`, for which a stage reads back what it wrote.
    pub(crate) is_tracked: bool,
    pub(crate) has_writers: bool,
    /// One step in so many brings trouble; none if 0.
    pub(crate) trouble: u64,
    /// The link breaks after so many steps.
    pub(crate) cut_after: Option<u64>,
}

/// What came of it.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) is_committed: bool,
    pub(crate) choice: String,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) failures: Vec<Failure>,
    /// Messages that change the destination.
    pub(crate) touching_messages: u64,
    pub(crate) was_troubled: bool,
    pub(crate) has_lied: bool,
    /// Entries that the destination says somebody else has changed.
    pub(crate) drifted_entries: u64,
    /// What the destination read back after the commit, if it was to.
    pub(crate) rechecked: Option<Rechecked>,
    /// Bytes that it read back, in checkpoints and after the commit.
    pub(crate) read_back_bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Lane {
    ToDestination,
    Data(u32),
    ToSource,
}

/// A session, what executes for it, and what is under way.
struct Side<S, X, A, E> {
    session: S,
    executor: X,
    in_order: VecDeque<A>,
    is_ordered_under_way: bool,
    side_by_side: Vec<A>,
    /// Events that have not been delivered, and whether they end what is done in order.
    completed: Vec<(E, bool)>,
    outgoing: Option<(Lane, Message)>,
}

type SourceSide = Side<SourceSession, Source, from::Action, from::Event>;
type DestinationSide = Side<DestinationSession, Destination, to::Action, to::Event>;

#[derive(Clone, Copy, Debug)]
enum Step {
    Send(bool),
    Deliver(Lane),
    PerformNext(bool),
    PerformAny(bool),
    Complete(bool),
    Wait,
}

struct Pass<'a> {
    world: &'a mut World,
    wish: Wish,
    source: SourceSide,
    destination: DestinationSide,
    lanes: BTreeMap<Lane, VecDeque<Message>>,
    outcome: Outcome,
    is_over: bool,
    /// What was applied, and what of that the last checkpoint made durable.
    applied: Ack,
    flushed: Ack,
}

/// What the destination says it is.
const DESTINATION_BUILD: &str = "simulated destination";

/// Messages that a lane holds.
const LANE_MESSAGES: usize = 6;
const DATA_STREAMS: u32 = 3;
const STEPS_MAX: u64 = 200_000;

impl<S, X, A, E> Side<S, X, A, E> {
    fn new(session: S, executor: X) -> Self {
        let (in_order, side_by_side, completed) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { session, executor, in_order, is_ordered_under_way: false, side_by_side, completed, outgoing: None }
    }
}

/// Does a pass, or as much of it as the trouble allows.
pub(crate) fn run(world: &mut World, wish: Wish) -> Outcome {
    let order = order(world, wish);
    if wish.has_writers {
        let chance = world.chance.next();
        *world.has_writers.lock().expect("no panic under it") = Some(crate::chance::Chance::new(chance));
    }
    let source = world.source(&order).expect("a source on a healthy volume");
    let destination = world.destination().expect("a destination on a healthy volume");
    let greeting = Greeting { build: DESTINATION_BUILD.to_owned(), ..order.greeting.clone() };
    let mut pass = Pass {
        world,
        wish,
        source: Side::new(SourceSession::new(order), source),
        destination: Side::new(DestinationSession::new(greeting), destination),
        lanes: BTreeMap::new(),
        outcome: Outcome::default(),
        is_over: false,
        applied: Ack::default(),
        flushed: Ack::default(),
    };
    pass.run();
    let outcome = pass.outcome;
    *world.has_writers.lock().expect("no panic under it") = None;
    world.forget_applied();
    for machine in [&world.source, &world.destination] {
        machine.volume.heal();
        machine.power.restore();
    }
    outcome
}

fn order(world: &mut World, wish: Wish) -> Order {
    let facts = world.source.volume.facts().expect("facts");
    let mut random = || world.chance.next().to_le_bytes();
    let mut token = [0; 16];
    token[..8].copy_from_slice(&random());
    let mut nonce = [0; 32];
    nonce[..8].copy_from_slice(&random());
    Order {
        greeting: Greeting { epoch: Epoch(1), volume: Some(facts.kind), build: "simulated".to_owned() },
        contract: Contract::all(world.fidelity),
        is_final: wish.is_final,
        block_bytes: (facts.kind == VolumeKind::Block).then(|| world.source.volume.places()[0].2),
        excludes: Vec::new(),
        only_examines: false,
        rechecks: wish.is_tracked,
        proof: wish.is_final.then_some((if wish.is_tracked { Level::Tracked } else { Level::Full }, nonce)),
        token: Token(token),
        data_streams: DATA_STREAMS,
        reads_max: 3,
    }
}

impl Pass<'_> {
    fn run(&mut self) {
        for step in 0..STEPS_MAX {
            self.is_over |= self.wish.cut_after == Some(step);
            self.collect();
            if self.wish.trouble > 0 && self.world.chance.one_in(self.wish.trouble) {
                self.trouble();
            }
            if self.is_over {
                return self.abandon();
            }
            if self.world.chance.one_in(64) {
                // As if another transport were faster.
                let first = if self.world.chance.one_in(2) { 0 } else { DATA_STREAMS };
                self.source.session.spread_from(first);
            }
            let steps = self.steps();
            let Some(&step) = self.world.chance.pick(&steps) else {
                if self.source.session.is_done() && self.destination.session.is_done() {
                    return self.finish();
                }
                match self.destination.session.poll_timeout() {
                    Some(at) => self.wait_until(at),
                    None => panic!("nothing can happen any more: {}", self.dump()),
                }
                continue;
            };
            self.take(step);
            self.lose_power();
            self.judge();
        }
        panic!("no end after {STEPS_MAX} steps: {}", self.dump());
    }

    /// Takes what the sessions want.
    fn collect(&mut self) {
        let side = &mut self.source;
        while let Some(action) = side.session.poll_action() {
            match action {
                from::Action::Read | from::Action::Refine(_) | from::Action::Scan => side.side_by_side.push(action),
                action => side.in_order.push_back(action),
            }
        }
        if side.outgoing.is_none() {
            side.outgoing = side.session.poll_transmit().map(|(channel, message)| match channel {
                Channel::Control => (Lane::ToDestination, message),
                Channel::Data(number) => (Lane::Data(number), message),
            });
        }
        let side = &mut self.destination;
        while let Some(action) = side.session.poll_action() {
            match action {
                to::Action::Apply(..) | to::Action::Sign(_) => side.side_by_side.push(action),
                action => side.in_order.push_back(action),
            }
        }
        if side.outgoing.is_none() {
            side.outgoing = side.session.poll_transmit().map(|message| (Lane::ToSource, message));
        }
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let has_room = |lane: &Lane| self.lanes.get(lane).is_none_or(|lane| lane.len() < LANE_MESSAGES);
        let outgoing = [(true, &self.source.outgoing), (false, &self.destination.outgoing)];
        for (is_source, outgoing) in outgoing {
            if outgoing.as_ref().is_some_and(|(lane, _)| has_room(lane)) {
                steps.push(Step::Send(is_source));
            }
        }
        for (&lane, messages) in &self.lanes {
            let session = &self.destination.session;
            let may = match lane {
                Lane::Data(_) => session.wants_data(),
                Lane::ToSource => self.source.session.wants_control(),
                _ => session.wants_control(),
            };
            if may && !messages.is_empty() {
                steps.push(Step::Deliver(lane));
            }
        }
        // What failed or finished reports nothing any more, and does nothing.
        for (is_source, is_done, next, any, completed) in [
            (
                true,
                self.source.session.is_done(),
                !self.source.in_order.is_empty() && !self.source.is_ordered_under_way,
                self.source.side_by_side.len(),
                self.source.completed.len(),
            ),
            (
                false,
                self.destination.session.is_done(),
                !self.destination.in_order.is_empty() && !self.destination.is_ordered_under_way,
                self.destination.side_by_side.len(),
                self.destination.completed.len(),
            ),
        ] {
            if is_done {
                continue;
            }
            if next {
                steps.push(Step::PerformNext(is_source));
            }
            steps.extend((0..any.min(3)).map(|_| Step::PerformAny(is_source)));
            steps.extend((0..completed.min(3)).map(|_| Step::Complete(is_source)));
        }
        if !steps.is_empty() && steps.len() < 3 {
            steps.push(Step::Wait);
        }
        steps
    }

    fn take(&mut self, step: Step) {
        let now = self.world.clock.elapsed();
        match step {
            Step::Send(is_source) => {
                let outgoing = if is_source { &mut self.source.outgoing } else { &mut self.destination.outgoing };
                let (lane, message) = outgoing.take().expect("only what is there is sent");
                self.note_message(&message);
                let decoded = Message::decode(message.encode()).expect("what we say can be understood");
                assert_eq!(decoded, message, "a message did not come back");
                self.lanes.entry(lane).or_default().push_back(decoded);
            }
            Step::Deliver(lane) => {
                let message = self.lanes.get_mut(&lane).and_then(VecDeque::pop_front).expect("it is not empty");
                if lane == Lane::ToSource {
                    self.source.session.handle_event(from::Event::Received(message));
                } else {
                    self.destination.session.handle_event(to::Event::Received(message), now);
                }
            }
            Step::PerformNext(true) => {
                let action = self.source.in_order.pop_front().expect("there is one");
                self.source.is_ordered_under_way = true;
                self.perform_at_source(action, true);
            }
            Step::PerformAny(true) => {
                let at = self.world.chance.below(self.source.side_by_side.len() as u64) as usize;
                let action = self.source.side_by_side.swap_remove(at);
                self.perform_at_source(action, false);
            }
            Step::PerformNext(false) => {
                let action = self.destination.in_order.pop_front().expect("there is one");
                self.destination.is_ordered_under_way = true;
                self.perform_at_destination(action, true);
            }
            Step::PerformAny(false) => {
                let at = self.world.chance.below(self.destination.side_by_side.len() as u64) as usize;
                let action = self.destination.side_by_side.swap_remove(at);
                self.perform_at_destination(action, false);
            }
            Step::Complete(true) => {
                let at = self.world.chance.below(self.source.completed.len() as u64) as usize;
                let (event, is_ordered) = self.source.completed.swap_remove(at);
                self.source.is_ordered_under_way &= !is_ordered;
                self.source.session.handle_event(event);
            }
            Step::Complete(false) => {
                let at = self.world.chance.below(self.destination.completed.len() as u64) as usize;
                let (event, is_ordered) = self.destination.completed.swap_remove(at);
                self.destination.is_ordered_under_way &= !is_ordered;
                self.destination.session.handle_event(event, now);
            }
            Step::Wait => {
                let wait = Duration::from_millis(self.world.chance.below(1_500));
                self.wait_until(now + wait);
            }
        }
    }

    fn wait_until(&mut self, at: Duration) {
        let now = self.world.clock.elapsed();
        self.world.clock.advance(at.saturating_sub(now));
        if self.destination.session.poll_timeout().is_some_and(|due| due <= at) {
            self.world.reach.add("timeout handled");
            self.destination.session.handle_timeout(at.max(now));
        }
    }

    fn perform_at_source(&mut self, action: from::Action, is_ordered: bool) {
        let event = self.source.executor.perform(action);
        self.source.completed.push((event, is_ordered));
    }

    fn perform_at_destination(&mut self, action: to::Action, is_ordered: bool) {
        let job = if let to::Action::Apply(_, job) = &action { Some(job.clone()) } else { None };
        if let Some(job) = &job {
            self.world.will_apply(job);
        }
        let has_slots = matches!(action, to::Action::Begin(_)) && self.world.in_slots() > 0;
        let event = self.destination.executor.perform(action);
        if has_slots && self.world.in_slots() == 0 {
            self.world.reach.add("what was left in a slot is no longer there");
        }
        match (&event, job) {
            (to::Event::Applied { bytes, entries, .. }, Some(job)) => {
                self.applied.bytes += bytes;
                self.applied.entries += entries;
                self.world.has_applied(&job);
            }
            (to::Event::Checkpointed, _) => {
                self.flushed = self.applied;
                self.world.has_flushed();
            }
            (to::Event::Committed(_), _) if !self.has_lied() => self.world.has_committed(),
            _ => {}
        }
        self.destination.completed.push((event, is_ordered));
    }

    fn has_lied(&self) -> bool {
        self.world.destination.volume.counts().dropped_writes > 0
    }

    fn note_message(&mut self, message: &Message) {
        if let Message::Ack(ack) = message {
            let is_durable = ack.bytes <= self.flushed.bytes && ack.entries <= self.flushed.entries;
            assert!(is_durable, "{ack:?} is acknowledged, and {:?} is durable", self.flushed);
            self.world.reach.add("acknowledged, and durable");
        }
        if let Message::Structure(ops) = message {
            for op in ops {
                self.world.reach.add(if matches!(op, Op::MoveOut { .. }) { "moved" } else { "operation" });
            }
        }
        if message.is_data() || matches!(message, Message::Structure(_)) {
            self.outcome.touching_messages += 1;
            let what = match message {
                Message::Structure(ops) => ops.iter().map(named).collect::<Vec<_>>().join(", "),
                _ => String::new(),
            };
            self.world.note(format!("    {} {what}", message.name()));
        }
    }

    /// Something goes wrong.
    fn trouble(&mut self) {
        self.outcome.was_troubled = true;
        let after = self.world.chance.below(40);
        // The last one says something about one object only.
        let errno = [Errno::NOSPC, Errno::IO, Errno::ACCESS][self.world.chance.below(3) as usize];
        let (ours, theirs) = (&self.world.source, &self.world.destination);
        let what = match self.world.chance.below(12) {
            0 | 1 => {
                self.is_over = true;
                "the link breaks"
            }
            2 | 3 => {
                theirs.power.fail_after(0);
                "the destination loses its power"
            }
            4 | 5 => {
                theirs.power.fail_after(after + 1);
                "the destination will lose its power"
            }
            6 => {
                ours.power.fail_after(after + 1);
                "the source will lose its power"
            }
            7 => {
                ours.power.fail_after(0);
                theirs.power.fail_after(0);
                "both lose their power"
            }
            8 => {
                let operation = if after.is_multiple_of(2) { Operation::Write } else { Operation::Change };
                theirs.volume.fail_after(operation, after / 4, errno);
                "a write will fail"
            }
            9 => {
                theirs.volume.fail_after(Operation::Flush, 0, Errno::IO);
                "a flush will fail"
            }
            10 => {
                let side = if after.is_multiple_of(2) { ours } else { theirs };
                side.volume.fail_after(
                    Operation::Read,
                    after / 4,
                    if errno == Errno::NOSPC { Errno::IO } else { errno },
                );
                "a read will fail"
            }
            _ => {
                theirs.volume.drop_write_after(after / 8);
                "a device will lie"
            }
        };
        self.world.note(format!("  trouble: {what}"));
        self.world.reach.add(what);
        self.lose_power();
    }

    fn lose_power(&mut self) {
        if self.world.destination.power.is_off() {
            self.is_over = true;
        }
        if self.world.source.power.is_off() {
            self.is_over = true;
        }
        if self.has_lied() && !self.outcome.has_lied {
            self.outcome.has_lied = true;
            self.world.has_lied = true;
            self.world.forget_durable();
        }
    }

    /// The link is gone. What was begun may still be done.
    fn abandon(&mut self) {
        while !self.destination.side_by_side.is_empty() && self.world.chance.one_in(2) {
            self.take(Step::PerformAny(false));
        }
        if !self.destination.in_order.is_empty()
            && !self.destination.is_ordered_under_way
            && self.world.chance.one_in(2)
        {
            self.take(Step::PerformNext(false));
        }
        if self.world.destination.power.is_off() {
            self.world.crash_destination();
        }
        if self.world.source.power.is_off() {
            self.world.crash_source();
        }
        self.sum_up();
    }

    fn finish(&mut self) {
        self.sum_up();
    }

    fn sum_up(&mut self) {
        self.outcome.is_committed = self.source.session.state() == "Done";
        self.outcome.choice = format!("{:?}", self.source.session.choice());
        self.outcome.verdict = self.source.session.verdict().cloned();
        let failures = [self.source.session.failure(), self.destination.session.failure()];
        self.outcome.failures = failures.into_iter().flatten().cloned().collect();
        self.outcome.drifted_entries = self.source.session.committed().map_or(0, |committed| committed.drifted_entries);
        self.outcome.rechecked = self.source.session.rechecked();
        self.outcome.read_back_bytes = Counters::get(&self.destination.executor.recheck_counters.bytes_done);
        if self.outcome.rechecked.is_some_and(|rechecked| rechecked.read_bytes > 0) {
            self.world.reach.add("read back");
        }
        if self.outcome.rechecked.is_some_and(|rechecked| rechecked.lost_entries > 0) {
            self.world.reach.add("found lost when it was read back");
            // A stage does not tell a stranger's work on an image from its own.
            let may_be_lost = self.world.has_lied || (self.world.is_block && self.world.is_meddled_with);
            assert!(may_be_lost, "what a device that never lied holds was taken for lost");
        }
        if self.outcome.is_committed {
            assert_eq!(self.source.session.peer_build(), DESTINATION_BUILD);
        }
        if self.destination.session.committed().is_some() {
            self.world.reach.add("destination committed");
        }
        assert_eq!(self.world.source.volume.counts().changes, 0, "the source was changed by its agent");
    }

    /// A verdict is about this very moment.
    fn judge(&mut self) {
        if self.outcome.verdict.is_some() {
            return;
        }
        let Some(verdict) = self.source.session.verdict() else { return };
        self.outcome.verdict = Some(verdict.clone());
        let difference = self.world.difference();
        if verdict.is_equal() {
            self.world.reach.add("proven equal, and equal");
            if self.wish.is_tracked {
                self.world.reach.add("proven equal at level tracked");
            }
            if self.has_lied() {
                self.world.reach.add("proven equal after a device had lied");
            }
            assert_eq!(difference, None, "proven equal, and not equal");
        } else {
            self.world.reach.add("proven unequal, and unequal");
            assert!(difference.is_some(), "proven unequal, and equal");
        }
    }

    fn dump(&self) -> String {
        let lanes: Vec<_> = self
            .lanes
            .iter()
            .map(|(lane, messages)| (lane, messages.iter().map(Message::name).collect::<Vec<_>>()))
            .collect();
        let cut = |text: String| text.chars().take(2_000).collect::<String>();
        format!(
            "lanes {lanes:?}\nsource {}\n{}\ndestination {}\n{}",
            self.source.session.state(),
            cut(format!("{:?}", self.source.session)),
            self.destination.session.state(),
            cut(format!("{:?}", self.destination.session)),
        )
    }
}

/// What an operation does, and where.
fn named(op: &Op) -> String {
    let what = format!("{op:?}");
    format!("{} {}", what.split_whitespace().next().unwrap_or_default(), op.place())
}
