use serde_json::{Value, json};
use tranship_api::Severity;

use super::*;

/// A namespace that is put together from JSON.
fn inventory() -> Inventory {
    Inventory {
        namespace: "n".to_owned(),
        controllers: Vec::new(),
        pods: Vec::new(),
        claims: Vec::new(),
        autoscalers: Vec::new(),
        scaled: Scaled::default(),
        groups: BTreeSet::new(),
    }
}

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn meta(name: &str, owner: Option<(&str, &str, &str)>) -> Value {
    let mut meta = json!({ "name": name, "namespace": "n", "uid": format!("uid-{name}") });
    if let Some((api, kind, owner)) = owner {
        let uid = format!("uid-{owner}");
        meta["ownerReferences"] =
            json!([{ "apiVersion": api, "kind": kind, "name": owner, "uid": uid, "controller": true }]);
    }
    meta
}

fn spec(claim: &str) -> Value {
    json!({ "containers": [], "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": claim } }] })
}

fn pod(name: &str, owner: Option<(&str, &str, &str)>, claim: &str) -> Pod {
    let mut spec = spec(claim);
    spec["nodeName"] = json!("node");
    object(json!({ "metadata": meta(name, owner), "spec": spec, "status": { "phase": "Running" } }))
}

fn deployment(name: &str, owner: Option<(&str, &str, &str)>, claim: &str, replicas: i32) -> Controller {
    let spec = json!({ "replicas": replicas, "selector": {}, "template": { "spec": spec(claim) } });
    Controller::from(&object::<Deployment>(json!({ "metadata": meta(name, owner), "spec": spec })))
}

fn replica_set(name: &str, owner: Option<(&str, &str, &str)>, claim: &str) -> Controller {
    let spec = json!({ "replicas": 1, "selector": {}, "template": { "spec": spec(claim) } });
    Controller::from(&object::<ReplicaSet>(json!({ "metadata": meta(name, owner), "spec": spec })))
}

fn job(name: &str, owner: Option<(&str, &str, &str)>, condition: Option<&str>) -> Controller {
    let conditions: Vec<Value> = condition.iter().map(|kind| json!({ "type": kind, "status": "True" })).collect();
    let spec = json!({ "template": { "spec": spec("data") } });
    let status = json!({ "conditions": conditions });
    Controller::from(&object::<Job>(json!({ "metadata": meta(name, owner), "spec": spec, "status": status })))
}

fn names(survey: &Survey) -> Vec<(&str, Kind)> {
    survey.workloads.iter().map(|workload| (workload.object.name.as_str(), workload.kind)).collect()
}

fn codes(survey: &Survey) -> Vec<(&str, Severity)> {
    survey.obstacles.iter().map(|finding| (finding.code.as_str(), finding.severity)).collect()
}

fn data() -> Vec<String> {
    vec!["data".to_owned()]
}

const OF_WEB: Option<(&str, &str, &str)> = Some(("apps/v1", "Deployment", "web"));
const OF_WEB_1: Option<(&str, &str, &str)> = Some(("apps/v1", "ReplicaSet", "web-1"));

#[test]
fn a_deployment_is_stopped_and_not_its_replica_sets() {
    let mut inventory = inventory();
    inventory.controllers = vec![deployment("web", None, "data", 1), replica_set("web-1", OF_WEB, "data")];
    inventory.pods = vec![pod("web-1-x", OF_WEB_1, "data"), pod("aside", None, "other")];
    let survey = inventory.survey(&data(), false);
    assert_eq!(names(&survey), [("web", Kind::Deployment)]);
    assert_eq!(survey.users.len(), 1);
    assert_eq!(survey.users[0].owner.name, "web");
    assert_eq!(survey.nodes_of("data"), ["node"]);
    assert_eq!(survey.workloads[0].claims, data());
}

#[test]
fn what_could_use_a_claim_counts_without_pods_and_what_uses_others_does_not() {
    let mut inventory = inventory();
    inventory.controllers = vec![deployment("idle", None, "data", 0), deployment("other", None, "other", 2)];
    let survey = inventory.survey(&data(), false);
    assert_eq!(names(&survey), [("idle", Kind::Deployment)]);
    assert!(survey.constraints.contains_key("data"));
    let survey = inventory.survey(&data(), true);
    assert_eq!(names(&survey), [("idle", Kind::Deployment), ("other", Kind::Deployment)]);
}

#[test]
fn a_pod_from_an_old_template_leads_to_its_deployment() {
    let mut inventory = inventory();
    inventory.controllers = vec![deployment("web", None, "newer", 1), replica_set("web-1", OF_WEB, "data")];
    assert_eq!(names(&inventory.survey(&data(), false)), []);
    inventory.pods = vec![pod("web-1-x", OF_WEB_1, "data")];
    assert_eq!(names(&inventory.survey(&data(), false)), [("web", Kind::Deployment)]);
}

