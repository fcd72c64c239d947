//! That all promise the same: strace sees how often each makes the drive keep what it wrote. At one request at a time a
//! strict peer needs at least one such call for each; among many, calls are shared, and the count tells how well.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use crate::case::{Class, ONE, PeerName, Shape};
use crate::figures::Failure;
use crate::run::{Removed, Runner, Session};
use crate::session::MARK;

const CALLS: &str = "fsync,fdatasync,msync,sync_file_range,open,openat,creat,close,write,pwrite64,writev,pwritev,\
                     pwritev2,io_uring_enter,statx,stat,newfstatat";

#[derive(Clone, Debug, Serialize)]
pub struct Proof {
    pub peer: PeerName,
    pub class: Class,
    pub shape: Shape,
    /// Acknowledged under the trace.
    pub count: u64,
    /// By name: `fsync`, `fdatasync`, `pwritev2(RWF_DSYNC)`, `pwrite64 (O_DSYNC)` and the like.
    pub calls: Vec<(String, u64)>,
    /// FLUSH commands that the drive carried out meanwhile, for whomever.
    pub flushes: Option<u64>,
}

impl Proof {
    /// A call that returns when the drive holds what was written, a request.
    pub fn syncs_each(&self) -> f64 {
        self.calls.iter().map(|(_, calls)| calls).sum::<u64>() as f64 / self.count as f64
    }

    /// What it acknowledges is not on the drive. Only one request at a time tells: among many, a sync is shared.
    pub fn lacks_syncs(&self) -> bool {
        self.class == Class::Strict && self.shape == ONE && self.syncs_each() < 1.0
    }
}

pub fn trace(runner: &Runner, session: &Session, shapes: &[Shape], output: &Path) -> Result<Vec<Proof>, Failure> {
    let log = Removed(output.join("strace.log"));
    let words = ["strace", "--follow-forks", "--seccomp-bpf", "--quiet=all", "--string-limit=64", "-o"];
    let mut before: Vec<String> = words.map(str::to_owned).into();
    before.push(log.0.display().to_string());
    before.push(format!("--trace={CALLS}"));
    let measured = runner.session(session, shapes, &before)?;
    let mut counts = count(&std::fs::read_to_string(&log.0)?);
    measured
        .into_iter()
        .map(|measured| {
            let shape = measured.shape;
            let calls = counts.remove(&shape.to_string()).ok_or_else(|| format!("strace did not see {shape} begin"))?;
            let mut calls: Vec<_> = calls.into_iter().collect();
            calls.sort();
            let (count, flushes) = (measured.figures.count, measured.figures.flushes);
            Ok(Proof { peer: session.peer, class: session.class, shape, count, calls, flushes })
        })
        .collect()
}

/// The calls that sync, by shape and name, for each shape that was seen to begin. A call is counted where it begins.
fn count(text: &str) -> HashMap<String, HashMap<String, u64>> {
    let mut counts: HashMap<String, HashMap<String, u64>> = HashMap::new();
    let mut measured: Option<String> = None;
    // Descriptors whose every write is durable.
    let mut durable: Vec<u32> = Vec::new();
    for line in text.lines() {
        // "4711  fdatasync(5) = 0"; the end of an interrupted line begins with "<...".
        let call = line.trim_start().trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
        if let Some((_, mark)) = call.split_once(MARK) {
            let mut parts = mark.trim_start_matches('/').split(['/', '"']);
            measured = match (parts.next(), parts.next()) {
                (Some("begin"), Some(shape)) => Some(shape.to_owned()),
                _ => None,
            };
            if let Some(shape) = &measured {
                counts.entry(shape.clone()).or_default();
            }
            continue;
        }
        let Some((name, rest)) = call.split_once('(') else { continue };
        let descriptor: Option<u32> = rest.split([',', ')', ' ']).next().and_then(|number| number.parse().ok());
        let found = match name {
            "open" | "openat" | "creat" => {
                if let Some(opened) = call.rsplit("= ").next().and_then(|number| number.parse().ok()) {
                    durable.retain(|known| *known != opened);
                    if call.contains("O_DSYNC") || call.contains("O_SYNC") {
                        durable.push(opened);
                    }
                }
                None
            }
            "close" => {
                durable.retain(|known| Some(*known) != descriptor);
                None
            }
            "fsync" | "fdatasync" => Some(name.to_owned()),
            "msync" if rest.contains("MS_SYNC") => Some("msync".to_owned()),
            "pwritev2" if rest.contains("RWF_DSYNC") || rest.contains("RWF_SYNC") => {
                Some("pwritev2 (RWF_DSYNC)".to_owned())
            }
            "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2"
                if descriptor.is_some_and(|descriptor| durable.contains(&descriptor)) =>
            {
                Some(format!("{name} (O_DSYNC)"))
            }
            _ => None,
        };
        if let (Some(shape), Some(found)) = (&measured, found) {
            *counts.entry(shape.clone()).or_default().entry(found).or_default() += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_syncs_is_counted_between_the_marks() {
        let text = format!(
            "1  openat(AT_FDCWD, \"/d\", O_RDWR|O_DSYNC, 0664) = 9\n\
             1  openat(AT_FDCWD, \"/e\", O_RDWR) = 8\n\
             1  fdatasync(8) = 0\n\
             1  statx(AT_FDCWD, \"{MARK}/begin/1x1\", 0) = -1 ENOENT (No such file or directory)\n\
             1  pwrite64(9, \"x\", 1, 0 <unfinished ...>\n\
             2  fdatasync(8) = 0\n\
             1  <... pwrite64 resumed>) = 1\n\
             1  pwrite64(8, \"x\", 1, 0) = 1\n\
             1  pwritev2(8, [{{iov_base=\"\", iov_len=4096}}], 1, 0, RWF_DSYNC) = 4096\n\
             1  close(9) = 0\n\
             1  write(9, \"x\", 1) = 1\n\
             1  statx(AT_FDCWD, \"{MARK}/end/1x1\", 0) = -1 ENOENT (No such file or directory)\n\
             1  fsync(8) = 0\n"
        );
        let mut calls: Vec<_> = count(&text).remove("1x1").expect("a shape").into_iter().collect();
        calls.sort();
        let expected = [("fdatasync", 1), ("pwrite64 (O_DSYNC)", 1), ("pwritev2 (RWF_DSYNC)", 1)];
        assert_eq!(calls, expected.map(|(name, calls)| (name.to_owned(), calls)));
    }
}
