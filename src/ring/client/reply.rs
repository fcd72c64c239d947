//! What replies hold.

use crate::ring::protocol::{
    CATALOG_HEADER_BYTES, CURSOR_HEADER_BYTES, EVENT_HEADER_BYTES, HEAD_BYTES, PAIR_HEADER_BYTES, PAIR_TIMED,
};
use crate::types::{Compression, Durability, ObjectId, ObjectKind};

use super::{ClientError, Object, Version};

/// A pair as a scan shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed<'a> {
    pub key: &'a [u8],
    pub version: Version,
    pub value: &'a [u8],
    /// Until when it holds, in ms since 1970; told by `Request::List`.
    pub until_ms: Option<u64>,
}

/// The pairs of a scan's reply: key, version, value.
pub fn pairs(reply: &[u8]) -> impl Iterator<Item = Result<(&[u8], Version, &[u8]), ClientError>> {
    listed(reply).map(|pair| pair.map(|Listed { key, version, value, .. }| (key, version, value)))
}

/// The same, with until when they hold.
pub fn listed(reply: &[u8]) -> impl Iterator<Item = Result<Listed<'_>, ClientError>> {
    items(reply, |reply| {
        let header = reply.split_off(..PAIR_HEADER_BYTES)?;
        let timed = u16::from_le_bytes([header[2], header[3]]) & PAIR_TIMED != 0;
        let until_ms = if timed { Some(u64_at(reply.split_off(..8)?, 0)) } else { None };
        let key = reply.split_off(..usize::from(u16::from_le_bytes([header[0], header[1]])))?;
        let value = reply.split_off(..u32_at(header, 4) as usize)?;
        Some(Listed { key, version: u64_at(header, 8), value, until_ms })
    })
}

/// The events of a read's reply: offset, event.
pub fn events(reply: &[u8]) -> impl Iterator<Item = Result<(u64, &[u8]), ClientError>> {
    items(reply, |reply| {
        let header = reply.split_off(..EVENT_HEADER_BYTES)?;
        Some((u64_at(header, 8), reply.split_off(..u32_at(header, 0) as usize)?))
    })
}

/// The events of a chained read's reply, behind the first head: offset, head after the event, event.
pub fn chain_events(reply: &[u8]) -> impl Iterator<Item = Result<(u64, &[u8; HEAD_BYTES], &[u8]), ClientError>> {
    items(reply, |reply| {
        let header = reply.split_off(..EVENT_HEADER_BYTES)?;
        let head = reply.split_off(..HEAD_BYTES)?.first_chunk()?;
        Some((u64_at(header, 8), head, reply.split_off(..u32_at(header, 0) as usize)?))
    })
}

/// The cursors of a list's reply: name, offset.
pub fn cursors(reply: &[u8]) -> impl Iterator<Item = Result<(&str, u64), ClientError>> {
    items(reply, |reply| {
        let header = reply.split_off(..CURSOR_HEADER_BYTES)?;
        let name = reply.split_off(..usize::from(u16::from_le_bytes([header[0], header[1]])))?;
        Some((std::str::from_utf8(name).ok()?, u64_at(header, 8)))
    })
}

/// The objects of a catalog's reply.
pub(super) fn objects(reply: &[u8]) -> impl Iterator<Item = Result<(&str, Object), ClientError>> {
    items(reply, |reply| {
        let header = reply.split_off(..CATALOG_HEADER_BYTES)?;
        let kind = ObjectKind::from_wire(header[4])?;
        let durability = Durability::from_wire(header[5])?;
        let compression = match kind {
            ObjectKind::Pages => Compression::None,
            ObjectKind::Space | ObjectKind::Stream => Compression::from_wire(header[7])?,
        };
        let name = reply.split_off(..usize::from(header[6]))?;
        let id = ObjectId(u32_at(header, 0));
        Some((std::str::from_utf8(name).ok()?, Object { id, kind, durability, compression }))
    })
}

/// Takes items off the front until nothing is left; what does not parse is the last.
fn items<'a, T>(
    mut reply: &'a [u8],
    take: impl Fn(&mut &'a [u8]) -> Option<T>,
) -> impl Iterator<Item = Result<T, ClientError>> {
    std::iter::from_fn(move || {
        if reply.is_empty() {
            return None;
        }
        let item = take(&mut reply);
        if item.is_none() {
            reply = &[];
        }
        Some(item.ok_or_else(|| ClientError::Broken("a reply is malformed".into())))
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_parse_and_malformed_ones_are_errors() {
        let mut reply = Vec::new();
        for (key, value) in [("a", "one"), ("bb", "")] {
            reply.extend_from_slice(&u16::try_from(key.len()).unwrap().to_le_bytes());
            reply.extend_from_slice(&[0, 0]);
            reply.extend_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
            reply.extend_from_slice(&9u64.to_le_bytes());
            reply.extend_from_slice(key.as_bytes());
            reply.extend_from_slice(value.as_bytes());
        }
        let parsed: Vec<_> = pairs(&reply).map(Result::unwrap).collect();
        assert_eq!(parsed, [(&b"a"[..], 9, &b"one"[..]), (b"bb", 9, b"")]);
        for end in (1..reply.len()).filter(|end| *end != PAIR_HEADER_BYTES + 4) {
            assert!(pairs(&reply[..end]).last().unwrap().is_err(), "cut at {end}");
        }
        assert!(events(&[0xff; 64]).next().unwrap().is_err());
        assert!(objects(&[0xff; 64]).next().unwrap().is_err());
        assert!(events(&[]).next().is_none());
    }
}
