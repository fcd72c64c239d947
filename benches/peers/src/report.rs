//! The results as tables. What is compared has the same class, size and shape, and the same state of the cores.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::case::{Class, MANY, ONE, PIPE, PeerName, REDIS_MANY, REDIS_PIPES, Shape};
use crate::figures::{Figures, summary};
use crate::run::{Results, Series};

/// Forebay's rate by that of another.
struct Ratio {
    times: f64,
    /// Why it does not count.
    doubt: Option<String>,
}

/// An aim: how many times as many a second as somebody else.
struct Aim {
    what: String,
    least: f64,
    /// With the cores as they are, and awake.
    reached: [Option<Ratio>; 2],
}

impl Results {
    pub fn find(&self, peer: PeerName, class: Class, value_bytes: usize, shape: Shape, awake: bool) -> Option<&Series> {
        let wanted = (peer, class, value_bytes, shape, awake);
        self.series
            .iter()
            .find(|series| (series.peer, series.class, series.value_bytes, series.shape, series.awake) == wanted)
    }

    /// The median of the rounds' ratios, for a machine changes from round to round.
    fn ratio(&self, peer: PeerName, class: Class, value_bytes: usize, shape: Shape, awake: bool) -> Option<Ratio> {
        let own = self.find(PeerName::Forebay, class, value_bytes, shape, awake)?;
        let other = self.find(peer, class, value_bytes, shape, awake)?;
        let pairs = own.rounds.iter().zip(&other.rounds).filter_map(|(own, other)| own.as_ref().zip(other.as_ref()));
        let ratios: Vec<f64> = pairs.map(|(own, other)| own.per_second / other.per_second).collect();
        let [times, _, _] = summary(&ratios)?;
        let doubt = self.doubt(PeerName::Forebay, class).or_else(|| self.doubt(peer, class));
        Some(Ratio { times, doubt })
    }

    /// Why figures do not count that promise to be strict.
    fn doubt(&self, peer: PeerName, class: Class) -> Option<String> {
        if class != Class::Strict {
            return None;
        }
        let mut proofs = self.proofs.iter().filter(|proof| proof.count > 0);
        match proofs.find(|proof| (proof.peer, proof.class, proof.shape) == (peer, class, ONE)) {
            None => Some(format!("unproven: {} was not traced", peer.label())),
            Some(proof) if !proof.lacks_syncs() => None,
            // Where the drive has FUA, or nothing to flush, its syncs are writes in there.
            Some(_) if peer == PeerName::Forebay => {
                Some("unproven: strace does not see into Forebay's io_uring".to_owned())
            }
            Some(_) => Some(format!("void: fewer syncs than commits of {}", peer.label())),
        }
    }

    fn ratios(&self, peer: PeerName, class: Class, value_bytes: usize, shape: Shape) -> [Option<Ratio>; 2] {
        [false, true].map(|awake| self.ratio(peer, class, value_bytes, shape, awake))
    }

    /// The fastest of some peers that count, each time anew for both states of the cores.
    fn best(&self, of: fn(PeerName) -> bool, class: Class, value_bytes: usize, shape: Shape) -> [Option<Ratio>; 2] {
        [false, true].map(|awake| {
            let others = PeerName::ALL.into_iter().filter(|peer| *peer != PeerName::Forebay && of(*peer));
            let peers = others.filter(|peer| self.doubt(*peer, class).is_none());
            let ratios = peers.filter_map(|peer| self.ratio(peer, class, value_bytes, shape, awake));
            ratios.min_by(|a, b| a.times.total_cmp(&b.times))
        })
    }

