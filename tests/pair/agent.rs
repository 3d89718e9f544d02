//! Agents beside volumes, as a coordinator drives them.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;
use tranship_proto::control::{
    self, Event, Hello, Listening, Meeting, Order, Purpose, RELAY_BEGINS, Request, Role, Secret, VolumeKind,
};
use tranship_tests::processes::{DEADLINE, Running, binary, wait_for};
use tranship_tests::random::Random;
use tranship_tests::walker::Contract;

use crate::pods::{
    Agent, Client, LISTEN, MIGRATION, Pods, dial, done, error_code, expect_proof, filled, hello, is_used, last, order,
    secret_of,
};

/// What a coordinator's port-forwards do: keeps connections ready at `near`, and leads each to `far` once it is used.
/// Counts those that were.
fn forward(near: u16, far: u16) -> Arc<AtomicU64> {
    const READY: usize = 4;
    let used = Arc::new(AtomicU64::new(0));
    for _ in 0..READY {
        let used = Arc::clone(&used);
        thread::spawn(move || {
            // Until nobody listens there any more.
            while let Ok(mut brought) = TcpStream::connect((Ipv4Addr::LOCALHOST, near)) {
                let mut begins = [0];
                if brought.read_exact(&mut begins).is_err() {
                    return;
                }
                assert_eq!(begins, [RELAY_BEGINS]);
                used.fetch_add(1, Ordering::SeqCst);
                let led = TcpStream::connect((Ipv4Addr::LOCALHOST, far)).expect("it listens");
                copy(&brought, &led);
                copy(&led, &brought);
            }
        });
    }
    used
}

