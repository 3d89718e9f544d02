//! What once went wrong, in small: each promise with the shortest history that broke it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use tranship_agent::volume::memory::{MemoryVolume, Operation, Shape};
use tranship_agent::volume::{Access, Volume};
use tranship_proto::entry::{Kind, Place};
use tranship_proto::limit::{LEAF_BYTES, PIECE_BYTES};

use crate::pass::{self, Outcome, Wish};
use crate::world::World;

fn place(path: &str) -> Place {
    Place::from_bytes(path.replace('/', "\0").into_bytes()).expect("valid")
}

fn file(volume: &MemoryVolume, path: &str, bytes: &[u8]) {
    volume.make(&place(path), Kind::File, None);
    volume.write(&place(path), bytes, 0);
}

fn stage(world: &mut World) -> Outcome {
    world.clock.advance(Duration::from_secs(5));
    pass::run(world, Wish::default())
}

fn committed_stage(world: &mut World) {
    let outcome = stage(world);
    assert!(outcome.is_committed, "{:?}", outcome.failures);
}

fn final_pass_is_equal(world: &mut World) -> bool {
    world.clock.advance(Duration::from_secs(5));
    let outcome = pass::run(world, Wish { is_final: true, ..Wish::default() });
    outcome.verdict.expect("a pass without trouble ends with a verdict").is_equal()
}

/// A pass in which the link breaks after `steps` steps.
fn cut_stage(world: &mut World, steps: u64) {
    world.clock.advance(Duration::from_secs(5));
    pass::run(world, Wish { cut_after: Some(steps), ..Wish::default() });
}

#[test]
fn what_is_written_to_a_device_after_the_first_pass_is_sent() {
    let mut world = World::bare(1, Shape::Device(2 << 20), Shape::Device(2 << 20));
    committed_stage(&mut world);
    world.source.volume.write(&Place::root(), &[7; 512], 4096);
    committed_stage(&mut world);
    assert_eq!(world.difference(), None);
}

#[test]
fn a_difference_on_a_device_heals_with_the_pass_after_the_proof() {
    let mut world = World::bare(1, Shape::Device(2 << 20), Shape::Device(2 << 20));
    committed_stage(&mut world);
    world.destination.volume.write(&Place::root(), &[7; 512], 4096);
    world.destination.volume.settle().unwrap();
    world.forget_durable();
    assert!(!final_pass_is_equal(&mut world));
    assert!(final_pass_is_equal(&mut world));
}

#[test]
fn a_file_that_is_cut_off_after_a_leaf_or_extended_with_zeros_comes_out_right() {
    let mut world = World::bare(1, Shape::Tree, Shape::Tree);
    file(&world.source.volume, "large", &vec![7; PIECE_BYTES]);
    committed_stage(&mut world);
    world.source.volume.truncate(&place("large"), 8 * LEAF_BYTES);
    committed_stage(&mut world);
    world.source.volume.truncate(&place("large"), 2 * PIECE_BYTES + 9);
    committed_stage(&mut world);
    assert_eq!(world.difference(), None);
}

#[test]
fn a_source_that_goes_back_after_a_cut_pass_finds_its_old_bytes_at_the_destination() {
    for steps in (20..300).step_by(3) {
        let mut world = World::bare(steps, Shape::Tree, Shape::Tree);
        file(&world.source.volume, "small", b"old");
        file(&world.source.volume, "gone", b"old");
        file(&world.source.volume, "large", &vec![7; PIECE_BYTES]);
        committed_stage(&mut world);
        committed_stage(&mut world);
        let old = world.source.volume.save();
        world.source.volume.write(&place("small"), b"new", 0);
        world.source.volume.take_away(&place("gone"));
        world.source.volume.write(&place("large"), &vec![8; LEAF_BYTES], 0);
        cut_stage(&mut world, steps);
        world.source.volume.restore(&old);
        committed_stage(&mut world);
        assert_eq!(world.difference(), None, "cut after {steps} steps");
    }
}

