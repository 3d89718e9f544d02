//! The pod of a coordinator in the source's cluster, and what belongs to it alone.
//!
//! One that stages is begun again in its place. One that cuts over is never: its last pod stays to tell how it ended, and the
//! Job can end badly without another pod, which [`fail`] sees to.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVar, LocalObjectReference, PodSecurityContext, PodSpec, PodTemplateSpec,
    SeccompProfile, Secret, SecretVolumeSource, SecurityContext, Toleration, Volume, VolumeMount,
};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use serde_json::json;
use tranship_api::record::Errand;
use tranship_api::{LABEL_COORDINATOR, Record, Side};

use super::name;
use crate::agents::{IMAGE, NOBODY, resources};
use crate::rights::Right;
use crate::{Cluster, Error};

/// Where its pod finds how the destination is reached.
pub const KUBECONFIG: &str = "/coordinator/kubeconfig";

/// What it is to do.
#[derive(Debug, Clone)]
pub struct Work {
    /// What it calls itself in the record. No other coordinator has that name.
    pub coordinator: String,
    /// The command that it runs, without the program.
    pub arguments: Vec<String>,
    /// How often it may be killed, or fail, before it is given up.
    pub tries: i32,
    /// The cutover that it is to make; nothing if it stages.
    pub errand: Option<Errand>,
    /// What it may do.
    pub rights: Vec<&'static Right>,
}

/// How long a pod that is told to end goes on with a cutover that is under way: starting the application where it was would
/// cost it more, and the cutover. The next pod is made meanwhile, and takes over.
const GOES_ON_SECONDS: i64 = 3600;

/// How long a node may be silent until the next pod is made: nothing is lost if the first one is still at work.
const SILENT_SECONDS: i64 = 10;

/// Has its Job fail once the pod that calls this ends badly, in place of making another one.
pub(super) async fn fail(cluster: &Cluster, record: &Record) -> Result<(), Error> {
    let (namespace, name) = (record.namespace(Side::Source), name(record));
    let job: Job = cluster.get(namespace, &name).await?;
    // A lower limit would end this pod before it has said why.
    let failed = job.status.and_then(|status| status.failed).unwrap_or(0);
    cluster.merge::<Job>(namespace, &name, &json!({ "spec": { "backoffLimit": failed } })).await.map(drop)
}

/// Labels of all that is of it.
pub(super) fn labels(record: &Record) -> BTreeMap<String, String> {
    let mut labels = crate::agents::labels(record);
    let work = if record.errand.is_some() { "cutover" } else { "stage" };
    labels.insert(LABEL_COORDINATOR.to_owned(), work.to_owned());
    labels
}

/// How the destination is reached.
pub(super) fn secret(record: &Record, owner: &OwnerReference, kubeconfig: String) -> Secret {
    Secret {
        metadata: metadata(record, owner),
        immutable: Some(true),
        string_data: Some(BTreeMap::from([("kubeconfig".to_owned(), kubeconfig)])),
        type_: Some("tranship.io/kubeconfig".to_owned()),
        ..Secret::default()
    }
}

/// Leave to reach both API servers where the namespace forbids by default; nobody reaches it.
pub(super) fn network_policy(record: &Record, owner: &OwnerReference) -> NetworkPolicy {
    NetworkPolicy {
        metadata: metadata(record, owner),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector { match_labels: Some(labels(record)), ..LabelSelector::default() }),
            ingress: None,
            // Behind which addresses and ports an API server answers, no policy can tell beforehand.
            egress: Some(vec![Default::default()]),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
        }),
    }
}

