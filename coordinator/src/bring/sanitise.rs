//! An object of the source as it is to be made at the destination: without what ties it to its cluster, under its new
//! names, and stopped.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use tranship_api::{Record, Side};

use super::{kind, service};
use crate::Error;
use crate::claims::is_of_template;

/// Label that no node has and gate that nobody else opens: what holds pods back that have no replicas to set.
pub(crate) const HELD: &str = "tranship.io/held";

/// Annotations that say what a cluster did with an object.
const ANNOTATIONS: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "deployment.kubernetes.io/revision",
    "deprecated.daemonset.template.generation",
    "kubernetes.io/service-account.uid",
    "control-plane.alpha.kubernetes.io/leader",
    "batch.kubernetes.io/job-tracking",
];

/// Labels by which a Job finds its pods: each cluster gives its own.
const JOB_LABELS: &[&str] =
    &["controller-uid", "batch.kubernetes.io/controller-uid", "job-name", "batch.kubernetes.io/job-name"];

/// What a token's Secret holds: it is good in its own cluster only.
const TOKEN_DATA: &[&str] = &["token", "ca.crt", "namespace"];

/// What is called otherwise at the destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renames {
    /// The application's namespace: source, destination.
    pub namespace: [String; 2],
    /// Claims that are moved: name at the source, then name and storage class at the destination.
    pub claims: BTreeMap<String, (String, Option<String>)>,
}

impl Renames {
    /// Those of a migration.
    pub fn of(record: &Record) -> Self {
        let claim = |volume: &tranship_api::record::VolumeRecord| {
            let there = volume.claim(Side::Destination);
            (volume.claim(Side::Source).name.clone(), (there.name.clone(), there.storage_class.clone()))
        };
        Self {
            namespace: Side::ALL.map(|side| record.namespace(side).to_owned()),
            claims: record.volumes.iter().map(claim).collect(),
        }
    }
}

/// The object as it is to be made. It starts nothing: replicas are 0, and what has none is suspended or held.
pub fn sanitise(kind: &str, mut value: Value, renames: &Renames) -> Result<Value, Error> {
    // This one asks who wrote what, which is not known any more afterwards.
    if kind == "Service" {
        service::strip(&mut value);
    }
    metadata(&mut value, &renames.namespace[1]);
    remove(&mut value, &["status"]);
    match kind {
        "ServiceAccount" => account(&mut value),
        "Secret" => secret(&mut value),
        "StatefulSet" => stateful_set(&mut value, renames)?,
        "Pod" => pod(&mut value),
        "Job" => job(&mut value),
        "CronJob" => value["spec"]["suspend"] = json!(true),
        "DaemonSet" => value["spec"]["template"]["spec"]["nodeSelector"][HELD] = json!("true"),
        _ => {}
    }
    if matches!(kind, "Deployment" | "StatefulSet" | "ReplicaSet" | "ReplicationController") {
        value["spec"]["replicas"] = json!(0);
    }
    let pointer = kind::named(kind).and_then(|kind| kind.template);
    if let Some(found) = pointer.and_then(|pointer| value.pointer_mut(pointer)) {
        template(found, renames);
    }
    Ok(value)
}

/// Keeps what a user gives an object.
fn metadata(value: &mut Value, namespace: &str) {
    let old = value["metadata"].take();
    let mut new = json!({"name": old["name"], "namespace": namespace});
    for (field, dropped) in [("labels", &[][..]), ("annotations", ANNOTATIONS)] {
        let kept = kept(&old[field], dropped);
        if !kept.is_empty() {
            new[field] = Value::Object(kept);
        }
    }
    value["metadata"] = new;
}

/// A map without these keys, and without ours.
fn kept(map: &Value, dropped: &[&str]) -> Map<String, Value> {
    let mut map = map.as_object().cloned().unwrap_or_default();
    map.retain(|key, _| !dropped.contains(&key.as_str()) && !key.starts_with("tranship.io/"));
    map
}

