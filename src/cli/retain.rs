//! `forebay retain`: how much of a stream is kept.

use std::str::FromStr;
use std::time::Duration;

use forebay::config::{ByteSize, Nanos};
use forebay::error::Error;
use forebay::ring::client::{Client, Object, Retention};
use forebay::ring::protocol::TTL_MS_MAX;
use serde_json::json;

use super::context::{Context, Failure};

/// Show or set how much of a stream is kept. What is beyond a bound is trimmed, from now on and after any restart.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The stream's name.
    stream: String,
    /// Keep at most so many bytes of events, as 10GiB, where each counts its own and 32 B; none lifts the bound.
    #[arg(long, value_name = "BYTES")]
    bytes: Option<Bound<ByteSize>>,
    /// Keep events for so long, as 7d or 90m, and up to a 64th of it longer; none lifts the bound.
    #[arg(long, value_name = "TIME")]
    age: Option<Bound<Nanos>>,
}

/// The bounds of a stream. One that is not given stays as it is.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub bytes: Option<Bound<ByteSize>>,
    pub age: Option<Bound<Nanos>>,
}

/// "none", or what it is a bound of.
#[derive(Clone, Copy, Debug)]
pub struct Bound<T>(Option<T>);

impl<T: FromStr<Err = String>> FromStr for Bound<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Bound(None));
        }
        text.parse().map(|bound| Bound(Some(bound))).map_err(|error: String| format!("{error}, or none"))
    }
}

impl Bounds {
    /// Refuses what no stream can be kept by.
    pub fn check(self) -> Result<(), Failure> {
        let bytes = self.bytes.and_then(|bound| bound.0);
        if bytes.is_some_and(|ByteSize(bytes)| bytes == 0 || bytes == u64::MAX) {
            let error = Error::new("a stream keeps its newest event, so 0 B is no bound");
            return Err(Failure::Usage(error.remedy("name one, as 10GiB, or none; `forebay trim` empties a stream")));
        }
        let age = self.age.and_then(|bound| bound.0).map(Duration::from);
        let ages = Duration::from_millis(1)..=Duration::from_millis(TTL_MS_MAX);
        if age.is_some_and(|age| !ages.contains(&age)) {
            let error = Error::new("a stream is kept for 1 ms to 100 years");
            return Err(Failure::Usage(error.remedy("name an age, as 7d, or none")));
        }
        Ok(())
    }

    pub fn is_given(self) -> bool {
        self.bytes.is_some() || self.age.is_some()
    }

    /// Sets those that were given. What holds then.
    pub fn set(self, client: &mut Client, stream: Object) -> Result<Retention, Failure> {
        let mut retention = client.retention(stream)?;
        if let Some(Bound(bytes)) = self.bytes {
            retention.bytes = bytes.map(|ByteSize(bytes)| bytes);
        }
        if let Some(Bound(age)) = self.age {
            retention.age = age.map(Duration::from);
        }
        if self.is_given() {
            client.set_retention(stream, retention)?;
        }
        Ok(retention)
    }
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    let bounds = Bounds { bytes: args.bytes, age: args.age };
    bounds.check()?;
    let (mut client, stream) = context.stream(&args.stream, None)?;
    let Retention { bytes, age } = bounds.set(&mut client, stream)?;
    let age_ms = age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    if context.json {
        return context.out.json(&json!({ "retain_bytes": bytes, "retain_age_ms": age_ms }));
    }
    let bytes = bytes.map_or_else(|| "none".to_owned(), |bytes| ByteSize(bytes).to_string());
    let age = age_ms.map_or_else(|| "none".to_owned(), |ms| Nanos::millis(ms).to_string());
    context.out.line(format!("bytes {bytes}, age {age}"))
}
