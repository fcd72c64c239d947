//! NVMe commands to a namespace that the kernel owns, through its generic character device `/dev/ngXnY`: admin
//! commands by ioctl, I/O commands by `IORING_OP_URING_CMD` (Linux 5.19, linux/nvme_ioctl.h; Joshi et al., "I/O
//! Passthru", FAST '24).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::types::Fixed;
use io_uring::{cqueue, opcode, squeue};

use super::{Ended, Ring, UringOptions};
use crate::dma::DmaBuffer;

/// `struct nvme_passthru_cmd` and `struct nvme_uring_cmd` of linux/nvme_ioctl.h, which differ in their last word only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct KernelCommand {
    opcode: u8,
    flags: u8,
    rsvd1: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    /// Admin: what the controller answered in dword 0. I/O: reserved.
    result: u32,
}

const COMMAND_BYTES: usize = 72;
const _: () = assert!(size_of::<KernelCommand>() == COMMAND_BYTES);

/// `_IO('N', 0x40)`
const NVME_IOCTL_ID: libc::Ioctl = 0x4e40;
/// `_IOWR('N', 0x41, struct nvme_passthru_cmd)`
const NVME_IOCTL_ADMIN_CMD: libc::Ioctl = 0xc048_4e41;
/// `_IOWR('N', 0x80, struct nvme_uring_cmd)`
const NVME_URING_CMD_IO: u32 = 0xc048_4e80;

/// Buffers are registered in pieces of this size. Kernels before 6.8 count the segments of a command from its start to
/// the end of the registered piece, and refuse more than the drive takes, often 127: 64 pages are few enough.
pub const PIECE_BYTES: u32 = 256 << 10;

/// A command as the NVMe base specification numbers its dwords. Data pointer and length are added when it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NvmeCommand {
    pub opcode: u8,
    pub nsid: u32,
    pub cdw10: u32,
    pub cdw11: u32,
    pub cdw12: u32,
}

impl NvmeCommand {
    fn kernel(self, addr: u64, data_len: u32, timeout_ms: u32) -> KernelCommand {
        let NvmeCommand { opcode, nsid, cdw10, cdw11, cdw12 } = self;
        KernelCommand { opcode, nsid, cdw10, cdw11, cdw12, addr, data_len, timeout_ms, ..KernelCommand::default() }
    }
}

/// The number of the namespace behind a generic device.
///
/// # Errors
/// ENOTTY when it is no NVMe device.
pub fn namespace_id(device: &File) -> io::Result<u32> {
    // SAFETY: this request takes no argument and only answers a number.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), NVME_IOCTL_ID) };
    u32::try_from(answer).map_err(|_| io::Error::last_os_error())
}

