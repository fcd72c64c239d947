//! What the next operation is: read or write, which key, how large. Deterministic for a seed; nothing here allocates
//! after it is made, and a draw takes the same time however many keys there are.

use super::job::{Job, Order, Sizes};
use rand::distr::Distribution;
use rand::{RngExt, SeedableRng};
use rand_distr::Zipf;
use rand_xoshiro::Xoshiro256PlusPlus;

/// A well mixed 64-bit word of `word` (the finalizer of SplitMix64).
#[must_use]
pub fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The operations of one thread of a job, one after another.
pub struct Operations {
    rng: Xoshiro256PlusPlus,
    read_percent: u32,
    modify_percent: u32,
    insert_percent: u32,
    scan_length: (u32, u32),
    keys: Keys,
    inserts: Inserts,
    sizes: Vec<(u32, u32)>,
    /// Of transactions: each with the first share that is no longer its own; and the rows of each table.
    profiles: Vec<u32>,
    tables: Vec<Keys>,
}

/// The next operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    pub what: What,
    pub key: u64,
    pub bytes: u32,
}

/// What is done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Read,
    /// So many pairs from the key on.
    Scan(u32),
    Write,
    /// The key is a new one.
    Insert,
    /// Read, then write.
    Modify,
}

/// The keys that a thread makes: those of the threads of a job take turns behind the job's own.
struct Inserts {
    first: u64,
    step: u64,
    made: u64,
}

impl Inserts {
    fn next(&mut self) -> u64 {
        self.made += 1;
        self.first + (self.made - 1) * self.step
    }

    /// The key of this age, 0 for the newest: the thread's own new keys, then the last of the job's `keys`, and back.
    fn aged(&self, age: u64, keys: u64) -> u64 {
        match self.made.checked_sub(age + 1) {
            Some(number) => self.first + number * self.step,
            None => keys.saturating_sub(1 + age - self.made),
        }
    }
}

impl Operations {
    /// `clone` tells the threads of one job apart.
    #[must_use]
    pub fn new(job: &Job, clone: u32) -> Operations {
        let seed = mix(job.seed ^ mix(u64::from(clone)));
        Operations {
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            read_percent: job.read_percent,
            modify_percent: job.modify_percent,
            insert_percent: job.insert_percent,
            scan_length: job.scan_length.unwrap_or((0, 0)),
            inserts: Inserts { first: job.keys + u64::from(clone), step: u64::from(job.numjobs), made: 0 },
            keys: Keys::new(job.order, job.keys, seed),
            sizes: cumulative(&job.sizes),
            profiles: sums(job.transactions.iter().map(|profile| profile.percent)).collect(),
            tables: (0..)
                .zip(&job.tables)
                .map(|(place, table)| Keys::new(job.order, table.rows, seed ^ place))
                .collect(),
        }
    }

    pub fn draw(&mut self) -> Draw {
        let what = self.draw_what();
        let bytes = self.draw_bytes();
        let key = match what {
            What::Insert => self.inserts.next(),
            What::Scan(pairs) => self.keys.draw(&mut self.rng, &self.inserts, u64::from(pairs)),
            _ => self.keys.draw(&mut self.rng, &self.inserts, 1),
        };
        Draw { what, key, bytes }
    }

    fn draw_bytes(&mut self) -> u32 {
        match self.sizes.as_slice() {
            [(bytes, _)] => *bytes,
            sizes => {
                let share = self.rng.random_range(0..100);
                sizes.iter().find(|(_, up_to)| share < *up_to).map_or(0, |(bytes, _)| *bytes)
            }
        }
    }

    /// Which of the job's profiles the next transaction has.
    pub fn draw_profile(&mut self) -> usize {
        let share = self.rng.random_range(0..100);
        self.profiles.iter().position(|up_to| share < *up_to).expect("the shares add up to 100")
    }

    /// A row of a table, and the bytes of a value for it.
    pub fn draw_row(&mut self, table: usize) -> (u64, u32) {
        (self.tables[table].draw(&mut self.rng, &self.inserts, 1), self.draw_bytes())
    }

    fn draw_what(&mut self) -> What {
        let read = match self.read_percent {
            0 => false,
            100 => true,
            percent => self.rng.random_range(0..100) < percent,
        };
        match (read, self.scan_length) {
            (true, (_, 0)) => return What::Read,
            (true, (least, most)) if least == most => return What::Scan(most),
            (true, (least, most)) => return What::Scan(self.rng.random_range(least..=most)),
            (false, _) if self.modify_percent + self.insert_percent == 0 => return What::Write,
            (false, _) => {}
        }
        let share: u32 = self.rng.random_range(0..100);
        match share.checked_sub(self.modify_percent) {
            None => What::Modify,
            Some(share) if share < self.insert_percent => What::Insert,
            Some(_) => What::Write,
        }
    }
}

fn cumulative(sizes: &Sizes) -> Vec<(u32, u32)> {
    let sums = sums(sizes.0.iter().map(|(_, percent)| *percent));
    sizes.0.iter().map(|(bytes, _)| *bytes).zip(sums).collect()
}

