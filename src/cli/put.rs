//! `forebay put`: write one key.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay::config::Nanos;
use forebay::error::Error;
use forebay::ring::client::{Creation, DeltaSpace, Write};
use forebay::ring::protocol::TTL_MS_MAX;
use forebay::types::Compression;
use serde_json::json;

use super::bytes;
use super::context::{Context, Failure, WriteArgs, check_key, check_value};

const TTL_MIN: Duration = Duration::from_millis(1);
const TTL_MAX: Duration = Duration::from_millis(TTL_MS_MAX);

/// Write a key of a space; prints its new version.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The space's name.
    space: String,
    /// The key.
    key: OsString,
    /// The value, or - for standard input.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    value: Option<OsString>,
    /// Take the value from a file, or from standard input with -, byte for byte.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// The key and the value argument are hexadecimal.
    #[arg(long)]
    hex: bool,
    /// Write only if the key has this version; 0: only if it is absent.
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
    /// The key is gone after so long, as 10s, 1500ms or 90m; 1 ms to 100 years. Without it the key stays, whatever was said
    /// of it before.
    #[arg(long, value_name = "TIME")]
    ttl: Option<Nanos>,
    /// With --create: how clients compress the values of the space: none, lz4, zstd, or delta: by zstd, and a value that is
    /// written again against an earlier one of its key. Fixed for good; an error where the space is there with another one.
    #[arg(long, value_name = "CODEC", requires = "create")]
    compression: Option<Compression>,
    #[command(flatten)]
    write: WriteArgs,
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    let key = bytes::decode(args.key, args.hex)?;
    let value = match (args.file, args.value) {
        (Some(path), _) => bytes::read_source(&path)?,
        (None, Some(value)) if value == "-" => bytes::read_source(Path::new("-"))?,
        (None, value) => bytes::decode(value.unwrap_or_default(), args.hex)?,
    };
    let created = args.write.created_with(&context.config);
    let compression = args.compression.unwrap_or_default();
    let (mut client, space) =
        context.space(&args.space, created.map(|durability| Creation { durability, compression, chained: false }))?;
    if args.compression.is_some_and(|wanted| wanted != space.compression) {
        let has = space.compression.name();
        return Err(Error::new(format!("the space {:?} is there with compression {has}", args.space))
            .remedy("leave out --compression, or choose another space")
            .into());
    }
    check_key(&client, &key)?;
    check_value(&client, space, &value)?;
    let expires = args.ttl.map(Duration::from);
    if expires.is_some_and(|expires| !(TTL_MIN..=TTL_MAX).contains(&expires)) {
        return Err(Failure::Usage(
            Error::new("a time to live has 1 ms to 100 years").remedy("name one, as --ttl 10s"),
        ));
    }
    let how = Write { durability: args.write.durability, if_version: args.if_version, expires };
    let version = match space.compression {
        Compression::Delta => DeltaSpace::of(space)?.put(&mut client, &key, &value, how)?,
        _ => client.put(space, &key, &value, how)?,
    };
    if context.json {
        return context.out.json(&json!({ "version": version }));
    }
    context.out.line(version.to_string())
}
