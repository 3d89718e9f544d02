//! The end of a migration: what is of ours goes, but for the fence around what was left, and what users asked to keep.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::{Duration, Instant, sleep};
use tranship_api::record::Step;
use tranship_api::{LABEL_ID, LABEL_MIGRATION, ObjectRef, Record, Side};

use crate::agents::{agents_selector, selector, state_claim_name};
use crate::cluster::Object;
use crate::cutover::{steps, under_way};
use crate::fence::{self, Need, Standing};
use crate::ledger::Ledger;
use crate::watch::Watch;
use crate::{Cluster, Error, resident};

/// How long what is deleted may take to be gone.
const GOING_MAX: Duration = Duration::from_secs(60);

/// Between two looks at what goes.
const LOOK: Duration = Duration::from_millis(200);

/// What a user wants of the end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Whether the claims that were left may be used again.
    pub lifts_fence: bool,
    /// Whether the claims that were left are deleted.
    pub deletes_left: bool,
}

/// Ends a migration of which no cutover is under way. The side that owns the application keeps everything that it uses.
///
/// The record goes last: whatever interrupts this, the same command goes on.
pub async fn finish(ledger: Ledger, options: Options, watch: &Watch) -> Result<(), Error> {
    let record = ledger.record.clone();
    if record.step != Step::Staging {
        return Err(under_way(&record));
    }
    let left = record.owner.other();
    let was_left = ledger.was_left(left);
    // Before anything is taken away.
    ledger.confirm().await?;
    if record.resident.is_some() {
        resident::remove(ledger.cluster(Side::Source), &record).await?;
    }
    for side in Side::ALL {
        let (cluster, namespace) = (ledger.cluster(side), record.namespace(side));
        remove_helpers(cluster, namespace, &record).await?;
        restore_policies(cluster, &record, side).await?;
        if side != left || !was_left || options.lifts_fence || options.deletes_left {
            steps::lift(&ledger, side).await?;
        } else {
            let lifted_by = steps::lifted_by(&record);
            watch.note(format!("the fence around the claims of the {side} stays; `{lifted_by}` lifts it later"));
        }
    }
    if options.deletes_left {
        for claim in record.claims(left) {
            ledger.cluster(left).delete::<PersistentVolumeClaim>(record.namespace(left), &claim, None).await?;
        }
    }
    unmark(&ledger).await?;
    until_helpers_are_gone(&ledger, watch).await?;
    ledger.remove().await
}

/// Removes agents and what belongs to them.
async fn remove_helpers(cluster: &Cluster, namespace: &str, record: &Record) -> Result<(), Error> {
    let agents = agents_selector(record);
    remove_all::<Pod>(cluster, namespace, &agents).await?;
    remove_each(cluster, namespace, &secrets(cluster, namespace, &agents).await?).await?;
    remove_all::<Service>(cluster, namespace, &agents).await?;
    remove_all::<NetworkPolicy>(cluster, namespace, &agents).await?;
    for volume in 0..record.volumes.len() {
        cluster.delete::<PersistentVolumeClaim>(namespace, &state_claim_name(record, volume), None).await?;
    }
    Ok(())
}

/// Waits until pods of agents and claims of their state, which take a moment to go, have gone; says which have not where
/// that takes long, as on a node that does not answer: the cluster goes on by itself.
async fn until_helpers_are_gone(ledger: &Ledger, watch: &Watch) -> Result<(), Error> {
    let deadline = Instant::now() + GOING_MAX;
    for side in Side::ALL {
        loop {
            let going = helpers(ledger.cluster(side), ledger.record.namespace(side), &ledger.record).await?;
            if going.is_empty() {
                break;
            }
            if Instant::now() >= deadline {
                let going = going.join(", ");
                watch.note(format!("{side}: {going} has not gone yet, and goes as soon as the cluster can do that"));
                break;
            }
            sleep(LOOK).await;
        }
    }
    Ok(())
}

