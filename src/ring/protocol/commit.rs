//! The entries of a commit: what a transaction read, then what it writes. The log keeps the writes in this very form.

use crate::bytes::{array, get_u16, get_u32, len_u16, len_u32, put_u16, put_u32};
use crate::types::ObjectId;

/// Header of an entry; key and value follow, without padding.
pub const HEADER_BYTES: usize = 12;
pub const OBJECT: usize = 0; // u32, number of the space
pub const VALUE_BYTES: usize = 4; // u32; of a read 8, of a delete 0
pub const KEY_BYTES: usize = 8; // u16
pub const KIND: usize = 10; // u8, below; a zero follows

/// The value is a u64: the version that the key has to have, 0: absent.
pub const READ: u8 = 0;
pub const PUT: u8 = 1;
pub const DELETE: u8 = 2;

/// Entries of one commit: what a reactor can look up without holding other clients up.
pub const ENTRIES_MAX: usize = 1_024;

/// One key of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub object: ObjectId,
    pub key: &'a [u8],
    pub what: What<'a>,
}

/// What a transaction did with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What<'a> {
    /// It saw this version; 0: it saw that the key is absent.
    Read(u64),
    /// The key stays: a time to live that it had is gone.
    Put(&'a [u8]),
    /// Of an absent key too.
    Delete,
}

impl Entry<'_> {
    #[must_use]
    pub fn is_read(&self) -> bool {
        matches!(self.what, What::Read(_))
    }

    /// Bytes that it takes, header included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.key.len() + self.value_bytes()
    }

    fn value_bytes(&self) -> usize {
        match self.what {
            What::Read(_) => 8,
            What::Put(value) => value.len(),
            What::Delete => 0,
        }
    }

    /// Hands its bytes to `put`, piece by piece.
    ///
    /// # Panics
    /// When the key or the value is longer than the protocol allows.
    pub fn encode(&self, mut put: impl FnMut(&[u8])) {
        let mut header = [0; HEADER_BYTES];
        put_u32(&mut header, OBJECT, self.object.0);
        put_u32(&mut header, VALUE_BYTES, len_u32(self.value_bytes()));
        put_u16(&mut header, KEY_BYTES, len_u16(self.key.len()));
        header[KIND] = match self.what {
            What::Read(_) => READ,
            What::Put(_) => PUT,
            What::Delete => DELETE,
        };
        put(&header);
        put(self.key);
        match self.what {
            What::Read(version) => put(&version.to_le_bytes()),
            What::Put(value) => put(value),
            What::Delete => {}
        }
    }
}

/// The first entry, and what follows it. `None`: there is no valid one.
#[must_use]
pub fn split_first(bytes: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let (key, rest) = rest.split_at_checked(usize::from(get_u16(header, KEY_BYTES)))?;
    let (value, rest) = rest.split_at_checked(get_u32(header, VALUE_BYTES) as usize)?;
    let what = match (header[KIND], value.len()) {
        (READ, 8) => What::Read(u64::from_le_bytes(array(value, 0))),
        (PUT, _) => What::Put(value),
        (DELETE, 0) => What::Delete,
        _ => return None,
    };
    let entry = Entry { object: ObjectId(get_u32(header, OBJECT)), key, what };
    (header[KIND + 1] == 0).then_some((entry, rest))
}

/// All entries; ends before one that is not valid.
pub fn entries(mut bytes: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    std::iter::from_fn(move || {
        let (entry, rest) = split_first(bytes)?;
        bytes = rest;
        Some(entry)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRIES: [Entry<'_>; 4] = [
        Entry { object: ObjectId(1), key: b"read", what: What::Read(77) },
        Entry { object: ObjectId(2), key: b"put", what: What::Put(b"value") },
        Entry { object: ObjectId(3), key: b"", what: What::Put(b"") },
        Entry { object: ObjectId(4), key: b"delete", what: What::Delete },
    ];

    fn encoded() -> Vec<u8> {
        let mut bytes = Vec::new();
        ENTRIES.iter().for_each(|entry| entry.encode(|part| bytes.extend_from_slice(part)));
        bytes
    }

    #[test]
    fn entries_come_back_as_they_went_in() {
        let bytes = encoded();
        assert_eq!(bytes.len(), ENTRIES.iter().map(Entry::bytes).sum::<usize>());
        assert_eq!(entries(&bytes).collect::<Vec<_>>(), ENTRIES);
    }

    #[test]
    fn what_is_cut_or_odd_is_no_entry() {
        let bytes = encoded();
        let last = ENTRIES[3].bytes();
        for cut in 1..last {
            assert_eq!(entries(&bytes[..bytes.len() - cut]).collect::<Vec<_>>(), ENTRIES[..3], "cut by {cut}");
        }
        let odd = |at: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            split_first(&bytes).is_none()
        };
        assert!(
            odd(KIND, 3) && odd(KIND, DELETE) && odd(KIND + 1, 1) && odd(VALUE_BYTES, 7) && odd(VALUE_BYTES + 3, 1)
        );
        assert!(odd(KEY_BYTES + 1, 0xff));
    }
}
