#![forbid(unsafe_code)]
//! The tier `spdk` beside SPDK's own `spdk_nvme_perf`, on a drive in memory behind a vfio-user target.
//!
//!     FOREBAY_SPDK_TARGET=.../nvmf_tgt FOREBAY_SPDK_PERF=.../spdk_nvme_perf \
//!         cargo bench --features spdk --bench spdk -- [--rounds N] [--ops N] [--case TEXT] [--json]
//!
//! `--case` takes only the rows whose name holds the text, and SPDK's own.
//!
//! The target polls on core 0. All else runs in one thread on core 1: client, reactor and device by turns, so that no
//! third core is needed and a put costs no cache line between two.

mod depth;
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../tests/spdk/target.rs"]
mod target;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::Arc;
use std::time::Duration;

use depth::{Plan, Taken};
use forebay::appliance::block_reader;
use forebay::appliance::prepare::{FormatOptions, SegmentSize, format_device};
use forebay::appliance::recover::{self, Settings};
use forebay::buffer::Pool;
use forebay::device::OperationKind;
use forebay::device::any::AnyDevice;
use forebay::device::open::{OpenDevice, OpenOptions, open};
use forebay::reactor::{Address, Clock, Limits, Phase, Place, Reactor};
use forebay::ring::client::{Client, Object, Request, Write};
use forebay::ring::protocol::Status;
use forebay::ring::segment::Shape;
use forebay::ring::server::{Rights, SessionId, pair_in_process};
use forebay::types::{Compression, Durability, ObjectId, ObjectKind, ShardId};
use forebay::wal::flight::{Flight, Owner};
use forebay::wal::planted::Planted;
use forebay::wal::superblock::Superblock;
use forebay::{store, wal};
use forebay_sys::dma::Pages;
use forebay_sys::net::WakeSet;
use target::{PLAIN, SUBSYSTEM, Target};

const DRIVE_BYTES: u64 = 1 << 30;
const BLOCK_BYTES: u32 = 4096;
const FRAME_BYTES: usize = 64 << 10;
const EVENT: [u8; 4096] = [7; 4096];
/// Events stay in memory: so many bytes of them in a run.
const EVENTS_BYTES_MAX: usize = 192 << 20;

type Failure = Box<dyn std::error::Error>;

/// Nanoseconds, and operations a second.
#[derive(Clone, Copy)]
struct Figures {
    p50_ns: u64,
    p99_ns: u64,
    per_second: f64,
}

/// As the daemon's: the processor's counter, not a call of the C library.
struct Tsc {
    clock: quanta::Clock,
    start: u64,
}

impl Clock for Tsc {
    fn now_ns(&self) -> u64 {
        self.clock.delta_as_nanos(self.start, self.clock.raw())
    }

    fn wall_ms(&self) -> u64 {
        0
    }
}

fn main() -> Result<(), Failure> {
    let (mut rounds, mut ops, mut json, mut case) = (5_usize, 100_000_usize, false, String::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--rounds" => rounds = value()?.parse()?,
            "--ops" => ops = value()?.parse()?,
            "--case" => case = value()?,
            "--json" => json = true,
            "--bench" => {}
            _ => return Err(format!("unknown option {word}; see the head of benches/spdk.rs").into()),
        }
    }
    let Some(target) = Target::with_drive("bench", DRIVE_BYTES) else { return Ok(()) };
    if !core_affinity::set_for_current(core_affinity::CoreId { id: 1 }) {
        eprintln!("core 1 cannot be pinned to; figures will scatter");
    }
    let name = PathBuf::from(format!("vfio-user:{}@{PLAIN}", target.endpoint()));
    let mut all: BTreeMap<String, Vec<Figures>> = BTreeMap::new();
    for _ in 0..rounds {
        for depth in [1, 32, 64] {
            // A target serves one client a directory: each lets go of it before the next comes.
            if let Some(figures) = perf(&target.endpoint(), depth)? {
                all.entry(format!("qd{depth:02} spdk_nvme_perf, 4 KiB write")).or_default().push(figures);
            }
            let mut row = |what: &str, run: &dyn Fn() -> Result<Figures, Failure>| -> Result<(), Failure> {
                let name = format!("qd{depth:02} {what}");
                if name.contains(&case) {
                    all.entry(name).or_default().push(run()?);
                }
                Ok(())
            };
            let (read, write) = ((OperationKind::Read, false), (OperationKind::WriteDurable, false));
            let fresh = (OperationKind::WriteDurable, true);
            row("device, 4 KiB read", &|| device(&name, (depth, 4096), read, ops))?;
            row("device, 4 KiB write + flush", &|| device(&name, (depth, 4096), write, ops))?;
            row("device, 4 KiB write + flush, fresh", &|| device(&name, (depth, 4096), fresh, ops))?;
            // As many bytes under way, in pieces of a frame.
            row("device, 64 KiB write + flush, fresh", &|| {
                device(&name, (depth.div_ceil(16), FRAME_BYTES), fresh, ops / 16)
            })?;
            row("strict append, 100 B", &|| append(&name, depth, ops, 100))?;
            row("strict append, 4 KiB", &|| append(&name, depth, ops, 4096))?;
        }
    }
    report(&all, json);
    Ok(())
}

