//! The handshake, seen from the client.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_sys::net::{EventFd, Message, PollFd, PollFlags, Socket, wait};
use forebay_sys::shm::SharedMap;

use crate::ring::protocol::{self, REACTORS_MAX, hello, to_usize, welcome};

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
        let deadline = Instant::now() + options.timeout;
        let timed_out = || ClientError::TimedOut { socket: socket.to_owned() };
        let connection = Socket::connect(socket, options.timeout).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => timed_out(),
            _ => ClientError::NoDaemon { socket: socket.to_owned(), error },
        })?;
        match connection.send(&hello_message(options), &[]) {
            // A daemon that refused at once has hung up already; its words are still there.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            result => result?,
        }
        let mut bytes = [0u8; welcome::BYTES];
        loop {
            match connection.receive_with_descriptors(&mut bytes, 1 + REACTORS_MAX as usize) {
                Ok(message) if message.bytes == 0 => return Err(ClientError::Disconnected),
                Ok(message) => {
                    let parts = accept(&bytes[..message.bytes], message, connection)?;
                    return Client::from_parts(parts, options.spin);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // It hung up with our message unread; what it sent comes after this.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => continue,
                Err(error) => return Err(error.into()),
            }
            let left = deadline.checked_duration_since(Instant::now()).ok_or_else(timed_out)?;
            wait(&mut [PollFd::new(&connection, PollFlags::IN)], Some(left))?;
        }
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

/// Checks the daemon's answer and takes what came with it.
fn accept(bytes: &[u8], message: Message, connection: Socket) -> Result<ClientParts, ClientError> {
    let broken = |what: &str| ClientError::Broken(what.into());
    let bytes: &[u8; welcome::BYTES] = bytes.try_into().map_err(|_| broken("its answer has the wrong length"))?;
    let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    if word(welcome::MAGIC) != protocol::MAGIC {
        return Err(broken("its answer has another magic than FBRING01; is it a Forebay daemon?"));
    }
    if half(welcome::STATUS) != welcome::WELCOME {
        let text = bytes[welcome::TEXT..].iter().take(half(welcome::TEXT_BYTES) as usize).copied().collect::<Vec<u8>>();
        return Err(ClientError::Refused(String::from_utf8_lossy(&text).into_owned()));
    }
    let version = half(welcome::VERSION);
    if version != protocol::VERSION {
        return Err(ClientError::Broken(format!("it speaks version {version}, this client {}", protocol::VERSION)));
    }
    let mut descriptors = message.descriptors.into_iter();
    let segment = descriptors.next().ok_or_else(|| broken("its welcome carries no segment"))?;
    let doorbells: Vec<EventFd> = descriptors.map(EventFd::from_fd).collect();
    if doorbells.len() != half(welcome::REACTORS) as usize {
        return Err(broken("its welcome does not carry an eventfd a reactor"));
    }
    let map = Arc::new(SharedMap::map_sealed(&segment, to_usize(word(welcome::SEGMENT_BYTES)))?);
    Ok(ClientParts { map, connection, doorbells })
}
