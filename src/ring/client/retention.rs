//! What a stream keeps.

use std::time::Duration;

use crate::ring::protocol::RETENTION_AS_IS;

use super::request::{BAD_REQUEST, ttl_ms};
use super::{Client, ClientError, Object, Request};

/// What a stream keeps: what is beyond a bound is trimmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// At most so many bytes, where each event counts its own and 32 B; the newest one stays. `None`: no bound.
    pub bytes: Option<u64>,
    /// Events are kept for at least so long, and up to a 64th of it longer; in ms, rounded up, at most `TTL_MS_MAX`.
    /// `None`: no bound.
    pub age: Option<Duration>,
}

impl Retention {
    /// As the wire has it.
    pub(super) fn words(self) -> Result<(u64, u64), ClientError> {
        let bytes = self.bytes.filter(|bytes| (1..RETENTION_AS_IS).contains(bytes));
        if bytes != self.bytes {
            return Err(BAD_REQUEST);
        }
        Ok((bytes.unwrap_or(0), self.age.map_or(Ok(0), ttl_ms)?))
    }
}

impl Client {
    /// Bounds what a stream keeps, from now on and after any restart. Both bounds are as given.
    ///
    /// # Errors
    /// `BadRequest` for a bound of 0 or an age beyond `TTL_MS_MAX`; else as `wait`.
    pub fn set_retention(&mut self, stream: Object, retention: Retention) -> Result<(), ClientError> {
        self.call(&Request::Retain { stream, set: Some(retention) })?.0.ok().map(|_| ())
    }

    /// What a stream keeps.
    ///
    /// # Errors
    /// As `wait`.
    pub fn retention(&mut self, stream: Object) -> Result<Retention, ClientError> {
        let answer = self.call(&Request::Retain { stream, set: None })?.0.ok()?;
        let bound = |word: u64| (word > 0).then_some(word);
        Ok(Retention { bytes: bound(answer.version), age: bound(answer.aux).map(Duration::from_millis) })
    }
}
