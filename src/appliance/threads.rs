//! The reactors' threads: started, visited while they run, stopped.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use forebay_sys::cpu::{KeptAwake, keep_awake};
use forebay_sys::dma::{DmaSpan, PageKind, Pages};
use forebay_sys::net::WakeSet;

use super::resume::deal;
use super::{Fenced, panic, sizes};
use crate::buffer::{Pool, SMALL_COUNT};
use crate::bytes::len_u32;
use crate::config::{Config, Spin};
use crate::device::Device;
use crate::device::any::AnyDevice;
use crate::device::open::OpenDevice;
use crate::error::{Error, Result};
use crate::metrics::DriveGauges;
use crate::reactor::{Address, Clock, Order, Phase, Place, Reactor, Shard};
use crate::ring::server::Mailbox;
use crate::store::catalog::Catalog;
use crate::types::ShardId;

/// A reactor as it runs here.
pub type Own = Reactor<AnyDevice, TscClock>;

/// What another thread has done on a reactor's own thread, between two of its turns.
type Visit = Box<dyn FnOnce(&mut Own) + Send>;

/// The machine's clock: the time stamp counter where it can be trusted.
pub struct TscClock {
    clock: quanta::Clock,
    start: u64,
}

impl Clock for TscClock {
    #[inline]
    fn now_ns(&self) -> u64 {
        self.clock.delta_as_nanos(self.start, self.clock.raw())
    }

    fn wall_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// What a reactor's thread leaves behind.
pub struct Ended {
    /// The shards whose flight recorder is not needed any more.
    pub landed: Vec<ShardId>,
    pub fenced: Vec<Fenced>,
}

struct Thread {
    handle: JoinHandle<Ended>,
    visits: Sender<Visit>,
    /// Its buffers.
    span: DmaSpan,
    /// Its core, while it polls for ever.
    _awake: Option<KeptAwake>,
}

pub struct Threads {
    addresses: Arc<[Address]>,
    threads: Vec<Thread>,
}

impl Threads {
    /// Starts `count` reactors over all shards, each with buffers and a device of its own. `notes` gets a line for each
    /// thing that is less than was asked for.
    ///
    /// # Errors
    /// Too little memory, or what a device may fail of.
    #[expect(clippy::too_many_arguments, reason = "what a start has put together, once")]
    pub fn start(
        config: &Config,
        opened: &OpenDevice,
        sizes: &sizes::Sizes,
        count: u32,
        shards: Vec<Shard>,
        catalog: &Catalog,
        drive: &Arc<DriveGauges>,
        notes: &mut Vec<String>,
    ) -> Result<Threads> {
        let addresses = (0..count).map(|_| Address::new()).collect::<std::io::Result<Arc<[Address]>>>()?;
        let shards_total = len_u32(shards.len());
        let clock = quanta::Clock::new();
        let mut threads = Vec::new();
        for (number, own) in deal(shards, addresses.len()).into_iter().enumerate() {
            let pages = if config.device.hugepages { Pages::HugeOrOrdinary } else { Pages::Ordinary };
            let region = opened.region(sizes.dma_bytes(), pages).map_err(|error| {
                Error::new(format!("{} B of buffers for a reactor: {error}", sizes.dma_bytes()))
                    .remedy("lower wal.frames_in_flight_max or limits.value_bytes_max")
            })?;
            if number == 0
                && region.page_kind() == PageKind::Ordinary
                && let Some(warning) = region.warning()
            {
                notes.push(warning.to_owned());
            }
            let span = region.span();
            let device = device(opened, number, &span, notes)?;
            let pool = Pool::with_small(region, sizes.frame_bytes, SMALL_COUNT);
            let wakes = WakeSet::new()?;
            wakes.add(addresses[number].sessions.bell())?;
            let (reactor, reactors, drive) = (len_u32(number), addresses.clone(), drive.clone());
            let place = Place { reactor, shards: shards_total, reactors, wakes, drive };
            let clock = TscClock { clock: clock.clone(), start: clock.raw() };
            let limits = sizes.reactor_limits(config);
            let reactor = Reactor::new(place, limits, clock, device, pool, catalog.clone(), own);
            threads.push(Thread::start(config, number, span, reactor)?);
        }
        Ok(Threads { addresses, threads })
    }

    #[must_use]
    pub fn mailboxes(&self) -> Vec<Arc<Mailbox>> {
        self.addresses.iter().map(|address| address.sessions.clone()).collect()
    }

