//! What cannot go well is refused before anything is changed, with a code that says why.

use crate::harness::{Follower, Machine, Space, Writer, in_space};

/// `create` with these words is refused, names `code`, and makes nothing.
fn is_refused(space: &Space, more: &[&str], code: &str) {
    Writer::default().start(&space.source);
    let before = space.objects(&space.source);
    let outcome = Machine::new().try_create(space, more).expect_code(3);
    let said = format!("{}{}", outcome.stdout.join("\n"), outcome.stderr);
    assert!(said.contains(code), "{said}");
    assert_eq!(space.objects(&space.source), before);
    assert_eq!(space.marked(&space.destination), [""; 0]);
}

#[test]
fn a_destination_without_the_storage_class_is_refused() {
    in_space("no-class", |space| is_refused(space, &["--storage-class", "xfs:no-such"], "no-such"));
}

#[test]
fn a_claim_that_does_not_exist_is_refused() {
    in_space("no-claim", |space| is_refused(space, &["--pvc", "no-such"], "no-such"));
}

#[test]
fn a_destination_that_is_smaller_than_what_is_there_is_refused() {
    in_space("too-small", |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        Writer::default().start(&space.source);
        Follower::start(&space.source, "writer-0").await_more(50);
        // A kubelet may not have counted yet what the volume holds; then the first stage does.
        let words = ["--pvc", "data-writer-0", "--storage-class", "xfs:ext4", "--size", "data-writer-0=5Mi"];
        let created = machine.try_create(space, &words);
        if created.code == Some(0) {
            let staged = machine.try_run(&["stage", name]).expect_code(3);
            assert!(staged.stderr.contains("TS-K957"), "{staged:#?}");
            machine.run(&["finish", name]);
        } else {
            created.expect_code(3);
        }
        space.holds_nothing_of_ours();
    });
}
