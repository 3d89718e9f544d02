//! Two ends of a link in one process, over real sockets on loopback.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests fail by panicking and print what they measured")]

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tranship_agent::link::{
    Admission, Bandwidth, Fingerprint, FrameReceiver, FrameSender, Identity, Link, LinkError, LinkOptions, Listener,
    Secret, Ticket, Transport, dial,
};
use tranship_proto::Frame;

#[path = "link/beside.rs"]
mod beside;
#[path = "link/connections.rs"]
mod connections;
#[path = "link/probing.rs"]
mod probing;

const BOTH: [Transport; 2] = [Transport::Quic, Transport::Tcp];

/// Longer than anything here should take, shorter than a test runner's patience.
const PATIENCE: Duration = Duration::from_secs(30);

fn options(transport: Transport) -> LinkOptions {
    LinkOptions { transport, ..LinkOptions::default() }
}

fn anywhere() -> Vec<SocketAddr> {
    vec![(Ipv4Addr::LOCALHOST, 0).into()]
}

/// A listener and a dialer that pin each other.
async fn pair_with(listener_options: &LinkOptions, dialer_options: &LinkOptions) -> (Link, Link, Listener) {
    let (here, there) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let pin = Admission::Pin(there.fingerprint());
    let mut listener = Listener::bind(&anywhere(), &here, pin, listener_options).unwrap();
    let addresses = listener.local_addresses();
    let pin = Admission::Pin(here.fingerprint());
    let both = async { tokio::join!(listener.accept(), dial(&addresses, &there, pin, dialer_options)) };
    let (accepted, dialed) = timeout(PATIENCE, both).await.expect("a link in time");
    let (accepted, dialed) = (accepted.unwrap(), dialed.unwrap());
    assert_eq!(accepted.streams.peer(), there.fingerprint());
    assert_eq!(dialed.streams.peer(), here.fingerprint());
    (accepted, dialed, listener)
}

async fn pair(transport: Transport) -> (Link, Link, Listener) {
    pair_with(&options(transport), &options(transport)).await
}

fn frame(kind: u8, head: &[u8], body_bytes: usize) -> Frame {
    let body: Vec<u8> = (0..body_bytes).map(|at| (at * 31 + usize::from(kind)) as u8).collect();
    Frame { kind, head: Bytes::copy_from_slice(head), body: body.into() }
}

fn frames() -> Vec<Frame> {
    [(0, 0), (5, 0), (0, 1), (3, 1 << 20), (100_000, 70_000), (1 << 20, 1 << 20), (1, 1)]
        .iter()
        .enumerate()
        .map(|(at, (head, body))| frame(at as u8, &vec![at as u8; *head], *body))
        .collect()
}

async fn send_all(mut sender: FrameSender) {
    for frame in frames() {
        sender.send(frame).await.unwrap();
    }
    sender.finish().await.unwrap();
}

