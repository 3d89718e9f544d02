//! What an agent is made of in a cluster: its pod, its secret, the claims in which it remembers, a port of the nodes, and
//! leave to use it. Everything here is built from arguments and made elsewhere.
//!
//! An agent holds no token of the API, is put on a node by the scheduler (a node's name in the specification would leave a
//! claim unbound for ever), changes no owner of a volume that is in use (no `fsGroup` at a source), and mounts a source
//! read-only.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, LocalObjectReference, NodeAffinity, NodeSelector,
    NodeSelectorRequirement, NodeSelectorTerm, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeClaimVolumeSource, Pod, PodSecurityContext, PodSpec, ResourceRequirements, SeccompProfile, Secret,
    SecretVolumeSource, SecurityContext, Service, ServicePort, ServiceSpec, Toleration, Volume, VolumeDevice,
    VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tranship_api::migration::{AgentPod, Mode};
use tranship_api::{LABEL_AGENT, LABEL_ID, LABEL_MIGRATION, Record, Side};
use tranship_proto::control::Role;

use crate::workload::Constraints;

/// The image of this version.
pub const IMAGE: &str = concat!("tranship.io/tranship:", env!("CARGO_PKG_VERSION"));

/// Ports on which passes listen: the first, and as many more as an agent has volumes.
pub const LISTEN_PORT: u16 = 7410;

/// Ports on which forwarded connections come in, in the same way.
pub const RELAY_PORT: u16 = 7450;

/// How long an agent stays when there is nothing to do.
pub const IDLE: &str = "60s";

/// Bytes of a claim in which an agent remembers, whatever the volume's size, and the share of that size beside it. On less
/// than 300 MiB there can be no xfs.
const STATE_BYTES_MIN: u64 = 512 << 20;
const STATE_SHARE: u64 = 400;

/// User and group of an agent beside a volume of which nobody says whose it is.
pub(crate) const NOBODY: i64 = 65_532;

/// How the volumes of a pod are called in which an agent remembers.
const STATE_VOLUME: &str = "state-";

/// The capabilities by which root reads and writes files of any owner, all of them within the baseline.
const OWNER_CAPABILITIES: [&str; 6] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"];

/// An agent that is to be made.
#[derive(Debug, Clone)]
pub struct AgentPlan {
    /// In which cluster.
    pub side: Side,
    /// What it does.
    pub role: Role,
    /// Which of the agents of this side it is.
    pub group: usize,
    /// Indexes of its volumes in the record.
    pub volumes: Vec<usize>,
    /// The node on which it has to be; nothing for wherever the volumes can be.
    pub node: Option<String>,
    /// What it takes over from the application.
    pub traits: Constraints,
}

/// The name of a volume, as agents know it.
pub fn volume_key(index: usize) -> String {
    format!("v{index}")
}

/// The name of an agent's pod, and of what belongs to it alone.
pub fn pod_name(record: &Record, side: Side, group: usize) -> String {
    format!("tranship-{}-{side}-{group}", record.migration.metadata.name)
}

/// The name of the pod that makes an agent's claims ready.
pub fn preparation_name(record: &Record, side: Side, group: usize) -> String {
    format!("{}-init", pod_name(record, side, group))
}

/// The name of the claim in which this side remembers a volume.
pub fn state_claim_name(record: &Record, volume: usize) -> String {
    format!("tranship-{}-{}", record.migration.metadata.name, volume_key(volume))
}

/// Whether a claim is one of those in which a migration remembers, by their names.
pub fn is_state_claim(migration: &str, claim: &str) -> bool {
    let key = claim.strip_prefix("tranship-").and_then(|rest| rest.strip_prefix(migration));
    let index = key.and_then(|key| key.strip_prefix("-v"));
    index.is_some_and(|index| !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Labels of everything that belongs to a migration.
pub fn labels(record: &Record) -> BTreeMap<String, String> {
    BTreeMap::from([
        (LABEL_MIGRATION.to_owned(), record.migration.metadata.name.clone()),
        (LABEL_ID.to_owned(), record.id.clone()),
    ])
}

/// Selects everything that belongs to a migration.
pub fn selector(record: &Record) -> String {
    format!("{LABEL_ID}={}", record.id)
}

/// Selects agents, and what belongs to them alone. What was brought for the application has our mark, too: a pod of its
/// own among it is never ended.
pub fn agents_selector(record: &Record) -> String {
    format!("{},{LABEL_AGENT}", selector(record))
}

/// What a pod of ours asks of its node, and the most that it gets.
pub(crate) fn resources(settings: &AgentPod) -> ResourceRequirements {
    let quantities = |amounts: &BTreeMap<String, String>| {
        (!amounts.is_empty())
            .then(|| amounts.iter().map(|(name, amount)| (name.clone(), Quantity(amount.clone()))).collect())
    };
    ResourceRequirements {
        requests: quantities(&settings.requests).or_else(|| {
            let modest = [("cpu", "50m"), ("memory", "64Mi")];
            Some(modest.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned()))).into())
        }),
        limits: quantities(&settings.limits),
        ..ResourceRequirements::default()
    }
}

