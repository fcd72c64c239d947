//! `forebay scan`: print the keys of a space in order.

use std::ffi::OsString;

use forebay::ring::client::{DeltaSpace, Pair, ScanRange};
use serde_json::{Map, Value};

use super::bytes;
use super::context::{Context, Failure, Output};

/// Pairs asked for at once.
const PAGE_PAIRS: usize = 1_024;

/// Print keys and values in the order of the keys.
///
/// A line each: the key, a tab, the value. Keys or values that hold tabs or line ends are told apart with --json or --hex.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The space's name.
    space: String,
    /// Only keys that begin so.
    #[arg(long, value_name = "KEY", conflicts_with_all = ["begin", "end"])]
    prefix: Option<OsString>,
    /// Begin with this key.
    #[arg(long, value_name = "KEY")]
    begin: Option<OsString>,
    /// End before this key.
    #[arg(long, value_name = "KEY")]
    end: Option<OsString>,
    /// Print at most so many keys.
    #[arg(long, value_name = "KEYS", default_value_t = usize::MAX, hide_default_value = true)]
    limit: usize,
    /// Print the keys alone.
    #[arg(long)]
    keys_only: bool,
    /// The keys given are hexadecimal, and so is the output.
    #[arg(long)]
    hex: bool,
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    let key = |key: Option<OsString>| key.map(|key| bytes::decode(key, args.hex)).transpose();
    let (prefix, begin, end) =
        (key(args.prefix)?, key(args.begin)?.unwrap_or_default(), key(args.end)?.unwrap_or_default());
    let format = Format { json: context.json, hex: args.hex, keys_only: args.keys_only };
    let (mut client, space) = context.space(&args.space, None)?;
    let mut deltas = DeltaSpace::of(space).ok();
    let mut cursor = begin;
    let mut left = args.limit;
    while left > 0 {
        let range = match &prefix {
            Some(prefix) => ScanRange::Prefix { prefix, after: &cursor },
            None => ScanRange::Range { begin: &cursor, end: &end },
        };
        let limit = left.min(PAGE_PAIRS);
        let page = match &mut deltas {
            Some(deltas) => deltas.scan(&mut client, None, &range, limit)?,
            None => client.scan(space, &range, limit)?,
        };
        left -= page.pairs.len();
        for pair in &page.pairs {
            format.print(&mut context.out, pair)?;
        }
        match page.cursor {
            Some(next) => cursor = next,
            None => break,
        }
    }
    Ok(())
}

/// How pairs are printed.
struct Format {
    json: bool,
    hex: bool,
    keys_only: bool,
}

impl Format {
    fn print(&self, out: &mut Output, pair: &Pair) -> Result<(), Failure> {
        if self.json {
            let mut object = Map::from_iter([("version".to_owned(), Value::from(pair.version))]);
            bytes::insert(&mut object, "key", &pair.key, self.hex);
            if !self.keys_only {
                bytes::insert(&mut object, "value", &pair.value, self.hex);
            }
            return out.json(&Value::Object(object));
        }
        bytes::print(out, &pair.key, self.hex)?;
        if !self.keys_only {
            out.raw(b"\t")?;
            bytes::print(out, &pair.value, self.hex)?;
        }
        out.raw(b"\n")
    }
}
