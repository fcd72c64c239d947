//! What a start may take of the memory budget.

use super::*;

fn store() -> Store {
    let limits = Limits {
        key_bytes_max: 64,
        value_bytes_max: 64 << 10,
        memory_bytes_max: 4 << 20,
        cache_bytes_max: 4 << 20,
        cache_chunk_bytes: CACHE_CHUNK_BYTES,
        keys_max: 100_000,
        producers_max: 1,
        cursors_max: 1,
        snapshots_max: 4,
        snapshot_bytes_max: 1 << 20,
    };
    Store::new(limits, ShardId(0), 1)
}

const PLACE: DeviceAddress = DeviceAddress(4_096);
const VALUE: [u8; 4_000] = [7; 4_000];

fn put(store: &mut Store, number: u64, value: &[u8]) -> Result<(), Status> {
    let (kind, lsn, key) = (Kind::Put, Lsn(number + 1), number.to_le_bytes());
    store.replay(&Record { kind, flags: 0, lsn, object: ObjectId(1), version: number, key: &key, value }, PLACE)
}

fn append(store: &mut Store, stream: u32, offset: u64) -> Result<(), Status> {
    let (kind, lsn, object) = (Kind::Append, Lsn(offset + 1), ObjectId(stream));
    store.replay(&Record { kind, flags: 0, lsn, object, version: offset, key: &[], value: &VALUE }, PLACE)
}

#[test]
fn recovered_streams_take_memory_from_cached_values() {
    let mut store = store();
    (0..2_000).for_each(|number| put(&mut store, number, &VALUE).unwrap());
    // The events of each take 96 KiB.
    (2..22).for_each(|stream| append(&mut store, stream, 0).unwrap());
    assert_eq!((store.keys(), store.events()), (2_000, 20));
    // What does not fit even so is told.
    let refused = (22..200).find_map(|stream| append(&mut store, stream, 0).err());
    assert_eq!(refused, Some(Status::NoMemory));
}

#[test]
fn recovered_keys_take_memory_from_cached_events() {
    let mut store = store();
    (0..2_000).for_each(|offset| append(&mut store, 2, offset).unwrap());
    (0..20_000).for_each(|number| put(&mut store, number, b"").unwrap());
    assert_eq!((store.keys(), store.events()), (20_000, 2_000));
}
