#![forbid(unsafe_code)]
//! What this machine can do at all, to hold every other figure against: a cache line there and back, copies, CRC32C,
//! and the drive by itself.
//!
//!     cargo bench --bench floors -- [--device PATH]... [--overwrite] [--core N] [--rounds N] [--quick] [--json]
//!
//! Without `--device` a file is made in the place for temporary files and removed again. A device that is named is
//! written to, so it takes `--overwrite`. Rounds take turns over all cases. A figure is the median of the rounds with
//! its least and most. While a drive is measured a loop of idle priority keeps each core awake:
//! one that halts takes tens of microseconds to wake, and a reactor's never does.

mod awake;
#[path = "floor/drive.rs"]
mod drive;
mod figures;
mod floor;
#[path = "floor/memory.rs"]
mod memory;
#[path = "floor/stalls.rs"]
mod stalls;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use awake::awake;
use core_affinity::CoreId;
use figures::{rounds, summary};
use forebay::device::OperationKind::{Read, WriteDurable};
use forebay::device::controller_name::Name;
use forebay::device::prepare::preallocate_and_zero;
use forebay::types::TierChoice;
use serde_json::json;

type Failure = Box<dyn std::error::Error>;

const RECORDS_BYTES: [usize; 6] = [64, 128, 512, 1 << 10, 4 << 10, 64 << 10];
const COPIES_BYTES: [(&str, usize); 3] = [("4 KiB", 4 << 10), ("1 MiB", 1 << 20), ("256 MiB", 256 << 20)];

struct Args {
    devices: Vec<PathBuf>,
    overwrite: bool,
    core: usize,
    rounds: usize,
    run: Duration,
    json: bool,
}

/// One line of the table: the figures of the rounds, and those of the tool that others measure with.
struct Row {
    name: String,
    unit: &'static str,
    figures: Vec<f64>,
    beside: Vec<f64>,
    tool: &'static str,
}

