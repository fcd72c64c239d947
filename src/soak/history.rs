//! What one client issued and what was acknowledged, held against what is there after a restart:
//! acknowledged ⊆ recovered ⊆ issued, in order.

use std::collections::VecDeque;

/// One write of a register. Numbers grow with every operation of a client and never come again.
#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u64,
    content: u64,
    acknowledged: bool,
}

/// Something that holds one content at a time: a key's value, or where a stream begins.
#[derive(Clone, Debug)]
pub struct Register {
    entries: Vec<Entry>,
}

/// How much of a client's history a recovered state holds: everything up to `low`, nothing from `high` on.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub low: u64,
    pub high: u64,
    /// Operations that were recovered without having been acknowledged.
    pub beyond: u64,
}

impl Register {
    #[must_use]
    pub fn new(content: u64) -> Register {
        Register { entries: vec![Entry { number: 0, content, acknowledged: true }] }
    }

    /// The last one issued: its number, and what it leaves.
    #[must_use]
    pub fn last(&self) -> (u64, u64) {
        self.entries.last().map_or((0, 0), |entry| (entry.number, entry.content))
    }

    pub fn issue(&mut self, number: u64, content: u64) {
        self.entries.push(Entry { number, content, acknowledged: false });
    }

    /// What was issued before it is not what may be found from now on.
    ///
    /// # Panics
    /// When it was never issued.
    pub fn acknowledge(&mut self, number: u64) {
        match self.entries.iter().position(|entry| entry.number == number) {
            Some(at) => {
                self.entries[at].acknowledged = true;
                self.entries.drain(..at);
            }
            None => assert!(number < self.entries[0].number, "only what was issued is acknowledged"),
        }
    }

    /// The operation changed nothing.
    pub fn retract(&mut self, number: u64) {
        self.entries.retain(|entry| entry.number != number);
    }

    pub fn acknowledge_all(&mut self) {
        self.entries.drain(..self.entries.len() - 1);
        self.entries[0].acknowledged = true;
    }

    /// Holds the history against what was found, and goes on from there.
    ///
    /// # Errors
    /// What was expected, and what was found.
    pub fn recovered(&mut self, found: u64) -> Result<Extent, String> {
        // The first entry is the last one that is acknowledged.
        let mut candidates = (0..self.entries.len()).filter(|at| self.entries[*at].content == found);
        let Some(first) = candidates.next() else {
            let expected: Vec<String> = self.entries.iter().map(|entry| told(entry.content)).collect();
            let (found, expected) = (told(found), expected.join(", or then issued "));
            return Err(format!("expected what was acknowledged, {expected}; found {found}"));
        };
        let end = candidates.next_back().unwrap_or(first);
        let extent = Extent {
            low: self.entries[first].number,
            high: self.entries.get(end + 1).map_or(u64::MAX, |entry| entry.number),
            beyond: first as u64,
        };
        self.entries = vec![Entry { number: extent.low, content: found, acknowledged: true }];
        Ok(extent)
    }
}

fn told(content: u64) -> String {
    if content == 0 { "nothing".to_owned() } else { format!("the content of operation {content}") }
}

/// The events of a stream that only one client writes to.
#[derive(Clone, Debug, Default)]
pub struct Events {
    /// Those below this offset are forgotten; the last of them came with this operation.
    first: u64,
    forgotten: u64,
    /// The number of the operation that each event came with, by offset.
    numbers: VecDeque<u64>,
    /// Events below this offset are acknowledged.
    acknowledged: u64,
}

impl Events {
    #[must_use]
    pub fn next(&self) -> u64 {
        self.first + self.numbers.len() as u64
    }

    /// Gives the offset of the first one.
    pub fn issue(&mut self, number: u64, count: usize) -> u64 {
        let first = self.next();
        self.numbers.resize(self.numbers.len() + count, number);
        first
    }

    /// Events below this offset will not be asked for again: they are trimmed, and that is acknowledged.
    pub fn forget(&mut self, before: u64) {
        while self.first < before {
            let Some(number) = self.numbers.pop_front() else { return };
            (self.first, self.forgotten) = (self.first + 1, number);
        }
    }

