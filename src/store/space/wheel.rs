//! Which keys are over, and when: a hierarchical timing wheel (Varghese and Lauck, 1987) whose lists run through the
//! keys' own cells. To file a key and to take it out costs the same however many there are, and nothing of it grows.

use crate::bytes::{get_u32, get_u64, len_u32, put_u32, put_u64};

/// Bytes of a node.
pub const NODE_BYTES: usize = 16;

const LEVELS: usize = 8;
/// Of one level: its buckets are as wide as the whole level below it, those of the first one a millisecond.
const LEVEL_BITS: u32 = 6;
const LEVEL_BUCKETS: usize = 1 << LEVEL_BITS;
const BUCKETS: usize = LEVELS * LEVEL_BUCKETS;
/// What is later, some 8,900 years after 1970, is filed here.
const MS_MAX: u64 = (1 << MS_BITS) - 1;
const MS_BITS: usize = LEVELS * LEVEL_BITS as usize;
/// No slot.
const NONE: u32 = u32::MAX;
/// In place of who is before the first one of a bucket: its number, counted from here on.
const FIRST: u32 = u32::MAX - 1_024;

/// A key's moment, and its neighbours: slots, or `NONE`, or the number of the bucket whose first one this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    pub at_ms: u64,
    before: u32,
    after: u32,
}

impl Node {
    /// From the front of what `write` wrote to.
    pub fn read(bytes: &[u8]) -> Node {
        Node { at_ms: get_u64(bytes, 0), before: get_u32(bytes, 8), after: get_u32(bytes, 12) }
    }

    pub fn write(self, bytes: &mut [u8]) {
        put_u64(bytes, 0, self.at_ms);
        put_u32(bytes, 8, self.before);
        put_u32(bytes, 12, self.after);
    }
}

/// Where the nodes are, by slot.
pub trait Nodes {
    fn node(&self, slot: u32) -> Node;
    fn set_node(&mut self, slot: u32, node: Node);
}

/// What one step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The moment of this slot is over. It stays until it is removed.
    Over(u32),
    /// One was filed anew, nearer to its moment.
    Filed,
}

pub struct Wheel {
    /// The first slot of each bucket.
    firsts: Box<[u32; BUCKETS]>,
    /// By level, a bit for each bucket that is not empty.
    occupied: [u64; LEVELS],
    /// All before it was looked at. No bucket that is not empty begins before it.
    now_ms: u64,
    len: usize,
}

impl Wheel {
    pub fn new() -> Wheel {
        Wheel { firsts: Box::new([NONE; BUCKETS]), occupied: [0; LEVELS], now_ms: 0, len: 0 }
    }

    /// Slots that are filed.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Files a slot that is not.
    pub fn insert(&mut self, nodes: &mut impl Nodes, slot: u32, at_ms: u64) {
        let bucket = self.bucket(at_ms);
        let after = std::mem::replace(&mut self.firsts[bucket], slot);
        nodes.set_node(slot, Node { at_ms, before: FIRST + len_u32(bucket), after });
        if after != NONE {
            let next = nodes.node(after);
            nodes.set_node(after, Node { before: slot, ..next });
        }
        self.occupied[bucket / LEVEL_BUCKETS] |= 1 << (bucket % LEVEL_BUCKETS);
        self.len += 1;
    }

    /// Takes a slot out that is filed.
    pub fn remove(&mut self, nodes: &mut impl Nodes, slot: u32) {
        let Node { before, after, .. } = nodes.node(slot);
        if before >= FIRST {
            let bucket = (before - FIRST) as usize;
            self.firsts[bucket] = after;
            if after == NONE {
                self.occupied[bucket / LEVEL_BUCKETS] &= !(1 << (bucket % LEVEL_BUCKETS));
            }
        } else {
            let node = nodes.node(before);
            nodes.set_node(before, Node { after, ..node });
        }
        if after != NONE {
            let node = nodes.node(after);
            nodes.set_node(after, Node { before, ..node });
        }
        self.len -= 1;
    }

    /// Does one step towards this moment; `None`: there is nothing before it.
    pub fn step(&mut self, nodes: &mut impl Nodes, now_ms: u64) -> Option<Step> {
        let now_ms = now_ms.min(MS_MAX);
        let Some((bucket, begin_ms)) = self.next().filter(|(_, begin_ms)| *begin_ms <= now_ms) else {
            self.now_ms = self.now_ms.max(now_ms);
            return None;
        };
        self.now_ms = begin_ms;
        let slot = self.firsts[bucket];
        let at_ms = nodes.node(slot).at_ms;
        if at_ms <= now_ms {
            return Some(Step::Over(slot));
        }
        self.remove(nodes, slot);
        self.insert(nodes, slot, at_ms);
        Some(Step::Filed)
    }

    /// When there is something to do, at the earliest.
    pub fn next_ms(&self) -> Option<u64> {
        self.next().map(|(_, begin_ms)| begin_ms)
    }

