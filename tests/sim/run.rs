//! One run: a world, several passes with trouble, and then quiet.

use std::time::Duration;

use tranship_agent::state::Store;
use tranship_agent::state::memory::MemoryStore;
use tranship_agent::volume::Volume;
use tranship_agent::volume::memory::Saved;
use tranship_proto::refusal::Reason;

use crate::pass::{self, Outcome, Wish};
use crate::reach::Reach;
use crate::world::World;
use crate::{application, caught};

/// What every set of runs must have come by, or it proves nothing.
const MUST_REACH: &[&str] = &[
    "proven equal, and equal",
    "proven unequal, and unequal",
    "acknowledged object is there after a crash",
    "acknowledged piece is there after a crash",
    "quiet stage did nothing",
    "equal at the first try",
    "committed on a common basis after a crash",
    "source went back to its old bytes",
    "state lost",
    "state damaged",
    "destination changed behind our back",
    "a device will lie",
    "piece made of bytes that moved",
    "piece refined",
    "moved",
    "read back",
    "found lost when it was read back",
    "proven equal at level tracked",
    "what was left in a slot is no longer there",
];

/// Fails if these runs did not reach what they are for.
pub(crate) fn assert_reached(reach: &Reach) {
    for what in MUST_REACH {
        assert!(reach.get(what) > 0, "never reached: {what}");
    }
}

/// Does one run; gives its log, and what it reached or why it failed.
pub(crate) fn run(seed: u64) -> (Vec<String>, Result<Reach, String>) {
    let mut world = World::new(seed);
    let result = caught(|| live(&mut world));
    (world.log, result.map(|()| world.reach))
}

fn live(world: &mut World) {
    let mut saved: Option<Saved> = None;
    for _ in 0..3 + world.chance.below(4) {
        let before = world.chance.one_in(3).then(|| world.source.volume.save());
        meddle(world, &mut saved);
        let is_final = world.chance.one_in(4);
        let wish = Wish {
            is_final,
            is_tracked: may_track(world) && world.chance.one_in(2),
            has_writers: !is_final && world.chance.one_in(2),
            trouble: if world.chance.one_in(2) { 30 + world.chance.below(300) } else { 0 },
            cut_after: None,
        };
        let outcome = go(world, wish);
        if outcome.is_committed {
            saved = None;
        } else {
            saved = saved.or(before);
        }
        if !world.may_stumble && world.chance.one_in(6) {
            be_quiet(world);
        }
    }
    converge(world);
}

/// Whether a stat of the source tells of every write to it: not after a loss of power, which can keep bytes and lose times.
fn may_track(world: &World) -> bool {
    !world.has_source_crashed
}

fn go(world: &mut World, wish: Wish) -> Outcome {
    world.note(format!("pass {wish:?}"));
    let outcome = pass::run(world, wish);
    let failures: Vec<_> = outcome.failures.iter().map(|failure| failure.refusal.clone()).collect();
    let equal = outcome.verdict.as_ref().map(|verdict| verdict.is_equal());
    world.note(format!("  committed {}, on {}, equal {equal:?}, {failures:?}", outcome.is_committed, outcome.choice));
    for gap in outcome.verdict.iter().flat_map(|verdict| &verdict.differences).take(3) {
        world.note(format!("    {} {}", gap.place, gap.detail));
    }
    world.reach.add("pass");
    if outcome.is_committed {
        world.reach.add("pass committed");
    }
    if outcome.is_committed && outcome.choice.starts_with("Common") && world.has_crashed {
        world.reach.add("committed on a common basis after a crash");
    }
    world.has_crashed |= outcome.was_troubled;
    if outcome.is_committed && wish.is_final {
        world.may_stumble = false;
    }
    if !outcome.was_troubled && !outcome.is_committed {
        // A stage takes the destination for what it left there; the pass that stumbles over a stranger's work ends, and
        // the next one looks.
        let is_damage = failures.iter().all(|refusal| refusal.reason == Reason::State) && world.damages > 0;
        world.damages -= u64::from(is_damage);
        assert!(is_damage || std::mem::take(&mut world.may_stumble), "a pass without trouble failed: {failures:?}");
    }
    outcome
}

