//! Whether what will be made stays within the quotas and ranges of a namespace.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LimitRange, ResourceQuota};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tranship_api::record::VolumeRecord;
use tranship_api::{Finding, Migration, ObjectRef, Severity, Side, quantity};

use super::claim_ref;

/// Claims for each volume: its own, and one for what its agent remembers.
const CLAIMS_PER_VOLUME: u64 = 2;

/// One part in this many of a volume is what its agent remembers.
const STATE_PART: u64 = 500;

/// Quotas that the new claims would exceed.
pub(super) fn quotas(quotas: &[ResourceQuota], volumes: &[&VolumeRecord]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for quota in quotas {
        let Some(status) = &quota.status else { continue };
        for (key, hard) in status.hard.iter().flatten() {
            let wanted = wanted(key, volumes);
            let left =
                amount(hard).saturating_sub(status.used.as_ref().and_then(|used| used.get(key)).map_or(0, amount));
            if wanted > left {
                let namespace = quota.metadata.namespace.as_deref();
                let name = quota.metadata.name.as_deref().unwrap_or_default();
                let why = format!("the quota has {left} of {key} left, and {wanted} are needed");
                let finding = Finding::new("TS-K124", Severity::Blocking, why, "raise the quota, or move fewer claims");
                findings.push(finding.on(ObjectRef::named("v1", "ResourceQuota", namespace, name)));
            }
        }
    }
    findings
}

/// Whether a quota lets no further one of `key` be made.
pub(super) fn forbids(quotas: &[ResourceQuota], key: &str) -> bool {
    let of = |map: &Option<BTreeMap<String, Quantity>>| map.as_ref().and_then(|map| map.get(key)).map(amount);
    quotas
        .iter()
        .filter_map(|quota| quota.status.as_ref())
        .any(|status| of(&status.hard).is_some_and(|hard| hard <= of(&status.used).unwrap_or(0)))
}

/// Ranges for claims that a volume is outside of.
pub(super) fn ranges(ranges: &[LimitRange], volumes: &[&VolumeRecord], namespace: &str) -> Vec<Finding> {
    let items = ranges.iter().filter_map(|range| range.spec.as_ref()).flat_map(|spec| &spec.limits);
    let items: Vec<_> = items.filter(|item| item.type_ == "PersistentVolumeClaim").collect();
    let bound = |map: &Option<BTreeMap<String, Quantity>>| map.as_ref().and_then(|map| map.get("storage")).cloned();
    let mut findings = Vec::new();
    for volume in volumes {
        let claim = volume.claim(Side::Destination);
        let size = bytes(volume);
        for item in &items {
            let (min, max) = (bound(&item.min), bound(&item.max));
            let broken = min.filter(|min| size < amount(min)).map(|min| format!("at least {}", min.0));
            let broken =
                broken.or_else(|| max.filter(|max| size > amount(max)).map(|max| format!("at most {}", max.0)));
            if let Some(limit) = broken {
                let why = format!("the claim has {} and a LimitRange of the namespace wants {limit}", claim.size);
                let todo = "change the LimitRange, or give the volume a larger size";
                let finding = Finding::new("TS-K125", Severity::Blocking, why, todo);
                findings.push(finding.on(claim_ref(namespace, &claim.name)));
            }
        }
    }
    findings
}

/// That a claim will be larger than was asked for, since the source's is.
pub(super) fn raised(volume: &VolumeRecord, migration: &Migration) -> Option<Finding> {
    let [source, claim] = &volume.claims;
    let asked = migration.spec.volumes.iter().find(|one| one.claim == source.name)?.size.as_ref()?;
    let is_raised = quantity::bytes(asked).is_ok_and(|asked| asked < bytes(volume));
    let why = format!(
        "{asked} were asked for, and it will have {}: no claim is made smaller than the one that it follows",
        claim.size
    );
    let finding = Finding::new("TS-K149", Severity::Warning, why, "nothing, or ask for more with --size");
    is_raised.then(|| finding.on(claim_ref(migration.namespace(Side::Destination), &claim.name)))
}

/// Bytes that a volume will have.
pub(super) fn bytes(volume: &VolumeRecord) -> u64 {
    quantity::bytes(&volume.claim(Side::Destination).size).unwrap_or(0)
}

