//! Reads back what was acknowledged, and compares.

use super::job::Target;
use super::ledger::{Ledger, Mark, Modified};
use super::payload::{HEADER_BYTES, Payload, stated_write, write_key};
use super::pipeline::pipeline;
use super::prepare::walk;
use crate::error::Result;
use crate::ring::client::{Answer, Client, Object, Request, pages};
use crate::ring::protocol::{KEY_BYTES_MAX, PAGE_HEADER_BYTES, Status};
use crate::types::{Durability, ObjectKind};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// So many findings are told one by one; the rest is counted.
const FINDINGS_MAX: usize = 10;

/// What reading back one space or stream showed.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub target: Target,
    /// Keys or events that had to be there.
    pub checked: u64,
    pub wrong: u64,
    /// The first of them, a sentence each.
    pub findings: Vec<String>,
    pub elapsed: Duration,
    /// The appliance was stopped and recovered since the writes.
    pub restarted: bool,
}

impl Verdict {
    fn find(&mut self, text: impl FnOnce() -> String) {
        self.wrong += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(text());
        }
    }
}

/// Reads back the space or stream `target` and holds it against all ledgers of it. After a restart, nothing is asked of
/// writes that were acknowledged in memory only.
///
/// # Errors
/// A connection that broke, or an object that is gone.
pub fn verify(client: &mut Client, target: &Target, ledgers: &[Ledger], restarted: bool) -> Result<Verdict> {
    let begin = Instant::now();
    let ledgers: Vec<&Ledger> = ledgers.iter().filter(|ledger| ledger.target == *target).collect();
    let mut verdict = Verdict {
        target: target.clone(),
        checked: 0,
        wrong: 0,
        findings: Vec::new(),
        elapsed: Duration::ZERO,
        restarted,
    };
    match target.kind {
        ObjectKind::Space => {
            let object = client.open_space(&target.name, None)?;
            verify_space(client, object, &ledgers, &mut verdict)?;
        }
        ObjectKind::Stream => {
            let object = client.open_stream(&target.name, None)?;
            verify_stream(client, object, &ledgers, &mut verdict)?;
        }
        ObjectKind::Pages => verify_pages(client, &ledgers, &mut verdict)?,
    }
    verdict.elapsed = begin.elapsed();
    Ok(verdict)
}

fn promised(ledger: &Ledger, restarted: bool) -> bool {
    !restarted || ledger.durability > Durability::Memory
}

/// The latest promised write of each key, by all writers. Jobs may give their keys different lengths: those are
/// different keys.
fn expectations(ledgers: &[&Ledger], restarted: bool) -> Vec<(usize, Vec<Mark>)> {
    let mut by_length: Vec<(usize, Vec<Mark>)> = Vec::new();
    for ledger in ledgers.iter().filter(|ledger| promised(ledger, restarted)) {
        let known = by_length.iter().position(|(key_bytes, _)| *key_bytes == ledger.key_bytes);
        let place = known.unwrap_or_else(|| {
            by_length.push((ledger.key_bytes, Vec::new()));
            by_length.len() - 1
        });
        let marks = &mut by_length[place].1;
        marks.resize(marks.len().max(ledger.marks.len()), Mark::default());
        for (latest, mark) in marks.iter_mut().zip(&ledger.marks) {
            if mark.version > latest.version {
                *latest = *mark;
            }
        }
    }
    by_length
}

/// What transactions did to each key, by all writers; empty where others wrote too, or not all of it is promised.
fn modifications(ledgers: &[&Ledger], restarted: bool) -> Vec<Modified> {
    let mut all: Vec<Modified> = Vec::new();
    if ledgers.iter().all(|ledger| promised(ledger, restarted) && !ledger.modified.is_empty()) {
        let same_keys = ledgers.iter().all(|ledger| ledger.key_bytes == ledgers[0].key_bytes);
        for ledger in ledgers.iter().filter(|_| same_keys) {
            all.resize(all.len().max(ledger.modified.len()), Modified::default());
            all.iter_mut().zip(&ledger.modified).for_each(|(sum, modified)| *sum = sum.and(*modified));
        }
    }
    all
}

/// What the writers of one target make their values of.
fn payload_of(ledgers: &[&Ledger]) -> Payload {
    let bytes_max = ledgers.iter().map(|ledger| ledger.bytes_max).max().unwrap_or(0);
    Payload::new(bytes_max, ledgers.first().map_or(0, |ledger| ledger.compress_percent))
}

fn verify_space(client: &mut Client, space: Object, ledgers: &[&Ledger], verdict: &mut Verdict) -> Result<()> {
    let bytes_max = ledgers.iter().map(|ledger| ledger.bytes_max).max().unwrap_or(0);
    let payload = payload_of(ledgers);
    let modified = modifications(ledgers, verdict.restarted);
    for (key_bytes, marks) in expectations(ledgers, verdict.restarted) {
        let mut room = [0; KEY_BYTES_MAX];
        let key = &mut room[..key_bytes];
        let written: Vec<u64> = (0..).zip(&marks).filter(|(_, mark)| mark.version > 0).map(|(key, _)| key).collect();
        let index = |number: u64| usize::try_from(number).expect("64-bit machines only");
        pipeline(
            client,
            written.len() as u64,
            |client, place| {
                let number = written[index(place)];
                write_key(key, number);
                client.submit(number, &Request::Get { space, key, relaxed: false, value_bytes_max: bytes_max })
            },
            |answer, value| {
                verdict.checked += 1;
                let place = index(answer.user_data);
                let compared = compare(&payload, &marks[place], answer, value);
                if let Err(cause) = compared.and_then(|()| count(modified.get(place), value)) {
                    verdict.find(|| format!("key {}: {cause}", answer.user_data));
                }
                Ok(())
            },
        )?;
    }
    Ok(())
}

