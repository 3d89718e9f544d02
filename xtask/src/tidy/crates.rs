//! Which crate may use which.

use serde_json::Value;

use super::Finding;

/// Our crates and those of ours that each may use. A crate that is not here has no place in the house yet.
const EDGES: &[(&str, &[&str])] = &[
    ("tranship-proto", &[]),
    ("tranship-engine", &["tranship-proto"]),
    ("tranship-agent", &["tranship-engine", "tranship-proto"]),
    ("tranship-api", &[]),
    ("tranship-coordinator", &["tranship-api", "tranship-proto"]),
    ("tranship", &["tranship-coordinator", "tranship-api", "tranship-agent", "tranship-proto"]),
    (
        "tranship-benches",
        &["tranship-proto", "tranship-engine", "tranship-agent", "tranship", "tranship-tests", "tranship-lab"],
    ),
    (
        "tranship-tests",
        &["tranship-proto", "tranship-engine", "tranship-agent", "tranship-api", "tranship", "tranship-lab"],
    ),
    ("tranship-lab", &[]),
    ("tranship-lab-csi", &[]),
    ("tranship-lab-writer", &[]),
    ("xtask", &[]),
];

/// A foreign crate that only some of ours may use.
struct Confined {
    /// Its name; with a final `*`, a beginning.
    name: &'static str,
    /// Who may use it.
    users: &'static [&'static str],
    /// Why nobody else.
    why: &'static str,
}

const CONFINED: &[Confined] = &[
    Confined { name: "kube*", users: COORDINATORS, why: "the data plane knows no cluster" },
    Confined { name: "k8s-openapi", users: COORDINATORS, why: "the data plane knows no cluster" },
    Confined { name: "quinn*", users: &["tranship-agent", "tranship-tests", "tranship-benches"], why: LINKS },
    Confined { name: "fast_rsync", users: &["tranship-engine"], why: DECISIONS },
    Confined { name: "ignore", users: &["tranship-engine"], why: DECISIONS },
    Confined { name: "zstd", users: &["tranship-engine"], why: DECISIONS },
    Confined { name: "lz4_flex", users: &["tranship-engine"], why: DECISIONS },
    Confined {
        name: "rustix",
        users: &["tranship-agent", "tranship-tests", "tranship-benches", "tranship", "tranship-lab-csi"],
        why: "system calls are the agent's",
    },
    Confined { name: "landlock", users: &["tranship-agent"], why: "confinement is the agent's" },
    Confined { name: "seccompiler", users: &["tranship-agent"], why: "confinement is the agent's" },
    Confined { name: "tonic*", users: &["tranship-lab-csi"], why: "only clusters speak gRPC" },
    Confined { name: "prost*", users: &["tranship-lab-csi"], why: "only clusters speak gRPC" },
];

const COORDINATORS: &[&str] = &["tranship", "tranship-api", "tranship-coordinator", "tranship-tests"];
const LINKS: &str = "the transport hides behind the agent's link";
const DECISIONS: &str = "what is decided about bytes is decided in the engine";

impl Confined {
    fn is(&self, dependency: &str) -> bool {
        match self.name.strip_suffix('*') {
            Some(beginning) => dependency.starts_with(beginning),
            None => dependency == self.name,
        }
    }
}

/// Checks what `cargo metadata --no-deps` says; an error means that it says something unexpected.
pub(super) fn check(metadata: &Value) -> Result<Vec<Finding>, String> {
    let packages = list(metadata, "packages")?;
    let ours = packages.iter().map(|package| text(package, "name")).collect::<Result<Vec<_>, _>>()?;
    let mut findings = Vec::new();
    for package in packages {
        let name = text(package, "name")?;
        let mut broken = |what: String| {
            findings.push(Finding { path: format!("{name}'s Cargo.toml"), line: 0, what });
        };
        let Some((_, allowed)) = EDGES.iter().find(|(crate_name, _)| *crate_name == name) else {
            broken("the crate has no place in the table of allowed edges".into());
            continue;
        };
        for dependency in list(package, "dependencies")? {
            let used = text(dependency, "name")?;
            if ours.contains(&used) && !allowed.contains(&used) {
                broken(format!("{name} must not depend on {used}"));
            }
            for confined in CONFINED.iter().filter(|confined| confined.is(used) && !confined.users.contains(&name)) {
                broken(format!("{name} must not depend on {used}: {}", confined.why));
            }
        }
    }
    Ok(findings)
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>, String> {
    value.get(key).and_then(Value::as_array).ok_or_else(|| format!("cargo metadata has no list {key}"))
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str, String> {
    value.get(key).and_then(Value::as_str).ok_or_else(|| format!("cargo metadata has no text {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Metadata of a workspace that holds all our crates, of which one has one dependency.
    fn with_edge(from: &str, to: &str) -> Value {
        let packages: Vec<_> = EDGES
            .iter()
            .map(|(name, _)| {
                let dependencies = if *name == from { vec![json!({ "name": to })] } else { vec![] };
                json!({ "name": name, "dependencies": dependencies })
            })
            .collect();
        json!({ "packages": packages })
    }

    #[test]
    fn only_the_allowed_edges_pass() {
        for (from, to, is_allowed) in [
            ("tranship-engine", "tranship-proto", true),
            ("tranship-agent", "tranship-engine", true),
            ("tranship", "tranship-agent", true),
            ("tranship-benches", "tranship-agent", true),
            ("tranship-proto", "tranship-engine", false),
            ("tranship-engine", "tranship-agent", false),
            ("tranship", "tranship-engine", false),
            ("tranship-agent", "tranship-tests", false),
            ("xtask", "tranship-proto", false),
            ("tranship-engine", "blake3", true),
            ("tranship-agent", "kube-runtime", false),
            ("tranship-engine", "kube", false),
            ("tranship", "quinn", false),
            ("tranship-tests", "quinn-proto", true),
            ("tranship-agent", "zstd", false),
            ("tranship-agent", "fast_rsync", false),
            ("tranship-tests", "ignore", false),
            ("tranship-benches", "lz4_flex", false),
            ("tranship", "rustix", true),
            ("tranship-engine", "rustix", false),
            ("tranship", "landlock", false),
            ("tranship-tests", "seccompiler", false),
            ("tranship-lab-csi", "tonic-prost", true),
            ("tranship-agent", "tonic", false),
            ("tranship-lab-csi", "tranship-agent", false),
        ] {
            let findings = check(&with_edge(from, to)).expect("read");
            assert_eq!(findings.is_empty(), is_allowed, "{from} -> {to}: {findings:?}");
        }
    }

    #[test]
    fn a_crate_without_a_place_is_named() {
        let findings = check(&json!({ "packages": [{ "name": "shed", "dependencies": [] }] })).expect("read");
        assert!(findings[0].to_string().starts_with("shed's Cargo.toml: "), "{findings:?}");
        assert!(check(&json!({})).is_err());
    }
}
