//! The shared-memory ABI between a client and the daemon, and the words they exchange on the socket.
//! docs/ring.md describes it byte by byte; a test ties that document to these constants.
//!
//! Everything is little-endian. The client fills submission entries, the daemon fills completion
//! entries. An entry is one cache line whose last word is its own sequence number: a consumer polls the
//! entry itself, so one cache line carries one message.

pub mod commit;
mod end;
mod handshake;
mod pages;
pub mod stats;

pub use end::EndReason;
pub use handshake::{hello, notice, order, welcome};
pub use pages::{PAGE_ENTRY_BYTES, PAGE_HEADER_BYTES, PAGE_NUMBER_BYTES, PAGES_MAX, page_request_bytes_max};

use forebay_sys::crc::crc32c_append;

use crate::types::{Durability, ShardId};

/// First 8 bytes of every hello and of the shared segment: "FBRING01".
pub const MAGIC: u64 = u64::from_le_bytes(*b"FBRING01");
/// Version of the handshake and of the layout below. Both sides refuse any other.
pub const VERSION: u32 = 1;

pub const CACHE_LINE_BYTES: usize = 64;
pub const ENTRY_BYTES: usize = 64;
/// Words of an entry that carry the message; the eighth is its sequence number.
pub const ENTRY_WORDS: usize = 7;
/// Entries of one ring: a power of two between these bounds.
pub const RING_ENTRIES_MIN: u32 = 2;
pub const RING_ENTRIES_MAX: u32 = 65_536;
/// One message hands over the segment and an eventfd a reactor, and the kernel allows 253 descriptors in one.
pub const REACTORS_MAX: u32 = 250;
pub const SHARDS_MAX: u32 = 1_024;

/// Events of one batch: what a reactor can take in without holding other clients up.
pub const BATCH_EVENTS_MAX: usize = 65_536;
/// The last sequence numbers of a producer whose offsets are remembered: so many requests of it may be under way.
pub const PRODUCER_WINDOW: usize = 8;
pub const KEY_BYTES_MAX: usize = 1_024;
pub const VALUE_BYTES_MAX: usize = 16 << 20;
pub const NAME_BYTES_MAX: usize = 255;
/// The longest time to live of a key, 100 years of 365 days. The shortest is 1 ms.
pub const TTL_MS_MAX: u64 = 100 * 365 * 86_400_000;

/// Shared segment: header page, then one ring block a reactor, then the arena.
pub mod segment {
    pub const HEADER_BYTES: usize = 4_096;
    // Header fields, byte offsets.
    pub const MAGIC: usize = 0; // u64
    pub const VERSION: usize = 8; // u32
    pub const REACTORS: usize = 12; // u32
    pub const SQ_ENTRIES: usize = 16; // u32, entries of each submission ring
    pub const CQ_ENTRIES: usize = 20; // u32, entries of each completion ring
    pub const RINGS_OFFSET: usize = 24; // u64, of the first ring block
    pub const RING_STRIDE: usize = 32; // u64, from one ring block to the next
    pub const ARENA_OFFSET: usize = 40; // u64
    pub const ARENA_BYTES: usize = 48; // u64
    pub const SHARDS: usize = 56; // u32; shard s is served by reactor s % REACTORS
    pub const KEY_BYTES_MAX: usize = 60; // u32, the daemon's limit
    pub const VALUE_BYTES_MAX: usize = 64; // u32, the daemon's limit
    pub const ENDED: usize = 68; // u32, written by the daemon: 0, or the reason code why the session ended
    pub const NAMESPACE: usize = 72; // 16 bytes, the UUID that `format` made
    pub const CUTS: usize = 88; // u32, how often `repair --cut` gave up acknowledged data

    // A ring block: four control lines, the submission entries, the completion entries.
    /// u64, written by the daemon: submission entries consumed so far.
    pub const SQ_HEAD: usize = 0;
    /// u32, written by the daemon: 0 while it is awake, else the ticket of its sleep: another number than that of the
    /// sleep before. The client rings this reactor's eventfd, once a ticket.
    pub const SERVER_NEED_WAKEUP: usize = 64;
    /// u64, written by the client: completion entries consumed so far.
    pub const CQ_HEAD: usize = 128;
    /// u32, written by the client: 0 while it is awake, else the ticket of its sleep, as above. The daemon sends a
    /// `notice::WAKE` on the socket, once a ticket.
    pub const CLIENT_NEED_WAKEUP: usize = 192;
    pub const SQ_ENTRIES_OFFSET: usize = 256;

