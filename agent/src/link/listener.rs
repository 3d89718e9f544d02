//! The side that waits: one port for QUIC and for TCP, open to strangers and hard to hold up.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tranship_proto::limit;

use super::admission::Admission;
use super::frames::{FrameReceiver, FrameSender};
use super::greeting::{LinkId, Purpose, hear, refuse, welcome};
use super::identity::{Fingerprint, Identity};
use super::socket::{BatchLimit, bind_udp};
use super::tcp::{Doors, Lanes};
use super::{
    CONNECTIONS_MAX, Group, IDENTITY_CODE, Link, LinkError, LinkOptions, Streams, Transport, interfaces, quic, tcp,
};

/// Handshakes that are under way at one time over each transport. One more puts an end to the oldest: a flood cannot
/// keep a peer out that finishes in the usual time.
pub(super) const HANDSHAKES_MAX: usize = 64;

/// From the first packet of a peer to its admission.
const HANDSHAKE_MAX: Duration = Duration::from_millis(limit::HANDSHAKE_MS_MAX);

/// Links that wait for [`Listener::accept`].
const READY_MAX: usize = 4;

/// Tries to find a port that is free for both transports, when the kernel chooses.
const BIND_TRIES: usize = 16;

/// Waits for links. Dropping it ends the waiting and leaves links alone, but no connection joins one any more: those whose
/// data has not begun to flow get no further.
pub struct Listener {
    addresses: Vec<SocketAddr>,
    warnings: Vec<String>,
    links: mpsc::Receiver<Link>,
    tasks: Vec<AbortHandle>,
}

/// Bound sockets. They can be had without an asynchronous runtime, by a process that may open none later.
#[derive(Debug)]
pub struct Sockets(Vec<Bound>);

impl Sockets {
    /// Binds all `addresses`, for UDP and for TCP on the same port unless one transport is named. Port 0 is replaced by
    /// a free one, the same for all. An unspecified IPv6 address is left out on a host without IPv6 if there are
    /// others.
    pub fn bind(addresses: &[SocketAddr], transport: Transport) -> Result<Self, LinkError> {
        bind_all(addresses, transport).map(Self)
    }
}

impl Listener {
    /// Listens on [`Sockets`] that are bound now.
    pub fn bind(
        addresses: &[SocketAddr],
        identity: &Identity,
        admission: Admission,
        options: &LinkOptions,
    ) -> Result<Self, LinkError> {
        Self::listen(Sockets::bind(addresses, options.transport)?, identity, admission, options)
    }

    /// Listens on `sockets`. `identity` is shown to everyone who asks; who is let in says `admission`.
    pub fn listen(
        sockets: Sockets,
        identity: &Identity,
        admission: Admission,
        options: &LinkOptions,
    ) -> Result<Self, LinkError> {
        let tls = identity.server_config(admission.pin())?;
        let quic = quic::server_config(tls.clone())?;
        let (ready, links) = mpsc::channel(READY_MAX);
        let door = Arc::new(Door {
            admission,
            options: options.clone(),
            tls: Arc::new(tls),
            quic,
            links: Mutex::default(),
            handshakes: [Mutex::default(), Mutex::default()],
            ready,
        });
        let mut listener = Self { addresses: Vec::new(), warnings: Vec::new(), links, tasks: Vec::new() };
        for Bound { address, udp, tcp } in sockets.0 {
            let failed = |source| LinkError::Socket { what: "listen on", address, source };
            if let Some((socket, warnings)) = udp {
                warnings.into_iter().for_each(|w| {
                    if !listener.warnings.contains(&w) {
                        listener.warnings.push(w)
                    }
                });
                let limit = BatchLimit::new(interfaces::MTU_MIN);
                let endpoint = quic::serve(socket, door.quic.clone(), limit.clone()).map_err(failed)?;
                listener.tasks.push(tokio::spawn(door.clone().receive_quic(endpoint, limit)).abort_handle());
            }
            if let Some(socket) = tcp {
                let socket = TcpListener::from_std(socket).map_err(failed)?;
                listener.tasks.push(tokio::spawn(door.clone().receive_tcp(socket)).abort_handle());
            }
            listener.addresses.push(address);
        }
        Ok(listener)
    }

    /// Where a peer may reach this listener: what it was bound to, and for an unspecified address all addresses of the
    /// host; loopback only if there is nothing else.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        let mut found = Vec::new();
        for bound in &self.addresses {
            if bound.ip().is_unspecified() {
                found.extend(
                    interfaces::reachable(bound.is_ipv4()).into_iter().map(|ip| SocketAddr::new(ip, bound.port())),
                );
            } else {
                found.push(*bound);
            }
        }
        if found.is_empty() {
            found.extend(self.addresses.first().map(|bound| SocketAddr::new(loopback(bound.ip()), bound.port())));
        }
        found
    }

    /// What the user could change to make this host faster.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The next peer that has been let in. May be dropped at any point. Those who were refused are in the log.
    pub async fn accept(&mut self) -> Result<Link, LinkError> {
        self.links.recv().await.ok_or(LinkError::Closed)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

fn loopback(unspecified: IpAddr) -> IpAddr {
    if unspecified.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() }
}

