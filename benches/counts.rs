//! What an operation costs in counts that do not depend on the machine's mood: instructions and first-level cache misses
//! of a simulated cache (callgrind), and system calls. `cargo bench --bench counts` measures and holds them against
//! benches/counts.toml; `-- --update` writes that file anew, `-- --json` prints for a machine, `-- --only NAME` measures
//! one. Without valgrind it says that it was skipped.
//!
//! The program starts itself under valgrind, once for each operation: everything in one thread, over a drive in memory.

mod rig;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};

use forebay::reactor::Clock;
use forebay::ring::client::{Client, Object, Request, Write};
use forebay::ring::protocol::{Completion, Status, shard_of_key};
use forebay::ring::server::{Rights, SessionId, pair_in_process};
use forebay::types::{Compression, Durability, Lsn, ObjectId, ObjectKind, ShardId};
use forebay::wal::record::{self, Kind, Record};
use rig::bare::Bare;
use rig::{Failure, KEYS, Rig, SHAPE, VALUE, key, put};
use serde::{Deserialize, Serialize};
use serde_json::json;

const BOUNDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/counts.toml");
const OPERATIONS: [&str; 11] = [
    "ring",
    "store",
    "encode",
    "turn",
    "put-memory",
    "put-memory-of-two",
    "get-memory",
    "put-buffered",
    "put-buffered-of-two",
    "put-strict",
    "append-buffered",
];
const WARM_UP: u64 = 3_000;
const COUNTED: u64 = 2_000;
/// Compilers differ, and hash seeds do from run to run.
const SLACK_PERCENT: f64 = 5.0;
/// Which lines fall into one set of the simulated cache is chance: the same program missed 23 or 30 times from another folder.
const D1_SLACK_PERCENT: f64 = 40.0;
/// A simulated cache, not that of the machine.
const CACHE: [&str; 3] = ["--I1=32768,8,64", "--D1=32768,8,64", "--LL=8388608,16,64"];

/// Takes its number.
type Operation = dyn FnMut(u64) -> Result<(), Failure>;

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Counts {
    instructions: f64,
    d1_misses: f64,
    system_calls: f64,
}

/// A clock that goes a microsecond on whenever it is asked: every run sees the same times.
struct Steps(Cell<u64>);

impl Clock for Steps {
    fn now_ns(&self) -> u64 {
        self.0.set(self.0.get() + 1_000);
        self.0.get()
    }

    fn wall_ms(&self) -> u64 {
        0
    }
}

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (mut json, mut update, mut only) = (false, false, None);
    let mut rest = words.as_slice();
    while let [word, tail @ ..] = rest {
        rest = tail;
        match (*word, tail) {
            ("--json", _) => json = true,
            ("--update", _) => update = true,
            ("--only", [name, tail @ ..]) => (only, rest) = (Some(*name), tail),
            // What this program asks of itself under valgrind.
            ("--run", [name, count]) => return run(name, count.parse()?),
            _ => return Err(format!("unknown argument {word:?}; there are --json, --update and --only NAME").into()),
        }
    }
    if let Some(unknown) = only.filter(|only| !OPERATIONS.contains(only)) {
        return Err(format!("nothing is called {unknown:?}; there are {}", OPERATIONS.join(", ")).into());
    }
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIPPED: valgrind is missing, so nothing was counted; install it (apt-get install valgrind)");
        return Ok(());
    }
    let mut measured = BTreeMap::new();
    for name in OPERATIONS.into_iter().filter(|name| only.is_none_or(|only| only == *name)) {
        measured.insert(name.to_owned(), count(name)?);
    }
    if update {
        return write_bounds(&measured);
    }
    report(&measured, json)
}

fn operation(name: &str) -> Result<Box<Operation>, Failure> {
    Ok(match name {
        "ring" => Box::new(ring()?),
        "store" => {
            let mut bare = Bare::new()?;
            Box::new(move |number| bare.put(number))
        }
        "encode" => Box::new(encode()),
        "turn" => {
            let mut rig = Rig::new(64 << 20, Steps(Cell::new(0)))?;
            rig.space("s", Durability::Memory)?;
            Box::new(move |_| {
                black_box(rig.reactor.turn());
                Ok(())
            })
        }
        "get-memory" => {
            let mut rig = Rig::new(64 << 20, Steps(Cell::new(0)))?;
            let space = rig.space("s", Durability::Memory)?;
            Box::new(move |number| {
                rig.call(&Request::Get { space, key: &key(number), relaxed: false, value_bytes_max: 128 }).map(drop)
            })
        }
        "append-buffered" => Box::new(appends(Durability::Buffered)?),
        "put-memory-of-two" => Box::new(puts_among(2, Durability::Memory)?),
        "put-buffered-of-two" => Box::new(puts_among(2, Durability::Buffered)?),
        put => Box::new(puts(put.strip_prefix("put-").ok_or("no such operation")?.parse()?)?),
    })
}

