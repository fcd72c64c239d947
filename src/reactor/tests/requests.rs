//! Requests by space, stream and page space.

use super::*;
use crate::ring::client::{Entry, What};
use crate::ring::protocol::stats;
use crate::types::PageHint;

impl Bench {
    fn row(&mut self, object: Object) -> Vec<u64> {
        let about = stats::About::Objects;
        let (answer, reply) = self.call(&Request::Stats { reactor: 0, about, after: ObjectId(object.id.0 - 1) });
        assert_eq!(answer.status, Status::Ok);
        let words = reply.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        words.take(stats::OBJECT_NAMES.len()).collect()
    }

    /// Reads and writes.
    fn asked(&mut self, object: Object) -> (u64, u64) {
        let row = self.row(object);
        assert_eq!(row[stats::OBJECT], u64::from(object.id.0));
        (row[stats::OBJECT_READS], row[stats::OBJECT_WRITES])
    }

    /// In the last second, and in the one with the most.
    fn rates(&mut self, object: Object) -> (u64, u64) {
        let row = self.row(object);
        (row[stats::OBJECT_REQUESTS_PER_SECOND], row[stats::OBJECT_REQUESTS_PER_SECOND_MAX])
    }

    /// A reactor that does nothing else in it, and is not asleep.
    fn pass_second(&mut self) {
        for _ in 0..2 {
            let ns = &self.reactor.clock.ns;
            ns.set(ns.get() + 500_000_000);
            assert_eq!(self.call(&Request::Noop { reactor: 0 }).0.status, Status::Ok);
        }
    }
}

fn key_in(space: Object, shard: u32) -> [u8; 4] {
    let mut keys = (0_u32..).map(u32::to_le_bytes);
    keys.find(|key| shard_of_key(space.id.0, key, SHARDS) == ShardId(shard)).unwrap()
}

#[test]
fn every_request_counts_for_its_object() {
    let disk = formatted();
    let mut bench = start(&disk);
    let space = bench.open(ObjectKind::Space, "space", Durability::Strict);
    let other = bench.open(ObjectKind::Space, "other", Durability::Memory);
    let stream = bench.open(ObjectKind::Stream, "stream", Durability::Buffered);
    let keys = [key_in(space, 0), key_in(space, 1)];
    keys.iter().for_each(|key| assert_eq!(bench.put(space, key, b"1"), Status::Ok));
    assert_eq!(bench.get(space, b"nothing").0, Status::NotFound);
    assert_eq!((bench.asked(space), bench.asked(other)), ((1, 2), (0, 0)));
    // Each key of a commit that is done is one, in one shard and over two; of one that is not, nothing.
    let read = |version, key| Entry { object: space.id, key, what: What::Read(version) };
    let put = |key| Entry { object: space.id, key, what: What::Put(b"2") };
    let elsewhere = key_in(other, 0);
    let in_other = Entry { object: other.id, key: &elsewhere, what: What::Put(b"2") };
    assert_eq!(bench.commit(&[put(&keys[0])]).status, Status::Ok);
    assert_eq!(bench.asked(space), (1, 3));
    assert_eq!(bench.commit(&[read(1, &keys[0]), put(&keys[0])]).status, Status::Conflict);
    assert_eq!(bench.commit(&[read(1, &keys[1]), put(&keys[0]), put(&keys[1])]).status, Status::Conflict);
    assert_eq!(bench.asked(space), (1, 3));
    let absent = read(0, b"nothing");
    assert_eq!(bench.commit(&[absent, put(&keys[0]), put(&keys[1]), in_other]).status, Status::Ok);
    assert_eq!((bench.asked(space), bench.asked(other)), ((2, 5), (0, 1)));
    let how = Write::default();
    assert_eq!(bench.call(&Request::Append { stream, event: b"1", how }).0.status, Status::Ok);
    let read = Request::Read { stream, from: 0, wait: Duration::ZERO, reply_bytes_max: 64, relaxed: true };
    assert_eq!(bench.call(&read).0.status, Status::Ok);
    assert_eq!(bench.call(&Request::Trim { stream, before: 1 }).0.status, Status::Ok);
    assert_eq!(bench.asked(stream), (1, 2));
    let create = Some((PageHint::Point.page_size(), Durability::Buffered));
    let id = ObjectId(u32::try_from(bench.call(&Request::OpenPages { name: "pages", create }).0.version).unwrap());
    let pages = Object { id, kind: ObjectKind::Pages, ..space };
    let page = vec![7; PageHint::Point.page_size().bytes()];
    let entries = [[0; 8], [1; 8]];
    let entries = entries.each_ref().map(|key| Entry { object: id, key, what: What::Put(&page) });
    let write = Request::WritePages { space: pages, entries: &entries, durability: None };
    assert_eq!(bench.call(&write).0.status, Status::Ok);
    assert_eq!(bench.asked(pages), (0, 1));
    // A number that nobody has harms nothing.
    assert_eq!(bench.put(Object { id: ObjectId(1 << 20), ..space }, b"key", b"1"), Status::UnknownObject);
    // Since the start.
    drop(bench);
    let mut bench = start(&disk);
    assert_eq!(bench.asked(space), (0, 0));
    assert_eq!(bench.get(space, &keys[0]).0, Status::Ok);
    assert_eq!((bench.asked(space), bench.asked(stream)), ((1, 0), (0, 0)));
}

#[test]
fn who_has_the_load_is_told_for_the_last_second_and_for_the_one_with_the_most() {
    let mut bench = start(&formatted());
    let busy = bench.open(ObjectKind::Space, "busy", Durability::Memory);
    let calm = bench.open(ObjectKind::Space, "calm", Durability::Memory);
    bench.pass_second();
    (0..90).for_each(|_| _ = bench.put(busy, b"key", b"1"));
    assert_eq!(bench.get(calm, b"key").0, Status::NotFound);
    assert_eq!(bench.rates(busy), (0, 0), "the second is not over");
    bench.pass_second();
    // Some turns of this second were in the one before.
    let (now, most) = bench.rates(busy);
    assert!((89..=90).contains(&now) && most == now && bench.rates(calm) == (1, 1), "{now}");
    bench.pass_second();
    (0..30).for_each(|_| _ = bench.get(busy, b"key"));
    bench.pass_second();
    assert_eq!((bench.rates(busy).0 / 10, bench.rates(busy).1), (3, most));
    assert_eq!(bench.rates(calm), (0, 1));
}
