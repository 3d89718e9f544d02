//! What cannot go well is refused before anything is changed, with a code that says why.

use crate::harness::{Machine, Place, Space, Writer, in_space};

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
fn a_claim_is_never_made_smaller_than_the_one_that_it_follows() {
    in_space("too-small", |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        Writer::default().start(&space.source);
        machine.create(space, &["--pvc", "data-writer-0", "--size", "data-writer-0=64Mi"]);
        machine.run(&["stage", name]);
        let request = |place: &Place| {
            place.get("persistentvolumeclaim", "data-writer-0")["spec"]["resources"]["requests"]["storage"].clone()
        };
        assert_eq!(request(&space.destination), request(&space.source));
        machine.run(&["finish", name]);
        space.holds_nothing_of_ours();
    });
}
