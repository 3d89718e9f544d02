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
        let path = |name: String| self.folder.join(name).display().to_string();
        let (authority, certificate, key) =
            (path("ca.crt".to_owned()), path(format!("{file}.crt")), path(format!("{file}.key")));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab-{cluster}\n\
             clusters: [{{name: lab-{cluster}, cluster: {{server: \"https://{}\", certificate-authority: {authority}}}}}]\n\
             users: [{{name: {file}, user: {{client-certificate: {certificate}, client-key: {key}}}}}]\n\
             contexts: [{{name: lab-{cluster}, context: {{cluster: lab-{cluster}, user: {file}}}}}]\n",
            self.server
        );
        write(&self.folder.join(format!("{file}.kubeconfig")), text)
    }
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
