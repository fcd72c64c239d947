//! A drive whose reads take longer than a turn, as those of every real one do.

use super::reclaim::formatted_small;
use super::*;
use crate::device::{Completion, Device, Geometry, Operation, OperationKind};
use crate::wal::layout::{HEAD_BYTES, TAIL_BYTES};

/// Polls until a read has ended: fewer than earn the credit for all that one brings, or no read is under way at the end.
const READ_POLLS: u32 = 4;

struct SlowReads {
    device: MemoryDevice,
    reads: Vec<(u32, Completion)>,
}

impl Device for SlowReads {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn submit(&mut self, operation: Operation) -> Result<(), Operation> {
        self.device.submit(operation)
    }

    fn kick(&mut self, _waited_for: bool) {}

    fn poll(&mut self) -> Option<Completion> {
        while let Some(completion) = self.device.poll() {
            if completion.operation.kind != OperationKind::Read {
                return Some(completion);
            }
            self.reads.push((READ_POLLS, completion));
        }
        self.reads.iter_mut().for_each(|(polls, _)| *polls = polls.saturating_sub(1));
        let ended = self.reads.iter().position(|(polls, _)| *polls == 0)?;
        Some(self.reads.remove(ended).1)
    }

    fn in_flight(&self) -> u32 {
        self.device.in_flight() + u32::try_from(self.reads.len()).unwrap()
    }
}

/// Segments whose end no record fitted in are read back further than to their last record: that read may end when all
/// is copied already.
#[test]
fn a_read_that_ends_after_the_last_copy_does_not_end_reclaim() {
    let disk = formatted_small(HEAD_BYTES + TAIL_BYTES + 24 * (256 << 10));
    let recover::Begun { shards, catalog, .. } = small::begin(&disk, disk.capacity_bytes(), || None, None);
    let (parts, rings) = pair_in_process(SessionId(1), Rights::ReadWrite, SHAPE).unwrap();
    let region = DmaRegion::allocate(16 * (64 << 10), Pages::Ordinary).unwrap();
    let (device, pool) =
        (SlowReads { device: MemoryDevice::new(&disk, 16), reads: Vec::new() }, Pool::new(region, 64 << 10));
    let mut reactor = Reactor::new(small::place(), LIMITS, TestClock::default(), device, pool, catalog, shards);
    rings.into_iter().for_each(|ring| reactor.begin_session(ring));
    let mut client = Client::from_parts(parts, Duration::ZERO).unwrap();
    let mut call = |request: &Request<'_>| {
        client.submit(7, request).unwrap();
        let answered = (0..1_000_000).find_map(|_| {
            reactor.turn();
            client.poll(&mut Vec::new()).unwrap()
        });
        let reclaimed: u64 = reactor.shards().iter().map(|shard| shard.wal.counters.segments_reclaimed).sum();
        (answered.expect("an answer"), reclaimed)
    };
    let create = Some(Durability::Buffered.into());
    let (opened, _) = call(&Request::Open { kind: ObjectKind::Space, name: "space", create });
    let space = Object {
        id: ObjectId(u32::try_from(opened.version).unwrap()),
        kind: ObjectKind::Space,
        durability: Durability::Buffered,
        compression: Compression::None,
    };
    let mut given_up = 0;
    for number in 0..20_000_u32 {
        // One larger than a frame among small ones, which earn little of what may be looked at in a turn.
        let (key, bytes) = if number % 24 == 0 { (number / 24 % 5, 150_000) } else { (1_000 + number % 20, 500) };
        let value = vec![7; bytes];
        let put = Request::Put { space, key: &key.to_be_bytes(), value: &value, how: Write::default() };
        let (answer, reclaimed) = call(&put);
        assert_eq!(answer.status, Status::Ok, "put {number}, after {reclaimed} segments were given up");
        given_up = reclaimed;
    }
    assert!(given_up > 100, "{given_up}");
}
