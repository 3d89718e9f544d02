//! Whether a lab that is there can be used as it is.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::processes::{log, of_node, wait_for};
use crate::{LabError, Layout};

/// What every node runs, and what the first one of a cluster does besides: parts of command lines.
const NODE: &[&str] = &["containerd --config ", " kubelet ", " kube-proxy ", "lab-csi node "];
const FIRST: &[&str] = &[
    " etcd ",
    " kube-apiserver ",
    " kube-controller-manager ",
    " kube-scheduler ",
    "lab-csi controller ",
    "/csi-provisioner",
    "/csi-attacher",
    "/csi-resizer",
];

/// How long an API server that runs may take to say that it is ready.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Why the lab has to be made anew; nothing if it lives and is this workspace's.
pub(crate) fn ailment(layout: &Layout, clusters: &[Cluster]) -> Option<String> {
    clusters.iter().find_map(|cluster| {
        if !cluster.is_there(layout) {
            return Some(format!("there is no cluster {}", cluster.name));
        }
        // Its programs are the workspace's, whose storage driver and images another one does not know.
        let programs = std::fs::read_link(layout.home().join(cluster.name).join("kubectl")).unwrap_or_default();
        if !programs.starts_with(layout.cache()) {
            return Some(format!("cluster {} is another workspace's: {}", cluster.name, programs.display()));
        }
        dead_process(cluster).or_else(|| silence(layout, cluster).err().map(|error| error.to_string()))
    })
}

fn dead_process(cluster: &Cluster) -> Option<String> {
    cluster.nodes.iter().enumerate().find_map(|(n, node)| {
        let running = of_node(&node.name);
        let mut wanted = NODE.iter().chain(if n == 0 { FIRST } else { &[] });
        let dead = wanted.find(|part| !running.iter().any(|(_, line)| line.contains(**part)))?;
        Some(format!("{:?} does not run on {}", dead.trim(), node.name))
    })
}

fn silence(layout: &Layout, cluster: &Cluster) -> Result<(), LabError> {
    let log = log(layout, &cluster.nodes[0].name, "kube-apiserver")?;
    wait_for("an answer of the API server", &log, ANSWER_MAX, || {
        cluster.kubectl(layout, &["get", "--raw=/readyz", "--request-timeout=5s"]).ok()
    })
    .map(drop)
}
