//! Two passes that want the same volume.

use std::fs;

use tranship_tests::processes::{Running, wait_for};
use tranship_tests::random::Random;
use tranship_tests::walker::Contract;

use crate::blocks::Device;
use crate::host::{LONG, Pair, error_code, is_root, sync};

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

#[test]
fn a_device_that_is_mounted_is_in_use() {
    if !is_root() {
        return;
    }
    let folder = tempfile::TempDir::new().expect("made");
    let path = |name: &str| folder.path().join(name);
    fs::write(path("source"), Random::new(1).bytes(1 << 20)).expect("written");
    fs::write(path("image"), vec![0; 8 << 20]).and_then(|()| fs::create_dir(path("at"))).expect("made");
    let device = Device::over(&path("image"));
    let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
        let output = std::process::Command::new(program).args(arguments).output().expect("started");
        assert!(output.status.success(), "{output:?}");
    };
    run("mkfs.ext4", &["-Fq".as_ref(), device.path.as_os_str()]);
    run("mount", &[device.path.as_os_str(), path("at").as_os_str()]);
    let outcome = sync(&path("source"), &device.path, &path("state"), &[]);
    run("umount", &[path("at").as_os_str()]);
    assert_eq!((outcome.code, &*error_code(&outcome)), (Some(3), "TS-P108"), "{outcome:#?}");
}

#[test]
fn what_is_no_volume_is_refused_by_the_code_for_that() {
    let folder = tempfile::TempDir::new().expect("made");
    let path = |name: &str| folder.path().join(name);
    let outcome = sync("/dev/null".as_ref(), &path("copy"), &path("state"), &[]).expect_code(3);
    assert_eq!(error_code(&outcome), "TS-E233", "{outcome:#?}");
}
