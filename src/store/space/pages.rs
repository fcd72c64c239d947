//! Page spaces: pages of one size by number, all of them in one shard. A page is a value under its number, so the index,
//! the cache, reclaim, reads from the drive and recovery hold for it as they are. Several pages are one commit. One that
//! is written again while the frame of its record is open is written over there.

use crate::bytes::{len_u32, put_u32, put_u64};
use crate::ring::protocol::commit::{Entry as CommitEntry, What, entries, split_first};
use crate::ring::protocol::{
    Completion, Opcode, PAGE_HEADER_BYTES, PAGE_NUMBER_BYTES, PAGES_MAX, Status, flag, page_request_bytes_max,
};
use crate::store::{Context, Fetched, Mode, Outcome, Reply, Request, Store, Whose};
use crate::types::{Durability, Lsn, ObjectId, PageSize};
use crate::wal::planted::Planted;
use crate::wal::record::{Kind, Record, encoded_bytes};
use crate::wal::{Rewrite, frame};

use super::View;
use super::entry::{Entry, Said};

/// Who sees every page as it is.
const NOW: View = View { version: u64::MAX, lsn: Lsn(u64::MAX), lived_ms: 0 };

/// By page of a read that goes through the store more than once, for pages that had to be read from the drive: the version
/// that stands in the reply already, 0: none. All zero between two requests.
#[derive(Clone, Copy)]
pub struct PagesRead {
    versions: [u64; PAGES_MAX],
    /// How often it went through the store again.
    pub passes: usize,
}

impl Default for PagesRead {
    fn default() -> PagesRead {
        PagesRead { versions: [0; PAGES_MAX], passes: 0 }
    }
}

impl PagesRead {
    /// How many are there.
    #[must_use]
    pub fn count(&self) -> usize {
        self.versions.iter().filter(|version| **version != 0).count()
    }
}

/// What a write of pages is told that makes no sense.
fn refused(request: &Request<'_>, space: ObjectId, page: PageSize) -> Option<Outcome> {
    let (mut rest, mut pages) = (request.value, 0);
    while !rest.is_empty() {
        let Some((entry, next)) = split_first(rest) else { return Some(Outcome::status(Status::BadRequest)) };
        let fits = match entry.what {
            What::Put(bytes) => bytes.len() == page.bytes(),
            What::Read(_) | What::Delete => true,
        };
        if !fits || entry.object != space || entry.key.len() != PAGE_NUMBER_BYTES {
            return Some(Outcome::status(Status::BadRequest));
        }
        pages += usize::from(!entry.is_read());
        if pages > PAGES_MAX {
            return Some(Outcome::status(Status::TransactionTooLarge));
        }
        rest = next;
    }
    let odd = pages == 0 || request.submission.flags & (flag::IF_VERSION | flag::EXPIRES) != 0;
    odd.then(|| Outcome::status(Status::BadRequest))
}

impl Store {
    pub(in crate::store) fn on_pages<R: Reply>(
        &mut self,
        context: &mut Context<'_>,
        request: &Request<'_>,
        mode: Mode,
        page: Option<PageSize>,
        reply: &mut R,
    ) -> Outcome {
        match page {
            Some(page) if request.opcode == Opcode::WritePages => self.write_pages(context, request, mode, page),
            Some(page) => self.read_pages(context, request, mode, page, reply),
            None => Outcome::status(Status::WrongKind),
        }
    }

    fn write_pages(&mut self, context: &mut Context<'_>, request: &Request<'_>, mode: Mode, page: PageSize) -> Outcome {
        if let Some(refused) = refused(request, mode.object, page) {
            return refused;
        }
        match split_first(request.value) {
            Some((CommitEntry { key, what: What::Put(value), .. }, [])) => {
                self.write_page(context, &Request { key, value, ..*request }, mode)
            }
            _ => self.commit(context, request),
        }
    }

    fn write_page(&mut self, context: &mut Context<'_>, request: &Request<'_>, mode: Mode) -> Outcome {
        let (mode, value) = (self.logs(request, mode), request.value);
        let found = self.spaces.find(&self.heap, self.spaces.hash(mode.object, request.key), mode.object, request.key);
        let unseen = context.wal.planted().is(Planted::RewriteSeen);
        let suits = |slot: &u32| self.spaces.suits(*slot, value.len()) || unseen && self.spaces.is_seen(*slot);
        let Some(slot) = found.filter(|slot| mode.logged && suits(slot)) else {
            return self.put(context, request, mode);
        };
        let entry = self.spaces.entries[slot as usize];
        let (lsn, place, version) = (entry.lsn(), entry.place(), self.next_version);
        let record = Record { kind: Kind::Put, flags: 0, lsn, object: mode.object, version, key: request.key, value };
        match context.wal.rewrite(place, &record, entry.version) {
            Rewrite::Never => return self.put(context, request, mode),
            Rewrite::Later => return Outcome::Later,
            Rewrite::Done => self.next_version += 1,
        }
        let said = Said { version, lsn, place, in_commit: false, until: None };
        self.spaces.set(&mut self.heap, slot, Some(value), len_u32(value.len()), said);
        let strict = mode.durability == Durability::Strict;
        if strict {
            context.wal.want_durable();
        }
        let waits = strict && !context.wal.planted().is(Planted::RewriteEarly);
        let completion = Completion { version, lsn: lsn.0, ..Completion::default() };
        Outcome::Answer { completion, after: if waits { lsn } else { Lsn::NONE } }
    }

