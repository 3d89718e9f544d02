//! The claims of a migration: which ones it means, and what takes their place at the destination.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus, VolumeResourceRequirements,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ObjectMeta;
use tranship_api::migration::Volume;
use tranship_api::record::{ClaimRecord, VolumeRecord};
use tranship_api::{LABEL_ID, LABEL_MIGRATION, Migration, ObjectRef, Side, quantity};

use crate::{Cluster, Error};

/// Annotation of the storage class that is taken where none is named.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// Annotation by which a storage class was named before there was a field.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// Annotations that say how a claim was bound, or who made it, in the cluster that it comes from.
const STRIPPED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
    // It would pin the new volume to a node of the other cluster.
    "volume.kubernetes.io/selected-node",
    "volume.kubernetes.io/storage-resizer",
    OLD_CLASS,
];

/// The claims that a migration means, as they are.
#[derive(Debug, Default)]
pub struct Selection {
    /// Those that are there, in the order of their names.
    pub claims: Vec<PersistentVolumeClaim>,
    /// Names that were given and are not there.
    pub missing: Vec<String>,
}

/// Reads the claims that the migration means on this side: those that it names, else those that its selector selects, else
/// all of the namespace. What a migration made, this one or another, is only taken by name.
pub async fn select(cluster: &Cluster, migration: &Migration) -> Result<Selection, Error> {
    let namespace = migration.namespace(cluster.side);
    let selector = migration.spec.selector.as_deref().unwrap_or_default();
    let named = !migration.spec.volumes.is_empty();
    let all = cluster.list::<PersistentVolumeClaim>(namespace, if named { "" } else { selector }).await?;
    Ok(pick(all, cluster.side, migration))
}

/// The volumes of a migration. The destination's class stands only where the migration says it; [`choose_classes`] does
/// the rest.
pub async fn resolve(source: &Cluster, migration: &Migration) -> Result<Vec<VolumeRecord>, Error> {
    let selection = select(source, migration).await?;
    if let Some(name) = selection.missing.first() {
        let namespace = Some(migration.namespace(Side::Source));
        return Err(Error::Missing {
            side: source.side,
            object: ObjectRef::named("v1", "PersistentVolumeClaim", namespace, name),
        });
    }
    if selection.claims.is_empty() {
        let what = format!("no claim of namespace {} is meant by this migration", migration.namespace(Side::Source));
        return Err(Error::refused("TS-K200", what, "name claims with --pvc, or see that the selector selects some"));
    }
    Ok(selection.claims.iter().map(|claim| volume_of(claim, migration)).collect())
}

/// What is recorded of a claim of the source and of the one that takes its place.
pub fn volume_of(claim: &PersistentVolumeClaim, migration: &Migration) -> VolumeRecord {
    let name = claim.metadata.name.clone().unwrap_or_default();
    let wanted = migration.spec.volumes.iter().find(|volume| volume.claim == name);
    let spec = claim.spec.clone().unwrap_or_default();
    let source = ClaimRecord {
        name: name.clone(),
        uid: claim.metadata.uid.clone().unwrap_or_default(),
        storage_class: class_of(claim),
        access_modes: spec.access_modes.clone().unwrap_or_default(),
        size: requested(&spec).unwrap_or_default(),
    };
    let destination = ClaimRecord {
        name: wanted.and_then(|volume| volume.to.clone()).unwrap_or(name),
        uid: String::new(),
        storage_class: named_class(wanted, source.storage_class.as_deref(), migration),
        access_modes: match wanted.and_then(|volume| volume.access_mode.clone()) {
            Some(mode) => vec![mode],
            None => source.access_modes.clone(),
        },
        size: largest([
            Some(source.size.clone()),
            capacity(claim.status.as_ref()),
            wanted.and_then(|volume| volume.size.clone()),
        ]),
    };
    VolumeRecord {
        claims: [source, destination],
        is_block: spec.volume_mode.as_deref() == Some("Block"),
        predicted_seconds: None,
        change_bytes_per_second: None,
    }
}

/// Writes out the destination's class where the migration says none: the same name if the destination has it, else its
/// default. What stays without a class has none to take.
pub fn choose_classes(volumes: &mut [VolumeRecord], classes: &[StorageClass]) {
    let name = |class: &StorageClass| class.metadata.name.clone();
    for volume in volumes {
        let [source, destination] = &mut volume.claims;
        if destination.storage_class.is_none() {
            let same = classes.iter().find(|class| class.metadata.name == source.storage_class);
            destination.storage_class = same.or_else(|| default_class(classes)).and_then(name);
        }
    }
}

