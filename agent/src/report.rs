//! One pass, and one comparison, as users and scripts see them.
//!
//! The serialised form is an interface: fields are added, never renamed or reused, and `docs/report.md` lists every one
//! of them (a test holds the two together). Whoever runs a pass fills these types; nothing here decides anything but
//! whether what is recorded amounts to success.

use std::fmt::Display;

use serde::{Serialize, Serializer};

// The words of options and reports; whoever shows them needs no other crate.
pub use crate::confine::Applied;
pub use tranship_proto::entry::Place;
pub use tranship_proto::id::Digest;
pub use tranship_proto::message::{Contract, Fidelity, GapKind, Level};

/// Version of the serialised form of [`Report`] and [`Verdict`].
pub const VERSION: u32 = 1;

/// A tree of files, or one block volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Files in directories.
    Tree,
    /// A device or an image.
    Block,
}

/// What a pass could take for granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// Both sides held the manifest of the last committed pass.
    Common,
    /// No manifest was common: the destination was read and compared.
    Survey,
    /// The destination was empty: everything was sent.
    Nothing,
}

/// One committed pass over one volume.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Version of this form: [`VERSION`].
    pub version: u32,
    /// Number of this pass over this pair of volumes, from 1.
    pub stage: u64,
    /// Whether this was a final pass: the source had no writers, and a proof was asked for.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Tree or block.
    pub kind: Kind,
    /// What the pass could take for granted.
    pub basis: Basis,
    /// What was looked at, read, sent and written.
    #[serde(flatten)]
    pub counts: Counts,
    /// Seconds from the first greeting to the commit, the proof included.
    pub duration_seconds: f64,
    /// Bytes per second of changed content that were carried, from the first to the last of them.
    pub rate_bytes_per_second: f64,
    /// Bytes per second by which the source changed since the pass before; nothing in a first pass.
    pub change_bytes_per_second: Option<f64>,
    /// Seconds of downtime that a final pass would cost now, with a proof at level `full`; nothing while it cannot be told.
    pub predicted_final_seconds: Option<f64>,
    /// The same with a proof at level `tracked`, which reads what changed.
    pub predicted_final_seconds_tracked: Option<f64>,
    /// What lies below the root and does not belong to the volume.
    pub left_out: Vec<LeftOut>,
    /// What could not be carried: the first 10,000 or 8 MiB of it, and at least one of each kind.
    pub gaps: Vec<Gap>,
    /// How much of each kind could not be carried.
    pub gap_counts: Vec<GapCount>,
    /// Canonical digest of the source, as read for the proof.
    #[serde(serialize_with = "option_text")]
    pub digest_source: Option<Digest>,
    /// Canonical digest of the destination, as read for the proof.
    #[serde(serialize_with = "option_text")]
    pub digest_destination: Option<Digest>,
    /// That both volumes hold the same; nothing if it was not asked for, or is not so.
    pub proof: Option<Proof>,
    /// How the two agents reached each other; nothing if both volumes were on one machine without a link.
    pub transport: Option<Transport>,
    /// What keeps the process that wrote this report to its volume; nothing if it is not confined.
    pub confinement: Option<Applied>,
    /// Lines for the user.
    pub notes: Vec<String>,
}

/// What was looked at, read, sent and written in a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Entries that the source looked at.
    pub entries_scanned: u64,
    /// Entries that differed from the basis.
    pub entries_changed: u64,
    /// Entries that were renamed at the destination, each with all that is beneath it.
    pub entries_moved: u64,
    /// Entries that changed while they were read: taken again by the next pass.
    pub racy_entries: u64,
    /// Logical bytes of content that the scan covers, holes included.
    pub bytes_scanned: u64,
    /// Bytes of content that the source read from its volume.
    pub bytes_read_source: u64,
    /// Bytes of a device that the source did not read, since tracking saw no write to them.
    pub bytes_tracked: u64,
    /// Bytes of content that the destination read from its volume.
    pub bytes_read_destination: u64,
    /// Bytes of content that the destination wrote to its volume.
    pub bytes_written_destination: u64,
    /// Bytes that the source gave to the link, frames included.
    pub bytes_sent: u64,
    /// Bytes that the source got from the link, frames included.
    pub bytes_received: u64,
    /// Bytes of content that were sent as they are, before compression.
    pub bytes_literal: u64,
    /// Bytes of changed contents that the destination already had.
    pub bytes_matched: u64,
    /// Bytes that compression left of those that it was tried on.
    pub bytes_compressed: u64,
    /// Times that the link was made again.
    pub reconnects: u64,
}

