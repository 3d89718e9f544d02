//! Trying what a confined agent must not be able to do: a setting that nobody has tried is a hope.
//!
//! Every attempt is harmless where it succeeds: it changes something to what it is already, names things that do not
//! exist, or tidies up. What no safe code can try (`ptrace`, `bpf`, `perf_event_open`, `keyctl`, `io_uring_setup`,
//! `userfaultfd`, `open_by_handle_at`, executable memory and others) is not tried here; the filters are tested for it
//! by running them in an interpreter.

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, FsPickFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Pid, PidfdFlags};

/// One forbidden thing, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// What was tried, as a verb and its object.
    pub what: &'static str,
    /// Whether it was refused. If not, confinement does not hold.
    pub denied: bool,
    /// Who refused it.
    pub by: Guard,
}

/// Who refused an attempt, told by the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// Landlock, which answers `EACCES`; so do ordinary permissions.
    Paths,
    /// The filter of system calls, which answers `EPERM`; so does a lack of privilege.
    Calls,
    /// Nobody: it was done, or failed for a reason of its own.
    Nobody {
        /// What came back.
        answer: String,
    },
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paths => f.write_str("landlock"),
            Self::Calls => f.write_str("seccomp"),
            Self::Nobody { answer } => write!(f, "nobody: {answer}"),
        }
    }
}

/// Tries more than thirty things, in a process that is confined already. Paths that this system does not have, and
/// folders on a file system that is read-only anyway, are left out: what is not there cannot be refused.
///
/// The process is of no use for anything else afterwards: the attempt to become another program resets signals.
pub fn self_test() -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for (what, attempt) in PATHS.iter().chain(CALLS) {
        let answer = attempt();
        let by = match &answer {
            Err(Errno::ACCESS) => Guard::Paths,
            Err(Errno::PERM) => Guard::Calls,
            Err(Errno::NOENT | Errno::ROFS) if PATHS.iter().any(|(path, _)| path == what) => continue,
            Err(error) => Guard::Nobody { answer: error.to_string() },
            Ok(()) => Guard::Nobody { answer: "it was done".into() },
        };
        attempts.push(Attempt { what, denied: !matches!(by, Guard::Nobody { .. }), by });
    }
    attempts
}