impl AgentPlan {
    /// The pod. `owner` is the record's object in this cluster; `secret_hash` is that of the control secret.
    pub fn pod(&self, record: &Record, owner: &OwnerReference, secret_hash: &str) -> Pod {
        let mut spec = PodSpec {
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            // Agents are told addresses, and ask for no names.
            dns_policy: Some("Default".to_owned()),
            restart_policy: Some("Never".to_owned()),
            termination_grace_period_seconds: Some(30),
            security_context: Some(self.pod_security(record)),
            containers: vec![self.container(record, secret_hash)],
            volumes: Some(self.mounted(record)),
            image_pull_secrets: Some(
                self.settings(record)
                    .image_pull_secrets
                    .iter()
                    .map(|name| LocalObjectReference { name: name.clone() })
                    .collect(),
            ),
            ..PodSpec::default()
        };
        self.place(&mut spec);
        Pod { metadata: self.metadata(record, owner), spec: Some(spec), status: None }
    }

    /// A pod that gives the claims in which this agent remembers to the agent's group, and ends at once; nothing where the
    /// agent can write there without.
    ///
    /// A fresh file system belongs to root. An `fsGroup` would change that, but is one for all volumes of a pod, and would
    /// change the owners of a volume that is in use, too: so it is asked for by a pod that mounts these claims alone.
    pub fn preparation(&self, record: &Record, owner: &OwnerReference) -> Option<Pod> {
        if self.role != Role::Source || self.is_root(record) {
            return None;
        }
        let agent = self.pod(record, owner, "");
        let mut spec = agent.spec?;
        let is_state = |name: &str| name.starts_with(STATE_VOLUME);
        spec.volumes.iter_mut().for_each(|volumes| volumes.retain(|volume| is_state(&volume.name)));
        for container in &mut spec.containers {
            container.args = Some(vec!["--version".to_owned()]);
            (container.ports, container.volume_devices) = (None, None);
            container.volume_mounts.iter_mut().for_each(|mounts| mounts.retain(|mount| is_state(&mount.name)));
        }
        if let Some(security) = &mut spec.security_context {
            security.fs_group = Some(self.state_group());
        }
        let metadata = ObjectMeta {
            name: Some(preparation_name(record, self.side, self.group)),
            // Found like an agent's pod, but nothing is led to it.
            labels: agent.metadata.labels.map(|mut labels| {
                labels.insert(LABEL_AGENT.to_owned(), format!("{}-{}-init", self.side, self.group));
                labels
            }),
            ..agent.metadata
        };
        Some(Pod { metadata, spec: Some(spec), status: None })
    }

    /// The group to which the claims belong in which this agent remembers, where it is not root.
    pub fn state_group(&self) -> i64 {
        self.traits.fs_group.or(self.traits.run_as_group).unwrap_or(NOBODY)
    }

    /// The control secret, for the pod alone.
    pub fn secret(&self, record: &Record, owner: &OwnerReference, secret: &str) -> Secret {
        Secret {
            metadata: self.metadata(record, owner),
            immutable: Some(true),
            string_data: Some(BTreeMap::from([("secret".to_owned(), secret.to_owned())])),
            type_: Some("tranship.io/control".to_owned()),
            ..Secret::default()
        }
    }

    /// A port of every node for each volume, UDP and TCP alike.
    pub fn service(&self, record: &Record, owner: &OwnerReference, kind: &str) -> Service {
        let ports = self.ports().flat_map(|port| ["UDP", "TCP"].map(|protocol| (port, protocol)));
        Service {
            metadata: self.metadata(record, owner),
            spec: Some(ServiceSpec {
                type_: Some(kind.to_owned()),
                selector: Some(self.pod_labels(record)),
                external_traffic_policy: Some("Cluster".to_owned()),
                ports: Some(
                    ports
                        .map(|(port, protocol)| ServicePort {
                            name: Some(format!("{}-{port}", protocol.to_lowercase())),
                            port: port.into(),
                            protocol: Some(protocol.to_owned()),
                            target_port: Some(IntOrString::Int(port.into())),
                            ..ServicePort::default()
                        })
                        .collect(),
                ),
                ..ServiceSpec::default()
            }),
            status: None,
        }
    }

