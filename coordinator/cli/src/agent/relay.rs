//! The way to a peer that cannot be reached: the process of a pass dials us, and what it says goes over connections that
//! a coordinator brings. What passes here is encrypted; nobody here has a key.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tranship_proto::control::RELAY_BEGINS;
use tranship_proto::limit;

use crate::run::Stop;

/// How long the last bytes of a pass may take to leave.
const LINGER: Duration = Duration::from_secs(5);

/// Two listeners on loopback: for the process of a pass, and for what a coordinator brings.
pub(super) struct Relay {
    inner: TcpListener,
    outer: TcpListener,
}

impl Relay {
    /// Brings of a coordinator come in at `port`.
    pub(super) async fn bind(port: u16) -> io::Result<Self> {
        let outer = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        Ok(Self { inner: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?, outer })
    }

    /// Where the process of the pass dials.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// Joins connections until the pass is over, and then lets the last bytes out.
    pub(super) async fn run(self, over: Stop) {
        let mut joined = JoinSet::new();
        tokio::select! {
            () = self.join(&mut joined) => {}
            () = over.wait() => {}
        }
        // Whatever is still open then belongs to a coordinator that is gone.
        let _ = timeout(LINGER, async { while joined.join_next().await.is_some() {} }).await;
    }

    async fn join(&self, joined: &mut JoinSet<()>) {
        let (mut ours, mut brought) = (Waiting::default(), Waiting::default());
        loop {
            let accepted = tokio::select! {
                stream = self.inner.accept() => stream.map(|(stream, _)| ours.add(stream)),
                stream = self.outer.accept() => stream.map(|(stream, _)| brought.add(stream)),
                Some(_) = joined.join_next() => Ok(()),
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "a connection to relay was not taken");
                // It is for want of files or memory, and would come again at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            while let Some((mine, other)) = pair(&mut ours, &mut brought) {
                joined.spawn(splice(mine, other));
            }
        }
    }
}

/// Connections that nobody has spoken over yet, the oldest first.
#[derive(Default)]
struct Waiting(VecDeque<TcpStream>);

impl Waiting {
    /// Takes one more; beyond the limit it is closed.
    fn add(&mut self, stream: TcpStream) {
        if self.0.len() >= limit::RELAY_WAITING_MAX {
            self.0.retain(|stream| peek(stream) != Peek::End);
        }
        if self.0.len() < limit::RELAY_WAITING_MAX {
            self.0.push_back(stream);
        }
    }

    /// Drops those at the front that are over, or that `is_broken` does not want.
    fn skip(&mut self, is_broken: impl Fn(Peek) -> bool) {
        while self.0.front().is_some_and(|stream| is_broken(peek(stream))) {
            self.0.pop_front();
        }
    }
}

/// One of each, if there are such. A dialer speaks first, and what was brought is silent before it is used.
fn pair(ours: &mut Waiting, brought: &mut Waiting) -> Option<(TcpStream, TcpStream)> {
    ours.skip(|seen| seen == Peek::End);
    brought.skip(|seen| seen != Peek::Nothing);
    if ours.0.is_empty() || brought.0.is_empty() {
        return None;
    }
    ours.0.pop_front().zip(brought.0.pop_front())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peek {
    Nothing,
    Bytes,
    End,
}

/// What could be read; the kernel is asked, since the runtime may not have heard yet.
fn peek(stream: &TcpStream) -> Peek {
    match recv(stream, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, 0)) => Peek::End,
        Ok(_) => Peek::Bytes,
        Err(rustix::io::Errno::AGAIN) => Peek::Nothing,
        Err(_) => Peek::End,
    }
}

async fn splice(mut ours: TcpStream, mut brought: TcpStream) {
    let carried = async {
        // Small messages of the control stream must not wait for one another.
        ours.set_nodelay(true)?;
        brought.set_nodelay(true)?;
        brought.write_all(&[RELAY_BEGINS]).await?;
        tokio::io::copy_bidirectional(&mut ours, &mut brought).await
    };
    match carried.await {
        Ok((sent, received)) => tracing::debug!(sent, received, "a relayed connection ended"),
        // The pass notices by itself.
        Err(error) => tracing::debug!(%error, "a relayed connection broke"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    async fn relay() -> (SocketAddr, SocketAddr, Stop, tokio::task::JoinHandle<()>) {
        let (relay, over) = (Relay::bind(0).await.expect("bound"), Stop::new());
        let (inner, outer) = (relay.address().expect("bound"), relay.outer.local_addr().expect("bound"));
        (inner, outer, over.clone(), tokio::spawn(relay.run(over)))
    }

    async fn connect(address: SocketAddr) -> TcpStream {
        TcpStream::connect(address).await.expect("it listens")
    }

    #[tokio::test]
    async fn bytes_go_both_ways_after_the_byte_that_begins() {
        let (inner, outer, over, running) = relay().await;
        let (mut mine, mut other) = (connect(inner).await, connect(outer).await);
        mine.write_all(b"ping").await.expect("written");
        let mut read = [0; 5];
        other.read_exact(&mut read).await.expect("read");
        assert_eq!(&read, b"\x01ping");
        other.write_all(b"pong").await.expect("written");
        mine.read_exact(&mut read[..4]).await.expect("read");
        assert_eq!(&read[..4], b"pong");
        // What was written before the end of the pass still arrives.
        mine.write_all(b"bye").await.expect("written");
        drop(mine);
        over.set();
        let mut rest = Vec::new();
        other.read_to_end(&mut rest).await.expect("read");
        assert_eq!(rest, b"bye");
        drop(other);
        running.await.expect("it ends");
    }

    #[tokio::test]
    async fn a_brought_connection_that_is_gone_or_spoke_is_not_used() {
        let (inner, outer, _over, _running) = relay().await;
        let mut loud = connect(outer).await;
        loud.write_all(b"x").await.expect("written");
        let mut gone = connect(outer).await;
        gone.shutdown().await.expect("closed");
        let mut good = connect(outer).await;
        let _mine = connect(inner).await;
        let mut read = [0; 1];
        good.read_exact(&mut read).await.expect("read");
        assert_eq!(read, [RELAY_BEGINS]);
        for mut bad in [loud, gone] {
            assert!(!matches!(bad.read(&mut read).await, Ok(1..)), "it was used");
        }
    }

    #[tokio::test]
    async fn more_than_may_wait_are_closed() {
        let (inner, outer, _over, _running) = relay().await;
        let mut waiting = Vec::new();
        for _ in 0..limit::RELAY_WAITING_MAX {
            waiting.push(connect(outer).await);
        }
        let mut read = [0; 1];
        assert_eq!(connect(outer).await.read(&mut read).await.expect("closed"), 0);
        let _mine = connect(inner).await;
        waiting[0].read_exact(&mut read).await.expect("the oldest is used");
    }

    #[tokio::test]
    async fn a_port_is_had_once() {
        let first = Relay::bind(0).await.expect("bound");
        let port = first.outer.local_addr().expect("bound").port();
        assert!(Relay::bind(port).await.is_err());
    }
}
