//! Scans: pairs in the order of their keys, as far as their values are in memory.

use std::ops::Bound;

use crate::bytes::{index, len_u16, len_u32};
use crate::ring::protocol::{AUX_MORE, Completion, Status, flag};
use crate::store::space::{Entry, Spaces, expiry::is_over};
use crate::store::{Context, Mode, Outcome, Reply, Request, Store};

/// A scan's reply is bounded by this, so that one request does not hold up the others.
const SCAN_BYTES_MAX: usize = 1 << 20;

/// Keys whose time is over that a scan passes by once it has a pair. They are removed meanwhile.
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
        let is_prefix = request.submission.flags & flag::PREFIX != 0;
        let begin = begin_of(request, is_prefix);
        let limit = if request.submission.arg0 == 0 { u64::MAX } else { request.submission.arg0 };
        let (mut pairs, mut more, mut needed, mut over, lived_ms) = (0, false, 0, 0, context.lived_ms());
        // The first value that is not in memory ends the answer. Those behind it are read at the same time.
        let (mut absent, mut looked) = (None, 0);
        for slot in ordered.order.from(|slot| is_before(entries[slot as usize].key(&self.heap), begin)) {
            let entry = entries[slot as usize];
            let key = entry.key(&self.heap);
            if is_beyond(key, request, is_prefix) {
                break;
            }
            if entry.is_timed() && is_over(&entry, &self.heap, lived_ms) {
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
            let Some(value) = entry.value(slot, &self.heap, cache, context.fetched.as_ref()) else {
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
            if !push(reply, &entry, key, value) {
                more = true;
                needed = (key.len() + value.len()) as u64 + 16;
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
fn push<R: Reply>(reply: &mut R, entry: &Entry, key: &[u8], value: &[u8]) -> bool {
    reply.push(&[
        &len_u16(key.len()).to_le_bytes()[..],
        &[0, 0],
        &entry.value_bytes().to_le_bytes(),
        &entry.version.to_le_bytes(),
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
