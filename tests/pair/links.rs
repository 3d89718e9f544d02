//! How the two sides reach each other, how fast, and how a pass is stopped.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tranship_agent::link::Ticket;
use tranship_tests::processes::{DEADLINE, Outcome, Receiving, Running, binary, receive, wait_for};
use tranship_tests::random::Random;
use tranship_tests::walker::Contract;

use crate::host::{LONG, Pair, error_code, expect_idle, expect_proof, let_clocks_tick, receive_arguments};

fn filled(bytes: usize) -> Pair {
    let pair = Pair::of_folders();
    for number in 0..20 {
        fs::write(pair.source().join(number.to_string()), Random::new(number).bytes(bytes / 20)).expect("written");
    }
    let_clocks_tick(pair.source());
    pair
}

fn receiver(pair: &Pair, arguments: &[&str]) -> Receiving {
    receive(receive_arguments(pair.destination(), &pair.state.path().join("theirs"), arguments))
}

fn send(pair: &Pair, ticket: &str, arguments: &[&str]) -> Running {
    let mut command = Command::new(binary());
    command.args(["--output", "json", "--quiet", "sync"]).args(arguments);
    command.arg("--state").arg(pair.state.path().join("ours")).arg(pair.source()).arg(ticket);
    Running::start(&mut command)
}

/// Stops a receiver that would wait for more, as a user would.
fn stop(receiving: Receiving) -> Outcome {
    receiving.running.signal(Signal::INT).expect("sent");
    receiving.running.finish(DEADLINE)
}

#[test]
fn both_transports_carry_a_pass_and_the_report_says_which() {
    for name in ["quic", "tcp"] {
        let pair = filled(4 << 20);
        let receiving = receiver(&pair, &["--once", "--transport", name]);
        let outcome = send(&pair, &receiving.ticket, &["--final", "--transport", name]).finish(LONG).expect_code(0);
        expect_proof(&outcome);
        assert_eq!(outcome.json()["transport"]["name"], name, "{outcome:#?}");
        receiving.running.finish(DEADLINE).expect_code(0);
        pair.expect_equal(&Contract::plain());
    }
}

#[test]
fn a_receiver_that_was_told_nothing_listens_at_every_address_of_both_families() {
    let state = tempfile::TempDir::new().expect("made");
    let destination = state.path().join("destination");
    let receiving = receive(["--state".as_ref(), state.path().as_os_str(), destination.as_os_str()]);
    let ticket: Ticket = receiving.ticket.parse().expect("a ticket");
    let port = ticket.addresses[0].port();
    assert!(ticket.addresses.iter().all(|address| address.port() == port), "{:?}", ticket.addresses);
    for loopback in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let has_family = TcpListener::bind((loopback, 0)).is_ok();
        assert_eq!(TcpStream::connect((loopback, port)).is_ok(), has_family, "{loopback}");
    }
    stop(receiving);
}

/// One pass in which the source listens and the destination comes.
fn sync_listening(pair: &Pair, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(binary());
    command.args(["--output", "json", "--quiet", "sync", "--listen=127.0.0.1:0"]).args(arguments);
    command.arg("--state").arg(pair.state.path().join("ours")).arg(pair.source());
    let mut source = Running::start(&mut command);
    let ticket = source.line(DEADLINE).expect("a ticket");
    let mut command = Command::new(binary());
    command.args(["--output", "json", "--quiet", "receive", "--connect", &ticket]);
    command.arg("--state").arg(pair.state.path().join("theirs")).arg(pair.destination());
    let destination = Running::start(&mut command);
    let outcome = source.finish(LONG).expect_code(0);
    destination.finish(DEADLINE).expect_code(0);
    outcome
}

#[test]
fn the_source_may_be_the_one_that_listens() {
    for transport in ["quic", "tcp"] {
        let pair = filled(4 << 20);
        expect_proof(&sync_listening(&pair, &["--final", "--transport", transport]));
        pair.expect_equal(&Contract::plain());
    }
}

