//! What has to be changed so that an application stops, in which order.

use serde_json::{Value, json};
use tranship_api::ObjectRef;
use tranship_api::record::{Act, Change, ChangeState};

use super::live::RETENTION;
use crate::workload::{Kind, Lever, NO_NODE, Scaler, Survey, Workload};

/// Changes that stop what the survey found, in the order in which they are to be made; undone, they are in the reverse
/// one. What is stopped already is left out: it was not us.
///
/// A survey that is made while changes stand finds those objects stopped. Whoever plans again keeps the changes that
/// are recorded and adds what is new.
pub fn plan(survey: &Survey) -> Vec<Change> {
    // Claims first: what is scaled down while they go with their pods takes the data along. Then whoever scales up, so
    // that nothing is scaled behind our back; the rest in the order of the kinds.
    let retention = survey.workloads.iter().filter(|workload| workload.deletes_claims).map(retain);
    let scalers = survey.scalers.iter().map(pause);
    let mut workloads: Vec<&Workload> = survey.workloads.iter().collect();
    workloads.sort_by_key(|workload| workload.kind);
    retention.chain(scalers).chain(workloads.into_iter().filter_map(stop)).collect()
}

fn planned(object: &ObjectRef, act: Act) -> Change {
    Change { object: object.clone(), act, state: ChangeState::Planned }
}

fn set(object: &ObjectRef, pointer: String, before: Value, after: Value) -> Change {
    planned(object, Act::Set { pointer, before, after })
}

fn retain(workload: &Workload) -> Change {
    set(&workload.object, RETENTION.to_owned(), json!("Delete"), json!("Retain"))
}

fn pause(scaler: &Scaler) -> Change {
    let pointer = format!("/metadata/annotations/{}", escape(crate::workload::PAUSED));
    set(&scaler.object, pointer, json!(scaler.paused), json!("true"))
}

fn stop(workload: &Workload) -> Option<Change> {
    let object = &workload.object;
    match &workload.lever {
        Lever::Replicas(0) | Lever::Suspend(Some(true)) => None,
        Lever::Replicas(before) => Some(planned(object, Act::Scale { before: *before, after: 0 })),
        Lever::Suspend(before) => Some(set(object, "/spec/suspend".to_owned(), json!(before), json!(true))),
        Lever::NodeLabel(Some(_)) => None,
        Lever::NodeLabel(None) => {
            let pointer = format!("/spec/template/spec/nodeSelector/{}", escape(NO_NODE));
            Some(set(object, pointer, Value::Null, json!("true")))
        }
        Lever::Pod(manifest) if workload.kind == Kind::Pod => {
            Some(planned(object, Act::Delete { manifest: manifest.clone() }))
        }
        Lever::Pod(_) => None,
    }
}

/// A key as a JSON pointer has it.
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: &str, name: &str) -> ObjectRef {
        let named = ObjectRef::named("v", kind, Some("n"), name);
        ObjectRef { uid: format!("uid-{name}"), ..named }
    }

    fn workload(kind: Kind, name: &str, lever: Lever) -> Workload {
        let object = object(&format!("{kind:?}"), name);
        Workload { object, kind, lever, claims: Vec::new(), deletes_claims: false }
    }

    fn planned(workloads: Vec<Workload>) -> Vec<(String, Act)> {
        let changes = plan(&Survey { workloads, ..Survey::default() });
        assert!(changes.iter().all(|change| change.state == ChangeState::Planned));
        changes.into_iter().map(|change| (change.object.name, change.act)).collect()
    }

    #[test]
    fn claims_are_kept_first_and_what_starts_others_is_stopped_before_them() {
        let set = Workload { deletes_claims: true, ..workload(Kind::StatefulSet, "set", Lever::Replicas(2)) };
        let scaler = Scaler { object: object("ScaledObject", "keda"), target: set.object.clone(), paused: None };
        let workloads = vec![
            workload(Kind::Pod, "pod", Lever::Pod(json!({ "kind": "Pod" }))),
            workload(Kind::DaemonSet, "daemon", Lever::NodeLabel(None)),
            set,
            workload(Kind::Job, "job", Lever::Suspend(Some(false))),
            workload(Kind::CronJob, "cron", Lever::Suspend(Some(false))),
            workload(Kind::Deployment, "web", Lever::Replicas(3)),
        ];
        let changes = plan(&Survey { workloads, scalers: vec![scaler], ..Survey::default() });
        let names: Vec<&str> = changes.iter().map(|change| change.object.name.as_str()).collect();
        assert_eq!(names, ["set", "keda", "cron", "job", "web", "set", "daemon", "pod"]);
        let retain = Act::Set { pointer: RETENTION.to_owned(), before: json!("Delete"), after: json!("Retain") };
        assert_eq!(changes[0].act, retain);
        assert_eq!(changes[5].act, Act::Scale { before: 2, after: 0 });
        assert!(changes.iter().all(|change| change.object.uid == format!("uid-{}", change.object.name)));
    }

    #[test]
    fn what_is_stopped_already_is_not_ours() {
        let stopped = vec![
            workload(Kind::CronJob, "cron", Lever::Suspend(Some(true))),
            workload(Kind::Job, "job", Lever::Suspend(Some(true))),
            workload(Kind::Deployment, "web", Lever::Replicas(0)),
            workload(Kind::DaemonSet, "daemon", Lever::NodeLabel(Some("true".to_owned()))),
        ];
        assert_eq!(planned(stopped), []);
    }

    #[test]
    fn the_former_value_is_the_exact_one() {
        let suspend = |before: Value| Act::Set { pointer: "/spec/suspend".to_owned(), before, after: json!(true) };
        let workloads = vec![
            workload(Kind::CronJob, "said", Lever::Suspend(Some(false))),
            workload(Kind::CronJob, "unsaid", Lever::Suspend(None)),
            workload(Kind::DaemonSet, "daemon", Lever::NodeLabel(None)),
        ];
        let pointer = "/spec/template/spec/nodeSelector/tranship.io~1quiesced".to_owned();
        let expected = [
            ("said".to_owned(), suspend(json!(false))),
            ("unsaid".to_owned(), suspend(Value::Null)),
            ("daemon".to_owned(), Act::Set { pointer, before: Value::Null, after: json!("true") }),
        ];
        assert_eq!(planned(workloads), expected);
    }
}
