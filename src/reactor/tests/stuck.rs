//! What waits for room in the log gets it, or is told that there is none. Nobody waits for ever.

use super::reclaim::formatted_small;
use super::*;
use crate::reactor::{Address, Place};
use crate::wal::layout::{HEAD_BYTES, TAIL_BYTES};
use crate::wal::pool::Writer;
use crate::wal::record::{self, Kind, Record};
use crate::wal::recovery::{self, Walker};
use crate::wal::superblock::Superblock;
use crate::wal::{Fence, repair, survey};
use forebay_sys::net::WakeSet;

/// A device so small that old segments are just given up.
const SMALL: u64 = HEAD_BYTES + TAIL_BYTES + 16 * (256 << 10);

#[test]
fn a_flight_recorder_larger_than_the_log_fences_where_segments_are_given_up() {
    let mut records = Vec::new();
    for lsn in 1..1_000_u64 {
        let mut encoded = vec![0; 8_192];
        let (kind, flags, object) = (Kind::Put, 0, ObjectId(1));
        let (key, value) = (&lsn.to_le_bytes()[..], &[7; 7_000][..]);
        let record = Record { kind, flags, lsn: crate::types::Lsn(lsn), object, version: lsn, key, value };
        let taken = record::encode(&mut encoded, record::crc_seed(&[9; 16], ShardId(0)), &record);
        records.extend_from_slice(&encoded[..taken]);
    }
    let contents = Contents { records, durable_lsn: crate::types::Lsn::NONE };
    let bench = start_after(&formatted_small(SMALL), Some(&contents));
    assert_eq!(bench.reactor.shards()[0].wal.fenced(), Some(Fence::ReplayNoSpace));
}

/// Reactor 0 of two. The other one does not turn, and its shard could give something up for all that is known.
fn start_alone(disk: &MemoryDisk) -> Bench {
    let recover::Begun { mut shards, catalog, .. } = small::begin(disk, disk.capacity_bytes(), || None, None);
    shards.truncate(1);
    let shape = Shape { reactors: 2, ..SHAPE };
    let (parts, rings) = pair_in_process(SessionId(1), Rights::ReadWrite, shape).unwrap();
    let region = DmaRegion::allocate(16 * (64 << 10), Pages::Ordinary).unwrap();
    let (device, pool) = (MemoryDevice::new(disk, 16), Pool::new(region, 64 << 10));
    let reactors = vec![Address::new().unwrap(), Address::new().unwrap()].into();
    let place = Place { reactors, wakes: WakeSet::new().unwrap(), ..small::place() };
    let mut reactor = Reactor::new(place, LIMITS, TestClock::default(), device, pool, catalog, shards);
    reactor.begin_session(rings.into_iter().next().unwrap());
    (0..100).for_each(|_| _ = reactor.turn());
    assert_eq!(reactor.phase(), Phase::Serving);
    Bench { reactor, client: Client::from_parts(parts, Duration::ZERO).unwrap() }
}

#[test]
fn a_request_that_waits_for_another_reactors_segment_is_looked_at_again() {
    let mut bench = start_alone(&formatted_small(SMALL));
    let space = bench.open(ObjectKind::Space, "space", Durability::Buffered);
    let mut reply = Vec::new();
    for number in 0..10_000 {
        let (key, how) = (key_of_shard_0(space, number), Write::default());
        bench.client.submit(7, &Request::Put { space, key: &key, value: &[7; 7_000], how }).unwrap();
        (0..2_000).for_each(|_| _ = bench.reactor.turn());
        if bench.client.poll(&mut reply).unwrap().is_some() {
            continue;
        }
        assert!(number > 200, "{number}");
        assert!(!bench.reactor.is_at_work(), "it never sleeps");
        let deadline_ns = bench.reactor.deadline_ns();
        let soon_ns = bench.reactor.now_ns() + 10_000_000;
        assert!(deadline_ns.is_some_and(|at_ns| at_ns < soon_ns), "it sleeps on the request: {deadline_ns:?}");
        return;
    }
    panic!("it never waits");
}

