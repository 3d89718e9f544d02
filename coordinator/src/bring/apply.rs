//! Makes what was planned at the destination.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tranship_api::record::Brought;
use tranship_api::{Finding, LABEL_BROUGHT, LABEL_ID, LABEL_MIGRATION, ObjectRef, Record, Severity};

use super::Manifest;
use super::kind::{self, Kind};
use crate::cluster::FIELD_MANAGER;
use crate::{Cluster, Error};

/// Fields whose values make the difference between an object that is there and the source's.
const COMPARED: &[&str] = &["/data", "/binaryData", "/spec/selector", "/spec/scaleTargetRef"];

/// What is at the destination already and was not made by this migration: a workload stands in the way of a cutover,
/// anything else is kept as it is.
pub async fn conflicts(destination: &Cluster, record: &Record, manifests: &[Manifest]) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for manifest in manifests {
        let kind = kind::of(&manifest.object)?;
        if let Some(there) = find(destination, kind, &manifest.object).await? {
            findings.extend(judge(kind, &there, manifest, &record.id).map(|finding| finding.at(destination.side)));
        }
    }
    Ok(findings)
}

/// Makes the objects, in order, stopped, or brings those that this migration made before up to date. Only before a Commit:
/// what runs would be stopped.
///
/// Returns what is there then, and what there is to say of what was kept. With an error some of it may have been made;
/// nothing that others made has been changed. Applying again goes on.
pub async fn apply(
    destination: &Cluster,
    record: &Record,
    manifests: &[Manifest],
) -> Result<(Vec<Brought>, Vec<Finding>), Error> {
    let kept = conflicts(destination, record, manifests).await?;
    if let Some(finding) = kept.iter().find(|finding| finding.severity >= Severity::Cutover) {
        let object = finding.object.as_ref().map(|object| format!("{object}: ")).unwrap_or_default();
        return Err(Error::refused("TS-K250", format!("{object}{}", finding.why), finding.todo.clone()));
    }
    let theirs: Vec<&ObjectRef> = kept.iter().filter_map(|finding| finding.object.as_ref()).collect();
    let mut brought = Vec::new();
    for manifest in manifests {
        if theirs.contains(&&manifest.object) {
            brought.push(Brought { object: manifest.object.clone(), replicas: None, was_there: true });
            continue;
        }
        brought.push(make(destination, record, manifest).await?);
    }
    Ok((brought, kept))
}

async fn find(destination: &Cluster, kind: &Kind, object: &ObjectRef) -> Result<Option<Value>, Error> {
    kind.find(destination, object.namespace.as_deref().unwrap_or_default(), &object.name).await
}

/// What it means that the object is there; nothing if it is this migration's own.
fn judge(kind: &Kind, there: &Value, manifest: &Manifest, id: &str) -> Option<Finding> {
    let finding = if there["metadata"]["labels"][LABEL_ID] == id {
        return None;
    } else if kind.is_workload() {
        let why = "the destination has a workload of this name that this migration did not make";
        let todo = "delete it, or say `resources: none` in the migration if it is the one to be started";
        Finding::new("TS-K250", Severity::Cutover, why, todo)
    } else if COMPARED.iter().any(|field| there.pointer(field) != manifest.body.pointer(field)) {
        let why = "the destination has one of its own, which is kept and differs from the source's";
        Finding::new("TS-K255", Severity::Warning, why, "see that it is what the application needs there")
    } else {
        Finding::new("TS-K255", Severity::Info, "the destination has one of its own, which is kept", "nothing")
    };
    Some(finding.on(manifest.object.clone()))
}

async fn make(destination: &Cluster, record: &Record, manifest: &Manifest) -> Result<Brought, Error> {
    let object = &manifest.object;
    let kind = kind::of(object)?;
    let mut body = manifest.body.clone();
    body["apiVersion"] = json!(kind.api_version);
    body["kind"] = json!(kind.kind);
    body["metadata"]["labels"][LABEL_ID] = json!(record.id);
    body["metadata"]["labels"][LABEL_MIGRATION] = json!(record.migration.metadata.name);
    body["metadata"]["labels"][LABEL_BROUGHT] = json!("true");
    let api = kind.api(destination, object.namespace.as_deref().unwrap_or_default());
    let params = PatchParams::apply(FIELD_MANAGER);
    let made =
        destination.call(format!("patch {object}"), api.patch(&object.name, &params, &Patch::Apply(&body))).await;
    let made = made.map_err(|error| match error {
        error if error.is_conflict() => {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            let todo = "see who changes it there, and let them stop, or delete it";
            Error::refused("TS-K252", format!("somebody else has changed the destination's {object}: {cause}"), todo)
        }
        error => error,
    })?;
    let object = ObjectRef { uid: made.metadata.uid.unwrap_or_default(), ..object.clone() };
    Ok(Brought { object, replicas: manifest.replicas, was_there: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(kind: &str, there: Value) -> Option<(String, Severity)> {
        let kind = kind::named(kind).expect("a kind");
        let body = json!({"metadata": {"name": "db"}, "data": {"a": "1"}});
        let manifest = Manifest { object: kind.reference(&body), replicas: None, body };
        judge(kind, &there, &manifest, "id1").map(|finding| (finding.code, finding.severity))
    }

    #[test]
    fn what_is_there_is_ours_in_the_way_or_kept() {
        let of = |id: &str, a: &str| json!({"metadata": {"labels": {LABEL_ID: id}}, "data": {"a": a}});
        assert_eq!(judged("Deployment", of("id1", "2")), None);
        assert_eq!(judged("Deployment", of("id2", "1")), Some(("TS-K250".to_owned(), Severity::Cutover)));
        assert_eq!(judged("ConfigMap", of("id2", "1")), Some(("TS-K255".to_owned(), Severity::Info)));
        assert_eq!(judged("ConfigMap", json!({"data": {}})), Some(("TS-K255".to_owned(), Severity::Warning)));
    }
}
