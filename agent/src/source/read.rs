//! Contents: small files in packs, large ones piece by piece, by as many threads as call.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tranship_engine::digest::{self, Digester};
use tranship_engine::entry::Change;
use tranship_engine::piece::{self, Basis, Examined};
use tranship_engine::plan::Candidate;
use tranship_engine::session::source::{PIECES_PER_READ, Produced};
use tranship_engine::shift::Window;
use tranship_proto::entry::Kind;
use tranship_proto::id::{ContentId, Digest};
use tranship_proto::limit::{PACKED_FILE_BYTES_MAX, PIECE_BYTES};
use tranship_proto::message::{Ask, Batch, Close, Onto, Op, Open, Pack, Packed, Piece};

use super::shifted::{MARGIN_BYTES, Shifted};
use super::{FRESH, SURVEYED, Source, State, entry_of, lock};
use crate::pass::{Counters, PassError};
use crate::state::{StateError, Store, read_list};
use crate::volume::{Access, Content, Look};

/// Files and bytes in one pack.
const PACK_FILES: usize = 512;
const PACK_BYTES: usize = 768 << 10;

/// Where the reading stands.
pub(super) struct Reading {
    candidates: Box<dyn Iterator<Item = Result<Candidate, StateError>> + Send>,
    large: Option<Arc<Large>>,
    next_piece: u64,
    next_content: u32,
    /// A large content that was met while small ones were collected.
    next_large: Option<Candidate>,
    /// Small ones that were given back, as a message was full before they were read.
    given_back: Vec<Candidate>,
    /// Reads of small ones under way, which may still give some back.
    small_reads: usize,
}

impl Reading {
    pub(super) fn new(store: &dyn Store) -> Result<Self, StateError> {
        let candidates = read_list(store, "candidates.tmp")?.expect("it was written by us");
        Ok(Self {
            candidates,
            large: None,
            next_piece: 0,
            next_content: 0,
            next_large: None,
            given_back: Vec::new(),
            small_reads: 0,
        })
    }
}

/// What one call reads.
enum Unit {
    Small(Vec<Candidate>),
    Range(Arc<Large>, u64, u64),
}

/// A large content that is being read, by several threads at a time.
pub(super) struct Large {
    pub(super) candidate: Candidate,
    content: Box<dyn Content>,
    look: Look,
    pub(super) size: u64,
    pub(super) open: Open,
    pub(super) basis: Held,
    /// Where its bytes were, if they moved.
    pub(super) shifted: Option<Shifted>,
    pub(super) map_start: u64,
    pieces_done: AtomicU64,
    pieces_sent: AtomicU64,
    /// The first piece that ended before it should, and its bytes.
    short: Mutex<Option<(u64, usize)>>,
}

/// What the destination holds of a large content.
pub(super) enum Held {
    Zeros,
    Unknown,
    /// Leaves at this place of our last manifest's map, of a content of this size.
    Leaves(u64, u64),
    /// Piece digests at this place of the survey, of a content of this size.
    Pieces(u64, u64),
}

impl Reading {
    fn next_candidate(&mut self) -> Result<Option<Candidate>, StateError> {
        match self.next_large.take().or_else(|| self.given_back.pop()) {
            Some(candidate) => Ok(Some(candidate)),
            None => self.candidates.next().transpose(),
        }
    }

    fn small(&mut self, candidates: Vec<Candidate>) -> Unit {
        self.small_reads += 1;
        Unit::Small(candidates)
    }
}

/// One read of small files; what it has not got to is given back in the end.
struct SmallRead<'a> {
    source: &'a Source,
    left: std::vec::IntoIter<Candidate>,
}

impl Drop for SmallRead<'_> {
    fn drop(&mut self) {
        if let Some(reading) = lock(&self.source.reading).as_mut() {
            reading.small_reads -= 1;
            reading.given_back.extend(&mut self.left);
        }
        self.source.given_back.notify_all();
    }
}

impl Source {
    /// Reads the next contents; nothing is left when the second result is true.
    pub fn read(&self) -> Result<(Vec<Produced>, bool), PassError> {
        let state = self.state();
        match self.next_unit(&state)? {
            None => Ok((Vec::new(), true)),
            Some(Unit::Small(candidates)) => Ok((self.read_small(candidates)?, false)),
            Some(Unit::Range(large, from, to)) => Ok((self.read_range(&state, &large, from, to)?, false)),
        }
    }

