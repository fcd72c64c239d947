//! An image to damage, with what it holds.

use crate::image::{Data, Image, Open, formatted, value};

/// A namespace of two lives: shard 0 over three segments with records of several frames, shard 1 over one; the first
/// life was killed, the second one stopped. Every acknowledged frame has its evidence. With what it holds.
pub fn sample(namespace: [u8; 16]) -> (Image, Data) {
    let puts: [(u32, &[u8], Vec<u8>); 9] = [
        (0, b"alpha", value(1, 100)),
        (1, b"beta", value(2, 3_000)),
        (0, b"large-1", value(3, 18_000)),
        (1, b"empty", Vec::new()),
        (0, b"large-2", value(4, 18_000)),
        (0, b"gamma", value(5, 900)),
        (0, b"large-3", value(6, 18_000)),
        (1, b"delta", value(7, 40)),
        (0, b"omega", value(8, 1_000)),
    ];
    let mut open = Open::start(&formatted(8, namespace));
    for (number, (shard, key, value)) in puts.iter().enumerate() {
        if number == 5 {
            open = Open::start(&open.image());
        }
        open.put(*shard, key, value);
        if number == 3 {
            open.watermark(false);
        }
    }
    open.watermark(true);
    let data = puts.into_iter().map(|(shard, key, value)| ((shard, key.to_vec()), value)).collect();
    (open.image(), data)
}
