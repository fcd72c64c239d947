//! A device that does not answer, on a clock that the test moves.

use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::device::{Completion, Device, Geometry, Operation};
use crate::ring::client::Retention;
use crate::ring::protocol::stats;
use crate::wal::Fence;

const SECOND_NS: u64 = 1_000_000_000;
const WINDOW_NS: u64 = small::SETTINGS.wal.window_interval_ns;

/// A drive in memory that ends nothing while it is silent.
struct Silent {
    device: MemoryDevice,
    silent: Rc<Cell<bool>>,
    waited_for: Rc<Cell<bool>>,
}

impl Device for Silent {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn submit(&mut self, operation: Operation) -> Result<(), Operation> {
        self.device.submit(operation)
    }

    fn kick(&mut self, waited_for: bool) {
        self.waited_for.set(waited_for);
    }

    fn poll(&mut self) -> Option<Completion> {
        if self.silent.get() { None } else { self.device.poll() }
    }

    fn in_flight(&self) -> u32 {
        self.device.in_flight()
    }
}

#[derive(Clone, Default)]
struct Hand(Rc<Cell<u64>>);

impl Clock for Hand {
    fn now_ns(&self) -> u64 {
        self.0.get()
    }

    fn wall_ms(&self) -> u64 {
        self.0.get() / 1_000_000
    }
}

struct Quiet {
    reactor: Reactor<Silent, Hand>,
    client: Client,
    silent: Rc<Cell<bool>>,
    waited_for: Rc<Cell<bool>>,
    hand: Hand,
    space: Object,
}

impl Quiet {
    /// With a key that is durable; then the device falls silent under the write of another one.
    fn start() -> Quiet {
        let disk = formatted();
        let recover::Begun { shards, catalog, .. } = small::begin(&disk, CAPACITY, || None, None);
        let (parts, rings) = pair_in_process(SessionId(1), Rights::ReadWrite, SHAPE).unwrap();
        let region = DmaRegion::allocate(16 * (64 << 10), Pages::Ordinary).unwrap();
        let (silent, hand) = (Rc::<Cell<bool>>::default(), Hand::default());
        let waited_for = Rc::<Cell<bool>>::default();
        let device =
            Silent { device: MemoryDevice::new(&disk, 16), silent: silent.clone(), waited_for: waited_for.clone() };
        let pool = Pool::new(region, 64 << 10);
        let mut reactor = Reactor::new(small::place(), LIMITS, hand.clone(), device, pool, catalog, shards);
        rings.into_iter().for_each(|ring| reactor.begin_session(ring));
        let client = Client::from_parts(parts, Duration::ZERO).unwrap();
        let (id, kind, durability) = (ObjectId(0), ObjectKind::Space, Durability::Strict);
        let compression = Compression::None;
        let mut quiet =
            Quiet { reactor, client, silent, waited_for, hand, space: Object { id, kind, durability, compression } };
        let create = Some(durability.into());
        let opened = quiet.call(&Request::Open { kind, name: "space", create }).expect("it is made");
        quiet.space.id = ObjectId(u32::try_from(opened.version).unwrap());
        let space = quiet.space;
        let put = |key| Request::Put { space, key, value: b"1", how: Write::default() };
        assert_eq!(quiet.call(&put(b"before")).map(|answer| answer.status), Some(Status::Ok));
        quiet.silent.set(true);
        assert_eq!(quiet.call(&put(b"under way")), None);
        quiet
    }

    /// Turns for a thousandth of a second.
    fn call(&mut self, request: &Request<'_>) -> Option<Answer> {
        self.client.submit(7, request).unwrap();
        (0..1_000).find_map(|_| self.turn_for(1_000))
    }

    fn get(&mut self, key: &[u8]) -> Option<Status> {
        let request = Request::Get { space: self.space, key, relaxed: false, value_bytes_max: 8 };
        self.call(&request).map(|answer| answer.status)
    }

