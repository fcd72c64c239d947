//! Page spaces: several pages at once, pages that are not there, pages from the drive, and what is written over in its
//! frame.

use super::*;
use crate::ring::client::{Snapshot, pages, pairs};
use crate::ring::protocol::commit::{Entry, What};
use crate::ring::protocol::{PAGE_HEADER_BYTES, PAGES_MAX, stats};
use crate::types::{PageHint, PageSize};

const SMALL: PageSize = PageHint::Point.page_size();

type Found = Vec<Option<(u64, Vec<u8>)>>;

fn page(size: PageSize, tag: u8) -> Vec<u8> {
    (0..size.bytes()).map(|at| tag ^ at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect()
}

impl Bench {
    fn open_pages(&mut self, name: &str, size: PageSize, durability: Durability) -> Object {
        let (answer, _) = self.call(&Request::OpenPages { name, create: Some((size, durability)) });
        assert_eq!(answer.status, Status::Ok);
        let id = ObjectId(u32::try_from(answer.version).unwrap());
        Object { id, kind: ObjectKind::Pages, durability, compression: Compression::None }
    }

    fn write_pages(&mut self, space: Object, writes: &[(u64, &[u8])]) -> Answer {
        let keys: Vec<[u8; 8]> = writes.iter().map(|(number, _)| number.to_be_bytes()).collect();
        let entry = |at: usize| Entry { object: space.id, key: &keys[at], what: What::Put(writes[at].1) };
        let entries: Vec<Entry<'_>> = (0..writes.len()).map(entry).collect();
        self.call(&Request::WritePages { space, entries: &entries, durability: None }).0
    }

    fn read_pages(&mut self, space: Object, size: PageSize, numbers: &[u64]) -> (Status, Found) {
        self.read_pages_of(None, space, size, numbers)
    }

    fn read_pages_of(
        &mut self,
        snapshot: Option<Snapshot>,
        space: Object,
        size: PageSize,
        numbers: &[u64],
    ) -> (Status, Found) {
        let reply_bytes_max = numbers.len() * (PAGE_HEADER_BYTES + size.bytes());
        let (answer, reply) =
            self.call(&Request::ReadPages { space, numbers, snapshot, relaxed: false, reply_bytes_max });
        if answer.status != Status::Ok {
            return (answer.status, Vec::new());
        }
        let found = pages(&reply, numbers.len(), size).unwrap();
        (answer.status, found.map(|page| page.map(|(version, bytes)| (version, bytes.to_vec()))).collect())
    }

    fn counted(&mut self, at: usize) -> u64 {
        self.reactor.gauge();
        self.reactor.metrics.get(at)
    }
}

#[test]
fn pages_are_there_alone_and_together_and_after_a_restart() {
    let disk = formatted();
    let mut bench = start(&disk);
    let strict = bench.open_pages("strict", SMALL, Durability::Strict);
    let memory = bench.open_pages("memory", SMALL, Durability::Memory);
    let of = |tag| page(SMALL, tag);
    for space in [strict, memory] {
        assert_eq!(bench.read_pages(space, SMALL, &[1, u64::MAX]), (Status::Ok, vec![None, None]));
        let one = bench.write_pages(space, &[(1, &of(1))]);
        let three = bench.write_pages(space, &[(2, &of(2)), (u64::MAX, &of(3)), (1, &of(4))]);
        assert_eq!((one.status, three.status), (Status::Ok, Status::Ok));
        assert!(three.version > one.version);
        let found = bench.read_pages(space, SMALL, &[2, 9, 1, u64::MAX, 2]).1;
        let said = |tag| Some((three.version, of(tag)));
        assert_eq!(found, vec![said(2), None, said(4), said(3), said(2)]);
        let (key, object) = (2_u64.to_be_bytes(), space.id);
        let discard = [Entry { object, key: &key, what: What::Delete }];
        let request = Request::WritePages { space, entries: &discard, durability: None };
        assert_eq!(bench.call(&request).0.status, Status::Ok);
        assert_eq!(bench.read_pages(space, SMALL, &[2, 1]).1, vec![None, said(4)]);
    }
    assert_eq!((bench.counted(stats::PAGES_WRITTEN), bench.counted(stats::PAGES_READ)), (10, 18));
    drop(bench);
    let mut bench = start(&disk);
    assert_eq!(bench.open_pages("strict", PageHint::Random.page_size(), Durability::Memory), strict_as(strict));
    let found = bench.read_pages(strict, SMALL, &[1, 2, u64::MAX]).1;
    let bytes: Vec<_> = found.into_iter().map(|page| page.map(|(_, bytes)| bytes)).collect();
    assert_eq!(bytes, vec![Some(of(4)), None, Some(of(3))]);
    assert_eq!(bench.read_pages(memory, SMALL, &[1]).1, vec![None]);
}

/// What `open_pages` makes of an object that was there.
fn strict_as(object: Object) -> Object {
    Object { durability: Durability::Memory, ..object }
}

#[test]
fn what_is_no_page_is_refused_and_changes_nothing() {
    let mut bench = start(&formatted());
    let pages = bench.open_pages("pages", SMALL, Durability::Strict);
    let keys = bench.open(ObjectKind::Space, "keys", Durability::Strict);
    let stream = bench.open(ObjectKind::Stream, "stream", Durability::Strict);
    let (good, how, key) = (page(SMALL, 1), Write::default(), 7_u64.to_be_bytes());
    assert_eq!(bench.write_pages(pages, &[(7, &good)]).status, Status::Ok);
    for space in [keys, stream] {
        assert_eq!(bench.write_pages(space, &[(7, &good)]).status, Status::WrongKind);
        assert_eq!(bench.read_pages(space, SMALL, &[7]).0, Status::WrongKind);
        let create = Some((SMALL, Durability::Strict));
        let name = if space == keys { "keys" } else { "stream" };
        assert_eq!(bench.call(&Request::OpenPages { name, create }).0.status, Status::WrongKind);
    }
    let put = Request::Put { space: pages, key: &key, value: &good, how };
    let get = Request::Get { space: pages, key: &key, relaxed: false, value_bytes_max: 8_192 };
    let append = Request::Append { stream: pages, event: &good, how };
    let entries = [Entry { object: pages.id, key: &key, what: What::Put(&good) }];
    let commit = Request::Commit { entries: &entries, durability: None, relaxed: false };
    for request in [put, get, append, Request::Delete { space: pages, key: &key, how }] {
        assert_eq!(bench.call(&request).0.status, Status::WrongKind, "{request:?}");
    }
    assert_eq!(bench.call(&commit).0.status, Status::WrongKind);
    assert_eq!(bench.write_pages(pages, &[(7, &good[1..])]).status, Status::BadRequest);
    assert_eq!(bench.write_pages(pages, &[(7, &good), (8, b"short")]).status, Status::BadRequest);
    assert_eq!(bench.write_pages(pages, &[]).status, Status::BadRequest);
    let odd = [Entry { object: pages.id, key: b"short", what: What::Put(&good) }];
    let odd = Request::WritePages { space: pages, entries: &odd, durability: None };
    assert_eq!(bench.call(&odd).0.status, Status::BadRequest);
    let of_another = [Entry { object: keys.id, key: &key, what: What::Put(&good) }];
    let of_another = Request::WritePages { space: pages, entries: &of_another, durability: None };
    assert_eq!(bench.call(&of_another).0.status, Status::BadRequest);
    let many: Vec<Entry<'_>> = (0..=PAGES_MAX).map(|_| Entry { what: What::Delete, ..entries[0] }).collect();
    let many = Request::WritePages { space: pages, entries: &many, durability: None };
    assert_eq!(bench.call(&many).0.status, Status::TransactionTooLarge);
    // 256 KiB are 64 pages of 4 KiB, whatever stands before them; not more.
    let numbers: Vec<u64> = (0..=PAGES_MAX as u64).collect();
    assert_eq!(bench.read_pages(pages, SMALL, &numbers).0, Status::BadRequest);
    let large = PageSize::new(8 << 10).unwrap();
    let wide = bench.open_pages("wide", large, Durability::Strict);
    let reply_bytes_max = 33 * (PAGE_HEADER_BYTES + large.bytes());
    let over =
        Request::ReadPages { space: wide, numbers: &numbers[..33], snapshot: None, relaxed: false, reply_bytes_max };
    let (answer, _) = bench.call(&over);
    assert_eq!((answer.status, answer.aux), (Status::TooLarge, (256 << 10) + 64 * 20));
    let small = Request::ReadPages {
        space: wide,
        numbers: &numbers[..2],
        snapshot: None,
        relaxed: false,
        reply_bytes_max: 9_000,
    };
    let (answer, _) = bench.call(&small);
    assert_eq!((answer.status, answer.aux), (Status::ReplyTooSmall, 2 * (16 + (8 << 10))));
    let create = Some((PageSize::new(512 << 10).unwrap(), Durability::Strict));
    let (answer, _) = bench.call(&Request::OpenPages { name: "too large", create });
    assert_eq!((answer.status, answer.aux), (Status::TooLarge, 256 << 10));
    assert_eq!(bench.read_pages(pages, SMALL, &[7, 8]).1.iter().flatten().count(), 1, "nothing else changed");
}

#[test]
fn a_page_that_is_written_again_in_its_window_takes_the_drive_once() {
    let disk = formatted();
    let mut bench = start(&disk);
    let space = bench.open_pages("pages", SMALL, Durability::Buffered);
    let before = bench.counted(stats::RECORD_BYTES);
    let mut last = [0; 2];
    for round in 0..50_u8 {
        for number in 0..2 {
            let answer = bench.write_pages(space, &[(u64::from(number), &page(SMALL, round ^ number << 7))]);
            assert_eq!(answer.status, Status::Ok);
            assert!(answer.version > last[usize::from(number)], "each write has a version of its own");
            last[usize::from(number)] = answer.version;
        }
    }
    let (writes, bytes) = (bench.counted(stats::COALESCED_WRITES), bench.counted(stats::COALESCED_BYTES));
    assert!(writes > 50 && bytes == writes * 4_136, "{writes} writes, {bytes} B");
    assert_eq!(bench.counted(stats::RECORD_BYTES) - before + bytes, 100 * 4_136);
    // A record that is sealed stays as it is.
    assert_eq!(bench.call(&Request::Sync { reactor: 0 }).0.status, Status::Ok);
    let sealed = bench.counted(stats::COALESCED_WRITES);
    assert_eq!(bench.write_pages(space, &[(0, &page(SMALL, 99))]).status, Status::Ok);
    assert_eq!(bench.counted(stats::COALESCED_WRITES), sealed);
    // Of a commit nothing is written over, and a strict write waits for its frame.
    assert_eq!(bench.write_pages(space, &[(0, &page(SMALL, 1)), (1, &page(SMALL, 2))]).status, Status::Ok);
    assert_eq!(bench.write_pages(space, &[(0, &page(SMALL, 3))]).status, Status::Ok);
    assert_eq!(bench.counted(stats::COALESCED_WRITES), sealed);
    // The window is full by now.
    assert_eq!(bench.call(&Request::Sync { reactor: 0 }).0.status, Status::Ok);
    assert_eq!(bench.write_pages(space, &[(0, &page(SMALL, 3))]).status, Status::Ok);
    let again = page(SMALL, 4);
    let strict = Some(Durability::Strict);
    let (answer, _) = bench.call(&Request::WritePage { space, number: 0, page: &again, durability: strict });
    assert_eq!((answer.status, bench.counted(stats::COALESCED_WRITES)), (Status::Ok, sealed + 1));
    drop(bench);
    let mut bench = start(&disk);
    let found = bench.read_pages(space, SMALL, &[0, 1]).1;
    assert_eq!(found, vec![Some((answer.version, again)), Some((found[1].as_ref().unwrap().0, page(SMALL, 2)))]);
}

/// Writes what takes the place of all that is in memory.
fn push_out(bench: &mut Bench, space: Object) {
    for number in 0..600_u32 {
        let put = Request::Put { space, key: &number.to_be_bytes(), value: &[7; 8_000], how: Write::default() };
        assert_eq!(bench.call(&put).0.status, Status::Ok);
    }
}

#[test]
fn pages_come_back_from_the_drive_however_large_and_in_one_answer() {
    let disk = MemoryDisk::new(64 << 20);
    small::format(&disk, disk.capacity_bytes(), 1 << 20);
    let mut bench = start(&disk);
    let keys = bench.open(ObjectKind::Space, "keys", Durability::Buffered);
    // In frames of 64 KiB: many a frame, one a frame, in parts; alone and as commits.
    for (name, bytes) in [("4 KiB", 4 << 10), ("32 KiB", 32 << 10), ("128 KiB", 128 << 10)] {
        let size = PageSize::new(bytes).unwrap();
        let space = bench.open_pages(name, size, Durability::Buffered);
        let count = u8::try_from((256 << 10) / bytes).unwrap();
        let numbers: Vec<u64> = (0..u64::from(count)).collect();
        for number in 0..count / 2 {
            assert_eq!(bench.write_pages(space, &[(u64::from(number), &page(size, number))]).status, Status::Ok);
        }
        let rest: Vec<(u64, Vec<u8>)> =
            (count / 2..count).map(|number| (u64::from(number), page(size, number))).collect();
        let rest: Vec<(u64, &[u8])> = rest.iter().map(|(number, page)| (*number, page.as_slice())).collect();
        assert_eq!(bench.write_pages(space, &rest).status, Status::Ok);
        push_out(&mut bench, keys);
        let fetches = bench.counted(stats::FETCHES);
        let (status, found) = bench.read_pages(space, size, &numbers);
        assert_eq!(status, Status::Ok);
        for (number, found) in (0..count).zip(&found) {
            assert!(found.as_ref().is_some_and(|(_, bytes)| *bytes == page(size, number)), "{name}: page {number}");
        }
        assert!(bench.counted(stats::FETCHES) > fetches, "they were in memory");
        // Alone, and after a restart.
        push_out(&mut bench, keys);
        let last = bench.read_pages(space, size, &[u64::from(count) - 1]).1;
        assert_eq!(last[0].as_ref().unwrap().1, page(size, count - 1));
    }
}

#[test]
fn a_snapshot_shows_pages_as_they_were() {
    let disk = MemoryDisk::new(64 << 20);
    small::format(&disk, disk.capacity_bytes(), 1 << 20);
    for durability in [Durability::Memory, Durability::Buffered, Durability::Strict] {
        let mut bench = start(&disk);
        let space = bench.open_pages(&format!("{durability:?}"), SMALL, durability);
        let keys = bench.open(ObjectKind::Space, "keys", Durability::Buffered);
        let of = |tag| page(SMALL, tag);
        let numbers = [0, 1, 2, 3, 4];
        for number in 0..3 {
            assert_eq!(bench.write_pages(space, &[(number, &of(1))]).status, Status::Ok);
        }
        assert_eq!(bench.write_pages(space, &[(1, &of(2)), (2, &of(3))]).status, Status::Ok);
        let then = bench.read_pages(space, SMALL, &numbers).1;
        let taken = bench.call(&Request::Snapshot).0;
        assert_eq!(taken.status, Status::Ok);
        let snapshot = Some(Snapshot(taken.version));
        // The record that the snapshot sees stays; the one behind it is written over.
        let coalesced = bench.counted(stats::COALESCED_WRITES);
        for round in 10..14 {
            assert_eq!(bench.write_pages(space, &[(0, &of(round))]).status, Status::Ok);
            assert_eq!(bench.read_pages_of(snapshot, space, SMALL, &numbers).1, then, "{durability:?}");
        }
        let spared = bench.counted(stats::COALESCED_WRITES) - coalesced;
        assert_eq!(spared, if durability == Durability::Buffered { 3 } else { 0 });
        // One commit writes a page twice, makes one, and forgets one.
        let (first, key) = (of(20), |number: u64| number.to_be_bytes());
        let (again, object) = (of(21), space.id);
        let named = [key(1), key(4), key(2)];
        let put = |at: usize, value| Entry { object, key: &named[at][..], what: What::Put(value) };
        let entries =
            [put(0, &first), put(1, &first), Entry { object, key: &named[2], what: What::Delete }, put(0, &again)];
        let request = Request::WritePages { space, entries: &entries, durability: None };
        assert_eq!(bench.call(&request).0.status, Status::Ok);
        let kept = bench.reactor.shards().iter().map(|shard| shard.store.kept_for_snapshots()[0]).sum::<u64>();
        assert_eq!(kept, 3, "each page of the snapshot once");
        let now = bench.read_pages(space, SMALL, &numbers).1;
        let bytes: Vec<_> = now.iter().map(|page| page.as_ref().map(|(_, bytes)| bytes.clone())).collect();
        assert_eq!(bytes, [Some(of(13)), Some(again.clone()), None, None, Some(of(20))]);
        let (begin, end, prefix, limit) = (&[][..], &[][..], false, 0);
        let mut listed = Vec::new();
        for shard in (0..SHARDS).map(ShardId) {
            let snapshot = Snapshot(taken.version);
            let scan = Request::ScanAt { snapshot, space, shard, begin, end, prefix, limit, reply_bytes_max: 64 << 10 };
            let (answer, reply) = bench.call(&scan);
            assert_eq!(answer.status, Status::Ok);
            listed.extend(pairs(&reply).map(|pair| pair.unwrap().0.to_vec()));
        }
        assert_eq!(listed, [key(0), key(1), key(2)].map(Vec::from));
        if durability != Durability::Memory {
            push_out(&mut bench, keys);
        }
        assert_eq!(bench.read_pages_of(snapshot, space, SMALL, &numbers), (Status::Ok, then.clone()));
        let get = Request::GetAt { snapshot: Snapshot(taken.version), space, key: &key(0), value_bytes_max: 8_192 };
        assert_eq!(bench.call(&get).0.status, Status::WrongKind);
        assert_eq!(bench.call(&Request::Release { snapshot: Snapshot(taken.version) }).0.status, Status::Ok);
        assert_eq!(bench.read_pages_of(snapshot, space, SMALL, &numbers).0, Status::SnapshotGone);
        assert_eq!(bench.read_pages(space, SMALL, &numbers).1, now);
    }
}
