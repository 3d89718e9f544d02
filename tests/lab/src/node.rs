//! One node: a container runtime, a kubelet and a proxy in a network of their own.

use std::fs;
use std::path::{Path, PathBuf};

use crate::certificates::Authority;
use crate::cluster::Cluster;
use crate::command::{command, run, sh};
use crate::image::BUSYBOX;
use crate::layout::write;
use crate::network::{Addresses, make_namespace, remove_namespace};
use crate::processes::{kill, kill_rooted, log, start, wait_for};
use crate::{LabError, Layout, READY_MAX};

/// A node of a cluster.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name, as Kubernetes knows it too.
    pub name: String,
    pub(crate) number: u8,
}

impl Node {
    pub(crate) fn new(cluster: &str, number: u8) -> Self {
        Self { name: format!("{cluster}{number}"), number }
    }

    /// Its network, and what it shows to others.
    pub(crate) fn prepare(&self, cluster: &Cluster, authority: &Authority) -> Result<(), LabError> {
        let addresses = cluster.addresses();
        let others = cluster.nodes.iter().map(|node| node.number).filter(|number| *number != self.number);
        make_namespace(cluster.name, addresses, self.number, others)?;
        let names = [addresses.node(self.number).to_string(), self.name.clone()];
        let user = format!("system:node:{}", self.name);
        authority.sign_client(cluster.name, &self.file("kubelet"), &user, Some("system:nodes"), &names)
    }

    fn file(&self, what: &str) -> String {
        format!("{what}-{}", self.name)
    }

    /// Starts it. `kubernetes` is the program of all components, `images` are there from the beginning.
    pub(crate) fn start(
        &self,
        cluster: &Cluster,
        layout: &Layout,
        kubernetes: &Path,
        images: &[PathBuf],
    ) -> Result<(), LabError> {
        let address = cluster.addresses().node(self.number).to_string();
        let folder = layout.folder(&self.name)?;
        write(&folder.join("containerd.toml"), self.runtime_config(layout, cluster.addresses())?)?;
        let config = folder.join("containerd.toml");
        start(layout, &self.name, "containerd", command("containerd", ["--config"]).arg(config))?;
        let runtime_log = log(layout, &self.name, "containerd")?;
        wait_for("a container runtime", &runtime_log, READY_MAX, || self.ctr(&["version"]).ok())?;
        self.import(images)?;
        let config = folder.join("kubelet.yaml");
        write(&config, self.kubelet_config(cluster, layout)?)?;
        let option = |name: &str, value: &Path| format!("--{name}={}", value.display());
        let mut kubelet = command(&kubernetes.to_string_lossy(), ["kubelet"]);
        kubelet
            .arg(option("config", &config))
            .arg(option("kubeconfig", &layout.kubeconfig(cluster.name, &self.file("kubelet"))))
            .arg(option("root-dir", &self.kubelet_folder(layout)?))
            .arg(format!("--hostname-override={}", self.name))
            .arg(format!("--node-ip={address}"));
        start(layout, &self.name, "kubelet", &mut kubelet)?;
        let mut proxy = command(&kubernetes.to_string_lossy(), ["kube-proxy", "--proxy-mode=iptables"]);
        proxy
            .arg(option("kubeconfig", &layout.kubeconfig(cluster.name, "proxy")))
            .arg(format!("--hostname-override={}", self.name))
            .arg(format!("--cluster-cidr={}", cluster.addresses().all_pods()))
            .arg(format!("--bind-address={address}"))
            // What counts connections is the whole machine's to set.
            .args(["--conntrack-max-per-core=0", "--conntrack-min=0"]);
        start(layout, &self.name, "kube-proxy", &mut proxy)
    }

    /// Gives it images; those with the same name are replaced, and pods that are made afterwards have the new ones.
    pub(crate) fn import(&self, archives: &[PathBuf]) -> Result<(), LabError> {
        archives.iter().try_for_each(|archive| self.ctr(&["images", "import", &archive.to_string_lossy()]).map(drop))
    }

