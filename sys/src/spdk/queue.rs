//! One queue pair, which owns the buffers of whatever is under way.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::Arc;

use super::bindings::{
    self, spdk_nvme_cmd_cb, spdk_nvme_cpl, spdk_nvme_dsm_range, spdk_nvme_ns_cmd_dataset_management,
    spdk_nvme_ns_cmd_read, spdk_nvme_ns_cmd_write, spdk_nvme_qpair,
};
use super::controller::Controller;
use crate::dma::DmaBuffer;

const NO_PLACE: u32 = u32::MAX;

/// Attribute Deallocate of Dataset Management, in its dword 11.
const DEALLOCATE: u32 = 1 << 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Read,
    Write,
    /// With force unit access (FUA): durable when it ends, on a drive that honours it.
    WriteThrough,
    /// Dataset Management of one range, which carries nothing any more. Transfers nothing of the buffer.
    Deallocate,
}

/// The status of a command that ended, as NVMe words it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(u16);

impl Status {
    pub(super) fn of(raw: u16) -> Status {
        Status(raw)
    }

    #[must_use]
    pub fn is_success(self) -> bool {
        // Do-not-retry and its like say nothing of success.
        self.field() & 0x7ff == 0
    }

    /// The status field without its phase bit: SC in bits 7:0, SCT in bits 10:8, DNR in bit 14.
    #[must_use]
    pub fn field(self) -> u16 {
        self.0 >> 1
    }
}

/// A command that ended, with what it owned.
#[derive(Debug)]
pub struct Ended<T> {
    /// None for a flush.
    pub buffer: Option<DmaBuffer>,
    pub context: T,
    pub status: Status,
}

/// A command that was not taken, with what it would have owned.
#[derive(Debug)]
pub struct Refused<T> {
    pub buffer: Option<DmaBuffer>,
    pub context: T,
    pub refusal: Refusal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// As many commands are under way as there can be: try again when one has ended.
    Full,
    /// The controller is gone, and stays so.
    Lost,
    /// SPDK will never take this command; its errno.
    Invalid(i32),
}

struct Slot<T> {
    buffer: Option<DmaBuffer>,
    context: T,
}

/// Where the callback leaves the end of one command. It does no more than that.
struct Mark {
    place: u32,
    status: Cell<u16>,
    /// The mark that ended before this one.
    before: Cell<u32>,
    /// The mark that ended last: one cell for all marks of a queue pair.
    last: Rc<Cell<u32>>,
}

/// A queue pair for one thread at a time. A buffer that was submitted belongs to it until `poll` gives it back;
/// dropping it waits for all, or until the controller is given up.
pub struct QueuePair<T> {
    /// None when the controller was lost.
    pair: Option<NonNull<spdk_nvme_qpair>>,
    controller: Arc<Controller>,
    slots: Vec<Option<Slot<T>>>,
    free: Vec<u32>,
    marks: Rc<[Mark]>,
    last: Rc<Cell<u32>>,
    /// Something was submitted and its doorbell not rung.
    doorbell: bool,
}

// SAFETY: SPDK asks that a queue pair be used by one thread at a time, and binds it to none; `&mut self` keeps that.
// The marks and their cell are reached by this value alone, and by callbacks within its own calls.
unsafe impl<T: Send> Send for QueuePair<T> {}

impl<T> QueuePair<T> {
    /// A queue pair for as many as `entries` commands at once. Blocks while the controller makes it.
    ///
    /// # Errors
    /// The controller has no queue pair left, or is gone; no memory.
    pub fn new(controller: &Arc<Controller>, entries: u32) -> std::io::Result<QueuePair<T>> {
        let mut options = bindings::spdk_nvme_io_qpair_opts::default();
        let bytes = size_of::<bindings::spdk_nvme_io_qpair_opts>();
        // SAFETY: an attached controller, a whole structure and its size.
        unsafe {
            bindings::spdk_nvme_ctrlr_get_default_io_qpair_opts(
                controller.controller(),
                ptr::from_mut(&mut options),
                bytes,
            );
        }
        // One doorbell for all that a turn submits.
        options.__bindgen_anon_1.delay_cmd_submit = true;
        // SAFETY: as above.
        let pair = unsafe {
            bindings::spdk_nvme_ctrlr_alloc_io_qpair(controller.controller(), ptr::from_ref(&options), bytes)
        };
        let pair = NonNull::new(pair)
            .ok_or_else(|| std::io::Error::other("the controller has no queue pair left, or is gone"))?;
        let last = Rc::new(Cell::new(NO_PLACE));
        let mark = |place| Mark { place, status: Cell::new(0), before: Cell::new(NO_PLACE), last: Rc::clone(&last) };
        Ok(QueuePair {
            pair: Some(pair),
            controller: Arc::clone(controller),
            slots: (0..entries).map(|_| None).collect(),
            free: (0..entries).rev().collect(),
            marks: (0..entries).map(mark).collect(),
            last,
            doorbell: false,
        })
    }

