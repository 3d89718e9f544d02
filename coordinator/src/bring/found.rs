//! What lies in a namespace with our mark, of the kinds that are brought, and what becomes of it at the end.

use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tranship_api::record::Brought;
use tranship_api::{LABEL_BROUGHT, LABEL_COORDINATOR, LABEL_ID, LABEL_MIGRATION, ObjectRef};

use super::kind::{self, KINDS, Kind};
use super::references::each;
use super::sanitise::HELD;
use crate::workload::NO_NODE;
use crate::{Cluster, Error, quiesce};

/// An object with our mark, as it is now.
#[derive(Debug)]
pub struct Found {
    /// Which.
    pub object: ObjectRef,
    kind: &'static Kind,
    value: Value,
}

/// What the labels select in the namespace, in the order in which it was made. Where a kind that runs nothing may not be listed,
/// those of it that are recorded are looked at one by one.
pub async fn find_all(
    cluster: &Cluster,
    namespace: &str,
    selector: &str,
    recorded: &[Brought],
) -> Result<Vec<Found>, Error> {
    let mut all = Vec::new();
    for kind in KINDS {
        let params = ListParams::default().labels(selector);
        let what = format!("list {} in {namespace}", kind.kind);
        let values = match cluster.call(what, kind.api(cluster, namespace).list(&params)).await {
            Ok(list) => list.items.iter().map(|object| kind.value(object)).collect(),
            // What runs decides about the rest: it has to be seen.
            Err(error) if error.is_forbidden() && !kind.is_workload() => {
                tracing::warn!("{error}: only those that are recorded are looked for");
                one_by_one(cluster, kind, namespace, recorded).await?
            }
            Err(error) => return Err(error),
        };
        all.extend(values.into_iter().map(|value| Found { object: kind.reference(&value), kind, value }));
    }
    Ok(all)
}

async fn one_by_one(
    cluster: &Cluster,
    kind: &'static Kind,
    namespace: &str,
    recorded: &[Brought],
) -> Result<Vec<Value>, Error> {
    let mut values = Vec::new();
    for one in recorded.iter().filter(|one| one.object.kind == kind.kind && !one.was_there) {
        let found = kind.find(cluster, namespace, &one.object.name).await?;
        values.extend(found.filter(|value| !value["metadata"]["labels"][LABEL_BROUGHT].is_null()));
    }
    Ok(values)
}

/// The patch that takes our mark from an object, and is refused for another one under its name.
pub(crate) fn unmarking(uid: &str) -> Value {
    let labels = json!({ LABEL_ID: null, LABEL_MIGRATION: null, LABEL_BROUGHT: null });
    json!({ "metadata": { "uid": uid, "labels": labels } })
}

/// Takes our mark from an object of a kind that is brought. One that is gone, or another one under its name, is passed over.
pub async fn unmark(cluster: &Cluster, object: &ObjectRef) -> Result<(), Error> {
    let api = kind::of(object)?.api(cluster, object.namespace.as_deref().unwrap_or_default());
    let (params, patch) = (PatchParams::default(), Patch::Merge(unmarking(&object.uid)));
    passed_over(cluster.call(format!("patch {object}"), api.patch(&object.name, &params, &patch)).await)
}

