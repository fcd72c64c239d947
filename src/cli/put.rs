//! `forebay put`: write one key.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use forebay::ring::client::Write;
use serde_json::json;

use super::bytes;
use super::context::{Context, Failure, WriteArgs, check_key, check_value};

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
    let (mut client, space) = context.space(&args.space, args.write.created_with(&context.config))?;
    check_key(&client, &key)?;
    check_value(&client, &value)?;
    let how = Write { durability: args.write.durability, if_version: args.if_version };
    let version = client.put(space, &key, &value, how)?;
    if context.json {
        return context.out.json(&json!({ "version": version }));
    }
    context.out.line(version.to_string())
}