    #[must_use]
    pub fn addresses(&self) -> Arc<[Address]> {
        self.addresses.clone()
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// The buffers of each reactor.
    pub fn spans(&self) -> impl Iterator<Item = &DmaSpan> {
        self.threads.iter().map(|thread| &thread.span)
    }

    /// Has each reactor do something between two of its turns, one after another, and gives what comes of it. Blocks for
    /// a turn of each, and for what they do: it holds up their clients.
    ///
    /// # Errors
    /// When a thread has ended.
    pub fn visit<T: Send + 'static>(
        &self,
        mut visit: impl FnMut() -> Box<dyn FnOnce(&mut Own) -> T + Send>,
    ) -> Result<Vec<T>> {
        let mut results = Vec::new();
        for (number, thread) in self.threads.iter().enumerate() {
            let (done, result) = mpsc::sync_channel(1);
            let visit = visit();
            let ended = |_| Error::new(format!("reactor {number} has ended")).remedy("look at the log, and restart");
            let boxed: Visit = Box::new(move |reactor| _ = done.send(visit(reactor)));
            thread.visits.send(boxed).map_err(|_| ended(()))?;
            self.order(number, &Order::Visit);
            results.push(result.recv().map_err(|_| ended(()))?);
        }
        Ok(results)
    }

    fn order(&self, number: usize, order: &Order) {
        while self.addresses[number].send(order.clone()).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Has all write out what is open, and end. Gives what each left; `None` for one that died. Blocks.
    pub fn stop(&mut self) -> Vec<Option<Ended>> {
        (0..self.threads.len()).for_each(|number| self.order(number, &Order::Stop));
        self.threads.drain(..).map(|thread| thread.handle.join().ok()).collect()
    }
}

/// A device for one reactor, whose buffers are those of `span`.
pub fn device(opened: &OpenDevice, number: usize, span: &DmaSpan, notes: &mut Vec<String>) -> Result<AnyDevice> {
    let device = opened.device(Some(span))?;
    notes.extend(device.note().map(|note| format!("reactor {number}: {note}")));
    let tier = device.geometry().tier;
    if tier != opened.tier() {
        notes.push(format!(
            "reactor {number}: {} instead of {}: no locked memory for one more io_uring; raise `ulimit -l`",
            tier.name(),
            opened.tier().name()
        ));
    }
    Ok(device)
}

impl Thread {
    fn start(config: &Config, number: usize, span: DmaSpan, mut reactor: Own) -> Result<Thread> {
        let core = config.reactors.cores.get(number).copied();
        let spin_ns = match config.reactors.spin {
            Spin::For(spin) => Some(spin.0),
            Spin::Forever => None,
        };
        // A core that is to sleep when there is no work may do so within a flush too.
        let awake = core.filter(|_| spin_ns.is_none()).and_then(|id| {
            let said = |error: &_| tracing::info!(core = id, %error, "the core may halt in a flush; setup/host.sh config --awake mends it");
            keep_awake(id).inspect_err(said).ok().flatten()
        });
        let (visits, visitors) = mpsc::channel();
        let handle = std::thread::Builder::new().name(format!("reactor-{number}")).spawn(move || {
            if let Some(id) = core
                && !core_affinity::set_for_current(core_affinity::CoreId { id })
            {
                tracing::warn!(core = id, "the reactor could not be pinned to this core");
            }
            if let Err(error) = forebay_sys::cpu::give_way() {
                tracing::warn!(%error, "the kernel's work on the reactor's core may wait for the reactor");
            }
            let _ends = panic::EndsProcess;
            turn_until_stopped(&mut reactor, spin_ns, &visitors);
            let landed = reactor.shards().iter().filter(|shard| shard.has_landed());
            let ended = Ended { landed: landed.map(|shard| shard.wal.shard()).collect(), fenced: reactor.fenced() };
            reactor.rest();
            if reactor.is_stuck() {
                // Dropping the device would wait for ever, and giving its memory back would let it write into another's.
                std::mem::forget(reactor);
            }
            ended
        })?;
        Ok(Thread { handle, visits, span, _awake: awake })
    }
}

fn turn_until_stopped(reactor: &mut Own, spin_ns: Option<u64>, visitors: &Receiver<Visit>) {
    while reactor.phase() != Phase::Stopped {
        crate::reactor::run(reactor, spin_ns);
        while let Ok(visit) = visitors.try_recv() {
            visit(reactor);
        }
    }
}
