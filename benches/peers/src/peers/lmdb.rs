//! LMDB, with its defaults: one writer at a time, a sync and a durable write of the root a commit.

use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions};

use super::{Setup, Store, Worker};
use crate::case::{Class, KEY_BYTES};
use crate::figures::Failure;

const MAP_BYTES: usize = 4 << 30;

pub struct Lmdb {
    env: Env,
    database: Database<Bytes, Bytes>,
}

impl Lmdb {
    pub fn open(setup: &Setup<'_>) -> Result<Lmdb, Failure> {
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES).max_readers(256);
        let env = open_env(&mut options, setup)?;
        let mut transaction = env.write_txn()?;
        let database = env.create_database(&mut transaction, None)?;
        transaction.commit()?;
        Ok(Lmdb { env, database })
    }
}

#[expect(unsafe_code, reason = "heed has no safe way to open a map")]
fn open_env(options: &mut EnvOpenOptions, setup: &Setup<'_>) -> Result<Env, Failure> {
    if setup.class != Class::Strict {
        // SAFETY: without a sync only a crash of the system may damage the map, which nobody opens afterwards.
        unsafe { options.flags(EnvFlags::NO_SYNC) };
    }
    // SAFETY: the directory was made for this process alone, so nobody else changes the file under the map.
    Ok(unsafe { options.open(setup.directory) }?)
}

impl Store for Lmdb {
    fn worker(&self) -> Result<Box<dyn Worker + '_>, Failure> {
        Ok(Box::new(self))
    }
}

impl Worker for &Lmdb {
    fn put(&mut self, keys: &[[u8; KEY_BYTES]], value: &[u8]) -> Result<(), Failure> {
        let mut transaction = self.env.write_txn()?;
        keys.iter().try_for_each(|key| self.database.put(&mut transaction, key, value))?;
        Ok(transaction.commit()?)
    }

    fn get(&mut self, key: &[u8; KEY_BYTES]) -> Result<usize, Failure> {
        let transaction = self.env.read_txn()?;
        Ok(self.database.get(&transaction, key)?.map_or(0, <[u8]>::len))
    }
}
