//! The clients of the kill and power tests: those of the soak, with few keys, so that they meet.

use std::sync::Arc;

use forebay::soak::content::Sizes;
use forebay::soak::writer::{End, Kind, Volume, Watch, Writer};
use forebay::types::Durability;

/// One of each kind, each with its own choices.
pub fn all(seed: u64, end: End) -> Vec<Writer> {
    let kinds = [
        ("strict", Durability::Strict, false, false),
        ("buffered", Durability::Buffered, false, true),
        ("memory", Durability::Memory, false, false),
        ("mixed", Durability::Strict, true, false),
    ];
    let volume = Volume {
        keys: 40,
        events_kept: u64::MAX,
        in_flight_max: 12,
        // So that a life does not fill the device.
        operations_per_life_max: 400,
        // After a kill an answer needs no sync to hold.
        sync_every: if end == End::PowerCut { 50 } else { u64::MAX },
        sizes: Sizes::new(1, 256 << 10),
    };
    let watch = Arc::new(Watch::default());
    let numbered = kinds.into_iter().zip(0..);
    let writer = |((name, durability, mixed, chained), number): ((&str, _, _, _), u64)| {
        let kind = Kind { name: name.to_owned(), durability, mixed, chained };
        Writer::new(kind, volume, end, seed ^ number, watch.clone())
    };
    numbered.map(writer).collect()
}
