//! Writes to a device that the kernel tells, so that a pass reads only what was written.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use tempfile::TempDir;
use tranship_agent::track::{RING_BYTES_DEFAULT, TrackError, Tracker};
use tranship_tests::processes::{Outcome, Running, wait_for};
use tranship_tests::random::Random;

use crate::blocks::Device;
use crate::host::{LONG, expect_proof, files_beneath, is_root, notes, sync_command};

const MIB: u64 = 1 << 20;
const DEVICE_BYTES: u64 = 24 * MIB;
const LAST: [&str; 4] = ["--track", "--final", "--verify", "tracked"];

/// A device whose writes can be tracked, and an image that it is sent to.
struct Bench {
    // Detached before its image goes.
    device: Device,
    folder: TempDir,
}

impl Bench {
    /// Nothing where tracking cannot be had, which is said.
    #[expect(clippy::print_stderr, reason = "a test that is left out has to say why")]
    fn new(seed: u64) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let folder = TempDir::new().expect("made");
        let image = folder.path().join("image");
        fs::write(&image, Random::new(seed).bytes(DEVICE_BYTES as usize)).expect("written");
        let device = Device::over(&image);
        let probe = File::open(&device.path).expect("opened");
        match Tracker::start(&probe, &folder.path().join("probe"), RING_BYTES_DEFAULT) {
            Ok(tracker) => tracker.remove().expect("removed"),
            Err(error @ (TrackError::NoTracing { .. } | TrackError::Missing { .. })) => {
                eprintln!("left out: {error}");
                return None;
            }
            Err(error) => panic!("{error:?}"),
        }
        Some(Self { device, folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, copy: &str, arguments: &[&str]) -> Running {
        let (state, copy) = (self.path("state"), self.path(copy));
        Running::start(&mut sync_command(&self.device.path, &copy, &state, arguments))
    }

    fn sync(&self, copy: &str, arguments: &[&str]) -> Outcome {
        self.start(copy, arguments).finish(LONG)
    }

    fn write(&self, bytes: &[u8], offset: u64) {
        self.device.write(bytes, offset);
    }

    fn expect_equal(&self, copy: &str) {
        let (source, copy) = (fs::read(&self.device.path), fs::read(self.path(copy)));
        let (source, copy) = (source.expect("read"), copy.expect("read"));
        assert_eq!(source.len(), copy.len());
        assert_eq!(source.iter().zip(&copy).position(|(a, b)| a != b), None, "the first byte that differs");
    }

    /// The files in which trackers remember.
    fn records(&self) -> Vec<PathBuf> {
        let is_one = |path: &PathBuf| path.file_name().is_some_and(|name| name == "tracking");
        files_beneath(&self.path("state")).into_iter().filter(is_one).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for record in self.records() {
            if let Ok(Some(tracker)) = Tracker::resume(&record) {
                let _ = tracker.remove();
            }
        }
    }
}

#[track_caller]
fn expect_read(outcome: &Outcome, read: u64) {
    let numbers = (outcome.number("bytes_read_source"), outcome.number("bytes_tracked"));
    assert_eq!(numbers, (read, DEVICE_BYTES - read), "{outcome:#?}");
}

#[test]
fn of_a_tracked_device_only_what_was_written_is_read() {
    let Some(bench) = Bench::new(1) else { return };
    File::create(bench.path("other")).and_then(|file| file.set_len(DEVICE_BYTES)).expect("made");
    let other = Device::over(&bench.path("other"));
    let copy = other.path.to_str().expect("plain");
    let first = bench.sync(copy, &["--track"]).expect_code(0);
    assert!(notes(&first).contains("tracking begins"), "{first:#?}");
    expect_read(&first, DEVICE_BYTES);
    expect_read(&bench.sync(copy, &["--track"]).expect_code(0), 0);
    bench.write(b"changed", 13 * MIB + 5);
    let stage = bench.sync(copy, &["--track"]).expect_code(0);
    expect_read(&stage, MIB);
    assert_eq!(stage.number("bytes_literal"), 16 << 10, "{stage:#?}");
    bench.expect_equal(copy);
    bench.write(&[7; 5_000], 2 * MIB - 1_000);
    let last = bench.sync(copy, &LAST).expect_code(0);
    expect_proof(&last);
    expect_read(&last, 2 * MIB);
    // A sample at most: all of it was read at the destination.
    let proof = &last.json()["proof"];
    assert!(proof["read_source_bytes"].as_u64() < Some(DEVICE_BYTES), "{last:#?}");
    assert_eq!(proof["read_destination_bytes"].as_u64(), Some(DEVICE_BYTES), "{last:#?}");
    bench.expect_equal(copy);
    // That was the end of it: what comes now begins anew.
    assert_eq!((notes(&last), bench.records()), (String::new(), Vec::new()));
    let last = bench.sync(copy, &["--track", "--final"]).expect_code(0);
    assert!(notes(&last).contains("tracking begins"), "{last:#?}");
    assert_eq!(last.json()["proof"]["read_source_bytes"].as_u64(), Some(DEVICE_BYTES), "{last:#?}");
}

#[test]
fn a_pass_that_does_not_track_ends_what_others_began() {
    let Some(bench) = Bench::new(2) else { return };
    bench.sync("copy", &["--track"]).expect_code(0);
    assert_eq!(bench.records().len(), 1);
    bench.write(b"changed", 3 * MIB);
    expect_read(&bench.sync("copy", &[]).expect_code(0), DEVICE_BYTES);
    assert_eq!(bench.records(), [""; 0].map(PathBuf::from));
    bench.write(b"changed", 4 * MIB);
    expect_read(&bench.sync("copy", &["--track"]).expect_code(0), DEVICE_BYTES);
    bench.expect_equal("copy");
}

#[test]
fn what_somebody_else_took_from_the_tracker_is_found_by_comparing() {
    let Some(bench) = Bench::new(3) else { return };
    bench.sync("copy", &["--track"]).expect_code(0);
    bench.write(b"changed", 5 * MIB);
    let other = bench.path("other-record");
    fs::copy(&bench.records()[0], &other).expect("copied");
    Tracker::resume(&other).expect("readable").expect("there").take().expect("taken");
    let stage = bench.sync("copy", &["--track"]).expect_code(0);
    assert!(notes(&stage).contains("events were read"), "{stage:#?}");
    expect_read(&stage, DEVICE_BYTES);
    bench.expect_equal("copy");
    // And from there on as ever.
    bench.write(b"changed again", 6 * MIB);
    expect_read(&bench.sync("copy", &["--track"]).expect_code(0), MIB);
    bench.expect_equal("copy");
}

#[test]
fn a_damaged_record_costs_reading_and_nothing_else() {
    let Some(bench) = Bench::new(4) else { return };
    bench.sync("copy", &["--track"]).expect_code(0);
    bench.write(b"changed", 5 * MIB);
    let record = bench.records().remove(0);
    let whole = fs::read(&record).expect("read");
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&record, damaged).expect("written");
    let stage = bench.sync("copy", &["--track"]).expect_code(0);
    assert!(notes(&stage).contains("TS-E275"), "{stage:#?}");
    expect_read(&stage, DEVICE_BYTES);
    bench.expect_equal("copy");
    // The instance that nobody knows any more.
    fs::write(bench.path("known"), whole).expect("written");
    Tracker::resume(&bench.path("known")).expect("readable").expect("there").remove().expect("removed");
}

