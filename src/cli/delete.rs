//! `forebay delete`: remove one key.

use std::ffi::OsString;

use forebay::error::Error;
use forebay::ring::client::{DeltaSpace, Write};
use forebay::types::{Compression, Durability};
use serde_json::json;

use super::bytes;
use super::context::{Context, Failure, check_key};

/// Remove a key.
///
/// A key that is absent is an error.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The space's name.
    space: String,
    /// The key.
    key: OsString,
    /// The key is hexadecimal.
    #[arg(long)]
    hex: bool,
    /// Remove the key only if it has this version.
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
    /// Ask for more or less than the space's default: memory, buffered or strict.
    #[arg(long, value_name = "DURABILITY")]
    durability: Option<Durability>,
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    let key = bytes::decode(args.key, args.hex)?;
    let (mut client, space) = context.space(&args.space, None)?;
    check_key(&client, &key)?;
    let how = Write { durability: args.durability, if_version: args.if_version, ..Write::default() };
    let deleted = match space.compression {
        Compression::Delta => DeltaSpace::of(space)?.delete(&mut client, &key, how)?,
        _ => client.delete(space, &key, how)?,
    };
    if !deleted {
        return Err(Error::new(format!("{:?} has no such key", args.space)).into());
    }
    if context.json { context.out.json(&json!({ "deleted": true })) } else { Ok(()) }
}
