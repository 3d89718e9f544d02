//! The messages of CSI 1.11 (`csi.proto`) and of the kubelet's plugin registration (`api.proto`), with those of their
//! fields that we read or set. A `oneof` stands as its alternatives, which is the same on the wire.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// Any message of which we use no field.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Empty {}

/// `google.protobuf.BoolValue`
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct BoolValue {
    #[prost(bool, tag = "1")]
    pub(crate) value: bool,
}

/// `GetPluginInfoResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PluginInfo {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) vendor_version: String,
}

/// `GetPluginCapabilitiesResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PluginCapabilities {
    #[prost(message, repeated, tag = "1")]
    pub(crate) capabilities: Vec<PluginCapability>,
}

/// `PluginCapability`: one of its two fields is there.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct PluginCapability {
    #[prost(message, optional, tag = "1")]
    pub(crate) service: Option<Type>,
    #[prost(message, optional, tag = "2")]
    pub(crate) volume_expansion: Option<Type>,
}

impl PluginCapability {
    pub(crate) const CONTROLLER_SERVICE: i32 = 1;
    pub(crate) const VOLUME_ACCESSIBILITY_CONSTRAINTS: i32 = 2;
    pub(crate) const EXPANSION_ONLINE: i32 = 1;
}

/// A message with a number as its first field: `PluginCapability.Service`, `ControllerServiceCapability.RPC` and others.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Type {
    #[prost(int32, tag = "1")]
    pub(crate) r#type: i32,
}

/// `ProbeResponse`
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Probed {
    #[prost(message, optional, tag = "1")]
    pub(crate) ready: Option<BoolValue>,
}

/// `ControllerGetCapabilitiesResponse` and `NodeGetCapabilitiesResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Capabilities {
    #[prost(message, repeated, tag = "1")]
    pub(crate) capabilities: Vec<Capability>,
}

/// `ControllerServiceCapability` and `NodeServiceCapability`
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Capability {
    #[prost(message, optional, tag = "1")]
    pub(crate) rpc: Option<Type>,
}

impl Capabilities {
    pub(crate) const CONTROLLER_CREATE_DELETE_VOLUME: i32 = 1;
    pub(crate) const CONTROLLER_PUBLISH_UNPUBLISH_VOLUME: i32 = 2;
    pub(crate) const CONTROLLER_EXPAND_VOLUME: i32 = 9;
    pub(crate) const CONTROLLER_SINGLE_NODE_MULTI_WRITER: i32 = 13;
    pub(crate) const NODE_STAGE_UNSTAGE_VOLUME: i32 = 1;
    pub(crate) const NODE_GET_VOLUME_STATS: i32 = 2;
    pub(crate) const NODE_EXPAND_VOLUME: i32 = 3;
    pub(crate) const NODE_SINGLE_NODE_MULTI_WRITER: i32 = 5;

    pub(crate) fn of(types: &[i32]) -> Self {
        let capability = |&r#type: &i32| Capability { rpc: Some(Type { r#type }) };
        Self { capabilities: types.iter().map(capability).collect() }
    }
}

/// `CapacityRange`; 0 stands for no limit.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct CapacityRange {
    #[prost(int64, tag = "1")]
    pub(crate) required_bytes: i64,
    #[prost(int64, tag = "2")]
    pub(crate) limit_bytes: i64,
}

/// `VolumeCapability`: either `block` or `mount` is there.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct VolumeCapability {
    #[prost(message, optional, tag = "1")]
    pub(crate) block: Option<Empty>,
    #[prost(message, optional, tag = "2")]
    pub(crate) mount: Option<MountVolume>,
    #[prost(message, optional, tag = "3")]
    pub(crate) access_mode: Option<AccessMode>,
}

/// `VolumeCapability.MountVolume`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct MountVolume {
    #[prost(string, tag = "1")]
    pub(crate) fs_type: String,
    #[prost(string, repeated, tag = "2")]
    pub(crate) mount_flags: Vec<String>,
}

/// `VolumeCapability.AccessMode`
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct AccessMode {
    #[prost(enumeration = "Mode", tag = "1")]
    pub(crate) mode: i32,
}

/// `VolumeCapability.AccessMode.Mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration, Serialize, Deserialize)]
#[repr(i32)]
pub(crate) enum Mode {
    Unknown = 0,
    SingleNodeWriter = 1,
    SingleNodeReaderOnly = 2,
    MultiNodeReaderOnly = 3,
    MultiNodeSingleWriter = 4,
    MultiNodeMultiWriter = 5,
    SingleNodeSingleWriter = 6,
    SingleNodeMultiWriter = 7,
}

/// `Topology`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Topology {
    #[prost(map = "string, string", tag = "1")]
    pub(crate) segments: HashMap<String, String>,
}

/// `TopologyRequirement`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TopologyRequirement {
    #[prost(message, repeated, tag = "1")]
    pub(crate) requisite: Vec<Topology>,
}

/// `Volume`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Volume {
    #[prost(int64, tag = "1")]
    pub(crate) capacity_bytes: i64,
    #[prost(string, tag = "2")]
    pub(crate) volume_id: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) accessible_topology: Vec<Topology>,
}

