//! Others who have their hands on the application or its volumes while it is moved.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    AtRest, Follower, Machine, Place, Space, Volume, Witness, Writer, agents, app, evict, in_space, said, uid, until,
};

fn replicas(place: &Place) -> Value {
    place.get("statefulset", "writer")["spec"]["replicas"].clone()
}

#[test]
fn an_autoscaler_rests_while_the_application_is_moved_and_works_where_it_went() {
    in_space("autoscaler", |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        let writer = Writer { replicas: 2, ..Writer::default() };
        writer.start(&space.source);
        let target = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "writer"});
        let metric = json!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 80}}});
        space.source.make(&[json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "scaler"},
            "spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 3, "metrics": [metric]}})]);
        let witness = Witness::start(space, &writer.labels());
        let pods = ["writer-0", "writer-1"];
        let here = pods.map(|pod| Follower::start(&space.source, pod));
        here.iter().for_each(|follower| follower.await_more(50));
        machine.create(space, &[]);
        machine.run(&["stage", name]);
        machine.run_until_killed_at("final pass", &["cutover", name]);
        until("the autoscaler sees that there is nothing to scale", || {
            let scaler = space.source.get("horizontalpodautoscaler", "scaler");
            let conditions = scaler["status"]["conditions"].as_array()?;
            conditions.iter().any(|one| one["reason"] == "ScalingDisabled").then_some(())
        });
        assert_eq!(replicas(&space.source), 0);
        let at_rest = AtRest::of(&space.source, &["data-writer-0", "data-writer-1"]);
        machine.run(&["cutover", name]);
        for (pod, here) in pods.iter().zip(&here) {
            Follower::start(&space.destination, pod).goes_on_after(here.last());
        }
        space.destination.kubectl(&["scale", "statefulset", "writer", "--replicas", "1"]);
        until("the autoscaler has scaled up", || (replicas(&space.destination) == 2).then_some(()));
        space.destination.await_ready(&writer.labels(), 2);
        assert_eq!(replicas(&space.source), 0);
        at_rest.is_unchanged();
        witness.swears();
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}

/// Somebody who scales the writer up each second, while `act` goes on.
fn meddle<T>(place: &Place, act: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    let words = ["patch", "statefulset", "writer", "--subresource", "scale", "--field-manager", "meddler"];
    let words = [&words[..], &["--type", "merge", "--patch", r#"{"spec": {"replicas": 1}}"#]].concat();
    thread::scope(|scope| {
        let meddler = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                place.kubectl(&words);
                thread::park_timeout(Duration::from_secs(1));
            }
        });
        let result = act();
        is_over.store(true, Ordering::Relaxed);
        meddler.thread().unpark();
        meddler.join().expect("it only scales");
        result
    })
}