fn sums(percents: impl Iterator<Item = u32>) -> impl Iterator<Item = u32> {
    percents.scan(0, |sum, percent| {
        *sum += percent;
        Some(*sum)
    })
}

/// Key numbers in 0..keys.
enum Keys {
    Sequential { next: u64, keys: u64 },
    Shuffled { next: u64, shuffle: Shuffle, seed: u64 },
    Uniform { keys: u64 },
    Zipf { zipf: Zipf<f64>, scatter: Shuffle },
    Latest { zipf: Zipf<f64>, keys: u64 },
}

impl Keys {
    fn new(order: Order, keys: u64, seed: u64) -> Keys {
        match order {
            Order::Sequential => Keys::Sequential { next: 0, keys },
            Order::Shuffled => Keys::Shuffled { next: 0, shuffle: Shuffle::new(keys, seed), seed },
            Order::Uniform => Keys::Uniform { keys },
            // The same for all threads and jobs: hot keys are hot for everyone.
            Order::Zipf(theta) => Keys::Zipf { zipf: zipf(keys, theta), scatter: Shuffle::new(keys, 0) },
            Order::Latest(theta) => Keys::Latest { zipf: zipf(keys, theta), keys },
        }
    }

    /// The next key. What goes in order goes `step` keys on.
    fn draw(&mut self, rng: &mut Xoshiro256PlusPlus, inserts: &Inserts, step: u64) -> u64 {
        match self {
            Keys::Sequential { next, keys } => {
                let key = *next;
                *next = if key + step >= *keys { 0 } else { key + step };
                key
            }
            Keys::Shuffled { next, shuffle, seed } => {
                if *next == shuffle.keys {
                    *next = 0;
                    *seed = mix(*seed);
                    *shuffle = Shuffle::new(shuffle.keys, *seed);
                }
                *next += 1;
                shuffle.place(*next - 1)
            }
            Keys::Uniform { keys } => rng.random_range(0..*keys),
            Keys::Zipf { zipf, scatter } => scatter.place(rank(zipf, rng).min(scatter.keys - 1)),
            Keys::Latest { zipf, keys } => inserts.aged(rank(zipf, rng), *keys),
        }
    }
}

fn zipf(keys: u64, theta: f64) -> Zipf<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a rank beyond 2^53 is out of reach")]
    Zipf::new(keys as f64, theta).expect("a parsed job has a key and theta >= 0")
}

/// From 0, the most frequent.
fn rank(zipf: &Zipf<f64>, rng: &mut Xoshiro256PlusPlus) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number, 1..=keys")]
    let rank = zipf.sample(rng) as u64;
    rank - 1
}

/// A permutation of 0..keys in constant memory: a Feistel network over the next even number of bits, walked until it
/// lands in range (at most four steps on average).
struct Shuffle {
    keys: u64,
    half_bits: u32,
    rounds: [u64; 4],
}

impl Shuffle {
    fn new(keys: u64, seed: u64) -> Shuffle {
        let bits = u64::BITS - keys.saturating_sub(1).leading_zeros();
        let rounds = [1, 2, 3, 4].map(|round| mix(seed ^ round << 56));
        Shuffle { keys, half_bits: bits.div_ceil(2).max(1), rounds }
    }

