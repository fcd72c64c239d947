//! What a modelled client asks for, and keeps: so that it can be asked again with the very same bytes.

use std::time::Duration;

use crate::ring::client::{CursorMove, Object, Once, Request, Write};
use crate::ring::protocol::{CURSOR_ABSENT, HEAD_BYTES, shard_of_key, shard_of_stream};
use crate::types::{ObjectId, ShardId};
use crate::wal::record::LINKS_BYTES;

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Put {
        space: Object,
        key: Vec<u8>,
        value: Vec<u8>,
        how: Write,
    },
    Delete {
        space: Object,
        key: Vec<u8>,
        how: Write,
    },
    Append {
        stream: Object,
        events: Vec<Vec<u8>>,
        batch: bool,
        once: Option<Once>,
        how: Write,
    },
    Trim {
        stream: Object,
        before: u64,
    },
    SetCursor {
        stream: Object,
        name: &'static str,
        offset: u64,
        how: CursorMove,
    },
    DropCursor {
        stream: Object,
        name: &'static str,
    },
    /// Of a chained stream.
    ReadChain {
        stream: Object,
        from: u64,
        reply_bytes_max: usize,
    },
    GetCursor {
        stream: Object,
        name: &'static str,
        relaxed: bool,
    },
    Get {
        space: Object,
        key: Vec<u8>,
        relaxed: bool,
        value_bytes_max: usize,
    },
    /// Of all pairs of a shard that begin with `prefix`.
    Scan {
        space: Object,
        shard: ShardId,
        prefix: Vec<u8>,
        limit: u64,
        reply_bytes_max: usize,
        relaxed: bool,
    },
    Read {
        stream: Object,
        from: u64,
        wait: Duration,
        reply_bytes_max: usize,
        relaxed: bool,
    },
    Sync {
        reactor: u32,
    },
}

/// The key of the record of such an append.
pub fn once_key(once: Once) -> Vec<u8> {
    [once.producer.to_le_bytes(), once.sequence.to_le_bytes()].concat()
}

/// The key of an append without the heads that link it.
fn without_links(key: &[u8]) -> &[u8] {
    &key[..key.len().checked_sub(LINKS_BYTES).unwrap_or(key.len())]
}

impl Action {
    /// What makes it happen once.
    pub fn once(&self) -> Option<Once> {
        if let Action::Append { once, .. } = self { *once } else { None }
    }

    pub fn object(&self) -> Option<Object> {
        match self {
            Action::Put { space, .. }
            | Action::Delete { space, .. }
            | Action::Get { space, .. }
            | Action::Scan { space, .. } => Some(*space),
            Action::Append { stream, .. }
            | Action::Trim { stream, .. }
            | Action::SetCursor { stream, .. }
            | Action::DropCursor { stream, .. }
            | Action::GetCursor { stream, .. }
            | Action::ReadChain { stream, .. }
            | Action::Read { stream, .. } => Some(*stream),
            Action::Sync { .. } => None,
        }
    }

    pub fn key(&self) -> Option<&[u8]> {
        match self {
            Action::Put { key, .. } | Action::Delete { key, .. } | Action::Get { key, .. } => Some(key),
            _ => None,
        }
    }

    pub fn is_write(&self) -> bool {
        matches!(
            self,
            Action::Put { .. }
                | Action::Delete { .. }
                | Action::Append { .. }
                | Action::Trim { .. }
                | Action::SetCursor { .. }
                | Action::DropCursor { .. }
        )
    }