    fn turn_for(&mut self, ns: u64) -> Option<Answer> {
        self.hand.0.set(self.hand.0.get() + ns);
        self.reactor.turn();
        self.client.poll(&mut Vec::new()).unwrap()
    }

    /// Turns twice a second. The second in which an answer came, and what it was.
    fn seconds(&mut self, seconds: u64) -> Option<(u64, Status)> {
        (0..seconds * 2).find_map(|half| Some((half / 2, self.turn_for(SECOND_NS / 2)?.status)))
    }

    fn word(&mut self, at: usize) -> u64 {
        let mut reply = Vec::new();
        self.client
            .submit(9, &Request::Stats { reactor: 0, about: stats::About::Reactor, after: ObjectId(0) })
            .unwrap();
        for _ in 0..10 {
            self.reactor.turn();
            if self.client.poll(&mut reply).unwrap().is_some() {
                return crate::bytes::get_u64(&reply, at * 8);
            }
        }
        panic!("no stats");
    }
}

#[test]
fn writers_are_told_after_the_time_out_and_readers_go_on() {
    let mut quiet = Quiet::start();
    assert_eq!(quiet.seconds(30), None, "too early");
    assert!(quiet.reactor.is_at_work() && quiet.reactor.fenced().is_empty());
    // A look that came some milliseconds late does not count them.
    assert_eq!((quiet.word(stats::DEVICE_OLDEST_NS).div_ceil(SECOND_NS), quiet.word(stats::DEVICE_STALLS)), (30, 1));
    let (second, status) = quiet.seconds(40).expect("whoever waits is told");
    assert!((29..=32).contains(&second) && status == Status::Fenced, "{second} {status:?}");
    assert!(quiet.reactor.fenced().iter().all(|(_, why)| *why == Fence::Stalled));
    assert_eq!(quiet.reactor.fenced().len(), SHARDS as usize, "also those that had nothing under way");
    assert_eq!((quiet.get(b"before"), quiet.get(b"under way")), (Some(Status::Ok), Some(Status::Fenced)));
    assert!(quiet.reactor.is_stuck() && !quiet.reactor.is_at_work(), "it would never sleep");
    assert!(quiet.reactor.deadline_ns().is_some(), "it would never look again");

    quiet.silent.set(false);
    assert_eq!(quiet.seconds(3), None, "nobody is told twice");
    assert!(!quiet.reactor.is_stuck());
    quiet.reactor.step_aside();
    assert!(quiet.reactor.is_aside(), "it can be taken back");
    assert_eq!(quiet.get(b"under way"), Some(Status::Ok), "what ended late is on the drive, and may be shown");
}

#[test]
fn a_stop_does_not_wait_for_it_for_ever() {
    let mut quiet = Quiet::start();
    assert!(quiet.reactor.place.own().send(crate::reactor::Order::Stop).is_ok());
    quiet.seconds(20);
    assert_eq!(quiet.reactor.phase(), Phase::Stopping);
    quiet.seconds(50);
    assert_eq!(quiet.reactor.phase(), Phase::Stopped);
    assert!(quiet.reactor.is_stuck(), "and its memory is not given back");
}

#[test]
fn a_machine_that_was_asleep_does_not_blame_the_device() {
    let mut quiet = Quiet::start();
    assert_eq!(quiet.turn_for(7_200 * SECOND_NS), None);
    assert!(quiet.reactor.fenced().is_empty());
    quiet.silent.set(false);
    assert_eq!(quiet.turn_for(1_000).map(|answer| answer.status), Some(Status::Ok));
}

