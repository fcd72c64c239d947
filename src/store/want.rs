//! What a request waits for that is on the drive and not in memory, and what it gets.

use crate::store::stream::Head;
use crate::types::{DeviceAddress, ObjectId};

/// Whose value it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Of a key, by its slot in the index. `in_commit`: the record is a commit.
    Key { slot: u32, version: u64, in_commit: bool },
    /// Of the event with this offset. The record may hold others.
    Event(u64),
}

/// A value that is on the drive and not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    pub whose: Whose,
    pub object: ObjectId,
    /// Where its record begins.
    pub place: DeviceAddress,
    pub key_bytes: u16,
    pub value_bytes: u32,
}

/// A value that was read from the drive.
#[derive(Clone, Copy)]
pub struct Fetched<'a> {
    pub whose: Whose,
    pub object: ObjectId,
    pub value: &'a [u8],
    /// The commit that says it, if one does.
    pub commit: &'a [u8],
    /// Of an event that is linked: the head before it.
    pub head: Option<Head>,
}