/// The class that a cluster takes where none is named: of several the newest, as Kubernetes has it.
pub fn default_class(classes: &[StorageClass]) -> Option<&StorageClass> {
    let is_default = |class: &&StorageClass| {
        let annotations = class.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(DEFAULT_CLASS)).is_some_and(|value| value == "true")
    };
    // The last of equals is taken, which is the first by name after the reversal.
    classes.iter().rev().filter(is_default).max_by_key(|class| class.metadata.creation_timestamp.as_ref().map(|t| t.0))
}

/// The class of a claim, by its field or by the annotation that came before it.
pub fn class_of(claim: &PersistentVolumeClaim) -> Option<String> {
    let old = claim.metadata.annotations.as_ref().and_then(|all| all.get(OLD_CLASS));
    claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()).or_else(|| old.cloned())
}

/// The claim that takes the place of `source` in `namespace`, for the migration `name` with this identity.
pub fn destination_claim(
    source: &PersistentVolumeClaim,
    volume: &VolumeRecord,
    record_id: &str,
    name: &str,
    namespace: &str,
) -> PersistentVolumeClaim {
    let wanted = volume.claim(Side::Destination);
    let spec = source.spec.clone().unwrap_or_default();
    let mut labels = source.metadata.labels.clone().unwrap_or_default();
    labels.retain(|key, _| !key.starts_with("tranship.io/"));
    labels.insert(LABEL_ID.to_owned(), record_id.to_owned());
    labels.insert(LABEL_MIGRATION.to_owned(), name.to_owned());
    let mut annotations = source.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !STRIPPED.contains(&key.as_str()) && !key.starts_with("tranship.io/"));
    let size = largest([Some(wanted.size.clone()), requested(&spec), capacity(source.status.as_ref())]);
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(wanted.name.clone()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(wanted.access_modes.clone()),
            resources: Some(VolumeResourceRequirements {
                limits: None,
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(size))])),
            }),
            storage_class_name: wanted.storage_class.clone(),
            volume_mode: spec.volume_mode,
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// Sees that the claim is there: makes it, or takes the one that this migration made before. One that somebody else made
/// is refused, whatever is in it, and left as it is.
pub async fn ensure(destination: &Cluster, claim: &PersistentVolumeClaim) -> Result<PersistentVolumeClaim, Error> {
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    match destination.create(namespace, claim).await {
        Err(error) if error.is_conflict() => {
            let there = destination.get::<PersistentVolumeClaim>(namespace, name).await?;
            match obstacle(&there, claim) {
                Some((code, what, todo)) => Err(Error::refused(code, what, todo)),
                None => Ok(there),
            }
        }
        made => made,
    }
}

/// Why the claim that is there cannot be taken for the one that is wanted: code, what is so, and what to do.
pub fn obstacle(
    there: &PersistentVolumeClaim,
    wanted: &PersistentVolumeClaim,
) -> Option<(&'static str, String, &'static str)> {
    let namespace = there.metadata.namespace.as_deref().unwrap_or_default();
    let claim = format!("PersistentVolumeClaim {namespace}/{}", there.metadata.name.as_deref().unwrap_or_default());
    let (id, ours) = (mark(there), mark(wanted));
    if id.is_none() || id != ours {
        return Some((
            "TS-K201",
            format!("the destination has a {claim} that this migration did not make"),
            "take another name with --pvc NAME:NEW, or delete it if nothing in it is needed",
        ));
    }
    if there.metadata.deletion_timestamp.is_some() {
        let what = format!("the destination's {claim} is being deleted");
        return Some(("TS-K202", what, "wait until it is gone; if it stays, see which pod uses it"));
    }
    let (spec, wish) = (there.spec.clone().unwrap_or_default(), wanted.spec.clone().unwrap_or_default());
    let is_block = |spec: &PersistentVolumeClaimSpec| spec.volume_mode.as_deref() == Some("Block");
    let has = quantity::bytes(&requested(&spec).unwrap_or_default()).unwrap_or(0);
    let needs = quantity::bytes(&requested(&wish).unwrap_or_default()).unwrap_or(0);
    if is_block(&spec) != is_block(&wish) || has < needs {
        let what = format!("the destination's {claim} is of another kind, or smaller than the {needs} bytes needed");
        return Some(("TS-K203", what, "`tranship finish --delete-source` removes it; then create the migration anew"));
    }
    None
}

