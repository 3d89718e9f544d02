//! The connections of one QUIC link: one that carries the control stream from the beginning, and those for data, which
//! the dialer adds when either side is about to send any. Beside them, data may take TCP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quinn::{Connection, ConnectionError, Endpoint, PathStats, RecvStream, VarInt};
use tokio::sync::{Mutex, Notify, OnceCell, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tranship_proto::limit;

use super::{Dialed, WINDOW_BYTES_MAX, WINDOW_BYTES_MIN, binding, connect, datagram_bytes_max, peer};
use crate::link::congestion::Adaptive;
use crate::link::dial::Dialer;
use crate::link::frames::{FrameReceiver, FrameSender};
use crate::link::greeting::{Introduction, Purpose, introduce};
use crate::link::tcp::Lanes;
use crate::link::{
    ANSWER_MAX, CONNECTIONS_MAX, IDENTITY_CODE, LOST_CODE, LinkError, LinkOptions, LinkStats, Transport,
};

/// How often windows follow what was measured.
const TUNE_INTERVAL: Duration = Duration::from_millis(200);

/// How long the control connection may take to say why a connection for data failed. They end in any order if the link
/// ends, and what is said on this one counts.
const WORD_MAX: Duration = Duration::from_millis(250);

/// Streams that wait for [`Group::accept_data`]: all that a peer may open, rounded up on each connection, and the end of
/// each connection.
const INCOMING_MAX: usize = limit::DATA_STREAMS_MAX as usize + 2 * CONNECTIONS_MAX as usize;

/// Questions of a listener that wants to send: for connections for data, and for offers of TCP.
const QUESTIONS_MAX: u32 = 2;

/// Bytes over TCP that tell contents from handshakes.
const CONTENTS_BYTES_MIN: u64 = 1 << 20;

/// What a connection of this link hands to [`Group::accept_data`].
type Incoming = Result<RecvStream, LinkError>;

/// The connections of one link. Data streams are dealt round over those for data, or take TCP beside them.
pub(in crate::link) struct Group {
    shared: Arc<Shared>,
    incoming: Mutex<mpsc::Receiver<Incoming>>,
    next: AtomicUsize,
    work: AbortHandle,
    /// None if this side wants QUIC alone.
    beside: Option<Arc<Lanes>>,
    has_asked_for_offers: OnceCell<()>,
}

struct Shared {
    control: Connection,
    /// How many connections for data the link will have.
    count: u8,
    data: watch::Sender<Data>,
    /// Told when this side wants to send.
    wanted: Notify,
}

/// The connections for data that there are.
struct Data {
    connections: Vec<Connection>,
    /// Where all connections are: a process that ends before its last word has left it keeps the peer waiting.
    endpoints: Vec<Endpoint>,
    /// There will be no more.
    is_over: bool,
    /// Why, for the first who asks.
    error: Option<LinkError>,
}

impl Group {
    /// The dialer's end of a link whose control stream goes over `control`.
    pub(in crate::link) fn of_dialer(
        control: Connection,
        endpoint: Endpoint,
        dialer: Dialer,
        options: &LinkOptions,
    ) -> Self {
        control.set_max_concurrent_uni_streams(VarInt::from_u32(QUESTIONS_MAX));
        let has_choice = options.transport == Transport::Auto;
        let beside = has_choice.then(|| Arc::new(Lanes::of_dialer(dialer.clone(), Arc::default())));
        let (lanes, options) = (beside.clone(), options.clone());
        Self::new(control, endpoint, options.connections, beside, |shared, streams| {
            shared.dial(dialer, options, lanes, streams)
        })
    }

    /// The listener's end. `count` connections come out of `joins`.
    pub(in crate::link) fn of_listener(
        control: Connection,
        endpoint: Endpoint,
        count: u8,
        joins: mpsc::Receiver<Connection>,
        beside: Lanes,
    ) -> Self {
        Self::new(control, endpoint, count, Some(Arc::new(beside)), |shared, streams| shared.admit(joins, streams))
    }

    fn new<Work: Future<Output = ()> + Send + 'static>(
        control: Connection,
        endpoint: Endpoint,
        count: u8,
        beside: Option<Arc<Lanes>>,
        work: impl FnOnce(Arc<Shared>, mpsc::Sender<Incoming>) -> Work,
    ) -> Self {
        control.set_receive_window(VarInt::from_u32(WINDOW_BYTES_MIN as u32));
        let data = Data { connections: Vec::new(), endpoints: vec![endpoint], is_over: false, error: None };
        let shared = Arc::new(Shared { control, count, data: watch::Sender::new(data), wanted: Notify::new() });
        let (streams, incoming) = mpsc::channel(INCOMING_MAX);
        let work = tokio::spawn(work(shared.clone(), streams)).abort_handle();
        let (incoming, next) = (Mutex::new(incoming), AtomicUsize::new(0));
        Self { shared, incoming, next, work, beside, has_asked_for_offers: OnceCell::new() }
    }

    /// Sees to it that there are connections for data, and does not wait for them.
    pub(in crate::link) fn prepare(&self) {
        self.shared.wanted.notify_one();
    }

    pub(in crate::link) async fn open_data(&self, options: &LinkOptions) -> Result<FrameSender, LinkError> {
        self.prepare();
        let stream = self.data_connection().await?.open_uni().await.map_err(LinkError::of_connection)?;
        Ok(FrameSender::quic(stream, options.bandwidth.clone()))
    }

    pub(in crate::link) async fn open_beside(&self, options: &LinkOptions) -> Result<FrameSender, LinkError> {
        let beside = self.beside.as_ref().ok_or(LinkError::Closed)?;
        if beside.needs_offers() {
            self.has_asked_for_offers.get_or_init(|| self.shared.ask(Purpose::DataToDialer)).await;
        }
        tokio::select! {
            biased;
            error = self.shared.control.closed() => Err(LinkError::of_connection(error)),
            sender = beside.open(options) => sender,
        }
    }

    /// The next connection in turn, once all are there.
    async fn data_connection(&self) -> Result<Connection, LinkError> {
        let shared = &self.shared;
        let mut data = shared.data.subscribe();
        let settled = async { data.wait_for(|data| data.is_over || shared.is_complete(data)).await.is_ok() };
        tokio::select! {
            biased;
            settled = timeout(ANSWER_MAX, settled) => settled.map_err(|_| LinkError::Silent)?,
            error = shared.control.closed() => return Err(LinkError::of_connection(error)),
        };
        let mut error = None;
        shared.data.send_if_modified(|data| {
            error = data.is_over.then(|| data.error.take().unwrap_or(LinkError::Closed));
            false
        });
        if let Some(error) = error {
            return Err(error);
        }
        let data = shared.data.borrow();
        let at = self.next.fetch_add(1, Ordering::Relaxed) % data.connections.len();
        Ok(data.connections[at].clone())
    }

    pub(in crate::link) async fn accept_data(&self) -> Result<FrameReceiver, LinkError> {
        // Dropping this future loses nothing: a stream leaves its queue only when it is returned.
        let mut incoming = self.incoming.lock().await;
        let beside = async {
            match &self.beside {
                Some(beside) => beside.accept().await,
                None => Err(LinkError::Closed),
            }
        };
        tokio::select! {
            biased;
            Some(stream) = incoming.recv() => stream.map(FrameReceiver::quic),
            // That there is no TCP is no reason to do without QUIC.
            Ok(stream) = beside => Ok(stream),
            error = self.shared.control.closed() => Err(LinkError::of_connection(error)),
        }
    }

    pub(in crate::link) fn remote_address(&self) -> SocketAddr {
        self.shared.control.remote_address()
    }

    pub(in crate::link) fn stats(&self) -> LinkStats {
        let control = &self.shared.control;
        let data = self.shared.data.borrow();
        let mut sum = LinkStats { transport: "quic", lost_packets: Some(0), ..LinkStats::default() };
        for connection in data.connections.iter().chain([control]) {
            let stats = connection.stats();
            sum.sent_bytes += stats.udp_tx.bytes;
            sum.received_bytes += stats.udp_rx.bytes;
            sum.lost_packets = sum.lost_packets.map(|lost| lost + stats.path.lost_packets);
            sum.rtt = Some(sum.rtt.map_or(stats.path.rtt, |rtt| rtt.min(stats.path.rtt)));
            sum.rtt_min = Some(sum.rtt_min.map_or(stats.path.min_rtt, |rtt| rtt.min(stats.path.min_rtt)));
        }
        if let Some(traffic) = self.beside.as_ref().map(|beside| beside.traffic()) {
            let (sent, received) = (traffic.sent_bytes(), traffic.received_bytes());
            sum.transport = if sent + received < CONTENTS_BYTES_MIN { "quic" } else { "quic+tcp" };
            sum.sent_bytes += sent;
            sum.received_bytes += received;
        }
        // Contents take the connections for data, and what carries contents is what counts.
        let carrying = if data.connections.is_empty() { std::slice::from_ref(control) } else { &data.connections[..] };
        let paths: Vec<PathStats> = carrying.iter().map(|connection| connection.stats().path).collect();
        sum.mtu = paths.iter().map(|path| path.current_mtu).min();
        let in_a_second = |path: &PathStats| (path.cwnd as f64 / path.rtt.as_secs_f64().max(1e-6)) as u64;
        sum.window_bytes_per_second = Some(paths.iter().map(in_a_second).sum());
        let controller = carrying[0].congestion_state().into_any().downcast::<Adaptive>();
        sum.congestion = controller.ok().map(|controller| controller.name());
        sum
    }

    /// Says goodbye on all connections, and gives it a moment to leave this host.
    pub(in crate::link) async fn close(&self, code: u32, reason: &str) {
        self.work.abort();
        self.shared.end(VarInt::from_u32(code), reason);
        if let Some(beside) = &self.beside {
            beside.close();
        }
        let endpoints = self.shared.data.borrow().endpoints.clone();
        let idle = async {
            for endpoint in &endpoints {
                endpoint.wait_idle().await;
            }
        };
        // The peer may be gone, and then nobody answers.
        let _ = timeout(Duration::from_millis(250), idle).await;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.work.abort();
    }
}

