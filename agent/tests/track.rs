//! Tracking of real devices: loop devices, by the kernel's own tracing. As root; else nothing is tried, and said so.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests, which clippy does not take for tests")]
#![expect(clippy::single_range_in_vec_init, reason = "lists of ranges are compared, some of one")]

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;
use tranship_agent::track::{Agreement, Interval, RING_BYTES_DEFAULT, Tracker, Tracking, Why};
use tranship_proto::id::Token;

const MIB: u64 = 1 << 20;

/// An image on a loop device.
struct Disk {
    folder: TempDir,
    device: PathBuf,
}

impl Disk {
    /// Nothing without the rights, or without loop devices.
    fn of(mebibytes: u64) -> Option<Self> {
        if !rustix::process::getuid().is_root() {
            println!("not tried: needs root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        File::create(&image).unwrap().set_len(mebibytes * MIB).unwrap();
        let device = attach(&image);
        Some(Self { folder, device })
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("track")
    }

    fn track(&self) -> Tracker {
        self.track_with(RING_BYTES_DEFAULT)
    }

    fn track_with(&self, ring_bytes: u64) -> Tracker {
        Tracker::start(File::open(&self.device).unwrap(), &self.state(), ring_bytes).unwrap()
    }

    /// Past the page cache, so that the write is queued when the call returns.
    fn open(&self) -> File {
        open(&self.device)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Ok(Some(tracker)) = Tracker::resume(&self.state()) {
            tracker.remove().unwrap();
        }
        run("losetup", &["--detach", text(&self.device)]);
    }
}

fn open(device: &Path) -> File {
    let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    File::options().read(true).write(true).custom_flags(direct).open(device).unwrap()
}

/// Whoever attaches: a number that is free for a moment is not to be taken by another test.
static ATTACHING: Mutex<()> = Mutex::new(());

fn attach(image: &Path) -> PathBuf {
    let _attaching = ATTACHING.lock().unwrap();
    let shown = run("losetup", &["--find", "--show", text(image)]);
    PathBuf::from(shown.trim())
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Bytes where a request past the page cache may take them from.
fn aligned(len: usize) -> Vec<u8> {
    // Larger allocations are whole pages of their own, but for a header: find the page within.
    vec![0x5a; len + 4096]
}

fn write(file: &File, offset: u64, len: usize) {
    let buffer = aligned(len);
    let start = buffer.as_ptr().align_offset(4096);
    file.write_all_at(&buffer[start..start + len], offset).unwrap();
}

#[track_caller]
fn tracked(interval: Interval) -> Vec<Range<u64>> {
    match interval {
        Interval::Tracked { written, agreement: Agreement::Exact } => written.ranges().collect(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn void(interval: Interval) -> Why {
    match interval {
        Interval::Void { why } => why,
        other => panic!("{other:?}"),
    }
}

fn pieces(indices: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut indices: Vec<_> = indices.into_iter().collect();
    indices.sort_unstable();
    indices.dedup();
    indices
}

fn pieces_in(ranges: &[Range<u64>]) -> Vec<u64> {
    pieces(ranges.iter().flat_map(|range| range.start / MIB..range.end.div_ceil(MIB)))
}

/// A sequence that looks random and comes again with its seed.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

#[test]
fn direct_writes_are_reported_and_nothing_else() {
    let Some(disk) = Disk::of(256) else { return };
    let file = disk.open();
    write(&file, 3 * MIB, 4096);
    let mut tracker = disk.track();
    let mut seed = 20_261_121;
    println!("seed {seed}");
    let mut wanted = Vec::new();
    for _ in 0..500 {
        let offset = random(&mut seed) % (255 * 256) * 4096;
        let len = 4096 * (1 + random(&mut seed) % 64);
        // Half of the disk is left alone.
        if offset / MIB % 4 < 2 {
            write(&file, offset, len as usize);
            wanted.extend(offset / MIB..=(offset + len - 1) / MIB);
        }
    }
    let mut buffer = aligned(4096);
    let start = buffer.as_ptr().align_offset(4096);
    file.read_exact_at(&mut buffer[start..start + 4096], 250 * MIB).unwrap();
    assert_eq!(pieces_in(&tracked(tracker.take().unwrap())), pieces(wanted));
}

#[test]
fn large_writes_that_are_split_are_counted_once() {
    let Some(disk) = Disk::of(64) else { return };
    let mut tracker = disk.track();
    write(&disk.open(), 5 * MIB, 32 << 20);
    assert_eq!(tracked(tracker.take().unwrap()), [5 * MIB..37 * MIB]);
}

#[test]
fn everything_that_a_file_system_writes_is_reported() {
    let Some(disk) = Disk::of(256) else { return };
    run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", text(&disk.device)]);
    run("sync", &[]);
    let before = std::fs::read(disk.image()).unwrap();
    let mut tracker = disk.track();
    let mount = disk.folder.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    run("mount", &[text(&disk.device), text(&mount)]);
    for file in 0..40 {
        std::fs::write(mount.join(format!("file {file}")), vec![file; 100_000]).unwrap();
    }
    for file in (0..40).step_by(3) {
        std::fs::remove_file(mount.join(format!("file {file}"))).unwrap();
    }
    run("umount", &[text(&mount)]);
    let after = std::fs::read(disk.image()).unwrap();
    let changed = pieces(
        before.chunks(MIB as usize).zip(after.chunks(MIB as usize)).zip(0..).filter(|((a, b), _)| a != b).map(|x| x.1),
    );
    let reported = pieces_in(&tracked(tracker.take().unwrap()));
    assert!(changed.len() > 3, "{changed:?}");
    assert!(changed.iter().all(|piece| reported.contains(piece)), "changed {changed:?}, reported {reported:?}");
    assert!(reported.len() < 64, "{reported:?}");
}

#[test]
fn discards_and_zeros_are_reported() {
    let Some(disk) = Disk::of(64) else { return };
    let mut tracker = disk.track();
    run("blkdiscard", &["--offset", "10485760", "--length", "2097152", text(&disk.device)]);
    run("blkdiscard", &["--zeroout", "--offset", "20971520", "--length", "1048576", text(&disk.device)]);
    assert_eq!(tracked(tracker.take().unwrap()), [10 * MIB..12 * MIB, 20 * MIB..21 * MIB]);
}

#[test]
fn a_tracker_outlives_its_process_and_repeats_what_was_not_committed() {
    let Some(disk) = Disk::of(64) else { return };
    let file = disk.open();
    let mut tracker = disk.track();
    assert_eq!(tracker.basis(), None);
    tracker.commit(Token([1; 16])).unwrap();
    drop(tracker);

    write(&file, 7 * MIB, 4096);
    let resume = || Tracker::resume(&disk.state()).unwrap().unwrap();
    let mut tracker = resume();
    assert_eq!(tracker.basis(), Some(Token([1; 16])));
    assert_eq!(tracked(tracker.take().unwrap()), [7 * MIB..8 * MIB]);
    drop(tracker);

    // The pass did not commit.
    write(&file, 9 * MIB, 4096);
    let mut tracker = resume();
    assert_eq!(tracked(tracker.take().unwrap()), [7 * MIB..8 * MIB, 9 * MIB..10 * MIB]);
    write(&file, 11 * MIB, 4096);
    tracker.commit(Token([2; 16])).unwrap();
    drop(tracker);

    // This one did, and what was written meanwhile is not forgotten.
    let mut tracker = resume();
    assert_eq!(tracker.basis(), Some(Token([2; 16])));
    assert_eq!(tracked(tracker.take().unwrap()), [11 * MIB..12 * MIB]);
    tracker.commit(Token([3; 16])).unwrap();
    assert_eq!(tracked(resume().take().unwrap()), []);
}

#[test]
fn no_write_falls_between_two_intervals() {
    let Some(disk) = Disk::of(512) else { return };
    let file = disk.open();
    let mut tracker = disk.track();
    let is_done = AtomicBool::new(false);
    let (mut seen, mut takes) = (Vec::new(), 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for piece in 0..512 {
                (0..16).for_each(|part| write(&file, piece * MIB + part * 65_536, 4096));
            }
            is_done.store(true, Ordering::Release);
        });
        loop {
            let was_done = is_done.load(Ordering::Acquire);
            let Interval::Tracked { written, agreement } = tracker.take().unwrap() else { panic!("void") };
            seen.extend(pieces_in(&written.ranges().collect::<Vec<_>>()));
            tracker.commit(Token([takes as u8; 16])).unwrap();
            takes += 1;
            if was_done {
                assert_eq!(agreement, Agreement::Exact);
                break;
            }
        }
    });
    assert!(takes > 1, "one interval has no gap");
    assert_eq!(pieces(seen), pieces(0..512));
}

#[test]
fn what_was_on_its_way_is_reported_until_the_device_is_found_at_rest() {
    let Some(disk) = Disk::of(64) else { return };
    let mut tracker = disk.track();
    let is_done = AtomicBool::new(false);
    let busy = std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = disk.open();
            (0..).take_while(|_| !is_done.load(Ordering::Acquire)).for_each(|turn| write(&file, turn % 8 * MIB, 4096));
        });
        // A writer that gets no processor leaves the device at rest.
        let busy = (0..20).find_map(|_| {
            let interval = tracker.take().unwrap();
            tracker.commit(Token([1; 16])).unwrap();
            match interval {
                Interval::Tracked { written, agreement: Agreement::InFlight { .. } } => Some(written),
                _ => None,
            }
        });
        is_done.store(true, Ordering::Release);
        busy
    });
    let written = busy.expect("an interval in which writes were on their way");
    write(&disk.open(), 20 * MIB, 4096);
    let again = pieces_in(&tracked(tracker.take().unwrap()));
    assert!(pieces_in(&written.ranges().collect::<Vec<_>>()).iter().all(|piece| again.contains(piece)), "{again:?}");
    tracker.commit(Token([2; 16])).unwrap();
    assert_eq!(tracked(tracker.take().unwrap()), []);
}