    /// The cursor that it is about.
    pub fn cursor(&self) -> Option<&'static str> {
        match self {
            Action::SetCursor { name, .. } | Action::DropCursor { name, .. } | Action::GetCursor { name, .. } => {
                Some(name)
            }
            _ => None,
        }
    }

    /// Where it puts its cursor.
    pub fn cursor_to(&self) -> Option<u64> {
        match self {
            Action::SetCursor { offset, .. } => Some(*offset),
            Action::DropCursor { .. } => Some(CURSOR_ABSENT),
            _ => None,
        }
    }

    pub fn how(&self) -> Write {
        match self {
            Action::Put { how, .. } | Action::Delete { how, .. } | Action::Append { how, .. } => *how,
            Action::SetCursor { how, .. } => Write { durability: how.durability, if_version: None },
            _ => Write::default(),
        }
    }

    /// Where it is served. A sync concerns several.
    pub fn shard(&self, shards: u32) -> Option<ShardId> {
        match self {
            Action::Put { space, key, .. } | Action::Delete { space, key, .. } | Action::Get { space, key, .. } => {
                Some(shard_of_key(space.id.0, key, shards))
            }
            Action::Append { stream, .. }
            | Action::Trim { stream, .. }
            | Action::SetCursor { stream, .. }
            | Action::DropCursor { stream, .. }
            | Action::GetCursor { stream, .. }
            | Action::ReadChain { stream, .. }
            | Action::Read { stream, .. } => Some(shard_of_stream(stream.id.0, shards)),
            Action::Scan { shard, .. } => Some(*shard),
            Action::Sync { .. } => None,
        }
    }

    /// Whether a recovered record of this object, key and value is this write.
    pub fn wrote(&self, object: ObjectId, key: &[u8], value: &[u8]) -> bool {
        self.object().is_some_and(|own| own.id == object)
            && match self {
                Action::Put { key: own, value: bytes, .. } => own == key && bytes == value,
                Action::Delete { key: own, .. } => own == key && value.is_empty(),
                Action::Append { once: Some(once), .. } => {
                    // Its events may be trimmed and gone.
                    without_links(key) == once_key(*once) && (value.is_empty() || self.payload() == value)
                }
                Action::SetCursor { name, .. } | Action::DropCursor { name, .. } => key == name.as_bytes(),
                Action::Trim { .. } => key.is_empty() && (value.is_empty() || value.len() == HEAD_BYTES),
                Action::Append { .. } => without_links(key).is_empty() && self.payload() == value,
                _ => key.is_empty() && value.is_empty(),
            }
    }

    /// The value of the record that this makes.
    pub fn payload(&self) -> Vec<u8> {
        match self {
            Action::Put { value, .. } => value.clone(),
            Action::Append { events, batch: false, once: None, .. } => events.concat(),
            Action::Append { events, .. } => {
                let framed = |event: &Vec<u8>| [&crate::bytes::len_u32(event.len()).to_le_bytes()[..], event].concat();
                events.iter().flat_map(framed).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Calls `submit` with the request that this is.
    pub fn with_request<T>(&self, submit: impl FnOnce(&Request<'_>) -> T) -> T {
        match self {
            Action::Put { space, key, value, how } => submit(&Request::Put { space: *space, key, value, how: *how }),
            Action::Delete { space, key, how } => submit(&Request::Delete { space: *space, key, how: *how }),
            Action::Append { stream, events, once: Some(once), how, .. } => {
                let events: Vec<&[u8]> = events.iter().map(Vec::as_slice).collect();
                submit(&Request::AppendOnce { stream: *stream, once: *once, events: &events, how: *how })
            }
            Action::Append { stream, events, batch: false, how, .. } => {
                submit(&Request::Append { stream: *stream, event: &events[0], how: *how })
            }
            Action::Append { stream, events, how, .. } => {
                let events: Vec<&[u8]> = events.iter().map(Vec::as_slice).collect();
                submit(&Request::AppendBatch { stream: *stream, events: &events, how: *how })
            }
            Action::Trim { stream, before } => submit(&Request::Trim { stream: *stream, before: *before }),
            Action::Get { space, key, relaxed, value_bytes_max } => {
                submit(&Request::Get { space: *space, key, relaxed: *relaxed, value_bytes_max: *value_bytes_max })
            }
            Action::Scan { space, shard, prefix, limit, reply_bytes_max, relaxed } => submit(&Request::Scan {
                space: *space,
                shard: *shard,
                begin: prefix,
                end: &[],
                prefix: true,
                limit: *limit,
                reply_bytes_max: *reply_bytes_max,
                relaxed: *relaxed,
            }),
            Action::Read { stream, from, wait, reply_bytes_max, relaxed } => submit(&Request::Read {
                stream: *stream,
                from: *from,
                wait: *wait,
                reply_bytes_max: *reply_bytes_max,
                relaxed: *relaxed,
            }),
            Action::ReadChain { stream, from, reply_bytes_max } => {
                submit(&Request::ReadChain { stream: *stream, from: *from, reply_bytes_max: *reply_bytes_max })
            }
            Action::SetCursor { stream, name, offset, how } => {
                submit(&Request::SetCursor { stream: *stream, name, offset: *offset, how: *how })
            }
            Action::DropCursor { stream, name } => submit(&Request::DropCursor { stream: *stream, name }),
            Action::GetCursor { stream, name, relaxed } => {
                submit(&Request::GetCursor { stream: *stream, name, relaxed: *relaxed })
            }
            Action::Sync { reactor } => submit(&Request::Sync { reactor: *reactor }),
        }
    }
}
