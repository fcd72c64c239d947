//! An appliance: recovers a namespace, starts its reactors, listens for clients, stops in good order.

pub mod embedded;
mod epoch;
mod flights;
mod health;
pub mod offline;
mod own;
mod panic;
pub mod plan;
pub mod prepare;
pub mod recover;
pub mod resume;
mod scratch;
mod sizes;
mod threads;
mod watchdog;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use forebay_sys::dma::Pages;

use crate::config::{Config, Memory};
use crate::device::Tier;
use crate::device::any::AnyDevice;
use crate::device::blocks::BlockReader;
use crate::device::open::{OpenDevice, OpenOptions};
use crate::error::{Error, Result};
use crate::metrics::DriveGauges;
use crate::ring::server::{Access, Listener, ListenerOptions, Ordered};
use crate::types::{Lineage, ShardId};
use crate::wal::Fence;
use crate::wal::planted::Planted;
use crate::wal::superblock::Superblock;
use crate::wal::survey::{self, Survey};

use plan::Plan;
use recover::{Begun, Settings};
use resume::Origin;
use threads::Threads;
use watchdog::{Watchdog, Watched};

/// Buffers of one reader of recovery: four of 1 MiB.
const READ_BYTES: usize = 4 << 20;

/// What a start found and did, for the log and the report.
#[derive(Clone, Debug)]
pub struct Started {
    pub tier: Tier,
    pub durability: String,
    /// Warnings and reasons, a line each.
    pub notes: Vec<String>,
    pub epoch: u64,
    pub records: u64,
    pub log_bytes: u64,
    pub replayed_bytes: u64,
    pub recovery: Duration,
}

/// A shard that stopped writing, and why.
type Fenced = (ShardId, Fence);

/// A running appliance. Dropping it without `stop` leaves it as a kill would, but for the flight recorder.
pub struct Appliance {
    threads: Threads,
    files: flights::Files,
    listener: Option<Listener>,
    /// None where the drive has nothing to say.
    health: Option<health::Watch>,
    /// None before there is a listener.
    watchdog: Option<Watchdog>,
    drive: Arc<DriveGauges>,
    origin: Origin,
    pub started: Started,
}

