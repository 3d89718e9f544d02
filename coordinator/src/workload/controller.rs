//! What keeps pods running, all kinds in one form.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use tranship_api::ObjectRef;

use super::claims;

/// Kinds that this place knows how to stop, in the order in which they are stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Makes Jobs.
    CronJob,
    /// Runs pods until they are done.
    Job,
    /// Makes ReplicaSets.
    Deployment,
    /// Pods with names and claims of their own.
    StatefulSet,
    /// Alike pods.
    ReplicaSet,
    /// The same, as it was before.
    ReplicationController,
    /// A pod on each node.
    DaemonSet,
    /// A pod that nobody makes again.
    Pod,
}

/// What is pulled to stop a workload, as it stands now.
#[derive(Debug, Clone, PartialEq)]
pub enum Lever {
    /// Number of replicas.
    Replicas(i32),
    /// Whether it is suspended; nothing where that is not said.
    Suspend(Option<bool>),
    /// The label of nodes by which we keep a DaemonSet from all of them, if it is there.
    NodeLabel(Option<String>),
    /// The pod itself, fit to be created again.
    Pod(serde_json::Value),
}

/// Something that keeps pods running.
#[derive(Debug, Clone)]
pub(super) struct Controller {
    pub(super) object: ObjectRef,
    pub(super) kind: Kind,
    pub(super) meta: ObjectMeta,
    pub(super) lever: Lever,
    pub(super) template: Option<PodSpec>,
    /// Names of a StatefulSet's claim templates, and its first ordinal.
    pub(super) claim_templates: (Vec<String>, i32),
    /// Whether it will make no pod any more, whatever happens.
    pub(super) is_finished: bool,
    /// Whether claims are deleted as replicas are taken away.
    pub(super) deletes_claims: bool,
}

impl Controller {
    fn new<K>(object: &K, kind: Kind, lever: Lever, template: Option<PodSpec>) -> Self
    where
        K: Resource<DynamicType = ()>,
    {
        Self {
            object: reference(object),
            kind,
            meta: object.meta().clone(),
            lever,
            template,
            claim_templates: (Vec::new(), 0),
            is_finished: false,
            deletes_claims: false,
        }
    }

    /// Claims of `wanted` that its pods use or will use.
    pub(super) fn claims(&self, wanted: &[String]) -> BTreeSet<String> {
        let name = &self.object.name;
        let spec = self.template.iter().flat_map(|spec| claims::of_template(name, spec, wanted));
        let (templates, first) = &self.claim_templates;
        spec.chain(claims::of_claim_templates(name, templates, *first, wanted)).collect()
    }
}

/// The object as it is referred to.
pub(crate) fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectRef {
    let meta = object.meta();
    ObjectRef {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        namespace: meta.namespace.clone(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

/// Replicas that are not written down are one.
fn replicas(count: Option<i32>) -> Lever {
    Lever::Replicas(count.unwrap_or(1))
}

impl From<&Deployment> for Controller {
    fn from(object: &Deployment) -> Self {
        let spec = object.spec.as_ref();
        let template = spec.and_then(|spec| spec.template.spec.clone());
        Self::new(object, Kind::Deployment, replicas(spec.and_then(|spec| spec.replicas)), template)
    }
}

impl From<&StatefulSet> for Controller {
    fn from(object: &StatefulSet) -> Self {
        let spec = object.spec.as_ref();
        let template = spec.and_then(|spec| spec.template.spec.clone());
        let templates = spec.and_then(|spec| spec.volume_claim_templates.as_ref()).into_iter().flatten();
        let first = spec.and_then(|spec| spec.ordinals.as_ref()?.start).unwrap_or(0);
        let policy =
            spec.and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref()?.when_scaled.as_deref());
        Self {
            claim_templates: (templates.filter_map(|claim| claim.metadata.name.clone()).collect(), first),
            deletes_claims: policy == Some("Delete"),
            ..Self::new(object, Kind::StatefulSet, replicas(spec.and_then(|spec| spec.replicas)), template)
        }
    }
}

impl From<&DaemonSet> for Controller {
    fn from(object: &DaemonSet) -> Self {
        let template = object.spec.as_ref().and_then(|spec| spec.template.spec.clone());
        let label = template.as_ref().and_then(|spec| spec.node_selector.as_ref()?.get(super::NO_NODE).cloned());
        Self::new(object, Kind::DaemonSet, Lever::NodeLabel(label), template)
    }
}

impl From<&ReplicaSet> for Controller {
    fn from(object: &ReplicaSet) -> Self {
        let spec = object.spec.as_ref();
        let template = spec.and_then(|spec| spec.template.as_ref()?.spec.clone());
        Self::new(object, Kind::ReplicaSet, replicas(spec.and_then(|spec| spec.replicas)), template)
    }
}

impl From<&ReplicationController> for Controller {
    fn from(object: &ReplicationController) -> Self {
        let spec = object.spec.as_ref();
        let template = spec.and_then(|spec| spec.template.as_ref()?.spec.clone());
        Self::new(object, Kind::ReplicationController, replicas(spec.and_then(|spec| spec.replicas)), template)
    }
}

impl From<&Job> for Controller {
    fn from(object: &Job) -> Self {
        let spec = object.spec.as_ref();
        let template = spec.and_then(|spec| spec.template.spec.clone());
        let conditions = object.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut ends = conditions.filter(|condition| ["Complete", "Failed"].contains(&condition.type_.as_str()));
        Self {
            is_finished: ends.any(|condition| condition.status == "True"),
            ..Self::new(object, Kind::Job, Lever::Suspend(spec.and_then(|spec| spec.suspend)), template)
        }
    }
}

impl From<&CronJob> for Controller {
    fn from(object: &CronJob) -> Self {
        let spec = object.spec.as_ref();
        let of_pods = |template: &PodTemplateSpec| template.spec.clone();
        let template = spec.and_then(|spec| of_pods(&spec.job_template.spec.as_ref()?.template));
        Self::new(object, Kind::CronJob, Lever::Suspend(spec.and_then(|spec| spec.suspend)), template)
    }
}
