//! Who still has a volume: pods that name its claim, and kubelets that have not let go.

use std::collections::BTreeSet;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::Api;
use kube::api::ListParams;

use crate::bring::HELD;
use crate::workload::{claims, may_run};
use crate::{Cluster, Error};

/// Something other than our agents that has a volume, or may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The claim.
    pub claim: String,
    /// How it is held.
    pub hold: Hold,
}

/// How a volume is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// A pod names the claim.
    Pod {
        /// The pod.
        name: String,
        /// Its node; nothing before it has one.
        node: Option<String>,
        /// Its phase.
        phase: String,
        /// Since when it is terminating.
        terminating_since: Option<Timestamp>,
        /// Seconds that it may take for that.
        grace_seconds: Option<i64>,
    },
    /// A node's kubelet has it, without a pod that we know of.
    Mount {
        /// The node.
        node: String,
    },
    /// It is attached to a node where our agent is not.
    Attachment {
        /// The node.
        node: String,
        /// The VolumeAttachment.
        name: String,
    },
}

impl Holder {
    /// Whether a pod names the claim; else only its node has not let go.
    pub fn is_pod(&self) -> bool {
        matches!(self.hold, Hold::Pod { .. })
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let claim = &self.claim;
        match &self.hold {
            Hold::Pod { name, node, phase, terminating_since, grace_seconds } => {
                let place = node.as_ref().map(|node| format!(" on node {node}")).unwrap_or_default();
                let Some(since) = terminating_since else {
                    return write!(f, "Pod {name}{place} is {phase} and uses claim {claim}");
                };
                let grace = grace_seconds.map(|seconds| format!(" with {seconds} s of grace")).unwrap_or_default();
                write!(f, "Pod {name}{place} is terminating since {since}{grace} and still uses claim {claim}")
            }
            Hold::Mount { node } => {
                write!(f, "node {node} has not let go of the volume of claim {claim}, and no pod there explains it")
            }
            Hold::Attachment { node, name } => {
                write!(f, "the volume of claim {claim} is still attached to node {node} (VolumeAttachment {name})")
            }
        }
    }
}

/// Everybody but `our_pods` who has one of the claims, or may have. Empty means released: no pod in any phase but
/// Succeeded and Failed names a claim, and no kubelet has its volume but where a pod of ours is.
pub async fn holders(
    cluster: &Cluster,
    namespace: &str,
    claims: &[String],
    our_pods: &[String],
) -> Result<Vec<Holder>, Error> {
    // Kubelets first: a volume that a pod takes between the two looks is then seen by its pod.
    let kubelets = Kubelets::read(cluster, namespace, claims).await?;
    let pods = cluster.list::<Pod>(namespace, "").await?;
    let mut holders = of_pods(&pods, claims, our_pods);
    holders.extend(kubelets.holders(&pods, our_pods));
    Ok(holders)
}

/// The pods alone, with one call.
pub(crate) async fn pods(
    cluster: &Cluster,
    namespace: &str,
    claims: &[String],
    our_pods: &[String],
) -> Result<Vec<Holder>, Error> {
    Ok(of_pods(&cluster.list::<Pod>(namespace, "").await?, claims, our_pods))
}

fn of_pods(pods: &[Pod], wanted: &[String], our_pods: &[String]) -> Vec<Holder> {
    let is_other = |pod: &&Pod| may_run(pod) && !is_held(pod) && !our_pods.contains(&name(pod).to_owned());
    let others = pods.iter().filter(is_other);
    let holders = others.flat_map(|pod| {
        let used = pod.spec.as_ref().map(|spec| claims::of_pod(name(pod), spec, wanted)).unwrap_or_default();
        used.into_iter().map(|claim| Holder { claim, hold: hold_of(pod) })
    });
    holders.collect()
}

/// Whether a pod waits at our gate: no node is chosen for it before we say so.
fn is_held(pod: &Pod) -> bool {
    let gates = pod.spec.iter().flat_map(|spec| spec.scheduling_gates.iter().flatten());
    node_of(pod).is_none() && gates.into_iter().any(|gate| gate.name == HELD)
}

