//! The link between two agents: the only code that opens sockets to a peer.
//!
//! A [`Link`] is one ordered control stream of [`tranship_proto::Frame`]s and any number of ordered data streams, over
//! QUIC, or over TCP where UDP does not get through. Data has connections of its own, which are made when the first of it
//! is about to flow: a pass that finds nothing to send costs a few hundred bytes. Beside QUIC, data may take TCP too.
//!
//! One side has a [`Listener`], the other one [`dial`]s; which of them is the source does not matter. Each shows a bare
//! public key that it made in memory ([`Identity`]), and whom it lets in says [`Admission`]: a key that was exchanged
//! beforehand, or whoever knows a secret, as the [`Ticket`] tells it.
//!
//! Nothing here knows what the frames say.

mod admission;
mod bandwidth;
mod congestion;
mod dial;
mod error;
mod frames;
mod greeting;
mod identity;
mod interfaces;
mod listener;
mod quic;
mod socket;
mod tcp;
mod ticket;

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use quinn::VarInt;
use tranship_proto::limit;

pub use admission::{Admission, Secret};
pub use bandwidth::{Bandwidth, TokenBucket};
pub use congestion::Congestion;
pub use dial::{Attempt, dial};
pub use error::LinkError;
pub use frames::{FrameReceiver, FrameSender};
pub use identity::{Fingerprint, Identity, NotAFingerprint, install_provider};
pub use listener::{Listener, Sockets};
pub use ticket::{TICKET_ADDRESSES_MAX, TICKET_CHARS_MAX, Ticket, TicketError};

/// QUIC connections for data in one link.
pub const CONNECTIONS_MAX: u8 = 8;

/// How long to wait for a peer that is known to be there.
const ANSWER_MAX: Duration = Duration::from_millis(limit::HANDSHAKE_MS_MAX);

/// A stream that broke off.
const RESET_CODE: VarInt = VarInt::from_u32(1);

/// Closes a connection whose peer is not the one that is meant: the number of `TS-S601`.
const IDENTITY_CODE: VarInt = VarInt::from_u32(601);

/// Closes the rest of a link that has lost a connection: the number of `TS-S603`.
const LOST_CODE: VarInt = VarInt::from_u32(603);

/// Which way frames take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// QUIC if it gets through, else TCP; and TCP beside QUIC for whoever asks for it.
    #[default]
    Auto,
    /// QUIC or nothing.
    Quic,
    /// TCP with TLS.
    Tcp,
}

/// How a link behaves on this side. The two sides need not agree.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Which way frames take; a listener opens only these sockets.
    pub transport: Transport,
    /// QUIC connections for data, from 1 to [`CONNECTIONS_MAX`]; the dialer decides. More than one uses more cores on
    /// fast networks, and is unfair to others on slow ones.
    pub connections: u8,
    /// Congestion control of QUIC.
    pub congestion: Congestion,
    /// What this side may send on data streams. The control stream is not held back.
    pub bandwidth: Option<Bandwidth>,
    /// Bytes of the largest UDP payload to try, if less than the network interface could carry.
    pub datagram_bytes_max: Option<u16>,
    /// Whether this side sends contents. One that only answers has no use for large datagrams, and finding out how large
    /// they may be costs it tens of kilobytes.
    pub sends_contents: bool,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            transport: Transport::default(),
            connections: 1,
            congestion: Congestion::default(),
            bandwidth: None,
            datagram_bytes_max: None,
            sends_contents: true,
        }
    }
}

/// What a link has done so far, as far as its transport knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// `quic` or `tcp`, or `quic+tcp` if some contents took TCP beside QUIC.
    pub transport: &'static str,
    /// Bytes sent in UDP payloads or in TCP segments, with encryption, acknowledgements and repeats as far as known.
    pub sent_bytes: u64,
    /// The same in the other direction.
    pub received_bytes: u64,
    /// Round trip: smoothed for QUIC, that of the greeting for TCP.
    pub rtt: Option<Duration>,
    /// The shortest round trip so far.
    pub rtt_min: Option<Duration>,
    /// Packets that were sent and lost.
    pub lost_packets: Option<u64>,
    /// Bytes of UDP payload that the path carries, as far as it was asked: that is not done before data flows.
    pub mtu: Option<u16>,
    /// The congestion control at work.
    pub congestion: Option<&'static str>,
    /// Bytes per second that it would let pass now, a window in each round trip; nothing for TCP, which does not tell.
    pub window_bytes_per_second: Option<u64>,
}

