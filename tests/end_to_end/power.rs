//! The drive loses its power at random moments, and with it all that was not flushed; the flight recorders go too. What
//! is there then must hold all that was acknowledged as durable, and nothing that was not issued, in order.
//!
//! The clients live through it, so they know what they were told. The daemon lives a little longer than its drive: what
//! it says then counts as said. FOREBAY_TEST_POWER names a directory: whoever supplies the drive takes its power away
//! when a file "power-off" appears there, gives it back at "power-on", and removes the file when it is done
//! (setup/testbed/run does). FOREBAY_CUTS says how often; FOREBAY_SEED repeats the choices.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use forebay::ring::client::Client;
use forebay::soak::writer::End;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus as Random;

use crate::daemon::{Daemon, PATIENCE, Place, number_from};
use crate::kill::check;
use crate::writers;

const CUTS_PER_NAMESPACE: u32 = 10;
/// How long clients write before a cut, at most. An emulated drive is slow.
const LIFE_MAX: Duration = Duration::from_millis(400);
/// With a drive that stops to write.
const LIVES: u32 = 20;

/// The drive's plug.
struct Power {
    directory: PathBuf,
}

impl Power {
    fn switch(&self, way: &str) {
        let wish = self.directory.join(way);
        // It may be gone again before a `create` has returned.
        let draft = wish.with_extension("draft");
        File::create(&draft).and_then(|_| fs::rename(&draft, &wish)).expect("the directory is writable");
        let begun = Instant::now();
        while wish.exists() {
            assert!(begun.elapsed() < PATIENCE, "nobody took the drive's power: {}", wish.display());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn off(&self) {
        self.switch("power-off");
    }

    /// Returns when the drive answers.
    fn on(&self, place: &Place) {
        self.switch("power-on");
        let begun = Instant::now();
        while !reads(place) {
            assert!(begun.elapsed() < PATIENCE, "the drive does not come back");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whether the drive itself gives its first block, not a cache of the kernel's.
fn reads(place: &Place) -> bool {
    let from = format!("if={}", place.device().display());
    let mut command = Command::new("dd");
    command.args([&from, "of=/dev/null", "bs=4096", "count=1", "iflag=direct", "status=none"]);
    command.stderr(Stdio::null()).status().expect("dd is there").success()
}

/// What happened, over all namespaces.
#[derive(Debug, Default)]
struct Counts {
    cuts: u32,
    cuts_under_load: u32,
    acknowledged: u64,
    issued: u64,
    recovered_beyond_acknowledged: u64,
}

/// One namespace from `format` on, with so many cuts.
fn namespace(power: &Power, seed: u64, cuts: u32, counts: &mut Counts) {
    let mut random = Random::seed_from_u64(seed);
    let place = Place::new("power").configured(1 + u32::from(seed % 2 == 1), "");
    place.format(96, 2);
    let mut writers = writers::all(seed, End::PowerCut);
    for _ in 0..cuts {
        let mut daemon = Daemon::start(&place);
        counts.recovered_beyond_acknowledged += check(&mut writers, &mut daemon.connect(&place));
        let mut clients: Vec<Client> = writers.iter().map(|_| daemon.connect(&place)).collect();
        std::thread::scope(|scope| {
            let pairs = writers.iter_mut().zip(&mut clients);
            let lives: Vec<_> = pairs
                .map(|(writer, client)| scope.spawn(|| writer.live(client).expect("nothing but the cut ends a life")))
                .collect();
            std::thread::sleep(random.random_range(Duration::ZERO..LIFE_MAX));
            counts.cuts_under_load += u32::from(lives.iter().any(|life| !life.is_finished()));
            power.off();
            counts.cuts += 1;
            daemon.kill();
        });
        place.lose_memory();
        power.on(&place);
    }
    let mut daemon = Daemon::start(&place);
    counts.recovered_beyond_acknowledged += check(&mut writers, &mut daemon.connect(&place));
    assert!(daemon.stop().success());
    counts.acknowledged += writers.iter().map(|writer| writer.acknowledged).sum::<u64>();
    counts.issued += writers.iter().map(|writer| writer.number).sum::<u64>();
}

/// The clients live on with a daemon whose shards write no more, which answers what it still can.
#[test]
fn what_was_durable_survives_a_drive_that_stops_writing() {
    let seed = number_from("FOREBAY_SEED").unwrap_or_else(rand::random);
    println!("FOREBAY_SEED={seed}");
    let mut random = Random::seed_from_u64(seed);
    let place = Place::new("stops").configured(1 + u32::from(seed % 2 == 1), "");
    place.format(96, 2);
    let mut writers = writers::all(seed, End::PowerCut);
    for _ in 0..LIVES {
        let mut daemon = Daemon::start_breakable(&place);
        check(&mut writers, &mut daemon.connect(&place));
        let mut clients: Vec<Client> = writers.iter().map(|_| daemon.connect(&place)).collect();
        std::thread::scope(|scope| {
            for (writer, client) in writers.iter_mut().zip(&mut clients) {
                scope.spawn(move || writer.live(client).expect("nothing but the drive ends a life"));
            }
            std::thread::sleep(random.random_range(Duration::ZERO..LIFE_MAX / 8));
            daemon.let_write(false);
        });
        daemon.kill();
        place.lose_memory();
    }
    let mut daemon = Daemon::start(&place);
    check(&mut writers, &mut daemon.connect(&place));
    assert!(writers.iter().map(|writer| writer.acknowledged).sum::<u64>() > 0, "nothing was acknowledged as durable");
}

#[test]
fn what_was_durable_survives_a_power_cut() {
    let Some(directory) = std::env::var_os("FOREBAY_TEST_POWER") else {
        eprintln!(
            "skipped: it takes a drive whose power can be cut (FOREBAY_TEST_POWER); setup/testbed/powercuts has one"
        );
        return;
    };
    let power = Power { directory: directory.into() };
    assert!(fs::metadata(&power.directory).is_ok_and(|found| found.is_dir()), "FOREBAY_TEST_POWER is a directory");
    let begun = Instant::now();
    let cuts = u32::try_from(number_from("FOREBAY_CUTS").unwrap_or(20)).expect("not that many");
    let seed = number_from("FOREBAY_SEED").unwrap_or_else(rand::random);
    println!("FOREBAY_SEED={seed} FOREBAY_CUTS={cuts}");
    let mut counts = Counts::default();
    while counts.cuts < cuts {
        let present = (cuts - counts.cuts).min(CUTS_PER_NAMESPACE);
        namespace(&power, seed.wrapping_add(u64::from(counts.cuts / CUTS_PER_NAMESPACE)), present, &mut counts);
    }
    println!("{counts:?} in {:?}", begun.elapsed());
    assert!(counts.acknowledged > 0, "nothing was ever acknowledged as durable");
    assert!(counts.cuts_under_load > 0, "no cut met a daemon at work");
}
