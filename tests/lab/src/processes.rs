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
    let mark = format!("{MARK}={node}");
    let Ok(processes) = fs::read_dir("/proc") else { return };
    for process in processes.flatten().map(|entry| entry.path()) {
        let has = |file: &str, wanted: &str| {
            let text = fs::read(process.join(file)).unwrap_or_default();
            String::from_utf8_lossy(&text).replace('\0', " ").contains(wanted)
        };
        if has("environ", &mark)
            && has("cmdline", part)
            && let Some(id) = process.file_name().and_then(|name| name.to_str())
        {
            let _ = command("kill", ["-KILL", id]).stderr(Stdio::null()).status();
        }
    }
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
