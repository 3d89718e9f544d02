//! Preflight and what is brought along, against two real clusters: `TRANSHIP_LAB` names the folder of the lab.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    ConfigMap, LimitRange, Namespace, PersistentVolumeClaim, Pod, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{DeleteParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tranship_api::migration::{Mode, Volume};
use tranship_api::record::{Record, VolumeRecord};
use tranship_api::{LABEL_BROUGHT, LABEL_ID, Migration, ObjectRef, Severity, Side};
use tranship_coordinator::cluster::Object;
use tranship_coordinator::preflight::{self, Report, Subject, mode};
use tranship_coordinator::rights::{RIGHTS, Scope};
use tranship_coordinator::{Cluster, Error, bring, claims};

const IMAGE: &str = "docker.io/lab/busybox:1";

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(180);

/// Runs a test with both clusters and a namespace of its own, which is gone from both afterwards, whatever happened.
async fn in_lab<F: Future<Output = ()> + Send + 'static>(name: &str, test: impl FnOnce([Cluster; 2], String) -> F) {
    let Some(lab) = std::env::var_os("TRANSHIP_LAB").map(PathBuf::from) else {
        #[expect(clippy::print_stderr, reason = "whoever runs the tests should know what did not run")]
        {
            eprintln!("TRANSHIP_LAB is not set: nothing was tested");
        }
        return;
    };
    let namespace = format!("preflight-{name}-{}", std::process::id());
    let source = connect(Side::Source, &lab.join("a"), None).await;
    let destination = connect(Side::Destination, &lab.join("b"), None).await;
    let clusters = [source, destination];
    let ended = tokio::spawn(test(clusters.clone(), namespace.clone())).await;
    for cluster in &clusters {
        let client = &cluster.client;
        let spaces: Api<Namespace> = Api::all(client.clone());
        let (roles, bindings): (Api<ClusterRole>, Api<ClusterRoleBinding>) =
            (Api::all(client.clone()), Api::all(client.clone()));
        // It may not have come that far.
        let params = DeleteParams::default();
        drop(spaces.delete(&namespace, &params).await);
        drop(roles.delete(&namespace, &params).await);
        drop(bindings.delete(&namespace, &params).await);
    }
    ended.expect("the test");
}

async fn connect(side: Side, folder: &std::path::Path, impersonate: Option<&str>) -> Cluster {
    let file = Kubeconfig::read_from(folder.join("admin.kubeconfig")).expect("the lab's kubeconfig");
    let mut config =
        Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("a configuration");
    config.auth_info.impersonate = impersonate.map(str::to_owned);
    let server = config.cluster_url.to_string();
    Cluster { side, context: folder.display().to_string(), client: Client::try_from(config).expect("a client"), server }
}

async fn make_namespace(cluster: &Cluster, name: &str, labels: Value) {
    let namespace = serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).expect("a namespace");
    let spaces: Api<Namespace> = Api::all(cluster.client.clone());
    spaces.create(&PostParams::default(), &namespace).await.expect("the namespace is made");
}

async fn make<K: Object>(cluster: &Cluster, namespace: &str, value: Value) {
    let object: K = serde_json::from_value(value).expect("an object");
    cluster.create(namespace, &object).await.expect("the object is made");
}

/// Asks again until the answer is there.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let mut ticks = tokio::time::interval(Duration::from_millis(300));
    let waiting = async {
        loop {
            ticks.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("in time: {what}"))
}

