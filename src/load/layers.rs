//! Where operations spend their time, layer by layer.

use serde::{Deserialize, Serialize};

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
