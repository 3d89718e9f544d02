//! The ways between the clusters, tried before anything is copied: by agents that are gone again when the preflight returns.

use rustix::process::Signal;
use serde_json::Value;
use tranship_lab::Weather;
use tranship_tests::processes::Outcome;

use crate::harness::{Machine, Space, Writer, in_space, link, places, said, until};

/// The figures that a command has printed.
fn handshake(outcome: &Outcome) -> Value {
    let values = outcome.stdout.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut found = values.filter_map(|mut value| value.get_mut("handshake").map(Value::take));
    found.next().unwrap_or_else(|| panic!("no handshake in {outcome:#?}"))
}

/// The way that a pass would go.
fn chosen(handshake: &Value) -> &Value {
    let at = handshake["chosen"].as_u64().unwrap_or_else(|| panic!("no way works: {handshake:#}"));
    &handshake["ways"][at as usize]
}

/// A way that was measured.
fn is_measured(way: &Value) {
    for figure in ["rttMs", "bytesPerSecond"] {
        assert!(way[figure].as_f64().is_some_and(|figure| figure > 0.0), "{figure} of {way:#}");
    }
}

/// What there is on both sides, pods of ours included.
fn all(space: &Space) -> Vec<Vec<String>> {
    let of_ours = |place| space.marked(place).into_iter().filter(|name| name.starts_with("Pod/"));
    space.places().map(|place| space.objects(place).into_iter().chain(of_ours(place)).collect()).into()
}

#[test]
fn a_preflight_measures_the_ways_and_leaves_both_namespaces_as_they_were() {
    in_space("handshake", |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        Writer::default().start(&space.source);
        // The destination's namespace is made by this.
        let places = places(space);
        let words: Vec<&str> =
            ["create", name, "--output=json"].into_iter().chain(places.iter().map(String::as_str)).collect();
        is_measured(chosen(&handshake(&machine.run(&words))));
        let before = all(space);
        let outcome = machine.run(&["preflight", name, "--output=json"]);
        assert_eq!(all(space), before);
        let found = handshake(&outcome);
        let way = chosen(&found);
        is_measured(way);
        let named = ["listen", "endpoint", "transport"].map(|field| way[field].as_str().unwrap_or_default());
        assert_eq!(named, ["destination", "nodePort", "quic"], "{found:#}");
        assert!(way["mtu"].as_u64() >= Some(1_200), "{way:#}");
        // A pod's address is known in its own cluster only.
        let ways = found["ways"].as_array().expect("ways");
        assert!(ways.iter().any(|way| way["endpoint"] == "pod" && way["error"].is_string()), "{found:#}");
        ways.iter().filter(|way| way["error"].is_null()).for_each(is_measured);
        assert!(found["estimate"]["stageSeconds"].as_f64() > Some(0.0), "{found:#}");
        let told = said(&outcome);
        for code in ["TS-K141", "TS-K142", "TS-K146"] {
            assert!(told.contains(code), "{code}: {told}");
        }
        machine.run(&["stage", name]);
        assert_eq!(machine.status(space)["path"]["transport"], "quic");
        machine.run(&["finish", name]);
        space.holds_nothing_of_ours();
    });
}

/// The weather is everybody's: other tests that run meanwhile have it, too, and bear it.
#[test]
fn a_preflight_names_tcp_where_udp_does_not_pass() {
    struct Clear;
    impl Drop for Clear {
        fn drop(&mut self) {
            link().clear().expect("clear weather");
        }
    }
    in_space("handshake-no-udp", |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        Writer::default().start(&space.source);
        machine.create(space, &[]);
        let _clear = Clear;
        link().set(Weather { blocks_udp: true, ..Weather::default() }).expect("weather");
        let outcome = machine.run(&["preflight", name, "--output=json"]);
        let found = handshake(&outcome);
        assert_eq!(chosen(&found)["transport"], "tcp", "{found:#}");
        assert!(said(&outcome).contains("TS-K143"), "{found:#}");
        machine.run(&["finish", name]);
    });
}

#[test]
fn a_preflight_takes_the_way_that_is_wanted_and_its_pods_away_when_it_is_broken_off() {
    in_space("handshake-stopped", |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        Writer::default().start(&space.source);
        machine.create(space, &["--endpoint", "relay"]);
        let before = all(space);
        let outcome = machine.run(&["preflight", name, "--output=json"]);
        let found = handshake(&outcome);
        let way = chosen(&found);
        is_measured(way);
        assert_eq!((&way["endpoint"], found["ways"].as_array().map(Vec::len)), (&"relay".into(), Some(1)), "{found:#}");
        assert!(said(&outcome).contains("TS-K143"), "{found:#}");
        assert_eq!(all(space), before);
        let running = machine.begin(&["preflight", name]);
        until("pods of ours", || (!space.source.list("pods", "tranship.io/agent").is_empty()).then_some(()));
        running.signal(Signal::INT).expect("it is there");
        assert_eq!(Machine::end(running).code, Some(4));
        assert_eq!(all(space), before);
        machine.run(&["finish", name]);
    });
}