    /// The kubelet's own folder, in which volumes are mounted.
    pub fn kubelet_folder(&self, layout: &Layout) -> Result<PathBuf, LabError> {
        layout.folder(format!("{}/kubelet", self.name))
    }

    fn runtime_folder(&self) -> String {
        format!("/run/tranship-lab-{}", self.name)
    }

    /// The container runtime's own tool.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> Result<String, LabError> {
        let socket = format!("{}/containerd.sock", self.runtime_folder());
        run(command("timeout", ["60", "ctr", "--connect-timeout", "2s", "--address", &socket, "--namespace", "k8s.io"])
            .args(arguments))
    }

    fn runtime_config(&self, layout: &Layout, addresses: Addresses) -> Result<String, LabError> {
        let (state, root) = (self.runtime_folder(), layout.folder(format!("{}/containerd", self.name))?);
        let network = layout.folder(format!("{}/cni", self.name))?;
        let leases = layout.folder(format!("{}/cni-leases", self.name))?;
        let plugins = serde_json::json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": {
                "type": "host-local",
                "dataDir": leases,
                "ranges": [[{"subnet": addresses.pods(self.number)}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            }},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ]});
        write(&network.join("10-bridge.conflist"), plugins.to_string())?;
        // A root that may not raise priorities cannot give a sandbox the one that it should have.
        Ok(format!(
            r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{state}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{BUSYBOX}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{network}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"#,
            root = root.display(),
            network = network.display(),
        ))
    }

    fn kubelet_config(&self, cluster: &Cluster, layout: &Layout) -> Result<String, LabError> {
        let secrets = layout.folder(cluster.name)?;
        let secret = |name: String| secrets.join(name).display().to_string();
        let config = serde_json::json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": secret("ca.crt".to_owned())},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": secret(format!("{}.crt", self.file("kubelet"))),
            "tlsPrivateKeyFile": secret(format!("{}.key", self.file("kubelet"))),
            // The older form of control groups, without the right to arrange them.
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/lab-{}", self.name),
            "cgroupsPerQOS": false,
            "enforceNodeAllocatable": [],
            "failCgroupV1": false,
            "failSwapOn": false,
            "containerRuntimeEndpoint": format!("unix://{}/containerd.sock", self.runtime_folder()),
            "resolvConf": "/dev/null",
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "podLogsDir": layout.folder(format!("{}/pod-logs", self.name))?,
        });
        Ok(config.to_string())
    }

    /// Ends everything that runs on the node, in whatever state it is.
    pub(crate) fn end(&self, layout: &Layout) {
        // The kubelet first: it would start again what is stopped.
        kill(&self.name, "kubelet");
        for task in self.ctr(&["tasks", "ls", "--quiet"]).unwrap_or_default().lines() {
            let _ = self.ctr(&["tasks", "kill", "--signal", "SIGKILL", task]);
        }
        kill(&self.name, "");
        // What a runtime that was killed has left behind.
        kill_rooted(&layout.home().join(&self.name));
        for process in sh(&format!("ip netns pids lab-{}", self.name)).unwrap_or_default().lines() {
            let _ = sh(&format!("kill -KILL {process}"));
        }
    }

    /// Removes what is left of a node that has [ended](Self::end).
    pub(crate) fn remove(&self, layout: &Layout) -> Result<(), LabError> {
        let folder = layout.home().join(&self.name);
        unmount_beneath(&[folder.to_string_lossy().into_owned(), self.runtime_folder()])?;
        remove_namespace(&self.name);
        for folder in [folder, PathBuf::from(self.runtime_folder())] {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(LabError::io(&folder)(error)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Unmounts everything beneath these folders, the innermost first.
fn unmount_beneath(folders: &[String]) -> Result<(), LabError> {
    let mounts = Path::new("/proc/self/mounts");
    let mounts = fs::read_to_string(mounts).map_err(LabError::io(mounts))?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let is_beneath = |point: &&str| folders.iter().any(|folder| Path::new(point).starts_with(folder));
    for point in points.filter(is_beneath).collect::<Vec<_>>().into_iter().rev() {
        let _ = run(&mut command("umount", ["--lazy", point]));
    }
    Ok(())
}
