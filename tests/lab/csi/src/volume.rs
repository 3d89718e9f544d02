//! The folder of the volumes, shared by processes: a folder `<id>/` for each, with `image` and `meta.json`.
//!
//! A volume exists when its `meta.json` does. Whoever reads or changes one holds a lock on its folder meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::capability::Access;
use crate::device::{self, Device};
use crate::error::Error;
use crate::messages::Mode;

/// A name that the specification allows is no longer.
const NAME_BYTES_MAX: usize = 128;

/// The folder of the volumes.
#[derive(Debug, Clone)]
pub(crate) struct Volumes {
    folder: PathBuf,
}

/// What is known of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// Its name, which is also its identifier.
    pub(crate) name: String,
    /// The size of its image.
    pub(crate) bytes: u64,
    /// What it is.
    pub(crate) access: Access,
    /// The only nodes that may have it; empty for all.
    pub(crate) nodes: BTreeSet<String>,
    /// The nodes that have it, and how.
    pub(crate) published: BTreeMap<String, Publication>,
    /// The nodes where it is staged, or is about to be, and the paths where each shows it.
    pub(crate) staged: BTreeMap<String, BTreeSet<PathBuf>>,
}

/// How a node has a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Publication {
    /// What for.
    pub(crate) mode: Mode,
    /// Whether only to read.
    pub(crate) is_readonly: bool,
}

/// A volume that nobody else looks at as long as this lives.
#[derive(Debug)]
pub(crate) struct Volume {
    /// What is known of it; changes last when they are saved.
    pub(crate) meta: Meta,
    folder: PathBuf,
    losetup_lock: PathBuf,
    _lock: File,
}

impl Volumes {
    /// The volumes in a folder, which is made.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        // The kernel tells of images by their whole path.
        Ok(Self { folder: folder.canonicalize()? })
    }

    /// A volume that has to be there.
    pub(crate) fn volume(&self, id: &str) -> Result<Volume, Error> {
        if id.is_empty() {
            return Err(Error::InvalidArgument("no volume is named".into()));
        }
        self.find(id)?.ok_or_else(|| Error::NotFound(format!("there is no volume {id}")))
    }

    /// A volume, if it is there.
    pub(crate) fn find(&self, id: &str) -> Result<Option<Volume>, Error> {
        if !is_name(id) {
            return Ok(None);
        }
        let folder = self.folder.join(id);
        let Some(lock) = lock(&folder)? else { return Ok(None) };
        let Some(meta) = read(&folder)? else { return Ok(None) };
        Ok(Some(self.with(folder, meta, lock)))
    }

    /// The volume of that name, made if there is none. One that was there is returned as it is.
    pub(crate) fn create(&self, meta: Meta) -> Result<Volume, Error> {
        if !is_name(&meta.name) {
            let text = format!("{:?} is no name: letters, digits, and `-_.` not at its beginning", meta.name);
            return Err(Error::InvalidArgument(text));
        }
        let folder = self.folder.join(&meta.name);
        let (lock, found) = loop {
            fs::create_dir_all(&folder).map_err(Error::io("make the folder of a volume"))?;
            if let Some(lock) = lock(&folder)? {
                break (lock, read(&folder)?);
            }
        };
        if let Some(found) = found {
            return Ok(self.with(folder, found, lock));
        }
        let image = File::create(folder.join("image")).and_then(|image| image.set_len(meta.bytes));
        image.map_err(Error::io("make an image"))?;
        let volume = self.with(folder, meta, lock);
        volume.save()?;
        Ok(volume)
    }

    fn with(&self, folder: PathBuf, meta: Meta, lock: File) -> Volume {
        Volume { meta, folder, losetup_lock: self.folder.join(".losetup.lock"), _lock: lock }
    }
}

impl Volume {
    /// Its content.
    pub(crate) fn image(&self) -> PathBuf {
        self.folder.join("image")
    }

    /// The one device that all nodes have it by; nothing if no node has it.
    pub(crate) fn device(&self) -> Result<Option<Device>, Error> {
        device::of(&self.image())
    }

    /// The same, attached if it was not.
    pub(crate) fn attach(&self) -> Result<Device, Error> {
        match self.device()? {
            Some(device) => Ok(device),
            None => device::attach(&self.image(), false, &self.losetup_lock),
        }
    }

