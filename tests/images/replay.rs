//! Every state that a power cut can leave of a drive whose writes were logged (setup/testbed/crashstates), read by the
//! real recovery: acknowledged ⊆ recovered ⊆ issued, in order, and never a refusal.
//!
//! FOREBAY_TEST_LOG names the log, in the format of Linux's dm-log-writes; FOREBAY_TEST_BASE the drive before it;
//! FOREBAY_TEST_STATES how many states to try, FOREBAY_SEED which. After so many entries of the log, what was written
//! since the last flush may be there or not, block by block. Writes under way at a flush count as flushed when the log has
//! them before it: such a state is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use forebay::ring::protocol::shard_of_key;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus as Random;

use crate::image::{BLOCK, Data, Image, read};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const LOG_HEADER_BYTES: usize = 32;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
/// What tests/end_to_end/trace.rs puts into every value, before its number, what was acknowledged, and its length.
const MARK: &[u8; 16] = b"forebay trace v1";
const MARKED_BYTES: usize = 16 + 3 * 8;
/// The trace's only space.
const SPACE: u32 = 1;

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn size_at(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u64_at(bytes, at)).expect("usize has 64 bits")
}

/// One write, or a flush of all before it.
struct Entry {
    at: usize,
    data: Vec<u8>,
    flush: bool,
    fua: bool,
}

/// The entries of a log, in order; a last one that was cut short does not count.
fn entries(log: &[u8]) -> Vec<Entry> {
    assert_eq!((u64_at(log, 0), u64_at(log, 8)), (MAGIC, 1), "it is a log of writes");
    let sector = size_at(log, 24) & 0xffff_ffff;
    let (mut found, mut at) = (Vec::new(), sector);
    while found.len() < size_at(log, 16) && at + LOG_HEADER_BYTES <= log.len() {
        let [first, sectors] = [0, 8].map(|field| size_at(log, at + field));
        let flags = u64_at(log, at + 16);
        assert_eq!(flags & !(FLUSH | FUA), 0, "Forebay neither discards nor marks");
        let (from, bytes) = (at + sector, sectors * sector);
        let Some(data) = log.get(from..from + bytes) else { break };
        let (flush, fua) = (flags & FLUSH != 0, flags & FUA != 0);
        found.push(Entry { at: first * sector, data: data.to_vec(), flush, fua });
        at = from + bytes;
    }
    found
}

/// The puts that begin in some bytes: their numbers, and what was acknowledged before each.
fn puts(data: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    let marked = data.windows(MARKED_BYTES).filter(|window| window.starts_with(MARK));
    marked.map(|window| (u64_at(window, 16), u64_at(window, 24)))
}

fn acknowledged_before(data: &[u8]) -> u64 {
    puts(data).map(|(_, acknowledged)| acknowledged).max().unwrap_or(0)
}

/// Holds what was recovered against what was acknowledged.
fn check(data: &Data, shards: u32, acknowledged: u64) -> Result<(), String> {
    let mut numbers: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    for ((shard, key), value) in data.iter().filter(|(_, value)| value.starts_with(MARK)) {
        let number = u64_at(key, 0);
        let (named, bytes) = (u64_at(value, 16), u64_at(value, 32));
        let filler = (number..).zip(&value[MARKED_BYTES..]);
        if named != number
            || bytes != value.len() as u64
            || !filler.fold(true, |ok, (at, byte)| ok & (at % 251 == u64::from(*byte)))
        {
            return Err(format!("put {number}: the value is not its own"));
        }
        numbers.entry(*shard).or_default().insert(number);
    }
    for shard in 0..shards {
        let found = numbers.remove(&shard).unwrap_or_default();
        let last = found.last().copied().unwrap_or(0).max(acknowledged);
        let of_shard = |number: &u64| shard_of_key(SPACE, &number.to_le_bytes(), shards).0 == shard;
        if let Some(lost) = (1..=last).filter(of_shard).find(|number| !found.contains(number)) {
            return Err(format!(
                "shard {shard}: put {lost} is gone, {acknowledged} are acknowledged, the last is {last}"
            ));
        }
    }
    Ok(())
}

/// The drive as it is read: what is durable, and blocks over it that a cut may lose.
struct Drive {
    durable: Image,
}

