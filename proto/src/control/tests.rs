use serde_json::json;

use super::*;

fn order() -> Order {
    Order {
        pass: "shop-data-3".into(),
        volume: "data".into(),
        role: Role::Source,
        meeting: Meeting::Dial {
            addresses: vec!["192.0.2.7:7401".parse().expect("an address"), "[2001:db8::7]:1".parse().expect("one")],
            fingerprint: "ab".repeat(32),
            secret: Secret("cd".repeat(32)),
        },
        purpose: Purpose::Final { level: "full".into() },
        mode: "owner".into(),
        accept_gaps: vec!["device".into()],
        exclude: vec!["/cache/*".into()],
        compress: "zstd:3".into(),
        transport: "auto".into(),
        bits_per_second: Some(1_000_000),
        kind: VolumeKind::Tree,
    }
}

fn hello() -> Hello {
    Hello {
        version: VERSION,
        secret: Secret("ef".repeat(32)),
        migration: "shop".into(),
        epoch: u64::MAX,
        coordinator: "laptop".into(),
        observes: false,
    }
}

fn ended() -> Ended {
    Ended {
        pass: "1".into(),
        volume: "data".into(),
        role: Role::Destination,
        exit: 0,
        report: Some(json!({ "version": 1, "stage": 4 })),
        error: None,
    }
}

#[test]
fn every_request_comes_back() {
    let listen = Order { meeting: Meeting::Listen { port: 7401 }, purpose: Purpose::default(), ..order() };
    let relayed = Meeting::Relayed { port: 7402, fingerprint: "0".into(), secret: Secret("1".into()) };
    for request in [
        Request::Hello(hello()),
        Request::Begin(order()),
        Request::Begin(Order { purpose: Purpose::Stage { reads_back: true }, ..listen.clone() }),
        Request::Begin(listen),
        Request::Begin(Order { meeting: relayed, purpose: Purpose::Comparison, ..order() }),
        Request::Begin(Order { purpose: Purpose::Probe, ..order() }),
        Request::Stop { pass: "1".into() },
        Request::Bandwidth { bits_per_second: None },
        Request::Bandwidth { bits_per_second: Some(8) },
        Request::Leave,
    ] {
        let line = encode(&request).expect("short");
        assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
        assert_eq!(decode::<Request>(&line).expect("known"), request);
    }
}

#[test]
fn every_event_comes_back() {
    let listening =
        Listening { pass: "1".into(), port: 7401, fingerprint: "ab".repeat(32), secret: Secret("cd".into()) };
    let volume = VolumeFacts {
        name: "data".into(),
        kind: VolumeKind::Block,
        bytes_total: 1 << 40,
        bytes_used: 1 << 40,
        inodes_total: 0,
        inodes_used: 0,
    };
    let state = PassState {
        pass: "1".into(),
        volume: "data".into(),
        role: Role::Source,
        is_running: true,
        listening: Some(listening.clone()),
        ended: Some(ended()),
    };
    let progress = Progress {
        pass: "1".into(),
        volume: "data".into(),
        phase: "copying".into(),
        entries_done: 1,
        entries_total: 2,
        bytes_done: 3,
        bytes_total: 4,
        bytes_sent: 5,
        gaps: 6,
        bytes_per_second: 7.5,
        seconds_left: None,
    };
    let (code, message) = (code::BUSY.to_owned(), "a pass runs".to_owned());
    for event in [
        Event::Welcome(Welcome {
            version: VERSION,
            build: "0.1.0".into(),
            epoch: 3,
            volumes: vec![volume],
            passes: vec![state],
        }),
        Event::Refused { code: code.clone(), message: message.clone() },
        Event::Superseded { epoch: 4 },
        Event::Rejected { pass: None, code, message },
        Event::Listening(listening),
        Event::Progress(progress),
        Event::Note { pass: "1".into(), text: "waiting".into() },
        Event::Ended(ended()),
    ] {
        assert_eq!(decode::<Event>(&encode(&event).expect("short")).expect("known"), event);
    }
}

