//! What is wanted: one namespace's claims, from one cluster to another.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::API_VERSION;
use crate::hook::Hook;
use crate::object::Side;

/// A migration as users write it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Migration {
    /// Always [`API_VERSION`].
    pub api_version: String,
    /// Always `Migration`.
    pub kind: String,
    /// Its name, and the source's namespace.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: Spec,
}

/// Name and place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// The migration's name, a DNS label of at most 40 characters.
    pub name: String,
    /// The namespace of the application in the source cluster.
    pub namespace: String,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Where the application is.
    #[serde(default)]
    pub source: End,
    /// Where it is to be.
    pub destination: End,
    /// The claims; none means all that `selector` selects, or all of the namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// A label selector for claims, where none are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Storage classes of the source, each with the one that takes its place; `*` for all others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub storage_classes: BTreeMap<String, String>,
    /// What is carried of owners: `plain` or `owner`; nothing for the best that both namespaces admit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Kinds of gaps that a cutover may leave behind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accept_gaps: Vec<String>,
    /// Patterns of what is left out, as in a .gitignore.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// How the agents meet.
    #[serde(default)]
    pub link: Link,
    /// How the application is stopped, and when that may be.
    #[serde(default)]
    pub cutover: Cutover,
    /// How much is done at once.
    #[serde(default)]
    pub limits: Limits,
    /// Pods of the agents.
    #[serde(default)]
    pub agents: Agents,
}

/// How much is done at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Volumes of the migration to which passes are run at once.
    pub passes: u32,
    /// Of these, volumes that are used on the same node.
    pub passes_per_node: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { passes: 16, passes_per_node: 4 }
    }
}

/// One end of a migration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct End {
    /// Context of the kubeconfig; nothing for the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Namespace, where it is another one than the source's; only for the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// A claim that is moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Volume {
    /// Name of the claim at the source.
    pub claim: String,
    /// Its name at the destination, where it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Storage class at the destination, where it is not as mapped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// Access mode at the destination, where it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_mode: Option<String>,
    /// Size at the destination, where it is to be larger than at the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
}

/// How much of a tree's metadata is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Without owners: agents run as the application's user, in any namespace.
    Plain,
    /// With owners, access lists and capabilities: agents run as root with few capabilities.
    Owner,
}

impl Mode {
    /// As the agents' flag has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Owner => "owner",
        }
    }
}

/// How the agents meet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Link {
    /// Which side listens.
    #[serde(default)]
    pub listen: Listen,
    /// Where the listener is reached.
    #[serde(default)]
    pub endpoint: Endpoint,
    /// Bits per second that all agents of the migration send together at most; nothing for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_second: Option<u64>,
}

/// Which side listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Listen {
    /// The destination, and if it cannot be reached the source.
    #[default]
    Auto,
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// Where a listener is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Endpoint {
    /// Whatever answers first: the pod's address, a node's port, then through both API servers.
    #[default]
    Auto,
    /// The pod's own address.
    Pod,
    /// A port of every node.
    NodePort,
    /// An address of a load balancer.
    LoadBalancer,
    /// Through both API servers.
    Relay,
}

/// How the application is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cutover {
    /// Longest downtime, such as `30s`, that the prediction may come to; nothing for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_downtime: Option<String>,
    /// How much is read for the proof.
    #[serde(default)]
    pub verify: Verify,
    /// Which workloads are stopped.
    #[serde(default)]
    pub quiesce: Quiesce,
    /// What comes along with the claims.
    #[serde(default)]
    pub resources: Resources,
    /// What runs before and after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
}

/// How much is read for the proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Every byte on both sides.
    #[default]
    Full,
    /// What changed since the pass that read it.
    Tracked,
}

impl Verify {
    /// As the agents' flag has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Tracked => "tracked",
        }
    }
}

/// Which workloads are stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quiesce {
    /// Those that use the claims.
    #[default]
    Users,
    /// All of the namespace.
    All,
}

/// What comes along with the claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resources {
    /// The workloads that use the claims, and what these refer to.
    #[default]
    Users,
    /// Nothing: the destination has them already, or will get them from elsewhere.
    None,
}

/// Pods of the agents, for each side.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Agents {
    /// Beside the source volumes.
    #[serde(default)]
    pub source: AgentPod,
    /// Beside the destination volumes.
    #[serde(default)]
    pub destination: AgentPod,
}

/// What an agent's pod is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentPod {
    /// Image; nothing for the one of this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Secrets of the namespace with which the image is pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<String>,
    /// Amounts that are requested, such as `cpu: 100m`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, String>,
    /// Amounts that are the limit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
    /// Storage class of the claims in which agents remember what they know; nothing for that of the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_storage_class: Option<String>,
}

