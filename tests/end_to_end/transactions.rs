//! Transactions of the client library over a real appliance, with several clients at the same keys.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay::appliance::Appliance;
use forebay::device::open::{OpenOptions, open};
use forebay::load::{LoadOptions, run};
use forebay::ring::client::{Client, ClientError, Creation, Object, Retry, Write};
use forebay::ring::protocol::{Status, shard_of_key, stats};
use forebay::types::{Compression, Durability, ShardId};

use crate::daemon::{Daemon, Place};

const SHARDS: u32 = 3;
const CLIENTS: u64 = 4;

/// An appliance on a file, with two reactors.
fn start(place: &Place) -> Appliance {
    let device = open(&place.device(), &OpenOptions::default()).expect("the device opens");
    Appliance::start(&place.config(), &device, &place.socket(), None, &mut |_| {}).expect("the appliance starts")
}

/// Keys of a space that lie in one shard.
fn keys_of(space: Object, shard: ShardId, count: usize) -> Vec<[u8; 8]> {
    let keys = (0_u64..).map(u64::to_le_bytes);
    keys.filter(|key| shard_of_key(space.id.0, key, SHARDS) == shard).take(count).collect()
}

fn number(value: Option<Vec<u8>>) -> u64 {
    value.map_or(0, |value| u64::from_le_bytes(value.try_into().expect("eight bytes")))
}

fn get(client: &mut Client, space: Object, key: &[u8]) -> u64 {
    number(client.get(space, key).expect("it can be read").map(|(_, value)| value))
}

#[test]
fn no_increment_of_many_clients_is_lost() {
    const EACH: u64 = 200;
    let place = Place::new("transactions-counter").configured(2, "");
    place.format(64, SHARDS);
    let appliance = start(&place);
    for durability in [Durability::Memory, Durability::Buffered, Durability::Strict] {
        let name = format!("{durability:?} counters");
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut client = place.connect();
                    let space = client.open_space(&name, Some(durability)).expect("it is made");
                    for _ in 0..EACH {
                        let increment = client.transaction(&Retry::default(), |transaction| {
                            let next = number(transaction.get(space, b"counter")?) + 1;
                            transaction.put(space, b"counter", &next.to_le_bytes());
                            Ok::<_, ClientError>(next)
                        });
                        let (_, version) = increment.expect("it commits");
                        assert_ne!(version, 0);
                    }
                });
            }
        });
    }
    let mut client = place.connect();
    let counted: Vec<_> = client.stats().expect("there are counters");
    let commits: u64 = counted.iter().map(|words| words[stats::COMMITS]).sum();
    assert_eq!(commits, 3 * CLIENTS * EACH);
    drop(client);
    appliance.stop().expect("it stops");
    let appliance = start(&place);
    let mut client = place.connect();
    for (durability, counted) in [(Durability::Buffered, CLIENTS * EACH), (Durability::Strict, CLIENTS * EACH)] {
        let space = client.open_space(&format!("{durability:?} counters"), None).expect("it is there");
        assert_eq!(get(&mut client, space, b"counter"), counted, "{durability:?}");
    }
    appliance.stop().expect("it stops");
}

/// Two jobs of two threads each, several transactions of each under way, on six rows.
const LOAD: &str = "\
[global]\nrw=randrw\nnorandommap\nspace=rows\ntables=few/2:more/4\nvalue_size=64\nkey_size=8\nnumjobs=2\niodepth=6\n\
number_ios=300\ngroup_reporting\nverify=crc32c\n\
[one]\ntransaction=both/70: modify few, modify more*2\ntransaction=look/30: read few*2, read more*4\n\
[other]\ntransaction=all: modify few*2, read more\n";

