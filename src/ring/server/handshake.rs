//! The handshake, seen from the daemon: who may come in, with which rings, and the words for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use forebay_sys::net::{EventFd, Peer, Socket, own_uid};
use forebay_sys::shm::SharedMap;

use crate::ring::client::ClientParts;
use crate::ring::protocol::{self, hello, welcome};
use crate::ring::segment::{Layout, Shape};

use super::session::{Rights, RingParts, SessionId, SessionRing};

const PAGE_BYTES: u64 = 4_096;

/// Who may connect, besides root and the user that the daemon runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    pub uids: Vec<u32>,
    /// Users who may read but not write. Comes before `gids`.
    pub read_only_uids: Vec<u32>,
    /// Primary groups.
    pub gids: Vec<u32>,
}

impl Access {
    pub(super) fn rights_of(&self, peer: Peer) -> Option<Rights> {
        if peer.uid == 0 || peer.uid == own_uid() || self.uids.contains(&peer.uid) {
            return Some(Rights::ReadWrite);
        }
        if self.read_only_uids.contains(&peer.uid) {
            return Some(Rights::ReadOnly);
        }
        self.gids.contains(&peer.gid).then_some(Rights::ReadWrite)
    }
}

/// The shape that a client asks for, within what the daemon offers.
///
/// # Errors
/// One sentence for the client.
pub(super) fn shape_wanted(message: &[u8], offer: &Shape, arena_bytes_max: u64) -> Result<Shape, String> {
    let bytes: &[u8; hello::BYTES] = message
        .try_into()
        .map_err(|_| format!("a hello has {} B, not {}; is this a Forebay client?", hello::BYTES, message.len()))?;
    let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    if word(hello::MAGIC) != protocol::MAGIC {
        return Err("a hello begins with FBRING01; is this a Forebay client?".into());
    }
    let version = half(hello::VERSION);
    if version != protocol::VERSION {
        let ours = protocol::VERSION;
        return Err(format!(
            "the client speaks version {version} and the daemon {ours}; use the same release for both"
        ));
    }
    let or = |wanted, offered| if wanted == 0 { offered } else { wanted };
    let arena_bytes = match word(hello::ARENA_BYTES) {
        0 => offer.arena_bytes,
        wanted if wanted > arena_bytes_max => {
            return Err(format!("arena_bytes is {wanted}; the daemon grants at most {arena_bytes_max}"));
        }
        wanted => wanted.next_multiple_of(PAGE_BYTES),
    };
    let shape = Shape {
        sq_entries: or(half(hello::SQ_ENTRIES), offer.sq_entries),
        cq_entries: or(half(hello::CQ_ENTRIES), offer.cq_entries),
        arena_bytes,
        ..*offer
    };
    shape.check().map(|()| shape)
}

/// A session's memory and wake-ups, before they are handed out.
pub(super) struct Session {
    pub rings: Vec<SessionRing>,
    segment: std::os::fd::OwnedFd,
    map: Arc<SharedMap>,
    doorbells: Vec<EventFd>,
    segment_bytes: u64,
}

impl Session {
    pub fn new(id: SessionId, rights: Rights, shape: Shape, connection: &Arc<Socket>) -> io::Result<Session> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        let layout = Layout::new(shape).map_err(invalid)?;
        let (segment, map) = SharedMap::create_sealed(c"forebay-ring", layout.bytes())?;
        layout.write_to(&map).map_err(|error| invalid(error.to_string()))?;
        let map = Arc::new(map);
        let mut doorbells = Vec::new();
        let mut rings = Vec::new();
        for reactor in 0..shape.reactors {
            let doorbell = EventFd::new()?;
            doorbells.push(doorbell.try_clone()?);
            let parts = RingParts { id, rights, map: map.clone(), connection: connection.clone(), doorbell };
            rings.push(SessionRing::new(parts, &layout, reactor).map_err(|error| invalid(error.to_string()))?);
        }
        Ok(Session { rings, segment, map, doorbells, segment_bytes: layout.bytes() as u64 })
    }

    /// Hands the client's side over.
    pub fn welcome(&self, connection: &Socket) -> io::Result<()> {
        let mut message = answer_message(welcome::WELCOME, "");
        put(&mut message, welcome::SEGMENT_BYTES, &self.segment_bytes.to_le_bytes());
        let reactors = protocol::low_u32(self.doorbells.len() as u64);
        put(&mut message, welcome::REACTORS, &reactors.to_le_bytes());
        let mut descriptors: Vec<BorrowedFd<'_>> = vec![self.segment.as_fd()];
        descriptors.extend(self.doorbells.iter().map(AsFd::as_fd));
        connection.send(&message, &descriptors)
    }

    /// Both sides in one process.
    fn into_pair(self, connection: Socket) -> (ClientParts, Vec<SessionRing>) {
        (ClientParts { map: self.map, connection, doorbells: self.doorbells }, self.rings)
    }
}

