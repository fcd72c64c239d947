//! The results as tables. What is compared has the same class, size and shape, and the same state of the cores.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::case::{Class, MANY, ONE, PIPE, PeerName, REDIS_MANY, REDIS_PIPES, Shape};
use crate::figures::{Figures, summary};
use crate::run::{Results, Series};

/// An aim: how many times as many a second as somebody else.
struct Aim {
    what: String,
    least: f64,
    /// With the cores as they are, and awake.
    reached: [Option<f64>; 2],
}

impl Results {
    pub fn find(&self, peer: PeerName, class: Class, value_bytes: usize, shape: Shape, awake: bool) -> Option<&Series> {
        let wanted = (peer, class, value_bytes, shape, awake);
        self.series
            .iter()
            .find(|series| (series.peer, series.class, series.value_bytes, series.shape, series.awake) == wanted)
    }

    /// Forebay's rate by that of another: the median of the rounds' ratios, for a machine changes from round to round.
    fn ratio(&self, peer: PeerName, class: Class, value_bytes: usize, shape: Shape, awake: bool) -> Option<f64> {
        let own = self.find(PeerName::Forebay, class, value_bytes, shape, awake)?;
        let other = self.find(peer, class, value_bytes, shape, awake)?;
        let pairs = own.rounds.iter().zip(&other.rounds);
        let ratios: Vec<f64> = pairs.map(|(own, other)| own.per_second / other.per_second).collect();
        summary(&ratios).map(|[median, _, _]| median)
    }

    fn ratios(&self, peer: PeerName, class: Class, value_bytes: usize, shape: Shape) -> [Option<f64>; 2] {
        [false, true].map(|awake| self.ratio(peer, class, value_bytes, shape, awake))
    }

    /// The fastest of some peers, each time anew for both states of the cores.
    fn best(&self, of: fn(PeerName) -> bool, class: Class, value_bytes: usize, shape: Shape) -> [Option<f64>; 2] {
        [false, true].map(|awake| {
            let peers = PeerName::ALL.into_iter().filter(|peer| *peer != PeerName::Forebay && of(*peer));
            let ratios = peers.filter_map(|peer| self.ratio(peer, class, value_bytes, shape, awake));
            ratios.reduce(f64::min)
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

pub fn markdown(results: &Results) -> String {
    let mut text = String::new();
    let Results { machine, rounds, run_ms, seconds, .. } = results;
    let _ = writeln!(text, "Machine: {machine}. {rounds} rounds, {run_ms} ms a case, {seconds} s in all.\n");
    text.push_str("| Forebay's rate / that of | aim | cores as they are | cores awake |\n|---|---|---|---|\n");
    for Aim { what, least, reached } in results.aims() {
        let [halting, awake] = reached.map(|ratio| verdict(ratio, least));
        let _ = writeln!(text, "| {what} | ≥ {least} x | {halting} | {awake} |");
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

fn verdict(ratio: Option<f64>, least: f64) -> String {
    match ratio {
        None => "-".to_owned(),
        Some(ratio) if ratio >= least => format!("{ratio:.2} x, held"),
        Some(ratio) if ratio < 1.0 => format!("**{ratio:.2} x, loses**"),
        Some(ratio) => format!("**{ratio:.2} x, missed**"),
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
                Some(ratio) if ratio < 1.0 => _ = write!(text, " **{ratio:.2} x, loses** |"),
                Some(ratio) => _ = write!(text, " {ratio:.2} x |"),
            }
        }
        text.push('\n');
    }
}

/// Median (least - most).
fn cell(series: &Series, of: fn(&Figures) -> f64) -> String {
    let values: Vec<f64> = series.rounds.iter().map(of).collect();
    let Some([median, least, most]) = summary(&values) else { return "-".to_owned() };
    format!("{} ({} - {})", number(median), number(least), number(most))
}

fn median(series: &Series, of: fn(&Figures) -> f64) -> String {
    let values: Vec<f64> = series.rounds.iter().map(of).collect();
    summary(&values).map_or("-".to_owned(), |[median, _, _]| number(median))
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
        if proof.class == Class::Strict && proof.shape == ONE && syncs < 1.0 {
            let _ = writeln!(
                text,
                "| | **{peer} acknowledges without a sync: its strict figures do not count** | | | | | | |"
            );
        }
    }
}

/// The processor, the kernel and the drive, from what the kernel tells.
pub fn machine(directory: &Path) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| -> Option<String> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let processor = field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let cores = core_affinity::get_core_ids().unwrap_or_default().len();
    let kernel = read("/proc/sys/kernel/osrelease");
    let drive = drive(directory).unwrap_or_else(|| "unknown drive".to_owned());
    format!("{processor}, {cores} cores, Linux {}, {drive}", kernel.trim())
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

    fn results(own: &[f64], other: &[f64]) -> Results {
        let figures =
            |per_second: &f64| Figures { per_second: *per_second, p50_us: 1.0, p99_us: 2.0, count: 1, flushes: None };
        let series = |peer, rounds: &[f64]| {
            let (class, shape, rounds) = (Class::Strict, ONE, rounds.iter().map(figures).collect());
            Series { peer, class, value_bytes: 100, shape, awake: true, rounds }
        };
        let series = vec![series(PeerName::Forebay, own), series(PeerName::Fjall, other)];
        Results { series, ..Results::default() }
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_ratios_and_a_loss_is_said() {
        let results = results(&[50.0, 400.0, 80.0], &[100.0, 200.0, 100.0]);
        assert_eq!(results.ratio(PeerName::Fjall, Class::Strict, 100, ONE, true), Some(0.8));
        assert_eq!(results.ratio(PeerName::Fjall, Class::Strict, 100, ONE, false), None);
        let text = markdown(&results);
        assert!(text.contains("| strict, puts of 100 B, 1 client / fjall | ≥ 1 x | - | **0.80 x, loses** |"), "{text}");
    }

    #[test]
    fn numbers_have_three_digits_or_thousands() {
        let spelt = [0.874, 9.996, 12.34, 123.4, 1_234.0, 1_234_567.0].map(number);
        assert_eq!(spelt, ["0.87", "10.0", "12.3", "123", "1,234", "1,234,567"]);
    }
}
