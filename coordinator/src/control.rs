//! The coordinator's end of the control of one agent: a forward through the API server to the agent's loopback port.
//!
//! A forward that is lost is made again as long as the pod is there, and what was missed meanwhile is in the agent's
//! welcome. Only a higher epoch, an agent that says no, and the pod's end are final.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tranship_proto::control::{self, Event, Hello, Order, PassState, Progress, Request, Welcome};
use tranship_proto::limit::CONTROL_LINE_BYTES_MAX;

use crate::{Cluster, Error};

/// How long an agent may take from the first forward to its welcome.
const WELCOME_MAX: Duration = Duration::from_secs(30);

/// Between two attempts to reach an agent.
const RETRY: Duration = Duration::from_millis(500);

/// How long a lost agent is looked for while its pod is there.
const LOST_MAX: Duration = Duration::from_secs(120);

/// Where a pod is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A conversation with one agent.
pub struct Agent {
    cluster: Cluster,
    /// The pod that it is in.
    pub pod: PodRef,
    /// What it said first.
    pub welcome: Welcome,
    requests: mpsc::UnboundedSender<Request>,
    passes: Passes,
}

/// Who listens for the events of which pass.
type Passes = Arc<Mutex<HashMap<String, mpsc::UnboundedSender<PassEvent>>>>;

/// What is heard of a pass.
#[derive(Debug)]
pub enum PassEvent {
    /// What the agent said.
    Said(Box<Event>),
    /// Nothing more will be heard.
    Lost(Error),
}

/// One line in each direction.
struct Line {
    reader: BufReader<Box<dyn AsyncRead + Send + Unpin>>,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
}

impl Agent {
    /// Greets the agent, and goes on listening to it in a task of its own until it is dropped.
    pub async fn greet(cluster: &Cluster, pod: PodRef, hello: Hello) -> Result<Self, Error> {
        let deadline = Instant::now() + WELCOME_MAX;
        let (line, welcome) = loop {
            match welcome(cluster, &pod, &hello).await {
                Ok(met) => break met,
                Err(error @ (Error::Agent { .. } | Error::Superseded { .. })) => return Err(error),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => sleep(RETRY).await,
            }
        };
        let (requests, taken) = mpsc::unbounded_channel();
        let passes = Passes::default();
        let keeper = Keeper { cluster: cluster.clone(), pod: pod.clone(), hello, passes: passes.clone() };
        tokio::spawn(keeper.keep(line, taken));
        Ok(Self { cluster: cluster.clone(), pod, welcome, requests, passes })
    }

    /// Begins a pass; what it says comes from the receiver, until it has ended.
    pub fn begin(&self, order: Order) -> mpsc::UnboundedReceiver<PassEvent> {
        let events = self.follow(&order.pass);
        self.say(Request::Begin(order));
        events
    }

    /// Listens to a pass that runs already.
    pub fn follow(&self, pass: &str) -> mpsc::UnboundedReceiver<PassEvent> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.passes.lock().expect("no holder panics").insert(pass.to_owned(), sender);
        receiver
    }

    /// Says something that has no answer.
    pub fn say(&self, request: Request) {
        // Whoever listens to a pass hears that the agent is lost.
        let _ = self.requests.send(request);
    }

    /// What the agent knows of a volume: the pass that runs, else the last one.
    pub fn state_of(&self, volume: &str) -> Option<&PassState> {
        let of_volume = || self.welcome.passes.iter().filter(|state| state.volume == volume);
        of_volume().find(|state| state.is_running).or_else(|| of_volume().next_back())
    }

    /// A connection to a loopback port of the agent's pod.
    pub async fn forward(&self, port: u16) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, Error> {
        forward(&self.cluster, &self.pod, port).await
    }
}

/// What keeps a conversation alive.
struct Keeper {
    cluster: Cluster,
    pod: PodRef,
    hello: Hello,
    passes: Passes,
}

