//! Workloads with traits that a migration has to know of.

use serde_json::{Value, json};

use crate::harness::{
    AtRest, Follower, Guest, Machine, Place, Space, Witness, Writer, app, in_space, said, uid, until,
};

const RWO: &str = "ReadWriteOnce";

/// What becomes of a StatefulSet's claims.
const RETENTION: &str = "persistentVolumeClaimRetentionPolicy";

/// Moves what runs already, and looks at the source between its stop and its end. `follow` gives who follows the writer of
/// a claim.
fn goes_on(
    machine: &Machine,
    space: &Space,
    labels: &str,
    follow: &dyn Fn(&Place, &str) -> Follower,
    claims: &[&str],
) -> Vec<Follower> {
    let name = space.name.as_str();
    let witness = Witness::start(space, labels);
    let here: Vec<Follower> = claims.iter().map(|claim| follow(&space.source, claim)).collect();
    here.iter().for_each(|follower| follower.await_more(50));
    machine.create(space, &[]);
    machine.run(&["stage", name]);
    machine.run_until_killed_at("final pass", &["cutover", name]);
    let at_rest = AtRest::of(&space.source, claims);
    machine.run(&["cutover", name]);
    let there: Vec<Follower> = claims.iter().map(|claim| follow(&space.destination, claim)).collect();
    for (here, there) in here.iter().zip(&there) {
        there.goes_on_after(here.last());
        there.await_more(50);
    }
    at_rest.is_unchanged();
    witness.swears();
    there
}

#[test]
fn an_application_goes_on_with_a_claim_of_another_name() {
    in_space("new-claim", |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        let pod = app::pod(&[app::writer("data")], &["data"]);
        space.source.make(&[app::claim("data", "xfs", RWO), app::deployment("web", &pod)]);
        space.source.await_ready("app=web", 1);
        let witness = Witness::start(space, "app=web");
        let here = Follower::of_container(&space.source, "web", "data");
        here.await_more(50);
        machine.create(space, &["--pvc", "data:store"]);
        machine.run(&["stage", name]);
        let at_rest = machine.cut_over(space, &["data"]);
        Follower::of_container(&space.destination, "web", "data").goes_on_after(here.last());
        at_rest.is_unchanged();
        witness.swears();
        assert_eq!(space.destination.find("persistentvolumeclaim", "data"), None);
        let volumes = space.destination.get("deployment", "web")["spec"]["template"]["spec"]["volumes"].clone();
        assert_eq!(volumes[0]["persistentVolumeClaim"]["claimName"], "store", "{volumes}");
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}

#[test]
fn an_application_that_somebody_else_made_at_the_destination_is_started_there() {
    in_space("made-there", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        let witness = Witness::start(space, &writer.labels());
        let here = Follower::start(&space.source, "writer-0");
        here.await_more(50);
        machine.create(space, &["--resources", "none"]);
        machine.run(&["stage", name]);
        space.destination.make(&[writer.object(0)]);
        let made = uid(&space.destination.get("statefulset", writer.name));
        let at_rest = machine.cut_over(space, &["data-writer-0"]);
        Follower::start(&space.destination, "writer-0").goes_on_after(here.last());
        at_rest.is_unchanged();
        machine.run(&["finish", name, "--lift-fence"]);
        witness.swears();
        let there = space.destination.get("statefulset", writer.name);
        assert_eq!((uid(&there), &there["spec"]["replicas"]), (made, &1.into()), "{there}");
    });
}

