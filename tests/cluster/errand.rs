//! A cutover that is left to a coordinator in the cluster: it takes place once, or is taken back and not tried again.

use std::process::Command;

use serde_json::Value;

use crate::harness::{AtRest, Follower, Machine, Space, Witness, Writer, evict, in_space, said, uid, until};
use crate::resident::{kinds, pod};

/// The agents' own image has a program that ends well, and can be made to fail.
const IMAGE: &str = concat!("tranship.io/tranship:", env!("CARGO_PKG_VERSION"));

/// A hook that holds a cutover for so long when the application has stopped, and nothing was copied yet.
fn hook_of(seconds: u32) -> String {
    format!("--hook=after-stop={} sleep {seconds}", tranship_lab::BUSYBOX)
}

/// A time so many seconds from now, as it is typed.
fn time_in(seconds: i64) -> String {
    let date = format!("{seconds:+} seconds");
    let told = Command::new("date").args(["--utc", "--date", &date, "+%Y-%m-%dT%H:%M:%SZ"]).output();
    String::from_utf8(told.expect("the time").stdout).expect("text").trim().to_owned()
}

fn leave(machine: &Machine, space: &Space, at: &str) -> String {
    said(&machine.run(&["cutover", &space.name, "--at", at, "--in-cluster", "--yes"]))
}

fn job(space: &Space) -> Value {
    space.source.get("job", &format!("tranship-{}-coordinator", space.name))
}

/// Waits until the Job has ended in this way, from which on it makes no pods.
fn await_ended(space: &Space, condition: &str) {
    until(&format!("a Job that is {condition}"), || {
        let job = job(space);
        let mut conditions = job["status"]["conditions"].as_array().into_iter().flatten();
        conditions.any(|one| one["type"] == condition && one["status"] == "True").then_some(())
    });
}

/// Nothing is left by which anybody could do anything.
fn has_given_up_its_rights(space: &Space) {
    let kinds = kinds(space);
    for kind in ["Secret", "RoleBinding", "ClusterRoleBinding"] {
        assert!(!kinds.iter().any(|one| one == kind), "{kinds:?}");
    }
}

/// Lines of the history that say something.
fn told<'a>(status: &'a Value, what: &str) -> Vec<&'a str> {
    let history = status["history"].as_array().into_iter().flatten();
    history.filter_map(|happened| happened["what"].as_str()).filter(|line| line.contains(what)).collect()
}

