//! What is lost while a migration goes on: a cluster, an agent, a node. The application is safe, and the next command goes on.

use serde_json::{Value, json};

use crate::harness::{
    AtRest, Follower, Machine, Place, Space, Witness, Writer, agents, app, evict, in_space, kill, places, said, uid,
    until,
};

/// Few enough bits per second that a pass takes a while.
const SLOWLY: &str = "--bandwidth=2Mbit/s";

/// Acts of the writer that make a pass take a while.
const MANY_ACTS: u64 = 300;

#[test]
fn an_old_cluster_that_is_lost_in_the_midst_of_the_commit_is_overridden_only_by_who_types_that() {
    in_space("lost-owner", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        let witness = Witness::start(space, &writer.labels());
        let here = Follower::start(&space.source, "writer-0");
        here.await_more(50);
        machine.create(space, &[]);
        machine.run(&["stage", name]);
        machine.run_until_killed_at("relinquished", &["cutover", name]);
        let at_rest = AtRest::of(&space.source, &["data-writer-0"]);
        // A machine from which the old cluster cannot be reached.
        let other = Machine::with(|config| config["clusters"][0]["cluster"]["server"] = json!("https://10.201.1.11:1"));
        let places = places(space);
        let cut_over = |more: &[&str]| {
            let words = ["cutover", name].into_iter().chain(places.iter().map(String::as_str));
            other.try_run(&words.chain(more.iter().copied()).collect::<Vec<_>>())
        };
        let outcome = cut_over(&[]);
        assert!(matches!(outcome.code, Some(3 | 4)), "{outcome:#?}");
        let outcome = cut_over(&["--override-lost-owner"]).expect_code(2);
        assert!(said(&outcome).contains("--confirm"), "{outcome:#?}");
        assert_eq!(space.destination.get("statefulset", "writer")["spec"]["replicas"], 0);
        assert_eq!(space.destination.list("pods", &writer.labels()), [Value::Null; 0]);

        cut_over(&["--override-lost-owner", "--confirm", name]).expect_code(0);
        let there = Follower::start(&space.destination, "writer-0");
        there.goes_on_after(here.last());
        there.await_more(50);
        // The old cluster comes back, and does not have the application.
        let status = machine.status(space);
        assert_eq!((&status["phase"], &status["owner"]), (&"cut over".into(), &"destination".into()), "{status}");
        assert_eq!(space.source.list("pods", &writer.labels()), [Value::Null; 0]);
        at_rest.is_unchanged();
        witness.swears();
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}

/// The only agent of a side.
fn agent(space: &Space, place: &Place) -> Value {
    let all = agents(space, place);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.into_iter().next().expect("there is one")
}

#[test]
fn a_stage_whose_agent_is_killed_is_gone_on_with_by_the_next_one() {
    in_space("killed-agents", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        let witness = Witness::start(space, &writer.labels());
        let here = Follower::start(&space.source, "writer-0");
        here.await_more(MANY_ACTS);
        let pod = uid(&space.source.get("pod", "writer-0"));
        machine.create(space, &[SLOWLY]);
        for place in space.places() {
            let stage = machine.begin(&["stage", name]);
            machine.await_bytes(space, if place.side == space.source.side { "created" } else { "staging" });
            kill(&agent(space, place));
            Machine::end(stage).expect_code(4);
            here.await_more(10);
        }
        machine.run(&["set", name, "--bandwidth", "none"]);
        machine.run(&["stage", name]);
        assert_eq!(uid(&space.source.get("pod", "writer-0")), pod, "the application was disturbed");
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

#[test]
fn a_stage_whose_command_is_killed_goes_on_to_its_end_and_the_next_command_finds_it() {
    in_space("killed-command", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        let here = Follower::start(&space.source, "writer-0");
        here.await_more(MANY_ACTS);
        machine.create(space, &[SLOWLY]);
        let stage = machine.begin(&["stage", name]);
        machine.await_bytes(space, "created");
        stage.kill();
        let other = Machine::new();
        let places = places(space);
        other.run(&["stage", name].into_iter().chain(places.iter().map(String::as_str)).collect::<Vec<_>>());
        let stages = machine.status(space)["stages"].clone();
        let ended: Vec<[&Value; 2]> =
            stages.as_array().into_iter().flatten().map(|stage| [&stage["stage"], &stage["exit"]]).collect();
        assert_eq!(ended.first(), Some(&[&json!(1), &json!(0)]), "it was broken off: {stages}");
        assert!(ended.iter().all(|[_, exit]| **exit == 0), "{stages}");

        // One that is detached is left alone from the beginning.
        machine.run(&["set", name, "--bandwidth", "none"]);
        machine.run(&["stage", name, "--detach"]);
        until("the pass has ended", || machine.status(space)["volumes"][0]["running"].is_null().then_some(()));
        machine.run(&["cutover", name]);
        Follower::start(&space.destination, "writer-0").goes_on_after(here.last());
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}

/// What else is on the destination's volume goes with the next pass, as it begins.
#[test]
fn a_destination_that_is_full_in_the_midst_of_a_stage_is_said_to_be_and_the_stage_goes_on_once_there_is_room() {
    in_space("full", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        let witness = Witness::start(space, &writer.labels());
        let here = Follower::start(&space.source, "writer-0");
        here.await_more(MANY_ACTS);
        machine.create(space, &["--bandwidth=500kbit/s"]);
        let stage = machine.begin(&["stage", name]);
        machine.await_bytes(space, "created");
        let fill = app::shell("data-writer-0", "dd if=/dev/zero of=/data/hog bs=1M; sync; sleep 100000");
        let mut pod = app::pod(&[fill], &["data-writer-0"]);
        pod["securityContext"] = json!({});
        space.destination.make(&[app::bare_pod("hog", &pod)]);
        let outcome = Machine::end(stage).expect_code(4);
        assert!(said(&outcome).contains("TS-E230"), "{outcome:#?}");
        here.await_more(10);
        space.destination.kubectl(&["delete", "pod", "hog", "--grace-period=1"]);
        machine.run(&["set", name, "--bandwidth", "none"]);
        machine.run(&["stage", name]);
        let at_rest = machine.cut_over(space, &["data-writer-0"]);
        Follower::start(&space.destination, "writer-0").goes_on_after(here.last());
        at_rest.is_unchanged();
        witness.swears();
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}

/// A claim that nobody may share is copied by the final pass alone, so that it takes a while.
#[test]
fn a_final_pass_whose_agent_is_killed_is_taken_back_and_the_next_cutover_ends_it() {
    in_space("killed-in-final", |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        let writer = Writer { access_mode: "ReadWriteOncePod", ..Writer::default() };
        writer.start(&space.source);
        let witness = Witness::start(space, &writer.labels());
        let mut here = Follower::start(&space.source, "writer-0");
        here.await_more(MANY_ACTS);
        machine.create(space, &[SLOWLY]);
        for place in space.places() {
            let cutover = machine.begin(&["cutover", name]);
            machine.await_bytes(space, "final pass");
            kill(&agent(space, place));
            Machine::end(cutover).expect_code(4);
            space.source.await_ready(&writer.labels(), 1);
            let back = Follower::start(&space.source, "writer-0");
            back.goes_on_after(here.last());
            back.await_more(10);
            here = back;
        }
        machine.run(&["set", name, "--bandwidth", "none"]);
        machine.run(&["cutover", name]);
        Follower::start(&space.destination, "writer-0").goes_on_after(here.last());
        witness.swears();
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}

/// Has the other node of the source report a volume as one that it still has, until its kubelet reports again.
fn report_as_held(space: &Space, claim: &str, but_by: &str) {
    let claim = space.source.get("persistentvolumeclaim", claim);
    let volume = space.source.get("persistentvolume", claim["spec"]["volumeName"].as_str().expect("a bound claim"));
    let csi = ["driver", "volumeHandle"].map(|field| volume["spec"]["csi"][field].as_str().expect("a CSI volume"));
    let nodes = space.source.list("nodes", "");
    let other = nodes.iter().find(|node| node["metadata"]["name"] != but_by).expect("two nodes");
    let mut held = other["status"]["volumesInUse"].as_array().cloned().unwrap_or_default();
    held.push(json!(format!("kubernetes.io/csi/{}", csi.join("^"))));
    let patch = json!({ "status": { "volumesInUse": held } }).to_string();
    let node = other["metadata"]["name"].as_str().expect("a name");
    space.source.kubectl(&["patch", "node", node, "--subresource=status", "--type=merge", "--patch", &patch]);
}

#[test]
fn a_cutover_that_is_taken_up_waits_for_a_kubelet_that_has_not_let_go_yet() {
    in_space("late-kubelet", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        let witness = Witness::start(space, &writer.labels());
        let here = Follower::start(&space.source, "writer-0");
        here.await_more(50);
        let pod = space.source.get("pod", "writer-0");
        machine.create(space, &[]);
        machine.run(&["stage", name]);
        machine.run_until_killed_at("final pass", &["cutover", name]);
        report_as_held(space, "data-writer-0", pod["spec"]["nodeName"].as_str().expect("it ran"));
        machine.run(&["cutover", name]);
        let there = Follower::start(&space.destination, "writer-0");
        there.goes_on_after(here.last());
        witness.swears();
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}

/// Drains the application's node, as far as this test's pods are concerned: a cordon would be everybody's. Waits until the
/// application runs elsewhere.
fn drain(space: &Space, writer: &Writer) {
    let node = |pod: &Value| pod["spec"]["nodeName"].as_str().expect("a pod on a node").to_owned();
    let before = node(&space.source.get("pod", "writer-0"));
    let name = format!("drain-{before}");
    let mut blocker = app::bare_pod(
        &name,
        &json!({"nodeName": before, "containers": [
        {"name": "shell", "image": tranship_lab::BUSYBOX, "imagePullPolicy": "IfNotPresent"}]}),
    );
    blocker["metadata"]["labels"] = json!({"drains": "yes"});
    space.source.make(&[blocker]);
    let there = space.source.list("pods", "");
    for pod in there.iter().filter(|pod| node(pod) == before && pod["metadata"]["name"] != name.as_str()) {
        evict(&space.source, pod);
    }
    until("the application is on another node", || {
        let pod = space.source.find("pod", "writer-0")?;
        (pod["spec"]["nodeName"].as_str()? != before).then_some(())
    });
    space.source.await_ready(&writer.labels(), 1);
    space.source.kubectl(&["delete", "pod", &name, "--grace-period", "1"]);
}

#[test]
fn a_node_that_is_drained_between_stages_and_in_one_lets_the_application_go_at_once() {
    in_space("drained", |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        let writer = Writer { flees: true, ..Writer::default() };
        writer.start(&space.source);
        let witness = Witness::start(space, &writer.labels());
        let here = Follower::start(&space.source, "writer-0");
        here.await_more(50);
        machine.create(space, &[]);
        machine.run(&["stage", name]);
        drain(space, &writer);
        let moved = Follower::start(&space.source, "writer-0");
        moved.goes_on_after(here.last());
        moved.await_more(MANY_ACTS);

        machine.run(&["set", name, SLOWLY]);
        let stage = machine.begin(&["stage", name]);
        machine.await_bytes(space, "staging");
        drain(space, &writer);
        Machine::end(stage).expect_code(4);
        let back = Follower::start(&space.source, "writer-0");
        back.goes_on_after(moved.last());
        let last = machine.status(space)["volumes"][0]["last"].clone();
        let error = last["error"].as_str().unwrap_or_default();
        assert!(error.contains("stopped") || error.contains("interrupted"), "{last}");

        machine.run(&["set", name, "--bandwidth", "none"]);
        machine.run(&["stage", name]);
        machine.run_until_killed_at("final pass", &["cutover", name]);
        let at_rest = AtRest::of(&space.source, &["data-writer-0"]);
        machine.run(&["cutover", name]);
        Follower::start(&space.destination, "writer-0").goes_on_after(back.last());
        at_rest.is_unchanged();
        witness.swears();
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}