#[test]
fn volumes_are_handed_over_where_nothing_is_to_be_started_and_nobody_says_that_it_runs() {
    in_space("nothing-there", |space| {
        let (writer, machine, name) = (Writer::default(), Machine::new(), space.name.as_str());
        writer.start(&space.source);
        Follower::start(&space.source, "writer-0").await_more(50);
        machine.create(space, &["--resources", "none"]);
        let outcome = machine.run(&["cutover", name]);
        assert!(said(&outcome).contains("nothing was to be started there"), "{outcome:#?}");
        assert!(said(&outcome).contains("writer is not at the destination"), "{outcome:#?}");
        let status = machine.status(space);
        assert_eq!((&status["owner"], &status["timeline"]["ready"]), (&"destination".into(), &Value::Null), "{status}");
        assert_eq!(space.destination.list("statefulsets", ""), [Value::Null; 0]);
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}

#[test]
fn a_deployment_goes_on_with_both_of_its_claims_and_each_has_a_proof() {
    in_space("two-claims", |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        let claims = ["left", "right"];
        let pod = app::pod(&claims.map(app::writer), &claims);
        let [left, right] = [("left", "xfs"), ("right", "ext4")].map(|(name, class)| app::claim(name, class, RWO));
        space.source.make(&[left, right, app::deployment("web", &pod)]);
        space.source.await_ready("app=web", 1);
        goes_on(&machine, space, "app=web", &|place, claim| Follower::of_container(place, "web", claim), &claims);
        let proofs = machine.status(space)["proof"]["volumes"].clone();
        let digests: Vec<&str> =
            proofs.as_array().into_iter().flatten().filter_map(|proof| proof["canonical"].as_str()).collect();
        assert_eq!(digests.len(), 2, "{proofs}");
        assert_ne!(digests[0], digests[1], "two volumes and one digest: {proofs}");
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}

#[test]
fn two_pods_that_share_a_volume_on_one_node_go_on_with_it() {
    in_space("shared", |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        space.source.make(&[app::claim("data", "ext4", "ReadWriteMany")]);
        // Each in a folder of its own, and both where the first one is.
        let pods = ["one", "two"].map(|part| {
            let mut pod = app::pod(&[app::writer("data")], &["data"]);
            pod["containers"][0]["volumeMounts"][0]["subPath"] = json!(part);
            let beside =
                json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"share": "data"}}}]);
            pod["affinity"] = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": beside}});
            let mut deployment = app::deployment(part, &pod);
            deployment["spec"]["template"]["metadata"]["labels"]["share"] = json!("data");
            deployment
        });
        space.source.make(&pods);
        space.source.await_ready("share=data", 2);
        let follow = |place: &Place, deployment: &str| Follower::of_container(place, deployment, "data");
        let here = ["one", "two"].map(|part| follow(&space.source, part));
        here.iter().for_each(|follower| follower.await_more(50));
        let witness = Witness::start(space, "share=data");
        machine.create(space, &[]);
        machine.run(&["stage", name]);
        machine.run_until_killed_at("final pass", &["cutover", name]);
        let at_rest = AtRest::of(&space.source, &["data"]);
        machine.run(&["cutover", name]);
        for (part, here) in ["one", "two"].iter().zip(&here) {
            follow(&space.destination, part).goes_on_after(here.last());
        }
        at_rest.is_unchanged();
        witness.swears();
        let claim = space.destination.get("persistentvolumeclaim", "data");
        assert_eq!(claim["spec"]["accessModes"], json!(["ReadWriteMany"]));
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}

/// A CronJob that adds a line to a file of the claim `log` each minute.
fn cron_job(name: &str, is_suspended: bool) -> Value {
    let script = format!("echo {name} >> /data/lines && sync");
    let mut pod = app::pod(&[app::shell("log", &script)], &["log"]);
    pod["restartPolicy"] = json!("OnFailure");
    json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name}, "spec": {
        "schedule": "* * * * *", "concurrencyPolicy": "Forbid", "suspend": is_suspended,
        "jobTemplate": {"spec": {"template": {"spec": pod}}}}})
}

/// Whether a Job of this CronJob has succeeded.
fn has_run(place: &Place, cron_job: &str) -> bool {
    let is_its = |job: &&Value| job["metadata"]["ownerReferences"][0]["name"] == cron_job;
    place.list("jobs", "").iter().filter(is_its).any(|job| job["status"]["succeeded"] == 1)
}

