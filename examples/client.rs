//! A program that uses Forebay: `cargo run --no-default-features --features client --example client -- SOCKET`.
//! It depends on the client alone, and needs a daemon that listens on SOCKET.

use std::path::PathBuf;
use std::time::Duration;

use forebay::ring::client::{Client, ClientError, ConnectOptions, Request, Retry, SubmitError, Write};
use forebay::types::Durability;

fn main() -> Result<(), ClientError> {
    let socket = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("/run/forebay.sock"), PathBuf::from);
    // One connection a thread.
    let mut client = Client::connect(&socket, &ConnectOptions::default())?;

    // A space holds keys. This one promises, unless a request says otherwise, that what is acknowledged is on the drive.
    let orders = client.open_space("orders", Some(Durability::Strict))?;
    let version = client.put(orders, b"4711", b"paid", Write::default())?;
    // Only if nobody wrote it meanwhile. This once, surviving a kill of the daemon is enough.
    let how = Write { if_version: Some(version), durability: Some(Durability::Buffered), ..Write::default() };
    client.put(orders, b"4711", b"sent", how)?;
    if let Some((version, value)) = client.get(orders, b"4711")? {
        println!("order 4711: {} (version {version})", String::from_utf8_lossy(&value));
    }

    // All of it at once or nothing, as if nobody else were there: tried again when somebody wrote what it read.
    let (paid, _) = client.transaction(&Retry::default(), |transaction| {
        let paid =
            transaction.get(orders, b"count")?.and_then(|count| count.try_into().ok()).map_or(0, u64::from_le_bytes);
        transaction.put(orders, b"count", &(paid + 1).to_le_bytes());
        Ok::<_, ClientError>(paid + 1)
    })?;
    println!("{paid} orders were paid");

    // A stream holds events in the order of their offsets. Many appends in flight share a write of the drive.
    let events = client.open_stream("events", Some(Durability::Buffered))?;
    let (mut sent, mut reply) = (0, Vec::new());
    while sent < 1_000 || client.in_flight() > 0 {
        let event = format!("event {sent}");
        let append = Request::Append { stream: events, event: event.as_bytes(), how: Write::default() };
        match if sent < 1_000 { client.submit(sent, &append) } else { Err(SubmitError::Full) } {
            Ok(()) => sent += 1,
            // No room, or nothing left to send: take an answer.
            Err(SubmitError::Full) => _ = client.wait(&mut reply)?.ok()?,
            Err(SubmitError::Client(error)) => return Err(error),
        }
    }

    // Everything before this is on the drive when it returns.
    client.sync()?;
    let last = client.append(events, b"the last one", Write::default())?;
    for (offset, event) in client.read(events, last, Some(Duration::from_secs(1)))? {
        println!("{offset}: {}", String::from_utf8_lossy(&event));
    }
    Ok(())
}
