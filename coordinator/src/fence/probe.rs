//! Whether a fence is live: trying to make a pod that it has to refuse, without making one.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Fence, LIVE, policy};
use crate::{Cluster, Error};

/// How often it is tried.
const LOOK: Duration = Duration::from_millis(250);

/// What an API server says to a pod that names a fenced claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The fence refuses it.
    Refused,
    /// Nobody refuses it.
    Admitted,
    /// Something else does.
    Otherwise(String),
}

/// Tries a pod that names the claim.
pub(super) async fn probe(cluster: &Cluster, fence: &Fence, claim: &str) -> Result<Answer, Error> {
    let api = cluster.api::<Pod>(&fence.namespace);
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let pod = pod(claim);
    let what = format!("try a pod on claim {}/{claim}", fence.namespace);
    match cluster.call(what, api.create(&params, &pod)).await {
        Ok(_) => Ok(Answer::Admitted),
        Err(Error::Api { source, .. }) => Ok(read(fence, &source)),
        Err(error) => Err(error),
    }
}

/// A refusal counts only if it is by this policy, in this epoch.
fn read(fence: &Fence, error: &kube::Error) -> Answer {
    let said = error.to_string();
    if is_by(fence, &said) && said.contains(&policy::message(fence)) {
        Answer::Refused
    } else {
        Answer::Otherwise(said)
    }
}

/// Whether a refusal is by this policy.
pub(super) fn is_by(fence: &Fence, said: &str) -> bool {
    said.contains(&format!("ValidatingAdmissionPolicy '{}'", fence.name()))
}

pub(super) async fn await_live(cluster: &Cluster, fence: &Fence, patience: Duration) -> Result<(), Error> {
    let end = Instant::now() + patience;
    let mut since: Option<Instant> = None;
    // Without a claim there is nothing to refuse.
    for claim in fence.claims.iter().cycle() {
        let answer = probe(cluster, fence, claim).await?;
        since = if answer == Answer::Refused { since.or_else(|| Some(Instant::now())) } else { None };
        if since.is_some_and(|since| since.elapsed() >= LIVE) {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(not_live(fence, claim, &answer, patience));
        }
        sleep(LOOK).await;
    }
    Ok(())
}

fn not_live(fence: &Fence, claim: &str, answer: &Answer, patience: Duration) -> Error {
    let name = fence.name();
    let seconds = patience.as_secs();
    let (what, todo) = match answer {
        Answer::Refused => (
            format!("the fence {name} has not refused pods for {} s on end within {seconds} s", LIVE.as_secs()),
            "run the same command again",
        ),
        Answer::Admitted => (
            format!("the fence {name} still admits pods on claim {claim} after {seconds} s"),
            "see whether the API server has ValidatingAdmissionPolicy switched on, and on all of its instances",
        ),
        Answer::Otherwise(said) => (
            format!(
                "whether the fence {name} is live cannot be told, because a pod on claim {claim} is refused: {said}"
            ),
            "let a plain pod of the restricted standard be made in the namespace",
        ),
    };
    Error::refused("TS-K332", what, todo)
}

/// A pod that every standard of pod security admits.
fn pod(claim: &str) -> Pod {
    let pod = json!({
        "metadata": { "name": "tranship-probe" },
        "spec": {
            "automountServiceAccountToken": false,
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65534, "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": "probe",
                "image": "tranship.io/probe:never",
                "resources": {
                    "requests": { "cpu": "1m", "memory": "1Mi" }, "limits": { "cpu": "1m", "memory": "1Mi" },
                },
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
                "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
            }],
            "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": claim } }],
        },
    });
    serde_json::from_value(pod).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use tranship_api::Side;

    use super::*;

    #[test]
    fn a_refusal_by_another_or_of_another_epoch_does_not_count() {
        let fence = |epoch| Fence {
            migration: "shop".to_owned(),
            id: "0123456789abcdef".to_owned(),
            side: Side::Source,
            namespace: "shop".to_owned(),
            claims: vec![],
            agents: vec![],
            user: String::new(),
            epoch,
            lifted_by: String::new(),
        };
        let said = |name: &str, message: &str| {
            let text = format!(
                "pods \"p\" is forbidden: ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: \
                 {message}"
            );
            kube::Error::Api(Box::new(Status::failure(&text, "Forbidden").with_code(403)))
        };
        let name = "tranship-01234567-source";
        assert_eq!(read(&fence(2), &said(name, &policy::message(&fence(2)))), Answer::Refused);
        assert_ne!(read(&fence(2), &said(name, &policy::message(&fence(1)))), Answer::Refused);
        assert!(is_by(&fence(2), &said(name, &policy::message(&fence(1))).to_string()));
        assert_ne!(read(&fence(2), &said("other", &policy::message(&fence(2)))), Answer::Refused);
    }
}