/// A StatefulSet with a claim, and everything that it refers to.
async fn make_application(cluster: &Cluster, namespace: &str) {
    make_namespace(cluster, namespace, json!({"team": "shop"})).await;
    make::<ConfigMap>(cluster, namespace, json!({"metadata": {"name": "settings"}, "data": {"a": "1"}})).await;
    make::<Secret>(cluster, namespace, json!({"metadata": {"name": "password"}, "data": {"a": "MQ=="}})).await;
    make::<ConfigMap>(cluster, namespace, json!({"metadata": {"name": "unused"}, "data": {"a": "1"}})).await;
    let port = json!({"name": "db", "port": 5432});
    let service =
        json!({"metadata": {"name": "db"}, "spec": {"clusterIP": "None", "selector": {"app": "db"}, "ports": [port]}});
    make::<Service>(cluster, namespace, service).await;
    let public = json!({"metadata": {"name": "public"}, "spec": {"type": "NodePort", "selector": {"app": "db"}, "ports": [port]}});
    make::<Service>(cluster, namespace, public).await;
    let set = json!({"metadata": {"name": "db"}, "spec": {
        "replicas": 1, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
        "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Retain"},
        "template": {"metadata": {"labels": {"app": "db"}}, "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "db", "image": IMAGE, "command": ["sleep", "100000"],
                "envFrom": [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "password"}}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}}}]}});
    make::<StatefulSet>(cluster, namespace, set).await;
    eventually("the application runs", || async {
        let pod = cluster.find::<Pod>(namespace, "db-0").await.expect("an answer")?;
        (pod.status?.phase? == "Running").then_some(())
    })
    .await;
}

async fn look(clusters: &[Cluster; 2], migration: &Migration, record: Option<&Record>) -> Report {
    let pod = |side, mode| mode::stand_in(migration, side, mode);
    let subject = record.map_or(Subject::Wanted(migration), Subject::Recorded);
    preflight::run(clusters, subject, &pod).await.expect("a report")
}

fn codes(report: &Report, at_least: Severity) -> Vec<&str> {
    let findings = report.findings.0.iter().filter(|finding| finding.severity >= at_least);
    findings.map(|finding| finding.code.as_str()).collect()
}

fn record(migration: &Migration, report: &Report, volumes: Vec<VolumeRecord>) -> Record {
    let id = format!("{:032x}", std::process::id());
    let clusters = report.clusters.clone();
    let made = Record::new(id, "test".to_owned(), migration.clone(), clusters, report.mode, volumes);
    Record { epoch: 1, ..made }
}

