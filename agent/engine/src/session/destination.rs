//! The half that receives the truth.
//!
//! ```text
//! Inspecting ─▶ Meeting ─Hello, Begin─▶ Beginning ─▶ Surveying ─▶ Receiving ─Finish─▶ Committing ─▶ Committed
//!    Meeting ─Hello, Examine─▶ Committed, where there is no pass
//!    Committed ─Recheck─▶ Rechecking ─▶ Committed
//!    Committed ─Challenge─▶ Proving ─▶ Committed … ─Bye─▶ Done
//! any state ──refusal of either side──▶ Failed
//! ```
//!
//! The order that keeps every byte: what may be touched is recorded durably, *then* touched, *then* flushed, *then*
//! recorded as done, *then* acknowledged. Whatever ends the session in between, the next one can tell which places are
//! in doubt, and they are read instead of believed.

mod work;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tranship_proto::entry::Kind;
use tranship_proto::id::{ContentId, Token};
use tranship_proto::limit::{
    ASKS_MAX, CONTROL_BYTES_MAX, CONTROL_MESSAGES_MAX, IN_FLIGHT_BYTES_MAX, OPEN_CONTENTS_MAX,
};
use tranship_proto::message::{
    Ack, Barrier, Basis, Begin, Challenge, Close, Codec, Examine, Extent, Finish, Message, Op, Open, Plan, Role,
    batches,
};
use tranship_proto::refusal::{Reason, Refusal};

use super::intents::Intents;
use super::queue::{Queue, Weighed};
use super::unflushed::Unflushed;
use super::{Failure, Greeting, out_of_turn};

pub use self::work::{Action, Event, Job, JobId};
pub use super::intents::Touch;

/// Lists that wait for the link before more is listed.
const LISTS_MAX: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Inspecting,
    Meeting,
    Beginning,
    Surveying,
    Receiving,
    Committing,
    Committed,
    Rechecking,
    Proving,
    Listing,
    Doubting,
    Done,
    Failed,
}

/// The destination's half of a conversation.
#[derive(Debug)]
pub struct DestinationSession {
    greeting: Greeting,
    state: State,
    basis: Option<Basis>,
    has_met: bool,
    begin: Option<Begin>,
    transmits: VecDeque<Message>,
    actions: VecDeque<Action>,
    /// Messages whose turn has not come, in order.
    control: Queue<Message>,
    /// What lists on, once less of what was listed waits for the link.
    next_list: Option<Action>,
    /// Data that came before there was room made for it.
    data: VecDeque<Message>,
    is_data_open: bool,
    /// What is compared, if there is no pass and nothing may be changed.
    examine: Option<Examine>,
    contents: HashMap<ContentId, Content>,
    intents: Intents,
    jobs: HashMap<JobId, Running>,
    /// Questions that are being answered.
    asks: usize,
    next_job: JobId,
    in_flight_bytes: usize,
    packs_done: u64,
    contents_done: u64,
    /// What the source ended the pass with, until it is committed.
    finish: Option<Finish>,
    unflushed: Unflushed,
    committed: Option<Token>,
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Content {
    open: Arc<Open>,
    applied: u64,
    close: Option<Close>,
}

#[derive(Debug)]
struct Running {
    bytes: usize,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Ops,
    Pack,
    Piece(ContentId),
    Close,
}

impl DestinationSession {
    /// A session that looks at its own state first.
    pub fn new(greeting: Greeting) -> Self {
        Self {
            greeting,
            state: State::Inspecting,
            basis: None,
            has_met: false,
            begin: None,
            transmits: VecDeque::new(),
            actions: VecDeque::from([Action::Inspect]),
            control: Queue::default(),
            next_list: None,
            data: VecDeque::new(),
            is_data_open: false,
            examine: None,
            contents: HashMap::new(),
            intents: Intents::default(),
            jobs: HashMap::new(),
            asks: 0,
            next_job: 0,
            in_flight_bytes: 0,
            packs_done: 0,
            contents_done: 0,
            finish: None,
            unflushed: Unflushed::default(),
            committed: None,
            failure: None,
        }
    }

    /// Takes in what happened at `now`.
    pub fn handle_event(&mut self, event: Event, now: Duration) {
        if matches!(self.state, State::Failed | State::Done) {
            return;
        }
        let result = match event {
            Event::Received(message) => self.receive(message),
            other => self.advance(other, now),
        };
        if let Err(refusal) = result.and_then(|()| self.proceed(now)) {
            self.fail(refusal, false);
        }
    }

