//! The real driver on its sockets, in a folder that leaves nothing behind.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use prost::Message;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use crate::messages::{
    AccessMode, CapacityRange, ControllerExpandVolumeRequest, ControllerExpandVolumeResponse,
    ControllerPublishVolumeRequest, ControllerUnpublishVolumeRequest, CreateVolumeRequest, CreateVolumeResponse,
    DeleteVolumeRequest, Empty, Mode, MountVolume, NodeExpandVolumeRequest, NodeExpandVolumeResponse,
    NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest,
    VolumeCapability,
};

pub(crate) const MIB: u64 = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(120);

/// A controller, and nodes as they are started.
pub(crate) struct Lab {
    controller: Server,
    nodes: Vec<Node>,
    folder: TempDir,
}

/// A process and its socket.
pub(crate) struct Server {
    process: Child,
    socket: PathBuf,
    calls: Option<Calls>,
}

/// The other end of a socket.
pub(crate) struct Calls {
    channel: Channel,
    runtime: Runtime,
}

/// A node, with paths as a kubelet makes them.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) server: Server,
    pub(crate) folder: PathBuf,
}

/// What an answer was, or the code of the refusal and its reason.
pub(crate) type Answer<T> = Result<T, (Code, String)>;

impl Lab {
    /// Nothing without the rights.
    pub(crate) fn with_nodes(names: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("not tried: needs root");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        let socket = path.join("controller.sock");
        let controller = Server::start(&socket, &[&"controller", &"--volumes", &path.join("volumes")]);
        let mut lab = Self { controller, nodes: Vec::new(), folder };
        names.iter().for_each(|name| lab.start_node(name));
        Some(lab)
    }

    fn start_node(&mut self, name: &str) {
        let folder = self.folder.path().join(name);
        let socket = folder.join("plugins/lab.tranship.io/csi.sock");
        let (volumes, registry) = (self.folder.path().join("volumes"), folder.join("plugins_registry"));
        let arguments: [&dyn AsRef<std::ffi::OsStr>; 7] =
            [&"node", &"--volumes", &volumes, &"--node", &name, &"--plugins-registry", &registry];
        let server = Server::start(&socket, &arguments);
        self.nodes.push(Node { name: name.into(), server, folder });
    }

    pub(crate) fn node(&self, at: usize) -> &Node {
        &self.nodes[at]
    }

    /// Has a node's process die, and starts another.
    pub(crate) fn crash_node(&mut self, at: usize) {
        let mut node = self.nodes.remove(at);
        node.server.process.kill().expect("killed");
        node.server.process.wait().expect("waited");
        assert!(node.server.socket.exists(), "a crash leaves its socket");
        self.start_node(&node.name);
        let node = self.nodes.pop().expect("just started");
        self.nodes.insert(at, node);
    }

    pub(crate) fn controller<I: Message + 'static, O: Message + Default + 'static>(
        &self,
        method: &str,
        request: I,
    ) -> Answer<O> {
        self.controller.call(&format!("/csi.v1.{method}"), request)
    }

    pub(crate) fn create(&self, name: &str, bytes: u64, capability: &VolumeCapability) -> Answer<CreateVolumeResponse> {
        let request = CreateVolumeRequest {
            name: name.into(),
            capacity_range: Some(range(bytes)),
            volume_capabilities: vec![capability.clone()],
            ..Default::default()
        };
        self.controller("Controller/CreateVolume", request)
    }

    pub(crate) fn attach(&self, id: &str, node: usize, capability: &VolumeCapability) -> Answer<Empty> {
        let request = ControllerPublishVolumeRequest {
            volume_id: id.into(),
            node_id: self.nodes[node].name.clone(),
            volume_capability: Some(capability.clone()),
            readonly: false,
        };
        self.controller("Controller/ControllerPublishVolume", request)
    }

    pub(crate) fn detach(&self, id: &str, node: usize) -> Answer<Empty> {
        let request = ControllerUnpublishVolumeRequest { volume_id: id.into(), node_id: self.nodes[node].name.clone() };
        self.controller("Controller/ControllerUnpublishVolume", request)
    }

    /// Everything that gives a pod on this node a volume.
    pub(crate) fn mount(&self, id: &str, node: usize, capability: &VolumeCapability) {
        self.attach(id, node, capability).expect("attached");
        self.node(node).stage(id, capability).expect("staged");
        self.node(node).publish(id, capability).expect("published");
    }

    /// The way back.
    pub(crate) fn unmount(&self, id: &str, node: usize) {
        self.node(node).unpublish(id).expect("unpublished");
        self.node(node).unstage(id).expect("unstaged");
        self.detach(id, node).expect("detached");
    }

