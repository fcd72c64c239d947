//! Watches the reactors from a thread of its own: a device that does not answer is told of before anybody is hurt, and a
//! reactor that the kernel does not give back ends the process.
//!
//! A reactor gives a silent device up by itself (`reactor/stall.rs`) while it turns. Where the way to the drive blocks
//! (tier blocking, a flush on a file, a small lone write), the thread itself hangs in the kernel. Nobody can answer its
//! clients then, nor end it; so all clients are hung up on, and find out.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::device::Tier;
use crate::device::open::OpenDevice;
use crate::error::Result;
use crate::reactor::{Address, STALL_NS};
use crate::ring::server::HangUp;

const INTERVAL: Duration = Duration::from_secs(1);
/// What the listener's thread gets to hang up, before the process ends.
const HANG_UP: Duration = Duration::from_millis(200);
const IO_TIMEOUT: &str = "/sys/module/nvme_core/parameters/io_timeout";

/// What the lines say of the device.
#[derive(Clone, Debug)]
pub struct Watched {
    pub name: String,
    /// Of a command in the kernel, where that has one.
    pub kernel_timeout: Option<Duration>,
    pub timeout: Duration,
}

impl Watched {
    #[must_use]
    pub fn of(device: &OpenDevice, timeout: Duration) -> Watched {
        let name = device.name();
        let kernel_timeout =
            if device.tier() == Tier::Spdk { None } else { kernel_timeout(&name, IO_TIMEOUT.as_ref()) };
        Watched { name, kernel_timeout, timeout }
    }

    /// What a person should know when the two time-outs are the wrong way round.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let kernel = self.kernel_timeout.filter(|kernel| *kernel >= self.timeout)?;
        Some(format!(
            "device.timeout is {} s, and the kernel gives a command up after {} s ({IO_TIMEOUT}): a drive that the kernel \
             would bring back is given up before; set device.timeout above it",
            self.timeout.as_secs(),
            kernel.as_secs()
        ))
    }

    fn silent(&self, reactor: usize, silence: Duration) -> String {
        let Watched { name, kernel_timeout, timeout } = self;
        let kernel = kernel_timeout.map_or_else(
            || "the kernel may have no time-out for it".to_owned(),
            |kernel| format!("the kernel gives a command up after {} s ({IO_TIMEOUT})", kernel.as_secs()),
        );
        format!(
            "reactor {reactor}: {name} has not ended an operation for {} s; {kernel}, Forebay after {} s \
             (device.timeout); look at `dmesg`, and at docs/operations.md, step 8",
            silence.as_secs(),
            timeout.as_secs()
        )
    }
}

