//! How fast an appliance is, as ratios to what this machine can do at all: one command, one table.
//! `cargo bench --bench performance`, with `-- --json` for a machine, `-- --rounds N` for more than 5, and
//! `-- --only memory` or `-- --only file` for half of it.
//!
//! The reactor polls on the first core, the client on the second. Rounds take turns over all cases, so that a change
//! of the machine's mood touches all of them; each figure is the median of the rounds with its least and most.

mod awake;
mod figures;
mod floor;
#[path = "floor/stalls.rs"]
mod stalls;

use std::error::Error;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use forebay::appliance::Appliance;
use forebay::appliance::prepare::{FormatOptions, SegmentSize, format_device, format_memory};
use forebay::config::{ByteSize, Config, Spin};
use forebay::device::memory::MemoryDisk;
use forebay::device::open::{OpenDevice, OpenOptions, open};
use forebay::ring::client::{Client, ConnectOptions, Object, Request, SubmitError, Write};
use forebay::types::{DeviceAddress, Durability};
use forebay_sys::dma::{DmaRegion, Pages};
use forebay_sys::uring::{TaskRun, Transfer, Uring, UringOptions};
use serde_json::json;

type Failure = Box<dyn Error>;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: forebay_sys::alloc::HugePages = forebay_sys::alloc::HugePages;

const KEYS: u32 = 10_000;
const KEY_BYTES: usize = 16;
const VALUE_BYTES: usize = 100;
/// Of the row of strict commits.
const COMMIT_BYTES: usize = 128;
const SHARDS: u32 = 4;
const DISK_BYTES: u64 = 2 << 30;
/// The share of the highest rate at which the tail is looked at.
const OPEN_LOOP: f64 = 0.7;
const OPEN_LOOP_DEPTH_MAX: usize = 200;
const RUN: Duration = Duration::from_millis(600);

/// One case: its name, the unit of its figure, and how it is measured.
struct Case {
    name: &'static str,
    unit: &'static str,
    figures: Vec<f64>,
}

/// A row of the table: what is compared with what.
struct Row {
    name: &'static str,
    figure: f64,
    unit: &'static str,
    aim: String,
    held: bool,
}

struct Bench {
    client: Client,
    appliance: Option<Appliance>,
    space: Object,
    value_bytes: usize,
}