#[test]
fn what_was_written_counts_for_one_commit() {
    let Some(disk) = Disk::of(64) else { return };
    let file = disk.open();
    let begin = || Tracking::begin(&disk.device, &disk.state());
    let first = begin();
    assert_eq!(first.notes().len(), 1, "{:?}", first.notes());
    assert_eq!(first.written_since(Token([0; 16])), None);
    first.commit(Token([1; 16]));

    write(&file, 7 * MIB, 4096);
    let second = begin();
    assert_eq!(second.written_since(Token([9; 16])), None);
    let written = second.written_since(Token([1; 16])).unwrap();
    assert_eq!(written.ranges().collect::<Vec<_>>(), [7 * MIB..8 * MIB]);
    // A link that breaks after the commit brings the same process to another pass.
    second.commit(Token([2; 16]));
    assert_eq!(second.written_since(Token([2; 16])), None);
    assert!(second.is_untouched_since(Token([2; 16])));
    assert!(!second.is_untouched_since(Token([1; 16])));
    write(&file, 9 * MIB, 4096);
    assert!(!second.is_untouched_since(Token([2; 16])));

    let third = begin();
    assert_eq!(third.written_since(Token([2; 16])).unwrap().bytes(), MIB);
    Tracking::end(&disk.state()).unwrap();
    assert!(!disk.state().exists());
}

