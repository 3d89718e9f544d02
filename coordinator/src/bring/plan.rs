//! What is to be brought, read from the source.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tranship_api::migration::Resources;
use tranship_api::record::{Act, Brought, Change, ChangeState};
use tranship_api::{ObjectRef, Record, Side};

use super::kind::{self, Kind};
use super::references::{self, References};
use super::sanitise::{Renames, sanitise};
use super::{Manifest, references::each};
use crate::{Cluster, Error};

/// Reads these workloads and what they refer to, and says how they are to be made at the destination, in order. What the
/// record says was changed to stop them is taken back first, so that it makes no difference whether they run. What a
/// workload refers to and the source does not have is left out: pods run without it there too, or not at all.
pub async fn plan(source: &Cluster, record: &Record, workloads: &[ObjectRef]) -> Result<Vec<Manifest>, Error> {
    if record.migration.spec.cutover.resources == Resources::None {
        return Ok(Vec::new());
    }
    let mut reader = Reader { source, record, namespace: record.namespace(Side::Source), found: BTreeMap::new() };
    reader.workloads(workloads).await?;
    let renames = Renames::of(record);
    let mut manifests = Vec::new();
    for ((order, _), value) in reader.found {
        manifests.extend(manifest(&kind::KINDS[order], value, &renames)?);
    }
    Ok(manifests)
}

/// Of these workloads those which somebody else has made at the destination, by kind and name, with the replicas that the
/// source's have. Where nothing is brought, they are what is to be started; the others nobody can start.
pub async fn made_there(
    [source, destination]: [&Cluster; 2],
    record: &Record,
    workloads: &[ObjectRef],
) -> Result<Vec<Brought>, Error> {
    let reader = Reader { source, record, namespace: record.namespace(Side::Source), found: BTreeMap::new() };
    let mut made = Vec::new();
    for object in workloads {
        let kind = kind::of(object)?;
        let Some(there) = kind.find(destination, record.namespace(Side::Destination), &object.name).await? else {
            continue;
        };
        let replicas = replicas(kind, &reader.workload(kind, object).await?);
        made.push(Brought { object: kind.reference(&there), replicas, was_there: true });
    }
    Ok(made)
}

/// What is read, by the order and name in which it is to be made.
struct Reader<'a> {
    source: &'a Cluster,
    record: &'a Record,
    namespace: &'a str,
    found: BTreeMap<(usize, String), Value>,
}

impl Reader<'_> {
    async fn workloads(&mut self, workloads: &[ObjectRef]) -> Result<(), Error> {
        let mut references = References::default();
        let (services, scalers) = (self.list("Service").await?, self.list("HorizontalPodAutoscaler").await?);
        for object in workloads {
            let kind = kind::of(object)?;
            let mut workload = self.workload(kind, object).await?;
            let Some(template) = kind.template.and_then(|pointer| workload.pointer(pointer)).cloned() else { continue };
            references.collect(&template);
            self.pull_secrets(kind, &mut workload, &template, &mut references).await?;
            let belonging = services.iter().filter(|one| references::is_service_of(one, &workload, &template));
            belonging.for_each(|one| keep(&mut self.found, "Service", one.clone()));
            let scaling = scalers.iter().filter(|one| references::is_scaler_of(one, &workload));
            scaling.for_each(|one| keep(&mut self.found, "HorizontalPodAutoscaler", one.clone()));
            keep(&mut self.found, kind.kind, workload);
        }
        for name in references.accounts.iter().filter(|name| !references::is_own_account(name)) {
            self.read("ServiceAccount", name).await?;
        }
        for name in &references.secrets {
            self.read("Secret", name).await?;
        }
        for name in &references.config_maps {
            self.read("ConfigMap", name).await?;
        }
        Ok(())
    }

    /// The workload as it is when it runs.
    async fn workload(&self, kind: &Kind, object: &ObjectRef) -> Result<Value, Error> {
        let changes: Vec<&Change> = self.record.changes.iter().filter(|one| is_of(one, object)).collect();
        if let Some(found) = kind.find(self.source, self.namespace, &object.name).await? {
            return Ok(as_before(found, &changes));
        }
        let deleted = changes.iter().find_map(|change| match &change.act {
            Act::Delete { manifest } => Some(manifest.clone()),
            _ => None,
        });
        deleted.ok_or_else(|| Error::Missing { side: self.source.side, object: object.clone() })
    }

    /// Adds the secrets with which the account's images are pulled. An account that every namespace has is not brought, so
    /// the template names them itself.
    async fn pull_secrets(
        &self,
        kind: &Kind,
        workload: &mut Value,
        template: &Value,
        references: &mut References,
    ) -> Result<(), Error> {
        let name = references::account(template);
        let Some(accounts) = kind::named("ServiceAccount") else { return Ok(()) };
        let Some(account) = accounts.find(self.source, self.namespace, name).await? else { return Ok(()) };
        let names = references::pull_secrets(&account);
        let names_own = template["spec"]["imagePullSecrets"].as_array().is_some_and(|list| !list.is_empty());
        if references::is_own_account(name) && !names_own && !names.is_empty() {
            let spec = kind.template.and_then(|pointer| workload.pointer_mut(pointer));
            spec.into_iter().for_each(|template| {
                template["spec"]["imagePullSecrets"] = names.iter().map(|name| json!({"name": name})).collect();
            });
        }
        references.secrets.extend(names);
        Ok(())
    }

    async fn list(&self, kind: &str) -> Result<Vec<Value>, Error> {
        match kind::named(kind) {
            Some(kind) => kind.list(self.source, self.namespace).await,
            None => Ok(Vec::new()),
        }
    }

    async fn read(&mut self, kind: &str, name: &str) -> Result<(), Error> {
        if let Some(kind) = kind::named(kind)
            && let Some(found) = kind.find(self.source, self.namespace, name).await?
        {
            keep(&mut self.found, kind.kind, found);
        }
        Ok(())
    }
}