    /// Reads pages into the places that they have in the reply. Where some have to be read from the drive, those that are
    /// here go out now, and it comes here again: so what it takes in memory is one page. It is answered in a turn in which
    /// every page in the reply is of the version that is held, so all are of one moment.
    fn read_pages<R: Reply>(
        &mut self,
        context: &mut Context<'_>,
        request: &Request<'_>,
        mode: Mode,
        page: PageSize,
        reply: &mut R,
    ) -> Outcome {
        let numbers = match self.page_numbers(request, page, reply) {
            Ok(numbers) => numbers,
            Err(refused) => return refused,
        };
        let view = match request.submission.arg0 {
            0 => NOW,
            _ => match self.view(context, request) {
                Ok(view) => view,
                Err(gone) => return gone,
            },
        };
        let headers_bytes = numbers.len() * PAGE_HEADER_BYTES;
        let is_whole =
            frame::HEADER_BYTES + encoded_bytes(PAGE_NUMBER_BYTES, page.bytes()) <= context.pool.buffer_bytes();
        let (mut after, mut absent, mut present) = (Lsn::NONE, None, 0);
        for (at, number) in numbers.iter().enumerate() {
            let key = u64::from_le_bytes(*number).to_be_bytes();
            let Some(slot) = self.spaces.find_at(&self.heap, mode.object, &key, view.version) else {
                let lsn = self.spaces.deleted_lsn(mode.object).min(view.lsn);
                after = after.max(mode.visible_after(context.wal, lsn));
                context.pages.versions[at] = 0;
                continue;
            };
            let entry = self.spaces.entries[slot as usize];
            after = after.max(mode.visible_after(context.wal, entry.lsn()));
            present += 1;
            let mixes = context.wal.planted().is(Planted::MixMoments) && context.pages.versions[at] != 0;
            if context.pages.versions[at] == entry.version || mixes {
                continue;
            }
            let fetched = context.fetched;
            let value = fetched.and_then(|fetched| in_commit(fetched, &entry, &key));
            let value = value.or_else(|| entry.value(slot, &self.heap, &mut self.spaces.cache, fetched));
            match value {
                Some(value) => {
                    reply.write(headers_bytes + at * page.bytes(), value);
                    context.pages.versions[at] = entry.version;
                }
                None => {
                    let want = entry.want(slot);
                    // Of those read ahead the cache keeps what is one record in one frame.
                    if absent.is_none() {
                        absent = Some(want);
                    } else if is_whole && !entry.in_commit() && context.ahead.len() < context.ahead.capacity() {
                        context.ahead.push(want);
                    }
                }
            }
        }
        if let Some(want) = absent {
            return Outcome::Fetch(want);
        }
        for (at, version) in context.pages.versions[..numbers.len()].iter().enumerate() {
            let mut header = [0; PAGE_HEADER_BYTES];
            put_u64(&mut header, 0, *version);
            put_u32(&mut header, 8, if *version == 0 { 0 } else { len_u32(page.bytes()) });
            reply.write(at * PAGE_HEADER_BYTES, &header);
        }
        *context.pages = PagesRead::default();
        let reply_bytes = len_u32(headers_bytes + numbers.len() * page.bytes());
        Outcome::Answer { completion: Completion { aux: present, reply_bytes, ..Completion::default() }, after }
    }

    /// The pages that a read asks for; or what it is told because it asks for too much, or has too little room.
    fn page_numbers<'r, R: Reply>(
        &self,
        request: &Request<'r>,
        page: PageSize,
        reply: &R,
    ) -> Result<&'r [[u8; PAGE_NUMBER_BYTES]], Outcome> {
        let (numbers, rest) = request.value.as_chunks::<PAGE_NUMBER_BYTES>();
        if numbers.is_empty() || !rest.is_empty() || numbers.len() > PAGES_MAX {
            return Err(Outcome::status(Status::BadRequest));
        }
        let refused = |status: Status, bytes: usize| {
            let completion = Completion { status: status as u16, aux: bytes as u64, ..Completion::default() };
            Outcome::Answer { completion, after: Lsn::NONE }
        };
        let bytes = numbers.len() * (PAGE_HEADER_BYTES + page.bytes());
        let bytes_max = page_request_bytes_max(self.limits.value_bytes_max);
        if bytes > bytes_max {
            return Err(refused(Status::TooLarge, bytes_max));
        }
        if reply.fits(bytes) { Ok(numbers) } else { Err(refused(Status::ReplyTooSmall, bytes)) }
    }
}

/// The page in a commit that was just read, if that is what says it.
fn in_commit<'a>(fetched: &Fetched<'a>, entry: &Entry, key: &[u8]) -> Option<&'a [u8]> {
    let Whose::Key { version, in_commit: true, .. } = fetched.whose else { return None };
    if version != entry.version || fetched.object != entry.object() {
        return None;
    }
    match entries(fetched.commit).filter(|entry| entry.key == key).last()?.what {
        What::Put(value) => Some(value),
        What::Read(_) | What::Delete => None,
    }
}
