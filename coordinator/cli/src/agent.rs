//! The role beside volumes in a cluster: does what a coordinator orders, and outlives it.
//!
//! It runs no pass itself and opens no volume: each pass is a process of its own, which confines itself. `client` is the
//! coordinator's connection, `passes` what runs, `pass` one such process, `command` what is typed for it, `relay` its way
//! to a peer that cannot be reached, and `record` what a later agent with the same state has to know.
//!
//! One loop takes everything that happens, in order, and decides:
//!
//! ```text
//!   connections ── Came, Asked, Went ─▶ ┌──────┐ ── Welcome, Rejected, … ─▶ the coordinator with the highest epoch
//!   processes ──── Told, Ended ───────▶ │ loop │ ── start, share, stop ───▶ processes
//!   SIGTERM, time ────────────────────▶ └──────┘ ── epoch, last pass ─────▶ the state folder
//! ```

mod client;
mod command;
mod lines;
mod options;
mod pass;
mod passes;
mod record;
mod relay;
mod volume;

use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};
use tranship_agent::report::printable;
use tranship_proto::control::{self, Ended, Event, Request, Welcome, code};

use self::client::{Client, Door, refused};
pub(crate) use self::options::AgentOptions;
use self::pass::STOPPING;
use self::passes::Passes;
use self::record::EpochRecord;
use crate::error::RunError;
use crate::exit::Exit;
use crate::print::Printer;

/// Things that wait to be looked at. Whoever has more waits.
const INPUTS_MAX: usize = 64;

/// Between the time that a pass has to end and the end of this process.
const LAST_MOMENT: Duration = Duration::from_secs(2);

/// Everything that happens.
#[derive(Debug)]
enum Input {
    /// A coordinator has shown the secret.
    Came(Client),
    /// Whoever has this connection asks for something.
    Asked(u64, Request),
    /// This connection is over.
    Went(u64),
    /// A pass says how it is.
    Told(Event),
    /// A pass is over.
    Ended(Ended),
}

/// Serves coordinators until there is nothing to do, or until it is told to end.
pub(crate) fn run(options: AgentOptions, printer: Printer) -> Result<Exit, RunError> {
    // It waits nearly always: one thread is enough, and takes the least memory.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| RunError::refused("TS-U002", "cannot start").because(error))?;
    runtime.block_on(async {
        let (inputs, incoming) = mpsc::channel(INPUTS_MAX);
        let control = options.control;
        let no_listener = |error| {
            RunError::refused(code::PORT, format!("cannot listen for a coordinator at {control}")).because(error)
        };
        let listener = TcpListener::bind(control).await.map_err(no_listener)?;
        let control = listener.local_addr().map_err(no_listener)?;
        let agent = Agent::new(AgentOptions { control, ..options }, inputs.clone())?;
        printer.json(&json!({ "control": control }));
        printer.line(&format!("listening for a coordinator at {control}"));
        let (migration, secret) = (agent.options.migration.clone(), agent.options.secret);
        tokio::spawn(client::listen(listener, Door { migration, secret, inputs }));
        agent.serve(incoming).await
    })
}

struct Agent {
    options: AgentOptions,
    epoch: EpochRecord,
    /// Who has the ear.
    client: Option<Client>,
    /// Who only listens.
    observers: Vec<Client>,
    passes: Passes,
    /// When a coordinator last said something or went, or a pass ended.
    touched: Instant,
    is_ending: bool,
}

impl Agent {
    fn new(options: AgentOptions, inputs: mpsc::Sender<Input>) -> Result<Self, RunError> {
        let no_state = |error| RunError::refused("TS-E251", "the state folder cannot be used").because(error);
        for place in &options.volumes {
            tranship_agent::state::disk::make_folder(&place.state).map_err(no_state)?;
        }
        let folders = options.volumes.iter().map(|place| place.state.clone()).collect();
        let epoch = EpochRecord::open(folders, &options.migration).map_err(no_state)?;
        let passes = Passes::new(options.volumes.clone(), options.control.port(), inputs);
        Ok(Self {
            options,
            epoch,
            client: None,
            observers: Vec::new(),
            passes,
            touched: Instant::now(),
            is_ending: false,
        })
    }

    async fn serve(mut self, mut incoming: mpsc::Receiver<Input>) -> Result<Exit, RunError> {
        let no_signals = |error| RunError::refused("TS-U002", "cannot listen for signals").because(error);
        let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
        while !self.is_ending {
            tokio::select! {
                Some(input) = incoming.recv() => self.handle(input).await,
                _ = terminate.recv() => self.is_ending = true,
                _ = interrupt.recv() => self.is_ending = true,
                () = sleep_until(self.next_look()) => self.look(),
            }
        }
        self.end(incoming).await;
        Ok(Exit::Done)
    }

