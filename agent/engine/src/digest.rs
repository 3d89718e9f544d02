//! The digests that everything is compared by.
//!
//! ```text
//! leaf    = BLAKE3("leaf",    16 KiB of content)
//! piece   = BLAKE3("piece",   its leaves)                      1 MiB of content
//! content = BLAKE3("content", size, its pieces)
//! meta    = BLAKE3("meta",    what the contract carries)
//! volume  = BLAKE3("volume",  every entry in order: place, kind, size, meta, content, first name)
//! ```
//!
//! Each kind has its own key, so that no value of one kind can stand for another. The tree is independent of where
//! bytes are stored: holes are zeros, and the digest of a zero leaf or piece is a constant that costs no hashing.
//! With a nonce the same tree answers a challenge: every leaf is then keyed by it, so that nobody can have computed it
//! before the nonce was known.

use std::sync::LazyLock;

use tranship_proto::codec::Writer;
use tranship_proto::entry::{Kind, Meta, Place};
use tranship_proto::id::Digest;
use tranship_proto::limit::{LEAF_BYTES, LEAVES_PER_PIECE, PIECE_BYTES};
use tranship_proto::message::{Contract, Fidelity, GapKind};

/// Hashes contents, plainly or under a challenge's nonce.
#[derive(Clone)]
pub struct Digester {
    leaf_key: [u8; 32],
    zero_leaf: Digest,
    zero_piece: Digest,
}

static CANONICAL: LazyLock<Digester> = LazyLock::new(|| Digester::with_leaf_key(key("leaf")));
static PIECE_KEY: LazyLock<[u8; 32]> = LazyLock::new(|| key("piece"));
static CONTENT_KEY: LazyLock<[u8; 32]> = LazyLock::new(|| key("content"));
static META_KEY: LazyLock<[u8; 32]> = LazyLock::new(|| key("meta"));
static VOLUME_KEY: LazyLock<[u8; 32]> = LazyLock::new(|| key("volume"));

fn key(kind: &str) -> [u8; 32] {
    blake3::derive_key(&format!("tranship 2026-11 {kind} v1"), b"")
}

impl Digester {
    /// The digester of canonical digests.
    pub fn canonical() -> &'static Self {
        &CANONICAL
    }

    /// The digester that answers a challenge.
    pub fn challenged(nonce: &[u8; 32]) -> Self {
        Self::with_leaf_key(blake3::derive_key("tranship 2026-11 challenge v1", nonce))
    }

    fn with_leaf_key(leaf_key: [u8; 32]) -> Self {
        let zero_leaf = Digest(blake3::keyed_hash(&leaf_key, &[0; LEAF_BYTES]).into());
        let zero_piece = piece(&[zero_leaf; LEAVES_PER_PIECE]);
        Self { leaf_key, zero_leaf, zero_piece }
    }

    /// The digest of one leaf, which is shorter than 16 KiB only at the end of a content.
    pub fn leaf(&self, bytes: &[u8]) -> Digest {
        if bytes.len() == LEAF_BYTES && is_zero(bytes) {
            return self.zero_leaf;
        }
        Digest(blake3::keyed_hash(&self.leaf_key, bytes).into())
    }

    /// The digests of all leaves of a piece.
    pub fn leaves<'a>(&'a self, piece: &'a [u8]) -> impl Iterator<Item = Digest> + 'a {
        piece.chunks(LEAF_BYTES).map(|leaf| self.leaf(leaf))
    }

    /// The digest of a piece.
    pub fn piece(&self, bytes: &[u8]) -> Digest {
        if bytes.len() == PIECE_BYTES && is_zero(bytes) {
            return self.zero_piece;
        }
        let mut hasher = blake3::Hasher::new_keyed(&PIECE_KEY);
        self.leaves(bytes).for_each(|leaf| {
            hasher.update(&leaf.0);
        });
        Digest(hasher.finalize().into())
    }

    /// The digest of a whole content that is in memory.
    pub fn content(&self, bytes: &[u8]) -> Digest {
        let mut content = ContentHasher::default();
        bytes.chunks(PIECE_BYTES).for_each(|bytes| content.push(self.piece(bytes)));
        content.finish(bytes.len() as u64)
    }

    /// The digest of a full piece of zeros.
    pub fn zero_piece(&self) -> Digest {
        self.zero_piece
    }
}

/// The digest of a piece with these leaves.
pub fn piece(leaves: &[Digest]) -> Digest {
    let mut hasher = blake3::Hasher::new_keyed(&PIECE_KEY);
    for leaf in leaves {
        hasher.update(&leaf.0);
    }
    Digest(hasher.finalize().into())
}

/// Puts the pieces of one content together, in order.
pub struct ContentHasher {
    hasher: blake3::Hasher,
}

impl Default for ContentHasher {
    fn default() -> Self {
        Self { hasher: blake3::Hasher::new_keyed(&CONTENT_KEY) }
    }
}

impl ContentHasher {
    /// Its next piece.
    pub fn push(&mut self, piece: Digest) {
        self.hasher.update(&piece.0);
    }

    /// The digest of the content, which turned out to have `size` bytes.
    pub fn finish(mut self, size: u64) -> Digest {
        self.hasher.update(&size.to_le_bytes());
        Digest(self.hasher.finalize().into())
    }
}

