//! Block volumes: images of odd sizes, and real devices.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tranship_tests::processes::{Outcome, Running, binary};
use tranship_tests::random::Random;

use crate::host::{LONG, error_code, expect_idle, expect_proof, is_root, let_clocks_tick};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const LEAF_BYTES: u64 = 16 * KIB;

/// A folder for images and the state.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { folder: TempDir::new().expect("made") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn image(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.path(name), bytes).expect("written");
        self.path(name)
    }

    /// An image without a block of its own.
    fn empty_image(&self, name: &str, bytes: u64) -> PathBuf {
        File::create(self.path(name)).and_then(|file| file.set_len(bytes)).expect("made");
        self.path(name)
    }

    /// A device full of bytes, and one of the same size without any.
    fn devices(&self, bytes: u64) -> (Device, Device) {
        let images = [self.image("source", &Random::new(1).bytes(bytes as usize)), self.empty_image("copy", bytes)];
        (Device::over(&images[0]), Device::over(&images[1]))
    }

    fn sync(&self, source: &Path, destination: &Path, arguments: &[&str]) -> Outcome {
        crate::host::sync(source, destination, &self.path("state"), arguments)
    }

    fn finish(&self, source: &Path, destination: &Path) {
        expect_proof(&self.sync(source, destination, &["--final"]).expect_code(0));
    }
}

/// A loop device over an image; detached when dropped.
pub(crate) struct Device {
    /// Its node.
    pub(crate) path: PathBuf,
}

impl Device {
    /// Attaches one.
    pub(crate) fn over(image: &Path) -> Self {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(image).output().expect("started");
        assert!(output.status.success(), "{output:?}");
        Self { path: String::from_utf8_lossy(&output.stdout).trim().into() }
    }