#[test]
fn a_line_looks_as_the_manual_says() {
    let line = encode(&Request::Stop { pass: "1".into() }).expect("short");
    assert_eq!(line, b"{\"type\":\"stop\",\"pass\":\"1\"}\n");
    let value: Value = decode(&encode(&Request::Begin(order())).expect("short")).expect("an object");
    assert_eq!((&value["type"], &value["role"], &value["kind"]), (&json!("begin"), &json!("source"), &json!("tree")));
    assert_eq!(value["meeting"]["type"], "dial");
    assert_eq!(value["meeting"]["addresses"][1], "[2001:db8::7]:1");
}

#[test]
fn a_probe_is_ordered_and_reported_as_the_manual_says() {
    let order: Value =
        decode(&encode(&Order { purpose: Purpose::Probe, ..order() }).expect("short")).expect("an object");
    assert_eq!(order["purpose"], json!({"type": "probe"}));
    let way = |error: Option<&str>, rtt_ms| Way {
        address: "192.0.2.7:7410".parse().expect("an address"),
        transport: "quic".into(),
        error: error.map(str::to_owned),
        rtt_ms,
        mtu: rtt_ms.map(|_| 1_452),
        bytes_per_second: rtt_ms.map(|_| 1e6),
    };
    let ways = Ways { version: 1, ways: vec![way(None, Some(0.5)), way(Some("no answer"), None)] };
    let said = json!({"version": 1, "ways": [
        {"address": "192.0.2.7:7410", "transport": "quic", "error": null, "rtt_ms": 0.5, "mtu": 1_452, "bytes_per_second": 1e6},
        {"address": "192.0.2.7:7410", "transport": "quic", "error": "no answer", "rtt_ms": null, "mtu": null,
            "bytes_per_second": null}]});
    assert_eq!(serde_json::to_value(&ways).expect("it is"), said);
    assert_eq!(serde_json::from_value::<Ways>(said).expect("it is one"), ways);
}

#[test]
fn unknown_fields_are_ignored_and_unknown_messages_are_not() {
    let request: Request = decode(br#"{"type":"stop","pass":"1","politely":true}"#).expect("known");
    assert_eq!(request, Request::Stop { pass: "1".into() });
    for line in [&br#"{"type":"dance"}"#[..], b"{}", b"", b"[1]", b"{\"type\":\"stop\"}", b"\xff"] {
        let error = decode::<Request>(line).expect_err("no message");
        assert!(matches!(error, LineError::Meaning(_)), "{error:?}");
        assert_eq!(error.code(), "TS-C703");
    }
}

#[test]
fn what_is_too_long_is_neither_read_nor_written() {
    let long = Request::Stop { pass: "x".repeat(limit::CONTROL_LINE_BYTES_MAX) };
    assert!(matches!(encode(&long), Err(LineError::TooLong { .. })));
    let line = serde_json::to_vec(&long).expect("text");
    assert!(matches!(decode::<Request>(&line), Err(LineError::TooLong { .. })));
}

#[test]
fn secrets_are_not_in_the_debug_text() {
    let text = format!("{:?} {:?}", Request::Hello(hello()), Request::Begin(order()));
    assert!(!text.contains("efef") && !text.contains("cdcd"), "{text}");
}

#[test]
fn an_order_beyond_the_limits_is_named() {
    assert_eq!(order().validate(), Ok(()));
    let dial = |count| Meeting::Dial {
        addresses: vec!["192.0.2.7:1".parse().expect("an address"); count],
        fingerprint: String::new(),
        secret: Secret(String::new()),
    };
    for broken in [
        Order { pass: String::new(), ..order() },
        Order { pass: "../x".into(), ..order() },
        Order { pass: "x".repeat(129), ..order() },
        Order { meeting: dial(0), ..order() },
        Order { meeting: dial(17), ..order() },
        Order { mode: "--final".into(), ..order() },
        Order { compress: "a b".into(), ..order() },
        Order { purpose: Purpose::Final { level: String::new() }, ..order() },
        Order { accept_gaps: vec!["x".into(); 65], ..order() },
        Order { exclude: vec![String::new(); limit::PATTERNS_MAX + 1], ..order() },
        Order { exclude: vec!["x".repeat(limit::PATTERN_BYTES_MAX + 1)], ..order() },
        Order { exclude: vec!["a\0b".into()], ..order() },
    ] {
        assert!(broken.validate().is_err(), "{broken:?}");
    }
}
