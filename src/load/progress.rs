//! The line that shows, once a second, how far a group of jobs is.

use super::units::{latency_unit, short_bytes, short_count};
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// What a thread tells of itself while it runs, twice a second.
#[derive(Default)]
pub struct Live {
    pub operations: AtomicU64,
    pub bytes: AtomicU64,
    /// Of the worse direction, since the measurement began.
    pub p99_ns: AtomicU64,
    pub per_mille: AtomicU64,
}

/// Watches threads until `done`, and prints a line a second to stderr if `shown`. Ends the line when it is over.
pub fn watch(names: &str, lives: &[Live], shown: bool, done: impl Fn() -> bool) {
    let mut last = (Instant::now(), 0, 0);
    let mut printed = false;
    while !done() {
        std::thread::sleep(Duration::from_millis(20));
        let elapsed = last.0.elapsed();
        if !shown || elapsed < Duration::from_secs(1) {
            continue;
        }
        let sum = |field: fn(&Live) -> &AtomicU64| lives.iter().map(|live| field(live).load(Relaxed)).sum::<u64>();
        let worst = |field: fn(&Live) -> &AtomicU64| lives.iter().map(|live| field(live).load(Relaxed)).max();
        let (operations, bytes) = (sum(|live| &live.operations), sum(|live| &live.bytes));
        let percent = sum(|live| &live.per_mille) / 10 / lives.len().max(1) as u64;
        let p99_ns = worst(|live| &live.p99_ns).unwrap_or(0);
        let line = line(names, percent, (operations - last.1, bytes - last.2), elapsed, p99_ns);
        // Nobody may be reading; that is no reason to stop.
        let _ = write!(std::io::stderr(), "\r{line}\x1b[K");
        printed = true;
        last = (Instant::now(), operations, bytes);
    }
    if printed {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}

/// Does `work`; while it takes, says once a second on stderr what takes so long, if `shown`.
pub fn while_shown<T>(what: &str, shown: bool, work: impl FnOnce() -> T) -> T {
    let (over, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut seconds = 0;
            while shown && ended.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                seconds += 1;
                // Nobody may be reading; that is no reason to stop.
                let _ = write!(std::io::stderr(), "\r{what}: {seconds} s\x1b[K");
            }
            if seconds > 0 {
                let _ = write!(std::io::stderr(), "\r\x1b[K");
            }
        });
        // The sender is dropped when the work is over, however it ends.
        let _over = over;
        work()
    })
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn line(names: &str, percent: u64, (operations, bytes): (u64, u64), elapsed: Duration, p99_ns: u64) -> String {
    let seconds = elapsed.as_secs_f64();
    let (unit, scale) = latency_unit(p99_ns as f64);
    format!(
        "{names}: [{percent:3}%] [{} IOPS] [{}/s] [p99 {:.1} {unit}]",
        short_count((operations as f64 / seconds).round()),
        short_bytes((bytes as f64 / seconds).round()),
        p99_ns as f64 / scale,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_shown_or_not() {
        let begin = Instant::now();
        assert_eq!((while_shown("work", false, || 1), while_shown("work", true, || 2)), (1, 2));
        assert!(begin.elapsed() < Duration::from_secs(1), "it waits for the next line");
    }

    #[test]
    fn the_line_holds_rates_of_the_last_second() {
        let line = line("put", 42, (200_000, 200_000 * 1_024), Duration::from_secs(2), 1_500_000);
        assert_eq!(line, "put: [ 42%] [100k IOPS] [97.7MiB/s] [p99 1500.0 usec]");
    }
}