/// Sends an admin command that reads into `data` (or nothing), and gives dword 0 of its completion. Blocks.
///
/// # Errors
/// What the kernel says (EACCES where this command is only root's), or the NVMe status as `Ok(Err(status))`.
pub fn admin_read(device: &File, command: NvmeCommand, data: &mut [u8]) -> io::Result<Result<u32, u16>> {
    const TIMEOUT_MS: u32 = 10_000;
    let data_len = u32::try_from(data.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut command = command.kernel(data.as_mut_ptr() as u64, data_len, TIMEOUT_MS);
    let argument = std::ptr::from_mut(&mut command);
    // SAFETY: the argument is a whole `nvme_passthru_cmd`; the kernel copies at most `data_len` bytes to `data`, which
    // is borrowed mutably for the length of the call.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), NVME_IOCTL_ADMIN_CMD, argument) };
    match u16::try_from(answer) {
        Ok(0) => Ok(Ok(command.result)),
        Ok(status) => Ok(Err(status)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// One command of an operation: a part of its buffer.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub command: NvmeCommand,
    pub offset: usize,
    pub bytes: u32,
}

/// A ring for I/O commands to one namespace. A buffer that was submitted belongs to it until `poll` gives it back;
/// dropping the ring waits for all.
pub struct NvmeUring<T> {
    ring: Ring<T, squeue::Entry128, cqueue::Entry32>,
    parts_max: u32,
}

impl<T> NvmeUring<T> {
    /// A ring for as many as `operations` at once, each of up to `parts_max` commands, to the namespace behind
    /// `device`, a `/dev/ngXnY`.
    ///
    /// # Errors
    /// What the kernel said: EINVAL before Linux 5.19, ENOMEM for want of locked memory.
    pub fn new(device: File, operations: u32, parts_max: u32, options: &UringOptions<'_>) -> io::Result<NvmeUring<T>> {
        Ok(NvmeUring { ring: Ring::new(device, operations, parts_max, PIECE_BYTES as usize, options)?, parts_max })
    }

    /// What was asked for and could not be had, for people.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.ring.note.as_deref()
    }

    /// Operations under way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.ring.in_flight()
    }

    /// Queues an operation. `kick` starts it. It has ended when all its parts have.
    ///
    /// # Errors
    /// The buffer and the context come back when as many as `operations` are under way.
    ///
    /// # Panics
    /// Without parts, with more than `parts_max`, or with one that lies outside the buffer.
    pub fn submit(
        &mut self,
        parts: impl ExactSizeIterator<Item = Part>,
        mut buffer: DmaBuffer,
        context: T,
    ) -> Result<(), (DmaBuffer, T)> {
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        assert!((1..=self.parts_max).contains(&count), "an operation of {count} commands");
        let (address, buffer_bytes) = (buffer.as_mut_ptr() as u64, buffer.len());
        let span_offset = self.ring.span_offset(&buffer);
        let place = self.ring.claim(buffer, context, count)?;
        let mut pushed = 0;
        for Part { command, offset, bytes } in parts.take(count as usize) {
            let end = offset.checked_add(bytes as usize);
            assert!(end.is_some_and(|end| end <= buffer_bytes), "{bytes} B at {offset} of {buffer_bytes} B");
            let registered = span_offset.and_then(|at| self.ring.registered(at + offset, bytes));
            let entry = opcode::UringCmd80::new(Fixed(0), NVME_URING_CMD_IO)
                .cmd(command.kernel(address + offset as u64, bytes, 0).bytes())
                .buf_index(registered)
                .build()
                .user_data(u64::from(place));
            // SAFETY: the entry names `bytes` bytes of a buffer that its slot owns until all its commands are reaped,
            // and the device that this ring keeps open.
            let done = unsafe { self.ring.ring.submission().push(&entry) };
            done.expect("the submission queue has `parts_max` entries for each slot");
            pushed += 1;
        }
        assert_eq!(pushed, count, "an iterator gave another number of parts than it said");
        Ok(())
    }

    /// Starts all that was submitted: one system call, or none when there is nothing to start.
    pub fn kick(&mut self) {
        self.ring.kick();
    }

    /// One operation that ended. Its result: 0, or the first NVMe status that is not, or
    /// an errno.
    pub fn poll(&mut self) -> Option<Ended<T>> {
        self.ring.poll()
    }
}

impl KernelCommand {
    /// As the 80 bytes of a large submission entry.
    fn bytes(self) -> [u8; 80] {
        let mut out = [0; 80];
        // SAFETY: 72 bytes without padding are read, and any 72 bytes are a value of the array's type.
        let bytes: [u8; COMMAND_BYTES] = unsafe { std::mem::transmute(self) };
        out[..COMMAND_BYTES].copy_from_slice(&bytes);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_the_kernels_layout() {
        let command = NvmeCommand { opcode: 1, nsid: 2, cdw10: 10, cdw11: 11, cdw12: 12 };
        let bytes = command.kernel(0x1122_3344_5566_7788, 4096, 7).bytes();
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        assert_eq!((bytes[0], word(4), word(24), word(28)), (1, 2, 0x5566_7788, 0x1122_3344));
        assert_eq!((word(36), word(40), word(44), word(48), word(64)), (4096, 10, 11, 12, 7));
        assert!(bytes[68..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_is_no_nvme_device_says_so() {
        let file = File::open("/dev/null").unwrap();
        assert_eq!(namespace_id(&file).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert!(admin_read(&file, NvmeCommand::default(), &mut [0; 16]).is_err());
    }
}
