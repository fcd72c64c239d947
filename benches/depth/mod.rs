//! So many operations with a depth of them under way, and what each took.

use std::cell::RefCell;
use std::time::Duration;

use forebay::buffer::Pool;
use forebay::device::any::AnyDevice;
use forebay::device::{Device, Operation, OperationKind};
use forebay::types::DeviceAddress;

#[derive(Clone, Copy)]
pub struct Plan {
    pub ops: usize,
    /// Operations under way at once.
    pub depth: usize,
    /// No operation begins after so long.
    pub time_max: Duration,
}

/// What the operations took, sorted, and all of them together.
pub struct Taken {
    pub latencies: Vec<Duration>,
    pub elapsed: Duration,
}

impl Taken {
    pub fn percentile(&self, percent: usize) -> Duration {
        self.latencies[(self.latencies.len() - 1) * percent / 100]
    }

    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }
}

/// `start` takes the number of the operation, `ended` tells how many ended. Times are of the processor's counter, as those of
/// the tools beside which they stand.
pub fn drive(plan: Plan, mut start: impl FnMut(usize), mut ended: impl FnMut() -> usize) -> Taken {
    let Plan { mut ops, depth, time_max } = plan;
    let (mut begun, mut latencies) = (Vec::with_capacity(ops), Vec::with_capacity(ops));
    let clock = quanta::Clock::new();
    let since = |start: u64| Duration::from_nanos(clock.delta_as_nanos(start, clock.raw()));
    let started = clock.raw();
    while latencies.len() < ops {
        while begun.len() < ops && begun.len() - latencies.len() < depth {
            begun.push(clock.raw());
            start(begun.len() - 1);
        }
        let now_ended = ended();
        for _ in 0..now_ended {
            // They may end in another order; the sum, and at depth 1 each, is exact.
            latencies.push(since(begun[latencies.len()]));
        }
        if now_ended > 0 && since(started) > time_max {
            ops = begun.len();
        }
    }
    let elapsed = since(started);
    latencies.sort_unstable();
    Taken { latencies, elapsed }
}

/// Operations of whole buffers of `pool`, each at its `address`. `fresh`: every buffer is written anew before it goes,
/// as that of a log is, so that the device's core has to fetch it from ours.
pub fn buffers(
    plan: Plan,
    device: AnyDevice,
    pool: Pool,
    (kind, fresh): (OperationKind, bool),
    address: impl Fn(usize) -> u64,
) -> Taken {
    let bytes = u32::try_from(pool.buffer_bytes()).expect("buffers are small");
    let (device, pool) = (RefCell::new(device), RefCell::new(pool));
    let start = |number: usize| {
        let mut buffer = pool.borrow_mut().take().expect("as many buffers as are under way");
        if fresh {
            buffer.fill(number.to_le_bytes()[0]);
        }
        let address = DeviceAddress(address(number));
        let operation = Operation { tag: 0, kind, address, bytes, buffer };
        device.borrow_mut().submit(operation).expect("the device takes as many as are under way");
    };
    let ended = || {
        let mut count = 0;
        device.borrow_mut().kick(true);
        while let Some(completion) = device.borrow_mut().poll() {
            completion.result.expect("the operation succeeds");
            pool.borrow_mut().give(completion.operation.buffer);
            count += 1;
        }
        count
    };
    drive(plan, start, ended)
}
