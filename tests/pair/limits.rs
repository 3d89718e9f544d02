//! What a file system cannot hold, and what a mode cannot carry.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use tranship_tests::filesystems::{FileSystem, Kind};
use tranship_tests::processes::{Outcome, run};
use tranship_tests::random::Random;
use tranship_tests::walker::Contract;

use crate::host::{Pair, error_code, error_text, expect_idle, expect_proof, is_root, let_clocks_tick};

fn fill(pair: &Pair, files: u64, bytes: usize) {
    for number in 0..files {
        fs::write(pair.source().join(format!("{number:03}")), Random::new(number).bytes(bytes)).expect("written");
    }
    let_clocks_tick(pair.source());
}

fn allocate(path: &Path, bytes: u64) {
    let file = fs::File::create(path).expect("made");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).expect("allocated");
}

fn kinds_of_gaps(outcome: &Outcome) -> Vec<String> {
    let json = outcome.json();
    let gaps = json["gaps"].as_array().expect("a list");
    gaps.iter()
        .map(|gap| format!("{} {}", gap["kind"].as_str().unwrap_or("?"), gap["path"].as_str().unwrap_or("?")))
        .collect()
}

/// A pass that the destination has no room for, and the same again with room.
fn fills_up(kind: Kind, bytes: u64) {
    if !is_root() {
        return;
    }
    let destination = FileSystem::mounted(kind, bytes).expect("mounted");
    let pair = Pair::of(FileSystem::folder().expect("made"), destination);
    let ballast = pair.destination().join("ballast");
    let about = rustix::fs::statvfs(pair.destination()).expect("told");
    let free = about.f_bavail * about.f_frsize;
    // All but 8 MiB, of which 12 are needed; it is the source's too, so that the pass has nothing to remove.
    allocate(&ballast, free - (8 << 20));
    fill(&pair, 12, 1 << 20);
    let arguments = ["--exclude", "/ballast"];
    let outcome = pair.sync(&arguments).expect_code(4);
    assert_eq!(error_code(&outcome), "TS-E230", "{outcome:#?}");
    assert!(error_text(&outcome).contains("make room"), "{outcome:#?}");
    fs::remove_file(&ballast).expect("removed");
    pair.stage(&arguments);
    pair.finish(&[]);
    pair.expect_equal(&Contract::exact());
}

#[test]
fn a_full_ext4_is_named_and_with_room_the_same_command_goes_on() {
    fills_up(Kind::Ext4, 64 << 20);
}

#[test]
fn a_full_xfs_is_named_and_with_room_the_same_command_goes_on() {
    fills_up(Kind::Xfs, 320 << 20);
}

#[test]
fn a_full_tmpfs_is_named_and_with_room_the_same_command_goes_on() {
    fills_up(Kind::Tmpfs, 40 << 20);
}

#[test]
fn a_file_system_without_inodes_is_full() {
    if !is_root() {
        return;
    }
    let destination = FileSystem::mounted_with(Kind::Tmpfs, 40 << 20, &["nr_inodes=50"]).expect("mounted");
    let pair = Pair::of(FileSystem::folder().expect("made"), destination);
    fill(&pair, 100, 10);
    let outcome = pair.sync(&[]).expect_code(4);
    assert_eq!(error_code(&outcome), "TS-E230", "{outcome:#?}");
    let remount = Command::new("mount").args(["-o", "remount,nr_inodes=500"]).arg(pair.destination()).status();
    assert!(remount.expect("started").success());
    pair.finish(&[]);
    pair.expect_equal(&Contract::exact());
}

#[test]
fn an_image_on_a_full_file_system_is_finished_with_room() {
    if !is_root() {
        return;
    }
    let system = FileSystem::mounted(Kind::Ext4, 64 << 20).expect("mounted");
    let folder = tempfile::TempDir::new().expect("made");
    let (source, destination) = (folder.path().join("source"), system.path().join("image"));
    fs::write(&source, Random::new(1).bytes(20 << 20)).expect("written");
    let ballast = system.path().join("ballast");
    let about = rustix::fs::statvfs(system.path()).expect("told");
    let free = about.f_bavail * about.f_frsize;
    allocate(&ballast, free - (8 << 20));
    let run = |arguments: &[&str]| crate::host::sync(&source, &destination, &folder.path().join("state"), arguments);
    let outcome = run(&[]);
    assert!(
        matches!((outcome.code, &*error_code(&outcome)), (Some(4), "TS-E230") | (Some(3), "TS-E231")),
        "{outcome:#?}"
    );
    fs::remove_file(&ballast).expect("removed");
    run(&[]).expect_code(0);
    expect_proof(&run(&["--final"]).expect_code(0));
    assert!(fs::read(&source).expect("read") == fs::read(&destination).expect("read"));
}

