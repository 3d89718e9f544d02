//! The connections of one link that goes over TCP alone: one for the control stream, and its lanes.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::Shutdown;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Lanes, Tls};
use crate::link::frames::{FrameReceiver, FrameSender};
use crate::link::{LinkError, LinkOptions, LinkStats};

/// The connections of one link.
pub(in crate::link) struct Group {
    control: Weak<TcpStream>,
    lanes: Lanes,
    remote_address: SocketAddr,
    rtt: Duration,
}

impl Group {
    /// A link whose control stream goes over `control`. `rtt` is how long its introduction took.
    pub(in crate::link) fn new(control: &Tls, lanes: Lanes, rtt: Duration) -> Result<Self, LinkError> {
        let control = &control.get_ref().0.stream;
        let remote_address = control.peer_addr().map_err(LinkError::of_io)?;
        lanes.offer();
        Ok(Self { control: Arc::downgrade(control), lanes, remote_address, rtt })
    }

    pub(in crate::link) async fn open_data(&self, options: &LinkOptions) -> Result<FrameSender, LinkError> {
        self.while_there(self.lanes.open(options)).await
    }

    pub(in crate::link) async fn accept_data(&self) -> Result<FrameReceiver, LinkError> {
        self.while_there(self.lanes.accept()).await
    }

    /// Waits for a stream, but not on a dead link: nobody else may be reading the control connection just now.
    async fn while_there<T>(&self, stream: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
        let mut stream = std::pin::pin!(stream);
        loop {
            match timeout(Duration::from_millis(500), &mut stream).await {
                Ok(stream) => return stream,
                Err(_) if self.is_gone() => return Err(LinkError::BrokenOff),
                Err(_) => {}
            }
        }
    }

    /// Whether the peer has closed the control connection, or it has failed.
    fn is_gone(&self) -> bool {
        let Some(control) = self.control.upgrade() else { return true };
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut polled = [PollFd::new(&control, gone)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&now)).is_ok_and(|_| polled[0].revents().intersects(gone))
    }

    pub(in crate::link) fn remote_address(&self) -> SocketAddr {
        self.remote_address
    }

    pub(in crate::link) fn stats(&self) -> LinkStats {
        let traffic = self.lanes.traffic();
        LinkStats {
            transport: "tcp",
            sent_bytes: traffic.sent_bytes(),
            received_bytes: traffic.received_bytes(),
            rtt: Some(self.rtt),
            rtt_min: Some(self.rtt),
            ..LinkStats::default()
        }
    }

    /// Ends all connections, whoever is waiting on them.
    pub(in crate::link) fn close(&self) {
        self.lanes.close();
        if let Some(control) = self.control.upgrade() {
            // One that the peer has closed before needs no closing.
            let _ = rustix::net::shutdown(&control, Shutdown::Both);
        }
    }
}
