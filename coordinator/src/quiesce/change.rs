//! Making a change, and taking it back.

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tranship_api::ObjectRef;
use tranship_api::record::{Act, Change, ChangeState};

use super::{blame, live};
use crate::workload::RECREATED;
use crate::{Cluster, Error};

/// How often a write is tried again when somebody else was faster.
const ATTEMPTS_MAX: u32 = 10;

/// How long claims may take to be free of their pods.
const RETAIN_MAX: Duration = Duration::from_secs(60);

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// What came of taking a change back.
#[derive(Debug, Clone, PartialEq)]
pub enum Undone {
    /// It is as it was.
    Back,
    /// The object is not there any more.
    Gone,
    /// Somebody else has changed it since: it stays as it is.
    Kept {
        /// Who, as the object tells.
        by: String,
        /// What stands there now.
        value: Value,
    },
}

/// What has to be done about an object.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Nothing,
    Write(Value),
    Refuse(Refusal),
}

/// Why nothing is done.
#[derive(Debug, Clone, PartialEq)]
enum Refusal {
    AnotherObject,
    Changed,
}

/// Makes a change; nothing happens if it is made already, or if its object is gone.
///
/// A change that is planned is made only from the value that was planned from, so that the former value in the record is
/// the true one; one that was made is made again from whatever stands there. It is done when the API server has
/// accepted it: pods may still run. Only the retention of claims is waited for until it holds.
pub async fn make(cluster: &Cluster, change: &Change) -> Result<(), Error> {
    make_at(cluster, change).await.map(drop)
}

/// The same, and the version of the object that was written, if it was.
pub(super) async fn make_at(cluster: &Cluster, change: &Change) -> Result<Option<String>, Error> {
    if let Act::Delete { .. } = change.act {
        return delete(cluster, &change.object).await.map(|()| None);
    }
    let pointer = live::pointer(&change.act).unwrap_or_default();
    for _ in 0..ATTEMPTS_MAX {
        let Some(live) = live::read(cluster, &change.object).await? else { return Ok(None) };
        let to = match decide_make(change, &live) {
            Step::Nothing => return settle(cluster, change).await.map(|()| None),
            Step::Write(to) => to,
            Step::Refuse(Refusal::AnotherObject) => return Err(another(&change.object)),
            Step::Refuse(Refusal::Changed) => {
                let by = blame::manager(&live, pointer);
                let what = format!("{by} changed {} after it was planned to stop it", change.object);
                return Err(Error::refused("TS-K321", what, "run the same command again: it plans anew"));
            }
        };
        match live::write(cluster, &change.object, &change.act, &to, &live).await {
            Err(error) if error.is_conflict() => {}
            Err(error) if error.is_not_found() => return Ok(None),
            other => {
                let version = other?;
                return settle(cluster, change).await.map(|()| version);
            }
        }
    }
    Err(never_rests(&change.object))
}

/// Takes a change back, if what we wrote still stands; nothing happens if it is back already.
///
/// A pod that we deleted is made again; while the old one is still terminating that is refused (TS-K323).
pub async fn undo(cluster: &Cluster, change: &Change) -> Result<Undone, Error> {
    if let Act::Delete { manifest } = &change.act {
        return recreate(cluster, &change.object, manifest).await;
    }
    let pointer = live::pointer(&change.act).unwrap_or_default();
    for _ in 0..ATTEMPTS_MAX {
        let Some(live) = live::read(cluster, &change.object).await? else { return Ok(Undone::Gone) };
        let to = match decide_undo(change, &live) {
            Step::Nothing => return Ok(Undone::Back),
            Step::Write(to) => to,
            Step::Refuse(_) => {
                return Ok(Undone::Kept {
                    by: blame::manager(&live, pointer),
                    value: live::value(&live, pointer).clone(),
                });
            }
        };
        match live::write(cluster, &change.object, &change.act, &to, &live).await {
            Err(error) if error.is_conflict() => {}
            Err(error) if error.is_not_found() => return Ok(Undone::Gone),
            other => return other.map(|_| Undone::Back),
        }
    }
    Err(never_rests(&change.object))
}

fn decide_make(change: &Change, live: &Value) -> Step {
    if live::uid(live) != change.object.uid {
        return Step::Refuse(Refusal::AnotherObject);
    }
    let pointer = live::pointer(&change.act).unwrap_or_default();
    let ((before, after), now) = (live::values(&change.act), live::value(live, pointer));
    if live::is_same(pointer, now, &after) {
        Step::Nothing
    } else if change.state == ChangeState::Made || live::is_same(pointer, now, &before) {
        Step::Write(after)
    } else {
        Step::Refuse(Refusal::Changed)
    }
}