    async fn handle(&mut self, input: Input) {
        match input {
            Input::Came(client) if client.hello.observes => {
                let is_heard = client.tell(Event::Welcome(self.introduction()));
                self.observers.extend(Some(client).filter(|_| is_heard));
            }
            Input::Came(client) => self.welcome(client),
            Input::Asked(id, request) if self.client.as_ref().is_some_and(|client| client.id == id) => {
                self.touched = Instant::now();
                self.follow(request).await;
            }
            // It was superseded, and its last words count no more.
            Input::Asked(..) => {}
            Input::Went(id) => {
                self.observers.retain(|observer| observer.id != id);
                if self.client.take_if(|client| client.id == id).is_some() {
                    self.touched = Instant::now();
                    tracing::info!("the coordinator is gone");
                }
            }
            Input::Told(event) => {
                if let Some(event) = self.passes.note(event, Instant::now()) {
                    self.tell(event);
                }
            }
            Input::Ended(ended) => {
                self.touched = Instant::now();
                self.passes.end(&ended);
                self.tell(Event::Ended(ended));
            }
        }
    }

    /// Lets the newcomer have the ear, unless a later one was here.
    fn welcome(&mut self, client: Client) {
        let (epoch, highest) = (client.hello.epoch, self.epoch.highest());
        if epoch < highest {
            let message = format!("epoch {epoch} is over: a coordinator came with {highest}");
            return client.dismiss(refused(code::EPOCH, message));
        }
        // Durable before anything is done in its name.
        if let Err(error) = self.epoch.raise(epoch) {
            tracing::error!(%error, "an epoch cannot be recorded");
            return client.dismiss(refused("TS-E251", format!("the epoch cannot be recorded: {error}")));
        }
        if let Some(former) = self.client.take() {
            former.dismiss(Event::Superseded { epoch });
        }
        tracing::info!(epoch, coordinator = printable(&client.hello.coordinator), "a coordinator came");
        self.client = Some(client);
        self.touched = Instant::now();
        let welcome = Event::Welcome(self.introduction());
        // Whoever listens knows all of this.
        if !self.client.as_ref().is_some_and(|client| client.tell(welcome)) {
            self.client = None;
        }
    }

    /// What whoever comes is told first.
    fn introduction(&self) -> Welcome {
        let volumes = self.options.volumes.iter().filter_map(|place| {
            let facts = volume::facts(place);
            facts.inspect_err(|error| tracing::error!(%error, volume = place.name, "it cannot be looked at")).ok()
        });
        Welcome {
            version: control::VERSION,
            build: env!("CARGO_PKG_VERSION").to_owned(),
            epoch: self.epoch.highest(),
            volumes: volumes.collect(),
            passes: self.passes.states(),
        }
    }

    async fn follow(&mut self, request: Request) {
        let (pass, result) = match request {
            Request::Begin(order) => (Some(order.pass.clone()), self.passes.begin(order).await),
            Request::Stop { pass } => {
                let result = self.passes.stop(&pass);
                (Some(pass), result)
            }
            Request::Bandwidth { bits_per_second } => {
                self.passes.budget(bits_per_second);
                (None, Ok(()))
            }
            Request::Leave if self.passes.is_idle() => {
                self.is_ending = true;
                (None, Ok(()))
            }
            Request::Leave => (None, Err((code::BUSY, "a pass runs".to_owned()))),
            // The connection lets none through.
            Request::Hello(_) => (None, Ok(())),
        };
        if let Err((code, message)) = result {
            self.tell(Event::Rejected { pass, code: code.to_owned(), message });
        }
    }

    fn tell(&mut self, event: Event) {
        self.observers.retain(|observer| observer.tell(event.clone()));
        if self.client.as_ref().is_some_and(|client| !client.tell(event)) {
            tracing::warn!("the coordinator is too slow; its connection is closed");
            self.client = None;
        }
    }

    /// When there may be something to do that nobody asked for.
    fn next_look(&self) -> Instant {
        if self.passes.is_idle() {
            return self.touched + self.options.idle;
        }
        let abandoned = self.passes.abandoned_from(self.touched, self.options.idle);
        // Those that are being ended already say so when they are over.
        abandoned.unwrap_or_else(|| Instant::now() + self.options.idle)
    }

    fn look(&mut self) {
        let now = Instant::now();
        if self.passes.is_idle() {
            self.is_ending = now >= self.touched + self.options.idle;
        } else if self.client.is_some() {
            // It decides how long to wait.
            self.touched = now;
        } else {
            self.passes.stop_abandoned(self.touched, self.options.idle, now);
        }
    }

    /// Ends what runs so that it can be taken up, and leaves a last word.
    async fn end(mut self, mut incoming: mpsc::Receiver<Input>) {
        self.passes.stop_all();
        let latest = Instant::now() + STOPPING + LAST_MOMENT;
        while !self.passes.is_idle() {
            match timeout_at(latest, incoming.recv()).await {
                Ok(Some(input)) => self.handle(input).await,
                Ok(None) | Err(_) => break,
            }
        }
        // Those who wait to be heard are closed with it.
        incoming.close();
        for client in self.client.take().into_iter().chain(self.observers.drain(..)) {
            client.close().await;
        }
        let summary = record::summary(&self.options.migration, self.passes.last());
        tracing::info!("{summary}");
        if let Some(path) = &self.options.termination
            && let Err(error) = std::fs::write(path, summary)
        {
            tracing::warn!(%error, "the summary cannot be written to {}", path.display());
        }
    }
}
