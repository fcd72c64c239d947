#![forbid(unsafe_code)]
//! Which way to a durable 4 KiB write is the fastest on this machine, and how near to it the device comes.
//!
//!     cargo bench --bench device -- [--path FILE] [--overwrite] [--core N] [--other awake|asleep] [--ops N] [--json]
//!
//! `fio` runs beside it where it is installed. The other core is kept awake by default: a halted one takes tens of
//! microseconds to wake, which hides everything else.

mod depth;

use std::collections::BTreeMap;
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay::buffer::Pool;
use forebay::device::open::{OpenOptions, open};
use forebay::device::{OperationKind, prepare};
use forebay::types::TierChoice;
use forebay_sys::dma::{DmaRegion, Pages};
use forebay_sys::uring::{TaskRun, Transfer, Uring, UringOptions};

use depth::{Plan, Taken};

const FILE_BYTES: u64 = 64 << 20;
const BLOCK_BYTES: u32 = 4096;
const ROUNDS: usize = 3;
/// A way that is starved is cut short: what it did by then tells enough.
const RUN_MAX: Duration = Duration::from_secs(2);

type Failure = Box<dyn std::error::Error>;

struct Args {
    path: PathBuf,
    overwrite: bool,
    core: usize,
    other_awake: bool,
    ops: usize,
    json: bool,
}

/// One round of one way: microseconds, and operations a second.
#[derive(Clone, Copy)]
struct Figures {
    p50: f64,
    p99: f64,
    max: f64,
    per_second: f64,
}

fn main() -> Result<(), Failure> {
    let args = arguments()?;
    let made = !args.path.exists();
    if made {
        prepare::preallocate_and_zero(&args.path, FILE_BYTES, &mut |_, _| {})?;
    } else if !args.overwrite {
        let path = args.path.display();
        return Err(format!("{path} would be written to; add --overwrite if its first 64 MiB may be lost").into());
    }
    let measured = measure(&args);
    if made {
        _ = std::fs::remove_file(&args.path);
    }
    report(&args, &measured?);
    Ok(())
}

fn measure(args: &Args) -> Result<BTreeMap<String, Vec<Figures>>, Failure> {
    pin(args.core);
    let stop = Arc::new(AtomicBool::new(!args.other_awake));
    let (stopped, other) = (Arc::clone(&stop), 1 - args.core.min(1));
    let spinner = std::thread::spawn(move || {
        pin(other);
        while !stopped.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    });
    let mut all: BTreeMap<String, Vec<Figures>> = BTreeMap::new();
    let measured = (0..ROUNDS).try_for_each(|_| {
        for (name, figures) in round(args)? {
            all.entry(name).or_default().push(figures);
        }
        Ok(())
    });
    stop.store(true, Ordering::Relaxed);
    let _ = spinner.join();
    measured.map(|()| all)
}

/// Every way once, one after another, so that a drift of the machine meets all of them.
fn round(args: &Args) -> Result<Vec<(String, Figures)>, Failure> {
    let mut all = Vec::new();
    for depth in [1, 32] {
        for (name, tier) in [("device", TierChoice::Auto), ("blocking RWF_DSYNC", TierChoice::Blocking)] {
            if depth == 1 || tier == TierChoice::Auto {
                all.push((format!("qd{depth:02} {name}"), device(args, depth, tier)?));
            }
        }
        for task_run in [TaskRun::Interrupt, TaskRun::Cooperative, TaskRun::Deferred] {
            for (name, transfer) in [("RWF_DSYNC", Transfer::WriteDsync), ("write + fdatasync", Transfer::Write)] {
                let figures = uring(args, depth, task_run, transfer)?;
                all.push((format!("qd{depth:02} uring {task_run:?} {name}"), figures));
            }
        }
    }
    for (name, option) in [("O_DSYNC", "--sync=dsync"), ("fdatasync", "--fdatasync=1")] {
        if let Some(figures) = fio(args, option) {
            all.push((format!("qd01 fio psync {name}"), figures));
        }
    }
    Ok(all)
}

fn figures(taken: &Taken) -> Figures {
    let at = |percent: usize| taken.percentile(percent).as_secs_f64() * 1e6;
    Figures { p50: at(50), p99: at(99), max: at(100), per_second: taken.per_second() }
}

fn address(number: usize) -> u64 {
    number as u64 % (FILE_BYTES / u64::from(BLOCK_BYTES)) * u64::from(BLOCK_BYTES)
}

fn device(args: &Args, depth: usize, tier: TierChoice) -> Result<Figures, Failure> {
    let opened = open(&args.path, &OpenOptions { tier, ..OpenOptions::default() })?;
    let region = DmaRegion::allocate(depth * BLOCK_BYTES as usize, Pages::Ordinary)?;
    let span = region.span();
    let (device, pool) = (opened.device(Some(&span))?, Pool::new(region, BLOCK_BYTES as usize));
    Ok(figures(&depth::buffers(plan(args, depth), device, pool, (OperationKind::WriteDurable, false), address)))
}