#[test]
fn no_update_of_a_load_of_transactions_is_lost() {
    let place = Place::new("transactions-load").configured(2, "");
    place.format(64, SHARDS);
    for durability in ["memory", "buffered", "strict"] {
        let appliance = start(&place);
        let text = LOAD.replace("rows", durability).replace("rw=", &format!("durability={durability}\nrw="));
        let report = run(&text, "load", &LoadOptions::default(), |options| Client::connect(&place.socket(), options));
        let report = report.expect("the jobs are right");
        assert!(!report.failed(), "{report}");
        assert_eq!(report.verdicts.iter().map(|verdict| verdict.checked).sum::<u64>(), 6, "{report}");
        let profiles = || report.jobs.iter().flat_map(|job| &job.stats.transactions);
        let committed: Vec<u64> = profiles().map(|profile| profile.committed()).collect();
        let conflicts: u64 = profiles().map(|profile| profile.conflicts).sum();
        assert_eq!((committed[0] + committed[1], committed[2]), (600, 600), "{report}");
        assert!(conflicts > 0, "twelve at a time on six rows: {report}");
        let mut client = place.connect();
        let counted = client.stats().expect("there are counters");
        let counted = |word: usize| counted.iter().map(|words| words[word]).sum::<u64>();
        assert_eq!((counted(stats::COMMITS), counted(stats::CONFLICTS)), (1_200, conflicts), "{report}");
        // A row's number begins with that of its key, and each commit that modifies it adds one.
        let space = client.open_space(durability, None).expect("it is there");
        let added = |key: u64| {
            let row = client.get(space, format!("{key:08}").as_bytes()).expect("it can be read");
            let (_, value) = row.expect("it is there");
            u64::from_le_bytes(value[24..32].try_into().expect("eight bytes")) - key
        };
        assert_eq!((0..6).map(added).sum::<u64>(), 3 * committed[0] + 2 * committed[2], "{report}");
        drop(client);
        appliance.stop().expect("it stops");
    }
}

#[test]
fn transfers_between_accounts_keep_their_sum() {
    const ACCOUNTS: u64 = 6;
    const START: u64 = 1_000;
    let place = Place::new("transactions-accounts").configured(2, "");
    place.format(64, SHARDS);
    let appliance = start(&place);
    let mut client = place.connect();
    let space = client.open_space("accounts", Some(Durability::Buffered)).expect("it is made");
    // Two in each shard, which two reactors serve.
    let accounts = (0..SHARDS).flat_map(|shard| keys_of(space, ShardId(shard), 2)).collect::<Vec<_>>();
    let open = client.transaction(&Retry::default(), |transaction| {
        accounts.iter().for_each(|account| transaction.put(space, account, &START.to_le_bytes()));
        // What it wrote it reads; a key that it deleted is absent, and one that was never there too.
        assert_eq!(number(transaction.get(space, &accounts[5])?), START);
        transaction.delete(space, &accounts[5]);
        assert_eq!(transaction.get(space, &accounts[5])?, None);
        transaction.put(space, &accounts[5], &START.to_le_bytes());
        Ok::<_, ClientError>(())
    });
    let (_, version) = open.expect("it commits");
    let held = client.get(space, &accounts[3]).expect("it can be read");
    assert_eq!(held, Some((version, START.to_le_bytes().to_vec())), "all have the version of the commit");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let transfers = |seed: u64| {
            let mut client = place.connect();
            for step in 0..300 {
                let chosen = |salt: u64| usize::try_from((seed * 7 + step * salt) % ACCOUNTS).expect("a small number");
                let (from, to) = (&accounts[chosen(5)], &accounts[chosen(11)]);
                let transfer = client.transaction(&Retry::default(), |transaction| {
                    let left = number(transaction.get(space, from)?) - 1;
                    transaction.put(space, from, &left.to_le_bytes());
                    let more = number(transaction.get(space, to)?) + 1;
                    transaction.put(space, to, &more.to_le_bytes());
                    Ok::<_, ClientError>(())
                });
                transfer.expect("it commits");
            }
        };
        let movers: Vec<_> = (1..CLIENTS).map(|seed| scope.spawn(move || transfers(seed))).collect();
        let reader = scope.spawn(|| {
            let (mut client, mut sums) = (place.connect(), 0);
            while !over.load(Ordering::Relaxed) || sums == 0 {
                // Without writes: its commit says that all was there at one moment.
                let sum = client.transaction(&Retry::default(), |transaction| {
                    accounts.iter().try_fold(0, |sum, account| Ok(sum + number(transaction.get(space, account)?)))
                });
                let (sum, version): (u64, u64) = sum.map_err(|error: ClientError| error).expect("it commits");
                assert_eq!((sum, version), (ACCOUNTS * START, 0));
                sums += 1;
            }
            sums
        });
        movers.into_iter().for_each(|mover| mover.join().expect("no transfer fails"));
        over.store(true, Ordering::Relaxed);
        println!("{} sums were read meanwhile", reader.join().expect("every sum is right"));
    });
    assert_eq!(accounts.iter().map(|account| get(&mut client, space, account)).sum::<u64>(), ACCOUNTS * START);
    appliance.stop().expect("it stops");
}

