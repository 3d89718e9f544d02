//! Who may do what, and where: what is not allowed is said before anything is made, and nothing is done elsewhere.

use serde_json::{Value, json};

use crate::harness::{AtRest, Follower, Machine, Space, Witness, Writer, app, in_space, places, said, uid, until};

/// What an account may do that may look at pods and nothing else.
fn account(space: &Space) -> Vec<Value> {
    let bind = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "looker"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "looker"},
        "subjects": [{"kind": "ServiceAccount", "name": "looker", "namespace": space.source.namespace}]});
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "looker"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "looker"}});
    vec![account, role, bind]
}

/// Rights of every kind that a migration needs, as they are said to be missing.
const MISSING: &[&str] = &[
    "watch, create, delete pods in namespace",
    "get, create pods/portforward in namespace",
    "get, create, patch, delete secrets in namespace",
    "get, list, create, update, patch, delete configmaps in namespace",
    "get, list, create, patch, delete persistentvolumeclaims in namespace",
    "get, list, create, update, delete leases.coordination.k8s.io in namespace",
    "get, list, create, patch, delete services in namespace",
    "get, list, create, patch, delete networkpolicies.networking.k8s.io in namespace",
    "get persistentvolumes in the whole cluster",
    "get, list nodes in the whole cluster",
    "get namespaces in the whole cluster",
    "patch persistentvolumes in the whole cluster",
    "list volumeattachments.storage.k8s.io in the whole cluster",
    "get, list, create, patch, delete validatingadmissionpolicies.admissionregistration.k8s.io in the whole cluster",
    "get, list, create, patch, delete validatingadmissionpolicybindings.admissionregistration.k8s.io in the whole cluster",
    "list statefulsets.apps in namespace",
    "get, patch statefulsets.apps in namespace",
    "get, patch, update statefulsets/scale.apps in namespace",
    "list cronjobs.batch in namespace",
    "get, patch cronjobs.batch in namespace",
];

#[test]
fn every_right_that_is_missing_is_named_and_nothing_is_made() {
    in_space("no-rights", |space| {
        Writer::default().start(&space.source);
        space.source.make(&account(space));
        let token = space.source.kubectl(&["create", "token", "looker"]);
        let machine = Machine::with(|config| {
            config["users"][0]["user"] = json!({"token": token.trim()});
        });
        let before = space.objects(&space.source);
        let places = places(space);
        let words: Vec<&str> = ["create", &space.name].into_iter().chain(places.iter().map(String::as_str)).collect();
        let told = said(&machine.try_run(&words).expect_code(3));
        assert!(told.contains("TS-K145"), "what was not tried is not said: {told}");
        let missing: Vec<&&str> =
            MISSING.iter().filter(|right| !told.contains(&format!("you may not {right}"))).collect();
        assert!(told.contains("TS-K104") && missing.is_empty(), "not named: {missing:#?} in {told}");
        assert_eq!(space.objects(&space.source), before);
        assert!(space.marked(&space.source).is_empty());
        assert!(space.destination.find("namespace", &space.destination.namespace).is_none());
    });
}

/// The other cluster under the right name is not taken for the right one; neither are two that were exchanged.
#[test]
fn a_context_that_leads_to_another_cluster_is_refused() {
    in_space("wrong-context", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        machine.create(space, &[]);
        machine.run(&["stage", name]);
        let pod = uid(&space.source.get("pod", "writer-0"));
        let epoch = machine.status(space)["epoch"].clone();
        let exchanged = Machine::with(|config| {
            let clusters = config["contexts"].as_array_mut().expect("contexts");
            let [first, second] = [0, 1].map(|n: usize| clusters[n]["context"].clone());
            (clusters[0]["context"], clusters[1]["context"]) = (second, first);
        });
        let places = places(space);
        for command in ["status", "stage", "cutover", "finish"] {
            let words: Vec<&str> = [command, name].into_iter().chain(places.iter().map(String::as_str)).collect();
            let told = said(&exchanged.try_run(&words).expect_code(3));
            assert!(told.contains("TS-K915"), "{told}");
        }
        assert_eq!(uid(&space.source.get("pod", "writer-0")), pod);
        assert_eq!(machine.status(space)["epoch"], epoch);
        machine.run(&["finish", name]);
    });
}

/// Files of three users, one of which the application is.
const MIXED: &str = "mkdir /data/app && chown 1000:1000 /data/app && echo a > /data/of-1001 && chown 1001:1001 /data/of-1001 \
                     && echo b > /data/of-1002 && chown 1002:1002 /data/of-1002 && sync";

/// A writer that a restricted namespace admits.
fn restricted() -> Value {
    let mut pod = app::pod(&[app::writer("data")], &["data"]);
    pod["containers"][0]["args"][2] = json!("/data/app");
    pod["securityContext"]["runAsNonRoot"] = json!(true);
    pod["securityContext"]["seccompProfile"] = json!({"type": "RuntimeDefault"});
    pod["containers"][0]["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    app::deployment("web", &pod)
}

#[test]
fn owners_that_a_restricted_namespace_cannot_carry_are_named_and_stay_behind_only_if_that_is_accepted() {
    in_space("restricted", |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        let mut root = app::pod(&[app::shell("data", MIXED)], &["data"]);
        root["securityContext"] = json!({"runAsUser": 0});
        root["restartPolicy"] = json!("Never");
        space.source.make(&[app::claim("data", "xfs", "ReadWriteOnce"), app::bare_pod("mixed", &root)]);
        until("the files are there", || {
            (space.source.get("pod", "mixed")["status"]["phase"] == "Succeeded").then_some(())
        });
        space.source.kubectl(&["delete", "pod", "mixed"]);
        let label = "pod-security.kubernetes.io/enforce=restricted";
        space.source.kubectl(&["label", "namespace", &space.source.namespace, label]);
        space.source.make(&[restricted()]);
        space.source.await_ready("app=web", 1);
        let witness = Witness::start(space, "app=web");
        let here = Follower::of_container(&space.source, "web", "data");
        here.await_more(50);
        let told = said(&machine.create(space, &[]));
        assert!(told.contains("TS-K128"), "{told}");
        let told = said(&machine.run(&["stage", name]));
        assert!(told.contains("gaps: owner"), "{told}");
        let status = machine.status(space);
        let gaps = &status["stages"][0]["gaps"];
        assert_eq!(*gaps, json!([["owner", 2]]), "the two files of others, and nothing else: {status}");
        let told = said(&machine.try_run(&["cutover", name]).expect_code(6));
        assert!(told.contains("TS-K948") && told.contains("--accept-gap"), "{told}");
        space.source.await_ready("app=web", 1);
        let back = Follower::of_container(&space.source, "web", "data");
        back.goes_on_after(here.last());
        let accepted = ["cutover", name, "--accept-gap", "owner"];
        machine.run_until_killed_at("final pass", &accepted);
        let at_rest = AtRest::of(&space.source, &["data"]);
        machine.run(&accepted);
        Follower::of_container(&space.destination, "web", "data").goes_on_after(back.last());
        at_rest.is_unchanged();
        witness.swears();
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}
