//! `forebay stats`: the counters of every reactor.

use forebay::ring::protocol::stats::NAMES;
use serde_json::{Map, Value};

use super::context::{Context, Failure};

/// Print the counters of every reactor.
///
/// One line a counter, one column a reactor.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args, context: &mut Context) -> Result<(), Failure> {
    let reactors = context.connect()?.stats()?;
    if context.json {
        for (reactor, counters) in reactors.iter().enumerate() {
            let mut object = Map::from_iter([("reactor".to_owned(), Value::from(reactor))]);
            object.extend(NAMES.iter().zip(counters).map(|(name, counter)| ((*name).to_owned(), (*counter).into())));
            context.out.json(&Value::Object(object))?;
        }
        return Ok(());
    }
    for (index, name) in NAMES.iter().enumerate() {
        let column = |counters: &Vec<u64>| counters.get(index).map_or_else(|| "-".to_owned(), u64::to_string);
        let columns: String = reactors.iter().map(|counters| format!(" {:>16}", column(counters))).collect();
        context.out.line(format!("{name:<20}{columns}"))?;
    }
    Ok(())
}