/// Leaves a cutover to the cluster, does away with its pod in the midst of it, and sees that it is done all the same.
fn is_done_by_the_next_pod(name: &str, hold_seconds: u32, do_away: fn(&Space, &Value)) {
    in_space(name, |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        let witness = Witness::start(space, &writer.labels());
        let here = Follower::start(&space.source, "writer-0");
        here.await_more(50);
        machine.create(space, &[&hook_of(hold_seconds)]);
        machine.run(&["stage", name]);
        let at = time_in(30);
        let told_at_once = leave(&machine, space, &at);
        assert!(told_at_once.contains("get, patch statefulsets.apps") && told_at_once.contains(&at), "{told_at_once}");
        assert!(!told_at_once.contains("stays stopped until"), "it is not so: {told_at_once}");
        let waits = machine.status(space);
        assert_eq!(waits["resident"]["cuts_over_at"].as_str(), Some(at.as_str()), "{waits}");
        let first = pod(space, None);
        until("the final pass is to come", || (machine.status(space)["phase"] == "final pass").then_some(()));
        let epoch = machine.status(space)["epoch"].as_u64();
        do_away(space, &first);
        let at_rest = AtRest::of(&space.source, &["data-writer-0"]);

        await_ended(space, "Complete");
        let there = Follower::start(&space.destination, "writer-0");
        there.goes_on_after(here.last());
        there.await_more(50);
        at_rest.is_unchanged();
        witness.swears();
        let status = machine.status(space);
        assert_eq!((&status["phase"], &status["owner"]), (&"cut over".into(), &"destination".into()), "{status}");
        assert_eq!(status["proof"]["level"], "full", "{status}");
        assert!(status["timeline"]["stopping"].as_str() > Some(at.as_str()), "it began before its time: {status}");
        assert!(status["epoch"].as_u64() >= epoch, "{status}");
        assert_eq!(told(&status, "a cutover from the source began").len(), 1, "{status}");
        has_given_up_its_rights(space);
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}

#[test]
fn a_cutover_whose_pod_is_deleted_at_once_in_the_final_pass_is_done_by_the_next_one() {
    is_done_by_the_next_pod("errand-killed", 8, |space, pod| {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        space.source.kubectl(&["delete", "pod", name, "--grace-period=0", "--force", "--wait=false"]);
        until("the next pod", || {
            let labels = format!("tranship.io/coordinator,tranship.io/migration={}", space.name);
            space.source.list("pods", &labels).iter().any(|one| uid(one) != uid(pod)).then_some(())
        });
    });
}

/// The one that is evicted goes on until it is done, or the next one has taken over.
#[test]
fn a_cutover_whose_pod_is_evicted_in_the_final_pass_is_done() {
    is_done_by_the_next_pod("errand-evicted", 30, |space, pod| evict(&space.source, pod));
}

#[test]
fn a_cutover_that_is_taken_back_in_the_cluster_is_not_tried_again_and_tells_why() {
    in_space("errand-taken-back", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        machine.create(space, &[&format!("--hook=after-stop={IMAGE} /tranship no-such-command")]);
        machine.run(&["cutover", name, "--in-cluster", "--yes"]);
        await_ended(space, "Failed");
        space.source.await_ready(&writer.labels(), writer.replicas);
        let status = machine.status(space);
        assert_eq!((&status["phase"], &status["owner"]), (&"staging".into(), &"source".into()), "{status}");
        let says = status["resident"]["says"].as_str().unwrap_or_default();
        assert!(status["resident"]["phase"] == "Failed" && says.contains("TS-K960"), "{status}");
        assert_eq!(told(&status, "failed before its commit: a hook failed").len(), 1, "{status}");
        assert_eq!(told(&status, "a cutover from the source began").len(), 1, "{status}");
        let pods = space.source.list("pods", &format!("tranship.io/coordinator,tranship.io/migration={name}"));
        assert_eq!(pods.len(), 1, "{pods:#?}");
        assert_eq!(pods[0]["status"]["containerStatuses"][0]["restartCount"], 0, "{pods:#?}");
        has_given_up_its_rights(space);
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}

#[test]
fn a_cutover_that_waits_in_the_cluster_outlives_its_pod_and_gives_way_to_whoever_works_on_the_volumes() {
    in_space("errand-waits", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        let application = uid(&space.source.get("pod", "writer-0"));
        machine.create(space, &[]);
        leave(&machine, space, &time_in(3600));
        let first = pod(space, None);
        let epoch = machine.status(space)["epoch"].as_u64();
        evict(&space.source, &first);
        pod(space, Some(&first));
        until("the next pod waits", || {
            let status = machine.status(space);
            (status["epoch"].as_u64() > epoch && !status["resident"]["cuts_over_at"].is_null()).then_some(())
        });
        let told = said(&machine.run(&["stage", name]));
        assert!(told.contains("will not cut over at"), "{told}");
        await_ended(space, "Failed");
        let status = machine.status(space);
        assert!(status["resident"]["leads"] == false && status["resident"]["cuts_over_at"].is_null(), "{status}");
        has_given_up_its_rights(space);
        assert_eq!(uid(&space.source.get("pod", "writer-0")), application, "the application was disturbed");
        machine.run(&["finish", name]);
        space.holds_nothing_of_ours();
    });
}

#[test]
fn a_cutover_is_not_left_to_the_cluster_without_a_yes_nor_for_an_hour_that_has_passed() {
    in_space("errand-refused", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        machine.create(space, &[]);
        let epoch = machine.status(space)["epoch"].clone();
        let refused = |words: &[&str]| {
            said(&machine.try_run(&[&["cutover", name, "--in-cluster"], words].concat()).expect_code(2))
        };
        let told = refused(&[]);
        assert!(told.contains("it stops the application") && told.contains("--yes"), "{told}");
        let told = refused(&["--yes", "--at", &time_in(-3600)]);
        assert!(told.contains("has passed"), "{told}");
        let told = refused(&["--yes", "--override-lost-owner", "--confirm", name]);
        assert!(told.contains("--override-lost-owner"), "{told}");
        assert_eq!(kinds(space), [""; 0]);
        assert_eq!(machine.status(space)["epoch"], epoch);
        machine.run(&["finish", name]);
    });
}
