//! Where everything of the lab lies.

use std::fs;
use std::path::{Path, PathBuf};

use crate::LabError;

/// Folders of the lab.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
    home: PathBuf,
}

impl Layout {
    /// The lab of the workspace at `root`. There is one for each machine.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), home: PathBuf::from("/var/lib/tranship-lab") }
    }

    /// What lives as long as the clusters do.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The kubeconfig of `user` for `cluster`; `admin` is there for tests.
    pub fn kubeconfig(&self, cluster: &str, user: &str) -> PathBuf {
        self.home.join(cluster).join(format!("{user}.kubeconfig"))
    }

    /// One kubeconfig with the administrators of all clusters, as the contexts `lab-a` and `lab-b`.
    pub fn kubeconfig_all(&self) -> PathBuf {
        self.home.join("kubeconfig")
    }

    /// The workspace.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What was built, kept from lab to lab.
    pub(crate) fn cache(&self) -> PathBuf {
        self.root.join("target/lab")
    }

    /// Go modules that are built.
    pub(crate) fn go(&self) -> PathBuf {
        self.root.join("tests/lab/go")
    }

    /// A folder of the clusters, made if it is not there.
    pub(crate) fn folder(&self, path: impl AsRef<Path>) -> Result<PathBuf, LabError> {
        let folder = self.home.join(path);
        fs::create_dir_all(&folder).map_err(LabError::io(&folder))?;
        Ok(folder)
    }

    pub(crate) fn remove_home(&self) -> Result<(), LabError> {
        match fs::remove_dir_all(&self.home) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(LabError::io(&self.home)(error)),
            _ => Ok(()),
        }
    }
}

/// Writes a file.
pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<(), LabError> {
    fs::write(path, text).map_err(LabError::io(path))
}
