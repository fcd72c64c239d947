//! `forebay stats`: what the daemon counts, and the drive's health.

mod drive;
mod figures;
mod watch;

use forebay::config::{ByteSize, Nanos};
use forebay::error::Error;
use forebay::ring::client::Client;
use forebay::ring::protocol::stats::{self, NAMES, OBJECT_NAMES, SHARD_NAMES};
use forebay::types::ObjectKind;
use serde_json::{Map, Value, json};

use super::context::{Context, Failure};
use drive::Drive;
use figures::Sum;

/// Print what the daemon counts, of each reactor, shard, space and stream, and what the drive says of its health.
///
/// First what follows from the counters: write amplification, records a frame, cache hits, conflicts. Then one line a
/// counter with one column a reactor, a line a shard, a line a space or stream. Where the daemon may not ask the drive
/// (the kernel lets only root), only the temperature is known; nothing is of a device that is no NVMe drive.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print a line of rates each interval, as 1s, until interrupted.
    #[arg(long, value_name = "INTERVAL")]
    watch: Option<Nanos>,
    /// With --watch: end after so many lines.
    #[arg(long, value_name = "LINES", requires = "watch")]
    count: Option<u64>,
}

pub fn run(args: &Args, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.connect()?;
    if let Some(Nanos(interval_ns)) = args.watch {
        if interval_ns < 1_000_000 {
            let error = Error::new("--watch takes intervals of 1ms or more").remedy("use --watch 1s");
            return Err(Failure::Usage(error));
        }
        return watch::watch(&mut client, std::time::Duration::from_nanos(interval_ns), args.count, context);
    }
    let reactors = client.stats()?;
    let shards = client.shard_stats()?;
    let objects = named_objects(&mut client)?;
    if context.json {
        print_json(&reactors, &shards, &objects, context)
    } else {
        print(&reactors, &shards, &objects, context)
    }
}

/// What a space or stream is called, and its words.
struct Named {
    name: String,
    kind: ObjectKind,
    words: Vec<u64>,
}

fn named_objects(client: &mut Client) -> Result<Vec<Named>, Failure> {
    let catalog = client.catalog()?;
    let rows = client.object_stats()?;
    let named = rows.into_iter().filter_map(|words| {
        let (name, object) = catalog.iter().find(|(_, object)| words.first() == Some(&u64::from(object.id.0)))?;
        Some(Named { name: name.clone(), kind: object.kind, words })
    });
    Ok(named.collect())
}

impl Named {
    fn get(&self, at: usize) -> u64 {
        self.words.get(at).copied().unwrap_or(0)
    }

    /// Its line.
    fn text(&self) -> String {
        let (kind, holds) = match self.kind {
            ObjectKind::Space => ("space", format!("{} keys", self.get(stats::OBJECT_KEYS))),
            ObjectKind::Stream => ("stream", format!("{} events", self.get(stats::OBJECT_EVENTS))),
            ObjectKind::Pages => ("pages", format!("{} pages", self.get(stats::OBJECT_KEYS))),
        };
        let chained = self.get(stats::OBJECT_CHAINED) != 0;
        let chain = if chained { self.get(stats::OBJECT_NEXT_OFFSET).to_string() } else { "-".to_owned() };
        format!(
            "{kind:<6} {holds:>12} {:>10} {chain:>12} {:>12} {:>12} {:>10} {:>10}  {}{}",
            self.get(stats::OBJECT_LIVE_BYTES) >> 20,
            self.get(stats::OBJECT_READS),
            self.get(stats::OBJECT_WRITES),
            self.get(stats::OBJECT_REQUESTS_PER_SECOND),
            self.get(stats::OBJECT_REQUESTS_PER_SECOND_MAX),
            self.name,
            self.retention()
        )
    }

    /// What a stream keeps, and what was trimmed for it.
    fn retention(&self) -> String {
        let (bytes, age_ms) = (self.get(stats::OBJECT_RETAIN_BYTES), self.get(stats::OBJECT_RETAIN_AGE_MS));
        let bytes = (bytes > 0).then(|| format!("at most {}", ByteSize(bytes)));
        let age = (age_ms > 0).then(|| format!("for {}", Nanos::millis(age_ms)));
        let bounds: Vec<String> = bytes.into_iter().chain(age).collect();
        if bounds.is_empty() {
            return String::new();
        }
        format!(" (kept {}, {} events trimmed)", bounds.join(", "), self.get(stats::OBJECT_RETIRED))
    }
}

fn records_max(reactors: &[Vec<u64>]) -> u64 {
    reactors.iter().filter_map(|words| words.get(stats::FRAME_RECORDS_MAX)).max().copied().unwrap_or(0)
}

/// The counters of a reactor, without the words of the drive.
fn counters() -> impl Iterator<Item = (usize, &'static str)> {
    NAMES.into_iter().enumerate().filter(|(at, _)| !stats::DRIVE.contains(at))
}