impl Shared {
    fn is_complete(&self, data: &Data) -> bool {
        data.connections.len() == usize::from(self.count)
    }

    /// The listener asks the dialer to connect.
    async fn ask(&self, purpose: Purpose) {
        if let Ok(mut question) = self.control.open_uni().await
            && question.write_all(&[purpose as u8]).await.is_ok()
        {
            let _ = question.finish();
        }
    }

    /// The dialer's half of that.
    async fn hear_questions(&self, beside: Option<Arc<Lanes>>, is_asked: &AtomicBool) {
        while let Ok(mut question) = self.control.accept_uni().await {
            let mut purpose = [0];
            if question.read_exact(&mut purpose).await.is_err() {
                continue;
            }
            if purpose == [Purpose::Join as u8] {
                is_asked.store(true, Ordering::Relaxed);
                self.wanted.notify_one();
            } else if purpose == [Purpose::DataToDialer as u8]
                && let Some(beside) = &beside
            {
                beside.offer();
            }
        }
    }

    /// The dialer's work: once this side wants to send, or the peer does, all connections at once.
    async fn dial(
        self: Arc<Self>,
        dialer: Dialer,
        options: LinkOptions,
        beside: Option<Arc<Lanes>>,
        streams: mpsc::Sender<Incoming>,
    ) {
        let is_asked = AtomicBool::new(false);
        let dialing = async {
            tokio::select! {
                () = self.wanted.notified() => {}
                _ = self.control.closed() => return,
            }
            let is_asked = is_asked.load(Ordering::Relaxed);
            let mut connections = JoinSet::new();
            for _ in 0..self.count {
                let (shared, dialer, options, streams) =
                    (self.clone(), dialer.clone(), options.clone(), streams.clone());
                connections.spawn(async move {
                    match join(&dialer, &options).await {
                        Ok((connection, endpoint)) => shared.keep(connection, Some(endpoint), streams).await,
                        Err(error) => shared.fail(error, is_asked).await,
                    }
                });
            }
            while connections.join_next().await.is_some() {}
        };
        tokio::join!(dialing, self.hear_questions(beside, &is_asked));
    }