fn main() -> Result<(), Failure> {
    let (mut json, mut rounds, mut only) = (false, 5, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => json = true,
            "--rounds" => rounds = figures::rounds(words.next())?,
            "--only" => match words.next() {
                Some(half) if ["memory", "file"].contains(&half.as_str()) => only = Some(half),
                _ => return Err("--only takes memory or file".into()),
            },
            "--bench" => {}
            other => return Err(format!("unknown argument {other:?}; there are --json, --rounds, --only").into()),
        }
    }
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let &[first, second, ..] = cores.as_slice() else {
        eprintln!("skipped: two cores are needed, one for each side, and this process may use {}", cores.len());
        return Ok(());
    };
    let directory = std::env::temp_dir().join(format!("forebay-bench-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let mut cases: Vec<Case> = Vec::new();
    let measured = (0..rounds).try_for_each(|round| {
        eprintln!("round {} of {rounds}", round + 1);
        measure_round([first, second], &directory, &mut cases, only.as_deref())
    });
    let _ = std::fs::remove_dir_all(&directory);
    measured?;
    report(&cases, json);
    Ok(())
}

fn record(cases: &mut Vec<Case>, name: &'static str, unit: &'static str, figure: f64) {
    match cases.iter_mut().find(|case| case.name == name) {
        Some(case) => case.figures.push(figure),
        None => cases.push(Case { name, unit, figures: vec![figure] }),
    }
}

fn measure_round(
    cores: [core_affinity::CoreId; 2],
    directory: &Path,
    cases: &mut Vec<Case>,
    only: Option<&str>,
) -> Result<(), Failure> {
    if only != Some("file") {
        in_memory(cores, directory, cases)?;
    }
    if only != Some("memory") {
        strict_on_file(cores, directory, cases)?;
    }
    Ok(())
}

fn in_memory(cores: [core_affinity::CoreId; 2], directory: &Path, cases: &mut Vec<Case>) -> Result<(), Failure> {
    record(cases, "cache line there and back", "ns", floor::cache_line(cores));
    core_affinity::set_for_current(cores[1]);
    {
        let mut bench = on_memory(cores[0].id, directory, Durability::Memory, SHARDS)?;
        let (p50, _) = bench.latency(Asked::Noop)?;
        record(cases, "no-op, QD1, p50", "ns", p50);
        let (p50, p99) = bench.latency(Asked::Put(None))?;
        record(cases, "put memory, QD1, p50", "ns", p50);
        record(cases, "put memory, QD1, p99", "ns", p99);
        let (p50, _) = bench.latency(Asked::Get)?;
        record(cases, "get, QD1, p50", "ns", p50);
        record(cases, "put memory, 32 in flight", "ops/s", bench.rate(32, Asked::Put(None))?);
        record(cases, "get, 32 in flight", "ops/s", bench.rate(32, Asked::Get)?);
        bench.stop()?;
    }
    {
        let mut bench = on_memory(cores[0].id, directory, Durability::Buffered, SHARDS)?;
        let (p50, p99) = bench.latency(Asked::Put(None))?;
        record(cases, "put buffered, QD1, p50", "ns", p50);
        record(cases, "put buffered, QD1, p99", "ns", p99);
        record(cases, "put buffered, 32 in flight", "ops/s", bench.rate(32, Asked::Put(None))?);
        bench.stop()?;
    }
    {
        // One shard: whoever waits shares a frame with all others.
        let mut bench = on_memory(cores[0].id, directory, Durability::Strict, 1)?;
        bench.value_bytes = COMMIT_BYTES;
        let most = bench.rate(64, Asked::Put(None))?;
        record(cases, "put strict, 128 B, memory device, 64 in flight", "ops/s", most);
        let (p50, p999) = bench.open_loop(most * OPEN_LOOP)?;
        record(cases, "put strict, memory device, open loop at 70 %, p50", "ns", p50);
        record(cases, "put strict, memory device, open loop at 70 %, p99.9", "ns", p999);
        bench.stop()?;
    }
    record(cases, "what comes while a core stalls, open loop, p99.9", "ns", stalls::stalls(cores, 0.999, RUN));
    Ok(())
}

/// The raw floor and ours, on files side by side.
fn strict_on_file(cores: [core_affinity::CoreId; 2], directory: &Path, cases: &mut Vec<Case>) -> Result<(), Failure> {
    let path = directory.join("device");
    let options = FormatOptions {
        capacity_bytes: Some(1 << 30),
        segment_size: SegmentSize::Bytes(8 << 20),
        shards: SHARDS,
        force: true,
    };
    format_device(&path, &options, &mut |_, _| {})?;
    for (raw, p50) in Raw::ALL.into_iter().zip(raw_durable_writes(cores, &path)?) {
        record(cases, raw.name(), "ns", p50);
    }
    core_affinity::set_for_current(cores[1]);
    format_device(&path, &FormatOptions { capacity_bytes: None, ..options }, &mut |_, _| {})?;
    let device = open(&path, &OpenOptions::default())?;
    let mut bench = Bench::start(&device, cores[0].id, directory, Durability::Strict)?;
    let (p50, p99) = bench.latency(Asked::Put(None))?;
    record(cases, "put strict, file, QD1, p50", "ns", p50);
    record(cases, "put strict, file, QD1, p99", "ns", p99);
    record(cases, "put strict, file, QD1", "ops/s", bench.rate(1, Asked::Put(None))?);
    record(cases, "put strict, file, 64 in flight", "ops/s", bench.rate(64, Asked::Put(None))?);
    let buffered = Some(Durability::Buffered);
    record(cases, "put buffered, file, 32 in flight", "ops/s", bench.rate(32, Asked::Put(buffered))?);
    // In a space that promises more, a put that promises nothing is logged all the same.
    bench.go_on_in("memory", Durability::Memory)?;
    record(cases, "put memory, file, 32 in flight", "ops/s", bench.rate(32, Asked::Put(None))?);
    bench.stop()
}

/// A way to write 4 KiB durably.
#[derive(Clone, Copy)]
enum Raw {
    Sync,
    Dsync,
    /// Through io_uring, whose end is polled for, and a flush: no core is woken for the write.
    Polled,
}

impl Raw {
    const ALL: [Raw; 3] = [Raw::Sync, Raw::Dsync, Raw::Polled];

    fn name(self) -> &'static str {
        match self {
            Raw::Sync => "raw 4 KiB write + fdatasync, QD1, p50",
            Raw::Dsync => "raw 4 KiB O_DSYNC write, QD1, p50",
            Raw::Polled => "raw 4 KiB io_uring write, polled for, + fdatasync, QD1, p50",
        }
    }
}

