//! What a pair needs in the clusters, and waiting for it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod, PodStatus, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ListParams;
use tokio::time::{Instant, sleep};
use tranship_api::{LABEL_ID, Record, Side, quantity};
use tranship_proto::control::{Hello, Secret as ControlSecret, VERSION};

use super::meeting::service_kind;
use crate::agents::{AgentPlan, pod_name, preparation_name, secret_hash, state_claim, state_claim_name};
use crate::cluster::{FIELD_MANAGER, Object};
use crate::control::{Agent, PodRef};
use crate::ledger::{Ledger, map_name};
use crate::watch::Watch;
use crate::{Cluster, Error};

/// How long a pod may take until it runs: volumes are made and attached meanwhile.
const RUNNING_MAX: Duration = Duration::from_secs(300);

/// How long an agent that is about to end may take for it.
const ENDING_MAX: Duration = Duration::from_secs(60);

/// How long a pod may take until it is said what it waits for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Characters of what a cluster says that people are shown.
const COMPLAINT_CHARS_MAX: usize = 300;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

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
    let (secret, is_new) = match living(cluster, record, plan, &pod).await? {
        Some(secret) => (secret, false),
        None => (make(ledger, plan, &pod, watch).await?, true),
    };
    if is_new {
        watch.note(format!("{} agent {}/{} is starting", plan.side, pod.namespace, pod.name));
    }
    until_phase(cluster, &pod, "Running", watch).await?;
    let hello = Hello {
        version: VERSION,
        secret: ControlSecret(secret),
        migration: record.id.clone(),
        epoch: record.epoch,
        coordinator: record.coordinator.clone(),
        observes: false,
    };
    Agent::greet(cluster, pod, hello).await
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
    remove(cluster, pod, plan.side).await?;
    Ok(None)
}

/// Ends a pod of ours in order; it is gone when this returns.
async fn remove(cluster: &Cluster, pod: &PodRef, side: Side) -> Result<(), Error> {
    let Some(found) = cluster.find::<Pod>(&pod.namespace, &pod.name).await? else { return Ok(()) };
    cluster.delete::<Pod>(&pod.namespace, &pod.name, found.metadata.uid.as_deref()).await?;
    let deadline = Instant::now() + ENDING_MAX;
    while let Some(still) = cluster.find::<Pod>(&pod.namespace, &pod.name).await? {
        if still.metadata.uid != found.metadata.uid {
            break;
        }
        if Instant::now() > deadline {
            let what = format!("the end of the {side} agent's pod {}/{}", pod.namespace, pod.name);
            return Err(Error::Late { what, seconds: ENDING_MAX.as_secs() });
        }
        sleep(LOOK).await;
    }
    Ok(())
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
    let owner = owner(ledger, plan)?;
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
    cluster.create(namespace, &plan.pod(record, &owner, &secret_hash(&secret))).await?;
    Ok(secret)
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
    remove(cluster, &pod, plan.side).await?;
    cluster.create(&pod.namespace, &wanted).await?;
    until_phase(cluster, &pod, "Succeeded", watch).await?;
    remove(cluster, &pod, plan.side).await?;
    for name in &names {
        let patch = serde_json::json!({ "metadata": { "annotations": { STATE_GROUP: group } } });
        cluster.merge::<PersistentVolumeClaim>(&pod.namespace, name, &patch).await?;
    }
    Ok(())
}

/// The record's object owns what lies beside it: what is of ours goes with it, and a node that is drained sees a pod that
/// somebody looks after.
fn owner(ledger: &Ledger, plan: &AgentPlan) -> Result<OwnerReference, Error> {
    let name = map_name(&ledger.record.migration.metadata.name);
    let uid = ledger.map_uid(plan.side).ok_or_else(|| {
        let object = tranship_api::ObjectRef::named("v1", "ConfigMap", Some(ledger.record.namespace(plan.side)), &name);
        Error::Missing { side: plan.side, object }
    })?;
    Ok(OwnerReference {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        name,
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(false),
    })
}

async fn apply<K: Object>(cluster: &Cluster, namespace: &str, object: &K) -> Result<K, Error> {
    let api = cluster.api::<K>(namespace);
    let name = object.meta().name.clone().unwrap_or_default();
    let what = format!("apply {} {namespace}/{name}", K::kind(&()));
    let params = kube::api::PatchParams::apply(FIELD_MANAGER).force();
    cluster.call(what, api.patch(&name, &params, &kube::api::Patch::Apply(object))).await
}

