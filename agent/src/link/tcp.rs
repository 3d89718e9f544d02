//! TCP with TLS, for networks that drop UDP: one connection for the control stream and one for each data stream.
//!
//! Only the dialer can connect, so a stream from the listener to the dialer takes a connection that the dialer has
//! opened in advance: always one more than are in use.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustix::net::{Shutdown, sockopt};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tranship_proto::limit;

use super::admission::{Admission, Binding, EXPORTER_LABEL};
use super::frames::{FrameReceiver, FrameSender};
use super::greeting::{Introduction, LinkId, Purpose, introduce};
use super::identity::{Fingerprint, fingerprint_of_peer};
use super::quic::SERVER_NAME;
use super::{ANSWER_MAX, LinkError, LinkOptions, LinkStats};

/// A connection that dies is noticed as soon as a QUIC one would be.
const SILENCE_MS_MAX: u32 = 30_000;
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Written by the listener when it takes a connection for a stream of its own.
const TAKEN: u8 = 1;

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

impl Wire {
    fn new(stream: TcpStream, traffic: Arc<Traffic>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, PROBE_INTERVAL)?;
        sockopt::set_tcp_keepintvl(&stream, PROBE_INTERVAL)?;
        sockopt::set_tcp_user_timeout(&stream, SILENCE_MS_MAX)?;
        Ok(Self { stream: Arc::new(stream), traffic })
    }
}

