//! What the requests of a thread took: a histogram a layer, and sums by how slow a request was.

use hdrhistogram::Histogram;

use crate::timing::{LAYERS, Layer, Split};

const NS_MAX: u64 = 100_000_000_000;
/// Classes of latencies, sixteen for each power of two: within 6 % of each other.
const CLASSES: usize = 64 * 16;

/// Requests about as slow as each other.
#[derive(Clone, Copy, Debug, Default)]
struct Class {
    requests: u64,
    latency_ns: u64,
    spent_ns: [u64; LAYERS],
}

#[derive(Clone, Debug)]
pub struct Measured {
    latency: Histogram<u64>,
    layers: [Histogram<u64>; LAYERS],
    classes: Vec<Class>,
}

impl Default for Measured {
    fn default() -> Measured {
        let histogram = || Histogram::new_with_bounds(1, NS_MAX, 3).expect("the bounds are valid");
        Measured {
            latency: histogram(),
            layers: std::array::from_fn(|_| histogram()),
            classes: vec![Class::default(); CLASSES],
        }
    }
}

fn class_of(ns: u64) -> usize {
    let ns = ns.max(16);
    let power = ns.ilog2();
    usize::try_from(u64::from(power) << 4 | ((ns >> (power - 4)) & 15)).expect("below 1,024")
}

impl Measured {
    /// What no layer took goes to the rest.
    pub(super) fn record(&mut self, latency_ns: u64, mut spent_ns: [u64; LAYERS]) {
        let known: u64 = spent_ns.iter().sum();
        spent_ns[Layer::Rest as usize] += latency_ns.saturating_sub(known);
        self.latency.saturating_record(latency_ns);
        let class = &mut self.classes[class_of(latency_ns)];
        class.requests += 1;
        class.latency_ns += latency_ns;
        for (number, ns) in spent_ns.into_iter().enumerate() {
            self.layers[number].saturating_record(ns);
            class.spent_ns[number] += ns;
        }
    }

    pub fn merge(&mut self, other: &Measured) {
        self.latency.add(&other.latency).expect("all have the same bounds");
        for (sum, layer) in self.layers.iter_mut().zip(&other.layers) {
            sum.add(layer).expect("all have the same bounds");
        }
        for (sum, class) in self.classes.iter_mut().zip(&other.classes) {
            sum.requests += class.requests;
            sum.latency_ns += class.latency_ns;
            sum.spent_ns.iter_mut().zip(class.spent_ns).for_each(|(sum, ns)| *sum += ns);
        }
    }

    #[must_use]
    pub fn requests(&self) -> u64 {
        self.latency.len()
    }

    /// The mean of the requests about as slow as that at this percentile.
    #[must_use]
    pub fn split(&self, percent: f64) -> Split {
        #[expect(clippy::cast_precision_loss, reason = "a rank among less than 2^53")]
        let rank = self.requests() as f64 * percent / 100.0;
        let mut passed = 0;
        let class = self.classes.iter().find(|class| {
            passed += class.requests;
            #[expect(clippy::cast_precision_loss, reason = "a rank among less than 2^53")]
            let reached = class.requests > 0 && passed as f64 >= rank;
            reached
        });
        let class = class.copied().unwrap_or_default();
        let mean = |sum: u64| sum / class.requests.max(1);
        Split { latency_ns: mean(class.latency_ns), spent_ns: class.spent_ns.map(mean) }
    }

    /// p50, p99.9 and the most of a layer, over all requests.
    #[must_use]
    pub fn spread(&self, layer: Layer) -> [u64; 3] {
        let layer = &self.layers[layer as usize];
        [layer.value_at_percentile(50.0), layer.value_at_percentile(99.9), layer.max()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_is_of_the_requests_at_its_percentile() {
        let (mut fast, mut slow) = (Measured::default(), Measured::default());
        let spent = |store, device| {
            let mut spent = [0; LAYERS];
            (spent[Layer::Store as usize], spent[Layer::Device as usize]) = (store, device);
            spent
        };
        (0..997).for_each(|_| fast.record(1_000, spent(700, 200)));
        (0..3).for_each(|_| slow.record(90_000, spent(800, 89_000)));
        fast.merge(&slow);
        assert_eq!(fast.requests(), 1_000);
        let of = |split: Split, layer: Layer| split.spent_ns[layer as usize];
        let (p50, p999) = (fast.split(50.0), fast.split(99.9));
        assert_eq!((p50.latency_ns, of(p50, Layer::Store), of(p50, Layer::Device)), (1_000, 700, 200));
        assert_eq!((of(p50, Layer::Rest), of(p999, Layer::Rest)), (100, 200));
        assert_eq!((p999.latency_ns, of(p999, Layer::Device)), (90_000, 89_000));
        assert_eq!(fast.spread(Layer::Store)[0], 700);
        assert_eq!(Measured::default().split(50.0), Split::default());
    }

    #[test]
    fn classes_rise_with_latency_and_hold_every_one() {
        let mut last = 0;
        for ns in [0, 1, 16, 17, 31, 32, 1_000, 1_060, 1 << 40, u64::MAX] {
            assert!(class_of(ns) >= last && class_of(ns) < CLASSES, "{ns}");
            last = class_of(ns);
        }
    }
}