    /// The bucket that begins first, and when. In each level it is the lowest: what lies in a level differs from the
    /// present in that level's bits and in none above them, and lies ahead of it or in the bucket of the present.
    fn next(&self) -> Option<(usize, u64)> {
        let begin = |level: usize| {
            let lowest = self.occupied[level].trailing_zeros();
            let shift = len_u32(level) * LEVEL_BITS;
            let above_ms = self.now_ms >> (shift + LEVEL_BITS) << (shift + LEVEL_BITS);
            (level * LEVEL_BUCKETS + lowest as usize, above_ms | u64::from(lowest) << shift)
        };
        let levels = (0..LEVELS).filter(|level| self.occupied[*level] != 0);
        levels.map(begin).min_by_key(|(_, begin_ms)| *begin_ms)
    }

    /// Where a moment is filed: in the level of the highest bits in which it differs from the present.
    fn bucket(&self, at_ms: u64) -> usize {
        let at_ms = at_ms.clamp(self.now_ms, MS_MAX);
        let level = (at_ms ^ self.now_ms | 1).ilog2() / LEVEL_BITS;
        let index = crate::bytes::index(at_ms >> (level * LEVEL_BITS)) % LEVEL_BUCKETS;
        level as usize * LEVEL_BUCKETS + index
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    impl Nodes for Vec<Node> {
        fn node(&self, slot: u32) -> Node {
            self[slot as usize]
        }

        fn set_node(&mut self, slot: u32, node: Node) {
            self[slot as usize] = node;
        }
    }

    fn nodes(slots: usize) -> Vec<Node> {
        vec![Node { at_ms: 0, before: NONE, after: NONE }; slots]
    }

    /// Takes all out that are over. Gives how many steps it took.
    fn advance(wheel: &mut Wheel, nodes: &mut Vec<Node>, now_ms: u64, mut over: impl FnMut(u32)) -> usize {
        let mut steps = 0;
        while let Some(step) = wheel.step(nodes, now_ms) {
            steps += 1;
            if let Step::Over(slot) = step {
                wheel.remove(nodes, slot);
                over(slot);
            }
        }
        steps
    }

    #[test]
    fn every_slot_is_over_at_its_moment_and_not_before() {
        const SLOTS: u32 = 500;
        let (mut wheel, mut nodes) = (Wheel::new(), nodes(SLOTS as usize));
        let mut filed: BTreeMap<u32, u64> = BTreeMap::new();
        let (mut word, mut now_ms) = (7_u64, 1_700_000_000_000_u64);
        let mut draw = |below: u64| {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (word >> 33) % below
        };
        let mut over_in_all = 0;
        for _ in 0..60_000 {
            let slot = u32::try_from(draw(u64::from(SLOTS))).unwrap();
            if filed.remove(&slot).is_some() {
                wheel.remove(&mut nodes, slot);
            } else {
                // Over already, in a moment, in years, or never.
                let at_ms = match draw(8) {
                    0 => now_ms - draw(1_000),
                    7 => u64::MAX - draw(5),
                    scale => now_ms + draw(1 << (6 * scale.min(5))),
                };
                wheel.insert(&mut nodes, slot, at_ms);
                filed.insert(slot, at_ms);
            }
            if draw(3) == 0 {
                let scale = draw(11);
                now_ms += draw(1 << (3 * scale));
                advance(&mut wheel, &mut nodes, now_ms, |slot| {
                    let at_ms = filed.remove(&slot).expect("it was filed");
                    assert!(at_ms <= now_ms, "slot {slot} of {at_ms} is over at {now_ms}");
                    over_in_all += 1;
                });
                let late = filed.iter().find(|(_, at_ms)| **at_ms <= now_ms);
                assert_eq!(late, None, "at {now_ms}");
                let first = filed.values().min();
                assert_eq!(wheel.next_ms().is_some(), first.is_some());
                assert!(wheel.next_ms().is_none_or(|ms| ms > now_ms && ms <= *first.unwrap()), "it would be late");
            }
            assert_eq!(wheel.len(), filed.len());
        }
        assert!(over_in_all > 1_000, "{over_in_all}");
    }

    #[test]
    fn a_wheel_that_stops_in_between_goes_on() {
        let (mut wheel, mut nodes) = (Wheel::new(), nodes(1_000));
        (0..1_000).for_each(|slot| wheel.insert(&mut nodes, slot, 5_000_000 + u64::from(slot % 10)));
        let (mut steps, mut over) = (0, 0);
        while over < 900 {
            // The first ten turns of a clock that came to the middle of them; others are filed meanwhile.
            match wheel.step(&mut nodes, 5_000_008) {
                Some(Step::Over(slot)) => {
                    over += 1;
                    wheel.remove(&mut nodes, slot);
                    assert!(slot % 10 <= 8);
                }
                Some(Step::Filed) => {}
                None => panic!("{over} of 900 are over"),
            }
            steps += 1;
        }
        assert_eq!(wheel.len(), 100);
        // A slot comes down a level at a time, at most.
        assert!(steps <= 900 + 1_000 * LEVELS, "{steps} steps");
        advance(&mut wheel, &mut nodes, 5_000_008, |slot| panic!("slot {slot} is over"));
        assert_eq!(wheel.next_ms(), Some(5_000_009));
    }
}
