//! An io_uring on one file or device, which owns the buffers of whatever is under way: `Uring` for reads and writes,
//! `nvme::NvmeUring` for NVMe commands.

pub mod nvme;
mod transfer;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::squeue::EntryMarker;
use io_uring::{IoUring, cqueue};

use crate::dma::{DmaBuffer, DmaSpan};

pub use transfer::{Transfer, Uring};

/// When the kernel's part of a completion runs on the thread that polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskRun {
    /// At once, by an interrupt of that thread.
    Interrupt,
    /// When that thread next enters the kernel; a flag in the ring says that it should. Since Linux 5.19.
    Cooperative,
    /// When that thread asks for events. Only the thread that made the ring may use it. Since Linux 6.1.
    Deferred,
}

#[derive(Clone, Copy)]
pub struct UringOptions<'a> {
    /// Busy-poll the drive's queue instead of waiting for its interrupt. The queue must have been made for it.
    pub iopoll: bool,
    pub task_run: TaskRun,
    /// Buffers of this region are registered once, and not looked up again on each operation.
    pub span: Option<&'a DmaSpan>,
    /// Stays open, with the lock on it, until all that is under way has ended: also when the process is killed.
    pub held: Option<&'a File>,
}

/// An operation that ended, with what it owned.
#[derive(Debug)]
pub struct Ended<T> {
    pub buffer: DmaBuffer,
    pub context: T,
    /// What the kernel answered: not negative, or an errno.
    pub result: Result<u32, i32>,
}

struct Slot<T> {
    buffer: DmaBuffer,
    context: T,
    /// Entries of this operation that have not ended.
    left: u32,
    /// The first answer that is not 0.
    result: Result<u32, i32>,
}

/// What the kernel answered to one entry, as an operation counts it.
pub(crate) trait Answer: cqueue::EntryMarker {
    fn parts(&self) -> (u64, i32);
}

impl Answer for cqueue::Entry {
    fn parts(&self) -> (u64, i32) {
        (self.user_data(), self.result())
    }
}

impl Answer for cqueue::Entry32 {
    fn parts(&self) -> (u64, i32) {
        (self.user_data(), self.result())
    }
}

/// The ring. A buffer that was submitted belongs to it until `poll` gives it back; dropping the ring waits for all.
struct Ring<T, S: EntryMarker, C: Answer> {
    ring: IoUring<S, C>,
    /// The place of an operation is the `user_data` of its entries.
    slots: Vec<Option<Slot<T>>>,
    free: Vec<u32>,
    span: Option<DmaSpan>,
    /// The span is registered in pieces of this size.
    piece_bytes: usize,
    iopoll: bool,
    /// The last doorbell was not taken whole (out of memory for a moment); `poll` rings it again.
    kick_again: bool,
    note: Option<String>,
    /// Keeps the descriptor open as long as the ring may use it.
    _file: File,
}

impl<T, S: EntryMarker, C: Answer> Ring<T, S, C> {
    /// A ring for as many as `operations` at once, of up to `entries_each`. Registers the file, and the buffers, in
    /// pieces of `piece_bytes`, where memlock allows it.
    fn new(
        file: File,
        operations: u32,
        entries_each: u32,
        piece_bytes: usize,
        options: &UringOptions<'_>,
    ) -> io::Result<Ring<T, S, C>> {
        let ring = build(operations.saturating_mul(entries_each), options)?;
        let files = [file.as_raw_fd(), options.held.unwrap_or(&file).as_raw_fd()];
        ring.submitter().register_files(&files)?;
        let mut note = None;
        let span = options.span.filter(|span| match register(&ring, span, piece_bytes) {
            Ok(()) => true,
            Err(error) => {
                note = Some(format!("buffers are not registered with io_uring ({error}); raise `ulimit -l`"));
                false
            }
        });
        Ok(Ring {
            ring,
            slots: (0..operations).map(|_| None).collect(),
            free: (0..operations).rev().collect(),
            span: span.cloned(),
            piece_bytes,
            iopoll: options.iopoll,
            kick_again: false,
            note,
            _file: file,
        })
    }

    fn in_flight(&self) -> u32 {
        let slots = self.slots.len() - self.free.len();
        u32::try_from(slots).unwrap_or(u32::MAX)
    }

    /// Gives the operation a place for `entries` entries. The buffer's address does not change while it has one.
    fn claim(&mut self, buffer: DmaBuffer, context: T, entries: u32) -> Result<u32, (DmaBuffer, T)> {
        let Some(place) = self.free.pop() else { return Err((buffer, context)) };
        self.slots[place as usize] = Some(Slot { buffer, context, left: entries, result: Ok(0) });
        Ok(place)
    }

