//! What is measured: who, with which promise, how large, and by how many at once.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Keys are 16 B. All are written once before anything is measured.
pub const KEYS: u32 = 10_000;
pub const KEY_BYTES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PeerName {
    Forebay,
    Redis,
    Rocksdb,
    Lmdb,
    Redb,
    Fjall,
    Sqlite,
    /// A preallocated file, each record followed by `fdatasync`.
    FileFdatasync,
    /// A preallocated file, opened with O_DIRECT and O_DSYNC, in blocks of 4 KiB.
    FileDsync,
}

impl PeerName {
    pub const ALL: [PeerName; 9] = [
        PeerName::Forebay,
        PeerName::Redis,
        PeerName::Rocksdb,
        PeerName::Lmdb,
        PeerName::Redb,
        PeerName::Fjall,
        PeerName::Sqlite,
        PeerName::FileFdatasync,
        PeerName::FileDsync,
    ];

    /// A library in the caller's process.
    pub fn is_embedded_store(self) -> bool {
        matches!(self, PeerName::Rocksdb | PeerName::Lmdb | PeerName::Redb | PeerName::Fjall | PeerName::Sqlite)
    }

    pub fn is_file(self) -> bool {
        matches!(self, PeerName::FileFdatasync | PeerName::FileDsync)
    }

    pub fn label(self) -> &'static str {
        match self {
            PeerName::Forebay => "Forebay",
            PeerName::Redis => "Redis",
            PeerName::Rocksdb => "RocksDB",
            PeerName::Lmdb => "LMDB",
            PeerName::Redb => "redb",
            PeerName::Fjall => "fjall",
            PeerName::Sqlite => "SQLite",
            PeerName::FileFdatasync => "append file, fdatasync",
            PeerName::FileDsync => "append file, O_DIRECT and O_DSYNC",
        }
    }

    /// How each is set up for a class; None where it has nothing that promises the same.
    pub fn setting(self, class: Class) -> Option<&'static str> {
        use Class::{Buffered, Memory, Read, Strict};
        Some(match (self, class) {
            (PeerName::Forebay, Strict) => "durability `strict`",
            (PeerName::Forebay, Buffered) => "durability `buffered`",
            (PeerName::Forebay, Memory | Read) => "durability `memory`",
            (PeerName::Redis, Strict) => "`appendfsync always`",
            (PeerName::Redis, Buffered) => "`appendfsync everysec`",
            (PeerName::Redis, Memory | Read) => "`appendonly no`",
            (PeerName::Rocksdb, Strict) => "`WriteOptions::sync`, pipelined write, recycled logs",
            (PeerName::Rocksdb, Buffered) => "defaults, pipelined write",
            (PeerName::Rocksdb, Memory | Read) => "`disableWAL`",
            (PeerName::Lmdb, Strict) => "defaults: a sync a commit",
            (PeerName::Lmdb, Buffered | Read) => "`MDB_NOSYNC`",
            (PeerName::Redb, Strict) => "`Durability::Immediate`",
            (PeerName::Redb, Memory | Read) => "`Durability::None`",
            (PeerName::Fjall, Strict) => "`PersistMode::SyncData` after each write",
            (PeerName::Fjall, Buffered | Read) => "defaults: each write goes to the page cache",
            (PeerName::Sqlite, Strict) => "WAL, `synchronous=FULL`, a connection a thread",
            (PeerName::Sqlite, Buffered | Read) => "WAL, `synchronous=NORMAL`, a connection a thread",
            (PeerName::FileFdatasync, Strict) => "`pwrite`, then `fdatasync`",
            (PeerName::FileFdatasync, Buffered) => "`pwrite` into the page cache",
            (PeerName::FileDsync, Strict) => "`pwrite` of whole blocks, O_DIRECT and O_DSYNC",
            (PeerName::Lmdb | PeerName::Fjall | PeerName::Sqlite, Memory)
            | (PeerName::Redb, Buffered)
            | (PeerName::FileFdatasync, Memory | Read)
            | (PeerName::FileDsync, Memory | Buffered | Read) => return None,
        })
    }
}

/// What an acknowledgement promises. Only the same is ever compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// On the drive.
    Strict,
    /// Survives a kill of the process, not a power loss.
    Buffered,
    /// Nothing.
    Memory,
    /// Reads, which promise nothing.
    Read,
}