    /// Wakes the session up at the time that [`DestinationSession::poll_timeout`] gave.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.checkpoint_when_due(now);
    }

    /// The next message to send, all on the control stream.
    pub fn poll_transmit(&mut self) -> Option<Message> {
        self.transmits.pop_front()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.transmits.len() < LISTS_MAX {
            self.actions.extend(self.next_list.take());
        }
        self.actions.pop_front()
    }

    /// When to wake the session up, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.unflushed.due_at().filter(|_| self.state == State::Receiving)
    }

    /// Whether there is room for more from the data streams.
    pub fn wants_data(&self) -> bool {
        self.in_flight_bytes < IN_FLIGHT_BYTES_MAX && self.contents.len() < OPEN_CONTENTS_MAX
    }

    /// Whether there is room for more from the control stream.
    pub fn wants_control(&self) -> bool {
        self.control.len() < CONTROL_MESSAGES_MAX && self.control.bytes() < CONTROL_BYTES_MAX
    }

    /// Whether everything was said and done.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done | State::Failed)
    }

    /// Why the session failed, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// What has been acknowledged.
    pub fn acknowledged(&self) -> Ack {
        self.unflushed.flushed()
    }

    /// The manifest of this pass, once it is durable.
    pub fn committed(&self) -> Option<Token> {
        self.committed
    }

    /// Whether this was a comparison, and no pass.
    pub fn is_examined(&self) -> bool {
        self.examine.is_some()
    }

    /// The state's name, for errors and logs.
    pub fn state(&self) -> &'static str {
        match self.state {
            State::Inspecting => "Inspecting",
            State::Meeting => "Meeting",
            State::Beginning => "Beginning",
            State::Surveying => "Surveying",
            State::Receiving => "Receiving",
            State::Committing => "Committing",
            State::Committed => "Committed",
            State::Rechecking => "Rechecking",
            State::Proving => "Proving",
            State::Listing => "Listing",
            State::Doubting => "Doubting",
            State::Done => "Done",
            State::Failed => "Failed",
        }
    }

    fn receive(&mut self, message: Message) -> Result<(), Refusal> {
        match (self.state, message) {
            (_, Message::Refuse(refusal)) => {
                self.fail(refusal, true);
                Ok(())
            }
            (State::Inspecting | State::Meeting, Message::Hello(hello)) if !self.has_met => {
                self.greeting.meet(Role::Destination, &hello)?;
                self.has_met = true;
                Ok(())
            }
            (State::Meeting, Message::Begin(begin)) if self.has_met => {
                self.check_room(begin.block_bytes)?;
                if begin.is_final {
                    self.unflushed.hurry();
                }
                self.begin = Some(begin.clone());
                self.state = State::Beginning;
                self.actions.push_back(Action::Begin(begin));
                Ok(())
            }
            (State::Meeting, Message::Examine(examine)) if self.has_met => {
                self.check_room(examine.block_bytes)?;
                self.examine = Some(examine);
                self.state = State::Committed;
                Ok(())
            }
            (State::Beginning | State::Surveying | State::Receiving, message) if message.is_data() => {
                self.in_flight_bytes += weight(&message);
                self.data.push_back(message);
                Ok(())
            }
            (
                State::Receiving,
                message @ (Message::Plan(_)
                | Message::Structure(_)
                | Message::Barrier(_)
                | Message::Ask(_)
                | Message::Finish(_)),
            ) => {
                self.control.push(message);
                Ok(())
            }
            (State::Committed, Message::Recheck) if self.examine.is_none() => {
                self.state = State::Rechecking;
                self.actions.push_back(Action::Recheck);
                Ok(())
            }
            // A source does not wait for what was read back before it goes on to the proof.
            (State::Committed | State::Rechecking, Message::Challenge(challenge)) => {
                self.control.push(Message::Challenge(challenge));
                Ok(())
            }
            (State::Committed | State::Doubting, Message::Gaps(gaps)) if self.examine.is_none() => {
                self.control.push(Message::Gaps(gaps));
                Ok(())
            }
            (State::Meeting | State::Committed | State::Doubting, Message::Bye) => {
                self.control.push(Message::Bye);
                Ok(())
            }
            (_, message) => Err(out_of_turn(message.name(), self.state())),
        }
    }

    fn advance(&mut self, event: Event, now: Duration) -> Result<(), Refusal> {
        match (self.state, event) {
            (_, Event::Failed(refusal)) => return Err(refusal),
            (State::Inspecting, Event::Inspected(basis)) => {
                self.transmits.push_back(Message::Hello(self.greeting.hello(Role::Destination)));
                self.transmits.push_back(Message::Basis(basis.clone()));
                self.basis = Some(basis);
                self.state = State::Meeting;
            }
            (State::Beginning, Event::Begun) => {
                self.state = State::Surveying;
                self.actions.push_back(Action::Survey);
            }
            (State::Surveying, Event::Surveyed { items, is_last }) => {
                if !items.is_empty() {
                    self.transmits.push_back(Message::Survey(items));
                }
                if is_last {
                    self.transmits.push_back(Message::SurveyEnd);
                    self.state = State::Receiving;
                } else {
                    self.next_list = Some(Action::Survey);
                }
            }
            (State::Receiving, Event::Intended) => {
                self.actions.extend(self.intents.recorded());
            }
            (State::Receiving, Event::Signed(signature)) => {
                self.asks -= 1;
                self.transmits.push_back(Message::Signature(signature));
            }
            (State::Receiving, Event::Applied { job, bytes, entries, gaps }) => {
                self.applied(job, Ack { bytes, entries }, now);
                self.transmits.extend(batches(gaps).into_iter().map(Message::Gaps));
            }
            (State::Receiving | State::Committing, Event::Checkpointed) => self.checkpointed(),
            (State::Committing, Event::Committed(committed)) => {
                self.committed = committed.token;
                self.transmits.push_back(Message::Committed(committed));
                self.state = State::Committed;
            }
            (State::Rechecking, Event::Rechecked(rechecked)) => {
                // How far it is may be left unsaid; what came of it may not.
                if rechecked.is_done || self.transmits.is_empty() {
                    self.transmits.push_back(Message::Rechecked(rechecked));
                }
                if rechecked.is_done {
                    self.state = State::Committed;
                }
            }
            (State::Proving, Event::Proved(proof)) => {
                self.transmits.push_back(Message::Proof(proof));
                self.state = State::Committed;
            }
            (State::Listing, Event::Listed(entries)) => {
                if entries.is_empty() {
                    self.transmits.push_back(Message::ListingEnd);
                    self.state = State::Committed;
                } else {
                    self.transmits.extend(batches(entries).into_iter().map(Message::Listing));
                    self.next_list = Some(Action::List);
                }
            }
            (State::Doubting, Event::Doubted) => self.state = State::Committed,
            (_, event) => unreachable!("the driver reports {event:?} in state {}", self.state()),
        }
        Ok(())
    }

    fn check_room(&self, block_bytes: Option<u64>) -> Result<(), Refusal> {
        let basis = self.basis.as_ref().expect("met after the inspection");
        match block_bytes {
            Some(bytes) if bytes > basis.capacity_bytes => Err(Refusal::new(
                Reason::Space,
                format!("destination holds {} bytes, source has {bytes}", basis.capacity_bytes),
            )),
            _ => Ok(()),
        }
    }

    /// Does everything whose turn has come.
    fn proceed(&mut self, now: Duration) -> Result<(), Refusal> {
        if self.state == State::Receiving {
            while self.take_control()? {}
            while self.is_data_open
                && !self.unflushed.is_full()
                && let Some(message) = self.data.pop_front()
            {
                self.take_data(message)?;
            }
            self.actions.extend(self.intents.take());
            self.checkpoint_when_due(now);
        }
        if self.state == State::Committing {
            self.commit_when_flushed();
        }
        if self.state == State::Committed
            && matches!(self.control.front(), Some(Message::Gaps(_) | Message::Challenge(_)))
        {
            match self.control.pop() {
                Some(Message::Gaps(gaps)) => {
                    self.state = State::Doubting;
                    self.actions.push_back(Action::Doubt(gaps));
                }
                Some(Message::Challenge(challenge)) => self.meet(challenge),
                _ => unreachable!("it is in front"),
            }
        }
        let may_part = matches!(self.state, State::Meeting | State::Committed);
        if may_part && self.control.front() == Some(&Message::Bye) {
            self.transmits.push_back(Message::Bye);
            self.state = State::Done;
        }
        Ok(())
    }

    fn meet(&mut self, challenge: Challenge) {
        self.state = if challenge.lists_entries { State::Listing } else { State::Proving };
        self.actions.push_back(match &self.examine {
            _ if challenge.lists_entries => Action::List,
            Some(examine) => Action::Examine(examine.clone(), challenge),
            None => Action::Prove(challenge),
        });
    }

    /// Takes the next control message if everything before it is done.
    fn take_control(&mut self) -> Result<bool, Refusal> {
        let is_structure_running = self.jobs.values().any(|running| running.what == What::Ops);
        let may_take = match self.control.front() {
            None => false,
            Some(Message::Plan(_)) => true,
            Some(Message::Ask(_)) => self.is_data_open,
            Some(Message::Structure(_)) => !is_structure_running && !self.unflushed.is_full(),
            Some(Message::Barrier(Barrier { packs, contents })) => {
                !is_structure_running && self.packs_done >= *packs && self.contents_done >= *contents
            }
            // A record of intents may be under way although nothing came of it.
            Some(_) => self.jobs.is_empty() && self.asks == 0 && self.data.is_empty() && !self.intents.is_recording(),
        };
        if !may_take {
            return Ok(false);
        }
        match self.control.pop().expect("there is one") {
            Message::Plan(plan) => self.take_plan(&plan)?,
            Message::Structure(ops) => {
                let touches = ops.iter().map(touch_of).collect();
                self.start(What::Ops, 0, touches, Job::Ops(ops));
            }
            Message::Barrier(barrier) => {
                if (self.packs_done, self.contents_done) != (barrier.packs, barrier.contents) {
                    return Err(Refusal::new(Reason::Protocol, "more data than the source says it sent"));
                }
                self.is_data_open = true;
            }
            Message::Ask(ask) => {
                if self.asks >= ASKS_MAX {
                    return Err(Refusal::new(Reason::Protocol, "more questions than may wait for an answer"));
                }
                self.asks += 1;
                self.actions.push_back(Action::Sign(ask));
            }
            Message::Finish(finish) => self.finish(finish)?,
            message => return Err(out_of_turn(message.name(), self.state())),
        }
        Ok(self.state == State::Receiving)
    }

    fn take_plan(&mut self, plan: &Plan) -> Result<(), Refusal> {
        if plan.touches_everything {
            self.actions.extend(self.intents.cover_everything());
        }
        Ok(())
    }

    fn take_data(&mut self, message: Message) -> Result<(), Refusal> {
        let bytes = weight(&message);
        match message {
            Message::Pack(pack) => {
                let touches = pack.files.iter().map(|file| Touch::Place(file.place.clone())).collect();
                self.start(What::Pack, bytes, touches, Job::Pack(pack));
            }
            Message::Open(open) => {
                self.in_flight_bytes -= bytes;
                self.open(open)?;
            }
            Message::Piece(piece) => {
                let id = piece.content;
                let content = self.contents.get(&id).ok_or_else(|| not_open(id))?;
                let open = content.open.clone();
                let touches = vec![match open.kind {
                    Kind::Block => Touch::Piece(piece.index),
                    _ => Touch::Place(open.place.clone()),
                }];
                self.start(What::Piece(id), bytes, touches, Job::Piece(open, piece));
            }
            Message::Close(close) => {
                self.in_flight_bytes -= bytes;
                let content = self.contents.get_mut(&close.content).ok_or_else(|| not_open(close.content))?;
                let id = close.content;
                if content.close.replace(close).is_some() {
                    return Err(Refusal::new(Reason::Protocol, "a content was closed twice"));
                }
                self.close_when_complete(id)?;
            }
            message => return Err(out_of_turn(message.name(), "data")),
        }
        Ok(())
    }

    fn open(&mut self, open: Open) -> Result<(), Refusal> {
        let is_block = self.begin.as_ref().is_some_and(|begin| begin.block_bytes.is_some());
        let is_right_kind = open.kind == if is_block { Kind::Block } else { Kind::File };
        if !is_right_kind || open.place.is_root() != is_block {
            return Err(Refusal::new(Reason::Protocol, format!("{} cannot be a {}", open.place, open.kind)));
        }
        if let Some(content) = self.contents.get(&open.content) {
            return if *content.open == open { Ok(()) } else { Err(not_open(open.content)) };
        }
        // Closed contents that are still being written count too: the source waits for none of them.
        if self.contents.len() >= 2 * OPEN_CONTENTS_MAX {
            return Err(Refusal::new(Reason::Protocol, format!("more than {OPEN_CONTENTS_MAX} open contents")));
        }
        self.contents.insert(open.content, Content { open: Arc::new(open), applied: 0, close: None });
        Ok(())
    }

    fn close_when_complete(&mut self, id: ContentId) -> Result<(), Refusal> {
        let Some(content) = self.contents.get(&id) else { return Ok(()) };
        let Some(close) = content.close.as_ref().filter(|close| content.applied >= close.pieces) else {
            return Ok(());
        };
        if content.applied > close.pieces {
            return Err(Refusal::new(Reason::Protocol, "more pieces than the source says it sent"));
        }
        let (open, close) = (content.open.clone(), close.clone());
        let touches = match open.kind {
            // Its size and its metadata are not the volume's to keep: only pieces can be in doubt.
            Kind::Block => Vec::new(),
            _ => vec![Touch::Place(open.place.clone())],
        };
        self.contents.remove(&id);
        self.start(What::Close, 0, touches, Job::Close(open, close));
        Ok(())
    }

    fn start(&mut self, what: What, bytes: usize, touches: Vec<Touch>, job: Job) {
        let id = self.next_job;
        self.next_job += 1;
        self.jobs.insert(id, Running { bytes, what });
        self.intents.push(touches, id, job);
    }

    fn applied(&mut self, job: JobId, done: Ack, now: Duration) {
        let running = self.jobs.remove(&job).expect("the driver reports each job once");
        self.in_flight_bytes -= running.bytes;
        self.unflushed.apply(done, now);
        match running.what {
            What::Ops => {}
            What::Pack => self.packs_done += 1,
            What::Close => self.contents_done += 1,
            What::Piece(id) => {
                if let Some(content) = self.contents.get_mut(&id) {
                    content.applied += 1;
                }
                if let Err(refusal) = self.close_when_complete(id) {
                    self.fail(refusal, false);
                }
            }
        }
    }

    fn checkpoint_when_due(&mut self, now: Duration) {
        if self.state == State::Receiving && self.unflushed.is_due(now) {
            self.checkpoint();
        }
    }

    fn checkpoint(&mut self) {
        if self.unflushed.begin() {
            self.actions.push_back(Action::Checkpoint);
        }
    }

    fn checkpointed(&mut self) {
        self.transmits.push_back(Message::Ack(self.unflushed.end()));
    }

    fn finish(&mut self, finish: Finish) -> Result<(), Refusal> {
        if !self.contents.is_empty() {
            return Err(Refusal::new(Reason::Protocol, "the pass ends with contents that are not closed"));
        }
        self.state = State::Committing;
        self.finish = Some(finish);
        Ok(())
    }

    /// Commits after everything that was applied is durable and recorded.
    fn commit_when_flushed(&mut self) {
        if !self.unflushed.is_empty() {
            return self.checkpoint();
        }
        if let Some(finish) = self.finish.take() {
            self.actions.push_back(Action::Commit(finish));
        }
    }

    fn fail(&mut self, refusal: Refusal, is_from_peer: bool) {
        self.transmits.clear();
        self.actions.clear();
        if !is_from_peer {
            self.transmits.push_back(Message::Refuse(refusal.clone()));
        }
        self.failure = Some(Failure { refusal, is_from_peer });
        self.state = State::Failed;
    }
}

