//! Reads and writes.

use std::fs::File;
use std::io;

use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{cqueue, opcode, squeue};

use super::{Ended, Ring, UringOptions};
use crate::dma::DmaBuffer;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    Read,
    Write,
    /// RWF_DSYNC: durable when it completes.
    WriteDsync,
    /// Makes durable what ended before: no byte of the buffer is looked at.
    Flush,
}

/// The kernel takes at most this much in one registered buffer.
const PIECE_BYTES: usize = 1 << 30;

/// A ring for reads and writes of one file or block device. A buffer that was submitted belongs to it until `poll`
/// gives it back; dropping the ring waits for all.
pub struct Uring<T>(Ring<T, squeue::Entry, cqueue::Entry>);

impl<T> Uring<T> {
    /// A ring for as many as `entries` transfers at once. Registers the file, and the buffers where memlock allows it.
    ///
    /// # Errors
    /// What the kernel said: EPERM or ENOSYS where io_uring is switched off, ENOMEM for want of locked memory.
    pub fn new(file: File, entries: u32, options: &UringOptions<'_>) -> io::Result<Uring<T>> {
        Ok(Uring(Ring::new(file, entries, 1, PIECE_BYTES, options)?))
    }

    /// What was asked for and could not be had, for people.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.0.note.as_deref()
    }

    /// Transfers under way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.0.in_flight()
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
        let registered = self.0.span_offset(&buffer).and_then(|at| self.0.registered(at, bytes));
        let address = buffer.as_mut_ptr();
        let place = self.0.claim(buffer, context, 1)?;
        let flags = if transfer == Transfer::WriteDsync { libc::RWF_DSYNC } else { 0 };
        let entry = match (transfer, registered) {
            (Transfer::Read, Some(index)) => {
                opcode::ReadFixed::new(Fixed(0), address, bytes, index).offset(offset).build()
            }
            (Transfer::Read, None) => opcode::Read::new(Fixed(0), address, bytes).offset(offset).build(),
            (Transfer::Flush, _) => opcode::Fsync::new(Fixed(0)).flags(FsyncFlags::DATASYNC).build(),
            (_, Some(index)) => {
                opcode::WriteFixed::new(Fixed(0), address, bytes, index).offset(offset).rw_flags(flags).build()
            }
            (_, None) => opcode::Write::new(Fixed(0), address, bytes).offset(offset).rw_flags(flags).build(),
        };
        let entry = entry.user_data(u64::from(place));
        // SAFETY: the entry names `bytes` bytes of a buffer that its slot owns until its completion is reaped, and the
        // file that this ring keeps open.
        let pushed = unsafe { self.0.ring.submission().push(&entry) };
        pushed.expect("the submission queue has at least as many entries as there are slots");
        Ok(())
    }

    /// Starts all that was submitted: one system call, or none when there is nothing to start.
    pub fn kick(&mut self) {
        self.0.kick();
    }

    /// One transfer that ended, with the bytes transferred or an errno. Enters the kernel only where something waits
    /// there.
    pub fn poll(&mut self) -> Option<Ended<T>> {
        self.0.poll()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::{DmaRegion, DmaSpan, Pages};
    use crate::uring::TaskRun;
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
        let options = UringOptions { iopoll: false, task_run, span, held: None };
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
