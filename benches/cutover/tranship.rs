//! The move by us, as a user types it.

use serde_json::Value;
use tranship_tests::cluster::{Machine, Space};

use crate::cases::Case;
use crate::idle::Idle;
use crate::outcome::{Marks, Told};

/// Moves the applications of a space, stages and all, and tells how that went.
///
/// # Panics
/// When a command fails.
pub(crate) fn carry(space: &Space, case: &Case) -> Told {
    let (machine, name) = (Machine::new(), space.name.as_str());
    machine.create(space, &["--image", tranship_lab::TRANSHIP_RELEASE, "--verify", case.level]);
    machine.run(&["stage", name]);
    let idle = case.measures_idle.then(|| {
        let id = machine.status(space)["id"].clone();
        Idle::of_pair(id.as_str().expect("a migration has an identity"))
    });
    machine.run(&["stage", name]);
    let projected_seconds = machine.status(space)["projected_downtime_seconds"].as_f64();
    machine.run(&["cutover", name]);
    let status = machine.status(space);
    machine.run(&["finish", name, "--lift-fence"]);
    Told { marks: marks(&status), pass_seconds: pass_seconds(&status), projected_seconds, bytes: bytes(&status), idle }
}

fn marks(status: &Value) -> Marks {
    let at = |step: &str| {
        let text = status["timeline"][step].as_str().unwrap_or_else(|| panic!("no {step} in {}", status["timeline"]));
        let time: jiff::Timestamp = text.parse().expect("a time");
        time.as_millisecond() as u64
    };
    Marks {
        stopping_ms: at("stopping"),
        released_ms: at("released"),
        copied_ms: at("proven"),
        committed_ms: Some(at("committed")),
        ready_ms: at("ready"),
    }
}

/// The longest of the final passes, which run side by side, as the agents have it.
fn pass_seconds(status: &Value) -> Option<f64> {
    let passes = status["stages"].as_array()?.iter().filter(|stage| stage["isFinal"] == true);
    passes.filter_map(|stage| stage["seconds"].as_f64()).reduce(f64::max)
}

/// What was proven equal.
fn bytes(status: &Value) -> Option<u64> {
    status["proof"]["volumes"].as_array()?.iter().map(|volume| volume["bytes"].as_u64()).sum()
}
