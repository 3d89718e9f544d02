//! QUIC: configuration, and a link over one or several connections.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::rustls::pki_types::CertificateDer;
use quinn::{Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, TokioRuntime, TransportConfig, VarInt};
use tokio::task::AbortHandle;
use tranship_proto::limit;

use super::admission::{Binding, EXPORTER_LABEL};
use super::congestion::{Adaptive, Factory};
use super::frames::{FrameReceiver, FrameSender};
use super::identity::{Fingerprint, fingerprint_of_peer};
use super::interfaces::{JUMBO_BYTES, MTU_MIN, datagram_bytes_max};
use super::socket::{BatchLimit, bind_udp, wrap};
use super::{LinkError, LinkOptions, LinkStats};

/// Bytes in flight that a connection allows at first, and at most over all connections of a link. More than is needed
/// makes the kernel's buffers overflow on fast networks; the way from the first to the last is [`tune`].
const WINDOW_BYTES_MIN: u64 = 8 << 20;
const WINDOW_BYTES_MAX: u64 = 64 << 20;

/// What a stranger may make us hold before it has proven who it is.
const STRANGER_BYTES_MAX: u32 = 64 << 10;

const IDLE_MS_MAX: u32 = 30_000;
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How often windows follow what was measured.
const TUNE_INTERVAL: Duration = Duration::from_millis(200);

/// Handshakes at one time, and bytes that wait for each and for all of them before they are accepted.
const INCOMING_BYTES_MAX: u64 = 64 << 10;

/// TLS demands a name; without certificates it means nothing.
pub(super) const SERVER_NAME: &str = "tranship.invalid";

fn transport(peer: SocketAddr, options: &LinkOptions) -> (TransportConfig, u16) {
    let mtu_max = datagram_bytes_max(peer).min(options.datagram_bytes_max.unwrap_or(u16::MAX)).max(MTU_MIN);
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(mtu_max);
    let factory = Factory { kind: options.congestion, mtu_max, bandwidth: options.bandwidth.clone() };
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        // None for strangers: `Group::new` raises this and the window.
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(STRANGER_BYTES_MAX))
        // The window of the connection is what bounds a single stream too.
        .stream_receive_window(VarInt::from_u32(WINDOW_BYTES_MAX as u32))
        .send_window(WINDOW_BYTES_MIN)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_MS_MAX).into()))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_mtu(MTU_MIN)
        .mtu_discovery_config(options.sends_contents.then_some(discovery))
        .congestion_controller_factory(Arc::new(factory));
    (config, mtu_max)
}

/// The listener's configuration before it knows who comes.
pub(super) fn server_config(tls: rustls::ServerConfig) -> Result<quinn::ServerConfig, LinkError> {
    let crypto = QuicServerConfig::try_from(tls).map_err(|_| LinkError::Crypto { what: "configure QUIC" })?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config
        .migration(false)
        .max_incoming(super::listener::HANDSHAKES_MAX)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_MAX * super::listener::HANDSHAKES_MAX as u64);
    Ok(config)
}

/// A listening endpoint on a bound socket.
pub(super) fn serve(
    socket: std::net::UdpSocket,
    config: quinn::ServerConfig,
    limit: BatchLimit,
) -> std::io::Result<Endpoint> {
    let mut endpoint = EndpointConfig::default();
    // Memory for this is reserved and, as far as small datagrams come, never touched.
    endpoint.max_udp_payload_size(JUMBO_BYTES).map_err(std::io::Error::other)?;
    Endpoint::new_with_abstract_socket(endpoint, Some(config), wrap(socket, limit)?, Arc::new(TokioRuntime))
}

/// Completes TLS with a dialer whose address has been validated.
pub(super) async fn accept(
    incoming: quinn::Incoming,
    config: &quinn::ServerConfig,
    options: &LinkOptions,
    limit: &BatchLimit,
) -> Result<Connection, LinkError> {
    let (transport, mtu_max) = transport(incoming.remote_address(), options);
    limit.admit(mtu_max);
    let mut config = config.clone();
    config.transport_config(Arc::new(transport));
    incoming.accept_with(Arc::new(config)).map_err(LinkError::of_connection)?.await.map_err(LinkError::of_connection)
}

/// A connection that the dialer has made, on a port of its own.
pub(super) struct Dialed {
    pub(super) connection: Connection,
    pub(super) endpoint: Endpoint,
    pub(super) warnings: Vec<String>,
}

/// Completes TLS with a listener.
pub(super) async fn connect(
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    options: &LinkOptions,
) -> Result<Dialed, LinkError> {
    let socket_error = |source| LinkError::Socket { what: "open a UDP socket towards", address, source };
    let (transport, mtu_max) = transport(address, options);
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let (socket, warnings) = bind_udp(any.parse().expect("an address")).map_err(socket_error)?;
    let socket = wrap(socket, BatchLimit::new(mtu_max)).map_err(socket_error)?;
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(mtu_max).map_err(|_| LinkError::Crypto { what: "configure QUIC" })?;
    let endpoint =
        Endpoint::new_with_abstract_socket(config, None, socket, Arc::new(TokioRuntime)).map_err(socket_error)?;
    let crypto = QuicClientConfig::try_from(tls).map_err(|_| LinkError::Crypto { what: "configure QUIC" })?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    let connecting = endpoint
        .connect_with(config, address, SERVER_NAME)
        .map_err(|source| socket_error(std::io::Error::other(source)))?;
    let connection = connecting.await.map_err(LinkError::of_connection)?;
    Ok(Dialed { connection, endpoint, warnings })
}

