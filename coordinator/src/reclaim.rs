//! What becomes of a volume whose claim is deleted. A cutover has both clusters keep the volumes, and the end of the migration
//! sets that back.
//!
//! A volume says itself by whom it is kept and what it was before, beside the record: so it can be set back when that is
//! lost, and tells that a cutover came this far.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tranship_api::record::Retained;
use tranship_api::{LABEL_ID, LABEL_MIGRATION, ObjectRef, Record, Side};

use crate::ledger::Ledger;
use crate::{Cluster, Error};

/// The policy by which a volume stays when its claim goes.
const KEEP: &str = "Retain";

/// Annotation of a volume: its policy as it was.
const BEFORE: &str = "tranship.io/reclaim-policy";

/// A volume that a migration has its cluster keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Which.
    pub(crate) volume: ObjectRef,
    /// The claim that it is bound to.
    pub(crate) claim: String,
    /// Identity and name of the migration.
    pub(crate) id: String,
    pub(crate) migration: String,
    /// The policy as it was.
    pub(crate) before: String,
}

/// Has the cluster keep the volumes behind the claims of this side. What it was before is recorded first.
pub(crate) async fn retain(ledger: &mut Ledger, side: Side) -> Result<(), Error> {
    let (cluster, namespace) = (ledger.cluster(side).clone(), ledger.record.namespace(side).to_owned());
    for claim in ledger.record.claims(side) {
        let claim: PersistentVolumeClaim = cluster.get(&namespace, &claim).await?;
        let Some(name) = claim.spec.and_then(|spec| spec.volume_name) else { continue };
        let missing = || Error::Missing { side, object: ObjectRef::named("v1", "PersistentVolume", None, &name) };
        let volume = find(&cluster, &name).await?.ok_or_else(missing)?;
        let policy = policy(&volume);
        // Whoever keeps it already, this migration or another one, knows what it was before.
        if policy == KEEP && label(&volume, LABEL_ID).is_some() {
            continue;
        }
        let is_it = |kept: &&Retained| kept.side == side && kept.volume == name;
        let before = match ledger.record.retained.iter().find(is_it) {
            Some(kept) => kept.before.clone(),
            None => {
                ledger.record.retained.push(Retained { side, volume: name.clone(), before: policy.clone() });
                ledger.save().await?;
                policy
            }
        };
        let labels = json!({ LABEL_ID: ledger.record.id, LABEL_MIGRATION: ledger.record.migration.metadata.name });
        let metadata = json!({ "labels": labels, "annotations": { BEFORE: before } });
        patch(&cluster, &name, json!({ "metadata": metadata, "spec": { "persistentVolumeReclaimPolicy": KEEP } }))
            .await?;
    }
    Ok(())
}

/// Sets the policies of this side back, where they are still ours. Returns the volumes that stay as they are, since their claims
/// are gone: they would be deleted at once.
pub(crate) async fn restore(cluster: &Cluster, record: &Record, side: Side) -> Result<Vec<String>, Error> {
    let mut stay = Vec::new();
    for kept in record.retained.iter().filter(|kept| kept.side == side) {
        let Some(volume) = find(cluster, &kept.volume).await? else { continue };
        if label(&volume, LABEL_ID).is_none_or(|id| *id == record.id)
            && !set_back(cluster, &volume, &kept.before).await?
        {
            stay.push(kept.volume.clone());
        }
    }
    Ok(stay)
}

/// Volumes behind claims of the namespace that a migration has its cluster keep.
pub(crate) async fn kept(cluster: &Cluster, namespace: &str) -> Result<Vec<Kept>, Error> {
    let mut all = Vec::new();
    for claim in cluster.list::<PersistentVolumeClaim>(namespace, "").await? {
        let Some(name) = claim.spec.and_then(|spec| spec.volume_name) else { continue };
        let Some(volume) = find(cluster, &name).await? else { continue };
        all.extend(kept_of(&volume, claim.metadata.name.unwrap_or_default()));
    }
    Ok(all)
}