/// The two sockets of one address.
#[derive(Debug)]
struct Bound {
    address: SocketAddr,
    udp: Option<(std::net::UdpSocket, Vec<String>)>,
    tcp: Option<std::net::TcpListener>,
}

fn bind_all(addresses: &[SocketAddr], transport: Transport) -> Result<Vec<Bound>, LinkError> {
    let is_free_choice = addresses.iter().any(|address| address.port() == 0);
    let mut tries = if is_free_choice { BIND_TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_once(addresses, transport) {
            Err(LinkError::Socket { source, .. }) if source.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            result => return result,
        }
    }
}

fn bind_once(addresses: &[SocketAddr], transport: Transport) -> Result<Vec<Bound>, LinkError> {
    let mut chosen = 0;
    let mut all = Vec::new();
    for address in addresses {
        let mut address = *address;
        if address.port() == 0 {
            address.set_port(chosen);
        }
        match bind_one(address, transport) {
            Ok(bound) => {
                chosen = bound.address.port();
                all.push(bound);
            }
            Err(error)
                if address.is_ipv6() && address.ip().is_unspecified() && addresses.len() > 1 && is_no_v6(&error) => {}
            Err(source) => return Err(LinkError::Socket { what: "listen on", address, source }),
        }
    }
    if all.is_empty() {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "no address to listen on");
        return Err(LinkError::Socket { what: "listen on", address: (Ipv4Addr::UNSPECIFIED, 0).into(), source });
    }
    Ok(all)
}

fn is_no_v6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn bind_one(mut address: SocketAddr, transport: Transport) -> io::Result<Bound> {
    let tcp = if transport == Transport::Quic {
        None
    } else {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // A listener that starts again need not wait for connections of its predecessor to be forgotten.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(HANDSHAKES_MAX as i32)?;
        let socket = std::net::TcpListener::from(socket);
        address = socket.local_addr()?;
        Some(socket)
    };
    let udp = if transport == Transport::Tcp {
        None
    } else {
        let (socket, warnings) = bind_udp(address)?;
        address = socket.local_addr()?;
        Some((socket, warnings))
    };
    Ok(Bound { address, udp, tcp })
}

/// Who has come in: what all connections of one listener share.
struct Door {
    admission: Admission,
    options: LinkOptions,
    tls: Arc<rustls::ServerConfig>,
    quic: quinn::ServerConfig,
    links: Mutex<HashMap<LinkId, Guest>>,
    /// Handshakes by QUIC and by TCP, the oldest first.
    handshakes: [Mutex<VecDeque<AbortHandle>>; 2],
    ready: mpsc::Sender<Link>,
}

/// A link that further connections may join, if they show the same key.
#[derive(Clone)]
struct Guest {
    peer: Fingerprint,
    joins: Joins,
}

#[derive(Clone)]
struct Joins {
    /// None if the link goes over TCP alone.
    quic: Option<mpsc::Sender<quinn::Connection>>,
    tcp: Doors,
}

impl Door {
    async fn receive_quic(self: Arc<Self>, endpoint: quinn::Endpoint, limit: BatchLimit) {
        while let Some(incoming) = endpoint.accept().await {
            if !incoming.remote_address_validated() {
                // A stateless answer: who invents addresses costs us no memory and nobody else any traffic.
                let _ = incoming.retry();
                continue;
            }
            let (door, endpoint, limit) = (self.clone(), endpoint.clone(), limit.clone());
            let remote = incoming.remote_address();
            self.begin(0, remote, async move { door.admit_quic(incoming, endpoint, limit).await });
        }
    }

