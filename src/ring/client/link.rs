//! The ring pair to one reactor.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use forebay_sys::net::EventFd;
use forebay_sys::shm::SharedMap;
use forebay_sys::spsc::{Consumer, Producer};

use crate::ring::protocol::{Completion, Submission};
use crate::ring::segment::Layout;

use super::ClientError;

#[derive(Debug)]
pub(super) struct Link {
    map: Arc<SharedMap>,
    submissions: Producer,
    completions: Consumer,
    doorbell: EventFd,
    server_need_wakeup: usize,
    client_need_wakeup: usize,
    /// Submitted, and the answer not yet taken.
    outstanding: u32,
    outstanding_max: u32,
    /// There were submissions since the last look at the reactor's sleep.
    unflushed: bool,
    /// The ticket of the sleep that was last rung for.
    rung: u32,
}

const CHECKED: &str = "the layout was held against the size of the map";

impl Link {
    pub fn new(map: &Arc<SharedMap>, layout: &Layout, reactor: u32, doorbell: EventFd) -> Result<Link, ClientError> {
        let broken = |_| ClientError::Broken("a ring lies outside of the segment".into());
        Ok(Link {
            submissions: Producer::new(map.clone(), layout.submissions(reactor)).map_err(broken)?,
            completions: Consumer::new(map.clone(), layout.completions(reactor)).map_err(broken)?,
            map: map.clone(),
            doorbell,
            server_need_wakeup: layout.server_need_wakeup(reactor),
            client_need_wakeup: layout.client_need_wakeup(reactor),
            outstanding: 0,
            outstanding_max: layout.shape.cq_entries,
            unflushed: false,
            rung: 0,
        })
    }

    /// Whether a request can be taken. Never more than the completion ring holds are outstanding, so that the daemon
    /// always has a place for an answer.
    pub fn has_room(&mut self) -> Result<bool, ClientError> {
        if self.outstanding == self.outstanding_max {
            return Ok(false);
        }
        let free = self.submissions.free(1).map_err(|_| ClientError::Broken("a submission head jumped".into()))?;
        Ok(free > 0)
    }

    /// Publishes a request, after `has_room`.
    #[inline(always)]
    pub fn submit(&mut self, submission: &Submission) -> Result<(), ClientError> {
        // The daemon that sees this request must see the places that the answers so far left free.
        self.completions.publish();
        match self.submissions.push(&submission.to_words()) {
            Ok(true) => {
                self.outstanding += 1;
                self.unflushed = true;
                Ok(())
            }
            Ok(false) | Err(_) => Err(ClientError::Broken("a submission head jumped".into())),
        }
    }

    pub fn pop(&mut self) -> Result<Option<Completion>, ClientError> {
        let broken = |_| ClientError::Broken("a completion carries a sequence number that is not its own".into());
        let Some(words) = self.completions.pop().map_err(broken)? else { return Ok(None) };
        self.outstanding = self
            .outstanding
            .checked_sub(1)
            .ok_or_else(|| ClientError::Broken("there are more answers than requests".into()))?;
        Ok(Some(Completion::from_words(&words)))
    }

    /// The number on the next answer. A hint: it may be an old one.
    pub fn glance(&self) -> u64 {
        self.completions.glance(0, Completion::USER_DATA_WORD)
    }

    pub fn unflushed(&self) -> bool {
        self.unflushed
    }

    /// Rings the reactor if it sleeps and was not yet rung for this sleep. What was submitted before is certain to be
    /// seen only with a fence between; then say `flushed`.
    pub fn ring_if_asleep(&mut self) {
        let ticket = self.map.atomic_u32(self.server_need_wakeup).expect(CHECKED).load(Relaxed);
        if ticket != 0 && ticket != self.rung {
            self.rung = ticket;
            self.doorbell.ring();
        }
    }

    pub fn flushed(&mut self) {
        self.unflushed = false;
    }

    /// Says that this client sleeps (a ticket) or is awake (0).
    pub fn set_need_wakeup(&self, ticket: u32) {
        self.map.atomic_u32(self.client_need_wakeup).expect(CHECKED).store(ticket, Relaxed);
    }
}