/// Durable 4 KiB writes of one thread on the reactor's core, while no core halts: the reactor's does not either.
fn raw_durable_writes(cores: [core_affinity::CoreId; 2], path: &Path) -> Result<Vec<f64>, Failure> {
    core_affinity::set_for_current(cores[0]);
    let measured = awake::awake(&cores, || Raw::ALL.map(|way| raw(path, way)))?;
    measured.into_iter().collect()
}

fn raw(path: &Path, way: Raw) -> Result<f64, Failure> {
    use rustix::fs::OFlags;
    const BYTES: u32 = 4_096;
    let flags = if matches!(way, Raw::Dsync) { OFlags::DIRECT | OFlags::DSYNC } else { OFlags::DIRECT };
    let file = std::fs::File::options().write(true).custom_flags(i32::try_from(flags.bits())?).open(path)?;
    let region = DmaRegion::allocate(BYTES as usize, Pages::Ordinary)?;
    let span = region.span();
    let mut block = region.split(BYTES as usize).remove(0);
    let options = UringOptions { iopoll: false, task_run: TaskRun::Cooperative, span: Some(&span), held: None };
    let mut ring = Uring::<()>::new(file.try_clone()?, 1, &options)?;
    let begun = Instant::now();
    let mut latencies = Vec::new();
    while begun.elapsed() < RUN {
        let at = (latencies.len() as u64 % 16_384 + 1_024) * u64::from(BYTES);
        let start = Instant::now();
        match way {
            Raw::Sync | Raw::Dsync => file.write_all_at(&block, at)?,
            Raw::Polled => {
                ring.submit(Transfer::Write, at, BYTES, block, ()).map_err(|_| "the ring is full")?;
                ring.kick();
                let ended = std::iter::repeat_with(|| ring.poll()).flatten().next().ok_or("it never ends")?;
                (block, ()) = (ended.buffer, ended.context);
                ended.result.map_err(std::io::Error::from_raw_os_error)?;
            }
        }
        if !matches!(way, Raw::Dsync) {
            file.sync_data()?;
        }
        latencies.push(start.elapsed().as_nanos() as f64);
    }
    latencies.sort_by(f64::total_cmp);
    Ok(latencies[latencies.len() / 2])
}

fn on_memory(core: usize, directory: &Path, durability: Durability, shards: u32) -> Result<Bench, Failure> {
    let disk = MemoryDisk::new(DISK_BYTES);
    // A drive's memory is there: no page of it is to be found by a first touch while the clock runs.
    let zeros = vec![0; 1 << 20];
    for address in (0..DISK_BYTES).step_by(zeros.len()) {
        disk.write(DeviceAddress(address), &zeros).map_err(|error| error.to_string())?;
    }
    let device = OpenDevice::memory(&disk, &OpenOptions::default());
    format_memory(&device, 16 << 20, shards)?;
    Bench::start(&device, core, directory, durability)
}

/// What is asked for again and again.
#[derive(Clone, Copy)]
enum Asked {
    Noop,
    Put(Option<Durability>),
    Get,
}

impl Bench {
    fn start(device: &OpenDevice, core: usize, directory: &Path, durability: Durability) -> Result<Bench, Failure> {
        let mut config = Config::default();
        config.reactors.cores = vec![core];
        config.reactors.spin = Spin::Forever;
        config.flight.directory = PathBuf::from("/dev/shm");
        config.rings.arena_bytes = ByteSize::mib(64);
        let socket = directory.join("socket");
        let appliance = Appliance::start(&config, device, &socket, None, &mut |line| eprintln!("{line}"))?;
        let mut client = Client::connect(&socket, &ConnectOptions::default())?;
        let space = client.open_space("bench", Some(durability))?;
        let mut bench = Bench { client, appliance: Some(appliance), space, value_bytes: VALUE_BYTES };
        bench.each_key_once()?;
        Ok(bench)
    }

    fn go_on_in(&mut self, space: &str, durability: Durability) -> Result<(), Failure> {
        self.space = self.client.open_space(space, Some(durability))?;
        self.each_key_once()
    }

    fn each_key_once(&mut self) -> Result<(), Failure> {
        let mut reply = Vec::new();
        for number in 0..KEYS {
            self.submit(number, Asked::Put(Some(Durability::Memory)))?;
            self.client.wait(&mut reply)?.ok()?;
        }
        Ok(())
    }

    fn submit(&mut self, number: u32, asked: Asked) -> Result<(), Failure> {
        self.submit_as(u64::from(number), number, asked)
    }

