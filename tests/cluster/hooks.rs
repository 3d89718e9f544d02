//! What the user has run at points of a cutover.

use crate::harness::{Machine, Place, Writer, in_space};

/// The agents' own image has a program that ends well, and can be made to fail.
const IMAGE: &str = concat!("tranship.io/tranship:", env!("CARGO_PKG_VERSION"));

fn phase(place: &Place, hook: usize, migration: &str) -> String {
    let pod = place.get("pod", &format!("tranship-{migration}-hook-{hook}"));
    pod["status"]["phase"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn hooks_run_where_the_application_was_and_where_it_goes() {
    in_space("hooks", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        let hooks = ["before-stop", "after-stop", "before-start", "after-ready"];
        let words = hooks.map(|point| format!("--hook={point}={IMAGE} /tranship --version"));
        machine.create(space, &words.each_ref().map(String::as_str));
        let at_rest = machine.cut_over(space, &["data-writer-0"]);
        at_rest.is_unchanged();
        let places = [&space.source, &space.source, &space.destination, &space.destination];
        for (hook, place) in places.into_iter().enumerate() {
            assert_eq!(phase(place, hook, name), "Succeeded", "{}", hooks[hook]);
        }
        machine.run(&["rollback", name]);
        for (hook, place) in places.into_iter().rev().enumerate() {
            assert_eq!(phase(place, hook, name), "Succeeded", "{} on the way back", hooks[hook]);
        }
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}

#[test]
fn a_hook_that_fails_before_the_commit_takes_the_cutover_back() {
    in_space("hook-fails", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        machine.create(space, &[&format!("--hook=after-stop={IMAGE} /tranship no-such-command")]);
        let outcome = machine.try_run(&["cutover", name]).expect_code(4);
        assert!(outcome.stderr.contains("TS-K960"), "{outcome:#?}");
        space.source.await_ready(&writer.labels(), writer.replicas);
        let status = machine.status(space);
        assert_eq!((&status["phase"], &status["owner"]), (&"staging".into(), &"source".into()), "{status}");
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}
