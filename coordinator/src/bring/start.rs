//! Starts what was brought stopped.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tranship_api::record::Brought;

use super::kind;
use super::sanitise::HELD;
use crate::{Cluster, Error};

/// Starts the workload with this many replicas, or, if it has no number, as it is. What was there before, and what runs
/// nothing, is left alone. To do it again changes nothing.
pub async fn start(destination: &Cluster, brought: &Brought, replicas: i32) -> Result<(), Error> {
    let Some(patch) = release(&brought.object.kind, replicas).filter(|_| !brought.was_there) else { return Ok(()) };
    let kind = kind::of(&brought.object)?;
    let api = kind.api(destination, brought.object.namespace.as_deref().unwrap_or_default());
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
