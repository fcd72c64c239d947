//! Reads of a snapshot: of everything, as it was at one moment.

use crate::ring::protocol::Status;

use super::calls::larger_reply;
use super::scan::Show;
use super::{Client, ClientError, Object, Request, ScanPage, ScanRange, Snapshot, Version};

impl Client {
    /// Takes a snapshot of everything. In it is every write that was acknowledged before this call; and with a write all
    /// that was acknowledged before that one was asked for. It costs the daemon memory for what is written over meanwhile,
    /// so `release` it soon. It ends with this connection. Blocks.
    ///
    /// # Errors
    /// `TooManySnapshots`: of all clients, or this one has half of what there may be. `Busy`: a reactor of the daemon was held up
    /// for a second, and there is none. Else as `wait`.
    pub fn snapshot(&mut self) -> Result<Snapshot, ClientError> {
        Ok(Snapshot(self.call(&Request::Snapshot)?.0.ok()?.version))
    }

    /// Ends a snapshot of this connection.
    ///
    /// # Errors
    /// `SnapshotGone` when it has ended; else as `wait`.
    pub fn release(&mut self, snapshot: Snapshot) -> Result<(), ClientError> {
        self.call(&Request::Release { snapshot })?.0.ok().map(|_| ())
    }

    /// The value of a key and its version as a snapshot sees them, `None` when it was absent.
    ///
    /// # Errors
    /// `SnapshotGone` when the daemon gave it up; else as `wait`.
    pub fn get_at(
        &mut self,
        snapshot: Snapshot,
        space: Object,
        key: &[u8],
    ) -> Result<Option<(Version, Vec<u8>)>, ClientError> {
        loop {
            let request = Request::GetAt { snapshot, space, key, value_bytes_max: self.value_bytes };
            let (answer, value) = self.call(&request)?;
            match answer.status {
                Status::NotFound => return Ok(None),
                Status::ReplyTooSmall => self.value_bytes = larger_reply(self.value_bytes, answer.aux)?,
                _ => return Ok(Some((answer.ok()?.version, value))),
            }
        }
    }

    /// As `scan`, as a snapshot sees the space: all pages together are of one moment.
    ///
    /// # Errors
    /// `SnapshotGone` when the daemon gave it up; else as `wait`.
    pub fn scan_at(
        &mut self,
        snapshot: Snapshot,
        space: Object,
        range: &ScanRange<'_>,
        limit: usize,
    ) -> Result<ScanPage, ClientError> {
        self.scan_of((Some(snapshot), Show::Pairs), space, range, limit)
    }

    /// The first offset and the next one of a stream when a snapshot was taken. Events are read with `read`, up to the next
    /// one; what is trimmed meanwhile is gone for snapshots too.
    ///
    /// # Errors
    /// `SnapshotGone` when the daemon gave it up; else as `wait`.
    pub fn extent(&mut self, snapshot: Snapshot, stream: Object) -> Result<(u64, u64), ClientError> {
        let answer = self.call(&Request::Extent { snapshot, stream })?.0.ok()?;
        Ok((answer.version, answer.aux))
    }
}
