//! The words that a client and the daemon exchange on the socket.

/// The client's first and only message on the socket (Unix, `SOCK_SEQPACKET`). The daemon answers with a `welcome`.
pub mod hello {
    pub const BYTES: usize = 64;
    pub const MAGIC: usize = 0; // u64
    pub const VERSION: usize = 8; // u32
    pub const SQ_ENTRIES: usize = 12; // u32 wanted; 0: the daemon's choice
    pub const CQ_ENTRIES: usize = 16; // u32 wanted; 0: the daemon's choice
    pub const ARENA_BYTES: usize = 24; // u64 wanted; 0: the daemon's choice
}

/// Instead of a hello, from root or the daemon's own user: an order to the daemon. It answers when that is carried out or
/// has failed, with a message as `welcome` lays it out, without descriptors: `WELCOME` or `REFUSED`, and words.
pub mod order {
    pub const MAGIC_VALUE: u64 = u64::from_le_bytes(*b"FBORDER1");
    pub const MAGIC: usize = 0; // u64
    pub const VERSION: usize = 8; // u32, of the ring protocol
    pub const VERB: usize = 12; // u32, below
    pub const PATH: usize = 16; // the rest of the message: a path; empty for the one that the daemon knows
    pub const BYTES_MAX: usize = PATH + 4_096;
    /// Take the drive back, at this path.
    pub const RESUME: u32 = 1;
}

/// The daemon's answer. A welcome carries the descriptors: the segment, then one eventfd a reactor. A refusal carries
/// none, and its text says why. The same message with `ENDED` is the last one of a session, with the reason as text.
pub mod welcome {
    pub const BYTES: usize = 512;
    pub const MAGIC: usize = 0; // u64
    pub const VERSION: usize = 8; // u32
    pub const STATUS: usize = 12; // u32, one of the three below
    pub const WELCOME: u32 = 0;
    pub const REFUSED: u32 = 1;
    pub const ENDED: u32 = 2;
    pub const SEGMENT_BYTES: usize = 16; // u64
    pub const REACTORS: usize = 24; // u32: so many eventfds follow the segment
    pub const TEXT_BYTES: usize = 28; // u32
    pub const TEXT: usize = 32; // UTF-8
    pub const TEXT_BYTES_MAX: usize = BYTES - TEXT;
}

/// What the daemon sends to a client that sleeps: one byte. (No eventfd: whoever shares one with the daemon could make
/// a write to it block.)
pub mod notice {
    pub const WAKE: u8 = 1;
}