fn remove(value: &mut Value, fields: &[&str]) {
    if let Some(map) = value.as_object_mut() {
        fields.iter().for_each(|field| drop(map.remove(*field)));
    }
}

fn account(value: &mut Value) {
    let pulled = super::references::pull_secrets(value);
    remove(value, &["secrets", "imagePullSecrets"]);
    if !pulled.is_empty() {
        value["imagePullSecrets"] = pulled.iter().map(|name| json!({"name": name})).collect();
    }
}

fn secret(value: &mut Value) {
    if value["type"] == "kubernetes.io/service-account-token" {
        remove(&mut value["data"], TOKEN_DATA);
        let labels = value["metadata"]["labels"].as_object_mut();
        labels.into_iter().for_each(|labels| labels.retain(|key, _| !key.starts_with("kubernetes.io/legacy-token-")));
    }
}

fn job(value: &mut Value) {
    value["spec"]["suspend"] = json!(true);
    if value["spec"]["manualSelector"] != true {
        remove(&mut value["spec"], &["selector"]);
        for pointer in ["/metadata/labels", "/spec/template/metadata/labels"] {
            value.pointer_mut(pointer).into_iter().for_each(|labels| remove(labels, JOB_LABELS));
        }
    }
}

/// A pod that nobody owns. It is made whole and waits at a gate.
fn pod(value: &mut Value) {
    let spec = &mut value["spec"];
    let names = [
        "nodeName",
        "priority",
        "preemptionPolicy",
        "ephemeralContainers",
        // The old name of serviceAccountName.
        "serviceAccount",
    ];
    remove(spec, &names);
    let account = spec["serviceAccountName"].as_str().unwrap_or("default");
    let token = format!("{account}-token-");
    let is_injected = |name: &Value| {
        name.as_str().is_some_and(|name| name.starts_with("kube-api-access-") || name.starts_with(&token))
    };
    retain(&mut spec["volumes"], |volume| !is_injected(&volume["name"]));
    for containers in ["initContainers", "containers"] {
        for container in spec[containers].as_array_mut().into_iter().flatten() {
            retain(&mut container["volumeMounts"], |mount| !is_injected(&mount["name"]));
        }
    }
    let defaulted = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
    retain(&mut spec["tolerations"], |one| {
        !(defaulted.iter().any(|key| one["key"] == *key) && one["tolerationSeconds"] == 300)
    });
    spec["schedulingGates"] = json!([{"name": HELD}]);
    // Indexing makes fields that were not there.
    tidy(spec);
}

/// Its claims are named after its templates: a new name of the claims is one of the template, or none can be.
fn stateful_set(value: &mut Value, renames: &Renames) -> Result<(), Error> {
    let set = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    // A set that deletes its claims would do so on the way back.
    value["spec"]["persistentVolumeClaimRetentionPolicy"] = json!({"whenScaled": "Retain", "whenDeleted": "Retain"});
    let mut templates = value["spec"]["volumeClaimTemplates"].take();
    let mut renamed = BTreeMap::new();
    for template in templates.as_array_mut().into_iter().flatten() {
        let name = template["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let (new, class) = of_template(&set, &name, renames)?.unwrap_or_else(|| (name.clone(), None));
        let mut kept_metadata = json!({"name": new});
        for field in ["labels", "annotations"] {
            let kept = kept(&template["metadata"][field], ANNOTATIONS);
            if !kept.is_empty() {
                kept_metadata[field] = Value::Object(kept);
            }
        }
        template["metadata"] = kept_metadata;
        remove(template, &["status"]);
        if let Some(class) = class {
            template["spec"]["storageClassName"] = json!(class);
        }
        renamed.insert(name, new);
    }
    let spec = &mut value["spec"]["template"]["spec"];
    let others = spec["volumes"].as_array().into_iter().flatten().filter_map(|volume| volume["name"].as_str());
    let others: BTreeSet<&str> = others.collect();
    let names: BTreeSet<&String> = renamed.values().collect();
    if names.len() < renamed.len() || names.iter().any(|name| others.contains(name.as_str())) {
        return Err(impossible(&set, "two of its volumes would have one name"));
    }
    for containers in ["initContainers", "containers"] {
        for container in spec[containers].as_array_mut().into_iter().flatten() {
            for field in ["volumeMounts", "volumeDevices"] {
                for mount in container.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
                    if let Some(new) = mount["name"].as_str().and_then(|name| renamed.get(name)) {
                        mount["name"] = json!(new);
                    }
                }
            }
        }
    }
    if !templates.is_null() {
        value["spec"]["volumeClaimTemplates"] = templates;
    }
    tidy(&mut value["spec"]);
    tidy(&mut value["spec"]["template"]["spec"]);
    Ok(())
}