fn verify_pages(client: &mut Client, ledgers: &[&Ledger], verdict: &mut Verdict) -> Result<()> {
    let pages = client.open_pages(&verdict.target.name, None)?;
    let payload = payload_of(ledgers);
    let reply_bytes_max = PAGE_HEADER_BYTES + pages.size.bytes();
    for (_, marks) in expectations(ledgers, verdict.restarted) {
        let written: Vec<u64> = (0..).zip(&marks).filter(|(_, mark)| mark.version > 0).map(|(page, _)| page).collect();
        let index = |number: u64| usize::try_from(number).expect("64-bit machines only");
        pipeline(
            client,
            written.len() as u64,
            |client, place| {
                let number = written[index(place)];
                let (space, numbers) = (pages.object, [number]);
                client.submit(
                    number,
                    &Request::ReadPages { space, numbers: &numbers, snapshot: None, relaxed: false, reply_bytes_max },
                )
            },
            |answer, reply| {
                verdict.checked += 1;
                let found = match answer.status {
                    Status::Ok => self::pages(reply, 1, pages.size)?.next().flatten(),
                    _ => None,
                };
                let status =
                    if answer.status == Status::Ok && found.is_none() { Status::NotFound } else { answer.status };
                let (version, page) = found.unwrap_or((0, &[]));
                let answer = Answer { status, version, ..*answer };
                if let Err(cause) = compare(&payload, &marks[index(answer.user_data)], &answer, page) {
                    verdict.find(|| format!("page {}: {cause}", answer.user_data));
                }
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// Holds what was read of a key against its latest promised write. A later one may stand there that was not promised.
fn compare(payload: &Payload, expected: &Mark, answer: &Answer, value: &[u8]) -> Result<(), String> {
    match answer.status {
        Status::Ok => {}
        Status::NotFound => return Err(format!("is gone, version {} was acknowledged", expected.version)),
        status => return Err(status.text().into()),
    }
    if answer.version < expected.version {
        return Err(format!("has version {}, but {} was acknowledged", answer.version, expected.version));
    }
    // Other writers of this run may use values without a stamp.
    if value.len() < HEADER_BYTES && answer.version > expected.version {
        return Ok(());
    }
    let stamp = payload.check(value)?;
    if stamp.key != answer.user_data {
        return Err(format!("holds what was written to key {}", stamp.key));
    }
    if answer.version == expected.version && (stamp.writer, stamp.write) != (expected.writer, expected.write) {
        return Err(format!("holds write {} where write {} was acknowledged", stamp.write, expected.write));
    }
    Ok(())
}

/// Every commit that modified a key went on from what the one before it left: none is lost.
fn count(modified: Option<&Modified>, value: &[u8]) -> Result<(), String> {
    match modified {
        Some(Modified { times, write, is_overwritten: false, .. }) if stated_write(value) < write + times => {
            Err(format!(
                "holds number {}, and {times} transactions each added one to {write}: an update is lost",
                stated_write(value)
            ))
        }
        _ => Ok(()),
    }
}

/// The events of each writer have to stand in a stream once, in order and without holes.
fn verify_stream(client: &mut Client, stream: Object, ledgers: &[&Ledger], verdict: &mut Verdict) -> Result<()> {
    let from = ledgers.iter().map(|ledger| ledger.first_offset).min().unwrap_or(u64::MAX);
    if from == u64::MAX {
        return Ok(());
    }
    let payload = payload_of(ledgers);
    let mut next: HashMap<u64, u64> = ledgers.iter().map(|ledger| (ledger.writer, 0)).collect();
    let failed = |writer, write| ledgers.iter().any(|ledger| ledger.writer == writer && ledger.failed.contains(&write));
    walk(client, stream, from, |offset, event| {
        // What a load did not write is not its business; a damaged event of its own shows as a hole.
        let Ok(stamp) = payload.check(event) else { return };
        let Some(expected) = next.get_mut(&stamp.writer) else { return };
        while *expected < stamp.write && failed(stamp.writer, *expected) {
            *expected += 1;
        }
        if stamp.write != *expected {
            verdict.find(|| format!("offset {offset}: holds event {}, not {expected}", stamp.write));
        }
        *expected = stamp.write + 1;
    })?;
    for ledger in ledgers {
        verdict.checked += ledger.acknowledged;
        let found = next[&ledger.writer];
        if promised(ledger, verdict.restarted) && found < ledger.acknowledged {
            verdict.find(|| format!("events {found} to {} were acknowledged and are gone", ledger.acknowledged - 1));
        }
    }
    Ok(())
}
