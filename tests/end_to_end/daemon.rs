//! A daemon as a process, in a place of its own that is gone at the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use forebay::appliance::prepare::{FormatOptions, SegmentSize, format_device};
use forebay::config::Config;
use forebay::ring::client::{Client, ConnectOptions};
use forebay::soak::daemon;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// Nothing here takes so long. What does is a hang.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A number that an environment variable gives.
pub fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Files of one test: a device, a socket, flight recorders, logs.
pub struct Place {
    directory: PathBuf,
    flights: PathBuf,
    config: String,
}

impl Place {
    pub fn new(name: &str) -> Place {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let unique = format!("forebay-{name}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(&unique);
        fs::create_dir_all(&directory).expect("the temporary directory is writable");
        let in_memory = Path::new("/dev/shm").join(&unique);
        let flights = if fs::create_dir(&in_memory).is_ok() { in_memory } else { directory.clone() };
        let place = Place { directory, flights, config: String::new() };
        place.configured(1, "")
    }

    /// A small appliance with so many reactors. `more` are lines of TOML, each as "section.key = value", and so is what
    /// FOREBAY_TEST_CONFIG holds, for every appliance.
    pub fn configured(mut self, reactors: u32, more: &str) -> Place {
        let flights = self.flights.display();
        self.config = format!(
            "device.hugepages = false\nformat.segment_bytes = \"1MiB\"\nreactors.count = {reactors}\n\
             reactors.spin = \"50us\"\nwal.frame_bytes_max = \"64KiB\"\nwal.window_interval = \"20ms\"\n\
             limits.value_bytes_max = \"256KiB\"\nlimits.memory_bytes_max = \"64MiB\"\nlimits.keys_max = 10000\n\
             limits.waiting_reads_max = 16\nrings.arena_bytes = \"2MiB\"\nrings.arena_bytes_max = \"8MiB\"\n\
             rings.sq_entries = 64\nrings.cq_entries = 128\nflight.directory = \"{flights}\"\n{more}\n"
        );
        if let Ok(tier) = std::env::var("FOREBAY_TEST_TIER") {
            self.config += &format!("device.tier = \"{tier}\"\n");
        }
        if let Ok(lines) = std::env::var("FOREBAY_TEST_CONFIG") {
            self.config += &format!("{lines}\n");
        }
        fs::write(self.path("config.toml"), &self.config).expect("the place is writable");
        self
    }

    /// The same configuration, for an appliance in this process.
    pub fn config(&self) -> Config {
        Config::load(&self.path("config.toml")).expect("the configuration is valid")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// A file, or the drive that `FOREBAY_TEST_DEVICE` names: all of it is lost, and one test at a time may use it.
    pub fn device(&self) -> PathBuf {
        std::env::var_os("FOREBAY_TEST_DEVICE").map_or_else(|| self.path("device"), PathBuf::from)
    }

    /// An empty namespace.
    pub fn format(&self, capacity_mib: u64, shards: u32) {
        let is_file = std::env::var_os("FOREBAY_TEST_DEVICE").is_none();
        let capacity_bytes = is_file.then_some(capacity_mib << 20);
        let options = FormatOptions { capacity_bytes, segment_size: SegmentSize::Bytes(1 << 20), shards, force: true };
        format_device(&self.device(), &options, &mut |_, _| {}).expect("the file can be formatted");
    }

    /// What a power cut takes with it beside the drive's cache.
    pub fn lose_memory(&self) {
        for entry in fs::read_dir(&self.flights).expect("the directory is there") {
            let path = entry.expect("it is readable").path();
            if path.extension().is_some_and(|extension| extension == "flight") {
                fs::remove_file(path).expect("it is ours");
            }
        }
    }

    /// A subcommand that talks to the daemon of this place.
    pub fn forebay(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.args(arguments).arg("--socket").arg(self.socket()).stdin(Stdio::null()).env_remove("RUST_LOG");
        command
    }

    /// A connection to an appliance that listens.
    pub fn connect(&self) -> Client {
        Client::connect(&self.socket(), &ConnectOptions::default()).expect("the appliance listens")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.directory);
        _ = fs::remove_dir_all(&self.flights);
    }
}

/// `forebay serve` in such a place. Killed when it is dropped.
pub struct Daemon(daemon::Daemon);

impl Daemon {
    /// Starts it and does not wait until it is ready.
    pub fn start(place: &Place) -> Daemon {
        Daemon::run(place, place.forebay(&["serve"]))
    }

    /// Starts one whose drive can fail: see `let_write`.
    pub fn start_breakable(place: &Place) -> Daemon {
        // The limit also sends a signal, which the shell has the daemon ignore.
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_forebay"), "serve", "--socket"]);
        shell.arg(place.socket());
        Daemon::run(place, shell)
    }

    /// Makes every further write of the daemon to a file fail with EFBIG, as a broken drive would with EIO; or mends it.
    pub fn let_write(&self, may: bool) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a child has a process id");
        let limit = Rlimit { current: if may { None } else { Some(0) }, maximum: None };
        prlimit(Some(pid), Resource::Fsize, limit).expect("a process may limit its own child");
    }

    /// Starts it by a command of the test's own.
    pub fn run(place: &Place, mut command: Command) -> Daemon {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let log = place.path(&format!("log-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        command.arg("--config").arg(place.path("config.toml")).arg("--device").arg(place.device());
        Daemon(daemon::Daemon::start(command, &place.socket(), &log).expect("the program starts"))
    }

    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        self.0.log()
    }

    /// A number that the log names as `name=number`.
    pub fn logged(&self, name: &str) -> Option<u64> {
        self.0.logged(name)
    }

    /// A connection, as soon as it listens.
    pub fn connect(&mut self, place: &Place) -> Client {
        self.connect_with(place, &ConnectOptions { spin: Duration::ZERO, ..ConnectOptions::default() })
    }

    pub fn connect_with(&mut self, _: &Place, options: &ConnectOptions) -> Client {
        let deadline = Instant::now() + PATIENCE;
        let client = self.0.connect(options, &|| Instant::now() < deadline).unwrap_or_else(|error| panic!("{error}"));
        // It listens a moment before it says so, and before a signal stops it in good order.
        while !self.log().contains(" ready ") && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        client
    }

    /// SIGKILL, and the end of the process.
    pub fn kill(&mut self) {
        self.0.kill();
    }

    /// SIGTERM, and how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        self.0.stop(PATIENCE).unwrap_or_else(|error| panic!("{error}:\n{}", self.log()))
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.0.wait(PATIENCE).unwrap_or_else(|error| panic!("{error}:\n{}", self.log()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}
