//! With the feature: client and reactor write what a request took into a table that both see, under the number that
//! the ring carries; the client adds it up when the answer is there.

mod measured;

use std::array;
use std::cell::{Cell, RefCell};
use std::sync::LazyLock;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use super::{LAYERS, Layer};
pub use measured::Measured;

/// Whether this program measures layers.
pub const ENABLED: bool = true;

/// Requests in flight of one client that have an entry of their own. Those beyond may share one with another client's,
/// and then count for neither.
const CLIENT_ENTRIES: u32 = 256;
const CLIENTS: u32 = 256;
/// Bits of the index of a request in the low word of its number; the tag stands above.
const INDEX_BITS: u32 = 20;

/// Ticks of the time stamp counter. 0: not yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

static CLOCK: LazyLock<quanta::Clock> = LazyLock::new(quanta::Clock::new);
static TRACES: LazyLock<Box<[Trace]>> =
    LazyLock::new(|| (0..CLIENT_ENTRIES * CLIENTS).map(|_| Trace::default()).collect());
static TAGS: AtomicU32 = AtomicU32::new(0);

/// One request. Written by whoever holds it: client, reactor, client; the ring orders them.
#[derive(Default)]
struct Trace {
    owner: AtomicU64,
    submitted: AtomicU64,
    /// The store has answered; 0 for a request that is not measured (a sync, a read that waits for an event).
    applied: AtomicU64,
    posted: AtomicU64,
    /// Ticks.
    spent: [AtomicU64; LAYERS],
}

impl Trace {
    fn of(wire: u64) -> Option<&'static Trace> {
        let index = wire & ((1 << INDEX_BITS) - 1);
        let tag = (wire >> INDEX_BITS) & u64::from(CLIENTS - 1);
        let at = (tag * u64::from(CLIENT_ENTRIES) + index) % u64::from(CLIENT_ENTRIES * CLIENTS);
        TRACES.get(usize::try_from(at).ok()?)
    }

    fn owned(wire: u64) -> Option<&'static Trace> {
        Trace::of(wire).filter(|trace| trace.owner.load(Acquire) == wire)
    }

    fn add(&self, layer: Layer, ticks: u64) {
        let spent = &self.spent[layer as usize];
        spent.store(spent.load(Relaxed) + ticks, Relaxed);
    }
}

/// What the reactor's thread is at.
struct Current {
    trace: Cell<Option<&'static Trace>>,
    layer: Cell<Layer>,
    since: Cell<u64>,
    spent: [Cell<u64>; LAYERS],
}

/// What the client's thread measures.
struct Recorder {
    from: u64,
    measured: Measured,
}

thread_local! {
    static CURRENT: Current = Current {
        trace: const { Cell::new(None) },
        layer: const { Cell::new(Layer::Rest) },
        since: const { Cell::new(0) },
        spent: array::from_fn(|_| Cell::new(0)),
    };
    static RECORDER: RefCell<Recorder> = RefCell::new(Recorder { from: u64::MAX, measured: Measured::default() });
}

impl Current {
    /// What passed counts for the layer that was entered last; what follows for `layer`.
    fn turn_to(&self, layer: Layer, now: u64) -> Layer {
        let before = self.layer.replace(layer);
        let spent = &self.spent[before as usize];
        spent.set(spent.get() + now.saturating_sub(self.since.replace(now)));
        before
    }
}

#[must_use]
pub fn now() -> Moment {
    Moment(CLOCK.raw())
}

/// Tells the requests of one client from those of others.
#[derive(Debug)]
pub struct Tag(u32);

impl Default for Tag {
    fn default() -> Tag {
        Tag(TAGS.fetch_add(1, Relaxed) % CLIENTS)
    }
}

impl Tag {
    #[must_use]
    pub fn wire(&self, index: u32) -> u32 {
        index | self.0 << INDEX_BITS
    }

    #[must_use]
    pub fn index(&self, wire: u32) -> u32 {
        wire & ((1 << INDEX_BITS) - 1)
    }
}

