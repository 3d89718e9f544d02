//! Applications and volumes of all kinds: each goes on at the destination where it was stopped at the source.

use std::collections::BTreeSet;

use crate::harness::Side::{Destination, Source};
use crate::harness::{Follower, Machine, Place, Space, Volume, Witness, Writer, changes, in_space, in_spaces};

/// Moves a writer; every one of its pods goes on after what it has acknowledged. `create` has more words.
fn moves(space: &Space, writer: &Writer, create: &[&str]) {
    let (machine, name) = (Machine::new(), space.name.as_str());
    writer.start(&space.source);
    let witness = Witness::start(space, &writer.labels());
    let follow = |place: &Place| -> Vec<Follower> {
        (0..writer.replicas).map(|n| Follower::start(place, &format!("{}-{n}", writer.name))).collect()
    };
    let here = follow(&space.source);
    here.iter().for_each(|follower| follower.await_more(50));
    machine.create(space, create);
    machine.run(&["stage", name]);
    let claims: Vec<String> = (0..writer.replicas).map(|n| format!("data-{}-{n}", writer.name)).collect();
    let at_rest = machine.cut_over(space, &claims);
    let there = follow(&space.destination);
    for (here, there) in here.iter().zip(&there) {
        there.goes_on_after(here.last());
        there.await_more(50);
    }
    at_rest.is_unchanged();
    witness.swears();
    machine.run(&["finish", name, "--lift-fence"]);
    space.holds_nothing_of_ours();
}

#[test]
fn every_replica_of_a_statefulset_over_two_nodes_goes_on() {
    in_space("replicas", |space| {
        let writer = Writer { replicas: 3, ..Writer::default() };
        writer.start(&space.source);
        let pods = space.source.list("pods", &writer.labels());
        let nodes: BTreeSet<&str> = pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
        assert_eq!((pods.len(), nodes.len()), (3, 2), "{nodes:?}");
        moves(space, &writer, &[]);
    });
}

#[test]
fn the_chain_of_a_writer_of_blocks_is_not_broken() {
    in_space("blocks", |space| moves(space, &Writer { is_block: true, class: "ext4", ..Writer::default() }, &[]));
}

#[test]
fn an_application_goes_on_in_a_namespace_of_another_name() {
    in_spaces("t-renamed", "t-renamed-there", Destination, |space| moves(space, &Writer::default(), &[]));
}

#[test]
fn a_storage_class_is_changed_within_one_cluster() {
    in_spaces("t-class", "t-class-new", Source, |space| {
        moves(space, &Writer::default(), &["--storage-class", "xfs:ext4"]);
        let claim = space.destination.get("persistentvolumeclaim", "data-writer-0");
        assert_eq!(claim["spec"]["storageClassName"], "ext4");
    });
}

#[test]
fn a_comparison_says_equal_at_rest_and_names_what_differs() {
    in_space("compared", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        let follower = Follower::start(&space.source, "writer-0");
        follower.await_more(50);
        machine.create(space, &[]);
        assert_eq!(machine.try_run(&["verify", name]).code, Some(3), "there is nothing to compare with yet");
        machine.run(&["stage", name]);
        let reached = follower.last();
        follower.await_more(50);
        let different = machine.try_run(&["verify", name, "--output", "json"]).expect_code(7).json();
        assert_eq!(different["in_use"], serde_json::json!(["source"]), "{different}");
        assert!(follower.last() > reached, "the application went on");

        space.source.kubectl(&["scale", "statefulset", writer.name, "--replicas", "0"]);
        space.source.await_gone(&writer.labels());
        machine.run(&["stage", name]);
        let equal = machine.run(&["verify", name, "--output", "json"]).json();
        assert_eq!(
            (&equal["volumes"][0]["equal"], &equal["in_use"]),
            (&true.into(), &serde_json::json!([])),
            "{equal}"
        );
        machine.run(&["finish", name]);
        space.holds_nothing_of_ours();
    });
}

#[test]
fn a_stage_changes_nothing_at_the_source() {
    in_space("untouched", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        Follower::start(&space.source, "writer-0").await_more(50);
        space.source.kubectl(&["scale", "statefulset", writer.name, "--replicas", "0"]);
        space.source.await_gone(&writer.labels());
        let volume = Volume::of(&space.source, "data-writer-0");
        let before = volume.tree();
        machine.create(space, &[]);
        machine.run(&["stage", name]);
        assert_eq!(changes(&before, &volume.tree()), [""; 0]);
        machine.run(&["finish", name]);
    });
}