impl Wire {
    /// From now on counts for `link`, and adds what it has counted so far.
    fn count_for(&mut self, link: &Arc<Traffic>) {
        if !Arc::ptr_eq(&self.traffic, link) {
            link.sent.fetch_add(self.traffic.sent.load(Ordering::Relaxed), Ordering::Relaxed);
            link.received.fetch_add(self.traffic.received.load(Ordering::Relaxed), Ordering::Relaxed);
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

/// What further connections of a link need.
pub(super) struct Dialer {
    pub(super) address: SocketAddr,
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) admission: Admission,
    pub(super) listener: Fingerprint,
    pub(super) link: LinkId,
}

impl Dialer {
    async fn open(&self, purpose: Purpose, traffic: Arc<Traffic>) -> Result<Tls, LinkError> {
        let attempt = async {
            let mut tls = connect(self.address, self.tls.clone(), traffic).await?;
            // Without a pin, the key of the first connection is the pin of all others.
            if peer(&tls)? != self.listener {
                return Err(LinkError::Identity);
            }
            let binding = binding(&tls)?;
            let (mut read, mut write) = tokio::io::split(&mut tls);
            let hello = Introduction { purpose, connections: 1, link: self.link };
            introduce(&mut write, &mut read, hello, &self.admission, &binding).await?;
            Ok(tls)
        };
        timeout(ANSWER_MAX, attempt).await.map_err(|_| LinkError::Silent)?
    }
}

/// Where a link's further connections come from.
enum Side {
    Dialer {
        dialer: Arc<Dialer>,
        /// Streams that the listener has begun, and the task that makes them.
        taken: tokio::sync::Mutex<mpsc::Receiver<Result<Tls, LinkError>>>,
        offer: AbortHandle,
    },
    Listener {
        incoming: tokio::sync::Mutex<mpsc::Receiver<Tls>>,
        spare: tokio::sync::Mutex<mpsc::Receiver<Tls>>,
        /// Told when the link ends, so that nobody can join it any more.
        on_drop: Box<dyn Fn() + Send + Sync>,
    },
}

/// The connections of one link.
pub(super) struct Group {
    side: Side,
    control: Weak<TcpStream>,
    data: Connections,
    traffic: Arc<Traffic>,
    streams: Arc<Semaphore>,
    remote_address: SocketAddr,
    rtt: Duration,
}

impl Group {
    /// The dialer's end of a link whose control stream goes over `control`. `rtt` is how long its introduction took.
    pub(super) fn of_dialer(
        dialer: Dialer,
        control: &Tls,
        traffic: Arc<Traffic>,
        rtt: Duration,
    ) -> Result<Self, LinkError> {
        let (dialer, data) = (Arc::new(dialer), Connections::default());
        let (sender, taken) = mpsc::channel(limit::DATA_STREAMS_MAX as usize);
        let offer = tokio::spawn(offer(dialer.clone(), traffic.clone(), data.clone(), sender)).abort_handle();
        let side = Side::Dialer { dialer, taken: tokio::sync::Mutex::new(taken), offer };
        Self::new(side, control, data, traffic, rtt)
    }

    /// The listener's end, which `on_drop` forgets.
    pub(super) fn of_listener(
        [incoming, spare]: [mpsc::Receiver<Tls>; 2],
        on_drop: Box<dyn Fn() + Send + Sync>,
        control: &Tls,
        traffic: Arc<Traffic>,
        rtt: Duration,
    ) -> Result<Self, LinkError> {
        let [incoming, spare] = [incoming, spare].map(tokio::sync::Mutex::new);
        Self::new(Side::Listener { incoming, spare, on_drop }, control, Connections::default(), traffic, rtt)
    }

    fn new(
        side: Side,
        control: &Tls,
        data: Connections,
        traffic: Arc<Traffic>,
        rtt: Duration,
    ) -> Result<Self, LinkError> {
        let control = &control.get_ref().0.stream;
        Ok(Self {
            side,
            remote_address: control.peer_addr().map_err(LinkError::of_io)?,
            control: Arc::downgrade(control),
            data,
            traffic,
            streams: Arc::new(Semaphore::new(limit::DATA_STREAMS_MAX as usize)),
            rtt,
        })
    }

    pub(super) async fn open_data(&self, options: &LinkOptions) -> Result<FrameSender, LinkError> {
        let permit = self.streams.clone().acquire_owned().await.map_err(|_| LinkError::Closed)?;
        let mut tls = match &self.side {
            Side::Dialer { dialer, .. } => dialer.open(Purpose::DataToListener, self.traffic.clone()).await?,
            Side::Listener { spare, .. } => {
                let mut spare = spare.lock().await;
                loop {
                    let mut tls = self.wait(spare.recv(), Some(ANSWER_MAX)).await?;
                    // One that has died in waiting is no reason to fail: the dialer has others.
                    if tls.write_all(&[TAKEN]).await.is_ok() && tls.flush().await.is_ok() {
                        break tls;
                    }
                }
            }
        };
        self.watch(&mut tls)?;
        let (read, write) = tokio::io::split(tls);
        Ok(FrameSender::tcp(write, Some(read), options.bandwidth.clone()).holding(permit))
    }

    pub(super) async fn accept_data(&self) -> Result<FrameReceiver, LinkError> {
        let mut tls = match &self.side {
            Side::Dialer { taken, .. } => self.wait(async { taken.lock().await.recv().await }, None).await??,
            Side::Listener { incoming, .. } => self.wait(async { incoming.lock().await.recv().await }, None).await?,
        };
        self.watch(&mut tls)?;
        let permit = self.streams.clone().try_acquire_owned().map_err(|_| LinkError::TooManyStreams)?;
        let (read, write) = tokio::io::split(tls);
        Ok(FrameReceiver::tcp(read, Some(write)).holding(permit))
    }

    /// Waits for a stream, but not on a dead link: nobody else may be reading the control connection just now.
    async fn wait<T>(&self, stream: impl Future<Output = Option<T>>, max: Option<Duration>) -> Result<T, LinkError> {
        let mut stream = std::pin::pin!(stream);
        let began = Instant::now();
        loop {
            match timeout(Duration::from_millis(500), &mut stream).await {
                Ok(Some(stream)) => return Ok(stream),
                Ok(None) => return Err(LinkError::Closed),
                Err(_) if self.is_gone() => return Err(LinkError::BrokenOff),
                Err(_) if max.is_some_and(|max| began.elapsed() > max) => return Err(LinkError::Silent),
                Err(_) => {}
            }
        }
    }

    /// Whether the peer has closed the control connection, or it has failed.
    fn is_gone(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let Some(control) = self.control.upgrade() else { return true };
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut polled = [PollFd::new(&control, gone)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&now)).is_ok_and(|_| polled[0].revents().intersects(gone))
    }

    fn watch(&self, tls: &mut Tls) -> Result<(), LinkError> {
        self.data.add(tls);
        match tls {
            TlsStream::Client(tls) => tls.get_mut().0.count_for(&self.traffic),
            TlsStream::Server(tls) => tls.get_mut().0.count_for(&self.traffic),
        }
        // In the reverse order of `close`: a connection that is too late for its list is turned away here.
        if self.streams.is_closed() { Err(LinkError::Closed) } else { Ok(()) }
    }

    pub(super) fn remote_address(&self) -> SocketAddr {
        self.remote_address
    }

    pub(super) fn stats(&self) -> LinkStats {
        LinkStats {
            transport: "tcp",
            sent_bytes: self.traffic.sent.load(Ordering::Relaxed),
            received_bytes: self.traffic.received.load(Ordering::Relaxed),
            rtt: Some(self.rtt),
            ..LinkStats::default()
        }
    }

    /// Ends all connections, whoever is waiting on them.
    pub(super) fn close(&self) {
        self.streams.close();
        for stream in self.data.take().iter().chain([&self.control]).filter_map(Weak::upgrade) {
            // One that the peer has closed before needs no closing.
            let _ = rustix::net::shutdown(&stream, Shutdown::Both);
        }
    }
}

/// The connections that end with the link.
#[derive(Clone, Default)]
struct Connections(Arc<Mutex<Vec<Weak<TcpStream>>>>);

impl Connections {
    fn add(&self, tls: &Tls) {
        let stream = &tls.get_ref().0.stream;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.strong_count() > 0 && known.as_ptr() != Arc::as_ptr(stream));
        all.push(Arc::downgrade(stream));
    }

    fn take(&self) -> Vec<Weak<TcpStream>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Keeps one connection ready for the listener.
async fn offer(
    dialer: Arc<Dialer>,
    traffic: Arc<Traffic>,
    connections: Connections,
    taken: mpsc::Sender<Result<Tls, LinkError>>,
) {
    loop {
        let offered = async {
            let mut tls = dialer.open(Purpose::DataToDialer, traffic.clone()).await?;
            connections.add(&tls);
            let mut answer = [0];
            tls.read_exact(&mut answer).await.map_err(LinkError::of_io)?;
            if answer == [TAKEN] { Ok(tls) } else { Err(LinkError::Greeting) }
        };
        let offered = offered.await;
        let is_over = offered.is_err();
        if taken.send(offered).await.is_err() || is_over {
            return;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        match &self.side {
            Side::Dialer { offer, .. } => offer.abort(),
            Side::Listener { on_drop, .. } => on_drop(),
        }
    }
}
