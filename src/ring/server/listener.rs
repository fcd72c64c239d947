//! The thread that takes connections, shakes hands, and notices who hung up. Nothing that a peer does or leaves undone
//! makes it wait.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use forebay_sys::net::{EventFd, PollFd, PollFlags, Socket, SocketListener, own_uid, wait};
use tracing::{debug, info, warn};

use crate::error::{Error, Result};
use crate::ring::protocol::{self, hello, welcome};
use crate::ring::segment::Shape;

use super::handshake::{Access, Session, answer_message, shape_wanted};
use super::mailbox::{Control, Mailbox};
use super::order::{self, Ordered};
use super::session::{Rights, SessionId};

/// How long a peer may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections that have not yet said hello. More wait in the kernel's queue.
const PENDING_MAX: usize = 64;
const BACKLOG: i32 = 1_024;
/// The pause after the kernel had nothing left to give, and between two attempts at a full mailbox.
const RETRY: Duration = Duration::from_millis(20);

#[derive(Clone, Debug)]
pub struct ListenerOptions {
    pub socket: PathBuf,
    /// Permissions of the socket's file, such as 0o600.
    pub mode: u32,
    pub access: Access,
    /// Clients at once, those included that are gone but still have operations in flight.
    pub sessions_max: usize,
    /// What a client gets that asks for nothing else.
    pub offer: Shape,
    pub arena_bytes_max: u64,
    /// Who carries orders out; `None`: they are refused.
    pub orders: Option<Sender<Ordered>>,
}

/// The listening thread. Stops, and removes its socket, when dropped.
#[derive(Debug)]
pub struct Listener {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Stop {
    asked: AtomicBool,
    hang_up: AtomicBool,
    bell: EventFd,
}

impl Listener {
    /// Binds the socket and starts the thread. A stale socket is taken over.
    ///
    /// # Errors
    /// Another daemon listens there; or what the kernel answers.
    pub fn start(options: ListenerOptions, mailboxes: Vec<Arc<Mailbox>>) -> Result<Listener> {
        options.offer.check().map_err(Error::new)?;
        if mailboxes.len() != options.offer.reactors as usize {
            return Err(Error::new("the listener needs one mailbox a reactor"));
        }
        let listener = bind(&options.socket, options.mode)?;
        let stop =
            Arc::new(Stop { asked: AtomicBool::new(false), hang_up: AtomicBool::new(false), bell: EventFd::new()? });
        let worker = Worker {
            options,
            mailboxes,
            listener,
            stop: stop.clone(),
            pending: Vec::new(),
            sessions: Vec::new(),
            leaving: Vec::new(),
            closes: Vec::new(),
            spare: EventFd::new().ok(),
            rest_until: None,
            next_id: 1,
        };
        let thread = std::thread::Builder::new().name("forebay-listen".into()).spawn(move || worker.run())?;
        Ok(Listener { stop, thread: Some(thread) })
    }

    #[must_use]
    pub fn hang_up(&self) -> HangUp {
        HangUp(self.stop.clone())
    }
}

/// Ends a listener, and the connections of its clients with it, from any thread.
#[derive(Clone, Debug)]
pub struct HangUp(Arc<Stop>);

impl HangUp {
    /// Every client finds its daemon gone, soon: the listener's thread does it. Does not block.
    pub fn all(&self) {
        self.0.hang_up.store(true, Ordering::Release);
        self.0.asked.store(true, Ordering::Release);
        self.0.bell.ring();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.asked.store(true, Ordering::Release);
        self.stop.bell.ring();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the listener's thread panicked");
        }
    }
}

/// Binds, and takes over the socket of a daemon that is dead.
fn bind(path: &Path, mode: u32) -> Result<SocketListener> {
    let what = |error: io::Error| {
        Error::new(format!("listen on {}: {error}", path.display()))
            .remedy("choose a socket in a directory that this user may write, with a path of at most 107 bytes")
    };
    match SocketListener::bind(path, mode, BACKLOG) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        result => return result.map_err(what),
    }
    let is_socket = fs::symlink_metadata(path)
        .is_ok_and(|metadata| std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()));
    if !is_socket {
        return Err(Error::new(format!("{} exists and is not a socket", path.display()))
            .remedy("move it away or choose another socket"));
    }
    match Socket::connect(path, HELLO_TIMEOUT) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            info!(socket = %path.display(), "taking over the socket of a daemon that is gone");
            fs::remove_file(path).map_err(what)?;
            SocketListener::bind(path, mode, BACKLOG).map_err(what)
        }
        _ => Err(Error::new(format!("another daemon listens on {}", path.display()))
            .remedy("stop it or choose another socket")),
    }
}

