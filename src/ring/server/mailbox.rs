//! What the listener tells a reactor.

use std::io;

use crossbeam_queue::ArrayQueue;
use forebay_sys::net::EventFd;

use super::{SessionId, SessionRing};

/// A change in a reactor's sessions.
#[derive(Debug)]
pub enum Control {
    /// A client came: poll its ring, and add its doorbell to what wakes this reactor.
    Open(Box<SessionRing>),
    /// A client is gone: `close` its ring, and drop it when nothing of it is unanswered. Unknown numbers are to be
    /// passed over.
    Close(SessionId),
}

/// One reactor's mailbox. The listener's thread sends, the reactor's receives.
#[derive(Debug)]
pub struct Mailbox {
    queue: ArrayQueue<Control>,
    bell: EventFd,
}

impl Mailbox {
    /// # Errors
    /// What the kernel answers.
    pub fn new() -> io::Result<Mailbox> {
        Ok(Mailbox { queue: ArrayQueue::new(256), bell: EventFd::new()? })
    }

    /// Never blocks nor allocates.
    #[must_use]
    #[inline]
    pub fn receive(&self) -> Option<Control> {
        // A pop that finds nothing makes sure with a full fence, every turn; who sends rings the bell besides.
        if self.queue.is_empty() { None } else { self.queue.pop() }
    }

    /// Rung at every message. Nobody else shares it.
    #[must_use]
    pub fn bell(&self) -> &EventFd {
        &self.bell
    }

    pub(super) fn has_room(&self) -> bool {
        !self.queue.is_full()
    }

    /// Gives the message back when the mailbox is full.
    pub(super) fn send(&self, control: Control) -> Result<(), Control> {
        self.queue.push(control)?;
        self.bell.ring();
        Ok(())
    }
}
