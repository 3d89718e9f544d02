//! Data streams over TCP, each on a connection of its own.
//!
//! Only the dialer can connect, so a stream from the listener to the dialer takes a connection that the dialer has
//! opened in advance: always one more than are in use.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::net::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsStream;
use tranship_proto::limit;

use super::{Tls, Traffic, binding, connect, peer};
use crate::link::dial::Dialer;
use crate::link::frames::{FrameReceiver, FrameSender};
use crate::link::greeting::{Introduction, Purpose, introduce};
use crate::link::{ANSWER_MAX, LinkError, LinkOptions};

/// Written by the listener when it takes a connection for a stream of its own.
const TAKEN: u8 = 1;

/// Connections that may die one after the other before they are used: after that there are no more.
const OFFERS_DIED_MAX: u32 = 3;

/// The data streams of one link that go over TCP.
pub(in crate::link) struct Lanes {
    side: Side,
    connections: Connections,
    traffic: Arc<Traffic>,
    streams: Arc<Semaphore>,
}

/// Where connections come from.
enum Side {
    Dialer {
        dialer: Arc<Dialer>,
        /// Streams that the listener has begun.
        taken: tokio::sync::Mutex<mpsc::Receiver<Result<Tls, LinkError>>>,
        offers: Mutex<Offers>,
    },
    Listener {
        incoming: tokio::sync::Mutex<mpsc::Receiver<Tls>>,
        spare: tokio::sync::Mutex<mpsc::Receiver<Tls>>,
    },
}

/// What makes connections for the listener.
enum Offers {
    /// Nothing yet: this is where they will go.
    NotBegun(mpsc::Sender<Result<Tls, LinkError>>),
    Begun(AbortHandle),
}

/// Where connections come in to the listener's end.
#[derive(Clone)]
pub(in crate::link) struct Doors {
    /// For streams that the dialer begins.
    pub(in crate::link) incoming: mpsc::Sender<Tls>,
    /// For streams that the listener will begin.
    pub(in crate::link) spare: mpsc::Sender<Tls>,
}

impl Lanes {
    /// The dialer's end. What counts for the link is added to `traffic`.
    pub(in crate::link) fn of_dialer(dialer: Dialer, traffic: Arc<Traffic>) -> Self {
        let (offers, taken) = mpsc::channel(limit::DATA_STREAMS_MAX as usize);
        let offers = Mutex::new(Offers::NotBegun(offers));
        Self::new(Side::Dialer { dialer: Arc::new(dialer), taken: taken.into(), offers }, traffic)
    }

    /// The listener's end, and where its connections come in.
    pub(in crate::link) fn of_listener(traffic: Arc<Traffic>) -> (Self, Doors) {
        let channel = || mpsc::channel(limit::DATA_STREAMS_MAX as usize);
        let ((incoming, incoming_streams), (spare, spare_streams)) = (channel(), channel());
        let side = Side::Listener { incoming: incoming_streams.into(), spare: spare_streams.into() };
        (Self::new(side, traffic), Doors { incoming, spare })
    }

    fn new(side: Side, traffic: Arc<Traffic>) -> Self {
        let streams = Arc::new(Semaphore::new(limit::DATA_STREAMS_MAX as usize));
        Self { side, connections: Connections::default(), traffic, streams }
    }

    /// Keeps a connection ready for the listener from now on, if this is the dialer.
    pub(in crate::link) fn offer(&self) {
        let Side::Dialer { dialer, offers, .. } = &self.side else { return };
        let mut offers = offers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Offers::NotBegun(sender) = &*offers {
            let (traffic, connections) = (self.traffic.clone(), self.connections.clone());
            let work = tokio::spawn(keep_offering(dialer.clone(), traffic, connections, sender.clone()));
            *offers = Offers::Begun(work.abort_handle());
        }
    }

    /// Whether this end can only begin streams on connections that the peer [offers](Self::offer).
    pub(in crate::link) fn needs_offers(&self) -> bool {
        matches!(self.side, Side::Listener { .. })
    }

