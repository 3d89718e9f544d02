//! Whom a link is for, and how both sides prove that they are meant.

use std::fmt;

use super::LinkError;
use super::identity::Fingerprint;

/// What every proof of this protocol begins with, and the label of the value that TLS derives for it.
pub(super) const EXPORTER_LABEL: &[u8] = b"EXPORTER-tranship-link-1";

/// 256 random bits that both sides know and nobody else. Never printed by accident: it has no `Debug` and no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new one from the kernel.
    pub fn generate() -> Result<Self, LinkError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|_| LinkError::Crypto { what: "draw random bytes" })?;
        Ok(Self(bytes))
    }

    /// One that was kept or carried elsewhere.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be carried to the peer.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Whom to accept as a peer.
#[derive(Clone)]
pub enum Admission {
    /// The holder of exactly this key: both fingerprints were exchanged beforehand.
    Pin(Fingerprint),
    /// Whoever proves to know this secret, bound to the very TLS session in which it is proven.
    Secret(Secret),
    /// Both: what a ticket tells the side that dials.
    Both(Fingerprint, Secret),
}

impl Admission {
    pub(super) fn pin(&self) -> Option<Fingerprint> {
        match self {
            Self::Pin(pin) | Self::Both(pin, _) => Some(*pin),
            Self::Secret(_) => None,
        }
    }

    /// What `role` says to prove itself in the TLS session that exported `binding`.
    pub(super) fn proof(&self, role: Role, binding: &Binding) -> Proof {
        // With pins alone the keys were proven by TLS; then this only says that both sides saw the same session.
        let secret = match self {
            Self::Pin(_) => &[0; 32],
            Self::Secret(secret) | Self::Both(_, secret) => secret.expose(),
        };
        let mut hasher = blake3::Hasher::new_keyed(secret);
        hasher.update(role.domain());
        hasher.update(&binding.0);
        Proof(hasher.finalize())
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pin(pin) => write!(f, "Pin({pin})"),
            Self::Secret(_) => f.write_str("Secret(…)"),
            Self::Both(pin, _) => write!(f, "Both({pin}, …)"),
        }
    }
}

/// Who is proving, so that one side's proof cannot be sent back as the other's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Dialer,
    Listener,
}

impl Role {
    fn domain(self) -> &'static [u8] {
        match self {
            Self::Dialer => b"tranship link 1: the dialer knows the secret",
            Self::Listener => b"tranship link 1: the listener knows the secret",
        }
    }
}

/// What TLS derives for one session and for nobody else (RFC 9266 style channel binding).
pub(super) struct Binding(pub(super) [u8; 32]);

/// A proof; comparing two takes the same time wherever they differ.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Proof(blake3::Hash);

impl Proof {
    pub(super) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(blake3::Hash::from_bytes(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_depends_on_secret_role_and_session() {
        let (one, two) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        let (here, there) = (Binding([1; 32]), Binding([2; 32]));
        let proof = Admission::Secret(one.clone()).proof(Role::Dialer, &here);
        assert!(proof == Admission::Both(Fingerprint([7; 32]), one.clone()).proof(Role::Dialer, &here));
        assert!(proof != Admission::Secret(one.clone()).proof(Role::Listener, &here));
        assert!(proof != Admission::Secret(one).proof(Role::Dialer, &there));
        assert!(proof != Admission::Secret(two).proof(Role::Dialer, &here));
    }
}
