//! What compression in the client costs and saves: puts and gets of values that look like JSON, by a reactor in the
//! client's own thread; then updates of one field of such values, also as deltas, by a reactor in another thread, for the calls of
//! `DeltaSpace` block. `cargo bench --bench compression`, with `-- --json` for a machine and `-- --rounds N` for more than 5.
//!
//! Durability is `memory`: no log and no drive, so that what is left is the ring, the store and the codec. Rounds take
//! turns over the codecs; a figure is the median of the rounds' medians.

#[expect(dead_code, reason = "other benches use the rest of it")]
mod rig;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use forebay::reactor::Clock;
use forebay::ring::client::{Client, Creation, DeltaSpace, Object, Request, Write};
use forebay::types::{Compression, Durability, ObjectId, ObjectKind};
use rig::{Failure, Rig, key};
use serde_json::json;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: forebay_sys::alloc::HugePages = forebay_sys::alloc::HugePages;

const CODECS: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];
const UPDATES: [Compression; 4] = [Compression::None, Compression::Lz4, Compression::Zstd, Compression::Delta];
const SIZES: [usize; 2] = [1 << 10, 16 << 10];
const VALUES: u64 = 500;
const OPERATIONS: u64 = 4_000;

struct Tsc(quanta::Clock, u64);

impl Clock for Tsc {
    fn now_ns(&self) -> u64 {
        self.0.delta_as_nanos(self.1, self.0.raw())
    }

    fn wall_ms(&self) -> u64 {
        0
    }
}

/// Orders with fields that repeat and numbers that do not, as long as asked for.
fn value(number: u64, bytes: usize) -> Vec<u8> {
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = |below: u64| {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word % below
    };
    let states = ["open", "paid", "packed", "sent", "returned"];
    let cities = ["Lisbon", "Tallinn", "Graz", "Porto", "Bergen", "Turku", "Ghent", "Split"];
    let mut text = String::from("[");
    while text.len() < bytes {
        text += &json!({
            "id": draw(1 << 40),
            "customer": { "id": draw(1 << 32), "city": cities[usize::try_from(draw(8)).expect("below 8")] },
            "state": states[usize::try_from(draw(5)).expect("below 5")],
            "total_cents": draw(1_000_000),
            "token": format!("{:016x}", draw(u64::MAX)),
            "updated": format!("2026-11-{:02}T{:02}:{:02}:{:02}Z", draw(30) + 1, draw(24), draw(60), draw(60)),
        })
        .to_string();
        text.push(',');
    }
    text.truncate(bytes);
    text.into_bytes()
}

/// Done so often, each time with the number of times before.
type Operation<'a> = dyn FnMut(&mut Rig<Tsc>, u64) -> Result<(), Failure> + 'a;

struct Figure {
    put_ns: u64,
    get_ns: u64,
    ratio: f64,
}

fn median(mut figures: Vec<u64>) -> u64 {
    figures.sort_unstable();
    u64::midpoint(figures[(figures.len() - 1) / 2], figures[figures.len() / 2])
}

fn measure(compression: Compression, bytes: usize) -> Result<Figure, Failure> {
    let clock = quanta::Clock::new();
    let start = clock.raw();
    let mut rig = Rig::new(64 << 20, Tsc(clock, start))?;
    let (kind, durability) = (ObjectKind::Space, Durability::Memory);
    let create = Some(Creation { durability, compression, chained: false });
    let answer = rig.call(&Request::Open { name: "orders", kind, create })?;
    let space = Object { id: ObjectId(u32::try_from(answer.version)?), kind, durability, compression };
    let values: Vec<Vec<u8>> = (0..VALUES).map(|number| value(number, bytes)).collect();
    let at = |number: u64| &values[usize::try_from(number % VALUES).expect("64-bit machines only")];
    let mut timed = |operation: &mut Operation<'_>| {
        // The first pass fills and warms.
        let mut times = Vec::with_capacity(usize::try_from(OPERATIONS)?);
        for number in 0..VALUES + OPERATIONS {
            let begun = Instant::now();
            operation(&mut rig, number)?;
            let elapsed: Duration = begun.elapsed();
            if number >= VALUES {
                times.push(u64::try_from(elapsed.as_nanos())?);
            }
        }
        Ok::<u64, Failure>(median(times))
    };
    let put_ns = timed(&mut |rig, number| {
        let (key, value, how) = (key(number % VALUES), at(number), Write::default());
        rig.call(&Request::Put { space, key: &key, value, how }).map(drop)
    })?;
    let get_ns = timed(&mut |rig, number| {
        let key = key(number % VALUES);
        rig.call(&Request::Get { space, key: &key, relaxed: true, value_bytes_max: bytes })?;
        if rig.reply == *at(number) { Ok(()) } else { Err("another value came back".into()) }
    })?;
    Ok(Figure { put_ns, get_ns, ratio: rig.client.compression_stats().ratio() })
}

