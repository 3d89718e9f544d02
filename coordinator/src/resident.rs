//! A coordinator that lives in the source's cluster, so that whoever began it may leave: the command line's own image runs the
//! command that was typed, in one pod beside the application.
//!
//! It holds an epoch like any other coordinator, under a name of its own that all its pods share: one that is killed is
//! followed by another, which goes on only while nobody else has taken over. `account` is what it may do, `credential` how it
//! reaches the destination, `job` its pod, `duty` what that has to do where a cutover was left to it.

mod account;
mod credential;
mod duty;
mod job;

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, PodStatus, Secret, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::ClusterResourceScope;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tranship_api::view::Resident;
use tranship_api::{LABEL_COORDINATOR, LABEL_ID, LABEL_MIGRATION, ObjectRef, Record, Side};

use self::account::Account;
pub use self::account::{NAMESPACE, for_a_cutover, for_stages};
pub use self::credential::{CONTEXT, destination};
pub use self::duty::{Duty, GRACE, Outcome, duty, is_too_late};
pub use self::job::{KUBECONFIG, Work};
use crate::agents::selector;
use crate::ledger::Ledger;
use crate::watch::Watch;
use crate::{Cluster, Error, pod};

/// How long it may take until it has begun: its image may have to be pulled.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often it may fail before it has begun: the network of a pod may be there a moment after it.
const FAILURES_MAX: i32 = 2;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// The name of all that it has in the application's namespace.
pub fn name(record: &Record) -> String {
    format!("tranship-{}-coordinator", record.migration.metadata.name)
}

/// The name of what it has in no namespace.
pub fn global_name(record: &Record) -> String {
    format!("tranship-{}-coordinator", record.id.get(..8).unwrap_or(&record.id))
}

/// Makes it in place of one that may be there, and returns once it has taken over, or has shown why it cannot; then nothing of
/// it is left. `kubeconfig` leads to the destination, by the context [`CONTEXT`].
pub async fn start(ledger: &mut Ledger, kubeconfig: String, work: &Work, watch: &Watch) -> Result<(), Error> {
    watch.step("making a coordinator in the source's cluster");
    remove(ledger.cluster(Side::Source), &ledger.record).await.map_err(ungranted)?;
    let result = begin(ledger, kubeconfig, work, watch).await;
    if result.is_err()
        && let Err(second) = remove(ledger.cluster(Side::Source), &ledger.record).await
    {
        watch.note(format!("what was made for it is not gone ({second}); `tranship cancel` removes it"));
    }
    if result.is_err() && ledger.record.awaited().is_some() {
        // Nobody is to read that a cutover will come.
        ledger.record.errand = None;
        if let Err(second) = ledger.save().await {
            watch.note(format!("the record still tells of a cutover that will not come: {second}"));
        }
    }
    result
}

async fn begin(ledger: &mut Ledger, kubeconfig: String, work: &Work, watch: &Watch) -> Result<(), Error> {
    ledger.record.resident = Some(work.coordinator.clone());
    ledger.record.errand = work.errand;
    grant(ledger, work).await.map_err(ungranted)?;
    ledger.record.happened(jiff::Timestamp::now(), "a coordinator is made in the source's cluster");
    // From here on nobody else is at work, and a pod of it finds itself named.
    ledger.take_over(&work.coordinator).await?;
    employ(ledger, kubeconfig, work).await?;
    await_begun(ledger, work, watch).await
}

/// Takes all of it away, whether or not it is there. A pod that is at work ends in order, a pass goes on to its end.
pub async fn remove(cluster: &Cluster, record: &Record) -> Result<(), Error> {
    let (namespace, name, global) = (record.namespace(Side::Source), name(record), global_name(record));
    delete_job(cluster, namespace, &name).await?;
    cluster.delete::<Secret>(namespace, &name, None).await?;
    cluster.delete::<RoleBinding>(namespace, &name, None).await?;
    cluster.delete::<Role>(namespace, &name, None).await?;
    cluster.delete::<ServiceAccount>(namespace, &name, None).await?;
    cluster.delete::<NetworkPolicy>(namespace, &name, None).await?;
    delete_global::<ClusterRoleBinding>(cluster, &global).await?;
    delete_global::<ClusterRole>(cluster, &global).await
}

