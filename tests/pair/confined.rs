//! The processes that carry a pass can reach what they need and nothing else.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use tranship_tests::processes::{DEADLINE, Running, binary, receive, wait_for};
use tranship_tests::random::Random;
use tranship_tests::walker::Contract;

use crate::host::{LONG, Pair, error_code, error_text, expect_proof, let_clocks_tick};

/// A pass of some seconds.
const SLOWLY: [&str; 2] = ["--bandwidth", "24Mbit/s"];

fn filled() -> Pair {
    let pair = Pair::of_folders();
    for number in 0..10 {
        fs::write(pair.source().join(number.to_string()), Random::new(number).bytes(1 << 20)).expect("written");
    }
    let_clocks_tick(pair.source());
    pair
}

fn wait_until_it_copies(pair: &Pair) {
    let has_begun = || fs::read_dir(pair.destination()).map_or(0, |names| names.count()) > 1;
    wait_for("the first files", LONG, || has_begun().then_some(()));
}

/// Every thread of the process has a filter for its calls and can gain no privileges.
fn expect_confined(id: u32) {
    let mut threads = 0;
    for thread in fs::read_dir(format!("/proc/{id}/task")).expect("it runs") {
        // One that has ended meanwhile has no status.
        let Ok(status) = fs::read_to_string(thread.expect("listed").path().join("status")) else { continue };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        assert_eq!((field("Seccomp:"), field("NoNewPrivs:")), (Some("2"), Some("1")), "process {id}: {status}");
        threads += 1;
    }
    assert!(threads > 1, "process {id} has {threads} threads");
}

fn children(id: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).expect("it runs").flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(|id| id.parse().expect("a number")).collect::<Vec<_>>()).collect()
}

#[test]
fn both_processes_of_a_pass_between_hosts_are_confined() {
    let pair = filled();
    // Listening at any address, as it is without a flag.
    let mut arguments = vec!["--output".into(), "json".into(), "--quiet".into(), "--once".into(), "--state".into()];
    arguments.extend([pair.state.path().join("theirs").into(), pair.destination().as_os_str().to_owned()]);
    let receiving = receive::<std::ffi::OsString>(arguments);
    expect_confined(receiving.running.id());
    let mut command = Command::new(binary());
    command.args(["--output", "json", "--quiet", "sync", "--final"]).args(SLOWLY);
    command.arg("--state").arg(pair.state.path().join("ours")).arg(pair.source()).arg(&receiving.ticket);
    let source = Running::start(&mut command);
    wait_until_it_copies(&pair);
    expect_confined(source.id());
    expect_confined(receiving.running.id());
    let outcomes = [source.finish(LONG).expect_code(0), receiving.running.finish(DEADLINE).expect_code(0)];
    expect_proof(&outcomes[0]);
    for outcome in outcomes {
        let confinement = outcome.json()["confinement"].clone();
        assert_eq!(confinement["seccomp"], true, "{confinement}");
        // A kernel without Landlock has to be named by a note.
        let is_noted = confinement["notes"].as_array().is_some_and(|notes| !notes.is_empty());
        assert!(is_noted || confinement["landlock_abi"].as_u64() >= Some(4), "{confinement}");
    }
    pair.expect_equal(&Contract::plain());
}

#[test]
fn both_processes_of_a_pass_on_one_host_are_confined() {
    let pair = filled();
    let running = pair.start(&SLOWLY);
    wait_until_it_copies(&pair);
    let receivers = children(running.id());
    assert_eq!(receivers.len(), 1, "{receivers:?}");
    expect_confined(running.id());
    expect_confined(receivers[0]);
    running.finish(LONG).expect_code(0);
    pair.expect_equal(&Contract::plain());
}

#[test]
fn a_destination_that_is_exchanged_for_another_folder_is_not_written_to() {
    let pair = filled();
    let mut arguments: Vec<std::ffi::OsString> =
        ["--output", "json", "--quiet", "--listen", "127.0.0.1:0", "--state"].map(Into::into).to_vec();
    let destination = pair.state.path().join("copy");
    arguments.extend([pair.state.path().join("theirs").into(), destination.clone().into_os_string()]);
    let receiving = receive(arguments);
    assert!(destination.is_dir(), "it is there before anybody comes");
    fs::remove_dir(&destination).expect("removed");
    fs::create_dir(&destination).expect("made");
    let mut command = Command::new(binary());
    command.args(["--output", "json", "--quiet", "sync", "--state"]).arg(pair.state.path().join("ours"));
    let outcome = Running::start(command.arg(pair.source()).arg(&receiving.ticket)).finish(LONG).expect_code(4);
    assert!(error_text(&outcome).contains("Permission denied"), "{outcome:#?}");
    assert_eq!(fs::read_dir(&destination).expect("listed").count(), 0);
    receiving.running.signal(Signal::INT).expect("sent");
    receiving.running.finish(DEADLINE).expect_code(0);
}

#[test]
fn an_image_comes_where_nothing_was_if_that_was_said() {
    let pair = filled();
    let image = pair.source().join("0");
    let receive_into = |destination: &Path, arguments: &[&str]| {
        let mut all: Vec<std::ffi::OsString> =
            ["--output", "json", "--quiet", "--listen", "127.0.0.1:0", "--once"].map(Into::into).to_vec();
        all.extend(arguments.iter().map(Into::into));
        all.extend(["--state".into(), pair.state.path().join("theirs").into(), destination.into()]);
        receive(all)
    };
    let send = |ticket: &str| {
        let mut command = Command::new(binary());
        command.args(["--output", "json", "--quiet", "sync", "--state"]).arg(pair.state.path().join("ours"));
        Running::start(command.arg(&image).arg(ticket)).finish(LONG)
    };
    let (asked, unasked) = (pair.state.path().join("image"), pair.state.path().join("folder"));
    let receiving = receive_into(&asked, &["--image"]);
    send(&receiving.ticket).expect_code(0);
    receiving.running.finish(DEADLINE).expect_code(0);
    assert!(fs::read(&image).expect("read") == fs::read(&asked).expect("read"));

    let receiving = receive_into(&unasked, &[]);
    let outcome = send(&receiving.ticket).expect_code(3);
    assert_eq!(error_code(&outcome), "TS-E233", "{outcome:#?}");
    assert!(error_text(&outcome).contains("receive --image"), "{outcome:#?}");
    receiving.running.finish(DEADLINE).expect_code(3);
}

#[test]
fn a_stopped_pass_leaves_its_volume_to_the_next_one_at_once() {
    for _ in 0..3 {
        let pair = filled();
        let running = pair.start(&SLOWLY);
        wait_until_it_copies(&pair);
        let receivers = children(running.id());
        running.signal(Signal::INT).expect("sent");
        assert_eq!(error_code(&running.finish(DEADLINE).expect_code(4)), "TS-P109");
        for receiver in receivers {
            // At most a process that has closed everything and is not collected yet.
            let files = fs::read_dir(format!("/proc/{receiver}/fd")).map_or(0, |files| files.count());
            assert_eq!(files, 0, "receiver {receiver} still runs");
        }
        pair.stage(&[]);
        pair.expect_equal(&Contract::plain());
    }
}
