//! What a pair needs in the clusters, and waiting for it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use tranship_api::{LABEL_ID, Record, quantity};
use tranship_proto::control::{Hello, Secret as ControlSecret, VERSION, code};

use super::meeting::service_kind;
use crate::agents::{AgentPlan, pod_name, preparation_name, secret_hash, state_claim, state_claim_name};
use crate::cluster::{FIELD_MANAGER, Object};
use crate::control::{Agent, PodRef};
use crate::ledger::Ledger;
use crate::watch::Watch;
use crate::{Cluster, Error, pod};

/// How long a pod may take until it runs: volumes are made and attached meanwhile.
const RUNNING_MAX: Duration = Duration::from_secs(300);

/// How often a pod is made again whose kubelet remembers an earlier Secret.
const STALE_MAX: usize = 3;

/// Where a claim of ours says which group can write there.
const STATE_GROUP: &str = "tranship.io/state-group";

/// Agents for volumes that share a node.
#[derive(Debug, Clone)]
pub struct PairPlan {
    /// Beside the volumes that are read.
    pub from: AgentPlan,
    /// Beside those that are written, in the same order.
    pub to: AgentPlan,
}

/// Makes what is missing of an agent, waits until it runs, and greets it. An agent that is there already is taken over.
pub(super) async fn bring_up(ledger: &Ledger, plan: &AgentPlan, watch: &Watch) -> Result<Agent, Error> {
    let (record, cluster) = (&ledger.record, ledger.cluster(plan.side));
    let pod =
        PodRef { namespace: record.namespace(plan.side).to_owned(), name: pod_name(record, plan.side, plan.group) };
    if let Some(secret) = living(cluster, record, plan, &pod).await? {
        match meet(ledger, plan, &pod, secret, watch).await {
            Err(error @ Error::Superseded { .. }) => return Err(error),
            // It had ended, which a kubelet that was silent for a while tells late.
            Err(_) if living(cluster, record, plan, &pod).await?.is_none() => {}
            met => return met,
        }
    }
    let secret = make(ledger, plan, &pod, watch).await?;
    watch.note(format!("{} agent {}/{} is starting", plan.side, pod.namespace, pod.name));
    for _ in 0..STALE_MAX {
        match meet(ledger, plan, &pod, secret.clone(), watch).await {
            Err(_) if was_shown_another_secret(cluster.find::<Pod>(&pod.namespace, &pod.name).await?.as_ref()) => {
                watch.note(format!("its kubelet still had the Secret of the agent before: {} is made again", pod.name));
                pod::remove(cluster, &pod).await?;
                start(ledger, plan, &pod, &secret).await?;
            }
            met => return met,
        }
    }
    meet(ledger, plan, &pod, secret, watch).await
}

/// Whether a pod has ended at once since its Secret was not the one that it was made with: a kubelet that has just had another
/// pod of this name remembers that one's for a moment.
fn was_shown_another_secret(found: Option<&Pod>) -> bool {
    let status = found.and_then(|pod| pod.status.as_ref());
    let containers = status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten();
    let mut ended = containers.filter_map(|container| container.state.as_ref()?.terminated.as_ref()?.message.as_ref());
    ended.any(|says| says.contains(code::SECRET))
}

async fn meet(ledger: &Ledger, plan: &AgentPlan, pod: &PodRef, secret: String, watch: &Watch) -> Result<Agent, Error> {
    let (record, cluster) = (&ledger.record, ledger.cluster(plan.side));
    pod::until_phase(cluster, pod, "Running", RUNNING_MAX, watch).await?;
    let hello = Hello {
        version: VERSION,
        secret: ControlSecret(secret),
        migration: record.id.clone(),
        epoch: record.epoch,
        coordinator: record.coordinator.clone(),
        observes: false,
    };
    Agent::greet(cluster, pod.clone(), hello).await
}

/// The secret of an agent that is there, has the right volumes, and is on the right node. What is there and is not of use
/// is ended in order, and gone when this returns.
async fn living(cluster: &Cluster, record: &Record, plan: &AgentPlan, pod: &PodRef) -> Result<Option<String>, Error> {
    let Some(found) = cluster.find::<Pod>(&pod.namespace, &pod.name).await? else { return Ok(None) };
    let is_ours = found.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_ID)) == Some(&record.id);
    if !is_ours {
        return Err(Error::refused(
            "TS-K932",
            format!("pod {}/{} in the {} cluster is not of this migration", pod.namespace, pod.name, plan.side),
            "remove it, or choose another name for the migration",
        ));
    }
    let phase = found.status.as_ref().and_then(|status| status.phase.as_deref());
    let runs = matches!(phase, Some("Running" | "Pending")) && found.metadata.deletion_timestamp.is_none();
    if runs
        && is_as_planned(&found, plan, record)
        && let Some(secret) = cluster.find::<Secret>(&pod.namespace, &pod.name).await?
        && let Some(text) = secret.data.unwrap_or_default().remove("secret")
    {
        return Ok(String::from_utf8(text.0).ok());
    }
    pod::remove(cluster, pod).await?;
    Ok(None)
}

