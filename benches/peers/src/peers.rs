//! The peers. A library is driven by one thread a client, Forebay and Redis by one thread over many connections.

pub mod file;
pub mod fjall;
pub mod forebay;
pub mod lmdb;
pub mod redb;
pub mod redis;
#[cfg(feature = "rocksdb")]
pub mod rocksdb;
pub mod sqlite;

use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::case::{Class, KEY_BYTES, KEYS, PeerName, Shape, key, place};
use crate::figures::{Failure, Figures, Latencies, figures};

/// Where, with which promise, and on which two cores.
pub struct Setup<'a> {
    pub class: Class,
    pub value_bytes: usize,
    /// For what lives as long as one session.
    pub directory: &'a Path,
    /// For large files that are made once and used again.
    pub kept: &'a Path,
    pub cores: [usize; 2],
}

/// One that stands ready, with every key in it.
pub trait Peer {
    /// Puts, or gets in the class `Read`, for about `run`.
    fn measure(&mut self, shape: Shape, run: Duration) -> Result<Figures, Failure>;
}

pub fn start(name: PeerName, setup: &Setup<'_>) -> Result<Box<dyn Peer>, Failure> {
    match name {
        PeerName::Forebay => Ok(Box::new(forebay::Forebay::start(setup)?)),
        PeerName::Redis => Ok(Box::new(redis::Redis::start(setup)?)),
        #[cfg(feature = "rocksdb")]
        PeerName::Rocksdb => embedded(rocksdb::Rocks::open(setup)?, setup),
        #[cfg(not(feature = "rocksdb"))]
        PeerName::Rocksdb => Err("this build is without RocksDB".into()),
        PeerName::Lmdb => embedded(lmdb::Lmdb::open(setup)?, setup),
        PeerName::Redb => embedded(redb::Redb::open(setup)?, setup),
        PeerName::Fjall => embedded(fjall::Fjall::open(setup)?, setup),
        PeerName::Sqlite => embedded(sqlite::Sqlite::open(setup)?, setup),
        PeerName::FileFdatasync => embedded(file::AppendFile::open(setup, false)?, setup),
        PeerName::FileDsync => embedded(file::AppendFile::open(setup, true)?, setup),
    }
}

/// A library, shared by all threads.
pub trait Store: Sync {
    /// What one thread needs of its own.
    fn worker(&self) -> Result<Box<dyn Worker + '_>, Failure>;
}

pub trait Worker {
    /// Writes all keys in one commit, with the promise of the class when it returns.
    fn put(&mut self, keys: &[[u8; KEY_BYTES]], value: &[u8]) -> Result<(), Failure>;

    /// The length of the value.
    fn get(&mut self, key: &[u8; KEY_BYTES]) -> Result<usize, Failure>;
}

struct Embedded<S> {
    store: S,
    class: Class,
    value: Vec<u8>,
}

fn embedded<S: Store + 'static>(store: S, setup: &Setup<'_>) -> Result<Box<dyn Peer>, Failure> {
    let value = vec![7; setup.value_bytes];
    let keys: Vec<_> = (0..KEYS).map(key).collect();
    {
        let mut worker = store.worker()?;
        keys.chunks(500).try_for_each(|keys| worker.put(keys, &value))?;
    }
    Ok(Box::new(Embedded { store, class: setup.class, value }))
}

impl<S: Store> Peer for Embedded<S> {
    fn measure(&mut self, shape: Shape, run: Duration) -> Result<Figures, Failure> {
        let start = Barrier::new(shape.clients);
        let work = |client: usize| -> Result<(Latencies, Instant, Instant), Failure> {
            let worker = self.store.worker();
            // Also who failed comes here, or the others would wait for ever.
            start.wait();
            let begun = Instant::now();
            let latencies = self.client(worker?.as_mut(), client, shape, begun, run)?;
            Ok((latencies, begun, Instant::now()))
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..shape.clients).map(|client| scope.spawn(move || work(client))).collect();
            threads.into_iter().map(|thread| thread.join().map_err(|_| "a client's thread panicked")).collect()
        });
        let (mut all, mut begun, mut ended) = (Vec::new(), None, None);
        for result in results {
            let (latencies, first, last) = result??;
            all.push(latencies);
            begun = Some(begun.map_or(first, |begun: Instant| begun.min(first)));
            ended = Some(ended.map_or(last, |ended: Instant| ended.max(last)));
        }
        let (begun, ended) = begun.zip(ended).ok_or("no client ran")?;
        Ok(figures(all, begun, ended))
    }
}

impl<S> Embedded<S> {
    fn client(
        &self,
        worker: &mut dyn Worker,
        client: usize,
        shape: Shape,
        begun: Instant,
        run: Duration,
    ) -> Result<Latencies, Failure> {
        let mut latencies = Latencies::default();
        let (mut keys, mut value) = (vec![key(0); shape.depth], self.value.clone());
        let mut number = client as u64 * u64::from(KEYS) / shape.clients as u64;
        // The end of one is the start of the next: one look at the clock each.
        let mut last = begun;
        while last.duration_since(begun) < run {
            for key_of in &mut keys {
                *key_of = key(place(number));
                number += 1;
            }
            if self.class == Class::Read {
                for key in &keys {
                    let bytes = worker.get(key)?;
                    if bytes != self.value.len() {
                        return Err(format!("a get gave {bytes} B instead of {}", self.value.len()).into());
                    }
                }
            } else {
                // Always another: SQLite sees that a value is already there, and writes and syncs nothing.
                // No client writes what another one did: their numbers run over the same keys.
                value[..8].copy_from_slice(&(number | (client as u64) << 48).to_le_bytes());
                worker.put(&keys, &value)?;
            }
            let now = Instant::now();
            // All of a commit are acknowledged together.
            keys.iter().for_each(|_| latencies.add(now - last));
            last = now;
        }
        Ok(latencies)
    }
}