    /// Offset of the completion entries in a ring block.
    #[must_use]
    pub const fn cq_entries_offset(sq_entries: u32) -> usize {
        SQ_ENTRIES_OFFSET + sq_entries as usize * super::ENTRY_BYTES
    }

    /// Bytes of a ring block, a multiple of the page size.
    #[must_use]
    pub const fn ring_block_bytes(sq_entries: u32, cq_entries: u32) -> usize {
        (cq_entries_offset(sq_entries) + cq_entries as usize * super::ENTRY_BYTES).next_multiple_of(4_096)
    }
}

/// What a submission asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// Answered with `Ok`; measures the ring.
    Noop = 0,
    Put = 1,
    Get = 2,
    Delete = 3,
    /// Key: where to begin (inclusive). Value: the end (exclusive), empty for none. arg0: most pairs. Only keys
    /// of `arg1`'s shard. The reply holds pairs as u16 key bytes, u16 zero, u32 value bytes, u64 version, key, value.
    /// A flag `PREFIX` makes the key a prefix as well and the value the cursor to begin after, empty for none. With `EXPIRES`
    /// a pair whose key has a time to live has `PAIR_TIMED` in place of the zero, and before the key u64 ms since 1970.
    /// With `KEYS_ONLY` the values are left out, and none has to be read from the drive.
    Scan = 4,
    /// Value: one event. The answer's `version` is its offset.
    Append = 5,
    /// Value: events as u32 bytes then the event. The answer's `version` is the first one's offset.
    AppendBatch = 6,
    /// Read a stream. arg0: from this offset. arg1: wait at most so many ns for the first event (0: do not wait).
    /// The reply holds as many events as fit, each as u32 bytes, u32 zero, u64 offset, event.
    Read = 7,
    /// Forget all events of a stream below offset arg0. arg1: 1 makes one that never had an event begin there instead. Value:
    /// of one whose events are linked, the head before that offset.
    Trim = 8,
    /// Answered when all that this reactor took before it is durable on the drive.
    Sync = 9,
    /// Create a space, stream or page space, or find it. Key: its name. arg0: kind | durability << 8 | create << 16 |
    /// compression << 24. Reactor 0 only. The reply's `version` is the object's number, `aux` is kind | durability << 8 |
    /// compression << 24. Of a page space the power of two of its page size stands in the place of the compression.
    Open = 10,
    /// List the catalog. Reactor 0 only. arg0: begin after this object number. The reply holds objects as u32
    /// number, u8 kind, u8 durability, u8 name bytes, u8 compression, name.
    Catalog = 11,
    /// Counters of this reactor, of its shards, or of what they hold, as u64 words: see `stats::`. arg0: which of these.
    /// arg1: of objects, begin after this number. Of rows `aux` is their number, and `AUX_MORE`.
    Stats = 12,
    /// All writes of a transaction, if every key that it read still has the version it had. Value: entries, see
    /// `commit::`, the reads first. arg1: the lowest shard of their keys. The answer's `version` is that of every key
    /// written.
    Commit = 13,
    /// As `AppendBatch`, but only once: arg0 is the producer, arg1 its sequence number, which begins with 1 and has no
    /// gaps. One of the producer's last `PRODUCER_WINDOW` numbers is answered as it was, and appends nothing.
    AppendOnce = 15,
    /// Moves a consumer's cursor of a stream, or makes it. Key: its name. arg0: the offset, at most the stream's end. With
    /// `IF_VERSION` only if it stands at arg1 (`CURSOR_ABSENT`: if there is none). Back only with `REWIND`.
    SetCursor = 16,
    /// Key: a cursor's name. The answer's `version` is its offset, `lsn` that of the record that set it.
    GetCursor = 17,
    /// List the cursors of a stream. Key: begin after this name. The reply holds cursors as u16 name bytes, 6 zeros, u64
    /// offset, name.
    Cursors = 18,
    /// Key: the name of the cursor to forget.
    DropCursor = 19,
    /// Read a chained stream with its heads. arg0: from this offset. The reply holds the head before that offset, then as
    /// many events as fit, each as u32 bytes, u32 zero, u64 offset, the head after it, event.
    ReadChain = 20,
    /// Take a snapshot of all shards. Reactor 0 only. The answer's `version` is its number. It ends with the session.
    Snapshot = 21,
    /// End snapshot arg0. Reactor 0 only.
    Release = 22,
    /// As `Get`, as snapshot arg0 sees the key.
    GetAt = 23,
    /// As `Scan`, as snapshot arg0 sees the space. arg1: the shard in the low half, most pairs in the high one (0: no bound).
    ScanAt = 24,
    /// A stream as snapshot arg0 sees it: the answer's `version` is its first offset, `aux` its next one.
    Extent = 25,
    /// Writes pages of a page space, or forgets them: all or none. Value: entries as those of a commit, puts and deletes of
    /// this space alone, at most `PAGES_MAX`, each key a page number, u64 big-endian, each value a whole page. Versions
    /// that were read may stand first, as in a commit. The answer's `version` is that of every page written.
    WritePages = 26,
    /// Reads pages of a page space as they are at one moment, or as snapshot arg0 sees them (0: now). Value: at most
    /// `PAGES_MAX` page numbers, u64 little-endian.
    /// The reply holds for each u64 version (0: never written), u32 bytes of it (0, or the page size), u32 zero; behind
    /// these headers a place of the page size for each, which stays as it is where there is no page.
    ReadPages = 27,
    /// Bounds what a stream keeps. arg0: bytes, arg1: age in ms; 0: no bound, `RETENTION_AS_IS`: as it is. The answer's
    /// `version` and `aux` are the bounds that hold.
    Retain = 28,
}

