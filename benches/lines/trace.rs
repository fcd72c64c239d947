//! What valgrind's tool lackey says of a program's memory, read as a stream: which thread read and wrote which line.
//!
//! The program says in the same stream what it does. Valgrind runs one thread at a time, and says which.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::{BufRead, Write as _};
use std::process::Command;

use crate::{Failure, REACTORS};

/// What the program says begins so.
const MARK: &str = "@ ";
const LINE_BYTES: u64 = 64;
/// Valgrind's number of the thread that runs the clients.
const CLIENTS: u32 = 1;
/// Of a session's memory.
const SESSION: &str = "/memfd:forebay-ring";
/// Places in the code that are named for a line, of each kind.
const PLACES_MAX: usize = 4;

/// Tells the one who reads the trace, in one write, so that nothing comes between.
pub fn tell(line: &str) -> Result<(), Failure> {
    Ok(std::io::stdout().write_all(format!("{MARK}{line}\n").as_bytes())?)
}

/// Tells where files lie in this program's memory: two addresses may be of one place in a file.
pub fn tell_mappings() -> Result<(), Failure> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    maps.lines().try_for_each(|line| tell(&format!("map {line}")))
}

/// A line of /proc/self/maps.
struct Mapping {
    begin: u64,
    end: u64,
    offset: u64,
    /// Whether others see what is written there.
    shared: bool,
    /// The device and inode.
    file: [u64; 2],
    path: String,
}

impl Mapping {
    fn parse(line: &str) -> Option<Mapping> {
        let mut fields = line.split_whitespace();
        let hex = |digits| u64::from_str_radix(digits, 16).ok();
        let (begin, end) = fields.next()?.split_once('-')?;
        let shared = fields.next()?.ends_with('s');
        let offset = hex(fields.next()?)?;
        let (major, minor) = fields.next()?.split_once(':')?;
        let file = [hex(major)? << 32 | hex(minor)?, fields.next()?.parse().ok()?];
        let path = fields.next().unwrap_or_default().to_owned();
        Some(Mapping { begin: hex(begin)?, end: hex(end)?, offset, shared, file, path })
    }

    fn holds(&self, address: u64) -> bool {
        (self.begin..self.end).contains(&address)
    }
}

/// A line of memory, whatever address shows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Line {
    /// `None`: this program's alone.
    file: Option<[u64; 2]>,
    number: u64,
}

/// How often something was done, by the address of the instruction.
type Places = BTreeMap<u64, u64>;

/// What one reactor did to a line.
#[derive(Clone, Default)]
struct Touched {
    reads: Places,
    writes: Places,
}

impl Touched {
    fn is_touched(&self) -> bool {
        !self.reads.is_empty() || !self.writes.is_empty()
    }
}

/// A line that one reactor writes and the other one touches.
pub struct Shared<'a> {
    line: Line,
    by: &'a [Touched; REACTORS],
}

/// An operation under way: the lines that its reactor touched so far, and whether it wrote them.
struct Operation {
    name: String,
    reactor: usize,
    lines: HashMap<Line, bool>,
}

/// Whose access it is, and of which instruction.
#[derive(Default)]
struct Reader {
    thread: Option<u32>,
    at: u64,
    phase: Option<String>,
    /// Whose thread is to be found: it writes its answers into a session's memory.
    sought: Option<usize>,
    operation: Option<Operation>,
}

/// What was seen.
#[derive(Default)]
pub struct Trace {
    maps: Vec<Mapping>,
    threads: [Option<u32>; REACTORS],
    phases: HashMap<String, HashMap<Line, [Touched; REACTORS]>>,
    /// By name: of each operation the lines that were touched, written, and those in a session's memory.
    operations: HashMap<String, Vec<[usize; 3]>>,
    accesses: u64,
}

impl Trace {
    /// Reads the stream to its end.
    pub fn read(mut stream: impl BufRead) -> Result<Trace, Failure> {
        let (mut trace, mut reader, mut line) = (Trace::default(), Reader::default(), Vec::with_capacity(256));
        while stream.read_until(b'\n', &mut line)? > 0 {
            let text = std::str::from_utf8(&line)?.trim_end();
            match text.as_bytes() {
                [b'I', ..] => reader.at = hex(&text[3..]).0,
                [b' ', kind, ..] if reader.thread.is_some() => trace.access(&mut reader, *kind, hex(&text[3..])),
                [b'@', ..] => trace.marked(&mut reader, &text[MARK.len()..])?,
                [b'-', ..] => reader.thread = scheduled(text).unwrap_or(reader.thread),
                _ => {}
            }
            line.clear();
        }
        if trace.threads.contains(&None) || trace.accesses == 0 {
            return Err(
                format!("{} accesses of reactors were seen, by threads {:?}", trace.accesses, trace.threads).into()
            );
        }
        Ok(trace)
    }

    fn marked(&mut self, reader: &mut Reader, text: &str) -> Result<(), Failure> {
        let words: Vec<&str> = text.split(' ').collect();
        match words.as_slice() {
            ["map", ..] => self.maps.extend(Mapping::parse(&text["map ".len()..])),
            ["reactor", number] => reader.sought = number.parse().ok(),
            ["phase", name] => {
                self.ended(reader.operation.take());
                reader.phase = Some((*name).to_owned()).filter(|name| name != "none");
            }
            ["op", name, reactor] => {
                self.ended(reader.operation.take());
                let (name, reactor) = ((*name).to_owned(), reactor.parse()?);
                reader.operation = Some(Operation { name, reactor, lines: HashMap::new() });
            }
            _ => return Err(format!("the program said {text:?}").into()),
        }
        Ok(())
    }

