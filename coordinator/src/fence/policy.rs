//! The objects of a fence.

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::{
    MatchResources, NamedRuleWithOperations, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
    ValidatingAdmissionPolicyBindingSpec, ValidatingAdmissionPolicySpec, Validation, Variable,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use tranship_api::{LABEL_ID, LABEL_MIGRATION};

use super::{EPOCH, Fence, cel};

/// Label that the API server itself keeps on each namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// What is refused. Only the creation of pods: their volumes cannot change afterwards, and whoever takes a finalizer off a
/// pod that is going away must not be stopped.
pub(super) fn policy(fence: &Fence) -> ValidatingAdmissionPolicy {
    let only = |text: &str| Some(vec![text.to_owned()]);
    let rule = NamedRuleWithOperations {
        api_groups: only(""),
        api_versions: only("v1"),
        operations: only("CREATE"),
        resources: only("pods"),
        scope: Some("Namespaced".to_owned()),
        ..NamedRuleWithOperations::default()
    };
    let labels = BTreeMap::from([(NAMESPACE_NAME.to_owned(), fence.namespace.clone())]);
    let variables = cel::variables(&fence.claims, &fence.agents, &fence.user).into_iter();
    ValidatingAdmissionPolicy {
        metadata: meta(fence),
        spec: Some(ValidatingAdmissionPolicySpec {
            failure_policy: Some("Fail".to_owned()),
            match_constraints: Some(MatchResources {
                match_policy: Some("Equivalent".to_owned()),
                namespace_selector: Some(LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }),
                resource_rules: Some(vec![rule]),
                ..MatchResources::default()
            }),
            variables: Some(
                variables.map(|(name, expression)| Variable { name: name.to_owned(), expression }).collect(),
            ),
            validations: Some(vec![Validation {
                expression: cel::RULE.to_owned(),
                message: Some(message(fence)),
                reason: Some("Forbidden".to_owned()),
                ..Validation::default()
            }]),
            ..ValidatingAdmissionPolicySpec::default()
        }),
        ..ValidatingAdmissionPolicy::default()
    }
}

/// That it counts.
pub(super) fn binding(fence: &Fence) -> ValidatingAdmissionPolicyBinding {
    ValidatingAdmissionPolicyBinding {
        metadata: meta(fence),
        spec: Some(ValidatingAdmissionPolicyBindingSpec {
            policy_name: Some(fence.name()),
            validation_actions: Some(vec!["Deny".to_owned()]),
            ..ValidatingAdmissionPolicyBindingSpec::default()
        }),
    }
}

/// The namespace whose claims a policy fences.
pub(super) fn namespace(policy: &ValidatingAdmissionPolicy) -> Option<&str> {
    let selector = policy.spec.as_ref()?.match_constraints.as_ref()?.namespace_selector.as_ref()?;
    selector.match_labels.as_ref()?.get(NAMESPACE_NAME).map(String::as_str)
}

/// The claims that a policy fences, as a list of literals.
pub(super) fn claims(policy: &ValidatingAdmissionPolicy) -> Option<&str> {
    let variables = policy.spec.as_ref()?.variables.as_ref()?;
    variables.iter().find(|variable| variable.name == cel::CLAIMS).map(|variable| variable.expression.as_str())
}

/// What whoever is refused reads. The epoch is in it, so that a fence of an earlier one is not taken for this one.
pub(super) fn message(fence: &Fence) -> String {
    let Fence { migration, epoch, .. } = fence;
    format!(
        "migration {migration} of tranship has fenced this volume (epoch {epoch}); once that is over, `{}` lifts it",
        fence.lifted_by
    )
}

fn meta(fence: &Fence) -> ObjectMeta {
    let labels = [(LABEL_MIGRATION, &fence.migration), (LABEL_ID, &fence.id)];
    ObjectMeta {
        name: Some(fence.name()),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value.clone())).into()),
        annotations: Some(BTreeMap::from([(EPOCH.to_owned(), fence.epoch.to_string())])),
        ..ObjectMeta::default()
    }
}
