//! redb: one writer at a time, `Durability::Immediate` or none.

use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use super::{Setup, Store, Worker};
use crate::case::{Class, KEY_BYTES};
use crate::figures::Failure;

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("bench");

pub struct Redb {
    database: Database,
    durability: Durability,
}

impl Redb {
    pub fn open(setup: &Setup<'_>) -> Result<Redb, Failure> {
        let durability = if setup.class == Class::Strict { Durability::Immediate } else { Durability::None };
        Ok(Redb { database: Database::create(setup.directory.join("redb"))?, durability })
    }
}

impl Store for Redb {
    fn worker(&self) -> Result<Box<dyn Worker + '_>, Failure> {
        Ok(Box::new(self))
    }
}

impl Worker for &Redb {
    fn put(&mut self, keys: &[[u8; KEY_BYTES]], value: &[u8]) -> Result<(), Failure> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(self.durability)?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for key in keys {
                table.insert(key.as_slice(), value)?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn get(&mut self, key: &[u8; KEY_BYTES]) -> Result<usize, Failure> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        Ok(table.get(key.as_slice())?.map_or(0, |value| value.value().len()))
    }
}
