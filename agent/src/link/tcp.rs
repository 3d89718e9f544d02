//! TCP with TLS, for networks that drop UDP and for those on which it is faster: how a connection is configured and made.

mod group;
mod lanes;

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{Shutdown, sockopt};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

pub(super) use self::group::Group;
pub(super) use self::lanes::{Doors, Lanes};
use super::LinkError;
use super::admission::{Binding, EXPORTER_LABEL};
use super::identity::{Fingerprint, fingerprint_of_peer};
use super::quic::SERVER_NAME;

/// A connection that dies is noticed as soon as a QUIC one would be.
const SILENCE_MS_MAX: u32 = 30_000;
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// A TLS connection over a counted socket.
pub(super) type Tls = TlsStream<Wire>;

/// A TCP connection that counts what goes through it and can be shut by others than its owner.
pub(super) struct Wire {
    stream: Arc<TcpStream>,
    traffic: Arc<Traffic>,
}

#[derive(Debug, Default)]
pub(super) struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Traffic {
    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(super) fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Wire {
    fn new(stream: TcpStream, traffic: Arc<Traffic>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, PROBE_INTERVAL)?;
        sockopt::set_tcp_keepintvl(&stream, PROBE_INTERVAL)?;
        sockopt::set_tcp_user_timeout(&stream, SILENCE_MS_MAX)?;
        Ok(Self { stream: Arc::new(stream), traffic })
    }

    /// From now on counts for `link`, and adds what it has counted so far.
    fn count_for(&mut self, link: &Arc<Traffic>) {
        if !Arc::ptr_eq(&self.traffic, link) {
            link.sent.fetch_add(self.traffic.sent_bytes(), Ordering::Relaxed);
            link.received.fetch_add(self.traffic.received_bytes(), Ordering::Relaxed);
            self.traffic = link.clone();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(buf.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(bytes) => {
                    buf.advance(bytes);
                    self.traffic.received.fetch_add(bytes as u64, Ordering::Relaxed);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(bytes) => {
                    self.traffic.sent.fetch_add(bytes as u64, Ordering::Relaxed);
                    return Poll::Ready(Ok(bytes));
                }
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(&self.stream, Shutdown::Write).map_err(io::Error::from))
    }
}

/// Completes TLS with a listener.
pub(super) async fn connect(
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    traffic: Arc<Traffic>,
) -> Result<Tls, LinkError> {
    let stream = TcpStream::connect(address).await.map_err(|source| LinkError::Socket {
        what: "connect by TCP to",
        address,
        source,
    })?;
    let wire = Wire::new(stream, traffic).map_err(LinkError::of_io)?;
    let name = ServerName::try_from(SERVER_NAME).expect("a name");
    let tls = TlsConnector::from(tls).connect(name, wire).await.map_err(LinkError::of_io)?;
    demand_alpn(&tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))?;
    Ok(tls.into())
}

/// Completes TLS with a dialer.
pub(super) async fn accept(
    stream: TcpStream,
    tls: Arc<rustls::ServerConfig>,
    traffic: Arc<Traffic>,
) -> Result<Tls, LinkError> {
    let wire = Wire::new(stream, traffic).map_err(LinkError::of_io)?;
    let tls = TlsAcceptor::from(tls).accept(wire).await.map_err(LinkError::of_io)?;
    demand_alpn(&tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))?;
    Ok(tls.into())
}

/// Over TCP, TLS goes on when one side names no protocol at all; we do not.
fn demand_alpn(alpn: &Option<Vec<u8>>) -> Result<(), LinkError> {
    if alpn.as_deref() == Some(tranship_proto::version::ALPN) { Ok(()) } else { Err(LinkError::Greeting) }
}

/// What TLS derived for this connection.
pub(super) fn binding(tls: &Tls) -> Result<Binding, LinkError> {
    let value = match tls {
        TlsStream::Client(tls) => tls.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, Some(b"")),
        TlsStream::Server(tls) => tls.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, Some(b"")),
    };
    value.map(Binding).map_err(|_| LinkError::Crypto { what: "export keying material" })
}

/// Whose key the peer has shown.
pub(super) fn peer(tls: &Tls) -> Result<Fingerprint, LinkError> {
    fingerprint_of_peer(tls.get_ref().1.peer_certificates())
}
