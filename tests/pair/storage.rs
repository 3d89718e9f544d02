//! Disks that fail, quotas, and a process that may open few files.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use tranship_tests::filesystems::{FileSystem, Kind};
use tranship_tests::processes::{Outcome, Running};
use tranship_tests::random::Random;
use tranship_tests::walker::Contract;

use crate::blocks::Device;
use crate::host::{LONG, Pair, error_code, error_text, expect_proof, is_root, succeed, sync, sync_command};

const MIB: u64 = 1 << 20;

/// A disk of 64 MiB whose medium holds 24: writes are taken, and fail when they are flushed.
struct ThinDisk {
    device: Device,
    medium: FileSystem,
}

impl ThinDisk {
    fn new() -> Self {
        let medium = FileSystem::mounted(Kind::Tmpfs, 24 * MIB).expect("mounted");
        let image = medium.path().join("image");
        File::create(&image).and_then(|file| file.set_len(64 * MIB)).expect("made");
        Self { device: Device::over(&image), medium }
    }

    fn heal(&self) {
        succeed(Command::new("mount").args(["-o", "remount,size=100m"]).arg(self.medium.path()));
    }
}

fn fill(folder: &Path, files: u64) {
    for number in 0..files {
        fs::write(folder.join(number.to_string()), Random::new(number).bytes(MIB as usize)).expect("written");
    }
}

fn expect_a_failed_disk(outcome: &Outcome) {
    assert_eq!((outcome.code, &*error_code(outcome)), (Some(4), "TS-E250"), "{outcome:#?}");
    assert!(error_text(outcome).contains("kernel's log"), "{outcome:#?}");
}

#[test]
fn a_device_that_cannot_be_flushed_ends_the_pass_and_once_healthy_lacks_nothing() {
    if !is_root() {
        return;
    }
    let (disk, folder) = (ThinDisk::new(), tempfile::TempDir::new().expect("made"));
    let (source, state) = (folder.path().join("image"), folder.path().join("state"));
    fs::write(&source, Random::new(1).bytes(48 * MIB as usize)).expect("written");
    for arguments in [&[][..], &["--final"]] {
        expect_a_failed_disk(&sync(&source, &disk.device.path, &state, arguments));
    }
    disk.heal();
    sync(&source, &disk.device.path, &state, &[]).expect_code(0);
    expect_proof(&sync(&source, &disk.device.path, &state, &["--final"]).expect_code(0));
    let (ours, theirs) = (fs::read(&source).expect("read"), fs::read(&disk.device.path).expect("read"));
    assert!(ours == theirs[..ours.len()], "what is on the disk is not what was proven");
}

#[test]
fn a_file_system_on_a_failing_disk_ends_the_pass_and_once_healthy_lacks_nothing() {
    if !is_root() {
        return;
    }
    let disk = ThinDisk::new();
    succeed(Command::new("mkfs.ext4").args(["-Fq", "-E", "nodiscard"]).arg(&disk.device.path));
    let pair = Pair::of_folders();
    fill(pair.source(), 40);
    let mount = || succeed(Command::new("mount").arg(&disk.device.path).arg(pair.destination()));
    let unmount = || succeed(Command::new("umount").arg(pair.destination()));
    mount();
    let outcome = pair.sync(&[]);
    unmount();
    assert_eq!(outcome.code, Some(4), "{outcome:#?}");
    disk.heal();
    let _ = Command::new("fsck.ext4").arg("-fy").arg(&disk.device.path).output().expect("started");
    mount();
    let staged = pair.sync(&[]);
    let last = pair.sync(&["--final"]);
    unmount();
    // Nothing is believed that was only in memory.
    mount();
    let lines = tranship_tests::walker::compare(pair.source(), pair.destination(), &Contract::exact());
    unmount();
    staged.expect_code(0);
    expect_proof(&last.expect_code(0));
    let lines: Vec<String> = lines.expect("walked").into_iter().filter(|line| !line.contains("lost+found")).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

#[test]
fn a_source_device_that_cannot_be_read_is_no_success() {
    if !is_root() {
        return;
    }
    let folder = tempfile::TempDir::new().expect("made");
    let (image, copy, state) = (folder.path().join("image"), folder.path().join("copy"), folder.path().join("state"));
    fs::write(&image, Random::new(1).bytes(20 * MIB as usize)).expect("written");
    let device = Device::over(&image);
    // The medium ends before the device does.
    File::options().write(true).open(&image).and_then(|file| file.set_len(8 * MIB)).expect("cut");
    for arguments in [&[][..], &["--final"]] {
        expect_a_failed_disk(&sync(&device.path, &copy, &state, arguments));
    }
    fs::write(&image, Random::new(1).bytes(20 * MIB as usize)).expect("written");
    expect_proof(&sync(&device.path, &copy, &state, &["--final"]).expect_code(0));
    assert!(fs::read(&copy).expect("read") == fs::read(&image).expect("read"));
}

#[test]
fn a_quota_is_a_limit_like_a_full_disk() {
    if !is_root() {
        return;
    }
    let pair =
        Pair::of(FileSystem::folder().expect("made"), FileSystem::mounted(Kind::Btrfs, 320 * MIB).expect("mounted"));
    let quota = |limit: &str| {
        succeed(Command::new("btrfs").args(["qgroup", "limit", limit]).arg(pair.destination()));
    };
    succeed(Command::new("btrfs").args(["quota", "enable"]).arg(pair.destination()));
    fill(pair.source(), 16);
    quota("8M");
    let outcome = pair.sync(&[]).expect_code(4);
    assert_eq!(error_code(&outcome), "TS-E230", "{outcome:#?}");
    assert!(outcome.stdout.join("").contains("quota"), "{outcome:#?}");
    quota("none");
    pair.stage(&[]);
    pair.finish(&[]);
    pair.expect_equal(&Contract::exact());
}

#[test]
fn a_process_that_may_open_few_files_either_does_it_or_says_so() {
    let mut refused = 0;
    for limit in [12, 20, 24, 28, 64] {
        let pair = Pair::of_folders();
        fill(pair.source(), 10);
        let inner = sync_command(pair.source(), pair.destination(), pair.state.path(), &[]);
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={limit}")).arg(inner.get_program()).args(inner.get_args());
        let outcome = Running::start(&mut command).finish(LONG);
        if outcome.code != Some(0) {
            refused += 1;
            assert!(matches!(outcome.code, Some(3 | 4)), "{limit}: {outcome:#?}");
            assert!(error_text(&outcome).contains("ulimit -n"), "{limit}: {outcome:#?}");
        }
        pair.finish(&[]);
        pair.expect_equal(&Contract::exact());
    }
    assert!((1..5).contains(&refused), "the limits do not straddle what is needed: {refused} of 5 refused");
}
