//! Stopping what runs, and starting it again as it was.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tranship_api::migration::Mode;
use tranship_api::record::{Act, Change, ChangeState};
use tranship_api::{Migration, Record};
use tranship_coordinator::quiesce::{self, Hold, Holder, News, Release, Undone};
use tranship_coordinator::workload;

use super::space::{Space, claim, claim_spec, idle, idle_with, in_space};

const PATIENCE: Duration = Duration::from_secs(120);

fn template(app: &str, spec: Value) -> Value {
    json!({ "metadata": { "labels": { "app": app } }, "spec": spec })
}

fn selector(app: &str) -> Value {
    json!({ "matchLabels": { "app": app } })
}

async fn deployment(space: &Space, name: &str) {
    space.make::<PersistentVolumeClaim>(claim(name)).await;
    let spec = json!({ "replicas": 1, "selector": selector(name), "template": template(name, idle(name)) });
    space.make::<Deployment>(json!({ "metadata": { "name": name }, "spec": spec })).await;
}

async fn statefulset(space: &Space) {
    let spec = json!({
        "replicas": 2, "serviceName": "db", "selector": selector("db"), "podManagementPolicy": "Parallel",
        "template": template("db", idle_with(json!({ "name": "data", "mountPath": "/data" }))),
        "persistentVolumeClaimRetentionPolicy": { "whenScaled": "Delete", "whenDeleted": "Delete" },
        "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": claim_spec() }],
    });
    space.make::<StatefulSet>(json!({ "metadata": { "name": "db" }, "spec": spec })).await;
}

async fn cronjob(space: &Space, name: &str, suspend: bool) {
    let mut pod = idle("web");
    pod["restartPolicy"] = json!("Never");
    let job = json!({ "spec": { "template": { "spec": pod } } });
    let spec = json!({ "schedule": "0 0 1 1 *", "suspend": suspend, "jobTemplate": job });
    space.make::<CronJob>(json!({ "metadata": { "name": name }, "spec": spec })).await;
}

async fn daemonset(space: &Space) {
    space.make::<PersistentVolumeClaim>(claim("each")).await;
    let mut pod = idle("each");
    // A claim for one node only.
    pod["nodeSelector"] = json!({ "kubernetes.io/hostname": "a1" });
    let spec = json!({ "selector": selector("each"), "template": template("each", pod) });
    space.make::<DaemonSet>(json!({ "metadata": { "name": "each" }, "spec": spec })).await;
}

async fn pods(space: &Space, phase: &str) -> usize {
    let is_so = |pod: &Pod| {
        let status = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        status == Some(phase) && pod.metadata.deletion_timestamp.is_none()
    };
    space.list::<Pod>().await.iter().filter(|pod| is_so(pod)).count()
}

/// Specs of everything, to be compared.
async fn specs(space: &Space) -> Vec<Value> {
    vec![
        json!(space.get::<Deployment>("web").await.spec),
        json!(space.get::<StatefulSet>("db").await.spec),
        json!(space.get::<DaemonSet>("each").await.spec),
        json!(space.get::<CronJob>("nightly").await.spec),
        json!(space.get::<CronJob>("resting").await.spec),
    ]
}

async fn uids(space: &Space) -> Vec<(Option<String>, Option<String>)> {
    let claims = space.list::<PersistentVolumeClaim>().await;
    claims.into_iter().map(|claim| (claim.metadata.name, claim.metadata.uid)).collect()
}

fn claims() -> Vec<String> {
    ["web", "each", "bare", "data-db-0", "data-db-1"].map(str::to_owned).to_vec()
}