/// What happens between two passes.
fn meddle(world: &mut World, saved: &mut Option<Saved>) {
    world.clock.advance(Duration::from_millis(world.chance.below(3_000)));
    if let Some(saved) = saved.take_if(|_| !world.chance.one_in(3)) {
        world.note("source goes back to what it was");
        world.reach.add("source went back to its old bytes");
        world.source.volume.restore(&saved);
    } else if world.chance.one_in(2) {
        application::work(&world.source.volume, &mut world.chance, world.is_block);
    }
    if world.chance.one_in(12) {
        world.note("state lost");
        world.reach.add("state lost");
        let machine = if world.chance.one_in(2) { &world.source } else { &world.destination };
        machine.store.wipe();
    }
    if world.chance.one_in(12) {
        damage_state(world);
    }
    if world.chance.one_in(10) {
        meddle_with_destination(world);
    }
}

fn meddle_with_destination(world: &mut World) {
    world.note("destination changed behind our back");
    world.reach.add("destination changed behind our back");
    application::work(&world.destination.volume, &mut world.chance, world.is_block);
    world.destination.volume.settle().expect("healthy");
    world.forget_durable();
    world.is_meddled_with = true;
    world.may_stumble = true;
    world.clock.advance(Duration::from_secs(2));
}

/// One byte of a state folder is another one, or the end of a file is missing.
fn damage_state(world: &mut World) {
    let machine = if world.chance.one_in(2) { &world.source } else { &world.destination };
    let names = machine.store.names().expect("memory");
    // The end of a journal is cut off by every crash: what it said last had no effect yet. Damage further up is left to
    // the proof.
    let names: Vec<_> =
        names.into_iter().filter(|name| !name.starts_with("journal") && !name.ends_with("mp")).collect();
    let Some(name) = world.chance.pick(&names).cloned() else { return };
    let file = machine.store.open(&name).expect("memory").expect("it is named");
    let at = world.chance.below(file.len().expect("memory"));
    let mut byte = [0];
    if file.read_at(&mut byte, at).expect("memory") == 1 {
        file.write_at(&[byte[0] ^ 1 << world.chance.below(8)], at).expect("memory");
        file.sync().expect("memory");
        world.note(format!("state damaged: byte {at} of {name}"));
        world.reach.add("state damaged");
        world.damages += 1;
    }
}

/// A stage with nothing changed reads nothing at the source, sends nothing, and leaves the destination alone.
fn be_quiet(world: &mut World) {
    let quiet = Wish { is_tracked: world.chance.one_in(2), ..Wish::default() };
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(5));
        go(world, quiet);
    }
    world.clock.advance(Duration::from_secs(5));
    let state = |store: &MemoryStore| -> Vec<(String, u64)> {
        let names = store.names().expect("memory");
        let counted = names.into_iter().filter(|name| !name.ends_with(".tmp"));
        counted
            .map(|name| {
                let file = store.open(&name).expect("memory").expect("it is named");
                let len = file.len().expect("memory");
                (name, len)
            })
            .collect()
    };
    let ours = world.source.volume.counts();
    let theirs = (world.destination.volume.counts(), state(&world.destination.store));
    let outcome = go(world, quiet);
    assert_eq!(outcome.touching_messages, 0, "a stage without changes sent something");
    // What a device holds now can only be told by reading it.
    if !world.is_block {
        assert_eq!(world.source.volume.counts(), ours, "a stage without changes read the source");
    }
    let after = (world.destination.volume.counts(), state(&world.destination.store));
    assert_eq!(after, theirs, "a stage without changes touched the destination");
    world.reach.add("quiet stage did nothing");
}

/// After all trouble, two quiet final passes are enough, and one is if nobody meddled.
fn converge(world: &mut World) {
    world.clock.advance(Duration::from_secs(5));
    if world.chance.one_in(4) {
        meddle_with_destination(world);
    }
    // Whoever stumbles over damage does so once for each.
    for _ in 0..world.damages + u64::from(world.may_stumble) {
        go(world, Wish { is_final: true, ..Wish::default() });
        world.clock.advance(Duration::from_secs(5));
    }
    // What no stat can show: a lie, a stranger on a device, and what a source's lost power left of a late write.
    let has_surprises = world.has_lied || (world.is_block && world.is_meddled_with) || world.has_source_crashed;
    let is_tracked = may_track(world) && world.chance.one_in(2);
    for attempt in 1..=2 {
        let outcome = go(world, Wish { is_final: true, is_tracked, ..Wish::default() });
        let verdict = outcome.verdict.expect("a final pass without trouble ends with a verdict");
        if verdict.is_equal() {
            world.reach.add(if attempt == 1 { "equal at the first try" } else { "equal at the second try" });
            return;
        }
        let difference = verdict.differences.first().cloned();
        assert!(has_surprises, "a final pass left a difference: {difference:?}");
        world.clock.advance(Duration::from_secs(5));
    }
    panic!("two quiet final passes left a difference");
}
