//! A program of a cluster that stands still for a minute in the midst of a stage, and of a cutover.

use std::thread;
use std::time::{Duration, Instant};

use tranship_lab::Hang;

use tranship_tests::processes::Running;

use crate::harness::{
    AtRest, Follower, Machine, Place, Space, Witness, Writer, agents, in_space_alone, lab, say, until,
};

/// How long it stands still.
const MINUTE: Duration = Duration::from_secs(60);

/// Has a program stand still for a minute, whatever else happens.
fn for_a_minute(hang: Hang) {
    let end = Instant::now() + MINUTE;
    say(&format!("  {hang:?} for {} s", MINUTE.as_secs()));
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        thread::park_timeout(left);
    }
}

/// A stage and a cutover go on, or are taken up again by the same command; the application is on one side all the time, and
/// nothing of it is lost.
fn is_outlived(name: &str, hang: impl Fn(&Space) -> Hang) {
    in_space_alone(name, |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        let writer = Writer { lingers: true, ..Writer::default() };
        writer.start(&space.source);
        let witness = Witness::start(space, &writer.labels());
        Follower::start(&space.source, "writer-0").await_more(300);
        machine.create(space, &["--bandwidth=2Mbit/s"]);
        let stage = machine.begin(&["stage", name]);
        machine.await_bytes(space, "created");
        for_a_minute(hang(space));
        goes_on(&machine, stage, &["stage", name]);
        let here = Follower::start(&space.source, "writer-0");
        here.await_more(100);

        let cutover = machine.begin(&["cutover", name]);
        until("the application is being stopped", || (machine.status(space)["phase"] == "quiescing").then_some(()));
        for_a_minute(hang(space));
        goes_on(&machine, cutover, &["cutover", name]);
        let at_rest = AtRest::of(&space.source, &["data-writer-0"]);
        let there = Follower::start(&space.destination, "writer-0");
        there.goes_on_after(here.last());
        there.await_more(50);
        at_rest.is_unchanged();
        witness.swears();
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}

/// What ran comes to its end, well or with an error; in that case the same command brings it there.
fn goes_on(machine: &Machine, running: Running, again: &[&str]) {
    let outcome = Machine::end(running);
    match outcome.code {
        Some(0) => {}
        Some(3..=5) => drop(machine.run(again)),
        _ => panic!("{outcome:#?}"),
    }
}

#[test]
fn an_api_server_of_the_source_that_hangs_for_a_minute_is_outlived() {
    is_outlived("hung-source-api", |space| Hang::of_api_server(lab().cluster(space.source.side)));
}

#[test]
fn an_api_server_of_the_destination_that_hangs_for_a_minute_is_outlived() {
    is_outlived("hung-destination-api", |space| Hang::of_api_server(lab().cluster(space.destination.side)));
}

#[test]
fn a_kubelet_of_the_source_that_hangs_for_a_minute_is_outlived() {
    is_outlived("hung-source-kubelet", |space| kubelet_beside_an_agent(space, &space.source));
}

#[test]
fn a_kubelet_of_the_destination_that_hangs_for_a_minute_is_outlived() {
    is_outlived("hung-destination-kubelet", |space| kubelet_beside_an_agent(space, &space.destination));
}

/// The kubelet of the node on which an agent of this migration runs.
fn kubelet_beside_an_agent(space: &Space, place: &Place) -> Hang {
    let node =
        until("an agent on a node", || agents(space, place).first()?["spec"]["nodeName"].as_str().map(str::to_owned));
    let nodes = &lab().cluster(place.side).nodes;
    let node = nodes.iter().find(|one| one.name == node).unwrap_or_else(|| panic!("no node {node}"));
    Hang::of_kubelet(node)
}