fn keep(found: &mut BTreeMap<(usize, String), Value>, kind: &str, value: Value) {
    let order = kind::named(kind).map_or(usize::MAX, Kind::order);
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    found.insert((order, name), value);
}

fn is_of(change: &Change, object: &ObjectRef) -> bool {
    change.state != ChangeState::Undone && change.object.kind == object.kind && change.object.name == object.name
}

/// Takes back what was changed to stop it, the last change first.
fn as_before(mut value: Value, changes: &[&Change]) -> Value {
    for change in changes.iter().rev() {
        match &change.act {
            Act::Scale { before, .. } => value["spec"]["replicas"] = json!(before),
            Act::Set { pointer, before, .. } => set(&mut value, pointer, before),
            Act::Delete { .. } => {}
        }
    }
    value
}

/// Sets what a JSON pointer points at; null takes it away.
fn set(value: &mut Value, pointer: &str, to: &Value) {
    let Some((parent, key)) = pointer.rsplit_once('/') else { return };
    let key = key.replace("~1", "/").replace("~0", "~");
    let Some(Value::Object(parent)) = value.pointer_mut(parent) else { return };
    if to.is_null() {
        parent.remove(&key);
    } else {
        parent.insert(key, to.clone());
    }
}

/// The object as it is to be made; nothing for what has run its course.
fn manifest(kind: &'static Kind, value: Value, renames: &Renames) -> Result<Option<Manifest>, Error> {
    let mut is_over = false;
    each(&value["status"]["conditions"], |one| {
        is_over |=
            kind.kind == "Job" && one["status"] == "True" && (one["type"] == "Complete" || one["type"] == "Failed");
    });
    if is_over {
        return Ok(None);
    }
    let replicas = replicas(kind, &value);
    if let Some(claim) = left_behind(kind, &value, replicas.unwrap_or(0), renames) {
        let what = format!(
            "{} needs claim {claim}, which is not moved: it would start with an empty one",
            kind.reference(&value)
        );
        return Err(Error::refused(
            "TS-K253",
            what,
            "let the migration move it too, or scale the StatefulSet down first",
        ));
    }
    let body = sanitise(kind.kind, value, renames)?;
    let object = kind.reference(&body);
    Ok(Some(Manifest { object, replicas, body }))
}

