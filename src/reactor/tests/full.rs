//! A log that is full to its last block, reserve and all.

use super::*;
use crate::wal::Fence;
use crate::wal::record::{self, Kind, Record};

/// Fills shard 0: ordinary writes first, then what only deletes may use. Gives the space and the keys that are left.
fn fill(bench: &mut Bench) -> (Object, Vec<[u8; 8]>) {
    let space = bench.open(ObjectKind::Space, "space", Durability::Strict);
    let keys: Vec<_> = (0..).map(|number| key_of_shard_0(space, number)).take(2_000).collect();
    let (how, value) = (Write::default(), [7; 7_000]);
    let stored = keys.iter().take_while(|key| {
        let status = bench.call(&Request::Put { space, key: *key, value: &value, how }).0.status;
        assert!(matches!(status, Status::Ok | Status::NoSpace));
        status == Status::Ok
    });
    let stored = stored.count();
    let deleted = keys[..stored].iter().take_while(|key| {
        let status = bench.call(&Request::Delete { space, key: *key, how }).0.status;
        assert!(matches!(status, Status::Ok | Status::NoSpace));
        status == Status::Ok
    });
    let deleted = deleted.count();
    assert!(deleted > 200 && deleted < stored, "{deleted} of {stored} deleted");
    (space, keys[deleted..stored].to_vec())
}

#[test]
fn a_reactor_that_cannot_write_its_watermark_may_sleep() {
    let mut bench = start(&formatted());
    fill(&mut bench);
    for _ in 0..5_000 {
        bench.reactor.turn();
        let now_ns = bench.reactor.now_ns();
        let deadline_ns = bench.reactor.deadline_ns();
        // The turn that comes when it is due may do nothing, but must move it on.
        assert!(deadline_ns.is_none_or(|at_ns| at_ns + 2_000 > now_ns), "{deadline_ns:?} is past at {now_ns}");
    }
}

#[test]
fn a_flight_recorder_that_has_no_room_in_the_log_fences_and_is_told() {
    let disk = formatted();
    let mut bench = start(&disk);
    let (space, keys) = fill(&mut bench);
    let durable_lsn = bench.reactor.shards()[0].wal.durable_lsn();
    drop(bench);
    let mut records = vec![0; 256];
    let record = Record {
        kind: Kind::Delete,
        flags: 0,
        lsn: durable_lsn.next(),
        object: space.id,
        version: 1 << 50,
        key: &keys[0],
        value: &[],
    };
    let taken = record::encode(&mut records, record::crc_seed(&[9; 16], ShardId(0)), &record);
    records.truncate(taken);
    let mut bench = start_after(&disk, Some(&Contents { records, durable_lsn }));
    assert_eq!(bench.reactor.shards()[0].wal.fenced(), Some(Fence::ReplayNoSpace));
    let mut status =
        |key: &[u8], relaxed| bench.call(&Request::Get { space, key, relaxed, value_bytes_max: 7_000 }).0.status;
    assert_eq!(status(&keys[1], false), Status::Ok, "reads go on");
    assert_eq!(status(&keys[0], true), Status::NotFound, "what the recorder held was taken");
    assert_eq!(status(&keys[0], false), Status::Fenced, "and is not on the drive");
    let put = Request::Put { space, key: &keys[1], value: &[], how: Write::default() };
    assert_eq!(bench.call(&put).0.status, Status::Fenced);
}
