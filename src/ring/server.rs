//! The daemon's side of the rings: a `SessionRing` for each client and reactor, and the `Listener` that makes them.

mod handshake;
mod listener;
mod mailbox;
mod order;
mod session;

pub use handshake::{Access, pair_in_process};
pub use listener::{HangUp, Listener, ListenerOptions};
pub use mailbox::{Control, Mailbox};
pub use order::Ordered;
pub use session::{ReplyRoom, ReplyTooSmall, Rights, SessionId, SessionRing};
