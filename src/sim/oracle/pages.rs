//! Pages: what their answers may say. That several are read and written at one moment is for `cycles`.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::ring::client::{Answer, Object, pages};
use crate::ring::protocol::{Status, shard_of_key, shard_of_stream};
use crate::sim::action::{Action, PAGE};
use crate::sim::oracle::{Logged, Oracle, Verdict, ensure, is_strict};
use crate::types::{ObjectId, ObjectKind, ShardId};

/// The keys of the pages that a request is about.
pub(super) fn keys(action: &Action) -> Option<Vec<Vec<u8>>> {
    match action {
        Action::WritePages { steps, .. } => Some(steps.iter().map(|step| step.key.clone()).collect()),
        Action::ReadPages { numbers, .. } => Some(numbers.iter().map(|number| number.to_be_bytes().to_vec()).collect()),
        _ => None,
    }
}

/// The shard of a key, or of all pages of a space.
pub(super) fn shard_of(object: Object, key: &[u8], shards: u32) -> ShardId {
    match object.kind {
        ObjectKind::Pages => shard_of_stream(object.id.0, shards),
        ObjectKind::Space | ObjectKind::Stream => shard_of_key(object.id.0, key, shards),
    }
}

/// Notes a write in its place. Only writes of one page share one: the last of them is there.
pub(super) fn coalesce(entries: &mut BTreeMap<u64, Logged>, lsn: u64, logged: Logged) -> Verdict {
    let Some(before) = entries.get(&lsn) else {
        entries.insert(lsn, logged);
        return Ok(());
    };
    let page = |logged: &Logged| Some((logged.action.record_object(), logged.action.one_page()?.0.to_vec()));
    let same = page(before).is_some() && page(before) == page(&logged);
    ensure!(same, "LSN {lsn} was given twice");
    ensure!(before.version != logged.version, "two writes of a page have version {}", logged.version);
    if before.version < logged.version {
        entries.insert(lsn, logged);
    }
    Ok(())
}

impl Oracle {
    pub(super) fn shard_of(&self, id: ObjectId, key: &[u8]) -> ShardId {
        let known = self.objects.iter().find(|known| known.object.id == id).expect("clients use what was opened");
        shard_of(known.object, key, self.shards)
    }

    /// A strict read showed this version of a key.
    pub(super) fn promise_version(&mut self, id: ObjectId, key: &[u8], version: u64) {
        let shard = self.shard_of(id, key);
        let of_pages = self.objects.iter().any(|known| known.object.id == id && known.object.kind == ObjectKind::Pages);
        let log = &mut self.logs[shard.index()];
        if version > log.version_floor && of_pages {
            log.shown_pages.push((id, key.to_vec(), version));
        } else if version > log.version_floor {
            log.shown.push(version);
        }
    }

    /// Pages were read, or not written.
    pub(super) fn pages_answer(
        &mut self,
        action: &Rc<Action>,
        floors: &[u64],
        answer: &Answer,
        reply: &[u8],
    ) -> Verdict {
        match (answer.status, &**action) {
            (Status::Ok, Action::ReadPages { space, numbers, relaxed, .. }) => {
                let strict = is_strict(*space, *relaxed);
                let found = pages(reply, numbers.len(), PAGE).map_err(|error| error.to_string())?;
                let mut seen = Vec::new();
                for ((number, floor), page) in numbers.iter().zip(floors).zip(found) {
                    let key = number.to_be_bytes();
                    match page {
                        Some((version, bytes)) => self.showed(space.id, &key, *floor, version, Some(bytes), strict),
                        None => self.showed_absent(space.id, &key, *floor, strict),
                    }
                    .map_err(|what| format!("page {number}: {what}"))?;
                    seen.push((space.id, key.to_vec(), page.map_or(0, |(version, _)| version)));
                }
                self.graph.note_scan(action, seen);
                Ok(())
            }
            (Status::Unreadable, Action::ReadPages { .. }) if self.may_spoil => Ok(()),
            (Status::NoSpace | Status::NoMemory, Action::WritePages { .. }) => Ok(()),
            (Status::Fenced | Status::Stopping, _) => Ok(()),
            (status, _) => Err(format!("unexpected status {status:?}")),
        }
    }
}
