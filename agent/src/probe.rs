//! A measurement of the ways between two agents: which of them can be gone, how long a round trip is, and what comes
//! through. No volume is looked at.
//!
//! ```text
//!   dialler                                     listener
//!      │ a link for each address and transport ─▶ │
//!      │ Probe ─────────────────────────────────▶ │   one link after another, so that none is in another's way
//!      │ … the source bursts, the destination counts …
//!      │ ◀──────────────────────────────── Probed │   if the destination listens
//! ```

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until, timeout};
use tranship_proto::Message;
use tranship_proto::control::{Role, Way};
use tranship_proto::limit::{PROBE_BYTES_MAX, PROBE_MS_MAX};
use tranship_proto::message::Probed;

use crate::link::{
    self, Admission, FrameReceiver, FrameSender, Identity, Link, LinkError, LinkOptions, Streams, Transport,
};
use crate::pass::chain;

/// How long an address may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Once one has answered the others get as many times as long as it took, and this at the least: they are as far away.
const OTHERS_TIMES: u32 = 4;
const OTHERS_MIN: Duration = Duration::from_secs(1);

/// Between two tries of one way.
const AGAIN: Duration = Duration::from_millis(400);

/// Of all ways together, how long they are measured.
const MEASURING_MAX: Duration = Duration::from_secs(6);

/// Data streams of a burst: as many as those of a pass.
const STREAMS: u64 = 4;

/// Bytes in a frame of a burst: few, so that a slow link shows some.
const FRAME_BYTES: usize = 16 << 10;

/// Random bytes from which frames are cut: more than anything on the way would compress away.
const NOISE_BYTES: usize = 1 << 20;

/// A burst, and how long its beginning does not count if it lasts at least twice as long: links find their pace meanwhile.
const BURST: Duration = Duration::from_millis(PROBE_MS_MAX);
const SETTLING: Duration = Duration::from_millis(PROBE_MS_MAX / 3);

/// How long the first byte of a burst may take, or the word of whoever has counted.
const WORD_MAX: Duration = Duration::from_secs(3);

/// Tries every address by every transport that `options` allow, and measures those that answer, one after another.
pub async fn dial(
    addresses: &[SocketAddr],
    identity: &Identity,
    admission: &Admission,
    options: &LinkOptions,
    role: Role,
) -> Vec<Way> {
    let transports: &[Transport] = match options.transport {
        Transport::Auto => &[Transport::Quic, Transport::Tcp],
        Transport::Quic => &[Transport::Quic],
        Transport::Tcp => &[Transport::Tcp],
    };
    let all: Vec<(SocketAddr, Transport)> =
        addresses.iter().flat_map(|&address| transports.iter().map(move |&transport| (address, transport))).collect();
    let until = watch::Sender::new(Instant::now() + ANSWER_MAX);
    let mut dialling = JoinSet::new();
    for (at, &(address, transport)) in all.iter().enumerate() {
        let (identity, admission, until) = (identity.clone(), admission.clone(), until.clone());
        let options = LinkOptions { transport, ..options.clone() };
        dialling.spawn(async move { (at, meet(address, &identity, &admission, &options, &until).await) });
    }
    let mut met: Vec<Option<Result<Link, String>>> = all.iter().map(|_| None).collect();
    while let Some(dialled) = dialling.join_next().await {
        // One that panicked has shown that already, and did not answer.
        if let Ok((at, result)) = dialled {
            met[at] = Some(result);
        }
    }
    let latest = Instant::now() + MEASURING_MAX;
    let mut ways = Vec::new();
    for ((address, transport), result) in all.into_iter().zip(met) {
        let result = match result.unwrap_or_else(|| Err("no answer".to_owned())) {
            Ok(link) => measure(link, role, Instant::now() < latest).await.map_err(|error| chain(&error)),
            Err(error) => Err(error),
        };
        ways.push(way(address, transport, result));
    }
    ways
}

/// Answers whoever dials with what they measure, until `stop`.
pub async fn serve(listener: &mut link::Listener, role: Role, stop: impl Future<Output = ()>) {
    let mut links = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            link = listener.accept() => match link {
                Ok(link) => drop(links.spawn(answer(link, role))),
                Err(_) => return,
            },
            // A link that breaks is the dialler's to tell of.
            Some(_) = links.join_next() => {}
            () = &mut stop => return,
        }
    }
}