/// The identity of the migration that made it.
pub fn mark(claim: &PersistentVolumeClaim) -> Option<&String> {
    claim.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_ID))
}

/// Whether a claim is one of `TEMPLATE-SET-ORDINAL`.
pub fn is_of_template(claim: &str, template: &str, set: &str) -> bool {
    let rest = claim.strip_prefix(template).and_then(|rest| rest.strip_prefix('-'));
    let ordinal = rest.and_then(|rest| rest.strip_prefix(set)).and_then(|rest| rest.strip_prefix('-'));
    ordinal.is_some_and(|ordinal| !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What is requested.
pub fn requested(spec: &PersistentVolumeClaimSpec) -> Option<String> {
    Some(spec.resources.as_ref()?.requests.as_ref()?.get("storage")?.0.clone())
}

/// What it has.
fn capacity(status: Option<&PersistentVolumeClaimStatus>) -> Option<String> {
    Some(status?.capacity.as_ref()?.get("storage")?.0.clone())
}

/// The largest amount, as it was written; the first of equals.
fn largest<const N: usize>(amounts: [Option<String>; N]) -> String {
    let amounts = amounts.into_iter().flatten().rev();
    amounts.max_by_key(|text| quantity::bytes(text).unwrap_or(0)).unwrap_or_default()
}

/// The class that the migration itself says, for this claim or for its class.
fn named_class(wanted: Option<&Volume>, class: Option<&str>, migration: &Migration) -> Option<String> {
    let map = &migration.spec.storage_classes;
    let explicit = wanted.and_then(|volume| volume.storage_class.as_ref());
    let mapped = || class.and_then(|class| map.get(class)).or_else(|| map.get("*"));
    explicit.or_else(mapped).cloned()
}

/// Those that the migration means on this side.
fn pick(mut all: Vec<PersistentVolumeClaim>, side: Side, migration: &Migration) -> Selection {
    let name = |claim: &PersistentVolumeClaim| claim.metadata.name.clone().unwrap_or_default();
    all.sort_by_key(name);
    let volumes = &migration.spec.volumes;
    if volumes.is_empty() {
        all.retain(|claim| mark(claim).is_none());
        return Selection { claims: all, missing: Vec::new() };
    }
    let named = |volume: &Volume| match &volume.to {
        Some(to) if side == Side::Destination => to.clone(),
        _ => volume.claim.clone(),
    };
    let mut missing: Vec<String> = volumes.iter().map(named).collect();
    all.retain(|claim| missing.contains(&name(claim)));
    missing.retain(|wanted| !all.iter().any(|claim| name(claim) == *wanted));
    Selection { claims: all, missing }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(value: Value) -> PersistentVolumeClaim {
        serde_json::from_value(value).expect("a claim")
    }

    fn class(name: &str, is_default: bool) -> StorageClass {
        let mark = if is_default { json!({DEFAULT_CLASS: "true"}) } else { json!({}) };
        serde_json::from_value(json!({"metadata": {"name": name, "annotations": mark}, "provisioner": "p"}))
            .expect("a class")
    }

    fn bound() -> PersistentVolumeClaim {
        claim(json!({
            "metadata": {"name": "data", "namespace": "shop", "uid": "u", "labels": {"app": "db", LABEL_ID: "old"},
                "finalizers": ["kubernetes.io/pvc-protection"], "ownerReferences": [],
                "annotations": {"note": "kept", "pv.kubernetes.io/bind-completed": "yes",
                    "volume.kubernetes.io/selected-node": "node-1"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "volumeName": "pv-1",
                "storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}},
                "dataSource": {"kind": "PersistentVolumeClaim", "name": "x"}, "selector": {}},
            "status": {"phase": "Bound", "capacity": {"storage": "2Gi"}},
        }))
    }

    fn wanted(change: impl FnOnce(&mut Volume)) -> Migration {
        let mut migration = Migration::new("move", "shop");
        let mut volume =
            Volume { claim: "data".to_owned(), to: None, storage_class: None, access_mode: None, size: None };
        change(&mut volume);
        migration.spec.volumes.push(volume);
        migration
    }

    #[test]
    fn the_class_is_the_volumes_own_then_the_maps_then_the_same_name_then_the_default() {
        let chosen = |explicit: Option<&str>, map: &[(&str, &str)], classes: &[StorageClass]| {
            let mut migration = wanted(|volume| volume.storage_class = explicit.map(str::to_owned));
            let pairs = map.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned()));
            migration.spec.storage_classes = pairs.collect();
            let mut volumes = [volume_of(&bound(), &migration)];
            choose_classes(&mut volumes, classes);
            volumes[0].claim(Side::Destination).storage_class.clone()
        };
        let there = [class("fast", false), class("slow", true)];
        let map = [("fast", "gold"), ("*", "any")];
        assert_eq!(chosen(Some("own"), &map, &there).as_deref(), Some("own"));
        assert_eq!(chosen(None, &map, &there).as_deref(), Some("gold"));
        assert_eq!(chosen(None, &map[1..], &there).as_deref(), Some("any"));
        assert_eq!(chosen(None, &[], &there).as_deref(), Some("fast"));
        assert_eq!(chosen(None, &[], &there[1..]).as_deref(), Some("slow"));
        assert_eq!(chosen(None, &[], &there[..0]), None);
    }

    #[test]
    fn the_destination_is_at_least_as_large_as_the_source_really_is() {
        for (size, expected) in [(None, "2Gi"), (Some("1500Mi"), "2Gi"), (Some("3Gi"), "3Gi")] {
            let migration = wanted(|volume| volume.size = size.map(str::to_owned));
            assert_eq!(volume_of(&bound(), &migration).claim(Side::Destination).size, expected);
        }
    }

    #[test]
    fn a_claim_is_carried_without_what_ties_it_to_its_cluster() {
        let migration = wanted(|volume| volume.to = Some("data2".to_owned()));
        let mut volumes = [volume_of(&bound(), &migration)];
        choose_classes(&mut volumes, &[class("slow", true)]);
        let made = destination_claim(&bound(), &volumes[0], "id1", "move", "new");
        assert_eq!(
            serde_json::to_value(&made).expect("JSON"),
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": "data2", "namespace": "new", "annotations": {"note": "kept"},
                    "labels": {"app": "db", LABEL_ID: "id1", LABEL_MIGRATION: "move"}},
                "spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "storageClassName": "slow",
                    "resources": {"requests": {"storage": "2Gi"}}}})
        );
    }

    #[test]
    fn only_a_claim_that_this_migration_made_is_taken() {
        let migration = wanted(|_| ());
        let wish = destination_claim(&bound(), &volume_of(&bound(), &migration), "id1", "move", "shop");
        let code = |change: &dyn Fn(&mut PersistentVolumeClaim)| {
            let mut there = wish.clone();
            change(&mut there);
            obstacle(&there, &wish).map(|(code, ..)| code)
        };
        assert_eq!(code(&|_| ()), None);
        assert_eq!(code(&|there| there.metadata.labels = None), Some("TS-K201"));
        let other = |there: &mut PersistentVolumeClaim| {
            there.metadata.labels = Some(BTreeMap::from([(LABEL_ID.to_owned(), "other".to_owned())]));
        };
        assert_eq!(code(&other), Some("TS-K201"));
        let block = |there: &mut PersistentVolumeClaim| {
            there.spec.as_mut().expect("a spec").volume_mode = Some("Block".to_owned());
        };
        assert_eq!(code(&block), Some("TS-K203"));
        let small = |there: &mut PersistentVolumeClaim| {
            there.spec.as_mut().expect("a spec").resources = None;
        };
        assert_eq!(code(&small), Some("TS-K203"));
    }

    #[test]
    fn what_a_migration_made_is_only_taken_by_name() {
        let named = |name: &str, ours: bool| {
            let labels = if ours { json!({LABEL_ID: "x"}) } else { json!({}) };
            claim(json!({"metadata": {"name": name, "labels": labels}, "spec": {}}))
        };
        let all = || vec![named("data", true), named("b", false), named("a", false)];
        let names = |selection: Selection| {
            selection.claims.iter().filter_map(|claim| claim.metadata.name.clone()).collect::<Vec<_>>()
        };
        let of = |migration: &Migration| pick(all(), Side::Source, migration);
        assert_eq!(names(of(&Migration::new("move", "shop"))), ["a", "b"]);
        assert_eq!(names(of(&wanted(|_| ()))), ["data"]);
        let gone = wanted(|volume| (volume.claim, volume.to) = ("gone".to_owned(), Some("data".to_owned())));
        assert_eq!(of(&gone).missing, ["gone"]);
        assert_eq!(names(pick(all(), Side::Destination, &gone)), ["data"]);
    }
}