fn touch_of(op: &Op) -> Touch {
    match op {
        Op::MoveOut { place, slot } => Touch::Slot(place.clone(), *slot),
        op => Touch::Place(op.place().clone()),
    }
}

fn not_open(content: ContentId) -> Refusal {
    Refusal::new(Reason::Protocol, format!("content {} is not open, or is another one", content.0))
}

/// What a message from a data stream counts for until it is applied: itself, and what it is unpacked or copied to.
fn weight(message: &Message) -> usize {
    message.weight()
        + match message {
            Message::Piece(piece) => {
                let copied =
                    piece.delta.as_ref().map_or(0, |delta| Extent::total_bytes(&delta.base) + piece.bytes as usize);
                copied + if piece.codec == Codec::Plain { 0 } else { piece.bytes as usize }
            }
            Message::Pack(pack) if pack.codec != Codec::Plain => pack.raw_bytes(),
            _ => 0,
        }
}

#[cfg(test)]
mod tests {
    use tranship_proto::Place;
    use tranship_proto::id::{Digest, Epoch};
    use tranship_proto::message::{
        BasisChoice, Committed, Contract, Fidelity, Gap, GapKind, Level, Rechecked, SurveyItem, VolumeKind,
    };

    use super::*;

    const TOKEN: Token = Token([3; 16]);