#[test]
fn what_was_tracked_for_one_destination_is_not_taken_for_what_another_lacks() {
    let Some(bench) = Bench::new(5) else { return };
    bench.sync("one", &["--track"]).expect_code(0);
    bench.write(b"first", MIB);
    bench.sync("two", &["--track"]).expect_code(0);
    bench.write(b"second", 9 * MIB);
    for copy in ["one", "two"] {
        let stage = bench.sync(copy, &["--track"]).expect_code(0);
        expect_read(&stage, DEVICE_BYTES);
        bench.expect_equal(copy);
    }
    bench.write(b"third", 11 * MIB);
    expect_read(&bench.sync("two", &["--track"]).expect_code(0), MIB);
    bench.expect_equal("two");
}

#[test]
fn a_tracked_pass_that_was_cut_off_loses_nothing_when_the_source_goes_back() {
    let Some(bench) = Bench::new(6) else { return };
    bench.sync("copy", &["--track"]).expect_code(0);
    let before = fs::read(&bench.device.path).expect("read");
    bench.write(&Random::new(60).bytes(12 << 20), 2 * MIB);
    let running = bench.start("copy", &["--track", "--bandwidth", "40Mbit/s"]);
    let copy = bench.path("copy");
    let has_changed = || fs::read(&copy).is_ok_and(|bytes| bytes != before);
    wait_for("newer bytes at the destination", LONG, || has_changed().then_some(()));
    running.kill();
    bench.write(&before[2 << 20..14 << 20], 2 * MIB);
    bench.sync("copy", &["--track"]).expect_code(0);
    bench.expect_equal("copy");
    bench.write(b"changed", 20 * MIB);
    expect_read(&bench.sync("copy", &["--track"]).expect_code(0), MIB);
    expect_proof(&bench.sync("copy", &LAST).expect_code(0));
    bench.expect_equal("copy");
}

