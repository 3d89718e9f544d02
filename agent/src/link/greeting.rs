//! The first bytes of every connection, below all frames: what it is for, and the proofs of both sides.
//!
//! ```text
//! dialer → listener:  purpose: u8 │ connections: u8 │ link: 16 bytes │ proof: 32 bytes
//! listener → dialer:  answer: u8  │                   link: 16 bytes │ proof: 32 bytes
//! ```
//!
//! The sizes are fixed: there is nothing that a stranger could make us allocate.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::LinkError;
use super::admission::{Admission, Binding, Proof, Role};

/// Names a link while it lives, so that further connections find it. Random, and only known to its two ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LinkId(pub(super) [u8; 16]);

impl LinkId {
    /// Said by the dialer of a new link, which the listener names.
    pub(super) const NONE: Self = Self([0; 16]);

    pub(super) fn generate() -> Result<Self, LinkError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|_| LinkError::Crypto { what: "draw random bytes" })?;
        Ok(Self(bytes))
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A new link; this connection carries its control stream.
    Control,
    /// One more QUIC connection of a link, for data.
    Join,
    /// TCP: a data stream from the dialer to the listener.
    DataToListener,
    /// TCP: a data stream that the listener may use when it wants to send.
    DataToDialer,
}

impl Purpose {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Control, Self::Join, Self::DataToListener, Self::DataToDialer].into_iter().find(|p| *p as u8 == number)
    }
}

/// What the dialer says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Introduction {
    pub(super) purpose: Purpose,
    /// QUIC connections for data that the link will have once either side sends any.
    pub(super) connections: u8,
    pub(super) link: LinkId,
}

const INTRODUCTION_BYTES: usize = 1 + 1 + 16 + 32;
const ANSWER_BYTES: usize = 1 + 16 + 32;
const WELCOME: u8 = 1;
const REFUSED: u8 = 0;

/// The dialer's half: introduces this connection and checks that the listener knows the secret too.
pub(super) async fn introduce(
    send: &mut (impl AsyncWrite + Unpin),
    receive: &mut (impl AsyncRead + Unpin),
    introduction: Introduction,
    admission: &Admission,
    binding: &Binding,
) -> Result<LinkId, LinkError> {
    let mut hello = [0; INTRODUCTION_BYTES];
    hello[0] = introduction.purpose as u8;
    hello[1] = introduction.connections;
    hello[2..18].copy_from_slice(&introduction.link.0);
    hello[18..].copy_from_slice(admission.proof(Role::Dialer, binding).as_bytes());
    send.write_all(&hello).await.map_err(LinkError::of_io)?;
    send.flush().await.map_err(LinkError::of_io)?;

    let mut answer = [0; ANSWER_BYTES];
    receive.read_exact(&mut answer).await.map_err(LinkError::of_io)?;
    let (link, proof) = answer[1..].split_at(16);
    if answer[0] != WELCOME || !proves(proof, admission, Role::Listener, binding) {
        return Err(LinkError::Identity);
    }
    Ok(LinkId(link.try_into().expect("split at 16")))
}

/// The listener's first half: what the dialer wants, if it has proven to be the one that is meant.
pub(super) async fn hear(
    receive: &mut (impl AsyncRead + Unpin),
    admission: &Admission,
    binding: &Binding,
) -> Result<Introduction, LinkError> {
    let mut hello = [0; INTRODUCTION_BYTES];
    receive.read_exact(&mut hello).await.map_err(LinkError::of_io)?;
    if !proves(&hello[18..], admission, Role::Dialer, binding) {
        return Err(LinkError::Identity);
    }
    let link = LinkId(hello[2..18].try_into().expect("16 bytes"));
    let purpose = Purpose::from_number(hello[0]).ok_or(LinkError::Greeting)?;
    Ok(Introduction { purpose, connections: hello[1], link })
}

/// The listener's second half.
pub(super) async fn welcome(
    send: &mut (impl AsyncWrite + Unpin),
    link: LinkId,
    admission: &Admission,
    binding: &Binding,
) -> Result<(), LinkError> {
    let mut answer = [0; ANSWER_BYTES];
    answer[0] = WELCOME;
    answer[1..17].copy_from_slice(&link.0);
    answer[17..].copy_from_slice(admission.proof(Role::Listener, binding).as_bytes());
    answer_with(send, &answer).await.map_err(LinkError::of_io)
}

/// Instead of [`welcome`]: tells nothing but that it ends here.
pub(super) async fn refuse(send: &mut (impl AsyncWrite + Unpin)) {
    // Who was refused may be gone already.
    let _ = answer_with(send, &[REFUSED; ANSWER_BYTES]).await;
}

async fn answer_with(send: &mut (impl AsyncWrite + Unpin), answer: &[u8]) -> io::Result<()> {
    send.write_all(answer).await?;
    send.flush().await
}

/// In constant time.
fn proves(bytes: &[u8], admission: &Admission, role: Role, binding: &Binding) -> bool {
    bytes.try_into().is_ok_and(|bytes| Proof::from_bytes(bytes) == admission.proof(role, binding))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::admission::Secret;

    const HELLO: Introduction = Introduction { purpose: Purpose::Join, connections: 4, link: LinkId([9; 16]) };

    async fn meet(dialer: &Admission, listener: &Admission, bindings: [u8; 2]) -> (bool, bool) {
        let [here, there] = bindings.map(|byte| Binding([byte; 32]));
        let (one, two) = tokio::io::duplex(256);
        let (mut dialer_in, mut dialer_out) = tokio::io::split(one);
        let (mut listener_in, mut listener_out) = tokio::io::split(two);
        let dial = introduce(&mut dialer_out, &mut dialer_in, HELLO, dialer, &here);
        let listen = async {
            match hear(&mut listener_in, listener, &there).await {
                Ok(hello) => {
                    assert!(hello == HELLO);
                    welcome(&mut listener_out, LinkId([3; 16]), listener, &there).await.is_ok()
                }
                Err(_) => {
                    refuse(&mut listener_out).await;
                    false
                }
            }
        };
        let (dialed, heard) = tokio::join!(dial, listen);
        (dialed.is_ok_and(|link| link == LinkId([3; 16])), heard)
    }

    #[tokio::test]
    async fn both_sides_must_know_the_secret_and_see_the_same_session() {
        let secret = Admission::Secret(Secret::from_bytes([1; 32]));
        let other = Admission::Secret(Secret::from_bytes([2; 32]));
        assert_eq!(meet(&secret, &secret, [5, 5]).await, (true, true));
        assert_eq!(meet(&secret, &other, [5, 5]).await, (false, false));
        assert_eq!(meet(&secret, &secret, [5, 6]).await, (false, false));
    }

    #[tokio::test]
    async fn an_echo_of_the_dialers_proof_is_no_proof_of_the_listener() {
        let secret = Admission::Secret(Secret::from_bytes([1; 32]));
        let binding = Binding([5; 32]);
        let mut echo = vec![WELCOME];
        echo.extend_from_slice(&[0; 16]);
        echo.extend_from_slice(secret.proof(Role::Dialer, &binding).as_bytes());
        let error = introduce(&mut Vec::new(), &mut &echo[..], HELLO, &secret, &binding).await.err();
        assert!(matches!(error, Some(LinkError::Identity)));
    }
}