async fn receive_all(mut receiver: FrameReceiver) {
    for frame in frames() {
        assert!(receiver.recv().await.unwrap() == Some(frame));
    }
    assert!(receiver.recv().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_arrive_unchanged_on_every_stream_in_both_directions() {
    for transport in BOTH {
        let (one, two, _listener) = pair(transport).await;
        for (from, to) in [(&one, &two), (&two, &one)] {
            let streams = async {
                let send = async {
                    for _ in 0..3 {
                        send_all(from.streams.open_data().await.unwrap()).await;
                    }
                };
                let receive = async {
                    for _ in 0..3 {
                        receive_all(to.streams.accept_data().await.unwrap()).await;
                    }
                };
                tokio::join!(send, receive)
            };
            timeout(PATIENCE, streams).await.expect("data in time");
        }
        let (one_sends, one_receives) = one.control;
        let (two_sends, two_receives) = two.control;
        let control = async {
            tokio::join!(send_all(one_sends), receive_all(two_receives), send_all(two_sends), receive_all(one_receives))
        };
        timeout(PATIENCE, control).await.expect("control in time");
        let stats = one.streams.stats();
        assert_eq!(stats.transport, if transport == Transport::Quic { "quic" } else { "tcp" });
        assert!(stats.sent_bytes > 10 << 20 && stats.received_bytes > 10 << 20, "{stats:?}");
        assert!(stats.rtt.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_streams_at_once_do_not_mix() {
    for (transport, connections) in [(Transport::Quic, 1), (Transport::Quic, 4), (Transport::Tcp, 1)] {
        let dialing = LinkOptions { connections, ..options(transport) };
        let (one, two, _listener) = pair_with(&options(transport), &dialing).await;
        for (from, to) in [(&one, &two), (&two, &one)] {
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..8 {
                let (from, to) = (from.streams.clone(), to.streams.clone());
                tasks.spawn(async move { send_all(from.open_data().await.unwrap()).await });
                tasks.spawn(async move { receive_all(to.accept_data().await.unwrap()).await });
            }
            while let Some(done) = timeout(PATIENCE, tasks.join_next()).await.expect("data in time") {
                done.unwrap();
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Linked,
    Identity,
}

async fn meet(transport: Transport, listens: Admission, dials: Admission, keys: [&Identity; 2]) -> Outcome {
    let mut listener = Listener::bind(&anywhere(), keys[0], listens, &options(transport)).unwrap();
    let addresses = listener.local_addresses();
    let dialing = options(transport);
    let dialed = timeout(PATIENCE, dial(&addresses, keys[1], dials, &dialing)).await.expect("an answer in time");
    match dialed {
        Ok(_) => {
            listener.accept().await.unwrap();
            Outcome::Linked
        }
        Err(error) => {
            assert!(matches!(error, LinkError::Identity), "{error:?}");
            assert_eq!(error.code(), "TS-S601");
            let nobody = timeout(Duration::from_millis(20), listener.accept()).await;
            assert!(nobody.is_err(), "the listener let somebody in");
            Outcome::Identity
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_is_meant_comes_in() {
    use Outcome::{Identity as No, Linked};
    let (here, there, other) =
        (Identity::generate().unwrap(), Identity::generate().unwrap(), Identity::generate().unwrap());
    let (secret, guess) = (Secret::generate().unwrap(), Secret::generate().unwrap());
    let pin = |identity: &Identity| Admission::Pin(identity.fingerprint());
    let both = |identity: &Identity, secret: &Secret| Admission::Both(identity.fingerprint(), secret.clone());
    let known = |secret: &Secret| Admission::Secret(secret.clone());
    let cases = [
        ("both pins are right", pin(&there), pin(&here), Linked),
        ("the listener wants another dialer", pin(&other), pin(&here), No),
        ("the dialer wants another listener", pin(&there), pin(&other), No),
        ("a ticket", known(&secret), both(&here, &secret), Linked),
        ("a ticket of another listener", known(&secret), both(&other, &secret), No),
        ("a ticket with another secret", known(&secret), both(&here, &guess), No),
        ("the secret alone", known(&secret), known(&secret), Linked),
        ("a guessed secret alone", known(&secret), known(&guess), No),
        ("a pin where a secret is wanted", known(&secret), pin(&here), No),
        ("a secret where only a pin was agreed", pin(&there), both(&here, &secret), No),
        ("both on both sides", both(&there, &secret), both(&here, &secret), Linked),
        ("both, with the wrong key", both(&other, &secret), both(&here, &secret), No),
    ];
    for transport in [Transport::Quic, Transport::Tcp, Transport::Auto] {
        for (name, listens, dials, expected) in &cases {
            let outcome = meet(transport, listens.clone(), dials.clone(), [&here, &there]).await;
            assert_eq!(outcome, *expected, "{name} over {transport:?}");
        }
    }
}

/// Strangers that speak TLS, but not ours.
mod strangers {
    use super::*;
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    struct Anyone(bool);

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }

        fn requires_raw_public_keys(&self) -> bool {
            self.0
        }
    }

    fn config(raw_key: bool, alpn: &[u8]) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(raw_key)))
            .with_no_client_auth();
        config.alpn_protocols = if alpn.is_empty() { vec![] } else { vec![alpn.to_vec()] };
        config
    }

    /// How far a stranger comes: true if it can finish TLS and then hears something.
    async fn gets_in(address: SocketAddr, config: ClientConfig) -> bool {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("stranger.invalid").unwrap();
        let Ok(mut tls) = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await else {
            return false;
        };
        // In TLS 1.3 the client is done before the server has looked at its key.
        let _ = tls.write_all(&[0; 50]).await;
        tls.read(&mut [0; 1]).await.is_ok_and(|bytes| bytes > 0)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stranger_without_key_or_with_another_protocol_is_sent_away() {
        let listener_key = Identity::generate().unwrap();
        let secret = Admission::Secret(Secret::generate().unwrap());
        let mut listener = Listener::bind(&anywhere(), &listener_key, secret, &options(Transport::Auto)).unwrap();
        let address = listener.local_addresses()[0];
        for (name, config) in [
            ("no client key", config(true, b"tranship/1")),
            ("another protocol", config(true, b"h2")),
            ("no protocol", config(true, b"")),
            ("certificates", config(false, b"tranship/1")),
        ] {
            assert!(!timeout(PATIENCE, gets_in(address, config)).await.expect("an answer in time"), "{name}");
        }
        assert!(timeout(Duration::from_millis(20), listener.accept()).await.is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tls_1_2_is_refused() {
        let listener_key = Identity::generate().unwrap();
        let secret = Admission::Secret(Secret::generate().unwrap());
        let listener = Listener::bind(&anywhere(), &listener_key, secret, &options(Transport::Tcp)).unwrap();
        // A ClientHello of TLS 1.2 (RFC 5246, 7.4.1.2): version, random, no session, one suite, no compression, and the
        // extensions without which nobody answers: groups and signature algorithms.
        let mut hello = vec![0x03, 0x03];
        hello.extend_from_slice(&[7; 32]);
        hello.extend_from_slice(&[0, 0, 2, 0xc0, 0x2b, 1, 0]);
        hello.extend_from_slice(&[0, 16, 0, 10, 0, 4, 0, 2, 0, 29, 0, 13, 0, 4, 0, 2, 8, 7]);
        let mut record = vec![0x16, 0x03, 0x01, 0, hello.len() as u8 + 4, 1, 0, 0, hello.len() as u8];
        record.extend_from_slice(&hello);
        let mut stream = TcpStream::connect(listener.local_addresses()[0]).await.unwrap();
        stream.write_all(&record).await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer in time").unwrap();
        // A fatal alert, and it says protocol_version.
        assert_eq!((answer[0], &answer[5..]), (0x15, &[2, 70][..]));
    }

    /// A listener holds 64 handshakes; more than that, and silent, must not keep a peer out.
    #[tokio::test(flavor = "multi_thread")]
    async fn silent_strangers_do_not_hold_the_door() {
        let (here, there) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let pin = Admission::Pin(there.fingerprint());
        let mut listener = Listener::bind(&anywhere(), &here, pin, &options(Transport::Tcp)).unwrap();
        let address = listener.local_addresses()[0];
        let mut silent = Vec::new();
        for _ in 0..200 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let pin = Admission::Pin(here.fingerprint());
        let began = Instant::now();
        let dialed = dial(&[address], &there, pin, &options(Transport::Tcp)).await;
        assert!(dialed.is_ok(), "{:?}", dialed.err());
        assert!(began.elapsed() < Duration::from_secs(5));
        listener.accept().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_all_that_a_dialer_needs() {
    let here = Identity::generate().unwrap();
    let secret = Secret::generate().unwrap();
    let unspecified = [(Ipv4Addr::UNSPECIFIED, 0).into(), "[::]:0".parse().unwrap()];
    let admission = Admission::Secret(secret.clone());
    let mut listener = Listener::bind(&unspecified, &here, admission, &LinkOptions::default()).unwrap();
    let addresses = listener.local_addresses();
    assert!(!addresses.is_empty() && addresses.iter().all(|address| !address.ip().is_unspecified()));
    assert!(addresses.iter().all(|address| address.port() == addresses[0].port()), "{addresses:?}");
    let text = Ticket { addresses, fingerprint: here.fingerprint(), secret }.to_string();

    let ticket: Ticket = text.parse().unwrap();
    let there = Identity::generate().unwrap();
    let dialing = LinkOptions::default();
    let link = timeout(PATIENCE, dial(&ticket.addresses, &there, ticket.admission(), &dialing)).await.unwrap().unwrap();
    assert_eq!(link.streams.stats().transport, "quic");
    assert_eq!(listener.accept().await.unwrap().streams.peer(), there.fingerprint());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_udp_is_dropped_tcp_takes_over_within_a_second() {
    let (here, there) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let pin = Admission::Pin(there.fingerprint());
    let mut listener = Listener::bind(&anywhere(), &here, pin, &options(Transport::Tcp)).unwrap();
    let addresses = listener.local_addresses();
    // Takes every datagram and answers none.
    let _black_hole = std::net::UdpSocket::bind(addresses[0]).unwrap();
    let pin = Admission::Pin(here.fingerprint());
    let began = Instant::now();
    let dialing = options(Transport::Auto);
    let (accepted, dialed) = tokio::join!(listener.accept(), dial(&addresses, &there, pin, &dialing));
    let elapsed = began.elapsed();
    assert_eq!(dialed.unwrap().streams.stats().transport, "tcp");
    accepted.unwrap();
    assert!(elapsed < Duration::from_millis(1_500), "{elapsed:?}");
    println!("over TCP after {elapsed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_peer_is_named_with_protocol_and_port() {
    let there = Identity::generate().unwrap();
    // Bound and then closed: nobody listens there, and the kernel says so.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dialing = options(Transport::Tcp);
    let error = dial(&[address], &there, Admission::Pin(Fingerprint([0; 32])), &dialing).await.err().unwrap();
    assert_eq!(error.code(), "TS-S602");
    let text = error.to_string();
    assert!(text.contains(&format!("TCP 127.0.0.1 port {}: Connection refused", address.port())), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_after_fifteen_seconds_and_names_both_protocols() {
    let there = Identity::generate().unwrap();
    // Listening, but nobody accepts or answers.
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let _udp = std::net::UdpSocket::bind(address).unwrap();
    let began = Instant::now();
    let dialing = options(Transport::Auto);
    let error = dial(&[address], &there, Admission::Pin(Fingerprint([0; 32])), &dialing).await.err().unwrap();
    assert!((14..18).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    let text = error.to_string();
    for protocol in ["UDP", "TCP"] {
        let wanted = format!("{protocol} 127.0.0.1 port {}: no answer", address.port());
        assert!(text.contains(&wanted), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_goes_away_is_an_error_everywhere_and_no_hang() {
    for transport in BOTH {
        let (one, two, _listener) = pair(transport).await;
        let mut sender = one.streams.open_data().await.unwrap();
        sender.send(frame(1, b"head", 100)).await.unwrap();
        let mut receiver = two.streams.accept_data().await.unwrap();
        receiver.recv().await.unwrap().unwrap();
        // Everything that can wait, waits, and then one side ends the link.
        let waiting = async {
            let (mut control_sender, mut control) = two.control;
            let accepting = two.streams.accept_data();
            let (data, control, accepted) = tokio::join!(receiver.recv(), control.recv(), accepting);
            assert!(data.is_err(), "{data:?}");
            assert!(control.is_err(), "{control:?}");
            assert!(accepted.is_err());
            // TCP takes a little before it knows.
            while control_sender.send(frame(1, b"", 1000)).await.is_ok() {}
            assert!(two.streams.open_data().await.is_err() || transport == Transport::Tcp);
        };
        let closing = async {
            tokio::task::yield_now().await;
            one.streams.close(7, "enough").await;
            assert!(sender.send(frame(1, b"head", 1 << 20)).await.is_err());
        };
        timeout(PATIENCE, async { tokio::join!(waiting, closing) }).await.expect("errors, not a hang");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quic_tells_why_the_link_was_closed() {
    let (one, two, _listener) = pair(Transport::Quic).await;
    one.streams.close(7, "enough").await;
    let error = timeout(PATIENCE, two.control.1.into_error()).await.expect("an answer in time");
    assert!(matches!(&error, LinkError::ClosedByPeer { code: 7, reason } if reason == "enough"), "{error:?}");
}

trait IntoError {
    async fn into_error(self) -> LinkError;
}

impl IntoError for FrameReceiver {
    async fn into_error(mut self) -> LinkError {
        self.recv().await.unwrap_err()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_dropped_never_looks_complete() {
    for transport in BOTH {
        let (one, two, _listener) = pair(transport).await;
        let mut sender = one.streams.open_data().await.unwrap();
        sender.send(frame(1, b"head", 100)).await.unwrap();
        let mut receiver = two.streams.accept_data().await.unwrap();
        receiver.recv().await.unwrap().unwrap();
        drop(sender);
        let end = timeout(PATIENCE, receiver.recv()).await.expect("an answer in time");
        assert!(end.is_err(), "{end:?} over {transport:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_learns_that_nobody_reads() {
    for transport in BOTH {
        let (one, two, _listener) = pair(transport).await;
        let mut sender = one.streams.open_data().await.unwrap();
        sender.send(frame(1, b"head", 100)).await.unwrap();
        drop(two.streams.accept_data().await.unwrap());
        let sending = async { while sender.send(frame(1, b"", 1 << 20)).await.is_ok() {} };
        timeout(PATIENCE, sending).await.expect("an error, not a hang");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn receiving_goes_on_after_it_was_given_up() {
    for transport in BOTH {
        let slow = Bandwidth::new(NonZeroU64::new(80_000_000));
        let limited = LinkOptions { bandwidth: Some(slow), ..options(transport) };
        let (one, two, _listener) = pair_with(&limited, &options(transport)).await;
        let receiving = async {
            let mut receiver = two.streams.accept_data().await.unwrap();
            for frame in frames() {
                let received = loop {
                    if let Ok(received) = timeout(Duration::from_millis(3), receiver.recv()).await {
                        break received.unwrap();
                    }
                };
                assert!(received == Some(frame));
            }
            assert!(receiver.recv().await.unwrap().is_none());
        };
        let sending = async { send_all(one.streams.open_data().await.unwrap()).await };
        timeout(PATIENCE, async { tokio::join!(sending, receiving) }).await.expect("data in time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_on_both_transports_and_can_be_changed_on_the_way() {
    for transport in BOTH {
        let bandwidth = Bandwidth::new(NonZeroU64::new(80_000_000));
        let limited = LinkOptions { bandwidth: Some(bandwidth.clone()), ..options(transport) };
        let (one, two, _listener) = pair_with(&options(transport), &limited).await;
        // Two streams share it.
        for _ in 0..2 {
            let streams = two.streams.clone();
            tokio::spawn(async move {
                let mut sender = streams.open_data().await.unwrap();
                while sender.send(frame(1, b"", 256 << 10)).await.is_ok() {}
            });
        }
        let received = Arc::new(AtomicUsize::new(0));
        for _ in 0..2 {
            let (streams, received) = (one.streams.clone(), received.clone());
            tokio::spawn(async move {
                let mut receiver = streams.accept_data().await.unwrap();
                while let Ok(Some(frame)) = receiver.recv().await {
                    received.fetch_add(frame.wire_bytes(), Ordering::Relaxed);
                }
            });
        }
        let rate = async |span: Duration| {
            let before = received.load(Ordering::Relaxed);
            let began = Instant::now();
            // A rate needs time to pass; nothing is waited for.
            let _ = timeout(span, std::future::pending::<()>()).await;
            let bytes = received.load(Ordering::Relaxed) - before;
            bytes as f64 * 8.0 / began.elapsed().as_secs_f64()
        };
        rate(Duration::from_millis(200)).await;
        let slow = rate(Duration::from_millis(2_000)).await;
        bandwidth.set(NonZeroU64::new(320_000_000));
        rate(Duration::from_millis(100)).await;
        let fast = rate(Duration::from_millis(700)).await;
        println!("{transport:?}: {:.1} and {:.1} Mbit/s", slow / 1e6, fast / 1e6);
        // Whole frames of 2 Mbit are counted, two of them in flight.
        assert!((slow / 80e6 - 1.0).abs() < 0.06, "{transport:?}: {slow} bit/s");
        assert!((fast / 320e6 - 1.0).abs() < 0.10, "{transport:?}: {fast} bit/s");
    }
}

/// Sends `total_bytes` in pieces of 1 MiB over `streams` streams; returns Gbit/s and CPU seconds per 10^9 bytes.
async fn transfer(from: &Link, to: &Link, total_bytes: usize, streams: usize) -> (f64, f64) {
    const PIECE: usize = 1 << 20;
    let piece = frame(1, b"where it belongs", PIECE);
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..streams {
        let (from, to, piece) = (from.streams.clone(), to.streams.clone(), piece.clone());
        tasks.spawn(async move {
            let mut sender = from.open_data().await.unwrap();
            for _ in 0..total_bytes / PIECE / streams {
                sender.send(piece.clone()).await.unwrap();
            }
            sender.finish().await.unwrap();
            0
        });
        tasks.spawn(async move {
            let mut receiver = to.accept_data().await.unwrap();
            let mut bytes = 0;
            while let Some(frame) = receiver.recv().await.unwrap() {
                bytes += frame.body.len();
            }
            bytes
        });
    }
    let mut received = 0;
    while let Some(bytes) = timeout(Duration::from_secs(120), tasks.join_next()).await.expect("data in time") {
        received += bytes.unwrap();
    }
    assert_eq!(received, total_bytes);
    let gigabits = total_bytes as f64 * 8.0 / began.elapsed().as_secs_f64() / 1e9;
    (gigabits, (cpu_seconds() - cpu) / (total_bytes as f64 / 1e9))
}

/// User and system time of this process: fields 14 and 15 of proc_pid_stat(5), in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(") ").unwrap().1.split(' ').collect::<Vec<_>>();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transfer_comes_through() {
    for transport in BOTH {
        let (one, two, _listener) = pair(transport).await;
        let (gigabits, cpu) = transfer(&two, &one, 256 << 20, 4).await;
        println!("{transport:?}: {gigabits:.1} Gbit/s, {cpu:.2} CPU s/GB, {:?}", two.streams.stats());
    }
}
