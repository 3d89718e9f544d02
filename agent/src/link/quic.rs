//! QUIC: how a connection is configured and made.

mod group;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::rustls::pki_types::CertificateDer;
use quinn::{Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, TokioRuntime, TransportConfig, VarInt};

pub(super) use self::group::Group;
use super::admission::{Binding, EXPORTER_LABEL};
use super::congestion::Factory;
use super::identity::{Fingerprint, fingerprint_of_peer};
use super::interfaces::{self, JUMBO_BYTES, MTU_MIN};
use super::socket::{BatchLimit, bind_udp, wrap};
use super::{LinkError, LinkOptions};

/// Bytes in flight that a connection allows at first, and at most over all connections of a link. More than is needed
/// makes the kernel's buffers overflow on fast networks; the way from the first to the last is `tune` in `group`.
const WINDOW_BYTES_MIN: u64 = 8 << 20;
const WINDOW_BYTES_MAX: u64 = 64 << 20;

/// What a stranger may make us hold before it has proven who it is.
const STRANGER_BYTES_MAX: u32 = 64 << 10;

const IDLE_MS_MAX: u32 = 30_000;
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Handshakes at one time, and bytes that wait for each and for all of them before they are accepted.
const INCOMING_BYTES_MAX: u64 = 64 << 10;

/// TLS demands a name; without certificates it means nothing.
pub(super) const SERVER_NAME: &str = "tranship.invalid";

/// Bytes of the largest datagram of a connection that carries control frames only. It does not search for larger ones:
/// that costs tens of kilobytes, and a pass without contents less than one. Neither does the listener, who does not know
/// what a connection is for before it is greeted, because the dialer does not take any larger ones.
pub(super) const CONTROL_BYTES_MAX: u16 = MTU_MIN;

/// Bytes of the largest datagram to try towards `peer`.
fn datagram_bytes_max(peer: SocketAddr, options: &LinkOptions) -> u16 {
    interfaces::datagram_bytes_max(peer).min(options.datagram_bytes_max.unwrap_or(u16::MAX)).max(MTU_MIN)
}

fn transport(options: &LinkOptions, mtu_max: u16) -> TransportConfig {
    let searches = options.sends_contents && mtu_max > MTU_MIN;
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(mtu_max);
    let factory = Factory { kind: options.congestion, mtu_max, bandwidth: options.bandwidth.clone() };
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        // None for strangers: `Group` raises this and the window.
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(STRANGER_BYTES_MAX))
        // The window of the connection is what bounds a single stream too.
        .stream_receive_window(VarInt::from_u32(WINDOW_BYTES_MAX as u32))
        .send_window(WINDOW_BYTES_MIN)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_MS_MAX).into()))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_mtu(MTU_MIN)
        .mtu_discovery_config(searches.then_some(discovery))
        .congestion_controller_factory(Arc::new(factory));
    config
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
    let mtu_max = datagram_bytes_max(incoming.remote_address(), options);
    limit.admit(mtu_max);
    let mut config = config.clone();
    config.transport_config(Arc::new(transport(options, mtu_max)));
    incoming.accept_with(Arc::new(config)).map_err(LinkError::of_connection)?.await.map_err(LinkError::of_connection)
}

/// A connection that the dialer has made, on a port of its own.
pub(super) struct Dialed {
    pub(super) connection: Connection,
    pub(super) endpoint: Endpoint,
    pub(super) warnings: Vec<String>,
}

/// Completes TLS with a listener, on a connection whose datagrams have at most `mtu_max` bytes in both directions.
pub(super) async fn connect(
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    options: &LinkOptions,
    mtu_max: u16,
) -> Result<Dialed, LinkError> {
    let socket_error = |source| LinkError::Socket { what: "open a UDP socket towards", address, source };
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let (socket, warnings) = bind_udp(any.parse().expect("an address")).map_err(socket_error)?;
    let socket = wrap(socket, BatchLimit::new(mtu_max)).map_err(socket_error)?;
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(mtu_max).map_err(|_| LinkError::Crypto { what: "configure QUIC" })?;
    let endpoint =
        Endpoint::new_with_abstract_socket(config, None, socket, Arc::new(TokioRuntime)).map_err(socket_error)?;
    let crypto = QuicClientConfig::try_from(tls).map_err(|_| LinkError::Crypto { what: "configure QUIC" })?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport(options, mtu_max)));
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
