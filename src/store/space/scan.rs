//! Scans: pairs in the order of their keys, as far as their values are in memory.

use std::ops::Bound;

use crate::bytes::{index, len_u16, len_u32};
use crate::ring::protocol::{AUX_MORE, Completion, Status, flag};
use crate::store::cache::Cache;
use crate::store::heap::Heap;
use crate::store::space::expiry::{is_over, until_ms};
use crate::store::space::{Entry, Spaces, View};
use crate::store::{Context, Mode, Outcome, Reply, Request, Store};
use crate::types::Lsn;

/// A scan's reply is bounded by this, so that one request does not hold up the others.
const SCAN_BYTES_MAX: usize = 1 << 20;

/// Keys whose time is over, or that a snapshot does not see, that a scan passes by once it has a pair.
const OVER_MAX: usize = 4_096;

impl Store {
    pub(in crate::store) fn scan<R: Reply>(
        &mut self,
        context: &mut Context<'_>,
        request: &Request<'_>,
        mode: Mode,
        reply: &mut R,
    ) -> Outcome {
        let Spaces { ordered, entries, cache, .. } = &mut self.spaces;
        let Some(ordered) = ordered.get(mode.object.index()) else {
            return Outcome::status(Status::Ok);
        };
        let after = mode.visible_after(context.wal, ordered.changed_lsn);
        let range = Range::of(request, request.submission.arg0);
        let view = View { version: u64::MAX, lsn: ordered.changed_lsn, lived_ms: context.lived_ms() };
        let (entries, heap) = (entries.as_slice(), &self.heap);
        let slots = ordered.order.from(|slot| is_before(entries[slot as usize].key(heap), range.begin));
        let slots = slots.map(|slot| (slot, u64::MAX));
        Scan { entries, heap, cache, reply, view, after, shows: Shows::of(request) }
            .run(slots, context, request, &range)
    }

    /// The same, as a snapshot sees it.
    pub(in crate::store) fn scan_at<R: Reply>(
        &mut self,
        context: &mut Context<'_>,
        request: &Request<'_>,
        mode: Mode,
        reply: &mut R,
    ) -> Outcome {
        let view = match self.view(context, request) {
            Ok(view) => view,
            Err(gone) => return gone,
        };
        let Spaces { ordered, entries, cache, kept, .. } = &mut self.spaces;
        let Some(ordered) = ordered.get(mode.object.index()) else {
            return Outcome::status(Status::Ok);
        };
        let after = mode.visible_after(context.wal, ordered.changed_lsn.min(view.lsn));
        let range = Range::of(request, request.submission.arg1 >> u32::BITS);
        let (entries, heap) = (entries.as_slice(), &self.heap);
        let key_of = |slot: u32| entries[slot as usize].key(heap);
        let current = ordered.order.from(|slot| is_before(key_of(slot), range.begin)).map(|slot| (slot, u64::MAX));
        let old = ordered.kept.from(|number| is_before(key_of(kept.slot(number)), range.begin));
        let old = old.map(|number| (kept.slot(number), kept.last(number)));
        let (mut current, mut old) = (current.peekable(), old.peekable());
        let slots = std::iter::from_fn(|| {
            let old_first = match (current.peek(), old.peek()) {
                (Some((current, _)), Some((old, _))) => key_of(*old) < key_of(*current),
                (current, _) => current.is_none(),
            };
            if old_first { old.next() } else { current.next() }
        });
        Scan { entries, heap, cache, reply, view, after, shows: Shows::of(request) }
            .run(slots, context, request, &range)
    }
}

/// What a scan asks for.
struct Range<'a> {
    is_prefix: bool,
    begin: Bound<&'a [u8]>,
    limit: u64,
}

impl<'a> Range<'a> {
    fn of(request: &Request<'a>, limit: u64) -> Range<'a> {
        let is_prefix = request.submission.flags & flag::PREFIX != 0;
        let limit = if limit == 0 { u64::MAX } else { limit };
        Range { is_prefix, begin: begin_of(request, is_prefix), limit }
    }
}

/// What it tells of each key.
#[derive(Clone, Copy)]
struct Shows {
    until: bool,
    values: bool,
}

impl Shows {
    fn of(request: &Request<'_>) -> Shows {
        let flags = request.submission.flags;
        Shows { until: flags & flag::EXPIRES != 0, values: flags & flag::KEYS_ONLY == 0 }
    }
}

struct Scan<'a, R> {
    entries: &'a [Entry],
    heap: &'a Heap,
    cache: &'a mut Cache,
    reply: &'a mut R,
    view: View,
    after: Lsn,
    shows: Shows,
}

