//! What a machine's cores do to a tail that nobody else lengthens.

use std::time::{Duration, Instant};

/// What is shorter is the clock's own.
const STALL_MIN: Duration = Duration::from_micros(1);

/// How long a share of `1 - quantile` of what comes at any time would wait for cores that stall, and for nothing else, in
/// nanoseconds: a host takes a virtual machine's cores away, a kernel has work of its own. The worse of the two cores, both spinning.
pub fn stalls(cores: [core_affinity::CoreId; 2], quantile: f64, run: Duration) -> f64 {
    let gaps = |core| {
        core_affinity::set_for_current(core);
        let (begun, mut gaps) = (Instant::now(), Vec::new());
        let mut last = begun;
        while last.duration_since(begun) < run {
            let now = Instant::now();
            if now.duration_since(last) > STALL_MIN {
                gaps.push(now.duration_since(last).as_nanos() as f64);
            }
            last = now;
        }
        gaps
    };
    let of_each = std::thread::scope(|scope| {
        cores.map(|core| scope.spawn(move || gaps(core))).map(|thread| thread.join().unwrap_or_default())
    });
    let share_ns = (1.0 - quantile) * run.as_nanos() as f64;
    let wait_ns = |gaps: Vec<f64>| {
        // What comes during a gap waits for the rest of it: so long is waited longer than `wait`.
        let longer = |wait: f64| gaps.iter().map(|gap| (gap - wait).max(0.0)).sum::<f64>();
        let (mut least, mut most) = (0.0, run.as_nanos() as f64);
        while most - least > 10.0 {
            let middle = f64::midpoint(least, most);
            if longer(middle) > share_ns { least = middle } else { most = middle }
        }
        most
    };
    of_each.map(wait_ns).into_iter().fold(0.0, f64::max)
}