#[test]
fn jobs_are_stopped_beside_their_cronjob_and_finished_ones_are_not() {
    let of_cron = Some(("batch/v1", "CronJob", "cron"));
    let cron = json!({ "metadata": meta("cron", None),
        "spec": { "schedule": "", "suspend": true, "jobTemplate": { "spec": { "template": { "spec": spec("data") } } } } });
    let mut inventory = inventory();
    inventory.controllers = vec![
        Controller::from(&object::<CronJob>(cron)),
        job("running", of_cron, None),
        job("done", of_cron, Some("Complete")),
        job("broken", None, Some("Failed")),
    ];
    inventory.pods = vec![pod("p", Some(("batch/v1", "Job", "running")), "data")];
    let survey = inventory.survey(&data(), false);
    assert_eq!(names(&survey), [("cron", Kind::CronJob), ("running", Kind::Job)]);
    assert_eq!(survey.workloads[0].lever, Lever::Suspend(Some(true)));
    assert_eq!(survey.users[0].owner.name, "cron");
    assert_eq!(codes(&survey), [("TS-K311", Severity::Warning)]);
}

#[test]
fn a_statefulset_uses_the_claims_of_its_templates() {
    let set = json!({ "metadata": meta("db", None), "spec": {
        "replicas": 0, "selector": {}, "serviceName": "", "ordinals": { "start": 1 }, "template": { "spec": { "containers": [] } },
        "persistentVolumeClaimRetentionPolicy": { "whenScaled": "Delete" },
        "volumeClaimTemplates": [{ "metadata": { "name": "data" } }],
    } });
    let mut inventory = inventory();
    inventory.controllers = vec![Controller::from(&object::<StatefulSet>(set))];
    assert_eq!(names(&inventory.survey(&["data-db-0".to_owned()], false)), []);
    let survey = inventory.survey(&["data-db-1".to_owned()], false);
    assert_eq!(names(&survey), [("db", Kind::StatefulSet)]);
    assert!(survey.workloads[0].deletes_claims);
    assert_eq!(codes(&survey), [("TS-K308", Severity::Info)]);
}

#[test]
fn unknown_owners_static_pods_and_what_is_gone_refuse_a_cutover() {
    let operated = Some(("acid.zalan.do/v1", "postgresql", "db"));
    for (controllers, pod, expected) in [
        (vec![], pod("p", operated, "data"), "TS-K305"),
        (vec![], pod("p", Some(("v1", "Node", "node")), "data"), "TS-K307"),
        (vec![], pod("p", OF_WEB_1, "data"), "TS-K312"),
        (vec![deployment("web", operated, "data", 1)], pod("p", OF_WEB, "data"), "TS-K306"),
    ] {
        let mut inventory = inventory();
        (inventory.controllers, inventory.pods) = (controllers, vec![pod]);
        let survey = inventory.survey(&data(), false);
        assert_eq!(codes(&survey), [(expected, Severity::Cutover)], "{:?}", survey.obstacles);
        assert_eq!(survey.users.len(), 1, "{expected}");
        assert!(survey.workloads.iter().all(|workload| workload.kind != Kind::Pod), "{expected}");
    }
}

#[test]
fn a_bare_pod_is_a_workload_and_an_agent_of_ours_is_not() {
    let mut inventory = inventory();
    let mut agent = pod("agent", None, "data");
    agent.metadata.labels = Some([(LABEL_AGENT.to_owned(), "source".to_owned())].into());
    let mut over = pod("over", None, "data");
    over.status = Some(object(json!({ "phase": "Succeeded" })));
    inventory.pods = vec![pod("bare", None, "data"), agent, over];
    let survey = inventory.survey(&data(), false);
    assert_eq!(names(&survey), [("bare", Kind::Pod)]);
    assert!(matches!(&survey.workloads[0].lever, Lever::Pod(manifest) if manifest["metadata"]["name"] == "bare"));
    assert_eq!(codes(&survey), [("TS-K313", Severity::Warning)]);
}

#[test]
fn a_claim_that_goes_with_its_pod_is_told() {
    let claim = |owner: Option<(&str, &str, &str)>| -> PersistentVolumeClaim {
        object(json!({ "metadata": meta("data", owner), "spec": {} }))
    };
    let mut inventory = inventory();
    inventory.claims = vec![claim(Some(("v1", "Pod", "p")))];
    assert_eq!(codes(&inventory.survey(&data(), false)), [("TS-K310", Severity::Cutover)]);
    inventory.claims = vec![claim(None)];
    assert_eq!(codes(&inventory.survey(&data(), false)), []);
}

#[test]
fn autoscalers_of_what_is_stopped_are_found_and_only_those_that_do_not_rest_are_paused() {
    let scaled = |name: &str, target: &str, annotations: Value| {
        let mut meta = meta(name, None);
        meta["annotations"] = annotations;
        json!({ "metadata": meta, "spec": { "scaleTargetRef": { "name": target } } })
    };
    let mut inventory = inventory();
    inventory.controllers = vec![deployment("web", None, "data", 1)];
    let target = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" });
    inventory.autoscalers =
        vec![object(json!({ "metadata": meta("hpa", None), "spec": { "maxReplicas": 3, "scaleTargetRef": target } }))];
    inventory.scaled.all = vec![
        scaled("keda", "web", json!({})),
        scaled("paused", "web", json!({ "autoscaling.keda.sh/paused": "true" })),
        scaled("elsewhere", "other", json!({})),
    ];
    let survey = inventory.survey(&data(), false);
    let scalers: Vec<&str> = survey.scalers.iter().map(|scaler| scaler.object.name.as_str()).collect();
    assert_eq!(scalers, ["keda"]);
    assert_eq!(codes(&survey), [("TS-K300", Severity::Info), ("TS-K301", Severity::Info)]);
}
