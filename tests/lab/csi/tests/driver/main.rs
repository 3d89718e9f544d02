//! The real driver, called as a cluster calls it. As root; else nothing is tried, and said so.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests, which clippy does not take for tests")]

mod lab;
#[path = "../../src/messages.rs"]
mod messages;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt;

use tonic::Code;

use lab::{Calls, Lab, MIB, code, device, folder, text, twice};
use messages::{
    Capabilities, CapacityRange, CreateVolumeRequest, CreateVolumeResponse, Empty, Mode, NodeGetVolumeStatsRequest,
    NodeGetVolumeStatsResponse, NodeInfo, PluginCapabilities, PluginCapability, PluginInfo, Probed, RegistrationInfo,
    RegistrationStatus, Topology, TopologyRequirement, Type, Unit, ValidateVolumeCapabilitiesRequest,
    ValidateVolumeCapabilitiesResponse,
};

const RWO: Mode = Mode::SingleNodeWriter;
const RWX: Mode = Mode::MultiNodeMultiWriter;
const RWOP: Mode = Mode::SingleNodeSingleWriter;

/// From nothing to a file on a volume and back, each call twice.
fn lives(kind: &str, bytes: u64) {
    let Some(mut lab) = Lab::with_nodes(&["a1"]) else { return };
    let id = "pvc-1";
    let capability = folder(kind, RWO);
    let made = twice(|| lab.create(id, bytes, &capability)).volume.unwrap();
    assert_eq!((made.volume_id.as_str(), made.capacity_bytes.cast_unsigned()), (id, bytes));
    assert!(made.accessible_topology.is_empty());
    assert_eq!(code(lab.node(0).stage(id, &capability)), Code::FailedPrecondition);
    twice(|| lab.attach(id, 0, &capability));
    assert_eq!(code(lab.node(0).publish(id, &capability)), Code::FailedPrecondition);
    twice(|| lab.node(0).stage(id, &capability));
    twice(|| lab.node(0).publish(id, &capability));
    let target = lab.node(0).target(id);
    fs::write(target.join("file"), "content").unwrap();

    // Another pod on the same node, which may only read.
    let other = lab.node(0).folder.join("pods/reader/mount");
    twice(|| lab.node(0).publish_at(id, &other, &capability, true));
    assert_eq!(fs::read_to_string(other.join("file")).unwrap(), "content");
    assert_eq!(fs::write(other.join("file"), "").unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    fs::write(target.join("file"), "still written").unwrap();
    twice(|| lab.node(0).unpublish_at(id, &other));

    // Nothing is remembered in memory.
    lab.crash_node(0);
    twice(|| lab.node(0).publish(id, &capability));
    assert_eq!(code(lab.delete(id)), Code::FailedPrecondition);
    twice(|| lab.node(0).unpublish(id));
    assert!(!target.exists());
    twice(|| lab.node(0).unstage(id));
    assert_eq!(lab.remains(), [""; 0]);

    // And the file system is not made anew.
    lab.node(0).stage(id, &capability).unwrap();
    lab.node(0).publish(id, &capability).unwrap();
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "still written");
    lab.node(0).unpublish(id).unwrap();
    lab.node(0).unstage(id).unwrap();
    twice(|| lab.detach(id, 0));
    twice(|| lab.delete(id));
    assert_eq!(code(lab.attach(id, 0, &capability)), Code::NotFound);
    lab.finish();
}

#[test]
fn a_folder_lives_from_create_to_delete() {
    lives("", 64 * MIB);
}

#[test]
fn a_folder_of_xfs_lives_from_create_to_delete() {
    lives("xfs", 320 * MIB);
}