/// The new name of a claim template and its new class; nothing if none of its claims is moved.
fn of_template(set: &str, template: &str, renames: &Renames) -> Result<Option<(String, Option<String>)>, Error> {
    let mut found: Option<(String, Option<String>)> = None;
    for (claim, (new, class)) in &renames.claims {
        if !is_of_template(claim, template, set) {
            continue;
        }
        let ordinal = claim.rsplit('-').next().unwrap_or_default();
        let Some(name) = new.strip_suffix(&format!("-{set}-{ordinal}")).filter(|name| !name.is_empty()) else {
            return Err(impossible(
                set,
                &format!("{claim} cannot become {new}: only TEMPLATE-{set}-{ordinal} is its claim"),
            ));
        };
        match &found {
            Some((other, _)) if other != name => {
                return Err(impossible(set, "its claims of one template would have names of two"));
            }
            Some(_) => {}
            None => found = Some((name.to_owned(), class.clone())),
        }
    }
    Ok(found)
}

fn impossible(set: &str, what: &str) -> Error {
    let todo = "let the claims keep their names, or say `resources: none` and make the StatefulSet yourself";
    Error::refused("TS-K251", format!("StatefulSet {set} cannot follow its claims' new names: {what}"), todo)
}

/// Follows new names in a pod template.
fn template(template: &mut Value, renames: &Renames) {
    if let Some(metadata) = template["metadata"].as_object_mut() {
        metadata.remove("creationTimestamp");
    }
    let spec = &mut template["spec"];
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        let name = volume.pointer_mut("/persistentVolumeClaim/claimName");
        if let Some(name) = name
            && let Some((new, _)) = name.as_str().and_then(|name| renames.claims.get(name))
        {
            *name = json!(new);
        }
    }
    if let Some(affinity) = spec.get_mut("affinity") {
        namespaces(affinity, &renames.namespace);
    }
}

/// Follows the namespace's new name in lists of namespaces, which affinities to pods have.
fn namespaces(value: &mut Value, [old, new]: &[String; 2]) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_array_mut() {
                    Some(names) if key == "namespaces" => {
                        names.iter_mut().filter(|name| **name == *old.as_str()).for_each(|name| *name = json!(new));
                    }
                    _ => namespaces(value, &[old.clone(), new.clone()]),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| namespaces(value, &[old.clone(), new.clone()])),
        _ => {}
    }
}

fn retain(list: &mut Value, keep: impl Fn(&Value) -> bool) {
    list.as_array_mut().into_iter().for_each(|list| list.retain(&keep));
}

/// Takes away fields that are null.
fn tidy(value: &mut Value) {
    value.as_object_mut().into_iter().for_each(|map| map.retain(|_, value| !value.is_null()));
    for containers in ["initContainers", "containers"] {
        for container in value.get_mut(containers).and_then(Value::as_array_mut).into_iter().flatten() {
            container.as_object_mut().into_iter().for_each(|map| map.retain(|_, value| !value.is_null()));
        }
    }
}

#[cfg(test)]
mod tests;
