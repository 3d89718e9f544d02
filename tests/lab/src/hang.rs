//! Programs of the lab that stand still, as one does whose disk or memory does not answer.

use crate::Cluster;
use crate::node::Node;
use crate::processes::signal;

/// A program that stands still. It goes on when this is dropped.
#[derive(Debug)]
pub struct Hang {
    node: String,
    program: &'static str,
}

impl Hang {
    /// The API server of a cluster: connections stay, and nothing is answered.
    pub fn of_api_server(cluster: &Cluster) -> Self {
        Self::of(&cluster.nodes[0], " kube-apiserver ")
    }

    /// The kubelet of a node, whose containers run on.
    pub fn of_kubelet(node: &Node) -> Self {
        Self::of(node, " kubelet ")
    }

    /// # Panics
    /// When it does not run.
    fn of(node: &Node, program: &'static str) -> Self {
        assert_eq!(signal(&node.name, program, "-STOP"), 1, "{program} of {}", node.name);
        Self { node: node.name.clone(), program }
    }
}

impl Drop for Hang {
    fn drop(&mut self) {
        signal(&self.node, self.program, "-CONT");
    }
}
