//! Writes that a flush makes durable: all that had ended when it was sent. One is under way at a time, or two that end as one.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use super::{Completion, DeviceError, Operation};
use crate::bytes::len_u32;

/// After a failed flush the drive may have dropped what it held: no later write can be called durable, by no device of
/// the same drive. Every device reads it after each flush; the first failure stays.
#[derive(Clone, Debug, Default)]
pub struct FlushFailed(Arc<OnceLock<DeviceError>>);

impl FlushFailed {
    #[must_use]
    pub fn get(&self) -> Option<DeviceError> {
        self.0.get().copied()
    }

    pub fn set(&self, error: DeviceError) {
        let _ = self.0.set(error);
    }
}

/// Holds writes back until the drive has flushed them. Belongs to one device; does no I/O of its own.
pub struct Flusher {
    /// Writes that ended and are not known to be durable, oldest first.
    written: VecDeque<Operation>,
    /// As many of them, from the front, had ended when the flush under way was sent.
    covered: usize,
    failed: FlushFailed,
}

impl Flusher {
    /// For as many as `operations_max` writes: it never grows.
    #[must_use]
    pub fn new(operations_max: u32, failed: FlushFailed) -> Flusher {
        Flusher { written: VecDeque::with_capacity(operations_max as usize), covered: 0, failed }
    }

    /// A write ended, and is not durable.
    pub fn hold(&mut self, operation: Operation) {
        self.written.push_back(operation);
    }

    /// Whether to send a flush now.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.covered == 0 && !self.written.is_empty()
    }

    /// A flush was sent: it covers what is held now, and nothing that ends later. With another one under way, which was sent
    /// before, the caller calls `end` once, with what both of them said.
    pub fn sent(&mut self) {
        self.covered = self.written.len();
    }

    /// The flush under way was never begun.
    pub fn not_sent(&mut self) {
        self.covered = 0;
    }

    /// Whether a flush is under way.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.covered > 0
    }

    /// The flush under way ended: so do the writes that it covered. After a failure, of this device or another one of the
    /// same drive, all fail.
    pub fn end(&mut self, result: Result<(), DeviceError>, ended: &mut VecDeque<Completion>) {
        if let Err(error) = result {
            self.failed.set(error);
        }
        let result = self.failed.get().map_or(Ok(()), Err);
        ended.extend(self.written.drain(..self.covered).map(|operation| Completion { operation, result }));
        self.covered = 0;
    }

    /// Why no flush would help any more.
    #[must_use]
    pub fn failed(&self) -> Option<DeviceError> {
        self.failed.get()
    }

    /// No flush can be sent: all that is held fails.
    pub fn give_up(&mut self, error: DeviceError, ended: &mut VecDeque<Completion>) {
        self.sent();
        self.end(Err(error), ended);
    }

    /// Writes held that no flush under way covers.
    #[must_use]
    pub fn uncovered(&self) -> u32 {
        len_u32(self.written.len() - self.covered)
    }

    /// Writes held.
    #[must_use]
    pub fn held(&self) -> u32 {
        len_u32(self.written.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::OperationKind;
    use crate::device::scratch::{operation, pool};

    const GONE: DeviceError = DeviceError::Vanished;

    fn addresses(ended: &mut VecDeque<Completion>) -> Vec<(u64, bool)> {
        ended.drain(..).map(|ended| (ended.operation.address.0 / 4096, ended.result.is_ok())).collect()
    }

    #[test]
    fn a_flush_covers_what_had_ended_when_it_was_sent() {
        let (mut pool, mut ended) = (pool(8, 4096), VecDeque::new());
        let mut write = |at: u64| operation(&mut pool, OperationKind::WriteDurable, at * 4096, 4096);
        let mut flusher = Flusher::new(8, FlushFailed::default());
        assert!(!flusher.is_due(), "nothing was written");
        flusher.hold(write(0));
        flusher.hold(write(1));
        assert!(flusher.is_due());
        flusher.sent();
        flusher.hold(write(2));
        assert!(!flusher.is_due() && flusher.is_under_way(), "one at a time");
        assert_eq!((flusher.held(), flusher.uncovered()), (3, 1));
        flusher.end(Ok(()), &mut ended);
        assert_eq!((addresses(&mut ended), flusher.held()), (vec![(0, true), (1, true)], 1));
        assert!(flusher.is_due(), "the third needs another one");
    }

    #[test]
    fn a_failed_flush_fails_every_later_write_of_every_device() {
        let (mut pool, mut ended) = (pool(8, 4096), VecDeque::new());
        let mut write = |at: u64| operation(&mut pool, OperationKind::WriteDurable, at * 4096, 4096);
        let failed = FlushFailed::default();
        let (mut one, mut other) = (Flusher::new(4, failed.clone()), Flusher::new(4, failed));
        one.hold(write(0));
        one.sent();
        other.hold(write(1));
        other.sent();
        other.end(Err(GONE), &mut ended);
        one.end(Ok(()), &mut ended);
        assert_eq!(addresses(&mut ended), [(1, false), (0, false)], "it may have been what the other one lost");
        one.hold(write(2));
        one.sent();
        one.end(Ok(()), &mut ended);
        assert_eq!(addresses(&mut ended), [(2, false)]);
        other.hold(write(3));
        other.give_up(GONE, &mut ended);
        assert_eq!((addresses(&mut ended), other.failed(), other.held()), (vec![(3, false)], Some(GONE), 0));
    }
}