fn plan(args: &Args, depth: usize) -> Plan {
    Plan { ops: args.ops, depth, time_max: RUN_MAX }
}

fn uring(args: &Args, depth: usize, task_run: TaskRun, transfer: Transfer) -> Result<Figures, Failure> {
    use std::os::unix::fs::OpenOptionsExt;
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits())?;
    let file = File::options().read(true).write(true).custom_flags(direct).open(&args.path)?;
    let region = DmaRegion::allocate(depth * BLOCK_BYTES as usize, Pages::Ordinary)?;
    let span = region.span();
    let options = UringOptions { iopoll: false, task_run, span: Some(&span), held: None };
    let ring = std::cell::RefCell::new(Uring::<()>::new(file.try_clone()?, 64, &options)?);
    let buffers = std::cell::RefCell::new(region.split(BLOCK_BYTES as usize));
    let start = |number: usize| {
        let buffer = buffers.borrow_mut().pop().expect("as many buffers as are under way");
        let submitted = ring.borrow_mut().submit(transfer, address(number), BLOCK_BYTES, buffer, ());
        assert!(submitted.is_ok(), "the ring takes as many as are under way");
    };
    let ended = || {
        let mut count = 0;
        ring.borrow_mut().kick();
        while let Some(ended) = ring.borrow_mut().poll() {
            assert_eq!(ended.result, Ok(BLOCK_BYTES), "the write succeeds");
            buffers.borrow_mut().push(ended.buffer);
            count += 1;
        }
        if count > 0 && transfer == Transfer::Write {
            file.sync_data().expect("the flush succeeds");
        }
        count
    };
    Ok(figures(&depth::drive(plan(args, depth), start, ended)))
}

/// What fio finds on the same file and core. Write and sync count together where they are two calls.
fn fio(args: &Args, sync: &str) -> Option<Figures> {
    let core = args.core.to_string();
    let (file, bytes) = (format!("--filename={}", args.path.display()), args.ops * BLOCK_BYTES as usize);
    let output = Command::new("fio")
        .args(["--name=durable", &file, "--rw=write", "--bs=4k", "--direct=1", "--ioengine=psync", "--overwrite=1"])
        .args([sync, &format!("--io_size={bytes}"), &format!("--cpus_allowed={core}"), "--output-format=json"])
        .args([format!("--size={FILE_BYTES}")])
        .output()
        .ok()?;
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let job = &json["jobs"][0];
    let nanoseconds = |value: &serde_json::Value| value.as_f64().unwrap_or(0.0) / 1e3;
    let both = |key: &str| {
        let of = |latency: &serde_json::Value| {
            nanoseconds(if key == "max" { &latency["max"] } else { &latency["percentile"][key] })
        };
        of(&job["write"]["clat_ns"]) + of(&job["sync"]["lat_ns"])
    };
    let per_second = job["write"]["iops"].as_f64()?;
    Some(Figures { p50: both("50.000000"), p99: both("99.000000"), max: both("max"), per_second })
}

fn report(args: &Args, all: &BTreeMap<String, Vec<Figures>>) {
    let mut json = serde_json::Map::new();
    for (name, rounds) in all {
        let summary = |of: fn(&Figures) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            (values[values.len() / 2], values[0], values[values.len() - 1])
        };
        let columns = [
            ("p50_us", summary(|f| f.p50)),
            ("p99_us", summary(|f| f.p99)),
            ("max_us", summary(|f| f.max)),
            ("per_second", summary(|f| f.per_second)),
        ];
        if args.json {
            let fields = columns.map(|(key, (median, min, max))| {
                (key.to_owned(), serde_json::json!({ "median": median, "min": min, "max": max }))
            });
            json.insert(name.clone(), serde_json::Value::Object(fields.into_iter().collect()));
        } else {
            let cells = columns.map(|(key, (median, min, max))| format!("{key} {median:7.0} ({min:.0}-{max:.0})"));
            println!("{name:42} {}", cells.join("  "));
        }
    }
    if args.json {
        println!("{}", serde_json::Value::Object(json));
    }
}

fn pin(core: usize) {
    if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        eprintln!("core {core} cannot be pinned to; figures will scatter");
    }
}

fn arguments() -> Result<Args, Failure> {
    let path = std::env::temp_dir().join(format!("forebay-bench-device-{}.img", std::process::id()));
    let mut args = Args { path, overwrite: false, core: 0, other_awake: true, ops: 3000, json: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--path" => args.path = Path::new(&value()?).to_owned(),
            "--core" => args.core = value()?.parse()?,
            "--overwrite" => args.overwrite = true,
            "--ops" => args.ops = value()?.parse::<NonZeroUsize>()?.get(),
            "--other" => {
                args.other_awake = match value()?.as_str() {
                    "awake" => true,
                    "asleep" => false,
                    _ => return Err("--other takes awake or asleep".into()),
                }
            }
            "--json" => args.json = true,
            // Added by `cargo bench` itself.
            "--bench" => {}
            _ => return Err(format!("unknown option {word}; see the head of benches/device.rs").into()),
        }
    }
    Ok(args)
}
