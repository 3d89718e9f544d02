//! Everything that one host must be told to reach a receiver on another, as one word to copy and paste.
//!
//! ```text
//! "tranship1-" base32( bytes: u16 BE │ fingerprint │ secret │ addresses: u8 │ (4 │ ip │ port) or (6 │ ip │ port) … │ check )
//! ```
//!
//! The length at the front tells a ticket that was cut off from one that was damaged; the check is the first four bytes
//! of BLAKE3 of all before it. A later format gets another number in the prefix.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;

use super::admission::{Admission, Secret};
use super::identity::Fingerprint;

const PREFIX: &str = "tranship1-";
const FAMILY: &str = "tranship";
const CHECK_BYTES: usize = 4;

/// Addresses in one ticket.
pub const TICKET_ADDRESSES_MAX: usize = 16;

/// Bytes of a ticket before they become text.
const BYTES_MAX: usize = 2 + 32 + 32 + 1 + TICKET_ADDRESSES_MAX * 19 + CHECK_BYTES;
const BYTES_MIN: usize = 2 + 32 + 32 + 1 + CHECK_BYTES;

/// Characters of a ticket, with room for line breaks that came with the paste.
pub const TICKET_CHARS_MAX: usize = 1_024;

/// Where a listener is, how it is recognised, and the secret that it asks for. Whoever has it may connect: its text is
/// a secret, and `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Where to try, the likeliest first; at most [`TICKET_ADDRESSES_MAX`].
    pub addresses: Vec<SocketAddr>,
    /// The listener's key.
    pub fingerprint: Fingerprint,
    /// What the dialer proves to know.
    pub secret: Secret,
}

/// Why a text is not a ticket.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TicketError {
    /// Something else altogether.
    #[error("this is not a ticket: a ticket starts with \"{PREFIX}\"")]
    Foreign,
    /// Made by a newer build.
    #[error("this ticket is of another format than \"{PREFIX}\"; both hosts need the same version of tranship")]
    Version,
    /// The end is missing.
    #[error("this ticket is cut off: it has {found} of {wanted} characters; copy it again in full")]
    CutOff {
        /// Characters that are there.
        found: usize,
        /// Characters that it says it has.
        wanted: usize,
    },
    /// A character was changed, added or is impossible.
    #[error("this ticket is damaged: {why}; copy it again in full")]
    Damaged {
        /// What was noticed.
        why: &'static str,
    },
}

impl TicketError {
    /// The stable code that users and scripts see.
    pub fn code(&self) -> &'static str {
        "TS-S610"
    }
}

impl Ticket {
    /// What the dialer demands and proves.
    pub fn admission(&self) -> Admission {
        Admission::Both(self.fingerprint, self.secret.clone())
    }

    fn to_bytes(&self) -> Vec<u8> {
        // More addresses than a ticket holds would not help anyone to connect.
        let addresses = &self.addresses[..self.addresses.len().min(TICKET_ADDRESSES_MAX)];
        let mut bytes = vec![0; 2];
        bytes.extend_from_slice(&self.fingerprint.0);
        bytes.extend_from_slice(self.secret.expose());
        bytes.push(addresses.len() as u8);
        for address in addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend_from_slice(&ip.octets());
                }
            }
            bytes.extend_from_slice(&address.port().to_be_bytes());
        }
        let len = (bytes.len() + CHECK_BYTES) as u16;
        bytes[..2].copy_from_slice(&len.to_be_bytes());
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..CHECK_BYTES]);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.get(2..bytes.len().checked_sub(CHECK_BYTES)?)?;
        let fingerprint = Fingerprint(*take(&mut rest)?);
        let secret = Secret::from_bytes(*take(&mut rest)?);
        let [count] = *take(&mut rest)?;
        if usize::from(count) > TICKET_ADDRESSES_MAX {
            return None;
        }
        let mut addresses = Vec::with_capacity(count.into());
        for _ in 0..count {
            let ip: IpAddr = match *take(&mut rest)? {
                [4] => Ipv4Addr::from(*take::<4>(&mut rest)?).into(),
                [6] => Ipv6Addr::from(*take::<16>(&mut rest)?).into(),
                [_] => return None,
            };
            addresses.push(SocketAddr::new(ip, u16::from_be_bytes(*take(&mut rest)?)));
        }
        rest.is_empty().then_some(Self { addresses, fingerprint, secret })
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(head)
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        f.write_str(&base32::encode(&self.to_bytes()))
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("addresses", &self.addresses)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let damaged = |why| TicketError::Damaged { why };
        if text.len() > TICKET_CHARS_MAX {
            return Err(if text.trim_start().starts_with(FAMILY) {
                damaged("it is too long")
            } else {
                TicketError::Foreign
            });
        }
        // A terminal may have broken the line, and a mail program may have shouted.
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
        let Some(digits) = text.strip_prefix(PREFIX) else {
            return Err(match text.strip_prefix(FAMILY) {
                None => TicketError::Foreign,
                Some("" | "1") => TicketError::CutOff { found: text.len(), wanted: chars_of(BYTES_MIN) },
                Some(_) => TicketError::Version,
            });
        };
        let cut_off = |bytes| TicketError::CutOff { found: text.len(), wanted: chars_of(bytes) };
        let bytes = base32::decode(digits).map_err(damaged)?;
        let Some((len, _)) = bytes.split_first_chunk() else { return Err(cut_off(BYTES_MIN)) };
        let len = usize::from(u16::from_be_bytes(*len));
        if !(BYTES_MIN..=BYTES_MAX).contains(&len) {
            return Err(damaged("its length is impossible"));
        }
        let wanted = chars_of(len) - PREFIX.len();
        if digits.len() < wanted {
            return Err(cut_off(len));
        }
        if digits.len() > wanted {
            return Err(damaged("something follows its end"));
        }
        let (body, check) = bytes.split_at(len - CHECK_BYTES);
        if blake3::hash(body).as_bytes()[..CHECK_BYTES] != *check {
            return Err(damaged("its checksum is wrong"));
        }
        let ticket = Self::from_bytes(&bytes).ok_or(damaged("its content has no meaning"))?;
        // Bits of the last digit that belong to no byte end here.
        if ticket.to_string() == text { Ok(ticket) } else { Err(damaged("it is not written as it should be")) }
    }
}

