//! Images of containers, made of files of this machine: no registry is asked.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::{command, run};
use crate::layout::write;
use crate::{LabError, Layout};

/// What a container of an image runs, and from which files.
pub(crate) struct Image<'a> {
    /// Its full name with a tag.
    pub(crate) name: &'a str,
    /// The folder that is its root.
    pub(crate) root: &'a Path,
    /// Program and arguments.
    pub(crate) entrypoint: &'a [&'a str],
}

impl Image<'_> {
    /// Writes it as an archive that `ctr image import` reads, in the form of `docker save`.
    pub(crate) fn archive(&self, to: &Path) -> Result<(), LabError> {
        let folder = tempfile::tempdir_in(to.parent().expect("a file lies in a folder")).map_err(LabError::io(to))?;
        let layer = folder.path().join("layer.tar");
        run(command("tar", ["--sort=name", "--numeric-owner", "--create", "--file"])
            .arg(&layer)
            .arg("--directory")
            .arg(self.root)
            .arg("."))?;
        let sum = run(&mut command("sha256sum", [&layer]))?;
        let sum = sum.split_whitespace().next().unwrap_or_default();
        let config = serde_json::json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{sum}")]},
        });
        let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [self.name], "Layers": ["layer.tar"]}]);
        write(&folder.path().join("config.json"), config.to_string())?;
        write(&folder.path().join("manifest.json"), manifest.to_string())?;
        let mut tar = command("tar", ["--create", "--file"]);
        tar.arg(to).arg("--directory").arg(folder.path());
        run(tar.args(["manifest.json", "config.json", "layer.tar"])).map(drop)
    }
}

/// The image whose process holds the namespaces of a pod, and which serves as a shell besides: busybox.
pub(crate) fn busybox(layout: &Layout) -> Result<PathBuf, LabError> {
    let archive = layout.folder("images")?.join("busybox.tar");
    if archive.exists() {
        return Ok(archive);
    }
    let root = tempfile::tempdir().map_err(LabError::io(&archive))?;
    for folder in ["bin", "tmp", "etc", "proc", "sys", "dev"] {
        let folder = root.path().join(folder);
        fs::create_dir(&folder).map_err(LabError::io(&folder))?;
    }
    let program = root.path().join("bin/busybox");
    fs::copy("/bin/busybox", &program).map_err(LabError::io(&program))?;
    run(command("/bin/busybox", ["--install", "-s"]).arg(root.path().join("bin")))?;
    for applet in fs::read_dir(root.path().join("bin")).map_err(LabError::io(&program))?.flatten() {
        if applet.path() != program {
            fs::remove_file(applet.path()).map_err(LabError::io(&applet.path()))?;
            std::os::unix::fs::symlink("busybox", applet.path()).map_err(LabError::io(&applet.path()))?;
        }
    }
    Image { name: BUSYBOX, root: root.path(), entrypoint: &["/bin/sleep", "2147483647"] }.archive(&archive)?;
    Ok(archive)
}

/// Its name.
pub(crate) const BUSYBOX: &str = "docker.io/lab/busybox:1";
