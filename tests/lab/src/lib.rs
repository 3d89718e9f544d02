//! Two real Kubernetes clusters on one bare Debian machine, from nothing and as root.
//!
//! Every node is a network namespace with a kubelet, a container runtime and a proxy of its own; the first node of a
//! cluster has its control plane too. Kubernetes and etcd are built from their Go modules, and cached. The clusters share
//! no network but the machine itself, which stands between them as a router.

mod certificates;
mod cluster;
mod command;
mod error;
mod golang;
mod image;
mod layout;
mod network;
mod node;
mod packages;
mod processes;
mod storage;

use std::path::Path;
use std::thread;
use std::time::Duration;

pub use cluster::{Cluster, Version};
pub use error::LabError;
pub use image::{BUSYBOX, POSTGRES};
pub use layout::Layout;

use cluster::Binaries;

/// How long one part of a cluster may take until it answers.
const READY_MAX: Duration = Duration::from_secs(60);

/// The clusters of the lab: `a` with two nodes and `b` with one.
pub fn clusters(versions: [Version; 2]) -> [Cluster; 2] {
    [Cluster::new("a", 1, 2, versions[0]), Cluster::new("b", 2, 1, versions[1])]
}

/// Brings up what is not up yet, and waits until every node is ready. `root` is the workspace's folder.
///
/// What is built is kept under `target`; the clusters live in [`Layout::home`] and end with [`down`].
pub fn up(root: &Path, versions: [Version; 2], say: &(dyn Fn(&str) + Sync)) -> Result<Layout, LabError> {
    let layout = Layout::new(root);
    packages::install(say)?;
    let binaries = Binaries::build(&layout, versions, say)?;
    let clusters = clusters(versions);
    thread::scope(|scope| {
        let bringing = clusters.each_ref().map(|cluster| scope.spawn(|| cluster.up(&layout, &binaries)));
        bringing.into_iter().try_for_each(|one| one.join().expect("no thread of the lab panics"))
    })?;
    for cluster in &clusters {
        say(&format!("{}: {} nodes are ready, Kubernetes {}", cluster.name, cluster.nodes.len(), cluster.version));
        say(&format!("  export KUBECONFIG={}", layout.kubeconfig(cluster.name, "admin").display()));
    }
    Ok(layout)
}

/// Takes down everything of the lab that is there, whatever state it is in.
pub fn down(root: &Path) -> Result<(), LabError> {
    let layout = Layout::new(root);
    for cluster in &clusters([Version::OLDER; 2]) {
        cluster.down(&layout)?;
    }
    layout.remove_home()
}

/// What every node of the lab says of itself; empty if there is no lab.
pub fn status(root: &Path) -> Result<String, LabError> {
    let layout = Layout::new(root);
    let mut text = String::new();
    for cluster in clusters([Version::OLDER; 2]).iter().filter(|cluster| cluster.is_there(&layout)) {
        text += &cluster.kubectl(&layout, &["get", "nodes", "-o", "wide", "--no-headers"])?;
    }
    Ok(text)
}
