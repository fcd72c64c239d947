//! Runs the jobs of a file, a group after another, and the jobs of a group at the same time.

use super::generators::mix;
use super::job::{Job, JobFile, Target};
use super::layers::LayerFigures;
use super::ledger::Ledger;
use super::meter::Meter;
use super::pace::Pace;
use super::parse::parse;
use super::pipeline::{DEPTH, connect_options};
use super::prepare::{Prepared, WALK_BYTES, prepare};
use super::progress::{Live, watch, while_shown};
use super::report::{JobReport, Report};
use super::source::Source;
use super::stats::{Failure, Stats};
use super::verify::verify;
use super::worker::Worker;
use crate::error::Result;
use crate::ring::client::{Client, ClientError, ConnectOptions};
use crate::ring::protocol::{PLAIN_HEADER_BYTES, RING_ENTRIES_MAX};
use crate::types::Compression;
use std::sync::Barrier;
use std::time::{SystemTime, UNIX_EPOCH};

/// How a run is shown and placed. The default shows nothing and pins nothing.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Show a line a second on stderr.
    pub progress: bool,
    /// The threads of the jobs are pinned to these cores in turn. Empty: not pinned.
    pub cores: Vec<usize>,
    /// Say where the time goes, layer by layer. Only clients and an appliance in one process can tell.
    pub layers: bool,
    /// The live device tier, for the report.
    pub device: Option<String>,
}

/// A thread of a job and what came of it.
struct Thread<'a> {
    job: &'a Job,
    clone: u32,
    writer: u64,
    prepared: Option<Prepared>,
    stats: Stats,
    failure: Option<Failure>,
}

/// Runs the job file `text`; `name` stands in its errors. `connect` makes one connection a thread of a job and some in
/// between, with at least the rings and the arena that its options ask for. Blocks until all jobs have ended.
///
/// # Errors
/// All that is wrong with the job file, at once. What goes wrong later stands in the report.
pub fn run<C>(text: &str, name: &str, options: &LoadOptions, connect: C) -> Result<Report>
where
    C: Fn(&ConnectOptions) -> Result<Client, ClientError> + Sync,
{
    let file = parse(text, name)?;
    let started = SystemTime::now();
    // Tells this run's values from those of earlier ones.
    let nonce =
        started.duration_since(UNIX_EPOCH).map_or(0, |since| mix(since.as_secs()) ^ u64::from(since.subsec_nanos()));
    let mut report = Report {
        name: name.to_owned(),
        warnings: file.warnings.clone(),
        device: options.device.clone(),
        started,
        global_options: file.global_options.clone(),
        jobs: Vec::new(),
        verdicts: Vec::new(),
        ledgers: Vec::new(),
    };
    let run = Run { file: &file, options, nonce, connect };
    let groups = file.jobs.last().map_or(0, |job| job.group + 1);
    for group in 0..groups {
        run.group(group, &mut report);
    }
    Ok(report)
}

struct Run<'a, C> {
    file: &'a JobFile,
    options: &'a LoadOptions,
    nonce: u64,
    connect: C,
}

