//! Orders to the daemon: they come over its socket, and somebody else carries them out and answers.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use forebay_sys::net::Socket;

use super::handshake::answer_message;
use crate::ring::protocol::{self, order, welcome};

/// An order that is not answered yet.
#[derive(Debug)]
pub struct Ordered {
    /// Where the drive is now; `None`: where it was.
    pub path: Option<PathBuf>,
    connection: Arc<Socket>,
}

impl Ordered {
    /// Answers, in words. Who gave the order may have gone.
    pub fn answer(self, result: Result<&str, &str>) {
        let (status, text) = match result {
            Ok(text) => (welcome::WELCOME, text),
            Err(text) => (welcome::REFUSED, text),
        };
        let _ = self.connection.send(&answer_message(status, text), &[]);
    }
}

/// Whether a first message is an order, and no hello.
pub(super) fn is_order(message: &[u8]) -> bool {
    message.starts_with(&order::MAGIC_VALUE.to_le_bytes())
}

/// # Errors
/// One sentence for who gave it.
pub(super) fn parse(message: &[u8], connection: &Arc<Socket>) -> Result<Ordered, String> {
    if message.len() < order::PATH || message.len() > order::BYTES_MAX {
        return Err(format!("an order has {} to {} B, not {}", order::PATH, order::BYTES_MAX, message.len()));
    }
    let half = |at: usize| u32::from_le_bytes(message[at..at + 4].try_into().expect("four bytes"));
    if half(order::VERSION) != protocol::VERSION {
        return Err("the command is of another release than the daemon; use the same for both".into());
    }
    if half(order::VERB) != order::RESUME {
        return Err(format!("the daemon knows no order {}", half(order::VERB)));
    }
    let path = &message[order::PATH..];
    if path.contains(&0) {
        return Err("a path has no zero byte".into());
    }
    let path = (!path.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(path)));
    Ok(Ordered { path, connection: connection.clone() })
}