    pub(in crate::link) async fn open(&self, options: &LinkOptions) -> Result<FrameSender, LinkError> {
        let permit = self.streams.clone().acquire_owned().await.map_err(|_| LinkError::Closed)?;
        let mut tls = match &self.side {
            Side::Dialer { dialer, .. } => open(dialer, Purpose::DataToListener, self.traffic.clone()).await?,
            Side::Listener { spare, .. } => {
                let mut spare = spare.lock().await;
                loop {
                    let offered = timeout(ANSWER_MAX, spare.recv()).await.map_err(|_| LinkError::Silent)?;
                    let mut tls = offered.ok_or(LinkError::Closed)?;
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

    /// The next stream that the peer has begun. May be dropped at any point.
    pub(in crate::link) async fn accept(&self) -> Result<FrameReceiver, LinkError> {
        // Dropping this future loses nothing: a stream leaves its queue only when it is returned.
        let mut tls = match &self.side {
            Side::Dialer { taken, .. } => taken.lock().await.recv().await.ok_or(LinkError::Closed)??,
            Side::Listener { incoming, .. } => incoming.lock().await.recv().await.ok_or(LinkError::Closed)?,
        };
        self.watch(&mut tls)?;
        let permit = self.streams.clone().try_acquire_owned().map_err(|_| LinkError::TooManyStreams)?;
        let (read, write) = tokio::io::split(tls);
        Ok(FrameReceiver::tcp(read, Some(write)).holding(permit))
    }

    fn watch(&self, tls: &mut Tls) -> Result<(), LinkError> {
        self.connections.add(tls);
        match tls {
            TlsStream::Client(tls) => tls.get_mut().0.count_for(&self.traffic),
            TlsStream::Server(tls) => tls.get_mut().0.count_for(&self.traffic),
        }
        // In the reverse order of `close`: a connection that is too late for its list is turned away here.
        if self.streams.is_closed() { Err(LinkError::Closed) } else { Ok(()) }
    }

    pub(in crate::link) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Ends all streams, whoever is waiting on them.
    pub(in crate::link) fn close(&self) {
        self.streams.close();
        for stream in self.connections.take().iter().filter_map(Weak::upgrade) {
            // One that the peer has closed before needs no closing.
            let _ = rustix::net::shutdown(&stream, Shutdown::Both);
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        if let Side::Dialer { offers, .. } = &self.side
            && let Offers::Begun(work) = &*offers.lock().unwrap_or_else(PoisonError::into_inner)
        {
            work.abort();
        }
    }
}

/// One more connection of the link, known to the listener as such.
async fn open(dialer: &Dialer, purpose: Purpose, traffic: Arc<Traffic>) -> Result<Tls, LinkError> {
    let attempt = async {
        let mut tls = connect(dialer.address, dialer.tls.clone(), traffic).await?;
        dialer.demand(peer(&tls)?)?;
        let binding = binding(&tls)?;
        let (mut read, mut write) = tokio::io::split(&mut tls);
        let hello = Introduction { purpose, connections: 1, link: dialer.link };
        introduce(&mut write, &mut read, hello, &dialer.admission, &binding).await?;
        Ok(tls)
    };
    timeout(ANSWER_MAX, attempt).await.map_err(|_| LinkError::Silent)?
}

/// Keeps one connection ready for the listener.
async fn keep_offering(
    dialer: Arc<Dialer>,
    traffic: Arc<Traffic>,
    connections: Connections,
    taken: mpsc::Sender<Result<Tls, LinkError>>,
) {
    let mut died = 0;
    while died < OFFERS_DIED_MAX {
        let mut tls = match open(&dialer, Purpose::DataToDialer, traffic.clone()).await {
            Ok(tls) => tls,
            Err(error) => {
                let _ = taken.send(Err(error)).await;
                return;
            }
        };
        connections.add(&tls);
        let mut answer = [0];
        match tls.read_exact(&mut answer).await {
            Ok(_) if answer == [TAKEN] => {
                died = 0;
                if taken.send(Ok(tls)).await.is_err() {
                    return;
                }
            }
            Ok(_) => {
                let _ = taken.send(Err(LinkError::Greeting)).await;
                return;
            }
            // What waits for long may be cut by what lies between; the next one may be used at once.
            Err(_) => died += 1,
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
