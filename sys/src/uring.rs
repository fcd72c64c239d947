//! An io_uring on one file or block device, which owns the buffers of whatever is under way.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::types::Fixed;
use io_uring::{IoUring, opcode};

use crate::dma::{DmaBuffer, DmaSpan};

/// The kernel takes at most this much in one registered buffer.
const REGISTERED_BYTES_MAX: usize = 1 << 30;

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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    Read,
    Write,
    /// RWF_DSYNC: durable when it completes.
    WriteDsync,
}

/// A transfer that ended, with what it owned.
#[derive(Debug)]
pub struct Ended<T> {
    pub buffer: DmaBuffer,
    pub context: T,
    /// The bytes transferred, or an errno.
    pub result: Result<u32, i32>,
}

struct Slot<T> {
    buffer: DmaBuffer,
    context: T,
}

/// The ring. A buffer that was submitted belongs to it until `poll` gives it back; dropping the ring waits for all.
pub struct Uring<T> {
    ring: IoUring,
    /// The place of a transfer is its `user_data`.
    slots: Vec<Option<Slot<T>>>,
    free: Vec<u32>,
    span: Option<DmaSpan>,
    iopoll: bool,
    /// The last doorbell was not taken whole (out of memory for a moment); `poll` rings it again.
    kick_again: bool,
    note: Option<String>,
    /// Keeps the descriptor open as long as the ring may use it.
    _file: File,
}

impl<T> Uring<T> {
    /// A ring for as many as `entries` transfers at once. Registers the file, and the buffers where memlock allows it.
    ///
    /// # Errors
    /// What the kernel said: EPERM or ENOSYS where io_uring is switched off, ENOMEM for want of locked memory.
    pub fn new(file: File, entries: u32, options: &UringOptions<'_>) -> io::Result<Uring<T>> {
        let ring = build(entries, options)?;
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        let mut note = None;
        let span = options.span.filter(|span| match register(&ring, span) {
            Ok(()) => true,
            Err(error) => {
                note = Some(format!("buffers are not registered with io_uring ({error}); raise `ulimit -l`"));
                false
            }
        });
        Ok(Uring {
            ring,
            slots: (0..entries).map(|_| None).collect(),
            free: (0..entries).rev().collect(),
            span: span.cloned(),
            iopoll: options.iopoll,
            kick_again: false,
            note,
            _file: file,
        })
    }

    /// What was asked for and could not be had, for people.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Transfers under way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        let slots = self.slots.len() - self.free.len();
        u32::try_from(slots).unwrap_or(u32::MAX)
    }

    /// Queues a transfer of the first `bytes` of `buffer`, at `offset` of the file. `kick` starts it.
    ///
    /// # Errors
    /// The buffer and the context come back when `entries` transfers are under way.
    ///
    /// # Panics
    /// When `bytes` is more than the buffer has.
    pub fn submit(
        &mut self,
        transfer: Transfer,
        offset: u64,
        bytes: u32,
        mut buffer: DmaBuffer,
        context: T,
    ) -> Result<(), (DmaBuffer, T)> {
        assert!(bytes as usize <= buffer.len(), "a transfer of {bytes} B from a buffer of {} B", buffer.len());
        let Some(place) = self.free.pop() else { return Err((buffer, context)) };
        let registered = self.registered(&buffer);
        let address = buffer.as_mut_ptr();
        self.slots[place as usize] = Some(Slot { buffer, context });
        let flags = if transfer == Transfer::WriteDsync { libc::RWF_DSYNC } else { 0 };
        let entry = match (transfer, registered) {
            (Transfer::Read, Some(index)) => {
                opcode::ReadFixed::new(Fixed(0), address, bytes, index).offset(offset).build()
            }
            (Transfer::Read, None) => opcode::Read::new(Fixed(0), address, bytes).offset(offset).build(),
            (_, Some(index)) => {
                opcode::WriteFixed::new(Fixed(0), address, bytes, index).offset(offset).rw_flags(flags).build()
            }
            (_, None) => opcode::Write::new(Fixed(0), address, bytes).offset(offset).rw_flags(flags).build(),
        };
        let entry = entry.user_data(u64::from(place));
        // SAFETY: the entry names `bytes` bytes of a buffer that its slot owns until its completion is reaped, and the
        // file that this ring keeps open.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("the submission queue has at least as many entries as there are slots");
        Ok(())
    }

    /// Starts all that was submitted: one system call, or none when there is nothing to start.
    pub fn kick(&mut self) {
        self.kick_again = false;
        if !self.ring.submission().is_empty() {
            self.kick_again = !self.enter() || !self.ring.submission().is_empty();
        }
    }

    /// One transfer that ended. Enters the kernel only where something waits there.
    pub fn poll(&mut self) -> Option<Ended<T>> {
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
        let entry = self.ring.completion().next()?;
        let place = u32::try_from(entry.user_data()).expect("user_data is the place of a slot");
        let Slot { buffer, context } = self.slots[place as usize].take().expect("a slot completes once");
        self.free.push(place);
        Some(Ended { buffer, context, result: u32::try_from(entry.result()).map_err(|_| -entry.result()) })
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

    /// The registered buffer that covers `buffer` whole.
    fn registered(&self, buffer: &DmaBuffer) -> Option<u16> {
        let span = self.span.as_ref().filter(|span| buffer.is_within(span))?;
        let first = buffer.as_ptr().addr() - span.address().addr();
        let (index, last) = (first / REGISTERED_BYTES_MAX, (first + buffer.len() - 1) / REGISTERED_BYTES_MAX);
        if index == last { u16::try_from(index).ok() } else { None }
    }
}