fn puts(durability: Durability) -> Result<impl FnMut(u64) -> Result<(), Failure>, Failure> {
    let mut rig = Rig::new(128 << 20, Steps(Cell::new(0)))?;
    let space = rig.space("s", durability)?;
    Ok(move |number| rig.call(&put(space, &key(number))).map(drop))
}

/// Puts on keys of the first of several reactors, which is the only one that turns: what the others cost it.
fn puts_among(reactors: u32, durability: Durability) -> Result<impl FnMut(u64) -> Result<(), Failure>, Failure> {
    let mut rig = Rig::among(128 << 20, (0..reactors).map(|_| Steps(Cell::new(0))).collect())?;
    let space = rig.space("s", durability)?;
    let own = |number: &u64| shard_of_key(space.id.0, &key(*number), reactors) == ShardId(0);
    let keys: Vec<[u8; 16]> = (0..KEYS).filter(own).map(key).collect();
    let mut keys = keys.into_iter().cycle();
    Ok(move |_| {
        let key = keys.next().ok_or("no key is the first reactor's")?;
        rig.call(&put(space, &key)).map(drop)
    })
}

fn appends(durability: Durability) -> Result<impl FnMut(u64) -> Result<(), Failure>, Failure> {
    let mut rig = Rig::new(128 << 20, Steps(Cell::new(0)))?;
    let (kind, create) = (ObjectKind::Stream, Some(durability.into()));
    let answer = rig.call(&Request::Open { name: "s", kind, create })?;
    let id = ObjectId(u32::try_from(answer.version)?);
    let stream = Object { id, kind, durability, compression: Compression::None };
    Ok(move |_| rig.call(&Request::Append { stream, event: &VALUE, how: Write::default() }).map(drop))
}

/// A request and its answer through both rings, with nobody behind them.
fn ring() -> Result<impl FnMut(u64) -> Result<(), Failure>, Failure> {
    let (parts, mut rings) = pair_in_process(SessionId(1), Rights::ReadWrite, SHAPE)?;
    let mut client = Client::from_parts(parts, std::time::Duration::ZERO)?;
    let mut session = rings.pop().ok_or("a session has a ring")?;
    let mut reply = Vec::with_capacity(64);
    Ok(move |number| {
        client.submit(number, &Request::Noop { reactor: 0 })?;
        let submission = session.peek().map_err(|reason| reason.text())?.ok_or("the request is not there")?;
        session.advance();
        let status = Status::Ok as u16;
        session.post(&Completion { user_data: submission.user_data, status, ..Completion::default() });
        session.finish_turn();
        client.poll(&mut reply)?.ok_or("the answer is not there")?;
        Ok(())
    })
}

fn encode() -> impl FnMut(u64) -> Result<(), Failure> {
    let mut out = vec![0; 256];
    move |number| {
        let key = key(number);
        let (lsn, object) = (Lsn(number), ObjectId(1));
        let record = Record { kind: Kind::Put, flags: 0, lsn, object, version: number, key: &key, value: &VALUE };
        black_box(record::encode(black_box(&mut out), 7, &record));
        Ok(())
    }
}

fn run(name: &str, count: u64) -> Result<(), Failure> {
    let mut operation = operation(name)?;
    (0..WARM_UP).try_for_each(&mut operation)?;
    counted_operations(&mut *operation, count)
}

/// Callgrind counts while this runs; it knows it by its name.
#[inline(never)]
fn counted_operations(operation: &mut Operation, count: u64) -> Result<(), Failure> {
    (0..count).try_for_each(operation)
}

fn count(name: &str) -> Result<Counts, Failure> {
    let out = std::env::temp_dir().join(format!("forebay-counts-{}-{name}", std::process::id()));
    let file = format!("--callgrind-out-file={}", out.display());
    let mut options = vec!["--tool=callgrind", "--cache-sim=yes", "--toggle-collect=*counted_operations*", &file];
    options.extend(CACHE);
    valgrind(&options, name, COUNTED)?;
    let text = std::fs::read_to_string(&out)?;
    std::fs::remove_file(&out)?;
    let events = totals(&text).ok_or("callgrind wrote no totals")?;
    let each = |names: &[&str]| names.iter().filter_map(|name| events.get(*name)).sum::<f64>() / COUNTED as f64;
    let instructions = each(&["Ir"]);
    if instructions < 1.0 {
        return Err(format!("{name}: callgrind saw no instruction of counted_operations").into());
    }
    // Of the whole program, so that of two runs only the difference counts.
    let trace = ["--tool=none", "--trace-syscalls=yes"];
    let calls = |count| valgrind(&trace, name, count).map(|text| text.matches("SYSCALL[").count() as f64);
    let system_calls = (calls(2 * COUNTED)? - calls(COUNTED)?) / COUNTED as f64;
    Ok(Counts { instructions, d1_misses: each(&["D1mr", "D1mw"]), system_calls: system_calls.max(0.0) })
}

