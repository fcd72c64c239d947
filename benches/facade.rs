//! What a put costs beyond the store: the same put on the bare store, by a reactor in the client's own thread, and by a
//! reactor on another core, as ratios. `cargo bench --bench facade`, with `-- --json` for a machine and `-- --rounds N`
//! for more than 5.
//!
//! Durability is `memory`: no log and no drive. Rounds take turns over the three; a figure is the median of the rounds.

mod figures;
mod rig;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use forebay::reactor::Clock;
use forebay::types::Durability;
use rig::bare::Bare;
use rig::{Failure, Rig, key, put};
use serde_json::json;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: forebay_sys::alloc::HugePages = forebay_sys::alloc::HugePages;

const RUN: Duration = Duration::from_millis(300);
const BATCH: u64 = 1_000;

struct Tsc(quanta::Clock, u64);

impl Clock for Tsc {
    fn now_ns(&self) -> u64 {
        self.0.delta_as_nanos(self.1, self.0.raw())
    }

    fn wall_ms(&self) -> u64 {
        0
    }
}

fn tsc() -> Tsc {
    let clock = quanta::Clock::new();
    let start = clock.raw();
    Tsc(clock, start)
}

/// Nanoseconds an operation: of the quickest batch, for a machine that has other things to do.
fn quickest(mut operation: impl FnMut(u64) -> Result<(), Failure>) -> Result<f64, Failure> {
    let begun = Instant::now();
    let (mut number, mut best) = (0, f64::MAX);
    while begun.elapsed() < RUN {
        let batch = Instant::now();
        for _ in 0..BATCH {
            operation(black_box(number))?;
            number += 1;
        }
        best = best.min(batch.elapsed().as_nanos() as f64 / BATCH as f64);
    }
    Ok(best)
}

fn store() -> Result<f64, Failure> {
    let mut bare = Bare::new()?;
    quickest(|number| bare.put(number))
}

fn one_thread() -> Result<f64, Failure> {
    let mut rig = Rig::new(64 << 20, tsc())?;
    let space = rig.space("s", Durability::Memory)?;
    quickest(|number| rig.call(&put(space, &key(number))).map(drop))
}

fn two_cores(cores: [core_affinity::CoreId; 2]) -> Result<f64, Failure> {
    let mut rig = Rig::new(64 << 20, tsc())?;
    let space = rig.space("s", Durability::Memory)?;
    let Rig { mut reactor, mut client, .. } = rig;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            core_affinity::set_for_current(cores[0]);
            while !stop.load(Ordering::Relaxed) {
                reactor.turn();
            }
        });
        core_affinity::set_for_current(cores[1]);
        let mut reply = Vec::with_capacity(4_096);
        let figure = quickest(|number| {
            client.submit(number, &put(space, &key(number)))?;
            loop {
                if let Some(answer) = client.poll(&mut reply)? {
                    return Ok(answer.ok().map(drop)?);
                }
            }
        });
        stop.store(true, Ordering::Relaxed);
        figure
    })
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    figures::summary(&figures.collect::<Vec<_>>()).map_or(f64::NAN, |[median, ..]| median)
}

fn main() -> Result<(), Failure> {
    let (mut json, mut rounds) = (false, 5);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => json = true,
            "--rounds" => rounds = figures::rounds(words.next())?,
            "--bench" => {}
            other => return Err(format!("unknown argument {other:?}; there are --json and --rounds").into()),
        }
    }
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let &[first, second, ..] = cores.as_slice() else {
        eprintln!("skipped: two cores are needed, one for each side, and this process may use {}", cores.len());
        return Ok(());
    };
    let mut figures = Vec::new();
    for _ in 0..rounds {
        core_affinity::set_for_current(second);
        figures.push([store()?, one_thread()?, two_cores([first, second])?]);
    }
    let names = ["put on the bare store", "put by a reactor in the same thread", "put by a reactor on another core"];
    let cases: Vec<(&str, f64)> =
        (0..).zip(names).map(|(at, name): (usize, _)| (name, median(figures.iter().map(|round| round[at])))).collect();
    let ratios =
        [("reactor / store", 1, 0, 10.0), ("another core / same thread", 2, 1, 5.0), ("all of it / store", 2, 0, 30.0)]
            .map(|(name, above, below, aim)| {
                (name, median(figures.iter().map(|round| round[above] / round[below])), aim)
            });
    if json {
        let case = |(name, ns): &(&str, f64)| json!({ "name": name, "unit": "ns", "median": ns });
        let ratio = |(name, ratio, aim): &(&str, f64, f64)| json!({ "name": name, "unit": "x", "figure": ratio, "aim": format!("<= {aim}"), "held": ratio <= aim });
        let cases: Vec<_> = cases.iter().map(case).collect();
        println!("{:#}", json!({ "cases": cases, "table": ratios.iter().map(ratio).collect::<Vec<_>>() }));
        return Ok(());
    }
    for (name, ns) in cases {
        println!("{name:<40} {ns:>8.1} ns");
    }
    println!();
    for (name, ratio, aim) in ratios {
        println!("{name:<40} {ratio:>8.2} x   aim <= {aim} x   {}", if ratio <= aim { "held" } else { "MISSED" });
    }
    Ok(())
}