impl Drive {
    /// Reads the drive with these blocks on it, as a start does, and leaves it as it was.
    fn state(&mut self, blocks: &[(usize, &[u8])], acknowledged: u64) -> Result<(), String> {
        let image = &mut self.durable.0;
        let swap = |image: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            let place = &mut image[at..at + bytes.len()];
            let old = place.to_vec();
            place.copy_from_slice(bytes);
            (at, old)
        };
        let old: Vec<_> = blocks.iter().map(|(at, bytes)| swap(image, *at, bytes)).collect();
        let bytes = image.len() as u64;
        let found = read(&mut self.durable, bytes).map_err(|error| format!("refused: {error}"));
        let verdict = found.and_then(|found| check(&found.data, found.superblock.layout.shards, acknowledged));
        old.iter().rev().for_each(|(at, bytes)| _ = swap(&mut self.durable.0, *at, bytes));
        verdict
    }

    fn write(&mut self, entry: &Entry) {
        self.durable.0[entry.at..entry.at + entry.data.len()].copy_from_slice(&entry.data);
    }
}

/// Goes through the log, tries states after every `step`-th entry, and gives how many it tried. `drop` loses one entry,
/// as a drive does that lies about a flush.
fn cuts(base: &Image, log: &[Entry], states: usize, seed: u64, drop: Option<usize>) -> Result<usize, String> {
    let mut random = Random::seed_from_u64(seed);
    let mut drive = Drive { durable: base.clone() };
    let (mut loose, mut acknowledged, mut formatted, mut tried): (Vec<usize>, _, _, _) = (Vec::new(), 0, false, 0);
    // Of each cut: nothing of what is loose, all of it, and at least two samples.
    let samples = (states / log.len()).max(4);
    let chance = (states as f64 / (samples * log.len()) as f64).min(1.0);
    for (number, entry) in log.iter().enumerate() {
        // The cut comes just before this entry; what it carries was issued before.
        acknowledged = acknowledged.max(acknowledged_before(&entry.data));
        formatted = formatted || drive.state(&[], 0).is_ok();
        if formatted && random.random_bool(chance) {
            for sample in 0..if loose.is_empty() { 1 } else { samples } {
                let blocks = loose.iter().flat_map(|at| {
                    let starts = (log[*at].at..).step_by(BLOCK);
                    starts.zip(log[*at].data.chunks(BLOCK))
                });
                let mut keep = || match sample {
                    0 => false,
                    1 => true,
                    _ => random.random(),
                };
                let kept: Vec<_> = blocks.filter(|_| keep()).collect();
                let said = |why| format!("before entry {number}, {} of the loose blocks kept: {why}", kept.len());
                drive.state(&kept, acknowledged).map_err(said)?;
                tried += 1;
            }
        }
        if drop == Some(number) {
            continue;
        }
        if entry.flush {
            loose.drain(..).for_each(|at| drive.write(&log[at]));
        }
        if entry.fua {
            drive.write(entry);
        } else if !entry.data.is_empty() {
            loose.push(number);
        }
    }
    drive.state(&[], acknowledged).map_err(|why| format!("at the end: {why}"))?;
    Ok(tried + 1)
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

#[test]
fn every_cut_of_a_log_of_writes_leaves_what_was_acknowledged() {
    let (Ok(log), Ok(base)) = (std::env::var("FOREBAY_TEST_LOG"), std::env::var("FOREBAY_TEST_BASE")) else {
        eprintln!("skipped: it takes a log of writes (FOREBAY_TEST_LOG); setup/testbed/crashstates makes one");
        return;
    };
    let log = entries(&fs::read(log).expect("the log is readable"));
    let base = Image(fs::read(base).expect("the drive before it is readable"));
    let states = usize::try_from(number_from("FOREBAY_TEST_STATES").unwrap_or(1_000)).expect("not that many");
    let seed = number_from("FOREBAY_SEED").unwrap_or_else(rand::random);
    println!("FOREBAY_SEED={seed} FOREBAY_TEST_STATES={states}");
    let flushes = log.iter().filter(|entry| entry.flush).count();
    let acknowledged = log.iter().map(|entry| acknowledged_before(&entry.data)).max().unwrap_or(0);
    assert!(flushes > 0 && acknowledged > 0, "{flushes} flushes, {acknowledged} acknowledged: this is no trace");
    let tried = cuts(&base, &log, states, seed, None).unwrap_or_else(|why| panic!("{why}"));

    // A drive that loses one flushed write must be found out, or the above finds nothing.
    let last_flush = log.iter().rposition(|entry| entry.flush).expect("there are some");
    let promised = |at: &usize| puts(&log[*at].data).any(|(number, _)| number <= acknowledged);
    let candidates: Vec<usize> = (0..last_flush).filter(promised).collect();
    let step = candidates.len().div_ceil(20);
    for drop in candidates.iter().step_by(step) {
        let found = cuts(&base, &log, states / 4, seed, Some(*drop));
        assert!(found.is_err(), "the loss of entry {drop} was not noticed in {found:?} states");
    }
    println!(
        "replayed: {tried} states of {} entries with {flushes} flushes, {acknowledged} puts acknowledged; {} planted losses found",
        log.len(),
        candidates.len().div_ceil(step)
    );
}
