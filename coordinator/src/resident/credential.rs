//! How a pod in the source's cluster reaches the destination: one context of a kubeconfig with all that it refers to, and
//! nothing else of it.

use std::fs;
use std::path::Path;

use k8s_openapi::ByteString;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Map, Value, json};

use crate::Error;

/// The one context of what is made here.
pub const CONTEXT: &str = "destination";

/// Fields of a cluster and of a user that go along as they are. What is not listed here stays behind.
const OF_CLUSTER: [&str; 5] =
    ["server", "tls-server-name", "proxy-url", "certificate-authority-data", "disable-compression"];
const OF_USER: [&str; 9] = [
    "username",
    "password",
    "token",
    "client-certificate-data",
    "client-key-data",
    "as",
    "as-uid",
    "as-groups",
    "as-user-extra",
];

/// Fields that name a file, and the fields that hold what is in it.
const FILES_OF_USER: [(&str, &str); 2] =
    [("client-certificate", "client-certificate-data"), ("client-key", "client-key-data")];

/// A kubeconfig that needs no other file and no program, with [`CONTEXT`] alone: from `file` and its current context, else from
/// the usual one and `context`. Refused with TS-K961 where a pod could do nothing with it.
pub async fn destination(file: Option<&Path>, context: &str) -> Result<String, Error> {
    let unusable = |error: kube::config::KubeconfigError| Error::Kubeconfig {
        context: Some(context.to_owned()),
        source: error.into(),
    };
    let config = match file {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let config = config.map_err(unusable)?;
    let name = match file {
        Some(_) => config.current_context.clone().unwrap_or_default(),
        None => context.to_owned(),
    };
    let minified = minified(&config, &name)?;
    check(&minified, &name).await?;
    Ok(minified.to_string())
}

fn minified(config: &Kubeconfig, name: &str) -> Result<Value, Error> {
    let missing = |what: &str| refused(name, format!("has no {what}"));
    let context = config.contexts.iter().find(|one| one.name == name).and_then(|one| one.context.as_ref());
    let context = context.ok_or_else(|| missing("entry in the kubeconfig"))?;
    let cluster = config.clusters.iter().find(|one| one.name == context.cluster).and_then(|one| one.cluster.as_ref());
    let user = context.user.as_ref().and_then(|user| config.auth_infos.iter().find(|one| one.name == *user));
    let user = user.and_then(|one| one.auth_info.as_ref()).ok_or_else(|| missing("user"))?;
    // Secrets are shown to nobody but this function.
    let value = |value: serde_json::Result<Value>| value.expect("a kubeconfig holds nothing that JSON cannot say");
    let cluster = value(serde_json::to_value(cluster.ok_or_else(|| missing("cluster"))?));
    let user = value(serde_json::to_value(user));
    for (field, what) in [("exec", "a program"), ("auth-provider", "an auth provider")] {
        if !user[field].is_null() {
            return Err(refused(name, format!("logs in by {what}, which a pod does not have")));
        }
    }
    let mut user_kept = kept(&user, &OF_USER);
    for (field, data) in FILES_OF_USER {
        embed(name, &user, field, data, &mut user_kept)?;
    }
    if let (None, Some(path)) = (user_kept.get("token"), user["tokenFile"].as_str()) {
        user_kept.insert("token".to_owned(), String::from_utf8_lossy(&read(name, path)?).trim().into());
    }
    if !["token", "password", "client-certificate-data"].iter().any(|field| user_kept.contains_key(*field)) {
        return Err(refused(name, "has neither a token nor a certificate of its user".to_owned()));
    }
    let mut cluster_kept = kept(&cluster, &OF_CLUSTER);
    embed(name, &cluster, "certificate-authority", "certificate-authority-data", &mut cluster_kept)?;
    if !cluster_kept.contains_key("certificate-authority-data") {
        return Err(refused(
            name,
            "names no certificate-authority, and the image has no list of public ones".to_owned(),
        ));
    }
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": CONTEXT,
        "clusters": [{"name": CONTEXT, "cluster": cluster_kept}],
        "users": [{"name": CONTEXT, "user": user_kept}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
    }))
}

fn kept(object: &Value, fields: &[&str]) -> Map<String, Value> {
    let there = fields.iter().filter(|field| !object[**field].is_null());
    there.map(|&field| (field.to_owned(), object[field].clone())).collect()
}

