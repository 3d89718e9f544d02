//! Sources that somebody writes to while they are copied.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use tranship_tests::changes::Changes;
use tranship_tests::processes::{DEADLINE, Outcome, wait_for};
use tranship_tests::random::Random;
use tranship_tests::walker::Contract;

use crate::host::{LONG, Pair, error_code, error_text, let_clocks_tick};

/// Somebody who does the same thing over and over.
struct Writer {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(mut work: impl FnMut() + Send + 'static) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = thread::spawn({
            let (stop, rounds) = (stop.clone(), rounds.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    work();
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let writer = Self { stop, rounds, thread: Some(thread) };
        wait_for("the first write", DEADLINE, || (writer.rounds() > 0).then_some(()));
        writer
    }

    fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it runs").join().expect("it only writes");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

fn fill(root: &Path, files: u64) {
    for number in 0..files {
        let folder = root.join(format!("{}", number % 7));
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join(number.to_string()), Random::new(number).bytes(10_000)).expect("written");
    }
    fs::write(root.join("large"), Random::new(99).bytes(24 << 20)).expect("written");
}

/// Rewrites files in place, appends, renames, deletes and makes folders, without a pause.
fn every_change(root: &Path) -> impl FnMut() + Send + 'static {
    let mut changes = Changes::new(root, 5);
    move || {
        // Root itself never vanishes, and nobody else writes here.
        changes.make(1).expect("made");
    }
}

#[test]
fn a_source_that_changes_throughout_is_staged_and_then_proven() {
    let pair = Pair::of_folders();
    fill(pair.source(), 400);
    let writer = Writer::start(every_change(pair.source()));
    for _ in 0..3 {
        let before = writer.rounds();
        pair.stage(&[]);
        assert!(writer.rounds() > before, "nothing was written meanwhile");
    }
    writer.stop();
    let is_root = rustix::process::geteuid().is_root();
    pair.finish(&[]);
    pair.expect_equal(&if is_root { Contract::exact() } else { Contract::plain() });
}

#[test]
fn bytes_that_change_in_place_throughout_are_staged_and_then_proven() {
    let pair = Pair::of_folders();
    fill(pair.source(), 20);
    let file = File::options().write(true).open(pair.source().join("large")).expect("opened");
    let mut random = Random::new(3);
    let writer = Writer::start(move || {
        let at = random.below(24 << 20);
        file.write_all_at(&random.next_u64().to_le_bytes(), at).expect("written");
    });
    for _ in 0..3 {
        pair.stage(&[]);
    }
    writer.stop();
    pair.finish(&[]);
    pair.expect_equal(&Contract::plain());
}

fn expect_a_writer_is_named(outcome: &Outcome, path: &str) {
    assert_eq!(error_code(outcome), "TS-E260", "{outcome:#?}");
    assert!(error_text(outcome).contains(path), "{outcome:#?}");
}

#[test]
fn a_final_pass_with_a_writer_fails_and_names_what_was_written() {
    let pair = Pair::of_folders();
    fill(pair.source(), 20);
    let_clocks_tick(pair.source());
    pair.stage(&[]);
    let file = File::options().write(true).open(pair.source().join("large")).expect("opened");
    let mut count = 0_u64;
    let writer = Writer::start(move || {
        count += 1;
        file.write_all_at(&count.to_le_bytes(), 12 << 20).expect("written");
    });
    expect_a_writer_is_named(&pair.start(&["--final"]).finish(LONG).expect_code(4), "large");
    writer.stop();
    pair.finish(&[]);
    pair.expect_equal(&Contract::plain());
}

#[test]
fn a_final_pass_with_files_that_come_and_go_never_ends_with_success() {
    let pair = Pair::of_folders();
    fill(pair.source(), 20);
    pair.stage(&[]);
    let root = pair.source().to_owned();
    let mut count = 0_u64;
    let writer = Writer::start(move || {
        count += 1;
        let path = root.join("3").join(format!("come-{}", count % 100));
        fs::write(&path, count.to_string()).expect("written");
        if count.is_multiple_of(3) {
            fs::remove_file(&path).expect("removed");
        }
    });
    let outcome = pair.start(&["--final"]).finish(LONG).expect_code(4);
    assert!(!outcome.stdout.is_empty(), "{outcome:#?}");
    writer.stop();
    pair.finish(&[]);
    pair.expect_equal(&Contract::plain());
}

#[test]
fn a_final_pass_over_an_image_with_a_writer_fails() {
    let folder = tempfile::TempDir::new().expect("made");
    let (source, destination) = (folder.path().join("source"), folder.path().join("destination"));
    fs::write(&source, Random::new(1).bytes(16 << 20)).expect("written");
    let state = folder.path().join("state");
    crate::host::sync(&source, &destination, &state, &[]).expect_code(0);
    let file = File::options().write(true).open(&source).expect("opened");
    let mut count = 0_u64;
    let writer = Writer::start(move || {
        count += 1;
        file.write_all_at(&count.to_le_bytes(), 5 << 20).expect("written");
    });
    let outcome = crate::host::sync(&source, &destination, &state, &["--final"]).expect_code(4);
    assert!(!outcome.stdout.is_empty(), "{outcome:#?}");
    writer.stop();
    crate::host::expect_proof(&crate::host::sync(&source, &destination, &state, &["--final"]).expect_code(0));
    assert!(fs::read(&source).expect("read") == fs::read(&destination).expect("read"));
}
