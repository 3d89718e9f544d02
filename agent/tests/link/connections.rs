//! The connections of a QUIC link for data: when they are made, what they cost, and what follows if they fail.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::time::timeout;
use tranship_agent::link::{Admission, Identity, LinkError, LinkOptions, Listener, Streams, Transport, dial};

use super::{PATIENCE, anywhere, frame, options, pair, pair_with};

/// What one end has sent and received.
fn carried_bytes(link: &Streams) -> u64 {
    let stats = link.stats();
    stats.sent_bytes + stats.received_bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn control_frames_alone_cost_little_and_data_finds_large_datagrams_whoever_sends() {
    for dialer_sends in [true, false] {
        let by = |sends_contents| LinkOptions { sends_contents, ..options(Transport::Quic) };
        let (listening, dialing, _listener) = pair_with(&by(!dialer_sends), &by(dialer_sends)).await;
        let (mut from, mut to) = if dialer_sends { (dialing, listening) } else { (listening, dialing) };
        let before = carried_bytes(&from.streams);
        for number in 0..20 {
            // Time for whatever is not meant to come.
            let _ = timeout(Duration::from_millis(20), to.streams.accept_data()).await;
            from.control.0.send(frame(number, b"", 10)).await.unwrap();
            to.control.1.recv().await.unwrap().unwrap();
        }
        let (bytes, mtu) = (carried_bytes(&from.streams) - before, from.streams.stats().mtu);
        println!("{bytes} bytes for 20 frames, dialer sends: {dialer_sends}");
        assert!(bytes < 4 << 10, "{bytes} bytes for 20 frames");
        assert_eq!(mtu, Some(1_200));

        let sending = async {
            let mut sender = from.streams.open_data().await.unwrap();
            while from.streams.stats().mtu != Some(8_952) {
                sender.send(frame(1, b"", 64 << 10)).await.unwrap();
            }
            sender.finish().await.unwrap();
        };
        let receiving = async {
            let mut receiver = to.streams.accept_data().await.unwrap();
            while receiver.recv().await.unwrap().is_some() {}
        };
        timeout(PATIENCE, async { tokio::join!(sending, receiving) }).await.expect("large datagrams in time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_may_end_while_its_data_connections_are_made() {
    for dialer_ends in [true, false] {
        let dialing = LinkOptions { connections: 8, ..options(Transport::Quic) };
        let (listening, dialing, _listener) = pair_with(&options(Transport::Quic), &dialing).await;
        let (one, mut two) = if dialer_ends { (dialing, listening) } else { (listening, dialing) };
        one.streams.prepare();
        two.streams.prepare();
        tokio::task::yield_now().await;
        one.streams.close(7, "enough").await;
        let ends = async { (two.control.1.recv().await.unwrap_err(), two.streams.open_data().await.err().unwrap()) };
        let (control, data) = timeout(PATIENCE, ends).await.expect("errors, not a hang");
        assert!(matches!(&control, LinkError::ClosedByPeer { code: 7, reason } if reason == "enough"), "{control:?}");
        // A listener that has ended the link does not know it any more: that says nothing about keys.
        assert!(!matches!(data, LinkError::Identity), "{data:?}");
        assert!(one.streams.open_data().await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_connections_that_cannot_be_made_are_an_error_and_no_hang() {
    for dialer_sends in [true, false] {
        let (listening, dialing, listener) = pair(Transport::Quic).await;
        drop(listener);
        let (from, mut to) = if dialer_sends { (dialing, listening) } else { (listening, dialing) };
        let (first, second) =
            timeout(PATIENCE, async { tokio::join!(from.streams.open_data(), from.streams.open_data()) })
                .await
                .expect("errors, not a hang");
        assert!(first.is_err() && second.is_err());
        from.streams.close(7, "enough").await;
        timeout(PATIENCE, to.control.1.recv()).await.expect("an end in time").unwrap_err();
    }
}

/// Hands datagrams on between dialers and `listener`; each dialer's socket is a path of its own, and the one whose number
/// is `dead` leads nowhere.
async fn relay(listener: SocketAddr, dead: Arc<AtomicUsize>) -> SocketAddr {
    let front = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    let address = front.local_addr().unwrap();
    tokio::spawn(async move {
        let mut paths: HashMap<SocketAddr, (usize, Arc<UdpSocket>)> = HashMap::new();
        let mut datagram = vec![0; 1 << 16];
        loop {
            let (bytes, dialer) = front.recv_from(&mut datagram).await.unwrap();
            let number = paths.len();
            let (number, back) = match paths.entry(dialer) {
                Entry::Occupied(path) => path.into_mut(),
                Entry::Vacant(path) => {
                    let back = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
                    back.connect(listener).await.unwrap();
                    tokio::spawn(hand_back(back.clone(), front.clone(), dialer, number, dead.clone()));
                    path.insert((number, back))
                }
            };
            if dead.load(Ordering::Relaxed) != *number {
                let _ = back.send(&datagram[..bytes]).await;
            }
        }
    });
    address
}

async fn hand_back(
    back: Arc<UdpSocket>,
    front: Arc<UdpSocket>,
    dialer: SocketAddr,
    number: usize,
    dead: Arc<AtomicUsize>,
) {
    let mut datagram = vec![0; 1 << 16];
    while let Ok(bytes) = back.recv(&mut datagram).await {
        if dead.load(Ordering::Relaxed) != number {
            let _ = front.send_to(&datagram[..bytes], dialer).await;
        }
    }
}

/// The control connection lives on: that the other one is gone has to be told.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_loses_a_data_connection_is_lost_at_both_ends() {
    let (here, there) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let pin = Admission::Pin(there.fingerprint());
    let mut listener = Listener::bind(&anywhere(), &here, pin, &options(Transport::Quic)).unwrap();
    let dead = Arc::new(AtomicUsize::new(usize::MAX));
    let address = relay(listener.local_addresses()[0], dead.clone()).await;
    let pin = Admission::Pin(here.fingerprint());
    let dialing = options(Transport::Quic);
    let (one, two) = tokio::join!(listener.accept(), dial(std::slice::from_ref(&address), &there, pin, &dialing));
    let (mut one, mut two) = (one.unwrap(), two.unwrap());
    let mut sender = two.streams.open_data().await.unwrap();
    sender.send(frame(1, b"head", 100)).await.unwrap();
    let mut receiver = one.streams.accept_data().await.unwrap();
    receiver.recv().await.unwrap().unwrap();
    dead.store(1, Ordering::Relaxed);
    let began = Instant::now();
    let all = async {
        tokio::join!(
            one.control.1.recv(),
            two.control.1.recv(),
            receiver.recv(),
            one.streams.accept_data(),
            two.streams.accept_data(),
        )
    };
    let (a, b, c, d, e) = timeout(PATIENCE * 2, all).await.expect("an end");
    assert!(a.is_err() && b.is_err() && c.is_err() && d.is_err() && e.is_err());
    assert!(sender.send(frame(1, b"head", 100)).await.is_err() && two.streams.open_data().await.is_err());
    // As soon as a connection is given up, and not later: silence is known after 30 s.
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
}