#[tokio::test]
async fn an_application_of_all_kinds_is_stopped_without_a_loss_and_started_as_it_was() {
    in_space(|space| async move {
        let cluster = &space.cluster;
        deployment(&space, "web").await;
        statefulset(&space).await;
        cronjob(&space, "nightly", false).await;
        cronjob(&space, "resting", true).await;
        daemonset(&space).await;
        space.make::<PersistentVolumeClaim>(claim("bare")).await;
        space
            .make::<Pod>(json!({ "metadata": { "name": "bare", "labels": { "app": "bare" } }, "spec": idle("bare") }))
            .await;
        space.until("an application that runs", || async { pods(&space, "Running").await == 5 }).await;
        let (specs_before, uids_before) = (specs(&space).await, uids(&space).await);

        let survey = workload::survey(cluster, &space.namespace, &claims(), false).await.expect("a survey");
        assert_eq!(survey.users.len(), 5, "{:?}", survey.users);
        assert!(survey.users.iter().all(|user| user.node.is_some()));
        assert_eq!(survey.nodes_of("each"), ["a1"]);
        let mut changes = quiesce::plan(&survey);
        let names: Vec<&str> = changes.iter().map(|change| change.object.name.as_str()).collect();
        assert_eq!(names, ["db", "nightly", "web", "db", "each", "bare"]);
        for change in &mut changes {
            quiesce::make(cluster, change).await.expect("a change");
            quiesce::make(cluster, change).await.expect("the same change");
            change.state = ChangeState::Made;
        }
        let migration = Migration::new("move", &space.namespace);
        let record = Record::new(String::new(), String::new(), migration, Default::default(), Mode::Plain, vec![]);
        for object in quiesce::stopped(&changes) {
            quiesce::tell(cluster, object, News::Stopped, &record).await;
        }

        let claims = claims();
        let release = Release { namespace: &space.namespace, claims: &claims, our_pods: &[], changes: &changes };
        let mut seen: Vec<Holder> = Vec::new();
        let mut note = |holders: &[Holder]| seen.extend(holders.iter().cloned());
        quiesce::wait_released(cluster, release, PATIENCE, &mut note).await.expect("released volumes");
        let is_terminating = |holder: &Holder| matches!(&holder.hold, Hold::Pod { terminating_since: Some(_), .. });
        assert!(seen.iter().any(is_terminating), "{seen:?}");
        assert_eq!(space.list::<Pod>().await.len(), 0);
        assert_eq!(uids(&space).await, uids_before, "a claim was lost");
        let events = space.list::<Event>().await;
        let is_ours = |event: &&Event| event.reason.as_deref() == Some("Stopped");
        let told: BTreeSet<_> = events
            .iter()
            .filter(is_ours)
            .map(|event| event.involved_object.name.as_deref().unwrap_or_default())
            .collect();
        assert_eq!(told, BTreeSet::from(["nightly", "web", "db", "each", "bare"]));
        assert!(events.iter().filter(is_ours).all(|event| event.type_.as_deref() == Some("Warning")));

        for _ in 0..2 {
            for change in changes.iter().rev() {
                assert_eq!(quiesce::undo(cluster, change).await.expect("an undone change"), Undone::Back, "{change:?}");
            }
        }
        assert_eq!(specs(&space).await, specs_before);
        space.until("an application that runs again", || async { pods(&space, "Running").await == 5 }).await;
        assert_eq!(uids(&space).await, uids_before, "a claim was lost");
    })
    .await;
}

async fn scale(space: &Space, manager: &str, replicas: i32) {
    let api = space.cluster.api::<Deployment>(&space.namespace);
    let params = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
    let patch = json!({ "spec": { "replicas": replicas } });
    api.patch_scale("web", &params, &Patch::Merge(patch)).await.expect("a scaled deployment");
}

/// A deployment with a pod, and the change that stops it.
async fn one_deployment(space: &Space) -> Change {
    deployment(space, "web").await;
    space.until("a pod", || async { pods(space, "Running").await == 1 }).await;
    let wanted = ["web".to_owned()];
    let survey = workload::survey(&space.cluster, &space.namespace, &wanted, false).await.expect("a survey");
    let change = quiesce::plan(&survey).pop().expect("a change");
    assert_eq!(change.act, Act::Scale { before: 1, after: 0 });
    change
}

#[tokio::test]
async fn whoever_scales_back_again_and_again_is_named() {
    in_space(|space| async move {
        let mut change = one_deployment(&space).await;
        quiesce::make(&space.cluster, &change).await.expect("a change");
        change.state = ChangeState::Made;
        let stubborn = tokio::spawn({
            let space = space.clone();
            async move {
                let mut tick = tokio::time::interval(Duration::from_millis(200));
                loop {
                    tick.tick().await;
                    scale(&space, "stubborn-scaler", 1).await;
                }
            }
        });
        let (claims, changes) = (["web".to_owned()], [change]);
        let release = Release { namespace: &space.namespace, claims: &claims, our_pods: &[], changes: &changes };
        let error = quiesce::wait_released(&space.cluster, release, PATIENCE, &mut |_| {}).await.unwrap_err();
        stubborn.abort();
        assert_eq!(error.code(), "TS-K322");
        assert!(error.to_string().contains("stubborn-scaler"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn what_somebody_else_changed_since_stays_and_a_plan_that_is_old_is_refused() {
    in_space(|space| async move {
        let mut change = one_deployment(&space).await;
        scale(&space, "a-scaler", 2).await;
        assert_eq!(quiesce::make(&space.cluster, &change).await.unwrap_err().code(), "TS-K321");
        change.state = ChangeState::Made;
        quiesce::make(&space.cluster, &change).await.expect("a change that is made again");
        let (params, patch) = (
            PatchParams::apply("a-person").force(),
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "spec": { "replicas": 3 },
            }),
        );
        let api = space.cluster.api::<Deployment>(&space.namespace);
        api.patch("web", &params, &Patch::Apply(patch)).await.expect("a changed deployment");
        let kept = Undone::Kept { by: "a-person".to_owned(), value: json!(3) };
        assert_eq!(quiesce::undo(&space.cluster, &change).await.expect("an answer"), kept);

        let mut another = change.clone();
        another.object.uid = "00000000-0000-0000-0000-000000000000".to_owned();
        assert_eq!(quiesce::make(&space.cluster, &another).await.unwrap_err().code(), "TS-K320");
        assert!(matches!(quiesce::undo(&space.cluster, &another).await, Ok(Undone::Kept { .. })));
        change.object.name = "nowhere".to_owned();
        quiesce::make(&space.cluster, &change).await.expect("nothing to be stopped");
        assert_eq!(quiesce::undo(&space.cluster, &change).await.expect("an answer"), Undone::Gone);
    })
    .await;
}
