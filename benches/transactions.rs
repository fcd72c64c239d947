//! Who wins when many clients want one key: each increments the same counter in transactions, and the commits of the
//! luckiest and the unluckiest are told. `cargo bench --bench transactions`, with `-- --json` for a machine,
//! `-- --clients N`, `-- --seconds N` and `-- --durability memory|buffered|strict` for others than 8, 3 and buffered.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use forebay::appliance::embedded::{Embedded, Temporary};
use forebay::config::Config;
use forebay::ring::client::{Client, ClientError, ConnectOptions, Object, Retry};
use forebay::types::Durability;
use serde_json::json;

type Failure = Box<dyn Error + Send + Sync>;

/// The unluckiest client has at least this part of what an even share would be.
const SHARE_MIN: f64 = 0.5;

/// What one client saw.
#[derive(Default)]
struct Seen {
    commits: u64,
    conflicts: u64,
    /// Of one transaction, first try to commit.
    longest: Duration,
    most_conflicts: u64,
}

fn increment(client: &mut Client, space: Object, seen: &mut Seen) -> Result<(), ClientError> {
    let (begun, mut tries) = (Instant::now(), 0);
    client.transaction(&Retry::default(), |transaction| {
        tries += 1;
        let value = transaction.get(space, b"hot")?.unwrap_or_default();
        let next = value.try_into().map_or(0, u64::from_le_bytes) + 1;
        transaction.put(space, b"hot", &next.to_le_bytes());
        Ok::<_, ClientError>(())
    })?;
    seen.commits += 1;
    seen.conflicts += tries - 1;
    seen.longest = seen.longest.max(begun.elapsed());
    seen.most_conflicts = seen.most_conflicts.max(tries - 1);
    Ok(())
}

fn run(clients: u64, seconds: u64, durability: Durability) -> Result<Vec<Seen>, Failure> {
    let mut config = Config::default();
    (config.format.shards, config.device.hugepages) = (1, false);
    let temporary = Temporary::make(&mut config)?;
    let appliance = Embedded::temporary(config, temporary, 1 << 30, &mut |_| {})?;
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let one = || -> Result<Seen, Failure> {
            let mut client = Client::connect(appliance.socket(), &ConnectOptions::default())?;
            let space = client.open_space("space", Some(durability))?;
            let mut seen = Seen::default();
            while !stop.load(Ordering::Relaxed) {
                increment(&mut client, space, &mut seen)?;
            }
            Ok(seen)
        };
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(one)).collect();
        std::thread::sleep(Duration::from_secs(seconds));
        stop.store(true, Ordering::Relaxed);
        let joined = threads.into_iter().map(|thread| thread.join().map_err(|_| "a client panicked")?);
        joined.collect::<Result<Vec<Seen>, Failure>>()
    })?;
    let mut client = Client::connect(appliance.socket(), &ConnectOptions::default())?;
    let space = client.open_space("space", None)?;
    let counted = client.get(space, b"hot")?.map_or(0, |(_, value)| value.try_into().map_or(0, u64::from_le_bytes));
    let commits: u64 = seen.iter().map(|one| one.commits).sum();
    if counted != commits {
        return Err(format!("the counter says {counted} after {commits} commits").into());
    }
    Ok(seen)
}

fn main() -> Result<(), Failure> {
    let (mut as_json, mut clients, mut seconds, mut durability) = (false, 8, 3, Durability::Buffered);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || -> Result<u64, Failure> { Ok(words.next().ok_or("a number is missing")?.parse()?) };
        match word.as_str() {
            "--json" => as_json = true,
            "--clients" => clients = number()?.max(1),
            "--seconds" => seconds = number()?.max(1),
            "--durability" => durability = words.next().ok_or("--durability needs a word")?.parse()?,
            "--bench" => {}
            other => return Err(format!("unknown argument {other:?}; see the top of benches/transactions.rs").into()),
        }
    }
    let seen = run(clients, seconds, durability)?;
    let commits: u64 = seen.iter().map(|one| one.commits).sum();
    let conflicts: u64 = seen.iter().map(|one| one.conflicts).sum();
    let even = commits as f64 / clients as f64;
    let least = seen.iter().map(|one| one.commits).min().unwrap_or(0) as f64;
    let most = seen.iter().map(|one| one.commits).max().unwrap_or(0) as f64;
    let longest = seen.iter().map(|one| one.longest).max().unwrap_or_default().as_secs_f64() * 1e3;
    let most_conflicts = seen.iter().map(|one| one.most_conflicts).max().unwrap_or(0);
    // Jain's index: 1 when all have the same, 1/n when one has all.
    let squares: f64 = seen.iter().map(|one| (one.commits as f64).powi(2)).sum();
    let jain = (commits as f64).powi(2) / (clients as f64 * squares);
    let held = least >= SHARE_MIN * even;
    if as_json {
        println!(
            "{:#}",
            json!({
                "clients": clients, "seconds": seconds, "durability": durability.name(),
                "commits_per_second": commits as f64 / seconds as f64,
                "conflicts_per_commit": conflicts as f64 / commits as f64,
                "least_share": least / even, "most_share": most / even, "jain_index": jain,
                "longest_transaction_ms": longest, "most_conflicts_of_one": most_conflicts,
                "aim": format!("least_share >= {SHARE_MIN}"), "held": held,
                "commits_by_client": seen.iter().map(|one| one.commits).collect::<Vec<_>>(),
            })
        );
        return Ok(());
    }
    println!("{clients} clients increment one key for {seconds} s, {}", durability.name());
    println!("{:<36} {:>12.0} /s", "commits", commits as f64 / seconds as f64);
    println!("{:<36} {:>12.2}", "conflicts a commit", conflicts as f64 / commits as f64);
    println!("{:<36} {:>12.2} x", "most commits of a client / even share", most / even);
    println!(
        "{:<36} {:>12.2} x   aim >= {SHARE_MIN} x   {}",
        "least commits of a client / even share",
        least / even,
        if held { "held" } else { "MISSED" }
    );
    println!("{:<36} {jain:>12.3}", "Jain's index (1: all the same)");
    println!("{:<36} {longest:>12.1} ms", "longest transaction");
    println!("{:<36} {most_conflicts:>12}", "most conflicts of one transaction");
    Ok(())
}