/// Something below the root that does not belong to the volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Where, escaped.
    #[serde(serialize_with = "text")]
    pub path: Place,
    /// Why: `mount point`, `lost+found`, `excluded`.
    pub reason: String,
}

/// Something that could not be carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Where, escaped.
    #[serde(serialize_with = "text")]
    pub path: Place,
    /// What kind of thing, as `--accept-gap` takes it.
    #[serde(serialize_with = "gap_word")]
    pub kind: GapKind,
    /// Details for people, escaped.
    pub detail: String,
    /// Whether the user accepted this kind beforehand.
    pub accepted: bool,
}

/// How much of one kind could not be carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GapCount {
    /// What kind of thing.
    #[serde(serialize_with = "gap_word")]
    pub kind: GapKind,
    /// How many.
    pub count: u64,
}

/// That both volumes held the same when they were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// How much was read for it.
    #[serde(serialize_with = "level_word")]
    pub level: Level,
    /// The contract under which metadata counts.
    #[serde(serialize_with = "fidelity_word")]
    pub mode: Fidelity,
    /// The digest of both volumes that does not depend on when and where it is made.
    #[serde(serialize_with = "text")]
    pub canonical: Digest,
    /// The digest of both volumes under a nonce that was made for this proof.
    #[serde(serialize_with = "text")]
    pub challenge: Digest,
    /// Entries in the volume.
    pub entries: u64,
    /// Logical bytes of content, holes included.
    pub bytes: u64,
    /// Bytes that the source read for it.
    pub read_source_bytes: u64,
    /// Bytes that the destination read for it, past the page cache.
    pub read_destination_bytes: u64,
    /// Seconds since 1970, UTC, when the later of the two was read to its end.
    pub read_at: u64,
    /// Who read.
    pub versions: Versions,
}

/// Builds of the two agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Versions {
    /// The source's, escaped.
    pub source: String,
    /// The destination's, escaped.
    pub destination: String,
}

/// How the two agents reached each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Transport {
    /// `quic` or `tcp`.
    pub name: String,
    /// Largest packet in bytes, headers of IP and UDP left out; nothing for TCP.
    pub mtu: Option<u64>,
    /// Milliseconds of a round trip, smoothed, at the end.
    pub rtt_ms: f64,
    /// Packets that were lost; nothing where the kernel does not tell.
    pub lost: Option<u64>,
}

impl Report {
    /// The report of a pass that has done nothing yet.
    pub fn new(stage: u64, is_final: bool, kind: Kind, basis: Basis) -> Self {
        Self {
            version: VERSION,
            stage,
            is_final,
            kind,
            basis,
            counts: Counts::default(),
            duration_seconds: 0.0,
            rate_bytes_per_second: 0.0,
            change_bytes_per_second: None,
            predicted_final_seconds: None,
            predicted_final_seconds_tracked: None,
            left_out: Vec::new(),
            gaps: Vec::new(),
            gap_counts: Vec::new(),
            digest_source: None,
            digest_destination: None,
            proof: None,
            transport: None,
            confinement: None,
            notes: Vec::new(),
        }
    }

    /// Gaps that the user did not accept beforehand.
    pub fn unaccepted_gaps(&self) -> impl Iterator<Item = &Gap> {
        self.gaps.iter().filter(|gap| !gap.accepted)
    }