/// A session without a listener: what `Client::from_parts` takes, and a ring for each reactor. For tests and the
/// simulator. Nobody sees a hang-up here but the client: drop the rings to end it.
///
/// # Errors
/// What the kernel answers; `InvalidInput` for a shape out of bounds.
pub fn pair_in_process(id: SessionId, rights: Rights, shape: Shape) -> io::Result<(ClientParts, Vec<SessionRing>)> {
    let (ours, theirs) = Socket::pair()?;
    Ok(Session::new(id, rights, shape, &Arc::new(ours))?.into_pair(theirs))
}

/// A message of the daemon with a text, cut to what fits.
pub(super) fn answer_message(status: u32, text: &str) -> [u8; welcome::BYTES] {
    let mut message = [0u8; welcome::BYTES];
    let mut end = text.len().min(welcome::TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = &text[..end];
    put(&mut message, welcome::MAGIC, &protocol::MAGIC.to_le_bytes());
    put(&mut message, welcome::VERSION, &protocol::VERSION.to_le_bytes());
    put(&mut message, welcome::STATUS, &status.to_le_bytes());
    put(&mut message, welcome::TEXT_BYTES, &protocol::low_u32(text.len() as u64).to_le_bytes());
    put(&mut message, welcome::TEXT, text.as_bytes());
    message
}

fn put(message: &mut [u8], at: usize, field: &[u8]) {
    message[at..at + field.len()].copy_from_slice(field);
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Shape = Shape {
        reactors: 1,
        sq_entries: 256,
        cq_entries: 256,
        arena_bytes: 1 << 20,
        shards: 4,
        key_bytes_max: 1_024,
        value_bytes_max: 4_096,
        lineage: crate::types::Lineage::NONE,
    };

    fn hello(sq_entries: u32, arena_bytes: u64) -> [u8; hello::BYTES] {
        let mut bytes = [0u8; hello::BYTES];
        put(&mut bytes, hello::MAGIC, &protocol::MAGIC.to_le_bytes());
        put(&mut bytes, hello::VERSION, &protocol::VERSION.to_le_bytes());
        put(&mut bytes, hello::SQ_ENTRIES, &sq_entries.to_le_bytes());
        put(&mut bytes, hello::ARENA_BYTES, &arena_bytes.to_le_bytes());
        bytes
    }

    #[test]
    fn a_hello_gets_what_it_asks_for_within_bounds() {
        assert_eq!(shape_wanted(&hello(0, 0), &OFFER, 1 << 30), Ok(OFFER));
        let shape = shape_wanted(&hello(64, 5_000), &OFFER, 1 << 30).unwrap();
        assert_eq!((shape.sq_entries, shape.arena_bytes, shape.cq_entries), (64, 8_192, 256));
        let refusal = |message: &[u8]| shape_wanted(message, &OFFER, 1 << 30).unwrap_err();
        assert!(refusal(&hello(63, 0)).contains("power of two"));
        assert!(refusal(&hello(0, u64::MAX)).contains("at most"));
        assert!(refusal(&[]).contains("64 B"));
        assert!(refusal(&[0; 64]).contains("FBRING01"));
        let mut other = hello(0, 0);
        other[hello::VERSION] = 99;
        assert!(refusal(&other).contains("version 99"));
    }

    #[test]
    fn rights_follow_the_lists() {
        let access = Access { uids: vec![1_001], read_only_uids: vec![1_002], gids: vec![50] };
        let rights = |uid, gid| access.rights_of(Peer { pid: 1, uid, gid });
        assert_eq!(rights(0, 7), Some(Rights::ReadWrite));
        assert_eq!(rights(own_uid(), 7), Some(Rights::ReadWrite));
        assert_eq!(rights(1_001, 7), Some(Rights::ReadWrite));
        assert_eq!(rights(1_002, 50), Some(Rights::ReadOnly));
        assert_eq!(rights(4_242, 50), Some(Rights::ReadWrite));
        assert_eq!(rights(4_242, 7), None);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let message = answer_message(welcome::REFUSED, &"ä".repeat(400));
        let bytes = u32::from_le_bytes(message[welcome::TEXT_BYTES..][..4].try_into().unwrap());
        assert!(std::str::from_utf8(&message[welcome::TEXT..][..bytes as usize]).is_ok());
        assert_eq!(bytes as usize, welcome::TEXT_BYTES_MAX);
    }
}