fn unit(name: &str) -> &'static str {
    match name {
        name if name.ends_with("_bytes") => "B",
        name if name.ends_with("_ns") => "ns",
        name if name.contains("_per_second") => "/s",
        _ => "",
    }
}

fn print(reactors: &[Vec<u64>], shards: &[Vec<u64>], objects: &[Named], context: &mut Context) -> Result<(), Failure> {
    for (name, figure) in Sum::of(reactors).lines(records_max(reactors)) {
        context.out.line(format!("{name:<32} {figure}"))?;
    }
    let drive = reactors.first().and_then(|counters| Drive::of(counters));
    for line in drive.map_or_else(|| vec!["drive                not known".to_owned()], |drive| drive.lines()) {
        context.out.line(line)?;
    }
    let heading: String = (0..reactors.len()).map(|reactor| format!(" {:>16}", format!("reactor {reactor}"))).collect();
    context.out.line(format!("\n{:<32}{heading}", ""))?;
    for (at, name) in counters() {
        let column = |counters: &Vec<u64>| counters.get(at).map_or_else(|| "-".to_owned(), u64::to_string);
        let columns: String = reactors.iter().map(|counters| format!(" {:>16}", column(counters))).collect();
        context.out.line(format!("{name:<32}{columns} {}", unit(name)).trim_end())?;
    }
    context.out.line(format!(
        "\n{:>5} {:>12} {:>12} {:>10} {:>10} {:>22} {:>12} {:>12} {:>16}",
        "shard",
        "keys",
        "events",
        "live MiB",
        "memory MiB",
        "log MiB (of all)",
        "lag records",
        "recovery MiB",
        "checkpoint age s"
    ))?;
    for words in shards {
        let word = |at: usize| words.get(at).copied().unwrap_or(0);
        let (log, all) = (word(stats::SHARD_LOG_BYTES), word(stats::SHARD_LOG_BYTES_ALL));
        context.out.line(format!(
            "{:>5} {:>12} {:>12} {:>10} {:>10} {:>22} {:>12} {:>12} {:>16}{}",
            word(stats::SHARD),
            word(stats::SHARD_KEYS),
            word(stats::SHARD_EVENTS),
            word(stats::SHARD_LIVE_BYTES) >> 20,
            word(stats::SHARD_MEMORY_BYTES) >> 20,
            format!("{} ({} %)", log >> 20, log.saturating_mul(100) / all.max(1)),
            word(stats::SHARD_LAST_LSN).saturating_sub(word(stats::SHARD_DURABLE_LSN)),
            word(stats::SHARD_RECOVERY_BYTES) >> 20,
            word(stats::SHARD_CHECKPOINT_AGE_MS) / 1_000,
            if word(stats::SHARD_FENCED) == 0 { "" } else { "  stopped writing" }
        ))?;
    }
    context.out.line(format!(
        "\n{:<6} {:>12} {:>10} {:>12} {:>12} {:>12} {:>10} {:>10}  name (retention)",
        "kind", "holds", "live MiB", "chain", "reads", "writes", "requests/s", "most/s"
    ))?;
    objects.iter().try_for_each(|object| context.out.line(object.text()))?;
    Ok(())
}

/// An object a line: for each reactor, the drive, all together, each shard, each space and stream.
fn print_json(
    reactors: &[Vec<u64>],
    shards: &[Vec<u64>],
    objects: &[Named],
    context: &mut Context,
) -> Result<(), Failure> {
    for (reactor, words) in reactors.iter().enumerate() {
        let mut object = Map::from_iter([("reactor".to_owned(), Value::from(reactor))]);
        object.extend(counters().filter_map(|(at, name)| Some((name.to_owned(), (*words.get(at)?).into()))));
        context.out.json(&Value::Object(object))?;
    }
    let drive = reactors.first().and_then(|counters| Drive::of(counters));
    context.out.json(&json!({ "drive": drive.map(|drive| drive.json()) }))?;
    context.out.json(&json!({ "total": Sum::of(reactors).json(records_max(reactors)) }))?;
    for words in shards {
        context.out.json(&row(&SHARD_NAMES, words))?;
    }
    for Named { name, kind, words } in objects {
        let mut object = row(&OBJECT_NAMES, words);
        object["kind"] = match kind {
            ObjectKind::Space => "space",
            ObjectKind::Stream => "stream",
            ObjectKind::Pages => "pages",
        }
        .into();
        object["name"] = name.as_str().into();
        context.out.json(&object)?;
    }
    Ok(())
}

fn row(names: &[&str], words: &[u64]) -> Value {
    names.iter().zip(words).map(|(name, word)| ((*name).to_owned(), Value::from(*word))).collect::<Map<_, _>>().into()
}