#[test]
fn a_cronjob_runs_on_one_side_only_and_one_that_was_suspended_never_does() {
    in_space("cronjobs", |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        space.source.make(&[app::claim("log", "xfs", RWO), cron_job("awake", false), cron_job("asleep", true)]);
        space.source.kubectl(&["create", "job", "first", "--from=cronjob/awake"]);
        until("the first job is done", || has_run(&space.source, "awake").then_some(()));
        let suspended =
            |place: &Place| ["awake", "asleep"].map(|name| place.get("cronjob", name)["spec"]["suspend"] == true);
        machine.create(space, &[]);
        machine.run(&["stage", name]);
        machine.run_until_killed_at("final pass", &["cutover", name]);
        assert_eq!(suspended(&space.source), [true, true]);
        let at_rest = AtRest::of(&space.source, &["log"]);
        machine.run(&["cutover", name]);
        assert_eq!([suspended(&space.source), suspended(&space.destination)], [[true, true], [false, true]]);
        until("a job runs at the destination", || has_run(&space.destination, "awake").then_some(()));
        assert!(!has_run(&space.destination, "asleep"));
        at_rest.is_unchanged();
        machine.run(&["rollback", name]);
        assert_eq!([suspended(&space.source), suspended(&space.destination)], [[false, true], [true, true]]);
        machine.run(&["finish", name, "--lift-fence"]);
        assert_eq!(suspended(&space.source), [false, true]);
        space.holds_nothing_of_ours();
    });
}

#[test]
fn a_statefulset_that_deletes_its_claims_as_it_is_scaled_down_loses_nothing() {
    in_space("when-scaled", |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        let writer = Writer { deletes_claims: true, ..Writer::default() };
        writer.start(&space.source);
        let claim = || uid(&space.source.get("persistentvolumeclaim", "data-writer-0"));
        let before = claim();
        let follow = |place: &Place, _: &str| Follower::start(place, "writer-0");
        let there = goes_on(&machine, space, &writer.labels(), &follow, &["data-writer-0"]);
        assert_eq!(claim(), before);
        machine.run(&["rollback", name]);
        Follower::start(&space.source, "writer-0").goes_on_after(there[0].last());
        assert_eq!(claim(), before);
        let policy = space.source.get("statefulset", "writer")["spec"][RETENTION].clone();
        assert_eq!(policy, json!({"whenScaled": "Delete", "whenDeleted": "Delete"}));
        machine.run(&["finish", name, "--lift-fence"]);
        assert_eq!(claim(), before);
        space.holds_nothing_of_ours();
    });
}

#[test]
fn a_claim_for_one_pod_alone_is_never_shared_and_is_moved_by_the_cutover() {
    in_space("one-pod", |space| {
        let (machine, name) = (Machine::new(), space.name.as_str());
        let writer = Writer { access_mode: "ReadWriteOncePod", ..Writer::default() };
        writer.start(&space.source);
        let mut guest = Guest::start(&space.source, "data-writer-0");
        let witness = Witness::start(space, &writer.labels());
        let here = Follower::start(&space.source, "writer-0");
        here.await_more(50);
        let pod = uid(&space.source.get("pod", "writer-0"));
        machine.create(space, &[]);
        let told = said(&machine.run(&["stage", name]));
        assert!(told.contains("data-writer-0") && told.contains("ReadWriteOncePod"), "{told}");
        here.await_more(10);
        assert_eq!(uid(&space.source.get("pod", "writer-0")), pod);
        assert_eq!(guest.users(), ["writer-0"]);
        machine.run_until_killed_at("final pass", &["cutover", name]);
        let at_rest = AtRest::of(&space.source, &["data-writer-0"]);
        machine.run(&["cutover", name]);
        Follower::start(&space.destination, "writer-0").goes_on_after(here.last());
        at_rest.is_unchanged();
        // The agent came when the application had gone.
        assert_eq!(guest.users().len(), 2);
        witness.swears();
        machine.run(&["finish", name, "--lift-fence"]);
        space.holds_nothing_of_ours();
    });
}
