//! Ordered scans. A space's keys are spread over all shards, each ordered by itself; a scan merges them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::ring::protocol::{AUX_MORE, KEY_BYTES_MAX, Status};
use crate::types::ShardId;

use super::calls::{REPLY_BYTES, larger_reply};
use super::reply::{Listed, listed};
use super::{Client, ClientError, Object, Request, Snapshot, Version};

/// Which keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanRange<'a> {
    /// Keys that begin with `prefix` and come after `after` (empty: all of them).
    Prefix { prefix: &'a [u8], after: &'a [u8] },
    /// Keys from `begin` (inclusive) to `end` (exclusive, empty: to the last).
    Range { begin: &'a [u8], end: &'a [u8] },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub key: Vec<u8>,
    pub version: Version,
    pub value: Vec<u8>,
    /// Until when it holds, in ms since 1970; told by `list`.
    pub until_ms: Option<u64>,
}

/// Pairs in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    pub pairs: Vec<Pair>,
    /// There may be more: scan again with this as `after` of a prefix, or as `begin` of a range. `None`: that was all.
    pub cursor: Option<Vec<u8>>,
}

/// What a scan is to show.
#[derive(Clone, Copy)]
pub(super) enum Show {
    Pairs,
    /// Until when keys hold, too.
    List {
        keys_only: bool,
    },
}

/// How far one shard was read.
struct ShardScan {
    shard: ShardId,
    pairs: VecDeque<Pair>,
    /// Where the next request begins: `after` of a prefix, `begin` of a range. `None`: the shard has no more.
    cursor: Option<Vec<u8>>,
    reply_bytes_max: usize,
}

impl Client {
    /// At most `limit` pairs of a space in the order of their keys, merged over all shards. Not a snapshot: each pair is
    /// as it was at some moment of the call. Blocks.
    ///
    /// # Errors
    /// As `wait`.
    pub fn scan(&mut self, space: Object, range: &ScanRange<'_>, limit: usize) -> Result<ScanPage, ClientError> {
        self.scan_of((None, Show::Pairs), space, range, limit)
    }

    /// A scan of what is there, or of a snapshot, that tells until when keys hold. With `keys_only` the values are empty,
    /// and none is read for it.
    ///
    /// # Errors
    /// `SnapshotGone` when the daemon gave it up; else as `wait`.
    pub fn list(
        &mut self,
        at: Option<Snapshot>,
        space: Object,
        range: &ScanRange<'_>,
        limit: usize,
        keys_only: bool,
    ) -> Result<ScanPage, ClientError> {
        self.scan_of((at, Show::List { keys_only }), space, range, limit)
    }

    /// A scan of what is there, or of a snapshot.
    pub(super) fn scan_of(
        &mut self,
        at: (Option<Snapshot>, Show),
        space: Object,
        range: &ScanRange<'_>,
        limit: usize,
    ) -> Result<ScanPage, ClientError> {
        if limit == 0 {
            return Ok(ScanPage::default());
        }
        let start = match range {
            ScanRange::Prefix { after, .. } => *after,
            ScanRange::Range { begin, .. } => *begin,
        };
        let mut shards: Vec<ShardScan> = (0..self.shards())
            .map(|shard| ShardScan {
                shard: ShardId(shard),
                pairs: VecDeque::new(),
                cursor: Some(start.to_vec()),
                reply_bytes_max: REPLY_BYTES,
            })
            .collect();
        self.fill(at, space, range, limit, &mut shards)?;
        let next = |shard: &ShardScan| shard.pairs.front().map(|pair| Reverse((pair.key.clone(), shard.shard.index())));
        let mut heap: BinaryHeap<_> = shards.iter().filter_map(next).collect();
        let mut page = ScanPage::default();
        while let Some(Reverse((_, index))) = heap.pop() {
            page.pairs.extend(shards[index].pairs.pop_front());
            if page.pairs.len() == limit {
                let more = shards.iter().any(|shard| !shard.pairs.is_empty() || shard.cursor.is_some());
                page.cursor = page.pairs.last().filter(|_| more).and_then(|pair| cursor_after(range, &pair.key));
                break;
            }
            if shards[index].pairs.is_empty() {
                // What lies beyond in this shard must be known before a pair of another can follow.
                self.fill(at, space, range, limit, &mut shards[index..=index])?;
            }
            heap.extend(next(&shards[index]));
        }
        Ok(page)
    }

