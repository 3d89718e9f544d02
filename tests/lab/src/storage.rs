//! Volumes that a cluster makes by itself: the lab's own driver, and the usual controllers beside it.

use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, Version};
use crate::command::{command, run};
use crate::golang::{Program, build};
use crate::processes::{log, start, wait_for};
use crate::{LabError, Layout, READY_MAX};

/// The driver's name, as storage classes give it.
const DRIVER: &str = "lab.tranship.io";

/// Controllers of Kubernetes' storage group, each with the package that it comes from. They are built together with the
/// newest Kubernetes, from the same versions of everything: nearly all that they need is built for that already.
const CONTROLLERS: &[(&str, &str)] = &[
    ("provisioner", "github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner"),
    ("attacher", "github.com/kubernetes-csi/external-attacher/v4/cmd/csi-attacher"),
    ("resizer", "github.com/kubernetes-csi/external-resizer/v2/cmd/csi-resizer"),
];

/// Classes and the driver's description. Volumes wait for the first pod, and can grow.
const OBJECTS: &str = r#"
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: lab.tranship.io}
spec: {attachRequired: true, podInfoOnMount: false, fsGroupPolicy: File, volumeLifecycleModes: [Persistent]}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: ext4, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: lab.tranship.io
parameters: {csi.storage.k8s.io/fstype: ext4}
volumeBindingMode: WaitForFirstConsumer
allowVolumeExpansion: true
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: xfs}
provisioner: lab.tranship.io
parameters: {csi.storage.k8s.io/fstype: xfs}
volumeBindingMode: WaitForFirstConsumer
allowVolumeExpansion: true
"#;

/// Takes away the loop devices of all volumes: those that kubelets have put over them first. One that is mounted goes
/// when it is unmounted; after that the file behind it could not be told any more.
pub(crate) fn detach_all(layout: &Layout) {
    let list = ["--list", "--noheadings", "--output", "NAME,BACK-FILE"];
    let told = run(&mut command("losetup", list)).unwrap_or_default();
    let ours =
        |line: &&str| line.split_whitespace().nth(1).is_some_and(|file| Path::new(file).starts_with(layout.home()));
    let mut lines: Vec<&str> = told.lines().filter(ours).collect();
    lines.sort_by_key(|line| !line.contains("/kubelet/"));
    for device in lines.iter().filter_map(|line| line.split_whitespace().next()) {
        let _ = run(&mut command("losetup", ["--detach", device]));
    }
}

/// Programs, built.
pub(crate) struct Storage {
    driver: PathBuf,
    controllers: Vec<(&'static str, PathBuf)>,
}

impl Storage {
    pub(crate) fn build(layout: &Layout, say: &dyn Fn(&str)) -> Result<Self, LabError> {
        let build = |&(name, package): &(&'static str, &'static str)| {
            let program = Program {
                module: "kubernetes",
                dependencies: Version::NEWER.minor(),
                package,
                name: format!("csi-{name}"),
                variables: Vec::new(),
            };
            Ok((name, build(layout, &program, say)?))
        };
        let controllers = CONTROLLERS.iter().map(build).collect::<Result<_, LabError>>()?;
        say("building lab-csi");
        run(command("cargo", ["build", "--quiet", "--package", "tranship-lab-csi"]).current_dir(layout.root()))?;
        Ok(Self { driver: layout.root().join("target/debug/lab-csi"), controllers })
    }

    /// Starts everything in a cluster whose API answers; its nodes may still be on their way.
    pub(crate) fn start(&self, cluster: &Cluster, layout: &Layout) -> Result<(), LabError> {
        let volumes = layout.folder(format!("{}/volumes", cluster.name))?;
        let first = &cluster.nodes[0].name;
        let socket = layout.home().join(cluster.name).join("csi.sock");
        let driver = |role: &str, socket: &Path| {
            let mut driver = command(&self.driver.to_string_lossy(), [role, "--socket"]);
            driver.arg(socket).arg("--volumes").arg(&volumes);
            driver
        };
        start(layout, first, "csi-controller", &mut driver("controller", &socket))?;
        for node in &cluster.nodes {
            let kubelet = node.kubelet_folder(layout)?;
            let plugin = layout.folder(kubelet.join("plugins").join(DRIVER))?.join("csi.sock");
            let registry = layout.folder(kubelet.join("plugins_registry"))?;
            let mut process = driver("node", &plugin);
            process.arg("--node").arg(&node.name).arg("--plugins-registry").arg(registry);
            start(layout, &node.name, "csi-node", &mut process)?;
        }
        let controller_log = log(layout, first, "csi-controller")?;
        wait_for("a storage driver", &controller_log, READY_MAX, || socket.exists().then_some(()))?;
        for (name, program) in &self.controllers {
            let mut controller = command(&program.to_string_lossy(), [format!("--csi-address={}", socket.display())]);
            controller.arg(format!("--kubeconfig={}", layout.kubeconfig(cluster.name, "admin").display()));
            if *name == "provisioner" {
                // What a pod's node can reach is where its volume is made.
                controller.args(["--feature-gates=Topology=true", "--extra-create-metadata"]);
            }
            start(layout, first, &format!("csi-{name}"), &mut controller)?;
        }
        let objects = layout.home().join(cluster.name).join("storage.yaml");
        crate::layout::write(&objects, OBJECTS)?;
        cluster.kubectl(layout, &["apply", "--filename", &objects.to_string_lossy()]).map(drop)
    }
}