/// Replicas that it has when it runs; 1 or nothing for what has no number.
fn replicas(kind: &Kind, value: &Value) -> Option<i32> {
    let spec = &value["spec"];
    match kind.kind {
        "Deployment" | "StatefulSet" | "ReplicaSet" | "ReplicationController" => {
            Some(spec["replicas"].as_i64().and_then(|number| i32::try_from(number).ok()).unwrap_or(1))
        }
        "DaemonSet" | "Pod" => Some(1),
        "Job" | "CronJob" => (spec["suspend"] != true).then_some(1),
        _ => None,
    }
}

/// A claim of a StatefulSet that would be made empty at the destination, since it is not among those that are moved.
fn left_behind(kind: &Kind, value: &Value, replicas: i32, renames: &Renames) -> Option<String> {
    if kind.kind != "StatefulSet" {
        return None;
    }
    let set = value["metadata"]["name"].as_str().unwrap_or_default();
    let start = value["spec"]["ordinals"]["start"].as_i64().unwrap_or(0);
    let templates = value["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten();
    let mut claims = templates.filter_map(|template| template["metadata"]["name"].as_str()).flat_map(|template| {
        (start..start + i64::from(replicas)).map(move |ordinal| format!("{template}-{set}-{ordinal}"))
    });
    claims.find(|claim| !renames.claims.contains_key(claim))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(act: Act) -> Change {
        Change { object: ObjectRef::named("apps/v1", "StatefulSet", None, "db"), act, state: ChangeState::Made }
    }

    #[test]
    fn what_was_changed_to_stop_a_workload_is_not_brought() {
        let selector = |before: Value| Act::Set {
            pointer: "/spec/template/spec/nodeSelector/a~1b".to_owned(),
            before,
            after: json!("never"),
        };
        let stopped = json!({"spec": {"replicas": 0, "template": {"spec": {"nodeSelector": {"a/b": "never"}}}}});
        for (before, expected) in [(Value::Null, json!({})), (json!("x"), json!({"a/b": "x"}))] {
            let changes = [change(Act::Scale { before: 3, after: 0 }), change(selector(before))];
            let value = as_before(stopped.clone(), &changes.iter().collect::<Vec<_>>());
            assert_eq!(value, json!({"spec": {"replicas": 3, "template": {"spec": {"nodeSelector": expected}}}}));
        }
    }

    #[test]
    fn a_set_that_would_start_with_an_empty_claim_is_refused() {
        let kind = kind::named("StatefulSet").expect("a kind");
        let set = |replicas: i32, start: i32| {
            json!({"metadata": {"name": "db"}, "spec": {"replicas": replicas, "ordinals": {"start": start},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}})
        };
        let claims = ["data-db-0", "data-db-1"].map(|name| (name.to_owned(), (name.to_owned(), None)));
        let renames = Renames { claims: claims.into(), ..Renames::default() };
        for (replicas, start, is_good) in [(2, 0, true), (1, 1, true), (0, 5, true), (3, 0, false), (1, 5, false)] {
            let made = manifest(kind, set(replicas, start), &renames);
            assert_eq!(made.is_ok(), is_good, "{replicas} from {start}");
        }
    }

    #[test]
    fn what_was_suspended_does_not_start_and_what_is_over_is_not_brought() {
        let job = |spec: Value, status: Value| {
            let kind = kind::named("Job").expect("a kind");
            let value = json!({"metadata": {"name": "db"}, "spec": spec, "status": {"conditions": [status]}});
            manifest(kind, value, &Renames::default()).expect("it can be made").map(|made| made.replicas)
        };
        assert_eq!(job(json!({}), json!({})), Some(Some(1)));
        assert_eq!(job(json!({"suspend": true}), json!({})), Some(None));
        assert_eq!(job(json!({}), json!({"type": "Complete", "status": "True"})), None);
        assert_eq!(job(json!({}), json!({"type": "Complete", "status": "False"})), Some(Some(1)));
    }

    #[test]
    fn a_manifest_does_not_print_what_it_holds() {
        let kind = kind::named("Secret").expect("a kind");
        let secret = json!({"metadata": {"name": "db"}, "data": {"password": "aHVudGVy"}});
        let made = manifest(kind, secret, &Renames::default()).expect("it can be made").expect("one");
        assert!(!format!("{made:?}").contains("aHVudGVy"));
        assert_eq!(made.body()["data"]["password"], "aHVudGVy");
    }
}
