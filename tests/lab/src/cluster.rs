//! One cluster: its control plane, which runs in the network of its first node, and its nodes.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::certificates::{self, Authority};
use crate::command::{command, run};
use crate::golang::{Program, build};
use crate::link::{forget_inside, keep_inside};
use crate::network::{Addresses, make_bridge, remove_bridge};
use crate::node::Node;
use crate::processes::{log, start, wait_for};
use crate::storage::{self, Storage};
use crate::{LabError, Layout, READY_MAX, image};

/// A minor version of Kubernetes that the lab can build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    minor: &'static str,
    patch: &'static str,
}

impl Version {
    /// The oldest that is tested.
    pub const OLDER: Self = Self { minor: "1.34", patch: "1.34.4" };
    /// The newest that is tested.
    pub const NEWER: Self = Self { minor: "1.36", patch: "1.36.3" };

    /// Major and minor number, as the files of its dependencies are called.
    pub(crate) fn minor(self) -> &'static str {
        self.minor
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.patch)
    }
}

/// Programs of the lab, built.
pub(crate) struct Binaries {
    kubernetes: Vec<(Version, PathBuf)>,
    storage: Storage,
    /// Images that are there from the beginning.
    images: Vec<PathBuf>,
}

impl Binaries {
    pub(crate) fn build(layout: &Layout, versions: [Version; 2], say: &dyn Fn(&str)) -> Result<Self, LabError> {
        let mut kubernetes: Vec<(Version, PathBuf)> = Vec::new();
        for version in versions {
            if kubernetes.iter().all(|(built, _)| *built != version) {
                kubernetes.push((version, build(layout, &kubernetes_program(version), say)?));
            }
        }
        Ok(Self { kubernetes, storage: Storage::build(layout, say)?, images: image::build_all(layout, say)? })
    }

    fn kubernetes(&self, version: Version) -> &Path {
        let built = self.kubernetes.iter().find(|(built, _)| *built == version);
        &built.expect("every version of a cluster was built").1
    }
}

fn kubernetes_program(version: Version) -> Program<'static> {
    let (major, minor) = version.minor.split_once('.').expect("two numbers");
    let variable = |name: &str, value: &str| format!("k8s.io/component-base/version.{name}={value}");
    Program {
        module: "kubernetes",
        dependencies: version.minor(),
        package: ".",
        name: format!("kubernetes-{version}"),
        variables: vec![
            variable("gitVersion", &format!("v{version}")),
            variable("gitMajor", major),
            variable("gitMinor", minor),
        ],
    }
}

/// A cluster of the lab.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its name; its context in a kubeconfig is `lab-NAME`.
    pub name: &'static str,
    /// What it runs.
    pub version: Version,
    /// Its nodes; the first has the control plane.
    pub nodes: Vec<Node>,
    number: u8,
}

impl Cluster {
    pub(crate) fn new(name: &'static str, number: u8, nodes: u8, version: Version) -> Self {
        Self { name, version, nodes: (1..=nodes).map(|node| Node::new(name, node)).collect(), number }
    }

    pub(crate) fn addresses(&self) -> Addresses {
        Addresses(self.number)
    }

    /// `host:port` of its API server.
    pub(crate) fn server(&self) -> String {
        format!("{}:6443", self.addresses().node(1))
    }

    pub(crate) fn is_there(&self, layout: &Layout) -> bool {
        certificates::are_there(&layout.home().join(self.name))
    }

    /// Brings it up unless it is there, and waits for its nodes.
    pub(crate) fn up(&self, layout: &Layout, binaries: &Binaries) -> Result<(), LabError> {
        if !self.is_there(layout) {
            let kubernetes = binaries.kubernetes(self.version);
            self.prepare(layout)?;
            self.start_control_plane(layout, kubernetes)?;
            let link = layout.home().join(self.name).join("kubectl");
            std::os::unix::fs::symlink(kubernetes, &link).map_err(LabError::io(&link))?;
            binaries.storage.start(self, layout)?;
            self.nodes.iter().try_for_each(|node| node.start(self, layout, kubernetes, &binaries.images))?;
        }
        let log = log(layout, &self.nodes[0].name, "kubelet")?;
        wait_for("a ready node", &log, READY_MAX, || {
            let nodes = self.kubectl(layout, &["get", "nodes", "--no-headers"]).ok()?;
            (nodes.lines().filter(|line| line.contains(" Ready ")).count() == self.nodes.len()).then_some(())
        })
    }

