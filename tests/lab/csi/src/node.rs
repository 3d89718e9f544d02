//! The service `csi.v1.Node`: volumes at paths of a node.
//!
//! All nodes are one machine, so that a volume has one loop device and one file system, whichever nodes have it: the
//! first node mounts it, the others show the same mount at their own paths.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::capability::{Access, Folder, Use};
use crate::device::{self, Device};
use crate::error::Error;
use crate::filesystem;
use crate::messages::{
    Capabilities, Empty, Mode, NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetVolumeStatsRequest,
    NodeGetVolumeStatsResponse, NodeInfo, NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest, Topology, Unit, VolumeUsage,
};
use crate::mounts;
use crate::router::Router;
use crate::volume::{Volume, Volumes};

/// The label of a node that says which one it is.
pub(crate) const TOPOLOGY: &str = "lab.tranship.io/node";

/// Answers the calls.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    name: String,
    volumes: Volumes,
}

impl Node {
    /// The node of that name.
    pub(crate) fn new(name: String, volumes: Volumes) -> Self {
        Self { name, volumes }
    }

    /// Adds the service.
    pub(crate) fn serve(self, router: Router) -> Router {
        let info = NodeInfo {
            node_id: self.name.clone(),
            accessible_topology: Some(Topology { segments: HashMap::from([(TOPOLOGY.into(), self.name.clone())]) }),
        };
        let [stage, unstage, publish, unpublish, expand, stats] = std::array::from_fn(|_| self.clone());
        router
            .method("/csi.v1.Node/NodeStageVolume", move |request| stage.stage(&request))
            .method("/csi.v1.Node/NodeUnstageVolume", move |request| unstage.unstage(&request))
            .method("/csi.v1.Node/NodePublishVolume", move |request| publish.publish(&request))
            .method("/csi.v1.Node/NodeUnpublishVolume", move |request| unpublish.unpublish(&request))
            .method("/csi.v1.Node/NodeExpandVolume", move |request| expand.expand(&request))
            .method("/csi.v1.Node/NodeGetVolumeStats", move |request| stats.stats(&request))
            .method("/csi.v1.Node/NodeGetInfo", move |_: Empty| Ok(info.clone()))
            .method("/csi.v1.Node/NodeGetCapabilities", |_: Empty| Ok(capabilities()))
    }

    fn stage(&self, request: &NodeStageVolumeRequest) -> Result<Empty, Error> {
        let wanted = Use::parse(request.volume_capability.as_ref())?;
        let staging = path("staging_target_path", &request.staging_target_path)?;
        let mut volume = self.volumes.volume(&request.volume_id)?;
        wanted.check(volume.meta.access)?;
        if !volume.meta.published.contains_key(&self.name) {
            return Err(Error::FailedPrecondition(format!("{} does not have the volume", self.name)));
        }
        // Before anything is attached: whoever unstages last detaches.
        volume.meta.staged.entry(self.name.clone()).or_default();
        volume.save()?;
        let device = volume.attach()?;
        if let Some(folder) = &wanted.folder {
            show_file_system(&device, folder, staging)?;
        }
        Ok(Empty {})
    }

    fn unstage(&self, request: &NodeUnstageVolumeRequest) -> Result<Empty, Error> {
        let staging = path("staging_target_path", &request.staging_target_path)?;
        let Some(mut volume) = self.volumes.find(&request.volume_id)? else {
            mounts::unmount(staging)?;
            return Ok(Empty {});
        };
        mounts::unmount(staging)?;
        volume.meta.staged.remove(&self.name);
        volume.save()?;
        if volume.meta.staged.is_empty() {
            device::detach_all(&volume.image())?;
        }
        Ok(Empty {})
    }