/// How much of what a quota counts the volumes will take.
fn wanted(key: &str, volumes: &[&VolumeRecord]) -> u64 {
    let (class, key) = match key.split_once(".storageclass.storage.k8s.io/") {
        Some((class, key)) => (Some(class), key),
        None => (None, key),
    };
    let is_counted =
        |volume: &&&VolumeRecord| class.is_none() || volume.claim(Side::Destination).storage_class.as_deref() == class;
    let counted = volumes.iter().filter(is_counted);
    match key {
        "requests.storage" => counted.map(|volume| bytes(volume) + bytes(volume) / STATE_PART).sum(),
        "persistentvolumeclaims" | "count/persistentvolumeclaims" => counted.count() as u64 * CLAIMS_PER_VOLUME,
        _ => 0,
    }
}

fn amount(quantity: &Quantity) -> u64 {
    quantity::bytes(&quantity.0).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::{Value, json};
    use tranship_api::Migration;

    use super::*;

    fn volume(size: &str, class: &str) -> VolumeRecord {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {"name": "data"},
            "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}}))
        .expect("a claim");
        let mut migration = Migration::new("move", "shop");
        migration.spec.storage_classes.insert("*".to_owned(), class.to_owned());
        crate::claims::volume_of(&claim, &migration)
    }

    fn quota(hard: Value, used: Value) -> ResourceQuota {
        serde_json::from_value(
            json!({"metadata": {"name": "q", "namespace": "shop"}, "status": {"hard": hard, "used": used}}),
        )
        .expect("a quota")
    }

    #[test]
    fn a_quota_counts_what_is_used_and_only_the_class_that_it_means() {
        let volumes = [&volume("2Gi", "fast")];
        let count = |hard: Value, used: Value| quotas(&[quota(hard, used)], &volumes).len();
        assert_eq!(count(json!({"requests.storage": "3Gi"}), json!({})), 0);
        assert_eq!(count(json!({"requests.storage": "3Gi"}), json!({"requests.storage": "1Gi"})), 1);
        assert_eq!(count(json!({"fast.storageclass.storage.k8s.io/requests.storage": "1Gi"}), json!({})), 1);
        assert_eq!(count(json!({"slow.storageclass.storage.k8s.io/requests.storage": "0"}), json!({})), 0);
        assert_eq!(count(json!({"persistentvolumeclaims": "1", "requests.cpu": "0"}), json!({})), 1);
    }

    #[test]
    fn a_range_has_two_ends() {
        let range = json!({"spec": {"limits": [
            {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "5Gi"}},
            {"type": "Container", "max": {"storage": "1"}}]}});
        let range = [serde_json::from_value::<LimitRange>(range).expect("a range")];
        for (size, is_within) in [("1Gi", true), ("5Gi", true), ("1023Mi", false), ("5121Mi", false)] {
            assert_eq!(ranges(&range, &[&volume(size, "fast")], "shop").is_empty(), is_within, "{size}");
        }
    }

    #[test]
    fn a_size_below_the_sources_is_raised_and_told() {
        let told = |size: &str| {
            let mut migration = Migration::new("move", "shop");
            migration.spec.volumes =
                serde_json::from_value(json!([{"claim": "data", "size": size}])).expect("a volume");
            let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {"name": "data"},
                "spec": {"resources": {"requests": {"storage": "1Gi"}}}, "status": {"capacity": {"storage": "2Gi"}}}))
            .expect("a claim");
            raised(&crate::claims::volume_of(&claim, &migration), &migration).map(|finding| finding.code)
        };
        assert_eq!(told("1500Mi").as_deref(), Some("TS-K149"));
        assert_eq!(told("2Gi"), None);
        assert_eq!(told("3Gi"), None);
        assert_eq!(raised(&volume("2Gi", "fast"), &Migration::new("move", "shop")), None);
    }

    #[test]
    fn a_quota_that_is_used_up_forbids_one_more() {
        let full = quota(json!({"services.nodeports": "1"}), json!({"services.nodeports": "1"}));
        assert!(forbids(&[full], "services.nodeports"));
        assert!(!forbids(&[quota(json!({"services.nodeports": "1"}), json!({}))], "services.nodeports"));
        assert!(!forbids(&[], "services.nodeports"));
    }
}
