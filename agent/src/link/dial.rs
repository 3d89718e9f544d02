//! The side that comes: tries all addresses and both transports, and takes what answers first.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::admission::Admission;
use super::frames::{FrameReceiver, FrameSender};
use super::greeting::{Introduction, LinkId, Purpose, introduce};
use super::identity::{Fingerprint, Identity};
use super::tcp::{Lanes, Tls};
use super::{ANSWER_MAX, CONNECTIONS_MAX, Group, Link, LinkError, LinkOptions, Streams, Transport, quic, tcp};

/// How long to try before giving up.
const CONNECT_MAX: Duration = Duration::from_secs(15);

/// QUIC starts this much earlier than TCP, and may finish this much later.
const HEAD_START: Duration = Duration::from_millis(250);

/// How much longer QUIC is waited for once TCP was refused everywhere: the host is there, and most likely nobody listens
/// any more.
const REFUSED_MAX: Duration = Duration::from_secs(3);

/// Between the addresses, so that the first one wins where all of them work.
const STAGGER: Duration = Duration::from_millis(30);

/// One try that failed.
#[derive(Debug)]
pub struct Attempt {
    /// `UDP` or `TCP`: what a firewall would have to let through.
    pub protocol: &'static str,
    /// Where to.
    pub address: SocketAddr,
    /// Why not; nothing if there was no answer.
    pub error: Option<Box<LinkError>>,
}

impl Attempt {
    /// Why it failed.
    pub fn reason(&self) -> String {
        match self.error.as_deref() {
            None => "no answer".to_owned(),
            Some(LinkError::Socket { source, .. }) => source.to_string(),
            Some(error) => error.to_string(),
        }
    }

    /// Whether the host answered that nobody listens there.
    fn was_refused(&self) -> bool {
        matches!(self.error.as_deref(), Some(LinkError::Socket { source, .. })
            if source.kind() == std::io::ErrorKind::ConnectionRefused)
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} port {}: {}", self.protocol, self.address.ip(), self.address.port(), self.reason())
    }
}

/// What further connections of a link need.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) address: SocketAddr,
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) admission: Admission,
    pub(super) link: LinkId,
    listener: Fingerprint,
}

impl Dialer {
    /// Without a pin, the key of the first connection is the pin of all others.
    pub(super) fn demand(&self, peer: Fingerprint) -> Result<(), LinkError> {
        if peer == self.listener { Ok(()) } else { Err(LinkError::Identity) }
    }
}

/// A connection with TLS that the listener has not admitted yet.
enum Connected {
    Quic(Box<quic::Dialed>, SocketAddr),
    Tcp(Box<Tls>, SocketAddr, Arc<tcp::Traffic>),
}

/// Connects to a listener at one of `addresses`.
///
/// With [`Transport::Auto`] QUIC is preferred, and TCP starts beside it a quarter of a second later. The listener
/// learns of a link only from the connection that has won.
pub async fn dial(
    addresses: &[SocketAddr],
    identity: &Identity,
    admission: Admission,
    options: &LinkOptions,
) -> Result<Link, LinkError> {
    let tls = Arc::new(identity.client_config(admission.pin())?);
    let won = race(addresses, &tls, options).await?;
    let admit = async {
        match won {
            Connected::Quic(dialed, address) => enter_quic(*dialed, address, tls, admission, options).await,
            Connected::Tcp(stream, address, traffic) => {
                enter_tcp(*stream, address, traffic, tls, admission, options).await
            }
        }
    };
    timeout(ANSWER_MAX, admit).await.map_err(|_| LinkError::Silent)?
}