/// Waits until a pod is in the phase that is wanted.
async fn until_phase(cluster: &Cluster, pod: &PodRef, wanted: &str, watch: &Watch) -> Result<(), Error> {
    let began = Instant::now();
    let mut told = String::new();
    loop {
        let found: Pod = cluster.get(&pod.namespace, &pod.name).await?;
        let (status, uid) = (found.status.unwrap_or_default(), found.metadata.uid.unwrap_or_default());
        let name = format!("pod {}/{}", pod.namespace, pod.name);
        match status.phase.as_deref() {
            Some(phase) if phase == wanted => return Ok(()),
            Some(phase @ ("Failed" | "Succeeded")) => {
                let what = format!("{name} is {phase}: {}", why(&status));
                return Err(Error::Agent { side: cluster.side, code: "TS-K933".to_owned(), what });
            }
            _ if is_hopeless(&status) => {
                let what = format!("{name} cannot start: {}", why(&status));
                return Err(Error::Agent { side: cluster.side, code: "TS-K933".to_owned(), what });
            }
            _ if began.elapsed() > RUNNING_MAX => {
                let what = format!("the start of {name} ({})", complaint(cluster, pod, &uid, &status).await);
                return Err(Error::Late { what, seconds: RUNNING_MAX.as_secs() });
            }
            _ if began.elapsed() > PATIENCE => {
                let complaint = complaint(cluster, pod, &uid, &status).await;
                if complaint != told {
                    watch.note(format!("{name} is waited for: {complaint}"));
                    told = complaint;
                }
                sleep(PATIENCE).await;
            }
            _ => sleep(LOOK).await,
        }
    }
}

/// Why a pod does not start: the last warning about it, since a volume that cannot be mounted is told nowhere else.
async fn complaint(cluster: &Cluster, pod: &PodRef, uid: &str, status: &PodStatus) -> String {
    let params = ListParams::default().fields(&format!("involvedObject.uid={uid},type=Warning"));
    let events = cluster.api::<Event>(&pod.namespace);
    let events = cluster.call(format!("list Events in {}", pod.namespace), events.list(&params)).await;
    // Without the right to read events there is what the pod says itself.
    let last = events.ok().and_then(|list| list.items.into_iter().max_by_key(|event| event.last_timestamp.clone()));
    let told = last.map(|event| [event.reason, event.message].into_iter().flatten().collect::<Vec<_>>().join(": "));
    let text = told.unwrap_or_else(|| why(status));
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ").chars().take(COMPLAINT_CHARS_MAX).collect()
}

/// Whether the pod waits for something that does not come by itself.
fn is_hopeless(status: &PodStatus) -> bool {
    let waiting =
        status.container_statuses.iter().flatten().filter_map(|status| status.state.as_ref()?.waiting.as_ref());
    let hopeless = [
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImagePullBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
    ];
    waiting.filter_map(|waiting| waiting.reason.as_deref()).any(|reason| hopeless.contains(&reason))
}

/// Why a pod is where it is, as the cluster tells it.
fn why(status: &PodStatus) -> String {
    let containers = status.container_statuses.iter().flatten().filter_map(|status| {
        let state = status.state.as_ref()?;
        let waiting = state.waiting.as_ref().map(|waiting| (waiting.reason.clone(), waiting.message.clone()));
        waiting.or_else(|| state.terminated.as_ref().map(|ended| (ended.reason.clone(), ended.message.clone())))
    });
    let conditions = status.conditions.iter().flatten().filter(|condition| condition.status == "False");
    let conditions = conditions.map(|condition| (condition.reason.clone(), condition.message.clone()));
    let mut told: Vec<String> = containers
        .chain(conditions)
        .map(|(reason, message)| [reason, message].into_iter().flatten().collect::<Vec<_>>().join(": "))
        .filter(|text| !text.is_empty())
        .collect();
    // The pod and its containers are not ready for one and the same reason.
    told.dedup();
    if told.is_empty() { "no reason is given".to_owned() } else { told.join("; ") }
}

/// 256 random bits, as text.
fn fresh_secret() -> Result<String, Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::refused("TS-K934", format!("the kernel gives no random bytes: {error}"), "see why this host has none")
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
