//! UDP sockets as QUIC needs them: large buffers, and batches that the kernel accepts.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

/// Bytes of datagrams that the kernel should hold for us in each direction: some ten milliseconds of 4 Gbit/s.
const BUFFER_BYTES: usize = 4 << 20;

/// Bytes in one batch of datagrams: what one UDP datagram over IPv4 can carry, which is what the batch is until the
/// kernel or the card splits it.
const BATCH_BYTES_MAX: usize = 65_507;

/// A bound UDP socket with large buffers, and what to tell the user if they are not.
pub(super) fn bind_udp(address: SocketAddr) -> io::Result<(std::net::UdpSocket, Vec<String>)> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    // By force where we may (CAP_NET_ADMIN), else up to the system's maximum. What was granted is read back below.
    if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES).is_err() {
        socket.set_recv_buffer_size(BUFFER_BYTES)?;
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, BUFFER_BYTES).is_err() {
        socket.set_send_buffer_size(BUFFER_BYTES)?;
    }
    let mut warnings = Vec::new();
    for (granted, what, sysctl) in [
        (socket.recv_buffer_size()?, "receive", "net.core.rmem_max"),
        (socket.send_buffer_size()?, "send", "net.core.wmem_max"),
    ] {
        // The kernel counts its own bookkeeping too and doubles what was asked for (socket(7)).
        let granted = granted / 2;
        if granted < BUFFER_BYTES {
            warnings.push(format!(
                "the UDP {what} buffer has {granted} bytes instead of {BUFFER_BYTES}, which costs throughput: \
                 sysctl -w {sysctl}={BUFFER_BYTES}"
            ));
        }
    }
    Ok((socket.into(), warnings))
}

/// How many datagrams one batch may hold on a socket; shared with the socket that obeys it.
#[derive(Debug, Clone)]
pub(super) struct BatchLimit(Arc<AtomicUsize>);

impl BatchLimit {
    pub(super) fn new(datagram_bytes_max: u16) -> Self {
        Self(Arc::new(AtomicUsize::new(Self::datagrams(datagram_bytes_max))))
    }

    /// Lowers the limit so that datagrams of this size fit as well.
    pub(super) fn admit(&self, datagram_bytes_max: u16) {
        self.0.fetch_min(Self::datagrams(datagram_bytes_max), Ordering::Relaxed);
    }

    fn datagrams(datagram_bytes_max: u16) -> usize {
        (BATCH_BYTES_MAX / usize::from(datagram_bytes_max).max(1)).max(1)
    }
}

/// Hands a socket to quinn.
///
/// quinn sends ten datagrams in a batch whatever their size. Ten large ones exceed what the kernel takes: it refuses the
/// batch, which quinn-udp reports as sent, and a link with jumbo datagrams would lose everything.
pub(super) fn wrap(socket: std::net::UdpSocket, limit: BatchLimit) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    Ok(Arc::new(Batched { inner: TokioRuntime.wrap_udp_socket(socket)?, limit }))
}

#[derive(Debug)]
struct Batched {
    inner: Arc<dyn AsyncUdpSocket>,
    limit: BatchLimit,
}

impl AsyncUdpSocket for Batched {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments().min(self.limit.0.load(Ordering::Relaxed))
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_of_jumbo_datagrams_fits_the_kernel() {
        let limit = BatchLimit::new(1_452);
        assert_eq!(limit.0.load(Ordering::Relaxed), 45);
        limit.admit(8_952);
        assert_eq!(limit.0.load(Ordering::Relaxed), 7);
        limit.admit(1_452);
        assert_eq!(limit.0.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn a_clamped_buffer_is_reported_with_the_knob_to_turn() {
        let (socket, warnings) = bind_udp("127.0.0.1:0".parse().unwrap()).unwrap();
        let granted = Socket::from(socket).recv_buffer_size().unwrap() / 2;
        assert_eq!(warnings.iter().any(|w| w.contains("net.core.rmem_max")), granted < BUFFER_BYTES);
    }
}