    fn next_unit(&self, state: &State) -> Result<Option<Unit>, PassError> {
        let mut guard = lock(&self.reading);
        let (mut small, mut small_bytes) = (Vec::new(), 0);
        loop {
            let reading = guard.as_mut().expect("planned before it is read");
            if let Some(large) = &reading.large {
                let (large, from) = (large.clone(), reading.next_piece);
                let to = (from + PIECES_PER_READ as u64).min(piece::count(large.size).max(1));
                reading.next_piece = to;
                if to >= piece::count(large.size) {
                    reading.large = None;
                }
                return Ok(Some(Unit::Range(large, from, to)));
            }
            if small.len() >= PACK_FILES || small_bytes >= PACK_BYTES {
                return Ok(Some(reading.small(small)));
            }
            let candidate = match reading.next_candidate()? {
                Some(candidate) => candidate,
                None if !small.is_empty() => return Ok(Some(reading.small(small))),
                None if reading.small_reads == 0 => return Ok(None),
                None => {
                    guard = self.given_back.wait(guard).expect("no thread panics while it holds the lock");
                    continue;
                }
            };
            let Some(found) = &candidate.found else { continue };
            if !found.stat.kind.has_content() || found.leader.is_some() {
                continue;
            }
            let is_small = found.stat.kind == Kind::File && found.stat.size <= PACKED_FILE_BYTES_MAX as u64;
            if is_small {
                small_bytes += found.stat.size as usize;
                small.push(candidate);
            } else if !small.is_empty() {
                reading.next_large = Some(candidate);
                return Ok(Some(reading.small(small)));
            } else if let Some(large) = self.open_large(state, candidate, ContentId(reading.next_content))? {
                reading.next_content += 1;
                reading.next_piece = 0;
                reading.large = Some(Arc::new(large));
            }
        }
    }

    /// Reads small files until there is enough for a message.
    fn read_small(&self, candidates: Vec<Candidate>) -> Result<Vec<Produced>, PassError> {
        let mut reading = SmallRead { source: self, left: candidates.into_iter() };
        let (mut files, mut ops, mut batch) = (Vec::new(), Vec::new(), Batch::default());
        let mut body = Vec::with_capacity(PACK_BYTES + PACKED_FILE_BYTES_MAX);
        while batch.has_room()
            && let Some(candidate) = reading.left.next()
        {
            let from = body.len();
            let (packed, op) = self.read_file(&candidate, &mut body)?;
            packed.iter().for_each(|packed| batch.add(packed));
            op.iter().for_each(|op| batch.add(op));
            if packed.is_none() {
                body.truncate(from);
            }
            files.extend(packed);
            ops.extend(op);
        }
        let mut produced = Vec::new();
        if !files.is_empty() {
            produced.push(self.pack(files, body));
        }
        if !ops.is_empty() {
            produced.push(Produced::Ops(ops));
        }
        Ok(produced)
    }

    fn pack(&self, files: Vec<Packed>, body: Vec<u8>) -> Produced {
        let raw = body.len();
        Counters::add(&self.counters.bytes_literal, raw as u64);
        let (codec, body) = self.compressor.pack(body.into());
        Counters::add(&self.counters.bytes_compressed, (raw - body.len()) as u64);
        Produced::Pack(Pack { files, codec, body })
    }

