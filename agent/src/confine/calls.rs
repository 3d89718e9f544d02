//! System calls: the list of those that an agent needs. Every other one answers `EPERM`.
//!
//! A list of what is allowed, and not of what is forbidden: what nobody thought of, what a later kernel adds, and the
//! numbers of the x32 interface are refused without being named. The usual price, a libc that is exchanged beneath
//! the program and calls something new, is not paid here: it is linked into the one binary.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::{ConfineError, Confinement, Grant, Network};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Filters the calls of every thread. Returns false, and says so in a note, if the kernel has no filters.
pub(super) fn restrict(confinement: &Confinement<'_>, notes: &mut Vec<String>) -> Result<bool, ConfineError> {
    let [fallback, allowed] = programs(confinement.grant, confinement.network)
        .map_err(|error| ConfineError::Seccomp(Error::Backend(error)))?;
    match seccompiler::apply_filter_all_threads(&fallback) {
        Ok(()) => {}
        Err(Error::Seccomp(error) | Error::Prctl(error)) => {
            notes.push(format!("system calls are not filtered: the kernel takes no filter ({error})"));
            return Ok(false);
        }
        Err(error) => return Err(ConfineError::Seccomp(error)),
    }
    seccompiler::apply_filter_all_threads(&allowed).map_err(ConfineError::Seccomp)?;
    Ok(true)
}

/// Two filters, in the order in which they are installed; the kernel obeys the stricter answer.
///
/// The first answers `clone3` with `ENOSYS`: its flags are in memory, where no filter sees them, and libc then starts
/// threads by `clone`, whose flags the second one checks. That needs a filter of its own because one has one answer.
fn programs(grant: Grant, network: Network<'_>) -> Result<[BpfProgram; 2], BackendError> {
    let fallback = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let (allow, no_such_call, denied) = (
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
    );
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok([
        SeccompFilter::new(fallback, allow.clone(), no_such_call, arch)?.try_into()?,
        SeccompFilter::new(rules(grant, network)?, denied, allow, arch)?.try_into()?,
    ])
}

fn rules(grant: Grant, network: Network<'_>) -> Result<Rules, BackendError> {
    let mut rules: Rules = [FILES, LEGACY, MEMORY, THREADS, WAITS, OPEN_SOCKETS]
        .into_iter()
        .flatten()
        .map(|call| (*call, Vec::new()))
        .collect();
    for call in if grant.is_writable() { METADATA } else { &[] } {
        rules.insert(*call, Vec::new());
    }
    // By handle, which Landlock let it open, and never by path: it knows no rights for that.
    if !grant.is_writable() {
        rules.insert(libc::SYS_utimensat, vec![all([is(1, Width::Qword, 0)?])?]);
    }
    rules.extend(limited()?);
    rules.extend(nodes(grant)?);
    if network != Network::Closed {
        rules.extend(new_sockets()?);
    }
    Ok(rules)
}

/// Allowed with certain arguments only.
fn limited() -> Result<Rules, BackendError> {
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | CLONE_NEWTIME;
    let thread = libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND;
    // A thread of this process, never a process.
    let clone = all([masked(0, number(namespaces | thread), number(thread))?])?;
    // Nothing that is written becomes code.
    let no_code = || all([masked(2, number(libc::PROT_EXEC), 0)?]);
    // To itself: how a panic ends the process.
    let own_signal = all([is(0, Width::Dword, u64::from(std::process::id()))?])?;
    // Reading limits, own ones included, and not setting them.
    let read_limit = all([is(2, Width::Qword, 0)?])?;
    Ok(BTreeMap::from([
        (libc::SYS_clone, vec![clone]),
        (libc::SYS_mmap, vec![no_code()?]),
        (libc::SYS_mprotect, vec![no_code()?]),
        (libc::SYS_tgkill, vec![own_signal]),
        (libc::SYS_prlimit64, vec![read_limit]),
        (libc::SYS_prctl, any(0, [number(libc::PR_SET_NAME), number(libc::PR_GET_NAME)])?),
        (libc::SYS_ioctl, any(1, IOCTLS.iter().copied())?),
        // The runtime's pipe from a signal to the loop: no name, no other end.
        (libc::SYS_socketpair, any(0, [number(libc::AF_UNIX)])?),
    ]))
}