/// Puts what a file holds in the place of its path.
fn embed(name: &str, object: &Value, field: &str, data: &str, kept: &mut Map<String, Value>) -> Result<(), Error> {
    if let (false, Some(path)) = (kept.contains_key(data), object[field].as_str()) {
        let bytes = ByteString(read(name, path)?);
        kept.insert(data.to_owned(), serde_json::to_value(bytes).expect("bytes are text in base64"));
    }
    Ok(())
}

fn read(name: &str, path: &str) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| refused(name, format!("refers to {path}, which cannot be read: {error}")))
}

/// Refuses what no client can be made of, and an address that means another machine in a pod.
async fn check(config: &Value, name: &str) -> Result<(), Error> {
    let broken = |error: String| refused(name, format!("cannot be used: {error}"));
    let file: Kubeconfig = serde_json::from_value(config.clone()).map_err(|error| broken(error.to_string()))?;
    let made = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    let made = made.map_err(|error| broken(error.to_string()))?;
    let host = made.cluster_url.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if is_loopback || host == "localhost" {
        return Err(refused(name, format!("leads to {host}, which is the pod itself in a pod")));
    }
    Ok(())
}

fn refused(name: &str, why: String) -> Error {
    Error::refused(
        "TS-K961",
        format!("a coordinator in the cluster cannot use context {name:?}: it {why}"),
        "give --destination-kubeconfig FILE, whose current context leads from the source's cluster to the destination with a \
         token or a certificate, such as those of a ServiceAccount there",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(cluster: Value, user: Value) -> Kubeconfig {
        let context = json!({"name": "new", "context": {"cluster": "c", "user": "u", "namespace": "other"}});
        let other = json!({"name": "old", "user": {"token": "other"}});
        serde_json::from_value(json!({
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}, other],
            "contexts": [context],
        }))
        .expect("a kubeconfig")
    }

    fn cluster() -> Value {
        json!({"server": "https://new:6443", "certificate-authority-data": "YQ==", "made-up": "no"})
    }

    #[test]
    fn files_are_embedded_and_nothing_of_another_context_goes_along() {
        let folder = std::env::temp_dir().join(format!("tranship-credential-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).expect("written");
            path.to_str().expect("a path of text").to_owned()
        };
        let authority = json!({"server": "https://new:6443", "certificate-authority": file("ca", "authority")});
        let user = json!({"client-certificate": file("crt", "certificate"), "client-key": file("key", "key")});
        let made = minified(&config(authority, user), "new").expect("it is usable");
        assert_eq!(made["clusters"][0]["cluster"]["certificate-authority-data"], "YXV0aG9yaXR5");
        let user = json!({"client-certificate-data": "Y2VydGlmaWNhdGU=", "client-key-data": "a2V5"});
        assert_eq!(made["users"], json!([{"name": CONTEXT, "user": user}]));
        let user = json!({"tokenFile": file("token", "secret\n")});
        let made = minified(&config(cluster(), user), "new").expect("it is usable");
        assert_eq!(made["users"][0]["user"], json!({"token": "secret"}));
        assert_eq!(made["clusters"][0]["cluster"].get("made-up"), None);
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn what_a_pod_could_not_use_is_refused() {
        let exec = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "log-in"}});
        let lost = json!({"client-certificate": "/no/such/file", "client-key-data": "a"});
        for (cluster, user, says) in [
            (cluster(), exec, "logs in by a program"),
            (cluster(), lost, "cannot be read"),
            (cluster(), json!({}), "neither a token"),
            (json!({"server": "https://new"}), json!({"token": "t"}), "no certificate-authority"),
        ] {
            let error = minified(&config(cluster, user), "new").expect_err(says);
            assert!(error.code() == "TS-K961" && error.to_string().contains(says), "{error}");
        }
        assert!(minified(&config(cluster(), json!({"token": "t"})), "old").is_err());
    }

    #[tokio::test]
    async fn an_address_that_is_another_machine_in_a_pod_is_refused() {
        for server in ["https://127.0.0.1:6443", "https://localhost:6443", "https://[::1]:6443"] {
            let cluster = json!({"server": server, "certificate-authority-data": "YQ=="});
            let made = minified(&config(cluster, json!({"token": "t"})), "new").expect("it can be minified");
            let error = check(&made, "new").await.expect_err(server);
            assert!(error.to_string().contains("the pod itself"), "{error}");
        }
    }
}