#[test]
fn what_a_cut_pass_did_is_not_taken_for_somebody_elses_work() {
    for steps in (20..600).step_by(3) {
        let mut world = World::bare(steps, Shape::Tree, Shape::Tree);
        let source = world.source.volume.clone();
        for folder in ["", "folder/", "gone-folder/"] {
            if let Some(name) = folder.strip_suffix('/') {
                source.make(&place(name), Kind::Directory, None);
            }
            for name in ["gone", "small", "linked"] {
                file(&source, &format!("{folder}{name}"), b"old");
            }
            source.link(&place(&format!("{folder}too")), &place(&format!("{folder}linked")));
        }
        file(&source, "large", &vec![7; 2 * PIECE_BYTES]);
        committed_stage(&mut world);
        committed_stage(&mut world);
        for folder in ["", "folder/"] {
            source.take_away(&place(&format!("{folder}gone")));
            source.take_away(&place(&format!("{folder}linked")));
            source.write(&place(&format!("{folder}small")), b"new", 0);
            file(&source, &format!("{folder}new"), b"new");
        }
        source.take_away(&place("gone-folder"));
        source.write(&place("large"), &vec![8; LEAF_BYTES], 0);
        cut_stage(&mut world, steps);
        world.clock.advance(Duration::from_secs(5));
        let outcome = stage(&mut world);
        assert!(outcome.is_committed, "{:?}", outcome.failures);
        assert_eq!(outcome.drifted_entries, 0, "cut after {steps} steps");
        assert_eq!(world.difference(), None, "cut after {steps} steps");
    }
}

#[test]
fn a_power_loss_during_a_pass_leaves_no_bytes_that_nobody_doubts() {
    for steps in 20..200 {
        let mut world = World::bare(steps, Shape::Device(3 << 20), Shape::Device(3 << 20));
        world.source.volume.write(&Place::root(), &vec![1; 3 << 20], 0);
        committed_stage(&mut world);
        let old = world.source.volume.save();
        world.source.volume.write(&Place::root(), &vec![2; 3 << 20], 0);
        cut_stage(&mut world, steps);
        world.crash_destination();
        world.source.volume.restore(&old);
        committed_stage(&mut world);
        assert_eq!(world.difference(), None, "power lost after {steps} steps");
    }
}

#[test]
fn what_a_killed_agent_left_in_the_cache_is_durable_once_it_is_committed() {
    for steps in 20..200 {
        let mut world = World::bare(steps, Shape::Device(2 << 20), Shape::Device(2 << 20));
        committed_stage(&mut world);
        world.source.volume.write(&Place::root(), &[7; 5_000], 4096);
        cut_stage(&mut world, steps);
        committed_stage(&mut world);
        world.crash_destination();
        assert_eq!(world.difference(), None, "killed after {steps} steps");
    }
}

#[test]
fn a_mapping_that_stays_dirty_through_a_pass_loses_nothing() {
    let mut world = World::bare(1, Shape::Tree, Shape::Tree);
    file(&world.source.volume, "mapped", &[1; 5_000]);
    committed_stage(&mut world);
    committed_stage(&mut world);
    // Dirty from the walk on, and looked at long after.
    let (clock, seen) = (world.clock.clone(), AtomicU64::new(0));
    world.source.volume.set_hook(Some(Arc::new(move |volume: &MemoryVolume, operation| {
        // The first look is the write-back, the second one begins the walk.
        if operation == Operation::Look && seen.fetch_add(1, Ordering::Relaxed) == 1 {
            volume.write_mapped(&place("mapped"), b"first", 0);
            clock.advance(Duration::from_secs(5));
        }
        Ok(())
    })));
    committed_stage(&mut world);
    world.source.volume.set_hook(None);
    world.source.volume.write_mapped(&place("mapped"), b"later", 0);
    committed_stage(&mut world);
    assert_eq!(world.difference(), None);
}