/// The digest of what `contract` carries of an object's metadata.
pub fn meta(contract: Contract, kind: Kind, meta: &Meta, target: Option<&[u8]>, device: u64) -> Digest {
    let mut w = Writer::new();
    w.u8(kind.number());
    // A symbolic link has no mode of its own on Linux.
    if kind != Kind::Symlink && !contract.accepts(GapKind::Mode) {
        w.u64(u64::from(meta.mode));
    }
    if contract.fidelity > Fidelity::Plain && !contract.accepts(GapKind::Owner) {
        w.u64(u64::from(meta.uid));
        w.u64(u64::from(meta.gid));
    }
    if !contract.accepts(GapKind::Time) {
        meta.mtime.encode(&mut w);
    }
    for xattr in &meta.xattrs {
        if !contract.accepts(xattr_gap(&xattr.name)) {
            w.bytes(&xattr.name);
            w.bytes(&xattr.value);
        }
    }
    w.option(target, Writer::bytes);
    w.u64(device);
    Digest(blake3::keyed_hash(&META_KEY, &w.finish()).into())
}

/// The digest that stands for the metadata of a block volume, which has none.
pub fn block_meta() -> Digest {
    meta(Contract::all(Fidelity::Plain), Kind::Block, &Meta::default(), None, 0)
}

/// The kind of gap that a missing extended attribute is.
pub fn xattr_gap(name: &[u8]) -> GapKind {
    match name {
        b"security.capability" => GapKind::Capability,
        b"system.posix_acl_access" | b"system.posix_acl_default" => GapKind::Acl,
        _ => GapKind::Xattr,
    }
}

/// Puts the entries of a volume together, in order.
pub struct VolumeHasher {
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
}

impl Default for VolumeHasher {
    fn default() -> Self {
        Self { hasher: blake3::Hasher::new_keyed(&VOLUME_KEY), buffer: Vec::new() }
    }
}

impl VolumeHasher {
    /// The next entry. Every field is of fixed size or carries its length, so that no two lists of entries have the
    /// same bytes.
    pub fn push(
        &mut self,
        place: &Place,
        kind: Kind,
        size: u64,
        meta: Digest,
        content: Digest,
        leader: Option<&Place>,
    ) {
        let mut w = Writer::onto(std::mem::take(&mut self.buffer));
        w.bytes(place.as_bytes());
        w.u8(kind.number());
        w.u64(size);
        w.array(&meta.0);
        w.array(&content.0);
        w.option(leader, |w, leader| w.bytes(leader.as_bytes()));
        self.buffer = w.finish();
        self.hasher.update(&self.buffer);
        self.buffer.clear();
    }

    /// The volume's digest.
    pub fn finish(self) -> Digest {
        Digest(self.hasher.finalize().into())
    }
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Sixteen at a time, in a form that the compiler turns into vector code.
    let mut chunks = bytes.chunks_exact(128);
    chunks.remainder().iter().all(|&byte| byte == 0)
        && chunks.all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_have_the_digest_that_hashing_them_would_give() {
        let digester = Digester::canonical();
        let leaves = vec![Digest(blake3::keyed_hash(&key("leaf"), &[0; LEAF_BYTES]).into()); LEAVES_PER_PIECE];
        assert_eq!(digester.piece(&[0; PIECE_BYTES]), piece(&leaves));
        assert_eq!(digester.zero_piece(), piece(&leaves));
    }

    #[test]
    fn a_nonce_changes_every_digest() {
        let challenged = Digester::challenged(&[7; 32]);
        for bytes in [&b""[..], b"a", &[0; LEAF_BYTES], &[0; PIECE_BYTES], &[1; PIECE_BYTES + 1]] {
            // An empty content has no leaf, so its digest says only that it is empty.
            assert_eq!(challenged.content(bytes) == Digester::canonical().content(bytes), bytes.is_empty());
        }
    }

    #[test]
    fn known_answers_stay_the_same() {
        let hex = |digest: Digest| digest.to_string()[..16].to_owned();
        let digester = Digester::canonical();
        assert_eq!(hex(digester.content(b"")), "852cd58d879fb29b");
        assert_eq!(hex(digester.content(b"tranship")), "08aa83074f6da634");
        assert_eq!(hex(digester.content(&vec![1; PIECE_BYTES + 1])), "f751dbe5f8d4deb4");
    }

    #[test]
    fn a_single_byte_that_is_not_zero_is_seen_anywhere() {
        for len in [1, 127, 128, 129, 1000] {
            assert!(is_zero(&vec![0; len]));
            for at in 0..len {
                let mut bytes = vec![0; len];
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{at} of {len}");
            }
        }
    }

    #[test]
    fn an_accepted_gap_is_outside_the_contract() {
        let all = Contract::all(Fidelity::Owner);
        let (ours, theirs) = (Meta { uid: 1, ..Meta::default() }, Meta { uid: 2, ..Meta::default() });
        let digest = |contract, m: &Meta| meta(contract, Kind::File, m, None, 0);
        assert_ne!(digest(all, &ours), digest(all, &theirs));
        let accepting = all.accepting(GapKind::Owner);
        assert_eq!(digest(accepting, &ours), digest(accepting, &theirs));
        let plain = Contract::all(Fidelity::Plain);
        assert_eq!(digest(plain, &ours), digest(plain, &theirs));
    }
}