    pub fn acknowledge(&mut self, end: u64) {
        self.acknowledged = self.acknowledged.max(end);
    }

    /// `None`: there is no such event, or it is forgotten.
    #[must_use]
    pub fn number(&self, offset: u64) -> Option<u64> {
        self.numbers.get(usize::try_from(offset.checked_sub(self.first)?).ok()?).copied()
    }

    /// Holds the history against the offset where the stream was found to end, and goes on from there.
    ///
    /// # Errors
    /// What was expected, and what was found.
    pub fn recovered(&mut self, end: u64) -> Result<Extent, String> {
        if end < self.acknowledged || end > self.next() {
            let (acknowledged, issued) = (self.acknowledged, self.next());
            return Err(format!(
                "expected the stream to end at {acknowledged}, which was acknowledged, up to {issued}, which was issued; \
                 found that it ends at {end}"
            ));
        }
        let low = end.checked_sub(1).and_then(|last| self.number(last)).unwrap_or(self.forgotten);
        let high = self.number(end).unwrap_or(u64::MAX);
        if low == high {
            return Err(format!("a stream ends at {end}, in the midst of a batch"));
        }
        let beyond = end - self.acknowledged;
        self.numbers.truncate(usize::try_from(end - self.first).map_err(|_| "a stream beyond all memory")?);
        self.acknowledged = end;
        Ok(Extent { low, high, beyond })
    }
}

/// Whether all parts of one client's history in one shard were cut at one place.
///
/// # Errors
/// Two operations that a cut at one place would not part so.
pub fn one_prefix(extents: &[Extent]) -> Result<(), String> {
    let low = extents.iter().map(|extent| extent.low).max().unwrap_or(0);
    let high = extents.iter().map(|extent| extent.high).min().unwrap_or(u64::MAX);
    if low < high { Ok(()) } else { Err(format!("operation {low} was recovered, and {high} before it was not")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_can_be_broken() {
        let mut register = Register::new(0);
        register.issue(1, 1);
        register.issue(2, 2);
        register.issue(3, 3);
        register.acknowledge(1);
        assert!(register.clone().recovered(0).is_err(), "an acknowledged write is gone");
        assert!(register.clone().recovered(7).is_err(), "nobody wrote that");
        let extent = register.recovered(2).unwrap();
        assert_eq!((extent.low, extent.high, extent.beyond), (2, 3, 1));
        assert!(register.recovered(3).is_err(), "what was cut came back");

        let mut events = Events::default();
        assert_eq!((events.issue(4, 1), events.issue(5, 3), events.issue(6, 1)), (0, 1, 4));
        events.acknowledge(1);
        assert!(events.clone().recovered(0).is_err() && events.clone().recovered(6).is_err());
        assert!(events.clone().recovered(2).is_err(), "half a batch");
        let after = events.recovered(4).unwrap();
        assert_eq!((after.low, after.high), (5, 6));
        assert!(one_prefix(&[extent, after]).is_err(), "3 was lost and 5 was not");
        assert!(one_prefix(&[after]).is_ok());
    }

    #[test]
    fn what_nobody_asks_for_again_is_forgotten() {
        let mut register = Register::new(0);
        (1..1_000).for_each(|number| register.issue(number, number));
        register.acknowledge(998);
        // An answer that came out of order.
        register.acknowledge(500);
        assert_eq!(register.entries.len(), 2);
        assert!(register.clone().recovered(500).is_err() && register.recovered(999).is_ok());

        let mut events = Events::default();
        (1..=1_000).for_each(|number| _ = events.issue(number, 1));
        events.acknowledge(1_000);
        events.forget(1_000);
        assert_eq!((events.next(), events.number(999), events.numbers.len()), (1_000, None, 0));
        assert!(events.clone().recovered(999).is_err());
        let extent = events.recovered(1_000).unwrap();
        assert_eq!((extent.low, extent.high), (1_000, u64::MAX));
    }
}
