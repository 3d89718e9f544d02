//! Only what changed is read, sent and written.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use tranship_tests::processes::Outcome;
use tranship_tests::random::Random;
use tranship_tests::walker::Contract;

use crate::host::{Pair, error_code, expect_idle, let_clocks_tick};

const LEAF_BYTES: u64 = 16 << 10;

#[test]
fn a_pass_over_an_unchanged_tree_reads_and_writes_nothing() {
    let pair = Pair::of_folders();
    for number in 0..300 {
        fs::write(pair.source().join(number.to_string()), Random::new(number).bytes(3_000)).expect("written");
    }
    fs::write(pair.source().join("large"), Random::new(1_000).bytes(5 << 20)).expect("written");
    let_clocks_tick(pair.source());
    pair.stage(&[]);
    for _ in 0..2 {
        expect_idle(&pair.stage(&[]));
    }
    // A final pass reads for its proof and for nothing else.
    let last = pair.finish(&[]);
    expect_idle(&last);
    let proof = &last.json()["proof"];
    let bytes = 300 * 3_000 + (5 << 20);
    for key in ["bytes", "read_source_bytes", "read_destination_bytes"] {
        assert_eq!(proof[key].as_u64(), Some(bytes), "{key} in {proof}");
    }
}

#[test]
fn of_a_thousand_files_only_the_ten_that_changed_are_read() {
    let pair = Pair::of_folders();
    let path = |number: u64| pair.source().join(format!("{}/{number}", number % 10));
    for number in 0..1_000 {
        fs::create_dir_all(path(number).parent().expect("a folder")).expect("made");
        fs::write(path(number), Random::new(number).bytes(2_000)).expect("written");
    }
    let_clocks_tick(pair.source());
    pair.stage(&[]);
    for number in (0..1_000).step_by(100) {
        fs::write(path(number), Random::new(number + 1).bytes(2_500)).expect("written");
    }
    let_clocks_tick(pair.source());
    let stage = pair.stage(&[]);
    assert_eq!(stage.number("bytes_read_source"), 10 * 2_500, "{stage:#?}");
    assert_eq!(stage.number("bytes_written_destination"), 10 * 2_500, "{stage:#?}");
    assert_eq!((stage.number("entries_changed"), stage.number("bytes_read_destination")), (10, 0), "{stage:#?}");
    expect_idle(&pair.stage(&[]));
    pair.finish(&[]);
    pair.expect_equal(&Contract::plain());
}

#[test]
fn of_a_large_file_only_what_changed_is_sent() {
    let pair = Pair::of_folders();
    let path = pair.source().join("large");
    let bytes = (64 << 20) + 5_000;
    fs::write(&path, Random::new(1).bytes(bytes)).expect("written");
    let_clocks_tick(pair.source());
    assert_eq!(pair.stage(&[]).number("bytes_literal"), bytes as u64);
    let file = File::options().write(true).open(&path).expect("opened");

    file.write_all_at(&[7; 4 << 10], (20 << 20) + (4 << 10)).expect("written");
    let_clocks_tick(pair.source());
    let stage = pair.stage(&[]);
    assert_eq!(stage.number("bytes_literal"), LEAF_BYTES, "{stage:#?}");
    assert_eq!(stage.number("bytes_written_destination"), LEAF_BYTES, "{stage:#?}");
    assert_eq!(stage.number("bytes_read_destination"), 0, "{stage:#?}");

    file.write_all_at(&Random::new(2).bytes(100_000), bytes as u64).expect("appended");
    let_clocks_tick(pair.source());
    let stage = pair.stage(&[]);
    let literal = stage.number("bytes_literal");
    assert!((100_000..100_000 + 2 * LEAF_BYTES).contains(&literal), "{stage:#?}");
    assert_eq!(stage.number("bytes_read_destination"), 0, "{stage:#?}");

    file.set_len(30 << 20).expect("truncated");
    let_clocks_tick(pair.source());
    let stage = pair.stage(&[]);
    assert!(stage.number("bytes_literal") <= LEAF_BYTES, "{stage:#?}");
    pair.finish(&[]);
    pair.expect_equal(&Contract::plain());
}

/// A file of 40 MB and what an editor makes of it, as a new file and in place.
fn edited(pair: &Pair, is_new_file: bool, edit: impl Fn(&mut Vec<u8>)) -> Outcome {
    let path = pair.source().join("large");
    let mut bytes = Random::new(1).bytes((40 << 20) + 777);
    fs::write(&path, &bytes).expect("written");
    let_clocks_tick(pair.source());
    pair.stage(&[]);
    edit(&mut bytes);
    if is_new_file {
        fs::write(pair.source().join("new"), &bytes).expect("written");
        fs::rename(pair.source().join("new"), &path).expect("renamed");
    } else {
        fs::write(&path, &bytes).expect("written");
    }
    let_clocks_tick(pair.source());
    let stage = pair.stage(&[]);
    pair.finish(&[]);
    pair.expect_equal(&Contract::plain());
    stage
}

