//! How fast a request and its answer go through the rings, against the floor: a cache line there and back between the
//! same two cores. `cargo bench --bench ring`, with `-- --json` for a machine.

mod floor;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use floor::{cache_line, measure};

use forebay::ring::client::{Client, Request};
use forebay::ring::protocol::Completion;
use forebay::ring::segment::Shape;
use forebay::ring::server::{Rights, SessionId, SessionRing, pair_in_process};
use forebay_sys::shm::SharedMap;
use forebay_sys::spsc::{Consumer, Placement, Producer};
use serde_json::json;

const ROUNDS: usize = 9;
/// What the ring may cost, as a multiple of the cache line.
const RATIO_MAX: f64 = 2.5;

const SHAPE: Shape = Shape {
    reactors: 1,
    sq_entries: 256,
    cq_entries: 256,
    arena_bytes: 1 << 20,
    shards: 1,
    key_bytes_max: 1_024,
    value_bytes_max: 4_096,
    lineage: forebay::types::Lineage::NONE,
};

type Case = (&'static str, fn([core_affinity::CoreId; 2]) -> f64);

const CASES: [Case; 4] = [
    ("cache line there and back", cache_line),
    ("entry pair through two rings", entry_pair),
    ("no-op through client and session", no_op),
    ("no-op, 32 in flight, per request", no_op_pipelined),
];

fn main() -> ExitCode {
    let mut json = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--json" => json = true,
            "--bench" => {}
            other => {
                eprintln!("unknown argument {other:?}; there is only --json");
                return ExitCode::from(2);
            }
        }
    }
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let &[first, second, ..] = cores.as_slice() else {
        eprintln!("skipped: two cores are needed, one for each side, and this process may use {}", cores.len());
        return ExitCode::SUCCESS;
    };
    // The cases take turns, so that a change of the machine's mood touches all of them.
    let mut rounds: Vec<Vec<f64>> = vec![Vec::new(); CASES.len()];
    for _ in 0..ROUNDS {
        for (figures, (_, case)) in rounds.iter_mut().zip(CASES) {
            figures.push(case([first, second]));
        }
    }
    rounds.iter_mut().for_each(|figures| figures.sort_by(f64::total_cmp));
    let medians: Vec<f64> = rounds.iter().map(|figures| figures[ROUNDS / 2]).collect();
    if json {
        let cases: Vec<_> = CASES
            .iter()
            .zip(&rounds)
            .map(|((name, _), figures)| {
                let (median, min, max) = (figures[ROUNDS / 2], figures[0], figures[ROUNDS - 1]);
                json!({ "name": name, "median_ns": median, "min_ns": min, "max_ns": max, "ratio": median / medians[0] })
            })
            .collect();
        println!("{:#}", json!({ "rounds": ROUNDS, "ratio_max": RATIO_MAX, "cases": cases }));
        return ExitCode::SUCCESS;
    }
    println!("cores {} and {}, median of {ROUNDS} rounds (least - most)", first.id, second.id);
    for ((name, _), figures) in CASES.iter().zip(&rounds) {
        let (median, min, max) = (figures[ROUNDS / 2], figures[0], figures[ROUNDS - 1]);
        println!("{name:<34} {median:>7.1} ns ({min:.1} - {max:.1})  {:>5.2} x", median / medians[0]);
    }
    let verdict = if medians[2] <= RATIO_MAX * medians[0] { "held" } else { "MISSED" };
    println!("aim: a no-op round trip within {RATIO_MAX} x a cache line there and back: {verdict}");
    ExitCode::SUCCESS
}

fn entry_pair(cores: [core_affinity::CoreId; 2]) -> f64 {
    let there = Placement { entries_offset: 4_096, entries: 256, head_offset: 0 };
    let back = Placement { entries_offset: 4_096 + 256 * 64, entries: 256, head_offset: 128 };
    let map = Arc::new(SharedMap::anonymous(1 << 20).expect("a megabyte"));
    let mut requests = Producer::new(map.clone(), there).expect("inside the map");
    let mut due = Consumer::new(map.clone(), there).expect("inside the map");
    let mut answers = Producer::new(map.clone(), back).expect("inside the map");
    let mut answered = Consumer::new(map, back).expect("inside the map");
    let answer = move |stop: &AtomicBool| {
        while !stop.load(Ordering::Relaxed) {
            if let Some(message) = due.pop().expect("a sane peer") {
                due.publish();
                answers.push(&message).expect("a sane peer");
            }
        }
    };
    measure(cores, answer, || {
        requests.push(&[1; 7]).expect("a sane peer");
        while answered.pop().expect("a sane peer").is_none() {}
        answered.publish();
    })
}

fn session() -> (Client, SessionRing) {
    let (parts, mut rings) = pair_in_process(SessionId(1), Rights::ReadWrite, SHAPE).expect("a session");
    (Client::from_parts(parts, Duration::ZERO).expect("a sane daemon"), rings.remove(0))
}

fn serve(mut ring: SessionRing) -> impl FnOnce(&AtomicBool) + Send {
    move |stop| {
        while !stop.load(Ordering::Relaxed) {
            while let Some(submission) = ring.peek().expect("a sane client") {
                ring.advance();
                ring.post(&Completion { user_data: submission.user_data, ..Completion::default() });
            }
            ring.finish_turn();
        }
    }
}

fn no_op(cores: [core_affinity::CoreId; 2]) -> f64 {
    let (mut client, ring) = session();
    let mut reply = Vec::new();
    measure(cores, serve(ring), || {
        client.submit(0, &Request::Noop { reactor: 0 }).expect("an empty ring");
        while client.poll(&mut reply).expect("a sane daemon").is_none() {}
    })
}

fn no_op_pipelined(cores: [core_affinity::CoreId; 2]) -> f64 {
    let (mut client, ring) = session();
    let mut reply = Vec::new();
    measure(cores, serve(ring), || {
        while client.in_flight() < 32 {
            client.submit(0, &Request::Noop { reactor: 0 }).expect("an empty ring");
        }
        while client.poll(&mut reply).expect("a sane daemon").is_none() {}
    })
}
