//! The daemon is killed with SIGKILL at random moments, also while it starts, and started again. What is there then
//! must hold all that was acknowledged and nothing that was not issued, in order. FOREBAY_KILLS says how often,
//! FOREBAY_SEED repeats the choices of a run (not its timing).

use std::time::{Duration, Instant};

use forebay::ring::client::Client;
use forebay::soak::writer::{End, Writer};
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus as Random;

use crate::daemon::{Daemon, Place, number_from};
use crate::writers;

const KILLS_PER_NAMESPACE: u32 = 10;

/// What happened, over all namespaces.
#[derive(Debug, Default)]
struct Counts {
    kills: u32,
    kills_at_start: u32,
    acknowledged: u64,
    issued: u64,
    recovered_beyond_acknowledged: u64,
    flight_replays: u32,
    flight_replayed_bytes: u64,
}

/// Gives how much was recovered beyond what was acknowledged.
pub fn check(writers: &mut [Writer], client: &mut Client) -> u64 {
    writers.iter_mut().map(|writer| writer.check(client).unwrap_or_else(|error| panic!("{error}"))).sum()
}

/// One namespace from `format` on, with so many kills.
fn namespace(seed: u64, kills: u32, counts: &mut Counts) {
    let mut random = Random::seed_from_u64(seed);
    let place = Place::new("kill").configured(1 + u32::from(seed % 2 == 1), "");
    place.format(96, 2);
    let mut writers = writers::all(seed, End::Kill);
    for _ in 0..kills {
        while random.random_range(0..4) == 0 {
            let mut daemon = Daemon::start(&place);
            std::thread::sleep(Duration::from_micros(random.random_range(0..60_000)));
            daemon.kill();
            counts.kills_at_start += 1;
        }
        let mut daemon = Daemon::start(&place);
        let mut client = daemon.connect(&place);
        counts.recovered_beyond_acknowledged += check(&mut writers, &mut client);
        let replayed = daemon.logged("replayed_bytes").unwrap_or(0);
        counts.flight_replays += u32::from(replayed > 0);
        counts.flight_replayed_bytes += replayed;
        let mut clients: Vec<Client> = writers.iter().map(|_| daemon.connect(&place)).collect();
        std::thread::scope(|scope| {
            for (writer, client) in writers.iter_mut().zip(&mut clients) {
                scope.spawn(move || writer.live(client).expect("nothing but the kill ends a life"));
            }
            std::thread::sleep(Duration::from_micros(random.random_range(0..60_000)));
            daemon.kill();
            counts.kills += 1;
        });
    }
    let mut daemon = Daemon::start(&place);
    check(&mut writers, &mut daemon.connect(&place));
    assert!(daemon.stop().success());
    let mut daemon = Daemon::start(&place);
    assert_eq!(check(&mut writers, &mut daemon.connect(&place)), 0);
    assert_eq!(daemon.logged("replayed_bytes"), Some(0), "a daemon that stops in good order leaves nothing behind");
    counts.acknowledged += writers.iter().map(|writer| writer.acknowledged).sum::<u64>();
    counts.issued += writers.iter().map(|writer| writer.number).sum::<u64>();
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let begun = Instant::now();
    let kills = u32::try_from(number_from("FOREBAY_KILLS").unwrap_or(100)).expect("not that many");
    let seed = number_from("FOREBAY_SEED").unwrap_or_else(rand::random);
    println!("FOREBAY_SEED={seed} FOREBAY_KILLS={kills}");
    let mut counts = Counts::default();
    while counts.kills < kills {
        let present = (kills - counts.kills).min(KILLS_PER_NAMESPACE);
        namespace(seed.wrapping_add(u64::from(counts.kills / KILLS_PER_NAMESPACE)), present, &mut counts);
    }
    println!("{counts:?} in {:?}", begun.elapsed());
    assert!(counts.acknowledged > 0, "nothing was ever acknowledged");
    assert!(counts.flight_replayed_bytes > 0 || kills < 10, "the flight recorder was never needed");
}