    /// Writes to it; on the device when this returns.
    pub(crate) fn write(&self, bytes: &[u8], offset: u64) {
        let file = File::options().write(true).open(&self.path).expect("opened");
        file.write_all_at(bytes, offset).and_then(|()| file.sync_all()).expect("written");
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

fn expect_same_bytes(source: &Path, destination: &Path) {
    let (source, destination) = (fs::read(source).expect("read"), fs::read(destination).expect("read"));
    assert_eq!(source.len(), destination.len());
    let differs = source.iter().zip(&destination).position(|(a, b)| a != b);
    assert_eq!(differs, None, "the first byte that differs");
}

#[test]
fn images_of_odd_sizes_arrive_and_are_proven() {
    let sizes = [0, 1, 511, 4_096, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, MIB - 1, MIB, MIB + 1, 20 * MIB + 7];
    for size in sizes {
        let bench = Bench::new();
        let (source, destination) =
            (bench.image("source", &Random::new(size).bytes(size as usize)), bench.path("copy"));
        let_clocks_tick(&source);
        let first = bench.sync(&source, &destination, &[]);
        assert_eq!(first.code, Some(0), "{size} bytes: {first:#?}");
        expect_same_bytes(&source, &destination);
        expect_idle(&bench.sync(&source, &destination, &[]).expect_code(0));
        bench.finish(&source, &destination);
        expect_same_bytes(&source, &destination);
    }
}

#[test]
fn an_image_that_grows_and_shrinks_is_followed() {
    let bench = Bench::new();
    let (source, destination) = (bench.path("source"), bench.path("copy"));
    for (round, size) in [3 * MIB + 5, 7 * MIB, 7 * MIB + 1, MIB - 1, 0, 40_000].into_iter().enumerate() {
        let bytes = Random::new(round as u64).bytes(size as usize);
        let file = File::options().write(true).create(true).truncate(false).open(&source).expect("opened");
        file.set_len(size).and_then(|()| file.write_all_at(&bytes, 0)).expect("written");
        bench.sync(&source, &destination, &[]).expect_code(0);
        expect_same_bytes(&source, &destination);
    }
    bench.finish(&source, &destination);
}

#[test]
fn a_changed_leaf_is_all_that_is_sent_of_an_image() {
    let bench = Bench::new();
    let source = bench.image("source", &Random::new(1).bytes((20 * MIB + 7) as usize));
    let destination = bench.path("copy");
    let_clocks_tick(&source);
    bench.sync(&source, &destination, &[]).expect_code(0);
    let file = File::options().write(true).open(&source).expect("opened");
    for at in [0, 7 * MIB + 20_000, 20 * MIB + 6] {
        file.write_all_at(b"!", at).expect("written");
    }
    let_clocks_tick(&source);
    let stage = bench.sync(&source, &destination, &[]).expect_code(0);
    assert_eq!(stage.number("bytes_literal"), 2 * LEAF_BYTES + 7, "{stage:#?}");
    assert_eq!(stage.number("bytes_written_destination"), 2 * LEAF_BYTES + 7, "{stage:#?}");
    assert_eq!(stage.number("bytes_read_destination"), 0, "{stage:#?}");
    bench.finish(&source, &destination);
    expect_same_bytes(&source, &destination);
}

#[test]
fn zeros_are_neither_sent_nor_kept() {
    use std::os::unix::fs::MetadataExt;
    let bench = Bench::new();
    let source = bench.image("source", &Random::new(1).bytes((16 * MIB) as usize));
    let destination = bench.path("copy");
    bench.sync(&source, &destination, &[]).expect_code(0);
    let file = File::options().write(true).open(&source).expect("opened");
    // Once written as zeros, and once made a hole.
    file.write_all_at(&vec![0; 4 * MIB as usize], 2 * MIB).expect("written");
    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, flags, 9 * MIB, 5 * MIB).expect("punched");
    let stage = bench.sync(&source, &destination, &[]).expect_code(0);
    assert_eq!(stage.number("bytes_literal"), 0, "{stage:#?}");
    expect_same_bytes(&source, &destination);
    let allocated = fs::metadata(&destination).expect("it is there").blocks() * 512;
    assert!(allocated <= 8 * MIB, "{allocated} bytes are allocated");
    bench.finish(&source, &destination);
}

#[test]
fn an_image_of_holes_alone_costs_nothing() {
    use std::os::unix::fs::MetadataExt;
    let bench = Bench::new();
    let (source, destination) = (bench.empty_image("source", 2 << 30), bench.path("copy"));
    let stage = bench.sync(&source, &destination, &[]).expect_code(0);
    assert_eq!((stage.number("bytes_literal"), stage.number("bytes_read_source")), (0, 0), "{stage:#?}");
    let about = fs::metadata(&destination).expect("it is there");
    assert_eq!((about.len(), about.blocks() * 512 < MIB), (2 << 30, true), "{about:?}");
}

#[test]
fn a_device_is_read_again_each_time_and_only_its_changes_are_sent() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    let (source, destination) = bench.devices(21 * MIB);
    bench.sync(&source.path, &destination.path, &[]).expect_code(0);
    expect_same_bytes(&source.path, &destination.path);
    let idle = bench.sync(&source.path, &destination.path, &[]).expect_code(0);
    assert_eq!((idle.number("bytes_literal"), idle.number("bytes_written_destination")), (0, 0), "{idle:#?}");
    source.write(b"changed", 13 * MIB + 5);
    let stage = bench.sync(&source.path, &destination.path, &[]).expect_code(0);
    assert_eq!(stage.number("bytes_literal"), LEAF_BYTES, "{stage:#?}");
    expect_same_bytes(&source.path, &destination.path);
    bench.finish(&source.path, &destination.path);
}

#[test]
fn a_changed_destination_device_is_found_by_the_proof_and_healed() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    let (source, destination) = bench.devices(5 * MIB);
    bench.sync(&source.path, &destination.path, &[]).expect_code(0);
    destination.write(b"somebody else", 3 * MIB);
    let first = bench.sync(&source.path, &destination.path, &["--final"]);
    assert!(matches!(first.code, Some(0 | 4)), "{first:#?}");
    bench.finish(&source.path, &destination.path);
    expect_same_bytes(&source.path, &destination.path);
}

#[test]
fn what_is_written_to_a_device_is_sent_before_a_tracked_proof_believes_it() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    let (source, destination) = bench.devices(5 * MIB);
    let last = ["--final", "--verify", "tracked"];
    bench.sync(&source.path, &destination.path, &[]).expect_code(0);
    source.write(b"changed", 3 * MIB);
    expect_proof(&bench.sync(&source.path, &destination.path, &last).expect_code(0));
    expect_same_bytes(&source.path, &destination.path);
}