    fn greeting() -> Greeting {
        Greeting { epoch: Epoch(1), volume: Some(VolumeKind::Tree), build: "a test".to_owned() }
    }

    /// A session whose pass is committed.
    fn committed() -> DestinationSession {
        let mut session = DestinationSession::new(greeting());
        let basis = Basis {
            volume: Digest([1; 32]),
            token: None,
            is_interrupted: false,
            is_empty: true,
            capacity_bytes: u64::MAX,
            free_bytes: u64::MAX,
        };
        let begin = Begin {
            basis: BasisChoice::Nothing,
            fidelity: Fidelity::Plain,
            is_final: true,
            block_bytes: None,
            excludes: Vec::new(),
        };
        for event in [
            Event::Received(Message::Hello(greeting().hello(Role::Source))),
            Event::Inspected(basis),
            Event::Received(Message::Begin(begin)),
            Event::Begun,
            Event::Surveyed { items: Vec::new(), is_last: true },
            Event::Received(Message::Finish(Finish { token: TOKEN, entries: 0 })),
            Event::Committed(Committed { token: Some(TOKEN), ..Committed::default() }),
        ] {
            session.handle_event(event, Duration::ZERO);
        }
        while session.poll_action().is_some() {}
        session
    }

    #[test]
    fn differences_may_come_in_several_messages_and_all_are_doubted_before_the_end() {
        let mut session = committed();
        let gap = |name: &str| {
            let place = Place::from_bytes(name.as_bytes()).expect("a name");
            vec![Gap { place, what: GapKind::Unreadable, detail: String::new() }]
        };
        for message in [Message::Gaps(gap("one")), Message::Gaps(gap("two")), Message::Bye] {
            session.handle_event(Event::Received(message), Duration::ZERO);
        }
        for name in ["one", "two"] {
            assert!(!session.is_done());
            assert_eq!(session.poll_action(), Some(Action::Doubt(gap(name))));
            assert_eq!(session.poll_action(), None);
            session.handle_event(Event::Doubted, Duration::ZERO);
        }
        assert!(session.is_done() && session.failure().is_none());
    }

