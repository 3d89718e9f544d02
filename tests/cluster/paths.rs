//! Ways between the clusters, good and bad.

use tranship_lab::Weather;

use crate::harness::{Follower, Machine, Space, Writer, in_space, link};

/// Stages and moves a writer, and gives the path that stands in the status.
fn path_of(space: &Space, create: &[&str]) -> serde_json::Value {
    let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
    writer.start(&space.source);
    let here = Follower::start(&space.source, "writer-0");
    here.await_more(50);
    machine.create(space, create);
    machine.run(&["stage", name]);
    machine.run(&["cutover", name]);
    Follower::start(&space.destination, "writer-0").goes_on_after(here.last());
    let path = machine.status(space)["path"].clone();
    machine.run(&["finish", name, "--lift-fence"]);
    path
}

#[test]
fn an_application_is_moved_where_nothing_but_the_api_servers_can_be_reached() {
    in_space("relay", |space| {
        let path = path_of(space, &["--endpoint", "relay"]);
        assert_eq!(path["isRelayed"], true, "{path}");
    });
}

/// The weather is everybody's: other tests that run meanwhile have it, too, and bear it.
#[test]
fn an_application_is_moved_over_tcp_where_udp_does_not_pass() {
    struct Clear;
    impl Drop for Clear {
        fn drop(&mut self) {
            link().clear().expect("clear weather");
        }
    }
    in_space("no-udp", |space| {
        let _clear = Clear;
        link().set(Weather { blocks_udp: true, ..Weather::default() }).expect("weather");
        let path = path_of(space, &[]);
        assert_eq!(path["transport"], "tcp", "{path}");
    });
}