/// The same document with another time in one of its orders.
fn update(document: &mut [u8], pass: u64) {
    let field = b"\"updated\":\"2026-11-";
    let places: Vec<usize> = (0..document.len()).filter(|at| document[*at..].starts_with(field)).collect();
    let time = format!("{:02}T{:02}:{:02}:{:02}Z", pass % 30 + 1, pass % 24, pass * 7 % 60, pass * 13 % 60);
    let at = places[usize::try_from(pass.wrapping_mul(11)).expect("64-bit machines only") % places.len()] + field.len();
    let end = document.len().min(at + time.len());
    document[at..end].copy_from_slice(&time.as_bytes()[..end - at]);
}

/// Puts each document again and again, each time with another field of it changed, and gets it.
fn measure_updates(compression: Compression, bytes: usize) -> Result<Figure, Failure> {
    let clock = quanta::Clock::new();
    let start = clock.raw();
    let Rig { mut reactor, mut client, .. } = Rig::new(64 << 20, Tsc(clock, start))?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                reactor.turn();
            }
        });
        let figure = updates(&mut client, compression, bytes);
        stop.store(true, Ordering::Relaxed);
        figure
    })
}

/// Bytes given so far, and stored for them; none in a space without compression.
fn stored(client: &Client, deltas: Option<&DeltaSpace>) -> (u64, u64) {
    let plain = client.compression_stats();
    deltas
        .map(DeltaSpace::stats)
        .map_or((plain.plain_bytes, plain.stored_bytes), |told| (told.plain_bytes, told.stored_bytes))
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn updates(client: &mut Client, compression: Compression, bytes: usize) -> Result<Figure, Failure> {
    let creation = Creation { compression, ..Creation::from(Durability::Memory) };
    let space = client.create_space("orders", creation)?;
    let mut deltas = DeltaSpace::of(space).ok();
    let mut documents: Vec<Vec<u8>> = (0..VALUES).map(|number| value(number, bytes)).collect();
    let (mut puts, mut gets, how) = (Vec::new(), Vec::new(), Write::default());
    let mut before = (0, 0);
    for number in 0..2 * VALUES + OPERATIONS {
        let (key, document) =
            (key(number % VALUES), &mut documents[usize::try_from(number % VALUES).expect("below VALUES")]);
        update(document, number / VALUES);
        // The first pass fills, the second one makes bases.
        if number == 2 * VALUES {
            before = stored(client, deltas.as_ref());
        }
        let begun = Instant::now();
        match &mut deltas {
            Some(deltas) => deltas.put(client, &key, document, how)?,
            None => client.put(space, &key, document, how)?,
        };
        let put = begun.elapsed();
        let found = match &mut deltas {
            Some(deltas) => deltas.get(client, &key)?,
            None => client.get(space, &key)?,
        };
        let get = begun.elapsed() - put;
        if found.is_none_or(|(_, found)| found != *document) {
            return Err("another value came back".into());
        }
        if number >= 2 * VALUES {
            puts.push(u64::try_from(put.as_nanos())?);
            gets.push(u64::try_from(get.as_nanos())?);
        }
    }
    let (plain_bytes, stored_bytes) = stored(client, deltas.as_ref());
    let stored_bytes = stored_bytes - before.1;
    let ratio = if stored_bytes == 0 { 1.0 } else { (plain_bytes - before.0) as f64 / stored_bytes as f64 };
    Ok(Figure { put_ns: median(puts), get_ns: median(gets), ratio })
}

fn main() -> Result<(), Failure> {
    let (mut as_json, mut rounds) = (false, 5);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => as_json = true,
            "--rounds" => rounds = words.next().ok_or("--rounds needs a number")?.parse::<NonZeroUsize>()?.get(),
            "--bench" => {}
            other => return Err(format!("unknown argument {other:?}; there are --json and --rounds").into()),
        }
    }
    compare("values", &CODECS, measure, rounds, as_json)?;
    compare("updates", &UPDATES, measure_updates, rounds, as_json)
}

/// Rounds of a measurement that take turns over the codecs.
fn compare(
    what: &str,
    codecs: &[Compression],
    measure: fn(Compression, usize) -> Result<Figure, Failure>,
    rounds: usize,
    as_json: bool,
) -> Result<(), Failure> {
    for bytes in SIZES {
        let mut found: Vec<Vec<Figure>> = codecs.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (codec, figures) in codecs.iter().zip(&mut found) {
                figures.push(measure(*codec, bytes)?);
            }
        }
        for (codec, figures) in codecs.iter().zip(&found) {
            let put_ns = median(figures.iter().map(|figure| figure.put_ns).collect());
            let get_ns = median(figures.iter().map(|figure| figure.get_ns).collect());
            let ratio = figures.first().map_or(1.0, |figure| figure.ratio);
            let name = codec.name();
            if as_json {
                let line = json!({
                    "what": what, "codec": name, "value_bytes": bytes, "ratio": ratio, "put_ns": put_ns, "get_ns": get_ns,
                });
                println!("{line}");
            } else {
                println!("{what:<7} {name:<5} {bytes:>6} B  {ratio:5.2}:1  put {put_ns:>7} ns  get {get_ns:>7} ns");
            }
        }
    }
    Ok(())
}
