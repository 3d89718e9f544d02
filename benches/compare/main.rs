//! Us and our peers, side by side on the same data, the same disks and the same day.
//!
//! Every run ends durable within the time that is taken, and its result is compared with the source before the next.
//! All of it happens in a network namespace of its own, so that the loopback's counters are the bytes on the wire.
//! Ratios are what counts: a peer's time divided by ours.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a measurement is printed")]

mod calibration;
mod contestants;
mod data;
mod measure;
mod workloads;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Parser, ValueEnum};

use contestants::Place;
use workloads::{Row, WORKLOADS};

#[derive(Parser)]
#[command(name = "compare", about = "Us and our peers, side by side", after_help = workloads::help())]
struct Arguments {
    /// Which workloads; all those of time, W…, if none is named.
    workloads: Vec<String>,
    /// Runs of each contestant, in turn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// How much data.
    #[arg(long, value_enum, default_value_t = Scale::Full)]
    scale: Scale,
    /// Only contestants whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

/// How much data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scale {
    /// An eighth, to see that it works.
    Small,
    /// 2 GiB, and 100,000 files.
    Full,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(unknown) = arguments.workloads.iter().find(|id| !WORKLOADS.iter().any(|one| one.id == id.as_str())) {
        eprintln!("unknown workload {unknown}; there are:\n{}", workloads::help());
        return ExitCode::from(2);
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can mount file systems and make a network namespace");
        return ExitCode::FAILURE;
    }
    match std::env::var_os(MARK) {
        None => enter_namespace(),
        Some(_) => compare(&arguments),
    }
}

/// Set in the environment of the process within the namespace: where `diskrsync` is, if it is anywhere.
const MARK: &str = "TRANSHIP_COMPARE_DISKRSYNC";

/// Starts this program again where only its own packets are on the wire; what needs the world is done before.
fn enter_namespace() -> ExitCode {
    let diskrsync = contestants::find_diskrsync().unwrap_or_default();
    let program = std::env::current_exe().expect("a process knows its program");
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "ip link set lo mtu 1500 up && exec \"$@\"", "sh"]).arg(program);
    let error = command.args(std::env::args_os().skip(1)).env(MARK, diskrsync).exec();
    eprintln!("cannot start unshare: {error}");
    ExitCode::FAILURE
}

fn compare(arguments: &Arguments) -> ExitCode {
    println!("{}", calibration::line());
    let diskrsync = std::env::var_os(MARK).filter(|path| !path.is_empty()).map(PathBuf::from);
    let place = match Place::prepare(diskrsync) {
        Ok(place) => place,
        Err(error) => {
            eprintln!("cannot start the peers: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut has_failed = false;
    for workload in WORKLOADS {
        let is_wanted = match &arguments.workloads[..] {
            [] => workload.id.starts_with('W'),
            named => named.iter().any(|id| id == workload.id),
        };
        if !is_wanted {
            continue;
        }
        println!("\n{}: {}", workload.id, workload.what);
        match workloads::run(workload, &place, arguments.scale, arguments.runs, arguments.only.as_deref()) {
            Ok(rows) => {
                has_failed |= rows.iter().any(|row| row.result.is_err());
                print_table(&rows);
            }
            Err(error) => {
                eprintln!("{}: {error}", workload.id);
                has_failed = true;
            }
        }
    }
    println!("\n{}", calibration::line());
    if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn print_table(rows: &[Row]) {
    let ours = rows.iter().find(|row| row.is_ours).and_then(|row| row.result.as_ref().ok());
    println!(
        "  {:<28} {:>9} {:>9} {:>8} {:>11} {:>9} {:>9} {:>9}",
        "", "median s", "least s", "ratio", "wire MB", "CPU s/GB", "RSS src", "RSS dst"
    );
    for Row { name, gigabytes, result, .. } in rows {
        match result {
            Ok(costs) => {
                let ratio =
                    ours.map_or("–".into(), |ours| format!("{:.2}", costs.wall_seconds() / ours.wall_seconds()));
                println!(
                    "  {name:<28} {:>9.3} {:>9.3} {ratio:>8} {:>11.3} {:>9.2} {:>6} MB {:>6} MB",
                    costs.wall_seconds(),
                    costs.least_seconds(),
                    costs.wire_bytes() as f64 / 1e6,
                    costs.cpu_seconds() / gigabytes,
                    costs.source_rss_bytes() / 1_000_000,
                    costs.destination_rss_bytes() / 1_000_000,
                );
            }
            Err(why) => println!("  {name:<28} {why}"),
        }
    }
}
