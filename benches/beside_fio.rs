//! What a drive gives through an appliance, beside what fio gets out of the same file system: events of 64 KiB appended in a row,
//! values of 4 KiB read at random, pages of 4 KiB read and written at queue depths of 1 to 256.
//! `cargo bench --bench beside_fio`, with `-- --json` for a machine, `-- --rounds N` for more than 3.
//!
//! The reactor polls on the first core, the client on the second; fio has the first, and while it runs a loop of idle
//! priority keeps each core awake. What is read is some twenty times what the appliance may keep in memory. It takes 26 GiB in the
//! place for temporary files (TMPDIR), which has to be on the drive.

mod awake;
mod figures;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use forebay::appliance::Appliance;
use forebay::appliance::prepare::{FormatOptions, SegmentSize, format_device};
use forebay::config::{self, ByteSize, Config, Nanos, Spin};
use forebay::device::open::{OpenOptions, open};
use forebay::device::prepare::preallocate_and_zero;
use forebay::ring::client::{Client, ConnectOptions, Object, Request, SubmitError, Write};
use forebay::ring::protocol::commit::{Entry, What};
use forebay::types::{Durability, PageSize};
use serde_json::json;

type Failure = Box<dyn Error>;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: forebay_sys::alloc::HugePages = forebay_sys::alloc::HugePages;

const RUN: Duration = Duration::from_secs(2);
const BLOCK_BYTES: usize = 4 << 10;
const EVENT_BYTES: usize = 64 << 10;
const EVENT_DEPTH: usize = 16;
/// Values and pages, 512 MiB each.
const COUNT: u64 = 128 << 10;
const MEMORY_BYTES_MAX: ByteSize = ByteSize::mib(48);
const DEVICE_BYTES: u64 = 8 << 30;
const FIO_BYTES: u64 = 1 << 30;
const DEPTHS: [usize; 5] = [1, 4, 16, 64, 256];
const AIM: f64 = 0.90;

/// What is asked for again and again.
#[derive(Clone, Copy)]
enum Asked {
    Append,
    Put,
    Get,
    WritePage(Durability),
    ReadPage,
}

/// One line of the table: the figures of the rounds, in operations or MiB a second.
struct Row {
    name: String,
    unit: &'static str,
    own: Vec<f64>,
    fio: Vec<f64>,
    /// The least ratio that is asked for.
    aim: Option<f64>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("beside_fio: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let (mut json, mut rounds) = (false, 3);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => json = true,
            "--rounds" => rounds = figures::rounds(words.next())?,
            "--bench" => {}
            other => return Err(format!("unknown argument {other:?}; there are --json, --rounds").into()),
        }
    }
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let &[first, second, ..] = cores.as_slice() else {
        eprintln!("skipped: two cores are needed, one for each side, and this process may use {}", cores.len());
        return Ok(());
    };
    if Command::new("fio").arg("--version").output().is_err() {
        eprintln!("skipped: it needs fio (apt-get install fio)");
        return Ok(());
    }
    let directory = std::env::temp_dir().join(format!("forebay-fio-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let mut rows = Vec::new();
    let measured = measure(&directory, [first, second], rounds, &mut rows);
    let _ = std::fs::remove_dir_all(&directory);
    measured?;
    report(&rows, json);
    Ok(())
}

fn measure(directory: &Path, cores: [CoreId; 2], rounds: usize, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let raw = directory.join("raw");
    preallocate_and_zero(&raw, FIO_BYTES, &mut |_, _| {})?;
    let start = |name, wal| Bench::start(&directory.join(name), cores[0].id, wal);
    let mut bench = start("values", config::Wal::default())?;
    // Beside values that are kept, what is given up has to be read.
    let mut events = start("events", config::Wal::default())?;
    // More bytes under way.
    let throughput = Config::parse(include_str!("../configs/throughput.toml"), Path::new("configs/throughput.toml"))?;
    let mut deep = start("throughput", throughput.wal)?;
    core_affinity::set_for_current(cores[1]);
    eprintln!("{COUNT} values and as many pages are written first");
    bench.each_once(Asked::Put)?;
    bench.each_once(Asked::WritePage(Durability::Buffered))?;
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        let fio = |rw, bytes, depth| awake::awake(&cores, || fio(&raw, rw, bytes, depth, cores[0].id))?;
        let mib = EVENT_BYTES as f64 / f64::from(1 << 20);
        for (bench, name) in [
            (&mut events, "events of 64 KiB, buffered / fio write"),
            (&mut deep, "the same with [wal] of throughput.toml"),
        ] {
            let own = bench.rate(EVENT_DEPTH, Asked::Append)? * mib;
            bench.trim()?;
            let beside = fio("write", EVENT_BYTES, EVENT_DEPTH)? * mib;
            add(rows, name, EVENT_DEPTH, "MiB/s", [own, beside], Some(AIM));
        }
        let (own, beside) = (bench.rate(32, Asked::Get)?, fio("randread", BLOCK_BYTES, 32)?);
        add(rows, "values of 4 KiB / fio randread", 32, "/s", [own, beside], Some(AIM));
        for depth in DEPTHS {
            let (own, beside) = (bench.rate(depth, Asked::ReadPage)?, fio("randread", BLOCK_BYTES, depth)?);
            add(rows, "pages of 4 KiB read / fio randread", depth, "/s", [own, beside], None);
        }
        for depth in DEPTHS {
            let own = bench.rate(depth, Asked::WritePage(Durability::Strict))?;
            let beside = fio("randwrite", BLOCK_BYTES, depth)?;
            add(rows, "pages of 4 KiB written, strict / fio randwrite, O_DSYNC", depth, "/s", [own, beside], None);
        }
    }
    [bench, events, deep].into_iter().try_for_each(Bench::stop)
}