fn opened(name: &Path) -> Result<OpenDevice, Failure> {
    Ok(open(name, &OpenOptions { hugepages: false, buffer_bytes: 64 << 20, ..OpenOptions::default() })?)
}

fn figures(taken: &Taken) -> Figures {
    let at = |percent: usize| u64::try_from(taken.percentile(percent).as_nanos()).unwrap_or(u64::MAX);
    Figures { p50_ns: at(50), p99_ns: at(99), per_second: taken.per_second() }
}

fn plan(ops: usize, depth: usize) -> Plan {
    Plan { ops, depth, time_max: Duration::MAX }
}

fn device(
    name: &Path,
    (depth, bytes): (usize, usize),
    how: (OperationKind, bool),
    ops: usize,
) -> Result<Figures, Failure> {
    let opened = opened(name)?;
    let pool = Pool::new(opened.region(depth * bytes, Pages::Ordinary)?, bytes);
    let address = |number: usize| (number * bytes) as u64 % DRIVE_BYTES;
    Ok(figures(&depth::buffers(plan(ops, depth), opened.device(None)?, pool, how, address)))
}

/// A client, and the reactor that it talks to, in this thread.
struct Bench {
    client: Client,
    reactor: Reactor<AnyDevice, Tsc>,
}

fn appliance(opened: &OpenDevice) -> Result<Bench, Failure> {
    let settings = Settings {
        wal: wal::Limits {
            frames_in_flight_max: 4,
            window_interval_ns: 1_000_000,
            window_bytes: FRAME_BYTES / 2,
            watermark_interval_ns: 1_000_000_000,
            recovery_bytes_max: u64::MAX,
        },
        store: store::Limits {
            key_bytes_max: 1_024,
            value_bytes_max: 16 << 10,
            memory_bytes_max: 256 << 20,
            keys_max: 10_000,
            producers_max: 1_024,
            cursors_max: 1_024,
            snapshots_max: 4,
            snapshot_bytes_max: 64 << 20,
            cache_bytes_max: 16 << 20,
            cache_chunk_bytes: 256 << 10,
        },
        planted: Planted::None,
    };
    let mut blocks = block_reader(opened)?;
    let superblock = Superblock::load(&mut blocks, opened.geometry().capacity_bytes)?;
    let found = wal::survey::survey(&mut blocks, &superblock, &mut |_, _| {});
    let owner = Owner { namespace: superblock.namespace, shard: ShardId(0), boot: [0; 16] };
    let state = recover::read_shard(&mut blocks, &superblock, &found, ShardId(0), None, &settings, &mut |_| {})?;
    let flights = vec![Flight::new(None, owner, superblock.epoch)];
    let begun = recover::begin(&mut blocks, &superblock, &found, vec![state], flights, &settings)?;
    let (key_bytes_max, value_bytes_max) = (1_024, 16 << 10);
    let shape = Shape {
        reactors: 1,
        sq_entries: 64,
        cq_entries: 64,
        arena_bytes: 4 << 20,
        shards: 1,
        key_bytes_max,
        value_bytes_max,
    };
    let (parts, rings) = pair_in_process(SessionId(1), Rights::ReadWrite, shape)?;
    let place = Place {
        reactor: 0,
        shards: 1,
        reactors: Arc::new([Address::new()?]),
        wakes: WakeSet::new()?,
        drive: Arc::default(),
    };
    let limits = Limits {
        snapshots_max: 4,
        turn_requests_max: 64,
        waiting_reads_max: 8,
        objects_max: 16,
        key_bytes_max: key_bytes_max as usize,
        value_bytes_max: value_bytes_max as usize,
        device_timeout_ns: 60_000_000_000,
    };
    let pool = Pool::new(opened.region(16 * FRAME_BYTES, Pages::Ordinary)?, FRAME_BYTES);
    let clock = quanta::Clock::new();
    let clock = Tsc { start: clock.raw(), clock };
    let mut reactor = Reactor::new(place, limits, clock, opened.device(None)?, pool, begun.catalog, begun.shards);
    rings.into_iter().for_each(|ring| reactor.begin_session(ring));
    while reactor.phase() == Phase::Settling {
        reactor.turn();
    }
    Ok(Bench { client: Client::from_parts(parts, Duration::ZERO)?, reactor })
}

