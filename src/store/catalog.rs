//! The catalog: which spaces and streams there are. Written by shard 0 only; every reactor has a copy.

use std::collections::BTreeMap;

use crate::ring::protocol::ATTRIBUTE_CHAINED;
use crate::types::{Compression, Durability, Lsn, ObjectId, ObjectKind, PageSize};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub id: ObjectId,
    pub kind: ObjectKind,
    pub durability: Durability,
    /// Of a space's values, by clients. The store does not look.
    pub compression: Compression,
    /// A stream whose events are linked by hashes.
    pub chained: bool,
    /// Of a page space, and of nothing else.
    pub page: Option<PageSize>,
    pub name: Box<[u8]>,
    /// The record in the log of shard 0 that made it; `Lsn::NONE` where that record is lost.
    pub lsn: Lsn,
}

impl Object {
    /// Kind, durability, compression or page size, and flags as one word of a record or completion.
    #[must_use]
    pub fn attributes(&self) -> u64 {
        let chained = if self.chained { ATTRIBUTE_CHAINED } else { 0 };
        let form = self.page.map_or(self.compression as u8, PageSize::to_wire);
        self.kind as u64 | (self.durability as u64) << 8 | chained | u64::from(form) << 24
    }
}

/// Whether such a word says that the events are linked.
#[must_use]
pub fn is_chained(word: u64) -> bool {
    word & ATTRIBUTE_CHAINED != 0
}

/// What such a word says beside that; `None` when a part of it does not exist.
#[must_use]
pub fn attributes(word: u64) -> Option<(ObjectKind, Durability, Compression)> {
    let [kind, durability, _, form, ..] = word.to_le_bytes();
    let kind = ObjectKind::from_wire(kind)?;
    let compression = match kind {
        ObjectKind::Pages => PageSize::from_wire(form).map(|_| Compression::None)?,
        ObjectKind::Space | ObjectKind::Stream => Compression::from_wire(form)?,
    };
    Some((kind, Durability::from_wire(durability)?, compression))
}

/// The page size in such a word of a page space.
#[must_use]
pub fn page_size(word: u64) -> Option<PageSize> {
    let [kind, _, _, form, ..] = word.to_le_bytes();
    PageSize::from_wire(form).filter(|_| kind == ObjectKind::Pages as u8)
}

/// The objects, by number. Numbers begin at 1 and have no gaps.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    objects: Vec<Object>,
}

impl Catalog {
    #[must_use]
    pub fn get(&self, id: ObjectId) -> Option<&Object> {
        self.objects.get(id.index().checked_sub(1)?)
    }

    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<&Object> {
        self.objects.iter().find(|object| *object.name == *name)
    }

    #[must_use]
    pub fn next_id(&self) -> ObjectId {
        ObjectId(crate::bytes::len_u32(self.objects.len() + 1))
    }

    /// Adds an object. Ignores one that is there already: a copy may hear of it twice.
    pub fn insert(&mut self, object: Object) {
        if object.id == self.next_id() {
            self.objects.push(object);
        }
    }

    /// The catalog that the log of shard 0 tells, with a stand-in for every number that other records use and that it
    /// lost (its shard was cut by `repair`): a number is never given out twice.
    #[must_use]
    pub fn recovered(objects: Vec<Object>, used: &BTreeMap<ObjectId, ObjectKind>) -> Catalog {
        let mut by_id: BTreeMap<ObjectId, Object> = objects.into_iter().map(|object| (object.id, object)).collect();
        let last = used.keys().chain(by_id.keys()).max().map_or(0, |id| id.0);
        let mut catalog = Catalog::default();
        for id in (1..=last).map(ObjectId) {
            let kind = used.get(&id).copied().unwrap_or(ObjectKind::Space);
            let name = format!("lost-{id}").into_bytes().into_boxed_slice();
            let (durability, compression) = (Durability::Strict, Compression::None);
            let lost = Object { id, kind, durability, compression, chained: false, page: None, name, lsn: Lsn::NONE };
            catalog.objects.push(by_id.remove(&id).unwrap_or(lost));
        }
        catalog
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The objects after number `after`, in order.
    pub fn iter_after(&self, after: u64) -> impl Iterator<Item = &Object> {
        self.objects.iter().skip(crate::bytes::index(after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_the_catalog_lost_is_not_given_out_again() {
        let object = |id, name: &str| Object {
            id: ObjectId(id),
            kind: ObjectKind::Space,
            durability: Durability::Buffered,
            compression: Compression::Zstd,
            chained: false,
            page: None,
            name: name.as_bytes().into(),
            lsn: Lsn(u64::from(id)),
        };
        let used = BTreeMap::from([(ObjectId(2), ObjectKind::Stream), (ObjectId(4), ObjectKind::Stream)]);
        let catalog = Catalog::recovered(vec![object(1, "kept"), object(3, "kept too")], &used);
        assert_eq!(catalog.next_id(), ObjectId(5));
        assert_eq!(catalog.find(b"kept too").unwrap().id, ObjectId(3));
        let lost = catalog.find(b"lost-2").unwrap();
        assert_eq!((lost.id, lost.kind), (ObjectId(2), ObjectKind::Stream));
        let kept = catalog.find(b"kept").unwrap();
        let said = (ObjectKind::Space, Durability::Buffered, Compression::Zstd);
        assert_eq!(attributes(kept.attributes()), Some(said));
        assert_eq!(attributes(kept.attributes() | 0xff << 24), None, "a compression of a later version");
        let page = PageSize::new(16 << 10);
        let pages = Object { kind: ObjectKind::Pages, page, compression: Compression::None, ..kept.clone() };
        let said = (ObjectKind::Pages, Durability::Buffered, Compression::None);
        assert_eq!((attributes(pages.attributes()), page_size(pages.attributes())), (Some(said), page));
        assert_eq!(attributes(pages.attributes() | 0xff << 24), None, "no such page size");
        assert_eq!(page_size(kept.attributes()), None);
    }
}