/// Its pod, and another one whenever that is gone before its work is done.
pub(super) fn job(record: &Record, owner: &OwnerReference, work: &Work) -> Job {
    let (settings, cuts_over) = (record.migration.agent(Side::Source), work.errand.is_some());
    let secrets = settings.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() });
    let volume = Volume {
        name: "kubeconfig".to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(name(record)),
            default_mode: Some(0o440),
            // Without it the work is over: a pod that comes late is to find that out, and not to wait for it.
            optional: Some(true),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let annotations = [("sidecar.istio.io/inject", "false"), ("linkerd.io/inject", "disabled")];
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels(record)),
            // A proxy beside it would never end.
            annotations: Some(BTreeMap::from(annotations.map(|(key, value)| (key.to_owned(), value.to_owned())))),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            restart_policy: Some(if cuts_over { "Never" } else { "OnFailure" }.to_owned()),
            termination_grace_period_seconds: cuts_over.then_some(GOES_ON_SECONDS),
            tolerations: cuts_over.then(|| silent_nodes().into()),
            service_account_name: Some(name(record)),
            automount_service_account_token: Some(true),
            enable_service_links: Some(false),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(NOBODY),
                run_as_group: Some(NOBODY),
                fs_group: Some(NOBODY),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
                ..PodSecurityContext::default()
            }),
            containers: vec![container(record, work)],
            volumes: Some(vec![volume]),
            image_pull_secrets: Some(secrets.collect()),
            ..PodSpec::default()
        }),
    };
    Job {
        metadata: metadata(record, owner),
        spec: Some(JobSpec {
            parallelism: Some(1),
            completions: Some(1),
            backoff_limit: Some(work.tries),
            template,
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// That a pod is not waited for whose node is lost.
fn silent_nodes() -> [Toleration; 2] {
    ["not-ready", "unreachable"].map(|state| Toleration {
        key: Some(format!("node.kubernetes.io/{state}")),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(SILENT_SECONDS),
        ..Toleration::default()
    })
}

fn container(record: &Record, work: &Work) -> Container {
    let settings = record.migration.agent(Side::Source);
    Container {
        name: "coordinator".to_owned(),
        image: Some(settings.image.clone().unwrap_or_else(|| IMAGE.to_owned())),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(work.arguments.clone()),
        env: Some(vec![EnvVar {
            name: "KUBECONFIG".to_owned(),
            value: Some(KUBECONFIG.to_owned()),
            ..EnvVar::default()
        }]),
        resources: Some(resources(settings)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![VolumeMount {
            name: "kubeconfig".to_owned(),
            mount_path: "/coordinator".to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        }]),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

fn metadata(record: &Record, owner: &OwnerReference) -> ObjectMeta {
    ObjectMeta {
        name: Some(name(record)),
        namespace: Some(record.namespace(Side::Source).to_owned()),
        labels: Some(labels(record)),
        owner_references: Some(vec![owner.clone()]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tranship_api::Migration;
    use tranship_api::migration::Mode;

    use super::*;

    fn pod(errand: Option<Errand>) -> PodSpec {
        let migration = Migration::new("shop", "shop");
        let record = Record::new(String::new(), String::new(), migration, Default::default(), Mode::Plain, Vec::new());
        let work = Work { coordinator: String::new(), arguments: Vec::new(), tries: 6, errand, rights: Vec::new() };
        let spec = job(&record, &OwnerReference::default(), &work).spec.expect("a spec");
        // With it no pod is made in place of one whose node is lost.
        assert!(spec.pod_failure_policy.is_none() && spec.pod_replacement_policy.is_none());
        spec.template.spec.expect("a spec")
    }

    #[test]
    fn only_a_pod_that_cuts_over_stays_when_it_fails_goes_on_when_told_to_end_and_is_followed_soon() {
        let (stages, cuts_over) = (pod(None), pod(Some(Errand { at: Timestamp::UNIX_EPOCH, has_begun: false })));
        let policies = [&stages, &cuts_over].map(|pod| pod.restart_policy.as_deref());
        assert_eq!(policies, [Some("OnFailure"), Some("Never")]);
        assert_eq!((stages.termination_grace_period_seconds, stages.tolerations), (None, None));
        assert_eq!(cuts_over.termination_grace_period_seconds, Some(GOES_ON_SECONDS));
        let tolerated = cuts_over.tolerations.unwrap_or_default();
        assert!(tolerated.iter().all(|one| one.toleration_seconds == Some(SILENT_SECONDS)) && tolerated.len() == 2);
    }
}
