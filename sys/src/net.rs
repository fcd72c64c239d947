//! Unix sockets that carry descriptors, wake-ups between threads and processes, and waiting for both.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::epoll;
use rustix::event::{EventfdFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
};

pub use rustix::event::{PollFd, PollFlags};

/// Most descriptors that one message can carry (the kernel's SCM_MAX_FD).
pub const DESCRIPTORS_MAX: usize = 253;

/// Who is at the other end of a socket: as the kernel saw it at `connect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// 0: in a pid namespace that this one does not see.
    pub pid: i32,
    pub uid: u32,
    /// The primary group alone.
    pub gid: u32,
}

/// A message as it came.
#[derive(Debug)]
pub struct Message {
    pub bytes: usize,
    /// All are close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// One end of a Unix `SOCK_SEQPACKET` connection: messages keep their bounds, and none is ever half there.
/// No call blocks, whatever the peer does: `WouldBlock` says that it would have.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Two connected ends.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn pair() -> io::Result<(Socket, Socket)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Socket(a), Socket(b)))
    }

    /// Connects; blocks for at most `timeout` while the listener's queue is full.
    ///
    /// # Errors
    /// What the kernel answers; `WouldBlock` when the time is over.
    pub fn connect(path: &Path, timeout: Duration) -> io::Result<Socket> {
        let address = SocketAddrUnix::new(path)?;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Send, Some(timeout))?;
        rustix::net::connect(&socket, &address)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Socket(socket))
    }

    /// Sends one message.
    ///
    /// # Errors
    /// `WouldBlock` when the peer's queue is full, `BrokenPipe` when it is gone; else what the kernel answers.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if descriptors.is_empty() {
            rustix::net::send(&self.0, bytes, flags)?;
            return Ok(());
        }
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(descriptors.len()))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if descriptors.len() > DESCRIPTORS_MAX || !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
        }
        rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, flags)?;
        Ok(())
    }

    /// Receives one message; 0 bytes: the peer hung up. Descriptors in it are closed unseen.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; else what the kernel answers.
    pub fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        let (bytes, _) = rustix::net::recv(&self.0, into, RecvFlags::DONTWAIT)?;
        Ok(bytes)
    }

    /// Receives one message with up to `descriptors_max` descriptors; 0 bytes: the peer hung up.
    ///
    /// # Errors
    /// `WouldBlock` when there is none, `InvalidData` when it was longer or carried more; else what the kernel answers.
    pub fn receive_with_descriptors(&self, into: &mut [u8], descriptors_max: usize) -> io::Result<Message> {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(descriptors_max))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(into)], &mut control, flags)?;
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message was longer than the protocol allows"));
        }
        Ok(Message { bytes: received.bytes, descriptors })
    }

    /// # Errors
    /// What the kernel answers.
    pub fn peer(&self) -> io::Result<Peer> {
        // Not through rustix: its process number cannot be 0, and a peer in another pid namespace has no other.
        let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
        let mut bytes = libc::socklen_t::try_from(size_of_val(&credentials)).expect("a few bytes");
        let to = (&raw mut credentials).cast();
        // SAFETY: the descriptor is open, `to` points at `bytes` writable bytes, and any bytes make a valid ucred.
        let result =
            unsafe { libc::getsockopt(self.0.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, to, &raw mut bytes) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Peer { pid: credentials.pid, uid: credentials.uid, gid: credentials.gid })
    }

    /// Ends the connection for both sides; what was sent can still be received.
    pub fn shutdown(&self) {
        // It fails only where the connection is gone already.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Both);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A listening socket in the file system. Its file goes when it is dropped, if it is still the same file.
#[derive(Debug)]
pub struct SocketListener {
    fd: OwnedFd,
    path: PathBuf,
    file: (u64, u64),
}

impl SocketListener {
    /// Binds and listens; `mode` are the file's permissions, in force before anybody can connect.
    ///
    /// # Errors
    /// What the kernel answers; `AddrInUse` when the file exists.
    pub fn bind(path: &Path, mode: u32, backlog: i32) -> io::Result<SocketListener> {
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::bind(&fd, &address)?;
        let metadata = std::fs::symlink_metadata(path)?;
        let listener = SocketListener { fd, path: path.to_owned(), file: (metadata.dev(), metadata.ino()) };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        rustix::net::listen(&listener.fd, backlog)?;
        Ok(listener)
    }

    /// Takes one connection.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; else what the kernel answers.
    pub fn accept(&self) -> io::Result<Socket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(Socket(rustix::net::accept_with(&self.fd, flags)?))
    }
}

