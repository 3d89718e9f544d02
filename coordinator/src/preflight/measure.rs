//! How much the volumes hold, as the kubelets beside them have counted it.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::GetParams;
use kube::core::Request;
use serde::Deserialize;
use tranship_api::quantity::text;
use tranship_api::record::VolumeRecord;
use tranship_api::{Finding, Migration, Severity, Side};

use super::claim_ref;
use super::limits::bytes;
use crate::{Cluster, Error};

/// Bytes for each inode of a file system that is made without further words (mke2fs.conf(5): `inode_ratio`).
const BYTES_PER_INODE: u64 = 16 << 10;

/// Hundredths of a file system that are filled by what it keeps for itself, at most.
const OVERHEAD_PERCENT: u64 = 10;

/// What a file system holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Measured {
    pub(super) bytes: u64,
    inodes: u64,
}

/// What the claims hold that some pod of the namespace has mounted, by name.
///
/// `nodes/proxy` is a right that can do far more than count, so that it is never demanded: who does not have it is told by
/// the first stage instead. An error is of a node that did not answer.
pub(super) async fn look(
    cluster: &Cluster,
    namespace: &str,
    pods: &[Pod],
) -> Result<BTreeMap<String, Measured>, Error> {
    let nodes = pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref());
    let nodes: BTreeSet<&str> = nodes.collect();
    let answers = join_all(nodes.into_iter().map(|node| summary(cluster, node))).await;
    let mut found = BTreeMap::new();
    for answer in answers {
        let volumes = answer?.pods.into_iter().flat_map(|pod| pod.volume);
        for volume in volumes {
            let Some(claim) = volume.pvc_ref.filter(|claim| claim.namespace == namespace) else { continue };
            if let (Some(bytes), Some(inodes)) = (volume.used_bytes, volume.inodes_used) {
                found.insert(claim.name, Measured { bytes, inodes });
            }
        }
    }
    Ok(found)
}

async fn summary(cluster: &Cluster, node: &str) -> Result<Summary, Error> {
    let what = format!("get what the volumes on node {node} hold");
    let path = format!("/api/v1/nodes/{node}/proxy/stats");
    let request = Request::new(path).get("summary", &GetParams::default()).map_err(kube::Error::BuildRequest);
    cluster.call(what, async { cluster.client.request(request?).await }).await
}

/// What there is to say of each volume, and of how much there is to carry.
pub(super) fn judge(
    measured: &Result<BTreeMap<String, Measured>, Error>,
    volumes: &[VolumeRecord],
    migration: &Migration,
) -> Vec<Finding> {
    let of_name = |volume: &VolumeRecord| measured.as_ref().ok()?.get(&volume.claim(Side::Source).name).copied();
    let mut findings = Vec::new();
    for volume in volumes.iter().filter(|volume| !volume.is_block) {
        let claim = claim_ref(migration.namespace(Side::Source), &volume.claim(Side::Source).name);
        let finding = match (of_name(volume), measured) {
            (Some(measured), _) => fits(measured, volume, migration),
            (None, Err(error)) => unmeasured(&error.to_string()),
            (None, Ok(_)) => unmeasured("no kubelet has counted it yet"),
        };
        findings.push(finding.on(claim).at(Side::Source));
    }
    findings
}

fn fits(measured: Measured, volume: &VolumeRecord, migration: &Migration) -> Finding {
    let (size, held) = (bytes(volume), measured.bytes);
    let to = &volume.claim(Side::Destination).name;
    let todo = format!("give it more room, with --size {to}=SIZE");
    let holds = format!("it holds {} in {} inodes", text(held), measured.inodes);
    if held > size {
        let why = format!("{holds}, and the destination's claim has {}", text(size));
        return Finding::new("TS-K136", Severity::Blocking, why, todo);
    }
    if held > size / 100 * (100 - OVERHEAD_PERCENT) || measured.inodes > size / BYTES_PER_INODE {
        let inodes = size / BYTES_PER_INODE;
        let room = text(size);
        let why = format!("{holds}; the destination has {room}, as a rule {inodes} inodes, and keeps some for itself");
        return Finding::new("TS-K137", Severity::Warning, why, todo);
    }
    let rate = migration.spec.link.bits_per_second.map_or(String::new(), |rate| {
        format!(
            "; at the migration's bandwidth the first stage takes {} s at the least",
            held.saturating_mul(8) / rate.max(1)
        )
    });
    Finding::new("TS-K138", Severity::Info, format!("{holds}{rate}"), "nothing")
}

fn unmeasured(why: &str) -> Finding {
    let why = format!("how much it holds is not known: {why}");
    Finding::new("TS-K139", Severity::Info, why, "nothing; the first stage measures it before it copies")
}

/// What a kubelet says (`k8s.io/kubelet/pkg/apis/stats/v1alpha1`, `Summary`), as far as it is of use here.
#[derive(Debug, Deserialize)]
struct Summary {
    #[serde(default)]
    pods: Vec<PodStats>,
}

#[derive(Debug, Deserialize)]
struct PodStats {
    #[serde(default)]
    volume: Vec<VolumeStats>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeStats {
    pvc_ref: Option<PvcRef>,
    used_bytes: Option<u64>,
    inodes_used: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct PvcRef {
    name: String,
    namespace: String,
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::json;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn code(bytes: u64, inodes: u64) -> String {
        let claim: PersistentVolumeClaim = serde_json::from_value(
            json!({"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}),
        )
        .expect("a claim");
        let migration = Migration::new("move", "shop");
        let volumes = [crate::claims::volume_of(&claim, &migration)];
        let measured = Ok(BTreeMap::from([("data".to_owned(), Measured { bytes, inodes })]));
        let [finding] = &judge(&measured, &volumes, &migration)[..] else { panic!("one for each volume") };
        finding.code.clone()
    }

    #[test]
    fn what_does_not_fit_is_refused_and_what_may_not_fit_is_told() {
        assert_eq!(code(GIB / 2, 1_000), "TS-K138");
        assert_eq!(code(GIB / 100 * 95, 1_000), "TS-K137");
        assert_eq!(code(GIB / 2, 70_000), "TS-K137");
        assert_eq!(code(GIB + 1, 1_000), "TS-K136");
    }

    #[test]
    fn a_kubelet_is_understood() {
        let said = json!({"node": {}, "pods": [{"podRef": {}}, {"volume": [
            {"name": "tmp", "usedBytes": 1},
            {"name": "data", "pvcRef": {"name": "data", "namespace": "shop"}, "usedBytes": 7, "inodesUsed": 3}]}]});
        let summary: Summary = serde_json::from_value(said).expect("a summary");
        let volume = &summary.pods[1].volume[1];
        assert_eq!((volume.used_bytes, volume.inodes_used), (Some(7), Some(3)));
    }
}
