//! What runs beside the volumes of an agent, and how it ended the last time.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tranship_proto::control::{Ended, Event, Listening, Meeting, Order, PassState, Progress, Role, code};
use tranship_proto::limit;

use super::options::Place;
use super::pass::Pass;
use super::relay::Relay;
use super::{Input, command, record, volume};
use crate::run::Stop;

/// A code and a sentence: why something is not done.
pub(super) type Rejection = (&'static str, String);

/// A pass that does not move and about which no coordinator asks is given up after so many times the idle time: what it
/// waits for may never come, and an application may need the volume.
const ABANDONED_IDLES: u32 = 10;

/// The passes of an agent: at most one for each volume.
pub(super) struct Passes {
    places: Vec<Place>,
    control_port: u16,
    running: BTreeMap<String, Running>,
    last: BTreeMap<String, Ended>,
    /// What all of them may send together, in bits per second.
    budget: Option<NonZeroU64>,
    /// Whether no more are begun.
    is_closed: bool,
    inputs: mpsc::Sender<Input>,
}

struct Running {
    pass: String,
    role: Role,
    /// Where it is met, or connections are brought to.
    port: u16,
    listening: Option<Listening>,
    /// The most that this one may send, whatever the budget.
    cap: Option<NonZeroU64>,
    share: watch::Sender<Option<NonZeroU64>>,
    stop: Stop,
    /// What it last said that is not the same as before, and when.
    seen: Option<Progress>,
    moved: Instant,
    /// When the coordinator was last told of its progress.
    told: Option<Instant>,
}

impl Passes {
    /// None runs; how those of an earlier agent ended is in the state.
    pub(super) fn new(places: Vec<Place>, control_port: u16, inputs: mpsc::Sender<Input>) -> Self {
        let kept = places.iter().filter_map(|place| match record::kept(&place.state) {
            Ok(ended) => ended.map(|ended| (place.name.clone(), ended)),
            Err(error) => {
                tracing::warn!(%error, volume = place.name, "how its last pass ended is not known");
                None
            }
        });
        let last = kept.collect();
        Self { places, control_port, running: BTreeMap::new(), last, budget: None, is_closed: false, inputs }
    }

    /// Whether nothing runs.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// How the last pass of each volume ended.
    pub(super) fn last(&self) -> impl Iterator<Item = &Ended> {
        self.last.values()
    }

    /// What a coordinator is told when it comes.
    pub(super) fn states(&self) -> Vec<PassState> {
        let running = self.running.iter().map(|(volume, running)| PassState {
            pass: running.pass.clone(),
            volume: volume.clone(),
            role: running.role,
            is_running: true,
            listening: running.listening.clone(),
            ended: None,
        });
        let ended = self.last.values().map(|ended| PassState {
            pass: ended.pass.clone(),
            volume: ended.volume.clone(),
            role: ended.role,
            is_running: false,
            listening: None,
            ended: Some(ended.clone()),
        });
        running.chain(ended).collect()
    }

    /// Begins a pass.
    pub(super) async fn begin(&mut self, order: Order) -> Result<(), Rejection> {
        order.validate().map_err(|why| (code::ORDER, why.to_owned()))?;
        let place = self.place(&order)?.clone();
        let (relay, port) = match order.meeting {
            Meeting::Listen { port } => (None, port),
            Meeting::Dial { .. } => (None, 0),
            Meeting::Relayed { port, .. } => (Some(bind(port).await?), port),
        };
        let address = relay.as_ref().map(Relay::address).transpose();
        let address = address.map_err(|error| (code::PORT, format!("there is no port for the pass: {error}")))?;
        let cap = order.bits_per_second.map(bits);
        let share = least(self.share(self.running.len() + 1), cap);
        let typed = command::typed(&order, &place, address, share).map_err(|why| (code::ORDER, why.to_owned()))?;
        let (share, changes) = watch::channel(share);
        let stop = Stop::new();
        let running = Running {
            pass: order.pass.clone(),
            role: order.role,
            port,
            listening: None,
            cap,
            share,
            stop: stop.clone(),
            seen: None,
            moved: Instant::now(),
            told: None,
        };
        self.running.insert(order.volume.clone(), running);
        self.split();
        tracing::info!(pass = order.pass, volume = order.volume, role = ?order.role, "a pass begins");
        let inputs = self.inputs.clone();
        tokio::spawn(Pass { order, place, typed, relay, share: changes, stop, inputs }.run());
        Ok(())
    }

    /// The place of a pass that may be run.
    fn place(&self, order: &Order) -> Result<&Place, Rejection> {
        if self.is_closed {
            return Err((code::ENDING, "the agent is about to end".to_owned()));
        }
        let place = self.places.iter().find(|place| place.name == order.volume);
        let place = place.ok_or_else(|| (code::VOLUME, "there is no such volume here".to_owned()))?;
        if let Some(running) = self.running.get(&order.volume) {
            return Err((code::BUSY, format!("pass {} of this volume runs", running.pass)));
        }
        let is_over = self.last.values().any(|ended| ended.pass == order.pass);
        if is_over || self.running.values().any(|running| running.pass == order.pass) {
            return Err((code::ORDER, "a pass of this name was run already".to_owned()));
        }
        let facts = volume::facts(place).map_err(|error| (code::VOLUME, format!("it cannot be seen: {error}")))?;
        if facts.kind != order.kind {
            return Err(("TS-E233", "one is a folder and the other is a block volume".to_owned()));
        }
        if let Meeting::Listen { port } | Meeting::Relayed { port, .. } = order.meeting
            && port != 0
            && (port == self.control_port || self.running.values().any(|running| running.port == port))
        {
            return Err((code::PORT, format!("port {port} is in use")));
        }
        Ok(place)
    }

    /// Ends a pass.
    pub(super) fn stop(&mut self, pass: &str) -> Result<(), Rejection> {
        let running = self.running.values().find(|running| running.pass == pass);
        running.map(|running| running.stop.set()).ok_or_else(|| (code::PASS, "no such pass runs".to_owned()))
    }

    /// Ends all, and begins no more.
    pub(super) fn stop_all(&mut self) {
        self.is_closed = true;
        self.running.values().for_each(|running| running.stop.set());
    }

    /// Sets what all of them may send together, in bits per second.
    pub(super) fn budget(&mut self, bits_per_second: Option<u64>) {
        self.budget = bits_per_second.map(bits);
        self.split();
    }

    /// An equal share of the budget among so many.
    fn share(&self, passes: usize) -> Option<NonZeroU64> {
        self.budget.map(|budget| bits(budget.get() / passes.max(1) as u64))
    }

    fn split(&self) {
        let share = self.share(self.running.len());
        for running in self.running.values() {
            let share = least(share, running.cap);
            running.share.send_if_modified(|before| std::mem::replace(before, share) != share);
        }
    }

    /// Notes what a pass says; what the coordinator should be told of it comes back.
    pub(super) fn note(&mut self, event: Event, now: Instant) -> Option<Event> {
        match event {
            Event::Listening(listening) => {
                let running = self.running.values_mut().find(|running| running.pass == listening.pass)?;
                running.port = listening.port;
                running.listening = Some(listening.clone());
                Some(Event::Listening(listening))
            }
            Event::Progress(progress) => {
                let running = self.running.get_mut(&progress.volume)?;
                running.progress(progress, now).map(Event::Progress)
            }
            event => Some(event),
        }
    }

    /// Keeps how a pass ended, and gives its share to the others.
    pub(super) fn end(&mut self, ended: &Ended) {
        self.running.remove(&ended.volume);
        let code = ended.error.as_ref().map(|error| error["code"].to_string());
        tracing::info!(pass = ended.pass, volume = ended.volume, exit = ended.exit, code, "a pass ended");
        let place = self.places.iter().find(|place| place.name == ended.volume);
        if let Some(Err(error)) = place.map(|place| record::keep(&place.state, ended)) {
            tracing::error!(%error, volume = ended.volume, "how the pass ended cannot be kept: a later agent will not know");
        }
        self.last.insert(ended.volume.clone(), ended.clone());
        self.split();
    }

    /// When the first of them counts as abandoned, if nothing changes; nothing if all are being ended.
    pub(super) fn abandoned_from(&self, touched: Instant, idle: Duration) -> Option<Instant> {
        let moved = self.running.values().filter(|running| !running.stop.is_set()).map(|running| running.moved);
        moved.min().map(|moved| touched.max(moved) + idle * ABANDONED_IDLES)
    }

    /// Ends those that do not move and about which nobody asks.
    pub(super) fn stop_abandoned(&self, touched: Instant, idle: Duration, now: Instant) {
        let is_abandoned = |running: &&Running| now >= touched.max(running.moved) + idle * ABANDONED_IDLES;
        for running in self.running.values().filter(|running| !running.stop.is_set()).filter(is_abandoned) {
            tracing::warn!(pass = running.pass, "no coordinator asks, and nothing moves: the pass is given up");
            running.stop.set();
        }
    }
}

impl Running {
    /// Notes it, and says whether it should be told: now and then, and with every new phase.
    fn progress(&mut self, progress: Progress, now: Instant) -> Option<Progress> {
        let key = |seen: &Progress| (seen.phase.clone(), seen.entries_done, seen.bytes_done, seen.bytes_sent);
        let is_same = self.seen.as_ref().is_some_and(|seen| key(seen) == key(&progress));
        let is_same_phase = self.seen.as_ref().is_some_and(|seen| seen.phase == progress.phase);
        if !is_same {
            self.moved = now;
            self.seen = Some(progress.clone());
        }
        let between = Duration::from_millis(limit::CONTROL_PROGRESS_MS);
        let is_due = self.told.is_none_or(|told| now >= told + between);
        (is_due || !is_same_phase).then(|| {
            self.told = Some(now);
            progress
        })
    }
}

async fn bind(port: u16) -> Result<Relay, Rejection> {
    Relay::bind(port).await.map_err(|error| (code::PORT, format!("port {port} cannot be had: {error}")))
}

/// A rate of which something is left.
fn bits(bits_per_second: u64) -> NonZeroU64 {
    NonZeroU64::new(bits_per_second).unwrap_or(NonZeroU64::MIN)
}

fn least(share: Option<NonZeroU64>, cap: Option<NonZeroU64>) -> Option<NonZeroU64> {
    [share, cap].into_iter().flatten().min()
}