async fn answer(mut link: Link, role: Role) -> Result<(), LinkError> {
    while let Some(frame) = link.control.1.recv().await? {
        match Message::decode(frame)? {
            Message::Probe(_) => {}
            _ => return Err(LinkError::Greeting),
        }
        match role {
            Role::Source => burst(&link.streams).await?,
            Role::Destination => {
                let probed = count(&link.streams).await?;
                link.control.0.send(Message::Probed(probed).encode()).await?;
            }
        }
    }
    Ok(())
}

/// A link to this address by one transport, as long as others are waited for.
///
/// It is tried again and again, each time from a new port: what a cluster has just been told to lead to a pod, its nodes lead
/// there a moment later, and what came too early they go on to throw away.
async fn meet(
    address: SocketAddr,
    identity: &Identity,
    admission: &Admission,
    options: &LinkOptions,
    until: &watch::Sender<Instant>,
) -> Result<Link, String> {
    let mut changes = until.subscribe();
    let mut again = interval(AGAIN);
    let mut attempts = JoinSet::new();
    let mut why = "no answer".to_owned();
    loop {
        let at = *changes.borrow_and_update();
        tokio::select! {
            _ = again.tick() => {
                let (identity, admission, options) = (identity.clone(), admission.clone(), options.clone());
                attempts.spawn(async move {
                    let began = Instant::now();
                    (began, link::dial(&[address], &identity, admission, &options).await)
                });
            }
            Some(Ok((began, result))) = attempts.join_next() => match result {
                Ok(link) => {
                    let soon = Instant::now() + OTHERS_MIN.max(began.elapsed() * OTHERS_TIMES);
                    until.send_modify(|until| *until = soon.min(*until));
                    return Ok(link);
                }
                Err(LinkError::Unreachable { attempts }) => {
                    why = attempts.first().map_or("no answer".to_owned(), link::Attempt::reason);
                }
                Err(error) => why = chain(&error),
            },
            () = sleep_until(at) => return Err(why),
            // Whoever holds the sender is this task, too.
            _ = changes.changed() => {}
        }
    }
}

/// What was found of a link.
struct Measured {
    rtt: Option<Duration>,
    mtu: Option<u16>,
    probed: Option<Probed>,
}

async fn measure(mut link: Link, role: Role, is_burst_wanted: bool) -> Result<Measured, LinkError> {
    let before = link.streams.stats();
    let probed = if is_burst_wanted { Some(probe(&mut link, role).await?) } else { None };
    let after = link.streams.stats();
    // A burst fills queues on the way, which a round trip should not be charged with. QUIC takes off what the peer says that it
    // waited, so that nothing may be left of the shortest.
    let rtt = before.rtt_min.filter(|rtt| !rtt.is_zero()).or(before.rtt);
    link.streams.close(0, "measured").await;
    Ok(Measured { rtt, mtu: after.mtu, probed })
}

async fn probe(link: &mut Link, role: Role) -> Result<Probed, LinkError> {
    link.control.0.send(Message::Probe(Bytes::new()).encode()).await?;
    match role {
        Role::Destination => count(&link.streams).await,
        Role::Source => {
            burst(&link.streams).await?;
            let word = timeout(WORD_MAX, link.control.1.recv()).await.map_err(|_| LinkError::Silent)?;
            match word?.map(Message::decode).transpose()? {
                Some(Message::Probed(probed)) => Ok(probed),
                _ => Err(LinkError::Greeting),
            }
        }
    }
}

fn way(address: SocketAddr, transport: Transport, result: Result<Measured, String>) -> Way {
    let transport = if transport == Transport::Quic { "quic" } else { "tcp" }.to_owned();
    let (measured, error) = match result {
        Ok(measured) => (Some(measured), None),
        Err(error) => (None, Some(error)),
    };
    let measured = measured.unwrap_or(Measured { rtt: None, mtu: None, probed: None });
    Way {
        address,
        transport,
        error,
        rtt_ms: measured.rtt.map(|rtt| rtt.as_secs_f64() * 1_000.0),
        mtu: measured.mtu,
        bytes_per_second: measured.probed.and_then(rate),
    }
}

/// Bytes per second, if enough came to tell.
fn rate(probed: Probed) -> Option<f64> {
    let microseconds = NonZeroU64::new(probed.microseconds)?;
    (probed.bytes > 0).then(|| probed.bytes as f64 * 1e6 / microseconds.get() as f64)
}