#[test]
fn a_device_lives_from_create_to_delete() {
    let Some(lab) = Lab::with_nodes(&["a1"]) else { return };
    let (id, node, capability) = ("pvc-1", lab.node(0), device(RWO));
    twice(|| lab.create(id, 8 * MIB, &capability));
    twice(|| lab.attach(id, 0, &capability));
    twice(|| node.stage(id, &capability));
    twice(|| node.publish(id, &capability));
    let target = node.target(id);
    assert!(fs::metadata(&target).unwrap().file_type().is_block_device());
    let mut shown = File::options().write(true).open(&target).unwrap();
    shown.write_all(&[7; 4096]).unwrap();
    shown.sync_all().unwrap();
    drop(shown);
    assert_eq!(code(node.stage(id, &folder("", RWO))), Code::InvalidArgument);

    // Another pod, which may only read: by its own descriptor, as a container runtime makes the device itself.
    let reader = node.folder.join("pods/reader/device");
    twice(|| node.publish_at(id, &reader, &capability, true));
    let mut read = [0; 4096];
    File::open(&reader).unwrap().read_exact(&mut read).unwrap();
    assert_eq!(read, [7; 4096]);
    assert!(File::options().write(true).open(&reader).and_then(|mut device| device.write_all(&[1; 512])).is_err());
    twice(|| node.unpublish_at(id, &reader));

    assert_eq!(code(lab.delete(id)), Code::FailedPrecondition);
    twice(|| node.unpublish(id));
    twice(|| node.unstage(id));
    assert_eq!(lab.remains(), [""; 0]);
    twice(|| lab.detach(id, 0));
    twice(|| lab.delete(id));
    lab.finish();
}

/// The size of what is mounted, and how many inodes it has.
fn stats(lab: &Lab, id: &str) -> Vec<(i32, i64)> {
    let request = NodeGetVolumeStatsRequest { volume_id: id.into(), volume_path: text(&lab.node(0).target(id)) };
    let told: NodeGetVolumeStatsResponse = lab.node(0).server.call("/csi.v1.Node/NodeGetVolumeStats", request).unwrap();
    assert!(told.usage.iter().all(|usage| usage.used + usage.available <= usage.total), "{told:?}");
    told.usage.iter().map(|usage| (usage.unit, usage.total)).collect()
}

fn grows(kind: &str, before: u64, after: u64) {
    let Some(lab) = Lab::with_nodes(&["a1"]) else { return };
    let (id, node, capability) = ("pvc-1", lab.node(0), folder(kind, RWO));
    lab.create(id, before, &capability).unwrap();
    lab.mount(id, 0, &capability);
    let small = stats(&lab, id);
    assert_eq!([small[0].0, small[1].0], [i32::from(Unit::Bytes), Unit::Inodes.into()]);
    assert!(small[0].1 <= before.cast_signed(), "{small:?}");
    let told = twice(|| lab.expand(id, after));
    assert_eq!((told.capacity_bytes, told.node_expansion_required), (after.cast_signed(), true));
    assert_eq!(twice(|| node.expand(id)).capacity_bytes, after.cast_signed());
    let large = stats(&lab, id);
    assert!(large[0].1 > before.cast_signed() && large[0].1 <= after.cast_signed(), "{large:?}");
    // Asking for less changes nothing.
    assert_eq!(lab.expand(id, before).unwrap().capacity_bytes, after.cast_signed());
    lab.unmount(id, 0);
    lab.delete(id).unwrap();
    lab.finish();
}

#[test]
fn a_folder_grows_while_it_is_used() {
    if !lab::may_grow_ext4() {
        println!("not tried: ext4 needs CAP_SYS_RESOURCE to grow while it is mounted");
        return;
    }
    grows("ext4", 32 * MIB, 96 * MIB);
}

#[test]
fn a_folder_of_xfs_grows_while_it_is_used() {
    grows("xfs", 320 * MIB, 640 * MIB);
}

#[test]
fn a_device_grows_while_it_is_used() {
    let Some(lab) = Lab::with_nodes(&["a1"]) else { return };
    let (id, node, capability) = ("pvc-1", lab.node(0), device(RWO));
    lab.create(id, 8 * MIB, &capability).unwrap();
    lab.mount(id, 0, &capability);
    lab.expand(id, 24 * MIB).unwrap();
    node.expand(id).unwrap();
    let mut shown = File::open(node.target(id)).unwrap();
    assert_eq!(std::io::Seek::seek(&mut shown, std::io::SeekFrom::End(0)).unwrap(), 24 * MIB);
    drop(shown);
    assert_eq!(stats(&lab, id), [(Unit::Bytes.into(), (24 * MIB).cast_signed())]);
    lab.unmount(id, 0);
    lab.delete(id).unwrap();
    lab.finish();
}