    fn sizes(&self) -> Vec<usize> {
        let mut sizes: Vec<usize> = self.series.iter().map(|series| series.value_bytes).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    fn aims(&self) -> Vec<Aim> {
        let redis = |class, shape: Shape, least: f64, words: &str| {
            let reached = self.ratios(PeerName::Redis, class, 100, shape);
            Aim { what: format!("{words}, {} / Redis", shape.label()), least, reached }
        };
        let mut aims = vec![
            redis(Class::Memory, PIPE, 5.0, "memory, puts of 100 B"),
            redis(Class::Memory, REDIS_PIPES, 5.0, "memory, puts of 100 B"),
            redis(Class::Read, REDIS_PIPES, 5.0, "gets of 100 B"),
            redis(Class::Strict, REDIS_MANY, 3.0, "strict, puts of 100 B"),
            redis(Class::Strict, REDIS_PIPES, 3.0, "strict, puts of 100 B"),
            redis(Class::Buffered, REDIS_PIPES, 3.0, "buffered, puts of 100 B"),
        ];
        for bytes in self.sizes() {
            for shape in [ONE, MANY] {
                for peer in PeerName::ALL.into_iter().filter(|peer| peer.is_embedded_store()) {
                    let what = format!("strict, puts of {bytes} B, {} / {}", shape.label(), peer.label());
                    aims.push(Aim { what, least: 1.0, reached: self.ratios(peer, Class::Strict, bytes, shape) });
                }
            }
            let reached = self.best(PeerName::is_embedded_store, Class::Strict, bytes, MANY);
            let what = format!("strict, puts of {bytes} B, {} / the best library", MANY.label());
            aims.push(Aim { what, least: 3.0, reached });
            for shape in [ONE, MANY] {
                let reached = self.best(|peer| !peer.is_file(), Class::Buffered, bytes, shape);
                let what = format!("buffered, puts of {bytes} B, {} / the best peer", shape.label());
                aims.push(Aim { what, least: 3.0, reached });
            }
        }
        aims.retain(|aim| aim.reached.iter().any(Option::is_some));
        aims
    }
}

const AWAKE_MANY: &str = "\nAt 64 clients the spinners that keep the cores awake, though of idle priority, also slow a \
                          peer that uses many threads, for a thread that wakes may wait for a core: for such a peer \
                          the cores as they are make the fairer column.\n";

pub fn markdown(results: &Results) -> String {
    let mut text = String::new();
    let Results { machine, rounds, run_ms, seconds, .. } = results;
    let _ = writeln!(text, "Machine: {machine}. {rounds} rounds, {run_ms} ms a case, {seconds} s in all.\n");
    results.versions.iter().for_each(|(name, version)| _ = writeln!(text, "- {name}: {version}"));
    text.push_str("\n| Forebay's rate / that of | aim | cores as they are | cores awake |\n|---|---|---|---|\n");
    for Aim { what, least, reached } in results.aims() {
        let [halting, awake] = reached.map(|ratio| verdict(ratio, least));
        let _ = writeln!(text, "| {what} | ≥ {least} x | {halting} | {awake} |");
    }
    if results.series.iter().any(|series| series.awake && series.shape == MANY) {
        text.push_str(AWAKE_MANY);
    }
    for class in Class::ALL {
        for bytes in results.sizes() {
            class_table(&mut text, results, class, bytes);
        }
    }
    proof_table(&mut text, results);
    if !results.notes.is_empty() {
        text.push_str("\n### To be known\n\n");
        results.notes.iter().for_each(|note| _ = writeln!(text, "- {note}"));
    }
    text
}

fn verdict(ratio: Option<Ratio>, least: f64) -> String {
    match ratio {
        None => "-".to_owned(),
        Some(Ratio { times, doubt: Some(doubt) }) => format!("{times:.2} x, {doubt}"),
        Some(Ratio { times, .. }) if times >= least => format!("{times:.2} x, held"),
        Some(Ratio { times, .. }) if times < 1.0 => format!("**{times:.2} x, loses**"),
        Some(Ratio { times, .. }) => format!("**{times:.2} x, missed**"),
    }
}

fn class_table(text: &mut String, results: &Results, class: Class, bytes: usize) {
    let of = |series: &&Series| (series.class, series.value_bytes) == (class, bytes);
    let mut cases: Vec<(Shape, PeerName)> =
        results.series.iter().filter(of).map(|series| (series.shape, series.peer)).collect();
    cases.sort_by_key(|(shape, peer)| (shape.clients * shape.depth, shape.depth, *peer));
    cases.dedup();
    if cases.is_empty() {
        return;
    }
    let what = if class == Class::Read { "gets" } else { "puts" };
    let _ = writeln!(text, "\n### {}, {what} of {bytes} B\n", class.label());
    text.push_str("| shape | peer | a second | p50, us | p99, us | awake: a second | p50, us | p99, us | Forebay / it | awake |\n");
    text.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
    for (shape, peer) in cases {
        let _ = write!(text, "| {} | {} |", shape.label(), peer.label());
        for awake in [false, true] {
            match results.find(peer, class, bytes, shape, awake) {
                None => text.push_str(" - | - | - |"),
                Some(series) => {
                    let rate = cell(series, |figures| figures.per_second);
                    let (p50, p99) = (cell(series, |figures| figures.p50_us), median(series, |figures| figures.p99_us));
                    let _ = write!(text, " {rate} | {p50} | {p99} |");
                }
            }
        }
        for ratio in results.ratios(peer, class, bytes, shape) {
            match ratio.filter(|_| peer != PeerName::Forebay) {
                None => text.push_str(" |"),
                Some(Ratio { times, doubt: Some(doubt) }) => _ = write!(text, " {times:.2} x, {doubt} |"),
                Some(Ratio { times, .. }) if times < 1.0 => _ = write!(text, " **{times:.2} x, loses** |"),
                Some(Ratio { times, .. }) => _ = write!(text, " {times:.2} x |"),
            }
        }
        text.push('\n');
    }
}

/// Median (least - most).
fn cell(series: &Series, of: fn(&Figures) -> f64) -> String {
    let Some([median, least, most]) = summary(&series.values(of)) else { return "-".to_owned() };
    format!("{} ({} - {})", number(median), number(least), number(most))
}

fn median(series: &Series, of: fn(&Figures) -> f64) -> String {
    summary(&series.values(of)).map_or("-".to_owned(), |[median, _, _]| number(median))
}

/// Three digits or whole thousands: "0.87", "12.3", "123", "123,456".
pub fn number(value: f64) -> String {
    let whole = format!("{value:.0}");
    match whole.len() {
        1 => format!("{value:.2}"),
        2 => format!("{value:.1}"),
        length => {
            let mut grouped = String::new();
            for (at, digit) in whole.chars().enumerate() {
                if at > 0 && (length - at).is_multiple_of(3) {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            grouped
        }
    }
}

fn proof_table(text: &mut String, results: &Results) {
    if results.proofs.is_empty() {
        return;
    }
    text.push_str("\n### What each does for an acknowledged commit, under strace\n\n");
    text.push_str(
        "| class | peer | set up as | shape | acknowledged | syncs each | which | FLUSHes of the drive each |\n",
    );
    text.push_str("|---|---|---|---|---|---|---|---|\n");
    for proof in &results.proofs {
        let calls: Vec<String> = proof.calls.iter().map(|(name, calls)| format!("{calls} `{name}`")).collect();
        let flushes =
            proof.flushes.map_or("-".to_owned(), |flushes| format!("{:.3}", flushes as f64 / proof.count as f64));
        let setting = proof.peer.setting(proof.class).unwrap_or_default();
        let class = format!("{:?}", proof.class).to_lowercase();
        let (peer, shape, count, syncs) = (proof.peer.label(), proof.shape.label(), proof.count, proof.syncs_each());
        let calls = calls.join(", ");
        let _ =
            writeln!(text, "| {class} | {peer} | {setting} | {shape} | {count} | {syncs:.3} | {calls} | {flushes} |");
        if let Some(doubt) = results.doubt(proof.peer, proof.class).filter(|_| proof.lacks_syncs()) {
            let _ = writeln!(text, "| | **{doubt}; strict figures of {peer} do not count** | | | | | | |");
        }
    }
}

/// What has no version: the cores and the drive.
pub fn machine(directory: &Path) -> String {
    let cores = core_affinity::get_core_ids().unwrap_or_default().len();
    let drive = drive(directory).unwrap_or_else(|| "unknown drive".to_owned());
    format!("{cores} cores, {drive}")
}

fn drive(directory: &Path) -> Option<String> {
    let device = directory.metadata().ok()?.dev();
    let numbers = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let node = fs::canonicalize(format!("/sys/dev/block/{numbers}")).ok()?;
    let drive = if node.join("partition").exists() { node.parent()?.to_owned() } else { node };
    let queue = |name: &str| fs::read_to_string(drive.join("queue").join(name)).unwrap_or_default().trim().to_owned();
    let fua = if queue("fua") == "1" { "FUA" } else { "no FUA" };
    Some(format!("drive {} ({}, {fua})", drive.file_name()?.to_string_lossy(), queue("write_cache")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::Proof;

    const FJALL: (PeerName, Class, usize, Shape, bool) = (PeerName::Fjall, Class::Strict, 100, ONE, true);

    /// The rates of strict rounds, and the syncs that were traced for 1,000 commits.
    type Measured<'a> = (PeerName, &'a [Option<f64>], Option<u64>);

    fn results(all: &[Measured<'_>]) -> Results {
        let (_, class, value_bytes, shape, awake) = FJALL;
        let mut results = Results::default();
        for (peer, rates, syncs) in all.iter().copied() {
            let figures = |per_second| Figures { per_second, p50_us: 1.0, p99_us: 2.0, count: 1, flushes: None };
            let rounds = rates.iter().map(|rate| rate.map(figures)).collect();
            results.series.push(Series { peer, class, value_bytes, shape, awake, rounds });
            results.proofs.extend(syncs.map(|syncs| {
                let calls = vec![("fdatasync".to_owned(), syncs)];
                Proof { peer, class, shape, count: 1_000, calls, flushes: None }
            }));
        }
        results
    }

    fn times(results: &Results) -> Option<f64> {
        let (peer, class, value_bytes, shape, awake) = FJALL;
        results.ratio(peer, class, value_bytes, shape, awake).map(|ratio| ratio.times)
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_ratios_and_a_loss_is_said() {
        let results = results(&[
            (PeerName::Forebay, &[Some(50.0), Some(400.0), Some(80.0)], Some(1_000)),
            (PeerName::Fjall, &[Some(100.0), Some(200.0), Some(100.0)], Some(1_000)),
        ]);
        assert_eq!(times(&results), Some(0.8));
        assert!(results.ratio(PeerName::Fjall, Class::Strict, 100, ONE, false).is_none());
        let text = markdown(&results);
        assert!(text.contains("| strict, puts of 100 B, 1 client / fjall | ≥ 1 x | - | **0.80 x, loses** |"), "{text}");
    }

    #[test]
    fn only_figures_of_the_same_round_are_compared() {
        let of = |own: &[Option<f64>], other: &[Option<f64>]| {
            times(&results(&[(PeerName::Forebay, own, Some(1_000)), (PeerName::Fjall, other, Some(1_000))]))
        };
        assert_eq!(of(&[None, Some(10.0), Some(60.0)], &[Some(1.0), Some(10.0), Some(20.0)]), Some(2.0));
        assert_eq!(of(&[Some(10.0), Some(30.0)], &[None, Some(10.0)]), Some(3.0));
        assert_eq!(of(&[Some(10.0), None], &[None, Some(10.0)]), None);
    }

    #[test]
    fn who_is_not_proven_strict_is_neither_beaten_nor_the_best() {
        const UNSEEN: &str = "2.00 x, unproven: strace does not see into Forebay's io_uring";
        let rates = |rate: f64| [Some(rate)];
        let (own, fast, slow) = (rates(40.0), rates(20.0), rates(10.0));
        let text = |own_syncs, fjall_syncs| {
            let mut results = results(&[
                (PeerName::Forebay, &own, own_syncs),
                (PeerName::Fjall, &fast, fjall_syncs),
                (PeerName::Redb, &slow, Some(1_000)),
            ]);
            results.series.iter_mut().for_each(|series| series.shape = MANY);
            markdown(&results)
        };
        for (own_syncs, fjall_syncs, fjall, best) in [
            (Some(1_000), Some(2_000), "2.00 x, held", "**2.00 x, missed**"),
            (Some(1_000), Some(999), "2.00 x, void: fewer syncs than commits of fjall", "4.00 x, held"),
            (Some(1_000), None, "2.00 x, unproven: fjall was not traced", "4.00 x, held"),
            (Some(9), Some(1_000), UNSEEN, UNSEEN),
            (None, Some(1_000), "2.00 x, unproven: Forebay was not traced", "2.00 x, unproven: Forebay was not traced"),
        ] {
            let text = text(own_syncs, fjall_syncs);
            let aims = [("fjall", "1", fjall), ("the best library", "3", best)];
            for (whom, least, verdict) in aims {
                let row = format!("| strict, puts of 100 B, 64 clients / {whom} | ≥ {least} x | - | {verdict} |");
                assert!(text.contains(&row), "{row}\n{text}");
            }
            // The row of the table of the class too.
            assert_eq!(text.contains(&format!("| | {fjall} |")), fjall_syncs != Some(2_000), "{text}");
        }
    }

    #[test]
    fn a_sync_that_many_share_is_no_doubt() {
        let proof = |shape, syncs| {
            let calls = vec![("fdatasync".to_owned(), syncs)];
            Proof { peer: PeerName::Fjall, class: Class::Strict, shape, count: 1_000, calls, flushes: None }
        };
        let proofs = vec![proof(MANY, 20), proof(ONE, 1_000)];
        let results = Results { proofs, ..Results::default() };
        assert_eq!(results.doubt(PeerName::Fjall, Class::Strict), None);
        assert!(!markdown(&results).contains("do not count"));
    }

    #[test]
    fn numbers_have_three_digits_or_thousands() {
        let spelt = [0.874, 9.996, 12.34, 123.4, 1_234.0, 1_234_567.0].map(number);
        assert_eq!(spelt, ["0.87", "10.0", "12.3", "123", "1,234", "1,234,567"]);
    }
}