#[test]
fn an_idle_pass_sends_a_few_kilobytes_and_contents_travel_in_large_datagrams() {
    // Over TCP the dialer keeps a connection ready for the listener, for the case that it wants to send.
    for (transport, mtus, bytes_max) in [("quic", [Some(8_952), Some(1_200)], 2 << 10), ("tcp", [None, None], 8 << 10)]
    {
        for source_listens in [false, true] {
            let pair = filled(40 << 20);
            let arguments = ["--transport", transport, "--compress", "none"];
            let passes = mtus.map(|mtu| {
                let pass = if source_listens {
                    sync_listening(&pair, &arguments)
                } else {
                    let receiving = receiver(&pair, &["--once"]);
                    let pass = send(&pair, &receiving.ticket, &arguments).finish(LONG).expect_code(0);
                    receiving.running.finish(DEADLINE).expect_code(0);
                    pass
                };
                assert_eq!(pass.json()["transport"]["mtu"].as_u64(), mtu, "{transport}, {source_listens}: {pass:#?}");
                pass
            });
            let [_, idle] = passes;
            expect_idle(&idle);
            let bytes = idle.number("bytes_sent") + idle.number("bytes_received");
            assert!(bytes < bytes_max, "{bytes} bytes over {transport}; the source listens: {source_listens}");
        }
    }
}

#[test]
fn one_ticket_is_good_for_pass_after_pass() {
    let pair = filled(2 << 20);
    let receiving = receiver(&pair, &[]);
    for round in 0..3 {
        fs::write(pair.source().join("new"), round.to_string()).expect("written");
        let stage = send(&pair, &receiving.ticket, &[]).finish(LONG).expect_code(0);
        assert_eq!(stage.number("stage"), round + 1, "{stage:#?}");
        pair.expect_equal(&Contract::plain());
    }
    expect_proof(&send(&pair, &receiving.ticket, &["--final"]).finish(LONG).expect_code(0));
    stop(receiving);
}

#[test]
fn a_wrong_or_a_damaged_ticket_opens_nothing() {
    let pair = filled(1 << 20);
    let (ours, other) = (receiver(&pair, &[]), filled(1));
    let stranger = receiver(&other, &[]);
    // One character differs: it is noticed before anybody is called.
    let mut damaged = ours.ticket.clone().into_bytes();
    let at = damaged.len() / 2;
    damaged[at] = if damaged[at] == b'a' { b'b' } else { b'a' };
    let damaged = String::from_utf8(damaged).expect("text");
    send(&pair, &damaged, &[]).finish(DEADLINE).expect_code(2);
    send(&pair, &ours.ticket[..at], &[]).finish(DEADLINE).expect_code(2);
    // A whole ticket of a receiver that is gone.
    let gone = stranger.ticket.clone();
    stop(stranger);
    let outcome = send(&pair, &gone, &[]).finish(LONG).expect_code(3);
    assert_eq!(error_code(&outcome), "TS-S602", "{outcome:#?}");
    assert_eq!(fs::read_dir(pair.destination()).expect("listed").count(), 0);
    // None of this disturbs who has the right one.
    send(&pair, &ours.ticket, &[]).finish(LONG).expect_code(0);
    pair.expect_equal(&Contract::plain());
    stop(ours);
}

#[test]
fn two_sources_do_not_write_to_one_destination_at_a_time() {
    let pair = filled(8 << 20);
    let receiving = receiver(&pair, &[]);
    let first = send(&pair, &receiving.ticket, &["--bandwidth", "20Mbit/s"]);
    let has_begun = || fs::read_dir(pair.destination()).map_or(0, |names| names.count()) > 0;
    wait_for("the first copy", LONG, || has_begun().then_some(()));
    let other = filled(1 << 20);
    let second = Running::start(&mut {
        let mut command = Command::new(binary());
        command.args(["--output", "json", "--quiet", "sync", "--state"]).arg(other.state.path());
        command.arg(other.source()).arg(pair.destination());
        command
    })
    .finish(LONG)
    .expect_code(3);
    assert_eq!(error_code(&second), "TS-P108", "{second:#?}");
    // Nothing of it has arrived, nor has it disturbed the first.
    first.finish(LONG).expect_code(0);
    pair.expect_equal(&Contract::plain());
    stop(receiving);
}

/// Seconds that a copy of so many bytes takes under this bandwidth.
fn seconds_of(pair: &Pair, arguments: &[&str]) -> f64 {
    let began = Instant::now();
    pair.stage(&[&["--compress", "none"], arguments].concat());
    began.elapsed().as_secs_f64()
}

