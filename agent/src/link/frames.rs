//! Frames over one ordered stream of either transport.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::OwnedSemaphorePermit;
use tranship_proto::Frame;
use tranship_proto::frame::{HEADER_BYTES, Header};

use super::bandwidth::Bandwidth;
use super::tcp::Tls;
use super::{LinkError, RESET_CODE};

/// Chunks that are taken from a QUIC stream at a time.
const CHUNKS: usize = 32;

/// Bytes of a head that are copied behind the header instead of being written on their own.
const JOINED_HEAD_BYTES: usize = 16 << 10;

/// The sending end of one stream.
///
/// Dropping it without [`FrameSender::finish`] tells the peer that the stream broke off: it never looks complete.
pub struct FrameSender {
    output: Output,
    bandwidth: Option<Bandwidth>,
    is_intact: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

enum Output {
    Quic(quinn::SendStream),
    /// A data stream has the whole connection for itself and keeps its other direction for the peer's last word.
    Tcp {
        write: WriteHalf<Tls>,
        read: Option<ReadHalf<Tls>>,
    },
}

impl FrameSender {
    pub(super) fn quic(stream: quinn::SendStream, bandwidth: Option<Bandwidth>) -> Self {
        Self { output: Output::Quic(stream), bandwidth, is_intact: true, _permit: None }
    }

    pub(super) fn tcp(write: WriteHalf<Tls>, read: Option<ReadHalf<Tls>>, bandwidth: Option<Bandwidth>) -> Self {
        Self { output: Output::Tcp { write, read }, bandwidth, is_intact: true, _permit: None }
    }

    pub(super) fn holding(mut self, permit: OwnedSemaphorePermit) -> Self {
        self._permit = Some(permit);
        self
    }

    /// Sends one frame; the body is not copied. Waits for the limit of bandwidth and for the peer's window.
    ///
    /// If the future is dropped half-way, the stream is unusable: every later call fails.
    pub async fn send(&mut self, frame: Frame) -> Result<(), LinkError> {
        if !std::mem::replace(&mut self.is_intact, false) {
            return Err(LinkError::Interrupted);
        }
        let mut prefix = BytesMut::with_capacity(HEADER_BYTES + frame.head.len().min(JOINED_HEAD_BYTES));
        prefix.extend_from_slice(&frame.header());
        let Frame { mut head, body, .. } = frame;
        if head.len() <= JOINED_HEAD_BYTES {
            prefix.extend_from_slice(&head);
            head.clear();
        }
        let mut parts = [prefix.freeze(), head, body];
        match self.bandwidth.clone() {
            None => self.output.write(&mut parts).await?,
            Some(bandwidth) => loop {
                let left = parts.iter().map(Bytes::len).sum();
                if left == 0 {
                    break;
                }
                let admitted = bandwidth.admit(left).await;
                self.output.write(&mut split_front(&mut parts, admitted)).await?;
            },
        }
        self.output.flush().await?;
        self.is_intact = true;
        Ok(())
    }

    /// Says that nothing follows, and waits until the peer has everything.
    ///
    /// Over QUIC that means that its transport has acknowledged the last byte; on a data stream over TCP, that it has
    /// read to the end; on the control stream over TCP, only that our kernel has it.
    pub async fn finish(mut self) -> Result<(), LinkError> {
        if !self.is_intact {
            return Err(LinkError::Interrupted);
        }
        match &mut self.output {
            Output::Quic(stream) => {
                stream.finish().map_err(|_| LinkError::Interrupted)?;
                match stream.stopped().await.map_err(LinkError::of_stopped)? {
                    None => Ok(()),
                    Some(_) => Err(LinkError::Unwanted),
                }
            }
            Output::Tcp { write, read } => {
                write.shutdown().await.map_err(LinkError::of_io)?;
                let Some(read) = read else { return Ok(()) };
                match read.read(&mut [0]).await.map_err(LinkError::of_io)? {
                    0 => Ok(()),
                    _ => Err(LinkError::Greeting),
                }
            }
        }
    }
}

impl Drop for FrameSender {
    fn drop(&mut self) {
        // quinn would finish a dropped stream, as if it had been complete. After `finish` this changes nothing. Over
        // TCP, a connection that ends without the closing alert of TLS is an error at the peer.
        if let Output::Quic(stream) = &mut self.output {
            let _ = stream.reset(RESET_CODE);
        }
    }
}

/// Takes the first `count` bytes off `parts`.
fn split_front(parts: &mut [Bytes; 3], mut count: usize) -> [Bytes; 3] {
    std::array::from_fn(|at| {
        let front = parts[at].split_to(count.min(parts[at].len()));
        count -= front.len();
        front
    })
}

impl Output {
    /// Writes all of `parts` and leaves them empty.
    async fn write(&mut self, parts: &mut [Bytes; 3]) -> Result<(), LinkError> {
        match self {
            Self::Quic(stream) => stream.write_all_chunks(parts).await.map_err(LinkError::of_write),
            Self::Tcp { write, .. } => {
                while parts.iter().any(|part| !part.is_empty()) {
                    let slices = parts.each_ref().map(|part| IoSlice::new(part));
                    match write.write_vectored(&slices).await.map_err(LinkError::of_io)? {
                        0 => return Err(LinkError::of_io(std::io::ErrorKind::WriteZero.into())),
                        written => drop(split_front(parts, written)),
                    }
                }
                Ok(())
            }
        }
    }

