//! Certificates of one cluster, and the kubeconfigs that hold them.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};

use crate::LabError;
use crate::layout::write;

/// The authority of a cluster, and the folder in which everything that it signs lies.
pub(crate) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// `host:port` of the API server.
    server: String,
}

impl Authority {
    /// A new one.
    pub(crate) fn make(folder: &Path, server: String) -> Result<Self, LabError> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = name("lab", None);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        write(&folder.join("ca.crt"), parameters.self_signed(&key)?.pem())?;
        let service_accounts = KeyPair::generate()?;
        write(&folder.join("service-accounts.key"), service_accounts.serialize_pem())?;
        write(&folder.join("service-accounts.pub"), service_accounts.public_key_pem())?;
        Ok(Self { folder: folder.to_owned(), issuer: Issuer::new(parameters, key), server })
    }

    /// Writes `FILE.crt` and `FILE.key` for somebody, who may be a server under `names`.
    pub(crate) fn sign(&self, file: &str, user: &str, group: Option<&str>, names: &[String]) -> Result<(), LabError> {
        let mut parameters = CertificateParams::new(names)?;
        parameters.distinguished_name = name(user, group);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        write(&self.folder.join(format!("{file}.crt")), parameters.signed_by(&key, &self.issuer)?.pem())?;
        write(&self.folder.join(format!("{file}.key")), key.serialize_pem())
    }

    /// The same, and a kubeconfig for who has it, whose context is called `cluster`.
    pub(crate) fn sign_client(
        &self,
        cluster: &str,
        file: &str,
        user: &str,
        group: Option<&str>,
        names: &[String],
    ) -> Result<(), LabError> {
        self.sign(file, user, group, names)?;
        let access = Access { cluster, server: &self.server, folder: &self.folder, file };
        write(&self.folder.join(format!("{file}.kubeconfig")), kubeconfig(&[access]))
    }
}

/// How one cluster is reached as one user.
pub(crate) struct Access<'a> {
    /// The cluster's name; the context is `lab-NAME`.
    pub(crate) cluster: &'a str,
    /// `host:port` of the API server.
    pub(crate) server: &'a str,
    /// Where certificates and keys lie.
    pub(crate) folder: &'a Path,
    /// The user's, without `.crt` and `.key`.
    pub(crate) file: &'a str,
}

/// A kubeconfig with a context for each cluster, of which the first is the current one.
pub(crate) fn kubeconfig(accesses: &[Access<'_>]) -> String {
    let user = |access: &Access<'_>| format!("lab-{}-{}", access.cluster, access.file);
    let file = |access: &Access<'_>, name: String| access.folder.join(name);
    let clusters = accesses.iter().map(|access| {
        serde_json::json!({"name": format!("lab-{}", access.cluster), "cluster": {
            "server": format!("https://{}", access.server),
            "certificate-authority": file(access, "ca.crt".to_owned()),
        }})
    });
    let users = accesses.iter().map(|access| {
        serde_json::json!({"name": user(access), "user": {
            "client-certificate": file(access, format!("{}.crt", access.file)),
            "client-key": file(access, format!("{}.key", access.file)),
        }})
    });
    let pairs = accesses.iter().map(|access| {
        let cluster = format!("lab-{}", access.cluster);
        serde_json::json!({"name": cluster, "context": {"cluster": cluster, "user": user(access)}})
    });
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": accesses.first().map(|access| format!("lab-{}", access.cluster)),
        "clusters": clusters.collect::<Vec<_>>(),
        "users": users.collect::<Vec<_>>(),
        "contexts": pairs.collect::<Vec<_>>(),
    });
    format!("{config:#}\n")
}

fn name(user: &str, group: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, user);
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name
}

/// Whether a cluster has certificates, and so is there.
pub(crate) fn are_there(folder: &Path) -> bool {
    fs::exists(folder.join("ca.crt")).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kubeconfig_holds_all_clusters_and_their_users_apart() {
        let access = |cluster| Access { cluster, server: "10.0.0.1:6443", folder: Path::new("/lab"), file: "admin" };
        let config: serde_json::Value = serde_json::from_str(&kubeconfig(&[access("a"), access("b")])).expect("JSON");
        assert_eq!(config["current-context"], "lab-a");
        assert_eq!(config["contexts"][1]["context"]["user"], config["users"][1]["name"]);
        assert_ne!(config["users"][0]["name"], config["users"][1]["name"]);
    }
}
