//! Data that takes TCP beside a link over QUIC.

use tokio::time::timeout;
use tranship_agent::link::{LinkError, Transport};

use super::{PATIENCE, frame, options, pair, pair_with, receive_all, send_all};

#[tokio::test(flavor = "multi_thread")]
async fn data_takes_tcp_beside_quic_whoever_sends() {
    for dialer_sends in [true, false] {
        let (listening, dialing, _listener) = pair(Transport::Auto).await;
        let (from, to) = if dialer_sends { (&dialing, &listening) } else { (&listening, &dialing) };
        assert!(from.streams.has_choice() && to.streams.has_choice());
        assert_eq!(from.streams.stats().transport, "quic");
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..8 {
            let (from, to) = (from.streams.clone(), to.streams.clone());
            tasks.spawn(async move {
                let sender = if number % 2 == 0 { from.open_beside().await } else { from.open_data().await };
                send_all(sender.unwrap()).await;
            });
            tasks.spawn(async move { receive_all(to.accept_data().await.unwrap()).await });
        }
        while let Some(done) = timeout(PATIENCE, tasks.join_next()).await.expect("data in time") {
            done.unwrap();
        }
        for stats in [from.streams.stats(), to.streams.stats()] {
            assert_eq!(stats.transport, "quic+tcp");
            assert!(stats.sent_bytes + stats.received_bytes > 20 << 20, "{stats:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_wants_quic_alone_gets_quic() {
    for (listener, dialer) in [(Transport::Auto, Transport::Quic), (Transport::Quic, Transport::Auto)] {
        let (listening, dialing, _listener) = pair_with(&options(listener), &options(dialer)).await;
        let (from, to) = if dialer == Transport::Quic { (listening, dialing) } else { (dialing, listening) };
        assert!(from.streams.has_choice() && !to.streams.has_choice());
        let refused = timeout(PATIENCE, from.streams.open_beside()).await.expect("an error, not a hang").err().unwrap();
        assert!(matches!(refused, LinkError::Silent | LinkError::Socket { .. }), "{refused:?}");
        let sending = async { send_all(from.streams.open_data().await.unwrap()).await };
        let receiving = async { receive_all(to.streams.accept_data().await.unwrap()).await };
        timeout(PATIENCE, async { tokio::join!(sending, receiving) }).await.expect("data in time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_beside_a_link_ends_with_it() {
    for sender_ends in [true, false] {
        let (one, two, _listener) = pair(Transport::Auto).await;
        let mut sender = one.streams.open_beside().await.unwrap();
        sender.send(frame(1, b"head", 100)).await.unwrap();
        let mut receiver = two.streams.accept_data().await.unwrap();
        receiver.recv().await.unwrap().unwrap();
        let (ending, left) = if sender_ends { (&one, &two) } else { (&two, &one) };
        ending.streams.close(0, "enough").await;
        let ends = async {
            receiver.recv().await.unwrap_err();
            // What the kernel has taken before it knows may look sent.
            while sender.send(frame(1, b"head", 100)).await.is_ok() {}
            left.streams.accept_data().await.err().unwrap();
            left.streams.open_beside().await.err().unwrap();
        };
        timeout(PATIENCE, ends).await.expect("errors, not a hang");
    }
}
