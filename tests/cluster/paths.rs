//! Ways between the clusters, good and bad.

use tranship_lab::Weather;

use crate::harness::{Follower, Machine, Space, Writer, in_space, in_space_alone, link};

/// Stages and moves a writer, and gives the path that stands in the status.
fn path_of(space: &Space, create: &[&str]) -> serde_json::Value {
    let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
    writer.start(&space.source);
    let here = Follower::start(&space.source, "writer-0");
    here.await_more(50);
    machine.create(space, create);
    machine.run(&["stage", name]);
    let at_rest = machine.cut_over(space, &["data-writer-0"]);
    Follower::start(&space.destination, "writer-0").goes_on_after(here.last());
    at_rest.is_unchanged();
    let path = machine.status(space)["path"].clone();
    machine.run(&["finish", name, "--lift-fence"]);
    path
}

/// Weather between the clusters, until it is dropped.
struct Bad;

impl Bad {
    fn set(weather: Weather) -> Self {
        link().set(weather).expect("weather");
        Self
    }
}

impl Drop for Bad {
    fn drop(&mut self) {
        link().clear().expect("clear weather");
    }
}

#[test]
fn an_application_is_moved_through_the_api_servers_where_that_is_wanted() {
    in_space("relay", |space| {
        let path = path_of(space, &["--endpoint", "relay"]);
        assert_eq!(path["isRelayed"], true, "{path}");
    });
}

/// The weather is everybody's, and in this one no other test could go on.
#[test]
fn an_application_is_moved_where_nothing_but_the_api_servers_can_be_reached() {
    in_space_alone("cut-off", |space| {
        let _bad = Bad::set(Weather { is_cut: true, ..Weather::default() });
        let path = path_of(space, &[]);
        assert_eq!(path["isRelayed"], true, "{path}");
    });
}

#[test]
fn an_application_is_moved_to_who_dials_the_source() {
    in_space("listening-source", |space| {
        let path = path_of(space, &["--listen", "source"]);
        assert_eq!((&path["listen"], &path["isRelayed"]), (&"source".into(), &false.into()), "{path}");
        assert_eq!(path["transport"], "quic", "{path}");
    });
}

/// Other tests that run meanwhile have this weather, too, and bear it.
#[test]
fn an_application_is_moved_over_tcp_where_udp_does_not_pass() {
    in_space("no-udp", |space| {
        let _bad = Bad::set(Weather { blocks_udp: true, ..Weather::default() });
        let path = path_of(space, &[]);
        assert_eq!(path["transport"], "tcp", "{path}");
    });
}
