//! What a confined agent can still do, and what it cannot: each case is a process of its own, because nothing takes
//! confinement off again.
//!
//! Without the usual harness, whose threads would be there before the confinement.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test, which clippy does not see without a harness")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use tranship_agent::confine::{Applied, ConfineError, Confinement, Grant, Guard, Network, Root, self_test};
use tranship_agent::volume::Volume;
use tranship_agent::volume::block::{Block, folders_of_facts};

/// A case: it runs in a child, in folders of its own.
struct Case {
    name: &'static str,
    needs_root: bool,
    run: fn(&Place),
}

const CASES: &[Case] = &[
    Case { name: "without_confinement_nothing_is_denied", needs_root: true, run: nothing_is_denied },
    Case { name: "a_source_is_denied_everything_else", needs_root: false, run: source_is_denied },
    Case { name: "a_destination_is_denied_everything_else", needs_root: false, run: destination_is_denied },
    Case { name: "a_source_reads_its_volume_and_changes_nothing", needs_root: false, run: source_reads },
    Case { name: "a_destination_does_all_that_a_tree_needs", needs_root: false, run: destination_writes },
    Case { name: "a_destination_may_be_granted_device_nodes", needs_root: true, run: devices_are_made },
    Case { name: "a_runtime_with_sockets_timers_and_signals_works", needs_root: false, run: runtime_works },
    Case { name: "a_closed_network_leaves_open_sockets", needs_root: false, run: closed_network },
    Case { name: "tcp_is_kept_to_its_ports", needs_root: false, run: tcp_ports },
    Case { name: "a_block_device_is_the_only_device", needs_root: true, run: block_device },
    Case { name: "where_folders_are_removed_nothing_else_is_done", needs_root: false, run: folders_are_removed },
    Case { name: "a_second_thread_is_not_left_free", needs_root: false, run: second_thread },
    Case { name: "a_volume_that_is_not_there_is_an_error", needs_root: false, run: no_volume },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, name, root] = arguments.as_slice()
        && mode == "child"
    {
        let case = CASES.iter().find(|case| case.name == name).expect("the parent names a case");
        (case.run)(&Place { root: root.into() });
        return ExitCode::SUCCESS;
    }
    let wanted = arguments.iter().find(|argument| !argument.starts_with('-'));
    let mut failed = 0;
    for case in CASES.iter().filter(|case| wanted.is_none_or(|wanted| case.name.contains(wanted.as_str()))) {
        let is_root = rustix::process::getuid().is_root();
        if is_root || !case.needs_root {
            failed += u32::from(!run_child(case, None));
        }
        // An ordinary user has less to lose and needs the same.
        if is_root && !case.needs_root {
            failed += u32::from(!run_child(case, Some(65_534)));
        }
    }
    ExitCode::from(u8::from(failed != 0))
}