/// A connection between two agents that know each other.
pub struct Link {
    /// The control stream.
    pub control: (FrameSender, FrameReceiver),
    /// Everything else; a handle to be cloned.
    pub streams: Streams,
}

/// Data streams and the state of a link. Clones are the same link.
#[derive(Clone)]
pub struct Streams(Arc<Inner>);

struct Inner {
    group: Group,
    options: LinkOptions,
    peer: Fingerprint,
    warnings: Vec<String>,
    /// Where the listener knows the link, so that connections can join it.
    _place: Option<listener::Place>,
}

enum Group {
    Quic(quic::Group),
    Tcp(tcp::Group),
}

impl Streams {
    fn new(
        group: Group,
        options: &LinkOptions,
        peer: Fingerprint,
        warnings: Vec<String>,
        place: Option<listener::Place>,
    ) -> Self {
        Self(Arc::new(Inner { group, options: options.clone(), peer, warnings, _place: place }))
    }

    /// Says that data will flow soon: what [`Streams::open_data`] needs for that is made in the background, and it is
    /// there that errors are told.
    pub fn prepare(&self) {
        match &self.0.group {
            Group::Quic(group) => group.prepare(),
            // Each stream is a connection.
            Group::Tcp(_) => {}
        }
    }

    /// Opens a data stream to the peer, which sees it with the first frame. There are at most
    /// [`limit::DATA_STREAMS_MAX`] of them at one time; more wait.
    pub async fn open_data(&self) -> Result<FrameSender, LinkError> {
        match &self.0.group {
            Group::Quic(group) => group.open_data(&self.0.options).await,
            Group::Tcp(group) => group.open_data(&self.0.options).await,
        }
    }

    /// Whether [`Streams::open_beside`] may be of use: this side has the choice, and has taken QUIC.
    pub fn has_choice(&self) -> bool {
        matches!(self.0.group, Group::Quic(_)) && self.0.options.transport == Transport::Auto
    }

    /// Opens a data stream over TCP beside QUIC, if the peer has a choice too and TCP gets through.
    pub async fn open_beside(&self) -> Result<FrameSender, LinkError> {
        match &self.0.group {
            Group::Quic(group) => group.open_beside(&self.0.options).await,
            Group::Tcp(_) => Err(LinkError::Closed),
        }
    }

    /// The next data stream that the peer has opened, over whichever transport. May be dropped at any point.
    pub async fn accept_data(&self) -> Result<FrameReceiver, LinkError> {
        match &self.0.group {
            Group::Quic(group) => group.accept_data().await,
            Group::Tcp(group) => group.accept_data().await,
        }
    }

    /// What happened so far.
    pub fn stats(&self) -> LinkStats {
        match &self.0.group {
            Group::Quic(group) => group.stats(),
            Group::Tcp(group) => group.stats(),
        }
    }

    /// What this side may send in bits per second, if that is limited.
    pub fn bandwidth(&self) -> Option<NonZeroU64> {
        self.0.options.bandwidth.as_ref()?.limit()
    }

    /// The peer's key.
    pub fn peer(&self) -> Fingerprint {
        self.0.peer
    }

    /// Where the peer is.
    pub fn remote_address(&self) -> SocketAddr {
        match &self.0.group {
            Group::Quic(group) => group.remote_address(),
            Group::Tcp(group) => group.remote_address(),
        }
    }

    /// What the user could change to make this host faster.
    pub fn warnings(&self) -> &[String] {
        &self.0.warnings
    }

    /// Ends the link at once, with all its streams: what was not [finished](FrameSender::finish) may be lost. QUIC
    /// tells the peer `code` and `reason`; over TCP it only sees that the link has ended.
    pub async fn close(&self, code: u32, reason: &str) {
        match &self.0.group {
            Group::Quic(group) => group.close(code, reason).await,
            Group::Tcp(group) => group.close(),
        }
    }
}
