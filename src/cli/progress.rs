//! Progress on standard error: a line a second, once a step has taken longer than one.

use std::io::{self, Write};
use std::time::{Duration, Instant};

pub struct Progress {
    next: Instant,
}

impl Progress {
    pub fn new() -> Progress {
        Progress { next: Instant::now() + Duration::from_secs(1) }
    }

    /// Shows a line if one is due.
    pub fn show(&mut self, line: impl FnOnce() -> String) {
        let now = Instant::now();
        if now >= self.next {
            self.next = now + Duration::from_secs(1);
            // Progress that nobody can see is no reason to stop.
            _ = writeln!(io::stderr(), "forebay: {}", line());
        }
    }
}