    pub(crate) fn expand(&self, id: &str, bytes: u64) -> Answer<ControllerExpandVolumeResponse> {
        let request = ControllerExpandVolumeRequest { volume_id: id.into(), capacity_range: Some(range(bytes)) };
        self.controller("Controller/ControllerExpandVolume", request)
    }

    pub(crate) fn delete(&self, id: &str) -> Answer<Empty> {
        self.controller("Controller/DeleteVolume", DeleteVolumeRequest { volume_id: id.into() })
    }

    /// What the driver's processes have in the kernel: mounts and loop devices.
    pub(crate) fn remains(&self) -> Vec<String> {
        let devices = loops(self.folder.path()).into_iter().map(|device| format!("device {device}"));
        mounts(self.folder.path()).into_iter().map(|point| format!("mount {point}")).chain(devices).collect()
    }

    /// Goes in the middle of it all, as with a test that fails.
    pub(crate) fn break_off(self) {
        let folder = self.folder.path().to_owned();
        assert!(!self.remains().is_empty(), "there is nothing to leave behind");
        drop(self);
        assert!(!folder.exists());
        assert_eq!(mounts(&folder), [""; 0]);
        let deadline = Instant::now() + DEADLINE;
        while !loops(&folder).is_empty() {
            assert!(Instant::now() < deadline, "{:?} stay behind", loops(&folder));
            thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// Ends the processes as asked, which leave nothing.
    pub(crate) fn finish(mut self) {
        let remains = self.remains();
        assert!(remains.is_empty(), "{remains:#?}");
        for server in self.nodes.iter_mut().map(|node| &mut node.server).chain([&mut self.controller]) {
            assert!(server.terminate().success());
            assert!(!server.socket.exists(), "{} stays behind", server.socket.display());
        }
        for node in &self.nodes {
            let left: Vec<_> = fs::read_dir(node.folder.join("plugins_registry")).expect("a folder").collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for server in self.nodes.iter_mut().map(|node| &mut node.server).chain([&mut self.controller]) {
            // Ended already, if all went well.
            let _ = server.process.kill();
            let _ = server.process.wait();
        }
        // What was mounted last is in the way of the rest.
        for point in mounts(self.folder.path()).iter().rev() {
            let _ = Command::new("umount").arg("--lazy").arg(point).status();
        }
        for device in loops(self.folder.path()) {
            let _ = Command::new("losetup").arg("--detach").arg(device).status();
        }
    }
}

impl Server {
    fn start(socket: &Path, arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab-csi"));
        command.args(arguments.iter().map(|argument| argument.as_ref())).arg("--socket").arg(socket);
        let mut process = command.stdin(Stdio::null()).spawn().expect("started");
        let failed = || process.try_wait().expect("looked").map(|status| panic!("{command:?} ended with {status}"));
        let calls = Calls::to(socket, failed);
        Self { process, socket: socket.into(), calls: Some(calls) }
    }

    pub(crate) fn call<I: Message + 'static, O: Message + Default + 'static>(
        &self,
        path: &str,
        request: I,
    ) -> Answer<O> {
        self.calls.as_ref().expect("connected").call(path, request)
    }

    fn terminate(&mut self) -> ExitStatus {
        self.calls = None;
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(pid, Signal::TERM).expect("told");
        self.process.wait().expect("waited")
    }
}

impl Calls {
    /// Waits until somebody listens, as long as `failed` is content.
    pub(crate) fn to(socket: &Path, mut failed: impl FnMut() -> Option<()>) -> Self {
        let deadline = Instant::now() + DEADLINE;
        while UnixStream::connect(socket).is_err() {
            assert!(failed().is_none() && Instant::now() < deadline, "nobody listens at {}", socket.display());
            thread::park_timeout(Duration::from_millis(10));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).expect("an address");
        let channel = runtime.block_on(endpoint.timeout(DEADLINE).connect()).expect("connected");
        Self { channel, runtime }
    }

    pub(crate) fn call<I: Message + 'static, O: Message + Default + 'static>(
        &self,
        path: &str,
        request: I,
    ) -> Answer<O> {
        let path: PathAndQuery = path.parse().expect("a path");
        let mut grpc = Grpc::new(self.channel.clone());
        let answer = self.runtime.block_on(async {
            grpc.ready().await.expect("connected");
            grpc.unary(Request::new(request), path, ProstCodec::<I, O>::default()).await
        });
        answer.map(tonic::Response::into_inner).map_err(|status| (status.code(), status.message().to_owned()))
    }
}

impl Node {
    pub(crate) fn staging(&self, id: &str) -> PathBuf {
        self.folder.join("staging").join(id).join("globalmount")
    }

    pub(crate) fn target(&self, id: &str) -> PathBuf {
        self.folder.join("pods").join(id).join("mount")
    }

    pub(crate) fn stage(&self, id: &str, capability: &VolumeCapability) -> Answer<Empty> {
        let request = NodeStageVolumeRequest {
            volume_id: id.into(),
            staging_target_path: text(&self.staging(id)),
            volume_capability: Some(capability.clone()),
        };
        self.server.call("/csi.v1.Node/NodeStageVolume", request)
    }

    pub(crate) fn unstage(&self, id: &str) -> Answer<Empty> {
        let request = NodeUnstageVolumeRequest { volume_id: id.into(), staging_target_path: text(&self.staging(id)) };
        self.server.call("/csi.v1.Node/NodeUnstageVolume", request)
    }

    pub(crate) fn publish(&self, id: &str, capability: &VolumeCapability) -> Answer<Empty> {
        self.publish_at(id, &self.target(id), capability, false)
    }

    pub(crate) fn publish_at(
        &self,
        id: &str,
        target: &Path,
        capability: &VolumeCapability,
        readonly: bool,
    ) -> Answer<Empty> {
        let request = NodePublishVolumeRequest {
            volume_id: id.into(),
            staging_target_path: text(&self.staging(id)),
            target_path: text(target),
            volume_capability: Some(capability.clone()),
            readonly,
        };
        self.server.call("/csi.v1.Node/NodePublishVolume", request)
    }

    pub(crate) fn unpublish(&self, id: &str) -> Answer<Empty> {
        self.unpublish_at(id, &self.target(id))
    }

    pub(crate) fn unpublish_at(&self, id: &str, target: &Path) -> Answer<Empty> {
        let request = NodeUnpublishVolumeRequest { volume_id: id.into(), target_path: text(target) };
        self.server.call("/csi.v1.Node/NodeUnpublishVolume", request)
    }

    pub(crate) fn expand(&self, id: &str) -> Answer<NodeExpandVolumeResponse> {
        let request = NodeExpandVolumeRequest { volume_id: id.into(), volume_path: text(&self.target(id)) };
        self.server.call("/csi.v1.Node/NodeExpandVolume", request)
    }
}

/// A folder with this file system; empty for what there is when nobody asks.
pub(crate) fn folder(kind: &str, mode: Mode) -> VolumeCapability {
    let mount = MountVolume { fs_type: kind.into(), mount_flags: vec!["noatime".into()] };
    VolumeCapability { block: None, mount: Some(mount), access_mode: Some(AccessMode { mode: mode.into() }) }
}

/// A device.
pub(crate) fn device(mode: Mode) -> VolumeCapability {
    VolumeCapability { block: Some(Empty {}), mount: None, access_mode: Some(AccessMode { mode: mode.into() }) }
}

/// Whether we have CAP_SYS_RESOURCE (capabilities(7)), which even root may lack.
pub(crate) fn may_grow_ext4() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").expect("read");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("a set");
    u64::from_str_radix(effective.trim(), 16).expect("a number") & 1 << CAP_SYS_RESOURCE != 0
}

/// The code of a refusal.
pub(crate) fn code<T: std::fmt::Debug>(answer: Answer<T>) -> Code {
    answer.expect_err("a refusal").0
}

/// Does the same twice, as a kubelet does that crashed in between.
pub(crate) fn twice<T: std::fmt::Debug + PartialEq>(call: impl Fn() -> Answer<T>) -> T {
    let first = call().expect("done");
    assert_eq!(first, call().expect("done again"));
    first
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().expect("no strange bytes").into()
}

fn range(bytes: u64) -> CapacityRange {
    CapacityRange { required_bytes: bytes.cast_signed(), limit_bytes: 0 }
}

/// Mount points beneath a folder.
fn mounts(folder: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("a table");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| Path::new(point).starts_with(folder)).map(String::from).collect()
}

/// Loop devices on images beneath a folder, behind those that are on such devices.
fn loops(folder: &Path) -> Vec<String> {
    let list = Command::new("losetup").args(["--list", "--noheadings", "--output", "NAME,BACK-FILE"]).output();
    let list = String::from_utf8(list.expect("run").stdout).expect("text");
    let lines: Vec<_> = list.lines().filter_map(|line| line.split_once(char::is_whitespace)).collect();
    let is_on = |line: &&(&str, &str), below: &dyn Fn(&Path) -> bool| below(Path::new(line.1.trim()));
    let devices = lines.iter().filter(|line| is_on(line, &|image| image.starts_with(folder)));
    let devices: Vec<_> = devices.map(|(name, _)| *name).collect();
    let above = lines.iter().filter(|line| is_on(line, &|image| devices.iter().any(|name| image == Path::new(name))));
    above.map(|(name, _)| *name).chain(devices.iter().copied()).map(String::from).collect()
}
