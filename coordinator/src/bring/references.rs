//! What a pod template refers to.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// ConfigMaps that every cluster makes in every namespace itself.
const OWN_CONFIG_MAPS: &[&str] = &["kube-root-ca.crt", "openshift-service-ca.crt"];

/// ServiceAccounts that every namespace has of itself.
const OWN_ACCOUNTS: &[&str] = &["default", "builder", "deployer"];

/// Names of objects in the template's namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct References {
    pub(super) accounts: BTreeSet<String>,
    pub(super) secrets: BTreeSet<String>,
    pub(super) config_maps: BTreeSet<String>,
}

impl References {
    /// Adds what this template refers to.
    pub(super) fn collect(&mut self, template: &Value) {
        let spec = &template["spec"];
        self.accounts.insert(account(template).to_owned());
        each(&spec["imagePullSecrets"], |one| self.secret(&one["name"]));
        each(&spec["volumes"], |volume| self.volume(volume));
        for containers in ["initContainers", "containers"] {
            each(&spec[containers], |container| self.container(container));
        }
        self.config_maps.retain(|name| !OWN_CONFIG_MAPS.contains(&name.as_str()));
    }

    fn volume(&mut self, volume: &Value) {
        self.config_map(&volume["configMap"]["name"]);
        self.secret(&volume["secret"]["secretName"]);
        self.secret(&volume["azureFile"]["secretName"]);
        each(&volume["projected"]["sources"], |source| {
            self.config_map(&source["configMap"]["name"]);
            self.secret(&source["secret"]["name"]);
        });
        // Drivers of all kinds name the secret that they need in one of these.
        for source in volume.as_object().into_iter().flat_map(Map::values) {
            self.secret(&source["secretRef"]["name"]);
            self.secret(&source["nodePublishSecretRef"]["name"]);
        }
    }

    fn container(&mut self, container: &Value) {
        each(&container["env"], |variable| {
            self.config_map(&variable["valueFrom"]["configMapKeyRef"]["name"]);
            self.secret(&variable["valueFrom"]["secretKeyRef"]["name"]);
        });
        each(&container["envFrom"], |source| {
            self.config_map(&source["configMapRef"]["name"]);
            self.secret(&source["secretRef"]["name"]);
        });
    }

    fn secret(&mut self, name: &Value) {
        self.secrets.extend(name.as_str().map(str::to_owned));
    }

    fn config_map(&mut self, name: &Value) {
        self.config_maps.extend(name.as_str().map(str::to_owned));
    }
}

/// The account that a template's pods run with.
pub(super) fn account(template: &Value) -> &str {
    let name = |field: &str| template["spec"][field].as_str().filter(|name| !name.is_empty());
    name("serviceAccountName").or_else(|| name("serviceAccount")).unwrap_or("default")
}

/// Whether a namespace has this account of itself.
pub(super) fn is_own_account(name: &str) -> bool {
    OWN_ACCOUNTS.contains(&name)
}

/// Secrets with which an account's images are pulled, without those that the cluster made for it.
pub(super) fn pull_secrets(account: &Value) -> Vec<String> {
    let mut names = Vec::new();
    let made = format!("{}-dockercfg-", account["metadata"]["name"].as_str().unwrap_or_default());
    each(&account["imagePullSecrets"], |one| names.extend(one["name"].as_str().map(str::to_owned)));
    names.retain(|name| !name.starts_with(&made));
    names
}

/// Whether a service sends to pods of this template, or a set names it.
pub(super) fn is_service_of(service: &Value, workload: &Value, template: &Value) -> bool {
    let selector = service["spec"]["selector"].as_object().filter(|selector| !selector.is_empty());
    let labels = &template["metadata"]["labels"];
    let selects = selector.is_some_and(|selector| selector.iter().all(|(key, value)| labels.get(key) == Some(value)));
    let name = &service["metadata"]["name"];
    selects || (name.is_string() && workload["spec"]["serviceName"] == *name)
}

/// Whether an autoscaler is about this workload.
pub(super) fn is_scaler_of(scaler: &Value, workload: &Value) -> bool {
    let target = &scaler["spec"]["scaleTargetRef"];
    target["kind"] == workload["kind"] && target["name"] == workload["metadata"]["name"]
}

/// For each element of what should be a list.
pub(super) fn each(list: &Value, act: impl FnMut(&Value)) {
    list.as_array().into_iter().flatten().for_each(act);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_way_to_refer_to_something_is_followed() {
        let template = json!({"spec": {
            "serviceAccountName": "sa",
            "imagePullSecrets": [{"name": "s-pull"}],
            "volumes": [
                {"name": "a", "configMap": {"name": "c-volume"}},
                {"name": "b", "secret": {"secretName": "s-volume"}},
                {"name": "c", "projected": {"sources": [
                    {"configMap": {"name": "c-projected"}}, {"secret": {"name": "s-projected"}},
                    {"configMap": {"name": "kube-root-ca.crt"}}, {"serviceAccountToken": {"path": "token"}}]}},
                {"name": "d", "csi": {"driver": "x", "nodePublishSecretRef": {"name": "s-csi"}}},
                {"name": "e", "cephfs": {"secretRef": {"name": "s-ref"}}},
                {"name": "f", "emptyDir": {}}],
            "initContainers": [{"envFrom": [{"configMapRef": {"name": "c-from"}}, {"secretRef": {"name": "s-from"}}]}],
            "containers": [{"env": [
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c-key", "key": "k"}}},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s-key", "key": "k"}}},
                {"name": "C", "value": "plain"}]}],
        }});
        let mut found = References::default();
        found.collect(&template);
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(found.accounts, set(&["sa"]));
        assert_eq!(found.config_maps, set(&["c-volume", "c-projected", "c-from", "c-key"]));
        assert_eq!(found.secrets, set(&["s-pull", "s-volume", "s-projected", "s-csi", "s-ref", "s-from", "s-key"]));
    }

    #[test]
    fn a_service_without_a_selector_is_only_brought_if_a_set_names_it() {
        let workload = json!({"kind": "StatefulSet", "spec": {"serviceName": "db"}});
        let template = json!({"metadata": {"labels": {"app": "db", "tier": "x"}}});
        let service = |name: &str, selector: Value| json!({"metadata": {"name": name}, "spec": {"selector": selector}});
        for (service, expected) in [
            (service("a", json!({"app": "db"})), true),
            (service("a", json!({"app": "db", "more": "y"})), false),
            (service("a", json!({})), false),
            (service("a", Value::Null), false),
            (service("db", Value::Null), true),
        ] {
            assert_eq!(is_service_of(&service, &workload, &template), expected, "{service}");
        }
    }

    #[test]
    fn pull_secrets_that_the_cluster_made_are_not_brought() {
        let account = json!({"metadata": {"name": "sa"},
            "imagePullSecrets": [{"name": "sa-dockercfg-1"}, {"name": "mine"}, {"name": "sa-dockercfg-2"}]});
        assert_eq!(pull_secrets(&account), ["mine"]);
    }
}