/// Sets a volume back that was found as kept; nothing happens if it is gone, or somebody else's by now.
pub(crate) async fn let_go(cluster: &Cluster, volume: &ObjectRef) -> Result<(), Error> {
    let Some(found) = find(cluster, &volume.name).await? else { return Ok(()) };
    match kept_of(&found, String::new()).filter(|kept| kept.volume.uid == volume.uid) {
        Some(kept) => set_back(cluster, &found, &kept.before).await.map(drop),
        None => Ok(()),
    }
}

fn kept_of(volume: &PersistentVolume, claim: String) -> Option<Kept> {
    let meta = &volume.metadata;
    let before = meta.annotations.as_ref()?.get(BEFORE)?.clone();
    let object = ObjectRef {
        uid: meta.uid.clone().unwrap_or_default(),
        ..ObjectRef::named("v1", "PersistentVolume", None, meta.name.as_deref()?)
    };
    let (id, migration) = (label(volume, LABEL_ID)?.to_owned(), label(volume, LABEL_MIGRATION)?.to_owned());
    Some(Kept { volume: object, claim, id, migration, before })
}

/// Takes our mark away, and sets the policy back; whether it did, since a volume without a claim would be deleted at once.
async fn set_back(cluster: &Cluster, volume: &PersistentVolume, before: &str) -> Result<bool, Error> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let after = after(volume, before);
    let metadata = json!({
        "uid": volume.metadata.uid,
        "labels": { LABEL_ID: null, LABEL_MIGRATION: null }, "annotations": { BEFORE: null },
    });
    patch(cluster, name, json!({ "metadata": metadata, "spec": { "persistentVolumeReclaimPolicy": after } })).await?;
    Ok(after != KEEP || before == KEEP)
}

/// The policy that a volume is given which was kept.
fn after(volume: &PersistentVolume, before: &str) -> String {
    let policy = policy(volume);
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    match phase {
        Some("Bound") if policy == KEEP => before.to_owned(),
        // Somebody else has changed it, or has deleted the claim.
        _ => policy,
    }
}

fn policy(volume: &PersistentVolume) -> String {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.persistent_volume_reclaim_policy.clone()).unwrap_or_default()
}

fn label<'a>(volume: &'a PersistentVolume, key: &str) -> Option<&'a String> {
    volume.metadata.labels.as_ref()?.get(key)
}

async fn find(cluster: &Cluster, name: &str) -> Result<Option<PersistentVolume>, Error> {
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    cluster.call(format!("get PersistentVolume {name}"), volumes.get_opt(name)).await
}

async fn patch(cluster: &Cluster, name: &str, patch: serde_json::Value) -> Result<(), Error> {
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    cluster.call(format!("patch PersistentVolume {name}"), volumes.patch(name, &params, &patch)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn volume(policy: &str, phase: &str, metadata: Value) -> PersistentVolume {
        let spec = json!({"persistentVolumeReclaimPolicy": policy});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": {"phase": phase}}))
            .expect("a volume")
    }

    #[test]
    fn a_volume_is_set_back_unless_that_would_delete_it_or_somebody_else_has_changed_it() {
        for (policy, phase, before, becomes) in [
            ("Retain", "Bound", "Delete", "Delete"),
            ("Retain", "Bound", "Retain", "Retain"),
            ("Retain", "Released", "Delete", "Retain"),
            ("Recycle", "Bound", "Delete", "Recycle"),
        ] {
            assert_eq!(after(&volume(policy, phase, json!({})), before), becomes, "{policy} {phase} {before}");
        }
    }

    #[test]
    fn a_volume_tells_who_keeps_it_and_what_it_was_before() {
        let labels = json!({LABEL_ID: "id1", LABEL_MIGRATION: "shop"});
        let marked = json!({"name": "pv-1", "uid": "u", "labels": labels, "annotations": {BEFORE: "Delete"}});
        let kept = kept_of(&volume("Retain", "Bound", marked), "data".to_owned()).expect("it is kept");
        let told = (kept.volume.name.as_str(), kept.id.as_str(), kept.migration.as_str(), kept.before.as_str());
        assert_eq!(told, ("pv-1", "id1", "shop", "Delete"));
        assert_eq!(kept_of(&volume("Retain", "Bound", json!({"name": "pv-1"})), String::new()), None);
    }
}
