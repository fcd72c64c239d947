//! Without the feature: nothing.

use super::{Layer, Split};

/// Whether this program measures layers.
pub const ENABLED: bool = false;

/// A moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment;

/// Tells the requests of one client from those of others.
#[derive(Debug, Default)]
pub struct Tag;

/// Time counts for a layer until this goes.
pub struct Guard;

/// A frame that is being sealed.
pub struct Sealing;

/// When a frame was sealed, and when it landed.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameStamp {}

/// What a thread's requests took.
#[derive(Clone, Debug, Default)]
pub struct Measured;

const _: () = assert!(size_of::<(Moment, Tag, Guard, Sealing, FrameStamp, Measured)>() == 0);

impl Tag {
    #[inline(always)]
    #[must_use]
    pub fn wire(&self, index: u32) -> u32 {
        index
    }

    #[inline(always)]
    #[must_use]
    pub fn index(&self, wire: u32) -> u32 {
        wire
    }
}

impl Sealing {
    #[inline(always)]
    #[must_use]
    pub fn ends(self) -> FrameStamp {
        FrameStamp {}
    }
}

impl FrameStamp {
    #[inline(always)]
    #[must_use]
    pub fn landed(self) -> FrameStamp {
        FrameStamp {}
    }
}

#[inline(always)]
#[must_use]
pub fn now() -> Moment {
    Moment
}

#[inline(always)]
pub fn submitted(_wire: u64, _since: Moment) {}

#[inline(always)]
pub fn taken(_wire: u64, _since: Moment) {}

#[inline(always)]
#[must_use]
pub fn enter(_layer: Layer) -> Guard {
    Guard
}

#[inline(always)]
#[must_use]
pub fn seal_begins() -> Sealing {
    Sealing
}

#[inline(always)]
pub fn applied() {}

#[inline(always)]
pub fn durable(_wire: u64, _frame: FrameStamp) {}

#[inline(always)]
pub fn posting(_wire: u64) {}

#[inline(always)]
pub fn seen(_wire: u64) {}

#[inline(always)]
pub fn measure_after(_ramp: std::time::Duration) {}

#[inline(always)]
#[must_use]
pub fn measured() -> Measured {
    Measured
}

impl Measured {
    pub fn merge(&mut self, _other: &Measured) {}

    #[must_use]
    pub fn requests(&self) -> u64 {
        0
    }

    #[must_use]
    pub fn split(&self, _percent: f64) -> Split {
        Split::default()
    }

    #[must_use]
    pub fn spread(&self, _layer: Layer) -> [u64; 3] {
        [0; 3]
    }
}