    fn submit_as(&mut self, user_data: u64, number: u32, asked: Asked) -> Result<(), Failure> {
        let mut key = [b'k'; KEY_BYTES];
        // Each key once a pass, in an order that a cache does not know.
        let place = number.wrapping_mul(7_919) % KEYS;
        key[8..12].copy_from_slice(&place.to_le_bytes());
        let value = &[7; COMMIT_BYTES][..self.value_bytes];
        let space = self.space;
        let request = match asked {
            Asked::Noop => Request::Noop { reactor: 0 },
            Asked::Put(durability) => {
                Request::Put { space, key: &key, value, how: Write { durability, ..Write::default() } }
            }
            Asked::Get => Request::Get { space, key: &key, relaxed: false, value_bytes_max: COMMIT_BYTES },
        };
        match self.client.submit(user_data, &request) {
            Ok(()) => Ok(()),
            Err(SubmitError::Full) => Err("the ring is full".into()),
            Err(SubmitError::Client(error)) => Err(error.into()),
        }
    }

    /// p50 and p99 in nanoseconds, one at a time.
    fn latency(&mut self, asked: Asked) -> Result<(f64, f64), Failure> {
        let mut latencies = Vec::with_capacity(4 << 20);
        let mut reply = Vec::with_capacity(4_096);
        let begun = Instant::now();
        let mut number = 0;
        while begun.elapsed() < RUN {
            let start = Instant::now();
            self.submit(number, asked)?;
            loop {
                if let Some(answer) = self.client.poll(&mut reply)? {
                    answer.ok()?;
                    break;
                }
            }
            latencies.push(start.elapsed().as_nanos() as f64);
            number = number.wrapping_add(1);
        }
        latencies.sort_by(f64::total_cmp);
        Ok((latencies[latencies.len() / 2], latencies[latencies.len() * 99 / 100]))
    }

    /// Operations a second with `depth` in flight.
    fn rate(&mut self, depth: usize, asked: Asked) -> Result<f64, Failure> {
        let mut reply = Vec::with_capacity(4_096);
        let (mut number, mut done) = (0_u32, 0_u64);
        let begun = Instant::now();
        while begun.elapsed() < RUN {
            for _ in 0..256 {
                while self.client.in_flight() < depth {
                    self.submit(number, asked)?;
                    number = number.wrapping_add(1);
                }
                while let Some(answer) = self.client.poll(&mut reply)? {
                    answer.ok()?;
                    done += 1;
                }
            }
        }
        let rate = done as f64 / begun.elapsed().as_secs_f64();
        while self.client.in_flight() > 0 {
            self.client.wait(&mut reply)?.ok()?;
        }
        Ok(rate)
    }

    /// p50 and p99.9 in nanoseconds of puts that begin when it is their time, whatever became of those before them: each is timed
    /// from when it should have begun.
    fn open_loop(&mut self, rate: f64) -> Result<(f64, f64), Failure> {
        let interval_ns = 1e9 / rate;
        let due_ns = |number: u64| number as f64 * interval_ns;
        let mut latencies = Vec::with_capacity(4 << 20);
        let mut reply = Vec::with_capacity(4_096);
        let (begun, mut number) = (Instant::now(), 0_u64);
        loop {
            let now_ns = begun.elapsed().as_nanos() as f64;
            if now_ns >= RUN.as_nanos() as f64 {
                break;
            }
            while due_ns(number) <= now_ns && self.client.in_flight() < OPEN_LOOP_DEPTH_MAX {
                self.submit_as(number, u32::try_from(number)?, Asked::Put(None))?;
                number += 1;
            }
            while let Some(answer) = self.client.poll(&mut reply)? {
                let of = answer.user_data;
                answer.ok()?;
                latencies.push(begun.elapsed().as_nanos() as f64 - due_ns(of));
            }
        }
        while self.client.in_flight() > 0 {
            self.client.wait(&mut reply)?.ok()?;
        }
        latencies.sort_by(f64::total_cmp);
        Ok((latencies[latencies.len() / 2], latencies[latencies.len() * 999 / 1_000]))
    }

    fn stop(mut self) -> Result<(), Failure> {
        drop(self.client);
        Ok(self.appliance.take().map_or(Ok(()), Appliance::stop)?)
    }
}

fn figures<'a>(cases: &'a [Case], name: &str) -> &'a [f64] {
    cases.iter().find(|case| case.name == name).map_or(&[], |case| &case.figures)
}