impl AsFd for SocketListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SocketListener {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The user that this process runs as: what its files and sockets belong to.
#[must_use]
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// An eventfd: a wake-up that can be waited for.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// # Errors
    /// What the kernel answers.
    pub fn new() -> io::Result<EventFd> {
        Ok(EventFd(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Takes over a descriptor that somebody handed over.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> EventFd {
        EventFd(fd)
    }

    /// Another handle of the same eventfd.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn try_clone(&self) -> io::Result<EventFd> {
        Ok(EventFd(self.0.try_clone()?))
    }

    /// Wakes whoever waits. One system call.
    ///
    /// Blocks if a peer that shares it cleared `O_NONBLOCK` and filled the counter. So ring only what you share with
    /// nobody, or with a side that you trust.
    pub fn ring(&self) {
        // A full counter is a wake-up as well, and a bad descriptor wakes nobody.
        let _ = rustix::io::write(&self.0, &1u64.to_le_bytes());
    }

    /// Takes all wake-ups so far. Share it with nobody who could make it block (see `ring`).
    pub fn drain(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Blocks until one of the descriptors is ready, for at most `timeout` (`None`: for ever). The number that are ready;
/// 0 also after a signal.
///
/// # Errors
/// What the kernel answers.
pub fn wait(descriptors: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<usize> {
    let timeout = timeout.map(timespec);
    match rustix::event::poll(descriptors, timeout.as_ref()) {
        Err(Errno::INTR) => Ok(0),
        result => Ok(result?),
    }
}

/// Where a thread sleeps for many wake-ups at once. Each eventfd is edge-triggered: nobody ever reads it, so a peer that
/// shares it cannot steal a wake-up of anybody else nor make the reader block.
#[derive(Debug)]
pub struct WakeSet(OwnedFd);

impl WakeSet {
    /// # Errors
    /// What the kernel answers.
    pub fn new() -> io::Result<WakeSet> {
        Ok(WakeSet(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Adds a descriptor until all its handles are closed.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn add(&self, fd: &impl AsFd) -> io::Result<()> {
        epoll::add(&self.0, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        Ok(())
    }

    /// Takes a descriptor out while it has other handles.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn remove(&self, fd: &impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.0, fd)?)
    }

    /// Blocks until a wake-up, for at most `timeout` (`None`: for ever). May return early without one.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(timespec);
        let mut events = [MaybeUninit::uninit(); 64];
        match epoll::wait(&self.0, &mut events[..], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_bounds_and_descriptors() {
        let (a, b) = Socket::pair().unwrap();
        let (fd, map) = crate::shm::SharedMap::create_sealed(c"forebay-test", 4096).unwrap();
        let event = EventFd::new().unwrap();
        a.send(b"first", &[fd.as_fd(), event.as_fd()]).unwrap();
        a.send(b"second", &[]).unwrap();
        let mut bytes = [0u8; 16];
        let message = b.receive_with_descriptors(&mut bytes, 8).unwrap();
        assert_eq!(&bytes[..message.bytes], b"first");
        assert_eq!(message.descriptors.len(), 2);
        let other = crate::shm::SharedMap::map_sealed(&message.descriptors[0], 4096).unwrap();
        map.write(0, b"x").unwrap();
        let mut byte = [0u8];
        other.read(0, &mut byte).unwrap();
        assert_eq!(&byte, b"x");
        assert_eq!(b.receive(&mut bytes).unwrap(), 6);
        assert_eq!(b.receive(&mut bytes).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(a);
        assert_eq!(b.receive(&mut bytes).unwrap(), 0);
    }

    #[test]
    fn too_many_descriptors_are_an_error_and_none_leaks() {
        let (a, b) = Socket::pair().unwrap();
        let event = EventFd::new().unwrap();
        a.send(b"x", &[event.as_fd(); 5]).unwrap();
        let error = b.receive_with_descriptors(&mut [0u8; 4], 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(a.send(b"x", &[event.as_fd(); DESCRIPTORS_MAX + 1]).is_err());
        assert!(a.send(b"x", &[event.as_fd(); DESCRIPTORS_MAX]).is_ok());
    }

    #[test]
    fn sending_never_blocks() {
        let (a, _b) = Socket::pair().unwrap();
        let error = (0..1_000_000).find_map(|_| a.send(b"x", &[]).err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_was_sent_before_a_shutdown_arrives() {
        let (a, b) = Socket::pair().unwrap();
        a.send(b"last", &[]).unwrap();
        a.shutdown();
        let mut bytes = [0u8; 8];
        assert_eq!(b.receive(&mut bytes).unwrap(), 4);
        assert_eq!(b.receive(&mut bytes).unwrap(), 0);
    }

    #[test]
    fn a_wake_set_wakes_at_every_ring_without_reading() {
        let set = WakeSet::new().unwrap();
        let event = EventFd::new().unwrap();
        set.add(&event).unwrap();
        for _ in 0..3 {
            event.ring();
            set.wait(None).unwrap();
        }
        let start = std::time::Instant::now();
        set.wait(Some(Duration::from_millis(20))).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(19), "an old edge woke it again");
    }

    #[test]
    fn the_peer_is_who_the_kernel_says() {
        let (a, _b) = Socket::pair().unwrap();
        let peer = a.peer().unwrap();
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.pid, rustix::process::getpid().as_raw_nonzero().get());
    }
}