#[test]
fn other_names_follow_a_file_that_is_sent_again() {
    let mut world = World::bare(1, Shape::Tree, Shape::Tree);
    file(&world.source.volume, "a", b"both");
    world.source.volume.link(&place("b"), &place("a"));
    // Only its bytes are wrong, which are those of its first name.
    world.destination.volume.drop_write_after(0);
    committed_stage(&mut world);
    assert!(!final_pass_is_equal(&mut world));
    assert!(final_pass_is_equal(&mut world));
}

#[test]
fn a_strangers_bytes_do_not_become_ours_by_changing_something_else() {
    let mut world = World::bare(1, Shape::Tree, Shape::Tree);
    file(&world.source.volume, "a", b"right");
    file(&world.source.volume, "large", &vec![7; 2 * PIECE_BYTES]);
    committed_stage(&mut world);
    world.destination.volume.write(&place("a"), b"wrong", 0);
    world.destination.volume.write(&place("large"), b"wrong", 0);
    world.destination.volume.settle().unwrap();
    world.forget_durable();
    world.clock.advance(Duration::from_secs(5));
    world.source.volume.set_attributes(&place("a"), 0o640, 1000, world.clock.now());
    world.source.volume.write(&place("large"), b"changed", PIECE_BYTES + 5);
    committed_stage(&mut world);
    assert!(final_pass_is_equal(&mut world));
}

#[test]
fn a_lie_of_the_device_is_found_and_healed() {
    let mut world = World::bare(1, Shape::Tree, Shape::Tree);
    file(&world.source.volume, "a", &[1; 5_000]);
    world.destination.volume.drop_write_after(0);
    committed_stage(&mut world);
    let cached = world.destination.volume.seen_at(&place("a"), Access::Read).map(|(seen, _)| seen.bytes);
    assert_eq!(cached, Some(vec![1; 5_000]), "the lie looks right from the cache");
    assert!(!final_pass_is_equal(&mut world));
    assert!(final_pass_is_equal(&mut world));
}

#[test]
fn an_empty_volume_needs_no_second_copy() {
    let mut world = World::bare(1, Shape::Tree, Shape::Tree);
    committed_stage(&mut world);
    committed_stage(&mut world);
    assert_eq!(stage(&mut world).touching_messages, 0);
}

/// A tree in which everything is about to change places.
fn movable(seed: u64) -> World {
    let mut world = World::bare(seed, Shape::Tree, Shape::Tree);
    for path in ["a", "b", "a/sub"] {
        world.source.volume.make(&place(path), Kind::Directory, None);
    }
    for path in ["a/1", "a/sub/2", "b/3"] {
        file(&world.source.volume, path, path.as_bytes());
    }
    file(&world.source.volume, "large", &vec![7; PIECE_BYTES]);
    committed_stage(&mut world);
    committed_stage(&mut world);
    world
}

fn move_everything(volume: &MemoryVolume) {
    for (from, to) in [("a", "c"), ("b", "a"), ("c", "b"), ("b/sub", "a/sub"), ("large", "b/1"), ("a/3", "large")] {
        volume.move_name(&place(from), &place(to)).expect("there is room");
    }
}

#[test]
fn moves_that_are_cut_off_anywhere_are_taken_up_and_lose_nothing() {
    let mut is_met_in_slot = false;
    for steps in 20..160 {
        for goes_back in [false, true] {
            let mut world = movable(steps);
            let old = world.source.volume.save();
            move_everything(&world.source.volume);
            world.destination.power.fail_after(steps);
            cut_stage(&mut world, steps);
            world.crash_destination();
            world.destination.power.restore();
            is_met_in_slot |= world.in_slots() > 0;
            if goes_back {
                world.source.volume.restore(&old);
            }
            committed_stage(&mut world);
            assert_eq!(world.difference(), None, "cut after {steps} steps");
            assert!(final_pass_is_equal(&mut world));
        }
    }
    assert!(is_met_in_slot, "nothing was ever met in a slot");
}