/// Whether a pod does what is wanted now: the same role beside the same volumes, and on the node where they are in use.
fn is_as_planned(found: &Pod, plan: &AgentPlan, record: &Record) -> bool {
    let owner = OwnerReference::default();
    let wanted = plan.pod(record, &owner, "").spec.unwrap_or_default();
    let Some(spec) = &found.spec else { return false };
    let volumes = |spec: &k8s_openapi::api::core::v1::PodSpec| {
        let mut claims: Vec<_> = spec
            .volumes
            .iter()
            .flatten()
            .filter_map(|volume| volume.persistent_volume_claim.as_ref())
            .map(|claim| (claim.claim_name.clone(), claim.read_only == Some(true)))
            .collect();
        claims.sort();
        claims
    };
    let is_there = plan.node.as_deref().is_none_or(|node| spec.node_name.as_deref() == Some(node));
    is_there && volumes(spec) == volumes(&wanted)
}

async fn make(ledger: &Ledger, plan: &AgentPlan, pod: &PodRef, watch: &Watch) -> Result<String, Error> {
    let (record, cluster, namespace) = (&ledger.record, ledger.cluster(plan.side), &pod.namespace);
    let owner = ledger.owner_reference(plan.side)?;
    for &volume in &plan.volumes {
        let name = state_claim_name(record, volume);
        if cluster.find::<PersistentVolumeClaim>(namespace, &name).await?.is_none() {
            let size = &record.volumes[volume].claim(plan.side).size;
            let capacity = quantity::bytes(size).unwrap_or_default();
            cluster.create(namespace, &state_claim(record, plan.side, volume, capacity, &owner)).await?;
        }
    }
    prepare(ledger, plan, &owner, watch).await?;
    apply(cluster, namespace, &plan.network_policy(record, &owner)).await?;
    if let Some(kind) = service_kind(record) {
        apply(cluster, namespace, &plan.service(record, &owner, kind)).await?;
    }
    let secret = fresh_secret()?;
    cluster.delete::<Secret>(namespace, &pod.name, None).await?;
    cluster.create(namespace, &plan.secret(record, &owner, &secret)).await?;
    start(ledger, plan, pod, &secret).await?;
    Ok(secret)
}

/// Makes the pod alone; everything that it needs is there.
async fn start(ledger: &Ledger, plan: &AgentPlan, pod: &PodRef, secret: &str) -> Result<(), Error> {
    let (record, cluster, owner) = (&ledger.record, ledger.cluster(plan.side), ledger.owner_reference(plan.side)?);
    cluster.create(&pod.namespace, &plan.pod(record, &owner, &secret_hash(secret))).await.map(drop)
}

/// Gives the claims in which the agent remembers to its group, where it could not write there else. Done once for each.
async fn prepare(ledger: &Ledger, plan: &AgentPlan, owner: &OwnerReference, watch: &Watch) -> Result<(), Error> {
    let (record, cluster) = (&ledger.record, ledger.cluster(plan.side));
    let Some(wanted) = plan.preparation(record, owner) else { return Ok(()) };
    let namespace = record.namespace(plan.side).to_owned();
    let names: Vec<String> = plan.volumes.iter().map(|&volume| state_claim_name(record, volume)).collect();
    let group = plan.state_group().to_string();
    let mut is_ready = true;
    for name in &names {
        let claim: PersistentVolumeClaim = cluster.get(&namespace, name).await?;
        is_ready &= claim.metadata.annotations.unwrap_or_default().get(STATE_GROUP) == Some(&group);
    }
    if is_ready {
        return Ok(());
    }
    let pod = PodRef { namespace, name: preparation_name(record, plan.side, plan.group) };
    pod::remove(cluster, &pod).await?;
    cluster.create(&pod.namespace, &wanted).await?;
    pod::until_phase(cluster, &pod, "Succeeded", RUNNING_MAX, watch).await?;
    pod::remove(cluster, &pod).await?;
    for name in &names {
        let patch = serde_json::json!({ "metadata": { "annotations": { STATE_GROUP: group } } });
        cluster.merge::<PersistentVolumeClaim>(&pod.namespace, name, &patch).await?;
    }
    Ok(())
}

pub(super) async fn apply<K: Object>(cluster: &Cluster, namespace: &str, object: &K) -> Result<K, Error> {
    let api = cluster.api::<K>(namespace);
    let name = object.meta().name.clone().unwrap_or_default();
    let what = format!("apply {} {namespace}/{name}", K::kind(&()));
    let params = kube::api::PatchParams::apply(FIELD_MANAGER).force();
    cluster.call(what, api.patch(&name, &params, &kube::api::Patch::Apply(object))).await
}

/// 256 random bits, as text.
pub(super) fn fresh_secret() -> Result<String, Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::refused("TS-K934", format!("the kernel gives no random bytes: {error}"), "see why this host has none")
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_that_was_shown_the_secret_of_an_earlier_one_is_told_from_others_that_ended() {
        let ended = |message: Option<&str>| -> Pod {
            let terminated = json!({"exitCode": 3, "message": message});
            let statuses = json!([{"name": "agent", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                "state": {"terminated": terminated}}]);
            serde_json::from_value(json!({"status": {"phase": "Failed", "containerStatuses": statuses}}))
                .expect("a pod")
        };
        let stale = "error TS-C700: the secret in /control/secret is not the one that this agent was made for";
        for (pod, is_stale) in [
            (Some(ended(Some(stale))), true),
            (Some(ended(Some("error TS-E251: the state folder cannot be used"))), false),
            (Some(ended(None)), false),
            (Some(Pod::default()), false),
            (None, false),
        ] {
            assert_eq!(was_shown_another_secret(pod.as_ref()), is_stale, "{pod:?}");
        }
    }
}