/// A connection that has not yet said hello.
struct Pending {
    connection: Arc<Socket>,
    rights: Rights,
    deadline: Instant,
}

struct Connected {
    id: SessionId,
    connection: Arc<Socket>,
}

struct Worker {
    options: ListenerOptions,
    mailboxes: Vec<Arc<Mailbox>>,
    listener: SocketListener,
    stop: Arc<Stop>,
    pending: Vec<Pending>,
    sessions: Vec<Connected>,
    /// Gone, but held by reactors while operations are in flight.
    leaving: Vec<Weak<Socket>>,
    /// Messages that found a mailbox full.
    closes: Vec<(usize, SessionId)>,
    /// Given up for a moment to refuse a connection when descriptors run out.
    spare: Option<EventFd>,
    /// No connection is taken before this.
    rest_until: Option<Instant>,
    next_id: u64,
}

impl Worker {
    fn run(mut self) {
        while !self.stop.asked.load(Ordering::Acquire) {
            let (accepting, ready) = match self.wait() {
                Ok(ready) => ready,
                Err(error) => {
                    warn!(%error, "waiting for clients failed; trying again");
                    std::thread::sleep(RETRY);
                    continue;
                }
            };
            self.retry_closes();
            // From the back, so that taking one out does not move those that are still to be looked at.
            let pending = self.pending.len();
            for at in (0..self.sessions.len()).rev().filter(|at| ready[pending + at]) {
                self.part(at);
            }
            for at in (0..pending).rev() {
                self.look_at_pending(at, ready[at]);
            }
            if accepting {
                self.accept();
            }
        }
        if self.stop.hang_up.load(Ordering::Acquire) {
            self.sessions.iter().for_each(|session| session.connection.shutdown());
        }
    }

    /// Blocks until something happens. Whether there is a connection to take, then for each pending one and each session
    /// whether it has something to say.
    fn wait(&mut self) -> io::Result<(bool, Vec<bool>)> {
        let now = Instant::now();
        self.rest_until = self.rest_until.filter(|until| *until > now);
        let accept = self.pending.len() < PENDING_MAX && self.rest_until.is_none();
        let interest = if accept { PollFlags::IN } else { PollFlags::empty() };
        let mut polled = vec![PollFd::new(&self.stop.bell, PollFlags::IN), PollFd::new(&self.listener, interest)];
        polled.extend(self.pending.iter().map(|pending| PollFd::new(&pending.connection, PollFlags::IN)));
        polled.extend(self.sessions.iter().map(|session| PollFd::new(&*session.connection, PollFlags::IN)));
        let deadlines = self.pending.iter().map(|pending| pending.deadline).chain(self.rest_until);
        let retry = (!self.closes.is_empty()).then_some(RETRY);
        let timeout = deadlines.map(|deadline| deadline.saturating_duration_since(now)).chain(retry).min();
        wait(&mut polled, timeout)?;
        let ready = polled[2..].iter().map(|fd| !fd.revents().is_empty()).collect();
        Ok((accept && !polled[1].revents().is_empty(), ready))
    }

    fn accept(&mut self) {
        while self.pending.len() < PENDING_MAX {
            match self.listener.accept() {
                Ok(connection) => self.take(connection),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return self.refuse_without_descriptors(&error),
            }
        }
    }

    fn take(&mut self, connection: Socket) {
        match connection.peer().map(|peer| (peer, self.options.access.rights_of(peer))) {
            Ok((_, Some(rights))) => {
                let connection = Arc::new(connection);
                self.pending.push(Pending { connection, rights, deadline: Instant::now() + HELLO_TIMEOUT });
            }
            Ok((peer, None)) => {
                let text = format!("user {} (group {}) is not among those who may connect", peer.uid, peer.gid);
                refuse(&connection, &text);
            }
            Err(error) => refuse(&connection, &format!("the peer's credentials cannot be read: {error}")),
        }
    }

    /// There is no descriptor left to take a connection with: gives the spare one up to tell the next peer so.
    fn refuse_without_descriptors(&mut self, error: &io::Error) {
        warn!(%error, "a connection could not be taken");
        self.spare = None;
        if let Ok(connection) = self.listener.accept() {
            refuse(&connection, &format!("the daemon has no descriptor left ({error}); raise its limit (ulimit -n)"));
        }
        self.spare = EventFd::new().ok();
        self.rest_until = Some(Instant::now() + RETRY);
    }