#[test]
fn what_is_left_in_a_slot_goes_back_to_its_place() {
    let mut world = movable(1);
    world.source.volume.move_name(&place("a"), &place("c")).expect("there is room");
    let read = world.source.volume.counts().read_bytes;
    // It is taken out, and not put in.
    world.destination.volume.fail_after(Operation::Change, 1, Errno::IO);
    assert!(!stage(&mut world).is_committed);
    assert_eq!(world.in_slots(), 1);
    committed_stage(&mut world);
    assert_eq!((world.in_slots(), world.difference()), (0, None));
    // It was put back, found again, and moved: nothing of it was read.
    assert_eq!(world.source.volume.counts().read_bytes, read);
    assert!(final_pass_is_equal(&mut world));
}

#[test]
fn what_cannot_be_moved_is_missing_and_comes_with_the_next_stage() {
    for after in [0, 1] {
        let mut world = movable(1);
        move_everything(&world.source.volume);
        world.destination.volume.fail_after(Operation::Change, after * 6, Errno::ACCESS);
        let gaps = stage(&mut world);
        assert!(gaps.is_committed, "{:?}", gaps.failures);
        assert!(world.difference().is_some());
        committed_stage(&mut world);
        assert_eq!((world.in_slots(), world.difference()), (0, None));
        assert!(final_pass_is_equal(&mut world));
    }
}

#[test]
fn a_strangers_bytes_do_not_become_ours_by_moving_them() {
    let mut world = movable(1);
    for path in ["large", "a/1"] {
        world.destination.volume.write(&place(path), b"wrong", 0);
    }
    world.destination.volume.settle().unwrap();
    world.forget_durable();
    world.clock.advance(Duration::from_secs(5));
    move_everything(&world.source.volume);
    // A stage does not look.
    committed_stage(&mut world);
    assert!(world.difference().is_some());
    assert!(final_pass_is_equal(&mut world));
}

/// A pass at level `tracked`.
fn tracked(world: &mut World, is_final: bool) -> Outcome {
    world.clock.advance(Duration::from_secs(5));
    let outcome = pass::run(world, Wish { is_final, is_tracked: true, ..Wish::default() });
    assert!(outcome.is_committed, "{:?}", outcome.failures);
    outcome
}

fn is_proven_equal(outcome: &Outcome) -> bool {
    outcome.verdict.as_ref().expect("a final pass without trouble ends with a verdict").is_equal()
}

/// A large content at both sides, all of which was read back.
fn with_large(from: Shape, to: Shape) -> World {
    let mut world = World::bare(1, from, to);
    if from == Shape::Tree {
        file(&world.source.volume, "large", &vec![7; 3 * PIECE_BYTES]);
    } else {
        world.source.volume.truncate(&Place::root(), 3 * PIECE_BYTES);
        world.source.volume.write(&Place::root(), &vec![7; 3 * PIECE_BYTES], 0);
    }
    tracked(&mut world, false);
    // What was written too shortly before is read again.
    tracked(&mut world, false);
    world
}

/// Changes one leaf of the large content, or makes a small file. Each time it is something else.
fn change(world: &World, name: &str) {
    let (volume, new) = (&world.source.volume, [world.clock.elapsed().as_secs() as u8; LEAF_BYTES]);
    match name {
        "small" => file(volume, name, &new),
        name => volume.write(&place(name), &new, PIECE_BYTES),
    }
}

/// What changes, in what, and whether its stat tells of a write: what has none is read by each proof.
const CHANGES: [(&str, Shape, Shape, bool); 4] = [
    ("small", Shape::Tree, Shape::Tree, true),
    ("large", Shape::Tree, Shape::Tree, true),
    ("", Shape::Image(3 << 20), Shape::Image(64 << 20), true),
    ("", Shape::Image(3 << 20), Shape::Device(3 << 20), false),
];

#[test]
fn what_a_device_dropped_in_a_tracked_final_pass_is_not_proven() {
    for (name, from, to, _) in CHANGES {
        let mut world = with_large(from, to);
        change(&world, name);
        world.destination.volume.drop_write_after(0);
        let outcome = tracked(&mut world, true);
        assert_eq!(world.destination.volume.counts().dropped_writes, 1, "{name} {to:?}");
        assert!(!is_proven_equal(&outcome), "{name} {to:?}");
        assert!(is_proven_equal(&tracked(&mut world, true)), "{name} {to:?}");
        assert_eq!(world.difference(), None, "{name} {to:?}");
    }
}

