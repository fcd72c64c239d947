//! That two reactors write no line of memory that the other one touches, as long as their clients use keys of their own:
//! then two reactors on two cores are as fast as each alone. And how many lines of 64 B an operation touches on its
//! reactor. `cargo bench --bench lines`; without valgrind it says that it was skipped.
//!
//! The program starts itself under valgrind, which tells every access to memory and which thread made it: an appliance
//! as `forebay serve` has it, with two reactors that poll, on a drive in memory. What the kernel does is not seen; in
//! what is looked at nobody calls it.

#[path = "lines/trace.rs"]
mod trace;

use std::error::Error;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use forebay::appliance::Appliance;
use forebay::appliance::prepare::format_memory;
use forebay::config::{ByteSize, Config, Spin};
use forebay::device::memory::MemoryDisk;
use forebay::device::open::{OpenDevice, OpenOptions};
use forebay::ring::client::{Client, ConnectOptions, Object, Request, Retry, Write};
use forebay::ring::protocol::{shard_of_key, shard_of_stream};
use forebay::ring::segment::{Layout, Shape};
use forebay::types::{Durability, Lineage, ShardId};
use trace::{Trace, tell};

type Failure = Box<dyn Error>;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: forebay_sys::alloc::HugePages = forebay_sys::alloc::HugePages;

const REACTORS: usize = 2;
const SHARDS: u32 = 4;
/// Of each session on each reactor.
const KEYS: u64 = 8;
const VALUE: [u8; 100] = [7; 100];
const WARM_UP: u64 = KEYS;
/// How often the other threads run while nothing is asked for.
const TURNS_IDLE: usize = 2;
const COUNTED: u64 = 2 * KEYS;
/// Turns with nothing to do, as they come before and after each operation.
const IDLE: &str = "idle";
/// Whether two allocations share a line is a matter of where the first one happens to begin: each such place is tried, in
/// the steps of the system's allocator.
const SHIFTS_BYTES: [usize; 4] = [0, 16, 32, 48];
/// Not from what is free between other allocations, and not of pages of its own.
const SHIFT_BYTES_MIN: usize = 64 << 10;
const OPERATIONS: [&str; 5] = ["put-memory", "get-memory", "put-buffered", "append-buffered", "put-strict"];

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {}
        // What this program asks of itself under valgrind.
        ["--run", shift_bytes] => return run(shift_bytes.parse()?),
        other => return Err(format!("unknown arguments {other:?}; there are none").into()),
    }
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIPPED: valgrind is missing, so no access was seen; install it (apt-get install valgrind)");
        return Ok(());
    }
    let traces = std::thread::scope(|scope| {
        let runs =
            SHIFTS_BYTES.map(|shift_bytes| scope.spawn(move || traced(shift_bytes).map_err(|error| error.to_string())));
        runs.map(|run| run.join().unwrap_or_else(|_| Err("a thread died".into())))
    });
    let traces = traces.into_iter().collect::<Result<Vec<Trace>, String>>()?;
    tell_lines(&traces[0])?;
    let mut found = 0;
    for (trace, shift_bytes) in traces.iter().zip(SHIFTS_BYTES) {
        println!("\nlines written by one reactor and touched by the other, the heap {shift_bytes} B further on:");
        found += tell_shared(trace)?;
    }
    if found == 0 {
        return Ok(());
    }
    Err(format!("lines are written by one reactor and touched by the other: {found}").into())
}

/// Runs this program under valgrind, whose log comes with what the program says, in one stream.
fn traced(shift_bytes: usize) -> Result<Trace, Failure> {
    let program = std::env::current_exe()?;
    let options = ["--tool=lackey", "--basic-counts=no", "--trace-mem=yes", "--trace-sched=yes", "--fair-sched=yes"];
    let mut command = Command::new("valgrind");
    command.args(options).arg("--log-fd=1").arg(program).args(["--run", &shift_bytes.to_string()]);
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let stream = child.stdout.take().ok_or("the pipe is not there")?;
    let trace = Trace::read(BufReader::with_capacity(1 << 20, stream));
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("the program under valgrind ended with {status}").into());
    }
    trace
}