/// Makes the claims at the destination, as a first stage does.
async fn make_claims(clusters: &[Cluster; 2], record: &Record) {
    let to = record.namespace(Side::Destination);
    let resolved = claims::resolve(&clusters[0], &record.migration).await.expect("the claims");
    for volume in &record.volumes {
        let name = &resolved[0].claim(Side::Source).name;
        let source = clusters[0].get::<PersistentVolumeClaim>(record.namespace(Side::Source), name).await.expect("it");
        let claim = claims::destination_claim(&source, volume, &record.id, "move", to);
        let made = claims::ensure(&clusters[1], &claim).await.expect("the claim");
        let again = claims::ensure(&clusters[1], &claim).await.expect("the same claim");
        assert_eq!(made.metadata.uid, again.metadata.uid);
        let foreign = claims::destination_claim(&source, volume, "another", "move", to);
        let refused = claims::ensure(&clusters[1], &foreign).await;
        assert!(matches!(refused, Err(Error::Refused { code: "TS-K201", .. })), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_is_looked_at_brought_started_and_taken_away() {
    in_lab("whole", |clusters, namespace| async move {
        let [source, destination] = &clusters;
        make_application(source, &namespace).await;
        let migration = Migration::new("move", &namespace);
        let report = look(&clusters, &migration, None).await;
        assert!(report.findings.allow_cutover(), "{:#?}", report.findings);
        assert_eq!(codes(&report, Severity::Warning), [""; 0], "{:#?}", report.findings);
        let told = codes(&report, Severity::Info);
        assert!(["TS-K106", "TS-K147", "TS-K148", "TS-K308"].iter().all(|code| told.contains(code)), "{told:?}");
        assert!(report.makes_namespace);
        assert_eq!((report.mode, report.volumes.len()), (Mode::Owner, 1));
        assert_ne!(report.clusters[0], report.clusters[1]);
        assert_eq!(report.volumes[0].claim(Side::Destination).storage_class.as_deref(), Some("ext4"));

        let record = record(&migration, &report, report.volumes.clone());
        assert!(bring::ensure_namespace(&clusters, &record).await.expect("the namespace"));
        assert!(!bring::ensure_namespace(&clusters, &record).await.expect("the namespace again"));
        make_claims(&clusters, &record).await;
        assert!(codes(&look(&clusters, &migration, Some(&record)).await, Severity::Info).contains(&"TS-K134"));
        assert_eq!(codes(&look(&clusters, &migration, None).await, Severity::Blocking), ["TS-K201"]);

        let workloads = [ObjectRef::named("apps/v1", "StatefulSet", Some(&namespace), "db")];
        let manifests = bring::plan(source, &record, &workloads).await.expect("a plan");
        let planned: Vec<String> = manifests.iter().map(|one| one.object.to_string()).collect();
        let expected = ["Secret password", "ConfigMap settings", "Service db", "Service public", "StatefulSet db"];
        let expected = expected.map(|name| name.replace(' ', &format!(" {namespace}/")));
        assert_eq!(planned, expected);
        bring_and_start(destination, &record, &manifests).await;
    })
    .await;
}

async fn bring_and_start(destination: &Cluster, record: &Record, manifests: &[bring::Manifest]) {
    let namespace = record.namespace(Side::Destination);
    let settings = json!({"metadata": {"name": "settings"}, "data": {"a": "theirs"}});
    make::<ConfigMap>(destination, namespace, settings).await;
    let (brought, differs) = bring::apply(destination, record, manifests).await.expect("it is brought");
    assert_eq!(differs.iter().map(|finding| finding.severity).collect::<Vec<_>>(), [Severity::Warning]);
    let (again, _) = bring::apply(destination, record, manifests).await.expect("it is brought again");
    assert_eq!(brought, again);
    let kept: Vec<&str> = brought.iter().filter(|one| one.was_there).map(|one| one.object.name.as_str()).collect();
    assert_eq!(kept, ["settings"]);
    assert_eq!(destination.list::<Pod>(namespace, "").await.expect("the pods").len(), 0);
    let set = destination.get::<StatefulSet>(namespace, "db").await.expect("the set");
    assert_eq!(set.spec.and_then(|spec| spec.replicas), Some(0));
    let foreign = Record { id: "another".to_owned(), ..record.clone() };
    let refused = bring::apply(destination, &foreign, manifests).await;
    assert!(matches!(refused, Err(Error::Refused { code: "TS-K250", .. })), "{refused:?}");

    for one in &brought {
        bring::start(destination, one, one.replicas.unwrap_or(0)).await.expect("it starts");
    }
    eventually("the application is ready there", || async {
        let all = bring::ready(destination, &brought).await.expect("an answer");
        assert_eq!(all.len(), 1);
        assert!(all[0].is_ready || !all[0].reasons.is_empty());
        all[0].is_ready.then_some(())
    })
    .await;
    // One of five was there before.
    assert_eq!(take_away(destination, record).await, 4);
    eventually("only what was there before is left", || async {
        let set = destination.find::<StatefulSet>(namespace, "db").await.expect("an answer");
        let secret = destination.find::<Secret>(namespace, "password").await.expect("an answer");
        (set.is_none() && secret.is_none()).then_some(())
    })
    .await;
    for one in brought.iter().filter(|one| !one.was_there) {
        bring::remove(destination, &one.object).await.expect("to take it away again is no error");
    }
    let settings = destination.get::<ConfigMap>(namespace, "settings").await.expect("theirs");
    assert_eq!(settings.data.expect("data")["a"], "theirs");
    let claim = destination.get::<PersistentVolumeClaim>(namespace, "data-db-0").await.expect("the claim stays");
    assert!(claim.metadata.deletion_timestamp.is_none());
}

/// Takes away what was brought, as it is found by its mark; how much that is.
async fn take_away(destination: &Cluster, record: &Record) -> usize {
    let labels = format!("{LABEL_ID}={},{LABEL_BROUGHT}", record.id);
    let namespace = record.namespace(Side::Destination);
    let found = bring::find_all(destination, namespace, &labels, &[]).await.expect("what was brought");
    for one in found.iter().rev() {
        bring::remove(destination, &one.object).await.expect("it is taken away");
    }
    found.len()
}

/// One workload of each kind that has no claims, and an autoscaler.
async fn make_others(cluster: &Cluster, namespace: &str) -> Vec<ObjectRef> {
    make_namespace(cluster, namespace, json!({})).await;
    make::<Secret>(cluster, namespace, json!({"metadata": {"name": "pull"}, "data": {}})).await;
    eventually("the namespace has its account", || async {
        let pull = json!({"imagePullSecrets": [{"name": "pull"}]});
        cluster.merge::<ServiceAccount>(namespace, "default", &pull).await.ok()
    })
    .await;
    let container = json!({"name": "a", "image": IMAGE, "command": ["sleep", "100000"]});
    let spec = |restart: &str| json!({"terminationGracePeriodSeconds": 0, "restartPolicy": restart, "containers": [container]});
    let labelled = |app: &str| {
        json!({"selector": {"matchLabels": {"app": app}},
            "template": {"metadata": {"labels": {"app": app}}, "spec": spec("Always")}})
    };
    let once = json!({"template": {"spec": spec("Never")}});
    let named = |spec: Value| json!({"metadata": {"name": "one"}, "spec": spec});
    make::<Deployment>(cluster, namespace, named(labelled("deployment"))).await;
    make::<DaemonSet>(cluster, namespace, named(labelled("daemon"))).await;
    make::<Job>(cluster, namespace, named(once.clone())).await;
    let cron = json!({"schedule": "0 0 1 1 *", "jobTemplate": {"spec": once}});
    make::<CronJob>(cluster, namespace, named(cron)).await;
    make::<Pod>(cluster, namespace, named(spec("Always"))).await;
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "one"});
    let scaler = json!({"scaleTargetRef": target, "maxReplicas": 2});
    make::<HorizontalPodAutoscaler>(cluster, namespace, named(scaler)).await;
    let kinds = [
        ("apps/v1", "Deployment"),
        ("apps/v1", "DaemonSet"),
        ("batch/v1", "Job"),
        ("batch/v1", "CronJob"),
        ("v1", "Pod"),
    ];
    kinds.iter().map(|(version, kind)| ObjectRef::named(version, kind, Some(namespace), "one")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_waits_until_it_is_started() {
    in_lab("kinds", |clusters, namespace| async move {
        let [source, destination] = &clusters;
        let workloads = make_others(source, &namespace).await;
        let migration = Migration::new("move", &namespace);
        let record = record(&migration, &look(&clusters, &migration, None).await, Vec::new());
        bring::ensure_namespace(&clusters, &record).await.expect("the namespace");
        let manifests = bring::plan(source, &record, &workloads).await.expect("a plan");
        let kinds: Vec<&str> = manifests.iter().map(|one| one.object.kind.as_str()).collect();
        let expected = ["Secret", "Pod", "Deployment", "DaemonSet", "Job", "CronJob", "HorizontalPodAutoscaler"];
        assert_eq!(kinds, expected);
        let template = &manifests[2].body()["spec"]["template"]["spec"];
        assert_eq!(template["imagePullSecrets"], json!([{"name": "pull"}]));
        // Pods are refused before the namespace has its account.
        let (brought, _) =
            eventually("it is brought", || async { bring::apply(destination, &record, &manifests).await.ok() }).await;
        eventually("its controllers have seen it", || async {
            let daemon = destination.get::<DaemonSet>(&namespace, "one").await.expect("the daemon");
            let deployment = destination.get::<Deployment>(&namespace, "one").await.expect("the deployment");
            let job = destination.get::<Job>(&namespace, "one").await.expect("the job");
            let is_suspended =
                job.status?.conditions?.iter().any(|one| one.type_ == "Suspended" && one.status == "True");
            let is_seen = daemon.status?.observed_generation? >= 1 && deployment.status?.observed_generation? >= 1;
            (is_seen && is_suspended).then_some(())
        })
        .await;
        let pods = destination.list::<Pod>(&namespace, "").await.expect("the pods");
        let placed: Vec<_> =
            pods.iter().filter(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())).collect();
        assert!(pods.len() == 1 && placed.is_empty(), "{pods:#?}");
        for one in &brought {
            bring::start(destination, one, one.replicas.unwrap_or(0)).await.expect("it starts");
        }
        eventually("all of it is ready", || async {
            let all = bring::ready(destination, &brought).await.expect("an answer");
            (all.len() == 5 && all.iter().all(|one| one.is_ready)).then_some(())
        })
        .await;
        assert_eq!(take_away(destination, &record).await, brought.len());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_namespace_admits_and_limits_decides() {
    in_lab("limits", |clusters, namespace| async move {
        let [source, destination] = &clusters;
        make_application(source, &namespace).await;
        make_namespace(destination, &namespace, json!({"pod-security.kubernetes.io/enforce": "restricted"})).await;
        let migration = Migration::new("move", &namespace);
        let report = look(&clusters, &migration, None).await;
        assert_eq!((report.mode, codes(&report, Severity::Blocking)), (Mode::Plain, vec![]), "{:#?}", report.findings);
        assert!(codes(&report, Severity::Warning).contains(&"TS-K128"));
        let mut wanted = migration.clone();
        wanted.spec.mode = Some(Mode::Owner);
        assert_eq!(codes(&look(&clusters, &wanted, None).await, Severity::Blocking), ["TS-K127"]);

        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"requests.storage": "10Mi"}}});
        make::<ResourceQuota>(destination, &namespace, quota).await;
        let range = json!({"type": "PersistentVolumeClaim", "max": {"storage": "10Mi"}});
        make::<LimitRange>(destination, &namespace, json!({"metadata": {"name": "l"}, "spec": {"limits": [range]}}))
            .await;
        eventually("the quota is counted", || async {
            let report = look(&clusters, &migration, None).await;
            let mut found = codes(&report, Severity::Blocking);
            found.sort_unstable();
            (found == ["TS-K124", "TS-K125"]).then_some(())
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cluster_is_recognised_and_nothing_is_copied_to_itself() {
    in_lab("same", |[source, _], namespace| async move {
        make_application(&source, &namespace).await;
        let same = [source.clone(), Cluster { side: Side::Destination, ..source }];
        let mut migration = Migration::new("move", &namespace);
        let report = look(&same, &migration, None).await;
        assert_eq!(codes(&report, Severity::Cutover), ["TS-K101"], "{:#?}", report.findings);
        migration.spec.destination.namespace = Some(format!("{namespace}-new"));
        let to = Some("data2-db-0".to_owned());
        let volume = Volume {
            claim: "data-db-0".to_owned(),
            to,
            storage_class: Some("xfs".to_owned()),
            access_mode: None,
            size: None,
        };
        migration.spec.volumes = vec![volume];
        let report = look(&same, &migration, None).await;
        assert!(report.findings.allow_cutover(), "{:#?}", report.findings);
        assert!(codes(&report, Severity::Info).contains(&"TS-K102"));
        assert_eq!(report.volumes[0].claim(Side::Destination).storage_class.as_deref(), Some("xfs"));
        migration.spec.volumes[0].storage_class = Some("none".to_owned());
        assert_eq!(codes(&look(&same, &migration, None).await, Severity::Blocking), ["TS-K121"]);
        migration.spec.volumes[0].claim = "gone".to_owned();
        assert_eq!(codes(&look(&same, &migration, None).await, Severity::Blocking), ["TS-K110"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_nothing_is_told_each_right_that_is_lacking() {
    in_lab("rights", |[_, destination], namespace| async move {
        let lab = PathBuf::from(std::env::var_os("TRANSHIP_LAB").expect("it is set"));
        let nobody = connect(Side::Source, &lab.join("a"), Some("nobody")).await;
        let report = look(&[nobody, destination], &Migration::new("move", &namespace), None).await;
        let lacking: Vec<_> = report.findings.0.iter().filter(|finding| finding.code == "TS-K104").collect();
        assert!(lacking.iter().all(|finding| finding.side == Some(Side::Source)), "{lacking:#?}");
        let says = |text: &str| lacking.iter().any(|finding| finding.why.contains(text));
        assert!(says(&format!("get, create pods/portforward in namespace {namespace}")), "{lacking:#?}");
        assert!(says("patch persistentvolumes in the whole cluster"), "{lacking:#?}");
        assert!(!report.findings.allow_stages());
    })
    .await;
}

/// Gives the user `name` what stands in the list of rights, in the namespace of that name, and nothing else.
async fn give_rights(cluster: &Cluster, name: &str) {
    let rules = |scope: Scope| {
        let rights = RIGHTS.iter().filter(|right| right.scope == scope);
        let rights = rights.filter(|right| right.side.is_none_or(|side| side == cluster.side));
        let rule = |right: &tranship_coordinator::rights::Right| json!({"apiGroups": [right.group], "resources": [right.resource], "verbs": right.verbs});
        rights.map(rule).collect::<Vec<_>>()
    };
    let binding = |kind: &str| {
        json!({"metadata": {"name": name}, "subjects": [{"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}],
            "roleRef": {"kind": kind, "name": name, "apiGroup": "rbac.authorization.k8s.io"}})
    };
    let role = |scope| json!({"metadata": {"name": name}, "rules": rules(scope)});
    make::<Role>(cluster, name, role(Scope::Namespace)).await;
    make::<RoleBinding>(cluster, name, binding("Role")).await;
    let roles: Api<ClusterRole> = Api::all(cluster.client.clone());
    let wide = serde_json::from_value(role(Scope::Cluster)).expect("a role");
    roles.create(&PostParams::default(), &wide).await.expect("the role is made");
    let bindings: Api<ClusterRoleBinding> = Api::all(cluster.client.clone());
    let bound = serde_json::from_value(binding("ClusterRole")).expect("a binding");
    bindings.create(&PostParams::default(), &bound).await.expect("the binding is made");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listed_rights_are_enough() {
    in_lab("least", |[source, destination], namespace| async move {
        make_application(&source, &namespace).await;
        make_namespace(&destination, &namespace, json!({})).await;
        give_rights(&source, &namespace).await;
        give_rights(&destination, &namespace).await;
        let lab = PathBuf::from(std::env::var_os("TRANSHIP_LAB").expect("it is set"));
        let clusters = [
            connect(Side::Source, &lab.join("a"), Some(&namespace)).await,
            connect(Side::Destination, &lab.join("b"), Some(&namespace)).await,
        ];
        let migration = Migration::new("move", &namespace);
        let report = eventually("the rights are known everywhere", || async {
            let report = look(&clusters, &migration, None).await;
            codes(&report, Severity::Warning).is_empty().then_some(report)
        })
        .await;
        let record = record(&migration, &report, report.volumes.clone());
        make_claims(&clusters, &record).await;
        let workloads = [ObjectRef::named("apps/v1", "StatefulSet", Some(&namespace), "db")];
        let manifests = bring::plan(&clusters[0], &record, &workloads).await.expect("a plan");
        bring_and_start(&clusters[1], &record, &manifests).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_cannot_be_reached_is_a_finding() {
    in_lab("away", |[source, destination], namespace| async move {
        let mut config = Config::new("https://127.0.0.1:1".parse().expect("an address"));
        config.connect_timeout = Some(Duration::from_secs(2));
        config.default_retry = false;
        let away = Cluster { client: Client::try_from(config).expect("a client"), ..destination };
        let report = look(&[source, away], &Migration::new("move", &namespace), None).await;
        assert_eq!(codes(&report, Severity::Blocking), ["TS-K100"], "{:#?}", report.findings);
        assert_eq!(report.findings.0[0].side, Some(Side::Destination));
    })
    .await;
}
