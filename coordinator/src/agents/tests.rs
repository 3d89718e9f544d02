use serde_json::json;
use tranship_api::Migration;

use super::*;

fn record(mode: &str) -> Record {
    let claim = json!({ "name": "data" });
    let record = json!({
        "version": 1, "id": "00", "revision": 1, "epoch": 1, "coordinator": "test",
        "migration": Migration::new("shop", "shop"), "clusters": ["a", "b"], "mode": mode,
        "volumes": [{ "claims": [claim, claim], "isBlock": false }], "owner": "source", "step": "staging",
    });
    serde_json::from_value(record).expect("it is whole")
}

fn plan(role: Role, traits: Constraints) -> AgentPlan {
    AgentPlan { side: Side::Source, role, group: 0, volumes: vec![0], node: Some("n1".to_owned()), traits }
}

fn prepared(record: &Record, plan: &AgentPlan) -> Option<PodSpec> {
    plan.preparation(record, &OwnerReference::default())?.spec
}

#[test]
fn the_owners_of_a_volume_in_use_are_never_changed() {
    let record = record("plain");
    let plan = plan(Role::Source, Constraints { fs_group: Some(2_000), ..Constraints::default() });
    let agent = plan.pod(&record, &OwnerReference::default(), "").spec.expect("it has one");
    let security = agent.security_context.expect("it has one");
    assert_eq!((security.fs_group, security.supplemental_groups), (None, Some(vec![2_000])));
    // The pod that asks for a group has no volume of the application.
    let ready = prepared(&record, &plan).expect("the agent is not root");
    assert_eq!(ready.security_context.and_then(|security| security.fs_group), Some(2_000));
    let volumes: Vec<String> = ready.volumes.into_iter().flatten().map(|volume| volume.name).collect();
    assert_eq!(volumes, ["state-v0"]);
    let mounts: Vec<String> =
        ready.containers[0].volume_mounts.iter().flatten().map(|mount| mount.name.clone()).collect();
    assert_eq!(mounts, ["state-v0"]);
    assert_eq!(ready.affinity, agent.affinity);
}

#[test]
fn an_agent_that_nobody_gave_a_group_has_one_of_its_own() {
    let record = record("plain");
    let plan = plan(Role::Source, Constraints { run_as_user: Some(1_000), ..Constraints::default() });
    let agent = plan.pod(&record, &OwnerReference::default(), "").spec.expect("it has one");
    let groups = agent.security_context.and_then(|security| security.supplemental_groups);
    assert_eq!(groups, Some(vec![NOBODY]));
    let ready = prepared(&record, &plan).and_then(|spec| spec.security_context);
    assert_eq!(ready.and_then(|security| security.fs_group), Some(NOBODY));
}

#[test]
fn only_a_source_that_is_not_root_needs_its_claims_made_ready() {
    let traits = Constraints::default();
    assert!(prepared(&record("owner"), &plan(Role::Source, traits.clone())).is_none());
    assert!(prepared(&record("plain"), &plan(Role::Destination, traits)).is_none());
}
