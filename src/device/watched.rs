//! A device of which it is known how long each operation has been out.

use super::{Completion, Device, Geometry, Operation, OperationKind};

/// No operation holds this buffer.
const NOT_OUT: u64 = u64::MAX;

/// A device, and a stamp for each buffer of the one pool that all its operations take theirs from. A stamp is set when the
/// device takes the operation, and cleared when it gives it back; nothing else is done on the way.
pub struct Watched<D> {
    device: D,
    /// By the buffer's place in its region.
    out_since_ns: Box<[u64]>,
    now_ns: u64,
    traffic: Traffic,
}

/// What the device was given, since it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub write_bytes: u64,
}

impl<D: Device> Watched<D> {
    /// For buffers of a region that was cut into so many.
    #[must_use]
    pub fn new(device: D, buffers: usize) -> Watched<D> {
        Watched { device, out_since_ns: vec![NOT_OUT; buffers].into(), now_ns: 0, traffic: Traffic::default() }
    }

    /// What is submitted from here on is stamped with this time.
    pub fn set_now(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// What the device was given so far; another one counts on.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// How long the oldest operation has been out; 0 when none is. Looks at every stamp.
    #[must_use]
    pub fn oldest_ns(&self, now_ns: u64) -> u64 {
        let oldest = self.out_since_ns.iter().min().filter(|since_ns| **since_ns != NOT_OUT);
        oldest.map_or(0, |since_ns| now_ns.saturating_sub(*since_ns))
    }

    /// So long nobody could have seen what ended: that does not count.
    pub fn forgive(&mut self, blind_ns: u64, now_ns: u64) {
        for since_ns in self.out_since_ns.iter_mut().filter(|since_ns| **since_ns != NOT_OUT) {
            *since_ns = now_ns.min(*since_ns + blind_ns);
        }
    }

    /// Gives the device back for another one. Nothing may be out.
    pub fn replace(&mut self, device: D) -> D {
        std::mem::replace(&mut self.device, device)
    }
}

impl<D: Device> Device for Watched<D> {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn submit(&mut self, operation: Operation) -> Result<(), Operation> {
        let (place, kind, bytes) = (operation.buffer.index(), operation.kind, u64::from(operation.bytes));
        self.device.submit(operation)?;
        self.out_since_ns[place] = self.now_ns;
        let traffic = &mut self.traffic;
        match kind {
            OperationKind::Read => {
                (traffic.reads, traffic.read_bytes) = (traffic.reads + 1, traffic.read_bytes + bytes)
            }
            OperationKind::WriteDurable => {
                (traffic.writes, traffic.write_bytes) = (traffic.writes + 1, traffic.write_bytes + bytes);
            }
            OperationKind::Deallocate => {}
        }
        Ok(())
    }

    fn kick(&mut self, waited_for: bool) {
        self.device.kick(waited_for);
    }

    fn poll(&mut self) -> Option<Completion> {
        let completion = self.device.poll()?;
        self.out_since_ns[completion.operation.buffer.index()] = NOT_OUT;
        Some(completion)
    }

    fn in_flight(&self) -> u32 {
        self.device.in_flight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::memory::{MemoryDevice, MemoryDisk};
    use crate::device::scratch::{operation, pool};

    #[test]
    fn the_oldest_counts_until_it_ends() {
        let (mut pool, disk) = (pool(4, 4096), MemoryDisk::new(1 << 20));
        let mut device = Watched::new(MemoryDevice::new(&disk, 2), pool.count());
        assert_eq!(device.oldest_ns(1_000), 0, "nothing is out");
        for now_ns in [10, 40] {
            device.set_now(now_ns);
            device.submit(operation(&mut pool, OperationKind::WriteDurable, 0, 4096)).unwrap();
        }
        let refused = device.submit(operation(&mut pool, OperationKind::Read, 0, 4096)).unwrap_err();
        pool.give(refused.buffer);
        assert_eq!(device.oldest_ns(100), 90);
        assert_eq!(device.traffic(), Traffic { writes: 2, write_bytes: 8192, ..Traffic::default() }, "what was taken");
        pool.give(device.poll().unwrap().operation.buffer);
        assert_eq!(device.oldest_ns(100), 60);
        device.forgive(20, 100);
        assert_eq!(device.oldest_ns(100), 40);
        device.forgive(1_000, 100);
        assert_eq!(device.oldest_ns(100), 0);
        // The buffer that came back is used again: it is as old as its new operation.
        device.set_now(70);
        device.submit(operation(&mut pool, OperationKind::Read, 0, 4096)).unwrap();
        assert!(device.poll().is_some());
        assert_eq!((device.oldest_ns(100), device.in_flight()), (30, 1));
        assert!(device.poll().is_some());
        assert_eq!(device.oldest_ns(100), 0);
    }
}
