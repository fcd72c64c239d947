//! The floor of everything that crosses cores, and how it is measured.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Round trips whose mean is one sample; a round's figure is the median of its samples.
const SAMPLE_TRIPS: u32 = 32;
const SAMPLES: usize = 4_000;

/// Runs `peer` on the second core and `trip` on the first. Nanoseconds of a trip.
pub fn measure(
    cores: [core_affinity::CoreId; 2],
    peer: impl FnOnce(&AtomicBool) + Send,
    mut trip: impl FnMut(),
) -> f64 {
    core_affinity::set_for_current(cores[0]);
    // On a line of its own: what lies beside it, the thread that measures writes.
    let stop = Apart(AtomicBool::new(false));
    let stop = &stop.0;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            core_affinity::set_for_current(cores[1]);
            peer(stop);
        });
        let warm = Instant::now();
        while warm.elapsed() < Duration::from_millis(20) {
            trip();
        }
        let mut samples: Vec<f64> = (0..SAMPLES)
            .map(|_| {
                let start = Instant::now();
                (0..SAMPLE_TRIPS).for_each(|_| trip());
                start.elapsed().as_secs_f64() * 1e9 / f64::from(SAMPLE_TRIPS)
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        samples.sort_by(f64::total_cmp);
        samples[SAMPLES / 2]
    })
}

#[repr(align(128))]
struct Apart<T>(T);

/// One cache line there and back between two cores: nothing that crosses cores is faster.
pub fn cache_line(cores: [core_affinity::CoreId; 2]) -> f64 {
    let line = Apart(AtomicU64::new(0));
    let answer = |stop: &AtomicBool| {
        let mut turn = 1;
        while !stop.load(Ordering::Relaxed) {
            if line.0.load(Ordering::Acquire) == turn {
                line.0.store(turn + 1, Ordering::Release);
                turn += 2;
            }
        }
    };
    let mut turn = 0;
    measure(cores, answer, || {
        line.0.store(turn + 1, Ordering::Release);
        turn += 2;
        while line.0.load(Ordering::Acquire) != turn {}
    })
}
