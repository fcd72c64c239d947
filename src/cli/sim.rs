//! `forebay sim`: run simulated appliances with faults, and check every promise.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forebay::error::Error;
use forebay::sim::{self, Options, Report};

use super::context::{Context, Failure};
use super::progress::Progress;

/// Run simulated appliances with faults, and check every promise.
///
/// Whole appliances run on a virtual clock and a drive that fails. One seed is one history. A failure prints its seed
/// and the command that replays it. What happened and which faults struck is counted, so that a run that injects
/// nothing is seen.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run this seed alone.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Run so many seeds.
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Begin with this seed.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    from: u64,
    /// Steps of each life. Default: chosen by the seed.
    #[arg(long, value_name = "COUNT")]
    steps: Option<u64>,
    /// Go on after a failure, and print every one.
    #[arg(long)]
    keep_going: bool,
    /// Tell every step on standard error.
    #[arg(long)]
    verbose: bool,
}

pub fn run(args: &Args, context: &mut Context) -> Result<(), Failure> {
    let (first, count) = args.seed.map_or((args.from, args.seeds), |seed| (seed, 1));
    let options = Options { steps: args.steps, verbose: args.verbose, ..Options::default() };
    let seeds = first..first.saturating_add(count);
    let present = Arc::new(AtomicU64::new(first));
    name_seed_of_panic(present.clone());
    let mut progress = Progress::new();
    let mut report = Report::default();
    let mut failed: Option<Error> = None;
    for seed in seeds {
        present.store(seed, Ordering::Relaxed);
        match sim::run(seed, &options) {
            Ok(one) => report.merge(&one),
            Err(failure) => {
                let error = Error::from(*failure);
                if !args.keep_going {
                    failed = Some(error);
                    break;
                }
                eprintln!("forebay: {error}");
                failed = Some(Error::new("some seeds fail").remedy("see above"));
            }
        }
        progress.show(|| format!("seed {seed}: {} of {count} histories", seed - first + 1));
    }
    if context.json {
        context.out.json(&report.to_json())?;
    } else {
        context.out.raw(report.to_string().as_bytes())?;
    }
    context.out.flush()?;
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// A panic of the code under test ends the program where panics abort: then this says how to see it again.
fn name_seed_of_panic(present: Arc<AtomicU64>) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        let seed = present.load(Ordering::Relaxed);
        eprintln!("forebay: seed {seed} panics; replay it with: forebay sim --seed {seed} --verbose");
    }));
}
