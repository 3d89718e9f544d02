//! What a copy costs: time, work, memory, and bytes on the wire.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Where a process works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// A process that serves copies while it runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server {
    pub(crate) id: u32,
    pub(crate) side: Side,
}

/// What one copy cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    wall: Duration,
    cpu_seconds: f64,
    wire_bytes: u64,
    rss_bytes: [u64; 2],
}

impl Cost {
    /// The same, where all bytes crossed the loopback this often.
    pub(crate) fn over_hops(self, hops: u64) -> Self {
        Self { wire_bytes: self.wire_bytes / hops, ..self }
    }
}

/// What several cost; figures are medians, memory is the largest.
#[derive(Debug)]
pub(crate) struct Costs(Vec<Cost>);

impl Costs {
    /// `None` without any.
    pub(crate) fn new(costs: Vec<Cost>) -> Option<Self> {
        (!costs.is_empty()).then_some(Self(costs))
    }

    pub(crate) fn wall_seconds(&self) -> f64 {
        self.median(|cost| cost.wall.as_secs_f64())
    }

    pub(crate) fn least_seconds(&self) -> f64 {
        self.0.iter().map(|cost| cost.wall.as_secs_f64()).fold(f64::INFINITY, f64::min)
    }

    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.median(|cost| cost.cpu_seconds)
    }

    pub(crate) fn wire_bytes(&self) -> u64 {
        self.median(|cost| cost.wire_bytes as f64) as u64
    }

    pub(crate) fn source_rss_bytes(&self) -> u64 {
        self.0.iter().map(|cost| cost.rss_bytes[0]).max().unwrap_or_default()
    }

    pub(crate) fn destination_rss_bytes(&self) -> u64 {
        self.0.iter().map(|cost| cost.rss_bytes[1]).max().unwrap_or_default()
    }

    fn median(&self, figure: impl Fn(&Cost) -> f64) -> f64 {
        let mut figures: Vec<f64> = self.0.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        if figures.len() % 2 == 1 { figures[middle] } else { (figures[middle - 1] + figures[middle]) / 2.0 }
    }
}

/// Runs a copy to its end and makes `durable` what it does not flush itself; the clock covers both.
pub(crate) fn measure(copy: &mut Command, servers: &[Server], durable: Option<&Path>) -> io::Result<Cost> {
    let work_before: f64 = servers.iter().map(|server| cpu_seconds(server.id)).sum();
    let wire_before = wire_bytes()?;
    let mut rss_bytes = [0; 2];
    let start = Instant::now();
    let child = copy.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let copier = Server { id: child.id(), side: Side::Source };
    let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let tick = Timespec { tv_sec: 0, tv_nsec: 25_000_000 };
    while poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&tick))? == 0 {
        sample_memory(servers.iter().chain([&copier]), &mut rss_bytes);
    }
    if let Some(path) = durable {
        Command::new("sync").arg("-f").arg(path).status()?;
    }
    let wall = start.elapsed();
    // Until it is waited for, a process that has ended still tells its work.
    let mut work = cpu_seconds(child.id());
    sample_memory(servers.iter(), &mut rss_bytes);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{}: {}", output.status, text.lines().last().unwrap_or_default())));
    }
    let is_idle = || servers.iter().all(|server| descendants(&[server.id]).len() == 1).then_some(());
    tranship_tests::processes::wait_for("the end of the servers' work", Duration::from_secs(10), is_idle);
    work += servers.iter().map(|server| cpu_seconds(server.id)).sum::<f64>() - work_before;
    Ok(Cost { wall, cpu_seconds: work, wire_bytes: wire_bytes()? - wire_before, rss_bytes })
}

/// Bytes that the loopback has carried in this namespace, headers included.
fn wire_bytes() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/net/dev")?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("lo:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).ok_or_else(|| io::Error::other("no loopback"))
}

/// Seconds of work of a process and of those of its children that it has waited for; 0 if there is none.
fn cpu_seconds(id: u32) -> f64 {
    let fields = stat_fields(id);
    // In ticks of 1/100 s: user, system, and the same of the children.
    let ticks = fields.iter().skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>();
    ticks / rustix::param::clock_ticks_per_second() as f64
}

/// The fields of `/proc/ID/stat` after the name, which may hold anything.
fn stat_fields(id: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let rest = text.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    rest.split_whitespace().map(str::to_owned).collect()
}

/// Raises each side's figure to what its processes hold together at their peaks.
fn sample_memory<'a>(servers: impl Iterator<Item = &'a Server>, rss_bytes: &mut [u64; 2]) {
    let mut now = [0; 2];
    for server in servers {
        let side = if server.side == Side::Source { 0 } else { 1 };
        now[side] += descendants(&[server.id]).into_iter().map(peak_rss_bytes).sum::<u64>();
    }
    for (most, now) in rss_bytes.iter_mut().zip(now) {
        *most = now.max(*most);
    }
}

fn peak_rss_bytes(id: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() * 1024
}

/// These processes and all beneath them.
fn descendants(ids: &[u32]) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
            && let Some(parent) = stat_fields(id).get(1).and_then(|field| field.parse().ok())
        {
            children.entry(parent).or_default().push(id);
        }
    }
    let mut found = ids.to_vec();
    let mut at = 0;
    while at < found.len() {
        found.extend(children.remove(&found[at]).unwrap_or_default());
        at += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_time_and_memory_of_a_copy_are_seen() {
        let cost = measure(
            Command::new("sh").args(["-c", "dd if=/dev/zero of=/dev/null bs=64M count=60 2>/dev/null"]),
            &[],
            None,
        );
        let cost = cost.expect("measured");
        assert!(cost.cpu_seconds > 0.05 && cost.cpu_seconds < cost.wall.as_secs_f64() * 4.0 + 0.05, "{cost:?}");
        assert!(cost.rss_bytes[0] > 64 << 20 && cost.rss_bytes[1] == 0, "{cost:?}");
    }

    #[test]
    fn a_copy_that_fails_is_no_result() {
        let error = measure(Command::new("sh").args(["-c", "echo why >&2; exit 3"]), &[], None).expect_err("it fails");
        assert!(error.to_string().contains("why"), "{error}");
    }

    #[test]
    fn medians_are_in_the_middle() {
        let cost =
            |seconds| Cost { wall: Duration::from_secs(seconds), cpu_seconds: 0.0, wire_bytes: 0, rss_bytes: [0; 2] };
        assert_eq!(Costs::new([9, 1, 2].map(cost).to_vec()).expect("some").wall_seconds(), 2.0);
        assert_eq!(Costs::new([4, 2].map(cost).to_vec()).expect("some").wall_seconds(), 3.0);
        assert!(Costs::new(vec![]).is_none());
    }
}