/// Pods of agents and claims of their state that are there, as `KIND NAME`.
async fn helpers(cluster: &Cluster, namespace: &str, record: &Record) -> Result<Vec<String>, Error> {
    let pods = cluster.list::<Pod>(namespace, &agents_selector(record)).await?;
    let claims = cluster.list::<PersistentVolumeClaim>(namespace, &selector(record)).await?;
    let states: Vec<String> = (0..record.volumes.len()).map(|volume| state_claim_name(record, volume)).collect();
    let states = claims.iter().filter_map(|claim| claim.metadata.name.as_ref()).filter(|name| states.contains(name));
    let pods = pods.iter().filter_map(|pod| pod.metadata.name.as_ref());
    Ok(pods.map(|name| format!("Pod {name}")).chain(states.map(|name| format!("claim {name}"))).collect())
}

/// Secrets of ours, as far as they may be looked for. They go with the record, which owns them, at the latest.
async fn secrets(cluster: &Cluster, namespace: &str, selector: &str) -> Result<Vec<Secret>, Error> {
    match cluster.list::<Secret>(namespace, selector).await {
        Err(error) if error.is_forbidden() => {
            tracing::warn!("{error}: secrets of agents are not looked for; the cluster removes them with the record");
            Ok(Vec::new())
        }
        found => found,
    }
}

async fn remove_all<K: Object>(cluster: &Cluster, namespace: &str, selector: &str) -> Result<(), Error> {
    remove_each(cluster, namespace, &cluster.list::<K>(namespace, selector).await?).await
}

async fn remove_each<K: Object>(cluster: &Cluster, namespace: &str, objects: &[K]) -> Result<(), Error> {
    for object in objects {
        let name = object.meta().name.clone().unwrap_or_default();
        cluster.delete::<K>(namespace, &name, object.meta().uid.as_deref()).await?;
    }
    Ok(())
}

/// Sets the reclaim policies back, where they are still ours.
async fn restore_policies(cluster: &Cluster, record: &Record, side: Side) -> Result<(), Error> {
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    for kept in record.retained.iter().filter(|kept| kept.side == side) {
        let what = |verb: &str| format!("{verb} PersistentVolume {}", kept.volume);
        let found = cluster.call(what("get"), volumes.get_opt(&kept.volume)).await?;
        let policy = found.and_then(|volume| volume.spec?.persistent_volume_reclaim_policy);
        if policy.as_deref() != Some("Retain") {
            continue;
        }
        let patch = Patch::Merge(json!({ "spec": { "persistentVolumeReclaimPolicy": kept.before } }));
        cluster.call(what("patch"), volumes.patch(&kept.volume, &PatchParams::default(), &patch)).await?;
    }
    Ok(())
}

/// Takes our labels from what stays: the claims, and what was brought.
async fn unmark(ledger: &Ledger) -> Result<(), Error> {
    let record = &ledger.record;
    let patch = json!({ "metadata": { "labels": { LABEL_ID: null, LABEL_MIGRATION: null } } });
    let destination = ledger.cluster(Side::Destination);
    for claim in record.claims(Side::Destination) {
        let unmarked =
            destination.merge::<PersistentVolumeClaim>(record.namespace(Side::Destination), &claim, &patch).await;
        if let Err(error) = unmarked
            && !error.is_not_found()
        {
            return Err(error);
        }
    }
    crate::bring::unmark(destination, &record.brought).await
}

/// What is of ours in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// What.
    pub object: ObjectRef,
    /// The migration that made it.
    pub migration: String,
    /// Who needs it. With the record of the migration there `finish` removes it, and lifts a fence that was kept.
    pub need: Need,
}

