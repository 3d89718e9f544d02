//! A pass whose contents change the transport on their way.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::net::Ipv4Addr;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;
use tranship_agent::driver::Trial;
use tranship_agent::link::{Admission, Bandwidth, Identity, Link, LinkOptions, Listener, dial};
use tranship_agent::monitor::Monitor;
use tranship_agent::report::Report;
use tranship_agent::sync::{Compression, Pass, Receiving, open_source, receive, send};
use tranship_proto::message::Fidelity;

/// Longer than anything here should take, shorter than a test runner's patience.
const PATIENCE: Duration = Duration::from_secs(60);

/// Several times what is read ahead of the link.
const FILE_BYTES: usize = 64 << 20;

/// A listener's end and a dialer's.
async fn pair(options: &LinkOptions) -> (Link, Link, Listener) {
    let (here, there) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let pin = Admission::Pin(there.fingerprint());
    let mut listener = Listener::bind(&[(Ipv4Addr::LOCALHOST, 0).into()], &here, pin, options).unwrap();
    let (addresses, pin) = (listener.local_addresses(), Admission::Pin(here.fingerprint()));
    let (accepted, dialed) = tokio::join!(listener.accept(), dial(&addresses, &there, pin, options));
    (accepted.unwrap(), dialed.unwrap(), listener)
}

/// Copies `source` to `target` over links of which the source's slows down once the pass has begun.
async fn copy(source: &Path, target: &Path, states: &Path, source_dials: bool, trial: Trial) -> Report {
    let bandwidth = Bandwidth::new(None);
    let options = LinkOptions { bandwidth: Some(bandwidth.clone()), ..LinkOptions::default() };
    let (listening, dialing, _listener) = pair(&options).await;
    let (from, to) = if source_dials { (dialing, listening) } else { (listening, dialing) };
    let pass = Pass {
        volume: open_source(source).unwrap(),
        state: states.join("source"),
        fidelity: Fidelity::Owner,
        accepted_gaps: Vec::new(),
        final_level: None,
        excludes: Vec::new(),
        compression: Compression::None,
        tracking: None,
        trial,
    };
    let state = states.join("destination");
    let receiving = Receiving { path: target, state: &state, monitor: Arc::new(Monitor::default()) };
    let never = std::future::pending::<()>;
    let sending = async {
        let sending = send(&pass, from, Arc::new(Monitor::default()), never());
        // The link is sure to be what everything waits for.
        let slowing = async { bandwidth.set(NonZeroU64::new(800_000_000)) };
        tokio::join!(sending, slowing).0
    };
    let both = async { tokio::join!(sending, receive(&receiving, to, never())) };
    let (sent, received) = timeout(PATIENCE, both).await.expect("an end in time");
    received.unwrap();
    sent.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_that_change_the_transport_on_their_way_arrive_complete() {
    let trial = Trial {
        settling_bytes: 1 << 20,
        turn_bytes: 4 << 20,
        left_bytes_min: 16 << 20,
        rate_min: 0.0,
        rtt_max: Duration::from_secs(1),
    };
    for source_dials in [true, false] {
        let folder = TempDir::new().unwrap();
        let [source, target, states] = ["source", "target", "states"].map(|name| folder.path().join(name));
        fs::create_dir(&source).unwrap();
        for number in 0..3_usize {
            let bytes: Vec<u8> = (0..FILE_BYTES).map(|at| ((at / 251) * 31 + at + number) as u8).collect();
            fs::write(source.join(number.to_string()), bytes).unwrap();
        }
        let report = copy(&source, &target, &states, source_dials, trial).await;
        assert_eq!(report.transport.as_ref().unwrap().name, "quic+tcp", "{report:#?}");
        for number in 0..3 {
            let number = number.to_string();
            assert!(fs::read(source.join(&number)).unwrap() == fs::read(target.join(&number)).unwrap(), "{number}");
        }
        // What is not worth it is left alone: the next pass has nothing to do.
        let report = copy(&source, &target, &states, source_dials, trial).await;
        assert_eq!(report.transport.as_ref().unwrap().name, "quic");
        assert_eq!(report.counts.bytes_literal, 0);
    }
}