/// The last act but one of a pod that ends badly and for good: no other one is made in its place. For one that cuts over.
pub async fn give_up(cluster: &Cluster, record: &Record) -> Result<(), Error> {
    job::fail(cluster, record).await
}

/// Its own last act: the credential of the destination goes, then its rights. What is left may do nothing, and tells how it
/// ended until somebody takes it away.
pub async fn retire(cluster: &Cluster, record: &Record) -> Result<(), Error> {
    let (namespace, name) = (record.namespace(Side::Source), name(record));
    cluster.delete::<Secret>(namespace, &name, None).await?;
    delete_global::<ClusterRoleBinding>(cluster, &global_name(record)).await?;
    cluster.delete::<RoleBinding>(namespace, &name, None).await
}

/// How it is, where one was made.
pub async fn seen(cluster: &Cluster, record: &Record) -> Option<Resident> {
    record.resident.as_ref()?;
    let found = pods(cluster, record).await;
    let (last, says) = match found {
        Ok(mut pods) => (pods.pop(), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let status = last.as_ref().and_then(|pod| pod.status.clone()).unwrap_or_default();
    Some(Resident {
        pod: last.and_then(|pod| pod.metadata.name),
        says: says.or_else(|| complaint(&status)),
        phase: status.phase,
        leads: record.is_led_by_resident(),
        cuts_over_at: record.awaited().map(|errand| errand.at),
    })
}

/// What is left of coordinators in a namespace, and in no namespace for one of it: each with the labels that it has.
pub async fn standing(cluster: &Cluster, namespace: &str) -> Result<Vec<(ObjectRef, [String; 2])>, Error> {
    let mut found = Vec::new();
    for job in cluster.list::<Job>(namespace, LABEL_COORDINATOR).await? {
        found.push(part("batch/v1", "Job", &job.metadata));
    }
    for binding in cluster.list::<RoleBinding>(namespace, LABEL_COORDINATOR).await? {
        found.push(part(RBAC, "RoleBinding", &binding.metadata));
    }
    for role in cluster.list::<Role>(namespace, LABEL_COORDINATOR).await? {
        found.push(part(RBAC, "Role", &role.metadata));
    }
    for account in cluster.list::<ServiceAccount>(namespace, LABEL_COORDINATOR).await? {
        found.push(part("v1", "ServiceAccount", &account.metadata));
    }
    let is_of =
        |meta: &Meta| meta.annotations.as_ref().and_then(|all| all.get(NAMESPACE)).is_some_and(|of| of == namespace);
    for binding in list_global::<ClusterRoleBinding>(cluster).await?.iter().filter(|one| is_of(&one.metadata)) {
        found.push(part(RBAC, "ClusterRoleBinding", &binding.metadata));
    }
    for role in list_global::<ClusterRole>(cluster).await?.iter().filter(|one| is_of(&one.metadata)) {
        found.push(part(RBAC, "ClusterRole", &role.metadata));
    }
    Ok(found)
}

/// Removes one of those rights that [`standing`] has found.
pub(crate) async fn remove_part(cluster: &Cluster, object: &ObjectRef) -> Result<(), Error> {
    let (namespace, name) = (object.namespace.as_deref().unwrap_or_default(), &object.name);
    let uid = Some(object.uid.as_str());
    match object.kind.as_str() {
        "RoleBinding" => cluster.delete::<RoleBinding>(namespace, name, uid).await,
        "Role" => cluster.delete::<Role>(namespace, name, uid).await,
        "ClusterRoleBinding" => delete_global::<ClusterRoleBinding>(cluster, name).await,
        "ClusterRole" => delete_global::<ClusterRole>(cluster, name).await,
        _ => Ok(()),
    }
}

type Meta = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

const RBAC: &str = "rbac.authorization.k8s.io/v1";

fn part(api_version: &str, kind: &str, meta: &Meta) -> (ObjectRef, [String; 2]) {
    let name = meta.name.as_deref().unwrap_or_default();
    let object = ObjectRef {
        uid: meta.uid.clone().unwrap_or_default(),
        ..ObjectRef::named(api_version, kind, meta.namespace.as_deref(), name)
    };
    let label = |key: &str| meta.labels.as_ref().and_then(|labels| labels.get(key)).cloned().unwrap_or_default();
    (object, [label(LABEL_ID), label(LABEL_MIGRATION)])
}

/// Its account, with its rights; first those that the fewest users may give.
async fn grant(ledger: &Ledger, work: &Work) -> Result<(), Error> {
    let (cluster, record) = (ledger.cluster(Side::Source), &ledger.record);
    let (namespace, owner) = (record.namespace(Side::Source), ledger.owner_reference(Side::Source)?);
    let Account { account, role, binding, global_role, global_binding } =
        Account::new(record, Some(&owner), &work.rights);
    create_global(cluster, &global_role).await?;
    create_global(cluster, &global_binding).await?;
    cluster.create(namespace, &role).await?;
    cluster.create(namespace, &binding).await?;
    cluster.create(namespace, &account).await.map(drop)
}

/// Leave to reach others, the credential, and last the pod.
async fn employ(ledger: &Ledger, kubeconfig: String, work: &Work) -> Result<(), Error> {
    let (cluster, record) = (ledger.cluster(Side::Source), &ledger.record);
    let (namespace, owner) = (record.namespace(Side::Source), ledger.owner_reference(Side::Source)?);
    cluster.create(namespace, &job::network_policy(record, &owner)).await?;
    cluster.create(namespace, &job::secret(record, &owner, kubeconfig)).await?;
    cluster.create(namespace, &job::job(record, &owner, work)).await.map(drop)
}

/// Nobody can give an account what they do not have themselves.
fn ungranted(error: Error) -> Error {
    let Error::Api { source, .. } = &error else { return error };
    let kube::Error::Api(status) = &**source else { return error };
    if status.code != 403 {
        return error;
    }
    Error::refused(
        "TS-K962",
        format!("you may not give the coordinator in the cluster its rights: {}", status.message),
        "only who has all of these rights may give them, and may make and delete roles and their bindings, also in the whole \
         cluster: have such a user type this command, or type it without --in-cluster",
    )
}

/// Waits until the record says that it has taken over.
async fn await_begun(ledger: &Ledger, work: &Work, watch: &Watch) -> Result<(), Error> {
    let (cluster, record) = (ledger.cluster(Side::Source), &ledger.record);
    let (namespace, migration) = (record.namespace(Side::Source), &record.migration.metadata.name);
    watch.step("waiting until it has taken over");
    let began = Instant::now();
    loop {
        if let Some(found) = Ledger::peek(cluster, namespace, migration).await?
            && found.epoch > record.epoch
        {
            let (coordinator, epoch) = (found.coordinator, found.epoch);
            return if coordinator == work.coordinator {
                Ok(())
            } else {
                Err(Error::Superseded { coordinator, epoch })
            };
        }
        let all: Vec<PodStatus> = pods(cluster, record).await?.into_iter().filter_map(|pod| pod.status).collect();
        let (failures, status) = (failures(&all), all.last().cloned().unwrap_or_default());
        if pod::is_hopeless(&status) || failures >= FAILURES_MAX {
            return Err(Error::refused(
                "TS-K963",
                format!("the coordinator in the cluster did not begin: {}", complaint(&status).unwrap_or_default()),
                "nothing of it is left; do what it says, and run the same command again",
            ));
        }
        if began.elapsed() > PATIENCE {
            let why = complaint(&status).unwrap_or_else(|| format!("see the events of Job {}", name(record)));
            let what = format!("the beginning of the coordinator in the cluster ({why})");
            return Err(Error::Late { what, seconds: PATIENCE.as_secs() });
        }
        sleep(LOOK).await;
    }
}

/// How often it has failed: in place, or as one pod after the other.
fn failures(pods: &[PodStatus]) -> i32 {
    let restarts = |status: &PodStatus| {
        status.container_statuses.iter().flatten().map(|one| one.restart_count).max().unwrap_or(0)
            + i32::from(status.phase.as_deref() == Some("Failed"))
    };
    pods.iter().map(restarts).sum()
}

/// Its pods, the latest last.
async fn pods(cluster: &Cluster, record: &Record) -> Result<Vec<Pod>, Error> {
    let selector = format!("{},{LABEL_COORDINATOR}", selector(record));
    let mut pods = cluster.list::<Pod>(record.namespace(Side::Source), &selector).await?;
    pods.sort_by(|one, other| one.metadata.creation_timestamp.cmp(&other.metadata.creation_timestamp));
    Ok(pods)
}

/// Why its pod does not run, or ended the last time: in its own words where it had any.
fn complaint(status: &PodStatus) -> Option<String> {
    let ended = status.container_statuses.iter().flatten().find_map(|status| {
        let now = status.state.as_ref().and_then(|state| state.terminated.as_ref());
        now.or_else(|| status.last_state.as_ref()?.terminated.as_ref()).filter(|ended| ended.exit_code != 0)
    });
    let said = ended.map(|ended| {
        let reason =
            || format!("it ended with {} ({})", ended.exit_code, ended.reason.as_deref().unwrap_or("no reason"));
        ended.message.as_deref().and_then(words).unwrap_or_else(reason)
    });
    said.or_else(|| matches!(status.phase.as_deref(), Some("Pending" | "Failed")).then(|| pod::why(status)))
}

/// What the last line of a log says of an error; a result is none.
fn words(log: &str) -> Option<String> {
    let last = log.lines().rfind(|line| !line.trim().is_empty())?;
    let Ok(line) = serde_json::from_str::<Value>(last) else { return Some(last.to_owned()) };
    let text = |field: &str| line["error"][field].as_str();
    Some(format!("{}: {}", text("code")?, text("message")?))
}

/// Objects of the cluster as a whole.
trait Global:
    kube::Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + std::fmt::Debug + Serialize + DeserializeOwned
{
}

impl Global for ClusterRole {}
impl Global for ClusterRoleBinding {}

async fn create_global<K: Global>(cluster: &Cluster, object: &K) -> Result<(), Error> {
    let api: Api<K> = Api::all(cluster.client.clone());
    let what = format!("create {} {}", K::kind(&()), object.meta().name.as_deref().unwrap_or_default());
    cluster.call(what, api.create(&PostParams::default(), object)).await.map(drop)
}

async fn list_global<K: Global>(cluster: &Cluster) -> Result<Vec<K>, Error> {
    let api: Api<K> = Api::all(cluster.client.clone());
    let params = ListParams::default().labels(LABEL_COORDINATOR);
    Ok(cluster.call(format!("list {}", K::kind(&())), api.list(&params)).await?.items)
}

async fn delete_global<K: Global>(cluster: &Cluster, name: &str) -> Result<(), Error> {
    let api: Api<K> = Api::all(cluster.client.clone());
    let what = format!("delete {} {name}", K::kind(&()));
    match cluster.call(what, api.delete(name, &DeleteParams::default())).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// A Job that is deleted leaves its pods behind, unless it is asked not to.
async fn delete_job(cluster: &Cluster, namespace: &str, name: &str) -> Result<(), Error> {
    let api = cluster.api::<Job>(namespace);
    match cluster.call(format!("delete Job {namespace}/{name}"), api.delete(name, &DeleteParams::background())).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(status: Value) -> PodStatus {
        serde_json::from_value(status).expect("a status")
    }

    #[test]
    fn a_coordinator_that_did_not_go_on_says_why_in_its_own_words() {
        let log =
            "{\"stage\": 1}\n{\"error\": {\"code\": \"TS-K914\", \"message\": \"the destination is not known\"}}\n";
        let container = |state: Value| {
            json!({"phase": "Running", "containerStatuses": [
                {"name": "coordinator", "image": "i", "imageID": "", "ready": false, "restartCount": 1, "lastState": state}]})
        };
        let said = |state: Value| complaint(&status(container(json!({"terminated": state}))));
        let own = said(json!({"exitCode": 3, "reason": "Error", "message": log}));
        assert_eq!(own.as_deref(), Some("TS-K914: the destination is not known"));
        let alien = said(json!({"exitCode": 1, "reason": "Error", "message": "exec format error"}));
        assert_eq!(alien.as_deref(), Some("exec format error"));
        for message in [Value::Null, json!("{\"stage\": 1}\n")] {
            let killed = said(json!({"exitCode": 137, "reason": "OOMKilled", "message": message}));
            assert_eq!(killed.as_deref(), Some("it ended with 137 (OOMKilled)"));
        }
        assert_eq!(said(json!({"exitCode": 0, "reason": "Completed"})), None);
        assert_eq!(complaint(&status(json!({"phase": "Running"}))), None);
    }
}
