//! Clients that break every rule, against a real daemon: it stays up, tells the offender why, keeps nothing of it, and an
//! honest client beside them sees only its own data and no errors.

use std::os::unix::process::CommandExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use forebay::ring::client::{Client, ClientError, ConnectOptions, Write};
use forebay::ring::protocol::{EndReason, MAGIC, Opcode, Status, Submission, VERSION, stats};
use forebay::ring::segment::{Layout, end_reason};
use forebay::types::Durability;
use forebay_sys::net::{EventFd, PollFd, PollFlags, Socket, wait};
use forebay_sys::shm::SharedMap;
use forebay_sys::spsc::Producer;
use rand::{RngExt, SeedableRng};

use crate::daemon::{Daemon, PATIENCE, Place};

/// A client that speaks the protocol by hand. `docs/ring.md` is all it knows.
struct Attacker {
    connection: Socket,
    map: Arc<SharedMap>,
    layout: Layout,
    submissions: Producer,
    doorbell: EventFd,
}

fn hello() -> [u8; 64] {
    let mut hello = [0; 64];
    hello[..8].copy_from_slice(&MAGIC.to_le_bytes());
    hello[8..12].copy_from_slice(&VERSION.to_le_bytes());
    hello[12..16].copy_from_slice(&16_u32.to_le_bytes());
    hello[16..20].copy_from_slice(&16_u32.to_le_bytes());
    hello
}

fn knock(place: &Place) -> Socket {
    Socket::connect(&place.socket(), PATIENCE).expect("the daemon listens")
}

/// What the daemon says last, before it hangs up.
fn last_words(connection: &Socket) -> String {
    let mut message = [0; 512];
    let mut words = String::new();
    loop {
        let ready = wait(&mut [PollFd::new(connection, PollFlags::IN)], Some(PATIENCE)).expect("poll works");
        assert!(ready > 0, "the daemon neither speaks nor hangs up");
        match connection.receive(&mut message) {
            Ok(0) => return words,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return words,
            // A wake-up.
            Ok(1) => {}
            Ok(_) => words = String::from_utf8_lossy(&message[32..]).trim_end_matches('\0').to_owned(),
            Err(error) => panic!("{error}"),
        }
    }
}