#[test]
fn a_ring_that_is_too_small_makes_the_interval_void() {
    let Some(disk) = Disk::of(64) else { return };
    let file = disk.open();
    let mut tracker = disk.track_with(4096);
    (0..2000).for_each(|index| write(&file, index % 64 * MIB, 4096));
    assert!(matches!(void(tracker.take().unwrap()), Why::Overrun { events: 1.. }));
    // For good, also for the next process.
    let mut tracker = Tracker::resume(&disk.state()).unwrap().unwrap();
    assert!(matches!(void(tracker.take().unwrap()), Why::Before { .. }));
    // Until it is started anew.
    let mut tracker = disk.track();
    write(&file, 0, 4096);
    assert_eq!(tracked(tracker.take().unwrap()), [0..MIB]);
}

#[test]
fn a_partition_is_tracked_whatever_it_is_written_through() {
    let Some(disk) = Disk::of(64) else { return };
    // From 4 MiB on for 8 MiB, and from 20 MiB on.
    run("addpart", &[text(&disk.device), "1", "8192", "16384"]);
    run("addpart", &[text(&disk.device), "2", "40960", "16384"]);
    let partition = |number: u32| PathBuf::from(format!("{}p{number}", text(&disk.device)));
    let (first, second) = (partition(1), partition(2));
    let mut tracker = Tracker::start(File::open(&first).unwrap(), &disk.state(), RING_BYTES_DEFAULT).unwrap();
    write(&open(&first), 2 * MIB, 4096);
    write(&open(&second), 3 * MIB, 4096);
    let whole = disk.open();
    write(&whole, 0, 4096);
    write(&whole, 4 * MIB - 4096, 8192);
    write(&whole, 11 * MIB, 4 << 20);
    assert_eq!(tracked(tracker.take().unwrap()), [0..MIB, 2 * MIB..3 * MIB, 7 * MIB..8 * MIB]);

    let mut tracker = disk.track();
    write(&open(&second), 0, 4096);
    assert_eq!(tracked(tracker.take().unwrap()), [20 * MIB..21 * MIB]);
    run("delpart", &[text(&disk.device), "2"]);
    assert_eq!(void(tracker.take().unwrap()), Why::Reshaped);
    run("delpart", &[text(&disk.device), "1"]);
}

