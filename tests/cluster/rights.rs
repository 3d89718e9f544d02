//! Who may do what, and where: what is not allowed is said before anything is made, and nothing is done elsewhere.

use serde_json::{Value, json};

use crate::harness::{Machine, Space, Writer, in_space, places, said, uid};

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
    "get, list, patch statefulsets.apps in namespace",
    "get, patch, update statefulsets/scale.apps in namespace",
    "get, list, patch cronjobs.batch in namespace",
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
        let told = said(&machine.try_create(space, &[]).expect_code(3));
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
