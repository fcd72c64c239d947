//! Batches: what they may be, what they take of memory, and where their events are found.

use super::*;

const BUDGET_BYTES: u64 = 4 << 20;

fn append(streams: &mut Streams, heap: &mut Heap) -> Result<(), Status> {
    streams.stream(ObjectId(1));
    streams.append(heap, ObjectId(1), &[], &[], Lsn::NONE)
}

#[test]
fn events_without_bytes_count_against_the_budget() {
    let (mut heap, mut streams) = (Heap::new(BUDGET_BYTES), Streams::new(Cache::new(4_096, 0)));
    let refused = (0..).find(|_| append(&mut streams, &mut heap).is_err()).unwrap();
    assert_eq!(refused, BUDGET_BYTES / CHUNK_BYTES as u64 * CHUNK_EVENTS as u64);
    streams.take_back(&mut heap, ObjectId(1), refused / 2, false);
    (refused / 2..refused).for_each(|_| append(&mut streams, &mut heap).unwrap());
    streams.trim(ObjectId(1), u64::MAX, Lsn::NONE);
    assert!(append(&mut streams, &mut heap).is_err(), "the memory comes back step by step");
    let each = CHUNK_EVENTS * RECLAIM_EVENT_BYTES;
    let steps = (1..).find(|_| !streams.reclaim(&mut heap, each)).unwrap();
    assert_eq!(steps, refused.div_ceil(CHUNK_EVENTS as u64) + 1);
    assert_eq!(heap.used_bytes(), CHUNK_BYTES as u64, "one chunk is kept");
}

#[test]
fn events_of_large_batches_are_found_each_in_its_place() {
    let (mut heap, cache) = (Heap::new(64 << 20), Cache::new(crate::store::CACHE_CHUNK_BYTES, 64 << 20));
    let (mut streams, object, mut all) = (Streams::new(cache), ObjectId(1), Vec::new());
    streams.stream(object);
    // A large one, and small ones for which something seems to be left behind it.
    for (count, bytes) in [(1, 300_000), (3, 8), (2_000, 400), (1, 20), (4, 200_000), (7, 1), (3, 500_000)] {
        streams.make_room_for(&mut heap, count, count * bytes, true, Lsn(9)).unwrap();
        for _ in 0..count {
            let event = vec![len_u32(all.len()).to_le_bytes()[0]; bytes];
            streams.append(&mut heap, object, &event, &[7; HEAD_BYTES], Lsn(1)).unwrap();
            all.push(event);
        }
        streams.stamp(object, count as u64, Lsn(1), Lsn(2), DeviceAddress(4_096), 0);
    }
    assert_eq!(heap.used_bytes(), streams.cache_bytes() + CHUNK_BYTES as u64);
    let Streams { streams, mut cache, .. } = streams;
    for (offset, event) in (0..).zip(&all) {
        let linked = streams[object.index()].get(offset).linked(&heap, &mut cache);
        assert!(linked == Some((event, &[7; HEAD_BYTES])), "event {offset}");
    }
}

#[test]
fn a_batch_is_whole_events_and_not_too_many() {
    let empty = [0; BATCH_HEADER_BYTES];
    assert_eq!(check_batch(&[]), Err(Status::BadRequest));
    assert_eq!(check_batch(&empty.repeat(BATCH_EVENTS_MAX)), Ok(()));
    assert_eq!(check_batch(&empty.repeat(BATCH_EVENTS_MAX + 1)), Err(Status::TooLarge));
    assert_eq!(check_batch(&[empty.as_slice(), &[0]].concat()), Err(Status::BadRequest));
}
