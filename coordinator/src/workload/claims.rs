//! Which of the claims a pod names, or pods that a template will make.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PodSpec, Volume};

/// Characters of a pod's name that is made from a base, without those that are drawn.
const GENERATED_BASE_CHARS: usize = 58;

/// Characters that are drawn for a pod's name.
const GENERATED_CHARS: usize = 5;

/// Claims of `wanted` that a pod of this name uses.
pub(crate) fn of_pod(name: &str, spec: &PodSpec, wanted: &[String]) -> BTreeSet<String> {
    select(wanted, |claim| volumes(spec).any(|volume| names(volume, claim) || is_ephemeral_of(volume, name, claim)))
}

/// Claims of `wanted` that pods will use which a controller of this name makes. Names of such pods are not known, so an
/// ephemeral claim counts that one of them could have.
pub(super) fn of_template(controller: &str, spec: &PodSpec, wanted: &[String]) -> BTreeSet<String> {
    let could_be = |volume: &Volume, claim: &str| {
        let pod = ephemeral_suffix(volume).and_then(|suffix| claim.strip_suffix(suffix.as_str()));
        pod.is_some_and(|pod| could_make(controller, pod))
    };
    select(wanted, |claim| volumes(spec).any(|volume| names(volume, claim) || could_be(volume, claim)))
}

/// Claims of `wanted` that a StatefulSet makes from these templates: `TEMPLATE-SET-ORDINAL`. Any ordinal from the first
/// one counts, whatever the replicas are now: it is what a growing set takes up again.
pub(super) fn of_claim_templates(set: &str, templates: &[String], first: i32, wanted: &[String]) -> BTreeSet<String> {
    select(wanted, |claim| {
        templates.iter().any(|template| {
            let ordinal = claim.strip_prefix(&format!("{template}-{set}-")).and_then(ordinal);
            ordinal.is_some_and(|ordinal| ordinal >= first)
        })
    })
}

/// An ordinal as Kubernetes writes it: digits, without zeros in front.
fn ordinal(text: &str) -> Option<i32> {
    let number: i32 = text.parse().ok()?;
    (number.to_string() == text && number >= 0).then_some(number)
}

fn select(wanted: &[String], is_used: impl Fn(&str) -> bool) -> BTreeSet<String> {
    wanted.iter().filter(|claim| is_used(claim)).cloned().collect()
}

fn volumes(spec: &PodSpec) -> impl Iterator<Item = &Volume> {
    spec.volumes.iter().flatten()
}

fn names(volume: &Volume, claim: &str) -> bool {
    volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == claim)
}

fn is_ephemeral_of(volume: &Volume, pod: &str, claim: &str) -> bool {
    ephemeral_suffix(volume).is_some_and(|suffix| claim.strip_suffix(suffix.as_str()) == Some(pod))
}

/// What the names of an ephemeral volume's claims end with.
fn ephemeral_suffix(volume: &Volume) -> Option<String> {
    volume.ephemeral.is_some().then(|| format!("-{}", volume.name))
}

/// Whether a controller of this name could make a pod of that name. Long names are cut before characters are drawn.
fn could_make(controller: &str, pod: &str) -> bool {
    let prefix = format!("{controller}-");
    let base = pod.len().checked_sub(GENERATED_CHARS).and_then(|end| pod.get(..end));
    let is_cut = base.is_some_and(|base| base.len() == GENERATED_BASE_CHARS && prefix.starts_with(base));
    is_cut || pod.strip_prefix(&prefix).is_some_and(|rest| !rest.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(volumes: serde_json::Value) -> PodSpec {
        serde_json::from_value(json!({ "containers": [], "volumes": volumes })).unwrap()
    }

    fn set(claims: &[&str]) -> BTreeSet<String> {
        claims.iter().map(|claim| claim.to_string()).collect()
    }

    fn wanted(claims: &[&str]) -> Vec<String> {
        claims.iter().map(|claim| claim.to_string()).collect()
    }

    #[test]
    fn a_pod_uses_the_claims_that_it_names_and_its_own_ephemeral_ones() {
        let spec = spec(json!([
            { "name": "data", "persistentVolumeClaim": { "claimName": "a" } },
            { "name": "scratch", "ephemeral": {} },
            { "name": "b", "emptyDir": {} },
        ]));
        let wanted = wanted(&["a", "b", "web-scratch", "web-0-scratch", "scratch"]);
        assert_eq!(of_pod("web", &spec, &wanted), set(&["a", "web-scratch"]));
    }

    #[test]
    fn a_template_uses_what_its_pods_could_name() {
        let spec = spec(json!([
            { "name": "data", "persistentVolumeClaim": { "claimName": "a" } },
            { "name": "scratch", "ephemeral": {} },
        ]));
        let wanted = wanted(&["a", "web-6f-x1-scratch", "web-scratch", "other-1-scratch", "web-1-scratch-"]);
        assert_eq!(of_template("web", &spec, &wanted), set(&["a", "web-6f-x1-scratch"]));
    }

    #[test]
    fn a_name_that_was_cut_is_still_recognised() {
        let controller = "c".repeat(80);
        assert!(could_make(&controller, &format!("{}x7k2p", "c".repeat(58))));
        assert!(!could_make(&controller, &format!("{}x7k2p", "c".repeat(57))));
        assert!(!could_make(&controller, "x"));
    }

    #[test]
    fn claims_of_a_statefulset_count_from_its_first_ordinal_on() {
        let templates = ["data".to_owned(), "log".to_owned()];
        let wanted =
            wanted(&["data-web-0", "data-web-2", "log-web-30", "data-web-02", "data-web-x", "data-web-", "web-0"]);
        assert_eq!(of_claim_templates("web", &templates, 0, &wanted), set(&["data-web-0", "data-web-2", "log-web-30"]));
        assert_eq!(of_claim_templates("web", &templates, 2, &wanted), set(&["data-web-2", "log-web-30"]));
        assert_eq!(of_claim_templates("eb", &templates, 0, &wanted), set(&[]));
    }
}