/// Client: this request is about to be published.
pub fn submitted(wire: u64, since: Moment) {
    let Some(trace) = Trace::of(wire) else { return };
    trace.submitted.store(since.0, Relaxed);
    trace.applied.store(0, Relaxed);
    trace.posted.store(0, Relaxed);
    trace.spent.iter().for_each(|spent| spent.store(0, Relaxed));
    trace.owner.store(wire, Release);
}

/// Reactor: it looked into a ring at `since`, and found this request. One that stayed in its ring comes here again.
pub fn taken(wire: u64, since: Moment) {
    CURRENT.with(|current| {
        let trace = Trace::owned(wire);
        current.spent.iter().for_each(|spent| spent.set(0));
        if let Some(trace) = trace {
            let waited = since.0.saturating_sub(trace.submitted.load(Relaxed));
            current.spent[Layer::RingWait as usize].set(waited);
        }
        current.trace.set(trace);
        current.layer.set(Layer::Decode);
        current.since.set(since.0);
    });
}

/// Time counts for a layer until this goes, but for what goes to layers entered meanwhile.
pub struct Guard(Layer);

#[must_use]
pub fn enter(layer: Layer) -> Guard {
    Guard(CURRENT.with(|current| current.turn_to(layer, CLOCK.raw())))
}

impl Drop for Guard {
    fn drop(&mut self) {
        CURRENT.with(|current| current.turn_to(self.0, CLOCK.raw()));
    }
}

/// When a frame was sealed, and when it landed.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameStamp {
    begun: u64,
    crc: u64,
    sealed: u64,
    landed: u64,
}

/// A frame that is being sealed.
pub struct Sealing {
    stamp: FrameStamp,
    _guard: Guard,
}

#[must_use]
pub fn seal_begins() -> Sealing {
    let _guard = enter(Layer::Seal);
    let crc = CURRENT.with(|current| current.spent[Layer::Crc as usize].get());
    Sealing { stamp: FrameStamp { begun: CLOCK.raw(), crc, ..FrameStamp::default() }, _guard }
}

impl Sealing {
    #[must_use]
    pub fn ends(self) -> FrameStamp {
        let crc = CURRENT.with(|current| current.spent[Layer::Crc as usize].get());
        FrameStamp { crc: crc.saturating_sub(self.stamp.crc), sealed: CLOCK.raw(), ..self.stamp }
    }
}

impl FrameStamp {
    #[must_use]
    pub fn landed(self) -> FrameStamp {
        FrameStamp { landed: CLOCK.raw(), ..self }
    }
}

/// Reactor: the store has answered the request at hand.
pub fn applied() {
    CURRENT.with(|current| {
        let now = CLOCK.raw();
        current.turn_to(Layer::Rest, now);
        let Some(trace) = current.trace.take() else { return };
        for (layer, spent) in Layer::ALL.into_iter().zip(&current.spent) {
            // What is left over follows from the rest.
            trace.add(layer, if layer == Layer::Rest { 0 } else { spent.get() });
        }
        trace.applied.store(now, Relaxed);
    });
}

/// Reactor: what an answer waited for is on the drive with this frame, or was already.
pub fn durable(wire: u64, frame: FrameStamp) {
    let Some(trace) = Trace::owned(wire) else { return };
    let applied = trace.applied.load(Relaxed);
    // A frame that was sealed before the request came was only waited for.
    let [begun, sealed, landed] = [frame.begun, frame.sealed, frame.landed].map(|moment| moment.max(applied));
    let crc = frame.crc.min(sealed - begun);
    trace.add(Layer::FrameWait, begun - applied);
    trace.add(Layer::Crc, crc);
    trace.add(Layer::Seal, sealed - begun - crc);
    trace.add(Layer::Device, landed.saturating_sub(sealed));
    trace.add(Layer::Post, CLOCK.raw().saturating_sub(landed));
}

/// Reactor: the answer is about to be published.
pub fn posting(wire: u64) {
    if let Some(trace) = Trace::owned(wire) {
        trace.posted.store(CLOCK.raw(), Release);
    }
}

