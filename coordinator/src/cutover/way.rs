//! Agents beside volumes that the application is about to use.
//!
//! As long as one is there its node has the volumes attached and mounted, and a pod that comes to that node finds them at
//! once. A pod on another node waits until the agent is gone.

use k8s_openapi::api::core::v1::Pod;
use tranship_api::{Record, Side};

use crate::Error;
use crate::agents::agents_selector;
use crate::ledger::Ledger;

/// The access mode that gives a volume to one pod of the whole cluster.
const ONE_POD: &str = "ReadWriteOncePod";

/// Whether pods on an agent's node can use its volumes while it is there.
pub(super) fn can_be_shared(record: &Record, side: Side) -> bool {
    record.volumes.iter().all(|volume| volume.claim(side).access_modes.iter().all(|mode| mode != ONE_POD))
}

/// Ends all agents of a side. They end by themselves, too.
pub(super) async fn clear(ledger: &Ledger, side: Side) {
    end(ledger, side, &agents(ledger, side).await.unwrap_or_default()).await;
}

/// Ends those agents of a side that keep a pod from its volume, since it was put on another node.
pub(super) async fn make(ledger: &Ledger, side: Side) -> Result<(), Error> {
    let agents = agents(ledger, side).await?;
    if agents.is_empty() {
        return Ok(());
    }
    let pods = ledger.cluster(side).list::<Pod>(ledger.record.namespace(side), "").await?;
    end(ledger, side, &in_the_way(agents, &pods)).await;
    Ok(())
}

async fn agents(ledger: &Ledger, side: Side) -> Result<Vec<Pod>, Error> {
    ledger.cluster(side).list(ledger.record.namespace(side), &agents_selector(&ledger.record)).await
}

async fn end(ledger: &Ledger, side: Side, agents: &[Pod]) {
    for agent in agents.iter().filter(|agent| agent.metadata.deletion_timestamp.is_none()) {
        let (name, uid) = (agent.metadata.name.as_deref().unwrap_or_default(), agent.metadata.uid.as_deref());
        if let Err(error) = ledger.cluster(side).delete::<Pod>(ledger.record.namespace(side), name, uid).await {
            tracing::warn!(%error, "an agent's pod stays until it ends by itself");
        }
    }
}

/// Agents that share a claim with a pod of another node.
fn in_the_way(mut agents: Vec<Pod>, pods: &[Pod]) -> Vec<Pod> {
    agents.retain(|agent| {
        pods.iter().any(|pod| {
            node(pod).is_some()
                && node(pod) != node(agent)
                && claims(pod).any(|claim| claims(agent).any(|ours| ours == claim))
        })
    });
    agents
}

fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn claims(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod.spec.iter().filter_map(|spec| spec.volumes.as_ref()).flatten();
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(node: Option<&str>, claims: &[&str]) -> Pod {
        let volumes: Vec<_> =
            claims.iter().map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}})).collect();
        let spec = json!({"spec": {"nodeName": node, "containers": [], "volumes": volumes}});
        serde_json::from_value(spec).expect("a pod")
    }

    #[test]
    fn only_an_agent_on_another_node_than_a_pod_with_its_claim_is_in_the_way() {
        let agent = || vec![pod(Some("one"), &["data", "state"])];
        let is_in_the_way = |node, claims: &[&str]| !in_the_way(agent(), &[pod(node, claims)]).is_empty();
        assert!(is_in_the_way(Some("two"), &["data"]));
        assert!(!is_in_the_way(Some("one"), &["data"]));
        assert!(!is_in_the_way(Some("two"), &["other"]));
        assert!(!is_in_the_way(None, &["data"]), "nobody knows yet where it will be");
        assert!(in_the_way(agent(), &agent()).is_empty(), "it sees itself");
    }
}