    async fn flush(&mut self) -> Result<(), LinkError> {
        match self {
            Self::Quic(_) => Ok(()),
            Self::Tcp { write, .. } => write.flush().await.map_err(LinkError::of_io),
        }
    }
}

/// The receiving end of one stream.
pub struct FrameReceiver {
    input: Input,
    header: BytesMut,
    /// What has been announced and not yet come in full.
    partial: Option<Partial>,
    /// Nothing is read behind an error or the end.
    is_open: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

struct Partial {
    header: Header,
    head: BytesMut,
    body: BytesMut,
}

enum Input {
    Quic { stream: quinn::RecvStream, chunks: VecDeque<Bytes> },
    Tcp { read: ReadHalf<Tls>, write: Option<WriteHalf<Tls>> },
}

impl FrameReceiver {
    pub(super) fn quic(stream: quinn::RecvStream) -> Self {
        Self::new(Input::Quic { stream, chunks: VecDeque::with_capacity(CHUNKS) })
    }

    pub(super) fn tcp(read: ReadHalf<Tls>, write: Option<WriteHalf<Tls>>) -> Self {
        Self::new(Input::Tcp { read, write })
    }

    fn new(input: Input) -> Self {
        let header = BytesMut::with_capacity(HEADER_BYTES);
        Self { input, header, partial: None, is_open: true, _permit: None }
    }

    pub(super) fn holding(mut self, permit: OwnedSemaphorePermit) -> Self {
        self._permit = Some(permit);
        self
    }

    /// The next frame; nothing after the last one, if the peer has said that it was the last one.
    ///
    /// The future may be dropped at any point: the next call goes on where it stood. After an error or the end, the
    /// stream only repeats that it has ended or is broken.
    pub async fn recv(&mut self) -> Result<Option<Frame>, LinkError> {
        if !self.is_open {
            return Err(LinkError::Interrupted);
        }
        let result = self.next().await;
        if !matches!(result, Ok(Some(_))) {
            self.is_open = false;
        }
        result
    }