/// A window is over when time has gone by, and here it stands still.
#[test]
fn a_commit_that_only_reads_asks_for_what_it_waits_for() {
    let mut quiet = Quiet::start();
    quiet.silent.set(false);
    assert_eq!(quiet.turn_for(1_000).map(|answer| answer.status), Some(Status::Ok), "what was under way");
    let (space, key) = (quiet.space, key_of_shard_0(quiet.space, 0));
    let how = Write { durability: Some(Durability::Buffered), ..Write::default() };
    quiet.client.submit(7, &Request::Put { space, key: &key, value: b"2", how }).unwrap();
    let stored = (0..10).find_map(|_| quiet.turn_for(0)).expect("it waits for nothing");
    let durable = |quiet: &Quiet| quiet.reactor.shards()[0].wal.durable_lsn().0;
    assert!(stored.status == Status::Ok && durable(&quiet) < stored.lsn);
    let entries = [commit::read(space, &key, stored.version)];
    quiet.client.submit(7, &Request::Commit { entries: &entries, durability: None, relaxed: false }).unwrap();
    let told = (0..10).find_map(|_| quiet.turn_for(0)).expect("its answer waits for no window");
    assert!(told.status == Status::Ok && durable(&quiet) >= stored.lsn);
}

#[test]
fn a_mark_that_waits_for_room_keeps_its_moment() {
    let mut quiet = Quiet::start();
    quiet.silent.set(false);
    assert_eq!(quiet.turn_for(1_000).map(|answer| answer.status), Some(Status::Ok), "what was under way");
    let (kind, durability, compression) = (ObjectKind::Stream, Durability::Buffered, Compression::None);
    let opened = quiet.call(&Request::Open { kind, name: "stream", create: Some(durability.into()) }).unwrap();
    let stream = Object { id: ObjectId(u32::try_from(opened.version).unwrap()), kind, durability, compression };
    let retention = Retention { bytes: None, age: Some(Duration::from_millis(6_400)) };
    assert_eq!(quiet.call(&Request::Retain { stream, set: Some(retention) }).unwrap().status, Status::Ok);
    let append = Request::Append { stream, event: &[7; 8], how: Write::default() };
    assert_eq!(quiet.call(&append).unwrap().status, Status::Ok);
    quiet.turn_for(SECOND_NS / 5);
    quiet.silent.set(true);
    let stored = (1..).take_while(|_| quiet.call(&append).is_some()).last().expect("the buffers take some");
    // The mark of them is due, and finds no buffer.
    quiet.turn_for(SECOND_NS / 5);
    assert_eq!(quiet.seconds(5), None);
    quiet.silent.set(false);
    assert_eq!(quiet.seconds(1).map(|(_, status)| status), Some(Status::Ok), "the one that waited");
    quiet.seconds(3);
    assert_eq!(quiet.word(stats::EVENTS_RETIRED), 1 + stored, "at 9 s, where all but the last are 8 s old");
}

#[test]
fn a_device_is_told_whether_anybody_waits_for_it() {
    let mut quiet = Quiet::start();
    assert!(quiet.waited_for.get(), "a strict put is under way");
    quiet.silent.set(false);
    assert!((0..10).any(|_| quiet.turn_for(1_000).is_some()));
    (0..3).for_each(|_| _ = quiet.turn_for(1_000));
    assert!(!quiet.waited_for.get(), "nothing is under way");
    quiet.silent.set(true);
    let put = |durability| {
        let how = Write { durability, ..Write::default() };
        Request::Put { space: quiet.space, key: b"key", value: b"1", how }
    };
    let (buffered, strict) = (put(Some(Durability::Buffered)), put(None));
    assert_eq!(quiet.call(&buffered).map(|answer| answer.status), Some(Status::Ok));
    quiet.turn_for(WINDOW_NS);
    assert!(quiet.reactor.is_at_work() && !quiet.waited_for.get(), "its window is over, and it is written");
    quiet.turn_for(1_000_000);
    assert!(quiet.waited_for.get(), "it takes too long");
    quiet.silent.set(false);
    quiet.turn_for(1_000);
    quiet.silent.set(true);
    assert_eq!(quiet.call(&buffered).map(|answer| answer.status), Some(Status::Ok));
    quiet.turn_for(WINDOW_NS);
    assert!(!quiet.waited_for.get());
    assert_eq!(quiet.call(&strict), None);
    assert!(quiet.waited_for.get(), "somebody came to wait");
}
