//! What is moved, and by whom.

use std::fmt::Write as _;

use tranship_tests::cluster::{Side, Space, in_spaces, say};

use crate::Scale;
use crate::application::{Application, Watched, make_destination};
use crate::downtime::Downtime;
use crate::outcome::Outcome;
use crate::pods::Pods;
use crate::{disk, script, tranship};

/// A move that several make.
pub(crate) struct Case {
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    pub(crate) applications: &'static [Application],
    /// The level of proof.
    pub(crate) level: &'static str,
    /// What the final pass and its proof may take at that level.
    pub(crate) last_copy_seconds_max: f64,
    /// Whether the pair is looked at while it waits. With one volume there is one pair.
    pub(crate) measures_idle: bool,
}

pub(crate) const CASES: &[Case] = &[
    Case {
        id: "full",
        what: "PostgreSQL under pgbench and a block volume under its writer, 2 GiB each, at proof level full",
        applications: &[Application::Postgres, Application::Blocks],
        level: "full",
        last_copy_seconds_max: 6.0,
        measures_idle: false,
    },
    Case {
        id: "tracked",
        what: "PostgreSQL under pgbench, 2 GiB, at proof level tracked",
        applications: &[Application::Postgres],
        level: "tracked",
        last_copy_seconds_max: 1.5,
        measures_idle: true,
    },
];

/// The cases, one a line.
pub(crate) fn help() -> String {
    let mut text = String::from("Cases:\n");
    for case in CASES {
        writeln!(text, "  {:<8} {}", case.id, case.what).expect("a String takes everything");
    }
    text
}

/// Who moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// Us.
    Tranship,
    /// rsync and dd over ssh between pods, and kubectl scale.
    Script,
}

impl Contestant {
    pub(crate) const ALL: [Self; 2] = [Self::Tranship, Self::Script];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tranship => "tranship",
            Self::Script => "script",
        }
    }
}

/// Makes the applications anew, has them moved, and takes everything away again.
///
/// # Panics
/// When a step fails; what is there then stays, to tell why.
pub(crate) fn run(case: &Case, who: Contestant, scale: Scale) -> Outcome {
    let name = format!("bench-{}-{}", case.id, who.name());
    let mut outcome = None;
    in_spaces(&name, &name, Side::Destination, |space| outcome = Some(run_in(space, case, who, scale)));
    outcome.expect("it was run")
}

fn run_in(space: &Space, case: &Case, who: Contestant, scale: Scale) -> Outcome {
    make_destination(space);
    let started = case.applications.iter().map(|application| {
        say(&format!("  {}: {} is made", space.name, application.name()));
        application.start(space, scale)
    });
    let watched: Vec<Watched> = started.collect();
    watched.iter().for_each(Watched::await_more);
    let mut pods = Pods::watch(space, case.applications);
    let told = match who {
        Contestant::Tranship => tranship::carry(space, case),
        Contestant::Script => script::carry(space, case, scale),
    };
    let (mut downtimes, mut lost) = (Vec::new(), 0);
    for (&application, watched) in case.applications.iter().zip(watched) {
        let (outage, gone) = watched.judge(space);
        downtimes.push((application, Downtime::new(outage, pods.moments(application))));
        lost += gone;
    }
    let ended = case.applications.iter().map(|&application| pods.moments(application).ended_ms);
    let reads_all = case.level == "full" && who == Contestant::Tranship;
    let disk_bytes_per_second = reads_all.then(|| disk::bytes_per_second(space, case.applications));
    Outcome { who, told, ended_ms: ended.max().flatten(), downtimes, lost, disk_bytes_per_second }
}