    #[test]
    fn a_challenge_waits_until_what_was_written_is_read_back() {
        let mut session = committed();
        let contract = Contract::all(Fidelity::Plain);
        let challenge = Challenge { nonce: [1; 32], level: Level::Tracked, contract, lists_entries: false };
        for message in [Message::Recheck, Message::Challenge(challenge)] {
            session.handle_event(Event::Received(message), Duration::ZERO);
        }
        assert_eq!(session.poll_action(), Some(Action::Recheck));
        while session.poll_transmit().is_some() {}
        for is_done in [false, true] {
            assert_eq!(session.poll_action(), None);
            let rechecked = Rechecked { read_bytes: 7, lost_entries: 0, is_done };
            session.handle_event(Event::Rechecked(rechecked), Duration::ZERO);
            assert_eq!(session.poll_transmit(), Some(Message::Rechecked(rechecked)));
        }
        assert_eq!(session.poll_action(), Some(Action::Prove(challenge)));
    }

    #[test]
    fn no_more_is_listed_than_the_link_takes() {
        let mut session = DestinationSession::new(greeting());
        session.state = State::Surveying;
        session.transmits.clear();
        session.actions.clear();
        let item = SurveyItem::Absent(Place::from_bytes(*b"gone").expect("a name"));
        let survey = || Event::Surveyed { items: vec![item.clone()], is_last: false };
        for _ in 1..LISTS_MAX {
            session.handle_event(survey(), Duration::ZERO);
            assert_eq!(session.poll_action(), Some(Action::Survey));
        }
        session.handle_event(survey(), Duration::ZERO);
        assert_eq!(session.poll_action(), None);
        assert!(matches!(session.poll_transmit(), Some(Message::Survey(_))));
        assert_eq!(session.poll_action(), Some(Action::Survey));
    }
}
