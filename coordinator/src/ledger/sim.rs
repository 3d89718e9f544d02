//! Cutovers and rollbacks simulated: two clusters in memory that answer late, twice or not at all, coordinators that come,
//! stop and die between any two calls, and an application that writes wherever it runs. A seed repeats a run.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use futures_util::future::{Either, select};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::Status;
use tranship_api::migration::{Migration, Mode};
use tranship_api::record::{Authority, Proof, Record, Step};
use tranship_api::{ObjectRef, Side};

use super::{Ledger, Shelf, map_name, read};
use crate::Error;

const SEEDS: u64 = 400;

/// Turns of a run while things fail, and turns that suffice to come to an end once nothing does.
const TURNS: u32 = 400;
const QUIET_TURNS: u32 = 600;

/// Coordinators at a time.
const COORDINATORS: usize = 2;

#[derive(Clone)]
struct World(Arc<Mutex<State>>);

struct State {
    random: u64,
    is_quiet: bool,
    version: u64,
    maps: [Option<ConfigMap>; 2],
    epochs: [u64; 2],
    /// Writes whose answer was lost before they were done.
    late: Vec<(Side, ConfigMap)>,
    is_lost: [bool; 2],
    fences: [Option<u64>; 2],
    /// The highest epoch that the agents of a side have seen.
    agents: [u64; 2],
    is_running: [bool; 2],
    /// What each volume holds, and the last thing that was written anywhere.
    holds: [u64; 2],
    truth: u64,
    cutovers: u32,
    /// Owners that there have been after the first.
    commits: u64,
}

impl State {
    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn fails(&mut self, one_in: u64) -> bool {
        !self.is_quiet && self.draw(one_in) == 0
    }

    fn authority(&self, side: Side) -> Option<Authority> {
        self.maps[side as usize].as_ref().map(|map| read(map, "authority").expect("whole"))
    }

    /// What an API server does with a write.
    fn apply(&mut self, side: Side, map: &ConfigMap) -> Result<ConfigMap, u16> {
        let found = self.maps[side as usize].as_ref();
        let version = |map: &ConfigMap| map.metadata.resource_version.clone();
        match (found.map(version), version(map)) {
            (Some(_), None) => return Err(409),
            (None, Some(_)) => return Err(404),
            (Some(found), wanted) if found != wanted => return Err(409),
            _ => {}
        }
        let record: Record = read(map, "record").expect("whole");
        let (epoch, before) = (record.epoch, self.epochs[side as usize]);
        assert!(epoch >= before, "the epoch went from {before} back to {epoch}");
        self.epochs[side as usize] = epoch;
        let says: Authority = read(map, "authority").expect("whole");
        if matches!(says, Authority::Authoritative { epoch: 1.., .. }) && self.authority(side) != Some(says) {
            self.commits += 1;
            let remembered = record.commits.len() as u64 + record.dropped.commits;
            assert_eq!(remembered, self.commits, "a commit is not remembered");
        }
        self.version += 1;
        let mut stored = map.clone();
        stored.metadata.resource_version = Some(self.version.to_string());
        self.maps[side as usize] = Some(stored.clone());
        let is_authoritative = |side| matches!(self.authority(side), Some(Authority::Authoritative { .. }));
        assert!(!Side::ALL.into_iter().all(is_authoritative), "both sides may start");
        Ok(stored)
    }

    /// What happens whether anybody looks or not.
    fn pass_time(&mut self) {
        if !self.late.is_empty() && self.draw(4) == 0 {
            let (side, map) = self.late.remove(0);
            let _ = self.apply(side, &map);
        }
        for side in 0..2 {
            let is_lost = self.is_lost[side];
            self.is_lost[side] = if is_lost { self.draw(12) != 0 } else { self.fails(60) };
            self.is_lost[side] &= !self.is_quiet;
            if self.is_running[side] {
                assert_eq!(self.holds[side], self.truth, "an application runs without what was written last");
                self.truth += 1;
                self.holds[side] = self.truth;
            }
        }
        assert!(self.is_running != [true, true], "the application runs on both sides");
    }
}

#[derive(Clone)]
struct Fake {
    side: Side,
    world: World,
}

