//! A drive that fails in every way a drive can, on a virtual clock. The reactors see a `Device`, recovery sees `Blocks`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use crate::bytes::len_u32;
use crate::device::flush::{FlushFailed, Flusher};
use crate::device::{Completion, Device, DeviceError, Geometry, Operation, OperationKind, Tier};
use crate::sim::disk::Disk;
use crate::sim::random::Random;
use crate::sim::report::{Count, Counts};
use crate::types::DeviceAddress;
use crate::wal::blocks::Blocks;
use crate::wal::layout::BLOCK_BYTES;
use crate::wal::planted::Planted;

const EIO: DeviceError = DeviceError::Errno(5);
/// A deallocation takes up to so many times as long as a write, and fails as often, of a thousand.
const DEALLOCATE_LATENCIES_MAX: u64 = 100;
const DEALLOCATE_ERRORS: u64 = 20;

/// How often each fault strikes, of a thousand writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    pub lying_cache: u64,
    pub misdirected: u64,
    pub lost_write: u64,
    pub write_error: u64,
    pub stall: u64,
    /// Of a thousand reads: what comes back is not what stands there, or nothing does.
    pub spoiled_read: u64,
    /// The drive never ends it, or much later.
    pub hang: u64,
    /// Longest and shortest time that a write takes when nothing is wrong.
    pub latency_ns: (u64, u64),
}

/// What a drive says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kind {
    pub volatile: bool,
    pub deallocate_bytes_max: u32,
}

/// What becomes of operations that are under way when everything ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Random,
    /// The oldest is lost, the later ones land: the shape that shows a missing epoch raise.
    FirstLost,
}

/// When an operation that hangs ends.
const NEVER_NS: u64 = u64::MAX;

struct UnderWay {
    due_ns: u64,
    reactor: u32,
    operation: Operation,
    fails: bool,
}

struct Flushing {
    due_ns: u64,
    reactor: u32,
    covered: BTreeSet<usize>,
}

/// The drive, shared by all reactors.
pub struct Drive {
    pub disk: Disk,
    pub rates: Rates,
    /// It has a volatile cache: a write is durable once a flush that was sent after its end has ended.
    volatile: bool,
    /// What it deallocates at once; 0: nothing.
    deallocate_bytes_max: u32,
    flushing: Vec<Flushing>,
    under_way: Vec<UnderWay>,
    gone: bool,
    random: Random,
    counts: Counts,
}

impl Drive {
    pub fn new(capacity_bytes: u64, rates: Rates, kind: Kind, random: Random, counts: Counts) -> Drive {
        let disk = Disk::new(capacity_bytes, counts.clone());
        let Kind { volatile, deallocate_bytes_max } = kind;
        let (flushing, under_way) = (Vec::new(), Vec::new());
        Drive { disk, rates, volatile, deallocate_bytes_max, flushing, under_way, gone: false, random, counts }
    }

    /// Everything fails from here on, until the next start.
    pub fn vanish(&mut self) {
        self.gone = true;
        self.counts.add(Count::Vanished);
        self.come_to();
    }

    /// Whether operations hang.
    pub fn hangs(&self) -> bool {
        self.under_way.iter().any(|it| it.due_ns == NEVER_NS)
    }

    /// What hangs ends at last, well or not.
    pub fn come_to(&mut self) {
        for it in self.under_way.iter_mut().filter(|it| it.due_ns == NEVER_NS) {
            it.due_ns = 0;
            it.fails = self.random.chance(300);
        }
    }

    /// It is reached again, and had its power all the time.
    pub fn reappear(&mut self) {
        self.gone = false;
    }

    /// It is there again, with what it held: it was without power meanwhile. The old way to it must not be used any more.
    pub fn come_back(&mut self) {
        self.reappear();
        self.disk.lose_unflushed(&mut self.random);
    }

    /// When the next operation ends.
    pub fn next_due_ns(&self) -> Option<u64> {
        let flushes = self.flushing.iter().map(|flushing| flushing.due_ns);
        self.under_way.iter().map(|under_way| under_way.due_ns).chain(flushes).min()
    }

    /// A flush begins: what is in the cache now will be on the medium when it ends.
    fn flush(&mut self, reactor: u32, now_ns: u64) {
        let (low, high) = self.rates.latency_ns;
        let due_ns = now_ns + self.random.between(low, high);
        self.flushing.push(Flushing { due_ns, reactor, covered: self.disk.unflushed() });
    }

