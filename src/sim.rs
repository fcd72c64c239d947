//! The simulator: whole appliances on a virtual clock and a drive that fails, in one thread. One seed is one history;
//! an oracle holds every promise. docs/testing.md describes the model.

mod action;
mod client;
mod crash;
mod device;
mod disk;
mod history;
mod hostile;
mod machine;
mod oracle;
mod profile;
mod random;
mod report;
#[cfg(test)]
mod tests;
mod workload;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::bytes::index;
use crate::error::Error;
use crate::wal::planted::Planted;

use action::PAGE;
use device::{Drive, Kind};
use history::History;
use machine::Machine;
use profile::{Plot, Profile};
use random::Random;
use report::Counts;

pub use report::{Count, Report};

/// What the seed does not choose.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Steps of each life; `None`: the seed chooses.
    pub steps: Option<u64>,
    /// A bug on purpose. Nothing of it is compiled outside tests.
    pub planted: Planted,
    /// Tells every step on standard error.
    pub verbose: bool,
}

/// A promise that was not kept, and how to see it again.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub steps: Option<u64>,
    pub life: u64,
    pub step: u64,
    pub what: String,
}

impl Failure {
    /// The command that replays this history.
    #[must_use]
    pub fn command(&self) -> String {
        let steps = self.steps.map_or_else(String::new, |steps| format!(" --steps {steps}"));
        format!("forebay sim --seed {}{steps}", self.seed)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, life {}, step {}: {}", self.seed, self.life, self.step, self.what)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::new(failure.to_string()).remedy(format!("replay it with: {} --verbose", failure.command()))
    }
}

/// Runs the history of one seed. Blocks for some milliseconds. The same seed and options give the same history.
///
/// # Errors
/// The first promise that was not kept. A panic of the code under test is one, where panics unwind.
pub fn run(seed: u64, options: &Options) -> Result<Report, Box<Failure>> {
    let fail = |life, step, what: String| Box::new(Failure { seed, steps: options.steps, life, step, what });
    let counts = Counts::default();
    let mut history = build(seed, options, &counts).map_err(|error| fail(0, 0, error.to_string()))?;
    let ended = catch_unwind(AssertUnwindSafe(|| history.run()));
    let what = match ended {
        Ok(Ok(())) => return Ok(counts.report()),
        Ok(Err(what)) => what,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            format!("a panic: {}", text.unwrap_or("without words"))
        }
    };
    Err(fail(history.life, history.step, what))
}

fn build(seed: u64, options: &Options, counts: &Counts) -> crate::error::Result<History> {
    let mut random = Random::new(seed);
    let mut profile = Profile::choose(&mut random, options.steps);
    // Not drawn, so that the other seeds keep their histories.
    if profile.plot == Plot::Mixed && seed % 8 == 3 {
        profile.hang();
    }
    profile.expires = profile.plot == Plot::Mixed && seed % 3 == 1;
    profile.retains = profile.plot == Plot::Mixed && seed % 4 == 2;
    profile.snapshots = profile.plot == Plot::Mixed && seed % 5 == 2;
    profile.store.snapshot_bytes_max = if seed % 10 == 2 { 1 << 20 } else { 1 << 10 };
    // Where a commit of two pages fits; with snapshots and without.
    let fits = profile.store.value_bytes_max > 2 * PAGE.bytes();
    profile.pages = profile.plot == Plot::Mixed && fits && (seed % 5 == 3 || matches!(seed % 20, 2 | 7));
    if profile.plot == Plot::Mixed && seed % 7 == 4 {
        profile.seasons(options.steps);
    }
    if options.verbose {
        eprintln!("{profile:#?}");
    }
    // Not drawn, so that the other seeds keep their histories.
    let volatile = profile.plot == Plot::Mixed && seed.is_multiple_of(4);
    let deallocate_bytes_max = [0, 20 << 10, u32::MAX][index(seed % 3)];
    let kind = Kind { volatile, deallocate_bytes_max };
    let drive = Drive::new(profile.capacity_bytes, profile.rates, kind, random.fork(), counts.clone());
    let machine = Machine::new(profile, drive, options.planted, counts.clone())?;
    Ok(History::new(machine, random, counts.clone(), options.verbose))
}
