//! Either side dies at any moment, as often as it likes, and nothing is lost.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tranship_tests::changes::Changes;
use tranship_tests::processes::{Outcome, Running, binary, receive, wait_for};
use tranship_tests::random::Random;
use tranship_tests::walker::Contract;

use crate::host::{LONG, Pair, expect_proof, receive_arguments};

/// At least this many of each side must have died.
const KILLS: u64 = 10;
/// Kills within this are always possible: a process takes longer to start.
const SHORTEST: Duration = Duration::from_millis(2);

/// Which side dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

/// What a receiver of one pass is told.
fn once(source: &Path) -> &'static [&'static str] {
    if source.is_file() { &["--once", "--image"] } else { &["--once"] }
}

/// A pass in which one side dies after so long, unless the pass is over before. Tells whether it died.
fn cut(source: &Path, destination: &Path, state: &Path, side: Side, after: Duration) -> bool {
    let (ours, theirs) = (state.join("source"), state.join("destination"));
    let receiver = receive(receive_arguments(destination, &theirs, once(source)));
    let sender = Running::start(&mut send_command(source, &receiver.ticket, &ours, &[]));
    let (victim, other) = match side {
        Side::Source => (sender, receiver.running),
        Side::Destination => (receiver.running, sender),
    };
    let is_over = victim.ends(after);
    victim.kill();
    // The other side waits for its peer to come back, or ends by itself; in either case it is not needed any more.
    other.kill();
    !is_over
}

/// A source's command.
pub(crate) fn send_command(source: &Path, ticket: &str, state: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(["--output", "json", "--quiet", "sync"]).args(arguments);
    command.arg("--state").arg(state).arg(source).arg(ticket);
    command
}

/// A pass that nobody cuts off.
pub(crate) fn whole(source: &Path, destination: &Path, state: &Path, arguments: &[&str]) -> Outcome {
    let (ours, theirs) = (state.join("source"), state.join("destination"));
    let receiver = receive(receive_arguments(destination, &theirs, once(source)));
    let outcome =
        Running::start(&mut send_command(source, &receiver.ticket, &ours, arguments)).finish(LONG).expect_code(0);
    receiver.running.finish(LONG).expect_code(0);
    outcome
}

/// Kills both sides in turn at moments spread over a pass, changing the source in between, until each has died often.
///
/// Later passes have less to do than `whole_pass`, the first: how long they take is learned from those that got away.
fn kill_often(
    random: &mut Random,
    whole_pass: Duration,
    mut cut: impl FnMut(Side, Duration) -> bool,
    mut change: impl FnMut(),
) {
    let mut kills = [0_u64; 2];
    let mut within = whole_pass;
    let mut rounds = 0;
    while kills.iter().any(|kills| *kills < KILLS) {
        rounds += 1;
        assert!(rounds < 20 * KILLS, "only {kills:?} kills of source and destination in {rounds} rounds");
        let side = if kills[0] <= kills[1] { Side::Source } else { Side::Destination };
        let after = Duration::from_micros(random.below(within.as_micros() as u64));
        let has_died = cut(side, after);
        kills[side as usize] += u64::from(has_died);
        within = if has_died { (within * 9 / 8).min(whole_pass) } else { within * 3 / 4 }.max(SHORTEST);
        if !has_died || random.below(3) == 0 {
            change();
        }
    }
}

fn seeded(default: u64) -> Random {
    let seed = Random::seed_or(default);
    #[expect(clippy::print_stderr, reason = "shown only when a test fails")]
    {
        eprintln!("kills with TRANSHIP_SEED={seed}");
    }
    Random::new(seed)
}

#[test]
fn a_tree_survives_kills_of_either_side_at_any_moment() {
    let pair = Pair::of_folders();
    let mut random = seeded(41);
    let mut changes = Changes::new(pair.source(), 42);
    changes.make(300).expect("made");
    for number in 0..4 {
        fs::write(pair.source().join(format!("large-{number}")), random.bytes(6 << 20)).expect("written");
    }
    let began = Instant::now();
    let scratch = TempDir::new().expect("made");
    whole(pair.source(), &scratch.path().join("copy"), &scratch.path().join("state"), &[]);
    let whole_pass = began.elapsed();
    let (source, destination, state) = (pair.source(), pair.destination(), pair.state.path());
    kill_often(
        &mut random,
        whole_pass,
        |side, after| cut(source, destination, state, side, after),
        || drop(changes.make(20).expect("made")),
    );
    whole(source, destination, state, &[]);
    expect_proof(&whole(source, destination, state, &["--final"]));
    let is_root = rustix::process::geteuid().is_root();
    pair.expect_equal(&if is_root { Contract::exact() } else { Contract::plain() });
}