    /// The flush of this reactor, if it has ended.
    fn end_flush(&mut self, reactor: u32, now_ns: u64) -> Option<Result<(), DeviceError>> {
        let ended = |flushing: &Flushing| flushing.reactor == reactor && flushing.due_ns <= now_ns;
        let at = self.flushing.iter().position(ended)?;
        let Flushing { covered, .. } = self.flushing.remove(at);
        if self.gone {
            return Some(Err(DeviceError::Vanished));
        }
        self.disk.flush(&covered);
        Some(Ok(()))
    }

    fn take(&mut self, reactor: u32, now_ns: u64, operation: Operation) {
        let (low, high) = self.rates.latency_ns;
        let (mut latency_ns, mut stall_ns) = (self.random.between(low, high), 0);
        if self.random.chance(self.rates.stall) {
            stall_ns = self.random.between(1, 5) * 1_000_000_000;
            self.counts.add(Count::Stalls);
        }
        let mut fails = self.random.chance(self.rates.write_error);
        if operation.kind == OperationKind::Deallocate {
            // It takes long, and writes that come later overtake it.
            latency_ns *= self.random.between(1, DEALLOCATE_LATENCIES_MAX);
            fails |= self.random.chance(DEALLOCATE_ERRORS);
        }
        let mut due_ns = now_ns + latency_ns + stall_ns;
        // Drawn where drives hang alone, so that other seeds keep their histories.
        if self.rates.hang > 0 && self.random.chance(self.rates.hang) {
            due_ns = NEVER_NS;
            self.counts.add(Count::Hangs);
        }
        self.under_way.push(UnderWay { due_ns, reactor, operation, fails });
    }

    /// The operation of this reactor that ends next, if its time has come.
    fn end_one(&mut self, reactor: u32, now_ns: u64) -> Option<Completion> {
        let due = |under_way: &UnderWay| under_way.reactor == reactor && under_way.due_ns <= now_ns;
        let ended = self.under_way.iter().enumerate().filter(|(_, it)| due(it)).min_by_key(|(_, it)| it.due_ns);
        let at = ended?.0;
        if self.under_way[..at].iter().any(|earlier| earlier.reactor == reactor) {
            self.counts.add(Count::Reordered);
        }
        let UnderWay { mut operation, fails, .. } = self.under_way.remove(at);
        let result = self.carry_out(&mut operation, fails);
        Some(Completion { operation, result })
    }

    fn carry_out(&mut self, operation: &mut Operation, fails: bool) -> Result<(), DeviceError> {
        let (address, bytes) = (operation.address, operation.bytes as usize);
        if bytes == 0 || !bytes.is_multiple_of(BLOCK_BYTES) || !self.disk.is_inside(address, bytes) {
            return Err(DeviceError::INVALID);
        }
        if operation.kind == OperationKind::Read {
            return self.read(address, &mut operation.buffer[..bytes]);
        }
        if operation.kind == OperationKind::Deallocate {
            return self.deallocate(address, operation.bytes, fails);
        }
        if self.gone || fails {
            // What failed may stand there all the same.
            self.tear(address, &operation.buffer[..bytes]);
            if !self.gone {
                self.counts.add(Count::WriteErrors);
            }
            return Err(if self.gone { DeviceError::Vanished } else { EIO });
        }
        let data = &operation.buffer[..bytes];
        let Rates { misdirected, lost_write, lying_cache, .. } = self.rates;
        if self.random.chance(misdirected) {
            let places = self.disk.blocks() - bytes / BLOCK_BYTES;
            let landed = DeviceAddress((self.random.index(places) * BLOCK_BYTES) as u64);
            if landed != address {
                self.disk.misdirect(address, data, landed);
                return Ok(());
            }
        }
        if self.random.chance(lost_write) {
            self.disk.lose_write(address, data);
        } else if self.random.chance(lying_cache) {
            self.disk.write_to_cache(address, data);
        } else if self.volatile {
            self.disk.write_volatile(address, data);
        } else {
            self.disk.write(address, data, |_| true);
        }
        Ok(())
    }