    /// Whether this report says that both volumes hold the same: it has a proof, both digests are the proof's, and
    /// every gap was accepted. The only thing that success of a final pass may be derived from.
    pub fn is_proven(&self) -> bool {
        self.proof.as_ref().is_some_and(|proof| {
            self.digest_source == Some(proof.canonical)
                && self.digest_destination == Some(proof.canonical)
                && self.unaccepted_gaps().next().is_none()
        })
    }
}

impl Gap {
    /// A gap as a volume or a peer named it, accepted if the user named its kind.
    pub fn new(gap: &tranship_proto::message::Gap, accepted: &[GapKind]) -> Self {
        let accepted = accepted.contains(&gap.what);
        Self { path: gap.place.clone(), kind: gap.what, detail: printable(&gap.detail), accepted }
    }
}

/// Two volumes that were read and compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Version of this form: [`VERSION`].
    pub version: u32,
    /// Tree or block.
    pub kind: Kind,
    /// The contract under which metadata counts.
    #[serde(serialize_with = "fidelity_word")]
    pub mode: Fidelity,
    /// Canonical digest of the first volume.
    #[serde(serialize_with = "text")]
    pub digest_a: Digest,
    /// Canonical digest of the second volume.
    #[serde(serialize_with = "text")]
    pub digest_b: Digest,
    /// Entries in the first volume.
    pub entries: u64,
    /// Logical bytes in the first volume, holes included.
    pub bytes: u64,
    /// Seconds that it took.
    pub duration_seconds: f64,
    /// The first entries that differ.
    pub differences: Vec<Difference>,
    /// How many differ, those that are not listed included.
    pub differences_total: u64,
    /// What lies below the roots and does not belong to the volumes.
    pub left_out: Vec<LeftOut>,
}

/// One entry that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where, escaped.
    #[serde(serialize_with = "text")]
    pub path: Place,
    /// In what: `only in A`, `only in B`, `kind`, `size`, `content`, `metadata`.
    pub what: String,
}

impl Verdict {
    /// Whether both hold the same. Digests decide; a difference that was found overrules them.
    pub fn is_equal(&self) -> bool {
        self.digest_a == self.digest_b && self.differences_total == 0 && self.differences.is_empty()
    }
}

/// Text of a peer or a kernel as printable ASCII: safe in logs and on terminals.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            ' '..='~' => out.push(character),
            _ => out.extend(character.escape_unicode()),
        }
    }
    out
}

/// The word for a proof level that users see and give.
pub fn level_name(level: Level) -> &'static str {
    match level {
        Level::Full => "full",
        Level::Tracked => "tracked",
    }
}

/// The word for a fidelity mode that users see and give.
pub fn fidelity_name(fidelity: Fidelity) -> &'static str {
    match fidelity {
        Fidelity::Plain => "plain",
        Fidelity::Owner => "owner",
        Fidelity::Exact => "exact",
    }
}

fn text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn option_text<S: Serializer>(value: &Option<Digest>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(|digest| digest.to_string()).serialize(serializer)
}

fn gap_word<S: Serializer>(kind: &GapKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.word())
}

fn level_word<S: Serializer>(level: &Level, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(level_name(*level))
}

