//! What cannot go well is refused before anything is changed, with a code that says why.

use serde_json::Value;

use crate::harness::{Machine, Place, Space, Writer, app, in_space, said, until};

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

/// A file system of ext4 holds more than one of xfs in a device of the same size.
#[test]
fn a_destination_without_room_is_refused_before_a_byte_is_copied_and_a_larger_claim_takes_it() {
    in_space("no-room", |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        let fill = app::shell("data", "dd if=/dev/urandom of=/data/much bs=1M; sync; sleep 100000");
        let pod = app::pod(&[fill], &["data"]);
        space.source.make(&[app::claim("data", "ext4", "ReadWriteOnce"), app::deployment("full", &pod)]);
        space.source.await_ready("app=full", 1);
        let size = |place: &Place| place.kubectl(&["exec", "deployment/full", "--", "stat", "-c", "%s", "/data/much"]);
        let mut last = String::new();
        until("the volume is full", || {
            let now = size(&space.source);
            let is_full = now == last && !now.trim().is_empty() && now.trim() != "0";
            last = now;
            is_full.then_some(())
        });
        machine.create(space, &["--storage-class", "ext4:xfs"]);
        let outcome = machine.try_run(&["stage", name]).expect_code(3);
        assert!(said(&outcome).contains("TS-K957"), "{outcome:#?}");
        assert!(said(&outcome).contains("--size"), "{outcome:#?}");
        let status = machine.status(space);
        assert_eq!(status["volumes"][0]["last"], Value::Null, "{status}");
        machine.run(&["finish", name]);
        space.destination.kubectl(&["delete", "persistentvolumeclaims", "--all"]);
        machine.create(space, &["--storage-class", "ext4:xfs", "--pvc", "data", "--size", "data=1Gi"]);
        machine.run(&["stage", name]);
        machine.run(&["finish", name]);
        space.holds_nothing_of_ours();
    });
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
