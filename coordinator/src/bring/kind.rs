//! The kinds that are brought, in the order in which they are made.

use kube::Api;
use kube::api::{DynamicObject, ListParams};
use serde_json::{Value, json};
use tranship_api::ObjectRef;

use crate::{Cluster, Error};

/// A kind of object.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) plural: &'static str,
    /// Where its pod template is, as a JSON pointer; nothing for what runs nothing.
    pub(super) template: Option<&'static str>,
}

const fn kind(
    api_version: &'static str,
    kind: &'static str,
    plural: &'static str,
    template: Option<&'static str>,
) -> Kind {
    Kind { api_version, kind, plural, template }
}

const TEMPLATE: Option<&str> = Some("/spec/template");

/// All of them.
pub(super) const KINDS: &[Kind] = &[
    kind("v1", "ServiceAccount", "serviceaccounts", None),
    kind("v1", "Secret", "secrets", None),
    kind("v1", "ConfigMap", "configmaps", None),
    kind("v1", "Service", "services", None),
    kind("v1", "Pod", "pods", Some("")),
    kind("v1", "ReplicationController", "replicationcontrollers", TEMPLATE),
    kind("apps/v1", "ReplicaSet", "replicasets", TEMPLATE),
    kind("apps/v1", "Deployment", "deployments", TEMPLATE),
    kind("apps/v1", "StatefulSet", "statefulsets", TEMPLATE),
    kind("apps/v1", "DaemonSet", "daemonsets", TEMPLATE),
    kind("batch/v1", "Job", "jobs", TEMPLATE),
    kind("batch/v1", "CronJob", "cronjobs", Some("/spec/jobTemplate/spec/template")),
    kind("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", None),
];

/// The kind of that name, if it is one that is brought.
pub(super) fn named(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.kind == name)
}

/// The kind of an object that was recorded, or of which a workload is said to be.
pub(super) fn of(object: &ObjectRef) -> Result<&'static Kind, Error> {
    named(&object.kind).ok_or_else(|| {
        let todo = "bring it there by the means by which it is made, and say `resources: none` in the migration";
        Error::refused("TS-K254", format!("{object} is of a kind that cannot be brought"), todo)
    })
}

impl Kind {
    /// Objects of it in a namespace.
    pub(super) fn api(&self, cluster: &Cluster, namespace: &str) -> Api<DynamicObject> {
        cluster.dynamic(self.api_version, self.kind, self.plural, Some(namespace))
    }

    /// The object, if it is there.
    pub(super) async fn find(&self, cluster: &Cluster, namespace: &str, name: &str) -> Result<Option<Value>, Error> {
        let what = format!("get {} {namespace}/{name}", self.kind);
        let found = cluster.call(what, self.api(cluster, namespace).get_opt(name)).await?;
        Ok(found.map(|object| self.value(&object)))
    }

    /// All of the namespace.
    pub(super) async fn list(&self, cluster: &Cluster, namespace: &str) -> Result<Vec<Value>, Error> {
        let what = format!("list {} in {namespace}", self.kind);
        let list = cluster.call(what, self.api(cluster, namespace).list(&ListParams::default())).await?;
        Ok(list.items.iter().map(|object| self.value(object)).collect())
    }

    /// As JSON, with its kind, which an object of a list lacks.
    pub(super) fn value(&self, object: &DynamicObject) -> Value {
        // What was read as JSON can be written as such.
        let mut value = serde_json::to_value(object).unwrap_or_default();
        value["apiVersion"] = json!(self.api_version);
        value["kind"] = json!(self.kind);
        value
    }

    /// Where this kind stands in the order.
    pub(super) fn order(&self) -> usize {
        KINDS.iter().position(|kind| kind.kind == self.kind).unwrap_or(KINDS.len())
    }

    /// Whether it runs pods.
    pub(super) fn is_workload(&self) -> bool {
        self.template.is_some()
    }

    /// A reference to an object of it.
    pub(super) fn reference(&self, value: &Value) -> ObjectRef {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        ObjectRef {
            uid: text("/metadata/uid").to_owned(),
            ..ObjectRef::named(self.api_version, self.kind, Some(text("/metadata/namespace")), text("/metadata/name"))
        }
    }
}