impl<C> Run<'_, C>
where
    C: Fn(&ConnectOptions) -> Result<Client, ClientError> + Sync,
{
    fn group(&self, group: u32, report: &mut Report) {
        let mut threads = Vec::new();
        for (place, job) in (0..).zip(&self.file.jobs).filter(|(_, job)| job.group == group) {
            let what = format!("{}: looking for what it reads, writing what is missing", job.name);
            let prepared = while_shown(&what, self.options.progress, || self.prepare(job, place));
            for clone in 0..job.numjobs {
                let writer = mix(self.nonce ^ mix(place << 32 | u64::from(clone)));
                let (prepared, failure) = match &prepared {
                    Ok(prepared) => (Some(prepared.clone()), None),
                    Err(error) => (None, Some(Failure::new(Failure::INVALID, error.to_string()))),
                };
                threads.push(Thread { job, clone, writer, prepared, stats: Stats::default(), failure });
            }
        }
        report.ledgers.extend(self.run_threads(&mut threads));
        collect(threads, report);
        if self.options.layers {
            for job in &mut report.jobs {
                job.layers = LayerFigures::of(&job.stats.layers);
            }
        }
        self.verify(group, report);
    }

    fn prepare(&self, job: &Job, place: u64) -> Result<Prepared> {
        let writer = mix(self.nonce ^ mix(place << 32 | u64::from(u32::MAX)));
        // Other jobs may write larger values to what this one reads.
        let same_target = self.file.jobs.iter().filter(|other| other.target == job.target);
        let read_bytes_max = same_target.map(|other| other.sizes.bytes_max() as usize).max().unwrap_or(0);
        prepare(&mut self.service_client()?, job, writer, read_bytes_max)
    }

    /// A connection for what is done before and after a job.
    fn service_client(&self) -> Result<Client> {
        let jobs = &self.file.jobs;
        let sizes = jobs.iter().flat_map(|job| job.sizes.0.iter().map(|(bytes, _)| *bytes as usize + job.key_bytes));
        Ok((self.connect)(&connect_options(DEPTH, sizes.chain([WALK_BYTES / DEPTH as usize * 2])))?)
    }

    /// True when what this job writes is read back by itself or by another job on the same space or stream.
    fn is_tracked(&self, target: &Target) -> bool {
        self.file.jobs.iter().any(|job| job.target == *target && job.verify && job.writes())
    }

    /// Starts all threads at the same moment and waits for them.
    fn run_threads(&self, threads: &mut [Thread<'_>]) -> Vec<Ledger> {
        let lives: Vec<Live> = threads.iter().map(|_| Live::default()).collect();
        let mut names: Vec<&str> = threads.iter().map(|thread| thread.job.name.as_str()).collect();
        names.dedup();
        let barrier = Barrier::new(threads.len());
        std::thread::scope(|scope| {
            let handles: Vec<_> = (0..)
                .zip(threads.iter_mut().zip(&lives))
                .map(|(place, (thread, live))| {
                    let barrier = &barrier;
                    scope.spawn(move || self.run_thread(place, thread, live, barrier))
                })
                .collect();
            let done = || handles.iter().all(std::thread::ScopedJoinHandle::is_finished);
            watch(&names.join(", "), &lives, self.options.progress, done);
            handles.into_iter().filter_map(|handle| handle.join().expect("a job's thread does not panic")).collect()
        })
    }

    fn run_thread(&self, place: usize, thread: &mut Thread<'_>, live: &Live, barrier: &Barrier) -> Option<Ledger> {
        let cores = &self.options.cores;
        if !cores.is_empty() {
            let core = core_affinity::CoreId { id: cores[place % cores.len()] };
            if !core_affinity::set_for_current(core) {
                let text = format!("cannot pin to core {}; name cores that this process may use", core.id);
                thread.failure.get_or_insert(Failure::new(Failure::INVALID, text));
            }
        }
        let worker = match (&thread.failure, &thread.prepared) {
            (None, Some(prepared)) => self.worker(thread, prepared, live),
            _ => Err(None),
        };
        // Every thread comes here once, whatever happened to it.
        barrier.wait();
        match worker {
            Ok(worker) => {
                let (stats, ledger, failure) = worker.run();
                (thread.stats, thread.failure) = (stats, failure);
                ledger
            }
            Err(failure) => {
                thread.failure = thread.failure.take().or(failure);
                None
            }
        }
    }

    fn worker<'a>(
        &self,
        thread: &Thread<'a>,
        prepared: &Prepared,
        live: &'a Live,
    ) -> Result<Worker<'a>, Option<Failure>> {
        let job = thread.job;
        let read_bytes_max = prepared.read_bytes_max + 2 * 64;
        let reads = job.reads().then_some(read_bytes_max);
        let scans = job.scan_length.map(|(_, most)| most as usize * (read_bytes_max + job.key_bytes));
        let scans = scans.into_iter().flat_map(|bytes| std::iter::repeat_n(bytes, prepared.shards as usize));
        let rows = (1..job.rows_read_max()).map(|_| read_bytes_max);
        let commits = (!job.transactions.is_empty()).then(|| job.commit_bytes_max());
        let header = if prepared.object.compression == Compression::None { 0 } else { PLAIN_HEADER_BYTES };
        let writes = job
            .sizes
            .0
            .iter()
            .map(|(bytes, _)| *bytes as usize + header)
            .filter(|_| job.writes() && job.transactions.is_empty());
        let sizes =
            reads.into_iter().chain(rows).chain(scans).chain(commits).chain(writes).map(|bytes| bytes + job.key_bytes);
        let mut options = connect_options(job.iodepth, sizes);
        // The rows of one transaction must not keep the others out of the rings.
        let requests = job.iodepth.saturating_mul(job.rows_read_max()).min(RING_ENTRIES_MAX);
        options.sq_entries = options.sq_entries.max(requests.next_power_of_two());
        options.cq_entries = options.sq_entries;
        let client =
            (self.connect)(&options).map_err(|error| Some(Failure::new(Failure::DISCONNECTED, error.to_string())))?;
        let durability = job.durability.unwrap_or(prepared.object.durability);
        let tracked = job.writes() && self.is_tracked(&job.target);
        let ledger = tracked.then(|| Ledger::new(job, thread.writer, durability));
        let source = Source::new((job, thread.clone), prepared, thread.writer, ledger);
        let pace = Pace::new(job);
        let meter = Meter::new(job, pace.measured_from, live, self.options.progress);
        Ok(Worker::new(job, client, prepared, source, pace, meter))
    }

    /// Reads back what the jobs of this group wrote to spaces and streams that are verified.
    fn verify(&self, group: u32, report: &mut Report) {
        let mut targets: Vec<&Target> = Vec::new();
        for job in self.file.jobs.iter().filter(|job| job.group == group && job.writes() && job.verify) {
            if !targets.contains(&&job.target) {
                targets.push(&job.target);
            }
        }
        for target in targets {
            let what = format!("verify: reading back {} {}", target.kind.name(), target.name);
            let read_back = || verify(&mut self.service_client()?, target, &report.ledgers, false);
            let verdict = while_shown(&what, self.options.progress, read_back);
            let failure = match &verdict {
                Ok(verdict) if verdict.wrong == 0 => None,
                Ok(verdict) => Some(Failure::new(Failure::WRONG_DATA, format!("verify: {} wrong", verdict.wrong))),
                Err(error) => Some(Failure::new(Failure::DISCONNECTED, format!("verify: {error}"))),
            };
            for job in report.jobs.iter_mut().filter(|job| job.job.group == group && job.job.target == *target) {
                job.failure = job.failure.take().or_else(|| failure.clone());
            }
            report.verdicts.extend(verdict.ok());
        }
    }
}

/// Adds the threads to the report: those of a job with `group_reporting` as one.
fn collect(threads: Vec<Thread<'_>>, report: &mut Report) {
    for thread in threads {
        let Thread { job, clone, prepared, stats, failure, .. } = thread;
        if job.group_reporting && clone > 0 {
            let sum = report.jobs.last_mut().expect("the first thread of this job came before");
            sum.threads += 1;
            sum.stats.merge(&stats);
            sum.failure = sum.failure.take().or(failure);
            continue;
        }
        let durability = prepared.as_ref().map(|prepared| job.durability.unwrap_or(prepared.object.durability));
        let compression = prepared.as_ref().map(|prepared| prepared.object.compression).unwrap_or_default();
        let filled = prepared.filter(|_| clone == 0).map_or(0, |prepared| prepared.filled);
        let (job, threads, layers) = (job.clone(), 1, None);
        report.jobs.push(JobReport { job, threads, durability, compression, filled, stats, failure, layers });
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
