//! What a modelled client asks for, and keeps: so that it can be asked again with the very same bytes.

use std::time::Duration;

use crate::ring::client::{CursorMove, Entry, Object, Once, Request, Retention, Snapshot, What, Write};
use crate::ring::protocol::{CURSOR_ABSENT, HEAD_BYTES, PAGE_HEADER_BYTES, shard_of_key, shard_of_stream};
use crate::types::{Durability, ObjectId, PageHint, PageSize, ShardId};
use crate::wal::record::{LINKS_BYTES, UNTIL_BYTES};

/// Of all pages: the smallest, so that they share frames.
pub const PAGE: PageSize = PageHint::Point.page_size();

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
    /// `None`: what holds is to be told.
    Retain {
        stream: Object,
        set: Option<Retention>,
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
    /// The lowest shard of its keys; the reads stand first.
    Commit {
        shard: ShardId,
        steps: Vec<Step>,
        durability: Option<Durability>,
        relaxed: bool,
    },
    /// Puts and deletes of pages of one space.
    WritePages {
        space: Object,
        steps: Vec<Step>,
        durability: Option<Durability>,
    },
    ReadPages {
        space: Object,
        numbers: Vec<u64>,
        /// As it sees them; `None`: as they are.
        snapshot: Option<u64>,
        relaxed: bool,
    },
    Sync {
        reactor: u32,
    },
    Snapshot,
    Release {
        snapshot: u64,
    },
    GetAt {
        snapshot: u64,
        space: Object,
        key: Vec<u8>,
        value_bytes_max: usize,
    },
    ScanAt {
        snapshot: u64,
        space: Object,
        shard: ShardId,
        prefix: Vec<u8>,
        limit: u32,
        reply_bytes_max: usize,
    },
    Extent {
        snapshot: u64,
        stream: Object,
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

/// One key of a commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub space: Object,
    pub key: Vec<u8>,
    pub does: Does,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Does {
    /// Saw this version.
    Read(u64),
    Put(Vec<u8>),
    Delete,
}

impl Step {
    pub fn entry(&self) -> Entry<'_> {
        let what = match &self.does {
            Does::Read(version) => What::Read(*version),
            Does::Put(value) => What::Put(value),
            Does::Delete => What::Delete,
        };
        Entry { object: self.space.id, key: &self.key, what }
    }

    pub fn is_write(&self) -> bool {
        !matches!(self.does, Does::Read(_))
    }
}

/// A space, a key, and what is written there; `None`: it is deleted.
pub type KeyWrite<'a> = (ObjectId, &'a [u8], Option<&'a [u8]>);

impl Action {
    /// What makes it happen once.
    pub fn once(&self) -> Option<Once> {
        if let Action::Append { once, .. } = self { *once } else { None }
    }

    /// After how long what it puts is gone.
    pub fn ttl_ms(&self) -> Option<u64> {
        let expires = self.how().expires?;
        u64::try_from(expires.as_millis()).ok()
    }

    /// What it writes to keys. Of one key that a commit writes several times, the last one counts.
    pub fn key_writes(&self) -> Vec<KeyWrite<'_>> {
        match self {
            Action::Put { space, key, value, .. } => vec![(space.id, key, Some(value))],
            Action::Delete { space, key, .. } => vec![(space.id, key, None)],
            Action::Commit { steps, .. } | Action::WritePages { steps, .. } => {
                let writes = steps.iter().filter(|step| step.is_write()).map(|step| {
                    let value = if let Does::Put(value) = &step.does { Some(value.as_slice()) } else { None };
                    (step.space.id, step.key.as_slice(), value)
                });
                writes.collect()
            }
            _ => Vec::new(),
        }
    }

    /// The one page that it writes, and nothing else. Its record is that of a put.
    pub fn one_page(&self) -> Option<(&[u8], &[u8])> {
        match self {
            Action::WritePages { steps, .. } => match steps.as_slice() {
                [Step { key, does: Does::Put(page), .. }] => Some((key, page)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether its record is a commit.
    pub fn commits(&self) -> bool {
        let pages = matches!(self, Action::WritePages { .. }) && self.one_page().is_none();
        pages || matches!(self, Action::Commit { .. })
    }

    /// The versions that a commit says it read.
    pub fn key_reads(&self) -> impl Iterator<Item = (&Step, u64)> {
        let steps = if let Action::Commit { steps, .. } = self { steps.as_slice() } else { &[] };
        steps.iter().filter_map(|step| if let Does::Read(version) = step.does { Some((step, version)) } else { None })
    }

    /// What the answer promises, and whether anything has to be logged for it.
    pub fn promise(&self) -> (Durability, bool) {
        let own = match self {
            Action::Commit { steps, .. } => {
                let written = steps.iter().filter(|step| step.is_write());
                written.map(|step| step.space.durability).max().unwrap_or(Durability::Memory)
            }
            _ => self.object().map_or(Durability::Memory, |object| object.durability),
        };
        let promised = self.how().durability.unwrap_or(own);
        (promised, promised != Durability::Memory || own != Durability::Memory)
    }

    pub fn is_on_space(&self) -> bool {
        matches!(self, Action::Put { .. } | Action::Delete { .. } | Action::Commit { .. })
    }

    pub fn object(&self) -> Option<Object> {
        match self {
            Action::Put { space, .. }
            | Action::Delete { space, .. }
            | Action::Get { space, .. }
            | Action::GetAt { space, .. }
            | Action::ScanAt { space, .. }
            | Action::WritePages { space, .. }
            | Action::ReadPages { space, .. }
            | Action::Scan { space, .. } => Some(*space),
            Action::Append { stream, .. }
            | Action::Trim { stream, .. }
            | Action::SetCursor { stream, .. }
            | Action::DropCursor { stream, .. }
            | Action::Retain { stream, .. }
            | Action::GetCursor { stream, .. }
            | Action::ReadChain { stream, .. }
            | Action::Extent { stream, .. }
            | Action::Read { stream, .. } => Some(*stream),
            Action::Sync { .. } | Action::Commit { .. } | Action::Snapshot | Action::Release { .. } => None,
        }
    }

    pub fn key(&self) -> Option<&[u8]> {
        match self {
            Action::Put { key, .. } | Action::Delete { key, .. } | Action::Get { key, .. } => Some(key),
            _ => None,
        }
    }

    pub fn is_write(&self) -> bool {
        match self {
            Action::Commit { steps, .. } => steps.iter().any(Step::is_write),
            Action::Retain { set, .. } => set.is_some(),
            Action::Put { .. }
            | Action::Delete { .. }
            | Action::Append { .. }
            | Action::Trim { .. }
            | Action::SetCursor { .. }
            | Action::WritePages { .. }
            | Action::DropCursor { .. } => true,
            _ => false,
        }
    }

    /// The bounds that it sets, in bytes and ms; 0: none.
    pub fn bounds(&self) -> Option<(u64, u64)> {
        let Action::Retain { set: Some(Retention { bytes, age }), .. } = self else { return None };
        let age_ms = age.map_or(0, |age| u64::try_from(age.as_millis()).expect("an age of a few years"));
        Some((bytes.unwrap_or(0), age_ms))
    }

    /// The snapshot that it names.
    pub fn snapshot(&self) -> Option<u64> {
        match self {
            Action::Release { snapshot }
            | Action::GetAt { snapshot, .. }
            | Action::ScanAt { snapshot, .. }
            | Action::Extent { snapshot, .. } => Some(*snapshot),
            Action::ReadPages { snapshot, .. } => *snapshot,
            _ => None,
        }
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
            Action::SetCursor { how, .. } => Write { durability: how.durability, ..Write::default() },
            Action::Commit { durability, .. } | Action::WritePages { durability, .. } => {
                Write { durability: *durability, ..Write::default() }
            }
            _ => Write::default(),
        }
    }

    /// Where it is served. A sync concerns several.
    pub fn shard(&self, shards: u32) -> Option<ShardId> {
        match self {
            Action::Put { space, key, .. }
            | Action::Delete { space, key, .. }
            | Action::Get { space, key, .. }
            | Action::GetAt { space, key, .. } => Some(shard_of_key(space.id.0, key, shards)),
            Action::Append { stream, .. }
            | Action::Trim { stream, .. }
            | Action::SetCursor { stream, .. }
            | Action::DropCursor { stream, .. }
            | Action::Retain { stream, .. }
            | Action::GetCursor { stream, .. }
            | Action::ReadChain { stream, .. }
            | Action::Extent { stream, .. }
            | Action::Read { stream, .. } => Some(shard_of_stream(stream.id.0, shards)),
            Action::Scan { shard, .. } | Action::ScanAt { shard, .. } | Action::Commit { shard, .. } => Some(*shard),
            Action::WritePages { space, .. } | Action::ReadPages { space, .. } => {
                Some(shard_of_stream(space.id.0, shards))
            }
            Action::Sync { .. } | Action::Snapshot | Action::Release { .. } => None,
        }
    }

    /// The object of the record that this makes.
    pub fn record_object(&self) -> ObjectId {
        self.object().filter(|_| !self.commits()).map_or(ObjectId(0), |own| own.id)
    }

    /// Whether a recovered record of this object, key and value is this write.
    pub fn wrote(&self, object: ObjectId, key: &[u8], value: &[u8]) -> bool {
        self.record_object() == object
            && match self {
                Action::Put { key: own, value: bytes, how, .. } => {
                    let until_bytes = if how.expires.is_some() { UNTIL_BYTES } else { 0 };
                    key.len() == own.len() + until_bytes && key.starts_with(own) && bytes == value
                }
                Action::Delete { key: own, .. } => own == key && value.is_empty(),
                Action::Append { once: Some(once), .. } => {
                    // Its events may be trimmed and gone.
                    without_links(key) == once_key(*once) && (value.is_empty() || self.payload() == value)
                }
                Action::SetCursor { name, .. } | Action::DropCursor { name, .. } => key == name.as_bytes(),
                Action::Retain { .. } => {
                    value.is_empty() && self.bounds().is_some_and(|(_, age_ms)| key == age_ms.to_le_bytes())
                }
                Action::Trim { .. } => key.is_empty() && (value.is_empty() || value.len() == HEAD_BYTES),
                Action::Append { .. } => without_links(key).is_empty() && self.payload() == value,
                Action::Commit { .. } => key.is_empty() && self.payload() == value,
                Action::WritePages { .. } => {
                    self.one_page().map_or(&[][..], |(own, _)| own) == key && self.payload() == value
                }
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
            Action::WritePages { steps, .. } if steps.len() == 1 && self.one_page().is_some() => {
                self.one_page().map_or_else(Vec::new, |(_, page)| page.to_vec())
            }
            Action::Commit { steps, .. } | Action::WritePages { steps, .. } => {
                let mut bytes = Vec::new();
                let writes = steps.iter().filter(|step| step.is_write());
                writes.for_each(|step| step.entry().encode(|part| bytes.extend_from_slice(part)));
                bytes
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
            Action::Retain { stream, set } => submit(&Request::Retain { stream: *stream, set: *set }),
            Action::GetCursor { stream, name, relaxed } => {
                submit(&Request::GetCursor { stream: *stream, name, relaxed: *relaxed })
            }
            Action::Commit { steps, durability, relaxed, .. } => {
                let entries: Vec<Entry<'_>> = steps.iter().map(Step::entry).collect();
                submit(&Request::Commit { entries: &entries, durability: *durability, relaxed: *relaxed })
            }
            Action::WritePages { space, steps, durability } => {
                let (space, durability) = (*space, *durability);
                if let Some((key, page)) = self.one_page() {
                    let number = u64::from_be_bytes(*key.first_chunk().expect("a page number has 8 bytes"));
                    return submit(&Request::WritePage { space, number, page, durability });
                }
                let entries: Vec<Entry<'_>> = steps.iter().map(Step::entry).collect();
                submit(&Request::WritePages { space, entries: &entries, durability })
            }
            Action::ReadPages { space, numbers, snapshot, relaxed } => {
                let (snapshot, relaxed) = (snapshot.map(Snapshot), *relaxed);
                let reply_bytes_max = numbers.len() * (PAGE_HEADER_BYTES + PAGE.bytes());
                submit(&Request::ReadPages { space: *space, numbers, snapshot, relaxed, reply_bytes_max })
            }
            Action::Sync { reactor } => submit(&Request::Sync { reactor: *reactor }),
            _ => self.with_snapshot_request(submit),
        }
    }

    /// The same for those about snapshots.
    fn with_snapshot_request<T>(&self, submit: impl FnOnce(&Request<'_>) -> T) -> T {
        match self {
            Action::Release { snapshot } => submit(&Request::Release { snapshot: Snapshot(*snapshot) }),
            Action::GetAt { snapshot, space, key, value_bytes_max } => submit(&Request::GetAt {
                snapshot: Snapshot(*snapshot),
                space: *space,
                key,
                value_bytes_max: *value_bytes_max,
            }),
            // The same, but that it tells of times to live.
            Action::ScanAt { snapshot, space, shard, prefix, limit, reply_bytes_max } if limit % 2 == 1 => {
                submit(&Request::List {
                    snapshot: Some(Snapshot(*snapshot)),
                    space: *space,
                    shard: *shard,
                    begin: prefix,
                    end: &[],
                    prefix: true,
                    limit: *limit,
                    keys_only: false,
                    reply_bytes_max: *reply_bytes_max,
                })
            }
            Action::ScanAt { snapshot, space, shard, prefix, limit, reply_bytes_max } => submit(&Request::ScanAt {
                snapshot: Snapshot(*snapshot),
                space: *space,
                shard: *shard,
                begin: prefix,
                end: &[],
                prefix: true,
                limit: *limit,
                reply_bytes_max: *reply_bytes_max,
            }),
            Action::Extent { snapshot, stream } => {
                submit(&Request::Extent { snapshot: Snapshot(*snapshot), stream: *stream })
            }
            _ => submit(&Request::Snapshot),
        }
    }
}
