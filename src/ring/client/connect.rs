//! The handshake, seen from the client.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_sys::net::{EventFd, Message, PollFd, PollFlags, Socket, wait};
use forebay_sys::shm::SharedMap;

use crate::ring::protocol::{self, REACTORS_MAX, hello, order, to_usize, welcome};

use super::{Client, ClientError, ClientParts};

/// What to ask the daemon for; 0 leaves the choice to it.
#[derive(Clone, Copy, Debug)]
pub struct ConnectOptions {
    /// Of each submission ring, a power of two.
    pub sq_entries: u32,
    /// Of each completion ring, a power of two: the most requests outstanding on one reactor.
    pub cq_entries: u32,
    /// For keys, values and replies of all requests outstanding.
    pub arena_bytes: u64,
    /// How long blocking waits poll before they sleep.
    pub spin: Duration,
    /// For the handshake.
    pub timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        ConnectOptions {
            sq_entries: 0,
            cq_entries: 0,
            arena_bytes: 0,
            spin: Duration::from_micros(50),
            timeout: Duration::from_secs(5),
        }
    }
}

impl Client {
    /// Connects to the daemon that listens on `socket`. Blocks for at most about `options.timeout`.
    ///
    /// # Errors
    /// `NoDaemon`, `Refused` with the daemon's words, `TimedOut`, `Broken`.
    pub fn connect(socket: &Path, options: &ConnectOptions) -> Result<Client, ClientError> {
        let (connection, bytes, message) = exchange(socket, &hello_message(options), options.timeout)?;
        let parts = accept(&bytes[..message.bytes], message, connection)?;
        Client::from_parts(parts, options.spin)
    }
}

/// Tells the daemon that listens on `socket` to take its drive back: at `path`, or where it was. Gives its words. Blocks
/// until it has, which takes as long as a recovery.
///
/// # Errors
/// `NoDaemon`, `Refused` with the daemon's words, `TimedOut`, `Broken`.
pub fn resume(socket: &Path, path: Option<&Path>, timeout: Duration) -> Result<String, ClientError> {
    let mut order = vec![0; order::PATH];
    put(&mut order, order::MAGIC, &order::MAGIC_VALUE.to_le_bytes());
    put(&mut order, order::VERSION, &protocol::VERSION.to_le_bytes());
    put(&mut order, order::VERB, &order::RESUME.to_le_bytes());
    order.extend_from_slice(path.map_or(&[], |path| path.as_os_str().as_bytes()));
    let (_, bytes, message) = exchange(socket, &order, timeout)?;
    Ok(words(answered(&bytes[..message.bytes])?))
}

/// Sends the first message of a connection and waits for the daemon's answer.
fn exchange(
    socket: &Path,
    first: &[u8],
    timeout: Duration,
) -> Result<(Socket, [u8; welcome::BYTES], Message), ClientError> {
    let deadline = Instant::now() + timeout;
    let timed_out = || ClientError::TimedOut { socket: socket.to_owned() };
    let connection = Socket::connect(socket, timeout).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => timed_out(),
        _ => ClientError::NoDaemon { socket: socket.to_owned(), error },
    })?;
    match connection.send(first, &[]) {
        // A daemon that refused at once has hung up already; its words are still there.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        result => result?,
    }
    let mut bytes = [0u8; welcome::BYTES];
    loop {
        match connection.receive_with_descriptors(&mut bytes, 1 + REACTORS_MAX as usize) {
            Ok(message) if message.bytes == 0 => return Err(ClientError::Disconnected),
            Ok(message) => return Ok((connection, bytes, message)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // It hung up with our message unread; what it sent comes after this.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => continue,
            Err(error) => return Err(error.into()),
        }
        let left = deadline.checked_duration_since(Instant::now()).ok_or_else(timed_out)?;
        wait(&mut [PollFd::new(&connection, PollFlags::IN)], Some(left))?;
    }
}

fn hello_message(options: &ConnectOptions) -> [u8; hello::BYTES] {
    let mut bytes = [0u8; hello::BYTES];
    put(&mut bytes, hello::MAGIC, &protocol::MAGIC.to_le_bytes());
    put(&mut bytes, hello::VERSION, &protocol::VERSION.to_le_bytes());
    put(&mut bytes, hello::SQ_ENTRIES, &options.sq_entries.to_le_bytes());
    put(&mut bytes, hello::CQ_ENTRIES, &options.cq_entries.to_le_bytes());
    put(&mut bytes, hello::ARENA_BYTES, &options.arena_bytes.to_le_bytes());
    bytes
}

fn put(message: &mut [u8], at: usize, field: &[u8]) {
    message[at..at + field.len()].copy_from_slice(field);
}

fn half(bytes: &[u8; welcome::BYTES], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn word(bytes: &[u8; welcome::BYTES], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The daemon's words in an answer.
fn words(bytes: &[u8; welcome::BYTES]) -> String {
    let text: Vec<u8> =
        bytes[welcome::TEXT..].iter().take(half(bytes, welcome::TEXT_BYTES) as usize).copied().collect();
    String::from_utf8_lossy(&text).into_owned()
}

/// An answer that is no refusal, and from a daemon of this version.
fn answered(bytes: &[u8]) -> Result<&[u8; welcome::BYTES], ClientError> {
    let broken = |what: &str| ClientError::Broken(what.into());
    let bytes: &[u8; welcome::BYTES] = bytes.try_into().map_err(|_| broken("its answer has the wrong length"))?;
    if word(bytes, welcome::MAGIC) != protocol::MAGIC {
        return Err(broken("its answer has another magic than FBRING01; is it a Forebay daemon?"));
    }
    if half(bytes, welcome::STATUS) != welcome::WELCOME {
        return Err(ClientError::Refused(words(bytes)));
    }
    let version = half(bytes, welcome::VERSION);
    if version != protocol::VERSION {
        return Err(ClientError::Broken(format!("it speaks version {version}, this client {}", protocol::VERSION)));
    }
    Ok(bytes)
}

/// Checks the daemon's answer and takes what came with it.
fn accept(bytes: &[u8], message: Message, connection: Socket) -> Result<ClientParts, ClientError> {
    let broken = |what: &str| ClientError::Broken(what.into());
    let bytes = answered(bytes)?;
    let mut descriptors = message.descriptors.into_iter();
    let segment = descriptors.next().ok_or_else(|| broken("its welcome carries no segment"))?;
    let doorbells: Vec<EventFd> = descriptors.map(EventFd::from_fd).collect();
    if doorbells.len() != half(bytes, welcome::REACTORS) as usize {
        return Err(broken("its welcome does not carry an eventfd a reactor"));
    }
    let map = Arc::new(SharedMap::map_sealed(&segment, to_usize(word(bytes, welcome::SEGMENT_BYTES)))?);
    Ok(ClientParts { map, connection, doorbells })
}