    fn place(&self, number: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let mut word = number;
        loop {
            let (mut left, mut right) = (word >> self.half_bits, word & mask);
            for round in self.rounds {
                (left, right) = (right, left ^ (mix(right ^ round) & mask));
            }
            word = left << self.half_bits | right;
            if word < self.keys {
                return word;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::parse::parse;

    fn operations(options: &str, clone: u32) -> Operations {
        let file = parse(&format!("[j]\nsize=1m\n{options}"), "t").unwrap();
        Operations::new(&file.jobs[0], clone)
    }

    fn keys(options: &str, clone: u32, count: usize) -> Vec<u64> {
        let mut operations = operations(options, clone);
        (0..count).map(|_| operations.draw().key).collect()
    }

    #[test]
    fn one_seed_one_sequence() {
        for options in ["rw=randrw\nkeys=1000", "rw=randread\nkeys=1000\nrandom_distribution=zipf:1.1"] {
            assert_eq!(keys(options, 0, 500), keys(options, 0, 500));
            assert_ne!(keys(options, 0, 500), keys(options, 1, 500));
            assert_ne!(keys(options, 0, 500), keys(&format!("{options}\nrandseed=7"), 0, 500));
        }
    }

    #[test]
    fn a_shuffle_visits_every_key_once_a_pass() {
        for count in [1, 2, 3, 7, 64, 1000, 4097] {
            let all = keys(&format!("rw=randwrite\nkeys={count}"), 0, 2 * count);
            let (first, second) = all.split_at(count);
            for pass in [first, second] {
                let mut sorted = pass.to_vec();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..count as u64).collect::<Vec<_>>(), "{count} keys");
            }
            assert!(count < 64 || first != second, "each pass has its own order");
            assert!(count < 64 || first.windows(2).filter(|pair| pair[0] < pair[1]).count() < count * 3 / 4);
        }
    }

    #[test]
    fn sequential_wraps() {
        assert_eq!(keys("rw=write\nspace=s\nkeys=3", 0, 7), [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn uniform_draws_are_even() {
        let mut counts = [0_u32; 16];
        for key in keys("rw=randread\nkeys=16\nnorandommap", 0, 160_000) {
            counts[usize::try_from(key).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn zipf_follows_its_law() {
        let draws = keys("rw=randread\nkeys=1000000\nrandom_distribution=zipf:1.0", 0, 200_000);
        let mut counts = std::collections::HashMap::new();
        for key in &draws {
            *counts.entry(*key).or_insert(0_u32) += 1;
        }
        let mut ranked: Vec<u32> = counts.into_values().collect();
        ranked.sort_unstable_by(|a, b| b.cmp(a));
        // H(1,000,000) = 14.39: the hottest key has 6.95 % of all draws, the second half of that, the tenth a tenth.
        let share = |rank: usize| f64::from(ranked[rank - 1]) / 200_000.0;
        assert!((0.065..0.074).contains(&share(1)), "{}", share(1));
        assert!((0.45..0.55).contains(&(share(2) / share(1))), "{}", share(2));
        assert!((0.08..0.12).contains(&(share(10) / share(1))), "{}", share(10));
        assert!(draws.iter().all(|key| *key < 1_000_000));
        assert!(draws.iter().filter(|key| **key < 500_000).count() > 60_000, "hot keys are scattered");
    }

    #[test]
    fn reads_and_sizes_have_their_shares() {
        let mut operations = operations("rw=randrw\nrwmixread=70\nkeys=100\nbssplit=1k/25:4k/75", 0);
        let draws: Vec<Draw> = (0..100_000).map(|_| operations.draw()).collect();
        let reads = draws.iter().filter(|draw| draw.what == What::Read).count();
        let small = draws.iter().filter(|draw| draw.bytes == 1_024).count();
        assert!((69_000..71_000).contains(&reads), "{reads}");
        assert!((24_000..26_000).contains(&small), "{small}");
    }

    #[test]
    fn writes_have_their_shares_and_inserts_are_new_keys_in_order() {
        let options = "rw=randrw\nrwmixread=50\nkeys=100\nmodify_percent=60\ninsert_percent=10\nnumjobs=3\n\
                       scan_length=5-9";
        let mut operations = operations(options, 1);
        let draws: Vec<Draw> = (0..100_000).map(|_| operations.draw()).collect();
        let count = |what: fn(&What) -> bool| draws.iter().filter(|draw| what(&draw.what)).count();
        let modified = count(|what| *what == What::Modify);
        assert!((29_000..31_000).contains(&modified), "{modified}");
        let written = count(|what| *what == What::Write);
        assert!((14_000..16_000).contains(&written), "{written}");
        let new: Vec<u64> = draws.iter().filter(|draw| draw.what == What::Insert).map(|draw| draw.key).collect();
        assert!((4_500..5_500).contains(&new.len()), "{}", new.len());
        assert!((0..).zip(&new).all(|(number, key)| *key == 101 + 3 * number), "{:?}", &new[..5]);
        assert!(draws.iter().all(|draw| draw.what == What::Insert || draw.key < 100));
        for pairs in 4..=10 {
            let found = draws.iter().filter(|draw| draw.what == What::Scan(pairs)).count();
            let expected = if (5..=9).contains(&pairs) { 9_300..10_700 } else { 0..1 };
            assert!(expected.contains(&found), "{found} scans of {pairs}");
        }
    }

    #[test]
    fn the_latest_key_is_the_hottest() {
        let mut operations =
            operations("rw=randrw\nrwmixread=95\ninsert_percent=100\nkeys=1000\nrandom_distribution=latest:1.0", 0);
        let (mut newest, mut ages) = (999, [0_u32; 3]);
        for _ in 0..100_000 {
            let draw = operations.draw();
            match draw.what {
                What::Insert => {
                    assert_eq!(draw.key, newest + 1);
                    newest = draw.key;
                }
                _ => {
                    assert!(draw.key <= newest, "{} does not exist yet", draw.key);
                    let age = usize::try_from(newest - draw.key).unwrap();
                    ages.iter_mut().skip(age).take(1).for_each(|count| *count += 1);
                }
            }
        }
        // H(1,000) = 7.49: 95,000 reads, 13.4 % of the newest, half of that of the one before.
        assert!((12_000..13_400).contains(&ages[0]), "{ages:?}");
        assert!((5_900..6_800).contains(&ages[1]), "{ages:?}");
    }

    #[test]
    fn scans_in_order_go_on_where_the_one_before_ended() {
        assert_eq!(keys("rw=read\nspace=s\nkeys=25\nscan_length=10", 0, 5), [0, 10, 20, 0, 10]);
    }
}