    fn prepare(&self, layout: &Layout) -> Result<(), LabError> {
        let addresses = self.addresses();
        make_bridge(self.name, addresses)?;
        keep_inside(self)?;
        let server = addresses.node(1).to_string();
        let authority = Authority::make(&layout.folder(self.name)?, self.server())?;
        let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1"];
        let names: Vec<String> =
            names.map(str::to_owned).into_iter().chain([server, addresses.api_service().to_string()]).collect();
        authority.sign("apiserver", "kube-apiserver", None, &names)?;
        for (file, user, group) in [
            ("admin", "admin", Some("system:masters")),
            ("controller-manager", "system:kube-controller-manager", None),
            ("scheduler", "system:kube-scheduler", None),
            ("proxy", "system:kube-proxy", None),
        ] {
            authority.sign_client(self.name, file, user, group, &[])?;
        }
        self.nodes.iter().try_for_each(|node| node.prepare(self, &authority))
    }

    fn start_control_plane(&self, layout: &Layout, kubernetes: &Path) -> Result<(), LabError> {
        let (node, secrets) = (&self.nodes[0].name, layout.folder(self.name)?);
        let start = |name: &str, options: &[String]| {
            let mut process = command(&kubernetes.to_string_lossy(), [name]);
            start(layout, node, name, process.args(options))
        };
        let file = |option: &str, name: &str| format!("--{option}={}", secrets.join(name).display());
        let text = |option: &str| option.to_owned();
        start(
            "etcd",
            &[
                format!("--data-dir={}", layout.folder(format!("{node}/etcd"))?.display()),
                // A lab does not outlive its machine.
                text("--unsafe-no-fsync"),
                text("--listen-client-urls=http://127.0.0.1:2379"),
                text("--advertise-client-urls=http://127.0.0.1:2379"),
                text("--listen-peer-urls=http://127.0.0.1:2380"),
                text("--log-level=warn"),
            ],
        )?;
        start(
            "kube-apiserver",
            &[
                text("--etcd-servers=http://127.0.0.1:2379"),
                format!("--advertise-address={}", self.addresses().node(1)),
                text("--secure-port=6443"),
                file("client-ca-file", "ca.crt"),
                file("tls-cert-file", "apiserver.crt"),
                file("tls-private-key-file", "apiserver.key"),
                file("service-account-key-file", "service-accounts.pub"),
                file("service-account-signing-key-file", "service-accounts.key"),
                text("--service-account-issuer=https://kubernetes.default.svc"),
                format!("--service-cluster-ip-range={}", self.addresses().services()),
                text("--authorization-mode=Node,RBAC"),
                text("--enable-admission-plugins=NodeRestriction"),
                file("kubelet-client-certificate", "admin.crt"),
                file("kubelet-client-key", "admin.key"),
                file("kubelet-certificate-authority", "ca.crt"),
                text("--kubelet-preferred-address-types=InternalIP"),
                text("--allow-privileged=true"),
                text("--endpoint-reconciler-type=lease"),
            ],
        )?;
        // A controller manager that comes before the roles are there ends for good.
        wait_for("an API server", &log(layout, node, "kube-apiserver")?, READY_MAX, || {
            self.kubectl_by(layout, kubernetes, &["get", "--raw=/readyz"]).ok().filter(|answer| answer == "ok")
        })?;
        start(
            "kube-controller-manager",
            &[
                file("kubeconfig", "controller-manager.kubeconfig"),
                file("authentication-kubeconfig", "controller-manager.kubeconfig"),
                file("authorization-kubeconfig", "controller-manager.kubeconfig"),
                file("service-account-private-key-file", "service-accounts.key"),
                file("root-ca-file", "ca.crt"),
                text("--use-service-account-credentials"),
                text("--leader-elect=false"),
                text("--allocate-node-cidrs=false"),
                format!("--cluster-name=lab-{}", self.name),
            ],
        )?;
        start("kube-scheduler", &[file("kubeconfig", "scheduler.kubeconfig"), text("--leader-elect=false")])
    }

    /// Runs kubectl as the cluster's administrator.
    pub fn kubectl(&self, layout: &Layout, arguments: &[&str]) -> Result<String, LabError> {
        self.kubectl_by(layout, &layout.home().join(self.name).join("kubectl"), arguments)
    }

    fn kubectl_by(&self, layout: &Layout, kubernetes: &Path, arguments: &[&str]) -> Result<String, LabError> {
        let kubeconfig = format!("--kubeconfig={}", layout.kubeconfig(self.name, "admin").display());
        run(command(&kubernetes.to_string_lossy(), ["kubectl", &kubeconfig]).args(arguments))
    }

    /// Takes it down, whatever is there of it.
    pub(crate) fn down(&self, layout: &Layout) -> Result<(), LabError> {
        self.nodes.iter().for_each(|node| node.end(layout));
        storage::detach_all(layout);
        self.nodes.iter().try_for_each(|node| node.remove(layout))?;
        remove_bridge(self.name);
        forget_inside(self);
        let folder = layout.home().join(self.name);
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(LabError::io(&folder)(error)),
            _ => Ok(()),
        }
    }
}