fn append(name: &Path, depth: usize, ops: usize, event_bytes: usize) -> Result<Figures, Failure> {
    let options =
        FormatOptions { capacity_bytes: None, segment_size: SegmentSize::Bytes(16 << 20), shards: 1, force: true };
    format_device(name, &options, &mut |_, _| {})?;
    let opened = opened(name)?;
    let bench = std::cell::RefCell::new(appliance(&opened)?);
    let mut reply = Vec::new();
    let mut answer = || loop {
        let bench = &mut *bench.borrow_mut();
        bench.reactor.turn();
        if let Some(answer) = bench.client.poll(&mut reply).expect("the session lives") {
            assert_eq!(answer.status, Status::Ok);
            return answer;
        }
    };
    let kind = ObjectKind::Stream;
    let create = Request::Open { kind, name: "events", create: Some(Durability::Strict.into()) };
    bench.borrow_mut().client.submit(0, &create).map_err(|error| format!("{error:?}"))?;
    let stream = Object {
        id: ObjectId(u32::try_from(answer().version)?),
        kind,
        durability: Durability::Strict,
        compression: Compression::None,
    };
    let start = |_| {
        let append = Request::Append { stream, event: &EVENT[..event_bytes], how: Write::default() };
        bench.borrow_mut().client.submit(0, &append).expect("the ring takes as many as are under way");
    };
    let mut reply = Vec::new();
    let ended = || {
        let bench = &mut *bench.borrow_mut();
        bench.reactor.turn();
        let mut count = 0;
        while let Some(answer) = bench.client.poll(&mut reply).expect("the session lives") {
            assert_eq!(answer.status, Status::Ok, "after {count} appends");
            count += 1;
        }
        count
    };
    // The log takes whole blocks an append at depth 1.
    let block_bytes = BLOCK_BYTES as usize;
    let room = usize::try_from(DRIVE_BYTES / 2)? / (event_bytes + 64).next_multiple_of(block_bytes);
    let room = room.min(EVENTS_BYTES_MAX / event_bytes);
    Ok(figures(&depth::drive(plan(ops.min(room), depth), start, ended)))
}

/// What SPDK's own tool finds on the same target and core; None where FOREBAY_SPDK_PERF does not name it.
fn perf(endpoint: &str, depth: usize) -> Result<Option<Figures>, Failure> {
    let Some(program) = std::env::var_os("FOREBAY_SPDK_PERF") else { return Ok(None) };
    let output = Process::new(program)
        .args(["--no-huge", "-s", "1024", "-c", "0x2", "-L", "-o", "4096", "-w", "write", "-t", "1"])
        .args([
            "-q",
            &depth.to_string(),
            "-r",
            &format!("trtype:VFIOUSER traddr:{endpoint} subnqn:{SUBSYSTEM} ns:{PLAIN}"),
        ])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let percentile = |name: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.trim_start().starts_with(name))?;
        let us: f64 = line.rsplit(':').next()?.trim().strip_suffix("us")?.parse().ok()?;
        Duration::try_from_secs_f64(us / 1e6).ok().and_then(|latency| u64::try_from(latency.as_nanos()).ok())
    };
    let total = text.lines().find(|line| line.starts_with("Total"));
    let per_second = total.and_then(|line| line.split(':').nth(1)?.split_whitespace().next()?.parse().ok());
    match (percentile("50.00000%"), percentile("99.00000%"), per_second) {
        (Some(p50_ns), Some(p99_ns), Some(per_second)) => Ok(Some(Figures { p50_ns, p99_ns, per_second })),
        _ => Err(format!("spdk_nvme_perf: {text}{}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

fn report(all: &BTreeMap<String, Vec<Figures>>, json: bool) {
    let mut object = serde_json::Map::new();
    for (name, rounds) in all {
        let summary = |of: fn(&Figures) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            (values[values.len() / 2], values[0], values[values.len() - 1])
        };
        let columns = [
            ("p50_ns", summary(|f| f.p50_ns as f64)),
            ("p99_ns", summary(|f| f.p99_ns as f64)),
            ("per_second", summary(|f| f.per_second)),
        ];
        let cells = columns.map(|(key, (median, min, max))| format!("{key} {median:9.0} ({min:.0} - {max:.0})"));
        if json {
            let fields = columns.map(|(key, (median, min, max))| {
                (key.to_owned(), serde_json::json!({ "median": median, "min": min, "max": max }))
            });
            object.insert(name.clone(), serde_json::Value::Object(fields.into_iter().collect()));
        } else {
            println!("{name:36} {}", cells.join("  "));
        }
    }
    if json {
        println!("{}", serde_json::Value::Object(object));
    }
}
