//! What a coordinator in the source's cluster may do there: what a stage needs, as [`RIGHTS`] has it, and to take its own
//! rights away at its end.

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use tranship_api::{Record, Side};

use super::job::labels;
use super::{global_name, name};
use crate::rights::{Need, RIGHTS, Right, Scope};

/// Annotation of what lies in no namespace: the one for which it was made.
pub const NAMESPACE: &str = "tranship.io/namespace";

/// API group of roles.
const GROUP: &str = "rbac.authorization.k8s.io";

/// An account and its rights.
pub(super) struct Account {
    pub(super) account: ServiceAccount,
    pub(super) role: Role,
    pub(super) binding: RoleBinding,
    pub(super) global_role: ClusterRole,
    pub(super) global_binding: ClusterRoleBinding,
}

/// What it gets of what a coordinator can need at the source: all for a stage, nothing for a cutover.
pub fn granted() -> impl Iterator<Item = &'static Right> {
    let is_granted = |right: &&Right| {
        right.side.is_none_or(|side| side == Side::Source) && matches!(right.need, Need::Stage | Need::Useful)
    };
    RIGHTS.iter().filter(is_granted)
}

impl Account {
    /// `owner` is the record's object in the source's cluster.
    pub(super) fn new(record: &Record, owner: Option<&OwnerReference>) -> Self {
        let (name, global) = (name(record), global_name(record));
        let namespace = record.namespace(Side::Source);
        let here = ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels(record)),
            owner_references: owner.map(|owner| vec![owner.clone()]),
            ..ObjectMeta::default()
        };
        let everywhere = ObjectMeta {
            name: Some(global.clone()),
            labels: Some(labels(record)),
            annotations: Some([(NAMESPACE.to_owned(), namespace.to_owned())].into()),
            ..ObjectMeta::default()
        };
        let subject = Subject {
            kind: "ServiceAccount".to_owned(),
            name: name.clone(),
            namespace: Some(namespace.to_owned()),
            api_group: None,
        };
        let refer = |kind: &str, name: &str| RoleRef {
            api_group: GROUP.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
        };
        Self {
            account: ServiceAccount {
                metadata: here.clone(),
                automount_service_account_token: Some(false),
                ..ServiceAccount::default()
            },
            role: Role { metadata: here.clone(), rules: Some(rules(Scope::Namespace, "rolebindings", &name)) },
            binding: RoleBinding {
                metadata: here,
                role_ref: refer("Role", &name),
                subjects: Some(vec![subject.clone()]),
            },
            global_role: ClusterRole {
                metadata: everywhere.clone(),
                rules: Some(rules(Scope::Cluster, "clusterrolebindings", &global)),
                aggregation_rule: None,
            },
            global_binding: ClusterRoleBinding {
                metadata: everywhere,
                role_ref: refer("ClusterRole", &global),
                subjects: Some(vec![subject]),
            },
        }
    }
}

/// What is granted in this scope, and to delete the one binding by which it is.
fn rules(scope: Scope, bindings: &str, name: &str) -> Vec<PolicyRule> {
    let rule = |group: &str, resource: &str, verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
        ..PolicyRule::default()
    };
    let granted = granted().filter(|right| right.scope == scope);
    let mut rules: Vec<PolicyRule> = granted.map(|right| rule(right.group, right.resource, right.verbs)).collect();
    let own = rule(GROUP, bindings, &["delete"]);
    rules.push(PolicyRule { resource_names: Some(vec![name.to_owned()]), ..own });
    rules
}

#[cfg(test)]
mod tests {
    use tranship_api::Migration;
    use tranship_api::migration::Mode;

    use super::*;

    /// What is made for the migration `shop` of the namespace `shop`, for people to read before they say yes.
    const GOLDEN: &str = include_str!("../../../deploy/rbac/coordinator.yaml");

    fn manifests() -> String {
        let id = "0123456789abcdef0123456789abcdef".to_owned();
        let migration = Migration::new("shop", "shop");
        let record = Record::new(id, String::new(), migration, Default::default(), Mode::Plain, Vec::new());
        let Account { account, role, binding, global_role, global_binding } = Account::new(&record, None);
        let texts = [
            crate::yaml::write(&account),
            crate::yaml::write(&role),
            crate::yaml::write(&binding),
            crate::yaml::write(&global_role),
            crate::yaml::write(&global_binding),
        ];
        texts.map(|text| format!("---\n{}\n", text.expect("it is YAML").trim_end())).concat()
    }

    #[test]
    fn the_account_gets_what_the_golden_file_says_and_no_more() {
        let made = manifests();
        let golden: String =
            GOLDEN.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, "\n"]).collect();
        assert!(made == golden, "deploy/rbac/coordinator.yaml is to be, after its comment:\n{made}");
    }

    #[test]
    fn the_account_cannot_stop_the_application_nor_raise_itself() {
        for right in granted() {
            let stops = right.group == "apps" || right.group == "batch" || right.resource.ends_with("/scale");
            assert!(!stops || right.verbs == ["list"], "{right:?}");
            assert!(right.group != GROUP && right.resource != "serviceaccounts", "{right:?}");
            assert!(right.resource != "nodes/proxy", "it could run programs in any pod: {right:?}");
        }
    }
}