/// Deletes an object of a kind that is brought; it is gone once everything is that it has made. One that is gone already, or
/// another one under its name, is passed over. A StatefulSet was made so that it leaves its claims.
pub async fn remove(cluster: &Cluster, object: &ObjectRef) -> Result<(), Error> {
    let api = kind::of(object)?.api(cluster, object.namespace.as_deref().unwrap_or_default());
    let preconditions = Preconditions { uid: Some(object.uid.clone()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::foreground() };
    passed_over(cluster.call(format!("delete {object}"), api.delete(&object.name, &params)).await)
}

fn passed_over<T>(answer: Result<T, Error>) -> Result<(), Error> {
    match answer {
        // Another one under that name is a conflict with the identity.
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

impl Found {
    /// A label of it; empty where it has none.
    pub fn label(&self, key: &str) -> &str {
        self.value["metadata"]["labels"][key].as_str().unwrap_or_default()
    }

    /// Whether it was brought; else it is a helper of ours.
    pub fn is_brought(&self) -> bool {
        !self.value["metadata"]["labels"][LABEL_BROUGHT].is_null()
    }

    /// Whether it belongs to a coordinator in the cluster.
    pub fn is_of_coordinator(&self) -> bool {
        !self.value["metadata"]["labels"][LABEL_COORDINATOR].is_null()
    }

    /// Whether it runs nothing, and will not by itself.
    pub fn is_at_rest(&self) -> bool {
        let (spec, status) = (&self.value["spec"], &self.value["status"]);
        match self.kind.kind {
            "Deployment" | "StatefulSet" | "ReplicaSet" | "ReplicationController" => spec["replicas"] == 0,
            "CronJob" => spec["suspend"] == true,
            "Job" => {
                let mut is_over = spec["suspend"] == true;
                each(&status["conditions"], |one| {
                    is_over |= one["status"] == "True" && (one["type"] == "Complete" || one["type"] == "Failed");
                });
                is_over
            }
            "DaemonSet" => {
                let selector = &spec["template"]["spec"]["nodeSelector"];
                !selector[HELD].is_null() || !selector[NO_NODE].is_null()
            }
            "Pod" => {
                let mut is_held = status["phase"] == "Succeeded" || status["phase"] == "Failed";
                each(&spec["schedulingGates"], |gate| is_held |= gate["name"] == HELD);
                is_held
            }
            _ => true,
        }
    }

    /// Who has changed what it holds since it was brought, if somebody has. Only what users write by hand counts: whatever
    /// runs is changed by its controllers.
    pub fn changed_by(&self) -> Option<String> {
        // The cluster itself writes what is in these.
        let is_written = self.value["type"] == "kubernetes.io/service-account-token";
        let holds = matches!(self.kind.kind, "ConfigMap" | "Secret") && !is_written;
        holds.then(|| ["/data", "/binaryData"].into_iter().find_map(|data| quiesce::changed_by(&self.value, data)))?
    }
}

#[cfg(test)]
impl Found {
    pub(crate) fn example(kind: &str, value: Value) -> Self {
        let kind = kind::named(kind).expect("a kind");
        Self { object: kind.reference(&value), kind, value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_brought_is_at_rest_until_somebody_starts_it() {
        let daemon = |selector: Value| json!({"spec": {"template": {"spec": {"nodeSelector": selector}}}});
        let over = json!([{"type": "Complete", "status": "True"}]);
        for (kind, at_rest, value) in [
            ("StatefulSet", true, json!({"spec": {"replicas": 0}})),
            ("StatefulSet", false, json!({"spec": {"replicas": 1}})),
            // What nobody says is one.
            ("Deployment", false, json!({"spec": {}})),
            ("CronJob", true, json!({"spec": {"suspend": true}})),
            ("CronJob", false, json!({"spec": {}})),
            ("Job", false, json!({"spec": {"suspend": false}})),
            ("Job", true, json!({"spec": {"suspend": false}, "status": {"conditions": over}})),
            ("DaemonSet", true, daemon(json!({HELD: "true"}))),
            ("DaemonSet", true, daemon(json!({NO_NODE: "true"}))),
            ("DaemonSet", false, daemon(json!({"disk": "fast"}))),
            ("Pod", true, json!({"spec": {"schedulingGates": [{"name": HELD}]}})),
            ("Pod", false, json!({"spec": {}, "status": {"phase": "Running"}})),
            ("Pod", true, json!({"spec": {}, "status": {"phase": "Succeeded"}})),
            ("Secret", true, json!({"data": {}})),
        ] {
            assert_eq!(Found::example(kind, value.clone()).is_at_rest(), at_rest, "{kind} {value}");
        }
    }

    #[test]
    fn what_somebody_wrote_into_it_since_is_told_from_what_its_cluster_wrote() {
        let managed =
            |manager: &str, fields: Value| json!({"managedFields": [{"manager": manager, "fieldsV1": fields}]});
        let data = || json!({"f:data": {"f:a": {}}});
        let by = |kind: &str, metadata: Value, type_: &str| {
            Found::example(kind, json!({"metadata": metadata, "type": type_})).changed_by()
        };
        assert_eq!(by("ConfigMap", managed("kubectl-edit", data()), "").as_deref(), Some("kubectl-edit"));
        assert_eq!(by("ConfigMap", managed("tranship", data()), ""), None);
        assert_eq!(by("ConfigMap", managed("kubectl-label", json!({"f:metadata": {}})), ""), None);
        assert_eq!(by("Secret", managed("kube", data()), "kubernetes.io/service-account-token"), None);
        assert_eq!(by("StatefulSet", managed("kube", data()), ""), None);
    }
}
