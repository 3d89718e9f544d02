//! The service `csi.v1.Controller`: which volumes there are, and which node has which.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::capability::{Access, Use};
use crate::device;
use crate::error::Error;
use crate::messages::{
    Capabilities, CapacityRange, Confirmed, ControllerExpandVolumeRequest, ControllerExpandVolumeResponse,
    ControllerPublishVolumeRequest, ControllerUnpublishVolumeRequest, CreateVolumeRequest, CreateVolumeResponse,
    DeleteVolumeRequest, Empty, Mode, Topology, TopologyRequirement, ValidateVolumeCapabilitiesRequest,
    ValidateVolumeCapabilitiesResponse, Volume as Created, VolumeCapability,
};
use crate::mounts;
use crate::node::TOPOLOGY;
use crate::router::Router;
use crate::volume::{Meta, Publication, Volumes};

/// The parameter of a storage class that names the only nodes that may have its volumes, with commas between them.
const PARAMETER_NODES: &str = "lab.tranship.io/nodes";
/// What external-provisioner adds to the parameters.
const PARAMETERS_OF_OTHERS: &str = "csi.storage.k8s.io/";
const MIB_BYTES: u64 = 1 << 20;
const DEFAULT_BYTES: u64 = 64 * MIB_BYTES;

/// Answers the calls.
#[derive(Debug, Clone)]
pub(crate) struct Controller {
    volumes: Volumes,
}

impl Controller {
    /// For these volumes.
    pub(crate) fn new(volumes: Volumes) -> Self {
        Self { volumes }
    }

    /// Adds the service.
    pub(crate) fn serve(self, router: Router) -> Router {
        let [create, delete, publish, unpublish, validate, expand] = std::array::from_fn(|_| self.clone());
        router
            .method("/csi.v1.Controller/CreateVolume", move |request| create.create(&request))
            .method("/csi.v1.Controller/DeleteVolume", move |request| delete.delete(&request))
            .method("/csi.v1.Controller/ControllerPublishVolume", move |request| publish.publish(&request))
            .method("/csi.v1.Controller/ControllerUnpublishVolume", move |request| unpublish.unpublish(&request))
            .method("/csi.v1.Controller/ValidateVolumeCapabilities", move |request| validate.validate(request))
            .method("/csi.v1.Controller/ControllerExpandVolume", move |request| expand.expand(&request))
            .method("/csi.v1.Controller/ControllerGetCapabilities", |_: Empty| Ok(capabilities()))
    }

    fn create(&self, request: &CreateVolumeRequest) -> Result<CreateVolumeResponse, Error> {
        if request.volume_content_source.is_some() {
            return Err(Error::InvalidArgument("a volume cannot be made from another, or from a snapshot".into()));
        }
        let range = request.capacity_range.unwrap_or_default();
        let access = access(&request.volume_capabilities)?;
        let nodes = nodes(&request.parameters)?;
        check_reachable(&nodes, request.accessibility_requirements.as_ref())?;
        let (published, staged) = (BTreeMap::new(), BTreeMap::new());
        let bytes = size_bytes(range)?;
        let name = request.name.clone();
        let volume = self.volumes.create(Meta { name, bytes, access, nodes: nodes.clone(), published, staged })?;
        let meta = &volume.meta;
        if meta.access != access || meta.nodes != nodes || !holds(range, meta.bytes) {
            return Err(Error::AlreadyExists(format!("there is another volume {}: {meta:?}", meta.name)));
        }
        let topology = |node: &String| Topology { segments: HashMap::from([(TOPOLOGY.to_owned(), node.clone())]) };
        let volume = Created {
            capacity_bytes: signed(meta.bytes),
            volume_id: meta.name.clone(),
            accessible_topology: meta.nodes.iter().map(topology).collect(),
        };
        Ok(CreateVolumeResponse { volume: Some(volume) })
    }

    fn delete(&self, request: &DeleteVolumeRequest) -> Result<Empty, Error> {
        if request.volume_id.is_empty() {
            return Err(Error::InvalidArgument("no volume is named".into()));
        }
        let Some(volume) = self.volumes.find(&request.volume_id)? else { return Ok(Empty {}) };
        if let Some(node) = volume.meta.published.keys().next() {
            return Err(Error::FailedPrecondition(format!("{node} has the volume")));
        }
        // A node that was lost may have left it attached.
        if let Some(device) = volume.device()? {
            if let Some(mount) = mounts::of_device(&device.number()?)?.first() {
                return Err(Error::FailedPrecondition(format!("it is mounted at {}", mount.point.display())));
            }
            device::detach_all(&volume.image())?;
        }
        volume.remove()?;
        Ok(Empty {})
    }

