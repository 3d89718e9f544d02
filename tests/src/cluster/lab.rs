//! The lab that all tests of this process share.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tranship_lab::{Cluster, Layout, Link, Version, clusters, tails, up};

/// One of the two clusters: the source is `a`, with two nodes, the destination `b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where an application begins.
    Source,
    /// Where it goes.
    Destination,
}

impl Side {
    /// Its context in the lab's kubeconfig.
    pub fn context(self) -> &'static str {
        match self {
            Self::Source => "lab-a",
            Self::Destination => "lab-b",
        }
    }
}

/// The lab.
pub struct Lab {
    /// Where everything of it lies.
    pub layout: Layout,
    clusters: [Cluster; 2],
}

/// The lab, which is up, with what this workspace builds on its nodes; as it is, where `TRANSHIP_BINARY` names what is
/// tested. With `TRANSHIP_LAB_MIXED` its clusters are of different minor versions.
///
/// # Panics
/// When it does not come up: with the ends of its logs, and at once for every test but the first.
pub fn lab() -> &'static Lab {
    static LAB: OnceLock<Result<Lab, String>> = OnceLock::new();
    let made = LAB.get_or_init(|| {
        let is_mixed = std::env::var_os("TRANSHIP_LAB_MIXED").is_some();
        let versions = [if is_mixed { Version::OLDER } else { Version::NEWER }, Version::NEWER];
        let is_given = std::env::var_os("TRANSHIP_BINARY").is_some();
        let layout = if is_given { Ok(Layout::new(root())) } else { up(root(), versions, &|line| say(line)) };
        match layout {
            Ok(layout) => Ok(Lab { layout, clusters: clusters(versions) }),
            Err(error) => {
                say(&tails(root()));
                Err(error.to_string())
            }
        }
    });
    made.as_ref().unwrap_or_else(|why| panic!("there is no lab: {why}"))
}

/// The same, where its nodes also have what a measurement needs: the product as users get it, and what people use
/// instead.
///
/// # Panics
/// When it does not come up, or something cannot be built.
pub fn lab_for_figures() -> &'static Lab {
    let lab = lab();
    tranship_lab::load_for_figures(root(), &|line| say(line))
        .unwrap_or_else(|error| panic!("the nodes do not get what figures need: {error}"));
    lab
}

impl Lab {
    /// The cluster on this side.
    pub fn cluster(&self, side: Side) -> &Cluster {
        &self.clusters[side as usize]
    }

    /// Where the images of a cluster's volumes lie.
    pub fn volumes(&self, side: Side) -> PathBuf {
        self.layout.home().join(self.cluster(side).name).join("volumes")
    }
}

/// The weather between the clusters.
pub fn link() -> Link {
    lab();
    Link::new(root())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the workspace")
}

/// Tells whoever runs the tests.
pub fn say(line: &str) {
    #[expect(clippy::print_stderr, reason = "a test of minutes has to say how far it is")]
    {
        eprintln!("{line}");
    }
}
