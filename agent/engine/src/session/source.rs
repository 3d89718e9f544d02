//! The half that has the truth.
//!
//! ```text
//! Greeting ─Hello─▶ Meeting ─Basis─▶ Resolving ─▶ Preparing (scan ∥ survey) ─▶ Planning ─▶ Structure ─▶ Contents
//!    ─▶ Closing ─▶ Finishing ─Committed─▶ Committing ─▶ [ Proving ─▶ [ Explaining ] ] ─▶ Parting ─Bye─▶ Done
//! Committing ─▶ Rechecking ─Rechecked─▶ Parting, where a stage waits for what the destination reads back
//! Resolving ─Examine─▶ Proving, if there is no pass
//! any state ──refusal of either side──▶ Failed
//! ```
//!
//! Until `Committing` nothing of this side's state has changed, whatever ends the session: what the destination holds
//! is the destination's to tell.

mod work;

use std::collections::VecDeque;

use tranship_proto::id::Token;
use tranship_proto::limit::{ASKS_MAX, IN_FLIGHT_BYTES_MAX, OPEN_CONTENTS_MAX};
use tranship_proto::message::{
    Ack, Barrier, Basis, BasisChoice, Begin, Challenge, Committed, Examine, Finish, Gap, Message, Op, Plan, Proof,
    Rechecked, Role, batches,
};
use tranship_proto::refusal::{Reason, Refusal};

pub use self::work::{Action, Event, Order, Planned, Produced};
use super::handover::Handover;
use super::queue::Queue;
pub use super::verdict::Verdict;
use super::{Channel, Failure, out_of_turn};

/// Pieces of a large content that one [`Action::Read`] takes, at most.
pub const PIECES_PER_READ: usize = 4;

/// Lists of the peer that wait for the disk.
const LISTS_MAX: usize = 8;

#[derive(Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Meeting,
    Resolving,
    Preparing { scanned: bool, surveyed: bool },
    Planning,
    Structure,
    Contents,
    Closing,
    Finishing,
    Committing,
    Rechecking,
    Proving { ours: Option<Proof>, theirs: Option<Proof> },
    Explaining { listed: bool },
    Parting,
    Done,
    Failed,
}

/// The source's half of a conversation.
#[derive(Debug)]
pub struct SourceSession {
    order: Order,
    state: State,
    peer_build: String,
    basis: Option<Basis>,
    choice: BasisChoice,
    note: Option<&'static str>,
    planned: Planned,
    outbox: Queue<(Channel, Message)>,
    actions: VecDeque<Action>,
    /// Lists of the peer that are being kept or compared.
    taking_in: usize,
    reads: usize,
    /// Questions without an answer, and answers that are being worked on.
    asks: usize,
    refines: usize,
    is_exhausted: bool,
    handover: Handover,
    has_said_anything: bool,
    acknowledged: Ack,
    committed: Option<Committed>,
    rechecked: Option<Rechecked>,
    verdict: Option<Verdict>,
    failure: Option<Failure>,
}

impl SourceSession {
    /// A session that says hello first.
    pub fn new(order: Order) -> Self {
        let hello = Message::Hello(order.greeting.hello(Role::Source));
        let handover = Handover::new(order.data_streams);
        let mut session = Self {
            order,
            state: State::Greeting,
            peer_build: String::new(),
            basis: None,
            choice: BasisChoice::Survey,
            note: None,
            planned: Planned::default(),
            outbox: Queue::default(),
            actions: VecDeque::new(),
            taking_in: 0,
            reads: 0,
            asks: 0,
            refines: 0,
            is_exhausted: false,
            handover,
            has_said_anything: false,
            acknowledged: Ack::default(),
            committed: None,
            rechecked: None,
            verdict: None,
            failure: None,
        };
        session.say(hello);
        session
    }

    /// What the peer says it is, for people; empty before it has said hello.
    pub fn peer_build(&self) -> &str {
        &self.peer_build
    }

