//! The end of a migration: what is of ours goes, but for the fence around what was left, and what users asked to keep.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use tokio::time::{Duration, Instant, sleep};
use tranship_api::record::Step;
use tranship_api::{LABEL_BROUGHT, Record, Side};

use crate::agents::{agents_selector, is_state_claim, selector, state_claim_name};
use crate::bring::{self, Found};
use crate::cluster::Object;
use crate::cutover::{steps, under_way};
use crate::ledger::Ledger;
use crate::quiesce::Holder;
use crate::watch::Watch;
use crate::{Cluster, Error, reclaim, resident};

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

/// Ends a migration of which no cutover is under way. The side that owns the application keeps everything that it uses; where
/// it is at home, what was brought for it goes, and the copies of its volumes stay unless they are to be deleted.
///
/// The record goes last: whatever interrupts this, the same command goes on.
pub async fn finish(ledger: Ledger, options: Options, watch: &Watch) -> Result<(), Error> {
    let left = ledger.record.owner.other();
    check(&ledger, options, left).await?;
    let (record, was_left) = (ledger.record.clone(), ledger.was_left(left));
    // Before anything is taken away.
    ledger.confirm().await?;
    if record.resident.is_some() {
        resident::remove(ledger.cluster(Side::Source), &record).await?;
    }
    for side in Side::ALL {
        let (cluster, namespace) = (ledger.cluster(side), record.namespace(side));
        remove_helpers(cluster, namespace, &record).await?;
        for volume in reclaim::restore(cluster, &record, side).await? {
            watch.note(format!("{side}: PersistentVolume {volume} is kept, since its claim is gone"));
        }
        if side != left || !was_left || options.lifts_fence || options.deletes_left {
            steps::lift(&ledger, side).await?;
        } else {
            let lifted_by = steps::lifted_by(&record);
            watch.note(format!("the fence around the claims of the {side} stays; `{lifted_by}` lifts it later"));
        }
    }
    settle_brought(&ledger, watch).await?;
    if options.deletes_left && left == Side::Source {
        delete_at_source(&ledger, watch).await?;
    }
    settle_claims(&ledger, options, watch).await?;
    until_all_is_gone(&ledger, watch).await?;
    ledger.remove().await
}

/// An error where nothing may be taken away.
async fn check(ledger: &Ledger, options: Options, left: Side) -> Result<(), Error> {
    let record = &ledger.record;
    if record.step != Step::Staging {
        return Err(under_way(record));
    }
    if !ledger.may_start(record.owner) {
        return Err(Error::refused(
            "TS-K912",
            format!("the {} cluster does not say that it is authoritative for what runs there", record.owner),
            "see that both clusters answer, then run the same command again",
        ));
    }
    if options.deletes_left
        && let Some(holder) = steps::holders(ledger, left).await?.into_iter().find(Holder::is_pod)
    {
        return Err(Error::refused(
            "TS-K959",
            format!("a claim of the {left} that would be deleted is in use: {holder}"),
            "stop it, or finish without deleting claims",
        ));
    }
    Ok(())
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

/// Decides about what was brought. The application that runs there keeps it. Where the application is at home it goes, unless
/// somebody has made something of it: then it is theirs, and stays without our mark.
async fn settle_brought(ledger: &Ledger, watch: &Watch) -> Result<(), Error> {
    let (record, destination) = (&ledger.record, ledger.cluster(Side::Destination));
    let found = brought(ledger).await?;
    let started = found.iter().find(|one| !one.is_at_rest());
    if record.owner == Side::Source
        && let Some(started) = started
    {
        watch.note(format!(
            "somebody has started {} at the destination: it stays, with all that was brought for it",
            started.object
        ));
    }
    for one in found.iter().rev() {
        let why = match theirs(record, one) {
            _ if record.owner == Side::Destination || started.is_some() => None,
            None => {
                bring::remove(destination, &one.object).await?;
                continue;
            }
            why => why,
        };
        if let Some(why) = why {
            watch.note(format!("the destination's {} stays: {why}", one.object));
        }
        bring::unmark(destination, &one.object).await?;
    }
    Ok(())
}

/// What was brought, and lies there with our mark.
async fn brought(ledger: &Ledger) -> Result<Vec<Found>, Error> {
    let (record, labels) = (&ledger.record, format!("{},{LABEL_BROUGHT}", selector(&ledger.record)));
    let namespace = record.namespace(Side::Destination);
    bring::find_all(ledger.cluster(Side::Destination), namespace, &labels, &record.brought).await
}

/// Why something with our mark is not ours to take away, if it is not.
fn theirs(record: &Record, found: &Found) -> Option<String> {
    let (object, is_it) = (&found.object, |one: &str| one == found.object.name);
    let mut recorded = record.brought.iter().filter(|one| one.object.kind == object.kind && is_it(&one.object.name));
    if recorded.any(|one| one.was_there || one.object.uid != object.uid) {
        return Some("it is another one than was brought".to_owned());
    }
    found.changed_by().map(|by| format!("{by} has changed it since it was brought"))
}

/// Deletes the claims that were left at the source, and no others under their names.
async fn delete_at_source(ledger: &Ledger, watch: &Watch) -> Result<(), Error> {
    let (cluster, namespace) = (ledger.cluster(Side::Source), ledger.record.namespace(Side::Source));
    for volume in &ledger.record.volumes {
        let claim = volume.claim(Side::Source);
        match cluster.delete::<PersistentVolumeClaim>(namespace, &claim.name, Some(&claim.uid)).await {
            Err(error) if error.is_conflict() => {
                watch.note(format!("the source's claim {} stays: it is another one than was moved", claim.name));
            }
            deleted => deleted?,
        }
    }
    Ok(())
}

/// Takes our mark from the claims that were made at the destination, or deletes them where that is wanted of what was left.
/// Says which copies stay.
async fn settle_claims(ledger: &Ledger, options: Options, watch: &Watch) -> Result<(), Error> {
    let (record, cluster) = (&ledger.record, ledger.cluster(Side::Destination));
    let (namespace, is_at_home) = (record.namespace(Side::Destination), record.owner == Side::Source);
    let mut stay = Vec::new();
    for claim in cluster.list::<PersistentVolumeClaim>(namespace, &selector(record)).await? {
        let (name, uid) = (claim.metadata.name.unwrap_or_default(), claim.metadata.uid.unwrap_or_default());
        if is_state_claim(&record.migration.metadata.name, &name) {
            continue;
        }
        let is_it = record.volumes.iter().map(|volume| volume.claim(Side::Destination)).any(|one| one.uid == uid);
        if is_at_home && options.deletes_left && is_it {
            cluster.delete::<PersistentVolumeClaim>(namespace, &name, Some(&uid)).await?;
            continue;
        }
        match cluster.merge::<PersistentVolumeClaim>(namespace, &name, &bring::unmarking(&uid)).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
            _ => stay.push(name),
        }
    }
    if is_at_home {
        say_what_stays(record, &cluster.context, &stay, watch);
    }
    Ok(())
}