    fn read(&mut self, address: DeviceAddress, out: &mut [u8]) -> Result<(), DeviceError> {
        self.disk.read(address, out);
        if self.gone {
            return Err(DeviceError::Vanished);
        }
        if self.random.chance(self.rates.spoiled_read) {
            self.counts.add(Count::SpoiledReads);
            if self.random.chance(300) {
                return Err(EIO);
            }
            let at = self.random.index(out.len());
            out[at] ^= 1 << self.random.below(8);
        }
        Ok(())
    }

    /// What was written to these blocks since the command was given goes with the rest: a drive may take it so.
    fn deallocate(&mut self, address: DeviceAddress, bytes: u32, fails: bool) -> Result<(), DeviceError> {
        if bytes > self.deallocate_bytes_max {
            return Err(DeviceError::INVALID);
        }
        if self.gone {
            return Err(DeviceError::Vanished);
        }
        self.forget(address, bytes);
        self.counts.add_many(Count::DeallocateErrors, u64::from(fails));
        if fails { Err(EIO) } else { Ok(()) }
    }

    /// Any of the blocks of a `Deallocate` carry something else.
    fn forget(&mut self, address: DeviceAddress, bytes: u32) {
        let blocks = bytes as usize / BLOCK_BYTES;
        for block in 0..blocks {
            self.disk.deallocate(address.plus((block * BLOCK_BYTES) as u64), self.volatile, &mut self.random);
        }
        self.counts.add_many(Count::DeallocatedBlocks, blocks as u64);
    }

    /// An operation that did not end: lost, landed, or any part of its blocks.
    fn tear(&mut self, address: DeviceAddress, data: &[u8]) {
        let random = &mut self.random;
        match random.below(3) {
            0 => self.counts.add(Count::FramesLost),
            1 => self.disk.write(address, data, |_| true),
            _ => {
                let mut landed = 0;
                self.disk.write(address, data, |_| {
                    let lands = random.chance(500);
                    landed += usize::from(lands);
                    lands
                });
                let torn = landed > 0 && landed < data.len() / BLOCK_BYTES;
                self.counts.add(if torn { Count::FramesTorn } else { Count::FramesLost });
            }
        }
    }

    /// The daemon is killed, or power fails: every operation under way ends somehow.
    pub fn crash(&mut self, power: bool, fate: Fate) {
        for (number, ended) in std::mem::take(&mut self.under_way).into_iter().enumerate() {
            let Operation { kind, address, bytes, buffer, .. } = ended.operation;
            let inside = self.disk.is_inside(address, bytes as usize);
            if kind == OperationKind::Deallocate && inside && bytes <= self.deallocate_bytes_max {
                self.forget(address, bytes);
            }
            if kind != OperationKind::WriteDurable || !inside {
                continue;
            }
            let data = &buffer[..bytes as usize];
            match fate {
                Fate::Random => self.tear(address, data),
                Fate::FirstLost if number == 0 => self.counts.add(Count::FramesLost),
                Fate::FirstLost => self.disk.write(address, data, |_| true),
            }
        }
        self.flushing.clear();
        if power {
            self.disk.lose_cache(&mut self.random);
            self.disk.lose_unflushed(&mut self.random);
        }
        self.gone = false;
    }
}

/// Virtual time, in nanoseconds, and how far somebody has set the wall clock forward, in milliseconds.
#[derive(Clone, Default)]
pub struct VirtualClock(Rc<Cell<u64>>, Rc<Cell<u64>>);

/// Where the wall clock of every history begins, so that it can be set back.
const WALL_MS: u64 = 1_000_000_000;

impl VirtualClock {
    /// What the wall clock is ahead.
    pub fn ahead_ms(&self) -> u64 {
        WALL_MS.wrapping_add(self.1.get())
    }

    /// Sets the wall clock forward or back.
    pub fn set_wall(&self, forward_ms: i64) {
        self.1.set(self.1.get().wrapping_add_signed(forward_ms));
    }

    pub fn advance(&self, ns: u64) {
        self.0.set(self.0.get() + ns);
    }

    pub fn advance_to(&self, ns: u64) {
        self.0.set(self.0.get().max(ns));
    }
}

impl crate::reactor::Clock for VirtualClock {
    fn now_ns(&self) -> u64 {
        self.0.get()
    }

    fn wall_ms(&self) -> u64 {
        self.0.get() / 1_000_000 + self.ahead_ms()
    }
}

/// The drive as one reactor has it.
pub struct SimDevice {
    drive: Rc<RefCell<Drive>>,
    clock: VirtualClock,
    reactor: u32,
    operations_max: u32,
    /// None: the drive has no volatile cache, or nobody flushes it.
    flusher: Option<Flusher>,
    ended: VecDeque<Completion>,
}