    async fn next(&mut self) -> Result<Option<Frame>, LinkError> {
        let partial = match &mut self.partial {
            Some(partial) => partial,
            empty => {
                if !self.input.fill(&mut self.header, HEADER_BYTES).await? {
                    return if self.header.is_empty() { self.input.end().await } else { Err(LinkError::BrokenOff) };
                }
                let bytes = self.header[..].try_into().expect("filled to the length of a header");
                let header = Header::decode(bytes)?;
                self.header.clear();
                empty.insert(Partial { header, head: BytesMut::new(), body: BytesMut::new() })
            }
        };
        let Header { kind, head_bytes, body_bytes } = partial.header;
        let is_whole = self.input.fill(&mut partial.head, head_bytes).await?
            && self.input.fill(&mut partial.body, body_bytes).await?;
        if !is_whole {
            return Err(LinkError::BrokenOff);
        }
        let Some(Partial { head, body, .. }) = self.partial.take() else { return Err(LinkError::BrokenOff) };
        Ok(Some(Frame { kind, head: head.freeze(), body: body.freeze() }))
    }
}

impl Drop for FrameReceiver {
    fn drop(&mut self) {
        if let Input::Quic { stream, .. } = &mut self.input {
            // Whoever still sends learns that nobody reads. A stream that was read to its end does not care.
            let _ = stream.stop(RESET_CODE);
        }
    }
}

impl Input {
    /// Reads until `buffer` has `len` bytes; false if the stream ends first.
    async fn fill(&mut self, buffer: &mut BytesMut, len: usize) -> Result<bool, LinkError> {
        buffer.reserve(len - buffer.len());
        while buffer.len() < len {
            match self {
                Self::Quic { stream, chunks } => {
                    if let Some(chunk) = chunks.front_mut() {
                        let part = chunk.split_to(chunk.len().min(len - buffer.len()));
                        buffer.extend_from_slice(&part);
                        if chunk.is_empty() {
                            chunks.pop_front();
                        }
                        continue;
                    }
                    let mut arrived = [const { Bytes::new() }; CHUNKS];
                    match stream.read_chunks(&mut arrived).await.map_err(LinkError::of_read)? {
                        Some(count) => chunks.extend(arrived.into_iter().take(count)),
                        None => return Ok(false),
                    }
                }
                Self::Tcp { read, .. } => {
                    let left = (len - buffer.len()) as u64;
                    if read.take(left).read_buf(buffer).await.map_err(LinkError::of_io)? == 0 {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// The peer has finished: lets it know that we saw it.
    async fn end(&mut self) -> Result<Option<Frame>, LinkError> {
        if let Self::Tcp { write: Some(write), .. } = self {
            // The peer may have gone without waiting for it.
            let _ = write.shutdown().await;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::num::NonZeroU64;
    use std::time::Duration;

    use super::*;
    use crate::link::{Admission, Identity, LinkOptions, Listener, Secret, Transport, dial};

    /// Both ends of a data stream, and what must live as long as they do.
    async fn stream(transport: Transport, bandwidth: Option<Bandwidth>) -> (FrameSender, FrameReceiver, impl Sized) {
        let identity = Identity::generate().unwrap();
        let admission = Admission::Secret(Secret::generate().unwrap());
        let options = LinkOptions { transport, bandwidth, ..LinkOptions::default() };
        let anywhere = [(Ipv4Addr::LOCALHOST, 0).into()];
        let mut listener = Listener::bind(&anywhere, &identity, admission.clone(), &options).unwrap();
        let addresses = listener.local_addresses();
        let (here, there) = tokio::join!(listener.accept(), dial(&addresses, &identity, admission, &options));
        let (here, there) = (here.unwrap(), there.unwrap());
        let mut sender = there.streams.open_data().await.unwrap();
        // QUIC shows a stream with its first byte.
        let hello = Frame { kind: 0, head: Bytes::new(), body: Bytes::new() };
        let (sent, accepted) = tokio::join!(sender.send(hello), here.streams.accept_data());
        sent.unwrap();
        let mut receiver = accepted.unwrap();
        receiver.recv().await.unwrap().unwrap();
        (sender, receiver, (listener, here, there))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_oversized_header_is_refused_and_nothing_is_read_behind_it() {
        for transport in [Transport::Quic, Transport::Tcp] {
            let (mut sender, mut receiver, _link) = stream(transport, None).await;
            let mut header = [0; HEADER_BYTES];
            header[8..].copy_from_slice(&u32::MAX.to_le_bytes());
            let mut parts = [Bytes::copy_from_slice(&header), Bytes::from_static(&[0; 100]), Bytes::new()];
            sender.output.write(&mut parts).await.unwrap();
            sender.output.flush().await.unwrap();
            let error = receiver.recv().await.unwrap_err();
            assert_eq!(error.code(), "TS-P101", "{error:?} over {transport:?}");
            assert!(matches!(receiver.recv().await, Err(LinkError::Interrupted)));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_end_inside_a_frame_is_no_end() {
        for transport in [Transport::Quic, Transport::Tcp] {
            for bytes in [1, HEADER_BYTES, HEADER_BYTES + 4, HEADER_BYTES + 9] {
                let (mut sender, mut receiver, _link) = stream(transport, None).await;
                let frame = Frame { kind: 1, head: Bytes::from_static(b"head"), body: Bytes::from_static(b"body!!") };
                let cut = Bytes::from(frame.to_bytes()).slice(..bytes);
                sender.output.write(&mut [cut, Bytes::new(), Bytes::new()]).await.unwrap();
                let finishing = tokio::spawn(sender.finish());
                let end = receiver.recv().await;
                assert!(matches!(end, Err(LinkError::BrokenOff)), "{end:?} after {bytes} bytes over {transport:?}");
                drop(receiver);
                finishing.await.unwrap().ok();
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_sender_that_was_given_up_inside_a_frame_is_unusable() {
        let slow = Bandwidth::new(NonZeroU64::new(1_000_000));
        let (mut sender, _receiver, _link) = stream(Transport::Quic, Some(slow)).await;
        let frame = Frame { kind: 1, head: Bytes::new(), body: Bytes::from_static(&[0; 100_000]) };
        let given_up = tokio::time::timeout(Duration::from_millis(20), sender.send(frame.clone())).await;
        assert!(given_up.is_err());
        assert!(matches!(sender.send(frame).await, Err(LinkError::Interrupted)));
        assert!(matches!(sender.finish().await, Err(LinkError::Interrupted)));
    }
}