    fn publish(&self, request: &NodePublishVolumeRequest) -> Result<Empty, Error> {
        let wanted = Use::parse(request.volume_capability.as_ref())?;
        let target = path("target_path", &request.target_path)?;
        let staging = path("staging_target_path", &request.staging_target_path)?;
        let mut volume = self.volumes.volume(&request.volume_id)?;
        wanted.check(volume.meta.access)?;
        let (true, Some(device)) = (volume.meta.staged.contains_key(&self.name), volume.device()?) else {
            return Err(Error::FailedPrecondition(format!("the volume is not staged on {}", self.name)));
        };
        let targets = volume.meta.staged.entry(self.name.clone()).or_default();
        if wanted.mode == Mode::SingleNodeSingleWriter {
            for other in targets.iter().filter(|other| *other != target) {
                if mounts::at(other)?.is_some() {
                    return Err(Error::FailedPrecondition(format!("its one place is {}", other.display())));
                }
            }
        }
        targets.insert(target.to_owned());
        volume.save()?;
        let is_readonly = request.readonly || wanted.mode.is_reader();
        match volume.meta.access {
            Access::Mount => show_folder(&device, staging, target, is_readonly)?,
            Access::Block => show_device(&volume, &device, target, is_readonly)?,
        }
        Ok(Empty {})
    }

    fn unpublish(&self, request: &NodeUnpublishVolumeRequest) -> Result<Empty, Error> {
        let target = path("target_path", &request.target_path)?;
        let Some(mut volume) = self.volumes.find(&request.volume_id)? else {
            hide(target)?;
            return Ok(Empty {});
        };
        // A device of this publication alone, if it was for reading.
        let mut above = None;
        if mounts::at(target)?.is_some() {
            for device in device::all_of(&volume.image())? {
                above = above.or(device_above(&device, target)?);
            }
        }
        hide(target)?;
        if let Some(above) = above {
            device::detach(&above)?;
        }
        if let Some(targets) = volume.meta.staged.get_mut(&self.name) {
            targets.remove(target);
            volume.save()?;
        }
        Ok(Empty {})
    }

    fn expand(&self, request: &NodeExpandVolumeRequest) -> Result<NodeExpandVolumeResponse, Error> {
        let shown = path("volume_path", &request.volume_path)?;
        let volume = self.volumes.volume(&request.volume_id)?;
        let device = check_shown(&volume, shown)?;
        device.grow()?;
        for above in device::all_of(&device.path)? {
            above.grow()?;
        }
        if let (Access::Mount, Some(mount)) = (volume.meta.access, mounts::of_device(&device.number()?)?.first()) {
            filesystem::grow(&device, mount)?;
        }
        let capacity_bytes = i64::try_from(volume.meta.bytes).unwrap_or(i64::MAX);
        Ok(NodeExpandVolumeResponse { capacity_bytes })
    }

    fn stats(&self, request: &NodeGetVolumeStatsRequest) -> Result<NodeGetVolumeStatsResponse, Error> {
        let shown = path("volume_path", &request.volume_path)?;
        let volume = self.volumes.volume(&request.volume_id)?;
        check_shown(&volume, shown)?;
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let usage = |unit: Unit, total: u64, free: u64, available: u64| VolumeUsage {
            available: signed(available),
            total: signed(total),
            used: signed(total.saturating_sub(free)),
            unit: unit.into(),
        };
        let usage = match volume.meta.access {
            Access::Block => {
                vec![VolumeUsage { total: signed(volume.meta.bytes), unit: Unit::Bytes.into(), ..Default::default() }]
            }
            Access::Mount => {
                let told = rustix::fs::statvfs(shown).map_err(io::Error::from);
                let told = told.map_err(Error::io(format!("look at {}", shown.display())))?;
                let bytes = |blocks: u64| blocks.saturating_mul(told.f_frsize);
                vec![
                    usage(Unit::Bytes, bytes(told.f_blocks), bytes(told.f_bfree), bytes(told.f_bavail)),
                    usage(Unit::Inodes, told.f_files, told.f_ffree, told.f_favail),
                ]
            }
        };
        Ok(NodeGetVolumeStatsResponse { usage })
    }
}

fn capabilities() -> Capabilities {
    Capabilities::of(&[
        Capabilities::NODE_STAGE_UNSTAGE_VOLUME,
        Capabilities::NODE_GET_VOLUME_STATS,
        Capabilities::NODE_EXPAND_VOLUME,
        Capabilities::NODE_SINGLE_NODE_MULTI_WRITER,
    ])
}

/// A path of a request.
fn path<'a>(field: &str, path: &'a str) -> Result<&'a Path, Error> {
    if path.starts_with('/') {
        return Ok(Path::new(path));
    }
    Err(Error::InvalidArgument(format!("{field} is no whole path: {path:?}")))
}