impl SimDevice {
    pub fn new(drive: Rc<RefCell<Drive>>, clock: VirtualClock, reactor: u32, max: u32, planted: Planted) -> SimDevice {
        let flushes = drive.borrow().volatile && !planted.is(Planted::SkipFlush);
        let flusher = flushes.then(|| Flusher::new(max, FlushFailed::default()));
        SimDevice { drive, clock, reactor, operations_max: max, flusher, ended: VecDeque::new() }
    }

    /// As the devices do that flush.
    fn collect(&mut self) {
        let (now_ns, reactor) = (self.now_ns(), self.reactor);
        let mut drive = self.drive.borrow_mut();
        let Some(flusher) = &mut self.flusher else {
            return self.ended.extend(drive.end_one(reactor, now_ns));
        };
        if let Some(result) = drive.end_flush(reactor, now_ns) {
            flusher.end(result, &mut self.ended);
        }
        while let Some(completion) = drive.end_one(reactor, now_ns) {
            if completion.operation.kind == OperationKind::WriteDurable && completion.result.is_ok() {
                flusher.hold(completion.operation);
            } else {
                self.ended.push_back(completion);
            }
        }
        match flusher.failed() {
            _ if !flusher.is_due() => {}
            Some(error) => flusher.give_up(error, &mut self.ended),
            None => {
                flusher.sent();
                drive.flush(reactor, now_ns);
            }
        }
    }

    fn now_ns(&self) -> u64 {
        crate::reactor::Clock::now_ns(&self.clock)
    }
}

impl Device for SimDevice {
    fn geometry(&self) -> Geometry {
        Geometry {
            capacity_bytes: self.drive.borrow().disk.capacity_bytes(),
            block_bytes: 4_096,
            operations_max: self.operations_max,
            tier: Tier::Memory,
            deallocate_bytes_max: self.drive.borrow().deallocate_bytes_max,
        }
    }

    fn submit(&mut self, operation: Operation) -> Result<(), Operation> {
        if self.in_flight() >= self.operations_max {
            return Err(operation);
        }
        self.drive.borrow_mut().take(self.reactor, self.now_ns(), operation);
        Ok(())
    }

    fn kick(&mut self, _waited_for: bool) {}

    fn poll(&mut self) -> Option<Completion> {
        if self.ended.is_empty() {
            self.collect();
        }
        self.ended.pop_front()
    }

    fn in_flight(&self) -> u32 {
        let held = self.flusher.as_ref().map_or(0, Flusher::held) + len_u32(self.ended.len());
        let drive = self.drive.borrow();
        held + len_u32(drive.under_way.iter().filter(|it| it.reactor == self.reactor).count())
    }
}

/// The drive as recovery has it.
pub struct SimBlocks {
    pub drive: Rc<RefCell<Drive>>,
    /// Blocks that cannot be read this time.
    pub unreadable: BTreeSet<u64>,
    /// Power fails at the write after so many.
    pub writes_left: Option<u32>,
}

impl Blocks for SimBlocks {
    fn read(&mut self, address: DeviceAddress, out: &mut [u8]) -> Result<(), DeviceError> {
        let drive = self.drive.borrow();
        if !drive.disk.is_inside(address, out.len()) {
            return Err(DeviceError::INVALID);
        }
        let blocks = address.0 / BLOCK_BYTES as u64..(address.0 + out.len() as u64).div_ceil(BLOCK_BYTES as u64);
        if self.unreadable.range(blocks).next().is_some() {
            drive.counts.add(Count::ReadErrors);
            return Err(EIO);
        }
        drive.disk.read(address, out);
        Ok(())
    }

    fn write(&mut self, address: DeviceAddress, bytes: &[u8]) -> Result<(), DeviceError> {
        let mut drive = self.drive.borrow_mut();
        if self.writes_left == Some(0) {
            drive.tear(address, bytes);
            return Err(DeviceError::Vanished);
        }
        self.writes_left = self.writes_left.map(|left| left - 1);
        drive.disk.write(address, bytes, |_| true);
        // A durable write is followed by a flush, which covers what earlier lives left in the cache.
        let covered = drive.disk.unflushed();
        drive.disk.flush(&covered);
        Ok(())
    }
}