    /// Reads one small file onto the end of `body`; gives it if it has to be sent, or else its metadata if that has.
    fn read_file(&self, c: &Candidate, body: &mut Vec<u8>) -> Result<(Option<Packed>, Option<Op>), PassError> {
        let found = c.found.as_ref().expect("only what was found is read");
        let from = body.len();
        let mut read = || -> Result<_, crate::volume::VolumeError> {
            let content = self.volume.open(&c.place, self.access())?;
            let look = content.look(self.settings.contract.fidelity)?;
            let size = look.stat.size.min(PACKED_FILE_BYTES_MAX as u64) as usize;
            body.resize(from + size, 0);
            let read = content.read_at(&mut body[from..], 0)?;
            body.truncate(from + read);
            // One byte more tells a file that has grown; its time would tell too, a tick later.
            Ok((look, content.stat()?))
        };
        let (mut look, after) = match read() {
            Ok(read) => read,
            Err(error) => {
                self.pass_over(c, error)?;
                return Ok((None, None));
            }
        };
        self.note_gaps(&mut look);
        let bytes = &body[from..];
        self.insist(&c.place, found.stat == look.stat && look.stat == after)?;
        Counters::add(&self.counters.bytes_read, bytes.len() as u64);
        Counters::add(&self.counters.bytes_done, found.stat.size);
        Counters::add(&self.counters.entries_done, 1);
        let digest = Digester::canonical().content(bytes);
        let meta = self.meta(Kind::File, &look);
        let stat = self.settled_stat(&found.stat, &look.stat, &after);
        let size = bytes.len() as u64;
        let mut entry = entry_of(c, Kind::File, stat, size, meta);
        entry.content = Some(digest);
        self.push_result(Change::Entry(entry))?;
        let held = c.held.as_ref().filter(|held| held.kind == Kind::File && held.leader.is_none());
        if held.is_some_and(|held| held.content == Some(digest) && held.size == size) {
            Counters::add(&self.counters.bytes_matched, size);
            let is_same = held.is_some_and(|held| held.meta == Some(meta));
            let op = Op::SetMeta { place: c.place.clone(), kind: Kind::File, meta: look.meta };
            return Ok((None, (!is_same).then_some(op)));
        }
        Ok((Some(Packed { place: c.place.clone(), size: size as u32, digest, meta: look.meta }), None))
    }

    fn open_large(&self, state: &State, c: Candidate, id: ContentId) -> Result<Option<Large>, PassError> {
        let open = || -> Result<_, crate::volume::VolumeError> {
            let content = self.volume.open(&c.place, self.access())?;
            let look = content.look(self.settings.contract.fidelity)?;
            Ok((content, look))
        };
        let (content, mut look) = match open() {
            Ok(opened) => opened,
            Err(error) => {
                self.pass_over(&c, error)?;
                return Ok(None);
            }
        };
        self.note_gaps(&mut look);
        let found = c.found.as_ref().expect("only what was found is read");
        let kind = found.stat.kind;
        // What is appended while it is read is the next pass's.
        let size = found.stat.size.min(look.stat.size);
        let (onto, basis) = held_basis(&c, kind);
        // A block volume is written in place, and never beside itself.
        let shifted = if kind == Kind::File { self.shifted(state, &*content, size, &basis)? } else { None };
        let (onto, basis) = if shifted.is_some() { (Onto::Beside, Held::Zeros) } else { (onto, basis) };
        let open = Open { content: id, place: c.place.clone(), kind, size, onto };
        let map_start = state.map.reserve(size);
        Ok(Some(Large {
            candidate: c,
            content,
            look,
            size,
            open,
            basis,
            shifted,
            map_start,
            pieces_done: AtomicU64::new(0),
            pieces_sent: AtomicU64::new(0),
            short: Mutex::new(None),
        }))
    }

    /// At level `full` the proof reads everything once more.
    fn access(&self) -> Access {
        if self.settings.reads_twice { Access::ReadFirst } else { Access::Read }
    }

    fn read_range(&self, state: &State, large: &Arc<Large>, from: u64, to: u64) -> Result<Vec<Produced>, PassError> {
        let (mut pieces, mut asks) = (Vec::new(), Vec::new());
        let count = piece::count(large.size);
        let indices = from..to.min(count);
        let total = indices.end.saturating_sub(indices.start);
        for index in indices {
            match self.read_piece(state, large, index)? {
                Read::Same => {}
                Read::Changed(piece) => pieces.push(piece),
                Read::Asked(ask) => asks.push(Produced::Ask(ask)),
            }
        }
        let done = total - asks.len() as u64;
        let mut produced = self.finish_pieces(state, large, pieces, done)?;
        produced.extend(asks);
        Ok(produced)
    }

