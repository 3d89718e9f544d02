//! What agents may do in the two namespaces, and so what can be carried.
//!
//! What counts is whether the API server takes the very pod, in a dry run: this asks pod security, quotas, and whatever
//! policies the cluster has of its own. Where that cannot be asked, the namespace's labels have to do.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use serde_json::json;
use tranship_api::migration::Mode;
use tranship_api::{Finding, Migration, Severity, Side};

use super::{AgentPod, namespace_ref};
use crate::{Cluster, Error};

/// Label by which a namespace says which pods it admits.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// Capabilities of an agent in mode `owner`: all of them are in what `baseline` admits.
const OWNER_CAPABILITIES: [&str; 5] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETFCAP"];

/// Whether a namespace takes a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Admission {
    Admits,
    Refuses(String),
    /// It could not be asked.
    Unknown,
}

/// What one namespace says.
#[derive(Debug)]
pub(super) struct Admissions {
    owner: Admission,
    plain: Admission,
    findings: Vec<Finding>,
}

/// A pod that asks for the privileges of an agent, for where the agent's own is not at hand. It is never run.
pub fn stand_in(migration: &Migration, side: Side, mode: Mode) -> Pod {
    let agent = migration.agent(side);
    let mut security = json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    match mode {
        Mode::Owner => {
            security["runAsUser"] = json!(0);
            security["capabilities"]["add"] = json!(OWNER_CAPABILITIES);
        }
        Mode::Plain => {
            security["runAsUser"] = json!(65_532);
            security["runAsNonRoot"] = json!(true);
        }
    }
    let pod = json!({
        "metadata": {"name": format!("tranship-{}-probe", migration.metadata.name)},
        "spec": {
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "restartPolicy": "Never",
            "containers": [{
                "name": "agent",
                "image": agent.image.as_deref().unwrap_or("tranship"),
                "resources": {"requests": agent.requests, "limits": agent.limits},
                "securityContext": security,
            }],
        },
    });
    // Everything in it is of the type that it has to be.
    serde_json::from_value(pod).unwrap_or_default()
}

/// Asks this side's namespace for both modes.
pub(super) async fn look(cluster: &Cluster, migration: &Migration, agent_pod: &AgentPod<'_>) -> Admissions {
    let namespace = migration.namespace(cluster.side);
    let ask = |mode| probe(cluster, namespace, agent_pod(cluster.side, mode));
    let (owner, plain) = tokio::join!(ask(Mode::Owner), ask(Mode::Plain));
    let mut findings = Vec::new();
    let [owner, plain] = [owner, plain].map(|answer| {
        answer.unwrap_or_else(|error| {
            findings.push(super::unseen(cluster.side, "whether agents are admitted", &error));
            Admission::Unknown
        })
    });
    findings.dedup();
    Admissions { owner, plain, findings }
}

async fn probe(cluster: &Cluster, namespace: &str, mut pod: Pod) -> Result<Admission, Error> {
    pod.metadata.namespace = Some(namespace.to_owned());
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let api = cluster.api::<Pod>(namespace);
    match cluster.call(format!("create Pod in {namespace} (dry run)"), api.create(&params, &pod)).await {
        Ok(_) => Ok(Admission::Admits),
        Err(Error::Api { source, .. }) => Ok(answer(&source)),
        Err(error) => Err(error),
    }
}

/// What a refusal means. One for lack of a right, or of the namespace, says nothing about the pod, and has a finding of its
/// own.
fn answer(error: &kube::Error) -> Admission {
    match error {
        kube::Error::Api(status) if status.code == 404 => Admission::Unknown,
        kube::Error::Api(status) if status.code == 403 && status.message.contains("cannot create resource") => {
            Admission::Unknown
        }
        kube::Error::Api(status) => Admission::Refuses(status.message.clone()),
        other => Admission::Refuses(other.to_string()),
    }
}

/// What a namespace's labels say, where nothing better is known. Without a label the cluster's default counts, which is to
/// admit everything.
fn by_label(labels: Option<&BTreeMap<String, String>>, mode: Mode) -> Admission {
    match (labels.and_then(|labels| labels.get(ENFORCE)).map(String::as_str), mode) {
        (Some("restricted"), Mode::Owner) => Admission::Refuses(format!("its label {ENFORCE} is restricted")),
        _ => Admission::Admits,
    }
}