fn tell_lines(trace: &Trace) -> Result<(), Failure> {
    println!(
        "{:<16} {:>13} {:>16} {:>24}",
        "an operation", "lines touched", "of them written", "in the session's memory"
    );
    for name in [IDLE].into_iter().chain(OPERATIONS) {
        let [touched, written, in_session] = trace.lines_of(name).ok_or_else(|| format!("no {name} was seen"))?;
        println!("{name:<16} {touched:>13} {written:>16} {in_session:>24}");
    }
    Ok(())
}

/// How many lines are shared that must not be.
fn tell_shared(trace: &Trace) -> Result<usize, Failure> {
    let arena_offset = arena_offset(&config()?)?;
    let [own, both, commit] = ["own", "both", "commit"].map(|phase| trace.shared(phase));
    let (arena, both): (Vec<_>, Vec<_>) = both.into_iter().partition(|line| trace.is_in_arena(line, arena_offset));
    for (lines, of, what) in [
        (own.len(), "own", "a session for each reactor"),
        (both.len(), "both", "a session for both, beside its arena"),
        (arena.len(), "both", "its arena, of which the client gives blocks to its requests by turns"),
        (commit.len(), "commit", "commits over both reactors, which must share some"),
    ] {
        println!("{lines:>6} of {:>6}: {what}", trace.count(of));
    }
    if commit.is_empty() {
        return Err("commits over both reactors shared no line: this check sees nothing".into());
    }
    let found: Vec<_> = own.into_iter().chain(both).collect();
    found.iter().for_each(|line| println!("{}", trace.told(line)));
    Ok(found.len())
}

/// Removes its directory when it ends.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run(shift_bytes: usize) -> Result<(), Failure> {
    // What is allocated from here on lies so much further on, and beside others in other lines.
    std::mem::forget(Vec::<u8>::with_capacity(SHIFT_BYTES_MIN + shift_bytes));
    let directory = Directory(std::env::temp_dir().join(format!("forebay-lines-{}", std::process::id())));
    std::fs::create_dir_all(&directory.0)?;
    let disk = MemoryDisk::new(256 << 20);
    let device = OpenDevice::memory(&disk, &OpenOptions::default());
    format_memory(&device, 8 << 20, SHARDS)?;
    let config = config()?;
    let socket = directory.0.join("socket");
    let appliance = Appliance::start(&config, &device, &socket, None, &mut |line| eprintln!("{line}"))?;
    serve(&socket)?;
    Ok(appliance.stop()?)
}

fn config() -> Result<Config, Failure> {
    let mut config = Config::default();
    config.reactors.count = Some(u32::try_from(REACTORS)?);
    config.reactors.spin = Spin::Forever;
    config.device.hugepages = false;
    config.rings.arena_bytes = ByteSize::mib(4);
    config.limits.memory_bytes_max = ByteSize::mib(64);
    config.limits.keys_max = 10_000;
    Ok(config)
}

/// Where the arena begins in a session's memory.
fn arena_offset(config: &Config) -> Result<usize, Failure> {
    let shape = Shape {
        reactors: config.reactors.count(),
        sq_entries: config.rings.sq_entries,
        cq_entries: config.rings.cq_entries,
        arena_bytes: config.rings.arena_bytes.0,
        shards: SHARDS,
        key_bytes_max: u32::try_from(config.limits.key_bytes_max.0)?,
        value_bytes_max: u32::try_from(config.limits.value_bytes_max.0)?,
        lineage: Lineage::NONE,
    };
    Ok(Layout::new(shape)?.arena_offset())
}

/// What is done, and in which part of it.
fn serve(socket: &Path) -> Result<(), Failure> {
    let mut sessions = (0..=REACTORS).map(|_| Session::connect(socket)).collect::<Result<Vec<_>, _>>()?;
    let (both, own) = sessions.split_last_mut().ok_or("there are sessions")?;
    trace::tell_mappings()?;
    for reactor in 0..REACTORS {
        tell(&format!("reactor {reactor}"))?;
        (0..KEYS).try_for_each(|_| both.noop(reactor))?;
    }
    tell("reactor none")?;
    for (phase, count) in [("none", WARM_UP), ("own", COUNTED)] {
        tell(&format!("phase {phase}"))?;
        for number in 0..count {
            for (reactor, session) in own.iter_mut().enumerate() {
                OPERATIONS.iter().try_for_each(|name| session.operate(name, reactor, 1 + reactor, number))?;
            }
        }
        tell("phase none")?;
    }
    for (phase, count) in [("none", WARM_UP), ("both", COUNTED)] {
        tell(&format!("phase {phase}"))?;
        for number in 0..count {
            for reactor in 0..REACTORS {
                OPERATIONS.iter().try_for_each(|name| both.operate(name, reactor, 0, number))?;
            }
        }
        tell("phase none")?;
    }
    tell("phase commit")?;
    (0..KEYS).try_for_each(|number| both.commit(number))?;
    tell("phase none")
}

