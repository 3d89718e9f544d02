//! Who an agent is: an Ed25519 key that never leaves memory, shown to the peer as a bare public key (RFC 7250).
//!
//! There are no certificates, hence no names, dates, chains or authorities that could be checked wrongly.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::signature::Ed25519KeyPair;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, sign::any_eddsa_type};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, PeerMisbehaved, SignatureScheme};
use tranship_proto::version::ALPN;

use super::LinkError;

/// Makes aws-lc-rs the provider of the process, for code that does not name one. For the first line of `main`; a
/// second call changes nothing.
pub fn install_provider() {
    // An error means that a provider is installed already. Links name theirs anyway.
    let _ = CryptoProvider::install_default(default_provider());
}

/// BLAKE3 of a public key's SubjectPublicKeyInfo.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from(self.0).to_hex())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// Text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is 64 hexadecimal digits")]
pub struct NotAFingerprint;

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    fn from_str(text: &str) -> Result<Self, NotAFingerprint> {
        blake3::Hash::from_hex(text).map(|hash| Self(*hash.as_bytes())).map_err(|_| NotAFingerprint)
    }
}

/// An agent's key. Clones are the same identity.
#[derive(Clone)]
pub struct Identity {
    key: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
}

impl Identity {
    /// Makes a new key.
    pub fn generate() -> Result<Self, LinkError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| LinkError::Crypto { what: "make a key" })?;
        let document = pair.to_pkcs8v1().map_err(|_| LinkError::Crypto { what: "encode a key" })?;
        let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(document.as_ref()))
            .map_err(|_| LinkError::Crypto { what: "load a key" })?;
        let public = key.public_key().ok_or(LinkError::Crypto { what: "derive a public key" })?.to_vec();
        let fingerprint = fingerprint_of(&public);
        Ok(Self { key: Arc::new(CertifiedKey::new(vec![CertificateDer::from(public)], key)), fingerprint })
    }

    /// What the peer pins.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// TLS for the side that listens; every client must show a key, and if there is a `pin`, that key.
    pub(super) fn server_config(&self, pin: Option<Fingerprint>) -> Result<rustls::ServerConfig, LinkError> {
        let provider = provider();
        let verifier = PeerKey::new(pin, &provider);
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|_| LinkError::Crypto { what: "configure TLS 1.3" })?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(self.key.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }

    /// TLS for the side that dials.
    pub(super) fn client_config(&self, pin: Option<Fingerprint>) -> Result<rustls::ClientConfig, LinkError> {
        let provider = provider();
        let verifier = PeerKey::new(pin, &provider);
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|_| LinkError::Crypto { what: "configure TLS 1.3" })?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(self.key.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.enable_early_data = false;
        Ok(config)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.fingerprint)
    }
}

/// The fingerprint of the key that a peer has shown, from what TLS calls its certificates.
pub(super) fn fingerprint_of_peer(keys: Option<&[CertificateDer<'_>]>) -> Result<Fingerprint, LinkError> {
    keys.and_then(<[_]>::first).map(|key| fingerprint_of(key)).ok_or(LinkError::Identity)
}

fn fingerprint_of(public: &[u8]) -> Fingerprint {
    Fingerprint(*blake3::hash(public).as_bytes())
}

/// aws-lc-rs with the two suites that are fast somewhere, the faster one on this CPU first.
fn provider() -> Arc<CryptoProvider> {
    let (aes, chacha) = (cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_CHACHA20_POLY1305_SHA256);
    let cipher_suites = if has_aes_instructions() { vec![aes, chacha] } else { vec![chacha, aes] };
    Arc::new(CryptoProvider { cipher_suites, ..default_provider() })
}

#[cfg(target_arch = "x86_64")]
fn has_aes_instructions() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn has_aes_instructions() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes_instructions() -> bool {
    false
}

/// Accepts one key, or any key if something later in the conversation tells who the peer is.
#[derive(Debug)]
struct PeerKey {
    pin: Option<Fingerprint>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PeerKey {
    fn new(pin: Option<Fingerprint>, provider: &CryptoProvider) -> Arc<Self> {
        Arc::new(Self { pin, algorithms: provider.signature_verification_algorithms })
    }

    fn check(&self, key: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let wanted = self.pin.is_none_or(|pin| pin == fingerprint_of(key));
        if wanted && more.is_empty() { Ok(()) } else { Err(CertificateError::ApplicationVerificationFailure.into()) }
    }

    fn verify(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }
}

/// The only way to sign: what [`Identity::generate`] makes.
const SCHEMES: [SignatureScheme; 1] = [SignatureScheme::ED25519];

/// TLS 1.2 is not offered, so that nothing of it can be asked for.
fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
}

impl ServerCertVerifier for PeerKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for PeerKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_identity_is_another_one_and_its_fingerprint_survives_text() {
        let (one, two) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        assert_ne!(one.fingerprint(), two.fingerprint());
        assert_eq!(one.fingerprint().to_string().parse(), Ok(one.fingerprint()));
        assert_eq!("abc".parse::<Fingerprint>(), Err(NotAFingerprint));
    }

    #[test]
    fn a_fingerprint_is_the_digest_of_the_subject_public_key_info() {
        let identity = Identity::generate().unwrap();
        let public = &identity.key.cert[0];
        // RFC 8410: an Ed25519 key is 32 bytes behind a fixed prefix of 12.
        assert_eq!(public.len(), 44);
        assert_eq!(public[..12], [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00]);
        assert_eq!(Fingerprint(*blake3::hash(public).as_bytes()), identity.fingerprint());
    }
}