    /// Commands under way, and those that ended and were not polled.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        u32::try_from(self.slots.len() - self.free.len()).unwrap_or(u32::MAX)
    }

    /// Queues a transfer of `blocks` between the beginning of `buffer` and `block` of the namespace. `kick` starts it.
    ///
    /// # Errors
    /// Buffer and context come back when the command was not taken.
    ///
    /// # Panics
    /// When the buffer is not SPDK's, or shorter than what is transferred.
    pub fn submit(
        &mut self,
        command: Command,
        block: u64,
        blocks: u32,
        mut buffer: DmaBuffer,
        context: T,
    ) -> Result<(), Refused<T>> {
        if command == Command::Deallocate {
            return self.deallocate(block, blocks, buffer, context);
        }
        let bytes = blocks as usize * self.controller.identity().block_bytes as usize;
        assert!(bytes <= buffer.len(), "a transfer of {bytes} B from a buffer of {} B", buffer.len());
        assert!(buffer.is_from_spdk(), "a controller can reach only SPDK's memory");
        let payload: *mut c_void = buffer.as_mut_ptr().cast();
        let flags = if command == Command::WriteThrough { bindings::SPDK_NVME_IO_FLAGS_FORCE_UNIT_ACCESS } else { 0 };
        self.start(Some(buffer), context, |namespace, pair, argument| {
            let callback: spdk_nvme_cmd_cb = Some(ended);
            if command == Command::Read {
                // SAFETY: see `start`; the payload has room for so many blocks, which was asserted.
                unsafe { spdk_nvme_ns_cmd_read(namespace, pair, payload, block, blocks, callback, argument, flags) }
            } else {
                // SAFETY: as above.
                unsafe { spdk_nvme_ns_cmd_write(namespace, pair, payload, block, blocks, callback, argument, flags) }
            }
        })
    }

    fn deallocate(&mut self, block: u64, blocks: u32, buffer: DmaBuffer, context: T) -> Result<(), Refused<T>> {
        let range = spdk_nvme_dsm_range { starting_lba: block, length: blocks, ..spdk_nvme_dsm_range::default() };
        self.start(Some(buffer), context, |namespace, pair, argument| {
            let (ranges, callback): (_, spdk_nvme_cmd_cb) = (ptr::from_ref(&range), Some(ended));
            // SAFETY: see `start`; SPDK copies the one range, which lives through the call, before it returns.
            unsafe { spdk_nvme_ns_cmd_dataset_management(namespace, pair, DEALLOCATE, ranges, 1, callback, argument) }
        })
    }

    /// Queues a flush: every write that ended before this call is durable when it ends.
    ///
    /// # Errors
    /// The context comes back when the command was not taken.
    pub fn flush(&mut self, context: T) -> Result<(), Refused<T>> {
        self.start(None, context, |namespace, pair, argument| {
            // SAFETY: see `start`.
            unsafe { bindings::spdk_nvme_ns_cmd_flush(namespace, pair, Some(ended), argument) }
        })
    }

    /// Puts a command into a slot and calls SPDK with the namespace, the queue pair, and the argument of the callback:
    /// a mark, which outlives the queue pair. The buffer stays in its slot until SPDK has called back.
    fn start(
        &mut self,
        buffer: Option<DmaBuffer>,
        context: T,
        call: impl FnOnce(*mut bindings::spdk_nvme_ns, *mut spdk_nvme_qpair, *mut c_void) -> i32,
    ) -> Result<(), Refused<T>> {
        let Some(pair) = self.pair.filter(|_| !self.controller.is_lost()) else {
            return Err(Refused { buffer, context, refusal: Refusal::Lost });
        };
        let Some(place) = self.free.pop() else {
            return Err(Refused { buffer, context, refusal: Refusal::Full });
        };
        self.slots[place as usize] = Some(Slot { buffer, context });
        let argument = ptr::from_ref(&self.marks[place as usize]).cast_mut().cast();
        let refusal = match call(self.controller.namespace(), pair.as_ptr(), argument) {
            0 => {
                self.doorbell = true;
                return Ok(());
            }
            error if error == -libc::ENOMEM => Refusal::Full,
            error if error == -libc::ENXIO => Refusal::Lost,
            error => Refusal::Invalid(error.saturating_neg()),
        };
        let Slot { buffer, context } = self.slots[place as usize].take().expect("the slot was filled above");
        self.free.push(place);
        Err(Refused { buffer, context, refusal })
    }

    /// Rings the doorbell for all that was submitted since the last call.
    pub fn kick(&mut self) {
        if self.doorbell {
            self.process();
        }
    }

    /// One command that ended. No system call on PCIe and vfio-user; one on TCP.
    pub fn poll(&mut self) -> Option<Ended<T>> {
        if let Some(ended) = self.take() {
            return Some(ended);
        }
        if self.in_flight() == 0 {
            return None;
        }
        self.process();
        self.take()
    }

    fn take(&mut self) -> Option<Ended<T>> {
        let place = self.last.get();
        let mark = self.marks.get(place as usize)?;
        self.last.set(mark.before.get());
        let Slot { buffer, context } = self.slots[place as usize].take().expect("a command ends once");
        self.free.push(place);
        Some(Ended { buffer, context, status: Status(mark.status.get()) })
    }

    /// Lets SPDK ring the doorbell and call back for what has ended.
    fn process(&mut self) {
        let Some(pair) = self.pair else { return };
        self.doorbell = false;
        // SAFETY: a queue pair that was made and not freed, used by this thread alone.
        let processed = unsafe { bindings::spdk_nvme_qpair_process_completions(pair.as_ptr(), 0) };
        if processed < 0 || self.controller.is_lost() {
            self.give_up();
        }
    }

    /// Ends everything under way with an error. A controller that is dead on PCIe or vfio-user never errs by itself, and
    /// a queue pair of it takes half a minute to free unless SPDK was told so first.
    fn give_up(&mut self) {
        if self.controller.is_lost() {
            self.controller.fail();
        }
        self.free_pair();
    }

    fn free_pair(&mut self) {
        let Some(pair) = self.pair.take() else { return };
        // SAFETY: made and not freed before, used by this thread alone, and not from within a callback.
        unsafe { bindings::spdk_nvme_ctrlr_free_io_qpair(pair.as_ptr()) };
        let mut ended = self.free.len();
        let mut place = self.last.get();
        while let Some(mark) = self.marks.get(place as usize) {
            place = mark.before.get();
            ended += 1;
        }
        if ended != self.slots.len() {
            // SPDK would still write to memory that is given back, and call back into marks that are gone.
            eprintln!("SPDK freed a queue pair without ending what was under way");
            std::process::abort();
        }
    }
}

impl<T> Drop for QueuePair<T> {
    fn drop(&mut self) {
        while self.pair.is_some() && self.in_flight() > 0 {
            self.poll();
            std::hint::spin_loop();
        }
        if self.controller.is_lost() {
            self.controller.fail();
        }
        self.free_pair();
    }
}

/// Called by SPDK when a command ends, within a call on its queue pair.
unsafe extern "C" fn ended(argument: *mut c_void, completion: *const spdk_nvme_cpl) {
    // SAFETY: the mark that `start` gave; it is kept alive by the queue pair, which is being called.
    let mark: &Mark = unsafe { &*argument.cast::<Mark>() };
    // SAFETY: SPDK passes a completion that it owns during the call.
    let completion: &spdk_nvme_cpl = unsafe { &*completion };
    // SAFETY: both members of the union are the same 16 bits.
    let status = unsafe { completion.__bindgen_anon_1.status_raw };
    mark.status.set(status);
    mark.before.set(mark.last.replace(mark.place));
}
