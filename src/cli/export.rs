//! `forebay export`: spaces and streams as JSON, an object a line.

use forebay::error::Error;
use forebay::ring::client::{Client, ClientError, Object, ScanRange, Snapshot};
use forebay::types::ObjectKind;
use serde_json::{Map, Value, json};

use super::bytes;
use super::context::{Context, Failure};
use super::dump::Counts;
use super::progress::Progress;
use super::read::begin;

/// What a page of pairs is to take in memory, about.
const PAGE_BYTES: usize = 8 << 20;
const PAGE_PAIRS_MAX: usize = 1_024;
/// Before it is known how large values are.
const PAGE_PAIRS_FIRST: usize = 16;

/// Print spaces and streams as JSON, an object a line, for `import`.
///
/// All of them, or those that are named. Each pair is as it was at some moment of the export, unless --consistent says
/// otherwise. The last line counts what came before, so that `import` sees a file that was cut short. Page spaces are left
/// out: where there are some, and no names are given, it ends with exit code 1 and says which.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names of spaces and streams. Default: all.
    objects: Vec<String>,
    /// Everything as it was at one moment, from a snapshot. An error, if the daemon has to give the snapshot up
    /// (limits.snapshot_bytes_max), or a stream is trimmed meanwhile.
    #[arg(long)]
    consistent: bool,
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.connect()?;
    let all = client.catalog()?;
    if let Some(name) = args.objects.iter().find(|name| !all.iter().any(|(known, _)| known == *name)) {
        return Err(Error::new(format!("no space or stream is named {name:?}"))
            .remedy("leave out the names to export everything there is")
            .into());
    }
    if let Some((name, _)) =
        all.iter().find(|(name, object)| object.kind == ObjectKind::Pages && args.objects.contains(name))
    {
        return Err(Error::new(format!("{name:?} is a page space, and pages are not exported"))
            .remedy("copy them page by page (`forebay page get`)")
            .into());
    }
    let snapshot = if args.consistent { Some(client.snapshot()?) } else { None };
    let mut export = Export { client, snapshot, context, counts: Counts::default(), progress: Progress::new() };
    let mut left_out = Vec::new();
    for (name, object) in all.iter().filter(|(name, _)| args.objects.is_empty() || args.objects.contains(name)) {
        export.counts.objects += u64::from(object.kind != ObjectKind::Pages);
        match object.kind {
            ObjectKind::Space => export.space(name, *object)?,
            ObjectKind::Stream => export.stream(name, *object)?,
            ObjectKind::Pages => left_out.push(name.as_str()),
        }
    }
    let Counts { objects, pairs, events } = export.counts;
    if let Some(snapshot) = snapshot {
        export.client.release(snapshot)?;
    }
    context.out.json(&json!({ "kind": "end", "objects": objects, "pairs": pairs, "events": events }))?;
    if left_out.is_empty() {
        return Ok(());
    }
    context.out.flush()?;
    let names = left_out.join(", ");
    Err(Error::new(format!("page spaces are not exported, and were left out: {names}; all else is"))
        .remedy("copy their pages (docs/operations.md, section 12), and name what to export to leave them out")
        .into())
}

struct Export<'a> {
    client: Client,
    snapshot: Option<Snapshot>,
    context: &'a mut Context,
    counts: Counts,
    progress: Progress,
}

impl Export<'_> {
    fn space(&mut self, name: &str, space: Object) -> Result<(), Failure> {
        let (durability, compression) = (space.durability.name(), space.compression.name());
        let head = json!({ "kind": "space", "object": name, "durability": durability, "compression": compression });
        self.context.out.json(&head)?;
        let (mut begin, mut limit) = (Vec::new(), PAGE_PAIRS_FIRST);
        loop {
            let range = ScanRange::Range { begin: &begin, end: &[] };
            let page = match self.snapshot {
                Some(snapshot) => self.client.scan_at(snapshot, space, &range, limit)?,
                None => self.client.scan(space, &range, limit)?,
            };
            let page_bytes: usize = page.pairs.iter().map(|pair| pair.key.len() + pair.value.len()).sum();
            for pair in &page.pairs {
                let mut line = head_of("pair", name);
                bytes::insert(&mut line, "key", &pair.key, false);
                bytes::insert(&mut line, "value", &pair.value, false);
                line.insert("version".into(), pair.version.into());
                self.context.out.json(&Value::Object(line))?;
            }
            self.counts.pairs += page.pairs.len() as u64;
            self.show(name);
            limit = (PAGE_BYTES / (page_bytes / page.pairs.len().max(1)).max(1)).clamp(1, PAGE_PAIRS_MAX);
            match page.cursor {
                Some(cursor) => begin = cursor,
                None => return Ok(()),
            }
        }
    }

    fn stream(&mut self, name: &str, stream: Object) -> Result<(), Failure> {
        let (mut next, end) = match self.snapshot {
            Some(snapshot) => self.client.extent(snapshot, stream)?,
            None => (begin(&mut self.client, stream, None)?, u64::MAX),
        };
        let durability = stream.durability.name();
        self.context.out.json(&json!({ "kind": "stream", "object": name, "durability": durability, "first": next }))?;
        while next < end {
            let mut events = match self.client.read(stream, next, None) {
                // Trimmed meanwhile.
                Err(ClientError::Trimmed { first }) if self.snapshot.is_none() => {
                    next = first;
                    continue;
                }
                events => events.map_err(|error| Error::from(error).context(format_args!("read stream {name:?}")))?,
            };
            events.retain(|(offset, _)| *offset < end);
            let Some((last, _)) = events.last() else { return Ok(()) };
            next = last + 1;
            for (offset, event) in &events {
                let mut line = head_of("event", name);
                bytes::insert(&mut line, "event", event, false);
                line.insert("offset".into(), (*offset).into());
                self.context.out.json(&Value::Object(line))?;
            }
            self.counts.events += events.len() as u64;
            self.show(name);
        }
        Ok(())
    }

    fn show(&mut self, name: &str) {
        let Counts { pairs, events, .. } = self.counts;
        self.progress.show(|| format!("exporting {name:?}: {pairs} pairs and {events} events so far"));
    }
}

fn head_of(kind: &str, object: &str) -> Map<String, Value> {
    Map::from_iter([("kind".to_owned(), kind.into()), ("object".to_owned(), object.into())])
}