#[test]
fn another_device_at_the_same_place_is_not_taken_for_it() {
    let Some(disk) = Disk::of(16) else { return };
    let mut tracker = disk.track();
    let _attaching = ATTACHING.lock().unwrap();
    run("losetup", &["--detach", text(&disk.device)]);
    run("losetup", &[text(&disk.device), text(&disk.image())]);
    assert_eq!(void(tracker.take().unwrap()), Why::Detached);
}

#[test]
fn a_device_that_changes_its_size_is_void() {
    let Some(disk) = Disk::of(16) else { return };
    let mut tracker = disk.track();
    File::options().write(true).open(disk.image()).unwrap().set_len(32 * MIB).unwrap();
    run("losetup", &["--set-capacity", text(&disk.device)]);
    assert_eq!(void(tracker.take().unwrap()), Why::Reshaped);
}

/// Does something in the tracker's instance, whose name its file has.
fn meddle(disk: &Disk, script: &str) {
    let record = std::fs::read(disk.state()).unwrap();
    let start = record.windows(9).position(|window| window == b"tranship-").unwrap();
    let name = std::str::from_utf8(&record[start..start + 25]).unwrap();
    let mount = disk.folder.path().join("tracing");
    std::fs::create_dir_all(&mount).unwrap();
    let script = format!("mount -t tracefs t {0} && cd {0}/instances/{name} && {script}", text(&mount));
    run("unshare", &["--mount", "sh", "-c", &script]);
}

#[test]
fn whoever_meddles_with_the_instance_makes_it_void() {
    let Some(disk) = Disk::of(16) else { return };
    let file = disk.open();
    let event = "events/block/block_bio_queue";
    let after = |script: &str| {
        let mut tracker = disk.track();
        write(&file, 0, 4096);
        meddle(&disk, script);
        void(tracker.take().unwrap())
    };
    assert_eq!(after("head -n 1 trace_pipe"), Why::Read { events: 1, known: 0 });
    assert_eq!(after("echo 0 > tracing_on"), Why::Meddled);
    assert_eq!(after(&format!("echo 0 > {event}/enable")), Why::Meddled);
    assert_eq!(after(&format!("echo 0 > {event}/filter")), Why::Meddled);
    assert_eq!(after("rmdir $(pwd)"), Why::Meddled);

    // Also if it looks as before when the interval ends.
    let mut tracker = disk.track();
    meddle(&disk, "echo 0 > tracing_on");
    write(&file, 0, 4096);
    meddle(&disk, "echo 1 > tracing_on");
    assert_eq!(void(tracker.take().unwrap()), Why::Unseen { sectors: 8 });
    let mut tracker = disk.track();
    write(&file, 0, 4096);
    meddle(&disk, "echo > trace");
    assert_eq!(void(tracker.take().unwrap()), Why::Unseen { sectors: 8 });
}

#[test]
fn ending_leaves_nothing_in_the_kernel() {
    let Some(disk) = Disk::of(16) else { return };
    let tracker = disk.track();
    meddle(&disk, "true");
    let record = std::fs::read(disk.state()).unwrap();
    tracker.remove().unwrap();
    assert!(!disk.state().exists());
    // The record comes back, the instance does not.
    std::fs::write(disk.state(), record).unwrap();
    let mut tracker = Tracker::resume(&disk.state()).unwrap().unwrap();
    assert_eq!(void(tracker.take().unwrap()), Why::Meddled);
}
