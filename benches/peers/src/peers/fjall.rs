//! fjall: a write goes to the page cache by itself; strict ones are followed by `persist`, or are a batch that does it.

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Setup, Store, Worker};
use crate::case::{Class, KEY_BYTES};
use crate::figures::Failure;

pub struct Fjall {
    database: Database,
    keyspace: Keyspace,
    persist: PersistMode,
}

impl Fjall {
    pub fn open(setup: &Setup<'_>) -> Result<Fjall, Failure> {
        let database = Database::builder(setup.directory.join("fjall")).open()?;
        let keyspace = database.keyspace("bench", KeyspaceCreateOptions::default)?;
        let persist = if setup.class == Class::Strict { PersistMode::SyncData } else { PersistMode::Buffer };
        Ok(Fjall { database, keyspace, persist })
    }
}

impl Store for Fjall {
    fn worker(&self) -> Result<Box<dyn Worker + '_>, Failure> {
        Ok(Box::new(self))
    }
}

impl Worker for &Fjall {
    fn put(&mut self, keys: &[[u8; KEY_BYTES]], value: &[u8]) -> Result<(), Failure> {
        if let ([key], PersistMode::Buffer) = (keys, self.persist) {
            return Ok(self.keyspace.insert(key.as_slice(), value)?);
        }
        let mut batch = self.database.batch().durability(Some(self.persist));
        keys.iter().for_each(|key| batch.insert(&self.keyspace, key.as_slice(), value));
        Ok(batch.commit()?)
    }

    fn get(&mut self, key: &[u8; KEY_BYTES]) -> Result<usize, Failure> {
        Ok(self.keyspace.get(key)?.map_or(0, |value| value.len()))
    }
}
