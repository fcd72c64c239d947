//! A short trace for a drive that logs its writes, to be cut anywhere afterwards (tests/images/replay.rs): strict puts, a
//! key each, that carry what was acknowledged before they were issued. FOREBAY_TEST_TRACE says how many;
//! FOREBAY_TEST_TIERS which tiers take turns, a life each, with a kill between two lives.

use std::collections::BTreeSet;

use forebay::ring::client::{Client, ClientError, Object, Request, SubmitError, Write};
use forebay::types::Durability;

use crate::daemon::{Daemon, Place, number_from};

const IN_FLIGHT_MAX: usize = 8;
/// What tests/images/replay.rs looks for in the writes.
const MARK: &[u8; 16] = b"forebay trace v1";

/// The value of a put: the mark, its number, what was acknowledged before it, its length, and bytes that follow from
/// its number. Some are larger than a frame.
fn value(number: u64, acknowledged: u64) -> Vec<u8> {
    let bytes = match number % 20 {
        19 => 100_000,
        odd if odd % 2 == 1 => 5_000,
        _ => 64 + number % 700,
    };
    let head = [number, acknowledged, bytes].into_iter().flat_map(u64::to_le_bytes);
    let filler = (number..).map(|at| u8::try_from(at % 251).expect("below 256"));
    let mut out: Vec<u8> = MARK.iter().copied().chain(head).collect();
    out.extend(filler.take(usize::try_from(bytes).expect("usize has 64 bits") - out.len()));
    out
}

/// The puts of the whole trace.
struct Trace {
    missing: BTreeSet<u64>,
    under_way: BTreeSet<u64>,
}

impl Trace {
    /// All puts below this one are acknowledged.
    fn acknowledged(&self) -> u64 {
        let first = |set: &BTreeSet<u64>| set.first().copied().unwrap_or(u64::MAX);
        first(&self.missing).min(first(&self.under_way)) - 1
    }

    /// Issues until so many are left to issue.
    fn issue(&mut self, client: &mut Client, space: Object, left: usize) -> Result<(), ClientError> {
        while self.missing.len() > left {
            let number = *self.missing.first().expect("some are left");
            let value = value(number, self.acknowledged());
            let how = Write::default();
            let request = Request::Put { space, key: &number.to_le_bytes(), value: &value, how };
            let submitted = if self.under_way.len() < IN_FLIGHT_MAX {
                client.submit(number, &request)
            } else {
                Err(SubmitError::Full)
            };
            match submitted {
                Ok(()) => {
                    self.missing.remove(&number);
                    self.under_way.insert(number);
                }
                Err(SubmitError::Full) => self.take(client)?,
                Err(SubmitError::Client(error)) => return Err(error),
            }
        }
        Ok(())
    }

    fn take(&mut self, client: &mut Client) -> Result<(), ClientError> {
        let answer = client.wait(&mut Vec::new())?.ok()?;
        self.under_way.remove(&answer.user_data);
        Ok(())
    }

    fn drain(&mut self, client: &mut Client) -> Result<(), ClientError> {
        while !self.under_way.is_empty() {
            self.take(client)?;
        }
        Ok(())
    }

    /// What was under way at a kill, and is not there, is issued again, before anything else.
    fn look_again(&mut self, client: &mut Client, space: Object) {
        for number in std::mem::take(&mut self.under_way) {
            if client.get(space, &number.to_le_bytes()).expect("the daemon is up").is_none() {
                self.missing.insert(number);
            }
        }
    }
}

#[test]
fn a_trace_is_written() {
    let Some(puts) = number_from("FOREBAY_TEST_TRACE") else {
        eprintln!(
            "skipped: it takes a drive that logs its writes (FOREBAY_TEST_TRACE); setup/testbed/crashstates has one"
        );
        return;
    };
    let tiers = std::env::var("FOREBAY_TEST_TIERS").unwrap_or_else(|_| "auto".to_owned());
    let tiers: Vec<&str> = tiers.split_whitespace().collect();
    let place = Place::new("trace").configured(1, "");
    place.format(32, 2);
    let mut trace = Trace { missing: (1..=puts).collect(), under_way: BTreeSet::new() };
    for (life, tier) in tiers.iter().enumerate() {
        let mut daemon = Daemon::run(&place, place.forebay(&["serve", "--tier", tier]));
        let mut client = daemon.connect(&place);
        let space = client.open_space("trace", Some(Durability::Strict)).expect("the daemon is up");
        trace.look_again(&mut client, space);
        let lives_left = tiers.len() - life;
        trace.issue(&mut client, space, trace.missing.len() * (lives_left - 1) / lives_left).expect("the daemon is up");
        if lives_left > 1 {
            daemon.kill();
        } else {
            trace.drain(&mut client).expect("the daemon is up");
            assert!(daemon.stop().success());
        }
    }
    println!("{puts} puts, {} lives", tiers.len());
}
