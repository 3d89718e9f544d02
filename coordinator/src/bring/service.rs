//! What of a Service was written by its user, and what its cluster added.

use serde_json::{Map, Value};

/// Who fills in addresses and ports.
const SERVER: &str = "kube-apiserver";

/// The last text that `kubectl apply` was given.
const LAST_APPLIED: &str = "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";

/// Takes away what the source's cluster chose. It has to be done while the object still says who wrote what.
pub(super) fn strip(service: &mut Value) {
    let written = Written::of(service);
    let is_balanced = service["spec"]["type"] == "LoadBalancer";
    let Some(spec) = service["spec"].as_object_mut() else { return };
    if spec.get("clusterIP").is_some_and(|address| address != "None") {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
    }
    for field in ["ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"] {
        if !written.has(field) {
            spec.remove(field);
        }
    }
    spec.remove("loadBalancerIP");
    if is_balanced {
        spec.remove("externalIPs");
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if !written.has_node_port(port)
            && let Some(port) = port.as_object_mut()
        {
            port.remove("nodePort");
        }
    }
}

/// What is known of who wrote a Service's fields.
struct Written {
    /// `spec` of the text that was applied last.
    applied: Option<Value>,
    /// `f:spec` of each manager that applied.
    owned: Vec<Value>,
}

impl Written {
    fn of(service: &Value) -> Self {
        let text = service.pointer(LAST_APPLIED).and_then(Value::as_str);
        let applied = text.and_then(|text| serde_json::from_str::<Value>(text).ok()).map(|mut all| all["spec"].take());
        let entries = service.pointer("/metadata/managedFields").and_then(Value::as_array);
        let applying = |entry: &&Value| {
            entry["operation"] == "Apply" && !entry["manager"].as_str().is_some_and(|name| name.starts_with(SERVER))
        };
        let owned = entries.into_iter().flatten().filter(applying);
        Self { applied, owned: owned.map(|entry| entry["fieldsV1"]["f:spec"].clone()).collect() }
    }

    fn has(&self, field: &str) -> bool {
        self.applied.as_ref().is_some_and(|spec| spec.get(field).is_some())
            || self.owned.iter().any(|spec| spec.get(format!("f:{field}")).is_some())
    }

    /// Ports have no name of their own in general: number and protocol tell them apart, as in server-side apply.
    fn has_node_port(&self, port: &Value) -> bool {
        let protocol = |port: &Value| port["protocol"].as_str().unwrap_or("TCP").to_owned();
        let is_it = |other: &Value| other["port"] == port["port"] && protocol(other) == protocol(port);
        let ports = self.applied.iter().filter_map(|spec| spec["ports"].as_array()).flatten();
        let is_applied = ports.filter(|other| is_it(other)).any(|other| other.get("nodePort").is_some());
        let owned = self.owned.iter().filter_map(|spec| spec["f:ports"].as_object()).flat_map(Map::iter);
        let key = |key: &str| key.strip_prefix("k:").and_then(|key| serde_json::from_str::<Value>(key).ok());
        is_applied
            || owned
                .filter(|(name, _)| key(name).is_some_and(|key| is_it(&key)))
                .any(|(_, fields)| fields.get("f:nodePort").is_some())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(metadata: Value) -> Value {
        json!({"metadata": metadata, "spec": {
            "type": "NodePort", "clusterIP": "10.0.0.7", "clusterIPs": ["10.0.0.7"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "selector": {"app": "db"},
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 80, "protocol": "UDP", "nodePort": 30081}]}})
    }

    #[test]
    fn what_the_cluster_chose_is_left_there() {
        let mut stripped = service(json!({}));
        strip(&mut stripped);
        assert_eq!(
            stripped["spec"],
            json!({"type": "NodePort", "selector": {"app": "db"},
                "ports": [{"port": 80, "protocol": "TCP"}, {"port": 80, "protocol": "UDP"}]})
        );
    }

    #[test]
    fn a_port_that_the_user_wrote_is_kept_whichever_way_it_was_written() {
        let text = json!({"spec": {"ports": [{"port": 80, "nodePort": 30080}]}}).to_string();
        let applied = json!({"annotations": {"kubectl.kubernetes.io/last-applied-configuration": text}});
        let fields = json!({"f:spec": {"f:ipFamilyPolicy": {},
            "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:nodePort": {}}}}});
        let managed = json!({"managedFields": [{"manager": "me", "operation": "Apply", "fieldsV1": fields}]});
        for metadata in [applied, managed.clone()] {
            let mut stripped = service(metadata);
            strip(&mut stripped);
            let ports = &stripped["spec"]["ports"];
            assert_eq!((&ports[0]["nodePort"], ports[1].get("nodePort")), (&json!(30080), None));
        }
        let mut stripped = service(managed);
        strip(&mut stripped);
        assert_eq!(stripped["spec"]["ipFamilyPolicy"], "SingleStack");
    }

    #[test]
    fn a_service_without_an_address_stays_without() {
        let mut headless = json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}});
        strip(&mut headless);
        assert_eq!(headless, json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}));
    }
}
