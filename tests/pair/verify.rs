//! A volume compared with what a receiver holds: everything is found, and nothing is changed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tranship_tests::processes::{DEADLINE, Outcome, Receiving, Running, binary, receive};
use tranship_tests::random::Random;

use crate::host::{LONG, Pair, error_code, expect_idle, files_beneath, let_clocks_tick, receive_arguments};

fn filled() -> Pair {
    let pair = Pair::of_folders();
    fs::create_dir(pair.source().join("folder")).expect("made");
    for name in ["a", "b", "folder/c"] {
        fs::write(pair.source().join(name), Random::new(name.len() as u64).bytes(3 << 20)).expect("written");
    }
    fs::write(pair.source().join("small"), "small").expect("written");
    let_clocks_tick(pair.source());
    pair
}

fn receiver(pair: &Pair, destination: &Path) -> Receiving {
    receive(receive_arguments(destination, &pair.state.path().join("theirs"), &[]))
}

fn send(pair: &Pair, source: &Path, ticket: &str) -> Outcome {
    let mut command = Command::new(binary());
    command.args(["--output", "json", "--quiet", "sync", "--state"]).arg(pair.state.path().join("ours"));
    Running::start(command.arg(source).arg(ticket)).finish(LONG).expect_code(0)
}

fn verify(path: &Path, other: &Path) -> Outcome {
    let mut command = Command::new(binary());
    Running::start(command.args(["--output", "json", "--quiet", "verify"]).arg(path).arg(other)).finish(LONG)
}

fn stop(receiving: Receiving) -> Outcome {
    receiving.running.signal(Signal::INT).expect("sent");
    receiving.running.finish(DEADLINE).expect_code(0)
}

/// Manifests, maps and heads, with a digest of each.
fn remembered(pair: &Pair) -> Vec<String> {
    let is_kept = |path: &&PathBuf| {
        let name = path.file_name().expect("a file has a name").to_string_lossy();
        name == "head" || ((name.starts_with("manifest-") || name.starts_with("map-")) && !name.ends_with(".new"))
    };
    let files = files_beneath(pair.state.path());
    let tell = |path: &PathBuf| format!("{} {}", path.display(), blake3::hash(&fs::read(path).expect("read")));
    let told: Vec<String> = files.iter().filter(is_kept).map(tell).collect();
    assert_eq!(told.len(), 6, "a head, a manifest and a map on either side: {told:#?}");
    told
}

/// What a verdict names, by place.
fn named(outcome: &Outcome) -> Vec<(String, String)> {
    let json = outcome.json();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let differences = json["differences"].as_array().expect("a list").iter();
    differences.map(|difference| (text(&difference["path"]), text(&difference["what"]))).collect()
}

#[test]
fn a_ticket_is_compared_like_a_path_and_nothing_is_changed_by_it() {
    let pair = filled();
    let receiving = receiver(&pair, pair.destination());
    let ticket = PathBuf::from(&receiving.ticket);
    send(&pair, pair.source(), &receiving.ticket);
    let before = remembered(&pair);

    let equal = verify(pair.source(), &ticket).expect_code(0);
    assert_eq!(equal.json()["digest_a"], equal.json()["digest_b"], "{equal:#?}");
    assert_eq!(equal.number("entries"), 6, "{equal:#?}");

    let changed = pair.destination().join("a");
    let original = fs::read(&changed).expect("read");
    let mut bytes = original.clone();
    bytes[2 << 20] ^= 1;
    fs::write(&changed, &bytes).expect("written");
    fs::write(pair.destination().join("new"), "new").expect("written");
    fs::remove_file(pair.destination().join("folder/c")).expect("removed");
    let local = verify(pair.source(), pair.destination()).expect_code(7);
    let afar = verify(pair.source(), &ticket).expect_code(7);
    assert_eq!(named(&afar), named(&local));
    let expected = [("a", "has other bytes"), ("folder/c", "is missing at the destination")];
    for (path, what) in expected {
        assert!(named(&afar).contains(&(path.to_owned(), what.to_owned())), "{afar:#?}");
    }
    for key in ["kind", "mode", "digest_a", "digest_b", "entries", "bytes", "differences_total", "left_out"] {
        assert_eq!(afar.json()[key], local.json()[key], "{key}");
    }
    // Neither side has learnt anything, nor doubts anything: the volumes are as they were left.
    assert_eq!(remembered(&pair), before);
    assert!(!pair.destination().join("folder/c").exists() && pair.destination().join("new").exists());
    assert_eq!(fs::read(&changed).expect("read"), bytes);

    // And the receiver goes on as if nobody had come.
    expect_idle(&send(&pair, pair.source(), &receiving.ticket));
    assert_eq!(stop(receiving).number("stage"), 2);
}

#[test]
fn an_image_and_a_receiver_that_was_never_sent_anything_are_compared() {
    let pair = filled();
    let (ours, theirs) = (pair.state.path().join("ours.img"), pair.state.path().join("theirs.img"));
    let bytes = Random::new(1).bytes((2 << 20) + 5);
    fs::write(&ours, &bytes).expect("written");
    let mut longer = bytes;
    longer.resize(3 << 20, 0);
    fs::write(&theirs, &longer).expect("written");
    let receiving = receiver(&pair, &theirs);
    let ticket = PathBuf::from(&receiving.ticket);
    verify(&ours, &ticket).expect_code(0);
    *longer.last_mut().expect("it has bytes") = 1;
    fs::write(&theirs, &longer).expect("written");
    verify(&ours, &ticket).expect_code(7);
    assert_eq!(error_code(&verify(pair.source(), &ticket).expect_code(3)), "TS-E233");
    assert_eq!(stop(receiving).number("stage"), 0);
}

#[test]
fn metadata_counts_between_hosts_too() {
    let pair = filled();
    let receiving = receiver(&pair, pair.destination());
    send(&pair, pair.source(), &receiving.ticket);
    fs::set_permissions(pair.destination().join("small"), PermissionsExt::from_mode(0o600)).expect("set");
    let outcome = verify(pair.source(), Path::new(&receiving.ticket)).expect_code(7);
    assert_eq!(named(&outcome), [("small".to_owned(), "has other metadata".to_owned())]);
    stop(receiving);
}