fn run_child(case: &Case, user: Option<u32>) -> bool {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let place = Place { root: folder.path().to_owned() };
    for path in [place.volume(), place.state(), place.outside()] {
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("before"), b"before").unwrap();
        if let Some(user) = user {
            std::os::unix::fs::chown(&path, Some(user), Some(user)).unwrap();
            std::os::unix::fs::chown(path.join("before"), Some(user), Some(user)).unwrap();
        }
    }
    // Where every user may run it.
    let program = folder.path().join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut child = Command::new(&program);
    child.arg("child").arg(case.name).arg(folder.path());
    if let Some(user) = user {
        child.uid(user).gid(user);
    }
    let output = child.output().unwrap();
    let who = if user.is_some() { ", as an ordinary user" } else { "" };
    println!("{}{who}: {}", case.name, if output.status.success() { "ok" } else { "FAILED" });
    if !output.status.success() {
        println!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

/// The folders of a case.
struct Place {
    root: PathBuf,
}

impl Place {
    fn volume(&self) -> PathBuf {
        self.root.join("volume")
    }
    fn state(&self) -> PathBuf {
        self.root.join("state")
    }
    fn outside(&self) -> PathBuf {
        self.root.join("outside")
    }

    /// Confines this process and expects the kernel to hold all of it.
    fn confine(&self, grant: Grant, network: Network<'_>) -> Applied {
        let volume = self.volume();
        let applied = self.try_confine(Root::Path(&volume), grant, network).unwrap();
        assert!(applied.landlock_abi >= 6, "this kernel is too old for this test: {applied:?}");
        assert!(applied.seccomp);
        assert_eq!(applied.notes, Vec::<String>::new());
        applied
    }

    fn try_confine(&self, volume: Root<'_>, grant: Grant, network: Network<'_>) -> Result<Applied, ConfineError> {
        Confinement { volume, grant, state: Some(&self.state()), readable: &[], removes_in: &[], network }.apply()
    }
}

fn nothing_is_denied(_: &Place) {
    let denied: Vec<_> = self_test().into_iter().filter(|attempt| attempt.denied).collect();
    assert_eq!(denied, [], "these attempts prove nothing, or this is no root with all capabilities");
}

fn source_is_denied(place: &Place) {
    place.confine(Grant::Read, Network::Open);
    assert_all_denied();
}

fn destination_is_denied(place: &Place) {
    place.confine(Grant::WriteDevices, Network::Open);
    assert_all_denied();
}

fn assert_all_denied() {
    let attempts = self_test();
    let free: Vec<_> = attempts.iter().filter(|attempt| !attempt.denied).collect();
    assert!(free.is_empty(), "{free:#?}");
    let by = |guard: Guard| attempts.iter().filter(|attempt| attempt.by == guard).count();
    let (paths, calls) = (by(Guard::Paths), by(Guard::Calls));
    assert!(attempts.len() >= 50 && paths >= 15 && calls >= 35, "{paths} by landlock, {calls} by seccomp");
}

fn source_reads(place: &Place) {
    let (volume, outside) = (place.volume(), place.outside());
    let handle = File::open(&volume).unwrap();
    let applied = place.try_confine(Root::Handle(handle.as_fd()), Grant::Read, Network::Open).unwrap();
    assert!(applied.landlock_abi > 0 && applied.seccomp);

    assert_eq!(std::fs::read(volume.join("before")).unwrap(), b"before");
    assert_eq!(std::fs::read_dir(&volume).unwrap().count(), 1);
    assert_denied(std::fs::write(volume.join("new"), b""));
    assert_denied(std::fs::OpenOptions::new().write(true).open(volume.join("before")));
    assert_denied(std::fs::remove_file(volume.join("before")));
    assert_denied(std::fs::rename(volume.join("before"), volume.join("after")));
    assert_denied(std::fs::hard_link(volume.join("before"), volume.join("after")));
    assert_denied(std::fs::create_dir(volume.join("folder")));
    assert_denied(std::fs::set_permissions(volume.join("before"), PermissionsExt::from_mode(0o600)));
    assert_denied(std::os::unix::fs::chown(volume.join("before"), None, None));
    assert_denied(std::os::unix::fs::symlink("x", volume.join("link")));

    assert_denied(std::fs::read(outside.join("before")));
    assert_denied(std::fs::read_dir(&outside));
    assert_denied(std::fs::rename(place.state().join("before"), outside.join("stolen")));
    state_works(place);
}

fn state_works(place: &Place) {
    let state = place.state();
    std::fs::create_dir(state.join("pass")).unwrap();
    std::fs::write(state.join("pass/new"), b"written").unwrap();
    std::fs::rename(state.join("pass/new"), state.join("pass/done")).unwrap();
    assert_eq!(std::fs::read(state.join("pass/done")).unwrap(), b"written");
    let file = File::options().read(true).write(true).truncate(true).create(true).open(state.join("pass/done"));
    let file = file.unwrap();
    file.try_lock().unwrap();
    file.write_all_at(b"again", 7).unwrap();
    file.set_len(9).unwrap();
    file.set_permissions(PermissionsExt::from_mode(0o600)).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    file.sync_all().unwrap();
    std::fs::remove_file(state.join("pass/done")).unwrap();
    std::fs::remove_dir(state.join("pass")).unwrap();
}

fn destination_writes(place: &Place) {
    let (volume, outside) = (place.volume(), place.outside());
    place.confine(Grant::Write, Network::Open);

    std::fs::create_dir_all(volume.join("a/b")).unwrap();
    std::fs::create_dir(volume.join("c")).unwrap();
    std::fs::write(volume.join("a/b/file"), b"bytes").unwrap();
    std::fs::rename(volume.join("a/b/file"), volume.join("c/moved")).unwrap();
    std::fs::hard_link(volume.join("c/moved"), volume.join("a/linked")).unwrap();
    std::os::unix::fs::symlink("anywhere/at/all", volume.join("link")).unwrap();
    rustix::fs::mknodat(CWD, volume.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let null = rustix::fs::makedev(1, 3);
    assert_denied(rustix::fs::mknodat(CWD, volume.join("null"), FileType::CharacterDevice, Mode::RUSR, null));

    // A file without a name gets one through the handle.
    let file = rustix::fs::open(&volume, OFlags::WRONLY | OFlags::TMPFILE, Mode::RUSR | Mode::WUSR).unwrap();
    rustix::io::write(&file, b"whole").unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 1 << 16).unwrap();
    let by_number = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    rustix::fs::linkat(CWD, &by_number, CWD, volume.join("whole"), AtFlags::SYMLINK_FOLLOW).unwrap();
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    rustix::fs::fchown(&file, Some(user), Some(group)).unwrap();
    rustix::fs::chownat(CWD, volume.join("link"), Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW).unwrap();
    rustix::fs::setxattr(&by_number, "user.note", b"kept", XattrFlags::empty()).unwrap();
    let epoch = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: epoch, last_modification: epoch };
    rustix::fs::utimensat(CWD, volume.join("link"), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    rustix::fs::syncfs(&file).unwrap();
    assert_eq!(std::fs::metadata(volume.join("whole")).unwrap().size(), 1 << 16);

    assert_denied(std::fs::read(outside.join("before")));
    assert_denied(std::fs::write(outside.join("before"), b"x"));
    assert_denied(std::fs::remove_file(outside.join("before")));
    assert_denied(std::fs::hard_link(outside.join("before"), volume.join("stolen")));
    assert_denied(std::fs::rename(outside.join("before"), volume.join("stolen")));
    assert_denied(std::fs::rename(volume.join("whole"), outside.join("leaked")));
    std::os::unix::fs::symlink(outside.join("before"), volume.join("way out")).unwrap();
    assert_denied(std::fs::read(volume.join("way out")));
    std::fs::remove_dir_all(volume.join("a")).unwrap();
    state_works(place);
}

fn devices_are_made(place: &Place) {
    let node = place.volume().join("null");
    place.confine(Grant::WriteDevices, Network::Open);
    rustix::fs::mknodat(CWD, &node, FileType::CharacterDevice, Mode::RUSR, rustix::fs::makedev(1, 3)).unwrap();
    assert_eq!(std::fs::metadata(&node).unwrap().rdev(), rustix::fs::makedev(1, 3));
}

fn runtime_works(place: &Place) {
    let volume = place.volume();
    place.confine(Grant::Read, Network::Open);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    let started = (Instant::now(), SystemTime::now());
    runtime.block_on(async {
        let (one, two) = (udp().await, udp().await);
        one.send_to(b"datagram", two.local_addr().unwrap()).await.unwrap();
        let mut buffer = [0; 16];
        assert_eq!(two.recv_from(&mut buffer).await.unwrap().0, 8);

        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
        client.unwrap().into_std().unwrap().set_nodelay(true).unwrap();
        drop(server.unwrap());

        // The transport's own sockets, with all their options.
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        endpoint.close(0u32.into(), b"");
        endpoint.wait_idle().await;

        let path = volume.join("before");
        let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await.unwrap().unwrap();
        assert_eq!(read, b"before");
        let tick = tokio::time::timeout(Duration::from_millis(1), std::future::pending::<()>()).await;
        assert!(tick.is_err(), "timers go on");
        let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).unwrap();
        tokio::select! { _ = hangup.recv() => panic!("no signal was sent"), () = tokio::task::yield_now() => {} }
    });
    assert!(started.0.elapsed() > Duration::ZERO && started.1.elapsed().is_ok());
    let (mut one, mut two) = ([0; 32], [0; 32]);
    getrandom::fill(&mut one).unwrap();
    getrandom::fill(&mut two).unwrap();
    assert_ne!(one, two);
    std::thread::Builder::new().name("a named thread".into()).spawn(|| {}).unwrap().join().unwrap();
}

