//! Where operations spend their time, layer by layer, as text and as the charts need it.

use super::units::nanoseconds_text;
use crate::timing::{self, Layer, Measured};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Of the requests of one job. Every operation's layers add up to its latency.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LayerFigures {
    pub requests: u64,
    /// Means of the requests around these percentiles.
    pub p50: Split,
    pub p999: Split,
    pub layers: Vec<LayerSpread>,
}

/// One latency, and what of it was spent in each layer, in the order of `layers`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Split {
    pub latency_ns: u64,
    pub spent_ns: Vec<u64>,
}

/// What one layer took of all requests.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LayerSpread {
    pub name: String,
    pub p50_ns: u64,
    pub p999_ns: u64,
    pub max_ns: u64,
}

impl From<timing::Split> for Split {
    fn from(split: timing::Split) -> Split {
        Split { latency_ns: split.latency_ns, spent_ns: split.spent_ns.to_vec() }
    }
}

impl Split {
    /// The part of the latency that a layer took.
    #[must_use]
    pub fn percent(&self, layer: usize) -> f64 {
        let spent = self.spent_ns.get(layer).copied().unwrap_or(0);
        super::report::percent_of(spent, self.spent_ns.iter().sum())
    }
}

impl LayerFigures {
    /// `None` when nothing was measured.
    #[must_use]
    pub fn of(measured: &Measured) -> Option<LayerFigures> {
        let spread = |layer: Layer| {
            let [p50_ns, p999_ns, max_ns] = measured.spread(layer);
            LayerSpread { name: layer.name().to_owned(), p50_ns, p999_ns, max_ns }
        };
        (measured.requests() > 0).then(|| LayerFigures {
            requests: measured.requests(),
            p50: measured.split(50.0).into(),
            p999: measured.split(99.9).into(),
            layers: Layer::ALL.map(spread).into(),
        })
    }
}

impl fmt::Display for LayerFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  layers       : {} requests; p50 and p99.9 are one operation each, split up", self.requests)?;
        let head = ["p50", "", "p99.9", "", "layer p50", "layer p99.9", "layer max"];
        let row = |f: &mut fmt::Formatter<'_>, name: &str, cells: [String; 7]| {
            let [a, b, c, d, e, g, h] = cells;
            writeln!(f, "    {name:<10} {a:>9} {b:>7} {c:>9} {d:>7} {e:>10} {g:>11} {h:>10}")
        };
        row(f, "", head.map(str::to_owned))?;
        for (number, layer) in self.layers.iter().enumerate() {
            let spent = |split: &Split| nanoseconds_text(split.spent_ns.get(number).copied().unwrap_or(0));
            let share = |split: &Split| format!("{:.1} %", split.percent(number));
            let cells = [
                spent(&self.p50),
                share(&self.p50),
                spent(&self.p999),
                share(&self.p999),
                nanoseconds_text(layer.p50_ns),
                nanoseconds_text(layer.p999_ns),
                nanoseconds_text(layer.max_ns),
            ];
            row(f, &layer.name, cells)?;
        }
        let whole = |split: &Split| nanoseconds_text(split.latency_ns);
        let none = String::new;
        row(f, "all", [whole(&self.p50), none(), whole(&self.p999), none(), none(), none(), none()])
    }
}
