//! `forebay get`: read one key.

use std::ffi::OsString;

use forebay::error::Error;
use forebay::ring::client::DeltaSpace;
use forebay::types::Compression;
use serde_json::{Map, Value};

use super::bytes;
use super::context::{Context, Failure, check_key};

/// Print a key's value, byte for byte.
///
/// A key that is absent is an error.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The space's name.
    space: String,
    /// The key.
    key: OsString,
    /// The key is hexadecimal, and so is the output.
    #[arg(long)]
    hex: bool,
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    let key = bytes::decode(args.key, args.hex)?;
    let (mut client, space) = context.space(&args.space, None)?;
    check_key(&client, &key)?;
    let found = match space.compression {
        Compression::Delta => DeltaSpace::of(space)?.get(&mut client, &key)?,
        _ => client.get(space, &key)?,
    };
    let Some((version, value)) = found else {
        return Err(Error::new(format!("{:?} has no such key", args.space)).into());
    };
    if context.json {
        let mut object = Map::from_iter([("version".to_owned(), Value::from(version))]);
        bytes::insert(&mut object, "value", &value, args.hex);
        return context.out.json(&Value::Object(object));
    }
    bytes::print(&mut context.out, &value, args.hex)?;
    // A person wants a line; a program wants the bytes and nothing else.
    if context.out.terminal || args.hex { context.out.raw(b"\n") } else { Ok(()) }
}