#[test]
fn a_tracked_proof_finds_what_was_changed_on_a_device_at_the_destination() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    let (source, destination) = bench.devices(5 * MIB);
    let last = ["--final", "--verify", "tracked"];
    bench.sync(&source.path, &destination.path, &[]).expect_code(0);
    destination.write(b"somebody else", 3 * MIB);
    bench.sync(&source.path, &destination.path, &last).expect_code(4);
    expect_proof(&bench.sync(&source.path, &destination.path, &last).expect_code(0));
    expect_same_bytes(&source.path, &destination.path);
}

#[test]
fn a_larger_device_has_zeros_behind_the_copy() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    let source = bench.image("source", &Random::new(1).bytes((5 * MIB + 512) as usize));
    let other = bench.image("other", &Random::new(2).bytes((9 * MIB) as usize));
    let destination = Device::over(&other);
    bench.sync(&source, &destination.path, &[]).expect_code(0);
    bench.finish(&source, &destination.path);
    let mut expected = fs::read(&source).expect("read");
    expected.resize((9 * MIB) as usize, 0);
    assert!(fs::read(&destination.path).expect("read") == expected);
    let verify = Command::new(binary())
        .args(["--output", "json", "verify"])
        .args([&source, &destination.path])
        .output()
        .expect("started");
    assert!(verify.status.success(), "{verify:?}");
}

#[test]
fn a_larger_image_is_equal_only_if_zeros_follow() {
    let bench = Bench::new();
    let bytes = Random::new(1).bytes((2 * MIB + 5) as usize);
    let source = bench.image("source", &bytes);
    let mut longer = bytes.clone();
    longer.resize((4 * MIB + 7) as usize, 0);
    let verify = |a: &Path, b: &Path| tranship_tests::processes::run([Path::new("verify"), a, b]).code;
    let zeros = bench.image("zeros", &longer);
    assert_eq!(verify(&source, &zeros), Some(0));
    *longer.last_mut().expect("it has bytes") = 1;
    let other = bench.image("other", &longer);
    assert_eq!(verify(&source, &other), Some(7));
    // The first one is what counts: all of it has to be in the second.
    assert_eq!(verify(&zeros, &source), Some(7));
}

#[test]
fn a_smaller_device_is_refused_before_the_first_byte() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    let source = bench.image("source", &Random::new(1).bytes((5 * MIB) as usize));
    let other = bench.image("other", &Random::new(2).bytes((4 * MIB) as usize));
    let before = fs::read(&other).expect("read");
    let destination = Device::over(&other);
    let outcome = bench.sync(&source, &destination.path, &[]).expect_code(3);
    assert_eq!(error_code(&outcome), "TS-E231", "{outcome:#?}");
    assert!(fs::read(&destination.path).expect("read") == before);
}

#[test]
fn a_folder_does_not_go_into_a_device_nor_an_image_into_a_folder() {
    let bench = Bench::new();
    let image = bench.image("image", b"bytes");
    for name in ["folder", "other-folder"] {
        fs::create_dir(bench.path(name)).expect("made");
    }
    fs::write(bench.path("other-folder/kept"), "kept").expect("written");
    let outcome = bench.sync(&image, &bench.path("other-folder"), &[]).expect_code(3);
    assert_eq!(error_code(&outcome), "TS-E233", "{outcome:#?}");
    let outcome = bench.sync(&bench.path("folder"), &image, &[]);
    assert!(matches!(outcome.code, Some(3)), "{outcome:#?}");
    assert_eq!(fs::read(bench.path("other-folder/kept")).expect("read"), b"kept");
    assert_eq!(fs::read(&image).expect("read"), b"bytes");
}

#[test]
fn a_receiver_is_stopped_by_a_signal_and_says_so() {
    let bench = Bench::new();
    let running = Running::start(
        Command::new(binary())
            .args(["receive", "--listen", "127.0.0.1:0", "--state"])
            .args([&bench.path("state"), &bench.path("copy")]),
    );
    running.signal(rustix::process::Signal::TERM).expect("sent");
    let outcome = running.finish(LONG);
    assert!(outcome.signal.is_none() || outcome.stdout.is_empty(), "{outcome:#?}");
}