#[derive(Default)]
struct Table {
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Table {
    fn add(&mut self, name: &str, unit: &'static str, figure: f64, tool: &'static str, beside: Option<f64>) {
        let at = self.rows.iter().position(|row| row.name == name && row.unit == unit).unwrap_or_else(|| {
            self.rows.push(Row { name: name.to_owned(), unit, figures: Vec::new(), beside: Vec::new(), tool });
            self.rows.len() - 1
        });
        self.rows[at].figures.push(figure);
        self.rows[at].beside.extend(beside);
    }

    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

fn main() -> ExitCode {
    match arguments().and_then(|args| run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floors: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let own = cores.iter().copied().find(|core| core.id == args.core);
    let other = cores.iter().copied().find(|core| core.id != args.core);
    let own = own.ok_or_else(|| format!("core {} is not one of this process's; use --core", args.core))?;
    let mut devices = args.devices.clone();
    let scratch = std::env::temp_dir().join(format!("forebay-floors-{}.img", std::process::id()));
    if devices.is_empty() {
        preallocate_and_zero(&scratch, drive::SPAN_BYTES, &mut |_, _| {})?;
        devices.push(scratch.clone());
    }
    let mut table = Table::default();
    let measured = (0..args.rounds).try_for_each(|round| {
        eprintln!("round {} of {}", round + 1, args.rounds);
        measure(args, own, other, &devices, &mut table)
    });
    if args.devices.is_empty() {
        let _ = std::fs::remove_file(&scratch);
    }
    measured?;
    if args.json {
        report_json(&table)
    } else {
        report(&table)
    }
    Ok(())
}

/// Every case once.
fn measure(
    args: &Args,
    own: CoreId,
    other: Option<CoreId>,
    devices: &[PathBuf],
    table: &mut Table,
) -> Result<(), Failure> {
    match other {
        Some(other) => {
            table.add("cache line there and back", "ns", floor::cache_line([own, other]), "", None);
            let stalls_us = stalls::stalls([own, other], 0.999, args.run) / 1e3;
            table.add("what comes while a core stalls, p99.9", "us", stalls_us, "", None);
        }
        None => table.note("a cache line there and back: skipped, this process may use one core only".to_owned()),
    }
    core_affinity::set_for_current(own);
    for (name, bytes) in COPIES_BYTES {
        table.add(&format!("memcpy of {name}"), "GB/s", memory::copy(bytes, args.run), "", None);
    }
    for bytes in RECORDS_BYTES {
        let beside = Some(memory::crc_fast(bytes, args.run));
        table.add(&format!("CRC32C of {bytes} B"), "GB/s", memory::crc32c(bytes, args.run), "crc-fast", beside);
    }
    let cores: Vec<CoreId> = other.into_iter().chain([own]).collect();
    awake(&cores, || devices.iter().try_for_each(|path| measure_drive(args, path, table)))?
}

/// A device by every tier that it can be reached by.
fn measure_drive(args: &Args, path: &Path, table: &mut Table) -> Result<(), Failure> {
    let controller = Name::parse(path).is_some();
    let metadata = || {
        path.metadata()
            .map_err(|error| format!("{}: {error}; name a file or block device that is there", path.display()))
    };
    if controller || metadata()?.is_file() {
        return measure_tier(args, path, TierChoice::Auto, table);
    }
    match drive::opened(path, TierChoice::Passthrough) {
        Ok(opened) => {
            drop(opened);
            measure_tier(args, path, TierChoice::Passthrough, table)?;
        }
        Err(error) => table.note(format!("passthrough skipped: {error}")),
    }
    measure_tier(args, path, TierChoice::Uring, table)
}

fn measure_tier(args: &Args, path: &Path, tier: TierChoice, table: &mut Table) -> Result<(), Failure> {
    for (kind, what) in [(Read, "read"), (WriteDurable, "durable write")] {
        for depth in [1, 32] {
            let opened = drive::opened(path, tier)?;
            table.note(format!("{}: {}", path.display(), opened.durability()));
            let figures = drive::measure(&opened, kind, depth, args.run)?;
            let name = format!("4 KiB {what}, QD{depth}, {}", opened.tier().name());
            // SPDK's tool takes the controller for itself.
            drop(opened);
            let (tool, beside) = match Name::parse(path) {
                Some(name) => ("spdk_nvme_perf", drive::spdk_perf(&name, kind, depth, args.core)),
                None => ("fio", drive::fio(path, kind, depth, args.core, args.run)),
            };
            if depth == 1 {
                table.add(&name, "us (p50)", figures.p50_us, tool, beside.map(|figures| figures.p50_us));
            }
            table.add(&name, "/s", figures.per_second, tool, beside.map(|figures| figures.per_second));
        }
    }
    Ok(())
}

fn report(table: &Table) {
    let cell = |figures: &[f64]| match summary(figures) {
        Some([median, least, most]) if most < 1e3 => format!("{median:.2} ({least:.2} - {most:.2})"),
        Some([median, least, most]) => format!("{median:.0} ({least:.0} - {most:.0})"),
        None => String::new(),
    };
    println!("| floor | figure | unit | beside it |\n|---|---|---|---|");
    for Row { name, unit, figures, beside, tool } in &table.rows {
        let beside = if beside.is_empty() { String::new() } else { format!("{tool} {}", cell(beside)) };
        println!("| {name} | {} | {unit} | {beside} |", cell(figures));
    }
    println!();
    table.notes.iter().for_each(|note| println!("- {note}"));
}

fn report_json(table: &Table) {
    let fields = |figures: &[f64]| {
        summary(figures).map(|[median, min, max]| json!({ "median": median, "min": min, "max": max }))
    };
    let rows: Vec<_> = table
        .rows
        .iter()
        .map(|row| {
            let (figure, beside) = (fields(&row.figures), fields(&row.beside));
            json!({ "name": row.name, "unit": row.unit, "figure": figure, "beside": beside, "tool": row.tool })
        })
        .collect();
    println!("{:#}", json!({ "floors": rows, "notes": table.notes }));
}

fn arguments() -> Result<Args, Failure> {
    let run = Duration::from_millis(400);
    let mut args = Args { devices: Vec::new(), overwrite: false, core: 0, rounds: 5, run, json: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--device" => args.devices.push(value()?.into()),
            "--overwrite" => args.overwrite = true,
            "--core" => args.core = value()?.parse()?,
            "--rounds" => args.rounds = rounds(words.next())?,
            "--quick" => (args.rounds, args.run) = (3, Duration::from_millis(100)),
            "--json" => args.json = true,
            "--bench" => {}
            _ => return Err(format!("unknown option {word}; see the head of benches/floors.rs").into()),
        }
    }
    if !args.devices.is_empty() && !args.overwrite {
        let first = args.devices[0].display();
        return Err(format!("{first} would be written to; add --overwrite if all on it may be lost").into());
    }
    if !memory::crcs_agree() {
        return Err("crc32c and crc-fast do not agree; their figures say nothing".into());
    }
    Ok(args)
}
