//! What one client issued and what was acknowledged, held against what is there after a restart:
//! acknowledged ⊆ recovered ⊆ issued, in order.

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
    pub fn new(content: u64) -> Register {
        Register { entries: vec![Entry { number: 0, content, acknowledged: true }] }
    }

    pub fn issue(&mut self, number: u64, content: u64) {
        self.entries.push(Entry { number, content, acknowledged: false });
    }

    pub fn acknowledge(&mut self, number: u64) {
        let entry = self.entries.iter_mut().find(|entry| entry.number == number);
        entry.expect("only what was issued is acknowledged").acknowledged = true;
    }

    /// The operation changed nothing.
    pub fn retract(&mut self, number: u64) {
        self.entries.retain(|entry| entry.number != number);
    }

    pub fn acknowledge_all(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.acknowledged = true);
    }

    /// Holds the history against what was found, and goes on from there.
    pub fn recovered(&mut self, found: u64) -> Result<Extent, String> {
        let last = self.entries.iter().rposition(|entry| entry.acknowledged).expect("the first one is");
        let fits = |at: &usize| self.entries[*at].content == found;
        let candidates: Vec<usize> = (last..self.entries.len()).filter(fits).collect();
        let (Some(first), Some(end)) = (candidates.first(), candidates.last()) else {
            return Err(format!("found {found}, acknowledged or issued later: {:?}", &self.entries[last..]));
        };
        let extent = Extent {
            low: self.entries[*first].number,
            high: self.entries.get(end + 1).map_or(u64::MAX, |entry| entry.number),
            beyond: (first - last) as u64,
        };
        self.entries = vec![Entry { number: extent.low, content: found, acknowledged: true }];
        Ok(extent)
    }
}

/// The events of a stream that only one client writes to.
#[derive(Clone, Debug, Default)]
pub struct Events {
    /// The number of the operation that each event came with, by offset.
    numbers: Vec<u64>,
    /// Events below this offset are acknowledged.
    acknowledged: u64,
}

impl Events {
    pub fn next(&self) -> u64 {
        self.numbers.len() as u64
    }

    /// Gives the offset of the first one.
    pub fn issue(&mut self, number: u64, count: usize) -> u64 {
        let first = self.next();
        self.numbers.resize(self.numbers.len() + count, number);
        first
    }

    pub fn acknowledge(&mut self, end: u64) {
        self.acknowledged = self.acknowledged.max(end);
    }

    pub fn number(&self, offset: u64) -> Option<u64> {
        self.numbers.get(usize::try_from(offset).ok()?).copied()
    }

    /// Holds the history against the offset where the stream was found to end, and goes on from there.
    pub fn recovered(&mut self, end: u64) -> Result<Extent, String> {
        if end < self.acknowledged || end > self.next() {
            let (acknowledged, issued) = (self.acknowledged, self.next());
            return Err(format!("a stream ends at {end}: {acknowledged} acknowledged, {issued} issued"));
        }
        let low = end.checked_sub(1).and_then(|last| self.number(last)).unwrap_or(0);
        let high = self.number(end).unwrap_or(u64::MAX);
        if low == high {
            return Err(format!("a stream ends at {end}, in the midst of a batch"));
        }
        let beyond = end - self.acknowledged;
        self.numbers.truncate(usize::try_from(end).expect("it was issued"));
        self.acknowledged = end;
        Ok(Extent { low, high, beyond })
    }
}

/// Whether all parts of one client's history in one shard were cut at one place.
pub fn one_prefix(extents: &[Extent]) -> Result<(), String> {
    let low = extents.iter().map(|extent| extent.low).max().unwrap_or(0);
    let high = extents.iter().map(|extent| extent.high).min().unwrap_or(u64::MAX);
    if low < high { Ok(()) } else { Err(format!("operation {low} was recovered, and {high} before it was not")) }
}

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
