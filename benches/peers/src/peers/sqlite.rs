//! SQLite in WAL mode: a connection a thread, which waits for the one writer with the busy timeout.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use super::{Setup, Store, Worker};
use crate::case::{Class, KEY_BYTES};
use crate::figures::Failure;

const PUT: &str = "INSERT INTO bench VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
const GET: &str = "SELECT value FROM bench WHERE key = ?1";

pub struct Sqlite {
    path: PathBuf,
    synchronous: &'static str,
}

impl Sqlite {
    pub fn open(setup: &Setup<'_>) -> Result<Sqlite, Failure> {
        let synchronous = if setup.class == Class::Strict { "FULL" } else { "NORMAL" };
        let path = setup.directory.join("sqlite");
        let connection = connect(&path, synchronous)?;
        connection.execute("CREATE TABLE bench (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID", ())?;
        Ok(Sqlite { path, synchronous })
    }
}

fn connect(path: &Path, synchronous: &str) -> Result<Connection, Failure> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(30))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", synchronous)?;
    Ok(connection)
}

impl Store for Sqlite {
    fn worker(&self) -> Result<Box<dyn Worker + '_>, Failure> {
        Ok(Box::new(connect(&self.path, self.synchronous)?))
    }
}

impl Worker for Connection {
    fn put(&mut self, keys: &[[u8; KEY_BYTES]], value: &[u8]) -> Result<(), Failure> {
        if let [key] = keys {
            self.prepare_cached(PUT)?.execute((key.as_slice(), value))?;
            return Ok(());
        }
        let transaction = self.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let mut put = transaction.prepare_cached(PUT)?;
            for key in keys {
                put.execute((key.as_slice(), value))?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn get(&mut self, key: &[u8; KEY_BYTES]) -> Result<usize, Failure> {
        let mut get = self.prepare_cached(GET)?;
        Ok(get.query_row((key.as_slice(),), |row| Ok(row.get_ref(0)?.as_blob().map_or(0, <[u8]>::len)))?)
    }
}