#[test]
fn what_a_transaction_writes_into_compressed_spaces_is_plain_to_every_read() {
    let place = Place::new("transactions-compressed").configured(2, "");
    place.format(64, SHARDS);
    let appliance = start(&place);
    let mut client = place.connect();
    let large = b"the same again, ".repeat(100);
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let creation = Creation { compression, ..Creation::from(Durability::Strict) };
        let space = client.create_space(compression.name(), creation).expect("it is made");
        let keys = keys_of(space, ShardId(1), 4);
        let before = client.compression_stats();
        let commit = client.transaction(&Retry::default(), |transaction| {
            transaction.put(space, &keys[0], &large);
            transaction.put(space, &keys[1], b"small");
            transaction.put(space, &keys[2], b"");
            transaction.delete(space, &keys[3]);
            assert_eq!(transaction.get(space, &keys[0])?.as_ref(), Some(&large), "its own writes are plain");
            Ok::<_, ClientError>(())
        });
        let ((), version) = commit.expect("it commits");
        for (key, value) in keys.iter().zip([Some(&large[..]), Some(b"small"), Some(b""), None]) {
            let found = client.get(space, key).expect("it can be read");
            assert_eq!(found, value.map(|value| (version, value.to_vec())), "{compression:?}");
        }
        let copy = client.transaction(&Retry::default(), |transaction| {
            let value = transaction.get(space, &keys[0])?.expect("it is there");
            transaction.put(space, &keys[3], &value);
            Ok::<_, ClientError>(())
        });
        copy.expect("it commits");
        assert_eq!(client.get(space, &keys[3]).expect("it can be read").map(|(_, value)| value).as_ref(), Some(&large));
        let counted = client.compression_stats().values - before.values;
        assert_eq!(counted, if compression == Compression::None { 0 } else { 4 });
        let too_large = vec![7; client.value_bytes_max_in(space) + 1];
        let refused = client.transaction(&Retry::default(), |transaction| {
            transaction.put(space, &keys[0], &too_large);
            Ok::<_, ClientError>(())
        });
        let clear = matches!(refused, Err(ClientError::Status(Status::TooLarge | Status::TransactionTooLarge)));
        assert!(clear, "{refused:?}");
    }
    appliance.stop().expect("it stops");
}

#[test]
fn what_cannot_be_committed_says_why_and_changes_nothing() {
    let place = Place::new("transactions-refusals").configured(2, "");
    place.format(64, SHARDS);
    let appliance = start(&place);
    let (mut client, mut other) = (place.connect(), place.connect());
    let space = client.open_space("space", Some(Durability::Strict)).expect("it is made");
    let own = keys_of(space, ShardId(2), 2_000);
    // Somebody else is always quicker.
    let retry = Retry { conflicts_max: 5, ..Retry::default() };
    let mut tries = 0;
    let hopeless = client.transaction(&retry, |transaction| {
        tries += 1;
        transaction.get(space, &own[1])?;
        transaction.get(space, &own[0])?;
        other.put(space, &own[0], b"theirs", Write::default())?;
        transaction.put(space, &own[0], b"ours");
        Ok::<_, ClientError>(())
    });
    let error = hopeless.expect_err("it gives up");
    let clear = matches!(&error, ClientError::TooManyConflicts { conflicts: 5, key, .. } if *key == own[0]);
    assert!(clear && tries == 5, "{error}");
    assert!(error.to_string().contains("met 5 conflicts") && error.to_string().contains("Retry::conflicts_max"));
    let mut refused = |keys: &mut dyn Iterator<Item = [u8; 8]>, value: &[u8]| {
        let keys: Vec<_> = keys.collect();
        let result = client.transaction(&retry, |transaction| {
            keys.iter().for_each(|key| transaction.put(space, key, value));
            Ok::<_, ClientError>(())
        });
        match result {
            Err(ClientError::Status(status)) => status,
            other => panic!("no status: {other:?}"),
        }
    };
    let elsewhere = keys_of(space, ShardId(0), 1)[0];
    let both = [own[1], elsewhere];
    assert_eq!(refused(&mut both.iter().copied(), &[7; 150_000]), Status::TransactionTooLarge);
    assert_eq!(refused(&mut own.iter().copied().skip(1), b"x"), Status::TransactionTooLarge);
    assert_eq!(refused(&mut own[1..4].iter().copied(), &[7; 100_000]), Status::TransactionTooLarge);
    // What `body` says ends it.
    let failed = client.transaction(&retry, |transaction| {
        transaction.put(space, &own[1], b"x");
        Err::<(), _>(ClientError::BadName)
    });
    assert!(matches!(failed, Err(ClientError::BadName)));
    let nothing = client.transaction(&retry, |_| Ok::<_, ClientError>(7)).expect("nothing to commit");
    assert_eq!(nothing, (7, 0));
    assert_eq!(client.get(space, &own[0]).expect("it can be read").expect("it is there").1, b"theirs");
    assert_eq!(client.get(space, &own[1]).expect("it can be read"), None);
    assert_eq!(client.get(space, &elsewhere).expect("it can be read"), None);
    appliance.stop().expect("it stops");
}

