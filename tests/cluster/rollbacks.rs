//! The way back after a commit: a cutover with the sides exchanged, and as safe to be broken off.

use crate::harness::{Follower, Machine, Space, Witness, Writer, in_space, places, said};

/// Moves a writer to the destination, where it goes on, and breaks a rollback off when it has stopped there. Gives what it
/// acknowledged there, and who has watched it.
fn breaks_off(space: &Space, machine: &Machine, step: &str) -> (u64, Witness) {
    let (writer, name) = (Writer::default(), space.name.as_str());
    writer.start(&space.source);
    let witness = Witness::start(space, &writer.labels());
    let here = Follower::start(&space.source, "writer-0");
    here.await_more(50);
    machine.create(space, &[]);
    machine.run(&["cutover", name]);
    let there = Follower::start(&space.destination, "writer-0");
    there.goes_on_after(here.last());
    there.await_more(50);
    machine.run_until_killed_at(step, &["rollback", name]);
    (there.last(), witness)
}

#[test]
fn a_rollback_that_is_killed_is_ended_by_a_rollback_on_another_machine() {
    for step in ["final pass", "relinquished"] {
        in_space(&format!("back-{}", step.replace(' ', "-")), |space| {
            let (machine, other, name) = (Machine::new(), Machine::new(), space.name.as_str());
            let (acknowledged, witness) = breaks_off(space, &machine, step);
            let next = machine.status(space)["next"].clone();
            let words = format!("tranship rollback {name} ");
            assert!(next.as_str().is_some_and(|next| next.trim_start_matches('`').starts_with(&words)), "{next}");
            let places = places(space);
            other.run(&["rollback", name].into_iter().chain(places.iter().map(String::as_str)).collect::<Vec<_>>());
            let home = Follower::start(&space.source, "writer-0");
            home.goes_on_after(acknowledged);
            home.await_more(50);
            witness.swears();
            let status = machine.status(space);
            assert_eq!((&status["phase"], &status["owner"]), (&"staging".into(), &"source".into()), "{status}");
            machine.run(&["finish", name, "--lift-fence"]);
            space.holds_nothing_of_ours();
        });
    }
}

#[test]
fn a_rollback_that_is_killed_before_its_commit_is_taken_back_by_a_cutover() {
    in_space("back-taken-back", |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        let (acknowledged, witness) = breaks_off(space, &machine, "final pass");
        let outcome = machine.run(&["cutover", name]);
        assert!(said(&outcome).contains("taken back: the application runs on the destination"), "{outcome:#?}");
        let there = Follower::start(&space.destination, "writer-0");
        there.goes_on_after(acknowledged);
        there.await_more(50);
        machine.run(&["rollback", name]);
        Follower::start(&space.source, "writer-0").goes_on_after(there.last());
        witness.swears();
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}
