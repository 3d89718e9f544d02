use super::*;

fn renames(claims: &[(&str, &str)]) -> Renames {
    let claim = |(from, to): &(&str, &str)| ((*from).to_owned(), ((*to).to_owned(), Some("gold".to_owned())));
    Renames { namespace: ["shop".to_owned(), "new".to_owned()], claims: claims.iter().map(claim).collect() }
}

fn metadata() -> Value {
    json!({"name": "db", "namespace": "shop", "uid": "u", "resourceVersion": "1", "generation": 3,
        "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [], "generateName": "db-",
        "ownerReferences": [{"uid": "gone"}], "finalizers": ["x/y"],
        "labels": {"app": "db", "tranship.io/id": "other"},
        "annotations": {"note": "kept", "deployment.kubernetes.io/revision": "4",
            "kubectl.kubernetes.io/last-applied-configuration": "{}"}})
}

fn kept() -> Value {
    json!({"name": "db", "namespace": "new", "labels": {"app": "db"}, "annotations": {"note": "kept"}})
}

fn made(kind: &str, value: Value, claims: &[(&str, &str)]) -> Value {
    sanitise(kind, value, &renames(claims)).expect("it can be made")
}

#[test]
fn a_deployment_is_carried_stopped_and_follows_its_claims() {
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata(),
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "db"}}, "template": {
            "metadata": {"creationTimestamp": null, "labels": {"app": "db"}},
            "spec": {"containers": [{"name": "db"}],
                "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                    [{"namespaces": ["shop", "other"], "topologyKey": "zone"}]}},
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}},
                    {"name": "w", "persistentVolumeClaim": {"claimName": "elsewhere"}}]}}},
        "status": {"replicas": 3}});
    assert_eq!(
        made("Deployment", deployment, &[("data", "data2")]),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": kept(),
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "db"}}, "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {"containers": [{"name": "db"}],
                    "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                        [{"namespaces": ["new", "other"], "topologyKey": "zone"}]}},
                    "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data2"}},
                        {"name": "w", "persistentVolumeClaim": {"claimName": "elsewhere"}}]}}}})
    );
}

fn set() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata(),
        "spec": {"replicas": 2, "serviceName": "db",
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Delete"},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [
                {"name": "db", "volumeMounts": [{"name": "data", "mountPath": "/d"}, {"name": "tmp", "mountPath": "/t"}]}],
                "volumes": [{"name": "tmp", "emptyDir": {}}]}},
            "volumeClaimTemplates": [{"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": "data", "creationTimestamp": null},
                "spec": {"storageClassName": "old"}, "status": {"phase": "Pending"}}]}})
}

#[test]
fn a_set_keeps_its_claims_and_takes_their_new_class() {
    let made = made("StatefulSet", set(), &[("data-db-0", "data-db-0"), ("data-db-1", "data-db-1")]);
    assert_eq!(
        made["spec"]["volumeClaimTemplates"],
        json!([{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
            "spec": {"storageClassName": "gold"}}])
    );
    assert_eq!(
        made["spec"]["persistentVolumeClaimRetentionPolicy"],
        json!({"whenScaled": "Retain", "whenDeleted": "Retain"})
    );
    assert_eq!((&made["spec"]["replicas"], &made["metadata"]), (&json!(0), &kept()));
    assert!(made["spec"]["template"]["spec"].get("initContainers").is_none());
}

#[test]
fn a_sets_claims_can_be_renamed_only_as_their_template_can() {
    let renamed = made("StatefulSet", set(), &[("data-db-0", "disk-db-0"), ("data-db-1", "disk-db-1")]);
    assert_eq!(renamed["spec"]["volumeClaimTemplates"][0]["metadata"]["name"], "disk");
    let mounts = &renamed["spec"]["template"]["spec"]["containers"][0]["volumeMounts"];
    assert_eq!((&mounts[0]["name"], &mounts[1]["name"]), (&json!("disk"), &json!("tmp")));
    for wrong in [
        &[("data-db-0", "data-other-0")][..],
        &[("data-db-0", "data-db-1")],
        &[("data-db-0", "fresh")],
        &[("data-db-0", "disk-db-0"), ("data-db-1", "data-db-1")],
        // The name of another volume of its pods.
        &[("data-db-0", "tmp-db-0")],
    ] {
        let refused = sanitise("StatefulSet", set(), &renames(wrong));
        assert!(matches!(refused, Err(Error::Refused { code: "TS-K251", .. })), "{wrong:?}: {refused:?}");
    }
}

