//! Which volumes share a pair of agents, and where these run.

use std::collections::BTreeMap;

use tranship_api::Side;
use tranship_api::record::ClaimRecord;
use tranship_proto::control::Role;

use crate::agents::AgentPlan;
use crate::pair::PairPlan;
use crate::workload::{Constraints, Survey};

/// How a volume is used on the side that is read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    /// The node on which the application has it; nothing if nobody has it, or an agent may read it anywhere.
    pub node: Option<String>,
    /// Whether it may be used by one pod only, and is: then there is no place for an agent.
    pub is_exclusive: bool,
    /// What the application's pods are like.
    pub traits: Constraints,
}

/// How a claim is used, from what was seen of its users.
///
/// A volume that pods of several nodes share is read on one of them: what another node has not written out yet is only seen
/// by a pass without writers, which is what the last one is.
pub fn usage(survey: &Survey, claim: &ClaimRecord) -> Usage {
    let is_alone = claim.access_modes.iter().any(|mode| mode == "ReadWriteOncePod");
    Usage {
        node: survey.nodes_of(&claim.name).first().map(|&node| node.to_owned()),
        is_exclusive: is_alone && survey.users_of(&claim.name).next().is_some(),
        traits: survey.constraints.get(&claim.name).cloned().unwrap_or_default(),
    }
}

/// Pairs for the volumes of a record, which `usages` names in order. One pair takes all volumes that are in use on
/// one node; those that nobody uses are together in another. Volumes in exclusive use are in none.
pub fn pairs(from: Side, usages: &[Usage]) -> Vec<PairPlan> {
    let mut groups: BTreeMap<Option<&str>, Vec<usize>> = BTreeMap::new();
    for (volume, usage) in usages.iter().enumerate().filter(|(_, usage)| !usage.is_exclusive) {
        groups.entry(usage.node.as_deref()).or_default().push(volume);
    }
    let mut groups: Vec<(Option<&str>, Vec<usize>)> = groups.into_iter().collect();
    // By their first volume, so that a group keeps its number, and its pods their names, as long as it can.
    groups.sort_by_key(|(_, volumes)| volumes[0]);
    let plan = |side: Side, role: Role, group: usize, volumes: &[usize], node: Option<&str>| AgentPlan {
        side,
        role,
        group,
        volumes: volumes.to_vec(),
        node: node.map(str::to_owned),
        traits: usages[volumes[0]].traits.clone(),
    };
    let pair = |(group, (node, volumes)): (usize, &(Option<&str>, Vec<usize>))| PairPlan {
        from: plan(from, Role::Source, group, volumes, *node),
        to: plan(from.other(), Role::Destination, group, volumes, None),
    };
    groups.iter().enumerate().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(node: Option<&str>, is_exclusive: bool) -> Usage {
        Usage { node: node.map(str::to_owned), is_exclusive, traits: Constraints::default() }
    }

    #[test]
    fn volumes_on_one_node_share_a_pair_and_an_exclusive_one_has_none() {
        let usages = [used(Some("b"), false), used(None, false), used(Some("a"), true), used(Some("b"), false)];
        let plans = pairs(Side::Source, &usages);
        let told: Vec<_> = plans.iter().map(|plan| (plan.from.volumes.clone(), plan.from.node.clone())).collect();
        assert_eq!(told, [(vec![0, 3], Some("b".to_owned())), (vec![1], None)]);
        assert!(plans.iter().all(|plan| plan.to.node.is_none() && plan.to.volumes == plan.from.volumes));
    }
}