impl World {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().expect("no holder panics"))
    }

    /// Lets others have their turn.
    async fn turn(&self) {
        let mut is_over = false;
        poll_fn(|_| if std::mem::replace(&mut is_over, true) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Something done in a cluster that may not answer.
    async fn act<T>(&self, side: Side, act: impl FnOnce(&mut State) -> Result<T, Error>) -> Result<T, Error> {
        self.turn().await;
        self.with(|state| {
            if state.is_lost[side as usize] || state.fails(25) {
                return Err(no_answer(side));
            }
            let done = act(state);
            if state.fails(25) { Err(no_answer(side)) } else { done }
        })
    }

    fn clusters(&self) -> [Fake; 2] {
        Side::ALL.map(|side| Fake { side, world: self.clone() })
    }
}

impl Shelf for Fake {
    async fn look(&self, _: &str, _: &str) -> Result<Option<ConfigMap>, Error> {
        self.world.act(self.side, |state| Ok(state.maps[self.side as usize].clone())).await
    }

    async fn put(&self, _: &str, map: &ConfigMap) -> Result<ConfigMap, Error> {
        let done = self.world.act(self.side, |state| {
            if state.fails(25) {
                state.late.push((self.side, map.clone()));
                return Err(no_answer(self.side));
            }
            state.apply(self.side, map).map_err(|code| says(self.side, code))
        });
        done.await
    }

    async fn pause(&self) {
        self.world.turn().await;
    }
}

fn no_answer(side: Side) -> Error {
    Error::Unreachable { side, what: "a call".to_owned(), source: None }
}

fn says(side: Side, code: u16) -> Error {
    let status = Status::failure("no", "Conflict").with_code(code);
    Error::Api { side, what: "a call".to_owned(), source: Box::new(kube::Error::Api(Box::new(status))) }
}

/// What a command does, in the order of `cutover`, with the same calls of the ledger.
struct Command<'a> {
    ledger: &'a mut Ledger<Fake>,
    world: &'a World,
}

impl Command<'_> {
    async fn run(&mut self) -> Result<(), Error> {
        let coin = self.world.with(|state| state.draw(4) == 0);
        let step = self.ledger.record.step;
        if step == Step::Restoring || (coin && step != Step::Staging && !step.is_committed()) {
            self.restore().await?;
            return Ok(());
        }
        if !step.is_committed() {
            let begun = {
                let stop = pin!(stopped(self.world.clone()));
                let work = pin!(self.until_commit());
                match select(work, stop).await {
                    Either::Left((done, _)) => done,
                    Either::Right(_) => Err(Error::Stopped),
                }
            };
            if let Err(error) = begun {
                let is_mine = !matches!(error, Error::Superseded { .. });
                if is_mine && self.ledger.record.step != Step::Staging && !self.ledger.record.step.is_committed() {
                    self.restore().await?;
                }
                return Err(error);
            }
            let proof = Proof { epoch: self.ledger.record.epoch, level: "full".to_owned(), volumes: Vec::new() };
            self.ledger.relinquish(proof, Vec::new(), Timestamp::UNIX_EPOCH).await?;
        }
        if self.ledger.record.step == Step::Relinquished {
            self.ledger.assume(Timestamp::UNIX_EPOCH).await?;
        }
        let heir = self.ledger.record.owner.other();
        assert!(self.ledger.may_start(heir));
        self.ledger.confirm().await?;
        self.lift(heir).await?;
        self.start(heir).await?;
        self.ledger.record.owner = heir;
        self.step(Step::Staging).await?;
        self.world.with(|state| state.cutovers += 1);
        Ok(())
    }

    async fn step(&mut self, step: Step) -> Result<(), Error> {
        self.ledger.record.step = step;
        self.ledger.save().await
    }

    async fn until_commit(&mut self) -> Result<(), Error> {
        let (owner, epoch) = (self.ledger.record.owner, self.ledger.record.epoch);
        if self.ledger.record.step == Step::Staging {
            self.step(Step::Fencing).await?;
        }
        for side in Side::ALL {
            let raise = |state: &mut State| match &mut state.fences[side as usize] {
                Some(live) if *live > epoch => Err(superseded(*live)),
                fence => {
                    *fence = Some(epoch);
                    Ok(())
                }
            };
            self.world.act(side, raise).await?;
        }
        if self.ledger.record.step == Step::Fencing {
            self.step(Step::Quiescing).await?;
        }
        if self.ledger.record.step == Step::Quiescing {
            let stop = |state: &mut State| {
                state.is_running[owner as usize] = false;
                Ok(())
            };
            self.world.act(owner, stop).await?;
            self.step(Step::FinalPass).await?;
        }
        self.nobody_came_back().await?;
        self.pass(owner).await?;
        self.nobody_came_back().await?;
        self.ledger.record.step = Step::Proven;
        self.ledger.save_both().await
    }

    /// The pass itself needs both agents, and nobody else.
    async fn pass(&mut self, owner: Side) -> Result<(), Error> {
        let epoch = self.ledger.record.epoch;
        for side in Side::ALL {
            let greet = |state: &mut State| match &mut state.agents[side as usize] {
                highest if *highest > epoch => Err(superseded(*highest)),
                highest => {
                    *highest = epoch;
                    Ok(())
                }
            };
            self.world.act(side, greet).await?;
        }
        let copy = |state: &mut State| {
            if let Some(&higher) = state.agents.iter().find(|&&highest| highest > epoch) {
                return Err(superseded(higher));
            }
            assert!(!state.is_running[owner.other() as usize], "an agent writes a volume that is in use");
            state.holds[owner.other() as usize] = state.holds[owner as usize];
            Ok(())
        };
        self.world.act(owner.other(), copy).await
    }

    async fn nobody_came_back(&self) -> Result<(), Error> {
        for side in Side::ALL {
            let is_running = self.world.act(side, |state| Ok(state.is_running[side as usize])).await?;
            if is_running {
                return Err(Error::refused("TS-K946", "somebody is there", ""));
            }
        }
        Ok(())
    }

    async fn lift(&self, side: Side) -> Result<(), Error> {
        let epoch = self.ledger.record.epoch;
        let lift = |state: &mut State| match state.fences[side as usize] {
            Some(live) if live > epoch => Err(superseded(live)),
            _ => {
                state.fences[side as usize] = None;
                Ok(())
            }
        };
        self.world.act(side, lift).await
    }

    async fn start(&self, side: Side) -> Result<(), Error> {
        let start = |state: &mut State| {
            if state.fences[side as usize].is_none() && !state.is_running[side as usize] {
                let says = state.authority(side);
                assert!(matches!(says, Some(Authority::Authoritative { .. })), "started on the word {says:?}");
                state.is_running[side as usize] = true;
            }
            Ok(())
        };
        self.world.act(side, start).await
    }

    async fn restore(&mut self) -> Result<(), Error> {
        let owner = self.ledger.record.owner;
        self.step(Step::Restoring).await?;
        assert!(self.ledger.may_start(owner));
        self.lift(owner).await?;
        self.start(owner).await?;
        self.step(Step::Staging).await
    }
}