    fn look_at_pending(&mut self, at: usize, ready: bool) {
        if ready {
            let pending = self.pending.swap_remove(at);
            if let Err(text) = self.shake_hands(&pending) {
                refuse(&pending.connection, &text);
            }
        } else if self.pending[at].deadline <= Instant::now() {
            let pending = self.pending.swap_remove(at);
            refuse(&pending.connection, &format!("no hello came within {HELLO_TIMEOUT:?}"));
        }
    }

    /// # Errors
    /// Why the peer is refused, in words for it.
    fn shake_hands(&mut self, pending: &Pending) -> Result<(), String> {
        const _: () = assert!(hello::BYTES < protocol::order::BYTES_MAX);
        let mut message = [0u8; protocol::order::BYTES_MAX + 1];
        let bytes = pending.connection.receive(&mut message).map_err(|error| format!("no hello came: {error}"))?;
        if order::is_order(&message[..bytes]) {
            return self.take_order(&message[..bytes], &pending.connection);
        }
        let shape = shape_wanted(&message[..bytes], &self.options.offer, self.options.arena_bytes_max)?;
        self.leaving.retain(|session| session.strong_count() > 0);
        if self.sessions.len() + self.leaving.len() >= self.options.sessions_max {
            return Err(format!(
                "{} clients are connected, as many as limits.sessions_max allows; raise it in the daemon's \
                 configuration, or connect fewer",
                self.options.sessions_max
            ));
        }
        if !self.mailboxes.iter().all(|mailbox| mailbox.has_room()) {
            return Err("the daemon is busy with other connections; try again".into());
        }
        let id = SessionId(self.next_id);
        let session = Session::new(id, pending.rights, shape, &pending.connection)
            .map_err(|error| format!("the daemon cannot make a session: {error}"))?;
        session.welcome(&pending.connection).map_err(|error| format!("the welcome cannot be sent: {error}"))?;
        self.next_id += 1;
        for (mailbox, ring) in self.mailboxes.iter().zip(session.rings) {
            let sent = mailbox.send(Control::Open(Box::new(ring)));
            debug_assert!(sent.is_ok(), "there was room, and nobody else sends");
        }
        debug!(session = %id, rights = ?pending.rights, "a client came");
        self.sessions.push(Connected { id, connection: pending.connection.clone() });
        Ok(())
    }

    /// # Errors
    /// Why the order is refused, in words for who gave it.
    fn take_order(&self, message: &[u8], connection: &Arc<Socket>) -> Result<(), String> {
        let peer = connection.peer().map_err(|error| format!("your credentials cannot be read: {error}"))?;
        if peer.uid != 0 && peer.uid != own_uid() {
            return Err(format!("user {} may not give orders: only root and the daemon's own user may", peer.uid));
        }
        let ordered = order::parse(message, connection)?;
        let gone = "this daemon takes no orders";
        self.options.orders.as_ref().ok_or(gone)?.send(ordered).map_err(|_| gone.to_owned())
    }

    /// A client hung up, or was ended by a reactor, or speaks where it must not: every reactor lets it go.
    fn part(&mut self, at: usize) {
        match self.sessions[at].connection.receive(&mut [0u8; 1]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Ok(1..) => {
                let text = "a client sends nothing after its hello";
                // The text is a courtesy, and the hang-up speaks as well.
                let _ = self.sessions[at].connection.send(&answer_message(welcome::ENDED, text), &[]);
                self.sessions[at].connection.shutdown();
            }
            Ok(0) | Err(_) => {}
        }
        let Connected { id, connection } = self.sessions.swap_remove(at);
        debug!(session = %id, "a client is gone");
        self.leaving.push(Arc::downgrade(&connection));
        self.closes.extend((0..self.mailboxes.len()).map(|reactor| (reactor, id)));
        self.retry_closes();
    }

    fn retry_closes(&mut self) {
        self.closes.retain(|(reactor, id)| self.mailboxes[*reactor].send(Control::Close(*id)).is_err());
    }
}

fn refuse(connection: &Socket, text: &str) {
    info!(reason = text, "a connection is refused");
    // A peer that hung up, or does not read, will not know.
    let _ = connection.send(&answer_message(welcome::REFUSED, text), &[]);
}
