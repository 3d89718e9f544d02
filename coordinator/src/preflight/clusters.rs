//! Whether both API servers answer, what they are, and whether they are two.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use tranship_api::record::VolumeRecord;
use tranship_api::{Finding, Migration, Severity, Side};

use super::claim_ref;
use crate::{Cluster, Error};

/// The oldest version that is supported: 1.33.
const MINOR_MIN: u32 = 33;

/// What an API server says of itself.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    pub(super) is_reached: bool,
    pub(super) uid: String,
    pub(super) findings: Vec<Finding>,
}

/// Asks for the version, the identity, and for what a fence is made of.
pub(super) async fn greet(cluster: &Cluster) -> Greeting {
    let side = cluster.side;
    let client = &cluster.client;
    let (version, uid, kinds) = tokio::join!(
        cluster.call("get /version", client.apiserver_version()),
        cluster.uid(),
        cluster.call(
            "list kinds of admissionregistration.k8s.io/v1",
            client.list_api_group_resources("admissionregistration.k8s.io/v1")
        ),
    );
    let mut greeting = Greeting { is_reached: true, ..Greeting::default() };
    match version {
        Ok(version) => greeting.findings.extend(old(side, &version.major, &version.minor, &version.git_version)),
        Err(error @ Error::Unreachable { .. }) => {
            return Greeting { findings: vec![unreachable(side, &error)], ..Greeting::default() };
        }
        Err(error) => greeting.findings.push(super::unseen(side, "the API server's version", &error)),
    }
    match uid {
        Ok(uid) => greeting.uid = uid,
        Err(error) => greeting.findings.push(super::unseen(side, "namespace kube-system", &error)),
    }
    greeting.findings.extend(match kinds {
        Ok(kinds) => fenceless(side, &kinds),
        Err(error) => Some(super::unseen(side, "the API server's kinds", &error)),
    });
    greeting
}

/// That an API server cannot be reached.
pub(super) fn unreachable(side: Side, error: &Error) -> Finding {
    let mut why = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        why = format!("{why}: {error}");
        cause = error.source();
    }
    let todo = "see that `kubectl --context … get --raw=/readyz` answers from this machine";
    Finding::new("TS-K100", Severity::Blocking, why, todo).at(side)
}

/// Versions before the oldest that is supported. Minor versions may end with a sign, as in `33+`.
fn old(side: Side, major: &str, minor: &str, version: &str) -> Option<Finding> {
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    let is_old = major == "1" && digits.parse::<u32>().is_ok_and(|minor| minor < MINOR_MIN);
    let why = format!("the API server is {version}; tranship is tested with 1.{MINOR_MIN} and newer");
    is_old.then(|| Finding::new("TS-K103", Severity::Warning, why, "upgrade the cluster, or rehearse first").at(side))
}

fn fenceless(side: Side, kinds: &APIResourceList) -> Option<Finding> {
    let is_served = kinds.resources.iter().any(|kind| kind.name == "validatingadmissionpolicies");
    let why =
        "the API server does not serve ValidatingAdmissionPolicy, so that new users of the claims cannot be refused";
    let todo = "use Kubernetes 1.30 or newer and do not disable admissionregistration.k8s.io/v1";
    (!is_served).then(|| Finding::new("TS-K108", Severity::Cutover, why, todo).at(side))
}

/// What it means that both are one cluster, if they are.
pub(super) fn same(
    uids: &[String; 2],
    clusters: &[Cluster; 2],
    migration: &Migration,
    volumes: &[VolumeRecord],
) -> Vec<Finding> {
    if uids[0].is_empty() || uids[0] != uids[1] {
        return Vec::new();
    }
    let (from, to) = (migration.namespace(Side::Source), migration.namespace(Side::Destination));
    let is_itself = |volume: &&VolumeRecord| from == to && volume.claims[0].name == volume.claims[1].name;
    let mut findings: Vec<Finding> = volumes
        .iter()
        .filter(is_itself)
        .map(|volume| {
            let name = &volume.claims[0].name;
            let why = format!(
                "contexts {:?} and {:?} are one cluster, and {name} would be copied to itself",
                clusters[0].context, clusters[1].context
            );
            let todo = format!("give another context, another namespace, or another name with --pvc {name}:NEW");
            Finding::new("TS-K101", Severity::Blocking, why, todo).on(claim_ref(from, name))
        })
        .collect();
    if findings.is_empty() {
        let why = "source and destination are one cluster: claims change their storage class or namespace within it";
        findings.push(Finding::new("TS-K102", Severity::Info, why, "nothing, if that is what you mean"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_before_the_oldest_supported_are_old() {
        for (minor, is_old) in [("32", true), ("33", false), ("33+", false), ("40", false), ("", false)] {
            assert_eq!(old(Side::Source, "1", minor, "v").is_some(), is_old, "{minor}");
        }
    }
}
