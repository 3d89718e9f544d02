//! What a coordinator in the source's cluster may do there: what a stage needs, as [`RIGHTS`] has it, or what a cutover does,
//! and to take its own rights away at its end.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use tranship_api::{Record, Side};

use super::job::labels;
use super::{global_name, name};
use crate::rights::{self, Need, POWERFUL, RIGHTS, Right, Scope};
use crate::{Cluster, Error};

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

/// What one gets that stages, of what a coordinator can need at the source.
pub fn for_stages() -> Vec<&'static Right> {
    of_needs(&[Need::Stage, Need::Useful])
}

/// What one gets that cuts over: what it cannot do without, and what it makes use of where this cluster has it and whoever asks
/// holds it. Where it could not see that somebody's autoscaler or repository is at rest, it would be refused. A fence belongs to
/// the second where a weak one is accepted.
pub async fn for_a_cutover(
    cluster: &Cluster,
    record: &Record,
    accepts_weak_fence: bool,
) -> Result<Vec<&'static Right>, Error> {
    let groups = cluster.call("list API groups", cluster.client.list_api_groups()).await?;
    let groups: BTreeSet<String> = groups.groups.into_iter().map(|group| group.name).collect();
    let there = |right: &&Right| right.group.is_empty() || groups.contains(right.group);
    let is_waived = |right: &&Right| accepts_weak_fence && right.group == rights::ADMISSION;
    let (waived, needed): (Vec<_>, Vec<_>) = needed().into_iter().partition(is_waived);
    let extra = waived.into_iter().chain(where_held()).filter(there).collect();
    let held = rights::held(cluster, &record.migration, extra).await?;
    Ok([needed, held].concat())
}

/// What no cutover can do without.
fn needed() -> Vec<&'static Right> {
    of_needs(&[Need::Stage, Need::Useful, Need::Cutover])
}

/// What a cutover makes use of where it has it.
fn where_held() -> Vec<&'static Right> {
    let mut rights = of_needs(&[Need::IfThere]);
    rights.retain(|right| right.resource != POWERFUL);
    rights
}

fn of_needs(needs: &[Need]) -> Vec<&'static Right> {
    let is_granted = |right: &&Right| right.side.is_none_or(|side| side == Side::Source) && needs.contains(&right.need);
    RIGHTS.iter().filter(is_granted).collect()
}

impl Account {
    /// One with these rights. `owner` is the record's object in the source's cluster.
    pub(super) fn new(record: &Record, owner: Option<&OwnerReference>, rights: &[&Right]) -> Self {
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
            role: Role { metadata: here.clone(), rules: Some(rules(rights, Scope::Namespace, "rolebindings", &name)) },
            binding: RoleBinding {
                metadata: here,
                role_ref: refer("Role", &name),
                subjects: Some(vec![subject.clone()]),
            },
            global_role: ClusterRole {
                metadata: everywhere.clone(),
                rules: Some(rules(rights, Scope::Cluster, "clusterrolebindings", &global)),
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
fn rules(rights: &[&Right], scope: Scope, bindings: &str, name: &str) -> Vec<PolicyRule> {
    let rule = |group: &str, resource: &str, verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
        ..PolicyRule::default()
    };
    let granted = rights.iter().filter(|right| right.scope == scope);
    let mut rules: Vec<PolicyRule> = granted.map(|right| rule(right.group, right.resource, right.verbs)).collect();
    let own = rule(GROUP, bindings, &["delete"]);
    rules.push(PolicyRule { resource_names: Some(vec![name.to_owned()]), ..own });
    rules
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tranship_api::Migration;
    use tranship_api::migration::Mode;
    use tranship_api::record::Errand;

    use super::*;

    /// What is made for the migration `shop` of the namespace `shop`, for people to read before they say yes.
    const STAGES: &str = include_str!("../../../deploy/rbac/coordinator.yaml");
    const CUTOVER: &str = include_str!("../../../deploy/rbac/coordinator-cutover.yaml");

    /// The most that one gets that cuts over.
    fn most() -> Vec<&'static Right> {
        [needed(), where_held()].concat()
    }

    fn manifests(errand: Option<Errand>, rights: &[&Right]) -> String {
        let id = "0123456789abcdef0123456789abcdef".to_owned();
        let migration = Migration::new("shop", "shop");
        let record = Record::new(id, String::new(), migration, Default::default(), Mode::Plain, Vec::new());
        let record = Record { errand, ..record };
        let Account { account, role, binding, global_role, global_binding } = Account::new(&record, None, rights);
        let texts = [
            crate::yaml::write(&account),
            crate::yaml::write(&role),
            crate::yaml::write(&binding),
            crate::yaml::write(&global_role),
            crate::yaml::write(&global_binding),
        ];
        texts.map(|text| format!("---\n{}\n", text.expect("it is YAML").trim_end())).concat()
    }

    fn is_golden(path: &str, golden: &str, made: &str) {
        let golden: String =
            golden.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, "\n"]).collect();
        assert!(made == golden, "{path} is to be, after its comment:\n{made}");
    }

    #[test]
    fn the_account_gets_what_the_golden_file_says_and_no_more() {
        is_golden("deploy/rbac/coordinator.yaml", STAGES, &manifests(None, &for_stages()));
        let errand = Some(Errand { at: Timestamp::UNIX_EPOCH, has_begun: false });
        is_golden("deploy/rbac/coordinator-cutover.yaml", CUTOVER, &manifests(errand, &most()));
    }

    #[test]
    fn an_account_for_stages_cannot_stop_the_application() {
        for right in for_stages() {
            let stops = right.group == "apps" || right.group == "batch" || right.resource.ends_with("/scale");
            assert!(!stops || right.verbs == ["list"], "{right:?}");
            assert!(right.resource != "serviceaccounts", "{right:?}");
        }
    }

    #[test]
    fn no_account_can_raise_itself_nor_make_workloads() {
        for right in [for_stages(), most()].concat() {
            assert!(right.group != GROUP && right.resource != POWERFUL, "{right:?}");
            assert!(right.resource != "serviceaccounts" || right.verbs == ["get"], "{right:?}");
            let is_workload = right.group == "apps" || right.group == "batch";
            assert!(!is_workload || !right.verbs.contains(&"create") && !right.verbs.contains(&"delete"), "{right:?}");
        }
    }
}
