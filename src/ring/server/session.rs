//! One client's ring pair with one reactor. The client's memory is hostile: what is read from it is copied, then
//! validated, then used; what the daemon wrote there is never read back.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use forebay_sys::net::{EventFd, Socket};
use forebay_sys::shm::{LINE_BYTES, OutOfRange, SharedMap};
use forebay_sys::spsc::{Consumer, Producer};

use crate::ring::protocol::{
    Completion, EndReason, KEY_BYTES_MAX, Opcode, Submission, VALUE_BYTES_MAX, flag, notice, to_usize, welcome,
};
use crate::ring::segment::{self, Layout};

use super::handshake::answer_message;

/// A session, for the life of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a peer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    ReadWrite,
    /// Writes are to be answered with `Denied`.
    ReadOnly,
}

/// Where the reply to a request goes; lies inside the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplyRoom {
    offset: u64,
    pub bytes_max: u32,
}

impl ReplyRoom {
    /// Of a submission that `peek` validated.
    #[must_use]
    pub fn of(submission: &Submission) -> ReplyRoom {
        ReplyRoom { offset: submission.reply_offset, bytes_max: submission.reply_bytes_max }
    }
}

/// More bytes than the room for a reply holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTooSmall;

/// One reactor's side of a session. Nothing here blocks or allocates, except where said; a system call is made only to
/// wake a client that sleeps.
#[derive(Debug)]
pub struct SessionRing {
    id: SessionId,
    rights: Rights,
    map: Arc<SharedMap>,
    /// Shared with the other reactors of this session, and with the listener.
    connection: Arc<Socket>,
    doorbell: EventFd,
    submissions: Consumer,
    completions: Producer,
    arena_offset: usize,
    arena_bytes: u64,
    client_need_wakeup: usize,
    server_need_wakeup: usize,
    /// Requests taken and not yet answered: each has its place in the completion ring.
    unanswered: u64,
    /// Something was posted since the client's sleep was last looked at.
    posted: bool,
    /// The ticket of the client's sleep that was last rung for.
    rung: u32,
    ticket: u32,
    ended: bool,
}

const CHECKED: &str = "the layout follows from the size of the map";

impl SessionRing {
    /// # Errors
    /// `OutOfRange` when the layout does not lie inside the map.
    pub(super) fn new(parts: RingParts, layout: &Layout, reactor: u32) -> Result<SessionRing, OutOfRange> {
        let RingParts { id, rights, map, connection, doorbell } = parts;
        Ok(SessionRing {
            submissions: Consumer::new(map.clone(), layout.submissions(reactor))?,
            completions: Producer::new(map.clone(), layout.completions(reactor))?,
            id,
            rights,
            map,
            connection,
            doorbell,
            arena_offset: layout.arena_offset(),
            arena_bytes: layout.shape.arena_bytes,
            client_need_wakeup: layout.client_need_wakeup(reactor),
            server_need_wakeup: layout.server_need_wakeup(reactor),
            unanswered: 0,
            posted: false,
            rung: 0,
            ticket: 0,
            ended: false,
        })
    }

    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    #[must_use]
    pub fn rights(&self) -> Rights {
        self.rights
    }