/// One past the highest opcode.
pub const OPCODES_END: u8 = 29;

impl Opcode {
    #[must_use]
    pub fn from_wire(value: u8) -> Option<Opcode> {
        use Opcode::{
            Append, AppendBatch, AppendOnce, Catalog, Commit, Cursors, Delete, DropCursor, Extent, Get, GetAt,
            GetCursor, Noop, Open, Put, Read, ReadChain, ReadPages, Release, Retain, Scan, ScanAt, SetCursor, Snapshot,
            Stats, Sync, Trim, WritePages,
        };
        const ALL: [Option<Opcode>; OPCODES_END as usize] = {
            let all = [
                Noop,
                Put,
                Get,
                Delete,
                Scan,
                Append,
                AppendBatch,
                Read,
                Trim,
                Sync,
                Open,
                Catalog,
                Stats,
                Commit,
                AppendOnce,
                SetCursor,
                GetCursor,
                Cursors,
                DropCursor,
                ReadChain,
                Snapshot,
                Release,
                GetAt,
                ScanAt,
                Extent,
                WritePages,
                ReadPages,
                Retain,
            ];
            let mut table = [None; OPCODES_END as usize];
            let mut at = 0;
            while at < all.len() {
                table[all[at] as usize] = Some(all[at]);
                at += 1;
            }
            table
        };
        ALL.get(usize::from(value)).copied().flatten()
    }

    /// Whether it is about a stream as a whole.
    #[must_use]
    #[inline]
    pub fn is_on_stream(self) -> bool {
        matches!(
            self,
            Opcode::Append
                | Opcode::AppendBatch
                | Opcode::AppendOnce
                | Opcode::Read
                | Opcode::Trim
                | Opcode::SetCursor
                | Opcode::GetCursor
                | Opcode::Cursors
                | Opcode::DropCursor
                | Opcode::ReadChain
                | Opcode::Retain
                | Opcode::Extent
        )
    }
}

/// Flag bits of a submission.
pub mod flag {
    /// Bits 0-1: 0 the object's durability, else a `Durability` for this request alone.
    pub const DURABILITY_MASK: u8 = 0b11;
    /// Put, delete: only if the version is `arg0` (0: only if the key is absent).
    pub const IF_VERSION: u8 = 1 << 2;
    /// Get, scan, read, and a commit that writes nothing: answer at once, even with what is not yet durable.
    pub const RELAXED: u8 = 1 << 3;
    /// Scan: the key is a prefix.
    pub const PREFIX: u8 = 1 << 4;
    /// Put: the key is gone `arg1` ms later. A flag, so that a daemon that knows of no such thing says so. Scan: tell until
    /// when keys hold.
    pub const EXPIRES: u8 = 1 << 5;
    /// Set cursor: also back.
    pub const REWIND: u8 = 1 << 6;
    /// Scan: keys and versions, without the values. Scans move no cursor.
    pub const KEYS_ONLY: u8 = REWIND;
    pub const KNOWN: u8 = DURABILITY_MASK | IF_VERSION | RELAXED | PREFIX | EXPIRES | REWIND;
}

