//! Starts what was brought stopped, or stands still where somebody else has made it.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tranship_api::record::Brought;

use super::kind;
use super::sanitise::HELD;
use crate::{Cluster, Error};

/// Starts the workload with this many replicas, or, if it has no number, as it is. What runs nothing is left alone, and so
/// is what was there before and does not stand still: how it runs is its maker's. To do it again changes nothing.
pub async fn start(destination: &Cluster, brought: &Brought, replicas: i32) -> Result<(), Error> {
    let Some(patch) = release(&brought.object.kind, replicas) else { return Ok(()) };
    let kind = kind::of(&brought.object)?;
    let namespace = brought.object.namespace.as_deref().unwrap_or_default();
    if brought.was_there {
        let there = kind.find(destination, namespace, &brought.object.name).await?;
        if !there.is_some_and(|there| stands_still(&there)) {
            return Ok(());
        }
    }
    let api = kind.api(destination, namespace);
    let (what, name) = (format!("patch {}", brought.object), &brought.object.name);
    let (params, is_scaled) = (PatchParams::default(), patch["spec"].get("replicas").is_some());
    let patch = Patch::Merge(patch);
    if is_scaled {
        destination.call(format!("{what}/scale"), api.patch_scale(name, &params, &patch)).await?;
    } else {
        destination.call(what, api.patch(name, &params, &patch)).await?;
    }
    Ok(())
}

/// Whether a workload was made so that it runs nothing.
fn stands_still(workload: &Value) -> bool {
    workload["spec"]["replicas"] == 0 || workload["spec"]["suspend"] == true
}

/// What lets an object of this kind run.
fn release(kind: &str, replicas: i32) -> Option<Value> {
    match kind {
        "Deployment" | "StatefulSet" | "ReplicaSet" | "ReplicationController" => {
            Some(json!({"spec": {"replicas": replicas}}))
        }
        "Job" | "CronJob" => Some(json!({"spec": {"suspend": false}})),
        "DaemonSet" => Some(json!({"spec": {"template": {"spec": {"nodeSelector": {HELD: null}}}}})),
        "Pod" => Some(json!({"spec": {"schedulingGates": null}})),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_its_maker_lets_run_does_not_stand_still() {
        for (spec, stands) in [
            (json!({"replicas": 0}), true),
            (json!({"replicas": 3}), false),
            (json!({}), false),
            (json!({"suspend": true}), true),
            (json!({"suspend": false}), false),
        ] {
            assert_eq!(stands_still(&json!({"spec": spec})), stands, "{spec}");
        }
    }
}