    fn access(&mut self, reader: &mut Reader, kind: u8, (address, bytes): (u64, u64)) {
        let (reads, writes) = (kind != b'S', kind != b'L');
        if let Some(reactor) = reader.sought {
            let answers = writes && reader.thread != Some(CLIENTS) && self.is_in_session(self.line(address));
            if answers {
                self.threads[reactor] = reader.thread;
            }
        }
        let Some(phase) = &reader.phase else { return };
        let Some(reactor) = self.threads.iter().position(|thread| *thread == reader.thread) else { return };
        self.accesses += 1;
        let mut at = address / LINE_BYTES * LINE_BYTES;
        while at < address + bytes {
            let line = self.line(at);
            if !self.phases.contains_key(phase) {
                self.phases.insert(phase.clone(), HashMap::new());
            }
            let lines = self.phases.get_mut(phase).expect("it is there");
            let touched = &mut lines.entry(line).or_default()[reactor];
            if reads {
                *touched.reads.entry(reader.at).or_default() += 1;
            }
            if writes {
                *touched.writes.entry(reader.at).or_default() += 1;
            }
            if let Some(operation) = reader.operation.as_mut().filter(|operation| operation.reactor == reactor) {
                *operation.lines.entry(line).or_default() |= writes;
            }
            at += LINE_BYTES;
        }
    }

    fn ended(&mut self, operation: Option<Operation>) {
        let Some(Operation { name, lines, .. }) = operation.filter(|operation| !operation.lines.is_empty()) else {
            return;
        };
        let written = lines.values().filter(|written| **written).count();
        let in_session = lines.keys().filter(|line| self.is_in_session(**line)).count();
        self.operations.entry(name).or_default().push([lines.len(), written, in_session]);
    }

    fn line(&self, address: u64) -> Line {
        let map = self.maps.iter().find(|map| map.shared && map.holds(address));
        let at = map.map_or(address, |map| address - map.begin + map.offset);
        Line { file: map.map(|map| map.file), number: at / LINE_BYTES }
    }

    fn is_in_session(&self, line: Line) -> bool {
        line.file.is_some() && self.path(line).is_some_and(|path| path.starts_with(SESSION))
    }

    fn path(&self, line: Line) -> Option<&str> {
        self.maps.iter().find(|map| Some(map.file) == line.file).map(|map| map.path.as_str())
    }

    /// Lines touched, written and in a session's memory, of the operation that touched the fewest: what is done once a
    /// millisecond, or writes out what came before, fell into others.
    #[must_use]
    pub fn lines_of(&self, operation: &str) -> Option<[usize; 3]> {
        self.operations.get(operation)?.iter().copied().min()
    }

    /// All lines that both reactors touched in a phase, and that one of them wrote.
    pub fn shared(&self, phase: &str) -> Vec<Shared<'_>> {
        let lines = self.phases.get(phase).into_iter().flatten();
        let shared =
            lines.filter(|(_, by)| by.iter().all(Touched::is_touched) && by.iter().any(|by| !by.writes.is_empty()));
        shared.map(|(line, by)| Shared { line: *line, by }).collect()
    }

    /// Whether a line is one of those through which a session's keys, values and replies go.
    #[must_use]
    pub fn is_in_arena(&self, shared: &Shared<'_>, arena_offset: usize) -> bool {
        self.is_in_session(shared.line) && shared.line.number >= arena_offset as u64 / LINE_BYTES
    }

    /// How many lines the reactors touched in a phase.
    #[must_use]
    pub fn count(&self, phase: &str) -> usize {
        self.phases.get(phase).map_or(0, HashMap::len)
    }

    /// A line, and the places in the code that touch it.
    #[must_use]
    pub fn told(&self, shared: &Shared<'_>) -> String {
        let path = self.path(shared.line).unwrap_or("memory of the program");
        let mut out = format!("{path}, at {:#x}", shared.line.number * LINE_BYTES);
        for (reactor, by) in shared.by.iter().enumerate() {
            for (done, places) in [("reads", &by.reads), ("writes", &by.writes)] {
                let mut places: Vec<(u64, u64)> = places.iter().map(|(at, count)| (*at, *count)).collect();
                places.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
                for (at, count) in places.into_iter().take(PLACES_MAX) {
                    let _ = write!(out, "\n  reactor {reactor} {done} it {count} times: {}", self.place(at));
                }
            }
        }
        out
    }

    /// An instruction's function and line, where `addr2line` can tell.
    fn place(&self, at: u64) -> String {
        let Some(map) = self.maps.iter().find(|map| map.holds(at)) else { return format!("{at:#x}") };
        let base =
            self.maps.iter().find(|first| first.file == map.file && first.offset == 0).map_or(0, |map| map.begin);
        let offset = format!("{:#x}", at - base);
        let asked = Command::new("addr2line").args(["-Cfpie", &map.path, &offset]).output();
        let told =
            asked.map(|output| String::from_utf8_lossy(&output.stdout).trim().replace('\n', "")).unwrap_or_default();
        if told.is_empty() { format!("{} {offset}", map.path) } else { told }
    }
}

/// "ADDRESS,BYTES", the address in hexadecimal.
fn hex(text: &str) -> (u64, u64) {
    let (address, bytes) = text.split_once(',').unwrap_or((text, ""));
    (u64::from_str_radix(address.trim(), 16).unwrap_or(0), bytes.parse().unwrap_or(1))
}

/// The thread that runs from here on, where a line says it: "--PID--   SCHED[2]:  acquired lock (...)".
fn scheduled(text: &str) -> Option<Option<u32>> {
    let (thread, what) = text.split_once("SCHED[")?.1.split_once("]:")?;
    let what = what.trim_start();
    if what.starts_with("acquired lock") {
        return Some(thread.parse().ok());
    }
    what.starts_with("releasing lock").then_some(None)
}
