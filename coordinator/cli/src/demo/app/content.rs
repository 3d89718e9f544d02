//! Contents that say what they are and prove that they are whole: documents, and blocks of 4 KiB.

use std::io::Read;

/// Bytes in a block.
pub(super) const BLOCK_BYTES: usize = 4_096;

const BLOCK_MAGIC: &[u8; 8] = b"TSDEMO1\n";
const DIGEST_BYTES: usize = 32;

/// A document: a header line, a body, and the digest of both as the last line.
pub(super) fn document(seed: u64, id: u64, generation: u64, body_bytes: usize) -> Vec<u8> {
    let mut bytes = format!("tranship-demo document {id} {generation} {body_bytes}\n").into_bytes();
    let header = bytes.len();
    bytes.resize(header + body_bytes, 0);
    fill(&mut bytes[header..], seed, id, generation);
    let digest = blake3::hash(&bytes);
    bytes.extend_from_slice(format!("\n{digest}\n").as_bytes());
    bytes
}

/// Whether `bytes` are this document, whole.
pub(super) fn check_document(bytes: &[u8], id: u64, generation: u64) -> Result<(), String> {
    let trailer = 2 * DIGEST_BYTES + 2;
    let (content, trailer) = bytes.split_at_checked(bytes.len().saturating_sub(trailer)).ok_or("it is cut off")?;
    let header = content.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let expected = format!("tranship-demo document {id} {generation} ");
    if !header.starts_with(expected.as_bytes()) {
        return Err(format!("it begins with {:?}, not with {expected:?}", String::from_utf8_lossy(header)));
    }
    if trailer != format!("\n{}\n", blake3::hash(content)).as_bytes() {
        return Err("its checksum does not match".to_owned());
    }
    Ok(())
}

/// A block: what it is, where it belongs, and when it was written.
pub(super) fn block(seed: u64, slot: u64, sequence: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK_BYTES];
    bytes[..8].copy_from_slice(BLOCK_MAGIC);
    bytes[8..16].copy_from_slice(&slot.to_le_bytes());
    bytes[16..24].copy_from_slice(&sequence.to_le_bytes());
    fill(&mut bytes[24..BLOCK_BYTES - DIGEST_BYTES], seed, slot, sequence);
    let digest = blake3::hash(&bytes[..BLOCK_BYTES - DIGEST_BYTES]);
    bytes[BLOCK_BYTES - DIGEST_BYTES..].copy_from_slice(digest.as_bytes());
    bytes
}

/// Whether `bytes` are what was last written to this slot: nothing at all, or the block of this sequence number.
pub(super) fn check_block(bytes: &[u8], slot: u64, sequence: Option<u64>) -> Result<(), String> {
    let Some(sequence) = sequence else {
        let is_zero = bytes.iter().all(|&byte| byte == 0);
        return if is_zero { Ok(()) } else { Err("it was never written, and is not zeros".to_owned()) };
    };
    let (content, digest) = bytes.split_at_checked(BLOCK_BYTES - DIGEST_BYTES).ok_or("it is cut off")?;
    if digest != blake3::hash(content).as_bytes() {
        return Err("its checksum does not match".to_owned());
    }
    if content[..8] != *BLOCK_MAGIC || content[8..16] != slot.to_le_bytes() {
        return Err("it belongs elsewhere".to_owned());
    }
    if content[16..24] != sequence.to_le_bytes() {
        return Err(format!("it is not record {sequence}, which was written last"));
    }
    Ok(())
}

/// Half noise, half text, so that compression has something to do and not everything.
fn fill(bytes: &mut [u8], seed: u64, id: u64, generation: u64) {
    let (noise, text) = bytes.split_at_mut(bytes.len() / 2);
    let mut hasher = blake3::Hasher::new();
    for number in [seed, id, generation] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.finalize_xof().read_exact(noise).expect("the stream of a hash has no end");
    let line = format!("record {id} of generation {generation}: the quick brown fox jumps over the lazy dog\n");
    for chunk in text.chunks_mut(line.len()) {
        chunk.copy_from_slice(&line.as_bytes()[..chunk.len()]);
    }
}