/// Runs this program under valgrind. Gives what it said. Environment and names stand at the stack's beginning: where it
/// begins, and with it what meets in one set of the cache, is not to depend on who calls from where.
fn valgrind(options: &[&str], name: &str, count: u64) -> Result<String, Failure> {
    let program = std::env::current_exe()?;
    let (directory, file) = (program.parent().unwrap_or(Path::new(".")), program.file_name().unwrap_or_default());
    let mut command = Command::new("valgrind");
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").current_dir(directory);
    let output =
        command.args(options).arg(Path::new(".").join(file)).args(["--run", name, &count.to_string()]).output()?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(told) } else { Err(format!("valgrind {options:?}, {name}: {told}").into()) }
}

/// The sums of a file of callgrind by the names of their events.
fn totals(text: &str) -> Option<BTreeMap<String, f64>> {
    let line = |name| text.lines().find_map(|line| line.strip_prefix(name));
    let sums = line("totals: ").or_else(|| line("summary: "))?;
    let events = line("events: ")?.split_whitespace().map(str::to_owned);
    events.zip(sums.split_whitespace()).map(|(name, sum)| Some((name, sum.parse().ok()?))).collect()
}

fn write_bounds(measured: &BTreeMap<String, Counts>) -> Result<(), Failure> {
    let mut text = String::from(
        "# Counts of one operation, as `cargo bench --bench counts -- --update` measured them. A change that needs 5 %\n\
         # more instructions, a system call in 100 operations more, or 40 % and one D1 miss more, fails `.ci/run` until\n\
         # it says so here.\n",
    );
    let mut bounds = read_bounds()?;
    bounds.retain(|name, _| OPERATIONS.contains(&name.as_str()));
    bounds.extend(measured.iter().map(|(name, counts)| (name.clone(), *counts)));
    for (name, counts) in &bounds {
        let Counts { instructions, d1_misses, system_calls } = counts;
        write!(text, "\n[{name}]\ninstructions = {instructions:.1}\nd1_misses = {d1_misses:.2}\n")?;
        writeln!(text, "system_calls = {system_calls:.2}")?;
    }
    std::fs::write(Path::new(BOUNDS), text)?;
    eprintln!("wrote {BOUNDS}");
    Ok(())
}

fn read_bounds() -> Result<BTreeMap<String, Counts>, Failure> {
    Ok(toml::from_str(&std::fs::read_to_string(BOUNDS)?)?)
}

fn report(measured: &BTreeMap<String, Counts>, json: bool) -> Result<(), Failure> {
    let bounds = read_bounds()?;
    let mut worse = Vec::new();
    for (name, now) in measured {
        let before =
            bounds.get(name).ok_or_else(|| format!("benches/counts.toml has no [{name}]; run with --update"))?;
        let mut check = |what: &str, now: f64, before: f64, percent: f64, slack: f64| {
            if now > before * (1.0 + percent / 100.0) + slack {
                worse.push(format!("{name}: {now:.2} {what} an operation, {before:.2} before"));
            }
        };
        if now.instructions < before.instructions * (1.0 - SLACK_PERCENT / 100.0) {
            eprintln!("{name}: far fewer instructions than before; hold them with --only {name} --update");
        }
        check("instructions", now.instructions, before.instructions, SLACK_PERCENT, 0.5);
        check("D1 misses", now.d1_misses, before.d1_misses, D1_SLACK_PERCENT, 1.0);
        check("system calls", now.system_calls, before.system_calls, SLACK_PERCENT, 0.01);
    }
    if json {
        println!("{:#}", json!({ "counts": measured, "bounds": bounds, "worse": worse }));
    } else {
        println!(
            "{:<19} {:>14} {:>9} {:>11} {:>7} {:>13}",
            "an operation", "instructions", "before", "D1 misses", "before", "system calls"
        );
        for (name, now) in measured {
            let before = bounds[name];
            println!(
                "{name:<19} {:>14.1} {:>9.1} {:>11.2} {:>7.2} {:>13.2}",
                now.instructions, before.instructions, now.d1_misses, before.d1_misses, now.system_calls
            );
        }
    }
    if worse.is_empty() {
        return Ok(());
    }
    Err(format!("{}; if that is meant: cargo bench --bench counts -- --update", worse.join("; ")).into())
}
