//! Both agents in one process, for what two processes cannot be made to do.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::future::pending;
use std::net::Ipv4Addr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;
use tranship_agent::driver::Trial;
use tranship_agent::link::{
    Admission, Bandwidth, FrameReceiver, FrameSender, Identity, Link, LinkOptions, Listener, dial,
};
use tranship_agent::monitor::Monitor;
use tranship_agent::report::Report;
use tranship_agent::sync::{Compression, Pass, Receiving, examine, open_source, receive, send};
use tranship_proto::Message;
use tranship_proto::message::{Contract, Fidelity, Level};

/// Longer than anything here should take, shorter than a test runner's patience.
const PATIENCE: Duration = Duration::from_secs(60);

/// Several times what is read ahead of the link.
const FILE_BYTES: usize = 80 << 20;

/// A listener's end and a dialer's.
async fn pair(options: &LinkOptions) -> (Link, Link, Listener) {
    let (here, there) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let pin = Admission::Pin(there.fingerprint());
    let mut listener = Listener::bind(&[(Ipv4Addr::LOCALHOST, 0).into()], &here, pin, options).unwrap();
    let (addresses, pin) = (listener.local_addresses(), Admission::Pin(here.fingerprint()));
    let (accepted, dialed) = tokio::join!(listener.accept(), dial(&addresses, &there, pin, options));
    (accepted.unwrap(), dialed.unwrap(), listener)
}

/// Copies over links of which the source's slows down once the pass has begun.
async fn copy(folders: &Folders, source_dials: bool, trial: Trial) -> Report {
    let bandwidth = Bandwidth::new(None);
    let options = LinkOptions { bandwidth: Some(bandwidth.clone()), ..LinkOptions::default() };
    let (listening, dialing, _listener) = pair(&options).await;
    let (from, to) = if source_dials { (dialing, listening) } else { (listening, dialing) };
    let pass = Pass {
        volume: open_source(&folders.source).unwrap(),
        state: folders.states.join("source"),
        fidelity: Fidelity::Owner,
        accepted_gaps: Vec::new(),
        is_final: false,
        level: Level::Full,
        excludes: Vec::new(),
        compression: Compression::None,
        tracking: None,
        trial,
    };
    let state = folders.states.join("destination");
    let receiving = Receiving { path: &folders.target, state: &state, monitor: Arc::new(Monitor::default()) };
    let sending = async {
        let sending = send(&pass, from, Arc::new(Monitor::default()), pending());
        // The link is sure to be what everything waits for.
        let slowing = async { bandwidth.set(NonZeroU64::new(240_000_000)) };
        tokio::join!(sending, slowing).0
    };
    let both = async { tokio::join!(sending, receive(&receiving, to, pending())) };
    let (sent, received) = timeout(PATIENCE, both).await.expect("an end in time");
    received.unwrap();
    sent.unwrap()
}

/// Two folders and a place for what is remembered, with a few files in the first.
struct Folders {
    _around: TempDir,
    source: PathBuf,
    target: PathBuf,
    states: PathBuf,
}

impl Folders {
    fn with_files(bytes: usize) -> Self {
        let around = TempDir::new().unwrap();
        let [source, target, states] = ["source", "target", "states"].map(|name| around.path().join(name));
        fs::create_dir(&source).unwrap();
        for number in 0..3_usize {
            let bytes: Vec<u8> = (0..bytes).map(|at| ((at / 251) * 31 + at + number) as u8).collect();
            fs::write(source.join(number.to_string()), bytes).unwrap();
        }
        Self { _around: around, source, target, states }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_that_change_the_transport_on_their_way_arrive_complete() {
    let trial = Trial {
        // More than what is read ahead of the link: that goes where it was meant to.
        settling_bytes: 64 << 20,
        turn_bytes: 4 << 20,
        left_bytes_min: 16 << 20,
        rate_min: 0.0,
        rtt_max: Duration::from_secs(1),
        ..Trial::default()
    };
    for source_dials in [true, false] {
        let folders = Folders::with_files(FILE_BYTES);
        let report = copy(&folders, source_dials, trial.clone()).await;
        assert_eq!(report.transport.as_ref().unwrap().name, "quic+tcp", "{report:#?}");
        for number in 0..3 {
            let number = number.to_string();
            let [source, target] = [&folders.source, &folders.target].map(|at| fs::read(at.join(&number)).unwrap());
            assert!(source == target, "{number}");
        }
        // What is not worth it is left alone: the next pass has nothing to do.
        let report = copy(&folders, source_dials, trial.clone()).await;
        assert_eq!(report.transport.as_ref().unwrap().name, "quic");
        assert_eq!(report.counts.bytes_literal, 0);
    }
}

/// Hands messages on, and changes the answer to a challenge.
async fn hand_on(mut from: FrameReceiver, mut to: FrameSender) {
    while let Ok(Some(frame)) = from.recv().await {
        let mut message = Message::decode(frame).unwrap();
        if let Message::Proof(proof) = &mut message {
            proof.challenge.0[7] ^= 1;
        }
        if to.send(message.encode()).await.is_err() {
            return;
        }
    }
    let _ = to.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_knows_the_digest_and_not_the_answer_to_the_challenge_is_found_out() {
    let folders = Folders::with_files(100_000);
    copy(&folders, true, Trial::default()).await;
    let options = LinkOptions::default();
    let ((near, from, _outside), (far, to, _inside)) = tokio::join!(pair(&options), pair(&options));
    let ((near_sends, near_receives), (far_sends, far_receives)) = (near.control, far.control);
    let contract = Contract::all(Fidelity::Owner);
    let state = folders.states.join("destination");
    let receiving = Receiving { path: &folders.target, state: &state, monitor: Arc::new(Monitor::default()) };
    let volume = open_source(&folders.source).unwrap();
    let examining = examine(volume, contract, &[], from, Arc::new(Monitor::default()), pending());
    let all = async {
        tokio::select! {
            compared = examining => compared.unwrap(),
            never = async {
                let _ = tokio::join!(
                    hand_on(near_receives, far_sends),
                    hand_on(far_receives, near_sends),
                    receive(&receiving, to, pending()),
                );
                pending().await
            } => never,
        }
    };
    let compared = timeout(PATIENCE, all).await.expect("an end in time");
    assert_eq!(compared.a.canonical, compared.b.canonical);
    assert_ne!(compared.a.challenge, compared.b.challenge);
    assert_eq!(compared.differences.len(), 1);
}
