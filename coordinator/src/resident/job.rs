//! The pod of a coordinator in the source's cluster, and what belongs to it alone.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVar, LocalObjectReference, PodSecurityContext, PodSpec, PodTemplateSpec,
    SeccompProfile, Secret, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use tranship_api::{LABEL_COORDINATOR, Record, Side};

use super::name;
use crate::agents::{IMAGE, NOBODY, resources};

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
}

/// Labels of all that is of it.
pub(super) fn labels(record: &Record) -> BTreeMap<String, String> {
    let mut labels = crate::agents::labels(record);
    labels.insert(LABEL_COORDINATOR.to_owned(), "stage".to_owned());
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
    let settings = record.migration.agent(Side::Source);
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
            restart_policy: Some("OnFailure".to_owned()),
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
