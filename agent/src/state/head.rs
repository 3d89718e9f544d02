//! Which manifest counts: the one small file that every change of state goes through.

use std::io;

use tranship_proto::codec::{Reader, WireError, Writer};
use tranship_proto::id::{Digest, Token};
use tranship_proto::message::Fidelity;

use super::Store;

const MAGIC: &[u8; 8] = b"tranhed2";
/// Bytes of a volume's identity, and of everything else together.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// What the state folder is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The volume that it describes.
    pub identity: Vec<u8>,
    /// Mode and exclusions under which its digests were made.
    pub scope: Digest,
    /// The last committed manifest.
    pub token: Option<Token>,
    /// The journal of what happened since.
    pub journal: u64,
    /// Passes that were committed.
    pub stage: u64,
    /// When the last pass was, and how fast passes are.
    pub pace: Pace,
}

/// What a pass taught about the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pace {
    /// When the last pass began, in milliseconds since 1970.
    pub began_ms: u64,
    /// Bytes per second that the fastest pass so far read, compared and sent.
    pub bytes_per_second: u64,
    /// Bytes per second that the link carried when it was what a pass waited for; 0 if it never was.
    pub link_bytes_per_second: u64,
}

impl Head {
    /// The head of a volume that nothing is known about.
    pub fn new(identity: Vec<u8>, scope: Digest) -> Self {
        Self { identity, scope, token: None, journal: 0, stage: 0, pace: Pace::default() }
    }

    /// The digest that binds a manifest to the way it was made.
    pub fn scope(fidelity: Fidelity, excludes: &[String]) -> Digest {
        let mut w = Writer::new();
        w.u8(fidelity.number());
        excludes.iter().for_each(|pattern| w.bytes(pattern.as_bytes()));
        Digest(blake3::hash(&w.finish()).into())
    }

    /// The stored head; nothing if there is none or it is damaged.
    pub fn load(store: &dyn Store) -> io::Result<Option<Self>> {
        let Some(file) = store.open("head")? else { return Ok(None) };
        let mut bytes = vec![0; HEAD_BYTES_MAX];
        let read = file.read_at(&mut bytes, 0)?;
        Ok(Self::decode(&bytes[..read]))
    }

    /// Replaces the stored head; durable when this returns.
    pub fn store(&self, store: &dyn Store) -> io::Result<()> {
        let file = store.create("head.new")?;
        file.write_at(&self.encode(), 0)?;
        file.sync()?;
        store.rename("head.new", "head")
    }

    /// Removes every file that this head does not count on.
    pub fn sweep(&self, store: &dyn Store) -> io::Result<()> {
        let mut keeps = vec!["head".to_owned(), super::journal::name(self.journal)];
        keeps.extend(self.token.map(manifest_name));
        keeps.extend(self.token.map(map_name));
        for name in store.names()? {
            if !keeps.contains(&name) {
                store.remove(&name)?;
            }
        }
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.array(MAGIC);
        w.bytes(&self.identity);
        w.array(&self.scope.0);
        w.option(self.token, |w, token| w.array(&token.0));
        w.u64(self.journal);
        w.u64(self.stage);
        w.u64(self.pace.began_ms);
        w.u64(self.pace.bytes_per_second);
        w.u64(self.pace.link_bytes_per_second);
        let mut bytes = w.finish();
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, checksum) = bytes.split_last_chunk::<32>()?;
        if blake3::hash(body).as_bytes() != checksum {
            return None;
        }
        let parse = || -> Result<Option<Self>, WireError> {
            let mut r = Reader::new(body);
            if r.array::<8>("magic")? != *MAGIC {
                return Ok(None);
            }
            let head = Self {
                identity: r.bytes("identity", HEAD_BYTES_MAX)?.to_vec(),
                scope: Digest(r.array("scope")?),
                token: r.option("token", |r| Ok(Token(r.array("token")?)))?,
                journal: r.u64("journal")?,
                stage: r.u64("stage")?,
                pace: Pace {
                    began_ms: r.u64("time")?,
                    bytes_per_second: r.u64("pace")?,
                    link_bytes_per_second: r.u64("link")?,
                },
            };
            r.finish()?;
            Ok(Some(head))
        };
        parse().ok().flatten()
    }
}

/// The name of a manifest's list.
pub fn manifest_name(token: Token) -> String {
    format!("manifest-{token}")
}

/// The name of a manifest's map.
pub fn map_name(token: Token) -> String {
    format!("map-{token}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_comes_back_and_a_damaged_one_does_not() {
        let head =
            Head { token: Some(Token([1; 16])), journal: 3, stage: 7, ..Head::new(vec![1, 2, 3], Digest([9; 32])) };
        let bytes = head.encode();
        assert_eq!(Head::decode(&bytes), Some(head));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Head::decode(&damaged), None, "flip at {at}");
            assert_eq!(Head::decode(&bytes[..at]), None, "cut at {at}");
        }
    }
}
