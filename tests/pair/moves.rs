//! What was renamed at the source is renamed at the destination, and not copied again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use tranship_tests::filesystems::Kind;
use tranship_tests::processes::{Outcome, Running, receive};
use tranship_tests::random::Random;
use tranship_tests::walker::Contract;

use crate::host::{Pair, expect_idle, expect_proof, is_root, let_clocks_tick, receive_arguments};
use crate::kills::{send_command, whole};

/// Bytes of a file that nobody takes for a small one.
const LARGE_BYTES: usize = 1 << 20;

/// A pair whose destination has all of this: paths with sizes, folders where a path ends with `/`.
fn settled(pair: Pair, paths: &[(&str, usize)]) -> Pair {
    for (number, (path, bytes)) in paths.iter().enumerate() {
        let path = pair.source().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, Random::new(number as u64).bytes(*bytes)).expect("written");
    }
    let_clocks_tick(pair.source());
    pair.stage(&[]);
    pair
}

fn rename(pair: &Pair, from: &str, to: &str) {
    fs::rename(pair.source().join(from), pair.source().join(to)).expect("renamed");
}

/// Inodes of the destination, so that what was renamed can be told from what was made again.
fn inode(pair: &Pair, path: &str) -> u64 {
    fs::symlink_metadata(pair.destination().join(path)).expect("it is there").ino()
}

/// A stage after which both are equal, and nothing is left to do.
fn moved_stage(pair: &Pair, moves: u64) -> Outcome {
    let_clocks_tick(pair.source());
    let stage = pair.stage(&[]);
    assert_eq!(stage.json()["basis"], "common", "{stage:#?}");
    assert_eq!(stage.number("entries_moved"), moves, "{stage:#?}");
    assert_eq!(stage.json()["gaps"].as_array().map(Vec::len), Some(0), "{stage:#?}");
    pair.expect_equal(&Contract::plain());
    expect_idle(&pair.stage(&[]));
    stage
}

/// Nothing of any content went over the link or to the disk.
fn expect_no_content(stage: &Outcome) {
    for key in ["bytes_literal", "bytes_written_destination", "bytes_read_destination"] {
        assert_eq!(stage.number(key), 0, "{key} in {stage:#?}");
    }
}

/// The pass that proves it finds nothing to do.
fn finish(pair: &Pair) {
    expect_idle(&pair.finish(&[]));
}

fn renamed_folder(pair: Pair, files: usize) {
    let paths: Vec<_> = (0..files).map(|number| format!("old/{}/{number}", number % 100)).collect();
    let pair = settled(pair, &paths.iter().map(|path| (&**path, 40)).collect::<Vec<_>>());
    let before = inode(&pair, "old/7/107");
    rename(&pair, "old", "new");
    let stage = moved_stage(&pair, 1);
    expect_no_content(&stage);
    assert_eq!(stage.number("bytes_read_source"), 0, "{stage:#?}");
    // A pass without changes takes up to half of this, most of it to find out how large packets may be.
    assert!(stage.number("bytes_sent") < 128 << 10, "{stage:#?}");
    assert!(stage.number("entries_changed") <= 2, "{stage:#?}");
    assert_eq!(inode(&pair, "new/7/107"), before);
    finish(&pair);
}

#[test]
fn a_renamed_folder_costs_one_move_whatever_is_in_it() {
    renamed_folder(Pair::of_folders(), 20_000);
}

#[test]
fn a_renamed_folder_costs_one_move_on_every_file_system() {
    if !is_root() {
        return;
    }
    for (from, to) in [(Kind::Ext4, Kind::Xfs), (Kind::Xfs, Kind::Btrfs), (Kind::Btrfs, Kind::Ext4)] {
        renamed_folder(Pair::mounted(from, to, 512 << 20), 2_000);
    }
}

#[test]
fn a_renamed_file_is_read_and_not_sent() {
    for bytes in [3_000, 5 * LARGE_BYTES] {
        let pair = settled(Pair::of_folders(), &[("a", bytes), ("b", 10)]);
        let before = inode(&pair, "a");
        rename(&pair, "a", "c");
        let stage = moved_stage(&pair, 1);
        expect_no_content(&stage);
        assert_eq!(stage.number("bytes_read_source"), bytes as u64, "{stage:#?}");
        assert_eq!(inode(&pair, "c"), before);
        finish(&pair);
    }
}

#[test]
fn a_rotated_log_sends_only_what_is_new() {
    let pair = settled(Pair::of_folders(), &[("log", LARGE_BYTES), ("log.1", LARGE_BYTES), ("log.2", LARGE_BYTES)]);
    fs::remove_file(pair.source().join("log.2")).expect("removed");
    rename(&pair, "log.1", "log.2");
    rename(&pair, "log", "log.1");
    fs::write(pair.source().join("log"), "a new one").expect("written");
    let stage = moved_stage(&pair, 2);
    assert_eq!(stage.number("bytes_literal"), "a new one".len() as u64, "{stage:#?}");
    finish(&pair);
}