fn copy(from: &TcpStream, to: &TcpStream) {
    let (mut from, mut to) = (from.try_clone().expect("cloned"), to.try_clone().expect("cloned"));
    thread::spawn(move || {
        // A connection that breaks is the pass's to notice.
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("bound").port()
}

#[test]
fn a_stage_and_a_last_pass_are_run_whichever_side_listens() {
    let mut pods = Pods::new(4 << 20);
    let first = pods.run("1", |order| order);
    assert_eq!(first.report.as_ref().expect("a report")["basis"], "nothing", "{first:#?}");
    fs::write(pods.pair.source().join("new"), "later").expect("written");
    let listening = pods.from.listen(last(order("2", "data", Role::Source, LISTEN)));
    pods.to.begin(order("2", "data", Role::Destination, dial(&listening)));
    let second = done(pods.from.ended("2"));
    done(pods.to.ended("2"));
    expect_proof(&second);
    let report = second.report.as_ref().expect("a report");
    assert_eq!((&report["basis"], &report["stage"]), (&"common".into(), &2.into()), "{report}");
    pods.pair.expect_equal(&Contract::plain());
    for (agent, mut client) in [(pods.source, pods.from), (pods.destination, pods.to)] {
        client.say(&Request::Leave);
        let (outcome, word) = agent.finish(DEADLINE);
        outcome.expect_code(0);
        assert_eq!((&word["passes"][0]["pass"], &word["passes"][0]["exit"]), (&"2".into(), &0.into()), "{word}");
    }
}

#[test]
fn a_comparison_tells_what_differs_and_changes_neither_side_whichever_listens() {
    let compares = |order: Order| Order { purpose: Purpose::Comparison, ..order };
    let mut pods = Pods::new(1 << 20);
    pods.run("1", |order| order);
    let equal = pods.run("2", compares).report.expect("a verdict");
    assert_eq!((&equal["digest_a"], &equal["differences_total"]), (&equal["digest_b"], &0.into()), "{equal}");

    fs::write(pods.pair.source().join("new"), "later").expect("written");
    let listening = pods.from.listen(compares(order("3", "data", Role::Source, LISTEN)));
    pods.to.begin(compares(order("3", "data", Role::Destination, dial(&listening))));
    let ended = pods.from.ended("3");
    done(pods.to.ended("3"));
    let verdict = ended.report.expect("a verdict");
    assert_eq!((ended.exit, &verdict["differences"][0]["path"]), (7, &"new".into()), "{verdict}");
    assert!(!pods.pair.destination().join("new").exists(), "a comparison has carried something");
    // The next pass knows what it knew before.
    let report = pods.run("4", last).report.expect("a report");
    assert_eq!((&report["basis"], &report["stage"]), (&"common".into(), &2.into()), "{report}");
}

#[test]
fn a_comparison_outlives_a_change_of_the_bandwidth() {
    let compares = |order: Order| Order { purpose: Purpose::Comparison, ..order };
    let mut pods = Pods::new(1 << 20);
    pods.run("1", |order| order);
    let listening = pods.from.listen(compares(order("2", "data", Role::Source, LISTEN)));
    pods.from.say(&Request::Bandwidth { bits_per_second: Some(80_000_000) });
    pods.to.begin(compares(order("2", "data", Role::Destination, dial(&listening))));
    done(pods.from.ended("2"));
    done(pods.to.ended("2"));
}

#[test]
fn a_probe_measures_the_ways_whichever_side_listens_and_changes_nothing() {
    let probes = |order: Order| Order { purpose: Purpose::Probe, ..order };
    for listens in [Role::Source, Role::Destination] {
        let mut pods = Pods::new(64 << 10);
        let (dials, listener, dialler) = match listens {
            Role::Source => (Role::Destination, &mut pods.from, &mut pods.to),
            Role::Destination => (Role::Source, &mut pods.to, &mut pods.from),
        };
        let listening = listener.listen(probes(order("1", "data", listens, LISTEN)));
        let Meeting::Dial { mut addresses, fingerprint, secret } = dial(&listening) else { unreachable!() };
        // Nobody is at the second one.
        addresses.push((Ipv4Addr::LOCALHOST, free_port()).into());
        dialler.begin(probes(order("1", "data", dials, Meeting::Dial { addresses, fingerprint, secret })));
        let report = done(dialler.ended("1")).report.expect("a report");
        let ways: control::Ways = serde_json::from_value(report).expect("it is one of a probe");
        let found: Vec<_> = ways.ways.iter().map(|way| (&*way.transport, way.error.is_none())).collect();
        assert_eq!(found, [("quic", true), ("tcp", true), ("quic", false), ("tcp", false)], "{ways:#?}");
        for way in &ways.ways[..2] {
            assert!(way.rtt_ms > Some(0.0) && way.bytes_per_second > Some(0.0), "{way:?}");
        }
        done(listener.stop("1"));
        assert_eq!(fs::read_dir(pods.pair.destination()).expect("read").count(), 0, "a probe has carried something");
        // The ways are measured, and a pass goes one of them.
        expect_proof(&pods.run("2", last));
    }
}

#[test]
fn a_tree_and_an_image_move_side_by_side() {
    let pair = filled(8 << 20);
    let images = ["image-a", "image-b"].map(|name| pair.state.path().join(name));
    fs::write(&images[0], Random::new(7).bytes(8 << 20)).expect("written");
    fs::File::create(&images[1]).and_then(|file| file.set_len(8 << 20)).expect("made");
    let volumes = [("tree", pair.source()), ("disk", &*images[0])];
    let source = Agent::start(&pair.state.path().join("a"), &volumes, &[]);
    let volumes = [("tree", pair.destination()), ("disk", &*images[1])];
    let destination = Agent::start(&pair.state.path().join("b"), &volumes, &[]);
    let ((mut from, welcome), (mut to, _)) = (source.connect(1), destination.connect(1));
    let kinds: Vec<_> = welcome.volumes.iter().map(|volume| (&*volume.name, volume.kind)).collect();
    assert_eq!(kinds, [("tree", VolumeKind::Tree), ("disk", VolumeKind::Block)]);
    assert_eq!(welcome.volumes[1].bytes_total, 8 << 20);
    from.say(&Request::Bandwidth { bits_per_second: Some(64_000_000) });
    let passes = [("tree", VolumeKind::Tree), ("disk", VolumeKind::Block)];
    for (volume, kind) in passes {
        let order = |role, meeting| Order { kind, ..last(order(volume, volume, role, meeting)) };
        let listening = to.listen(order(Role::Destination, LISTEN));
        from.begin(order(Role::Source, dial(&listening)));
    }
    let mut moving = Vec::new();
    from.progress(|progress| {
        if progress.bytes_sent > 0 && !moving.contains(&progress.volume) {
            moving.push(progress.volume.clone());
        }
        moving.len() == 2
    });
    let mut left = 2;
    from.until(|event| {
        if let Event::Ended(ended) = event {
            expect_proof(&done(ended.clone()));
            left -= 1;
        }
        (left == 0).then_some(())
    });
    pair.expect_equal(&Contract::plain());
    assert!(fs::read(&images[0]).expect("read") == fs::read(&images[1]).expect("read"));
}

#[test]
fn what_cannot_be_reached_is_reached_through_the_coordinator() {
    for role in [Role::Source, Role::Destination] {
        let mut pods = Pods::new(8 << 20);
        let other = if role == Role::Source { Role::Destination } else { Role::Source };
        let (near, far) = match role {
            Role::Source => (&mut pods.from, &mut pods.to),
            Role::Destination => (&mut pods.to, &mut pods.from),
        };
        let listening = far.listen(last(order("1", "data", other, LISTEN)));
        let port = free_port();
        let Listening { fingerprint, secret, .. } = listening;
        near.begin(last(order("1", "data", role, Meeting::Relayed { port, fingerprint, secret })));
        // It is bound once the pass says anything.
        near.progress(|_| true);
        let used = forward(port, listening.port);
        let ended = done(pods.from.ended("1"));
        expect_proof(&ended);
        assert_eq!(ended.report.expect("a report")["transport"]["name"], "tcp");
        done(pods.to.ended("1"));
        assert!(used.load(Ordering::SeqCst) > 1);
        pods.pair.expect_equal(&Contract::plain());
    }
}

#[test]
fn a_pass_outlives_its_coordinator_and_the_next_one_finds_the_result() {
    let mut pods = Pods::new(4 << 20);
    pods.begin("1", |order| Order { bits_per_second: Some(16_000_000), ..last(order) });
    pods.from.progress(|progress| progress.bytes_sent > 0);
    let Pods { pair, source, destination, from, to } = pods;
    drop((from, to));
    let (mut client, welcome) = source.connect(1);
    let state = &welcome.passes[0];
    assert_eq!((&*state.pass, state.is_running, &state.ended), ("1", true, &None), "{welcome:#?}");
    let ended = done(client.ended("1"));
    expect_proof(&ended);
    // The same is found again, also by a later agent with the same state.
    let (_, welcome) = source.connect(1);
    assert_eq!(welcome.passes[0].ended.as_ref(), Some(&ended));
    source.running.kill();
    let source = Agent::start(&source.folder, &[("data", pair.source())], &[]);
    let (_, welcome) = source.connect(1);
    assert_eq!(welcome.passes[0].ended.as_ref(), Some(&ended));
    assert!(!welcome.passes[0].is_running);
    wait_for("the end of the other side", DEADLINE, || {
        destination.connect(1).1.passes.iter().any(|state| state.ended.is_some()).then_some(())
    });
    pair.expect_equal(&Contract::plain());
}

#[test]
fn the_highest_epoch_has_the_ear_and_is_not_forgotten() {
    let folder = TempDir::new().expect("made");
    let volume = TempDir::new().expect("made");
    let agent = Agent::start(folder.path(), &[("data", volume.path())], &[]);
    let (mut first, _) = agent.connect(3);
    let (mut second, welcome) = agent.connect(3);
    assert_eq!(welcome.epoch, 3);
    assert_eq!((first.hear(), first.hear()), (Some(Event::Superseded { epoch: 3 }), None));
    let (mut third, _) = agent.connect(5);
    assert_eq!((second.hear(), second.hear()), (Some(Event::Superseded { epoch: 5 }), None));
    let refuse = |agent: &Agent, epoch| {
        let mut late = Client::new(agent.address);
        late.say(&hello(&secret_of(folder.path()), epoch));
        let event = late.hear();
        assert!(matches!(&event, Some(Event::Refused { code, .. }) if code == control::code::EPOCH), "{event:?}");
        assert_eq!(late.hear(), None);
    };
    refuse(&agent, 4);
    // Whoever has the ear keeps it.
    third.say(&Request::Stop { pass: "none".into() });
    assert_eq!(third.rejected(), (Some("none".into()), control::code::PASS.into()));
    agent.running.kill();
    let agent = Agent::start(folder.path(), &[("data", volume.path())], &[]);
    refuse(&agent, 4);
    assert_eq!(agent.connect(5).1.epoch, 5);
}

#[test]
fn whoever_lacks_the_secret_or_talks_nonsense_is_refused() {
    let folder = TempDir::new().expect("made");
    let agent = Agent::start(folder.path(), &[("data", folder.path())], &[]);
    let (mut known, _) = agent.connect(1);
    let secret = secret_of(folder.path());
    let Request::Hello(right) = hello(&secret, 9) else { unreachable!() };
    let mut long = control::encode(&Request::Leave).expect("short");
    long.splice(0..0, vec![b' '; 2 << 20]);
    let line = |hello| control::encode(&Request::Hello(hello)).expect("short");
    for (line, code) in [
        (line(Hello { secret: Secret("0".repeat(64)), ..right.clone() }), control::code::SECRET),
        (line(Hello { secret: Secret(String::new()), ..right.clone() }), control::code::SECRET),
        (line(Hello { version: 2, ..right.clone() }), control::code::VERSION),
        (line(Hello { migration: "bank".into(), ..right }), control::code::MIGRATION),
        (control::encode(&Request::Leave).expect("short"), control::code::LINE),
        (b"GET / HTTP/1.1\r\n".to_vec(), control::code::LINE),
        (b"{\"type\":\"dance\"}\n".to_vec(), control::code::LINE),
        (long, control::code::LINE),
    ] {
        let mut client = Client::new(agent.address);
        // Whoever refuses a long line does not read it to its end.
        let _ = client.stream.write_all(&line);
        let event = client.hear();
        assert!(matches!(&event, Some(Event::Refused { code: found, .. }) if found == code), "{code}: {event:?}");
        assert_eq!(client.hear(), None);
    }
    // The one that was let in has not noticed, until it talks nonsense itself.
    known.say(&Request::Bandwidth { bits_per_second: None });
    known.say(&hello(&secret, 1));
    assert!(matches!(known.hear(), Some(Event::Refused { .. })));
    assert_eq!(known.hear(), None);
}

#[test]
fn an_agent_does_not_start_with_another_secret_than_it_was_made_for() {
    let folder = TempDir::new().expect("made");
    let path = |name: &str| folder.path().join(name);
    fs::write(path("secret"), "ab".repeat(32)).expect("written");
    let mut command = Command::new(binary());
    command.args(["--output=json", "agent", "--control=127.0.0.1:0", "--migration=shop", "--secret-file"]);
    command.arg(path("secret")).arg("--state").arg(path("state"));
    command.arg(format!("--volume=data={}", folder.path().display()));
    command.args(["--secret-hash", &blake3::hash(b"another").to_hex()]);
    let outcome = Running::start(&mut command).finish(DEADLINE).expect_code(3);
    assert_eq!(outcome.json()["error"]["code"], control::code::SECRET, "{outcome:#?}");
}

#[test]
fn agents_that_are_killed_in_the_middle_of_a_pass_are_replaced_and_come_to_the_same_end() {
    let mut pods = Pods::new(10 << 20);
    pods.begin("1", |order| Order { bits_per_second: Some(16_000_000), ..order });
    pods.from.progress(|progress| progress.bytes_sent > 1 << 20);
    let Pods { pair, source, destination, .. } = pods;
    let folders = [source.folder.clone(), destination.folder.clone()];
    for agent in [source, destination] {
        agent.running.kill();
    }
    // A pass does not outlive its agent.
    wait_for("the end of the passes", DEADLINE, || {
        (!is_used(pair.source()) && !is_used(pair.destination())).then_some(())
    });
    let source = Agent::start(&folders[0], &[("data", pair.source())], &[]);
    let destination = Agent::start(&folders[1], &[("data", pair.destination())], &[]);
    let ((from, welcome), (to, _)) = (source.connect(1), destination.connect(1));
    assert_eq!(welcome.passes, [], "nothing was told of the pass");
    let mut pods = Pods { pair, source, destination, from, to };
    let again = pods.run("2", |order| order);
    assert!(again.report.expect("a report")["bytes_literal"].as_u64() < Some(10 << 20));
    expect_proof(&pods.run("3", last));
    pods.pair.expect_equal(&Contract::plain());
}

#[test]
fn the_bandwidth_is_changed_while_a_pass_runs() {
    let mut pods = Pods::new(20 << 20);
    pods.from.say(&Request::Bandwidth { bits_per_second: Some(4_000_000) });
    pods.begin("1", |order| order);
    pods.from.progress(|progress| progress.bytes_sent > 256 << 10);
    let began = Instant::now();
    pods.from.say(&Request::Bandwidth { bits_per_second: None });
    done(pods.from.ended("1"));
    // At the old pace it would take 40 s.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    pods.pair.expect_equal(&Contract::plain());
}

#[test]
fn an_order_that_cannot_be_followed_is_rejected_and_changes_nothing() {
    let mut pods = Pods::new(10 << 20);
    let code = |client: &mut Client, order| {
        client.begin(order);
        client.rejected().1
    };
    let fine = order("1", "data", Role::Source, LISTEN);
    let control_port = Meeting::Listen { port: pods.source.address.port() };
    let broken = Meeting::Dial {
        addresses: vec!["192.0.2.1:1".parse().expect("an address")],
        fingerprint: "x".into(),
        secret: Secret("x".into()),
    };
    for (order, expected) in [
        (Order { volume: "none".into(), ..fine.clone() }, control::code::VOLUME),
        (Order { kind: VolumeKind::Block, ..fine.clone() }, "TS-E233"),
        (Order { pass: "../1".into(), ..fine.clone() }, control::code::ORDER),
        (Order { meeting: control_port, ..fine.clone() }, control::code::PORT),
        (Order { meeting: broken, ..fine.clone() }, control::code::ORDER),
    ] {
        assert_eq!(code(&mut pods.from, order), expected);
    }
    // A word that only the pass knows ends it before anything is done.
    pods.from.begin(Order { mode: "best".into(), ..fine.clone() });
    let ended = pods.from.ended("1");
    assert_eq!((ended.exit, error_code(&ended)), (2, "TS-U001"));
    pods.begin("2", |order| Order { bits_per_second: Some(8_000_000), ..order });
    pods.from.progress(|progress| progress.bytes_sent > 0);
    assert_eq!(code(&mut pods.from, Order { pass: "3".into(), ..fine }), control::code::BUSY);
    pods.from.say(&Request::Leave);
    assert_eq!(pods.from.rejected(), (None, control::code::BUSY.into()));
    let ended = pods.from.stop("2");
    assert_eq!((ended.exit, error_code(&ended)), (4, "TS-P109"));
    // It may take this for a broken link, and wait for the source.
    pods.to.stop("2");
    assert_eq!(code(&mut pods.from, order("2", "data", Role::Source, LISTEN)), control::code::ORDER);
    pods.run("4", last);
    pods.pair.expect_equal(&Contract::plain());
}

#[test]
fn an_agent_that_is_told_to_end_stops_its_pass_so_that_it_can_be_taken_up() {
    let mut pods = Pods::new(10 << 20);
    pods.begin("1", |order| Order { bits_per_second: Some(16_000_000), ..order });
    pods.from.progress(|progress| progress.bytes_sent > 1 << 20);
    pods.source.running.signal(Signal::TERM).expect("sent");
    let ended = pods.from.ended("1");
    assert_eq!((ended.exit, error_code(&ended)), (4, "TS-P109"));
    assert_eq!(pods.from.hear(), None);
    let Pods { pair, source, destination, mut to, .. } = pods;
    let folder = source.folder.clone();
    let (outcome, word) = source.finish(DEADLINE);
    outcome.expect_code(0);
    assert_eq!(word["passes"][0]["error"], "TS-P109", "{word}");
    assert!(!is_used(pair.source()));
    to.stop("1");
    let source = Agent::start(&folder, &[("data", pair.source())], &[]);
    let (from, welcome) = source.connect(1);
    assert_eq!(welcome.passes[0].ended.as_ref(), Some(&ended));
    let mut pods = Pods { pair, source, destination, from, to };
    expect_proof(&pods.run("2", last));
    pods.pair.expect_equal(&Contract::plain());
}

#[test]
fn an_agent_that_nobody_needs_ends_by_itself() {
    let folder = TempDir::new().expect("made");
    let agent = Agent::start(folder.path(), &[("data", folder.path())], &["--idle", "1s"]);
    let (outcome, word) = agent.finish(DEADLINE);
    outcome.expect_code(0);
    assert_eq!(word, serde_json::json!({ "migration": MIGRATION, "passes": [], "more": 0 }));
    // A coordinator that says nothing does not keep it.
    let agent = Agent::start(folder.path(), &[("data", folder.path())], &["--idle", "1s"]);
    let (mut client, _) = agent.connect(1);
    assert_eq!(client.hear(), None);
    agent.finish(DEADLINE).0.expect_code(0);
}

#[test]
fn a_pass_for_which_nobody_comes_is_given_up_once_its_coordinator_is_gone() {
    let folder = TempDir::new().expect("made");
    let volume = TempDir::new().expect("made");
    let agent = Agent::start(folder.path(), &[("data", volume.path())], &["--idle", "1s"]);
    let (mut client, _) = agent.connect(1);
    client.listen(order("1", "data", Role::Source, LISTEN));
    drop(client);
    let (outcome, word) = agent.finish(DEADLINE);
    outcome.expect_code(0);
    assert_eq!(word["passes"][0]["error"], "TS-P109", "{word}");
}