/// Sends as much as there is time for. What is on its way at the end is thrown away.
async fn burst(streams: &Streams) -> Result<(), LinkError> {
    let mut noise = vec![0; NOISE_BYTES];
    getrandom::fill(&mut noise).map_err(|_| LinkError::Crypto { what: "draw random bytes" })?;
    let noise = Bytes::from(noise);
    streams.prepare();
    let mut senders = Vec::new();
    for _ in 0..STREAMS {
        senders.push(streams.open_data().await?);
    }
    let mut sending: JoinSet<Result<(), LinkError>> =
        senders.into_iter().enumerate().map(|(at, sender)| pour(sender, noise.clone(), at)).collect();
    let all = async { while sending.join_next().await.is_some() {} };
    // Whoever counts may stop reading before that, which is no fault.
    let _ = timeout(BURST, all).await;
    Ok(())
}

/// One stream's part of a burst.
async fn pour(mut sender: FrameSender, noise: Bytes, at: usize) -> Result<(), LinkError> {
    let frames = NOISE_BYTES / FRAME_BYTES;
    for frame in 0..PROBE_BYTES_MAX as usize / STREAMS as usize / FRAME_BYTES {
        let from = (frame + at * frames / STREAMS as usize) % frames * FRAME_BYTES;
        sender.send(Message::Probe(noise.slice(from..from + FRAME_BYTES)).encode()).await?;
    }
    sender.finish().await
}

/// Counts what comes in of a burst.
async fn count(streams: &Streams) -> Result<Probed, LinkError> {
    let (told, mut heard) = mpsc::channel(64);
    let streams = streams.clone();
    let mut reading = JoinSet::new();
    reading.spawn(async move {
        let mut each = JoinSet::new();
        for _ in 0..STREAMS {
            let Ok(receiver) = streams.accept_data().await else { break };
            each.spawn(drain(receiver, told.clone()));
        }
        drop(told);
        while each.join_next().await.is_some() {}
    });
    timeout(WORD_MAX, heard.recv()).await.ok().flatten().ok_or(LinkError::Silent)?;
    // The first frame is when the clock begins; what counts comes after it.
    let began = Instant::now();
    let mut meter = Meter::default();
    while let Ok(Some(bytes)) = tokio::time::timeout_at(began + BURST, heard.recv()).await {
        meter.add(began.elapsed(), bytes);
    }
    Ok(meter.probed())
}

/// Reads a stream to its end, or as long as somebody counts.
async fn drain(mut receiver: FrameReceiver, told: mpsc::Sender<u64>) {
    while let Ok(Some(frame)) = receiver.recv().await {
        if told.send(frame.body.len() as u64).await.is_err() {
            return;
        }
    }
}

/// What came when.
#[derive(Debug, Default)]
struct Meter {
    bytes: u64,
    last: Duration,
    /// When it had settled, and what had come by then.
    settled: Option<(Duration, u64)>,
}

impl Meter {
    fn add(&mut self, at: Duration, bytes: u64) {
        (self.bytes, self.last) = (self.bytes + bytes, at.min(BURST));
        if at >= SETTLING && self.settled.is_none() {
            self.settled = Some((self.last, self.bytes));
        }
    }

    fn probed(&self) -> Probed {
        let (from, before) = self.settled.filter(|_| self.last >= 2 * SETTLING).unwrap_or_default();
        Probed { bytes: self.bytes - before, microseconds: (self.last - from).as_micros() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A burst that comes at a pace that changes once, looked at each millisecond.
    fn metered(milliseconds: u64, slow_until: u64) -> Option<f64> {
        let mut meter = Meter::default();
        for at in 1..=milliseconds {
            meter.add(Duration::from_millis(at), if at <= slow_until { 100 } else { 1_000 });
        }
        rate(meter.probed())
    }

    #[test]
    fn the_beginning_of_a_long_burst_does_not_count_and_that_of_a_short_one_does() {
        let settling = SETTLING.as_millis() as u64;
        assert_eq!(metered(3 * settling, settling), Some(1e6));
        let short = metered(settling, settling / 2).expect("enough came");
        assert!((short - 550e3).abs() < 1e3, "{short}");
    }

    #[test]
    fn too_little_is_no_rate() {
        assert_eq!(rate(Meter::default().probed()), None);
        let mut meter = Meter::default();
        meter.add(Duration::ZERO, 5);
        assert_eq!(rate(meter.probed()), None);
    }
}
