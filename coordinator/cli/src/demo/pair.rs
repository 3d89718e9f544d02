//! The real thing: for each volume a source in this process, and a destination in a process of its own.

use std::sync::Arc;

use tokio::sync::watch;
use tranship_agent::monitor::Monitor;
use tranship_agent::report::{Fidelity, Level, Report};

use super::{Mover, Volume};
use crate::error::RunError;
use crate::options::{Compression, Destination, LinkOptions, SyncOptions};
use crate::receiver::Receiver;
use crate::run::{self, Context, Stop};

/// Runs passes between this process and receivers that it starts.
pub(super) struct AgentPair;

impl Mover for AgentPair {
    type Receiver = Receiver;

    async fn ready(&self, volume: &Volume) -> Result<Receiver, RunError> {
        Receiver::start(&volume.destination, &volume.destination_state()).await
    }

    async fn pass(
        &self,
        volume: &Volume,
        receiver: Receiver,
        is_final: bool,
        monitor: Arc<Monitor>,
        stop: &Stop,
    ) -> Result<Report, RunError> {
        let options = SyncOptions {
            source: volume.source.clone(),
            destination: Destination::Dial(receiver.ticket().clone()),
            final_level: is_final.then_some(Level::Full),
            fidelity: Fidelity::Plain,
            accepted_gaps: Vec::new(),
            exclude: Vec::new(),
            compression: Compression::Auto,
            tracks_writes: false,
            link: LinkOptions::default(),
            state: volume.source_state(),
        };
        let bandwidth = watch::channel(None).1;
        let context = Context { monitor, stop: stop.clone(), bandwidth, announce: Arc::new(|_| {}) };
        let report = run::sync(options, context).await?;
        receiver.finish().await?;
        Ok(report)
    }
}
