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
use tranship_api::Side;
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

/// Passes that somebody listens to, or may yet.
type Passes = Arc<Mutex<Listeners>>;

/// Who listens for the events of which pass.
#[derive(Default)]
struct Listeners {
    by_pass: HashMap<String, mpsc::UnboundedSender<PassEvent>>,
    /// Ends that were told before anybody listened.
    over: HashMap<String, Event>,
    /// Why nothing more will be heard: somebody's higher epoch, or what happened to the agent.
    lost: Option<(Option<u64>, String)>,
}

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
    /// What was heard of the next event so far.
    heard: Vec<u8>,
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
        let (cluster_of_keeper, pod_of_keeper) = (cluster.clone(), pod.clone());
        let keeper =
            Keeper { cluster: cluster_of_keeper, pod: pod_of_keeper, hello, passes: passes.clone(), asked: Vec::new() };
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
        let mut passes = self.passes.lock().expect("no holder panics");
        // A receiver that is gone already is no matter.
        if let Some(event) = passes.over.remove(pass) {
            let _ = sender.send(PassEvent::Said(Box::new(event)));
        } else if let Some(lost) = &passes.lost {
            let _ = sender.send(PassEvent::Lost(loss(self.cluster.side, lost)));
        } else {
            passes.by_pass.insert(pass.to_owned(), sender);
        }
        receiver
    }

    /// Says something that has no answer.
    pub fn say(&self, request: Request) {
        // Whoever listens to a pass hears that the agent is lost.
        let _ = self.requests.send(request);
    }

    /// The pass that ran over a volume when the agent was greeted.
    pub fn running(&self, volume: &str) -> Option<&PassState> {
        self.welcome.passes.iter().find(|state| state.volume == volume && state.is_running)
    }

    /// Has a pass end that nobody wants any more, and waits until it has.
    pub async fn end(&self, pass: &str) -> Result<(), Error> {
        let over = self.until_over(pass);
        self.say(Request::Stop { pass: pass.to_owned() });
        over.await
    }

    /// Waits until a pass has ended, however.
    pub fn until_over(&self, pass: &str) -> impl Future<Output = Result<(), Error>> + use<> {
        let mut events = self.follow(pass);
        async move {
            loop {
                match events.recv().await {
                    Some(PassEvent::Said(event)) if matches!(*event, Event::Ended(_)) => return Ok(()),
                    Some(PassEvent::Said(_)) => {}
                    Some(PassEvent::Lost(error)) => return Err(error),
                    None => return Ok(()),
                }
            }
        }
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
    /// What was asked of passes that are not over: a line that breaks may have swallowed it.
    asked: Vec<Request>,
}

impl Keeper {
    async fn keep(mut self, mut line: Line, mut requests: mpsc::UnboundedReceiver<Request>) {
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
        let epoch = if let Error::Superseded { epoch, .. } = &error { Some(*epoch) } else { None };
        let lost = (epoch, error.to_string());
        let mut passes = self.passes.lock().expect("no holder panics");
        for (_, listener) in passes.by_pass.drain() {
            let _ = listener.send(PassEvent::Lost(loss(self.cluster.side, &lost)));
        }
        passes.lost = Some(lost);
    }

    /// Carries lines both ways until something ends that.
    async fn converse(&mut self, line: &mut Line, requests: &mut mpsc::UnboundedReceiver<Request>) -> Ended {
        loop {
            tokio::select! {
                request = requests.recv() => {
                    let Some(request) = request else { return Ended::Dropped };
                    let is_last = request == Request::Leave;
                    if pass_of(&request).is_some() {
                        self.asked.push(request.clone());
                    }
                    if say(line, &request).await.is_err() {
                        // An agent that leaves may be faster than its answer.
                        return if is_last { Ended::Dropped } else { Ended::Broken };
                    }
                }
                event = hear(&mut line.reader, &mut line.heard) => match event {
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
            // A pass that is to end and has ended tells so itself.
            Event::Rejected { code, .. } if code == control::code::PASS => return,
            Event::Rejected { pass: Some(pass), .. } => pass,
            _ => return,
        };
        let mut passes = self.passes.lock().expect("no holder panics");
        let is_over = matches!(event, Event::Ended(_) | Event::Rejected { .. });
        let listener = if is_over { passes.by_pass.remove(pass) } else { passes.by_pass.get(pass).cloned() };
        match listener {
            // Whoever no longer listens does not want to know.
            Some(listener) => drop(listener.send(PassEvent::Said(Box::new(event)))),
            None if is_over => drop(passes.over.insert(pass.clone(), event)),
            None => {}
        }
    }

    /// Greets the agent again, and tells what was missed.
    async fn meet_again(&mut self, requests: &mpsc::UnboundedReceiver<Request>) -> Result<Line, Error> {
        let deadline = Instant::now() + LOST_MAX;
        while Instant::now() < deadline && !requests.is_closed() {
            match welcome(&self.cluster, &self.pod, &self.hello).await {
                Ok((mut line, welcome)) => {
                    let known: Vec<String> = welcome.passes.iter().map(|state| state.pass.clone()).collect();
                    for state in welcome.passes {
                        state.listening.into_iter().for_each(|listening| self.deliver(Event::Listening(listening)));
                        state.ended.into_iter().for_each(|ended| self.deliver(Event::Ended(ended)));
                    }
                    if self.ask_again(&mut line, &known).await.is_ok() {
                        return Ok(line);
                    }
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

    /// Asks again for what the agent may not have heard: passes that it does not know, and ends of those that run.
    async fn ask_again(&mut self, line: &mut Line, known: &[String]) -> std::io::Result<()> {
        let waits = |pass: &str| self.passes.lock().expect("no holder panics").by_pass.contains_key(pass);
        self.asked.retain(|request| pass_of(request).is_some_and(&waits));
        for request in &self.asked {
            let is_known = pass_of(request).is_some_and(|pass| known.iter().any(|known| known == pass));
            if !is_known || matches!(request, Request::Stop { .. }) {
                say(line, request).await?;
            }
        }
        Ok(())
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

/// The pass that a request begins or ends.
fn pass_of(request: &Request) -> Option<&str> {
    match request {
        Request::Begin(order) => Some(&order.pass),
        Request::Stop { pass } => Some(pass),
        _ => None,
    }
}

fn loss(side: Side, (epoch, why): &(Option<u64>, String)) -> Error {
    match *epoch {
        Some(epoch) => Error::Superseded { coordinator: "another coordinator".to_owned(), epoch },
        None => Error::Agent { side, code: "TS-K930".to_owned(), what: why.clone() },
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
    let mut line = Line { reader: BufReader::new(Box::new(reader)), writer: Box::new(writer), heard: Vec::new() };
    let meet = async {
        say(&mut line, &Request::Hello(hello.clone())).await?;
        hear(&mut line.reader, &mut line.heard).await
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
/// Dropped before its end, it goes on with what is in `heard` the next time.
async fn hear(reader: &mut (impl AsyncBufReadExt + Unpin), heard: &mut Vec<u8>) -> std::io::Result<Option<Event>> {
    let room = (CONTROL_LINE_BYTES_MAX + 1).saturating_sub(heard.len());
    let mut bounded = reader.take(room as u64);
    if bounded.read_until(b'\n', heard).await? == 0 {
        return Ok(None);
    }
    control::decode(&std::mem::take(heard)).map(Some).map_err(std::io::Error::other)
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
        match timeout_at(deadline, hear(&mut line.reader, &mut line.heard)).await {
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
