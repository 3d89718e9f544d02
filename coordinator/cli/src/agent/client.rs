//! A connection of a coordinator: let in if it shows the secret, then heard and told.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tranship_agent::report::printable;
use tranship_proto::control::{self, Event, Hello, LineError, Request, code};
use tranship_proto::limit;

use super::Input;
use super::lines::Lines;
use super::options::digest_of_secret;

/// Before whoever does not know the secret is told so: guessing is slow.
const REFUSAL_DELAY: Duration = Duration::from_secs(1);

/// How long a coordinator may take to take a line, and the last line before the connection is closed.
const WRITING: Duration = Duration::from_secs(30);
const LAST_WORD: Duration = Duration::from_secs(2);

/// Whom to let in.
pub(super) struct Door {
    pub(super) migration: String,
    pub(super) secret: blake3::Hash,
    pub(super) inputs: mpsc::Sender<Input>,
}

/// A coordinator that has been let in. Dropped, its connection is closed after what was told is out.
#[derive(Debug)]
pub(super) struct Client {
    /// Which connection; never used again.
    pub(super) id: u64,
    /// How it came.
    pub(super) hello: Hello,
    outbox: mpsc::Sender<Event>,
    /// Ends with the connection.
    served: oneshot::Receiver<()>,
}

impl Client {
    /// Tells it. False if it is too slow: it must be dropped then, and comes back to find the state.
    pub(super) fn tell(&self, event: Event) -> bool {
        let is_progress = matches!(event, Event::Progress(_));
        match self.outbox.try_send(event) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => is_progress,
            // That it is gone is said elsewhere.
            Err(mpsc::error::TrySendError::Closed(_)) => true,
        }
    }

    /// Tells it a last thing.
    pub(super) fn dismiss(self, event: Event) {
        self.tell(event);
    }

    /// Closes the connection and returns once it is closed.
    pub(super) async fn close(self) {
        let Self { outbox, served, .. } = self;
        drop(outbox);
        // Whoever does not take its last lines does without.
        let _ = timeout(LAST_WORD, served).await;
    }
}

/// Takes connections, one after another and several at once.
pub(super) async fn listen(listener: TcpListener, door: Door) {
    let (door, places) = (Arc::new(door), Arc::new(Semaphore::new(limit::CONTROL_CONNECTIONS_MAX)));
    for id in 0.. {
        let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let door = Arc::clone(&door);
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, id, &door).await {
                        tracing::info!(%error, "the connection of a coordinator broke");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no connection can be taken");
                // It is for want of files or memory, and would come again at once.
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, id: u64, door: &Door) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut lines = Lines::new(read, limit::CONTROL_LINE_BYTES_MAX);
    let greeting = timeout(Duration::from_millis(limit::HANDSHAKE_MS_MAX), greet(&mut lines, door)).await;
    let hello = match greeting {
        Ok(Ok(Some(hello))) => hello,
        Ok(Ok(None)) | Err(_) => return Ok(()),
        Ok(Err(refusal)) => {
            tracing::warn!("a coordinator was refused: {refusal:?}");
            sleep(REFUSAL_DELAY).await;
            say(&mut write, &refusal).await?;
            return hang_up(lines, write).await;
        }
    };
    let (outbox, mut events) = mpsc::channel(limit::CONTROL_EVENTS_MAX);
    let (_serving, served) = oneshot::channel();
    // The agent itself ends at once when this fails.
    let _ = door.inputs.send(Input::Came(Client { id, hello, outbox, served })).await;
    let refusal = tokio::select! {
        refusal = hear(&mut lines, id, &door.inputs) => refusal,
        told = tell(&mut events, &mut write) => told.map(|()| None)?,
    };
    drop(events);
    let _ = door.inputs.send(Input::Went(id)).await;
    if let Some(refusal) = refusal {
        say(&mut write, &refusal).await?;
    }
    hang_up(lines, write).await
}

/// The first line. Nothing if there is none.
async fn greet(lines: &mut Lines<OwnedReadHalf>, door: &Door) -> Result<Option<Hello>, Event> {
    let hello = match request(lines).await? {
        Some(Request::Hello(hello)) => hello,
        Some(_) => return Err(refused(code::LINE, "the first line must be Hello")),
        None => return Ok(None),
    };
    // The secret before all else: whoever does not have it learns nothing.
    if digest_of_secret(hello.secret.0.as_bytes()) != door.secret {
        return Err(refused(code::SECRET, "the secret is not this agent's"));
    }
    if hello.version != control::VERSION {
        let message = format!("version {} is not spoken here, but {}", hello.version, control::VERSION);
        return Err(refused(code::VERSION, message));
    }
    if hello.migration != door.migration {
        return Err(refused(code::MIGRATION, "this agent serves another migration"));
    }
    Ok(Some(hello))
}

/// Passes on what is asked until the end, which may be something that has no meaning.
async fn hear(lines: &mut Lines<OwnedReadHalf>, id: u64, inputs: &mpsc::Sender<Input>) -> Option<Event> {
    loop {
        let request = match request(lines).await {
            Ok(request) => request?,
            Err(refusal) => return Some(refusal),
        };
        if matches!(request, Request::Hello(_)) {
            return Some(refused(code::LINE, "Hello is the first line only"));
        }
        inputs.send(Input::Asked(id, request)).await.ok()?;
    }
}

async fn request(lines: &mut Lines<OwnedReadHalf>) -> Result<Option<Request>, Event> {
    let no_meaning = |error: &LineError| refused(error.code(), printable(&tranship_agent::pass::chain(error)));
    match lines.next().await {
        Ok(Some(line)) => control::decode(line).map(Some).map_err(|error| no_meaning(&error)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(refused(code::LINE, error.to_string())),
        // It is gone.
        Ok(None) | Err(_) => Ok(None),
    }
}

async fn tell(events: &mut mpsc::Receiver<Event>, write: &mut OwnedWriteHalf) -> io::Result<()> {
    while let Some(event) = events.recv().await {
        say(write, &event).await?;
    }
    Ok(())
}

async fn say(write: &mut OwnedWriteHalf, event: &Event) -> io::Result<()> {
    let line = control::encode(event).map_err(io::Error::other)?;
    timeout(WRITING, write.write_all(&line)).await?
}

/// Closes the connection so that its last line arrives: what was not read would have the kernel throw it away.
async fn hang_up(mut lines: Lines<OwnedReadHalf>, mut write: OwnedWriteHalf) -> io::Result<()> {
    write.shutdown().await?;
    let _ = timeout(LAST_WORD, lines.drain()).await;
    Ok(())
}

/// The last word to whoever is not let in.
pub(super) fn refused(code: &str, message: impl Into<String>) -> Event {
    Event::Refused { code: code.to_owned(), message: message.into() }
}