fn add(rows: &mut Vec<Row>, name: &str, depth: usize, unit: &'static str, figures: [f64; 2], aim: Option<f64>) {
    let name = format!("{name}, {depth} in flight");
    eprintln!("{name}: {:.0} beside {:.0} {unit}", figures[0], figures[1]);
    let at = rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
        rows.push(Row { name, unit, own: Vec::new(), fio: Vec::new(), aim });
        rows.len() - 1
    });
    rows[at].own.push(figures[0]);
    rows[at].fio.push(figures[1]);
}

/// Operations a second of fio, O_DIRECT. Random writes are durable each (O_DSYNC), writes in a row are as buffered ones: not yet.
fn fio(path: &Path, rw: &str, bytes: usize, depth: usize, core: usize) -> Result<f64, Failure> {
    let output = Command::new("fio")
        .args(["--name=beside", "--direct=1", "--overwrite=1", "--time_based", "--output-format=json"])
        .args([format!("--rw={rw}"), format!("--bs={bytes}"), format!("--iodepth={depth}")])
        .args([if depth == 1 { "--ioengine=psync" } else { "--ioengine=io_uring" }])
        .args([if rw == "randwrite" { "--sync=dsync" } else { "--sync=none" }])
        .args([format!("--filename={}", path.display()), format!("--size={FIO_BYTES}")])
        .args([format!("--cpus_allowed={core}"), format!("--runtime={}ms", RUN.as_millis())])
        .output()?;
    let json: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let side = if rw == "randread" { "read" } else { "write" };
    json["jobs"][0][side]["iops"].as_f64().ok_or_else(|| format!("fio says no rate: {json}").into())
}

struct Bench {
    client: Client,
    appliance: Appliance,
    stream: Object,
    space: Object,
    pages: Object,
    event: Vec<u8>,
    number: u64,
    appended: u64,
}

impl Bench {
    fn start(directory: &Path, core: usize, wal: config::Wal) -> Result<Bench, Failure> {
        std::fs::create_dir_all(directory)?;
        let path = directory.join("device");
        let options = FormatOptions {
            capacity_bytes: Some(DEVICE_BYTES),
            segment_size: SegmentSize::Suiting { bytes_min: 4 << 20 },
            shards: 1,
            force: true,
        };
        format_device(&path, &options, &mut |_, _| {})?;
        let device = open(&path, &OpenOptions::default())?;
        let mut config = Config { wal, ..Config::default() };
        config.reactors.cores = vec![core];
        // While fio has its core, it sleeps.
        config.reactors.spin = Spin::For(Nanos(5_000_000));
        config.flight.directory = PathBuf::from("/dev/shm");
        config.limits.memory_bytes_max = MEMORY_BYTES_MAX;
        config.limits.keys_max = 2 * COUNT;
        config.rings.sq_entries = 1_024;
        let socket = directory.join("socket");
        let appliance = Appliance::start(&config, &device, &socket, None, &mut |line| eprintln!("{line}"))?;
        let mut client = Client::connect(&socket, &ConnectOptions::default())?;
        let stream = client.open_stream("events", Some(Durability::Buffered))?;
        let space = client.open_space("values", Some(Durability::Buffered))?;
        let size = PageSize::new(BLOCK_BYTES).ok_or("no page has 4 KiB")?;
        let pages = client.open_pages("pages", Some((size, Durability::Strict)))?.object;
        Ok(Bench { client, appliance, stream, space, pages, event: vec![7; EVENT_BYTES], number: 0, appended: 0 })
    }

