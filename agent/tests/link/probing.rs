//! Ways to a listener, measured.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use tranship_agent::link::{Admission, Bandwidth, Identity, Listener, Secret, Transport};
use tranship_agent::probe;
use tranship_proto::control::{Role, Way};

use super::{PATIENCE, anywhere, options};

/// Probes a listener whose transport is `listener`, from a dialler in this role that may send as much.
async fn ways(listener: Transport, role: Role, bits: Option<u64>) -> Vec<Way> {
    let (here, there) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let admission = Admission::Secret(Secret::generate().unwrap());
    let mut options = options(Transport::Auto);
    options.bandwidth = bits.map(|bits| Bandwidth::new(std::num::NonZeroU64::new(bits)));
    let of_listener = super::LinkOptions { transport: listener, ..options.clone() };
    let mut bound = Listener::bind(&anywhere(), &here, admission.clone(), &of_listener).unwrap();
    let addresses = bound.local_addresses();
    let other = if role == Role::Source { Role::Destination } else { Role::Source };
    let (over, is_over) = oneshot::channel::<()>();
    let serving = tokio::spawn(async move { probe::serve(&mut bound, other, async { drop(is_over.await) }).await });
    let ways = timeout(PATIENCE, probe::dial(&addresses, &there, &admission, &options, role)).await.expect("in time");
    drop(over);
    serving.await.unwrap();
    ways
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transport_is_measured_whichever_side_is_the_source() {
    for role in [Role::Source, Role::Destination] {
        let ways = ways(Transport::Auto, role, None).await;
        let named: Vec<_> = ways.iter().map(|way| (&*way.transport, &way.error)).collect();
        assert_eq!(named, [("quic", &None), ("tcp", &None)]);
        for way in &ways {
            assert!(way.rtt_ms.is_some_and(|rtt| rtt > 0.0 && rtt < 1_000.0), "{way:?}");
            assert!(way.bytes_per_second.is_some_and(|rate| rate > 1e6), "{way:?}");
            assert_eq!(way.mtu.is_some_and(|mtu| mtu >= 1_200), way.transport == "quic", "{way:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_answered_is_said_and_the_other_transport_is_measured() {
    let ways = ways(Transport::Tcp, Role::Source, None).await;
    assert!(ways[0].error.is_some() && ways[0].rtt_ms.is_none(), "{ways:?}");
    assert!(ways[1].error.is_none() && ways[1].bytes_per_second.is_some(), "{ways:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_keeps_to_the_bandwidth_and_to_its_time() {
    let began = std::time::Instant::now();
    let ways = ways(Transport::Auto, Role::Source, Some(16_000_000)).await;
    for way in &ways {
        let rate = way.bytes_per_second.expect("enough came");
        assert!((1e6..2.6e6).contains(&rate), "{way:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}