impl<R: Reply> Scan<'_, R> {
    /// Goes through slots in the order of their keys. With each comes the last version at which it holds.
    #[inline]
    fn run(
        self,
        slots: impl Iterator<Item = (u32, u64)>,
        context: &mut Context<'_>,
        request: &Request<'_>,
        range: &Range<'_>,
    ) -> Outcome {
        let Scan { entries, heap, cache, reply, view, after, shows } = self;
        let (mut pairs, mut more, mut needed, mut over, limit) = (0, false, 0, 0, range.limit);
        // The first value that is not in memory ends the answer. Those behind it are read at the same time.
        let (mut absent, mut looked) = (None, 0);
        for (slot, last) in slots {
            let entry = entries[slot as usize];
            let key = entry.key(heap);
            if is_beyond(key, request, range.is_prefix) {
                break;
            }
            let holds = entry.version <= view.version && view.version <= last;
            if !holds || entry.is_timed() && is_over(&entry, heap, view.lived_ms) {
                over += 1;
                if over >= OVER_MAX && pairs > 0 {
                    more = true;
                    break;
                }
                continue;
            }
            if looked > 0 && looked >= context.ahead.capacity().min(index(limit)) {
                break;
            }
            if pairs == limit || reply.bytes() >= SCAN_BYTES_MAX {
                more = true;
                break;
            }
            let value = match shows.values {
                true => entry.value(slot, heap, cache, context.fetched),
                false => Some(&[][..]),
            };
            let Some(value) = value else {
                more = true;
                looked += 1;
                if pairs == 0 && absent.is_none() {
                    absent = Some(entry.want(slot));
                } else if context.ahead.len() < context.ahead.capacity() {
                    context.ahead.push(entry.want(slot));
                }
                continue;
            };
            if looked > 0 {
                looked += 1;
                continue;
            }
            let until_ms = if shows.until && entry.is_timed() { Some(until_ms(&entry, heap)) } else { None };
            if !push(reply, &entry, until_ms, key, value) {
                more = true;
                needed = (key.len() + value.len()) as u64 + if until_ms.is_some() { 24 } else { 16 };
                break;
            }
            pairs += 1;
        }
        if let Some(want) = absent.filter(|_| pairs == 0) {
            return Outcome::Fetch(want);
        }
        let fits = pairs > 0 || !more;
        let status = if fits { Status::Ok } else { Status::ReplyTooSmall } as u16;
        let aux = if fits { pairs | if more { AUX_MORE } else { 0 } } else { needed };
        let reply_bytes = if fits { len_u32(reply.bytes()) } else { 0 };
        let completion = Completion { status, aux, reply_bytes, ..Completion::default() };
        Outcome::Answer { completion, after }
    }
}

/// Adds a pair to the reply. `false`: it does not fit.
#[inline]
fn push<R: Reply>(reply: &mut R, entry: &Entry, until_ms: Option<u64>, key: &[u8], value: &[u8]) -> bool {
    let timed = until_ms.map(u64::to_le_bytes);
    reply.push(&[
        &len_u16(key.len()).to_le_bytes()[..],
        &u16::from(timed.is_some()).to_le_bytes(),
        &len_u32(value.len()).to_le_bytes(),
        &entry.version.to_le_bytes(),
        timed.as_ref().map_or(&[], |until| until),
        key,
        value,
    ])
}

/// Where a scan begins: at its key, or behind the cursor of a prefix.
fn begin_of<'a>(request: &Request<'a>, is_prefix: bool) -> Bound<&'a [u8]> {
    match (is_prefix, request.value.is_empty()) {
        (true, false) => Bound::Excluded(request.value),
        _ => Bound::Included(request.key),
    }
}

/// Whether a key lies behind the last one of a scan.
fn is_beyond(key: &[u8], request: &Request<'_>, is_prefix: bool) -> bool {
    if is_prefix { !key.starts_with(request.key) } else { !request.value.is_empty() && *key >= *request.value }
}

pub fn is_before(key: &[u8], begin: Bound<&[u8]>) -> bool {
    match begin {
        Bound::Included(begin) => key < begin,
        Bound::Excluded(begin) => key <= begin,
        Bound::Unbounded => false,
    }
}
