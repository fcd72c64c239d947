//! Chained streams: appends that tell the head, and the proof that the events are what was appended, in their order.

use crate::ring::protocol::{ATTRIBUTE_CHAINED, EVENT_HEADER_BYTES, HEAD_BYTES, Status};
use crate::types::{Durability, ObjectKind};

use super::calls::{REPLY_BYTES, larger_reply};
use super::reply::chain_events;
use super::{Client, ClientError, Creation, Object, Once, Request, Write};

/// BLAKE3 over all that was appended so far: of the head before, the offset and the event.
pub type Head = [u8; HEAD_BYTES];

/// What a proof has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The first event that is kept; the head before it is taken as it is stated, unless it is event 0.
    pub first: u64,
    /// The offset after the last event.
    pub next: u64,
    /// The head after the last event. One that was kept when it was told must be the same.
    pub head: Head,
}

/// Computes the heads of a stream anew, reply by reply of `ReadChain`, and holds them against those stated.
#[derive(Clone, Copy, Debug)]
pub struct ChainCheck {
    verified: Option<Verified>,
}

impl ChainCheck {
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a check that nothing was shown proves nothing")]
    pub fn new() -> ChainCheck {
        ChainCheck { verified: None }
    }

    /// What was proven so far.
    #[must_use]
    pub fn verified(&self) -> Option<Verified> {
        self.verified
    }

    /// Takes the reply to a read from `from`: where the last one ended, or anywhere at first.
    ///
    /// # Errors
    /// `ChainBroken` names the first event that does not fit; `Broken` for a reply that makes no sense.
    pub fn take(&mut self, from: u64, reply: &[u8]) -> Result<Verified, ClientError> {
        let malformed = || ClientError::Broken("a reply is malformed".into());
        let (stated, rest) = reply.split_first_chunk::<HEAD_BYTES>().ok_or_else(malformed)?;
        let before = self.verified;
        let mut verified = before.unwrap_or(Verified { first: from, next: from, head: *stated });
        if from == 0 && *stated != [0; HEAD_BYTES] {
            return Err(ClientError::ChainBroken { offset: 0 });
        }
        if verified.next != from || verified.head != *stated {
            return Err(ClientError::ChainBroken { offset: verified.next.saturating_sub(1) });
        }
        for event in chain_events(rest) {
            let (offset, stated, event) = event?;
            let mut hasher = blake3::Hasher::new();
            hasher.update(&verified.head).update(&offset.to_le_bytes()).update(event);
            let head = *hasher.finalize().as_bytes();
            if offset != verified.next || head != *stated {
                return Err(ClientError::ChainBroken { offset: verified.next });
            }
            (verified.next, verified.head) = (offset + 1, head);
        }
        self.verified = Some(verified);
        Ok(verified)
    }
}

impl Client {
    /// Finds a chained stream by name, or makes it with that default durability.
    ///
    /// # Errors
    /// `NotChained` when there is another stream of this name; else as `open_stream`.
    pub fn open_chained(&mut self, name: &str, durability: Durability) -> Result<Object, ClientError> {
        let create = Some(Creation { chained: true, ..Creation::from(durability) });
        let (object, attributes) = self.open_by(name, &Request::Open { name, kind: ObjectKind::Stream, create })?;
        if attributes & ATTRIBUTE_CHAINED == 0 { Err(ClientError::NotChained) } else { Ok(object) }
    }

    /// Finds a stream by name, and whether its events are linked.
    ///
    /// # Errors
    /// As `open_stream`.
    pub fn find_stream(&mut self, name: &str) -> Result<(Object, bool), ClientError> {
        let request = Request::Open { name, kind: ObjectKind::Stream, create: None };
        self.open_by(name, &request).map(|(object, attributes)| (object, attributes & ATTRIBUTE_CHAINED != 0))
    }

    /// The head before an event of a chained stream that is kept, or after its last one.
    ///
    /// # Errors
    /// `Trimmed` when the stream begins later; `NotChained`; else as `wait`.
    pub fn head_before(&mut self, stream: Object, offset: u64) -> Result<Head, ClientError> {
        let mut reply_bytes_max = REPLY_BYTES;
        loop {
            let (answer, reply) = self.call(&Request::ReadChain { stream, from: offset, reply_bytes_max })?;
            match answer.status {
                Status::WrongKind => return Err(ClientError::NotChained),
                Status::ReplyTooSmall => reply_bytes_max = larger_reply(reply_bytes_max, answer.aux)?,
                _ => {
                    answer.ok()?;
                    let none = || ClientError::Broken("a reply has no head".into());
                    return reply.first_chunk().copied().ok_or_else(none);
                }
            }
        }
    }