    fn kick(&mut self) {
        self.kick_again = false;
        if !self.ring.submission().is_empty() {
            self.kick_again = !self.enter() || !self.ring.submission().is_empty();
        }
    }

    fn poll(&mut self) -> Option<Ended<T>> {
        if let Some(ended) = self.reap() {
            return Some(ended);
        }
        if self.kick_again {
            self.kick();
        } else if self.in_flight() > 0 && (self.iopoll || self.ring.submission().taskrun()) {
            self.enter();
        }
        self.reap()
    }

    fn reap(&mut self) -> Option<Ended<T>> {
        loop {
            let (place, answer) = self.ring.completion().next()?.parts();
            let place = u32::try_from(place).expect("user_data is the place of a slot");
            let entry = &mut self.slots[place as usize];
            let slot = entry.as_mut().expect("a slot stays until its last entry has ended");
            slot.left -= 1;
            let answer = u32::try_from(answer).map_err(|_| -answer);
            if slot.result == Ok(0) {
                slot.result = answer;
            }
            if slot.left == 0
                && let Some(Slot { buffer, context, result, .. }) = entry.take()
            {
                self.free.push(place);
                return Some(Ended { buffer, context, result });
            }
        }
    }

    /// Hands the queue to the kernel, and lets it post what has ended. False when it should be tried again.
    ///
    /// # Panics
    /// On an error that cannot pass by itself: it can only come from a mistake in this file.
    fn enter(&mut self) -> bool {
        match self.ring.submitter().submit() {
            Ok(_) => true,
            Err(error) if passes(&error) => false,
            Err(error) => panic!("io_uring_enter: {error}"),
        }
    }

    /// Where the buffer begins in the registered span.
    fn span_offset(&self, buffer: &DmaBuffer) -> Option<usize> {
        let span = self.span.as_ref().filter(|span| buffer.is_within(span))?;
        Some(buffer.as_ptr().addr() - span.address().addr())
    }

    /// The registered piece that holds `bytes` bytes at this offset of the span whole.
    fn registered(&self, span_offset: usize, bytes: u32) -> Option<u16> {
        let last = span_offset + (bytes as usize).max(1) - 1;
        let index = span_offset / self.piece_bytes;
        if index == last / self.piece_bytes { u16::try_from(index).ok() } else { None }
    }
}

impl<T, S: EntryMarker, C: Answer> Drop for Ring<T, S, C> {
    /// Waits for all that is under way, so that no memory is given back while the drive may still write to it.
    fn drop(&mut self) {
        while self.in_flight() > 0 {
            let entered = self.ring.submitter().submit_and_wait(1);
            if entered.is_err_and(|error| !passes(&error)) {
                // Whether the drive still writes is unknown, and nothing may be freed under it.
                std::process::abort();
            }
            while self.reap().is_some() {}
        }
        // The kernel takes a ring down in its own time. Nothing is under way, so the file, and a lock on it, go now.
        let _ = self.ring.submitter().unregister_files();
    }
}

/// True for an error of `io_uring_enter` that goes away when it is called again.
fn passes(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::EINTR))
}

fn build<S: EntryMarker, C: Answer>(entries: u32, options: &UringOptions<'_>) -> io::Result<IoUring<S, C>> {
    let mut builder = IoUring::<S, C>::builder();
    if options.iopoll {
        builder.setup_iopoll();
    }
    let plain = builder.clone();
    match options.task_run {
        TaskRun::Interrupt => {}
        TaskRun::Cooperative => {
            builder.setup_coop_taskrun().setup_taskrun_flag();
        }
        TaskRun::Deferred => {
            builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        }
    }
    match builder.build(entries) {
        // An older kernel does not know the flag. The ring works without it.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => plain.build(entries),
        built => built,
    }
}

fn register<S: EntryMarker, C: Answer>(ring: &IoUring<S, C>, span: &DmaSpan, piece_bytes: usize) -> io::Result<()> {
    let pieces: Vec<libc::iovec> = (0..span.bytes())
        .step_by(piece_bytes)
        .map(|offset| libc::iovec {
            iov_base: span.address().wrapping_add(offset).cast(),
            iov_len: piece_bytes.min(span.bytes() - offset),
        })
        .collect();
    // SAFETY: the pieces lie inside the span's mapping, which the ring keeps mapped by its copy of the span. The kernel
    // reads and writes there only for operations, each of which owns its buffer.
    unsafe { ring.submitter().register_buffers(&pieces) }
}
