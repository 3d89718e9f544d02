//! What a pair of agents costs that waits for another pass. Pods of the lab are processes of this machine.

use std::fs;
use std::thread;
use std::time::Duration;

/// How long it is looked at: well within the minute after which it ends by itself.
const WINDOW: Duration = Duration::from_secs(20);

/// What the agents of a pair cost while they wait.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Idle {
    /// Resident memory of each agent, at the end.
    pub(crate) rss_bytes: Vec<u64>,
    /// What all of them computed in [`WINDOW`].
    pub(crate) cpu_seconds: f64,
}

impl Idle {
    /// Looks at the agents of a migration, whose passes are over.
    ///
    /// # Panics
    /// When there is not one pair of them, or it ends meanwhile.
    pub(crate) fn of_pair(migration: &str) -> Self {
        let agents = agents(migration);
        assert_eq!(agents.len(), 2, "agents of {migration}: {agents:?}");
        let cpu = || agents.iter().map(|agent| cpu_seconds(*agent)).sum::<f64>();
        let before = cpu();
        thread::park_timeout(WINDOW);
        let cpu_seconds = cpu() - before;
        Self { rss_bytes: agents.iter().map(|agent| rss_bytes(*agent)).collect(), cpu_seconds }
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.rss_bytes.iter().sum()
    }

    /// The share of one core.
    pub(crate) fn load(&self) -> f64 {
        self.cpu_seconds / WINDOW.as_secs_f64()
    }
}

/// Processes of `tranship agent` that serve a migration.
fn agents(migration: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("processes are listed").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_agent = |id: &u32| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.get(1) == Some(&&b"agent"[..]) && words.contains(&migration.as_bytes())
    };
    ids.filter(is_agent).collect()
}

/// What all threads of a process have computed, by the scheduler's own account: ticks would not show what is little.
fn cpu_seconds(id: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{id}/task")).expect("the agent is there").flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    nanoseconds.sum::<u64>() as f64 / 1e9
}

fn rss_bytes(id: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/status")).expect("the agent is there");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_memory_of_a_process_are_seen() {
        let before = cpu_seconds(std::process::id());
        let mut sum = 0u64;
        (0..50_000_000u64).for_each(|n| sum = std::hint::black_box(sum ^ n));
        let spent = cpu_seconds(std::process::id()) - before;
        assert!(spent > 0.001, "{spent}");
        assert!(rss_bytes(std::process::id()) > 1 << 20);
    }
}
