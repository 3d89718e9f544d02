//! Two passes that want the same volume.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tranship_tests::filesystems::{FileSystem, Kind};
use tranship_tests::processes::{Outcome, Running, binary, receive, wait_for};
use tranship_tests::random::Random;
use tranship_tests::walker::Contract;

use crate::blocks::Device;
use crate::host::{LONG, Pair, error_code, error_text, expect_proof, is_root, receive_arguments, succeed, sync};

/// A pair with a pass under way that takes a few seconds.
fn at_work() -> (Pair, Running) {
    let pair = Pair::of_folders();
    for number in 0..20 {
        fs::write(pair.source().join(number.to_string()), Random::new(number).bytes(400_000)).expect("written");
    }
    let first = pair.start(&["--bandwidth", "20Mbit/s"]);
    let has_begun = || fs::read_dir(pair.destination()).map_or(0, |names| names.count()) > 3;
    wait_for("the first files", LONG, || has_begun().then_some(()));
    (pair, first)
}

#[test]
fn a_pass_waits_for_another_one_if_it_was_told_to() {
    let (pair, first) = at_work();
    let second = pair.start(&["--wait"]);
    first.finish(LONG).expect_code(0);
    second.finish(LONG).expect_code(0);
    pair.expect_equal(&Contract::plain());
    pair.finish(&["--wait"]);
}

#[test]
fn a_pass_that_was_not_told_to_wait_is_refused_while_another_one_is_at_work() {
    let (pair, first) = at_work();
    let second = pair.sync(&[]).expect_code(3);
    assert_eq!(error_code(&second), "TS-P108", "{second:#?}");
    first.finish(LONG).expect_code(0);
    pair.expect_equal(&Contract::plain());
}

/// A device with a file system on it, which may be mounted.
struct Mountable {
    device: Device,
    folder: tempfile::TempDir,
}

impl Mountable {
    fn new() -> Self {
        let folder = tempfile::TempDir::new().expect("made");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("image"), vec![0; 8 << 20]).and_then(|()| fs::create_dir(path("at"))).expect("made");
        let device = Device::over(&path("image"));
        succeed(Command::new("mkfs.ext4").arg("-Fq").arg(&device.path));
        Self { device, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What comes of `sync` while it is mounted.
    fn while_mounted(&self, sync: impl FnOnce() -> Outcome) -> Outcome {
        succeed(Command::new("mount").arg(&self.device.path).arg(self.path("at")));
        let outcome = sync();
        succeed(Command::new("umount").arg(self.path("at")));
        outcome
    }
}

#[test]
fn a_device_that_is_mounted_is_in_use() {
    if !is_root() {
        return;
    }
    let target = Mountable::new();
    fs::write(target.path("source"), Random::new(1).bytes(1 << 20)).expect("written");
    let outcome =
        target.while_mounted(|| sync(&target.path("source"), &target.device.path, &target.path("state"), &[]));
    assert_eq!((outcome.code, &*error_code(&outcome)), (Some(3), "TS-P108"), "{outcome:#?}");
}

#[test]
fn a_source_that_is_mounted_can_be_staged_and_is_refused_in_a_final_pass() {
    if !is_root() {
        return;
    }
    let source = Mountable::new();
    let sync = |arguments: &[&str]| sync(&source.device.path, &source.path("copy"), &source.path("state"), arguments);
    source.while_mounted(|| sync(&[])).expect_code(0);
    let outcome = source.while_mounted(|| sync(&["--final"])).expect_code(3);
    assert_eq!(error_code(&outcome), "TS-P108", "{outcome:#?}");
    assert!(error_text(&outcome).contains("unmount"), "{outcome:#?}");
    expect_proof(&sync(&["--final"]).expect_code(0));
}

#[test]
fn what_is_no_volume_is_refused_by_the_code_for_that() {
    let folder = tempfile::TempDir::new().expect("made");
    let path = |name: &str| folder.path().join(name);
    let outcome = sync("/dev/null".as_ref(), &path("copy"), &path("state"), &[]).expect_code(3);
    assert_eq!(error_code(&outcome), "TS-E233", "{outcome:#?}");
}

/// A file system on which whoever writes waits.
struct Frozen<'a>(&'a Path);

impl<'a> Frozen<'a> {
    fn at(path: &'a Path) -> Self {
        succeed(Command::new("fsfreeze").arg("--freeze").arg(path));
        Self(path)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        // A test that panics is not to abort over this.
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(self.0).status();
    }
}

#[test]
fn a_writer_that_hangs_in_a_disk_keeps_others_out_although_its_session_is_over() {
    if !is_root() {
        return;
    }
    let source = FileSystem::folder().expect("made");
    let pair = Pair::of(source, FileSystem::mounted(Kind::Ext4, 256 << 20).expect("mounted"));
    fs::write(pair.source().join("file"), Random::new(1).bytes(64 << 20)).expect("written");
    let receiving = receive(receive_arguments(pair.destination(), &pair.state.path().join("theirs"), &[]));
    let mut command = Command::new(binary());
    command.args(["--output", "json", "--quiet", "sync", "--state"]).arg(pair.state.path().join("ours"));
    let first = Running::start(command.args(["--bandwidth", "200Mbit/s"]).arg(pair.source()).arg(&receiving.ticket));
    wait_for("the first bytes", LONG, || {
        fs::read_dir(pair.destination())
            .ok()?
            .flatten()
            .find(|entry| entry.metadata().is_ok_and(|meta| meta.len() > 0 && meta.is_file()))
    });
    let frozen = Frozen::at(pair.destination());
    // What only waits for a disk is done by then.
    let mut looks = 0;
    wait_for("a thread that hangs", LONG, || {
        looks = if hanging_threads(receiving.running.id()) { looks + 1 } else { 0 };
        (looks == 50).then_some(())
    });
    first.signal(Signal::INT).expect("sent");
    assert_eq!(error_code(&first.finish(LONG).expect_code(4)), "TS-P109");
    // The receiver has remembered it elsewhere: what the second one finds taken is the volume.
    let sync = || sync(pair.source(), pair.destination(), &pair.state.path().join("others"), &[]);
    let second = sync().expect_code(3);
    assert_eq!(error_code(&second), "TS-P108", "{second:#?}");
    drop(frozen);
    wait_for("the end of the thread", LONG, || (sync().code == Some(0)).then_some(()));
    pair.expect_equal(&Contract::plain());
}

/// Whether a thread of this process waits for a disk, and no signal would end that.
fn hanging_threads(process: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("read").flatten();
    let states = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    states.into_iter().any(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('D')))
}