#[test]
fn who_starts_the_application_again_and_again_is_named_and_the_application_goes_on_at_home() {
    in_space("meddler", |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        let writer = Writer { lingers: true, ..Writer::default() };
        writer.start(&space.source);
        let witness = Witness::start(space, &writer.labels());
        let here = Follower::start(&space.source, "writer-0");
        here.await_more(50);
        let pod = || space.source.find("pod", "writer-0").map(|pod| uid(&pod));
        let before = pod();
        machine.create(space, &[]);
        machine.run(&["stage", name]);
        let outcome = meddle(&space.source, || machine.try_run(&["cutover", name]).expect_code(4));
        let told = said(&outcome);
        assert!(told.contains("TS-K322") && told.contains("meddler"), "{told}");
        until("another pod of the application", || (pod().is_some() && pod() != before).then_some(()));
        space.source.await_ready(&writer.labels(), 1);
        let back = Follower::start(&space.source, "writer-0");
        back.goes_on_after(here.last());
        back.await_more(50);
        assert_eq!(replicas(&space.destination), 0);
        machine.run(&["cutover", name]);
        Follower::start(&space.destination, "writer-0").goes_on_after(back.last());
        witness.swears();
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}

#[test]
fn who_starts_the_application_again_after_it_stopped_is_kept_out_by_the_fence() {
    in_space("fenced-out", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        let witness = Witness::start(space, &writer.labels());
        let here = Follower::start(&space.source, "writer-0");
        here.await_more(50);
        machine.create(space, &[]);
        machine.run_until_killed_at("final pass", &["cutover", name]);
        let at_rest = AtRest::of(&space.source, &["data-writer-0"]);
        meddle(&space.source, || {
            space.source.await_event("FailedCreate", "writer", "tranship");
            let told = said(&machine.run(&["cutover", name]));
            assert!(told.contains("writer again; the fence keeps its pods away"), "{told}");
            let there = Follower::start(&space.destination, "writer-0");
            there.goes_on_after(here.last());
            there.await_more(50);
        });
        at_rest.is_unchanged();
        witness.swears();
        space.source.kubectl(&["scale", "statefulset", "writer", "--replicas", "0"]);
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}

/// Deletes a claim whose pods are gone. Agents that have ended would keep it, too.
fn delete_claim(space: &Space, place: &Place) {
    place.kubectl(&["delete", "persistentvolumeclaim", "data-writer-0", "--wait=false"]);
    for place in space.places() {
        until("no agent runs", || {
            agents(space, place).iter().all(|pod| pod["status"]["phase"] == "Succeeded").then_some(())
        });
        agents(space, place).iter().for_each(|pod| evict(place, pod));
    }
    until("the claim is gone", || place.find("persistentvolumeclaim", "data-writer-0").is_none().then_some(()));
}

/// Neither a stage nor a cutover mixes what was staged with what is there now.
fn is_refused_as_another_claim(machine: &Machine, space: &Space) {
    // By then a cutover has brought the application's objects to the destination, at rest.
    for (command, code) in [("stage", 3), ("cutover", 4)] {
        let told = said(&machine.try_run(&[command, &space.name]).expect_code(code));
        assert!(told.contains("TS-K953") && told.contains("data-writer-0"), "{told}");
    }
}

#[test]
fn a_claim_that_was_made_again_under_its_name_is_not_mixed_with_what_was_staged() {
    in_space("made-again", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        Follower::start(&space.source, "writer-0").await_more(50);
        machine.create(space, &[]);
        machine.run(&["stage", name]);
        space.source.kubectl(&["scale", "statefulset", "writer", "--replicas", "0"]);
        space.source.await_gone(&writer.labels());
        delete_claim(space, &space.source);
        space.source.kubectl(&["scale", "statefulset", "writer", "--replicas", "1"]);
        space.source.await_ready(&writer.labels(), 1);
        let pod = uid(&space.source.get("pod", "writer-0"));
        let staged = Volume::of(&space.destination, "data-writer-0");
        let before = staged.digest();
        is_refused_as_another_claim(&machine, space);
        assert_eq!(staged.digest(), before);
        assert_eq!(uid(&space.source.get("pod", "writer-0")), pod, "the application was stopped");
        machine.run(&["finish", name]);
    });
}

#[test]
fn a_destination_claim_that_was_made_again_under_its_name_is_not_taken_for_the_one_that_was_staged() {
    in_space("made-again-there", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        Follower::start(&space.source, "writer-0").await_more(50);
        machine.create(space, &[]);
        machine.run(&["stage", name]);
        let mut claim = space.destination.get("persistentvolumeclaim", "data-writer-0");
        delete_claim(space, &space.destination);
        claim["spec"].as_object_mut().expect("an object").remove("volumeName");
        claim["metadata"] = json!({"name": "data-writer-0", "labels": claim["metadata"]["labels"]});
        space.destination.make(&[claim]);
        let pod = uid(&space.source.get("pod", "writer-0"));
        is_refused_as_another_claim(&machine, space);
        assert_eq!(uid(&space.source.get("pod", "writer-0")), pod, "the application was stopped");
        machine.run(&["finish", name]);
    });
}

#[test]
fn a_pod_that_has_the_destination_claim_is_told_and_no_cutover_begins_while_it_is_there() {
    in_space("squatter", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        let witness = Witness::start(space, &writer.labels());
        let here = Follower::start(&space.source, "writer-0");
        here.await_more(50);
        machine.create(space, &[]);
        machine.run(&["stage", name]);
        let pod = app::pod(&[app::shell("data-writer-0", "exec sleep 100000")], &["data-writer-0"]);
        space.destination.make(&[app::bare_pod("squatter", &pod)]);
        until("the other pod runs", || {
            (space.destination.get("pod", "squatter")["status"]["phase"] == "Running").then_some(())
        });
        let told = said(&machine.run(&["stage", name]));
        assert!(told.contains("squatter") && told.contains("no cutover begins"), "{told}");
        let before = uid(&space.source.get("pod", "writer-0"));
        let told = said(&machine.try_run(&["cutover", name]).expect_code(4));
        assert!(told.contains("TS-K946") && told.contains("squatter"), "{told}");
        assert_eq!(uid(&space.source.get("pod", "writer-0")), before, "the application was stopped");
        space.destination.kubectl(&["delete", "pod", "squatter", "--grace-period", "1"]);
        machine.run_until_killed_at("final pass", &["cutover", name]);
        let at_rest = AtRest::of(&space.source, &["data-writer-0"]);
        machine.run(&["cutover", name]);
        Follower::start(&space.destination, "writer-0").goes_on_after(here.last());
        at_rest.is_unchanged();
        witness.swears();
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}