/// What one client wrote to its own keys, one in each shard: the same number, in one commit after another.
struct Rounds {
    keys: Vec<[u8; 8]>,
    issued: u64,
    acknowledged: u64,
}

impl Rounds {
    /// Writes until the daemon is gone.
    fn live(&mut self, client: &mut Client, space: Object) {
        loop {
            let Rounds { keys, issued, .. } = self;
            *issued += 1;
            let round = client.transaction(&Retry::default(), |transaction| {
                for key in keys.iter() {
                    assert!(number(transaction.get(space, key)?) < *issued, "a round that comes later was there");
                    transaction.put(space, key, &issued.to_le_bytes());
                }
                Ok::<_, ClientError>(())
            });
            match round {
                Ok(_) => self.acknowledged = self.issued,
                Err(ClientError::Status(_) | ClientError::TooManyConflicts { .. }) => panic!("{round:?}"),
                Err(_) => return,
            }
        }
    }

    /// The daemon was killed: all keys hold one round, not before the last that was acknowledged.
    fn check(&mut self, client: &mut Client, space: Object) -> u64 {
        let held: Vec<u64> = self.keys.iter().map(|key| get(client, space, key)).collect();
        let (round, expected) = (held[0], self.acknowledged..=self.issued);
        assert!(held.iter().all(|other| *other == round) && expected.contains(&round), "{held:?} of {expected:?}");
        self.acknowledged = round;
        round - expected.start()
    }
}

#[test]
fn commits_over_several_shards_survive_kill_9_as_a_whole() {
    const KILLS: u64 = 8;
    let place = Place::new("transactions-kill").configured(2, "");
    place.format(64, SHARDS);
    let (mut all, mut beyond) = (Vec::new(), 0);
    for kill in 0..=KILLS {
        let mut daemon = Daemon::start(&place);
        let mut client = daemon.connect(&place);
        let space = client.open_space("rounds", Some(Durability::Buffered)).expect("it is there");
        if all.is_empty() {
            let keys = |client| (0..SHARDS).map(move |shard| keys_of(space, ShardId(shard), 3)[client]).collect();
            all.extend((0..3).map(|client| Rounds { keys: keys(client), issued: 0, acknowledged: 0 }));
        }
        beyond += all.iter_mut().map(|rounds: &mut Rounds| rounds.check(&mut client, space)).sum::<u64>();
        if kill == KILLS {
            assert!(daemon.stop().success());
            break;
        }
        let mut clients: Vec<Client> = all.iter().map(|_| daemon.connect(&place)).collect();
        std::thread::scope(|scope| {
            for (rounds, client) in all.iter_mut().zip(&mut clients) {
                scope.spawn(move || rounds.live(client, space));
            }
            std::thread::sleep(Duration::from_millis(20 + 13 * kill));
            daemon.kill();
        });
    }
    let rounds: u64 = all.iter().map(|rounds| rounds.acknowledged).sum();
    println!("{rounds} rounds, {beyond} beyond what was acknowledged");
    assert!(rounds > 0, "nothing was ever acknowledged");
}