/// Only NVMe has it; others keep theirs in places of their own.
fn kernel_timeout(name: &str, parameter: &Path) -> Option<Duration> {
    let file = Path::new(name).canonicalize().ok()?;
    file.file_name()?.to_str()?.strip_prefix("nvme")?;
    std::fs::read_to_string(parameter).ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The watching thread. Ends when this is dropped.
pub struct Watchdog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(addresses: Arc<[Address]>, watched: Watched, clients: HangUp) -> Result<Watchdog> {
        let (stop, stopped) = mpsc::channel();
        let watch = move || {
            let mut sights: Vec<Sight> = addresses.iter().map(|_| Sight::default()).collect();
            let mut looked = Instant::now();
            while matches!(stopped.recv_timeout(INTERVAL), Err(RecvTimeoutError::Timeout)) {
                // Not what the whole machine slept through.
                let passed = looked.elapsed().min(INTERVAL * 2);
                looked = Instant::now();
                for (number, (address, sight)) in addresses.iter().zip(&mut sights).enumerate() {
                    let pulse = &address.pulse;
                    let oldest = Duration::from_nanos(pulse.oldest_ns());
                    match sight.look(pulse.last_beat_ns(), oldest, watched.timeout, passed) {
                        Found::Well => {}
                        Found::Silent(silence) => tracing::warn!("{}", watched.silent(number, silence)),
                        Found::Again => tracing::info!("reactor {number}: {} answers again", watched.name),
                        Found::Hung(silence) => give_up(number, &watched, silence, &clients),
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn(watch)?;
        Ok(Watchdog { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The kernel may keep the process until the device answers; the clients do not wait for that.
fn give_up(number: usize, watched: &Watched, silence: Duration, clients: &HangUp) {
    tracing::error!(
        "reactor {number} has been inside the kernel for {} s, waiting for {}: this daemon ends, and its clients are hung up \
         on. What was acknowledged is kept as promised. The device stays taken until the kernel gives the thread back: look \
         at `dmesg`, mend the device, and start again",
        silence.as_secs(),
        watched.name
    );
    clients.all();
    std::thread::sleep(HANG_UP);
    std::process::exit(1);
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Well,
    /// Worth a line; each comes after twice the time of the one before.
    Silent(Duration),
    Again,
    /// The thread does not turn, and has not for too long.
    Hung(Duration),
}

/// What was seen of one reactor.
#[derive(Default)]
struct Sight {
    beat_ns: Option<u64>,
    still: Duration,
    told: Duration,
}

impl Sight {
    fn look(&mut self, beat_ns: Option<u64>, oldest: Duration, timeout: Duration, passed: Duration) -> Found {
        let turns = beat_ns.is_none() || std::mem::replace(&mut self.beat_ns, beat_ns) != beat_ns;
        self.still = if turns { Duration::ZERO } else { self.still + passed };
        if self.still >= timeout {
            return Found::Hung(self.still);
        }
        let silence = self.still.max(oldest);
        let stall = Duration::from_nanos(STALL_NS).min(timeout);
        if silence < stall {
            return if std::mem::take(&mut self.told).is_zero() { Found::Well } else { Found::Again };
        }
        if silence < self.told * 2 {
            return Found::Well;
        }
        self.told = silence;
        Found::Silent(silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_silent_device_is_told_of_at_twice_the_time_each_and_once_when_it_is_back() {
        let mut sight = Sight::default();
        let mut told = Vec::new();
        for second in 0..90 {
            // It turns all the time.
            let oldest = if second < 80 { seconds(second) } else { Duration::ZERO };
            match sight.look(Some(second), oldest, TIMEOUT, seconds(1)) {
                Found::Silent(silence) => told.push(silence.as_secs()),
                Found::Again => told.push(0),
                Found::Well => {}
                Found::Hung(_) => panic!("it turns"),
            }
        }
        assert_eq!(told, [5, 10, 20, 40, 0]);
    }

    #[test]
    fn a_thread_that_does_not_turn_is_hung_and_one_that_sleeps_is_not() {
        let mut sight = Sight::default();
        let mut look = |passed, beat_ns| sight.look(beat_ns, Duration::ZERO, TIMEOUT, seconds(passed));
        assert_eq!((look(1, None), look(1_000, None)), (Found::Well, Found::Well));
        assert_eq!((look(1, Some(7)), look(4, Some(7))), (Found::Well, Found::Well));
        assert_eq!(look(2, Some(7)), Found::Silent(seconds(6)));
        assert_eq!(look(1, Some(8)), Found::Again);
        assert_eq!(look(59, Some(8)), Found::Silent(seconds(59)));
        assert_eq!(look(1, Some(8)), Found::Hung(seconds(60)));
    }

    #[test]
    fn the_lines_name_both_time_outs() {
        let name = "/dev/nvme0n1".to_owned();
        let watched = Watched { name, kernel_timeout: Some(seconds(30)), timeout: TIMEOUT };
        let line = watched.silent(1, seconds(12));
        for words in
            ["reactor 1: /dev/nvme0n1", "for 12 s", "after 30 s (/sys/module/nvme_core", "60 s (device.timeout)"]
        {
            assert!(line.contains(words), "{line}");
        }
        assert_eq!(watched.note(), None);
        assert!(Watched { timeout: seconds(30), ..watched }.note().is_some_and(|note| note.contains("is 30 s")));
        let parameter = std::env::temp_dir().join(format!("forebay-io-timeout-{}", std::process::id()));
        std::fs::write(&parameter, "30\n").unwrap();
        assert_eq!(kernel_timeout("/dev/null", &parameter), None, "not NVMe");
        std::fs::remove_file(&parameter).unwrap();
    }
}
