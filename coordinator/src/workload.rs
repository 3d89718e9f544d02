//! Who uses the claims: workloads that could, pods that do, and what would start them again behind our back.

mod autoscaler;
pub(crate) mod claims;
mod constraint;
mod controller;
mod gitops;
mod inventory;
mod manifest;
mod obstacle;
mod owner;

use std::collections::{BTreeMap, BTreeSet};

use tranship_api::{Finding, ObjectRef};

pub(crate) use autoscaler::PAUSED;
pub use autoscaler::Scaler;
pub use constraint::Constraints;
pub(crate) use controller::reference;
pub use controller::{Kind, Lever};
pub(crate) use inventory::may_run;
pub(crate) use manifest::RECREATED;

use crate::{Cluster, Error};
use inventory::Inventory;

/// A label that no node has: with it in its selector a DaemonSet has no pods.
pub const NO_NODE: &str = "tranship.io/quiesced";

/// Who uses some claims of a namespace.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// The namespace.
    pub namespace: String,
    /// The claims that were asked about.
    pub claims: Vec<String>,
    /// What has to be stopped, in the order in which it is; also what has no pods now.
    pub workloads: Vec<Workload>,
    /// Autoscalers that do not rest by themselves.
    pub scalers: Vec<Scaler>,
    /// Pods that use the claims, in any phase but Succeeded and Failed.
    pub users: Vec<User>,
    /// For each claim with a user or a workload: what a pod has to share with them.
    pub constraints: BTreeMap<String, Constraints>,
    /// What stands in the way, or should be known.
    pub obstacles: Vec<Finding>,
}

/// Something that is stopped for a cutover.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// What.
    pub object: ObjectRef,
    /// Its kind.
    pub kind: Kind,
    /// What is pulled to stop it, as it stands now.
    pub lever: Lever,
    /// The claims that it uses, of those that were asked about.
    pub claims: Vec<String>,
    /// Whether its claims are deleted as it is scaled down.
    pub deletes_claims: bool,
}

/// A pod that uses claims.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    /// The pod.
    pub pod: ObjectRef,
    /// The claims that it uses, of those that were asked about.
    pub claims: Vec<String>,
    /// Its node; nothing before it has one.
    pub node: Option<String>,
    /// Its phase.
    pub phase: String,
    /// Whether it is going away.
    pub is_terminating: bool,
    /// What makes it, at the top; itself where nobody does.
    pub owner: ObjectRef,
}

impl Survey {
    /// Pods that use this claim.
    pub fn users_of<'a>(&'a self, claim: &'a str) -> impl Iterator<Item = &'a User> {
        self.users.iter().filter(move |user| user.claims.iter().any(|used| used == claim))
    }

    /// Nodes on which this claim is used, without repetition.
    pub fn nodes_of(&self, claim: &str) -> Vec<&str> {
        let users = self.users.iter().filter(|user| user.claims.iter().any(|used| used == claim));
        let nodes: BTreeSet<&str> = users.filter_map(|user| user.node.as_deref()).collect();
        nodes.into_iter().collect()
    }
}

/// Looks at who uses `claims` of `namespace`, or with `all` at everything that runs there.
///
/// It only reads. What it finds is of one moment: a workload that is made later is kept from the claims by the fence.
pub async fn survey(cluster: &Cluster, namespace: &str, claims: &[String], all: bool) -> Result<Survey, Error> {
    let inventory = Inventory::read(cluster, namespace).await?;
    let mut survey = inventory.survey(claims, all);
    survey.obstacles.extend(gitops::obstacles(cluster, &inventory, &survey).await?);
    for finding in &mut survey.obstacles {
        finding.side = Some(cluster.side);
    }
    Ok(survey)
}