fn decide_undo(change: &Change, live: &Value) -> Step {
    if live::uid(live) != change.object.uid {
        return Step::Refuse(Refusal::AnotherObject);
    }
    let pointer = live::pointer(&change.act).unwrap_or_default();
    let ((before, after), now) = (live::values(&change.act), live::value(live, pointer));
    if live::is_same(pointer, now, &before) {
        Step::Nothing
    } else if live::is_same(pointer, now, &after) {
        Step::Write(before)
    } else {
        Step::Refuse(Refusal::Changed)
    }
}

/// How a change stands that was made.
pub(super) enum Standing {
    /// It stands, in this version of its object.
    Stands(Option<String>),
    /// Its object is as here: somebody took it back.
    TakenBack(Value),
}

/// How the change stands; an object that is gone starts nothing.
pub(super) async fn standing(cluster: &Cluster, change: &Change) -> Result<Standing, Error> {
    let Some(pointer) = live::pointer(&change.act) else { return Ok(Standing::Stands(None)) };
    let Some(live) = live::read(cluster, &change.object).await? else { return Ok(Standing::Stands(None)) };
    if live::uid(&live) != change.object.uid {
        return Err(another(&change.object));
    }
    if !live::is_same(pointer, live::value(&live, pointer), &live::values(&change.act).1) {
        return Ok(Standing::TakenBack(live));
    }
    Ok(Standing::Stands(live["metadata"]["resourceVersion"].as_str().map(str::to_owned)))
}

/// Who has taken a change back, as the object tells; nothing while it stands.
pub async fn taken_back_by(cluster: &Cluster, change: &Change) -> Result<Option<String>, Error> {
    let pointer = live::pointer(&change.act).unwrap_or_default();
    match standing(cluster, change).await? {
        Standing::Stands(_) => Ok(None),
        Standing::TakenBack(live) => Ok(Some(blame::manager(&live, pointer))),
    }
}

async fn delete(cluster: &Cluster, object: &ObjectRef) -> Result<(), Error> {
    let namespace = object.namespace.as_deref().unwrap_or_default();
    match cluster.delete::<Pod>(namespace, &object.name, Some(&object.uid)).await {
        Err(error) if error.is_conflict() => Err(another(object)),
        other => other,
    }
}

async fn recreate(cluster: &Cluster, object: &ObjectRef, manifest: &Value) -> Result<Undone, Error> {
    let namespace = object.namespace.as_deref().unwrap_or_default();
    let pod: Pod = serde_json::from_value(manifest.clone()).map_err(|error| {
        let todo = "make the pod again by hand";
        Error::refused("TS-K325", format!("the recorded manifest of {object} is none of a pod: {error}"), todo)
    })?;
    for _ in 0..ATTEMPTS_MAX {
        if let Some(live) = live::read(cluster, object).await? {
            return is_recreated(object, &live);
        }
        match cluster.create(namespace, &pod).await {
            // Somebody made one of that name in between: look at it.
            Err(error) if error.is_conflict() => {}
            other => return other.map(|_| Undone::Back),
        }
    }
    Err(never_rests(object))
}

/// What a pod of the name of one that we deleted is.
fn is_recreated(object: &ObjectRef, live: &Value) -> Result<Undone, Error> {
    let is_ours = live["metadata"]["annotations"][RECREATED] == object.uid.as_str();
    let is_former = live::uid(live) == object.uid;
    let is_going = !live["metadata"]["deletionTimestamp"].is_null();
    match (is_ours || is_former, is_going) {
        (true, false) => Ok(Undone::Back),
        (true, true) => {
            let what = format!("{object} is still terminating, and can be made again only once it is gone");
            Err(Error::refused("TS-K323", what, "wait for it, then run the same command again"))
        }
        (false, _) => Ok(Undone::Kept { by: blame::manager(live, "/spec"), value: live["metadata"]["uid"].clone() }),
    }
}

/// Waits until a change holds that takes effect later: claims that are kept have no pod as an owner any more.
async fn settle(cluster: &Cluster, change: &Change) -> Result<(), Error> {
    if live::pointer(&change.act) != Some(live::RETENTION) {
        return Ok(());
    }
    let object = &change.object;
    let namespace = object.namespace.as_deref().unwrap_or_default();
    let end = Instant::now() + RETAIN_MAX;
    loop {
        let Some(set) = cluster.find::<StatefulSet>(namespace, &object.name).await? else { return Ok(()) };
        let seen = set.status.as_ref().and_then(|status| status.observed_generation);
        let claims = cluster.list::<PersistentVolumeClaim>(namespace, "").await?;
        let owned = claims.iter().find(|claim| is_owned_by_pod_of(claim, &object.name));
        match owned {
            None if seen >= set.metadata.generation => return Ok(()),
            _ if Instant::now() >= end => {
                let what = format!("the controller of {object} has not let go of its claims, which");
                return Err(Error::Late { what, seconds: RETAIN_MAX.as_secs() });
            }
            _ => sleep(LOOK).await,
        }
    }
}

