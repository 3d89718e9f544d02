//! Autoscalers of KEDA, which scale up from nothing unless they are told to pause.

use std::collections::BTreeSet;

use kube::api::ListParams;
use serde_json::Value;
use tranship_api::ObjectRef;

use super::Workload;
use crate::{Cluster, Error};

/// API group of KEDA.
const GROUP: &str = "keda.sh";

/// Its version and kind.
const API_VERSION: &str = "keda.sh/v1alpha1";
const KIND: &str = "ScaledObject";

/// Annotations by which somebody may have paused it already.
pub(crate) const PAUSED: &str = "autoscaling.keda.sh/paused";
const PAUSED_AT: &str = "autoscaling.keda.sh/paused-replicas";

/// An autoscaler that has to be paused before its target is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scaler {
    /// The ScaledObject.
    pub object: ObjectRef,
    /// What it scales.
    pub target: ObjectRef,
    /// What its annotation says now.
    pub paused: Option<String>,
}

/// Autoscalers of a namespace.
#[derive(Debug, Clone, Default)]
pub(super) struct Scaled {
    pub(super) all: Vec<Value>,
    /// Whether there may be some that we may not see.
    pub(super) is_hidden: bool,
}

/// The ScaledObjects of a namespace.
pub(super) async fn scaled(cluster: &Cluster, namespace: &str, groups: &BTreeSet<String>) -> Result<Scaled, Error> {
    if !groups.contains(GROUP) {
        return Ok(Scaled::default());
    }
    let api = cluster.dynamic(API_VERSION, KIND, "scaledobjects", Some(namespace));
    match cluster.call(format!("list {KIND} in {namespace}"), api.list(&ListParams::default())).await {
        Ok(list) => {
            let all = list.items.iter().filter_map(|object| serde_json::to_value(object).ok()).collect();
            Ok(Scaled { all, is_hidden: false })
        }
        Err(error) if error.is_forbidden() => Ok(Scaled { all: Vec::new(), is_hidden: true }),
        Err(error) if error.is_not_found() => Ok(Scaled::default()),
        Err(error) => Err(error),
    }
}

/// Those that scale one of the workloads and are not paused yet.
pub(super) fn scalers(scaled: &Scaled, workloads: &[Workload]) -> Vec<Scaler> {
    let of = |object: &Value| {
        let target = &object["spec"]["scaleTargetRef"];
        let kind = target["kind"].as_str().unwrap_or("Deployment");
        let is_target = |workload: &&Workload| {
            workload.object.kind == kind && Some(workload.object.name.as_str()) == target["name"].as_str()
        };
        let target = workloads.iter().find(is_target)?.object.clone();
        let meta = &object["metadata"];
        let text = |field: &str| meta[field].as_str().unwrap_or_default();
        let said = |key: &str| meta["annotations"][key].as_str();
        if said(PAUSED_AT) == Some("0") || said(PAUSED).is_some_and(|text| text != "false") {
            return None;
        }
        let named = ObjectRef::named(API_VERSION, KIND, target.namespace.as_deref(), text("name"));
        let object = ObjectRef { uid: text("uid").to_owned(), ..named };
        Some(Scaler { object, target, paused: said(PAUSED).map(str::to_owned) })
    };
    scaled.all.iter().filter_map(of).collect()
}