/// Says what is left at the destination of an application that is at home, and how it is deleted.
fn say_what_stays(record: &Record, context: &str, claims: &[String], watch: &Watch) {
    let namespace = record.namespace(Side::Destination);
    let kubectl = format!("kubectl --context {context}");
    if !claims.is_empty() {
        let (names, words) = (claims.join(", "), claims.join(" "));
        watch.note(format!(
            "what was copied stays at the destination, in {names}; `{kubectl} --namespace {namespace} delete \
             persistentvolumeclaim {words}` deletes it"
        ));
    }
    if record.made_namespace {
        // Others may have put something there, and a namespace takes everything along.
        watch.note(format!(
            "namespace {namespace}, which was made for this, stays at the destination; `{kubectl} delete namespace \
             {namespace}` deletes it with all that is in it"
        ));
    }
}

/// Waits until everything that goes, which takes a moment, has gone; says what has not where that takes long, as on a node that
/// does not answer: the cluster goes on by itself.
async fn until_all_is_gone(ledger: &Ledger, watch: &Watch) -> Result<(), Error> {
    let deadline = Instant::now() + GOING_MAX;
    for side in Side::ALL {
        loop {
            let going = going(ledger, side).await?;
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

/// Pods of agents, and whatever else still has our mark when all that stays has lost it, as `KIND NAME`.
async fn going(ledger: &Ledger, side: Side) -> Result<Vec<String>, Error> {
    let (record, cluster, namespace) = (&ledger.record, ledger.cluster(side), ledger.record.namespace(side));
    let name = |name: Option<String>| name.unwrap_or_default();
    let pods = cluster.list::<Pod>(namespace, &agents_selector(record)).await?;
    let claims = cluster.list::<PersistentVolumeClaim>(namespace, &selector(record)).await?;
    let pods = pods.into_iter().map(|pod| format!("Pod {}", name(pod.metadata.name)));
    let mut going: Vec<String> =
        pods.chain(claims.into_iter().map(|claim| format!("claim {}", name(claim.metadata.name)))).collect();
    if side == Side::Destination {
        let brought = brought(ledger).await?;
        going.extend(brought.iter().map(|one| format!("{} {}", one.object.kind, one.object.name)));
    }
    Ok(going)
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tranship_api::migration::{Migration, Mode};
    use tranship_api::record::Brought;

    use super::*;

    fn record() -> Record {
        let migration = Migration::new("move", "shop");
        Record::new(String::new(), String::new(), migration, Default::default(), Mode::Plain, vec![])
    }

    fn config(uid: &str, data: Value) -> Found {
        let managed = json!([{"manager": "kubectl-edit", "fieldsV1": data}]);
        let metadata = json!({"name": "settings", "uid": uid, "managedFields": managed});
        Found::example("ConfigMap", json!({"metadata": metadata}))
    }

    #[test]
    fn only_what_was_brought_and_nobody_has_touched_is_taken_away() {
        let mut record = record();
        let (untouched, changed) = (json!({}), json!({"f:data": {"f:host": {}}}));
        // What was made right before whoever made it died is in no record, and has our mark.
        assert_eq!(theirs(&record, &config("u1", untouched.clone())), None);
        let object = config("u1", untouched.clone()).object;
        record.brought.push(Brought { object, replicas: None, was_there: false });
        assert_eq!(theirs(&record, &config("u1", untouched.clone())), None);
        assert!(theirs(&record, &config("u2", untouched.clone())).is_some(), "another one under its name");
        assert!(theirs(&record, &config("u1", changed)).is_some_and(|why| why.contains("kubectl-edit")));
        record.brought[0].was_there = true;
        assert!(theirs(&record, &config("u1", untouched)).is_some(), "it was there before");
    }
}