/// `CreateVolumeRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CreateVolumeRequest {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) capacity_range: Option<CapacityRange>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) volume_capabilities: Vec<VolumeCapability>,
    #[prost(map = "string, string", tag = "4")]
    pub(crate) parameters: HashMap<String, String>,
    #[prost(message, optional, tag = "6")]
    pub(crate) volume_content_source: Option<Empty>,
    #[prost(message, optional, tag = "7")]
    pub(crate) accessibility_requirements: Option<TopologyRequirement>,
}

/// `CreateVolumeResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CreateVolumeResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) volume: Option<Volume>,
}

/// `DeleteVolumeRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DeleteVolumeRequest {
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
}

/// `ControllerPublishVolumeRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ControllerPublishVolumeRequest {
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
    #[prost(string, tag = "2")]
    pub(crate) node_id: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) volume_capability: Option<VolumeCapability>,
    #[prost(bool, tag = "4")]
    pub(crate) readonly: bool,
}

/// `ControllerUnpublishVolumeRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ControllerUnpublishVolumeRequest {
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
    /// Empty for all nodes.
    #[prost(string, tag = "2")]
    pub(crate) node_id: String,
}

/// `ValidateVolumeCapabilitiesRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ValidateVolumeCapabilitiesRequest {
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) volume_capabilities: Vec<VolumeCapability>,
}

/// `ValidateVolumeCapabilitiesResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ValidateVolumeCapabilitiesResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) confirmed: Option<Confirmed>,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
}

/// `ValidateVolumeCapabilitiesResponse.Confirmed`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Confirmed {
    #[prost(message, repeated, tag = "2")]
    pub(crate) volume_capabilities: Vec<VolumeCapability>,
}

/// `ControllerExpandVolumeRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ControllerExpandVolumeRequest {
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) capacity_range: Option<CapacityRange>,
}

/// `ControllerExpandVolumeResponse`
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct ControllerExpandVolumeResponse {
    #[prost(int64, tag = "1")]
    pub(crate) capacity_bytes: i64,
    #[prost(bool, tag = "2")]
    pub(crate) node_expansion_required: bool,
}

/// `NodeStageVolumeRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct NodeStageVolumeRequest {
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
    #[prost(string, tag = "3")]
    pub(crate) staging_target_path: String,
    #[prost(message, optional, tag = "4")]
    pub(crate) volume_capability: Option<VolumeCapability>,
}

/// `NodeUnstageVolumeRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct NodeUnstageVolumeRequest {
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
    #[prost(string, tag = "2")]
    pub(crate) staging_target_path: String,
}

/// `NodePublishVolumeRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct NodePublishVolumeRequest {
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
    #[prost(string, tag = "3")]
    pub(crate) staging_target_path: String,
    #[prost(string, tag = "4")]
    pub(crate) target_path: String,
    #[prost(message, optional, tag = "5")]
    pub(crate) volume_capability: Option<VolumeCapability>,
    #[prost(bool, tag = "6")]
    pub(crate) readonly: bool,
}

/// `NodeUnpublishVolumeRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct NodeUnpublishVolumeRequest {
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
    #[prost(string, tag = "2")]
    pub(crate) target_path: String,
}

/// `NodeGetVolumeStatsRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct NodeGetVolumeStatsRequest {
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
    #[prost(string, tag = "2")]
    pub(crate) volume_path: String,
}

/// `NodeGetVolumeStatsResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct NodeGetVolumeStatsResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) usage: Vec<VolumeUsage>,
}

/// `VolumeUsage`
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct VolumeUsage {
    #[prost(int64, tag = "1")]
    pub(crate) available: i64,
    #[prost(int64, tag = "2")]
    pub(crate) total: i64,
    #[prost(int64, tag = "3")]
    pub(crate) used: i64,
    #[prost(enumeration = "Unit", tag = "4")]
    pub(crate) unit: i32,
}

/// `VolumeUsage.Unit`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Unit {
    Unknown = 0,
    Bytes = 1,
    Inodes = 2,
}

/// `NodeExpandVolumeRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct NodeExpandVolumeRequest {
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
    #[prost(string, tag = "2")]
    pub(crate) volume_path: String,
}

/// `NodeExpandVolumeResponse`
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct NodeExpandVolumeResponse {
    #[prost(int64, tag = "1")]
    pub(crate) capacity_bytes: i64,
}

/// `NodeGetInfoResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct NodeInfo {
    #[prost(string, tag = "1")]
    pub(crate) node_id: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) accessible_topology: Option<Topology>,
}

/// `pluginregistration.PluginInfo`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RegistrationInfo {
    #[prost(string, tag = "1")]
    pub(crate) r#type: String,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(string, tag = "3")]
    pub(crate) endpoint: String,
    #[prost(string, repeated, tag = "4")]
    pub(crate) supported_versions: Vec<String>,
}

/// `pluginregistration.RegistrationStatus`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RegistrationStatus {
    #[prost(bool, tag = "1")]
    pub(crate) plugin_registered: bool,
    #[prost(string, tag = "2")]
    pub(crate) error: String,
}