    /// Reads on in all shards given, side by side, until each has a pair to show or is at its end.
    fn fill(
        &mut self,
        at: (Option<Snapshot>, Show),
        space: Object,
        range: &ScanRange<'_>,
        limit: usize,
        shards: &mut [ShardScan],
    ) -> Result<(), ClientError> {
        loop {
            let due: Vec<usize> =
                (0..shards.len()).filter(|at| shards[*at].pairs.is_empty() && shards[*at].cursor.is_some()).collect();
            if due.is_empty() {
                return Ok(());
            }
            let requests: Vec<Request<'_>> =
                due.iter().filter_map(|shard| request(at, space, range, limit, &shards[*shard])).collect();
            let answers = self.call_all(&requests)?;
            for (at, (answer, reply)) in due.into_iter().zip(answers) {
                let shard = &mut shards[at];
                if answer.status == Status::ReplyTooSmall {
                    shard.reply_bytes_max = larger_reply(shard.reply_bytes_max, answer.aux)?;
                    continue;
                }
                let more = answer.ok()?.aux & AUX_MORE != 0;
                shard.take(range, &reply, more)?;
            }
        }
    }
}

impl ShardScan {
    fn take(&mut self, range: &ScanRange<'_>, reply: &[u8], more: bool) -> Result<(), ClientError> {
        for pair in listed(reply) {
            let Listed { key, version, value, until_ms } = pair?;
            if self.pairs.back().is_some_and(|last| last.key.as_slice() >= key) {
                return Err(ClientError::Broken("a scan is not in order".into()));
            }
            self.pairs.push_back(Pair { key: key.to_vec(), version, value: value.to_vec(), until_ms });
        }
        self.cursor = match self.pairs.back() {
            Some(last) if more => cursor_after(range, &last.key),
            None if more => return Err(ClientError::Broken("a scan has more and shows nothing".into())),
            _ => None,
        };
        Ok(())
    }
}

fn request<'a>(
    (at, show): (Option<Snapshot>, Show),
    space: Object,
    range: &ScanRange<'a>,
    limit: usize,
    shard: &'a ShardScan,
) -> Option<Request<'a>> {
    let cursor = shard.cursor.as_deref()?;
    let (begin, end, prefix) = match *range {
        ScanRange::Prefix { prefix, .. } => (prefix, cursor, true),
        ScanRange::Range { end, .. } => (cursor, end, false),
    };
    let (own, reply_bytes_max) = (shard.shard, shard.reply_bytes_max);
    if let Show::List { keys_only } = show {
        let (snapshot, limit) = (at, u32::try_from(limit).unwrap_or(u32::MAX));
        return Some(Request::List {
            snapshot,
            space,
            shard: own,
            begin,
            end,
            prefix,
            limit,
            keys_only,
            reply_bytes_max,
        });
    }
    if let Some(snapshot) = at {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        return Some(Request::ScanAt { snapshot, space, shard: own, begin, end, prefix, limit, reply_bytes_max });
    }
    let limit = limit as u64;
    Some(Request::Scan { space, shard: own, begin, end, prefix, limit, reply_bytes_max, relaxed: false })
}

/// Where a scan goes on after a key.
fn cursor_after(range: &ScanRange<'_>, key: &[u8]) -> Option<Vec<u8>> {
    match range {
        ScanRange::Prefix { .. } => Some(key.to_vec()),
        ScanRange::Range { .. } => successor(key),
    }
}

/// The least key greater than this one, `None` if it is the greatest of all.
fn successor(key: &[u8]) -> Option<Vec<u8>> {
    let mut next = key.to_vec();
    if next.len() < KEY_BYTES_MAX {
        next.push(0);
        return Some(next);
    }
    while let Some(last) = next.pop() {
        if last < u8::MAX {
            next.push(last + 1);
            return Some(next);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_successor_is_the_next_key() {
        assert_eq!(successor(b"ab"), Some(b"ab\0".to_vec()));
        assert_eq!(successor(&[0xff]), Some(vec![0xff, 0]));
        let mut longest = vec![0x61; KEY_BYTES_MAX];
        let next = successor(&longest).unwrap();
        assert_eq!((next.len(), next[KEY_BYTES_MAX - 1]), (KEY_BYTES_MAX, 0x62));
        longest[1..].fill(0xff);
        assert_eq!(successor(&longest), Some(vec![0x62]));
        assert_eq!(successor(&[0xff; KEY_BYTES_MAX]), None);
    }
}
