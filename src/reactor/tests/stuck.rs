//! What waits for room in the log gets it, or is told that there is none. Nobody waits for ever.

use super::reclaim::formatted_small;
use super::*;
use crate::wal::layout::{HEAD_BYTES, TAIL_BYTES};
use crate::wal::record::Record;
use crate::wal::recovery::{self, Walker};
use crate::wal::superblock::Superblock;
use crate::wal::{repair, survey};

/// A device so small that old segments are just given up.
const SMALL: u64 = HEAD_BYTES + TAIL_BYTES + 16 * (256 << 10);

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
    plan.carry_out(&mut blocks).unwrap();

    let survey = survey::survey(&mut blocks, &superblock, &mut |_, _| {});
    let mut walker = Walker::new(&mut blocks, &superblock, ShardId(0), &survey.chains[0]);
    let mut first_lsn = None;
    let mut sink = |record: &Record<'_>| _ = first_lsn.get_or_insert(record.lsn);
    let planted = wal::planted::Planted::None;
    let recovered = recovery::recover(&mut walker, None, planted, &mut sink, &mut |_| {}).unwrap();
    assert_eq!(first_lsn, Some(begin_lsn));
    assert_eq!(survey.missing(ShardId(0), recovered.tail.kept_from), None);
    start(&disk);
}
