//! The downtime of a move between two real clusters: ours, and that of a script as people use it today.
//!
//! Both move the same applications, made anew for each, under the same load and as often staged. What an application
//! stood still is told by the same observer for both: a client outside of the clusters, or the application's own log. What
//! of that is its own stop and start is told by the clusters.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a measurement is printed")]

mod application;
mod bars;
mod cases;
mod commits;
mod disk;
mod downtime;
mod idle;
mod outcome;
mod pods;
mod script;
mod table;
mod tranship;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use serde_json::json;
use tranship_tests::cluster::lab_for_figures;

use cases::{CASES, Case, Contestant};
use outcome::Outcome;

#[derive(Parser)]
#[command(name = "cutover", about = "The downtime of a move between two clusters", after_help = cases::help())]
struct Arguments {
    /// Which cases; all of them, if none is named.
    cases: Vec<String>,
    /// How much data.
    #[arg(long, value_enum, default_value_t = Scale::Full)]
    scale: Scale,
    /// Only contestants whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// For people, or a line of JSON for each move and each bar.
    #[arg(long, value_enum, default_value_t = Output::Human)]
    output: Output,
}

/// How much data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scale {
    /// An eighth, to see that it works.
    Small,
    /// 2 GiB for each volume.
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Human,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(unknown) = arguments.cases.iter().find(|id| !CASES.iter().any(|one| one.id == id.as_str())) {
        eprintln!("unknown case {unknown}; there are:\n{}", cases::help());
        return ExitCode::from(2);
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can bring up the clusters");
        return ExitCode::FAILURE;
    }
    lab_for_figures();
    let mut has_lost = false;
    for case in CASES {
        if !arguments.cases.is_empty() && !arguments.cases.iter().any(|id| id == case.id) {
            continue;
        }
        let is_wanted = |who: &Contestant| arguments.only.as_ref().is_none_or(|only| who.name().contains(only));
        let contestants = Contestant::ALL.into_iter().filter(is_wanted);
        let outcomes = contestants.map(|who| {
            let outcome = cases::run(case, who, arguments.scale);
            if arguments.output == Output::Json {
                // At once: what comes after it takes minutes, and may fail.
                println!("{}", outcome.json(case.id));
            }
            outcome
        });
        let outcomes: Vec<Outcome> = outcomes.collect();
        // A script that loses something is a result; that we do is none.
        has_lost |= outcomes.iter().any(|outcome| outcome.who == Contestant::Tranship && outcome.lost > 0);
        print(case, &outcomes, &arguments);
    }
    if has_lost { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn print(case: &Case, outcomes: &[Outcome], arguments: &Arguments) {
    let of = |who: Contestant| outcomes.iter().find(|outcome| outcome.who == who);
    let bars = bars::judge(case, of(Contestant::Tranship), of(Contestant::Script));
    match arguments.output {
        Output::Human => {
            let scale = if arguments.scale == Scale::Small { " (an eighth of it)" } else { "" };
            println!("\n{}: {}{scale}\n{}", case.id, case.what, table::text(outcomes));
            bars.iter().for_each(|bar| println!("  {bar}"));
        }
        Output::Json => {
            for bar in &bars {
                let (what, kept) = (&bar.what, bar.is_kept());
                let bar =
                    json!({"case": case.id, "bar": what, "measured": bar.measured, "limit": bar.limit, "kept": kept});
                println!("{bar}");
            }
        }
    }
}