    /// Takes in what happened.
    pub fn handle_event(&mut self, event: Event) {
        if matches!(self.state, State::Failed | State::Done) {
            return;
        }
        let result = match event {
            Event::Received(message) => self.receive(message),
            other => self.advance(other),
        };
        if let Err(refusal) = result {
            self.fail(refusal, false);
        }
    }

    /// The next message to send, and where.
    pub fn poll_transmit(&mut self) -> Option<(Channel, Message)> {
        let next = self.outbox.pop()?;
        self.read_on();
        Some(next)
    }

    /// Sends contents over the data streams from `first` on, as many as before, from the next read on: there are better
    /// ones.
    pub fn spread_from(&mut self, first: u32) {
        self.handover.spread_from(first);
    }

    /// Whether the peer may say more: not while several of its lists wait for the disk.
    pub fn wants_control(&self) -> bool {
        self.taking_in < LISTS_MAX
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether everything was said and done.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done | State::Failed)
    }

    /// Why the session failed, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// What the pass builds on.
    pub fn choice(&self) -> BasisChoice {
        self.choice
    }

    /// Why contents are compared instead of believed, if they are.
    pub fn note(&self) -> Option<&'static str> {
        self.note
    }

    /// What the plan came to.
    pub fn planned(&self) -> Planned {
        self.planned
    }

    /// What the destination has made durable.
    pub fn acknowledged(&self) -> Ack {
        self.acknowledged
    }

    /// What the destination did, once it has committed.
    pub fn committed(&self) -> Option<Committed> {
        self.committed
    }

    /// What the destination read back so far.
    pub fn rechecked(&self) -> Option<Rechecked> {
        self.rechecked
    }

    /// How the two sides compare, once both were read.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// The state's name, for errors and logs.
    pub fn state(&self) -> &'static str {
        match self.state {
            State::Greeting => "Greeting",
            State::Meeting => "Meeting",
            State::Resolving => "Resolving",
            State::Preparing { .. } => "Preparing",
            State::Planning => "Planning",
            State::Structure => "Structure",
            State::Contents => "Contents",
            State::Closing => "Closing",
            State::Finishing => "Finishing",
            State::Committing => "Committing",
            State::Rechecking => "Rechecking",
            State::Proving { .. } => "Proving",
            State::Explaining { .. } => "Explaining",
            State::Parting => "Parting",
            State::Done => "Done",
            State::Failed => "Failed",
        }
    }

    fn receive(&mut self, message: Message) -> Result<(), Refusal> {
        match (&mut self.state, message) {
            (_, Message::Refuse(refusal)) => {
                self.fail(refusal, true);
                Ok(())
            }
            (State::Greeting, Message::Hello(hello)) => {
                self.order.greeting.meet(Role::Source, &hello)?;
                self.peer_build = hello.build;
                self.state = State::Meeting;
                Ok(())
            }
            (State::Meeting, Message::Basis(basis)) => {
                self.check_room(&basis)?;
                self.actions.push_back(Action::Resolve(basis.clone()));
                self.basis = Some(basis);
                self.state = State::Resolving;
                Ok(())
            }
            (State::Preparing { surveyed: false, .. }, Message::Survey(items)) => {
                self.taking_in += 1;
                self.actions.push_back(Action::Absorb(items));
                Ok(())
            }
            (State::Preparing { surveyed, .. }, Message::SurveyEnd) => {
                *surveyed = true;
                self.plan_when_prepared();
                Ok(())
            }
            (State::Structure | State::Contents | State::Closing | State::Finishing, Message::Ack(ack)) => {
                self.acknowledged = ack;
                Ok(())
            }
            (State::Structure | State::Contents | State::Closing | State::Finishing, Message::Gaps(gaps)) => {
                self.taking_in += 1;
                self.actions.push_back(Action::Doubt(gaps));
                Ok(())
            }
            (State::Contents, Message::Signature(signature)) if self.asks > 0 => {
                (self.asks, self.refines) = (self.asks - 1, self.refines + 1);
                self.actions.push_back(Action::Refine(signature));
                Ok(())
            }
            (State::Finishing, Message::Committed(committed)) => self.commit(committed),
            (State::Committing | State::Rechecking | State::Proving { .. }, Message::Rechecked(rechecked))
                if self.order.rechecks && self.rechecked.is_none_or(|rechecked| !rechecked.is_done) =>
            {
                self.rechecked = Some(rechecked);
                if rechecked.is_done && self.state == State::Rechecking {
                    self.part();
                }
                Ok(())
            }
            (State::Proving { theirs, .. }, Message::Proof(proof)) => {
                *theirs = Some(proof);
                self.judge();
                Ok(())
            }
            (State::Explaining { listed: false }, Message::Listing(entries)) => {
                self.taking_in += 1;
                self.actions.push_back(Action::Compare(entries));
                Ok(())
            }
            (State::Explaining { listed }, Message::ListingEnd) => {
                *listed = true;
                self.explain_when_compared();
                Ok(())
            }
            (State::Parting, Message::Bye) => {
                self.state = State::Done;
                Ok(())
            }
            (_, message) => Err(out_of_turn(message.name(), self.state())),
        }
    }

    fn advance(&mut self, event: Event) -> Result<(), Refusal> {
        match (&mut self.state, event) {
            (_, Event::Failed(refusal)) => Err(refusal),
            (_, Event::Doubted) => {
                self.taking_in -= 1;
                Ok(())
            }
            (State::Resolving, Event::Resolved(_)) if self.order.only_examines => {
                self.say(Message::Examine(Examine {
                    block_bytes: self.order.block_bytes,
                    excludes: self.order.excludes.clone(),
                }));
                self.prove();
                Ok(())
            }
            (State::Resolving, Event::Resolved(token)) => {
                self.begin(token);
                Ok(())
            }
            (State::Preparing { scanned, .. }, Event::Scanned) => {
                *scanned = true;
                self.plan_when_prepared();
                Ok(())
            }
            (State::Preparing { .. }, Event::Absorbed) => {
                self.taking_in -= 1;
                self.plan_when_prepared();
                Ok(())
            }
            (State::Planning, Event::Planned(planned)) => {
                self.start_copying(planned);
                Ok(())
            }
            (State::Structure, Event::Ops(ops)) => {
                if ops.is_empty() {
                    self.say(Message::Barrier(Barrier { packs: 0, contents: 0 }));
                    self.state = State::Contents;
                    self.read_on();
                } else {
                    self.structure(ops);
                    self.actions.push_back(Action::NextStructure);
                }
                Ok(())
            }
            (State::Contents, Event::Read { produced, is_exhausted }) => {
                self.reads -= 1;
                self.is_exhausted |= is_exhausted;
                self.hand_over(produced);
                self.read_on();
                self.close_when_read();
                Ok(())
            }
            (State::Contents, Event::Refined(produced)) => {
                self.refines -= 1;
                self.hand_over(produced);
                self.read_on();
                self.close_when_read();
                Ok(())
            }
            (State::Closing, Event::Ops(ops)) => {
                if ops.is_empty() {
                    self.finish();
                } else {
                    self.structure(ops);
                    self.actions.push_back(Action::NextClosing);
                }
                Ok(())
            }
            (State::Committing, Event::Committed) => {
                self.prove();
                Ok(())
            }
            (State::Proving { ours, .. }, Event::Proved(proof)) => {
                *ours = Some(proof);
                self.judge();
                Ok(())
            }
            (State::Explaining { .. }, Event::Compared) => {
                self.taking_in -= 1;
                self.explain_when_compared();
                Ok(())
            }
            (State::Explaining { .. }, Event::Explained(differences)) => {
                self.part_with(differences);
                Ok(())
            }
            (_, event) => unreachable!("the driver reports {event:?} in state {}", self.state()),
        }
    }

    /// A block volume must fit before the first byte is sent; a tree's sizes are only known after the scan.
    fn check_room(&self, basis: &Basis) -> Result<(), Refusal> {
        match self.order.block_bytes {
            Some(bytes) if bytes > basis.capacity_bytes => Err(Refusal::new(
                Reason::Space,
                format!("destination holds {} bytes, source has {bytes}", basis.capacity_bytes),
            )),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, ours: Option<Token>) {
        let basis = self.basis.as_ref().expect("resolved after the basis came");
        let is_block = self.order.block_bytes.is_some();
        self.choice = match (ours, basis.token) {
            (Some(ours), Some(theirs)) if ours == theirs => BasisChoice::Common(ours),
            _ if basis.is_empty && !basis.is_interrupted => BasisChoice::Nothing,
            // A device that neither side has seen before holds anything; reading it would only delay the first copy.
            (None, None) if is_block && !basis.is_interrupted => BasisChoice::Nothing,
            _ => BasisChoice::Survey,
        };
        match (self.choice, ours, basis.token) {
            (BasisChoice::Survey, None, Some(_)) => self.forget("the source's manifest is lost: contents are compared"),
            (BasisChoice::Survey, Some(_), None) => {
                self.forget("the destination's manifest is lost: contents are compared");
            }
            (BasisChoice::Survey, Some(_), Some(_)) => {
                self.forget("the manifests of the two sides are not of the same pass: contents are compared");
            }
            (BasisChoice::Nothing, Some(_), _) => {
                self.forget("the destination is empty: everything is copied");
            }
            _ => {}
        }
        self.say(Message::Begin(Begin {
            basis: self.choice,
            fidelity: self.order.contract.fidelity,
            is_final: self.order.is_final,
            block_bytes: self.order.block_bytes,
            excludes: self.order.excludes.clone(),
        }));
        self.actions.push_back(Action::Scan);
        self.state = State::Preparing { scanned: false, surveyed: false };
    }

    fn forget(&mut self, why: &'static str) {
        self.note = Some(why);
    }

    fn plan_when_prepared(&mut self) {
        if self.state == (State::Preparing { scanned: true, surveyed: true }) && self.taking_in == 0 {
            self.state = State::Planning;
            self.actions.push_back(Action::Plan(self.choice));
        }
    }

    fn start_copying(&mut self, planned: Planned) {
        self.planned = planned;
        if planned.candidates == 0 && planned.moves == 0 {
            return self.finish();
        }
        // Such a plan makes the destination doubt everything, even if nothing comes of it.
        self.has_said_anything |= planned.touches_everything;
        self.say(Message::Plan(Plan {
            touches_everything: planned.touches_everything,
            entries: planned.candidates,
            bytes: planned.bytes,
        }));
        self.state = State::Structure;
        self.actions.push_back(Action::NextStructure);
    }

    /// Asks for reads while there is room for what they produce.
    fn read_on(&mut self) {
        let may_read = |session: &Self| {
            // Each read may ask for all of its pieces; without an answer in sight none may be left to guess.
            let asks = session.asks + session.refines;
            let may_ask = asks == 0 || asks + (session.reads + 1) * PIECES_PER_READ <= ASKS_MAX;
            may_ask
                && session.state == State::Contents
                && !session.is_exhausted
                && session.reads < session.order.reads_max
                && session.outbox.bytes() < IN_FLIGHT_BYTES_MAX
                && session.handover.open_contents() < OPEN_CONTENTS_MAX
        };
        while may_read(self) {
            self.reads += 1;
            self.actions.push_back(Action::Read);
        }
    }

    fn hand_over(&mut self, produced: Vec<Produced>) {
        for produced in produced {
            self.asks += usize::from(matches!(produced, Produced::Ask(_)));
            for (channel, message) in self.handover.messages(produced) {
                self.has_said_anything = true;
                self.outbox.push((channel, message));
            }
        }
    }

    fn close_when_read(&mut self) {
        if self.is_exhausted && self.reads + self.asks + self.refines == 0 {
            self.say(Message::Barrier(self.handover.barrier()));
            self.state = State::Closing;
            self.actions.push_back(Action::NextClosing);
        }
    }

    fn finish(&mut self) {
        // A destination that was not touched keeps its manifest, whatever we learned about our own side. One that was
        // interrupted makes a new one: as long as it has none, it reads again what is in doubt.
        let is_interrupted = self.basis.as_ref().is_some_and(|basis| basis.is_interrupted);
        let token = match self.choice {
            BasisChoice::Common(token) if !self.has_said_anything && !is_interrupted => token,
            _ => self.order.token,
        };
        self.order.token = token;
        self.say(Message::Finish(Finish { token, entries: self.planned.entries }));
        self.state = State::Finishing;
    }

    fn commit(&mut self, committed: Committed) -> Result<(), Refusal> {
        if committed.token != Some(self.order.token) {
            return Err(Refusal::new(Reason::Protocol, "the destination committed another pass"));
        }
        self.committed = Some(committed);
        if self.order.rechecks {
            self.say(Message::Recheck);
        }
        self.state = State::Committing;
        self.actions.push_back(Action::Commit(self.order.token));
        Ok(())
    }

    fn prove(&mut self) {
        match self.challenge(false) {
            Some(challenge) => {
                self.say(Message::Challenge(challenge));
                self.actions.push_back(Action::Prove(challenge));
                self.state = State::Proving { ours: None, theirs: None };
            }
            None if self.awaits_recheck() => self.state = State::Rechecking,
            None => self.part(),
        }
    }

    fn awaits_recheck(&self) -> bool {
        self.order.rechecks && self.rechecked.is_none_or(|rechecked| !rechecked.is_done)
    }

    fn challenge(&self, lists_entries: bool) -> Option<Challenge> {
        let (level, nonce) = self.order.proof?;
        Some(Challenge { nonce, level, contract: self.order.contract, lists_entries })
    }

    fn judge(&mut self) {
        let State::Proving { ours: Some(ours), theirs: Some(theirs) } = self.state else { return };
        let verdict = Verdict { ours, theirs, differences: Vec::new() };
        let is_equal = verdict.is_equal();
        self.verdict = Some(verdict);
        if is_equal {
            return self.part();
        }
        let challenge = self.challenge(true).expect("there was one");
        self.say(Message::Challenge(challenge));
        self.state = State::Explaining { listed: false };
    }

    fn explain_when_compared(&mut self) {
        if self.state == (State::Explaining { listed: true }) && self.taking_in == 0 {
            self.actions.push_back(Action::Explain);
        }
    }

    fn part_with(&mut self, differences: Vec<Gap>) {
        if !self.order.only_examines {
            // The destination takes these places for unknown, so that the next pass heals them.
            batches(differences.clone()).into_iter().for_each(|gaps| self.say(Message::Gaps(gaps)));
        }
        if let Some(verdict) = &mut self.verdict {
            verdict.differences = differences;
        }
        self.part();
    }

    fn part(&mut self) {
        self.say(Message::Bye);
        self.state = State::Parting;
    }

    fn fail(&mut self, refusal: Refusal, is_from_peer: bool) {
        self.outbox.clear();
        self.actions.clear();
        if !is_from_peer {
            self.say(Message::Refuse(refusal.clone()));
        }
        self.failure = Some(Failure { refusal, is_from_peer });
        self.state = State::Failed;
    }

    fn structure(&mut self, ops: Vec<Op>) {
        self.has_said_anything = true;
        batches(ops).into_iter().for_each(|ops| self.say(Message::Structure(ops)));
    }

    fn say(&mut self, message: Message) {
        self.outbox.push((Channel::Control, message));
    }
}