/// Finds everything of ours in a namespace of a cluster, by label, and of `fences` around its claims what they are made of.
pub async fn leftovers(cluster: &Cluster, namespace: &str, fences: &[Standing]) -> Result<Vec<Leftover>, Error> {
    let mut found = Vec::new();
    let maps = cluster.list::<ConfigMap>(namespace, LABEL_ID).await?;
    let living: Vec<String> = maps.iter().filter_map(|map| label(map, LABEL_ID)).collect();
    found.extend(maps.iter().map(|map| leftover(map, &living)));
    found.extend(cluster.list::<Pod>(namespace, LABEL_ID).await?.iter().map(|object| leftover(object, &living)));
    found.extend(secrets(cluster, namespace, LABEL_ID).await?.iter().map(|object| leftover(object, &living)));
    found.extend(cluster.list::<Service>(namespace, LABEL_ID).await?.iter().map(|object| leftover(object, &living)));
    found.extend(
        cluster.list::<NetworkPolicy>(namespace, LABEL_ID).await?.iter().map(|object| leftover(object, &living)),
    );
    let is_fenced = |lease: &Lease| fences.iter().any(|fence| label(lease, LABEL_ID).as_ref() == Some(&fence.id));
    found.extend(cluster.list::<Lease>(namespace, LABEL_ID).await?.iter().map(|lease| {
        let leftover = leftover(lease, &living);
        let is_kept = leftover.need == Need::Nobody && is_fenced(lease);
        if is_kept { Leftover { need: Need::Kept, ..leftover } } else { leftover }
    }));
    let claims = cluster.list::<PersistentVolumeClaim>(namespace, LABEL_ID).await?;
    found.extend(claims.iter().map(|object| leftover(object, &living)));
    found.extend(fences.iter().flat_map(|fence| {
        let part = |object: &ObjectRef| Leftover {
            object: object.clone(),
            migration: fence.migration.clone(),
            need: fence.need,
        };
        fence.objects.iter().map(part)
    }));
    Ok(found)
}

/// Finds what is left of coordinators in a namespace, the one that would make another pod first.
pub async fn left_residents(cluster: &Cluster, namespace: &str) -> Result<Vec<Leftover>, Error> {
    let maps = cluster.list::<ConfigMap>(namespace, LABEL_ID).await?;
    let living: Vec<String> = maps.iter().filter_map(|map| label(map, LABEL_ID)).collect();
    let leftover = |(object, [id, migration]): (ObjectRef, [String; 2])| {
        let need = if living.contains(&id) { Need::Migration } else { Need::Nobody };
        Leftover { object, migration, need }
    };
    Ok(resident::standing(cluster, namespace).await?.into_iter().map(leftover).collect())
}

fn label<K: Object>(object: &K, key: &str) -> Option<String> {
    object.meta().labels.as_ref()?.get(key).cloned()
}

fn leftover<K: Object>(object: &K, living: &[String]) -> Leftover {
    let meta = object.meta();
    let named = ObjectRef::named(
        &K::api_version(&()),
        &K::kind(&()),
        meta.namespace.as_deref(),
        meta.name.as_deref().unwrap_or_default(),
    );
    Leftover {
        object: ObjectRef { uid: meta.uid.clone().unwrap_or_default(), ..named },
        migration: label(object, LABEL_MIGRATION).unwrap_or_default(),
        need: match label(object, LABEL_ID).is_some_and(|id| living.contains(&id)) {
            true => Need::Migration,
            false => Need::Nobody,
        },
    }
}

/// Removes a leftover; one that somebody needs is not touched.
pub async fn remove_leftover(cluster: &Cluster, leftover: &Leftover) -> Result<(), Error> {
    if leftover.need != Need::Nobody {
        return Ok(());
    }
    let (object, namespace) = (&leftover.object, leftover.object.namespace.as_deref().unwrap_or_default());
    let (name, uid) = (&object.name, Some(object.uid.as_str()));
    match object.kind.as_str() {
        "Pod" => cluster.delete::<Pod>(namespace, name, uid).await,
        "Secret" => cluster.delete::<Secret>(namespace, name, uid).await,
        "Service" => cluster.delete::<Service>(namespace, name, uid).await,
        "NetworkPolicy" => cluster.delete::<NetworkPolicy>(namespace, name, uid).await,
        "Lease" => cluster.delete::<Lease>(namespace, name, uid).await,
        "PersistentVolumeClaim" => cluster.delete::<PersistentVolumeClaim>(namespace, name, uid).await,
        "ValidatingAdmissionPolicyBinding" | "ValidatingAdmissionPolicy" => fence::remove(cluster, object).await,
        _ => resident::remove_part(cluster, object).await,
    }
}
