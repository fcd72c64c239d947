//! Serializability: what was done in one life is a graph, with an edge from each operation to those that must come after
//! it. Who wrote a version comes before who saw it (wr), and before who wrote the next one (ww); who saw a version comes
//! before who wrote the next one (rw). Where there is a cycle, no order of one after another explains what was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::sim::action::Action;
use crate::sim::oracle::{Oracle, Verdict};
use crate::types::ObjectId;

type Key = (ObjectId, Vec<u8>);

/// One operation that took place.
struct Node {
    action: Rc<Action>,
    /// Versions that it saw; 0: absent.
    reads: Vec<(Key, u64)>,
    /// Keys that it wrote, and that all have this version.
    writes: Vec<Key>,
    version: u64,
}

#[derive(Default)]
pub struct Graph {
    nodes: Vec<Node>,
    /// Keys that were deleted, or have a time to live: of one that is absent nobody knows since when.
    deleted: BTreeSet<Key>,
}

impl Graph {
    /// A write or a commit took place.
    pub fn note(&mut self, action: &Rc<Action>, version: u64) {
        let reads = action.key_reads().map(|(step, seen)| ((step.space.id, step.key.clone()), seen)).collect();
        let mut writes = Vec::new();
        for (object, key, value) in action.key_writes() {
            let key = (object, key.to_vec());
            if value.is_none() || action.ttl_ms().is_some() {
                self.deleted.insert(key.clone());
            }
            writes.push(key);
        }
        self.nodes.push(Node { action: action.clone(), reads, writes, version });
    }

    /// A scan saw all of this at one moment.
    pub fn note_scan(&mut self, action: &Rc<Action>, seen: Vec<(ObjectId, Vec<u8>, u64)>) {
        let reads = seen.into_iter().map(|(object, key, version)| ((object, key), version)).collect();
        self.nodes.push(Node { action: action.clone(), reads, writes: Vec::new(), version: 0 });
    }

    /// By node, those that must come after it.
    fn edges(&self) -> Vec<BTreeSet<usize>> {
        let mut writers: BTreeMap<&Key, BTreeMap<u64, usize>> = BTreeMap::new();
        for (number, node) in self.nodes.iter().enumerate() {
            for key in &node.writes {
                writers.entry(key).or_default().insert(node.version, number);
            }
        }
        let mut edges = vec![BTreeSet::new(); self.nodes.len()];
        for versions in writers.values() {
            for (before, after) in versions.values().zip(versions.values().skip(1)) {
                edges[*before].insert(*after);
            }
        }
        for (number, node) in self.nodes.iter().enumerate() {
            for (key, seen) in &node.reads {
                let Some(versions) = writers.get(key) else { continue };
                if *seen == 0 && self.deleted.contains(key) {
                    continue;
                }
                if let Some(writer) = versions.get(seen) {
                    edges[*writer].insert(number);
                }
                if let Some((_, next)) = versions.range(seen + 1..).find(|(_, next)| **next != number) {
                    edges[number].insert(*next);
                }
            }
        }
        edges
    }

    /// Operations of which each must come before the next, and the last before the first.
    fn cycle(&self) -> Option<Vec<usize>> {
        let edges = self.edges();
        let mut before = vec![0; edges.len()];
        edges.iter().flatten().for_each(|after| before[*after] += 1);
        let mut free: Vec<usize> = (0..edges.len()).filter(|node| before[*node] == 0).collect();
        while let Some(node) = free.pop() {
            for after in &edges[node] {
                before[*after] -= 1;
                if before[*after] == 0 {
                    free.push(*after);
                }
            }
        }
        // Each that is left has one before it that is left too: going back from any of them ends in a cycle.
        let left: Vec<usize> = (0..edges.len()).filter(|node| before[*node] > 0).collect();
        let mut path = vec![*left.first()?];
        loop {
            let last = path[path.len() - 1];
            let previous = left.iter().copied().find(|node| edges[*node].contains(&last))?;
            if let Some(at) = path.iter().position(|node| *node == previous) {
                let mut cycle = path.split_off(at);
                cycle.reverse();
                return Some(cycle);
            }
            path.push(previous);
        }
    }
}

impl Oracle {
    /// A life is over: what took place in it must have an order.
    pub fn check_order(&mut self) -> Verdict {
        let mut graph = std::mem::take(&mut self.graph);
        // Who deleted without an answer may have made a key absent as well.
        for action in self.possible() {
            let ends = action.ttl_ms().is_some();
            let deletes = action.key_writes().into_iter().filter(|(.., value)| value.is_none() || ends);
            graph.deleted.extend(deletes.map(|(object, key, _)| (object, key.to_vec())));
        }
        let Some(cycle) = graph.cycle() else { return Ok(()) };
        let words = cycle.iter().map(|node| {
            let Node { version, action, .. } = &graph.nodes[*node];
            format!("version {version}: {action:?}")
        });
        let words: Vec<String> = words.collect();
        Err(format!("a cycle: no order of one after another explains what was seen: {}", words.join("; then ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(reads: &[(u8, u64)], writes: &[u8], version: u64) -> Node {
        let key = |name: u8| (ObjectId(1), vec![name]);
        let reads = reads.iter().map(|(name, seen)| (key(*name), *seen)).collect();
        let action = Rc::new(Action::Sync { reactor: 0 });
        Node { action, reads, writes: writes.iter().map(|name| key(*name)).collect(), version }
    }

    fn cycle(nodes: Vec<Node>) -> Option<Vec<usize>> {
        Graph { nodes, deleted: BTreeSet::new() }.cycle()
    }

    #[test]
    fn one_after_another_is_no_cycle() {
        let counter = |version| node(&[(b'x', version - 1)], b"x", version);
        assert_eq!(cycle((1..100).map(counter).collect()), None);
        let reader = node(&[(b'x', 5), (b'y', 0)], b"", 0);
        assert_eq!(cycle((1..9).map(counter).chain([reader]).collect()), None);
    }

    #[test]
    fn anomalies_are_cycles() {
        let start = || node(&[], b"xy", 1);
        // A lost update: both saw version 1.
        let lost = vec![start(), node(&[(b'x', 1)], b"x", 2), node(&[(b'x', 1)], b"x", 3)];
        assert_eq!(cycle(lost).map(|cycle| cycle.len()), Some(2));
        // A write skew: each saw what the other wrote over.
        let skew = vec![start(), node(&[(b'y', 1)], b"x", 2), node(&[(b'x', 1)], b"y", 3)];
        assert_eq!(cycle(skew).map(|cycle| cycle.len()), Some(2));
        // A read of one key before and of another one after a commit that wrote both.
        let torn = vec![start(), node(&[], b"xy", 2), node(&[(b'x', 1), (b'y', 2)], b"", 0)];
        assert_eq!(cycle(torn).map(|cycle| cycle.len()), Some(2));
        // Two that saw absence, and wrote what the other did not see.
        let absent = vec![node(&[(b'a', 0)], b"b", 1), node(&[(b'b', 0)], b"a", 2)];
        assert_eq!(cycle(absent).map(|cycle| cycle.len()), Some(2));
    }
}