#[test]
fn a_job_loses_what_its_cluster_gave_it_and_is_suspended() {
    let labels =
        json!({"app": "x", "controller-uid": "u", "batch.kubernetes.io/controller-uid": "u", "job-name": "db"});
    let job = |manual: bool| {
        json!({"metadata": {"name": "db", "labels": labels}, "spec": {"manualSelector": manual,
            "selector": {"matchLabels": {"controller-uid": "u"}}, "template": {"metadata": {"labels": labels}, "spec": {}}}})
    };
    let stripped = made("Job", job(false), &[]);
    assert_eq!(
        stripped["spec"],
        json!({"manualSelector": false, "suspend": true,
        "template": {"metadata": {"labels": {"app": "x"}}, "spec": {}}})
    );
    assert_eq!(stripped["metadata"]["labels"], json!({"app": "x"}));
    assert_eq!(made("Job", job(true), &[])["spec"]["template"]["metadata"]["labels"], labels);
    let cron = json!({"metadata": {"name": "db"}, "spec": {"suspend": false, "jobTemplate": {"spec": {"template":
        {"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}}}}}});
    let cron = made("CronJob", cron, &[("data", "data2")]);
    assert_eq!(cron["spec"]["suspend"], true);
    assert_eq!(
        cron.pointer("/spec/jobTemplate/spec/template/spec/volumes/0/persistentVolumeClaim/claimName"),
        Some(&json!("data2"))
    );
}

#[test]
fn a_pod_of_nobody_waits_at_a_gate_and_a_daemon_for_a_label() {
    let pod = json!({"metadata": {"name": "db"}, "spec": {"nodeName": "n1", "priority": 0,
        "serviceAccount": "default", "serviceAccountName": "default",
        "tolerations": [{"key": "node.kubernetes.io/not-ready", "tolerationSeconds": 300}, {"key": "mine"}],
        "volumes": [{"name": "kube-api-access-x"}, {"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
        "containers": [{"name": "a", "volumeMounts": [{"name": "kube-api-access-x"}, {"name": "v"}]}, {"name": "b"}]}});
    assert_eq!(
        made("Pod", pod, &[("data", "data2")])["spec"],
        json!({"serviceAccountName": "default", "tolerations": [{"key": "mine"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data2"}}],
            "containers": [{"name": "a", "volumeMounts": [{"name": "v"}]}, {"name": "b"}],
            "schedulingGates": [{"name": HELD}]})
    );
    let daemon = json!({"metadata": {"name": "db"}, "spec": {"template": {"spec": {"nodeSelector": {"disk": "ssd"}}}}});
    assert_eq!(
        made("DaemonSet", daemon, &[])["spec"]["template"]["spec"]["nodeSelector"],
        json!({"disk": "ssd", HELD: "true"})
    );
}

#[test]
fn tokens_stay_in_their_cluster_and_other_secrets_are_carried_whole() {
    let secret = |kind: &str| {
        json!({"metadata": {"name": "db", "annotations": {"kubernetes.io/service-account.name": "sa",
            "kubernetes.io/service-account.uid": "u"}}, "type": kind,
            "data": {"token": "a", "ca.crt": "b", "namespace": "c", "more": "d"}})
    };
    let token = made("Secret", secret("kubernetes.io/service-account-token"), &[]);
    assert_eq!(token["data"], json!({"more": "d"}));
    assert_eq!(token["metadata"]["annotations"], json!({"kubernetes.io/service-account.name": "sa"}));
    assert_eq!(made("Secret", secret("Opaque"), &[])["data"], secret("Opaque")["data"]);
    let account = json!({"metadata": {"name": "sa"}, "secrets": [{"name": "sa-token"}],
        "imagePullSecrets": [{"name": "sa-dockercfg-x"}, {"name": "mine"}]});
    assert_eq!(
        made("ServiceAccount", account, &[]),
        json!({"metadata": {"name": "sa", "namespace": "new"}, "imagePullSecrets": [{"name": "mine"}]})
    );
}