    /// Leave to reach the passes of this agent, and for it to reach others, where the namespace forbids by default.
    pub fn network_policy(&self, record: &Record, owner: &OwnerReference) -> NetworkPolicy {
        let port = |port: u16, protocol: &str| NetworkPolicyPort {
            port: Some(IntOrString::Int(port.into())),
            protocol: Some(protocol.to_owned()),
            end_port: None,
        };
        let ports = self.ports().flat_map(|number| [port(number, "UDP"), port(number, "TCP")]).collect();
        NetworkPolicy {
            metadata: self.metadata(record, owner),
            spec: Some(NetworkPolicySpec {
                pod_selector: Some(LabelSelector {
                    match_labels: Some(self.pod_labels(record)),
                    ..LabelSelector::default()
                }),
                ingress: Some(vec![NetworkPolicyIngressRule { ports: Some(ports), from: None }]),
                // The other side's addresses are not known beforehand, and what may be said there is pinned by its key.
                egress: Some(vec![Default::default()]),
                policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            }),
        }
    }

    /// The port on which the volume at this place of the plan listens.
    pub fn listen_port(&self, place: usize) -> u16 {
        LISTEN_PORT + place as u16
    }

    /// The port to which connections are brought for it.
    pub fn relay_port(&self, place: usize) -> u16 {
        RELAY_PORT + place as u16
    }

    fn ports(&self) -> impl Iterator<Item = u16> {
        (0..self.volumes.len()).map(|place| self.listen_port(place))
    }