impl Keeper {
    async fn keep(self, mut line: Line, mut requests: mpsc::UnboundedReceiver<Request>) {
        let error = loop {
            match self.converse(&mut line, &mut requests).await {
                Ended::Dropped => return,
                Ended::Final(error) => break error,
                Ended::Broken => {}
            }
            match self.meet_again(&requests).await {
                Ok(again) => line = again,
                Err(error) => break error,
            }
        };
        let mut error = Some(error);
        for (_, listener) in self.passes.lock().expect("no holder panics").drain() {
            // The first gets the error itself, the others its text.
            let error = error.take().unwrap_or_else(|| self.lost("it is gone"));
            let _ = listener.send(PassEvent::Lost(error));
        }
    }

    /// Carries lines both ways until something ends that.
    async fn converse(&self, line: &mut Line, requests: &mut mpsc::UnboundedReceiver<Request>) -> Ended {
        loop {
            tokio::select! {
                request = requests.recv() => {
                    let Some(request) = request else { return Ended::Dropped };
                    let is_last = request == Request::Leave;
                    if say(line, &request).await.is_err() {
                        // An agent that leaves may be faster than its answer.
                        return if is_last { Ended::Dropped } else { Ended::Broken };
                    }
                }
                event = hear(&mut line.reader) => match event {
                    Ok(Some(Event::Superseded { epoch })) => {
                        return Ended::Final(Error::Superseded { coordinator: "another coordinator".to_owned(), epoch });
                    }
                    Ok(Some(event)) => self.deliver(event),
                    Ok(None) | Err(_) => return Ended::Broken,
                }
            }
        }
    }

    fn deliver(&self, event: Event) {
        let pass = match &event {
            Event::Listening(listening) => &listening.pass,
            Event::Progress(progress) => &progress.pass,
            Event::Note { pass, .. } => pass,
            Event::Ended(ended) => &ended.pass,
            Event::Rejected { pass: Some(pass), .. } => pass,
            _ => return,
        };
        let mut passes = self.passes.lock().expect("no holder panics");
        let is_over = matches!(event, Event::Ended(_) | Event::Rejected { .. });
        let listener = if is_over { passes.remove(pass) } else { passes.get(pass).cloned() };
        if let Some(listener) = listener {
            // Whoever no longer listens does not want to know.
            let _ = listener.send(PassEvent::Said(Box::new(event)));
        }
    }

    /// Greets the agent again, and tells what was missed.
    async fn meet_again(&self, requests: &mpsc::UnboundedReceiver<Request>) -> Result<Line, Error> {
        let deadline = Instant::now() + LOST_MAX;
        while Instant::now() < deadline && !requests.is_closed() {
            match welcome(&self.cluster, &self.pod, &self.hello).await {
                Ok((line, welcome)) => {
                    for state in welcome.passes {
                        state.listening.into_iter().for_each(|listening| self.deliver(Event::Listening(listening)));
                        state.ended.into_iter().for_each(|ended| self.deliver(Event::Ended(ended)));
                    }
                    return Ok(line);
                }
                Err(error @ (Error::Agent { .. } | Error::Superseded { .. } | Error::Missing { .. })) => {
                    return Err(error);
                }
                Err(error) => tracing::debug!(%error, pod = %self.pod.name, "the agent is not reached yet"),
            }
            self.still_there().await?;
            sleep(RETRY).await;
        }
        Err(self.lost("it cannot be reached any more"))
    }

    /// An error if the pod is gone or has ended. An API server that does not answer says nothing about that.
    async fn still_there(&self) -> Result<(), Error> {
        match self.cluster.find::<Pod>(&self.pod.namespace, &self.pod.name).await {
            Ok(None) => Err(self.lost("its pod is gone")),
            Ok(Some(pod)) => match pod.status.and_then(|status| status.phase).as_deref() {
                Some("Failed" | "Succeeded") => Err(self.lost("its pod has ended")),
                _ => Ok(()),
            },
            Err(_) => Ok(()),
        }
    }

