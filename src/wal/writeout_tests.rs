//! Who waits for frames that are under way: the flush of a file goes by it.

use std::sync::Arc;

use forebay_sys::dma::{DmaRegion, Pages};

use super::*;
use crate::device::{DeviceError, Geometry, Tier};
use crate::types::{Lsn, ObjectId, SegmentIndex, ShardId};
use crate::wal::carries::Carries;
use crate::wal::flight::{Flight, Owner};
use crate::wal::layout::Layout;
use crate::wal::pool::SegmentPool;
use crate::wal::record::Kind;
use crate::wal::{Identity, Limits, Link, Position, Tail};

const FRAME_BYTES: usize = 8_192;
const WINDOW_NS: u64 = 5_000_000;

/// Has finished what it was given, and holds it for a flush.
#[derive(Default)]
struct Holding(Vec<Operation>);

impl Device for Holding {
    fn geometry(&self) -> Geometry {
        Geometry {
            capacity_bytes: 1 << 20,
            block_bytes: 4_096,
            operations_max: 16,
            tier: Tier::Memory,
            deallocate_bytes_max: 0,
        }
    }

    fn submit(&mut self, operation: Operation) -> Result<(), Operation> {
        self.0.push(operation);
        Ok(())
    }

    fn kick(&mut self, _waited_for: bool) {}

    fn poll(&mut self) -> Option<Completion> {
        let result: Result<(), DeviceError> = Ok(());
        (!self.0.is_empty()).then(|| Completion { operation: self.0.remove(0), result })
    }

    fn in_flight(&self) -> u32 {
        len_u32(self.0.len())
    }
}

struct Bench {
    wal: Wal,
    pool: Pool,
    device: Holding,
}

impl Bench {
    fn new() -> Bench {
        let (namespace, shard) = ([7; 16], ShardId(0));
        let layout = Layout { capacity_bytes: 0, segment_bytes: 256 << 10, segments: 20, shards: 1 };
        let chained = |sequence: u32| ChainSegment {
            segment: SegmentIndex(sequence),
            sequence: u64::from(sequence),
            reserved: false,
        };
        let links = vec![Link { chained: chained(1), first_lsn: Lsn(1), carries: Carries::UNKNOWN }];
        let position = Some(Position { chained: chained(1), offset: 4_096 });
        let tail = Tail { next_lsn: Lsn(1), links, position, prepared: vec![chained(2)], ..Tail::default() };
        let limits = Limits {
            frames_in_flight_max: 4,
            window_interval_ns: WINDOW_NS,
            window_bytes: FRAME_BYTES / 2,
            watermark_interval_ns: 1,
            recovery_bytes_max: 1 << 20,
        };
        let flight = Flight::new(None, Owner { namespace, shard, boot: [0; 16] }, 1);
        let segments = Arc::new(SegmentPool::new(&layout, &[]));
        let identity = Identity { namespace, shard, epoch: 1, layout };
        let wal = Wal::new(identity, limits, tail, segments, flight, Planted::None);
        let pool = Pool::new(DmaRegion::allocate(16 * FRAME_BYTES, Pages::Ordinary).unwrap(), FRAME_BYTES);
        Bench { wal, pool, device: Holding::default() }
    }

    fn append(&mut self, now_ns: u64, value_bytes: usize) {
        let value = vec![1; value_bytes];
        self.wal.append(&mut self.pool, now_ns, Kind::Put, ObjectId(1), 1, b"key", &value);
    }

    /// A full frame for which nobody waits.
    fn full_frame(&mut self, now_ns: u64) {
        self.append(now_ns, FRAME_BYTES - 400);
        assert_eq!(self.seal(now_ns), 1, "it is full");
    }

    fn seal(&mut self, now_ns: u64) -> u32 {
        self.wal.seal(&mut self.pool, &mut self.device, now_ns)
    }

    fn flush(&mut self, now_ns: u64) {
        while let Some(completion) = self.device.poll() {
            self.wal.complete(&mut self.pool, completion, now_ns);
        }
    }
}

#[test]
fn a_frame_that_nobody_wants_is_waited_for_when_its_time_is_over() {
    let mut bench = Bench::new();
    assert!(!bench.wal.is_waited_for(WINDOW_NS + FLUSH_NS_MAX), "nothing is under way");
    bench.full_frame(10);
    assert!(!bench.wal.is_waited_for(10) && !bench.wal.is_waited_for(9 + WINDOW_NS + FLUSH_NS_MAX));
    assert!(bench.wal.is_waited_for(10 + WINDOW_NS + FLUSH_NS_MAX));
    bench.flush(20);
    assert!(bench.wal.is_durable() && !bench.wal.is_waited_for(2 * (WINDOW_NS + FLUSH_NS_MAX)));
}

#[test]
fn who_wants_what_is_sealed_waits_for_what_is_under_way() {
    let mut bench = Bench::new();
    bench.full_frame(10);
    bench.wal.want_durable();
    assert!(bench.wal.is_waited_for(11));
    bench.flush(20);
    assert!(!bench.wal.is_waited_for(21), "it is durable");
}

#[test]
fn who_wants_what_is_open_waits_for_what_is_out_before_it() {
    let mut bench = Bench::new();
    bench.full_frame(30);
    bench.append(31, 100);
    assert!(!bench.wal.is_waited_for(32));
    bench.wal.want_durable();
    assert!(bench.wal.is_waited_for(32), "it comes behind a frame that is out");
    assert_eq!(bench.seal(33), 1);
    bench.append(34, 100);
    bench.flush(35);
    assert!(
        bench.wal.durable_lsn() < bench.wal.last_lsn() && !bench.wal.is_waited_for(36),
        "nobody asked for the last"
    );
}