type Try = (&'static str, fn() -> Result<(), Errno>);

const PATHS: &[Try] = &[
    ("read /etc/passwd", || open("/etc/passwd", OFlags::RDONLY)),
    ("read its own program", || open("/proc/self/exe", OFlags::RDONLY)),
    ("read its parent's environment", || match rustix::process::getppid() {
        Some(parent) => open(&format!("/proc/{parent}/environ"), OFlags::RDONLY),
        None => Err(Errno::NOENT),
    }),
    ("read the first process's state", || match rustix::process::getpid().is_init() {
        true => Err(Errno::NOENT),
        false => open("/proc/1/status", OFlags::RDONLY),
    }),
    ("write to its own memory past its protection", || open("/proc/self/mem", OFlags::RDWR)),
    ("write to its own OOM score", || open("/proc/self/oom_score_adj", OFlags::WRONLY)),
    ("read the kernel's command line", || open("/proc/cmdline", OFlags::RDONLY)),
    ("read the kernel's settings", || open("/proc/sys/kernel/hostname", OFlags::RDONLY)),
    ("write to the kernel's settings", || open("/proc/sys/kernel/hostname", OFlags::WRONLY)),
    ("open the kernel's emergency keys", || open("/proc/sysrq-trigger", OFlags::WRONLY)),
    ("list /", || open("/", OFlags::RDONLY | OFlags::DIRECTORY)),
    ("list / through its own root", || open("/proc/self/root/", OFlags::RDONLY | OFlags::DIRECTORY)),
    ("list the processes", || open("/proc", OFlags::RDONLY | OFlags::DIRECTORY)),
    ("list the devices", || open("/dev", OFlags::RDONLY | OFlags::DIRECTORY)),
    ("list the kernel's objects", || open("/sys", OFlags::RDONLY | OFlags::DIRECTORY)),
    ("open a device", || open("/dev/null", OFlags::RDWR)),
    ("open a terminal", || open("/dev/ptmx", OFlags::RDWR | OFlags::NOCTTY)),
    ("make a file in /tmp", || {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        rustix::fs::open(SCRATCH, flags, Mode::RUSR | Mode::WUSR)?;
        rustix::fs::unlink(SCRATCH)
    }),
    ("make a file without a name in /tmp", || open("/tmp", OFlags::WRONLY | OFlags::TMPFILE)),
    ("make a folder in /tmp", || {
        rustix::fs::mkdir(SCRATCH, Mode::RWXU)?;
        rustix::fs::rmdir(SCRATCH)
    }),
    ("make a symbolic link in /tmp", || {
        rustix::fs::symlink("nowhere", SCRATCH)?;
        rustix::fs::unlink(SCRATCH)
    }),
    ("make a device node in /tmp", || {
        let null = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(CWD, SCRATCH, FileType::CharacterDevice, Mode::RUSR, null)?;
        rustix::fs::unlink(SCRATCH)
    }),
];

const CALLS: &[Try] = &[
    // The first process of a container has no parent; for itself, too, it would have to ask for the same call.
    ("signal its parent", || rustix::process::test_kill_process(rustix::process::getppid().unwrap_or(Pid::INIT))),
    ("signal its process group", || rustix::process::test_kill_current_process_group()),
    ("get a handle of a process", || {
        rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).map(drop)
    }),
    ("take another process's handles", || {
        rustix::process::pidfd_getfd(any_handle()?, 0, rustix::process::PidfdGetfdFlags::empty()).map(drop)
    }),
    ("let itself be traced", || rustix::process::set_ptracer(rustix::process::PTracer::None)),
    ("change whether its memory can be dumped", || {
        rustix::process::set_dumpable_behavior(rustix::process::dumpable_behavior()?)
    }),
    ("leave its session", || rustix::process::setsid().map(drop)),
    ("set its own limits", || {
        let kind = rustix::process::Resource::Core;
        rustix::process::setrlimit(kind, rustix::process::getrlimit(kind))
    }),
    ("set its user", || rustix::thread::set_thread_uid(rustix::process::getuid())),
    ("set its group", || rustix::thread::set_thread_gid(rustix::process::getgid())),
    ("set its groups", || rustix::thread::set_thread_groups(&rustix::process::getgroups()?)),
    ("set its capabilities", || rustix::thread::set_capabilities(None, rustix::thread::capabilities(None)?)),
    ("mount a file system", || rustix::mount::mount("none", NOWHERE, "tmpfs", MountFlags::empty(), None::<&CStr>)),
    ("unmount a file system", || rustix::mount::unmount(NOWHERE, UnmountFlags::empty())),
    ("open a file system to mount it", || rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map(drop)),
    ("reconfigure a mount", || rustix::mount::fspick(CWD, NOWHERE, FsPickFlags::FSPICK_CLOEXEC).map(drop)),
    ("copy a mount", || rustix::mount::open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLOEXEC).map(drop)),
    ("move a mount", || rustix::mount::move_mount(CWD, NOWHERE, CWD, NOWHERE, MoveMountFlags::empty())),
    ("change its root", || rustix::process::chroot(NOWHERE)),
    ("exchange the root", || rustix::process::pivot_root(NOWHERE, NOWHERE)),
    ("change its folder", || rustix::process::chdir("/")),
    ("enter a namespace", || rustix::thread::move_into_link_name_space(any_handle()?.as_fd(), None)),
    ("leave its namespaces", leave_namespaces),
    ("load a kernel module", || rustix::system::init_module(&[], c"")),
    ("load a kernel module from a file", || rustix::system::finit_module(any_handle()?, c"", 0)),
    ("unload a kernel module", || rustix::system::delete_module(c"tranship-no-such-module", 0)),
    ("set the clock", || {
        // No time at all: refused by the kernel itself if it gets that far.
        let never = rustix::time::Timespec { tv_sec: 0, tv_nsec: 2_000_000_000 };
        rustix::time::clock_settime(rustix::time::ClockId::Realtime, never)
    }),
    ("set the host's name", || rustix::system::sethostname(rustix::system::uname().nodename().to_bytes())),
    ("set the domain's name", || rustix::system::setdomainname(rustix::system::uname().domainname().to_bytes())),
    ("make a file in memory", || rustix::fs::memfd_create("t", rustix::fs::MemfdFlags::CLOEXEC).map(drop)),
    ("watch files", || rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).map(drop)),
    ("open a local socket", || socket(AddressFamily::UNIX, SocketType::STREAM)),
    ("open a socket to the kernel", || socket(AddressFamily::NETLINK, SocketType::RAW)),
    ("open a socket to the wire", || socket(AddressFamily::PACKET, SocketType::RAW)),
    ("open a raw IPv4 socket", || socket(AddressFamily::INET, SocketType::RAW)),
    ("open a raw IPv6 socket", || socket(AddressFamily::INET6, SocketType::RAW)),
    ("command a terminal", || rustix::process::ioctl_tiocsctty(any_handle()?)),
    ("resize a file system", || rustix::fs::ext4_ioc_resize_fs(any_handle()?, 0)),
    ("start a process", || Command::new(NOWHERE).spawn().map(drop).map_err(errno)),
    // Last, because it leaves the process without its signal handlers.
    ("become another program", || Err(errno(Command::new(NOWHERE).exec()))),
];

/// In a folder that every system has and no volume is; with a name that nobody else takes.
const SCRATCH: &str = "/tmp/.tranship-self-test";

/// Where a call that is let through finds nothing to act on.
const NOWHERE: &str = "/tranship-self-test/nowhere";

fn open(path: &str, flags: OFlags) -> Result<(), Errno> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::RUSR).map(drop)
}

fn socket(family: AddressFamily, kind: SocketType) -> Result<(), Errno> {
    rustix::net::socket(family, kind, None).map(drop)
}

/// A handle that is of no use to the calls that get it.
fn any_handle() -> Result<OwnedFd, Errno> {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)
}

fn leave_namespaces() -> Result<(), Errno> {
    #[expect(deprecated, reason = "unsafe for a shared table of open files only, which is not asked for here")]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWUTS)
}

fn errno(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}