struct Session {
    client: Client,
    spaces: [Object; 3],
    /// One on each reactor.
    streams: [Object; REACTORS],
    reply: Vec<u8>,
}

impl Session {
    fn connect(socket: &Path) -> Result<Session, Failure> {
        // It never sleeps: a reactor that wakes it makes a system call.
        let spin = Duration::from_secs(3_600);
        let timeout = Duration::from_secs(60);
        let mut client = Client::connect(socket, &ConnectOptions { spin, timeout, ..ConnectOptions::default() })?;
        let durabilities =
            [("memory", Durability::Memory), ("buffered", Durability::Buffered), ("strict", Durability::Strict)];
        let mut spaces = Vec::new();
        for (name, durability) in durabilities {
            spaces.push(client.open_space(name, Some(durability))?);
        }
        let spaces = spaces.try_into().map_err(|_| "three spaces")?;
        let mut streams = [None; REACTORS];
        for number in 0_u32.. {
            if let [Some(first), Some(second)] = streams {
                return Ok(Session { client, spaces, streams: [first, second], reply: Vec::with_capacity(4_096) });
            }
            let stream = client.open_stream(&format!("stream-{number}"), Some(Durability::Buffered))?;
            streams[reactor_of(shard_of_stream(stream.id.0, SHARDS))].get_or_insert(stream);
        }
        Err("no stream fell to some reactor".into())
    }

    fn noop(&mut self, reactor: usize) -> Result<(), Failure> {
        self.call(&Request::Noop { reactor: u32::try_from(reactor)? })
    }

    /// One operation on a reactor, of the keys that belong to `owner`.
    fn operate(&mut self, name: &str, reactor: usize, owner: usize, number: u64) -> Result<(), Failure> {
        let [memory, buffered, strict] = self.spaces;
        let space = match name {
            "put-buffered" => buffered,
            "put-strict" => strict,
            _ => memory,
        };
        let (key, how) = (&key_on(space, reactor, owner, number), Write::default());
        let request = match name {
            "get-memory" => Request::Get { space, key, relaxed: false, value_bytes_max: VALUE.len() },
            "append-buffered" => Request::Append { stream: self.streams[reactor], event: &VALUE, how },
            _ => Request::Put { space, key, value: &VALUE, how },
        };
        tell(&format!("op {IDLE} {reactor}"))?;
        (0..TURNS_IDLE).for_each(|_| std::thread::yield_now());
        tell(&format!("op {name} {reactor}"))?;
        self.call(&request)
    }

    /// As the blocking calls do, but the other threads run after each look in vain.
    fn call(&mut self, request: &Request<'_>) -> Result<(), Failure> {
        self.client.submit(0, request)?;
        loop {
            if let Some(answer) = self.client.poll(&mut self.reply)? {
                return Ok(answer.ok().map(drop)?);
            }
            std::thread::yield_now();
        }
    }

    /// A transaction that writes a key on each reactor.
    fn commit(&mut self, number: u64) -> Result<(), Failure> {
        let space = self.spaces[0];
        self.client.transaction(&Retry::default(), |transaction| {
            (0..REACTORS).for_each(|reactor| transaction.put(space, &key_on(space, reactor, 0, number), &VALUE));
            Ok::<_, Failure>(())
        })?;
        Ok(())
    }
}

fn reactor_of(shard: ShardId) -> usize {
    shard.0 as usize % REACTORS
}

/// The key of this number among those that fall to a reactor, and that no other owner uses.
fn key_on(space: Object, reactor: usize, owner: usize, number: u64) -> Vec<u8> {
    let of = |tried: u32| format!("{owner}-{reactor}-{:04}-{tried:04}", number % KEYS).into_bytes();
    (0..).map(of).find(|key| reactor_of(shard_of_key(space.id.0, key, SHARDS)) == reactor).unwrap_or_default()
}