    async fn receive_tcp(self: Arc<Self>, socket: TcpListener) {
        loop {
            match socket.accept().await {
                Ok((stream, remote)) => {
                    let door = self.clone();
                    self.begin(1, remote, async move { door.admit_tcp(stream).await });
                }
                // Out of descriptors or of memory: it passes, and a busy loop would not help.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Runs one handshake against the clock.
    fn begin(
        &self,
        transport: usize,
        remote: SocketAddr,
        handshake: impl Future<Output = Result<(), LinkError>> + Send + 'static,
    ) {
        let task = tokio::spawn(async move {
            match timeout(HANDSHAKE_MAX, handshake).await {
                Ok(Ok(())) => {}
                Ok(Err(error @ LinkError::Identity)) => tracing::warn!(code = error.code(), %remote, "{error}"),
                Ok(Err(error)) => tracing::debug!(%error, %remote, "a handshake failed"),
                Err(_) => tracing::debug!(%remote, "a handshake took too long"),
            }
        });
        let mut handshakes = self.handshakes[transport].lock().unwrap_or_else(PoisonError::into_inner);
        handshakes.retain(|task| !task.is_finished());
        if handshakes.len() == HANDSHAKES_MAX
            && let Some(oldest) = handshakes.pop_front()
        {
            oldest.abort();
        }
        handshakes.push_back(task.abort_handle());
    }

    async fn admit_quic(
        self: Arc<Self>,
        incoming: quinn::Incoming,
        endpoint: quinn::Endpoint,
        limit: BatchLimit,
    ) -> Result<(), LinkError> {
        let connection = quic::accept(incoming, &self.quic, &self.options, &limit).await?;
        let result = self.greet_quic(&connection, endpoint).await;
        if let Err(LinkError::Identity) = result {
            connection.close(IDENTITY_CODE, b"");
        }
        result
    }

    async fn greet_quic(
        self: &Arc<Self>,
        connection: &quinn::Connection,
        endpoint: quinn::Endpoint,
    ) -> Result<(), LinkError> {
        let (peer, binding) = (quic::peer(connection)?, quic::binding(connection)?);
        let (mut send, mut receive) = connection.accept_bi().await.map_err(LinkError::of_connection)?;
        let hello = hear(&mut receive, &self.admission, &binding).await?;
        match hello.purpose {
            Purpose::Control if (1..=CONNECTIONS_MAX).contains(&hello.connections) => {
                let (joins, joined) = mpsc::channel(CONNECTIONS_MAX.into());
                let (lanes, tcp) = Lanes::of_listener(Arc::default());
                let place = self.enter(peer, Joins { quic: Some(joins), tcp })?;
                welcome(&mut send, place.link, &self.admission, &binding).await?;
                let group = quic::Group::of_listener(connection.clone(), endpoint, hello.connections, joined, lanes);
                let control = (FrameSender::quic(send, None), FrameReceiver::quic(receive));
                self.hand_over(control, Group::Quic(group), peer, place).await
            }
            Purpose::Join => {
                let guest = self.guest(hello.link, peer);
                let Some(Joins { quic: Some(joins), .. }) = guest else { return Err(LinkError::Identity) };
                // The peer may send data as soon as it is welcome; it waits until the group has taken the connection.
                welcome(&mut send, hello.link, &self.admission, &binding).await?;
                send.finish().map_err(|_| LinkError::Closed)?;
                joins.try_send(connection.clone()).map_err(|_| LinkError::TooManyStreams)
            }
            _ => Err(LinkError::Greeting),
        }
    }

    async fn admit_tcp(self: Arc<Self>, stream: tokio::net::TcpStream) -> Result<(), LinkError> {
        let traffic = Arc::new(tcp::Traffic::default());
        let mut tls = tcp::accept(stream, self.tls.clone(), traffic.clone()).await?;
        let (peer, binding) = (tcp::peer(&tls)?, tcp::binding(&tls)?);
        let (mut read, mut write) = tokio::io::split(&mut tls);
        let began = Instant::now();
        let hello = match hear(&mut read, &self.admission, &binding).await {
            Ok(hello) => hello,
            Err(error) => {
                refuse(&mut write).await;
                return Err(error);
            }
        };
        match hello.purpose {
            Purpose::Control => {
                let (lanes, tcp) = Lanes::of_listener(traffic);
                let place = self.enter(peer, Joins { quic: None, tcp })?;
                welcome(&mut write, place.link, &self.admission, &binding).await?;
                let group = tcp::Group::new(&tls, lanes, began.elapsed())?;
                let (read, write) = tokio::io::split(tls);
                let control = (FrameSender::tcp(write, None, None), FrameReceiver::tcp(read, None));
                self.hand_over(control, Group::Tcp(group), peer, place).await
            }
            Purpose::DataToListener | Purpose::DataToDialer => {
                let Some(Joins { tcp, .. }) = self.guest(hello.link, peer) else {
                    refuse(&mut write).await;
                    return Err(LinkError::Identity);
                };
                welcome(&mut write, hello.link, &self.admission, &binding).await?;
                let queue = if hello.purpose == Purpose::DataToListener { tcp.incoming } else { tcp.spare };
                queue.try_send(tls).map_err(|_| LinkError::TooManyStreams)
            }
            Purpose::Join => Err(LinkError::Greeting),
        }
    }

    fn enter(self: &Arc<Self>, peer: Fingerprint, joins: Joins) -> Result<Place, LinkError> {
        let link = LinkId::generate()?;
        self.lock().insert(link, Guest { peer, joins });
        Ok(Place { door: Arc::downgrade(self), link })
    }

    fn guest(&self, link: LinkId, peer: Fingerprint) -> Option<Joins> {
        self.lock().get(&link).filter(|guest| guest.peer == peer).map(|guest| guest.joins.clone())
    }

    async fn hand_over(
        &self,
        control: (FrameSender, FrameReceiver),
        group: Group,
        peer: Fingerprint,
        place: Place,
    ) -> Result<(), LinkError> {
        let streams = Streams::new(group, &self.options, peer, Vec::new(), Some(place));
        self.ready.send(Link { control, streams }).await.map_err(|_| LinkError::Closed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<LinkId, Guest>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A link's entry in the list of those that can be joined; it ends with this.
pub(super) struct Place {
    door: Weak<Door>,
    link: LinkId,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(door) = self.door.upgrade() {
            door.lock().remove(&self.link);
        }
    }
}
