//! What a run measured, as charts need it and as a saved report keeps it: the same data in JSON and on the page.

use super::layers::LayerFigures;
use super::report::{JobReport, Report, calendar};
use super::timeline::{Interval, Timeline};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::time::UNIX_EPOCH;

/// Of the form below. A report of another one is refused.
const FORM: u32 = 1;

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Figures {
    pub form: u32,
    /// The job file.
    pub title: String,
    pub machine: String,
    pub device: Option<String>,
    /// In UTC.
    pub started: String,
    pub version: String,
    pub jobs: Vec<JobFigures>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct JobFigures {
    pub name: String,
    pub what: String,
    pub elapsed_ns: u64,
    pub error: Option<String>,
    pub kinds: Vec<KindFigures>,
    pub layers: Option<LayerFigures>,
}

/// One kind of operation of one job. Latencies count from the submit call, or from the intended start with a rate.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct KindFigures {
    pub kind: String,
    pub operations: u64,
    pub bytes: u64,
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub p999_ns: u64,
    pub max_ns: u64,
    /// Percent, and the latency that so many operations do not exceed.
    pub percentiles_ns: Vec<(f64, u64)>,
    pub timeline: TimelineFigures,
}

/// One entry an interval.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TimelineFigures {
    pub interval_ns: u64,
    pub operations: Vec<u64>,
    pub bytes: Vec<u64>,
    pub p50_ns: Vec<u64>,
    pub p99_ns: Vec<u64>,
    pub p999_ns: Vec<u64>,
    pub max_ns: Vec<u64>,
}

impl Figures {
    /// Whether a job here and one there have the same name, so that a page compares them.
    #[must_use]
    pub fn has_job_of(&self, other: &Figures) -> bool {
        self.jobs.iter().any(|job| other.jobs.iter().any(|old| old.name == job.name))
    }

    #[must_use]
    pub fn of(report: &Report) -> Figures {
        let since_epoch = report.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        Figures {
            form: FORM,
            title: report.name.clone(),
            machine: machine(),
            device: report.device.clone(),
            started: format!("{} UTC", calendar(since_epoch.as_secs())),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            jobs: report.jobs.iter().map(JobFigures::of).collect(),
        }
    }

    /// Those of a report that `load` wrote as JSON. `name` stands in the errors.
    ///
    /// # Errors
    /// What the text is instead.
    pub fn from_json(text: &str, name: &str) -> Result<Figures> {
        let again = "write one with `forebay load JOBFILE --output-format=json --output FILE`";
        let wrong = |cause: String| Error::new(format!("{name}: {cause}")).remedy(again);
        let mut report: serde_json::Value =
            serde_json::from_str(text).map_err(|error| wrong(format!("not a report of a load: {error}")))?;
        let figures = report.get_mut("forebay").and_then(|ours| ours.get_mut("figures")).map(serde_json::Value::take);
        let figures = figures.ok_or_else(|| wrong("a report without forebay.figures".into()))?;
        if figures["form"] != FORM {
            return Err(wrong(format!("its figures have form {}, and this program reads {FORM}", figures["form"])));
        }
        serde_json::from_value(figures).map_err(|error| wrong(format!("forebay.figures: {error}")))
    }
}

impl JobFigures {
    fn of(report: &JobReport) -> JobFigures {
        JobFigures {
            name: report.job.name.clone(),
            what: report.describe(),
            elapsed_ns: report.stats.elapsed_ns,
            error: report.failure.as_ref().map(ToString::to_string),
            kinds: report
                .stats
                .timelines
                .iter()
                .map(|(kind, timeline)| KindFigures::of(kind.name(), timeline))
                .collect(),
            layers: report.layers.clone(),
        }
    }
}

