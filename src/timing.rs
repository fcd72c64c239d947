//! Where a request spends its time, from the client's submit call to the client's sight of the answer. Only with the
//! feature `perf-diagnostics`: else every type here is empty, every function does nothing, and nothing of it is in the
//! program. Works within one process alone, where client and reactor see the same table.

/// A part of a request's way. Time within one counts for no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// From the client's submit call until the reactor looks: also a request that has to stay in its ring.
    RingWait,
    /// Validation, and the copy of the payload.
    Decode,
    /// Index and heap.
    Store,
    /// The record, into a frame and the flight recorder.
    Encode,
    /// Checksums of the record and of its frame.
    Crc,
    /// In an open frame, until it is sealed.
    FrameWait,
    /// The frame's header and padding.
    Seal,
    /// From the sealed frame to its completion.
    Device,
    /// From the completion, or the store's answer, until the client sees it.
    Post,
    /// What none of these explains: the rest of the turn.
    Rest,
}

pub const LAYERS: usize = 10;

impl Layer {
    pub const ALL: [Layer; LAYERS] = [
        Layer::RingWait,
        Layer::Decode,
        Layer::Store,
        Layer::Encode,
        Layer::Crc,
        Layer::FrameWait,
        Layer::Seal,
        Layer::Device,
        Layer::Post,
        Layer::Rest,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Layer::RingWait => "ring wait",
            Layer::Decode => "decode",
            Layer::Store => "store",
            Layer::Encode => "encode",
            Layer::Crc => "crc",
            Layer::FrameWait => "frame wait",
            Layer::Seal => "seal",
            Layer::Device => "device",
            Layer::Post => "post",
            Layer::Rest => "rest",
        }
    }
}

/// One latency, and what of it was spent in each layer: the mean of the requests about as slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    pub latency_ns: u64,
    pub spent_ns: [u64; LAYERS],
}

#[cfg(not(feature = "perf-diagnostics"))]
mod off;
#[cfg(feature = "perf-diagnostics")]
mod on;

#[cfg(not(feature = "perf-diagnostics"))]
pub use off::*;
#[cfg(feature = "perf-diagnostics")]
pub use on::*;
