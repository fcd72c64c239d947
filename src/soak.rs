//! The soak: clients fill a namespace and write over it many times, while its daemon is killed again and again, and hold
//! what is there after each restart against what they issued and were told. The end-to-end tests run the same clients.

pub mod content;
pub mod daemon;
pub mod history;
mod plan;
mod report;
mod run;
pub mod writer;

pub use report::Report;
pub use run::{Now, Options, run};
