//! The load generator: fio-style job files, generators, histograms and reports. A client like any other.
//!
//! `run` reads a job file and runs it; docs/load.md describes the options of such a file.

mod chart;
mod draft;
#[cfg(test)]
mod fake;
mod figures;
mod fio_options;
mod footprint;
mod generators;
pub mod histogram;
mod job;
mod json;
mod layers;
mod ledger;
mod meter;
mod operation;
mod pace;
mod page;
mod parse;
pub mod payload;
pub mod pipeline;
mod prepare;
mod profile;
mod progress;
mod report;
mod run;
mod source;
mod stats;
mod timeline;
mod transactions;
mod units;
mod values;
mod verify;
mod worker;

pub use figures::Figures;
pub use job::{Job, JobFile};
pub use page::page;
pub use parse::parse;
pub use progress::while_shown;
pub use report::{JobReport, Report};
pub use run::{LoadOptions, run};
pub use stats::Failure;
pub use verify::Verdict;