    /// A further device above it that refuses writes.
    pub(crate) fn attach_readonly(&self, device: &Device) -> Result<Device, Error> {
        device::attach(&device.path, true, &self.losetup_lock)
    }

    /// Makes its image larger; it never gets smaller.
    pub(crate) fn grow(&mut self, bytes: u64) -> Result<(), Error> {
        let grow = || {
            let image = File::options().write(true).open(self.image())?;
            if image.metadata()?.len() < bytes { image.set_len(bytes) } else { Ok(()) }
        };
        grow().map_err(Error::io("grow an image"))?;
        self.meta.bytes = bytes;
        self.save()
    }

    /// Makes what is known of it last: the old or the new, whatever happens.
    pub(crate) fn save(&self) -> Result<(), Error> {
        let save = || {
            let temporary = self.folder.join("meta.json.new");
            let file = File::create(&temporary)?;
            serde_json::to_writer_pretty(&file, &self.meta)?;
            file.sync_all()?;
            fs::rename(&temporary, self.folder.join("meta.json"))
        };
        save().map_err(Error::io("write what is known of a volume"))
    }

    /// Removes it with its content.
    pub(crate) fn remove(self) -> Result<(), Error> {
        // First what makes it exist. The rest, should it stay behind, is what `create` overwrites.
        let removed = fs::remove_file(self.folder.join("meta.json")).and_then(|()| fs::remove_dir_all(&self.folder));
        removed.map_err(Error::io("remove a volume"))
    }
}

/// Whether it can be the name of a folder, and of nothing else.
fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    name.len() <= NAME_BYTES_MAX && name.bytes().all(is_plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Waits until nobody else has the folder; nothing if there is none.
fn lock(path: &Path) -> Result<Option<File>, Error> {
    let lock = || {
        loop {
            let folder = File::open(path)?;
            folder.lock()?;
            // While we waited it may have been removed, and made anew for somebody else.
            let (ours, theirs) = (folder.metadata()?, fs::metadata(path)?);
            if (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()) {
                return Ok(folder);
            }
        }
    };
    missing(lock()).map_err(Error::io("lock a volume"))
}

fn read(folder: &Path) -> Result<Option<Meta>, Error> {
    let text = missing(fs::read(folder.join("meta.json"))).map_err(Error::io("read what is known of a volume"))?;
    let meta = text.map(|text| serde_json::from_slice(&text)).transpose();
    meta.map_err(|error| Error::io("understand what is known of a volume")(error.into()))
}

/// What is missing is no error.
fn missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(name: &str) -> Meta {
        let (nodes, published, staged) = Default::default();
        Meta { name: name.into(), bytes: 1 << 20, access: Access::Mount, nodes, published, staged }
    }

    #[test]
    fn a_name_never_leads_out_of_the_folder() {
        for (name, is_fine) in [
            ("pvc-8f1b", true),
            ("a.b_c", true),
            ("", false),
            (".", false),
            ("..", false),
            (".losetup.lock", false),
            ("a/b", false),
            ("a b", false),
            ("-a", false),
        ] {
            assert_eq!(is_name(name), is_fine, "{name:?}");
        }
        assert!(!is_name(&"a".repeat(NAME_BYTES_MAX + 1)));
    }

    #[test]
    fn what_is_known_lasts_and_a_removed_volume_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let volumes = Volumes::open(folder.path()).expect("opened");
        assert!(volumes.find("a").expect("looked").is_none());
        let mut volume = volumes.create(meta("a")).expect("made");
        volume.grow(2 << 20).expect("grown");
        drop(volume);
        let volume = volumes.volume("a").expect("found");
        assert_eq!(volume.meta, Meta { bytes: 2 << 20, ..meta("a") });
        assert_eq!(fs::metadata(volume.image()).expect("an image").len(), 2 << 20);
        drop(volume);
        assert_eq!(volumes.create(meta("a")).expect("there already").meta.bytes, 2 << 20);
        volumes.volume("a").expect("found").remove().expect("removed");
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 0);
    }

    #[test]
    fn half_a_volume_is_none_and_can_be_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let volumes = Volumes::open(folder.path()).expect("opened");
        fs::create_dir(folder.path().join("a")).expect("made");
        fs::write(folder.path().join("a/image"), "old").expect("written");
        assert!(volumes.find("a").expect("looked").is_none());
        let volume = volumes.create(meta("a")).expect("made");
        assert_eq!(fs::metadata(volume.image()).expect("an image").len(), 1 << 20);
    }
}