#[test]
fn two_nodes_with_the_same_folder_see_each_others_files() {
    let Some(lab) = Lab::with_nodes(&["a1", "a2"]) else { return };
    let (id, capability) = ("pvc-1", folder("", RWX));
    lab.create(id, 32 * MIB, &capability).unwrap();
    let nodes = [lab.node(0), lab.node(1)];
    for (at, node) in nodes.iter().enumerate() {
        twice(|| lab.attach(id, at, &capability));
        twice(|| node.stage(id, &capability));
        twice(|| node.publish(id, &capability));
        fs::write(node.target(id).join(&node.name), &node.name).unwrap();
    }
    for node in nodes {
        for name in ["a1", "a2"] {
            assert_eq!(fs::read_to_string(node.target(id).join(name)).unwrap(), name);
        }
    }
    // The one that mounted it goes first.
    nodes[0].unpublish(id).unwrap();
    twice(|| nodes[0].unstage(id));
    lab.detach(id, 0).unwrap();
    fs::write(nodes[1].target(id).join("late"), "late").unwrap();
    // It comes back to what the other has.
    lab.mount(id, 0, &capability);
    assert_eq!(fs::read_to_string(nodes[0].target(id).join("late")).unwrap(), "late");
    for at in 0..nodes.len() {
        lab.unmount(id, at);
    }
    lab.delete(id).unwrap();
    lab.finish();
}

#[test]
fn two_nodes_share_a_device_until_the_last_leaves() {
    let Some(lab) = Lab::with_nodes(&["a1", "a2"]) else { return };
    let (id, capability) = ("pvc-1", device(RWX));
    lab.create(id, 8 * MIB, &capability).unwrap();
    let nodes = [lab.node(0), lab.node(1)];
    for at in 0..nodes.len() {
        lab.mount(id, at, &capability);
    }
    nodes[0].unpublish(id).unwrap();
    twice(|| nodes[0].unstage(id));
    File::options().write(true).open(nodes[1].target(id)).unwrap().write_all(&[3; 512]).unwrap();
    nodes[1].unpublish(id).unwrap();
    nodes[1].unstage(id).unwrap();
    assert_eq!(lab.remains(), [""; 0]);
    lab.controller::<_, Empty>(
        "Controller/ControllerUnpublishVolume",
        messages::ControllerUnpublishVolumeRequest { volume_id: id.into(), node_id: String::new() },
    )
    .unwrap();
    lab.delete(id).unwrap();
    lab.finish();
}

#[test]
fn a_second_node_is_refused_what_one_node_has_alone() {
    let Some(lab) = Lab::with_nodes(&["a1", "a2"]) else { return };
    for (id, first, second) in [("one", RWO, RWO), ("two", RWO, RWX), ("three", RWX, RWO), ("four", RWOP, RWOP)] {
        lab.create(id, 8 * MIB, &folder("", first)).unwrap();
        lab.attach(id, 0, &folder("", first)).unwrap();
        assert_eq!(code(lab.attach(id, 1, &folder("", second))), Code::FailedPrecondition, "{id}");
        assert_eq!(code(lab.node(1).stage(id, &folder("", second))), Code::FailedPrecondition, "{id}");
        lab.detach(id, 0).unwrap();
        lab.attach(id, 1, &folder("", second)).unwrap();
        lab.detach(id, 1).unwrap();
        lab.delete(id).unwrap();
    }
    lab.finish();
}

#[test]
fn a_single_writer_has_one_place() {
    let Some(lab) = Lab::with_nodes(&["a1"]) else { return };
    let (id, node, capability) = ("pvc-1", lab.node(0), folder("", RWOP));
    lab.create(id, 32 * MIB, &capability).unwrap();
    lab.attach(id, 0, &capability).unwrap();
    node.stage(id, &capability).unwrap();
    twice(|| node.publish(id, &capability));
    let other = node.folder.join("pods/other/mount");
    assert_eq!(code(node.publish_at(id, &other, &capability, false)), Code::FailedPrecondition);
    node.unpublish(id).unwrap();
    twice(|| node.publish_at(id, &other, &capability, false));
    node.unpublish_at(id, &other).unwrap();
    node.unstage(id).unwrap();
    lab.detach(id, 0).unwrap();
    lab.delete(id).unwrap();
    lab.finish();
}