impl KindFigures {
    fn of(kind: &str, timeline: &Timeline) -> KindFigures {
        let total = timeline.total();
        let each = |of: fn(&Interval) -> u64| timeline.intervals().iter().map(of).collect();
        KindFigures {
            kind: kind.to_owned(),
            operations: total.operations(),
            bytes: total.bytes,
            p50_ns: total.percentile(50.0),
            p99_ns: total.percentile(99.0),
            p999_ns: total.percentile(99.9),
            max_ns: total.max(),
            percentiles_ns: curve(&total),
            timeline: TimelineFigures {
                interval_ns: timeline.interval_ns(),
                operations: each(Interval::operations),
                bytes: each(|interval| interval.bytes),
                p50_ns: each(|interval| interval.percentile(50.0)),
                p99_ns: each(|interval| interval.percentile(99.0)),
                p999_ns: each(|interval| interval.percentile(99.9)),
                max_ns: each(Interval::max),
            },
        }
    }
}

/// Eight points for each nine, as far as there is more than one operation beyond them, and the slowest operation.
#[expect(clippy::cast_precision_loss, reason = "a place on a chart")]
fn curve(total: &Interval) -> Vec<(f64, u64)> {
    let operations = total.operations() as f64;
    let shares = (0..).map(|step| 10_f64.powf(-f64::from(step) / 8.0)).take_while(|share| share * operations >= 1.0);
    let points = shares.map(|share| {
        let percent = 100.0 - (1e8 * share).round() / 1e6;
        let percent = (percent * 1e6).round() / 1e6;
        (percent, total.percentile(percent))
    });
    points.chain([(100.0, total.max())]).collect()
}

/// Processor, cores, memory and kernel, as /proc tells them.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let processor = field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let memory_kib = memory.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{processor}, {cores} cores, {} GiB, Linux {}", (memory_kib + (1 << 19)) >> 20, kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::fake::Fake;
    use crate::load::run::{LoadOptions, run};

    fn report() -> Report {
        let text = "[m]\nrw=randrw\nmodify_percent=50\nkeys=2000\nnumber_ios=20k\nbs=64\niodepth=4\n";
        let fake = Fake::default();
        run(text, "t.fio", &LoadOptions::default(), |options| fake.connect(options)).unwrap()
    }

    #[test]
    fn a_saved_report_gives_the_same_figures() {
        let report = report();
        let figures = Figures::of(&report);
        for bins in [false, true] {
            let text = report.to_json(bins).to_string();
            let read = Figures::from_json(&text, "t.json").unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(&figures).unwrap());
        }
        let kinds: Vec<&str> = figures.jobs[0].kinds.iter().map(|kind| kind.kind.as_str()).collect();
        assert_eq!(kinds, ["read", "write", "read-modify-write"]);
        for kind in &figures.jobs[0].kinds {
            assert_eq!(kind.operations, kind.timeline.operations.iter().sum::<u64>(), "{}", kind.kind);
            let rising = kind.percentiles_ns.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
            assert!(rising && kind.percentiles_ns.last() == Some(&(100.0, kind.max_ns)), "{kind:?}");
            assert!(kind.p50_ns <= kind.p99_ns && kind.p99_ns <= kind.p999_ns && kind.p999_ns <= kind.max_ns);
        }
        // The same operations as in the part of the report that has fio's names, within the width of a bucket.
        let (ours, theirs) = (figures.jobs[0].kinds[0].p50_ns, report.jobs[0].stats.read.lat.percentile(50.0));
        assert!(ours.abs_diff(theirs) <= theirs / 100 + 1, "{ours} and {theirs}");
    }

    #[test]
    fn what_is_no_report_is_refused_with_what_to_do() {
        for (text, part) in [
            ("", "not a report of a load"),
            ("{}", "without forebay.figures"),
            ("[1]", "without forebay.figures"),
            ("{\"forebay\": {\"figures\": {\"form\": 7}}}", "have form 7"),
            ("{\"forebay\": {\"figures\": {\"form\": 1}}}", "missing field"),
        ] {
            let error = Figures::from_json(text, "old.json").unwrap_err().to_string();
            assert!(error.starts_with("old.json: ") && error.contains(part), "{error}");
            assert!(error.contains("forebay load JOBFILE --output-format=json"), "{error}");
        }
    }
}