#[test]
fn a_read_only_destination_is_said_to_be_that() {
    if !is_root() {
        return;
    }
    let pair =
        Pair::of(FileSystem::folder().expect("made"), FileSystem::mounted(Kind::Ext4, 16 << 20).expect("mounted"));
    fill(&pair, 5, 100);
    let remount = |how: &str| {
        let status = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(pair.destination()).status();
        assert!(status.expect("started").success());
    };
    remount("ro");
    let outcome = pair.sync(&[]);
    assert!(matches!(outcome.code, Some(3 | 4)), "{outcome:#?}");
    assert!(error_text(&outcome).to_lowercase().contains("read-only"), "{outcome:#?}");
    remount("rw");
    pair.finish(&[]);
    pair.expect_equal(&Contract::exact());
}

#[test]
fn a_device_node_in_mode_owner_is_a_gap_that_a_final_pass_insists_on() {
    if !is_root() {
        return;
    }
    let pair = Pair::of_folders();
    fill(&pair, 5, 100);
    mknodat(CWD, pair.source().join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o600), makedev(1, 3))
        .expect("made");
    let arguments = ["--mode", "owner"];
    assert_eq!(kinds_of_gaps(&pair.stage(&arguments)), ["device null"]);
    let outcome = pair.sync(&["--mode", "owner", "--final"]).expect_code(6);
    assert_eq!(kinds_of_gaps(&outcome), ["device null"]);
    let outcome = pair.finish(&["--mode", "owner", "--accept-gap", "device"]);
    assert_eq!(outcome.json()["gaps"][0]["accepted"], true, "{outcome:#?}");
    pair.expect_equal(&Contract::owner());
    assert!(!pair.destination().join("null").exists());
    // Where it can be carried it is.
    pair.finish(&["--mode", "exact"]);
    pair.expect_equal(&Contract::exact());
}

#[test]
fn owners_in_mode_plain_are_gaps() {
    if !is_root() {
        return;
    }
    let pair = Pair::of_folders();
    fill(&pair, 2, 100);
    std::os::unix::fs::chown(pair.source().join("001"), Some(1_234), Some(1_234)).expect("set");
    let_clocks_tick(pair.source());
    assert_eq!(kinds_of_gaps(&pair.stage(&["--mode", "plain"])), ["owner 001"]);
    pair.sync(&["--mode", "plain", "--final"]).expect_code(6);
    pair.finish(&["--mode", "plain", "--accept-gap", "owner"]);
    pair.expect_equal(&Contract::plain());
}

#[test]
fn a_final_pass_names_the_gaps_of_what_has_not_changed_since_the_stage() {
    if !is_root() {
        return;
    }
    let pair = Pair::of_folders();
    fill(&pair, 3, 100);
    fs::create_dir(pair.source().join("folder")).expect("made");
    std::os::unix::fs::symlink("001", pair.source().join("link")).expect("made");
    let _socket = std::os::unix::net::UnixListener::bind(pair.source().join("socket")).expect("made");
    std::os::unix::fs::chown(pair.source().join("001"), Some(1_234), Some(1_234)).expect("set");
    std::os::unix::fs::lchown(pair.source().join("link"), Some(1_234), Some(1_234)).expect("set");
    std::os::unix::fs::chown(pair.source().join("folder"), Some(1_234), Some(1_234)).expect("set");
    fs::set_permissions(pair.source().join("002"), Permissions::from_mode(0o4755)).expect("set");
    let_clocks_tick(pair.source());
    let named = |outcome: &Outcome| {
        let mut kinds = kinds_of_gaps(outcome);
        kinds.sort();
        kinds.dedup();
        kinds
    };
    let arguments = ["--mode", "plain"];
    let staged = named(&pair.stage(&arguments));
    assert!(staged.len() >= 5, "{staged:?}");
    // Nothing is looked at again.
    let idle = pair.stage(&arguments);
    assert_eq!(idle.number("entries_changed"), 0, "{idle:#?}");
    for level in ["full", "tracked"] {
        let last = pair.sync(&["--mode", "plain", "--final", "--verify", level]).expect_code(6);
        assert_eq!(named(&last), staged, "{level}: {last:#?}");
    }
}