    fn publish(&self, request: &ControllerPublishVolumeRequest) -> Result<Empty, Error> {
        let wanted = Use::parse(request.volume_capability.as_ref())?;
        let node = &request.node_id;
        if node.is_empty() {
            return Err(Error::InvalidArgument("no node is named".into()));
        }
        let mut volume = self.volumes.volume(&request.volume_id)?;
        wanted.check(volume.meta.access)?;
        if !volume.meta.nodes.is_empty() && !volume.meta.nodes.contains(node) {
            return Err(Error::FailedPrecondition(format!("{node} is none of its nodes: {:?}", volume.meta.nodes)));
        }
        let publication = Publication { mode: wanted.mode, is_readonly: request.readonly };
        if let Some(published) = volume.meta.published.get(node) {
            if *published != publication {
                return Err(Error::AlreadyExists(format!("{node} has it otherwise: {published:?}")));
            }
            return Ok(Empty {});
        }
        let is_only_theirs = |theirs: Mode| theirs.is_single_node() || wanted.mode.is_single_node();
        if let Some((other, _)) = volume.meta.published.iter().find(|(_, theirs)| is_only_theirs(theirs.mode)) {
            return Err(Error::FailedPrecondition(format!("{other} has the volume")));
        }
        volume.meta.published.insert(node.clone(), publication);
        volume.save()?;
        Ok(Empty {})
    }

    fn unpublish(&self, request: &ControllerUnpublishVolumeRequest) -> Result<Empty, Error> {
        if request.volume_id.is_empty() {
            return Err(Error::InvalidArgument("no volume is named".into()));
        }
        let Some(mut volume) = self.volumes.find(&request.volume_id)? else { return Ok(Empty {}) };
        let is_meant = |node: &String| request.node_id.is_empty() || *node == request.node_id;
        volume.meta.published.retain(|node, _| !is_meant(node));
        volume.save()?;
        Ok(Empty {})
    }

    fn validate(
        &self,
        request: ValidateVolumeCapabilitiesRequest,
    ) -> Result<ValidateVolumeCapabilitiesResponse, Error> {
        if request.volume_capabilities.is_empty() {
            return Err(Error::InvalidArgument("no volume capability is given".into()));
        }
        let volume = self.volumes.volume(&request.volume_id)?;
        let check = |capability| Use::parse(Some(capability)).and_then(|wanted| wanted.check(volume.meta.access));
        let checked: Result<(), Error> = request.volume_capabilities.iter().try_for_each(check);
        Ok(match checked {
            Ok(()) => ValidateVolumeCapabilitiesResponse {
                confirmed: Some(Confirmed { volume_capabilities: request.volume_capabilities }),
                message: String::new(),
            },
            Err(error) => ValidateVolumeCapabilitiesResponse { confirmed: None, message: error.to_string() },
        })
    }

    fn expand(&self, request: &ControllerExpandVolumeRequest) -> Result<ControllerExpandVolumeResponse, Error> {
        let range = request.capacity_range.ok_or_else(|| Error::InvalidArgument("no capacity is given".into()))?;
        let mut volume = self.volumes.volume(&request.volume_id)?;
        let bytes = size_bytes(range)?;
        if volume.meta.bytes < bytes {
            volume.grow(bytes)?;
        }
        if !holds(range, volume.meta.bytes) {
            return Err(Error::OutOfRange(format!("it has {} bytes and does not shrink", volume.meta.bytes)));
        }
        let capacity_bytes = signed(volume.meta.bytes);
        Ok(ControllerExpandVolumeResponse { capacity_bytes, node_expansion_required: true })
    }
}

fn capabilities() -> Capabilities {
    Capabilities::of(&[
        Capabilities::CONTROLLER_CREATE_DELETE_VOLUME,
        Capabilities::CONTROLLER_PUBLISH_UNPUBLISH_VOLUME,
        Capabilities::CONTROLLER_EXPAND_VOLUME,
        Capabilities::CONTROLLER_SINGLE_NODE_MULTI_WRITER,
    ])
}