fn median_of(figures: &[f64]) -> f64 {
    figures::summary(figures).map_or(f64::NAN, |[median, ..]| median)
}

fn median(cases: &[Case], name: &str) -> f64 {
    median_of(figures(cases, name))
}

/// The median of the rounds' ratios: a host that moves a virtual machine's cores changes both sides of a round alike.
fn ratio(cases: &[Case], above: &str, below: &str) -> f64 {
    let pairs = figures(cases, above).iter().zip(figures(cases, below));
    median_of(&pairs.map(|(above, below)| above / below).collect::<Vec<_>>())
}

fn rows(cases: &[Case]) -> Vec<Row> {
    let of = |name| median(cases, name);
    let at_most =
        |name, figure: f64, unit, aim: f64| Row { name, figure, unit, aim: format!("<= {aim}"), held: figure <= aim };
    let at_least =
        |name, figure: f64, unit, aim: f64| Row { name, figure, unit, aim: format!(">= {aim}"), held: figure >= aim };
    // The larger ratio is that to the faster way.
    let floors = Raw::ALL.map(Raw::name);
    let strict =
        floors.map(|floor| ratio(cases, "put strict, file, QD1, p50", floor)).into_iter().fold(f64::NAN, f64::max);
    let tail =
        ["put strict, memory device, open loop at 70 %, p99.9", "put strict, memory device, open loop at 70 %, p50"];
    let on_memory = ratio(cases, "put buffered, 32 in flight", "put memory, 32 in flight");
    let on_file = ratio(cases, "put buffered, file, 32 in flight", "put memory, file, 32 in flight");
    let ring = ratio(cases, "no-op, QD1, p50", "cache line there and back");
    vec![
        at_most("ring round trip p50 / cache line there and back", ring, "x", 2.0),
        at_most("put memory, 16 B key, 100 B value, QD1, p50", of("put memory, QD1, p50") / 1e3, "us", 1.0),
        at_most("put memory, QD1, p99", of("put memory, QD1, p99") / 1e3, "us", 5.0),
        at_least("put memory, 32 in flight", of("put memory, 32 in flight") / 1e6, "M/s", 3.0),
        at_least("put buffered / put memory, 32 in flight, memory device", on_memory, "x", 0.8),
        at_least("put buffered / put memory, 32 in flight, file", on_file, "x", 0.8),
        at_most("get, QD1, p50", of("get, QD1, p50") / 1e3, "us", 1.0),
        at_least(
            "put strict, 128 B, 64 in flight, memory device",
            of("put strict, 128 B, memory device, 64 in flight") / 1e6,
            "M/s",
            1.0,
        ),
        at_most("put strict, open loop at 70 %, memory device, p99.9 / p50", ratio(cases, tail[0], tail[1]), "x", 5.0),
        at_most("put strict on a file, QD1, p50 / fastest raw durable 4 KiB write", strict, "x", 1.1),
        at_least(
            "put strict on a file, 64 in flight / QD1 rate",
            ratio(cases, "put strict, file, 64 in flight", "put strict, file, QD1"),
            "x",
            20.0,
        ),
    ]
}

fn report(cases: &[Case], json: bool) {
    let mut rows = rows(cases);
    // The half that was not asked for.
    rows.retain(|row| !row.figure.is_nan());
    if json {
        let summary = |case: &Case| {
            let least = case.figures.iter().copied().fold(f64::INFINITY, f64::min);
            let most = case.figures.iter().copied().fold(0.0, f64::max);
            json!({ "name": case.name, "unit": case.unit, "median": median(cases, case.name), "min": least, "max": most })
        };
        let table: Vec<_> = rows
            .iter()
            .map(|row| json!({ "name": row.name, "figure": row.figure, "unit": row.unit, "aim": row.aim, "held": row.held }))
            .collect();
        println!("{:#}", json!({ "cases": cases.iter().map(summary).collect::<Vec<_>>(), "table": table }));
        return;
    }
    for case in cases {
        let least = case.figures.iter().copied().fold(f64::INFINITY, f64::min);
        let most = case.figures.iter().copied().fold(0.0, f64::max);
        let (name, unit, median) = (case.name, case.unit, median(cases, case.name));
        println!("{name:<52} {median:>12.0} {unit:<6} ({least:.0} - {most:.0})");
    }
    println!();
    for Row { name, figure, unit, aim, held } in rows {
        let verdict = if held { "held" } else { "MISSED" };
        println!("{name:<66} {figure:>7.2} {unit:<8} aim {aim:<8} {verdict}");
    }
}