#[test]
fn files_and_folders_that_change_places_are_not_sent() {
    let paths = ["a", "b", "c", "d/1", "e/1", "e/2", "f/1"].map(|path| (path, LARGE_BYTES));
    let pair = settled(Pair::of_folders(), &paths);
    // A cycle of three, two files that are swapped, and two folders.
    for cycle in [&["a", "b", "c"][..], &["e/1", "e/2"], &["d", "f"]] {
        let mut to = "aside";
        for from in cycle {
            rename(&pair, from, to);
            to = from;
        }
        rename(&pair, "aside", to);
    }
    expect_no_content(&moved_stage(&pair, 7));
    finish(&pair);
}

#[test]
fn what_moves_into_a_new_folder_and_what_moves_into_each_other_is_not_sent() {
    let paths = ["a/1", "a/2", "b/1", "c/1", "top"].map(|path| (path, LARGE_BYTES));
    let pair = settled(Pair::of_folders(), &paths);
    fs::create_dir_all(pair.source().join("new/deep")).expect("made");
    rename(&pair, "a/1", "new/deep/1");
    rename(&pair, "top", "a/1");
    // Of two folders the inner one becomes the outer one, and has another's name.
    rename(&pair, "b", "a/b");
    rename(&pair, "c", "a/b/c");
    rename(&pair, "a", "aside");
    rename(&pair, "aside/b", "a");
    rename(&pair, "aside", "a/outer");
    expect_no_content(&moved_stage(&pair, 5));
    finish(&pair);
}

#[test]
fn what_moves_onto_something_replaces_it() {
    let paths = ["file", "onto", "folder/1", "old/1", "gone/2/3"].map(|path| (path, LARGE_BYTES));
    let pair = settled(Pair::of_folders(), &paths);
    fs::create_dir_all(pair.source().join("empty")).expect("made");
    let_clocks_tick(pair.source());
    pair.stage(&[]);
    rename(&pair, "file", "onto");
    rename(&pair, "folder", "empty");
    // A file where a folder was, and a folder where a file was.
    fs::remove_dir_all(pair.source().join("gone")).expect("removed");
    rename(&pair, "onto", "gone");
    rename(&pair, "old", "onto");
    expect_no_content(&moved_stage(&pair, 3));
    finish(&pair);
}

#[test]
fn what_is_moved_and_changed_sends_what_changed() {
    let paths = ["d/large", "d/small", "d/sub/1", "d/gone/1", "f"].map(|path| (path, 4 * LARGE_BYTES));
    let pair = settled(Pair::of_folders(), &paths);
    rename(&pair, "d", "e");
    rename(&pair, "e/sub", "e/other");
    rename(&pair, "f", "e/f");
    fs::write(pair.source().join("e/small"), "another").expect("written");
    fs::remove_dir_all(pair.source().join("e/gone")).expect("removed");
    for path in ["e/large", "e/f"] {
        use std::os::unix::fs::FileExt;
        let file = fs::File::options().write(true).open(pair.source().join(path)).expect("opened");
        file.write_all_at(b"changed", 1_000_000).expect("written");
    }
    let stage = moved_stage(&pair, 3);
    assert!(stage.number("bytes_literal") < 64 << 10, "{stage:#?}");
    finish(&pair);
}

#[test]
fn a_folder_whose_place_a_file_takes_and_a_file_whose_place_a_folder_takes() {
    let pair = settled(Pair::of_folders(), &["a/1", "a/2/3", "b", "c", "d"].map(|path| (path, LARGE_BYTES)));
    // `b` becomes a folder into which something moves, `a/2` a file.
    rename(&pair, "a/1", "aside");
    rename(&pair, "a/2", "a/4");
    rename(&pair, "b", "a/2");
    fs::create_dir(pair.source().join("b")).expect("made");
    rename(&pair, "aside", "b/1");
    // What was deleted becomes a folder too.
    fs::remove_file(pair.source().join("c")).expect("removed");
    fs::create_dir(pair.source().join("c")).expect("made");
    rename(&pair, "d", "c/d");
    expect_no_content(&moved_stage(&pair, 4));
    finish(&pair);
}