#[test]
fn a_lost_node_does_not_keep_a_device_from_being_deleted() {
    let Some(lab) = Lab::with_nodes(&["a1"]) else { return };
    let (id, capability) = ("pvc-1", device(RWO));
    lab.create(id, 8 * MIB, &capability).unwrap();
    lab.attach(id, 0, &capability).unwrap();
    lab.node(0).stage(id, &capability).unwrap();
    lab.detach(id, 0).unwrap();
    twice(|| lab.delete(id));
    twice(|| lab.node(0).unstage(id));
    lab.finish();
}

#[test]
fn what_was_left_mounted_is_not_deleted() {
    let Some(lab) = Lab::with_nodes(&["a1"]) else { return };
    let (id, capability) = ("pvc-1", folder("", RWO));
    lab.create(id, 8 * MIB, &capability).unwrap();
    lab.attach(id, 0, &capability).unwrap();
    lab.node(0).stage(id, &capability).unwrap();
    lab.detach(id, 0).unwrap();
    assert_eq!(code(lab.delete(id)), Code::FailedPrecondition);
    lab.node(0).unstage(id).unwrap();
    lab.delete(id).unwrap();
    lab.finish();
}

#[test]
fn a_test_that_fails_leaves_nothing_behind() {
    let Some(lab) = Lab::with_nodes(&["a1"]) else { return };
    for (id, capability) in [("folder", folder("", RWO)), ("device", device(RWO))] {
        lab.create(id, 8 * MIB, &capability).unwrap();
        lab.attach(id, 0, &capability).unwrap();
        lab.node(0).stage(id, &capability).unwrap();
        lab.node(0).publish_at(id, &lab.node(0).target(id), &capability, true).unwrap();
    }
    lab.break_off();
}