/// FIFOs, and device nodes where the mode carries them. `mknod` of a regular file or a socket is needed by nobody.
fn nodes(grant: Grant) -> Result<Rules, BackendError> {
    let kinds: &[u32] = match grant {
        Grant::Read => return Ok(Rules::new()),
        Grant::Write => &[libc::S_IFIFO],
        Grant::WriteDevices => &[libc::S_IFIFO, libc::S_IFCHR, libc::S_IFBLK],
    };
    let rules = kinds.iter().map(|kind| all([masked(2, u64::from(libc::S_IFMT), u64::from(*kind))?]));
    Ok(BTreeMap::from([(libc::SYS_mknodat, rules.collect::<Result<_, _>>()?)]))
}

/// Streams and datagrams over IP: no raw sockets, no netlink, no kernel cryptography, nothing local.
fn new_sockets() -> Result<Rules, BackendError> {
    let mut sockets = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            let family = is(0, Width::Dword, number(family))?;
            sockets.push(all([family, masked(1, SOCKET_KIND_MASK, number(kind))?])?);
        }
    }
    Ok(BTreeMap::from([(libc::SYS_socket, sockets), (libc::SYS_bind, Vec::new()), (libc::SYS_connect, Vec::new())]))
}

fn any(argument: u8, values: impl IntoIterator<Item = u64>) -> Result<Vec<SeccompRule>, BackendError> {
    values.into_iter().map(|value| all([is(argument, Width::Dword, value)?])).collect()
}

fn all<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into())
}

fn is(argument: u8, width: Width, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, width, SeccompCmpOp::Eq, value)
}

/// The kernel looks at the low half of these arguments, whatever stands in the high one.
fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, Width::Dword, SeccompCmpOp::MaskedEq(mask), value)
}

/// A constant's bits as the kernel sees them in the low half of an argument.
const fn number(constant: i32) -> u64 {
    constant as u32 as u64
}

/// Not in libc's list for glibc: `linux/sched.h`.
const CLONE_NEWTIME: i32 = 0x80;

/// The rest of a socket's type are flags: `linux/net.h`, `SOCK_TYPE_MASK`.
const SOCKET_KIND_MASK: u64 = 0xf;

/// Flags of open files, what a terminal is, clones of extents, and what a device or an inode says of itself. Numbers
/// that libc does not name are those of `linux/fs.h`.
const IOCTLS: &[u64] = &[
    libc::FIONBIO,
    libc::FIOCLEX,
    libc::FIONCLEX,
    libc::FIONREAD,
    libc::TCGETS,
    libc::TIOCGWINSZ,
    libc::FICLONE,
    libc::FICLONERANGE,
    libc::FS_IOC_GETFLAGS,
    FS_IOC_FSGETXATTR,
    libc::BLKSSZGET,
    libc::BLKPBSZGET,
    BLKGETSIZE64,
];
const FS_IOC_FSGETXATTR: u64 = 0x801c_581f;
const BLKGETSIZE64: u64 = 0x8008_1272;

/// Names and contents. Which ones is Landlock's business.
const FILES: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_fadvise64,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_umask,
    libc::SYS_fchmod,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
];

/// Owners, modes, times and attributes: a destination's.
const METADATA: &[i64] = &[
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
];

/// The same number everywhere, and not yet in libc's list for every architecture.
const FCHMODAT2: i64 = 452;

const MEMORY: &[i64] =
    &[libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_membarrier, libc::SYS_getrandom];

const THREADS: &[i64] = &[
    // Answered by the filter that comes first.
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getgroups,
    libc::SYS_capget,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrusage,
];

const WAITS: &[i64] = &[
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
];

/// On sockets that are open, however they came to be.
const OPEN_SOCKETS: &[i64] = &[
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
];

/// Calls by path and without flags, which libc still uses where they exist. `chmod`, `chown` and their like are not
/// among them: they are made by handle.
#[cfg(target_arch = "x86_64")]
const LEGACY: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_getdents,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_getrlimit,
    libc::SYS_time,
];
/// `renameat`, which libc's list lacks here: `asm-generic/unistd.h`.
#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[i64] = &[38];

#[cfg(test)]
#[path = "calls/tests.rs"]
mod tests;