fn hold_of(pod: &Pod) -> Hold {
    let meta = &pod.metadata;
    // The deletion's time is when the grace ends.
    let grace = SignedDuration::from_secs(meta.deletion_grace_period_seconds.unwrap_or(0));
    let since = meta.deletion_timestamp.as_ref().map(|end| end.0.checked_sub(grace).unwrap_or(end.0));
    Hold::Pod {
        name: name(pod).to_owned(),
        node: node_of(pod).map(str::to_owned),
        phase: pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_else(|| "Pending".to_owned()),
        terminating_since: since,
        grace_seconds: meta.deletion_grace_period_seconds,
    }
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// What nodes and the attach controller say of volumes.
struct Kubelets {
    volumes: Vec<BoundVolume>,
    nodes: Vec<Node>,
    attachments: Vec<VolumeAttachment>,
}

/// The volume of a claim.
struct BoundVolume {
    claim: String,
    volume: String,
    /// How kubelets name it; nothing for what is no CSI volume.
    in_use: Option<String>,
}

impl Kubelets {
    async fn read(cluster: &Cluster, namespace: &str, claims: &[String]) -> Result<Self, Error> {
        let mut volumes = Vec::new();
        let api: Api<PersistentVolume> = Api::all(cluster.client.clone());
        for claim in claims {
            let found = cluster.find::<PersistentVolumeClaim>(namespace, claim).await?;
            let Some(volume) = found.and_then(|found| found.spec?.volume_name) else { continue };
            let what = format!("get PersistentVolume {volume}");
            let Some(found) = cluster.call(what, api.get_opt(&volume)).await? else { continue };
            let csi = found.spec.and_then(|spec| spec.csi);
            let in_use = csi.map(|csi| format!("kubernetes.io/csi/{}^{}", csi.driver, csi.volume_handle));
            volumes.push(BoundVolume { claim: claim.clone(), volume, in_use });
        }
        let (nodes, attachments): (Api<Node>, Api<VolumeAttachment>) =
            (Api::all(cluster.client.clone()), Api::all(cluster.client.clone()));
        let params = ListParams::default();
        let (nodes, attachments) = tokio::try_join!(
            cluster.call("list Nodes", nodes.list(&params)),
            cluster.call("list VolumeAttachments", attachments.list(&params)),
        )?;
        Ok(Self { volumes, nodes: nodes.items, attachments: attachments.items })
    }

    fn holders(&self, pods: &[Pod], our_pods: &[String]) -> Vec<Holder> {
        self.volumes.iter().flat_map(|volume| self.holders_of(volume, pods, our_pods)).collect()
    }

    fn holders_of(&self, volume: &BoundVolume, pods: &[Pod], our_pods: &[String]) -> Vec<Holder> {
        let wanted = [volume.claim.clone()];
        let uses = |pod: &&Pod| {
            may_run(pod) && pod.spec.as_ref().is_some_and(|spec| !claims::of_pod(name(pod), spec, &wanted).is_empty())
        };
        let nodes = |ours: bool| -> BTreeSet<&str> {
            let users = pods.iter().filter(uses).filter(|pod| our_pods.contains(&name(pod).to_owned()) == ours);
            users.filter_map(node_of).collect()
        };
        // A node with another pod on the claim is named by that pod already.
        let (ours, others) = (nodes(true), nodes(false));
        let has_mounted = |node: &&Node| {
            let in_use = node.status.iter().flat_map(|status| status.volumes_in_use.iter().flatten());
            volume.in_use.as_ref().is_some_and(|name| in_use.into_iter().any(|used| used == name))
        };
        let mounts = self.nodes.iter().filter(has_mounted).filter_map(|node| node.metadata.name.clone());
        let mounts: BTreeSet<String> =
            mounts.filter(|node| !ours.contains(node.as_str()) && !others.contains(node.as_str())).collect();
        // What is attached and not mounted cannot be written. It still keeps the volume from our node.
        let attachments = self.attachments.iter().filter(|attachment| {
            let node = attachment.spec.node_name.as_str();
            let is_it = attachment.spec.source.persistent_volume_name.as_ref() == Some(&volume.volume);
            is_it && !ours.is_empty() && !ours.contains(node) && !others.contains(node) && !mounts.contains(node)
        });
        let attachments = attachments.map(|attachment| Hold::Attachment {
            node: attachment.spec.node_name.clone(),
            name: attachment.metadata.name.clone().unwrap_or_default(),
        });
        let attachments: Vec<Hold> = attachments.collect();
        let holds = mounts.into_iter().map(|node| Hold::Mount { node }).chain(attachments);
        holds.map(|hold| Holder { claim: volume.claim.clone(), hold }).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: &str, phase: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": name },
            "spec": {
                "nodeName": node, "containers": [],
                "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "data" } }],
            },
            "status": { "phase": phase },
        }))
        .unwrap()
    }

    fn kubelets(in_use: &[&str], attached: &[&str]) -> Kubelets {
        let node = |name: &&str| -> Node {
            let status = json!({ "volumesInUse": ["kubernetes.io/csi/d^h"] });
            serde_json::from_value(json!({ "metadata": { "name": name }, "status": status })).unwrap()
        };
        let attachment = |node: &&str| -> VolumeAttachment {
            let spec: Value = json!({ "attacher": "d", "nodeName": node, "source": { "persistentVolumeName": "pv" } });
            serde_json::from_value(json!({ "metadata": { "name": format!("va-{node}") }, "spec": spec })).unwrap()
        };
        let in_use_as = Some("kubernetes.io/csi/d^h".to_owned());
        Kubelets {
            volumes: vec![BoundVolume { claim: "data".to_owned(), volume: "pv".to_owned(), in_use: in_use_as }],
            nodes: in_use.iter().map(node).collect(),
            attachments: attached.iter().map(attachment).collect(),
        }
    }

    #[test]
    fn every_pod_that_is_not_over_holds_but_ours_by_exact_name() {
        let pods = [
            pod("app", "n1", "Running"),
            pod("waiting", "", "Pending"),
            pod("lost", "n2", "Unknown"),
            pod("done", "n1", "Succeeded"),
            pod("broken", "n1", "Failed"),
            pod("agent", "n1", "Running"),
            pod("agent-2", "n1", "Running"),
        ];
        let (claims, ours) = (["data".to_owned()], ["agent".to_owned()]);
        let names: Vec<String> = of_pods(&pods, &claims, &ours)
            .into_iter()
            .map(|holder| match holder.hold {
                Hold::Pod { name, .. } => name,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["app", "waiting", "lost", "agent-2"]);
    }

    #[test]
    fn a_pod_at_our_gate_holds_nothing_and_one_at_another_does() {
        let gated = |gate: &str| {
            let mut pod = pod("bare", "", "Pending");
            let spec = pod.spec.as_mut().unwrap();
            spec.node_name = None;
            spec.scheduling_gates = Some(vec![serde_json::from_value(json!({ "name": gate })).unwrap()]);
            pod
        };
        let claims = ["data".to_owned()];
        assert!(of_pods(&[gated(HELD)], &claims, &[]).is_empty());
        assert_eq!(of_pods(&[gated("example.org/quota")], &claims, &[]).len(), 1);
    }

    #[test]
    fn a_kubelet_holds_unless_a_pod_of_ours_is_there() {
        let ours = ["agent".to_owned()];
        let held = |kubelets: &Kubelets, pods: &[Pod]| -> Vec<Hold> {
            kubelets.holders(pods, &ours).into_iter().map(|holder| holder.hold).collect()
        };
        let (mount, attachment) = (
            |node: &str| Hold::Mount { node: node.to_owned() },
            |node: &str| Hold::Attachment { node: node.to_owned(), name: format!("va-{node}") },
        );
        let agent = [pod("agent", "n1", "Running")];
        assert_eq!(held(&kubelets(&["n1"], &["n1"]), &agent), []);
        assert_eq!(held(&kubelets(&["n1", "n2"], &["n1", "n2"]), &agent), [mount("n2")]);
        assert_eq!(held(&kubelets(&["n1"], &["n1", "n2"]), &agent), [attachment("n2")]);
        assert_eq!(held(&kubelets(&["n1"], &["n1"]), &[]), [mount("n1")]);
        assert_eq!(held(&kubelets(&[], &["n1"]), &[]), []);
        assert_eq!(held(&kubelets(&["n1"], &["n1"]), &[pod("app", "n1", "Running")]), []);
    }

    #[test]
    fn a_terminating_pod_says_since_when_and_how_long_it_may_take() {
        let mut pod = pod("app", "n1", "Running");
        let end: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(end));
        pod.metadata.deletion_grace_period_seconds = Some(30);
        let holder = Holder { claim: "data".to_owned(), hold: hold_of(&pod) };
        let expected = "Pod app on node n1 is terminating since 2026-01-01T00:00:30Z with 30 s of grace \
                        and still uses claim data";
        assert_eq!(holder.to_string(), expected);
    }
}