    /// What to send after `done` more pieces of a content were read, of which these have changed.
    pub(super) fn finish_pieces(
        &self,
        state: &State,
        large: &Large,
        pieces: Vec<Piece>,
        done: u64,
    ) -> Result<Vec<Produced>, PassError> {
        large.pieces_sent.fetch_add(pieces.len() as u64, Ordering::Relaxed);
        // Whoever is last sees what all others have counted.
        let is_last = large.pieces_done.fetch_add(done, Ordering::AcqRel) + done == piece::count(large.size);
        let close = if is_last { self.close_large(state, large)? } else { Ending::Open };
        Ok(match close {
            Ending::Open if pieces.is_empty() => Vec::new(),
            Ending::Open => vec![Produced::Pieces { open: large.open.clone(), pieces, close: None }],
            Ending::Close(close) => vec![Produced::Pieces { open: large.open.clone(), pieces, close: Some(close) }],
            Ending::Unchanged(op) => op.map(|op| Produced::Ops(vec![op])).into_iter().collect(),
        })
    }

    fn read_piece(&self, state: &State, large: &Arc<Large>, index: u64) -> Result<Read, PassError> {
        let offset = index * PIECE_BYTES as u64;
        let want = piece::bytes(large.size, index);
        Counters::add(&self.counters.bytes_done, want as u64);
        if self.take_over(state, large, index)? {
            return Ok(Read::Same);
        }
        // A hole need not be read to be sent as zeros; the proof reads it.
        let is_hole =
            want == PIECE_BYTES && large.content.data_from(offset)?.is_none_or(|data| data >= offset + want as u64);
        // Bytes that moved are found by old leaves, which end somewhere within their neighbours.
        let margin = if large.shifted.is_some() { MARGIN_BYTES } else { 0 };
        let from = offset.saturating_sub(margin);
        let window: Bytes = if is_hole {
            Bytes::from_static(&ZEROS)
        } else {
            let mut buffer = vec![0; ((offset + want as u64 + margin).min(large.size) - from) as usize];
            let read = large.content.read_at(&mut buffer, from)?;
            buffer.truncate(read);
            Counters::add(&self.counters.bytes_read, read as u64);
            buffer.into()
        };
        let lead = if is_hole { 0 } else { (offset - from) as usize };
        let bytes = window.slice(lead.min(window.len())..(lead + want).min(window.len()));
        if bytes.len() < want {
            let mut short = lock(&large.short);
            if short.is_none_or(|(first, _)| index < first) {
                *short = Some((index, bytes.len()));
            }
        }
        if bytes.is_empty() {
            return Ok(Read::Same);
        }
        let basis = self.basis_of(state, large, index, &bytes)?;
        let examined = piece::examine(&bytes, &basis);
        state.map.write(large.map_start, index, &examined.leaves)?;
        if examined.changed == 0 {
            Counters::add(&self.counters.bytes_matched, bytes.len() as u64);
            return Ok(Read::Same);
        }
        let mut found_bytes = 0;
        if let Some(shifted) = &large.shifted {
            let runs = self.runs(state, shifted, Window { at: from, bytes: &window }, offset, &bytes);
            found_bytes = runs.iter().map(|run| run.bytes).sum();
            let message = piece::shifted_message(large.open.content, index, &bytes, &examined, &runs, &self.compressor);
            if let Some((piece, literal)) = message {
                self.count_changed(bytes.len(), literal, &piece);
                return Ok(Read::Changed(piece));
            }
        }
        Ok(match self.ask(large, index, &bytes, examined, found_bytes) {
            Ok(ask) => Read::Asked(ask),
            Err(examined) => Read::Changed(self.whole_piece(large, index, &bytes, &examined)),
        })
    }

    /// A piece whose changed leaves are sent as they are.
    pub(super) fn whole_piece(&self, large: &Large, index: u64, bytes: &Bytes, examined: &Examined) -> Piece {
        let piece = piece::message(large.open.content, index, bytes, examined, &self.compressor);
        self.count_changed(bytes.len(), piece.raw_bytes(), &piece);
        piece
    }

    pub(super) fn count_changed(&self, bytes: usize, literal: usize, piece: &Piece) {
        Counters::add(&self.counters.bytes_literal, literal as u64);
        Counters::add(&self.counters.bytes_matched, (bytes - literal) as u64);
        Counters::add(&self.counters.bytes_compressed, (piece.body_bytes() - piece.body.len()) as u64);
    }