    /// The listener's work: asks the dialer if this side wants to send, and takes in what joins.
    async fn admit(self: Arc<Self>, mut joins: mpsc::Receiver<Connection>, streams: mpsc::Sender<Incoming>) {
        let asking = async {
            self.wanted.notified().await;
            // One that knows already need not be asked.
            if self.data.borrow().connections.is_empty() {
                self.ask(Purpose::Join).await;
            }
        };
        let joining = async {
            let mut connections = JoinSet::new();
            while connections.len() < self.count.into() {
                tokio::select! {
                    Some(connection) = joins.recv() => {
                        connections.spawn(self.clone().keep(connection, None, streams.clone()))
                    }
                    _ = self.control.closed() => return,
                };
            }
            drop(joins);
            while connections.join_next().await.is_some() {}
        };
        tokio::join!(asking, joining);
    }

    /// Opens a proven connection for data, and sees to it until it ends.
    async fn keep(
        self: Arc<Self>,
        connection: Connection,
        endpoint: Option<Endpoint>,
        streams: mpsc::Sender<Incoming>,
    ) {
        // The control connection has its window too, and is not tuned.
        let window_max = (WINDOW_BYTES_MAX - WINDOW_BYTES_MIN) / u64::from(self.count);
        let window_min = WINDOW_BYTES_MIN.min(window_max);
        connection.set_send_window(window_min);
        connection.set_receive_window(VarInt::from_u32(window_min as u32));
        let share = limit::DATA_STREAMS_MAX.div_ceil(self.count.into());
        connection.set_max_concurrent_uni_streams(VarInt::from_u32(share));
        self.data.send_modify(|data| {
            if data.is_over {
                connection.close(VarInt::from_u32(0), b"");
            } else {
                data.connections.push(connection.clone());
                data.endpoints.extend(endpoint);
            }
        });
        let accepting = async {
            let error = loop {
                match connection.accept_uni().await {
                    Ok(stream) => {
                        if streams.send(Ok(stream)).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => break error,
                }
            };
            // A peer that closes one closes all. Without such a word a part is missing, and the link is useless.
            let is_said = matches!(error, ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed);
            let _ = streams.send(Err(LinkError::of_connection(error.clone()))).await;
            if !is_said {
                self.fail(LinkError::of_connection(error), true).await;
            }
        };
        tokio::join!(accepting, tune(&connection, window_min, window_max));
    }

    /// There are no connections for data, which whoever wants one will hear. The whole link ends if the peer needs to
    /// know.
    async fn fail(&self, error: LinkError, ends_link: bool) {
        tracing::debug!(%error, "a data connection failed");
        let code = if matches!(error, LinkError::Identity) { IDENTITY_CODE } else { LOST_CODE };
        let error = match timeout(WORD_MAX, self.control.closed()).await {
            Ok(word) => LinkError::of_connection(word),
            Err(_) => error,
        };
        self.data.send_modify(|data| {
            data.is_over = true;
            data.error.get_or_insert(error);
        });
        if ends_link {
            self.end(code, "a data connection failed");
        }
    }

    /// Closes all connections, and those that come later.
    fn end(&self, code: VarInt, reason: &str) {
        let close = |connection: &Connection| {
            // Closed again, it would forget what the peer has said.
            if connection.close_reason().is_none() {
                connection.close(code, reason.as_bytes());
            }
        };
        close(&self.control);
        self.data.send_modify(|data| {
            data.is_over = true;
            data.connections.iter().for_each(close);
        });
    }
}

/// One more connection, known to the listener as one of this link.
async fn join(dialer: &Dialer, options: &LinkOptions) -> Result<(Connection, Endpoint), LinkError> {
    let attempt = async {
        let bytes_max = datagram_bytes_max(dialer.address, options);
        let dialed = connect(dialer.address, dialer.tls.clone(), options, bytes_max).await?;
        // Of the buffers of all sockets of this host, the first one has told what there is to tell.
        let Dialed { connection, endpoint, .. } = dialed;
        if let Err(error) = dialer.demand(peer(&connection)?) {
            connection.close(IDENTITY_CODE, b"");
            return Err(error);
        }
        let binding = binding(&connection)?;
        let (mut send, mut receive) = connection.open_bi().await.map_err(LinkError::of_connection)?;
        let hello = Introduction { purpose: Purpose::Join, connections: options.connections, link: dialer.link };
        introduce(&mut send, &mut receive, hello, &dialer.admission, &binding).await?;
        Ok((connection, endpoint))
    };
    timeout(ANSWER_MAX, attempt).await.map_err(|_| LinkError::Silent)?
}

/// Keeps the windows at twice what is in flight on the path: rate times shortest round trip. A window that is the
/// bottleneck doubles in this way until it is none. Ends with the connection.
async fn tune(connection: &Connection, min: u64, max: u64) {
    let mut ticks = tokio::time::interval(TUNE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut then, mut sent, mut received) = (Instant::now(), 0, 0);
    while connection.close_reason().is_none() {
        ticks.tick().await;
        let (now, stats) = (Instant::now(), connection.stats());
        let (tx, rx) = (stats.udp_tx.bytes, stats.udp_rx.bytes);
        let flight = |bytes: u64| {
            let rate = bytes as f64 / now.duration_since(then).as_secs_f64().max(1e-3);
            (2.0 * rate * stats.path.min_rtt.as_secs_f64()) as u64
        };
        let (send, receive) = (flight(tx - sent), flight(rx - received));
        // Never smaller than before: a pause of the application says nothing about the path.
        if send > min {
            connection.set_send_window(send.min(max));
        }
        if receive > min {
            connection.set_receive_window(VarInt::from_u32(receive.min(max) as u32));
        }
        (then, sent, received) = (now, tx, rx);
    }
}
