//! A soak from the first start to the last look.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus as Random;

use super::daemon::Daemon;
use super::plan::Plan;
use super::report::{Report, Sample};
use super::writer::{End, Watch, Writer};
use crate::appliance::offline::{self, Offline};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::ring::client::{Client, ConnectOptions};
use crate::wal::superblock::Superblock;
use crate::wal::verify::failure;

/// Nothing in good order takes so long. What does is a hang.
const STOP_PATIENCE: Duration = Duration::from_secs(600);
const TICK: Duration = Duration::from_millis(2);
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// A kill that was due comes this much later at most, so that it meets any moment.
const KILL_DELAY_US_MAX: u64 = 20_000;
/// A daemon that is killed while it starts lives so long at most.
const START_US_MAX: u64 = 60_000;

/// What to soak, and how long.
#[derive(Clone, Debug)]
pub struct Options {
    pub device: PathBuf,
    /// The program with `serve`.
    pub program: PathBuf,
    /// The configuration of the daemon, as a file; it holds what `run` is given.
    pub config: Option<PathBuf>,
    /// For the socket and the daemon's log.
    pub directory: PathBuf,
    /// So many times the size of the device is taken from clients.
    pub overwrite: u32,
    pub kills: u32,
    pub clients: u32,
    /// How much of the room keys fill.
    pub fill_percent: u32,
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            device: PathBuf::new(),
            program: PathBuf::new(),
            config: None,
            directory: PathBuf::new(),
            overwrite: 10,
            kills: 10,
            clients: 4,
            fill_percent: 60,
            seed: 1,
        }
    }
}

/// How far a soak is.
#[derive(Clone, Copy, Debug)]
pub enum Now<'a> {
    Doing(&'a str),
    Writing { taken_bytes: u64, target_bytes: u64, bytes_per_second: u64, kills: u32 },
    Recovered { kills: u32, ms: u64 },
}

/// Runs a soak on a formatted namespace that holds nothing, with daemons of its own. Blocks. `interrupted`: it ends, in
/// good order, and says in its report that it was.
///
/// # Errors
/// The first wrong answer; a daemon that ends by itself, or does not end; what `verify` finds.
pub fn run(
    config: &Config,
    options: &Options,
    interrupted: &AtomicBool,
    tell: &mut dyn FnMut(Now<'_>),
) -> Result<Report> {
    let layout = {
        let mut offline = Offline::open(&options.device, true)?;
        Superblock::load(&mut offline.blocks, offline.device_bytes)?.layout
    };
    let plan = Plan::new(config, &layout, options)?;
    let watch = Arc::new(Watch::default());
    let end = if config.flight_recorder() { End::Kill } else { End::PowerCut };
    let seeds = plan.kinds.iter().zip(1_u64..).map(|(kind, number)| (kind, options.seed.rotate_left(32) ^ number));
    let writers = seeds.map(|(kind, seed)| Writer::new(kind.clone(), plan.volume, end, seed, watch.clone()));
    let mut soak = Soak {
        options,
        interrupted,
        writers: writers.collect(),
        random: Random::seed_from_u64(options.seed ^ u64::MAX),
        watch,
        report: Report::new(options.seed, layout.capacity_bytes, plan.target_bytes),
        plan,
        starts: 0,
    };
    soak.lives(tell)?;
    if !soak.report.interrupted {
        soak.last_look(config, tell)?;
    }
    soak.report.take(&soak.writers);
    Ok(soak.report)
}

struct Soak<'a> {
    options: &'a Options,
    interrupted: &'a AtomicBool,
    plan: Plan,
    writers: Vec<Writer>,
    /// Of moments; what clients choose has a seed of its own.
    random: Random,
    watch: Arc<Watch>,
    report: Report,
    starts: u32,
}