/// Mounts the file system of a device, or shows the mount of another node.
fn show_file_system(device: &Device, folder: &Folder, staging: &Path) -> Result<(), Error> {
    make_folder(staging)?;
    let number = device.number()?;
    if is_shown(&number, staging)? {
        return Ok(());
    }
    let mounts = mounts::of_device(&number)?;
    match mounts.iter().find(|mount| mount.root == Path::new("/")) {
        Some(mount) => mounts::bind(&mount.point, staging),
        None => filesystem::mount(folder.kind, device, staging, &folder.flags),
    }
}

/// Shows at `target` what is staged.
fn show_folder(device: &Device, staging: &Path, target: &Path, is_readonly: bool) -> Result<(), Error> {
    let number = device.number()?;
    if !is_shown(&number, staging)? {
        return Err(Error::FailedPrecondition(format!("nothing is staged at {}", staging.display())));
    }
    make_folder(target)?;
    if !is_shown(&number, target)? {
        mounts::bind(staging, target)?;
    }
    let is_already = mounts::at(target)?.is_some_and(|mount| mount.is_readonly);
    match (is_readonly, is_already) {
        (true, false) => mounts::make_readonly(target),
        (false, true) => Err(Error::AlreadyExists(format!("{} is read-only", target.display()))),
        _ => Ok(()),
    }
}

/// Shows the device at `target`, or one above it that refuses writes: the mode of a mount does not hold for devices.
fn show_device(volume: &Volume, device: &Device, target: &Path, is_readonly: bool) -> Result<(), Error> {
    if let Some(parent) = target.parent() {
        make_folder(parent)?;
    }
    let made = File::options().append(true).create(true).open(target);
    if mounts::at(target)?.is_some() {
        let above = device_above(device, target)?;
        let is_it = device::number_of(target)? == Some(device.number()?);
        return match (is_readonly, is_it, above) {
            (false, true, _) | (true, _, Some(_)) => Ok(()),
            _ => Err(Error::AlreadyExists(format!("something else is at {}", target.display()))),
        };
    }
    made.map_err(Error::io(format!("make {}", target.display())))?;
    if !is_readonly {
        return mounts::bind(&device.path, target);
    }
    let above = volume.attach_readonly(device)?;
    mounts::bind(&above.path, target).inspect_err(|_| {
        // What stays goes with the device beneath it.
        let _ = device::detach(&above);
    })
}

/// The device above `device` that is shown at a path, if it is one.
fn device_above(device: &Device, shown: &Path) -> Result<Option<Device>, Error> {
    let Some(number) = device::number_of(shown)? else { return Ok(None) };
    for above in device::all_of(&device.path)? {
        if above.number()? == number {
            return Ok(Some(above));
        }
    }
    Ok(None)
}

/// Whether the file system of a device is mounted at a path.
///
/// # Errors
/// When something else is.
fn is_shown(number: &str, point: &Path) -> Result<bool, Error> {
    match mounts::at(point)? {
        Some(mount) if mount.device == number => Ok(true),
        Some(mount) => {
            let text = format!("a {} is mounted at {}", mount.kind, point.display());
            Err(Error::FailedPrecondition(text))
        }
        None => Ok(false),
    }
}

/// The device of a volume that is shown at this path.
///
/// # Errors
/// When it is not.
fn check_shown(volume: &Volume, shown: &Path) -> Result<Device, Error> {
    let nothing = || Error::NotFound(format!("the volume is not at {}", shown.display()));
    let device = volume.device()?.ok_or_else(nothing)?;
    let mount = mounts::at(shown)?;
    let is_there = match volume.meta.access {
        Access::Mount => mount.is_some_and(|mount| device.number().is_ok_and(|number| number == mount.device)),
        // A kubelet may name the folder where it is staged, which shows nothing, or a link to the device.
        Access::Block => shown.exists(),
    };
    if is_there { Ok(device) } else { Err(nothing()) }
}

fn make_folder(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::io(format!("make {}", path.display())))
}

/// Unmounts what a path shows, and removes the path. Nothing is in it then, or it was not ours.
fn hide(target: &Path) -> Result<(), Error> {
    mounts::unmount(target)?;
    let removed = match fs::symlink_metadata(target) {
        Ok(meta) if meta.is_dir() => fs::remove_dir(target),
        Ok(meta) if meta.is_file() && meta.len() == 0 => fs::remove_file(target),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "something is in it")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(Error::io(format!("remove {}", target.display())))
}