#[test]
fn what_a_volume_cannot_be_is_refused() {
    let Some(lab) = Lab::with_nodes(&["a1"]) else { return };
    let create = |change: &dyn Fn(&mut CreateVolumeRequest)| {
        let mut request = CreateVolumeRequest {
            name: "pvc-1".into(),
            capacity_range: Some(CapacityRange { required_bytes: 8 << 20, limit_bytes: 16 << 20 }),
            volume_capabilities: vec![folder("", RWO)],
            parameters: HashMap::from([("lab.tranship.io/nodes".into(), "a1,a2".into())]),
            ..Default::default()
        };
        change(&mut request);
        lab.controller::<_, CreateVolumeResponse>("Controller/CreateVolume", request)
    };
    let on = |node: &str| Topology { segments: HashMap::from([("lab.tranship.io/node".into(), node.into())]) };
    let bytes = |required_bytes, limit_bytes| Some(CapacityRange { required_bytes, limit_bytes });
    let made = twice(|| create(&|_| ())).volume.unwrap();
    assert_eq!(made.accessible_topology, [on("a1"), on("a2")]);
    type Change<'a> = &'a dyn Fn(&mut CreateVolumeRequest);
    let changes: [(Code, Change<'_>); 10] = [
        (Code::InvalidArgument, &|request| request.name = String::new()),
        (Code::InvalidArgument, &|request| request.name = "../pvc-1".into()),
        (Code::InvalidArgument, &|request| request.volume_capabilities.clear()),
        (Code::InvalidArgument, &|request| request.volume_capabilities[0] = folder("btrfs", RWO)),
        (Code::InvalidArgument, &|request| request.volume_content_source = Some(Empty {})),
        (Code::AlreadyExists, &|request| request.capacity_range = bytes(9 << 20, 0)),
        (Code::AlreadyExists, &|request| request.volume_capabilities[0] = device(RWO)),
        (Code::AlreadyExists, &|request| request.parameters.clear()),
        (Code::OutOfRange, &|request| request.capacity_range = bytes(8 << 20, 4 << 20)),
        (Code::ResourceExhausted, &|request| {
            request.accessibility_requirements = Some(TopologyRequirement { requisite: vec![on("b1")] });
        }),
    ];
    for (at, (expected, change)) in changes.into_iter().enumerate() {
        assert_eq!(code(create(change)), expected, "change {at}");
    }
    let validate = |capability| {
        let request = ValidateVolumeCapabilitiesRequest {
            volume_id: made.volume_id.clone(),
            volume_capabilities: vec![capability],
        };
        let answer: Result<ValidateVolumeCapabilitiesResponse, _> =
            lab.controller("Controller/ValidateVolumeCapabilities", request);
        let answer = answer.unwrap();
        assert_eq!(answer.message.is_empty(), answer.confirmed.is_some());
        answer.confirmed.map(|confirmed| confirmed.volume_capabilities)
    };
    assert_eq!(validate(folder("ext4", RWX)), Some(vec![folder("ext4", RWX)]));
    assert_eq!(validate(device(RWX)), None);
    assert_eq!(code(lab.controller::<_, Empty>("Controller/ListVolumes", Empty {})), Code::Unimplemented);
    lab.delete("pvc-1").unwrap();
    lab.finish();
}

#[test]
fn the_driver_says_who_it_is_and_a_kubelet_hears_of_it() {
    let Some(lab) = Lab::with_nodes(&["a1"]) else { return };
    let info: PluginInfo = lab.controller("Identity/GetPluginInfo", Empty {}).unwrap();
    assert_eq!(info.name, "lab.tranship.io");
    let probed: Probed = lab.controller("Identity/Probe", Empty {}).unwrap();
    assert!(probed.ready.unwrap().value);
    let told: PluginCapabilities = lab.controller("Identity/GetPluginCapabilities", Empty {}).unwrap();
    let services: Vec<_> = told.capabilities.iter().filter_map(|told| Some(told.service?.r#type)).collect();
    assert_eq!(services, [PluginCapability::CONTROLLER_SERVICE, PluginCapability::VOLUME_ACCESSIBILITY_CONSTRAINTS]);
    let expansion = told.capabilities.iter().find_map(|told| told.volume_expansion);
    assert_eq!(expansion, Some(Type { r#type: PluginCapability::EXPANSION_ONLINE }));
    let told: Capabilities = lab.controller("Controller/ControllerGetCapabilities", Empty {}).unwrap();
    let controller = [
        Capabilities::CONTROLLER_CREATE_DELETE_VOLUME,
        Capabilities::CONTROLLER_PUBLISH_UNPUBLISH_VOLUME,
        Capabilities::CONTROLLER_EXPAND_VOLUME,
        Capabilities::CONTROLLER_SINGLE_NODE_MULTI_WRITER,
    ];
    assert_eq!(told, Capabilities::of(&controller));
    let node = lab.node(0);
    let told: Capabilities = node.server.call("/csi.v1.Node/NodeGetCapabilities", Empty {}).unwrap();
    let expected = [
        Capabilities::NODE_STAGE_UNSTAGE_VOLUME,
        Capabilities::NODE_GET_VOLUME_STATS,
        Capabilities::NODE_EXPAND_VOLUME,
        Capabilities::NODE_SINGLE_NODE_MULTI_WRITER,
    ];
    assert_eq!(told, Capabilities::of(&expected));
    let told: NodeInfo = node.server.call("/csi.v1.Node/NodeGetInfo", Empty {}).unwrap();
    let segments = HashMap::from([("lab.tranship.io/node".into(), "a1".into())]);
    assert_eq!(told, NodeInfo { node_id: "a1".into(), accessible_topology: Some(Topology { segments }) });

    let registry = node.folder.join("plugins_registry");
    let socket = fs::read_dir(registry).unwrap().next().expect("a socket").unwrap().path();
    let kubelet = Calls::to(&socket, || None);
    let told: RegistrationInfo = kubelet.call("/pluginregistration.Registration/GetInfo", Empty {}).unwrap();
    let expected = RegistrationInfo {
        r#type: "CSIPlugin".into(),
        name: "lab.tranship.io".into(),
        endpoint: text(&node.folder.join("plugins/lab.tranship.io/csi.sock")),
        supported_versions: vec!["1.0.0".into()],
    };
    assert_eq!(told, expected);
    let status = RegistrationStatus { plugin_registered: true, error: String::new() };
    let path = "/pluginregistration.Registration/NotifyRegistrationStatus";
    assert_eq!(kubelet.call::<_, Empty>(path, status), Ok(Empty {}));
    // It calls with the path as the name of the host, which has to be one.
    let authority = text(&socket).replace('/', "%2F");
    assert!(authority.parse::<tonic::codegen::http::uri::Authority>().is_ok(), "{authority}");
    // Who stays connected does not keep the driver from ending.
    lab.finish();
    drop(kubelet);
}