    fn lost(&self, why: &str) -> Error {
        let what = format!("pod {}/{}: {why}", self.pod.namespace, self.pod.name);
        Error::Agent { side: self.cluster.side, code: "TS-K930".to_owned(), what }
    }
}

/// How a conversation ended.
enum Ended {
    /// Nobody wants to say anything more.
    Dropped,
    /// The forward broke.
    Broken,
    /// There is no use in coming again.
    Final(Error),
}

async fn welcome(cluster: &Cluster, pod: &PodRef, hello: &Hello) -> Result<(Line, Welcome), Error> {
    let stream = forward(cluster, pod, control::PORT).await?;
    let (reader, writer) = tokio::io::split(stream);
    let mut line = Line { reader: BufReader::new(Box::new(reader)), writer: Box::new(writer) };
    let meet = async {
        say(&mut line, &Request::Hello(hello.clone())).await?;
        hear(&mut line.reader).await
    };
    let unreachable = || Error::Unreachable {
        side: cluster.side,
        what: format!("reach the agent in pod {}/{}", pod.namespace, pod.name),
        source: None,
    };
    match timeout(WELCOME_MAX, meet).await {
        Ok(Ok(Some(Event::Welcome(welcome)))) => Ok((line, welcome)),
        Ok(Ok(Some(Event::Refused { code, .. }))) if code == control::code::EPOCH => {
            Err(Error::Superseded { coordinator: "another coordinator".to_owned(), epoch: hello.epoch + 1 })
        }
        Ok(Ok(Some(Event::Refused { code, message }))) => Err(Error::Agent { side: cluster.side, code, what: message }),
        _ => Err(unreachable()),
    }
}

async fn say(line: &mut Line, request: &Request) -> std::io::Result<()> {
    let bytes = control::encode(request).map_err(std::io::Error::other)?;
    line.writer.write_all(&bytes).await?;
    line.writer.flush().await
}

/// One event; nothing at the end. What is longer than it may be ends the conversation.
async fn hear(reader: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<Option<Event>> {
    let mut line = Vec::new();
    let mut bounded = reader.take(CONTROL_LINE_BYTES_MAX as u64 + 1);
    if bounded.read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    control::decode(&line).map(Some).map_err(std::io::Error::other)
}

/// Listens to an agent for a moment, without taking anybody's place: what it says of itself, and how far each pass is that
/// runs.
pub async fn glance(
    cluster: &Cluster,
    pod: &PodRef,
    hello: &Hello,
    moment: Duration,
) -> Result<(Welcome, Vec<Progress>), Error> {
    let (mut line, found) = welcome(cluster, pod, &Hello { observes: true, ..hello.clone() }).await?;
    let mut seen: HashMap<String, Progress> = HashMap::new();
    let running = found.passes.iter().filter(|state| state.is_running).count();
    let deadline = Instant::now() + moment;
    while seen.len() < running {
        match timeout_at(deadline, hear(&mut line.reader)).await {
            Ok(Ok(Some(Event::Progress(progress)))) => drop(seen.insert(progress.pass.clone(), progress)),
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None) | Err(_)) | Err(_) => break,
        }
    }
    Ok((found, seen.into_values().collect()))
}

/// A connection to a loopback port of a pod.
pub async fn forward(
    cluster: &Cluster,
    pod: &PodRef,
    port: u16,
) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, Error> {
    let api = cluster.api::<Pod>(&pod.namespace);
    let what = format!("create pods/portforward {}/{}", pod.namespace, pod.name);
    let mut forwarder = cluster.call(what, api.portforward(&pod.name, &[port])).await?;
    forwarder.take_stream(port).ok_or_else(|| Error::Unreachable {
        side: cluster.side,
        what: format!("port {port} of pod {}/{}", pod.namespace, pod.name),
        source: None,
    })
}