#[test]
fn a_cut_log_that_gave_segments_up_is_read_up_to_the_cut() {
    let disk = formatted_small(SMALL);
    let mut bench = start(&disk);
    let space = bench.open(ObjectKind::Space, "space", Durability::Buffered);
    for number in 0..3_000 {
        let (key, how) = (key_of_shard_0(space, number % 100), Write::default());
        let status = bench.call(&Request::Put { space, key: &key, value: &[7; 7_000], how }).0.status;
        assert_eq!(status, Status::Ok);
    }
    assert!(bench.reactor.shards()[0].wal.counters.segments_reclaimed > 10);
    assert_eq!(bench.call(&Request::Sync { reactor: 0 }).0.status, Status::Ok);
    drop(bench);

    let mut blocks = small::DiskBlocks(disk.clone());
    let superblock = Superblock::load(&mut blocks, SMALL).unwrap();
    let survey = survey::survey(&mut blocks, &superblock, &mut |_, _| {});
    let chain = &survey.chains[0];
    let begin_lsn = {
        let mut walker = Walker::new(&mut blocks, &superblock, ShardId(0), chain);
        walker.frame(0, 4_096).unwrap().0.first_lsn
    };
    // In the second segment: what gave the first ones up stands behind it.
    assert!(chain.len() > 3 && chain[0].sequence > 1);
    disk.write(superblock.layout.segment_address(chain[1].segment).plus(4_096), &[0xee; 4_096]).unwrap();
    let plan = repair::cut(&mut blocks, &superblock, &survey, ShardId(0), None).unwrap();
    assert!(plan.losses.iter().any(|loss| loss.contains("older data")), "{plan:?}");
    plan.carry_out(&mut blocks).unwrap();

    let survey = survey::survey(&mut blocks, &superblock, &mut |_, _| {});
    let mut walker = Walker::new(&mut blocks, &superblock, ShardId(0), &survey.chains[0]);
    let mut first_lsn = None;
    let mut sink = |record: &Record<'_>, _| _ = first_lsn.get_or_insert(record.lsn);
    let planted = wal::planted::Planted::None;
    let recovered = recovery::recover(&mut walker, None, planted, &mut sink, &mut |_| {}).unwrap();
    assert_eq!(first_lsn, Some(begin_lsn));
    assert_eq!(survey.missing(ShardId(0), recovered.tail.kept_from), None);
    start(&disk);
}

/// A space in shard 0 of which old segments are being given up, with the keys that are in it.
fn churned(bench: &mut Bench) -> (Object, Vec<[u8; 8]>) {
    let space = bench.open(ObjectKind::Space, "space", Durability::Buffered);
    let keys: Vec<_> = (0..1_500).map(|number| key_of_shard_0(space, number)).collect();
    let again = (0..2_500).map(|number| &keys[number * 7 % keys.len()]);
    for key in keys.iter().chain(again) {
        assert_eq!(bench.put(space, key, &[7; 7_000]), Status::Ok);
    }
    assert_eq!(bench.call(&Request::Sync { reactor: 0 }).0.status, Status::Ok);
    (space, keys)
}

fn formatted_for_churn() -> MemoryDisk {
    formatted_small(HEAD_BYTES + TAIL_BYTES + 64 * (256 << 10))
}

#[test]
fn a_daemon_that_is_killed_before_it_gave_a_segment_up_comes_further_each_time() {
    let disk = formatted_for_churn();
    let mut bench = start(&disk);
    let (space, keys) = churned(&mut bench);
    drop(bench);
    let mut copied = 0;
    for _ in 0..40 {
        let mut bench = start(&disk);
        let mut turns = 0..1_000;
        while bench.sum(|counters| counters.copied_bytes) < 60_000 && turns.next().is_some() {
            bench.reactor.turn();
        }
        assert_eq!(bench.call(&Request::Sync { reactor: 0 }).0.status, Status::Ok);
        copied += bench.sum(|counters| counters.copied_bytes);
    }
    assert!(copied > 500_000, "nothing was being given up");
    let mut bench = start(&disk);
    for key in &keys {
        assert_eq!(bench.get(space, key), (Status::Ok, vec![7; 7_000]));
        assert_eq!(bench.put(space, key, &[8; 7_000]), Status::Ok);
    }
}

#[test]
fn copies_that_find_no_segment_hold_nobody_up_and_go_on_when_there_is_one() {
    let mut bench = start(&formatted_for_churn());
    let (space, keys) = churned(&mut bench);
    // Others take what there is, and what is given up.
    let mut taken = Vec::new();
    let full = keys.iter().any(|key| {
        let pool = bench.reactor.shards()[0].wal.segments();
        taken.extend(std::iter::from_fn(|| pool.take(Writer::Reclaim)));
        bench.put(space, key, &[8; 7_000]) == Status::NoSpace
    });
    assert!(full && taken.len() > 4);
    (0..10_000).for_each(|_| _ = bench.reactor.turn());
    assert!(!bench.reactor.is_at_work(), "it never sleeps");
    taken.into_iter().for_each(|segment| bench.reactor.shards()[0].wal.segments().give(segment));
    (0..10_000).for_each(|_| _ = bench.reactor.turn());
    for key in &keys {
        assert_eq!(bench.put(space, key, &[9; 7_000]), Status::Ok);
    }
}