/// A submission entry. Word layout (u64, little-endian):
/// 0 user data · 1 opcode u8, flags u8, key bytes u16, object u32 · 2 payload offset in the arena (key, then
/// value) · 3 value bytes u32, reply bytes max u32 · 4 reply offset in the arena · 5 arg0 · 6 arg1 · 7 sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Submission {
    pub user_data: u64,
    pub opcode: u8,
    pub flags: u8,
    pub key_bytes: u16,
    pub object: u32,
    pub payload_offset: u64,
    pub value_bytes: u32,
    pub reply_bytes_max: u32,
    pub reply_offset: u64,
    pub arg0: u64,
    pub arg1: u64,
}

impl Submission {
    pub const PAYLOAD_WORD: usize = 2;

    #[must_use]
    pub fn to_words(&self) -> [u64; ENTRY_WORDS] {
        [
            self.user_data,
            u64::from(self.opcode)
                | u64::from(self.flags) << 8
                | u64::from(self.key_bytes) << 16
                | u64::from(self.object) << 32,
            self.payload_offset,
            u64::from(self.value_bytes) | u64::from(self.reply_bytes_max) << 32,
            self.reply_offset,
            self.arg0,
            self.arg1,
        ]
    }

    #[must_use]
    pub fn from_words(words: &[u64; ENTRY_WORDS]) -> Submission {
        let head = words[1].to_le_bytes();
        let sizes = words[3];
        Submission {
            user_data: words[0],
            opcode: head[0],
            flags: head[1],
            key_bytes: u16::from_le_bytes([head[2], head[3]]),
            object: u32::from_le_bytes([head[4], head[5], head[6], head[7]]),
            payload_offset: words[Self::PAYLOAD_WORD],
            value_bytes: low_u32(sizes),
            reply_bytes_max: low_u32(sizes >> 32),
            reply_offset: words[4],
            arg0: words[5],
            arg1: words[6],
        }
    }
}

/// A completion entry. Word layout: 0 user data · 1 status u16, zero u16, reply bytes u32 · 2 version (or
/// offset, or object number) · 3 aux · 4 LSN of the record written, 0 if none · 5, 6 zero · 7 sequence.
/// `aux`: the bytes a reply would have needed (`ReplyTooSmall`); for scan, read and catalog the number of pairs,
/// events or objects in the reply (low 32 bits) and `AUX_MORE` when there is more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    pub user_data: u64,
    pub status: u16,
    pub reply_bytes: u32,
    pub version: u64,
    pub aux: u64,
    pub lsn: u64,
}

impl Completion {
    pub const USER_DATA_WORD: usize = 0;

    #[must_use]
    pub fn to_words(&self) -> [u64; ENTRY_WORDS] {
        let head = u64::from(self.status) | u64::from(self.reply_bytes) << 32;
        [self.user_data, head, self.version, self.aux, self.lsn, 0, 0]
    }

