//! What an answer about a space or stream waits for: the record that made it, and nothing else.

use super::*;
use crate::ring::client::{Creation, Once};
use crate::ring::protocol::{ATTRIBUTE_CHAINED, shard_of_stream};
use crate::wal::Fence;

fn frames(bench: &Bench) -> u64 {
    bench.reactor.shards()[0].wal.counters.frames
}

#[test]
fn to_open_what_is_there_takes_no_frame() {
    let mut bench = start(&formatted());
    let space = bench.open(ObjectKind::Space, "space", Durability::Buffered);
    let before = frames(&bench);
    let key = key_of_shard_0(space, 1);
    let catalog = Request::Catalog { after: ObjectId(0), reply_bytes_max: 1_000 };
    let open = Request::Open { kind: ObjectKind::Space, name: "space", create: Some(Durability::Strict.into()) };
    for request in [&open, &catalog] {
        let (answer, _) = bench.call(&Request::Put { space, key: &key, value: b"1", how: Write::default() });
        assert_eq!(answer.status, Status::Ok);
        bench.client.submit(1, request).unwrap();
        bench.reactor.turn();
        assert!(!bench.reactor.shards()[0].wal.is_durable(), "the window is over too early for this test");
        assert_eq!(bench.client.poll(&mut Vec::new()).unwrap().unwrap().status, Status::Ok);
        assert_eq!(frames(&bench), before);
        // Durable again, for the next round to begin anew.
        while !bench.reactor.shards()[0].wal.is_durable() {
            bench.reactor.turn();
        }
        bench.reactor.shards[0].wal.counters.frames = before;
    }
}

#[test]
fn a_fenced_shard_0_tells_of_all_that_was_durable() {
    let mut bench = start(&formatted());
    let space = bench.open(ObjectKind::Space, "space", Durability::Strict);
    let key = key_of_shard_0(space, 1);
    let (answer, _) = bench.call(&Request::Put { space, key: &key, value: b"1", how: Write::default() });
    assert_eq!(answer.status, Status::Ok);
    let new = Request::Open { kind: ObjectKind::Space, name: "new", create: Some(Durability::Strict.into()) };
    bench.client.submit(1, &new).unwrap();
    let now_ns = bench.reactor.now_ns();
    assert!(bench.reactor.take_requests(now_ns));
    // Made, and before it is durable the drive fails.
    bench.reactor.shards[0].wal.fence(Fence::Device(DeviceError::Errno(5)));
    bench.reactor.turn();
    assert_eq!(bench.client.poll(&mut Vec::new()).unwrap().unwrap().status, Status::Fenced);
    let open = Request::Open { kind: ObjectKind::Space, name: "space", create: None };
    assert_eq!(bench.call(&open).0.status, Status::Ok);
    let get = Request::Get { space, key: &key, relaxed: false, value_bytes_max: 16 };
    assert_eq!(bench.call(&get).0.status, Status::Ok);
    assert_eq!(bench.call(&new).0.status, Status::Fenced);
    let (answer, reply) = bench.call(&Request::Catalog { after: ObjectId(0), reply_bytes_max: 1_000 });
    assert_eq!((answer.status, answer.aux), (Status::Ok, 1), "only what is durable");
    assert!(reply.ends_with(b"space"));
}

#[test]
fn what_is_compressed_is_told_and_only_spaces_are() {
    let mut bench = start(&formatted());
    let creation = |compression| Some(Creation { durability: Durability::Buffered, compression, chained: false });
    let (space, stream) = (ObjectKind::Space, ObjectKind::Stream);
    let mut open = |name, kind, create| {
        let (answer, _) = bench.call(&Request::Open { kind, name, create });
        (answer.status, answer.aux)
    };
    let zstd = 1 | 2 << 8 | 2 << 24;
    assert_eq!(open("s", space, creation(Compression::Zstd)), (Status::Ok, zstd));
    assert_eq!(open("s", space, creation(Compression::Lz4)), (Status::Ok, zstd), "what is there stays as it is");
    assert_eq!(open("s", space, None), (Status::Ok, zstd));
    assert_eq!(open("t", stream, creation(Compression::Lz4)).0, Status::BadRequest);
    assert_eq!(open("t", stream, creation(Compression::None)), (Status::Ok, 2 | 2 << 8));
    let (_, reply) = bench.call(&Request::Catalog { after: ObjectId(0), reply_bytes_max: 1_000 });
    assert_eq!(reply, [1, 0, 0, 0, 1, 2, 1, 2, b's', 2, 0, 0, 0, 2, 2, 1, 0, b't']);
}

#[test]
fn what_is_chained_is_told_and_only_streams_are() {
    let mut bench = start(&formatted());
    let creation = Creation { chained: true, ..Durability::Buffered.into() };
    let (space, stream) = (ObjectKind::Space, ObjectKind::Stream);
    let mut open = |name, kind, create| {
        let (answer, _) = bench.call(&Request::Open { kind, name, create });
        (answer.status, answer.aux)
    };
    assert_eq!(open("s", space, Some(creation)).0, Status::BadRequest);
    assert_eq!(open("t", stream, None).0, Status::UnknownObject);
    assert_eq!(open("t", stream, Some(creation)), (Status::Ok, 2 | 2 << 8 | ATTRIBUTE_CHAINED));
    assert_eq!(open("t", stream, Some(Durability::Strict.into())), (Status::Ok, 2 | 2 << 8 | ATTRIBUTE_CHAINED));
    let compressed = Creation { compression: Compression::Zstd, ..creation };
    assert_eq!(open("u", stream, Some(compressed)).0, Status::BadRequest);
    assert_eq!(open("u", stream, Some(Durability::Buffered.into())), (Status::Ok, 2 | 2 << 8));
}

#[test]
fn a_shard_that_stopped_writing_says_again_only_what_is_durable() {
    let mut bench = start(&formatted());
    let name = |number| format!("stream {number}");
    let mut streams = (0..100).map(|number| bench.open(ObjectKind::Stream, &name(number), Durability::Strict));
    let stream = streams.find(|stream| shard_of_stream(stream.id.0, SHARDS) == ShardId(0)).unwrap();
    let how = |durability| Write { durability: Some(durability), ..Write::default() };
    let append = |sequence, durability| Request::AppendOnce {
        stream,
        once: Once { producer: 7, sequence },
        events: &[b"event"],
        how: how(durability),
    };
    assert_eq!(bench.call(&append(1, Durability::Strict)).0.status, Status::Ok);
    assert_eq!(bench.call(&append(2, Durability::Buffered)).0.status, Status::Ok);
    assert!(!bench.reactor.shards()[0].wal.is_durable(), "the window is over too early for this test");
    bench.reactor.shards[0].wal.fence(Fence::Device(DeviceError::Errno(5)));
    for durability in [Durability::Strict, Durability::Buffered] {
        assert_eq!(bench.call(&append(1, durability)).0.status, Status::Ok, "{durability:?}");
        assert_eq!(bench.call(&append(2, durability)).0.status, Status::Fenced, "{durability:?}");
    }
}
