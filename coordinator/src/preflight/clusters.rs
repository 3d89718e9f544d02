//! Whether both API servers answer, what they are, and whether they are two.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use tranship_api::{Finding, Migration, Severity, Side};

use super::namespace_ref;
use crate::{Cluster, Error};

/// That the API server has nothing to make a fence of.
pub(super) const NO_FENCE: &str = "TS-K108";

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
    (!is_served).then(|| Finding::new(NO_FENCE, Severity::Cutover, why, todo).at(side))
}

/// What it means that both are one cluster, if they are. Where it is blocking, the destination is the source, and whatever
/// is found there is the application itself.
pub(super) fn same(uids: &[String; 2], contexts: [&str; 2], migration: &Migration) -> Option<Finding> {
    if uids[0].is_empty() || uids[0] != uids[1] {
        return None;
    }
    let namespace = migration.namespace(Side::Source);
    let are_two = contexts[0] != contexts[1];
    let what = match are_two {
        true => format!("contexts {:?} and {:?} are one cluster", contexts[0], contexts[1]),
        false => "source and destination are one cluster".to_owned(),
    };
    if namespace == migration.namespace(Side::Destination) {
        let why = format!("{what}, and nothing can be moved from a namespace to itself");
        let todo = format!("give another context with --to, or another namespace with --namespace {namespace}:NEW");
        return Some(Finding::new("TS-K101", Severity::Blocking, why, todo).on(namespace_ref(namespace)));
    }
    let why =
        format!("{what}: claims change their namespace within it, and their storage class where that is asked for");
    Some(match are_two {
        true => Finding::new("TS-K102", Severity::Warning, why, "give another context with --to, if you meant two"),
        false => Finding::new("TS-K102", Severity::Info, why, "nothing, if that is what you mean"),
    })
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

    #[test]
    fn one_cluster_under_two_names_is_a_warning_and_one_namespace_of_it_is_no_destination() {
        let found = |uids: [&str; 2], contexts: [&str; 2], new: Option<&str>| {
            let mut migration = Migration::new("move", "shop");
            migration.spec.destination.namespace = new.map(str::to_owned);
            let finding = same(&uids.map(str::to_owned), contexts, &migration)?;
            Some((finding.code, finding.severity))
        };
        let expected = |code: &str, severity| Some((code.to_owned(), severity));
        assert_eq!(found(["a", "b"], ["x", "y"], None), None);
        assert_eq!(found(["", ""], ["x", "x"], None), None, "what is not known is not the same");
        assert_eq!(found(["a", "a"], ["x", "x"], None), expected("TS-K101", Severity::Blocking));
        assert_eq!(found(["a", "a"], ["x", "x"], Some("new")), expected("TS-K102", Severity::Info));
        assert_eq!(found(["a", "a"], ["x", "y"], Some("new")), expected("TS-K102", Severity::Warning));
    }
}