/// Characters of a ticket of so many bytes.
fn chars_of(bytes: usize) -> usize {
    PREFIX.len() + (bytes * 8).div_ceil(5)
}

/// RFC 4648 base32 in lower case and without padding: a double click selects all of it.
mod base32 {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

    pub(super) fn encode(bytes: &[u8]) -> String {
        let mut text = String::with_capacity((bytes.len() * 8).div_ceil(5));
        let (mut word, mut bits) = (0u32, 0);
        for &byte in bytes {
            word = (word << 8 | u32::from(byte)) & 0xfff;
            bits += 8;
            while bits >= 5 {
                bits -= 5;
                text.push(char::from(DIGITS[(word >> bits & 31) as usize]));
            }
        }
        if bits > 0 {
            text.push(char::from(DIGITS[(word << (5 - bits) & 31) as usize]));
        }
        text
    }

    /// The whole bytes in `text`; the bits of an unfinished one are dropped.
    pub(super) fn decode(text: &str) -> Result<Vec<u8>, &'static str> {
        let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
        let (mut word, mut bits) = (0u32, 0);
        for digit in text.bytes() {
            let value = DIGITS.iter().position(|&known| known == digit).ok_or("it has a strange character")?;
            word = (word << 5 | value as u32) & 0xfff;
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                bytes.push((word >> bits) as u8);
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tickets() -> impl Strategy<Value = Ticket> {
        let addresses =
            prop::collection::vec(any::<(IpAddr, u16)>().prop_map(SocketAddr::from), 0..=TICKET_ADDRESSES_MAX);
        (addresses, any::<[u8; 32]>(), any::<[u8; 32]>()).prop_map(|(addresses, fingerprint, secret)| Ticket {
            addresses,
            fingerprint: Fingerprint(fingerprint),
            secret: Secret::from_bytes(secret),
        })
    }

    proptest! {
        #[test]
        fn a_ticket_comes_back(ticket in tickets()) {
            let text = ticket.to_string();
            prop_assert!(text.len() <= TICKET_CHARS_MAX);
            prop_assert_eq!(&text.parse::<Ticket>(), &Ok(ticket.clone()));
            let broken = text.to_uppercase().as_bytes().chunks(40).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n ");
            prop_assert_eq!(broken.parse(), Ok(ticket));
        }

        #[test]
        fn a_ticket_that_is_cut_off_says_so(ticket in tickets(), at in any::<prop::sample::Index>()) {
            let text = ticket.to_string();
            let found = FAMILY.len() + at.index(text.len() - FAMILY.len());
            let error = text[..found].parse::<Ticket>().unwrap_err();
            let is_cut_off = matches!(error, TicketError::CutOff { found: f, .. } if f == found);
            prop_assert!(is_cut_off, "{:?} for {}", error, found);
        }

        #[test]
        fn a_changed_character_is_noticed(ticket in tickets(), at in any::<prop::sample::Index>(), to in "[a-z2-7]") {
            let text = ticket.to_string();
            let at = PREFIX.len() + at.index(text.len() - PREFIX.len());
            let mut changed = text.clone();
            changed.replace_range(at..at + 1, &to);
            prop_assume!(changed != text);
            prop_assert!(changed.parse::<Ticket>().is_err());
        }

        #[test]
        fn any_text_is_answered(text in ".{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(text.parse::<Ticket>().is_err());
            let text = format!("{PREFIX}{}", base32::encode(&bytes));
            prop_assert!(text.parse::<Ticket>().is_err());
            prop_assert_eq!(base32::decode(&base32::encode(&bytes)), Ok(bytes));
        }
    }

    #[test]
    fn what_is_no_ticket_is_told_from_what_is_too_new() {
        assert_eq!("/srv/data".parse::<Ticket>(), Err(TicketError::Foreign));
        assert_eq!("tranship2-abc".parse::<Ticket>(), Err(TicketError::Version));
    }

    #[test]
    fn the_secret_is_not_in_the_debug_text() {
        let secret = Secret::from_bytes([0xab; 32]);
        let ticket = Ticket { addresses: vec![], fingerprint: Fingerprint([1; 32]), secret };
        let text = format!("{ticket:?} {:?}", ticket.admission());
        assert!(!text.contains("abab") && !text.contains("171"), "{text}");
    }
}