#[test]
fn an_image_survives_kills_of_either_side_at_any_moment() {
    let folder = TempDir::new().expect("made");
    let (source, destination) = (folder.path().join("source"), folder.path().join("destination"));
    let mut random = seeded(43);
    fs::write(&source, random.bytes((24 << 20) + 4_711)).expect("written");
    let began = Instant::now();
    whole(&source, &folder.path().join("copy"), &folder.path().join("scratch"), &[]);
    let whole_pass = began.elapsed();
    let state = folder.path().join("state");
    let mut writes = random.clone();
    kill_often(
        &mut random,
        whole_pass,
        |side, after| cut(&source, &destination, &state, side, after),
        || {
            let file = File::options().write(true).open(&source).expect("opened");
            for _ in 0..20 {
                let bytes = writes.bytes(5_000);
                file.write_all_at(&bytes, writes.below(24 << 20)).expect("written");
            }
        },
    );
    expect_proof(&whole(&source, &destination, &state, &["--final"]));
    assert!(fs::read(&source).expect("read") == fs::read(&destination).expect("read"));
}

#[test]
fn what_was_acknowledged_before_a_kill_is_not_sent_again() {
    let pair = Pair::of_folders();
    let mut random = Random::new(44);
    for number in 0..60 {
        fs::write(pair.source().join(number.to_string()), random.bytes(1 << 20)).expect("written");
    }
    // Slow enough that several flushes come before the end.
    let running = pair.start(&["--bandwidth", "80Mbit/s"]);
    let copied = || fs::read_dir(pair.destination()).map_or(0, |names| names.count());
    wait_for("most of the copy, or an early end", LONG, || {
        (copied() > 45 || running.ends(Duration::ZERO)).then_some(())
    });
    assert!(copied() > 45, "{} copied: {:#?}", copied(), running.finish(LONG));
    running.kill();
    let rest = pair.stage(&[]);
    let total = 60 << 20;
    // Acknowledged at the latest every two seconds: a third of the time that all takes.
    assert!(rest.number("bytes_literal") < total * 2 / 3, "{rest:#?}");
    pair.finish(&[]);
    pair.expect_equal(&Contract::plain());
}

#[test]
fn a_pass_that_was_cut_off_leaves_nothing_newer_when_the_source_goes_back() {
    let pair = Pair::of_folders();
    let path = |number: u64| pair.source().join(number.to_string());
    let old = |number| Random::new(number).bytes(300_000);
    for number in 0..40 {
        fs::write(path(number), old(number)).expect("written");
    }
    fs::write(pair.source().join("large"), Random::new(50).bytes(12 << 20)).expect("written");
    crate::host::let_clocks_tick(pair.source());
    pair.stage(&[]);
    let times: Vec<_> =
        (0..40).map(|number| fs::metadata(path(number)).and_then(|m| m.modified()).expect("told")).collect();
    // Kept aside by name, so that even inode and birth time are the old ones when they come back.
    let aside = pair.source().with_extension("aside");
    fs::create_dir(&aside).expect("made");
    for number in 0..40 {
        fs::rename(path(number), aside.join(number.to_string())).expect("renamed");
        fs::write(path(number), Random::new(number + 1_000).bytes(300_000)).expect("written");
    }
    let large = File::options().write(true).open(pair.source().join("large")).expect("opened");
    let before = fs::read(pair.source().join("large")).expect("read");
    large.write_all_at(&Random::new(51).bytes(12 << 20), 0).expect("written");
    let running = pair.start(&["--bandwidth", "40Mbit/s"]);
    let is_changed = || {
        (0..40).any(|number: u64| {
            fs::read(pair.destination().join(number.to_string())).is_ok_and(|bytes| bytes != old(number))
        })
    };
    wait_for("a newer file at the destination", LONG, || is_changed().then_some(()));
    running.kill();
    for number in 0..40 {
        fs::rename(aside.join(number.to_string()), path(number)).expect("renamed");
        let file = File::options().write(true).open(path(number)).expect("opened");
        file.set_modified(times[number as usize]).expect("set");
    }
    large.write_all_at(&before, 0).expect("written");
    pair.stage(&[]);
    pair.expect_equal(&Contract::plain());
    pair.finish(&[]);
}