    fn settings<'a>(&self, record: &'a Record) -> &'a AgentPod {
        record.migration.agent(self.side)
    }

    fn pod_labels(&self, record: &Record) -> BTreeMap<String, String> {
        let mut labels = labels(record);
        labels.insert(LABEL_AGENT.to_owned(), format!("{}-{}", self.side, self.group));
        labels
    }

    fn metadata(&self, record: &Record, owner: &OwnerReference) -> ObjectMeta {
        // A mesh's proxy would carry, and break, what the agents encrypt themselves.
        let annotations = [
            ("sidecar.istio.io/inject", "false"),
            ("linkerd.io/inject", "disabled"),
            ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"),
        ];
        ObjectMeta {
            name: Some(pod_name(record, self.side, self.group)),
            namespace: Some(record.namespace(self.side).to_owned()),
            labels: Some(self.pod_labels(record)),
            annotations: Some(annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            owner_references: Some(vec![owner.clone()]),
            ..ObjectMeta::default()
        }
    }

    fn container(&self, record: &Record, secret_hash: &str) -> Container {
        let settings = self.settings(record);
        let mut args: Vec<String> =
            ["agent", "--migration", &record.id, "--secret-file", "/control/secret"].map(str::to_owned).into();
        args.extend(["--secret-hash".to_owned(), secret_hash.to_owned(), "--idle".to_owned(), IDLE.to_owned()]);
        args.extend(["--state", "/state"].map(str::to_owned));
        for &volume in &self.volumes {
            let key = volume_key(volume);
            args.extend(["--volume".to_owned(), format!("{key}=/volumes/{key}")]);
        }
        let (devices, mounts) = self.mounts(record);
        Container {
            name: "agent".to_owned(),
            image: Some(settings.image.clone().unwrap_or_else(|| IMAGE.to_owned())),
            image_pull_policy: Some("IfNotPresent".to_owned()),
            args: Some(args),
            ports: Some(
                self.ports()
                    .flat_map(|port| {
                        ["UDP", "TCP"].map(|protocol| ContainerPort {
                            container_port: port.into(),
                            protocol: Some(protocol.to_owned()),
                            ..ContainerPort::default()
                        })
                    })
                    .collect(),
            ),
            resources: Some(resources(settings)),
            security_context: Some(self.container_security(record)),
            volume_devices: Some(devices),
            volume_mounts: Some(mounts),
            termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
            ..Container::default()
        }
    }

    fn mounts(&self, record: &Record) -> (Vec<VolumeDevice>, Vec<VolumeMount>) {
        let is_source = self.role == Role::Source;
        let (mut devices, mut mounts) = (Vec::new(), Vec::new());
        for &volume in &self.volumes {
            let key = volume_key(volume);
            let path = format!("/volumes/{key}");
            if record.volumes[volume].is_block {
                devices.push(VolumeDevice { name: format!("data-{key}"), device_path: path });
            } else {
                let read_only = Some(is_source);
                let name = format!("data-{key}");
                mounts.push(VolumeMount { name, mount_path: path, read_only, ..VolumeMount::default() });
            }
            let (name, mount_path) = (format!("{STATE_VOLUME}{key}"), format!("/state/{key}"));
            mounts.push(VolumeMount { name, mount_path, ..VolumeMount::default() });
        }
        mounts.push(VolumeMount {
            name: "control".to_owned(),
            mount_path: "/control".to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        });
        (devices, mounts)
    }

    fn mounted(&self, record: &Record) -> Vec<Volume> {
        let claim = |name: String, claim_name: String, read_only: bool| Volume {
            name,
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name,
                read_only: read_only.then_some(true),
            }),
            ..Volume::default()
        };
        let mut volumes = Vec::new();
        for &volume in &self.volumes {
            let key = volume_key(volume);
            let name = record.volumes[volume].claim(self.side).name.clone();
            // For a device this is all that keeps an agent from writing: the kubelet gives the container no right to.
            volumes.push(claim(format!("data-{key}"), name, self.role == Role::Source));
            volumes.push(claim(format!("{STATE_VOLUME}{key}"), state_claim_name(record, volume), false));
        }
        volumes.push(Volume {
            name: "control".to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(pod_name(record, self.side, self.group)),
                default_mode: Some(0o444),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
        volumes
    }

    /// Raw devices belong to root, whatever the mode.
    fn is_root(&self, record: &Record) -> bool {
        record.mode == Mode::Owner || self.volumes.iter().any(|&volume| record.volumes[volume].is_block)
    }

    fn pod_security(&self, record: &Record) -> PodSecurityContext {
        let traits = &self.traits;
        let mut security = PodSecurityContext {
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
            se_linux_options: traits.se_linux_options.clone(),
            se_linux_change_policy: traits.se_linux_change_policy.clone(),
            ..PodSecurityContext::default()
        };
        if self.is_root(record) {
            (security.run_as_user, security.run_as_group) = (Some(0), Some(0));
        } else {
            security.run_as_non_root = Some(true);
            security.run_as_user = Some(traits.run_as_user.unwrap_or(NOBODY));
            security.run_as_group = traits.run_as_group;
            let mut groups: Vec<i64> = traits.supplemental_groups.clone();
            groups.extend([self.state_group()].iter().filter(|group| !traits.supplemental_groups.contains(group)));
            security.supplemental_groups = Some(groups);
            // Only on claims that we made, and of those only while their root does not belong to the group yet.
            if self.role == Role::Destination && self.side == Side::Destination {
                security.fs_group = Some(self.state_group());
                security.fs_group_change_policy = Some("OnRootMismatch".to_owned());
            }
        }
        security
    }

    fn container_security(&self, record: &Record) -> SecurityContext {
        let is_owner = record.mode == Mode::Owner;
        let add = is_owner.then(|| OWNER_CAPABILITIES.map(str::to_owned).into());
        SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { add, drop: Some(vec!["ALL".to_owned()]) }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }
    }

    fn place(&self, spec: &mut PodSpec) {
        let everything = Toleration { operator: Some("Exists".to_owned()), ..Toleration::default() };
        if let Some(node) = &self.node {
            let requirement = NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.clone()]),
            };
            let term = NodeSelectorTerm { match_fields: Some(vec![requirement]), ..NodeSelectorTerm::default() };
            let required = NodeSelector { node_selector_terms: vec![term] };
            spec.affinity = Some(Affinity {
                node_affinity: Some(NodeAffinity {
                    required_during_scheduling_ignored_during_execution: Some(required),
                    ..NodeAffinity::default()
                }),
                ..Affinity::default()
            });
            // The application is there, whatever taints the node has.
            spec.tolerations = Some(vec![everything]);
        } else {
            let traits = &self.traits;
            spec.node_selector = (!traits.node_selector.is_empty()).then(|| traits.node_selector.clone());
            spec.affinity = traits.affinity_before();
            spec.tolerations = (!traits.tolerations.is_empty()).then(|| traits.tolerations.clone());
        }
    }
}

/// The claim in which this side remembers a volume of `capacity` bytes.
pub fn state_claim(
    record: &Record,
    side: Side,
    volume: usize,
    capacity: u64,
    owner: &OwnerReference,
) -> PersistentVolumeClaim {
    let settings = record.migration.agent(side);
    let class =
        settings.state_storage_class.clone().or_else(|| record.volumes[volume].claim(side).storage_class.clone());
    let size = (STATE_BYTES_MIN + capacity / STATE_SHARE).next_multiple_of(1 << 20);
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(state_claim_name(record, volume)),
            namespace: Some(record.namespace(side).to_owned()),
            labels: Some(labels(record)),
            owner_references: Some(vec![owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: class,
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(size.to_string()))])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// What the pod is told of its control secret, so that another one in its place is noticed.
pub fn secret_hash(secret: &str) -> String {
    blake3::hash(secret.as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests;