async fn udp() -> tokio::net::UdpSocket {
    tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

fn closed_network(place: &Place) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    place.confine(Grant::Read, Network::Closed);
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"stream").unwrap();
    server.read_exact(&mut [0; 6]).unwrap();
    udp.send_to(b"datagram", udp.local_addr().unwrap()).unwrap();
    assert_eq!(udp.recv(&mut [0; 16]).unwrap(), 8);
    assert_denied(TcpStream::connect(listener.local_addr().unwrap()));
    assert_denied(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    assert_denied(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)));
    assert_denied(udp.connect(listener.local_addr().unwrap()));
}

fn tcp_ports(place: &Place) {
    let (peer, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let port = peer.local_addr().unwrap().port();
    place.confine(Grant::Read, Network::TcpPorts(&[port]));
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert_denied(TcpStream::connect(other.local_addr().unwrap()));
    assert_denied(TcpListener::bind("127.0.0.1:0"));
    UdpSocket::bind("127.0.0.1:0").unwrap();
}

fn block_device(place: &Place) {
    let image = place.root.join("image");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let Some(device) = attach(&image) else { return println!("no loop device here") };
    let facts = || Block::open_source(&device).unwrap().facts().unwrap();
    let (before, folders) = (facts(), folders_of_facts(&device));
    let readable: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
    let (volume, state) = (Root::Path(&device), place.state());
    let network = Network::Open;
    let applied =
        Confinement { volume, grant: Grant::Write, state: Some(&state), readable: &readable, removes_in: &[], network }
            .apply();
    assert!(matches!(applied, Ok(Applied { landlock_abi: 1.., seccomp: true, .. })), "{applied:?}");
    let file = File::options().read(true).write(true).open(&device).unwrap();
    assert_eq!(rustix::fs::ioctl_blksszget(&file).unwrap(), 512);
    file.write_all_at(b"block", 4096).unwrap();
    file.sync_all().unwrap();
    assert_eq!(facts(), before, "what the kernel tells of the device can still be read");
    assert_denied(std::fs::read_dir("/sys/class/net"));
    assert_denied(File::open("/dev/loop-control"));
    assert_denied(File::open("/dev/zero"));
    assert_denied(File::open(&image));
}

fn folders_are_removed(place: &Place) {
    let (volume, state, outside) = (place.volume(), place.state(), place.outside());
    std::fs::create_dir(outside.join("folder")).unwrap();
    let (volume, state, removes_in) = (Root::Path(&volume), Some(&*state), &[&*outside]);
    let grant = Grant::Read;
    let applied = Confinement { volume, grant, state, readable: &[], removes_in, network: Network::Closed }.apply();
    assert!(matches!(applied, Ok(Applied { landlock_abi: 1.., seccomp: true, .. })), "{applied:?}");
    assert_denied(std::fs::read_dir(&outside));
    assert_denied(File::open(outside.join("before")));
    assert_denied(File::options().write(true).open(outside.join("before")));
    assert_denied(std::fs::remove_file(outside.join("before")));
    assert_denied(std::fs::create_dir(outside.join("other")));
    std::fs::remove_dir(outside.join("folder")).unwrap();
}

/// Attaches an image, to be detached when nobody has it open any more.
fn attach(image: &Path) -> Option<PathBuf> {
    let output = Command::new("losetup").args(["--find", "--show"]).arg(image).output().ok()?;
    let device = output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))?;
    let held = File::open(&device).unwrap();
    assert!(Command::new("losetup").arg("--detach").arg(&device).status().unwrap().success());
    std::mem::forget(held);
    Some(device)
}

fn second_thread(place: &Place) {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || wait.recv().is_err());
    let volume = place.volume();
    match place.try_confine(Root::Path(&volume), Grant::Read, Network::Open) {
        Err(error @ ConfineError::Threads { threads: 2 }) => assert_eq!(error.code(), "TS-E281"),
        // From version 8 on the other thread is confined, too.
        Ok(Applied { landlock_abi: 8.., .. }) => {}
        other => panic!("{other:?}"),
    }
    drop(release);
    assert!(other.join().unwrap());
}

fn no_volume(place: &Place) {
    let absent = place.root.join("absent");
    let error = place.try_confine(Root::Path(&absent), Grant::Read, Network::Open).unwrap_err();
    assert!(matches!(error, ConfineError::Open { .. }), "{error}");
}

/// Refused by one of the two layers; `EXDEV` is how Landlock refuses to move between what it grants differently.
#[track_caller]
fn assert_denied<T: std::fmt::Debug>(result: Result<T, impl Into<std::io::Error>>) {
    let error = result.map_err(Into::into).unwrap_err();
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    assert!(matches!(errno, Some(Errno::ACCESS | Errno::PERM | Errno::XDEV)), "{error}");
}