    fn submit(&mut self, asked: Asked) -> Result<(), Failure> {
        self.number += 1;
        self.appended += u64::from(matches!(asked, Asked::Append));
        // Far from the one before it.
        let number = self.number.wrapping_mul(7_919) % COUNT;
        let mut key = [b'k'; 16];
        key[..8].copy_from_slice(&number.to_le_bytes());
        let how = Write { durability: Some(Durability::Buffered), ..Write::default() };
        let page_key = number.to_be_bytes();
        let page = [Entry { object: self.pages.id, key: &page_key, what: What::Put(&self.event[..BLOCK_BYTES]) }];
        let request = match asked {
            Asked::Append => Request::Append { stream: self.stream, event: &self.event, how },
            Asked::Put => Request::Put { space: self.space, key: &key, value: &self.event[..BLOCK_BYTES], how },
            Asked::Get => Request::Get { space: self.space, key: &key, relaxed: false, value_bytes_max: BLOCK_BYTES },
            Asked::WritePage(durability) => {
                Request::WritePages { space: self.pages, entries: &page, durability: Some(durability) }
            }
            Asked::ReadPage => Request::ReadPages {
                space: self.pages,
                numbers: &[number],
                snapshot: None,
                relaxed: false,
                reply_bytes_max: BLOCK_BYTES + 16,
            },
        };
        match self.client.submit(0, &request) {
            Ok(()) => Ok(()),
            Err(SubmitError::Full) => Err("the ring is full".into()),
            Err(SubmitError::Client(error)) => Err(error.into()),
        }
    }

    /// Every value, or every page.
    fn each_once(&mut self, asked: Asked) -> Result<(), Failure> {
        self.keep(32, asked, |done, _| done < COUNT).map(drop)
    }

    /// What was appended makes room again.
    fn trim(&mut self) -> Result<(), Failure> {
        Ok(self.client.trim(self.stream, self.appended)?)
    }

    /// Operations a second with `depth` in flight.
    fn rate(&mut self, depth: usize, asked: Asked) -> Result<f64, Failure> {
        self.keep(depth, asked, |_, time| time < RUN)
    }

    fn keep(&mut self, depth: usize, asked: Asked, on: impl Fn(u64, Duration) -> bool) -> Result<f64, Failure> {
        let mut reply = Vec::with_capacity(2 * BLOCK_BYTES);
        let (begun, mut done) = (Instant::now(), 0);
        while on(done, begun.elapsed()) {
            while self.client.in_flight() < depth {
                self.submit(asked)?;
            }
            while let Some(answer) = self.client.poll(&mut reply)? {
                answer.ok()?;
                done += 1;
            }
        }
        while self.client.in_flight() > 0 {
            self.client.wait(&mut reply)?.ok()?;
            done += 1;
        }
        Ok(done as f64 / begun.elapsed().as_secs_f64())
    }

    fn stop(self) -> Result<(), Failure> {
        drop(self.client);
        Ok(self.appliance.stop()?)
    }
}

fn report(rows: &[Row], json: bool) {
    let mut all = Vec::new();
    if !json {
        println!("{:<76} {:>22} {:>22} {:>20}", "", "Forebay", "fio", "ratio");
    }
    for row in rows {
        let ratios: Vec<f64> = row.own.iter().zip(&row.fio).map(|(own, fio)| own / fio).collect();
        let all_of = |figures: &[f64]| figures::summary(figures).unwrap_or([f64::NAN; 3]);
        let [own, beside, ratio] = [&row.own, &row.fio, &ratios].map(|figures| all_of(figures));
        let held = row.aim.map(|aim| ratio[0] >= aim);
        if json {
            let of = |[median, min, max]: [f64; 3]| json!({ "median": median, "min": min, "max": max });
            all.push(json!({
                "name": row.name, "unit": row.unit, "forebay": of(own), "fio": of(beside),
                "ratio": of(ratio), "aim": row.aim, "held": held,
            }));
            continue;
        }
        let cell = |[median, min, max]: [f64; 3]| format!("{median:>7.0} ({min:.0} - {max:.0}) {}", row.unit);
        let (name, [ratio, min, max], own, beside) = (&row.name, ratio, cell(own), cell(beside));
        let verdict = match held {
            Some(true) => format!("aim {AIM} held"),
            Some(false) => format!("aim {AIM} MISSED"),
            None => String::new(),
        };
        println!("{name:<76} {own} {beside} {ratio:.2} x ({min:.2} - {max:.2}) {verdict}");
    }
    if json {
        println!("{:#}", json!(all));
    }
}
