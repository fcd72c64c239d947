//! Commits: what their answers may say. Whether they took place one after another is for `cycles`.

use std::rc::Rc;

use crate::ring::client::Answer;
use crate::ring::protocol::Status;
use crate::sim::action::{Action, Does, Step};
use crate::sim::oracle::space::Deletes;
use crate::sim::oracle::{Oracle, Verdict, ensure, is_strict};

/// No daemon of the simulator has a lower limit.
const ALWAYS_FITS_BYTES: usize = 1_000;

impl Oracle {
    /// A commit that writes was done: each key that it wrote has its version.
    pub(super) fn commit_written(&mut self, action: &Rc<Action>, floors: &[u64], answer: &Answer) -> Verdict {
        let (Action::Commit { steps, .. } | Action::WritePages { steps, .. }) = &**action else { return Ok(()) };
        for (at, (step, floor)) in steps.iter().zip(floors).enumerate().filter(|(_, (step, _))| step.is_write()) {
            let same = |other: &Step| other.space == step.space && other.key == step.key;
            if steps[at + 1..].iter().any(same) {
                continue;
            }
            // Since when a key is absent is not in the graph.
            let absent = action.key_reads().any(|(read, version)| same(read) && version == 0).then_some(0);
            let value = if let Does::Put(value) = &step.does { Some(value.as_slice()) } else { None };
            self.one_written((step.space.id, &step.key, value), (absent, Deletes::Any, None), *floor, answer)
                .map_err(|what| format!("key {:?}: {what}", step.key))?;
        }
        for (step, version) in action.key_reads().filter(|(_, version)| *version != 0) {
            self.still_held(step.space.id, &step.key, version).map_err(|what| format!("key {:?}: {what}", step.key))?;
        }
        self.graph.note(action, answer.version);
        Ok(())
    }

    /// A commit did not take place, or wrote nothing.
    pub(super) fn commit_answer(&mut self, action: &Rc<Action>, floors: &[u64], answer: &Answer) -> Verdict {
        let Action::Commit { steps, relaxed, .. } = &**action else { return Ok(()) };
        match answer.status {
            Status::Ok => {
                // What it read is what is there.
                for ((step, version), floor) in action.key_reads().zip(floors) {
                    let strict = is_strict(step.space, *relaxed);
                    match version {
                        0 => self.showed_absent(step.space.id, &step.key, *floor, strict),
                        version => self.showed(step.space.id, &step.key, *floor, version, None, strict),
                    }
                    .map_err(|what| format!("key {:?}: {what}", step.key))?;
                }
                self.graph.note(action, 0);
                Ok(())
            }
            Status::Conflict => {
                let at = crate::bytes::index(answer.aux);
                let found = action.key_reads().zip(floors).nth(at);
                let ((step, expected), floor) = found.ok_or("a conflict about no key that was read")?;
                ensure!(expected != answer.version, "a conflict, and the version is the expected one");
                let strict = is_strict(step.space, *relaxed);
                match answer.version {
                    0 => self.showed_absent(step.space.id, &step.key, *floor, strict),
                    version => self.showed(step.space.id, &step.key, *floor, version, None, strict),
                }
            }
            Status::TransactionTooLarge => {
                let bytes: usize = steps.iter().map(|step| step.entry().bytes()).sum();
                ensure!(bytes > ALWAYS_FITS_BYTES, "a commit of {bytes} B is too large");
                Ok(())
            }
            Status::Locked => {
                let at = crate::bytes::index(answer.aux);
                ensure!(at < steps.len() && action.is_across(self.shards), "no key that another commit could hold");
                Ok(())
            }
            Status::NoSpace | Status::NoMemory | Status::Fenced | Status::Stopping => Ok(()),
            status => Err(format!("unexpected status {status:?}")),
        }
    }
}
