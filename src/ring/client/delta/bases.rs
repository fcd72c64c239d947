//! The bases that were used last, up to a number of bytes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::ring::client::Version;

/// What a base takes beside its key and value, about: two entries of maps.
const ENTRY_BYTES: usize = 128;

#[derive(Debug)]
pub struct Base {
    /// Which base it is, wherever it was copied to: 64 bits that were drawn for it.
    pub number: u64,
    /// Of its record.
    pub version: Version,
    /// Of its record: what a delta has to be smaller than.
    pub stored_bytes: usize,
    pub value: Vec<u8>,
}

#[derive(Debug)]
pub struct Bases {
    by_key: HashMap<Arc<[u8]>, (u64, Arc<Base>)>,
    /// By when they were used last.
    by_use: BTreeMap<u64, Arc<[u8]>>,
    uses: u64,
    bytes: usize,
    bytes_max: usize,
}

impl Bases {
    pub fn new(bytes_max: usize) -> Bases {
        Bases { by_key: HashMap::new(), by_use: BTreeMap::new(), uses: 0, bytes: 0, bytes_max }
    }

    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn get(&mut self, key: &[u8]) -> Option<Arc<Base>> {
        let (used, base) = self.by_key.get_mut(key)?;
        self.uses += 1;
        let key = self.by_use.remove(used)?;
        self.by_use.insert(self.uses, key);
        *used = self.uses;
        Some(base.clone())
    }

    pub fn insert(&mut self, key: &[u8], base: Arc<Base>) {
        self.remove(key);
        let bytes = bytes_of(key, &base);
        if bytes > self.bytes_max {
            return;
        }
        while self.bytes + bytes > self.bytes_max
            && let Some((_, oldest)) = self.by_use.first_key_value()
        {
            let oldest = oldest.clone();
            self.remove(&oldest);
        }
        self.uses += 1;
        self.bytes += bytes;
        let key: Arc<[u8]> = key.into();
        self.by_use.insert(self.uses, key.clone());
        self.by_key.insert(key, (self.uses, base));
    }

    pub fn remove(&mut self, key: &[u8]) {
        if let Some((used, base)) = self.by_key.remove(key) {
            self.by_use.remove(&used);
            self.bytes -= bytes_of(key, &base);
        }
    }
}

fn bytes_of(key: &[u8], base: &Base) -> usize {
    ENTRY_BYTES + key.len() + base.value.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(number: u64, bytes: usize) -> Arc<Base> {
        Arc::new(Base { number, version: 1, stored_bytes: bytes, value: vec![0; bytes] })
    }

    #[test]
    fn those_used_last_stay_within_the_bytes() {
        let mut bases = Bases::new(4 * (ENTRY_BYTES + 1 + 100));
        for key in 0..4 {
            bases.insert(&[key], base(key.into(), 100));
        }
        assert_eq!(bases.get(&[0]).map(|base| base.number), Some(0));
        bases.insert(&[4], base(4, 100));
        let held = |bases: &mut Bases| (0..6).filter(|key| bases.get(&[*key]).is_some()).collect::<Vec<u8>>();
        assert_eq!(held(&mut bases), [0, 2, 3, 4], "1 was used least recently");
        bases.insert(&[5], base(5, 300));
        assert_eq!((held(&mut bases), bases.len()), (vec![3, 4, 5], 3), "as many go as one needs");
        bases.insert(&[5], base(6, 10));
        assert_eq!(bases.get(&[5]).map(|base| base.number), Some(6));
        bases.insert(&[1], base(1, 100_000));
        assert_eq!(held(&mut bases), [3, 4, 5], "one that is too large drives nobody out");
        for key in [3, 4, 4, 5] {
            bases.remove(&[key]);
        }
        assert_eq!((bases.len(), bases.bytes(), bases.by_use.len()), (0, 0, 0));
    }
}