fn superseded(epoch: u64) -> Error {
    Error::Superseded { coordinator: "another".to_owned(), epoch }
}

/// A user who loses patience.
async fn stopped(world: World) {
    poll_fn(|_| if world.with(|state| state.fails(80)) { Poll::Ready(()) } else { Poll::Pending }).await
}

async fn coordinator(world: World, name: String) {
    loop {
        world.turn().await;
        let Ok(mut ledger) = Ledger::load(world.clusters(), ["shop", "shop"], "shop").await else { continue };
        if ledger.take_over(&name).await.is_ok() {
            // What failed is tried again by whoever comes next.
            let _ = Command { ledger: &mut ledger, world: &world }.run().await;
        }
    }
}

pub(super) fn record() -> Record {
    let clusters = ["a", "b"].map(str::to_owned);
    Record::new("0".repeat(32), "first".to_owned(), Migration::new("shop", "shop"), clusters, Mode::Plain, Vec::new())
}

type Running = Pin<Box<dyn Future<Output = ()>>>;

fn poll(future: &mut Running) {
    let _ = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
}

/// A whole run. Returns whether a cutover comes to its end once nothing fails any more.
fn run(seed: u64) -> bool {
    let world = World(Arc::new(Mutex::new(State {
        random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        is_quiet: true,
        version: 0,
        maps: [None, None],
        epochs: [0; 2],
        late: Vec::new(),
        is_lost: [false; 2],
        fences: [None; 2],
        agents: [0; 2],
        is_running: [true, false],
        holds: [0; 2],
        truth: 0,
        cutovers: 0,
        commits: 0,
    })));
    let creating = world.clone();
    let mut create: Running = Box::pin(async move {
        drop(Ledger::create(creating.clusters(), record()).await.expect("two clusters that answer"))
    });
    (0..10).for_each(|_| {
        if world.with(|state| state.maps[1].is_none()) {
            poll(&mut create)
        }
    });
    world.with(|state| state.is_quiet = false);
    let mut number = 0;
    let mut comes = || -> Running {
        number += 1;
        Box::pin(coordinator(world.clone(), format!("coordinator {number}")))
    };
    let mut running: Vec<Running> = (0..COORDINATORS).map(|_| comes()).collect();
    for _ in 0..TURNS {
        let (who, dies) = world.with(|state| (state.draw(COORDINATORS as u64) as usize, state.draw(50) == 0));
        if dies {
            running[who] = comes();
        }
        poll(&mut running[who]);
        world.with(State::pass_time);
    }
    world.with(|state| (state.is_quiet, state.cutovers) = (true, 0));
    running = vec![comes()];
    for _ in 0..QUIET_TURNS {
        poll(&mut running[0]);
        world.with(State::pass_time);
        if world.with(|state| state.cutovers > 0) {
            return true;
        }
    }
    false
}

#[test]
fn whatever_fails_the_application_runs_on_one_side_with_all_that_was_written() {
    let name = ObjectRef::named("v1", "ConfigMap", Some("shop"), &map_name("shop"));
    for seed in 1..=SEEDS {
        let ended = std::panic::catch_unwind(|| run(seed));
        let ended = ended.unwrap_or_else(|_| panic!("{name}: seed {seed}"));
        assert!(ended, "no cutover comes to its end any more: seed {seed}");
    }
}
