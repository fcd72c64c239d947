//! RocksDB: writers that wait together share one sync of its log, which is what it does best.

use rocksdb::{DB, Options, WriteBatch, WriteOptions};

use super::{Setup, Store, Worker};
use crate::case::{Class, KEY_BYTES};
use crate::figures::Failure;

pub struct Rocks {
    database: DB,
    class: Class,
}

impl Rocks {
    pub fn open(setup: &Setup<'_>) -> Result<Rocks, Failure> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_enable_pipelined_write(true);
        if setup.class == Class::Strict {
            // A log that is written over needs no metadata of the file system.
            options.set_recycle_log_file_num(2);
        }
        Ok(Rocks { database: DB::open(&options, setup.directory.join("rocksdb"))?, class: setup.class })
    }
}

struct Writer<'a> {
    database: &'a DB,
    options: WriteOptions,
}

impl Store for Rocks {
    fn worker(&self) -> Result<Box<dyn Worker + '_>, Failure> {
        let mut options = WriteOptions::default();
        options.set_sync(self.class == Class::Strict);
        options.disable_wal(matches!(self.class, Class::Memory | Class::Read));
        Ok(Box::new(Writer { database: &self.database, options }))
    }
}

impl Worker for Writer<'_> {
    fn put(&mut self, keys: &[[u8; KEY_BYTES]], value: &[u8]) -> Result<(), Failure> {
        if let [key] = keys {
            return Ok(self.database.put_opt(key, value, &self.options)?);
        }
        let mut batch = WriteBatch::default();
        keys.iter().for_each(|key| batch.put(key, value));
        Ok(self.database.write_opt(batch, &self.options)?)
    }

    fn get(&mut self, key: &[u8; KEY_BYTES]) -> Result<usize, Failure> {
        Ok(self.database.get_pinned(key)?.map_or(0, |value| value.len()))
    }
}
