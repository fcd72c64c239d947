//! Why a session ends.

/// Why the daemon ended a session; stands in the segment's header and in the last message on the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum EndReason {
    /// The daemon stopped in good order.
    Stopping = 1,
    /// A submission's sequence number is neither the expected one nor the one a lap before.
    BadSequence = 2,
    /// The completion ring's head went backwards or beyond its tail.
    BadCompletionHead = 3,
    /// An unknown opcode.
    BadOpcode = 4,
    /// Unknown flags, or a durability that does not exist.
    BadFlags = 5,
    /// A payload or reply range that does not lie inside the arena.
    BadRange = 6,
    /// A key, name, value or batch longer than the protocol allows.
    BadPayload = 7,
}

impl EndReason {
    #[must_use]
    pub fn from_wire(value: u32) -> Option<EndReason> {
        use EndReason::{BadCompletionHead, BadFlags, BadOpcode, BadPayload, BadRange, BadSequence, Stopping};
        [Stopping, BadSequence, BadCompletionHead, BadOpcode, BadFlags, BadRange, BadPayload]
            .into_iter()
            .find(|reason| *reason as u32 == value)
    }

    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            EndReason::Stopping => "the daemon stopped",
            EndReason::BadSequence => "a submission entry carries a sequence number that is not its own",
            EndReason::BadCompletionHead => "the completion head moved backwards or past the tail",
            EndReason::BadOpcode => "a submission has an unknown opcode",
            EndReason::BadFlags => "a submission has unknown flags",
            EndReason::BadRange => "a submission names bytes outside the arena",
            EndReason::BadPayload => "a submission's key or value is longer than the protocol allows",
        }
    }
}
