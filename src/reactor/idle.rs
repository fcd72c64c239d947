//! The loop of a reactor's thread: turn after turn, and asleep only when nothing is under way.

use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use crate::device::Device;
use crate::reactor::{Clock, Phase, Reactor};

/// A client that answers at once comes back sooner than this: until then a pause would only delay its request, by
/// some 25 ns. Afterwards it spares the core's other thread and power.
const PAUSE_AFTER_NS: u64 = 5_000;

/// Turns until the reactor was told to stop and has written everything out, or somebody visits it. `spin_ns`: how long it polls without
/// work before it sleeps; `None` never sleeps. Runs on the reactor's own thread.
pub fn run<D: Device, C: Clock>(reactor: &mut Reactor<D, C>, spin_ns: Option<u64>) {
    while reactor.phase() != Phase::Stopped && !reactor.take_visit() {
        if reactor.turn() {
            continue;
        }
        if reactor.idle_ns() < PAUSE_AFTER_NS {
            continue;
        }
        std::hint::spin_loop();
        let idle = spin_ns.is_some_and(|spin_ns| reactor.idle_ns() >= spin_ns);
        if idle && !reactor.is_at_work() && reactor.phase() == Phase::Serving {
            sleep(reactor);
        }
    }
}

/// Sleeps until a client or another thread rings, or the next deadline.
fn sleep<D: Device, C: Clock>(reactor: &mut Reactor<D, C>) {
    reactor.set_need_wakeup(true);
    // Either a client sees that this reactor sleeps, or this last turn sees what the client published.
    fence(Ordering::SeqCst);
    if !reactor.turn() && !reactor.is_at_work() && reactor.phase() == Phase::Serving {
        reactor.rouse_others();
        let now_ns = reactor.now_ns();
        let timeout = reactor.deadline_ns().map(|at| Duration::from_nanos(at.saturating_sub(now_ns)));
        reactor.rest();
        if let Err(error) = reactor.doze(timeout) {
            tracing::error!(%error, "the wait for wake-ups failed");
        }
    }
    reactor.set_need_wakeup(false);
}
