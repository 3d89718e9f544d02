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
mod hang;
mod health;
mod image;
mod lane;
mod layout;
mod link;
mod network;
mod node;
mod packages;
mod processes;
mod product;
mod relay;
mod storage;
mod weather;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

pub use cluster::{Cluster, Version};
pub use error::LabError;
pub use hang::Hang;
pub use image::{BUSYBOX, POSTGRES, RSYNC};
pub use layout::Layout;
pub use link::Link;
pub use product::{Profile, TRANSHIP, TRANSHIP_RELEASE, TRANSHIP_VERSION, WRITER, image};
pub use relay::relay;
pub use weather::Weather;

use certificates::{Access, kubeconfig};
use cluster::Binaries;
use command::{command, run};

/// How long one part of a cluster may take until it answers.
const READY_MAX: Duration = Duration::from_secs(60);

/// The clusters of the lab: `a` with two nodes and `b` with one.
pub fn clusters(versions: [Version; 2]) -> [Cluster; 2] {
    [Cluster::new("a", 1, 2, versions[0]), Cluster::new("b", 2, 1, versions[1])]
}

/// Brings up what is not up yet, and waits until every node is ready. `root` is the workspace's folder. A lab that is half
/// dead, or another workspace's, is taken down first.
///
/// What is built is kept under `target`; the clusters live in [`Layout::home`] and end with [`down`].
pub fn up(root: &Path, versions: [Version; 2], say: &(dyn Fn(&str) + Sync)) -> Result<Layout, LabError> {
    let layout = Layout::new(root);
    packages::install(say)?;
    let binaries = Binaries::build(&layout, versions, say)?;
    let products = product::build_all(&layout, Profile::Dev, say)?;
    run(command("cargo", ["build", "--quiet", "--package", "tranship-lab"]).current_dir(root))?;
    let clusters = clusters(versions);
    if let Some(why) = health::ailment(&layout, &clusters) {
        say(&format!("a lab from nothing: {why}"));
        down(root)?;
    }
    thread::scope(|scope| {
        let bringing = clusters.each_ref().map(|cluster| scope.spawn(|| cluster.up(&layout, &binaries)));
        bringing.into_iter().try_for_each(|one| one.join().expect("no thread of the lab panics"))
    })?;
    import(&clusters, &products)?;
    Link::new(root).up(&root.join("target/debug/tranship-lab"))?;
    write_kubeconfig(&layout, &clusters)?;
    for cluster in &clusters {
        say(&format!("{}: {} nodes are ready, Kubernetes {}", cluster.name, cluster.nodes.len(), cluster.version));
    }
    say(&format!("  export KUBECONFIG={}   # contexts lab-a and lab-b", layout.kubeconfig_all().display()));
    Ok(layout)
}

/// Builds the programs of this workspace anew, and gives their images to every node of the lab, which is up. Pods that
/// are made afterwards run them.
pub fn load(root: &Path) -> Result<(), LabError> {
    load_as(root, Profile::Dev)
}

/// The same, with the product compiled as `profile` says.
pub fn load_as(root: &Path, profile: Profile) -> Result<(), LabError> {
    let layout = Layout::new(root);
    let clusters = clusters([Version::NEWER; 2]);
    if !clusters.iter().all(|cluster| cluster.is_there(&layout)) {
        return Err(LabError::Machine("there is no lab: bring it up first".to_owned()));
    }
    import(&clusters, &product::build_all(&layout, profile, &|_| {})?)
}

/// Gives every node of the lab, which is up, what a measurement needs beside the tests: [`TRANSHIP_RELEASE`] and [`RSYNC`].
/// Nothing is replaced that tests use.
pub fn load_for_figures(root: &Path, say: &dyn Fn(&str)) -> Result<(), LabError> {
    let layout = Layout::new(root);
    let archives = [product::build_release(&layout, say)?, image::build_rsync(&layout, say)?];
    import(&clusters([Version::NEWER; 2]), &archives)
}

fn import(clusters: &[Cluster], archives: &[PathBuf]) -> Result<(), LabError> {
    thread::scope(|scope| {
        let nodes = clusters.iter().flat_map(|cluster| &cluster.nodes);
        let importing: Vec<_> = nodes.map(|node| scope.spawn(|| node.import(archives))).collect();
        importing.into_iter().try_for_each(|one| one.join().expect("no thread of the lab panics"))
    })
}

fn write_kubeconfig(layout: &Layout, clusters: &[Cluster; 2]) -> Result<(), LabError> {
    let servers = clusters.each_ref().map(Cluster::server);
    let folders = clusters.each_ref().map(|cluster| layout.home().join(cluster.name));
    let access =
        |n: usize| Access { cluster: clusters[n].name, server: &servers[n], folder: &folders[n], file: "admin" };
    layout::write(&layout.kubeconfig_all(), kubeconfig(&[access(0), access(1)]))
}

/// Takes down everything of the lab that is there, whatever state it is in.
pub fn down(root: &Path) -> Result<(), LabError> {
    let layout = Layout::new(root);
    Link::new(root).down();
    for cluster in &clusters([Version::NEWER; 2]) {
        cluster.down(&layout)?;
    }
    layout.remove_home()
}

/// What every node of the lab says of itself, or why [`up`] would make the lab anew; empty if there is none.
pub fn status(root: &Path) -> Result<String, LabError> {
    let layout = Layout::new(root);
    let clusters = clusters([Version::NEWER; 2]);
    if !clusters.iter().any(|cluster| cluster.is_there(&layout)) {
        return Ok(String::new());
    }
    if let Some(why) = health::ailment(&layout, &clusters) {
        return Ok(format!("it cannot be used: {why}\n"));
    }
    clusters.iter().map(|cluster| cluster.kubectl(&layout, &["get", "nodes", "-o", "wide", "--no-headers"])).collect()
}

/// The ends of all logs of the lab, for whoever asks why it is not up.
pub fn tails(root: &Path) -> String {
    processes::tails(&Layout::new(root))
}