impl Appliance {
    /// Recovers the namespace on an open device, starts the reactors, and listens on `socket`. Blocks until clients
    /// can connect. Orders that come over the socket go to `orders`. `progress` gets a line for a person whenever a step takes longer than a second.
    ///
    /// # Errors
    /// A device that is not a namespace, damage, a socket that is in use, too little memory. Nothing was changed
    /// unless recovery succeeded.
    pub fn start(
        config: &Config,
        device: &OpenDevice,
        socket: &Path,
        orders: Option<Sender<Ordered>>,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Appliance> {
        let begun = std::time::Instant::now();
        let mut blocks = block_reader(device)?;
        let Plan { superblock, reactors, mut notes, config, sizes } = Plan::read(config, device, &mut blocks)?;
        let config = &config;
        let mut told = begun;
        let found = survey::survey(&mut blocks, &superblock, &mut |done, total| {
            if told.elapsed() >= Duration::from_secs(1) {
                told = std::time::Instant::now();
                progress(&format!("recovering: {done} of {total} segment headers read"));
            }
        });
        recover::check_survey(&found)?;
        tell_memory(config, superblock.layout.shards)?;
        let files = flights::Files::of(config, &superblock, device);
        let mut flights = files.open(&superblock, sizes.pool_bytes(), &mut notes)?;
        let settings =
            Settings { wal: sizes.wal_limits(config), store: sizes.store_limits(config), planted: Planted::None };
        let contents: Vec<_> = flights.iter().map(|flight| flight.contents()).collect();
        let states = each_shard(device, &superblock, &found, progress, |blocks, shard, count| {
            let flight = contents[shard.index()].as_ref();
            recover::read_shard(blocks, &superblock, &found, shard, flight, &settings, count)
        })?;
        files.enlarge(&superblock, sizes.pool_bytes(), &mut flights)?;
        let mut started = Started {
            tier: device.tier(),
            durability: format!("{}; {}", device.durability(), device.deallocation()),
            notes,
            epoch: superblock.epoch,
            records: states.iter().map(|state| state.recovered.records).sum(),
            log_bytes: states.iter().map(|state| state.recovered.log_bytes).sum(),
            replayed_bytes: states.iter().map(|state| state.recovered.replay.len() as u64).sum(),
            recovery: begun.elapsed(),
        };
        let Begun { shards, catalog, epoch } =
            recover::begin(&mut blocks, &superblock, &found, states, flights, &settings)?;
        started.epoch = epoch;
        drop(blocks);
        let drive = Arc::<DriveGauges>::default();
        started.notes.extend(Watched::of(device, config.device.timeout.into()).note());
        let threads = Threads::start(config, device, &sizes, reactors, shards, &catalog, &drive, &mut started.notes)?;
        let health = health::Watch::start(device, &drive)?;
        let origin = Origin { superblock: Superblock { epoch, ..superblock }, wwid: device.wwid(), sizes, settings };
        let mut appliance =
            Appliance { threads, files, listener: None, health, watchdog: None, drive, origin, started };
        let listens = listener_options(config, socket, &superblock, reactors, orders);
        if let Err(error) = appliance.listen(config, device, listens) {
            appliance.stop()?;
            return Err(error);
        }
        Ok(appliance)
    }

    fn listen(&mut self, config: &Config, device: &OpenDevice, options: ListenerOptions) -> Result<()> {
        self.listener = Some(Listener::start(options, self.threads.mailboxes())?);
        self.watch(config, device)
    }

    /// Has somebody look whether the reactors and this device answer.
    fn watch(&mut self, config: &Config, device: &OpenDevice) -> Result<()> {
        let Some(listener) = &self.listener else { return Ok(()) };
        let watched = Watched::of(device, config.device.timeout.into());
        self.watchdog = Some(Watchdog::start(self.threads.addresses(), watched, listener.hang_up())?);
        Ok(())
    }

    /// Lets no more clients in, writes everything out, ends the reactors, and removes the flight recorders that are not
    /// needed any more. Blocks until all is durable, or the device was given up: `device.timeout` and a little more.
    ///
    /// # Errors
    /// When a shard stopped writing before the end: not all that was acknowledged is on the drive then. When a
    /// reactor's thread died.
    pub fn stop(mut self) -> Result<()> {
        let (mut died, mut fenced) = (false, Vec::new());
        for ended in self.threads.stop() {
            match ended {
                Some(mut ended) => {
                    fenced.append(&mut ended.fenced);
                    forget_all(&self.files, &ended.landed);
                }
                None => died = true,
            }
        }
        self.listener = None;
        if died {
            return Err(Error::new("a reactor's thread died")
                .remedy("look at the log; what was acknowledged is durable as promised"));
        }
        if fenced.is_empty() { Ok(()) } else { Err(fenced_error(fenced)) }
    }
}

/// Says what all limits come to, and how that fits the machine, before any of it is taken.
fn tell_memory(config: &Config, shards: u32) -> Result<()> {
    tracing::info!("{}", config.memory_needed(shards));
    for warning in config.memory_warnings(shards, Memory::of_this_machine())? {
        tracing::warn!("{warning}");
    }
    Ok(())
}

/// How a configuration wants its device opened.
#[must_use]
pub fn open_options(config: &Config) -> OpenOptions {
    let default = OpenOptions::default();
    let shards = config.format.shards;
    let reactors = config.reactors.count().min(shards);
    let pools = config.frame_buffer_bytes(shards, reactors) + config.read_buffer_bytes(reactors);
    let pools = crate::bytes::index(pools);
    let readers = (shards as usize + 1) * READ_BYTES;
    OpenOptions {
        tier: config.device.tier,
        durability: config.device.durability,
        deallocate: config.device.deallocate,
        hugepages: config.device.hugepages,
        buffer_bytes: default.buffer_bytes.max(pools + readers),
        ..default
    }
}

fn forget_all(files: &flights::Files, shards: &[ShardId]) {
    for shard in shards {
        if let Err(error) = files.forget(*shard) {
            tracing::warn!("{error}");
        }
    }
}

/// What a person must know of shards that were fenced when the appliance stopped.
fn fenced_error(mut fenced: Vec<Fenced>) -> Error {
    fenced.sort_by_key(|(shard, _)| *shard);
    let shards: Vec<String> = fenced.iter().map(|(shard, reason)| format!("shard {shard} ({reason})")).collect();
    Error::new(format!(
        "stopped with shards that had been fenced: {}; strict writes that were acknowledged are on the drive, the last \
         buffered ones only in the flight recorder",
        shards.join(", ")
    ))
    .remedy("mend the drive and start again before this machine restarts; `forebay verify` says what is on the drive")
}

/// A reader for recovery, with buffers of its own.
pub fn block_reader(device: &OpenDevice) -> Result<BlockReader<AnyDevice>> {
    let region = device
        .region(READ_BYTES, Pages::Ordinary)
        .map_err(|error| Error::new(format!("memory for reading the device: {error}")))?;
    let span = region.span();
    Ok(BlockReader::new(device.reader(Some(&span))?, region.split(1 << 20)))
}

/// Reads something of every shard, each on a thread of its own.
fn each_shard<T: Send>(
    device: &OpenDevice,
    superblock: &Superblock,
    survey: &Survey,
    progress: &mut dyn FnMut(&str),
    read: impl Fn(&mut BlockReader<AnyDevice>, ShardId, &mut dyn FnMut(u64)) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let read_bytes = AtomicU64::new(0);
    let shards = superblock.layout.shards;
    let segments: usize = survey.chains.iter().map(Vec::len).sum();
    let total_mib = (segments as u64 * superblock.layout.segment_bytes) >> 20;
    std::thread::scope(|scope| {
        let mut readers = Vec::new();
        for shard in 0..shards {
            let (read_bytes, read) = (&read_bytes, &read);
            readers.push(scope.spawn(move || {
                let mut blocks = block_reader(device)?;
                let mut last = 0;
                let mut count = |bytes| {
                    read_bytes.fetch_add(bytes - last, Ordering::Relaxed);
                    last = bytes;
                };
                read(&mut blocks, ShardId(shard), &mut count)
            }));
        }
        let begun = std::time::Instant::now();
        let mut told = Duration::from_secs(1);
        while !readers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(1));
            if begun.elapsed() >= told {
                told += Duration::from_secs(1);
                let mib = read_bytes.load(Ordering::Relaxed) >> 20;
                progress(&format!("recovering: {mib} MiB of log read, of at most {total_mib} MiB"));
            }
        }
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap_or_else(|_| Err(Error::new("a recovery thread died"))))
            .collect()
    })
}

fn listener_options(
    config: &Config,
    socket: &Path,
    superblock: &Superblock,
    reactors: u32,
    orders: Option<Sender<Ordered>>,
) -> ListenerOptions {
    ListenerOptions {
        socket: socket.to_owned(),
        mode: config.rings.mode,
        access: Access {
            uids: config.access.uids.clone(),
            read_only_uids: config.access.read_only_uids.clone(),
            gids: config.access.gids.clone(),
        },
        sessions_max: config.limits.sessions_max as usize,
        offer: crate::ring::segment::Shape {
            reactors,
            sq_entries: config.rings.sq_entries,
            cq_entries: config.rings.cq_entries,
            arena_bytes: config.rings.arena_bytes.0,
            shards: superblock.layout.shards,
            key_bytes_max: crate::ring::protocol::low_u32(config.limits.key_bytes_max.0),
            value_bytes_max: crate::ring::protocol::low_u32(config.limits.value_bytes_max.0),
            lineage: Lineage { namespace: superblock.namespace, cuts: superblock.cuts },
        },
        arena_bytes_max: config.rings.arena_bytes_max.0,
        orders,
    }
}
