//! What every change has to pass.

use crate::harness::{
    Client, Database, Follower, Machine, Space, Volume, Witness, Writer, changes, in_space, places, uncarried,
};

#[test]
fn every_acknowledged_commit_of_postgresql_is_there_after_the_cutover_and_after_the_way_home() {
    in_space("postgresql", |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        Database::start(&space.source);
        let witness = Witness::start(space, Database::LABELS);
        let before = [space.objects(&space.source), space.objects(&space.destination)];
        let load = Database::load(&space.source);
        let client = Client::start(&space.source, 1);
        client.await_more(100);
        machine.create(space, &[]);
        machine.run(&["stage", name]);
        machine.run(&["stage", name]);
        client.await_more(100);
        machine.run(&["cutover", name]);
        drop(load);
        let mut acknowledged = client.end();
        let lost = |place| acknowledged.difference(&Database::commits(place)).copied().collect::<Vec<_>>();
        assert_eq!(lost(&space.destination), [0u64; 0], "of {}", acknowledged.len());
        Database::check(&space.destination);

        // What was left stays as it is while the application writes elsewhere.
        let left = Volume::of(&space.source, Database::CLAIM);
        let (tree, digest) = (left.tree(), left.digest());
        let load = Database::load(&space.destination);
        let client = Client::start(&space.destination, acknowledged.last().map_or(1, |last| last + 1_000));
        client.await_more(200);
        assert_eq!(left.digest(), digest, "{:#?}", changes(&tree, &left.tree()));

        machine.run(&["rollback", name]);
        drop(load);
        acknowledged.append(&mut client.end());
        let there = Database::commits(&space.source);
        assert_eq!(acknowledged.difference(&there).copied().collect::<Vec<_>>(), [0u64; 0]);
        Database::check(&space.source);
        witness.swears();

        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
        let after = [space.objects(&space.source), space.objects(&space.destination)];
        assert_eq!(after[0], before[0], "the source has what it had");
        let copy = format!("PersistentVolumeClaim/{}", Database::CLAIM);
        let there: Vec<&String> = after[1].iter().filter(|object| **object != copy).collect();
        assert_eq!(there, before[1].iter().collect::<Vec<_>>(), "the destination has what it had, and the copy");
        assert_ne!(there.len(), after[1].len(), "a copy is not deleted unasked");
    });
}

/// A cutover that is killed right after a step was recorded is ended by the same command on another machine.
fn is_ended_by_another_machine_when_it_is_killed_at(step: &str) {
    in_space(&format!("kill-{}", step.replace(' ', "-")), |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        let witness = Witness::start(space, &writer.labels());
        let follower = Follower::start(&space.source, "writer-0");
        follower.await_more(50);
        machine.create(space, &[]);
        machine.run(&["stage", name]);
        machine.run_until_killed_at(step, &["cutover", name]);
        let other = Machine::new();
        let places = places(space);
        let words: Vec<&str> = ["cutover", name].into_iter().chain(places.iter().map(String::as_str)).collect();
        if step == "fencing" || step == "quiescing" {
            other.run_until_killed_at("final pass", &words);
        }
        let at_rest = source_of(space).tree();
        if step == "proven" || step == "relinquished" {
            let destination = Volume::of(&space.destination, "data-writer-0").tree();
            assert_eq!(uncarried(&at_rest, &destination), [""; 0], "proven equal, and not the same");
        }

        other.run(&words);
        let follower_there = Follower::start(&space.destination, "writer-0");
        follower_there.goes_on_after(follower.last());
        follower_there.await_more(50);
        assert_eq!(changes(&at_rest, &source_of(space).tree()), [""; 0], "the source was changed");
        witness.swears();
        let status = machine.status(space);
        assert_eq!((&status["phase"], &status["owner"]), (&"cut over".into(), &"destination".into()), "{status}");
        assert_eq!(status["proof"]["level"], "full", "{status}");
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}

fn source_of(space: &Space) -> Volume {
    Volume::of(&space.source, "data-writer-0")
}

#[test]
fn a_cutover_that_is_killed_before_it_fences_is_ended_by_another_machine() {
    is_ended_by_another_machine_when_it_is_killed_at("fencing");
}

#[test]
fn a_cutover_that_is_killed_before_it_stops_the_application_is_ended_by_another_machine() {
    is_ended_by_another_machine_when_it_is_killed_at("quiescing");
}

#[test]
fn a_cutover_that_is_killed_before_the_final_pass_is_ended_by_another_machine() {
    is_ended_by_another_machine_when_it_is_killed_at("final pass");
}

#[test]
fn a_cutover_that_is_killed_before_the_owner_gives_up_is_ended_by_another_machine() {
    is_ended_by_another_machine_when_it_is_killed_at("proven");
}

#[test]
fn a_cutover_that_is_killed_between_the_two_writes_of_its_commit_is_ended_by_another_machine() {
    is_ended_by_another_machine_when_it_is_killed_at("relinquished");
}

#[test]
fn a_cutover_that_is_killed_before_it_starts_the_application_is_ended_by_another_machine() {
    is_ended_by_another_machine_when_it_is_killed_at("starting");
}

#[test]
fn a_migration_that_is_finished_leaves_the_fence_around_what_was_left_and_nothing_else() {
    in_space("finished", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        let before = space.objects(&space.source);
        machine.create(space, &[]);
        machine.cut_over(space, &["data-writer-0"]).is_unchanged();
        machine.run(&["finish", name]);
        let mut left = space.marked(&space.source);
        left.sort();
        let kinds: Vec<&str> = left.iter().filter_map(|object| object.split('/').next()).collect();
        let fence = ["Lease", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"];
        assert_eq!(kinds, fence, "{left:#?}");
        assert_eq!(space.marked(&space.destination), [""; 0]);
        // A pod of the old application is refused, by whomever it is made.
        space.source.kubectl(&["scale", "statefulset", writer.name, "--replicas", "1"]);
        space.source.await_event("FailedCreate", writer.name, "tranship");
        space.source.kubectl(&["scale", "statefulset", writer.name, "--replicas", "0"]);
        let mut objects = space.objects(&space.source);
        objects.retain(|object| !object.starts_with("Lease/"));
        assert_eq!(objects, before);
    });
}