#[test]
fn what_the_destination_cannot_hold_is_a_gap() {
    if !is_root() {
        return;
    }
    // Targets of this length are too long for xfs.
    let pair =
        Pair::of(FileSystem::folder().expect("made"), FileSystem::mounted(Kind::Xfs, 320 << 20).expect("mounted"));
    fill(&pair, 2, 100);
    std::os::unix::fs::symlink("x".repeat(4_000), pair.source().join("longest")).expect("made");
    let_clocks_tick(pair.source());
    assert_eq!(kinds_of_gaps(&pair.stage(&[])), ["limit longest"]);
    pair.sync(&["--final"]).expect_code(6);
    assert!(pair.destination().join("001").exists());
}

#[test]
fn a_mount_point_in_the_source_is_left_out_by_name() {
    if !is_root() {
        return;
    }
    let pair =
        Pair::of(FileSystem::mounted(Kind::Ext4, 16 << 20).expect("mounted"), FileSystem::folder().expect("made"));
    fill(&pair, 2, 100);
    let at = pair.source().join("other");
    fs::create_dir(&at).expect("made");
    let mount = |program: &str, arguments: &[&str]| {
        assert!(Command::new(program).args(arguments).arg(&at).status().expect("started").success());
    };
    mount("mount", &["-t", "tmpfs", "tmpfs"]);
    fs::write(at.join("file"), "not of this volume").expect("written");
    let outcome = pair.sync(&["--final"]);
    let verdict =
        run([OsStr::new("--output=json"), "verify".as_ref(), pair.source().as_ref(), pair.destination().as_ref()]);
    mount("umount", &[]);
    let (outcome, verdict) = (outcome.expect_code(0), verdict.expect_code(0));
    assert!(verdict.json()["left_out"].to_string().contains("\"other\""), "{verdict:#?}");
    assert!(outcome.json()["left_out"].to_string().contains("\"other\""), "{outcome:#?}");
    assert!(!pair.destination().join("other/file").exists());
}

#[test]
fn attributes_that_fill_many_messages_arrive() {
    if !is_root() {
        return;
    }
    let pair = Pair::mounted(Kind::Xfs, Kind::Xfs, 512 << 20);
    for number in 0..200_u32 {
        let [file, folder, link] =
            ["file", "folder", "link"].map(|what| pair.source().join(format!("{what}{number:03}")));
        fs::write(&file, number.to_string()).expect("written");
        fs::create_dir(&folder).expect("made");
        std::os::unix::fs::symlink("nowhere", &link).expect("made");
        for (path, name) in [(&file, "user"), (&folder, "user"), (&link, "trusted")] {
            for at in 0..3 {
                let value = Random::new(u64::from(number * 4 + at)).bytes(60_000);
                rustix::fs::lsetxattr(path, format!("{name}.{at}"), &value, rustix::fs::XattrFlags::empty())
                    .expect("set");
            }
        }
    }
    let_clocks_tick(pair.source());
    pair.stage(&["--mode", "exact"]);
    pair.expect_equal(&Contract::exact());
    expect_idle(&pair.stage(&["--mode", "exact"]));
    pair.finish(&["--mode", "exact"]);
}

#[test]
fn of_very_many_gaps_all_are_counted_and_some_are_listed() {
    if !is_root() {
        return;
    }
    let pair = Pair::of_folders();
    for number in 0..10_050 {
        let path = pair.source().join(number.to_string());
        fs::write(&path, "").and_then(|()| std::os::unix::fs::chown(&path, Some(7), None)).expect("made");
    }
    let count = |outcome: &Outcome| {
        let counts = outcome.json()["gap_counts"].clone();
        (
            counts[0]["kind"].clone(),
            counts[0]["count"].clone(),
            outcome.json()["gaps"].as_array().expect("a list").len(),
        )
    };
    let expected = ("owner".into(), 10_050.into(), 10_000);
    assert_eq!(count(&pair.stage(&["--mode", "plain"])), expected);
    assert_eq!(count(&pair.sync(&["--mode", "plain", "--final"]).expect_code(6)), expected);
    pair.finish(&["--mode", "plain", "--accept-gap", "owner"]);
}
