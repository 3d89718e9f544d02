//! Processes of the lab, which outlive who started them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::command::command;
use crate::network::namespace;
use crate::{LabError, Layout};

/// Set for every process of a node, and inherited by what it starts: by this it is found again.
const MARK: &str = "TRANSHIP_LAB_NODE";

/// Lines of each log that are shown when the lab does not come up.
const TAIL_LINES: usize = 15;

/// Starts a process in the network of a node. What it says goes to a log beside the node's other files.
pub(crate) fn start(layout: &Layout, node: &str, name: &str, process: &mut Command) -> Result<(), LabError> {
    // Not `ip netns exec`: that mounts another /sys, in which a kubelet finds no cgroups.
    let mut entered = command("nsenter", [&format!("--net=/run/netns/{}", namespace(node))]);
    entered.arg(process.get_program()).args(process.get_args());
    start_outside(layout, node, name, &mut entered)
}

/// The same in the network of the machine.
pub(crate) fn start_outside(layout: &Layout, node: &str, name: &str, process: &mut Command) -> Result<(), LabError> {
    let log_path = log(layout, node, name)?;
    let log = File::create(&log_path).map_err(LabError::io(&log_path))?;
    let also = log.try_clone().map_err(LabError::io(&log_path))?;
    let mut started = command("setsid", [process.get_program()]);
    started.args(process.get_args());
    started.env(MARK, node).stdin(Stdio::null()).stdout(log).stderr(also);
    let child = started.spawn().map_err(LabError::io(Path::new(process.get_program())))?;
    // Nobody waits for it: it belongs to the machine now.
    drop(child);
    Ok(())
}

/// The log of one process.
pub(crate) fn log(layout: &Layout, node: &str, name: &str) -> Result<PathBuf, LabError> {
    Ok(layout.folder(format!("{node}/log"))?.join(format!("{name}.log")))
}

/// Kills all processes of a node whose command line contains `part`.
pub(crate) fn kill(node: &str, part: &str) {
    signal(node, part, "-KILL");
}

/// Sends a signal to all processes of a node whose command line contains `part`; gives how many those are.
pub(crate) fn signal(node: &str, part: &str, signal: &str) -> usize {
    let ids: Vec<String> =
        of_node(node).into_iter().filter(|(_, line)| line.contains(part)).map(|(id, _)| id).collect();
    ids.iter().for_each(|id| send(id, signal));
    ids.len()
}

/// Kills what has a root that lies beneath a folder: containers whose runtime is gone.
pub(crate) fn kill_rooted(folder: &Path) {
    let part = format!("={}/", folder.display());
    let is_root = |line: &str| line.split(' ').nth(4) == Some("/") && line.contains(&part);
    for process in all().filter(|process| text(process, "mountinfo").lines().any(is_root)) {
        id(&process).inspect(|id| send(id, "-KILL"));
    }
}

/// Processes of a node that live, by their numbers, with their command lines.
pub(crate) fn of_node(node: &str) -> Vec<(String, String)> {
    let mark = format!("{MARK}={node} ");
    let is_of_node = |process: &PathBuf| (text(process, "environ") + " ").contains(&mark);
    // One that has ended and was not waited for has no command line.
    let told = |process: PathBuf| Some((id(&process)?, text(&process, "cmdline")));
    all().filter(is_of_node).filter_map(told).filter(|(_, line)| !line.is_empty()).collect()
}

fn all() -> impl Iterator<Item = PathBuf> {
    fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| id(path).is_some())
}

fn id(process: &Path) -> Option<String> {
    let name = process.file_name()?.to_str()?;
    name.bytes().all(|byte| byte.is_ascii_digit()).then(|| name.to_owned())
}

fn text(process: &Path, file: &str) -> String {
    String::from_utf8_lossy(&fs::read(process.join(file)).unwrap_or_default()).replace('\0', " ")
}

fn send(id: &str, signal: &str) {
    // It may have ended.
    let _ = command("kill", [signal, id]).stderr(Stdio::null()).status();
}

/// The last lines of all logs.
pub(crate) fn tails(layout: &Layout) -> String {
    let files = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut logs: Vec<PathBuf> = files(layout.home()).flat_map(|node| files(&node.join("log"))).collect();
    logs.sort();
    let tail = |log: &PathBuf| {
        let told = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = told.lines().collect();
        format!("── {}\n{}\n", log.display(), lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
    };
    logs.iter().map(tail).collect()
}

/// Looks again and again until something is there.
pub(crate) fn wait_for<T>(
    what: &str,
    log: &Path,
    within: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T, LabError> {
    let end = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > end {
            return Err(LabError::Late { what: what.to_owned(), log: log.to_owned() });
        }
        thread::park_timeout(Duration::from_millis(100));
    }
}