impl<T> Drop for Uring<T> {
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

fn build(entries: u32, options: &UringOptions<'_>) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
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

fn register(ring: &IoUring, span: &DmaSpan) -> io::Result<()> {
    let pieces: Vec<libc::iovec> = (0..span.bytes())
        .step_by(REGISTERED_BYTES_MAX)
        .map(|offset| libc::iovec {
            iov_base: span.address().wrapping_add(offset).cast(),
            iov_len: REGISTERED_BYTES_MAX.min(span.bytes() - offset),
        })
        .collect();
    // SAFETY: the pieces lie inside the span's mapping, which the ring keeps mapped by its copy of the span. The kernel
    // reads and writes there only for transfers, each of which owns its buffer.
    unsafe { ring.submitter().register_buffers(&pieces) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::{DmaRegion, Pages};
    use std::path::PathBuf;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, bytes: u64) -> (Scratch, File) {
            let path = std::env::temp_dir().join(format!("forebay-uring-{name}-{}", std::process::id()));
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
            file.set_len(bytes).unwrap();
            (Scratch(path), file)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn ring(file: &File, entries: u32, task_run: TaskRun, span: Option<&DmaSpan>) -> Option<Uring<usize>> {
        let options = UringOptions { iopoll: false, task_run, span };
        match Uring::new(file.try_clone().unwrap(), entries, &options) {
            Ok(ring) => Some(ring),
            Err(error) => {
                eprintln!("skipped: io_uring is refused here: {error}");
                None
            }
        }
    }

    fn wait(ring: &mut Uring<usize>) -> Ended<usize> {
        loop {
            if let Some(ended) = ring.poll() {
                return ended;
            }
        }
    }

    #[test]
    fn every_way_to_run_completions_writes_and_reads_back_registered_or_not() {
        for task_run in [TaskRun::Interrupt, TaskRun::Cooperative, TaskRun::Deferred] {
            for registered in [false, true] {
                let (_scratch, file) = Scratch::new(&format!("{task_run:?}-{registered}"), 1 << 16);
                let region = DmaRegion::allocate(3 * 4096, Pages::Ordinary).unwrap();
                let span = region.span();
                let mut buffers = region.split(4096);
                let Some(mut ring) = ring(&file, 2, task_run, registered.then_some(&span)) else { return };
                let mut buffer = buffers.pop().unwrap();
                buffer.fill(0x5a);
                ring.submit(Transfer::WriteDsync, 8192, 4096, buffer, 7).unwrap();
                ring.kick();
                let written = wait(&mut ring);
                assert_eq!((written.result, written.context, ring.in_flight()), (Ok(4096), 7, 0));
                ring.submit(Transfer::Read, 8192, 4096, buffers.pop().unwrap(), 8).unwrap();
                ring.kick();
                let read = wait(&mut ring);
                assert_eq!((read.result, read.context), (Ok(4096), 8));
                assert_eq!(read.buffer[..], written.buffer[..]);
            }
        }
    }

    #[test]
    fn a_full_ring_gives_the_buffer_back() {
        let (_scratch, file) = Scratch::new("full", 1 << 16);
        let mut buffers = DmaRegion::allocate(4 * 4096, Pages::Ordinary).unwrap().split(4096);
        let Some(mut ring) = ring(&file, 2, TaskRun::Cooperative, None) else { return };
        for context in 0..2 {
            ring.submit(Transfer::Read, 0, 4096, buffers.pop().unwrap(), context).unwrap();
        }
        let (buffer, context) = ring.submit(Transfer::Read, 0, 4096, buffers.pop().unwrap(), 9).unwrap_err();
        assert_eq!((buffer.index(), context, ring.in_flight()), (1, 9, 2));
        ring.kick();
        wait(&mut ring);
        ring.submit(Transfer::Read, 0, 4096, buffer, 9).unwrap();
    }

    #[test]
    fn failures_and_short_reads_are_told_apart() {
        let (scratch, file) = Scratch::new("failures", 4096 + 100);
        let mut buffers = DmaRegion::allocate(4 * 4096, Pages::Ordinary).unwrap().split(4096);
        let Some(mut short) = ring(&file, 2, TaskRun::Cooperative, None) else { return };
        short.submit(Transfer::Read, 4096, 4096, buffers.pop().unwrap(), 0).unwrap();
        short.kick();
        assert_eq!(wait(&mut short).result, Ok(100));
        let read_only = File::open(&scratch.0).unwrap();
        let mut refused = ring(&read_only, 2, TaskRun::Cooperative, None).unwrap();
        refused.submit(Transfer::Write, 0, 4096, buffers.pop().unwrap(), 0).unwrap();
        refused.kick();
        assert_eq!(wait(&mut refused).result, Err(libc::EBADF));
    }

    #[test]
    fn dropping_a_ring_waits_for_what_is_under_way() {
        let (scratch, file) = Scratch::new("drop", 0);
        let region = DmaRegion::allocate(32 << 16, Pages::Ordinary).unwrap();
        let span = region.span();
        let Some(mut ring) = ring(&file, 32, TaskRun::Cooperative, Some(&span)) else { return };
        for (i, mut buffer) in region.split(1 << 16).into_iter().enumerate() {
            buffer.fill(u8::try_from(i + 1).unwrap());
            ring.submit(Transfer::WriteDsync, (i as u64) << 16, 1 << 16, buffer, i).unwrap();
        }
        ring.kick();
        drop(ring);
        let bytes = std::fs::read(&scratch.0).unwrap();
        assert_eq!(bytes.len(), 32 << 16);
        for (i, piece) in bytes.chunks(1 << 16).enumerate() {
            assert!(piece.iter().all(|b| usize::from(*b) == i + 1), "write {i} was not over");
        }
    }
}