impl Class {
    pub const ALL: [Class; 4] = [Class::Strict, Class::Buffered, Class::Memory, Class::Read];

    pub fn label(self) -> &'static str {
        match self {
            Class::Strict => "strict: on the drive when acknowledged",
            Class::Buffered => "buffered: survives a kill of the process, not a power loss",
            Class::Memory => "memory: no promise",
            Class::Read => "reads",
        }
    }
}

/// `clients` at once, each with `depth` requests: in flight where there is a ring or a socket, in one commit where the
/// peer is a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shape {
    pub clients: usize,
    pub depth: usize,
}

pub const ONE: Shape = Shape { clients: 1, depth: 1 };
pub const MANY: Shape = Shape { clients: 64, depth: 1 };
pub const GROUP: Shape = Shape { clients: 1, depth: 64 };
pub const REDIS_MANY: Shape = Shape { clients: 50, depth: 1 };
pub const PIPE: Shape = Shape { clients: 1, depth: 32 };
pub const REDIS_PIPES: Shape = Shape { clients: 50, depth: 32 };

impl Shape {
    pub fn label(self) -> String {
        match (self.clients, self.depth) {
            (1, 1) => "1 client".to_owned(),
            (1, depth) => format!("1 client x {depth}"),
            (clients, 1) => format!("{clients} clients"),
            (clients, depth) => format!("{clients} clients x {depth}"),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.clients, self.depth)
    }
}

impl From<Shape> for String {
    fn from(shape: Shape) -> String {
        shape.to_string()
    }
}

impl TryFrom<String> for Shape {
    type Error = String;

    fn try_from(text: String) -> Result<Shape, String> {
        text.parse()
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Shape, String> {
        let parts =
            text.split_once('x').and_then(|(clients, depth)| Some((clients.parse().ok()?, depth.parse().ok()?)));
        match parts {
            Some((clients, depth)) if clients > 0 && depth > 0 => Ok(Shape { clients, depth }),
            _ => Err(format!("{text:?} is no shape; write it as 64x1: clients, and requests of each")),
        }
    }
}

/// The shapes that a peer is measured in.
pub fn shapes(peer: PeerName, class: Class, value_bytes: usize) -> Vec<Shape> {
    let mut shapes = vec![ONE, MANY];
    // The rest is the same story at every size.
    if value_bytes > 100 {
        return shapes;
    }
    if class == Class::Strict && peer != PeerName::Redis {
        shapes.push(GROUP);
    }
    if matches!(peer, PeerName::Forebay | PeerName::Redis) {
        if matches!(class, Class::Strict | Class::Buffered) {
            shapes.push(REDIS_MANY);
        }
        if class == Class::Memory {
            shapes.push(PIPE);
        }
        shapes.push(REDIS_PIPES);
    }
    shapes
}

/// The `number`th key to use: every key once a pass, in an order that a cache does not know.
pub fn place(number: u64) -> u32 {
    u32::try_from(number * 7_919 % u64::from(KEYS)).unwrap_or(0)
}

/// The key of a place, as redis-benchmark spells it.
pub fn key(place: u32) -> [u8; KEY_BYTES] {
    // The digits in one word: who reads a key that was just written byte by byte waits until all of it has left the core.
    let (mut digits, mut rest) = (u64::from_be_bytes(*b"00000000"), place);
    for shift in (0..64).step_by(8) {
        digits += u64::from(rest % 10) << shift;
        rest /= 10;
    }
    let mut key = *b"key:000000000000";
    key[KEY_BYTES - 8..].copy_from_slice(&digits.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spelt_as_redis_benchmark_does() {
        assert_eq!(&key(0), b"key:000000000000");
        assert_eq!(&key(9_876), b"key:000000009876");
    }

    #[test]
    fn every_key_is_used_once_a_pass() {
        let mut places: Vec<u32> = (0..u64::from(KEYS)).map(place).collect();
        places.sort_unstable();
        assert!(places.into_iter().eq(0..KEYS));
    }

    #[test]
    fn a_shape_is_read_as_it_is_written() {
        assert_eq!(REDIS_PIPES.to_string().parse(), Ok(REDIS_PIPES));
        for wrong in ["", "1", "0x1", "1x0", "x", "1x-1", "1x2x3"] {
            assert!(wrong.parse::<Shape>().is_err(), "{wrong}");
        }
    }
}