/// The mode that both sides admit, and what there is to say about it.
pub(super) fn choose(
    migration: &Migration,
    sides: [Admissions; 2],
    labels: [Option<&BTreeMap<String, String>>; 2],
    is_any_block: bool,
) -> (Mode, Vec<Finding>) {
    let mut findings: Vec<Finding> = sides.iter().flat_map(|side| side.findings.clone()).collect();
    let mut refusals = |mode: Mode, code: &'static str, severity: Severity, todo: &str| {
        let mut all = Vec::new();
        for ((side, admissions), labels) in Side::ALL.into_iter().zip(&sides).zip(labels) {
            let known = if mode == Mode::Owner { &admissions.owner } else { &admissions.plain };
            let known = if *known == Admission::Unknown { by_label(labels, mode) } else { known.clone() };
            if let Admission::Refuses(why) = known {
                let namespace = migration.namespace(side);
                let why = format!("namespace {namespace} does not admit an agent of mode {}: {why}", mode.word());
                all.push(Finding::new(code, severity, why, todo).at(side).on(namespace_ref(namespace)));
            }
        }
        let is_none = all.is_empty();
        findings.extend(all);
        is_none
    };
    let give = "set its label pod-security.kubernetes.io/enforce to baseline (or take away what else refuses it)";
    let mode = match migration.spec.mode {
        Some(Mode::Owner) => {
            refusals(Mode::Owner, "TS-K127", Severity::Blocking, give);
            Mode::Owner
        }
        None if refusals(Mode::Owner, "TS-K128", Severity::Warning, &format!("{give}, or go on in mode plain")) => {
            Mode::Owner
        }
        _ => {
            refusals(Mode::Plain, "TS-K126", Severity::Blocking, "take away what refuses it, as the message says");
            Mode::Plain
        }
    };
    if mode == Mode::Plain && is_any_block {
        let why = "in mode plain agents are not root, and most container runtimes give raw devices to root only";
        let todo = "let both namespaces admit baseline, or set device_ownership_from_security_context on the nodes";
        findings.push(Finding::new("TS-K129", Severity::Warning, why, todo));
    }
    (mode, findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(owner: Admission, plain: Admission) -> Admissions {
        Admissions { owner, plain, findings: Vec::new() }
    }

    #[test]
    fn owner_is_chosen_only_where_both_sides_admit_it() {
        use Admission::{Admits, Refuses, Unknown};
        let no = || Refuses("violates PodSecurity".to_owned());
        let restricted = BTreeMap::from([(ENFORCE.to_owned(), "restricted".to_owned())]);
        let chosen = |wanted: Option<Mode>, owner: [Admission; 2], plain: [Admission; 2], labels| {
            let mut migration = Migration::new("move", "shop");
            migration.spec.mode = wanted;
            let ([a, b], [c, d]) = (owner, plain);
            let (mode, findings) = choose(&migration, [all(a, c), all(b, d)], [labels, None], true);
            (mode, findings.iter().map(|one| (one.code.clone(), one.severity)).collect::<Vec<_>>())
        };
        let finding = |code: &str, severity| (code.to_owned(), severity);
        let block = || finding("TS-K129", Severity::Warning);
        assert_eq!(chosen(None, [Admits, Admits], [Admits, Admits], None), (Mode::Owner, vec![]));
        assert_eq!(
            chosen(None, [Admits, no()], [Admits, Admits], None),
            (Mode::Plain, vec![finding("TS-K128", Severity::Warning), block()])
        );
        assert_eq!(
            chosen(Some(Mode::Owner), [no(), Admits], [Admits, Admits], None),
            (Mode::Owner, vec![finding("TS-K127", Severity::Blocking)])
        );
        assert_eq!(chosen(Some(Mode::Plain), [no(), no()], [Admits, Admits], None), (Mode::Plain, vec![block()]));
        let (mode, findings) = chosen(None, [no(), no()], [Admits, no()], None);
        assert!(mode == Mode::Plain && findings.contains(&finding("TS-K126", Severity::Blocking)));
        // Nobody could be asked: labels decide.
        assert_eq!(chosen(None, [Unknown, Unknown], [Unknown, Unknown], None).0, Mode::Owner);
        assert_eq!(chosen(None, [Unknown, Unknown], [Unknown, Unknown], Some(&restricted)).0, Mode::Plain);
    }

    #[test]
    fn a_refusal_for_lack_of_a_right_says_nothing_about_the_pod() {
        let status = |code: u16, message: &str| {
            let status = kube::core::Status { code, message: message.to_owned(), ..kube::core::Status::default() };
            answer(&kube::Error::Api(status.boxed()))
        };
        let rbac =
            r#"pods is forbidden: User "x" cannot create resource "pods" in API group "" in the namespace "shop""#;
        assert_eq!(status(403, rbac), Admission::Unknown);
        assert_eq!(status(404, r#"namespaces "shop" not found"#), Admission::Unknown);
        let quota = r#"pods "p" is forbidden: exceeded quota: q"#;
        assert_eq!(status(403, quota), Admission::Refuses(quota.to_owned()));
    }

    #[test]
    fn the_stand_in_is_a_pod_of_either_mode() {
        let migration = Migration::new("move", "shop");
        for (mode, user) in [(Mode::Owner, 0), (Mode::Plain, 65_532)] {
            let pod = stand_in(&migration, Side::Source, mode);
            let containers = pod.spec.expect("a spec").containers;
            assert_eq!(containers[0].security_context.as_ref().and_then(|context| context.run_as_user), Some(user));
        }
    }
}
