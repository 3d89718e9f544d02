//! What the agents of a migration do right now, as they tell whoever listens.

use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Secret};
use tranship_api::view::Running;
use tranship_proto::control::{Hello, Progress, Secret as ControlSecret, VERSION};

use crate::agents::{selector, volume_key};
use crate::control::{PodRef, glance};
use crate::ledger::Ledger;

/// How long an agent is listened to: it says at least twice in that time how far it is.
const MOMENT: Duration = Duration::from_millis(1_200);

/// For each volume of the record, the pass that runs, if one does and can be heard. Nobody is disturbed by it; an agent that
/// cannot be reached, or whose secret may not be read, says nothing.
pub async fn running(ledger: &Ledger) -> Vec<Option<Running>> {
    let mut running = vec![None; ledger.record.volumes.len()];
    let owner = ledger.record.owner;
    if ledger.authority(owner).is_none() {
        return running;
    }
    let (cluster, namespace) = (ledger.cluster(owner), ledger.record.namespace(owner));
    let pods = cluster.list::<Pod>(namespace, &selector(&ledger.record)).await.unwrap_or_default();
    let is_running = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    let names = pods.into_iter().filter(is_running).filter_map(|pod| pod.metadata.name);
    for progress in join_all(names.map(|name| heard(ledger, name))).await.into_iter().flatten() {
        let volume = (0..running.len()).find(|&volume| volume_key(volume) == progress.volume);
        if let Some(volume) = volume {
            running[volume] = Some(shown(progress));
        }
    }
    running
}

async fn heard(ledger: &Ledger, name: String) -> Vec<Progress> {
    let (record, cluster) = (&ledger.record, ledger.cluster(ledger.record.owner));
    let pod = PodRef { namespace: record.namespace(record.owner).to_owned(), name };
    let secret = cluster.find::<Secret>(&pod.namespace, &pod.name).await.ok().flatten();
    let secret = secret.and_then(|secret| String::from_utf8(secret.data?.remove("secret")?.0).ok());
    let Some(secret) = secret else { return Vec::new() };
    let hello = Hello {
        version: VERSION,
        secret: ControlSecret(secret),
        migration: record.id.clone(),
        epoch: record.epoch,
        coordinator: String::new(),
        observes: true,
    };
    match glance(cluster, &pod, &hello, MOMENT).await {
        Ok((_, seen)) => seen,
        Err(error) => {
            tracing::debug!(%error, pod = pod.name, "the agent is not heard");
            Vec::new()
        }
    }
}

fn shown(progress: Progress) -> Running {
    Running {
        phase: progress.phase,
        entries_done: progress.entries_done,
        entries_total: progress.entries_total,
        bytes_done: progress.bytes_done,
        bytes_total: progress.bytes_total,
        bytes_sent: progress.bytes_sent,
        bytes_per_second: progress.bytes_per_second,
        seconds_left: progress.seconds_left,
    }
}
