//! Why there is no link, or no longer one.

use std::io;
use std::net::SocketAddr;

use quinn::{ConnectionError, ReadError, StoppedError, WriteError};
use rustls::AlertDescription;
use thiserror::Error;
use tranship_proto::WireError;

use super::dial::Attempt;
use super::{IDENTITY_CODE, LOST_CODE};

/// Why there is no link, or no longer one.
#[derive(Debug, Error)]
pub enum LinkError {
    /// This host could not make a socket, or the peer's host has refused it.
    #[error("cannot {what} {address}")]
    Socket {
        /// What was tried, as a verb with its preposition.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The peer's key, or its proof of the secret, is not what was agreed on.
    #[error("peer key is not the one issued for this migration")]
    Identity,
    /// Nothing answers.
    #[error("cannot reach the peer: {}", attempts.iter().map(Attempt::to_string).collect::<Vec<_>>().join("; "))]
    Unreachable {
        /// What was tried.
        attempts: Vec<Attempt>,
    },
    /// The connection failed.
    #[error("the link to the peer is lost")]
    Lost {
        /// How.
        source: io::Error,
    },
    /// The peer has closed the link.
    #[error("the peer has closed the link: code {code}, {reason:?}")]
    ClosedByPeer {
        /// What it gave as its code.
        code: u64,
        /// And as its reason. Untrusted.
        reason: String,
    },
    /// This side has closed the link.
    #[error("the link is closed")]
    Closed,
    /// A stream ended without having been finished.
    #[error("the peer broke off a stream")]
    BrokenOff,
    /// The peer does not want to read this stream any more.
    #[error("the peer does not read this stream")]
    Unwanted,
    /// A stream is used after it has failed, has ended, or was left in the middle of a frame.
    #[error("the stream has ended or was interrupted")]
    Interrupted,
    /// The peer has more streams open than are allowed.
    #[error("the peer opened too many streams")]
    TooManyStreams,
    /// The peer answers, and then does not go on.
    #[error("the peer did not answer in time")]
    Silent,
    /// The peer speaks something else.
    #[error("the peer does not speak this protocol")]
    Greeting,
    /// A frame that breaks the protocol.
    #[error("the peer sent an impossible frame")]
    Frame(#[from] WireError),
    /// The cryptographic library failed.
    #[error("cannot {what}")]
    Crypto {
        /// What was tried.
        what: &'static str,
    },
}

impl LinkError {
    /// The stable code that users and scripts see.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Socket { .. } => "TS-S600",
            Self::Identity => "TS-S601",
            Self::Unreachable { .. } => "TS-S602",
            Self::Lost { .. } | Self::BrokenOff => "TS-S603",
            Self::ClosedByPeer { .. } | Self::Closed | Self::Unwanted | Self::Interrupted => "TS-S604",
            Self::TooManyStreams => "TS-S605",
            Self::Silent => "TS-S606",
            Self::Greeting => "TS-S607",
            Self::Crypto { .. } => "TS-S608",
            Self::Frame(error) => error.code(),
        }
    }

    /// Sorts what a stream says, whichever library it comes from.
    pub(super) fn of_io(error: io::Error) -> Self {
        let inner = error.get_ref();
        if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            let is_identity = match tls {
                rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => true,
                rustls::Error::AlertReceived(alert) => is_about_identity(*alert),
                _ => false,
            };
            if is_identity {
                return Self::Identity;
            }
        }
        if let Some(read) = inner.and_then(|inner| inner.downcast_ref::<ReadError>()) {
            return Self::of_read(read.clone());
        }
        if let Some(write) = inner.and_then(|inner| inner.downcast_ref::<WriteError>()) {
            return Self::of_write(write.clone());
        }
        Self::Lost { source: error }
    }

    pub(super) fn of_connection(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) if close.error_code == IDENTITY_CODE => Self::Identity,
            ConnectionError::ApplicationClosed(close) if close.error_code == LOST_CODE => {
                Self::Lost { source: ConnectionError::ApplicationClosed(close).into() }
            }
            ConnectionError::ApplicationClosed(close) => Self::ClosedByPeer {
                code: close.error_code.into_inner(),
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            ConnectionError::TransportError(error) if is_crypto_about_identity(error.code.into()) => Self::Identity,
            ConnectionError::ConnectionClosed(close) if is_crypto_about_identity(close.error_code.into()) => {
                Self::Identity
            }
            ConnectionError::LocallyClosed => Self::Closed,
            error => Self::Lost { source: error.into() },
        }
    }

    pub(super) fn of_read(error: ReadError) -> Self {
        match error {
            ReadError::Reset(_) => Self::BrokenOff,
            ReadError::ConnectionLost(error) => Self::of_connection(error),
            _ => Self::Interrupted,
        }
    }

    pub(super) fn of_write(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(_) => Self::Unwanted,
            WriteError::ConnectionLost(error) => Self::of_connection(error),
            _ => Self::Interrupted,
        }
    }

    pub(super) fn of_stopped(error: StoppedError) -> Self {
        match error {
            StoppedError::ConnectionLost(error) => Self::of_connection(error),
            _ => Self::Interrupted,
        }
    }
}

/// QUIC carries alerts of TLS as 0x100 and the alert (RFC 9001, 4.8).
fn is_crypto_about_identity(code: u64) -> bool {
    code >> 8 == 1 && is_about_identity(AlertDescription::from(code as u8))
}

/// What our own verifier says, and what TLS says of a missing or unusable key. An unsupported certificate is one that
/// is not a bare key.
fn is_about_identity(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
    )
}