/// Client: the answer is there.
pub fn seen(wire: u64) {
    let now = CLOCK.raw();
    let Some(trace) = Trace::owned(wire) else { return };
    let (submitted, posted) = (trace.submitted.load(Relaxed), trace.posted.load(Acquire));
    if trace.applied.load(Relaxed) == 0 || posted == 0 {
        return;
    }
    RECORDER.with_borrow_mut(|recorder| {
        if submitted < recorder.from {
            return;
        }
        let mut spent: [u64; LAYERS] = array::from_fn(|layer| trace.spent[layer].load(Relaxed));
        spent[Layer::Post as usize] += now.saturating_sub(posted);
        let nanoseconds = |ticks| CLOCK.delta_as_nanos(0, ticks);
        recorder.measured.record(nanoseconds(now.saturating_sub(submitted)), spent.map(nanoseconds));
    });
}

/// Client: this thread's requests count from now on, but for those of a ramp.
pub fn measure_after(ramp: Duration) {
    let begun = CLOCK.raw();
    let tick_ns = CLOCK.delta_as_nanos(0, 1 << 20).max(1);
    let ramp_ticks = (ramp.as_nanos() << 20) / u128::from(tick_ns);
    let from = begun.saturating_add(u64::try_from(ramp_ticks).unwrap_or(u64::MAX));
    RECORDER.set(Recorder { from, measured: Measured::default() });
}

/// What this thread's requests took since.
#[must_use]
pub fn measured() -> Measured {
    RECORDER.with_borrow_mut(|recorder| {
        recorder.from = u64::MAX;
        std::mem::take(&mut recorder.measured)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spin(us: u64) {
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_micros(us) {}
    }

    /// One request as client and reactor tell of it, in one thread; times in microseconds.
    fn request(tag: &Tag, index: u32, deferred: bool) {
        let wire = u64::from(tag.wire(index)) | 7 << 32;
        assert_eq!(tag.index(tag.wire(index)), index);
        submitted(wire, now());
        spin(100);
        taken(wire, now());
        spin(20);
        {
            let _store = enter(Layer::Store);
            spin(40);
            let _encode = enter(Layer::Encode);
            spin(60);
            let _crc = enter(Layer::Crc);
            spin(30);
        }
        applied();
        if deferred {
            spin(50);
            let sealing = seal_begins();
            {
                let _crc = enter(Layer::Crc);
                spin(30);
            }
            spin(70);
            let frame = sealing.ends();
            spin(200);
            durable(wire, frame.landed());
        }
        posting(wire);
        spin(80);
        seen(wire);
    }

    #[test]
    fn layers_add_up_and_time_counts_once() {
        let (tag, other) = (Tag::default(), Tag::default());
        assert_ne!(tag.wire(3), other.wire(3));
        request(&tag, 3, true);
        assert_eq!(measured().requests(), 0, "nobody asked for it");
        measure_after(Duration::from_secs(60));
        request(&tag, 3, true);
        assert_eq!(measured().requests(), 0, "of the ramp");
        for deferred in [false, true] {
            // A machine at work takes a thread away at times; the quickest of some is right.
            let quickest = (0..200).map(|_| {
                measure_after(Duration::ZERO);
                request(&tag, 3, deferred);
                let measured = measured();
                assert_eq!(measured.requests(), 1);
                measured.split(50.0)
            });
            let split = quickest.min_by_key(|split| split.latency_ns).unwrap();
            let sum: u64 = split.spent_ns.iter().sum();
            assert!(sum.abs_diff(split.latency_ns) <= 20, "{split:?}");
            let waits = if deferred { [50, 70, 200] } else { [0, 0, 0] };
            let crc = if deferred { 60 } else { 30 };
            let expected = [100, 20, 40, 60, crc, waits[0], waits[1], waits[2], 80, 0];
            for (layer, us) in Layer::ALL.into_iter().zip(expected) {
                let spent = split.spent_ns[layer as usize];
                assert!((us * 1_000..us * 1_000 + 15_000).contains(&spent), "{layer:?}: {spent} ns, not {us} us");
            }
        }
    }
}