#[test]
fn what_is_behind_an_insertion_is_copied_at_the_destination() {
    for is_new_file in [false, true] {
        let pair = Pair::of_folders();
        let stage = edited(&pair, is_new_file, |bytes| drop(bytes.splice(300..300, *b"inserted near the front")));
        assert!(stage.number("bytes_literal") < 2 * LEAF_BYTES, "{stage:#?}");
        // More than half of it is how the connection for contents finds out what a datagram may hold.
        assert!(stage.number("bytes_sent") < 120_000, "{stage:#?}");
    }
}

#[test]
fn several_edits_that_move_the_rest_cost_little_more_than_themselves() {
    let pair = Pair::of_folders();
    let stage = edited(&pair, false, |bytes| {
        bytes.drain(30_000_000..30_100_000);
        bytes.splice(5_000_000..5_000_000, Random::new(2).bytes(200_000));
        bytes[20_000_000..20_000_100].fill(1);
        bytes.extend(Random::new(3).bytes(50_000));
    });
    let literal = stage.number("bytes_literal");
    assert!((250_000..2 * (1 << 20)).contains(&literal), "{stage:#?}");
}

#[test]
fn of_a_changed_leaf_a_slow_link_carries_little_more_than_the_change() {
    let pair = Pair::of_folders();
    let path = pair.source().join("large");
    fs::write(&path, Random::new(1).bytes(8 << 20)).expect("written");
    let_clocks_tick(pair.source());
    pair.stage(&[]);
    let file = File::options().write(true).open(&path).expect("opened");
    for number in 0..100 {
        file.write_all_at(&Random::new(number).bytes(100), number * 83_000).expect("written");
    }
    let_clocks_tick(pair.source());
    let stage = pair.stage(&["--bandwidth", "40Mbit/s"]);
    let literal = stage.number("bytes_literal");
    assert!((10_000..100 * 1_000).contains(&literal), "{stage:#?}");
    assert!(stage.number("bytes_sent") < 200_000, "{stage:#?}");
    assert!(stage.number("bytes_read_destination") < 2 * 101 * 2 * LEAF_BYTES, "{stage:#?}");
    pair.finish(&[]);
    pair.expect_equal(&Contract::plain());
}

#[test]
fn a_basis_that_somebody_changed_is_not_copied_unseen() {
    let pair = Pair::of_folders();
    let path = |root: &Path| root.join("large");
    let mut bytes = Random::new(1).bytes(20 << 20);
    fs::write(path(pair.source()), &bytes).expect("written");
    let_clocks_tick(pair.source());
    pair.stage(&[]);
    let file = File::options().write(true).open(path(pair.destination())).expect("opened");
    file.write_all_at(b"somebody else", 10 << 20).expect("written");
    bytes.splice(9..9, *b"inserted");
    fs::write(path(pair.source()), &bytes).expect("written");
    let_clocks_tick(pair.source());
    let outcome = pair.sync(&[]).expect_code(4);
    assert_eq!(error_code(&outcome), "TS-D500", "{outcome:#?}");
    // The file is in doubt since, and is read.
    pair.stage(&[]);
    pair.finish(&[]);
    pair.expect_equal(&Contract::plain());
}

#[test]
fn another_mode_or_another_name_sends_no_content() {
    let pair = Pair::of_folders();
    fs::create_dir(pair.source().join("folder")).expect("made");
    fs::write(pair.source().join("folder/file"), Random::new(1).bytes(3 << 20)).expect("written");
    let_clocks_tick(pair.source());
    pair.stage(&[]);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(pair.source().join("folder/file"), mode).expect("set");
    let_clocks_tick(pair.source());
    let stage = pair.stage(&[]);
    assert_eq!((stage.number("bytes_literal"), stage.number("bytes_written_destination")), (0, 0), "{stage:#?}");
    pair.expect_equal(&Contract::plain());
    expect_idle(&pair.stage(&[]));
}

#[test]
fn what_is_left_out_is_neither_sent_nor_deleted_nor_proven() {
    let pair = Pair::of_folders();
    for (root, text) in [(pair.source(), "source"), (pair.destination(), "destination")] {
        fs::create_dir_all(root.join("cache/deep")).expect("made");
        fs::write(root.join("cache/deep/file"), text).expect("written");
        fs::write(root.join("a.tmp"), text).expect("written");
    }
    fs::write(pair.destination().join("cache/only-here"), "kept").expect("written");
    fs::write(pair.source().join("kept"), "kept").expect("written");
    fs::write(pair.source().join("cache.txt"), "not the folder").expect("written");
    let arguments = ["--exclude", "*.tmp", "--exclude", "/cache/"];
    pair.stage(&arguments);
    expect_idle_after_a_tick(&pair, &arguments);
    pair.finish(&arguments);
    let read = |name: &str| fs::read_to_string(pair.destination().join(name)).expect("it is there");
    assert_eq!([read("cache/deep/file"), read("a.tmp")], ["destination"; 2]);
    assert_eq!([read("cache/only-here"), read("kept")], ["kept"; 2]);
    assert_eq!(read("cache.txt"), "not the folder");
    // Without the patterns everything belongs to the volume.
    pair.finish(&[]);
    pair.expect_equal(&Contract::plain());
}

fn expect_idle_after_a_tick(pair: &Pair, arguments: &[&str]) {
    let_clocks_tick(pair.source());
    pair.stage(arguments);
    expect_idle(&pair.stage(arguments));
}
