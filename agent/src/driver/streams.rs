//! Tasks that move frames between a link and a loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tranship_proto::Message;
use tranship_proto::refusal::Refusal;

use crate::link::{FrameReceiver, FrameSender, LinkError, Streams};

/// Messages that wait for a stream: enough to keep it busy, few enough to count.
pub(super) const QUEUE: usize = 4;

/// What comes from a stream.
pub(super) enum Incoming {
    /// A message.
    Message(Message),
    /// Something that is no message of ours.
    Foreign(Refusal),
    /// The stream ended or broke.
    Ended(Result<(), LinkError>),
}

/// Tasks and counts of one session.
pub(super) struct Traffic {
    senders: JoinSet<Result<(), LinkError>>,
    receivers: JoinSet<()>,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
}

impl Traffic {
    pub(super) fn new() -> Self {
        Self { senders: JoinSet::new(), receivers: JoinSet::new(), sent: Arc::default(), received: Arc::default() }
    }

    /// Bytes in frames that were sent.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes in frames that were received.
    pub(super) fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// A queue whose messages go to `sender`; when it is dropped, the stream is finished.
    pub(super) fn send_to(&mut self, mut sender: FrameSender) -> mpsc::Sender<Message> {
        let (queue, mut messages) = mpsc::channel::<Message>(QUEUE);
        let sent = self.sent.clone();
        self.senders.spawn(async move {
            while let Some(message) = messages.recv().await {
                let frame = message.encode();
                let bytes = frame.wire_bytes() as u64;
                sender.send(frame).await?;
                sent.fetch_add(bytes, Ordering::Relaxed);
            }
            sender.finish().await
        });
        queue
    }

    /// A queue whose messages go to a data stream that is opened with the first of them.
    pub(super) fn send_to_new(&mut self, streams: Streams) -> mpsc::Sender<Message> {
        let (queue, mut messages) = mpsc::channel::<Message>(QUEUE);
        let sent = self.sent.clone();
        self.senders.spawn(async move {
            let Some(first) = messages.recv().await else { return Ok(()) };
            let mut sender = streams.open_data().await?;
            let mut next = Some(first);
            while let Some(message) = next {
                let frame = message.encode();
                let bytes = frame.wire_bytes() as u64;
                sender.send(frame).await?;
                sent.fetch_add(bytes, Ordering::Relaxed);
                next = messages.recv().await;
            }
            sender.finish().await
        });
        queue
    }

    /// Puts everything from `receiver` into `queue`.
    pub(super) fn receive_from(&mut self, receiver: FrameReceiver, queue: mpsc::Sender<Incoming>) {
        let received = self.received.clone();
        self.receivers.spawn(async move { pump(receiver, &queue, &received).await });
    }

    /// Puts everything from every data stream that the peer opens into `queue`. The end of one means nothing.
    pub(super) fn receive_all(&mut self, streams: Streams, queue: mpsc::Sender<Incoming>) {
        let received = self.received.clone();
        self.receivers.spawn(async move {
            let mut readers = JoinSet::new();
            // An error here is the link's, and is seen on the control stream too.
            while let Ok(receiver) = streams.accept_data().await {
                let (queue, received) = (queue.clone(), received.clone());
                readers.spawn(async move { pump(receiver, &queue, &received).await });
                while readers.try_join_next().is_some() {}
            }
            while readers.join_next().await.is_some() {}
        });
    }

    /// The first error of a sending task, once there is one; never returns while all is well.
    pub(super) async fn failed(&mut self) -> LinkError {
        loop {
            match self.senders.join_next().await {
                Some(Ok(Err(error))) => return error,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Waits until every queue that was dropped has been sent and received.
    pub(super) async fn drain(&mut self, limit: std::time::Duration) {
        let _ = tokio::time::timeout(limit, async { while self.senders.join_next().await.is_some() {} }).await;
    }
}

/// Opens `count` streams beside the link's own, or none.
pub(super) async fn open_beside(streams: Streams, count: u32) -> Result<Vec<FrameSender>, LinkError> {
    let mut senders = Vec::new();
    for _ in 0..count {
        match streams.open_beside().await {
            Ok(sender) => senders.push(sender),
            Err(error) => {
                // One that broke off would be an error at the peer.
                for sender in senders {
                    let _ = sender.finish().await;
                }
                return Err(error);
            }
        }
    }
    Ok(senders)
}

/// A message whose stream has no room yet, and that stream's queue.
pub(super) type Held = Option<(mpsc::Sender<Message>, Message)>;

/// Sends what is held once its stream has room; false if the stream is gone.
pub(super) async fn send_held(held: &mut Held) -> bool {
    let Some((queue, _)) = held else { return std::future::pending().await };
    let queue = queue.clone();
    let Ok(permit) = queue.reserve().await else {
        *held = None;
        return false;
    };
    if let Some((_, message)) = held.take() {
        permit.send(message);
    }
    true
}

async fn pump(mut receiver: FrameReceiver, queue: &mpsc::Sender<Incoming>, received: &AtomicU64) {
    loop {
        let incoming = match receiver.recv().await {
            Ok(Some(frame)) => {
                received.fetch_add(frame.wire_bytes() as u64, Ordering::Relaxed);
                match Message::decode(frame) {
                    Ok(message) => Incoming::Message(message),
                    Err(error) => Incoming::Foreign(Refusal::from(&error)),
                }
            }
            Ok(None) => Incoming::Ended(Ok(())),
            Err(error) => Incoming::Ended(Err(error)),
        };
        let is_last = !matches!(incoming, Incoming::Message(_));
        if queue.send(incoming).await.is_err() || is_last {
            return;
        }
    }
}
