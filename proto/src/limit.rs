//! Every maximum that a peer or a volume can run into, with its unit in its name and its reason beside it.
//!
//! A limit is checked before anything of that size is allocated. No limit can be changed by a peer, and none has a
//! value that means "without limit".

/// Bytes in the bulk part of a frame: one piece.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Bytes in the structured part of a frame, and of all places in it once unpacked: behind [`BATCH_BYTES`], one more item
/// fits with two of the longest places and the most extended attributes.
pub const HEAD_BYTES_MAX: usize = 2 << 20;

/// Bytes of items after which a message takes no more of them.
pub const BATCH_BYTES: usize = 512 << 10;

/// Bytes in one component of a name, as in every Linux file system (`NAME_MAX`).
pub const NAME_BYTES_MAX: usize = 255;

/// Components in a place. Linux has no limit of its own; deeper trees are refused by name.
pub const DEPTH_MAX: usize = 4_096;

/// Bytes in a place, separators included.
pub const PLACE_BYTES_MAX: usize = 512 << 10;

/// Bytes in a symbolic link's target (`PATH_MAX` less the final NUL).
pub const TARGET_BYTES_MAX: usize = 4_095;

/// Bytes in an extended attribute's name (`XATTR_NAME_MAX`).
pub const XATTR_NAME_BYTES_MAX: usize = 255;

/// Bytes in an extended attribute's value (`XATTR_SIZE_MAX`).
pub const XATTR_VALUE_BYTES_MAX: usize = 64 << 10;

/// Bytes in all extended attributes of one entry, names included; what has more is a named gap.
pub const XATTRS_BYTES_MAX: usize = 256 << 10;

/// Extended attributes of one entry: the list of names is at most 64 KiB (`XATTR_LIST_MAX`).
pub const XATTRS_MAX: usize = 4_096;

/// Bytes in a regular file or a block volume: what `off_t` can say.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// Bytes in a piece, the unit of transfer and of acknowledgement.
pub const PIECE_BYTES: usize = 1 << 20;

/// Bytes in a leaf, the unit of change detection: BLAKE3 is fastest from 16 KiB on.
pub const LEAF_BYTES: usize = 16 << 10;

/// Leaves in a piece; a set of them is one `u64`.
pub const LEAVES_PER_PIECE: usize = PIECE_BYTES / LEAF_BYTES;

/// Bytes that one piece may be a delta against: the same piece moved by anything, and as much again around it.
pub const DELTA_BASE_BYTES_MAX: usize = 2 * PIECE_BYTES;

/// Bytes in a block of a signature: with fewer the answer outweighs what it saves.
pub const BLOCK_BYTES_MIN: u32 = 128;
/// Bytes in a block of a signature, at most.
pub const BLOCK_BYTES_MAX: u32 = 4_096;

/// Questions for signatures that wait for an answer.
pub const ASKS_MAX: usize = 24;

/// Bytes in a file that travels in a pack instead of in pieces.
pub const PACKED_FILE_BYTES_MAX: usize = 64 << 10;

/// Files in one pack.
pub const PACK_FILES_MAX: usize = 1_024;

/// Entries or operations in one message.
pub const BATCH_MAX: usize = 4_096;

/// Objects that one pass moves: what is beyond is copied. Both sides hold them in memory.
pub const MOVES_MAX: usize = 65_536;

/// Features in a greeting.
pub const FEATURES_MAX: usize = 64;

/// Bytes in a text that is shown to a person: build, feature name, refusal.
pub const TEXT_BYTES_MAX: usize = 1_024;

/// Contents that a destination has open at one time, between their first piece and their last.
pub const OPEN_CONTENTS_MAX: usize = 1_024;

/// Exclusion patterns, and bytes in each.
pub const PATTERNS_MAX: usize = 1_000;
/// Bytes in one exclusion pattern.
pub const PATTERN_BYTES_MAX: usize = 1_024;

/// Bytes written since the last flush before the destination must flush and acknowledge.
pub const UNFLUSHED_BYTES_MAX: u64 = 256 << 20;

/// Entries applied since the last flush before the destination must flush and acknowledge. What was applied is kept in
/// memory until it is durable: twice as many, and the destination waits for the flush.
pub const UNFLUSHED_ENTRIES_MAX: u64 = 8_192;

/// Milliseconds since the first unflushed write before the destination must flush and acknowledge.
pub const UNFLUSHED_MS_MAX: u64 = 2_000;

/// Messages of the control stream that the destination takes in before their turn.
pub const CONTROL_MESSAGES_MAX: usize = 64;
/// Bytes in them after which it takes in no more.
pub const CONTROL_BYTES_MAX: usize = 8 << 20;

/// Bytes of data that an agent holds in memory between link and disk, in each direction.
pub const IN_FLIGHT_BYTES_MAX: usize = 48 << 20;

/// Data streams of one link over each transport.
pub const DATA_STREAMS_MAX: u32 = 32;

/// Milliseconds from the first packet of a peer to the end of its greeting.
pub const HANDSHAKE_MS_MAX: u64 = 10_000;

/// Bytes in a line of the control protocol, its end included: 32 reports and what is around them.
pub const CONTROL_LINE_BYTES_MAX: usize = 1 << 20;

/// Bytes in the report or error of a pass as it is told to a coordinator; its lists are shortened to that.
pub const CONTROL_REPORT_BYTES_MAX: usize = 24 << 10;

/// Volumes beside one agent, and so passes that run at one time.
pub const CONTROL_VOLUMES_MAX: usize = 32;

/// Bytes in the name of a pass or of a volume.
pub const CONTROL_NAME_BYTES_MAX: usize = 128;

/// Addresses to dial, as many as a ticket holds.
pub const CONTROL_ADDRESSES_MAX: usize = 16;

/// Kinds of gaps that are named in one order.
pub const CONTROL_WORDS_MAX: usize = 64;

/// Connections of coordinators at one time, those that have not shown the secret included.
pub const CONTROL_CONNECTIONS_MAX: usize = 8;

/// Events that wait for a slow coordinator. Progress beyond that is dropped; for anything else the connection is, and
/// the next one is told the state.
pub const CONTROL_EVENTS_MAX: usize = 256;

/// Milliseconds between two events of progress of one pass.
pub const CONTROL_PROGRESS_MS: u64 = 500;

/// Forwarded connections of one relayed pass that wait for it, and connections of the pass that wait for one of them.
pub const RELAY_WAITING_MAX: usize = 64;

/// Bytes of the burst by which a way between agents is measured, and milliseconds that it may take.
pub const PROBE_BYTES_MAX: u64 = 32 << 20;
/// Milliseconds of such a burst.
pub const PROBE_MS_MAX: u64 = 1_500;