    /// Appends all the events or none to a chained stream, with `once` however often it is tried. The offset of the first
    /// and the head after the last; no head where a retry comes after its events were trimmed.
    ///
    /// # Errors
    /// `NotChained`, after the append; `OutOfSequence`; else as `wait`.
    pub fn append_chained(
        &mut self,
        stream: Object,
        once: Option<Once>,
        events: &[&[u8]],
        how: Write,
    ) -> Result<(u64, Option<Head>), ClientError> {
        let (answer, reply) = self.call(&Request::AppendChained { stream, once, events, how })?;
        let head = <Head>::try_from(reply.as_slice()).ok();
        let offset = answer.ok()?.version;
        if head.is_none() && once.is_none() { Err(ClientError::NotChained) } else { Ok((offset, head)) }
    }

    /// Reads all events of a chained stream and computes the heads anew, from the first event that is kept. Blocks as
    /// long as that takes.
    ///
    /// # Errors
    /// `ChainBroken` with the first break; `NotChained`; else as `wait`.
    pub fn verify_stream(&mut self, stream: Object) -> Result<Verified, ClientError> {
        let (mut check, mut from, mut reply_bytes_max) = (ChainCheck::new(), 0, REPLY_BYTES);
        loop {
            let (answer, reply) = self.call(&Request::ReadChain { stream, from, reply_bytes_max })?;
            match answer.status {
                Status::WrongKind => return Err(ClientError::NotChained),
                Status::ReplyTooSmall => reply_bytes_max = larger_reply(reply_bytes_max, answer.aux)?,
                // What was proven is trimmed meanwhile: the proof begins anew behind it.
                Status::Trimmed => (check, from) = (ChainCheck::new(), answer.version),
                _ => {
                    answer.ok()?;
                    let verified = check.take(from, &reply)?;
                    if reply.len() < HEAD_BYTES + EVENT_HEADER_BYTES {
                        return Ok(verified);
                    }
                    from = verified.next;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reply to a read of these events from offset 5 on, and the heads that it states.
    fn reply(events: &[&[u8]]) -> (Vec<u8>, Vec<Head>) {
        let (mut reply, mut heads) = (vec![7; HEAD_BYTES], vec![[7; HEAD_BYTES]]);
        for (offset, event) in (5_u64..).zip(events) {
            let parts = [&heads[heads.len() - 1][..], &offset.to_le_bytes(), event].concat();
            heads.push(*blake3::hash(&parts).as_bytes());
            reply.extend_from_slice(&u32::try_from(event.len()).unwrap().to_le_bytes());
            reply.extend_from_slice(&[0; 4]);
            reply.extend_from_slice(&offset.to_le_bytes());
            reply.extend_from_slice(&heads[heads.len() - 1]);
            reply.extend_from_slice(event);
        }
        (reply, heads)
    }

    fn broken(from: u64, reply: &[u8]) -> Option<u64> {
        match ChainCheck::new().take(from, reply) {
            Err(ClientError::ChainBroken { offset }) => Some(offset),
            Err(error) => panic!("{error}"),
            Ok(_) => None,
        }
    }

    #[test]
    fn events_in_their_order_are_proven() {
        let (reply, heads) = reply(&[b"one", b"two", b"", b"four"]);
        let verified = ChainCheck::new().take(5, &reply).unwrap();
        assert_eq!(verified, Verified { first: 5, next: 9, head: heads[4] });
        assert_eq!(broken(6, &reply), Some(6), "another place");
        assert_eq!(broken(0, &reply), Some(0), "nothing comes before event 0");
    }

    #[test]
    fn two_events_that_changed_places_are_found_at_the_first() {
        let (mut bad, _) = reply(&[b"aaa", b"bbb", b"ccc", b"ddd"]);
        let event = HEAD_BYTES + EVENT_HEADER_BYTES + 3;
        let at = |number: usize| HEAD_BYTES + number * event + event - 3;
        let (second, third) = (bad[at(1)..at(1) + 3].to_vec(), bad[at(2)..at(2) + 3].to_vec());
        bad[at(1)..at(1) + 3].copy_from_slice(&third);
        bad[at(2)..at(2) + 3].copy_from_slice(&second);
        assert_eq!(broken(5, &bad), Some(6));
    }

    #[test]
    fn any_flipped_bit_is_found_where_it_is() {
        let (good, _) = reply(&[b"aaa", b"bbb"]);
        let event = HEAD_BYTES + EVENT_HEADER_BYTES + 3;
        for byte in (HEAD_BYTES..good.len()).filter(|byte| (byte - HEAD_BYTES) % event >= 8) {
            let mut bad = good.clone();
            bad[byte] ^= 4;
            let number = (byte - HEAD_BYTES) / event;
            assert_eq!(broken(5, &bad), Some(5 + number as u64), "byte {byte}");
        }
    }

    #[test]
    fn a_reply_goes_on_where_the_last_one_ended() {
        let (first, heads) = reply(&[b"aaa"]);
        let mut check = ChainCheck::new();
        check.take(5, &first).unwrap();
        let mut next = check;
        next.take(6, &heads[1]).unwrap();
        assert!(matches!(check.take(6, &heads[0]), Err(ClientError::ChainBroken { offset: 5 })));
    }
}