    #[must_use]
    pub fn from_words(words: &[u64; ENTRY_WORDS]) -> Completion {
        let head = words[1].to_le_bytes();
        Completion {
            user_data: words[0],
            status: u16::from_le_bytes([head[0], head[1]]),
            reply_bytes: low_u32(words[1] >> 32),
            version: words[2],
            aux: words[3],
            lsn: words[4],
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Status {
    Ok = 0,
    /// No such key.
    NotFound = 1,
    /// The key's version is not the expected one; `version` holds the present one (0: absent).
    VersionMismatch = 2,
    /// The namespace is full. Reads, deletes and trims go on.
    NoSpace = 3,
    /// The memory budget, or the number of keys, is used up. Reads, deletes and trims go on.
    NoMemory = 4,
    /// A key, value, batch or request for pages over the daemon's limits. Of pages: `aux` holds the bytes that may be.
    TooLarge = 5,
    /// Fields that make no sense together.
    BadRequest = 6,
    /// No object of that number or name.
    UnknownObject = 7,
    /// An operation on an object of another kind (space, stream, page space), or a name that such a one has. Nothing was
    /// done.
    WrongKind = 8,
    /// The shard stopped writing after a device error. What was not acknowledged is in doubt; reads go on.
    Fenced = 9,
    /// The offset lies below the stream's first; `version` holds the first one.
    Trimmed = 10,
    /// The wait of a read ended without an event.
    TimedOut = 11,
    /// This reactor does not serve that key or stream.
    WrongReactor = 12,
    /// The reply does not fit `reply_bytes_max`; `aux` holds the bytes it needs.
    ReplyTooSmall = 13,
    /// As many reads wait already as the daemon allows.
    Busy = 14,
    /// The daemon is stopping.
    Stopping = 15,
    /// This peer may read but not write.
    Denied = 16,
    /// Entry `aux` of a commit read another version than the key has; `version` holds the present one (0: absent).
    Conflict = 17,
    /// A commit of more entries than `commit::ENTRIES_MAX`, or more bytes than the daemon's limit of a value. Nothing
    /// was done.
    TransactionTooLarge = 18,
    /// Another commit over several shards holds the key of entry `aux` at this moment. Nothing was done: try again.
    Locked = 19,
    /// The producer's sequence number is not the next one, nor one of its last; `version` holds the next one.
    OutOfSequence = 20,
    /// The cursor lies below the stream's first event; `version` holds that one's offset, `aux` the cursor's.
    CursorTrimmed = 21,
    /// The cursor stands where the request does not expect it, or beyond the offset; `version` holds where.
    CursorMoved = 22,
    /// No such snapshot: it was ended, or given up because what only it sees took too much memory. Nothing else is lost.
    SnapshotGone = 23,
    /// There are as many snapshots as the daemon allows.
    TooManySnapshots = 24,
    /// The value is on the drive, and the drive does not give it back as it was written.
    Unreadable = 30,
}

/// One past the highest status.
const STATUSES_END: usize = 31;

impl Status {
    #[must_use]
    pub fn from_wire(value: u16) -> Option<Status> {
        use Status::{
            BadRequest, Busy, Conflict, CursorMoved, CursorTrimmed, Denied, Fenced, Locked, NoMemory, NoSpace,
            NotFound, Ok, OutOfSequence, ReplyTooSmall, SnapshotGone, Stopping, TimedOut, TooLarge, TooManySnapshots,
            TransactionTooLarge, Trimmed, UnknownObject, Unreadable, VersionMismatch, WrongKind, WrongReactor,
        };
        const ALL: [Status; 26] = [
            Ok,
            NotFound,
            VersionMismatch,
            NoSpace,
            NoMemory,
            TooLarge,
            BadRequest,
            UnknownObject,
            WrongKind,
            Fenced,
            Trimmed,
            TimedOut,
            WrongReactor,
            ReplyTooSmall,
            Busy,
            Stopping,
            Denied,
            Conflict,
            TransactionTooLarge,
            Locked,
            OutOfSequence,
            CursorTrimmed,
            CursorMoved,
            SnapshotGone,
            TooManySnapshots,
            Unreadable,
        ];
        const TABLE: [Option<Status>; STATUSES_END] = {
            let mut table = [None; STATUSES_END];
            let mut at = 0;
            while at < ALL.len() {
                table[ALL[at] as usize] = Some(ALL[at]);
                at += 1;
            }
            table
        };
        TABLE.get(usize::from(value)).copied().flatten()
    }

    /// One sentence for a person.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Status::Ok => "done",
            Status::NotFound => "no such key",
            Status::VersionMismatch => "the key's version is not the expected one",
            Status::NoSpace => "the namespace is full",
            Status::NoMemory => "the daemon's memory budget, or its number of keys, is used up",
            Status::TooLarge => "a key, value or batch is over the daemon's limits",
            Status::BadRequest => "the request's fields make no sense together",
            Status::UnknownObject => "no such space or stream",
            Status::WrongKind => "the object is of another kind (space, stream or page space)",
            Status::Fenced => "the shard stopped writing after a device error",
            Status::Trimmed => "the offset lies below the stream's first event",
            Status::TimedOut => "no event came in time",
            Status::WrongReactor => "this reactor does not serve that key or stream",
            Status::ReplyTooSmall => "the reply does not fit the room given for it",
            Status::Busy => "too many reads wait already, or a reactor is held up",
            Status::Stopping => "the daemon is stopping",
            Status::Denied => "this peer may not write",
            Status::Conflict => "a key that the transaction read was written meanwhile",
            Status::TransactionTooLarge => "the transaction has more keys or bytes than one commit holds",
            Status::Locked => "another transaction holds one of these keys at this moment",
            Status::OutOfSequence => "the producer's sequence number is neither the next one nor one of its last",
            Status::CursorTrimmed => "the cursor lies below the stream's first event",
            Status::CursorMoved => "the cursor stands elsewhere",
            Status::SnapshotGone => {
                "the snapshot is gone: it was ended, or what it alone saw took more than limits.snapshot_bytes_max"
            }
            Status::TooManySnapshots => {
                "there are as many snapshots as limits.snapshots_max allows, or this client has half of them"
            }
            Status::Unreadable => "the drive does not give the value back as it was written; run `forebay verify`",
        }
    }
}

/// Batches, scan pairs and read events are framed by these headers inside payloads and replies.
pub const BATCH_HEADER_BYTES: usize = 4;
pub const PAIR_HEADER_BYTES: usize = 16;
pub const EVENT_HEADER_BYTES: usize = 16;
/// In the header of a pair: 8 bytes follow it, until when the key holds.
pub const PAIR_TIMED: u16 = 1;
pub const CATALOG_HEADER_BYTES: usize = 8;
/// In a space with compression: before a plain value its form, before a compressed one the form and a u32 of its plain
/// length.
pub const PLAIN_HEADER_BYTES: usize = 1;
pub const COMPRESSED_HEADER_BYTES: usize = 5;
/// Before the key, in a space of deltas: of the record of a value, and of its base. Together they are the polynomial of
/// CRC32C, so that both records of a key have one hash, and lie in one shard.
pub const DELTA_VALUES: [u8; DELTA_PREFIX_BYTES] = [0; DELTA_PREFIX_BYTES];
pub const DELTA_BASES: [u8; DELTA_PREFIX_BYTES] = [0xf1, 0x76, 0xec, 0x05, 0x01];
pub const DELTA_PREFIX_BYTES: usize = 5;
/// Before the frame of a delta: form, number of the base, bytes and checksum of the value.
pub const DELTA_HEADER_BYTES: usize = 17;
/// Of the head of a chain.
pub const HEAD_BYTES: usize = 32;
/// Bit of an opened object's `aux`: its events are linked.
pub const ATTRIBUTE_CHAINED: u64 = 1 << 16;
pub const CURSOR_HEADER_BYTES: usize = 16;
/// Where a cursor stands that is not there.
pub const CURSOR_ABSENT: u64 = u64::MAX;
/// A bound of a stream's retention that is not to be changed.
pub const RETENTION_AS_IS: u64 = u64::MAX;
/// arg1 of a trim that makes an empty stream begin at an offset.
pub const TRIM_BEGINS: u64 = 1;
/// No stream comes so far by appending; one that begins there could not go on.
pub const OFFSETS_END: u64 = 1 << 63;
/// Set in a completion's `aux` when a scan, read or catalog has more.
pub const AUX_MORE: u64 = 1 << 32;

/// A name is 1-255 bytes of UTF-8 without control characters.
#[must_use]
pub fn name_is_valid(name: &[u8]) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && std::str::from_utf8(name).is_ok_and(|text| !text.contains(char::is_control))
}

/// The shard of a key: CRC32C of the key, continued from the object number as if that were the checksum of what came
/// before, scaled to the shard count.
#[must_use]
pub fn shard_of_key(object: u32, key: &[u8], shards: u32) -> ShardId {
    scale(crc32c_append(object, key), shards)
}

/// The shard of a stream or page space: the same over the object number alone.
#[must_use]
pub fn shard_of_stream(object: u32, shards: u32) -> ShardId {
    scale(crc32c_append(0, &object.to_le_bytes()), shards)
}

fn scale(hash: u32, shards: u32) -> ShardId {
    ShardId(low_u32((u64::from(hash) * u64::from(shards)) >> 32))
}

/// The durability that a request's flags ask for, `None` for the object's own.
#[must_use]
pub fn durability_of(flags: u8) -> Option<Durability> {
    Durability::from_wire(flags & flag::DURABILITY_MASK)
}

/// The low half of a word.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
pub const fn low_u32(word: u64) -> u32 {
    word as u32
}

/// A size or offset as this machine counts; `types` asserts that it has 64 bits.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits")]
pub const fn to_usize(word: u64) -> usize {
    word as usize
}