/// What TLS derived for this connection.
pub(super) fn binding(connection: &Connection) -> Result<Binding, LinkError> {
    let mut value = [0; 32];
    connection
        .export_keying_material(&mut value, EXPORTER_LABEL, b"")
        .map_err(|_| LinkError::Crypto { what: "export keying material" })?;
    Ok(Binding(value))
}

/// Whose key the peer has shown.
pub(super) fn peer(connection: &Connection) -> Result<Fingerprint, LinkError> {
    let keys = connection.peer_identity().and_then(|keys| keys.downcast::<Vec<CertificateDer<'static>>>().ok());
    fingerprint_of_peer(keys.as_ref().map(|keys| &keys[..]))
}

/// The connections of one link. The first one carries the control stream, and data streams are dealt round.
pub(super) struct Group {
    connections: Vec<Connection>,
    /// Where they are: a process that ends before its last word has left it keeps the peer waiting.
    endpoints: Vec<Endpoint>,
    next: AtomicUsize,
    tuner: AbortHandle,
}

impl Group {
    /// Opens proven connections for data.
    pub(super) fn new(connections: Vec<Connection>, endpoints: Vec<Endpoint>) -> Self {
        let count = connections.len() as u64;
        let streams = limit::DATA_STREAMS_MAX.div_ceil(count as u32);
        for connection in &connections {
            connection.set_max_concurrent_uni_streams(VarInt::from_u32(streams));
            connection.set_receive_window(VarInt::from_u32(WINDOW_BYTES_MIN as u32));
        }
        let tuner = tokio::spawn(tune(connections.clone(), WINDOW_BYTES_MAX / count)).abort_handle();
        Self { connections, endpoints, next: AtomicUsize::new(0), tuner }
    }

    pub(super) async fn open_data(&self, options: &LinkOptions) -> Result<FrameSender, LinkError> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.connections.len();
        let stream = self.connections[at].open_uni().await.map_err(LinkError::of_connection)?;
        Ok(FrameSender::quic(stream, options.bandwidth.clone()))
    }

    pub(super) async fn accept_data(&self) -> Result<FrameReceiver, LinkError> {
        // Dropping these futures loses nothing: a stream leaves its queue only when one of them is ready.
        let mut accepts: Vec<_> = self.connections.iter().map(|connection| Box::pin(connection.accept_uni())).collect();
        let accepted = poll_fn(|cx| {
            let ready = accepts.iter_mut().map(|accept| pin!(accept).poll(cx)).find(Poll::is_ready);
            ready.unwrap_or(Poll::Pending)
        });
        accepted.await.map(FrameReceiver::quic).map_err(LinkError::of_connection)
    }

    pub(super) fn remote_address(&self) -> SocketAddr {
        self.connections[0].remote_address()
    }

    pub(super) fn stats(&self) -> LinkStats {
        let mut sum = LinkStats { transport: "quic", lost_packets: Some(0), ..LinkStats::default() };
        for connection in &self.connections {
            let stats = connection.stats();
            sum.sent_bytes += stats.udp_tx.bytes;
            sum.received_bytes += stats.udp_rx.bytes;
            sum.lost_packets = sum.lost_packets.map(|lost| lost + stats.path.lost_packets);
            sum.rtt = Some(sum.rtt.map_or(stats.path.rtt, |rtt| rtt.min(stats.path.rtt)));
            sum.mtu = Some(sum.mtu.map_or(stats.path.current_mtu, |mtu| mtu.min(stats.path.current_mtu)));
        }
        let controller = self.connections[0].congestion_state().into_any().downcast::<Adaptive>();
        sum.congestion = controller.ok().map(|controller| controller.name());
        sum
    }

    /// Says goodbye on all connections, and gives it a moment to leave this host.
    pub(super) async fn close(&self, code: u32, reason: &str) {
        for connection in &self.connections {
            connection.close(VarInt::from_u32(code), reason.as_bytes());
        }
        let idle = async {
            for endpoint in &self.endpoints {
                endpoint.wait_idle().await;
            }
        };
        // The peer may be gone, and then nobody answers.
        let _ = tokio::time::timeout(Duration::from_millis(250), idle).await;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.tuner.abort();
    }
}

/// Keeps the windows at twice what is in flight on the path: rate times shortest round trip. A window that is the
/// bottleneck doubles in this way until it is none.
async fn tune(connections: Vec<Connection>, max: u64) {
    let mut ticks = tokio::time::interval(TUNE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before: Vec<_> = connections.iter().map(|_| (Instant::now(), 0, 0)).collect();
    loop {
        ticks.tick().await;
        for (connection, (then, sent, received)) in connections.iter().zip(&mut before) {
            let (now, stats) = (Instant::now(), connection.stats());
            let (tx, rx) = (stats.udp_tx.bytes, stats.udp_rx.bytes);
            let flight = |bytes: u64| {
                let rate = bytes as f64 / now.duration_since(*then).as_secs_f64().max(1e-3);
                (2.0 * rate * stats.path.min_rtt.as_secs_f64()) as u64
            };
            let (send, receive) = (flight(tx - *sent), flight(rx - *received));
            // Never smaller than before: a pause of the application says nothing about the path.
            if send > WINDOW_BYTES_MIN {
                connection.set_send_window(send.min(max).max(WINDOW_BYTES_MIN));
            }
            if receive > WINDOW_BYTES_MIN {
                connection.set_receive_window(VarInt::from_u32(receive.min(max).max(WINDOW_BYTES_MIN) as u32));
            }
            (*then, *sent, *received) = (now, tx, rx);
        }
        if connections.iter().all(|connection| connection.close_reason().is_some()) {
            return;
        }
    }
}
