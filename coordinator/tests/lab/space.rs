//! A namespace of a real cluster, for the time of one test.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tranship_api::{LABEL_MIGRATION, Side};
use tranship_coordinator::Cluster;
use tranship_coordinator::cluster::Object;

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// An image that the lab's nodes have.
pub(crate) const IMAGE: &str = "docker.io/lab/busybox:1";

/// A cluster, and a namespace of it.
#[derive(Clone)]
pub(crate) struct Space {
    pub(crate) cluster: Cluster,
    pub(crate) namespace: String,
}

/// The lab's first cluster, as this user; nothing, and a line that says so, where there is no lab.
pub(crate) async fn cluster(user: Option<&str>) -> Option<Cluster> {
    let Some(lab) = std::env::var_os("TRANSHIP_LAB") else {
        let _ = writeln!(std::io::stderr(), "skipped: TRANSHIP_LAB does not name the folder of a lab");
        return None;
    };
    let mut file = Kubeconfig::read_from(Path::new(&lab).join("a/admin.kubeconfig")).expect("a kubeconfig");
    for info in file.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        info.impersonate = user.map(str::to_owned);
        info.impersonate_groups = user.map(|_| vec!["system:masters".to_owned()]);
    }
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("a config");
    config.default_retry = false;
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config).expect("a client");
    Some(Cluster { side: Side::Source, context: "a".to_owned(), client, server })
}

/// Runs a test in a namespace of its own, and removes that whatever comes of it, with all fences of that name.
pub(crate) async fn in_space<F>(test: impl FnOnce(Space) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let Some(cluster) = cluster(None).await else { return };
    let mut random = [0u8; 4];
    getrandom::fill(&mut random).expect("randomness");
    let namespace = format!("tranship-test-{:08x}", u32::from_ne_bytes(random));
    let spaces: Api<Namespace> = Api::all(cluster.client.clone());
    let object = serde_json::from_value(json!({ "metadata": { "name": namespace } })).expect("a namespace");
    spaces.create(&PostParams::default(), &object).await.expect("a namespace");
    let space = Space { cluster: cluster.clone(), namespace: namespace.clone() };
    space.until("its service account", || async { space.find::<ServiceAccount>("default").await.is_some() }).await;
    let done = tokio::spawn(test(space)).await;
    spaces.delete(&namespace, &DeleteParams::default()).await.expect("no namespace any more");
    let fences = ListParams::default().labels(&format!("{LABEL_MIGRATION}={namespace}"));
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(cluster.client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(cluster.client.clone());
    bindings.delete_collection(&DeleteParams::default(), &fences).await.expect("no binding any more");
    policies.delete_collection(&DeleteParams::default(), &fences).await.expect("no policy any more");
    if let Err(error) = done {
        std::panic::resume_unwind(error.into_panic());
    }
}

impl Space {
    /// Makes an object from JSON without its namespace.
    pub(crate) async fn make<K: Object>(&self, object: Value) -> K {
        let object: K = serde_json::from_value(object).expect("an object of this kind");
        self.cluster.create(&self.namespace, &object).await.expect("an object that is admitted")
    }

    pub(crate) async fn find<K: Object>(&self, name: &str) -> Option<K> {
        self.cluster.find(&self.namespace, name).await.expect("an answer")
    }

    pub(crate) async fn get<K: Object>(&self, name: &str) -> K {
        self.find(name).await.expect("an object of this name")
    }

    pub(crate) async fn list<K: Object>(&self) -> Vec<K> {
        self.cluster.list(&self.namespace, "").await.expect("a list")
    }

    /// Waits until it is so.
    pub(crate) async fn until<F: Future<Output = bool>>(&self, what: &str, is_so: impl Fn() -> F) {
        let mut tick = tokio::time::interval(Duration::from_millis(300));
        let wait = async {
            while !is_so().await {
                tick.tick().await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "waited in vain for {what}");
    }
}

/// A claim.
pub(crate) fn claim(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": claim_spec() })
}

pub(crate) fn claim_spec() -> Value {
    json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "32Mi" } } })
}

/// Spec of a pod that idles with a claim mounted, and ends at once when it is told to.
pub(crate) fn idle(claim: &str) -> Value {
    let mut spec = idle_with(json!({ "name": "data", "mountPath": "/data" }));
    spec["volumes"] = json!([{ "name": "data", "persistentVolumeClaim": { "claimName": claim } }]);
    spec
}

/// The same with a mount of a volume that comes from elsewhere.
pub(crate) fn idle_with(mount: Value) -> Value {
    json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "idle",
            "image": IMAGE,
            "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/sleep", "2147483647"],
            "volumeMounts": [mount],
        }],
    })
}