#[test]
fn nobody_waits_for_a_peer_that_has_said_its_last_word() {
    const PASSES: usize = 12;
    let pair = filled(1 << 20);
    let seconds = |_| pair.stage(&[]).json()["duration_seconds"].as_f64().expect("a number");
    let mut all: Vec<f64> = (0..PASSES).map(seconds).collect();
    all.sort_by(f64::total_cmp);
    // Two seconds is how long a last word is waited for. One pass may be slow for reasons of its own.
    assert!(all[PASSES - 2] < 2.0, "{all:?}");
}

#[test]
fn a_bandwidth_is_kept() {
    let pair = filled(20 << 20);
    // 20 MiB at 40 Mbit/s.
    let expected = f64::from(20 << 20) / 5e6;
    let seconds = seconds_of(&pair, &["--bandwidth", "40Mbit/s"]);
    assert!((expected * 0.85..expected * 1.4).contains(&seconds), "{seconds} s instead of {expected} s");
}

#[test]
fn a_bandwidth_is_changed_while_a_pass_runs() {
    let pair = filled(20 << 20);
    let running = pair.start(&["--compress", "none", "--bandwidth", "4Mbit/s"]);
    let has_begun = || fs::read_dir(pair.destination()).map_or(0, |names| names.count()) > 1;
    wait_for("the first files", LONG, || has_begun().then_some(()));
    let began = Instant::now();
    fs::write(pair.state.path().join("bandwidth"), "none\n").expect("written");
    running.signal(Signal::HUP).expect("sent");
    running.finish(LONG).expect_code(0);
    // At the old pace it would take 40 s.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    pair.expect_equal(&Contract::plain());
}

#[test]
fn a_pass_that_is_interrupted_is_taken_up() {
    for signal in [Signal::INT, Signal::TERM] {
        let pair = filled(10 << 20);
        let running = pair.start(&["--bandwidth", "16Mbit/s"]);
        let has_begun = || fs::read_dir(pair.destination()).map_or(0, |names| names.count()) > 3;
        wait_for("the first files", LONG, || has_begun().then_some(()));
        let began = Instant::now();
        running.signal(signal).expect("sent");
        let outcome = running.finish(DEADLINE).expect_code(4);
        assert_eq!(error_code(&outcome), "TS-P109", "{outcome:#?}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        let rest = pair.stage(&[]);
        assert!(rest.number("bytes_literal") < 10 << 20, "{rest:#?}");
        pair.finish(&[]);
        pair.expect_equal(&Contract::plain());
    }
}

#[test]
fn a_source_without_its_receiver_comes_to_an_end() {
    let pair = filled(10 << 20);
    let receiving = receiver(&pair, &["--once"]);
    let source = send(&pair, &receiving.ticket, &["--bandwidth", "16Mbit/s"]);
    let has_begun = || fs::read_dir(pair.destination()).map_or(0, |names| names.count()) > 3;
    wait_for("the first files", LONG, || has_begun().then_some(()));
    receiving.running.kill();
    let outcome = source.finish(LONG);
    assert_eq!((outcome.code, &*error_code(&outcome)), (Some(4), "TS-S602"), "{outcome:#?}");
}

#[test]
fn a_receiver_ends_with_the_sync_that_started_it() {
    let pair = filled(10 << 20);
    let running = pair.start(&["--bandwidth", "16Mbit/s"]);
    let has_begun = || fs::read_dir(pair.destination()).map_or(0, |names| names.count()) > 3;
    wait_for("the first files", LONG, || has_begun().then_some(()));
    running.kill();
    let is_used = || {
        let mut processes = fs::read_dir("/proc").expect("listed").flatten();
        processes
            .any(|process| fs::read(process.path().join("cmdline")).is_ok_and(|line| holds(&line, pair.destination())))
    };
    wait_for("the end of the receiver", DEADLINE, || (!is_used()).then_some(()));
    pair.finish(&[]);
    pair.expect_equal(&Contract::plain());
}

fn holds(line: &[u8], path: &Path) -> bool {
    line.split(|&byte| byte == 0).any(|argument| argument == path.as_os_str().as_encoded_bytes())
}