    /// Requests taken and not yet answered. A session whose client is gone may be dropped when there are none.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        self.unanswered
    }

    /// The most that can be unanswered: as many as the client's completion ring has entries.
    #[must_use]
    pub fn unanswered_max(&self) -> usize {
        to_usize(self.completions.entries())
    }

    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// What the client rings when this reactor sleeps. Only wait for it, edge-triggered (`net::WakeSet`): the client
    /// shares it, so a read could block.
    #[must_use]
    pub fn doorbell(&self) -> &EventFd {
        &self.doorbell
    }

    /// The request that is due, copied and validated, and left in the ring: `advance` takes it. `None` also while the
    /// client leaves no place for the answer, and after `end`.
    ///
    /// # Errors
    /// The client broke the protocol: `end` the session for this reason.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<Submission>, EndReason> {
        if self.ended {
            return Ok(None);
        }
        let Some(words) = self.submissions.peek().map_err(|_| EndReason::BadSequence)? else { return Ok(None) };
        if self.room()? == 0 {
            return Ok(None);
        }
        let submission = Submission::from_words(&words);
        self.validate(&submission)?;
        Ok(Some(submission))
    }

    /// Asks for the payload of the request behind the one that is due, while that is worked on: the client's core has it. Only
    /// of use, and only then without a price to the client, where that request is likely there already.
    #[inline]
    pub fn look_ahead(&self) {
        let payload = to_usize(self.submissions.glance(1, Submission::PAYLOAD_WORD)).wrapping_add(self.arena_offset);
        self.map.prefetch(payload);
        self.map.prefetch(payload.wrapping_add(LINE_BYTES));
    }

    /// Requests that can be taken before the client has to take answers.
    ///
    /// # Errors
    /// `BadCompletionHead`
    #[inline]
    pub fn room(&mut self) -> Result<u64, EndReason> {
        let free = self.completions.free(self.unanswered + 1).map_err(|_| EndReason::BadCompletionHead)?;
        Ok(free - self.unanswered)
    }

    fn validate(&self, submission: &Submission) -> Result<(), EndReason> {
        let opcode = Opcode::from_wire(submission.opcode).ok_or(EndReason::BadOpcode)?;
        if submission.flags & !flag::KNOWN != 0 {
            return Err(EndReason::BadFlags);
        }
        let value_bytes = submission.value_bytes as usize;
        if usize::from(submission.key_bytes) > KEY_BYTES_MAX
            || value_bytes > VALUE_BYTES_MAX && value_bytes > opcode.value_bytes_max()
        {
            return Err(EndReason::BadPayload);
        }
        let payload_bytes = u64::from(submission.key_bytes) + u64::from(submission.value_bytes);
        self.in_arena(submission.payload_offset, payload_bytes)?;
        self.in_arena(submission.reply_offset, u64::from(submission.reply_bytes_max))
    }

    fn in_arena(&self, offset: u64, bytes: u64) -> Result<(), EndReason> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.arena_bytes => Ok(()),
            _ => Err(EndReason::BadRange),
        }
    }

    /// Takes the request that `peek` showed. It must be answered by one `post`.
    #[inline]
    pub fn advance(&mut self) {
        self.submissions.advance();
        self.unanswered += 1;
    }

    /// Copies the key, then the value, out of the client's memory to the end of `into`. Allocates only if its capacity
    /// does not suffice.
    #[inline]
    pub fn copy_payload(&self, submission: &Submission, into: &mut Vec<u8>) {
        let bytes = usize::from(submission.key_bytes) + submission.value_bytes as usize;
        self.map
            .read_append(self.arena_at(submission.payload_offset), bytes, into)
            .expect("`peek` validated the range");
    }

    /// As `copy_payload`, into memory of the payload's exact length.
    #[inline]
    pub fn copy_payload_to(&self, submission: &Submission, into: &mut [u8]) {
        debug_assert_eq!(into.len(), usize::from(submission.key_bytes) + submission.value_bytes as usize);
        self.map.read(self.arena_at(submission.payload_offset), into).expect("`peek` validated the range");
    }

    /// Writes a part of a reply, `at` bytes into its room.
    ///
    /// # Errors
    /// `ReplyTooSmall`, with nothing written.
    #[inline]
    pub fn write_reply(&self, room: ReplyRoom, at: usize, bytes: &[u8]) -> Result<(), ReplyTooSmall> {
        let fits = at.checked_add(bytes.len()).is_some_and(|end| end <= room.bytes_max as usize);
        if !fits {
            return Err(ReplyTooSmall);
        }
        self.map.write(self.arena_at(room.offset) + at, bytes).expect("`peek` validated the range");
        Ok(())
    }

    #[inline]
    fn arena_at(&self, offset: u64) -> usize {
        self.arena_offset + to_usize(offset)
    }

    /// Answers a request that was taken. After `end` nobody is there to see it.
    #[inline]
    pub fn post(&mut self, completion: &Completion) {
        debug_assert!(self.unanswered > 0, "an answer without a request");
        self.unanswered -= 1;
        if self.ended {
            return;
        }
        // Who sees an answer must see that its request left the ring.
        self.submissions.publish();
        // The place was there when the request was taken, so the client's head is not looked at again.
        let posted = self.completions.push(&completion.to_words());
        debug_assert_eq!(posted, Ok(true), "a place was kept when the request was taken");
        self.posted = true;
    }

    /// Once at the end of a turn: gives the entries taken back to the client, and wakes it if it sleeps and something
    /// was posted.
    #[inline]
    pub fn finish_turn(&mut self) {
        self.submissions.publish();
        if self.posted {
            self.posted = false;
            // Either this sees that the client sleeps, or the client, before it sleeps, sees what was posted.
            fence(Ordering::SeqCst);
            let ticket = self.map.atomic_u32(self.client_need_wakeup).expect(CHECKED).load(Ordering::Relaxed);
            if ticket != 0 && ticket != self.rung {
                self.rung = ticket;
                // A full queue holds wake-ups enough, and a client that is gone needs none.
                let _ = self.connection.send(&[notice::WAKE], &[]);
            }
        }
    }

    /// Says that this reactor sleeps or is awake. Before it sleeps: this for all its sessions, then one
    /// `fence(SeqCst)`, then a last `peek` at each; only if all are empty, sleep.
    pub fn set_need_wakeup(&mut self, asleep: bool) {
        let mut word = 0;
        if asleep {
            self.ticket = self.ticket.wrapping_add(1).max(1);
            word = self.ticket;
        }
        self.map.atomic_u32(self.server_need_wakeup).expect(CHECKED).store(word, Ordering::Relaxed);
    }

    /// Ends the session for all reactors: the client reads the reason, and the listener, which sees the hang-up, sends
    /// every reactor a `Control::Close`. Makes a few system calls; none blocks.
    pub fn end(&mut self, reason: EndReason) {
        if self.ended {
            return;
        }
        self.ended = true;
        segment::set_end_reason(&self.map, reason);
        // The reason stands in the segment already, should the queue be full.
        let _ = self.connection.send(&answer_message(welcome::ENDED, reason.text()), &[]);
        self.connection.shutdown();
    }

    /// The client is gone or the listener let it go: no more requests are taken, and answers are thrown away.
    pub fn close(&mut self) {
        self.ended = true;
    }
}

/// What a `SessionRing` is made of.
pub(super) struct RingParts {
    pub id: SessionId,
    pub rights: Rights,
    pub map: Arc<SharedMap>,
    pub connection: Arc<Socket>,
    pub doorbell: EventFd,
}
