//! A coordinator that lives in the source's cluster: it goes on when whoever made it has left.

use serde_json::{Value, json};

use crate::harness::{Follower, Machine, Space, Writer, in_space, kill, places, said, uid, until};

/// Everything that a coordinator has of its own, as kubectl names it.
const KINDS: &str =
    "jobs,pods,secrets,serviceaccounts,roles,rolebindings,networkpolicies,clusterroles,clusterrolebindings";

/// `Kind` of each of it that is there, in order; pods that have ended count.
pub(crate) fn kinds(space: &Space) -> Vec<String> {
    let labels = format!("tranship.io/coordinator,tranship.io/migration={}", space.name);
    let found = space.source.list(KINDS, &labels);
    let mut kinds: Vec<String> = found.iter().filter_map(|one| one["kind"].as_str().map(str::to_owned)).collect();
    kinds.sort();
    kinds
}

/// Passes that have ended well.
fn passes(machine: &Machine, space: &Space) -> usize {
    let status = machine.status(space);
    status["stages"].as_array().map_or(0, |all| all.iter().filter(|stage| stage["exit"] == 0).count())
}

fn await_passes(machine: &Machine, space: &Space, more: usize) {
    let wanted = passes(machine, space) + more;
    until(&format!("{wanted} passes"), || (passes(machine, space) >= wanted).then_some(()));
}

/// The pod that runs, once it is not the one that was there before.
pub(crate) fn pod(space: &Space, before: Option<&Value>) -> Value {
    let labels = format!("tranship.io/coordinator,tranship.io/migration={}", space.name);
    until("a coordinator's pod that runs", || {
        let pods = space.source.list("pods", &labels);
        let is_new = |pod: &Value| before.is_none_or(|before| uid(before) != uid(pod));
        let runs = |pod: &Value| pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null();
        pods.into_iter().find(|pod| is_new(pod) && runs(pod))
    })
}

const REPEATED: [&str; 4] = ["--every", "3s", "--in-cluster", "--yes"];

fn stage<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["stage", name], &REPEATED[..], more].concat()
}

/// In a namespace of the strictest level, too.
#[test]
fn a_coordinator_in_the_cluster_goes_on_after_its_command_until_its_limit_and_gives_up_its_rights() {
    in_space("resident", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        let here = Follower::start(&space.source, "writer-0");
        here.await_more(50);
        let pod = uid(&space.source.get("pod", "writer-0"));
        let label = "pod-security.kubernetes.io/enforce=restricted";
        space.source.kubectl(&["label", "namespace", &space.source.namespace, label]);
        machine.create(space, &[]);
        let told = said(&machine.run(&stage(name, &["--until", "projected<1h"])));
        assert!(told.contains("create, patch, delete secrets") && told.contains("holds the credential"), "{told}");
        until("the coordinator has done its work", || {
            (machine.status(space)["resident"]["phase"] == "Succeeded").then_some(())
        });
        assert!(passes(&machine, space) > 0);
        // What tells how it ended stays; what it could do something with is gone.
        let left = ["ClusterRole", "Job", "NetworkPolicy", "Pod", "Role", "ServiceAccount"];
        assert_eq!(kinds(space), left);
        assert_eq!(uid(&space.source.get("pod", "writer-0")), pod, "the application was disturbed");
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}

#[test]
fn a_coordinator_in_the_cluster_that_is_killed_goes_on_until_somebody_takes_over() {
    in_space("resident-killed", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        machine.create(space, &[]);
        machine.run(&stage(name, &[]));
        await_passes(&machine, space, 2);
        let first = pod(space, None);
        let epoch = machine.status(space)["epoch"].as_u64();
        kill(&first);
        await_passes(&machine, space, 2);
        let status = machine.status(space);
        assert!(status["epoch"].as_u64() > epoch && status["resident"]["leads"] == true, "{status}");
        space.source.kubectl(&["delete", "pod", first["metadata"]["name"].as_str().expect("a name"), "--wait=false"]);
        let second = pod(space, Some(&first));
        await_passes(&machine, space, 2);

        // Whoever works on the volumes from elsewhere ends it for good.
        let other = Machine::new();
        let places = places(space);
        let words: Vec<&str> = ["stage", name].into_iter().chain(places.iter().map(String::as_str)).collect();
        let told = said(&other.run(&words));
        assert!(told.contains("takes over from Job"), "{told}");
        until("the coordinator has ended", || {
            let status = machine.status(space);
            (status["resident"]["phase"] == "Succeeded" && status["resident"]["leads"] == false).then_some(())
        });
        assert_eq!(uid(&space.source.get("pod", second["metadata"]["name"].as_str().expect("a name"))), uid(&second));
        assert!(!kinds(space).contains(&"Secret".to_owned()), "{:?}", kinds(space));
        machine.run(&["cutover", name]);
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}

#[test]
fn a_coordinator_in_the_cluster_is_ended_by_cancel_and_what_is_left_without_a_record_by_cleanup() {
    in_space("resident-cancel", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        machine.create(space, &[]);
        machine.run(&stage(name, &[]));
        await_passes(&machine, space, 1);
        machine.run(&["cancel", name]);
        until("nothing of it is left", || kinds(space).is_empty().then_some(()));
        machine.run(&stage(name, &[]));
        for place in space.places() {
            place.kubectl(&["delete", "configmap", &format!("tranship-{name}")]);
        }
        let words = ["cleanup", "--context", space.source.side.context(), "--namespace", &space.source.namespace];
        let told = said(&machine.run(&[&words[..], &["--remove"]].concat()));
        assert!(told.contains("ClusterRoleBinding"), "{told}");
        until("nothing of it is left", || kinds(space).is_empty().then_some(()));
    });
}

#[test]
fn a_coordinator_in_the_cluster_is_not_made_without_a_yes_nor_with_a_login_that_a_pod_cannot_use() {
    in_space("resident-refused", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        machine.create(space, &[]);
        let epoch = machine.status(space)["epoch"].clone();
        let told = said(&machine.try_run(&["stage", name, "--in-cluster"]).expect_code(2));
        assert!(told.contains("ServiceAccount") && told.contains("--yes"), "{told}");
        let other = Machine::with(|config| {
            let exec = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "log-in",
                "interactiveMode": "Never"});
            config["users"][1]["user"] = json!({"exec": exec, "token": "none"});
        });
        let places = places(space);
        let words: Vec<&str> = stage(name, &[]).into_iter().chain(places.iter().map(String::as_str)).collect();
        let told = said(&other.try_run(&words).expect_code(3));
        assert!(told.contains("TS-K961") && told.contains("--destination-kubeconfig"), "{told}");
        assert_eq!(kinds(space), [""; 0]);
        assert_eq!(machine.status(space)["epoch"], epoch);
        machine.run(&["finish", name]);
    });
}
