//! The fence, as an API server sees it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use serde_json::{Value, json};
use tranship_api::Side;
use tranship_coordinator::fence::{self, Fence, Need};
use tranship_coordinator::{Cluster, leftover};

use super::space::{Space, claim_spec, cluster, idle, in_space};

/// How long a fence may take to be live.
const PATIENCE: Duration = Duration::from_secs(30);

async fn fence(space: &Space, epoch: u64) -> Fence {
    Fence {
        migration: space.namespace.clone(),
        id: format!("{:0>32}", &space.namespace["tranship-test-".len()..]).chars().rev().collect(),
        side: Side::Source,
        namespace: space.namespace.clone(),
        // The last could be no claim: it is here to break out of its literal.
        claims: vec!["data".to_owned(), "later-scratch".to_owned(), "'] || true || '\\\n🦀".to_owned()],
        agents: vec!["agent".to_owned()],
        user: fence::user(&space.cluster).await.expect("a user"),
        epoch,
        lifted_by: format!("tranship finish {} --lift-fence", space.namespace),
    }
}

/// Tries to make a pod; what is said if it is refused.
async fn refusal(cluster: &Cluster, space: &Space, meta: Value, spec: Value) -> Option<String> {
    let pod: Pod = serde_json::from_value(json!({ "metadata": meta, "spec": spec })).expect("a pod");
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let api = cluster.api::<Pod>(&space.namespace);
    api.create(&params, &pod).await.err().map(|error| error.to_string())
}

fn with_ephemeral(volume: &str) -> Value {
    let mut spec = idle("elsewhere");
    spec["volumes"] = json!([{ "name": volume, "ephemeral": { "volumeClaimTemplate": { "spec": claim_spec() } } }]);
    spec["containers"][0]["volumeMounts"] = json!([]);
    spec
}

#[tokio::test]
async fn a_live_fence_refuses_every_pod_on_its_claims_but_our_agents() {
    in_space(|space| async move {
        let fence = fence(&space, 1).await;
        assert!(!fence.is_live(&space.cluster, "data").await.unwrap());
        fence.raise(&space.cluster).await.expect("a fence");
        fence.raise(&space.cluster).await.expect("the same fence");
        fence.await_live(&space.cluster, PATIENCE).await.expect("a live fence");

        let other = cluster(Some("somebody-else")).await.expect("the lab");
        let named = |name: &str| json!({ "name": name });
        let refused = refusal(&space.cluster, &space, named("web"), idle("data")).await.expect("a refusal");
        assert!(refused.contains("--lift-fence") && refused.contains(&space.namespace), "{refused}");
        for (who, name, spec, is_refused) in [
            (&space.cluster, "agent", idle("data"), false),
            (&other, "agent", idle("data"), true),
            (&space.cluster, "agent-2", idle("data"), true),
            (&space.cluster, "web", idle("other"), false),
            (&space.cluster, "later", with_ephemeral("scratch"), true),
            (&space.cluster, "other", with_ephemeral("scratch"), false),
            (&space.cluster, "later", with_ephemeral("else"), false),
        ] {
            let said = refusal(who, &space, named(name), spec).await;
            assert_eq!(said.is_some(), is_refused, "{name}: {said:?}");
        }
        let generated = json!({ "generateName": "agent" });
        assert!(refusal(&space.cluster, &space, generated, idle("data")).await.is_some());

        fence.lift(&space.cluster).await.expect("no fence");
        fence.lift(&space.cluster).await.expect("still no fence");
        space.until("a lifted fence", || async { !fence.is_live(&space.cluster, "data").await.unwrap() }).await;
        assert_eq!(refusal(&space.cluster, &space, named("web"), idle("data")).await, None);
    })
    .await;
}

#[tokio::test]
async fn a_later_epoch_replaces_a_fence_and_an_earlier_one_does_not() {
    in_space(|space| async move {
        let (first, second) =
            (fence(&space, 1).await, Fence { agents: vec!["newer".to_owned()], ..fence(&space, 2).await });
        first.raise(&space.cluster).await.expect("a fence");
        second.raise(&space.cluster).await.expect("a newer fence");
        second.await_live(&space.cluster, PATIENCE).await.expect("a live fence");
        assert!(!first.is_live(&space.cluster, "data").await.unwrap(), "a refusal of another epoch counted");
        assert!(refusal(&space.cluster, &space, json!({ "name": "agent" }), idle("data")).await.is_some());
        assert!(refusal(&space.cluster, &space, json!({ "name": "newer" }), idle("data")).await.is_none());
        for done in [first.raise(&space.cluster).await, first.lift(&space.cluster).await] {
            assert_eq!(done.unwrap_err().code(), "TS-P107");
        }
        let foreign = Fence { id: format!("{}x", &second.id[..31]), epoch: 9, ..second.clone() };
        assert_eq!(foreign.name(), second.name());
        assert_eq!(foreign.raise(&space.cluster).await.unwrap_err().code(), "TS-K331");
        second.lift(&space.cluster).await.expect("no fence");
    })
    .await;
}