    fn basis_of(&self, state: &State, large: &Large, index: u64, bytes: &[u8]) -> Result<Basis, PassError> {
        Ok(match large.basis {
            Held::Zeros => Basis::zeros(),
            Held::Unknown => Basis::Unknown,
            Held::Leaves(_, size) | Held::Pieces(_, size) if index >= piece::count(size) => Basis::zeros(),
            Held::Leaves(start, size) => match &state.known_map {
                // A damaged map costs sending the piece, nothing else.
                Some(map) => map.read(start, size, index).map_or(Basis::Unknown, Basis::Leaves),
                None => Basis::Unknown,
            },
            Held::Pieces(start, _) => {
                let held = self.surveyed_piece(state, start, index)?;
                let leaves: Vec<Digest> = Digester::canonical().leaves(bytes).collect();
                if digest::piece(&leaves) == held { Basis::Leaves(leaves) } else { Basis::Unknown }
            }
        })
    }

    fn surveyed_piece(&self, state: &State, start: u64, index: u64) -> Result<Digest, PassError> {
        let mut digest = [0; 32];
        let file = state.store.open("pieces.tmp")?.expect("the survey that named the place wrote it");
        file.read_at(&mut digest, start + index * 32)?;
        Ok(Digest(digest))
    }

    /// What a large content came to, once all of it was read.
    fn close_large(&self, state: &State, large: &Large) -> Result<Ending, PassError> {
        let c = &large.candidate;
        let found = c.found.as_ref().expect("only what was found is read");
        let after = large.content.stat()?;
        let kind = large.open.kind;
        let size = match *lock(&large.short) {
            Some((index, bytes)) => index * PIECE_BYTES as u64 + bytes as u64,
            None => large.size,
        };
        let is_still = found.stat == large.look.stat && large.look.stat == after && size == large.size;
        self.insist(&c.place, is_still)?;
        Counters::add(&self.counters.entries_done, 1);
        let digest = state.map.content_digest(large.map_start, size)?;
        let meta = self.meta(kind, &large.look);
        let stat = if size == large.size { self.settled_stat(&found.stat, &large.look.stat, &after) } else { None };
        let mut entry = entry_of(c, kind, stat, size, meta);
        entry.content = Some(digest);
        entry.map = Some(large.map_start | FRESH);
        self.push_result(Change::Entry(entry))?;
        let sent = large.pieces_sent.load(Ordering::Relaxed);
        let held = c.held.as_ref().filter(|held| large.open.onto == Onto::Basis && held.content == Some(digest));
        if sent == 0 && held.is_some_and(|held| held.size == size) {
            let is_same = kind == Kind::Block || held.is_some_and(|held| held.meta == Some(meta));
            let op = Op::SetMeta { place: c.place.clone(), kind, meta: large.look.meta.clone() };
            return Ok(Ending::Unchanged((!is_same).then_some(op)));
        }
        let meta = (kind != Kind::Block).then(|| large.look.meta.clone());
        Ok(Ending::Close(Close { content: large.open.content, size, pieces: sent, digest, meta }))
    }
}

/// What reading a piece came to.
enum Read {
    Same,
    Changed(Piece),
    Asked(Ask),
}

enum Ending {
    Open,
    Close(Close),
    Unchanged(Option<Op>),
}

static ZEROS: [u8; PIECE_BYTES] = [0; PIECE_BYTES];

/// What the destination starts from, and what that is.
fn held_basis(c: &Candidate, kind: Kind) -> (Onto, Held) {
    // A device has no state "new": whatever is on it stays until it is written over.
    let fresh = if kind == Kind::Block { (Onto::Basis, Held::Unknown) } else { (Onto::Zeros, Held::Zeros) };
    match &c.held {
        Some(held) if held.kind == kind && held.leader.is_none() => match (held.map, held.content) {
            (Some(at), _) if at & SURVEYED != 0 => (Onto::Basis, Held::Pieces(at & !SURVEYED, held.size)),
            (Some(at), Some(_)) => (Onto::Basis, Held::Leaves(at, held.size)),
            _ => fresh,
        },
        _ => fresh,
    }
}
