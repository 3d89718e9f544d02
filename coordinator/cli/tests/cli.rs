//! The binary as it is typed: help, exit codes, errors, tickets.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// All commands that people type.
const COMMANDS: [&str; 16] = [
    "sync",
    "receive",
    "verify",
    "demo",
    "create",
    "preflight",
    "stage",
    "set",
    "cancel",
    "cutover",
    "rollback",
    "status",
    "receipt",
    "finish",
    "cleanup",
    "completions",
];

fn tranship(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tranship"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).env_clear().env("HOME", folder);
    command
}

fn run(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("temporary folder");
    tranship(folder.path(), arguments).output().expect("it runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// Compares with `tests/help/NAME.txt`; `TRANSHIP_BLESS=1` writes that file instead, for a person to read the change.
#[track_caller]
fn check_golden(name: &str, found: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/help").join(format!("{name}.txt"));
    if std::env::var_os("TRANSHIP_BLESS").is_some() {
        fs::write(&path, found).expect("written");
    }
    let expected = fs::read_to_string(&path).expect("there is a golden file");
    assert_eq!(found, expected, "{} differs; TRANSHIP_BLESS=1 renews it", path.display());
}

#[test]
fn the_help_of_each_command_is_what_was_agreed() {
    check_golden("tranship", text(&run(&["--help"]).stdout));
    for command in COMMANDS {
        let output = run(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{command}");
        check_golden(command, text(&output.stdout));
    }
}

#[test]
fn no_line_of_help_is_wider_than_a_terminal() {
    for command in [&["--help"][..], &["sync", "--help"], &["receive", "--help"], &["demo", "--help"]] {
        let output = run(command);
        let widest =
            text(&output.stdout).lines().max_by_key(|line| line.chars().count()).unwrap_or_default().to_owned();
        assert!(widest.chars().count() <= 100, "{command:?}: {widest}");
    }
}

#[test]
fn what_cannot_be_done_ends_with_2_and_says_what_to_do() {
    for arguments in [&["sync", "/a"][..], &["sync", "/a", "/b", "--listen"], &["verify", "/usr", "/usr"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains("what to do: "), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    assert_eq!(run(&["sync", "/a", "/b", "--mode", "best"]).status.code(), Some(2));
    assert_eq!(run(&["dance"]).status.code(), Some(2));
}

#[test]
fn a_script_gets_every_error_as_the_last_line_of_standard_output() {
    for arguments in [&["--output", "json", "sync", "/a"][..], &["sync", "/a", "--nonsense", "--output=json"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let last = text(&output.stdout).lines().last().expect("a line");
        let error = &serde_json::from_str::<serde_json::Value>(last).expect("JSON")["error"];
        for field in ["code", "message", "causes", "hint"] {
            assert!(!error[field].is_null(), "{arguments:?}: {field} is not in {last}");
        }
    }
}

#[test]
fn a_completion_script_knows_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("receive"), "{shell}");
    }
}

/// A process that has read its arguments and now waits for a line that does not come.
#[test]
fn a_ticket_that_was_typed_is_wiped_from_the_list_of_processes() {
    let folder = tempfile::tempdir().expect("temporary folder");
    // The destination comes from standard input, which stays open until the arguments were looked at.
    let secret = "tranship1-donotshowthis";
    let exclude = format!("--exclude={secret}");
    let mut child = tranship(folder.path(), &["-v", "sync", ".", "-", &exclude, "--state", "../s"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let arguments = format!("/proc/{}/cmdline", child.id());
    // It says that it has begun before it reads the ticket.
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().expect("piped")).read_line(&mut line).expect("a line");
    let seen = fs::read(arguments).expect("it waits for its ticket");
    assert!(!String::from_utf8_lossy(&seen).contains(secret), "{}", String::from_utf8_lossy(&seen));
    assert!(String::from_utf8_lossy(&seen).contains("sync"), "only the ticket is wiped");
    child.stdin.take().expect("piped").write_all(b"nonsense\n").expect("it reads");
    assert_eq!(child.wait().expect("it ends").code(), Some(2));
}
