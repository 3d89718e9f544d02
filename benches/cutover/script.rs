//! The move by a script, as people do it today.

use std::process::{Command, Stdio};

use tranship_tests::cluster::{Space, lab};

use crate::Scale;
use crate::application::node_address;
use crate::cases::Case;
use crate::outcome::{Marks, Told};

const SCRIPT: &str = include_str!("script.sh");

/// Moves the applications of a space, early copies and all, and tells how that went.
///
/// # Panics
/// When the script fails.
pub(crate) fn carry(space: &Space, case: &Case, scale: Scale) -> Told {
    for application in case.applications {
        space.destination.make(&application.objects(scale, 0));
    }
    run(space, case, scale, "prepare");
    let printed = run(space, case, scale, "move");
    Told { marks: marks(&printed), pass_seconds: None, projected_seconds: None, bytes: None, idle: None }
}

fn run(space: &Space, case: &Case, scale: Scale, act: &str) -> String {
    let home = lab().layout.home();
    let [from, to] = space.places().map(|place| home.join(lab().cluster(place.side).name));
    let sets: Vec<&str> = case.applications.iter().map(|application| application.set()).collect();
    let volumes = case.applications.iter().map(|application| {
        let [mode, class, size] = application.volume(scale);
        format!("{} {} {mode} {class} {size}", application.claim(), application.pod())
    });
    let mut shell = Command::new("sh");
    shell.args(["-c", SCRIPT, "script.sh", act]);
    shell.env("KUBECTL", from.join("kubectl"));
    shell.env("FROM", from.join("admin.kubeconfig")).env("TO", to.join("admin.kubeconfig"));
    shell.env("NAMESPACE", &space.source.namespace).env("TO_NODE", node_address(&space.destination));
    shell.env("IMAGE", tranship_lab::RSYNC).env("SETS", sets.join(" "));
    shell.env("VOLUMES", volumes.collect::<Vec<_>>().join("\n"));
    let output = shell.stdin(Stdio::null()).output().expect("a shell");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "script.sh {act}: {}\n{said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn marks(printed: &str) -> Marks {
    let at = |step: &str| {
        let time = printed.lines().find_map(|line| line.strip_prefix(step)?.strip_prefix(' ')?.parse().ok());
        time.unwrap_or_else(|| panic!("no {step} in {printed}"))
    };
    Marks {
        stopping_ms: at("stopping"),
        released_ms: at("released"),
        copied_ms: at("copied"),
        committed_ms: None,
        ready_ms: at("ready"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_among_what_kubectl_prints() {
        let printed = "stopping 1\nstatefulset.apps/db scaled\nreleased 2\ncopied 3\nready 4\n";
        let wanted = Marks { stopping_ms: 1, released_ms: 2, copied_ms: 3, committed_ms: None, ready_ms: 4 };
        assert_eq!(marks(printed), wanted);
    }

    #[test]
    fn the_script_is_one_for_every_shell() {
        let checked = Command::new("sh").args(["-n", "-c", SCRIPT]).status().expect("a shell");
        assert!(checked.success());
    }
}