impl Attacker {
    /// Connects. The places of those who left may take a moment to come back.
    fn new(place: &Place) -> Attacker {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Attacker::try_new(place) {
                Ok(attacker) => return attacker,
                Err(words) => assert!(Instant::now() < deadline, "{words}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn try_new(place: &Place) -> Result<Attacker, String> {
        let connection = knock(place);
        connection.send(&hello(), &[]).expect("the daemon listens");
        wait(&mut [PollFd::new(&connection, PollFlags::IN)], Some(PATIENCE)).expect("poll works");
        let mut answer = [0; 512];
        let message = connection.receive_with_descriptors(&mut answer, 8).expect("the daemon answers");
        let mut descriptors = message.descriptors.into_iter();
        let words = || String::from_utf8_lossy(&answer[32..]).trim_end_matches('\0').to_owned();
        let segment = descriptors.next().ok_or_else(words)?;
        let bytes = u64::from_le_bytes(answer[16..24].try_into().expect("eight bytes"));
        let bytes = usize::try_from(bytes).expect("usize has 64 bits");
        let map = Arc::new(SharedMap::map_sealed(&segment, bytes).expect("it can be mapped"));
        let layout = Layout::read_from(&map).expect("it is a segment");
        let submissions = Producer::new(map.clone(), layout.submissions(0)).expect("the ring lies inside");
        let doorbell = EventFd::from_fd(descriptors.next().expect("there is one reactor"));
        Ok(Attacker { connection, map, layout, submissions, doorbell })
    }

    fn submit(&mut self, submission: &Submission) {
        assert!(self.submissions.push(&submission.to_words()).expect("the daemon keeps to the rules"));
        self.doorbell.ring();
    }

    /// The session is over, for this reason, and the offender is told.
    fn assert_ended(&self, reason: EndReason) {
        assert_eq!(last_words(&self.connection), reason.text());
        assert_eq!(end_reason(&self.map), Some(reason));
    }

    /// Until as many requests are answered as the ring holds.
    fn wait_for_answers(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.answers() < 16 {
            assert!(Instant::now() < deadline, "requests are not answered");
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Places in the ring of answers that were filled at some time.
    fn answers(&self) -> u64 {
        let placement = self.layout.completions(0);
        let sequence =
            |at| self.map.line(placement.entries_offset + at * 64).expect("it lies inside")[7].load(Ordering::Acquire);
        (0..placement.entries as usize).map(sequence).filter(|sequence| *sequence > 0).count() as u64
    }
}

fn connect(place: &Place) -> Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Client::connect(&place.socket(), &ConnectOptions::default()) {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Puts, gets and appends in a place of its own, at least for a while and until told to stop.
fn honest(client: &mut Client, stop: &AtomicBool) {
    let space = client.open_space("honest", Some(Durability::Buffered)).expect("nobody notices");
    let stream = client.open_stream("honest stream", Some(Durability::Buffered)).expect("nobody notices");
    let mut rounds = 0_u64;
    while !stop.load(Ordering::Relaxed) || rounds < 20 {
        let key = (rounds % 50).to_le_bytes();
        let value: Vec<u8> = rounds.to_le_bytes().repeat(1 + usize::try_from(rounds % 300).expect("a small number"));
        client.put(space, &key, &value, Write::default()).expect("nobody notices");
        let found = client.get(space, &key).expect("nobody notices").expect("it was just written");
        assert!(found.1 == value, "round {rounds}: another's bytes");
        let offset = client.append(stream, &value, Write::default()).expect("nobody notices");
        assert_eq!(offset, rounds);
        let events = client.read(stream, offset, None).expect("nobody notices");
        assert!(events == [(offset, value)], "round {rounds}: another's event");
        if rounds % 64 == 63 {
            client.trim(stream, offset).expect("nobody notices");
        }
        rounds += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Descriptors, and resident memory in KiB.
fn footprint(daemon: &Daemon) -> (usize, u64) {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it runs").count();
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is told");
    (descriptors, resident.trim().trim_end_matches(" kB").parse().expect("a number"))
}

/// Runs an attack beside an honest client. Afterwards the daemon holds no more than before.
fn beside_an_honest_client(name: &str, attack: impl FnOnce(&Place)) {
    let place = Place::new(name).configured(1, "limits.sessions_max = 40");
    place.format(256, 2);
    let mut daemon = Daemon::start(&place);
    let (mut client, mut watcher) = (daemon.connect(&place), daemon.connect(&place));
    // Objects 1 and 2 are for those who attack: what they may write to, they may fill with garbage.
    watcher.open_space("attacked", Some(Durability::Buffered)).expect("it is made");
    watcher.open_stream("attacked stream", Some(Durability::Buffered)).expect("it is made");
    // What is allocated once is not growth.
    Attacker::new(&place).submit(&noop());
    let stop = AtomicBool::new(false);
    let sessions = |watcher: &mut Client| watcher.stats().expect("nobody notices")[0][stats::SESSIONS];
    let settle = |watcher: &mut Client| {
        let deadline = Instant::now() + PATIENCE;
        while sessions(watcher) > 2 {
            assert!(Instant::now() < deadline, "a session of a client that is gone is kept");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    settle(&mut watcher);
    let before = footprint(&daemon);
    std::thread::scope(|scope| {
        // Stops by a panic too: a scope waits for its threads before it lets one through.
        scopeguard::defer!(stop.store(true, Ordering::Relaxed));
        scope.spawn(|| honest(&mut client, &stop));
        attack(&place);
    });
    settle(&mut watcher);
    let deadline = Instant::now() + PATIENCE;
    while footprint(&daemon).0 > before.0 {
        assert!(Instant::now() < deadline, "{} descriptors, then {}", before.0, footprint(&daemon).0);
        std::thread::sleep(Duration::from_millis(2));
    }
    // The honest client's own data and ring are in it.
    let grown = footprint(&daemon).1.saturating_sub(before.1);
    assert!(grown < 16 << 10, "the daemon grew by {grown} KiB");
    assert!(daemon.stop().success(), "{}", daemon.log());
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

fn noop() -> Submission {
    Submission { opcode: Opcode::Noop as u8, ..Submission::default() }
}

#[test]
fn who_breaks_the_protocol_is_ended_and_told_why() {
    beside_an_honest_client("breaches", |place| {
        let put = Submission { opcode: Opcode::Put as u8, key_bytes: 4, value_bytes: 16, object: 1, ..noop() };
        for (submission, reason) in [
            (Submission { opcode: u8::MAX, ..noop() }, EndReason::BadOpcode),
            (Submission { opcode: 255, ..noop() }, EndReason::BadOpcode),
            (Submission { flags: 0x80, ..noop() }, EndReason::BadFlags),
            (Submission { flags: 0xff, ..put }, EndReason::BadFlags),
            (Submission { key_bytes: u16::MAX, ..put }, EndReason::BadPayload),
            (Submission { payload_offset: 2 << 20, ..put }, EndReason::BadRange),
            (Submission { payload_offset: u64::MAX - 8, ..put }, EndReason::BadRange),
            (Submission { value_bytes: (16 << 20) + 1, ..put }, EndReason::BadPayload),
            (Submission { value_bytes: u32::MAX, ..noop() }, EndReason::BadPayload),
            (Submission { value_bytes: 16 << 20, ..put }, EndReason::BadRange),
            (Submission { reply_offset: u64::MAX, reply_bytes_max: u32::MAX, ..put }, EndReason::BadRange),
        ] {
            let mut attacker = Attacker::new(place);
            attacker.submit(&submission);
            attacker.assert_ended(reason);
        }
        for position in [2, 17, u64::MAX] {
            let attacker = Attacker::new(place);
            let entry = attacker.layout.submissions(0).entries_offset;
            attacker.map.line(entry).expect("it lies inside")[7].store(position, Ordering::Release);
            attacker.doorbell.ring();
            attacker.assert_ended(EndReason::BadSequence);
        }
        let mut attacker = Attacker::new(place);
        let head = attacker.layout.completions(0).head_offset;
        attacker.map.atomic_u64(head).expect("it lies inside").store(99, Ordering::Relaxed);
        (0..16).for_each(|_| attacker.submit(&noop()));
        attacker.wait_for_answers();
        // The head is looked at when the daemon knows of no free place.
        attacker.submit(&noop());
        attacker.assert_ended(EndReason::BadCompletionHead);
    });
}

#[test]
fn memory_that_changes_under_the_daemon_harms_nobody() {
    beside_an_honest_client("scribbler", |place| {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = rand_xoshiro::Xoshiro256PlusPlus::seed_from_u64(seed);
        let (begun, mut sessions) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(3) && sessions < 500 {
            let mut attacker = Attacker::new(place);
            sessions += 1;
            let (map, layout, stop) = (attacker.map.clone(), attacker.layout, Arc::new(AtomicBool::new(false)));
            let (hammer_stop, mut noise) = (stop.clone(), random.clone());
            let hammer = std::thread::spawn(move || {
                while !hammer_stop.load(Ordering::Relaxed) {
                    // Payloads all the time; words of entries, but not their sequence numbers, often.
                    let at = layout.arena_offset() + noise.random_range(0..512) * 8;
                    map.atomic_u64(at).expect("it lies inside").store(noise.random(), Ordering::Relaxed);
                    let entry = layout.submissions(0).entries_offset + 64 * noise.random_range(0..16);
                    let word = noise.random_range(1..7);
                    // The upper half of word 1 is the object.
                    let object = u64::from(noise.random::<bool>()) + 1;
                    let value = noise.random::<u64>() & 0x3f_1f0f | object << 32;
                    map.line(entry).expect("it lies inside")[word].store(value, Ordering::Relaxed);
                }
            });
            for _ in 0..200 {
                let submission = Submission {
                    opcode: random.random_range(0..13),
                    flags: random.random::<u8>() & 0x1f,
                    key_bytes: random.random_range(9..64),
                    object: random.random_range(1..3),
                    payload_offset: random.random_range(0..2_048),
                    value_bytes: random.random_range(0..256),
                    reply_bytes_max: random.random_range(0..8_192),
                    reply_offset: random.random_range(0..8_192),
                    arg0: random.random_range(0..9),
                    arg1: random.random_range(0..3),
                    ..noop()
                };
                if !matches!(attacker.submissions.push(&submission.to_words()), Ok(true)) {
                    break;
                }
                attacker.doorbell.ring();
                let tail = attacker.answers();
                attacker
                    .map
                    .atomic_u64(attacker.layout.completions(0).head_offset)
                    .expect("it lies inside")
                    .store(tail, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(1));
            random = rand_xoshiro::Xoshiro256PlusPlus::seed_from_u64(random.random());
            stop.store(true, Ordering::Relaxed);
            hammer.join().expect("it does not panic");
        }
        assert!(sessions > 20);
    });
}

#[test]
fn who_never_takes_answers_or_dies_in_the_midst_is_let_go() {
    beside_an_honest_client("deaf", |place| {
        for _ in 0..20 {
            let mut deaf = Attacker::new(place);
            for _ in 0..16 {
                deaf.submit(&noop());
            }
            deaf.wait_for_answers();
            // The ring of answers is full now, and these stay where they are.
            (0..16).for_each(|_| deaf.submit(&noop()));
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(end_reason(&deaf.map), None, "slow is no offence");
        }
        for number in 0..200 {
            let mut dying = Attacker::new(place);
            dying.submit(&Submission { opcode: Opcode::Sync as u8, ..noop() });
            // Half an entry: words, but no sequence number yet.
            let entry = dying.layout.submissions(0).entries_offset + 64;
            dying.map.line(entry).expect("it lies inside")[1].store(number, Ordering::Relaxed);
        }
        let how = Write { durability: Some(Durability::Strict), ..Write::default() };
        for number in 0..50_u64 {
            let mut client = connect(place);
            let space = client.open_space("left behind", Some(Durability::Strict)).expect("it is made");
            let (key, value) = (number.to_le_bytes(), [1; 5_000]);
            for _ in 0..20 {
                let put = forebay::ring::client::Request::Put { space, key: &key, value: &value, how };
                client.submit(number, &put).expect("there is room");
            }
        }
    });
}

#[test]
fn who_does_not_shake_hands_is_refused_with_a_reason() {
    beside_an_honest_client("strangers", |place| {
        let silent: Vec<Socket> = (0..10).map(|_| knock(place)).collect();
        for (message, reason) in [
            (b"GET / HTTP/1.1".to_vec(), "Forebay client"),
            (vec![0; 64], "FBRING01"),
            (vec![0xff; 4_000], "64 B"),
            ([&hello()[..8], &[9; 56]].concat(), "version"),
        ] {
            let stranger = knock(place);
            stranger.send(&message, &[]).expect("it can be sent");
            let words = last_words(&stranger);
            assert!(words.contains(reason), "{words}");
        }
        assert!(last_words(&silent[0]).contains("no hello came"));
    });
}

#[test]
fn ten_thousand_connections_leave_nothing_behind() {
    beside_an_honest_client("thousands", |place| {
        let small = ConnectOptions { sq_entries: 2, cq_entries: 2, arena_bytes: 1 << 20, ..ConnectOptions::default() };
        let deadline = Instant::now() + 3 * PATIENCE;
        let (mut connected, mut refused) = (0, 0);
        while connected < 10_000 {
            assert!(Instant::now() < deadline, "{connected} connected, {refused} refused");
            match Client::connect(&place.socket(), &small) {
                Ok(_) => connected += 1,
                Err(ClientError::Refused(text)) => {
                    assert!(text.contains("clients are connected") || text.contains("busy"), "{text}");
                    refused += 1;
                    std::thread::sleep(Duration::from_micros(200));
                }
                Err(error) => panic!("{error}"),
            }
        }
        println!("{connected} connected, {refused} were told to come again");
    });
}

#[test]
fn who_may_only_read_cannot_write() {
    const NOBODY: u32 = 65_534;
    if forebay_sys::net::own_uid() != 0 {
        println!("skipped: only root can act as another user");
        return;
    }
    let place = Place::new("reader").configured(1, &format!("access.read_only_uids = [{NOBODY}]\nrings.mode = 0o666"));
    place.format(32, 2);
    let mut daemon = Daemon::start(&place);
    let mut client = daemon.connect(&place);
    let space = client.open_space("space", Some(Durability::Strict)).expect("it is made");
    client.put(space, b"key", b"value", Write::default()).expect("there is room");
    let run = |uid: u32, arguments: &[&str]| place.forebay(arguments).uid(uid).gid(uid).output();
    let output = match run(NOBODY, &["get", "space", "key"]) {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: another user cannot run the program here: {error}");
            return;
        }
    };
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), "value", "{output:?}");
    for arguments in [
        &["put", "space", "key", "other"][..],
        &["put", "new", "key", "other", "--create=strict"],
        &["delete", "space", "key"],
    ] {
        let output = run(NOBODY, arguments).expect("it ran a moment ago");
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(Status::Denied.text()), "{arguments:?}: {text}");
    }
    let output = run(NOBODY - 1, &["get", "space", "key"]).expect("it ran a moment ago");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("not among those who may connect"), "{text}");
    assert_eq!(client.get(space, b"key").expect("nobody notices").expect("it is there").1, b"value");
}
