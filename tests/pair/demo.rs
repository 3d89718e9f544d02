//! The demonstration, as a user runs it.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use tranship_tests::processes::{DEADLINE, Running, binary, wait_for};

use crate::host::{LONG, error_code};

fn demo(folder: &Path) -> Running {
    let mut command = Command::new(binary());
    Running::start(command.args(["--output", "json", "demo", "--size", "24MiB"]).env("TMPDIR", folder))
}

/// Processes whose arguments name something in this folder.
fn processes_in(folder: &Path) -> usize {
    let folder = folder.as_os_str().as_encoded_bytes();
    let holds = |line: &[u8]| line.windows(folder.len()).any(|part| part == folder);
    let processes = fs::read_dir("/proc").expect("listed").flatten();
    processes.filter(|process| fs::read(process.path().join("cmdline")).is_ok_and(|line| holds(&line))).count()
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).expect("listed").count() == 0
}

#[test]
fn the_demonstration_proves_what_it_moves_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("made");
    let outcome = demo(folder.path()).finish(LONG).expect_code(0);
    assert_eq!(outcome.json()["demo"]["proven"], true, "{outcome:#?}");
    let passes: Vec<serde_json::Value> =
        outcome.stdout.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let last = passes.iter().find(|value| value["stage"] == 4).expect("three stages and a last pass");
    for volume in ["tree", "image"] {
        let report = &last["volumes"][volume];
        assert_eq!((&report["transport"]["name"], &report["confinement"]["seccomp"]), (&"quic".into(), &true.into()));
        assert!(report["proof"]["canonical"].is_string(), "{report}");
    }
    assert!(is_empty(folder.path()));
    assert_eq!(processes_in(folder.path()), 0);
}

#[test]
fn a_demonstration_that_is_stopped_or_killed_leaves_no_process() {
    for (signal, code) in [(Signal::INT, Some(4)), (Signal::TERM, Some(4)), (Signal::KILL, None)] {
        let folder = tempfile::tempdir().expect("made");
        let running = demo(folder.path());
        // Its own arguments do not name the folder.
        wait_for("a source and a receiver", LONG, || (processes_in(folder.path()) > 2).then_some(()));
        running.signal(signal).expect("sent");
        let outcome = running.finish(DEADLINE);
        assert_eq!(outcome.code, code, "{outcome:#?}");
        wait_for("the end of all agents", DEADLINE, || (processes_in(folder.path()) == 0).then_some(()));
        if code.is_some() {
            assert_eq!(error_code(&outcome), "TS-P109", "{outcome:#?}");
            assert!(is_empty(folder.path()), "{outcome:#?}");
        }
    }
}