/// What all of these agree on that the volume is.
fn access(capabilities: &[VolumeCapability]) -> Result<Access, Error> {
    let accesses = capabilities.iter().map(|capability| Ok(Use::parse(Some(capability))?.access()));
    let mut accesses = accesses.collect::<Result<Vec<_>, Error>>()?;
    accesses.dedup();
    match accesses[..] {
        [access] => Ok(access),
        _ => Err(Error::InvalidArgument("a volume is block or mount, one of them".into())),
    }
}

/// The only nodes, by the parameters of the storage class; none for all.
fn nodes(parameters: &HashMap<String, String>) -> Result<BTreeSet<String>, Error> {
    let mut nodes = BTreeSet::new();
    for (key, value) in parameters.iter().filter(|(key, _)| !key.starts_with(PARAMETERS_OF_OTHERS)) {
        if key != PARAMETER_NODES {
            return Err(Error::InvalidArgument(format!("there is no parameter {key}")));
        }
        nodes.extend(value.split(',').map(|node| node.trim().to_owned()).filter(|node| !node.is_empty()));
        if nodes.is_empty() {
            return Err(Error::InvalidArgument(format!("{key} names no node")));
        }
    }
    Ok(nodes)
}

/// Fails if the volume has to be reached from elsewhere than its nodes.
fn check_reachable(nodes: &BTreeSet<String>, required: Option<&TopologyRequirement>) -> Result<(), Error> {
    let requisite = required.map_or(&[][..], |required| &required.requisite);
    let is_reached = |topology: &Topology| topology.segments.get(TOPOLOGY).is_some_and(|node| nodes.contains(node));
    if nodes.is_empty() || requisite.is_empty() || requisite.iter().any(is_reached) {
        return Ok(());
    }
    Err(Error::ResourceExhausted(format!("only {nodes:?} may have it")))
}

/// The size that is made for a wanted one.
fn size_bytes(range: CapacityRange) -> Result<u64, Error> {
    let (Ok(required), Ok(limit)) = (u64::try_from(range.required_bytes), u64::try_from(range.limit_bytes)) else {
        return Err(Error::InvalidArgument("a size is negative".into()));
    };
    let wanted = if required == 0 { DEFAULT_BYTES } else { required };
    let bytes = wanted.next_multiple_of(MIB_BYTES);
    if limit != 0 && bytes > limit || i64::try_from(bytes).is_err() {
        return Err(Error::OutOfRange(format!("{bytes} bytes, in whole MiB, are more than allowed")));
    }
    Ok(bytes)
}

/// Whether a size is one of those wanted.
fn holds(range: CapacityRange, bytes: u64) -> bool {
    let bytes = signed(bytes);
    bytes >= range.required_bytes && (range.limit_bytes == 0 || bytes <= range.limit_bytes)
}

/// A size as the specification has it.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).expect("it was checked when it was made")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_and_within_the_limit() {
        let range = |required_bytes, limit_bytes| CapacityRange { required_bytes, limit_bytes };
        for (asked, made) in [
            (range(0, 0), Some(64 << 20)),
            (range(1, 0), Some(1 << 20)),
            (range(1 << 20, 1 << 20), Some(1 << 20)),
            (range((1 << 20) + 1, 2 << 20), Some(2 << 20)),
            (range((1 << 20) + 1, (2 << 20) - 1), None),
            (range(2 << 20, 1 << 20), None),
            (range(0, 1 << 20), None),
            (range(-1, 0), None),
            (range(i64::MAX, 0), None),
        ] {
            assert_eq!(size_bytes(asked).ok(), made, "{asked:?}");
        }
    }

    #[test]
    fn only_the_nodes_of_a_storage_class_count() {
        let parameters = |key: &str, value: &str| HashMap::from([(key.to_owned(), value.to_owned())]);
        let both = nodes(&parameters(PARAMETER_NODES, "a1, a2")).expect("two nodes");
        assert_eq!(both, BTreeSet::from(["a1".into(), "a2".into()]));
        assert!(nodes(&parameters("csi.storage.k8s.io/pvc/name", "x")).expect("not ours").is_empty());
        assert!(nodes(&parameters(PARAMETER_NODES, " ,")).is_err());
        assert!(nodes(&parameters("lab.tranship.io/node", "a1")).is_err());
        let from =
            |node: &str| TopologyRequirement { requisite: vec![Topology { segments: parameters(TOPOLOGY, node) }] };
        assert!(check_reachable(&both, Some(&from("a2"))).is_ok());
        assert!(check_reachable(&both, Some(&from("b1"))).is_err());
        assert!(check_reachable(&BTreeSet::new(), Some(&from("b1"))).is_ok());
    }
}
