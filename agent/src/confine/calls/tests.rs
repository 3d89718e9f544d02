//! The filters, run by an interpreter of our own: so that also calls that no safe code can make are known to be
//! refused.

use super::*;

/// What the kernel shows a filter: `struct seccomp_data`.
struct Call {
    number: i64,
    arguments: [u64; 6],
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Allowed,
    Errno(i32),
    Killed,
}

const AUDIT_ARCH: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };

/// Classic BPF as far as the filters use it: `linux/filter.h`, `linux/bpf_common.h`.
fn run(program: &BpfProgram, call: &Call, arch: u32) -> u32 {
    let mut data = Vec::new();
    data.extend((call.number as u32).to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend(0u64.to_le_bytes());
    data.extend(call.arguments.iter().flat_map(|argument| argument.to_le_bytes()));
    let (mut accumulator, mut at) = (0u32, 0usize);
    loop {
        let step = &program[at];
        at += 1;
        let jump = |is_taken: bool| usize::from(if is_taken { step.jt } else { step.jf });
        match step.code {
            0x20 => {
                let offset = step.k as usize;
                accumulator = u32::from_le_bytes(data[offset..offset + 4].try_into().unwrap());
            }
            0x54 => accumulator &= step.k,
            0x05 => at += step.k as usize,
            0x15 => at += jump(accumulator == step.k),
            0x25 => at += jump(accumulator > step.k),
            0x35 => at += jump(accumulator >= step.k),
            0x06 => return step.k,
            other => panic!("instruction {other:#x} is not known here"),
        }
    }
}

fn ask(grant: Grant, network: Network<'_>, number: i64, arguments: [u64; 6]) -> Answer {
    let call = Call { number, arguments };
    let answers = programs(grant, network).unwrap().map(|program| run(&program, &call, AUDIT_ARCH));
    // The stricter answer is the smaller number; of two equal ones the later filter's.
    let strictest = if answers[1] & 0xffff_0000 <= answers[0] & 0xffff_0000 { answers[1] } else { answers[0] };
    match strictest {
        0x7fff_0000 => Answer::Allowed,
        0x8000_0000 => Answer::Killed,
        errno if errno & 0xffff_0000 == 0x0005_0000 => Answer::Errno((errno & 0xffff) as i32),
        other => panic!("no answer is {other:#x}"),
    }
}

const DENIED: Answer = Answer::Errno(libc::EPERM);
/// Every one of them, whatever its arguments.
const NEVER: &[(&str, i64)] = &[
    ("execve", libc::SYS_execve),
    ("execveat", libc::SYS_execveat),
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("process_madvise", libc::SYS_process_madvise),
    ("kcmp", libc::SYS_kcmp),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    ("kill", libc::SYS_kill),
    ("tkill", libc::SYS_tkill),
    ("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo),
    ("mount", libc::SYS_mount),
    ("umount2", libc::SYS_umount2),
    ("move_mount", libc::SYS_move_mount),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("fsopen", libc::SYS_fsopen),
    ("fsconfig", libc::SYS_fsconfig),
    ("fsmount", libc::SYS_fsmount),
    ("fspick", libc::SYS_fspick),
    ("open_tree", libc::SYS_open_tree),
    ("pivot_root", libc::SYS_pivot_root),
    ("chroot", libc::SYS_chroot),
    ("setns", libc::SYS_setns),
    ("unshare", libc::SYS_unshare),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("name_to_handle_at", libc::SYS_name_to_handle_at),
    ("bpf", libc::SYS_bpf),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("io_uring_register", libc::SYS_io_uring_register),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("memfd_create", libc::SYS_memfd_create),
    ("memfd_secret", libc::SYS_memfd_secret),
    ("pkey_mprotect", libc::SYS_pkey_mprotect),
    ("remap_file_pages", libc::SYS_remap_file_pages),
    ("shmat", libc::SYS_shmat),
    ("add_key", libc::SYS_add_key),
    ("request_key", libc::SYS_request_key),
    ("keyctl", libc::SYS_keyctl),
    ("init_module", libc::SYS_init_module),
    ("finit_module", libc::SYS_finit_module),
    ("delete_module", libc::SYS_delete_module),
    ("kexec_load", libc::SYS_kexec_load),
    ("reboot", libc::SYS_reboot),
    ("swapon", libc::SYS_swapon),
    ("swapoff", libc::SYS_swapoff),
    ("acct", libc::SYS_acct),
    ("quotactl", libc::SYS_quotactl),
    ("quotactl_fd", libc::SYS_quotactl_fd),
    ("syslog", libc::SYS_syslog),
    ("settimeofday", libc::SYS_settimeofday),
    ("clock_settime", libc::SYS_clock_settime),
    ("clock_adjtime", libc::SYS_clock_adjtime),
    ("adjtimex", libc::SYS_adjtimex),
    ("sethostname", libc::SYS_sethostname),
    ("setdomainname", libc::SYS_setdomainname),
    ("personality", libc::SYS_personality),
    ("seccomp", libc::SYS_seccomp),
    ("landlock_restrict_self", libc::SYS_landlock_restrict_self),
    ("setuid", libc::SYS_setuid),
    ("setgid", libc::SYS_setgid),
    ("setreuid", libc::SYS_setreuid),
    ("setregid", libc::SYS_setregid),
    ("setresuid", libc::SYS_setresuid),
    ("setresgid", libc::SYS_setresgid),
    ("setfsuid", libc::SYS_setfsuid),
    ("setfsgid", libc::SYS_setfsgid),
    ("setgroups", libc::SYS_setgroups),
    ("capset", libc::SYS_capset),
    ("setsid", libc::SYS_setsid),
    ("setpgid", libc::SYS_setpgid),
    ("fanotify_init", libc::SYS_fanotify_init),
    ("inotify_init1", libc::SYS_inotify_init1),
    ("lookup_dcookie", libc::SYS_lookup_dcookie),
    ("vhangup", libc::SYS_vhangup),
    ("nfsservctl", libc::SYS_nfsservctl),
    ("mq_open", libc::SYS_mq_open),
    ("shmget", libc::SYS_shmget),
    ("msgget", libc::SYS_msgget),
    ("semget", libc::SYS_semget),
    ("truncate", libc::SYS_truncate),
    ("sync", libc::SYS_sync),
    ("chdir", libc::SYS_chdir),
    ("splice", libc::SYS_splice),
    ("vmsplice", libc::SYS_vmsplice),
    ("the highest number", 0x3fff_ffff),
    ("a number of 1000", 1000),
];

#[cfg(target_arch = "x86_64")]
const NEVER_HERE: &[(&str, i64)] = &[
    ("fork", libc::SYS_fork),
    ("vfork", libc::SYS_vfork),
    ("iopl", libc::SYS_iopl),
    ("ioperm", libc::SYS_ioperm),
    ("modify_ldt", libc::SYS_modify_ldt),
    ("arch_prctl", libc::SYS_arch_prctl),
    ("kexec_file_load", libc::SYS_kexec_file_load),
    ("setrlimit", libc::SYS_setrlimit),
    ("uselib", libc::SYS_uselib),
    ("_sysctl", libc::SYS__sysctl),
    ("mknod", libc::SYS_mknod),
    ("chmod", libc::SYS_chmod),
    ("chown", libc::SYS_chown),
    ("lchown", libc::SYS_lchown),
    ("utimes", libc::SYS_utimes),
    ("futimesat", libc::SYS_futimesat),
    ("read by the x32 interface", 0x4000_0000),
];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: &[(&str, i64)] = &[];

const GRANTS: [Grant; 3] = [Grant::Read, Grant::Write, Grant::WriteDevices];
const NETWORKS: [Network<'_>; 3] = [Network::Closed, Network::Open, Network::TcpPorts(&[443])];

/// In each mode: whether this call gets through.
fn check(name: &str, number: i64, arguments: [u64; 6], is_allowed: impl Fn(Grant, Network<'_>) -> bool) {
    for grant in GRANTS {
        for network in NETWORKS {
            let wanted = if is_allowed(grant, network) { Answer::Allowed } else { DENIED };
            assert_eq!(ask(grant, network, number, arguments), wanted, "{name} {arguments:x?}, {grant:?} {network:?}");
        }
    }
}

fn with(index: usize, value: u64) -> [u64; 6] {
    let mut arguments = [0; 6];
    arguments[index] = value;
    arguments
}

#[test]
fn no_argument_makes_a_dangerous_call_pass() {
    for (name, number) in NEVER.iter().chain(NEVER_HERE) {
        for arguments in [[0; 6], [u64::MAX; 6], [1; 6]] {
            check(name, *number, arguments, |_, _| false);
        }
    }
}

#[test]
fn another_architecture_is_killed() {
    let i386 = 0x4000_0003;
    for program in programs(Grant::Write, Network::Open).unwrap() {
        let call = Call { number: libc::SYS_read, arguments: [0; 6] };
        assert_eq!(run(&program, &call, i386), 0x8000_0000);
    }
}

#[test]
fn threads_start_and_processes_do_not() {
    // What glibc, and what musl asks for.
    for flags in [0x003d_0f00, 0x007d_0f00] {
        check("clone", libc::SYS_clone, with(0, flags), |_, _| true);
        for namespace in [
            libc::CLONE_NEWNS,
            libc::CLONE_NEWCGROUP,
            libc::CLONE_NEWUTS,
            libc::CLONE_NEWIPC,
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWNET,
            CLONE_NEWTIME,
        ] {
            check("clone", libc::SYS_clone, with(0, flags | number(namespace)), |_, _| false);
        }
    }
    check("fork", libc::SYS_clone, with(0, number(libc::SIGCHLD)), |_, _| false);
    let spawn = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    check("posix_spawn", libc::SYS_clone, with(0, number(spawn)), |_, _| false);
    assert_eq!(ask(Grant::Read, Network::Open, libc::SYS_clone3, [0; 6]), Answer::Errno(libc::ENOSYS));
}

#[test]
fn sockets_are_udp_and_tcp_over_ip_and_only_if_the_network_is_open() {
    let socket = |family: i32, kind: i32| {
        let mut arguments = with(0, number(family));
        arguments[1] = number(kind);
        arguments
    };
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    for family in 0..46 {
        for kind in 0..11 {
            let is_ip = [libc::AF_INET, libc::AF_INET6].contains(&family);
            let is_flow = [libc::SOCK_STREAM, libc::SOCK_DGRAM].contains(&kind);
            check("socket", libc::SYS_socket, socket(family, kind | flags), |_, network| {
                is_ip && is_flow && network != Network::Closed
            });
        }
        check("socketpair", libc::SYS_socketpair, socket(family, libc::SOCK_STREAM), |_, _| family == libc::AF_UNIX);
    }
    for call in [libc::SYS_bind, libc::SYS_connect] {
        check("bind or connect", call, [3, 0, 0, 0, 0, 0], |_, network| network != Network::Closed);
    }
}

#[test]
fn device_nodes_are_made_only_where_the_mode_carries_them() {
    for kind in [libc::S_IFCHR, libc::S_IFBLK, libc::S_IFIFO, libc::S_IFREG, libc::S_IFSOCK, 0] {
        check("mknodat", libc::SYS_mknodat, with(2, u64::from(kind | 0o644)), |grant, _| match kind {
            libc::S_IFIFO => grant != Grant::Read,
            libc::S_IFCHR | libc::S_IFBLK => grant == Grant::WriteDevices,
            _ => false,
        });
    }
}

#[test]
fn a_source_changes_no_metadata_by_path() {
    for call in METADATA.iter().filter(|call| **call != libc::SYS_utimensat) {
        check("metadata", *call, [1; 6], |grant, _| grant.is_writable());
    }
    check("utimensat by path", libc::SYS_utimensat, with(1, 0x1_0000_0000), |grant, _| grant.is_writable());
    check("futimens", libc::SYS_utimensat, [3, 0, 0x1000, 0, 0, 0], |_, _| true);
}

#[test]
fn nothing_that_is_written_becomes_code() {
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let writable = number(libc::PROT_READ | libc::PROT_WRITE);
        check("memory", call, with(2, writable), |_, _| true);
        check("memory", call, with(2, writable | number(libc::PROT_EXEC)), |_, _| false);
    }
}

#[test]
fn other_limited_calls_pass_for_what_they_are_needed_only() {
    let own = u64::from(std::process::id());
    check("tgkill", libc::SYS_tgkill, with(0, own), |_, _| true);
    check("tgkill", libc::SYS_tgkill, with(0, own + 1), |_, _| false);
    check("prlimit64", libc::SYS_prlimit64, with(3, 0x1000), |_, _| true);
    check("prlimit64", libc::SYS_prlimit64, with(2, 0x1_0000_0000), |_, _| false);
    check("prctl", libc::SYS_prctl, with(0, number(libc::PR_SET_NAME)), |_, _| true);
    for option in [libc::PR_SET_DUMPABLE, libc::PR_SET_PTRACER, libc::PR_CAP_AMBIENT, libc::PR_SET_MM] {
        check("prctl", libc::SYS_prctl, with(0, number(option)), |_, _| false);
    }
    check("ioctl", libc::SYS_ioctl, with(1, libc::FIONBIO), |_, _| true);
    for request in [libc::TIOCSTI, libc::TIOCSTI | 1 << 32, 0x541c, libc::TIOCSCTTY, 0x2285] {
        check("ioctl", libc::SYS_ioctl, with(1, request), |_, _| false);
    }
}
