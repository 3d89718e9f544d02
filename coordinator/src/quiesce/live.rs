//! Objects as they are now, whatever their kind, and changes of single values in them.

use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tranship_api::ObjectRef;
use tranship_api::record::Act;

use crate::cluster::FIELD_MANAGER;
use crate::{Cluster, Error};

/// Whether a StatefulSet deletes claims as it is scaled down.
pub(super) const RETENTION: &str = "/spec/persistentVolumeClaimRetentionPolicy/whenScaled";

/// Where replicas stand.
pub(super) const REPLICAS: &str = "/spec/replicas";

/// Kinds that are changed here, and how the API's paths spell them.
const PLURALS: &[(&str, &str)] = &[
    ("CronJob", "cronjobs"),
    ("DaemonSet", "daemonsets"),
    ("Deployment", "deployments"),
    ("Job", "jobs"),
    ("Pod", "pods"),
    ("ReplicaSet", "replicasets"),
    ("ReplicationController", "replicationcontrollers"),
    ("ScaledObject", "scaledobjects"),
    ("StatefulSet", "statefulsets"),
];

/// The API of an object's kind.
pub(super) fn api(cluster: &Cluster, object: &ObjectRef) -> Result<Api<DynamicObject>, Error> {
    let plural = PLURALS.iter().find(|(kind, _)| *kind == object.kind).map(|(_, plural)| plural).ok_or_else(|| {
        let todo = "use the version of tranship that made the record";
        Error::refused("TS-K325", format!("{object} is of a kind that this version does not change"), todo)
    })?;
    Ok(cluster.dynamic(&object.api_version, &object.kind, plural, object.namespace.as_deref()))
}

/// The object as it is now, of whatever UID; nothing if there is none of this name.
pub(super) async fn read(cluster: &Cluster, object: &ObjectRef) -> Result<Option<Value>, Error> {
    let found = cluster.call(format!("get {object}"), api(cluster, object)?.get_opt(&object.name)).await?;
    Ok(found.map(|found| serde_json::to_value(found).unwrap_or_default()))
}

/// The UID of an object.
pub(super) fn uid(live: &Value) -> &str {
    live["metadata"]["uid"].as_str().unwrap_or_default()
}

/// What an act changes, as a JSON pointer; nothing for a deletion.
pub(super) fn pointer(act: &Act) -> Option<&str> {
    match act {
        Act::Scale { .. } => Some(REPLICAS),
        Act::Set { pointer, .. } => Some(pointer),
        Act::Delete { .. } => None,
    }
}

/// What an act changes: value before, value after.
pub(super) fn values(act: &Act) -> (Value, Value) {
    match act {
        Act::Scale { before, after } => (json!(before), json!(after)),
        Act::Set { before, after, .. } => (before.clone(), after.clone()),
        Act::Delete { manifest } => (manifest.clone(), Value::Null),
    }
}

/// The value there; null for absent.
pub(super) fn value<'a>(live: &'a Value, pointer: &str) -> &'a Value {
    live.pointer(pointer).unwrap_or(&Value::Null)
}

/// Whether two values mean the same. What is not suspended may be said or not.
pub(super) fn is_same(pointer: &str, one: &Value, other: &Value) -> bool {
    let meant =
        |value: &Value| if pointer == "/spec/suspend" && value.is_null() { json!(false) } else { value.clone() };
    meant(one) == meant(other)
}

/// Writes the value that `act` is about, and tells the version of the object that this made. It is a conflict if the
/// object is not as in `live` any more.
pub(super) async fn write(
    cluster: &Cluster,
    object: &ObjectRef,
    act: &Act,
    to: &Value,
    live: &Value,
) -> Result<Option<String>, Error> {
    let (api, name) = (api(cluster, object)?, object.name.as_str());
    let version = live["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let manager = Some(FIELD_MANAGER.to_owned());
    match act {
        Act::Scale { .. } => {
            let scale = Scale {
                metadata: ObjectMeta {
                    name: Some(name.to_owned()),
                    namespace: object.namespace.clone(),
                    uid: Some(object.uid.clone()),
                    resource_version: Some(version.to_owned()),
                    ..ObjectMeta::default()
                },
                spec: Some(ScaleSpec { replicas: to.as_i64().and_then(|count| i32::try_from(count).ok()) }),
                ..Scale::default()
            };
            let params = PostParams { field_manager: manager, ..PostParams::default() };
            let scaled = cluster.call(format!("scale {object}"), api.replace_scale(name, &params, &scale)).await?;
            Ok(scaled.metadata.resource_version)
        }
        Act::Set { pointer, .. } => {
            let patch = patch(pointer, to, &object.uid, version);
            let params = PatchParams { field_manager: manager, ..PatchParams::default() };
            let patched =
                cluster.call(format!("patch {object}"), api.patch(name, &params, &Patch::Merge(patch))).await?;
            Ok(patched.metadata.resource_version)
        }
        Act::Delete { .. } => Ok(None),
    }
}

/// A merge patch of one value, which is refused on another object or another version of it.
fn patch(pointer: &str, to: &Value, uid: &str, version: &str) -> Value {
    let keys: Vec<String> = pointer.split('/').skip(1).map(|key| key.replace("~1", "/").replace("~0", "~")).collect();
    let mut patch = keys.into_iter().rev().fold(to.clone(), |inner, key| json!({ key: inner }));
    patch["metadata"]["uid"] = json!(uid);
    patch["metadata"]["resourceVersion"] = json!(version);
    patch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rights::RIGHTS;

    #[test]
    fn every_call_for_a_kind_that_is_changed_is_in_the_list_of_rights() {
        for (kind, plural) in PLURALS {
            let change = if *kind == "Pod" { "delete" } else { "patch" };
            for verb in ["get", "watch", change] {
                let mut rights = RIGHTS.iter().filter(|right| right.resource == *plural && right.side.is_none());
                assert!(rights.any(|right| right.verbs.contains(&verb)), "{verb} {plural}");
            }
        }
    }

    #[test]
    fn a_patch_holds_the_one_value_and_what_it_is_bound_to() {
        let expected = json!({
            "metadata": { "uid": "u", "resourceVersion": "7", "annotations": { "a.b/c~d": null } },
        });
        assert_eq!(patch("/metadata/annotations/a.b~1c~0d", &Value::Null, "u", "7"), expected);
        let expected = json!({ "metadata": { "uid": "u", "resourceVersion": "7" }, "spec": { "suspend": true } });
        assert_eq!(patch("/spec/suspend", &json!(true), "u", "7"), expected);
    }
}