#[test]
fn hard_links_follow_a_folder_that_moves() {
    let pair = settled(Pair::of_folders(), &["m/1", "m/2", "z/1"].map(|path| (path, LARGE_BYTES)));
    let link = |from: &str, to: &str| fs::hard_link(pair.source().join(from), pair.source().join(to)).expect("linked");
    link("m/1", "m/same");
    link("m/2", "z/across");
    link("z/1", "a");
    let_clocks_tick(pair.source());
    pair.stage(&[]);
    // The order of the names stays, then it is turned round.
    rename(&pair, "m", "n");
    expect_no_content(&moved_stage(&pair, 1));
    rename(&pair, "n", "zz");
    moved_stage(&pair, 1);
    for (one, other) in [("zz/1", "zz/same"), ("zz/2", "z/across"), ("z/1", "a")] {
        assert_eq!(inode(&pair, one), inode(&pair, other), "{one} and {other}");
    }
    finish(&pair);
}

#[test]
fn a_final_pass_moves_too() {
    let pair = settled(Pair::of_folders(), &["d/1", "e/1", "f"].map(|path| (path, LARGE_BYTES)));
    rename(&pair, "d/1", "e/2");
    fs::remove_dir(pair.source().join("d")).expect("removed");
    rename(&pair, "f", "d");
    let_clocks_tick(pair.source());
    let last = pair.finish(&[]);
    assert_eq!((last.number("entries_moved"), last.number("bytes_literal")), (2, 0), "{last:#?}");
    pair.expect_equal(&Contract::plain());
}

#[test]
fn what_somebody_took_away_or_changed_at_the_destination_is_not_taken_for_what_was_moved() {
    let pair = settled(Pair::of_folders(), &["d/1", "d/2", "e/1", "f", "g"].map(|path| (path, 3_000)));
    let there = |path: &str| pair.destination().join(path);
    fs::remove_dir_all(there("d")).expect("removed");
    fs::write(there("e/1"), "a stranger's").expect("written");
    fs::write(there("f"), "a stranger's").expect("written");
    for (from, to) in [("d", "d2"), ("e", "e2"), ("f", "f2")] {
        rename(&pair, from, to);
    }
    let_clocks_tick(pair.source());
    let stage = pair.stage(&[]);
    assert!(stage.json().to_string().contains("d2"), "the folder that was not there is named: {stage:#?}");
    // What was missing comes with the next stage; what was changed is found by the pass that looks.
    pair.stage(&[]);
    assert_eq!(fs::read(there("d2/1")).ok(), fs::read(pair.source().join("d2/1")).ok());
    pair.finish(&[]);
    pair.expect_equal(&Contract::plain());
}

#[test]
fn a_kill_at_any_moment_of_a_pass_full_of_moves_loses_nothing() {
    let pair = Pair::of_folders();
    for path in ["a", "b"] {
        fs::create_dir(pair.source().join(path)).expect("made");
    }
    for number in 0..400 {
        let folder = pair.source().join(format!("a/{number}"));
        fs::create_dir(&folder).expect("made");
        fs::write(folder.join("x"), format!("{number}")).expect("written");
    }
    let_clocks_tick(pair.source());
    let (source, destination, state) = (pair.source(), pair.destination(), pair.state.path());
    whole(source, destination, state, &[]);
    let mut random = Random::new(Random::seed_or(61));
    let has_slots = || {
        let mut names = fs::read_dir(destination).expect("listed").map(|entry| entry.expect("listed").file_name());
        names.any(|name| name.as_encoded_bytes().starts_with(b".tranship-"))
    };
    let mut kills_with_slots = 0;
    for round in 0..16 {
        // All folders of one side go over to the other under their neighbours' names, and the two sides change places.
        let (here, there) = if round % 2 == 0 { ("a", "b") } else { ("b", "a") };
        for number in 0..400 {
            rename(&pair, &format!("{here}/{number}"), &format!("{there}/{}", (number * 7 + round) % 400));
        }
        rename(&pair, here, "aside");
        rename(&pair, there, here);
        rename(&pair, "aside", there);
        for number in 0..400 {
            rename(&pair, &format!("{here}/{number}"), &format!("{there}/{number}"));
        }
        let_clocks_tick(source);
        let receiver = receive(receive_arguments(destination, &state.join("destination"), &["--once"]));
        let sender = Running::start(&mut send_command(source, &receiver.ticket, &state.join("source"), &[]));
        while !has_slots() && !receiver.running.ends(Duration::from_micros(200)) {}
        receiver.running.ends(Duration::from_micros(random.below(20_000)));
        receiver.running.kill();
        sender.kill();
        kills_with_slots += u64::from(has_slots());
        let_clocks_tick(source);
        whole(source, destination, state, &[]);
        pair.expect_equal(&Contract::plain());
    }
    assert!(kills_with_slots > 0, "no kill met anything in a slot");
    expect_proof(&whole(source, destination, state, &["--final"]));
}