impl Soak<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.options.directory.join(name)
    }

    fn start(&mut self) -> Result<Daemon> {
        let mut command = Command::new(&self.options.program);
        let socket = self.path("socket");
        command.args(["serve", "--device"]).arg(&self.options.device).arg("--socket").arg(&socket);
        if let Some(config) = &self.options.config {
            command.arg("--config").arg(config);
        }
        // A terminal's Ctrl-C is for this process alone.
        command.process_group(0);
        self.starts += 1;
        Daemon::start(command, &socket, &self.path(&format!("log-{}", self.starts)))
    }

    fn connect(&self, daemon: &mut Daemon) -> Result<Client> {
        let options = ConnectOptions { spin: Duration::ZERO, ..ConnectOptions::default() };
        daemon.connect(&options, &|| !self.interrupted.load(Relaxed))
    }

    /// Starts and kills until all is written. The last daemon stops in good order.
    fn lives(&mut self, tell: &mut dyn FnMut(Now<'_>)) -> Result<()> {
        let begun = Instant::now();
        loop {
            while self.starts > 0 && self.random.random_range(0..4) == 0 {
                let mut daemon = self.start()?;
                thread::sleep(Duration::from_micros(self.random.random_range(0..START_US_MAX)));
                daemon.kill();
                self.report.kills_at_start += 1;
            }
            let since = Instant::now();
            let mut daemon = self.start()?;
            let connected = self.connect(&mut daemon);
            if self.interrupted.load(Relaxed) {
                self.report.interrupted = true;
                daemon.stop(STOP_PATIENCE)?;
                return Ok(());
            }
            let mut client = connected?;
            if self.starts == 1 {
                must_be_empty(&mut client)?;
            } else {
                let ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.report.recovery_ms.push(ms);
                self.report.replayed_bytes += daemon.logged("replayed_bytes").unwrap_or(0);
                tell(Now::Recovered { kills: self.report.kills, ms });
            }
            self.check(&mut daemon)?;
            let killed = self.live(&mut daemon, &mut client, begun, tell)?;
            if !killed {
                let status = daemon.stop(STOP_PATIENCE)?;
                if !status.success() {
                    return Err(daemon.failure(status));
                }
                self.report.elapsed = begun.elapsed();
                return Ok(());
            }
        }
    }

    /// Each client reads all that is its, side by side.
    fn check(&mut self, daemon: &mut Daemon) -> Result<()> {
        let clients = (0..self.writers.len()).map(|_| self.connect(daemon)).collect::<Result<Vec<Client>>>()?;
        let begun = Instant::now();
        let checked = together(&mut self.writers, clients, |writer, client| writer.check(client));
        self.report.checking += begun.elapsed();
        self.report.checks += 1;
        checked.into_iter().try_for_each(|beyond| beyond.map(|beyond| self.report.beyond += beyond))
    }

    /// All clients write until the daemon is killed, all is written, or somebody interrupts. Whether it was killed.
    fn live(
        &mut self,
        daemon: &mut Daemon,
        monitor: &mut Client,
        begun: Instant,
        tell: &mut dyn FnMut(Now<'_>),
    ) -> Result<bool> {
        let clients = (0..self.writers.len()).map(|_| self.connect(daemon)).collect::<Result<Vec<Client>>>()?;
        let Soak { plan, writers, random, watch, report, interrupted, .. } = self;
        let kill_at = plan.kills_at.get(report.kills as usize).copied();
        let (mut killed, mut sample) = (false, Sample::default());
        let (mut sample_due, mut tell_due, life) = (begun, begun, Instant::now());
        let lives: Result<()> = thread::scope(|scope| {
            let pairs = writers.iter_mut().zip(clients);
            let lives: Vec<_> =
                pairs.map(|(writer, mut client)| scope.spawn(move || writer.live(&mut client))).collect();
            while !lives.iter().any(ScopedJoinHandle::is_finished) {
                let (now, taken_bytes) = (Instant::now(), watch.taken_bytes.load(Relaxed));
                if kill_at.is_some_and(|at| taken_bytes >= at) {
                    thread::sleep(Duration::from_micros(random.random_range(0..KILL_DELAY_US_MAX)));
                    killed = true;
                    daemon.kill();
                    report.kills += 1;
                    break;
                }
                if taken_bytes >= plan.target_bytes || interrupted.load(Relaxed) {
                    report.interrupted = taken_bytes < plan.target_bytes;
                    break;
                }
                if now >= sample_due {
                    sample_due = now + SAMPLE_INTERVAL;
                    sample = Sample::of(monitor).unwrap_or(sample);
                }
                if now >= tell_due {
                    tell_due = now + Duration::from_secs(1);
                    let bytes_per_second = report.bytes_per_second(taken_bytes, life);
                    let (target_bytes, kills) = (plan.target_bytes, report.kills);
                    tell(Now::Writing { taken_bytes, target_bytes, bytes_per_second, kills });
                }
                thread::sleep(TICK);
            }
            watch.stop.store(true, Relaxed);
            lives.into_iter().try_for_each(joined)
        });
        watch.stop.store(false, Relaxed);
        report.writing += life.elapsed();
        if !killed {
            sample = Sample::of(monitor).unwrap_or(sample);
        }
        report.sampled(&sample, watch.taken_bytes.load(Relaxed));
        lives?;
        if !killed && !report.interrupted && report.taken_bytes < plan.target_bytes {
            // The clients were hung up on.
            let status = daemon.wait(STOP_PATIENCE)?;
            return Err(daemon.failure(status));
        }
        Ok(killed)
    }

    /// The stopped device by `verify`, then all of it by clients.
    fn last_look(&mut self, config: &Config, tell: &mut dyn FnMut(Now<'_>)) -> Result<()> {
        let verified = offline::verify(config, &self.options.device, &mut |line| {
            tell(Now::Doing(&format!("verifying the stopped device: {line}")));
        })?;
        let wrong = match &verified.superblocks.newest {
            Err(error) => Some(Error::new(error.to_string())),
            Ok(_) => failure(&verified),
        };
        if let Some(error) = wrong {
            return Err(error.context("verify"));
        }
        self.report.verified_records = verified.shards.iter().map(|shard| shard.records).sum();
        tell(Now::Doing("reading everything back"));
        let mut daemon = self.start()?;
        let before = self.report.beyond;
        self.check(&mut daemon)?;
        if self.report.beyond != before {
            return Err(Error::new("after a stop in good order something was there that was not acknowledged"));
        }
        let status = daemon.stop(STOP_PATIENCE)?;
        if status.success() { Ok(()) } else { Err(daemon.failure(status)) }
    }
}

/// A soak writes over everything; what is there already is somebody's.
fn must_be_empty(client: &mut Client) -> Result<()> {
    let objects = client.catalog()?;
    match objects.first() {
        None => Ok(()),
        Some((name, _)) => Err(Error::new(format!(
            "the namespace holds {} spaces and streams, of which one is {name:?}; a soak takes one that holds nothing",
            objects.len()
        ))
        .remedy(
            "name another --device, or --scratch; `forebay format --force` empties this one, and loses what it holds",
        )),
    }
}

/// Runs something for each writer with its client, each in a thread of its own.
fn together<T: Send>(
    writers: &mut [Writer],
    clients: Vec<Client>,
    each: impl Fn(&mut Writer, &mut Client) -> T + Sync,
) -> Vec<T> {
    let each = &each;
    thread::scope(|scope| {
        let pairs = writers.iter_mut().zip(clients);
        let running: Vec<_> =
            pairs.map(|(writer, mut client)| scope.spawn(move || each(writer, &mut client))).collect();
        running.into_iter().map(joined).collect()
    })
}

/// What a thread gave; its panic goes on.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