#[test]
fn what_a_device_dropped_in_a_tracked_stage_is_found_by_it_and_healed_by_the_next_one() {
    for (name, from, to, has_times) in CHANGES {
        let mut world = with_large(from, to);
        change(&world, name);
        world.destination.volume.drop_write_after(0);
        let found = tracked(&mut world, false).rechecked.expect("it was to be read back");
        assert_eq!(world.destination.volume.counts().dropped_writes, 1, "{name} {to:?}");
        assert_eq!(found.lost_entries, u64::from(has_times), "{name} {to:?}");
        if has_times {
            let found = tracked(&mut world, false).rechecked.expect("it was to be read back");
            assert_eq!((found.lost_entries, world.difference()), (0, None), "{name} {to:?}");
        }
        assert_eq!(is_proven_equal(&tracked(&mut world, true)), has_times, "{name} {to:?}");
        assert!(is_proven_equal(&tracked(&mut world, true)), "{name} {to:?}");
        assert_eq!(world.difference(), None, "{name} {to:?}");
    }
}

#[test]
fn what_a_device_dropped_in_a_stage_that_read_nothing_back_is_not_proven_at_level_tracked() {
    for (name, from, to, _) in CHANGES {
        let mut world = with_large(from, to);
        change(&world, name);
        world.destination.volume.drop_write_after(0);
        committed_stage(&mut world);
        assert!(world.difference().is_some(), "{name} {to:?}");
        assert!(!is_proven_equal(&tracked(&mut world, true)), "{name} {to:?}");
        assert!(is_proven_equal(&tracked(&mut world, true)), "{name} {to:?}");
        assert_eq!(world.difference(), None, "{name} {to:?}");
    }
}

#[test]
fn of_what_was_read_back_only_the_pieces_that_are_written_are_read_again() {
    for (name, from, to, has_times) in CHANGES.into_iter().filter(|(name, ..)| *name != "small") {
        let mut world = with_large(from, to);
        assert_eq!(tracked(&mut world, false).read_back_bytes, 0, "{to:?}: nothing was written");
        change(&world, name);
        let piece = if has_times { PIECE_BYTES as u64 } else { 0 };
        assert_eq!(tracked(&mut world, false).read_back_bytes, piece, "{to:?}");
        // So it goes on if a stage of another level comes between.
        change(&world, name);
        committed_stage(&mut world);
        assert_eq!(tracked(&mut world, false).read_back_bytes, 0, "{to:?}");
        // A final pass, too, reads what it wrote, and the proof believes the rest.
        change(&world, name);
        let last = tracked(&mut world, true);
        assert_eq!(last.read_back_bytes, piece, "{to:?}");
        let proof = last.verdict.as_ref().expect("a verdict").theirs;
        assert_eq!(proof.read_bytes, if has_times { 0 } else { 3 << 20 }, "{to:?}");
        assert!(is_proven_equal(&last), "{to:?}");
    }
}

#[test]
fn a_content_that_changes_its_length_is_read_back_where_it_ends() {
    let mut world = with_large(Shape::Tree, Shape::Tree);
    for bytes in [2 * PIECE_BYTES + 9, 3 * PIECE_BYTES, PIECE_BYTES / 2, 0, PIECE_BYTES] {
        world.source.volume.truncate(&place("large"), bytes);
        tracked(&mut world, false);
        assert_eq!(world.difference(), None, "{bytes} bytes");
    }
    assert!(is_proven_equal(&tracked(&mut world, true)));
}

#[test]
fn what_was_read_back_stays_so_when_it_is_moved() {
    let mut world = with_large(Shape::Tree, Shape::Tree);
    world.source.volume.move_name(&place("large"), &place("elsewhere")).expect("there is room");
    let moved = tracked(&mut world, true);
    assert_eq!(moved.rechecked.expect("it was to be read back").read_bytes, 0);
    assert!(is_proven_equal(&moved));
}