/// Characters of a name: what we derive from it has to fit a label's value of 63.
pub const NAME_CHARS_MAX: usize = 40;

impl Migration {
    /// A migration of everything in `namespace`, with every choice left open.
    pub fn new(name: &str, namespace: &str) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: "Migration".to_owned(),
            metadata: Metadata { name: name.to_owned(), namespace: namespace.to_owned() },
            spec: Spec {
                source: End::default(),
                destination: End::default(),
                volumes: Vec::new(),
                selector: None,
                storage_classes: BTreeMap::new(),
                mode: None,
                accept_gaps: Vec::new(),
                exclude: Vec::new(),
                link: Link::default(),
                limits: Limits::default(),
                cutover: Cutover::default(),
                agents: Agents::default(),
            },
        }
    }

    /// The application's namespace on this side.
    pub fn namespace(&self, side: Side) -> &str {
        match side {
            Side::Source => &self.metadata.namespace,
            Side::Destination => self.spec.destination.namespace.as_deref().unwrap_or(&self.metadata.namespace),
        }
    }

    /// The context of this side's cluster; nothing for the current one.
    pub fn context(&self, side: Side) -> Option<&str> {
        match side {
            Side::Source => self.spec.source.context.as_deref(),
            Side::Destination => self.spec.destination.context.as_deref(),
        }
    }

    /// What the pods of this side's agents are made of.
    pub fn agent(&self, side: Side) -> &AgentPod {
        match side {
            Side::Source => &self.spec.agents.source,
            Side::Destination => &self.spec.agents.destination,
        }
    }

    /// What is wrong with what was written, as one sentence; nothing if all is well.
    pub fn complaint(&self) -> Option<String> {
        let name = &self.metadata.name;
        let is_label = |text: &str| {
            let inner = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-';
            !text.is_empty() && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
        };
        if self.api_version != API_VERSION || self.kind != "Migration" {
            return Some(format!("this is a {} of {}, not a Migration of {API_VERSION}", self.kind, self.api_version));
        }
        if !is_label(name) || name.len() > NAME_CHARS_MAX {
            return Some(format!(
                "the name {name:?} is not one of at most {NAME_CHARS_MAX} lower-case letters, digits and hyphens"
            ));
        }
        if self.spec.source.namespace.is_some() {
            return Some("the source's namespace is metadata.namespace".to_owned());
        }
        if let Some(hook) =
            self.spec.cutover.hooks.iter().find(|hook| hook.image.is_empty() || hook.run_as_user == Some(0))
        {
            return Some(format!("the hook {} has no image, or wants to be root", hook.at.word()));
        }
        if self.spec.limits.passes == 0 || self.spec.limits.passes_per_node == 0 {
            return Some("the limits leave no pass to be run".to_owned());
        }
        let mut seen = std::collections::BTreeSet::new();
        for volume in &self.spec.volumes {
            if !seen.insert(volume.to.as_ref().unwrap_or(&volume.claim)) {
                return Some(format!("two claims would become {:?}", volume.to.as_ref().unwrap_or(&volume.claim)));
            }
        }
        let amounts = self.spec.volumes.iter().filter_map(|volume| volume.size.as_ref());
        amounts.filter_map(|size| crate::quantity::bytes(size).err()).map(|error| error.to_string()).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_cannot_be_a_label_is_refused() {
        for (name, is_good) in
            [("shop", true), ("a-1", true), ("", false), ("-a", false), ("Shop", false), (&"x".repeat(41), false)]
        {
            assert_eq!(Migration::new(name, "default").complaint().is_none(), is_good, "{name:?}");
        }
    }

    #[test]
    fn two_claims_cannot_become_one() {
        let volume = |claim: &str, to: Option<&str>| Volume {
            claim: claim.to_owned(),
            to: to.map(str::to_owned),
            storage_class: None,
            access_mode: None,
            size: None,
        };
        let mut migration = Migration::new("shop", "default");
        migration.spec.volumes = vec![volume("a", None), volume("b", Some("a"))];
        assert!(migration.complaint().is_some_and(|text| text.contains("\"a\"")));
    }

    #[test]
    fn what_is_misspelt_is_refused_and_what_is_left_out_has_a_default() {
        let text = r#"{"apiVersion": "tranship.io/v1alpha1", "kind": "Migration",
            "metadata": {"name": "shop", "namespace": "shop"}, "spec": {"destination": {"context": "b"}}}"#;
        let read: Migration = serde_json::from_str(text).expect("a whole migration");
        let mut expected = Migration::new("shop", "shop");
        expected.spec.destination.context = Some("b".to_owned());
        assert_eq!(read, expected);
        assert!(serde_json::from_str::<Migration>(&text.replace("destination", "destinatoin")).is_err());
    }
}
