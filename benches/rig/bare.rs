//! The store by itself: what is left of a put when nobody asks for it over a ring.

use forebay::buffer::Pool;
use forebay::reactor::Shard;
use forebay::ring::protocol::{Opcode, Submission};
use forebay::store::catalog::{Catalog, Object};
use forebay::store::{Context, Outcome, PagesRead, Reply, Request, Wall, Want};
use forebay::types::{Compression, Durability, Lsn, ObjectId, ObjectKind};

use super::{Failure, KEYS, VALUE, key, parts, pool};

struct NoReply;

impl Reply for NoReply {
    fn push(&mut self, _: &[&[u8]]) -> bool {
        false
    }

    fn bytes(&self) -> usize {
        0
    }

    fn fits(&self, _: usize) -> bool {
        false
    }

    fn write(&mut self, _: usize, _: &[u8]) {}
}

/// A store with a space of durability `memory`, whose puts are not logged.
pub struct Bare {
    shard: Shard,
    pool: Pool,
    catalog: Catalog,
    ahead: Vec<Want>,
    pages: PagesRead,
}

impl Bare {
    pub fn new() -> Result<Bare, Failure> {
        let (_, mut catalog, mut shards) = parts(64 << 20, 1)?;
        let name = b"bare".to_vec().into();
        let (kind, durability) = (ObjectKind::Space, Durability::Memory);
        catalog.insert(Object {
            id: ObjectId(1),
            kind,
            durability,
            compression: Compression::None,
            chained: false,
            page: None,
            name,
            lsn: Lsn::NONE,
        });
        let mut bare = Bare {
            shard: shards.pop().ok_or("no shard")?,
            pool: pool()?,
            catalog,
            ahead: Vec::new(),
            pages: PagesRead::default(),
        };
        for number in 0..KEYS {
            bare.put(number)?;
        }
        Ok(bare)
    }

    pub fn put(&mut self, number: u64) -> Result<(), Failure> {
        let key = key(number);
        let submission = Submission { object: 1, key_bytes: 16, value_bytes: 100, ..Submission::default() };
        let request = Request { submission: &submission, opcode: Opcode::Put, key: &key, value: &VALUE };
        let wal = &mut self.shard.wal;
        let mut context = Context {
            catalog: &self.catalog,
            shards: 1,
            wal,
            pool: &mut self.pool,
            now_ns: 0,
            wall: &Wall::new(0, 0),
            fetched: None,
            ahead: &mut self.ahead,
            pages: &mut self.pages,
        };
        match self.shard.store.apply(&mut context, &request, &mut NoReply) {
            Outcome::Answer { completion, .. } if completion.status == 0 => Ok(()),
            outcome => Err(format!("the store answered {outcome:?}").into()),
        }
    }
}