fn is_owned_by_pod_of(claim: &PersistentVolumeClaim, set: &str) -> bool {
    let is_pod_of = |name: &str| {
        let ordinal = name.strip_prefix(set).and_then(|rest| rest.strip_prefix('-'));
        ordinal.is_some_and(|ordinal| !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit()))
    };
    claim.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "Pod" && is_pod_of(&owner.name))
}

fn another(object: &ObjectRef) -> Error {
    let what = format!("{object} is not the object that was planned for (UID {}): it was made anew", object.uid);
    Error::refused("TS-K320", what, "run the same command again: it plans anew")
}

fn never_rests(object: &ObjectRef) -> Error {
    let what = format!("{object} is changed by others without a pause ({ATTEMPTS_MAX} attempts)");
    Error::refused("TS-K324", what, "see with `kubectl get --show-managed-fields` who changes it")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(act: Act, state: ChangeState) -> Change {
        let named = ObjectRef::named("apps/v1", "Deployment", Some("n"), "web");
        Change { object: ObjectRef { uid: "u".to_owned(), ..named }, act, state }
    }

    fn scaled(uid: &str, replicas: i32) -> Value {
        json!({ "metadata": { "uid": uid }, "spec": { "replicas": replicas } })
    }

    #[test]
    fn a_planned_change_is_made_only_from_the_value_that_was_planned_from() {
        let act = Act::Scale { before: 3, after: 0 };
        for (state, uid, replicas, expected) in [
            (ChangeState::Planned, "u", 3, Step::Write(json!(0))),
            (ChangeState::Planned, "u", 0, Step::Nothing),
            (ChangeState::Planned, "u", 5, Step::Refuse(Refusal::Changed)),
            (ChangeState::Made, "u", 5, Step::Write(json!(0))),
            (ChangeState::Made, "v", 3, Step::Refuse(Refusal::AnotherObject)),
        ] {
            assert_eq!(
                decide_make(&change(act.clone(), state), &scaled(uid, replicas)),
                expected,
                "{state:?} {replicas}"
            );
        }
    }

    #[test]
    fn a_change_is_taken_back_only_while_it_stands() {
        let made = change(Act::Scale { before: 3, after: 0 }, ChangeState::Made);
        for (uid, replicas, expected) in [
            ("u", 0, Step::Write(json!(3))),
            ("u", 3, Step::Nothing),
            ("u", 1, Step::Refuse(Refusal::Changed)),
            ("v", 0, Step::Refuse(Refusal::AnotherObject)),
        ] {
            assert_eq!(decide_undo(&made, &scaled(uid, replicas)), expected, "{uid} {replicas}");
        }
    }

    #[test]
    fn what_was_not_said_is_not_said_again_and_means_not_suspended() {
        let act = Act::Set { pointer: "/spec/suspend".to_owned(), before: Value::Null, after: json!(true) };
        let made = change(act, ChangeState::Made);
        let live = |spec: Value| json!({ "metadata": { "uid": "u" }, "spec": spec });
        assert_eq!(decide_undo(&made, &live(json!({ "suspend": true }))), Step::Write(Value::Null));
        assert_eq!(decide_undo(&made, &live(json!({ "suspend": false }))), Step::Nothing);
    }

    #[test]
    fn a_pod_that_stands_in_the_place_of_a_deleted_one_is_told_apart() {
        let object = change(Act::Scale { before: 1, after: 0 }, ChangeState::Made).object;
        let pod = |uid: &str, from: &str, deleted: Value| {
            let annotations = json!({ RECREATED: from });
            json!({ "metadata": { "uid": uid, "annotations": annotations, "deletionTimestamp": deleted } })
        };
        let going = json!("2026-01-01T00:00:00Z");
        assert_eq!(is_recreated(&object, &pod("new", "u", Value::Null)).unwrap(), Undone::Back);
        assert_eq!(is_recreated(&object, &pod("u", "", Value::Null)).unwrap(), Undone::Back);
        assert_eq!(is_recreated(&object, &pod("u", "", going)).unwrap_err().code(), "TS-K323");
        assert!(matches!(is_recreated(&object, &pod("new", "x", Value::Null)), Ok(Undone::Kept { .. })));
    }

    #[test]
    fn only_pods_of_the_set_itself_hold_its_claims() {
        let claim = |owner: &str| {
            let owners = json!([{ "apiVersion": "v1", "kind": "Pod", "name": owner, "uid": "p" }]);
            serde_json::from_value(json!({ "metadata": { "ownerReferences": owners } })).unwrap()
        };
        assert!(is_owned_by_pod_of(&claim("web-3"), "web"));
        assert!(!is_owned_by_pod_of(&claim("web-a-3"), "web"));
        assert!(!is_owned_by_pod_of(&claim("web"), "web"));
    }
}