#[tokio::test]
async fn who_may_make_no_policies_is_told_so_by_code() {
    in_space(|space| async move {
        let fence = fence(&space, 1).await;
        let mut weak = cluster(None).await.expect("the lab");
        weak.client = powerless().await;
        assert_eq!(fence.raise(&weak).await.unwrap_err().code(), "TS-K330");
    })
    .await;
}

/// A client of a user without any rights.
async fn powerless() -> kube::Client {
    use kube::config::{KubeConfigOptions, Kubeconfig};
    let lab = std::env::var_os("TRANSHIP_LAB").expect("the lab");
    let mut file = Kubeconfig::read_from(std::path::Path::new(&lab).join("a/admin.kubeconfig")).expect("a kubeconfig");
    for info in file.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        info.impersonate = Some("nobody".to_owned());
    }
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("a config");
    kube::Client::try_from(config).expect("a client")
}

#[tokio::test]
async fn a_claim_is_held_by_one_migration_and_its_latest_epoch() {
    in_space(|space| async move {
        let (cluster, namespace) = (&space.cluster, space.namespace.as_str());
        let hold = |id: &'static str, epoch| fence::hold(cluster, namespace, "data", "shop", id, epoch);
        hold("a", 1).await.expect("a free claim");
        hold("a", 1).await.expect("what is held already");
        hold("a", 2).await.expect("a later epoch");
        assert_eq!(hold("a", 1).await.unwrap_err().code(), "TS-P107");
        let refused = hold("b", 9).await.unwrap_err();
        assert_eq!((refused.code(), refused.to_string().contains("migration shop")), ("TS-K333", true));
        fence::release(cluster, namespace, "data", "b", 9).await.expect("nothing to be done");
        fence::release(cluster, namespace, "data", "a", 1).await.expect("nothing to be done");
        assert_eq!(hold("b", 9).await.unwrap_err().code(), "TS-K333");
        fence::release(cluster, namespace, "data", "a", 2).await.expect("a free claim");
        hold("b", 1).await.expect("a free claim");
    })
    .await;
}

#[tokio::test]
async fn a_fence_that_nobody_needs_is_removed_and_one_that_was_kept_is_lifted_without_a_record() {
    in_space(|space| async move {
        let (cluster, namespace) = (&space.cluster, space.namespace.as_str());
        let fence = fence(&space, 1).await;
        let standing = || async { fence::standing(cluster, namespace).await.expect("policies that can be listed") };
        let needs = || async { standing().await.iter().map(|one| one.need).collect::<Vec<_>>() };
        let remove_all = || async {
            for found in leftover::leftovers(cluster, namespace, &standing().await).await.expect("leftovers") {
                leftover::remove_leftover(cluster, &found).await.expect("removed");
            }
        };
        fence.raise(cluster).await.expect("a fence");
        assert_eq!(needs().await, [Need::Nobody]);
        assert!(standing().await[0].holds("data"));
        remove_all().await;
        assert_eq!(needs().await, []);

        fence::hold(cluster, namespace, "data", &fence.migration, &fence.id, 1).await.expect("a Lease");
        fence.raise(cluster).await.expect("a fence");
        assert_eq!(needs().await, [Need::Kept]);
        remove_all().await;
        assert_eq!(needs().await, [Need::Kept], "what was kept was removed");
        assert_eq!(fence::lift_kept(cluster, namespace, "another").await.expect("nothing to do"), []);
        let gone = fence::lift_kept(cluster, namespace, &fence.migration).await.expect("lifted");
        let kinds: Vec<&str> = gone.iter().map(|object| object.kind.as_str()).collect();
        assert_eq!(kinds, ["ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy", "Lease"]);
        assert_eq!(needs().await, []);
        space.until("an open claim", || async { !fence.refuses(cluster, "data").await.unwrap() }).await;
    })
    .await;
}