async fn race(
    addresses: &[SocketAddr],
    tls: &Arc<rustls::ClientConfig>,
    options: &LinkOptions,
) -> Result<Connected, LinkError> {
    let wants = |transport| options.transport == transport || options.transport == Transport::Auto;
    let mut open: Vec<(&'static str, SocketAddr)> = Vec::new();
    let mut tries = JoinSet::new();
    for (at, &address) in addresses.iter().enumerate() {
        let turn = STAGGER * at as u32;
        if wants(Transport::Quic) {
            let (tls, options) = (tls.clone(), options.clone());
            open.push(("UDP", address));
            tries.spawn(async move {
                sleep(turn).await;
                let dialed = quic::connect(address, tls, &options, quic::CONTROL_BYTES_MAX).await;
                ("UDP", address, dialed.map(|dialed| Connected::Quic(Box::new(dialed), address)))
            });
        }
        if wants(Transport::Tcp) {
            let tls = tls.clone();
            let head_start = if wants(Transport::Quic) { HEAD_START } else { Duration::ZERO };
            open.push(("TCP", address));
            tries.spawn(async move {
                sleep(turn + head_start).await;
                let traffic = Arc::new(tcp::Traffic::default());
                let stream = tcp::connect(address, tls, traffic.clone()).await;
                ("TCP", address, stream.map(|stream| Connected::Tcp(Box::new(stream), address, traffic)))
            });
        }
    }
    let mut deadline = tokio::time::Instant::now() + CONNECT_MAX;
    let mut second = None;
    let mut failed = Vec::new();
    loop {
        let next = tokio::select! {
            next = tries.join_next() => next,
            () = sleep_until(deadline) => None,
        };
        // A try that panicked has failed; it stays among those that did not answer.
        let Some(tried) = next else { break };
        let Ok((protocol, address, result)) = tried else { continue };
        open.retain(|one| *one != (protocol, address));
        match result {
            Ok(quic @ Connected::Quic(..)) => return Ok(quic),
            Ok(tcp) => {
                if second.is_none() {
                    second = Some(tcp);
                    deadline = deadline.min(tokio::time::Instant::now() + HEAD_START);
                }
                if !open.iter().any(|(protocol, _)| *protocol == "UDP") {
                    break;
                }
            }
            Err(error) => {
                failed.push(Attempt { protocol, address, error: Some(Box::new(error)) });
                if !open.iter().any(|(protocol, _)| *protocol == "TCP") && failed.iter().all(Attempt::was_refused) {
                    deadline = deadline.min(tokio::time::Instant::now() + REFUSED_MAX);
                }
            }
        }
    }
    if let Some(second) = second {
        return Ok(second);
    }
    if failed.iter().any(|attempt| matches!(attempt.error.as_deref(), Some(LinkError::Identity))) {
        return Err(LinkError::Identity);
    }
    failed.extend(open.into_iter().map(|(protocol, address)| Attempt { protocol, address, error: None }));
    Err(LinkError::Unreachable { attempts: failed })
}

async fn enter_quic(
    dialed: quic::Dialed,
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    admission: Admission,
    options: &LinkOptions,
) -> Result<Link, LinkError> {
    let quic::Dialed { connection, endpoint, warnings } = dialed;
    let listener = quic::peer(&connection)?;
    let binding = quic::binding(&connection)?;
    let mut options = options.clone();
    options.connections = options.connections.clamp(1, CONNECTIONS_MAX);
    let (mut send, mut receive) = connection.open_bi().await.map_err(LinkError::of_connection)?;
    let hello = Introduction { purpose: Purpose::Control, connections: options.connections, link: LinkId::NONE };
    let link = introduce(&mut send, &mut receive, hello, &admission, &binding).await?;
    let dialer = Dialer { address, tls, admission, listener, link };
    let group = quic::Group::of_dialer(connection, endpoint, dialer, &options);
    let control = (FrameSender::quic(send, None), FrameReceiver::quic(receive));
    Ok(Link { control, streams: Streams::new(Group::Quic(group), &options, listener, warnings, None) })
}

async fn enter_tcp(
    mut stream: Tls,
    address: SocketAddr,
    traffic: Arc<tcp::Traffic>,
    tls: Arc<rustls::ClientConfig>,
    admission: Admission,
    options: &LinkOptions,
) -> Result<Link, LinkError> {
    let peer = tcp::peer(&stream)?;
    let binding = tcp::binding(&stream)?;
    let began = Instant::now();
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let hello = Introduction { purpose: Purpose::Control, connections: 1, link: LinkId::NONE };
    let link = introduce(&mut write, &mut read, hello, &admission, &binding).await?;
    let dialer = Dialer { address, tls, admission, listener: peer, link };
    let group = tcp::Group::new(&stream, Lanes::of_dialer(dialer, traffic), began.elapsed())?;
    let (read, write) = tokio::io::split(stream);
    let control = (FrameSender::tcp(write, None, None), FrameReceiver::tcp(read, None));
    Ok(Link { control, streams: Streams::new(Group::Tcp(group), options, peer, Vec::new(), None) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_attempt_names_protocol_address_and_port() {
        let address = "[2001:db8::1]:7777".parse().unwrap();
        let attempt = Attempt { protocol: "UDP", address, error: None };
        assert_eq!(attempt.to_string(), "UDP 2001:db8::1 port 7777: no answer");
    }
}