fn fidelity_word<S: Serializer>(fidelity: &Fidelity, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(fidelity_name(*fidelity))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    const DOCUMENT: &str = include_str!("../../docs/report.md");

    fn place(bytes: &[u8]) -> Place {
        Place::from_bytes(bytes).expect("valid")
    }

    /// A report in which no list is empty and nothing is missing.
    fn full_report() -> Report {
        let digest = Digest([7; 32]);
        let mut report = Report::new(3, true, Kind::Tree, Basis::Common);
        report.change_bytes_per_second = Some(1.0);
        report.predicted_final_seconds = Some(2.5);
        report.predicted_final_seconds_tracked = Some(0.5);
        report.left_out = vec![LeftOut { path: place(b"mnt"), reason: "mount point".into() }];
        report.gaps = vec![Gap { path: place(b"s"), kind: GapKind::Socket, detail: String::new(), accepted: true }];
        report.gap_counts = vec![GapCount { kind: GapKind::Socket, count: 1 }];
        (report.digest_source, report.digest_destination) = (Some(digest), Some(digest));
        let versions = Versions { source: "a".into(), destination: "b".into() };
        report.proof = Some(Proof {
            level: Level::Full,
            mode: Fidelity::Plain,
            canonical: digest,
            challenge: Digest([8; 32]),
            entries: 1,
            bytes: 2,
            read_source_bytes: 2,
            read_destination_bytes: 2,
            read_at: 1,
            versions,
        });
        report.transport = Some(Transport { name: "quic".into(), mtu: Some(1_452), rtt_ms: 0.3, lost: Some(0) });
        report.confinement = Some(Applied { landlock_abi: 6, seccomp: true, notes: vec!["a note".into()] });
        report.notes = vec!["a note".into()];
        report
    }

    fn full_verdict() -> Verdict {
        Verdict {
            version: VERSION,
            kind: Kind::Block,
            mode: Fidelity::Exact,
            digest_a: Digest([1; 32]),
            digest_b: Digest([2; 32]),
            entries: 1,
            bytes: 1,
            duration_seconds: 1.0,
            differences: vec![Difference { path: place(b""), what: "content".into() }],
            differences_total: 1,
            left_out: vec![LeftOut { path: place(b"x"), reason: "excluded".into() }],
        }
    }

    fn fields(prefix: &str, value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                    fields(&path, value, found);
                    found.insert(path);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| fields(&format!("{prefix}[]"), item, found)),
            Value::Null => panic!("{prefix} is missing from the example"),
            _ => {}
        }
    }

    /// First cells of the table under this heading of the document.
    fn documented(heading: &str) -> BTreeSet<String> {
        let section = DOCUMENT.split("\n## ").find(|section| section.starts_with(heading)).expect("heading is there");
        section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).map(str::to_owned).collect()
    }

    fn check_documented(heading: &str, value: Value) {
        let mut found = BTreeSet::new();
        fields("", &value, &mut found);
        assert_eq!(found, documented(heading), "docs/report.md and the serialised form differ: {heading}");
    }

    #[test]
    fn the_document_lists_exactly_the_fields_that_are_serialised() {
        check_documented("Report", serde_json::to_value(full_report()).expect("serialises"));
        check_documented("Verdict", serde_json::to_value(full_verdict()).expect("serialises"));
    }

    #[test]
    fn only_two_equal_digests_under_a_proof_without_open_gaps_are_proven() {
        let proven = full_report();
        assert!(proven.is_proven());
        let damages: [fn(&mut Report); 4] = [
            |report| report.proof = None,
            |report| report.digest_source = None,
            |report| report.digest_destination = Some(Digest([9; 32])),
            |report| report.gaps[0].accepted = false,
        ];
        for damage in damages {
            let mut report = proven.clone();
            damage(&mut report);
            assert!(!report.is_proven(), "{report:?}");
        }
    }

    #[test]
    fn a_difference_overrules_equal_digests() {
        let mut verdict = full_verdict();
        verdict.digest_b = verdict.digest_a;
        assert!(!verdict.is_equal());
        (verdict.differences, verdict.differences_total) = (Vec::new(), 0);
        assert!(verdict.is_equal());
    }

    #[test]
    fn what_a_peer_says_cannot_drive_a_terminal() {
        let gap = tranship_proto::message::Gap {
            place: place(b"a\x1b"),
            what: GapKind::Xattr,
            detail: "user.\u{202e}x\u{1b}[2J".into(),
        };
        let json = serde_json::to_string(&Gap::new(&gap, &[])).expect("serialises");
        assert_eq!(json, r#"{"path":"a\\x1b","kind":"xattr","detail":"user.\\u{202e}x\\u{1b}[2J","accepted":false}"#);
    }
}