#[test]
fn a_tracked_proof_finds_what_somebody_changed_at_the_destination() {
    let Some(bench) = Bench::new(7) else { return };
    File::create(bench.path("other")).and_then(|file| file.set_len(DEVICE_BYTES)).expect("made");
    let other = Device::over(&bench.path("other"));
    let copy = other.path.to_str().expect("plain");
    bench.sync(copy, &["--track"]).expect_code(0);
    other.write(b"somebody else", 3 * MIB);
    bench.sync(copy, &LAST).expect_code(4);
    expect_proof(&bench.sync(copy, &LAST).expect_code(0));
    bench.expect_equal(copy);
}

#[test]
fn a_tracked_final_pass_with_a_writer_is_never_a_success() {
    let Some(bench) = Bench::new(8) else { return };
    bench.sync("copy", &["--track"]).expect_code(0);
    let (is_done, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let outcomes = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::SeqCst) {
                let number = rounds.fetch_add(1, Ordering::SeqCst);
                bench.write(&number.to_le_bytes(), number * 7 * 4096 % DEVICE_BYTES);
            }
        });
        wait_for("a writer at work", LONG, || (rounds.load(Ordering::SeqCst) > 5).then_some(()));
        let levels = ["tracked", "full"];
        let outcomes = levels.map(|level| bench.sync("copy", &["--track", "--final", "--verify", level]));
        is_done.store(true, Ordering::SeqCst);
        outcomes
    });
    assert_eq!(outcomes.each_ref().map(|outcome| outcome.code), [Some(4); 2], "{outcomes:#?}");
    let mut last = bench.sync("copy", &LAST);
    if last.code != Some(0) {
        last = bench.sync("copy", &LAST).expect_code(0);
    }
    expect_proof(&last);
    bench.expect_equal("copy");
}

#[test]
fn a_write_that_waits_in_the_page_cache_is_no_secret_from_a_tracked_proof() {
    let Some(bench) = Bench::new(9) else { return };
    bench.sync("copy", &["--track"]).expect_code(0);
    let before = fs::read(&bench.device.path).expect("read");
    bench.write(&Random::new(90).bytes(12 << 20), 2 * MIB);
    let slow = [&LAST[..], &["--bandwidth", "40Mbit/s"]].concat();
    let running = bench.start("copy", &slow);
    let copy = File::open(bench.path("copy")).expect("opened");
    // What the pass has sent it does not read again.
    let has_arrived = |at: usize| {
        let mut bytes = [0; 4096];
        copy.read_exact_at(&mut bytes, at as u64).expect("read");
        bytes != before[at..at + bytes.len()]
    };
    let sent = wait_for("newer bytes at the destination", LONG, || {
        (2 << 20..14 << 20).step_by(1 << 20).find(|at| has_arrived(*at))
    });
    let device = File::options().write(true).open(&bench.device.path).expect("opened");
    device.write_all_at(b"a writer in the last pass", sent as u64).expect("written");
    let outcome = running.finish(LONG).expect_code(4);
    assert!(notes(&outcome).contains("it was written to during this pass"), "{outcome:#?}");
}

#[test]
fn a_folder_is_compared_although_tracking_was_wanted() {
    let folder = TempDir::new().expect("made");
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("source")).and_then(|()| fs::write(path("source/file"), "bytes")).expect("made");
    let sync = |source: &Path| crate::host::sync(source, &path("copy"), &path("state"), &["--track"]);
    let outcome = sync(&path("source")).expect_code(0);
    assert!(notes(&outcome).contains("TS-E270"), "{outcome:#?}");
    assert_eq!(fs::read(path("copy/file")).expect("read"), b"bytes");
}
