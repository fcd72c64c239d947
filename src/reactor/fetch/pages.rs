//! Reads of pages that are not all in memory: they go through the store again and again, and each time bring some.

use crate::device::Device;
use crate::reactor::fetch::For;
use crate::reactor::{Clock, Reactor};
use crate::ring::protocol::{Completion, PAGES_MAX, Status};
use crate::store::Want;

/// Passes after which a read ends, each of which brought one page at least: its pages are written faster than it reads them.
const PASSES_MAX: usize = 16 * PAGES_MAX;

impl<D: Device, C: Clock> Reactor<D, C> {
    /// A read of pages has some of them, and wants others.
    pub(super) fn read_pages_on(&mut self, id: usize, at: usize, want: Want) {
        self.fetches.let_large_go(id);
        let fetch = &mut self.fetches.all[id];
        let had = fetch.pages.count();
        fetch.pages = std::mem::take(&mut self.fetches.pages);
        let more = fetch.pages.count() > had;
        fetch.pages.passes += 1;
        if more {
            fetch.tries = 0;
        }
        let For::Request { slot, submission } = fetch.wanted_by else { return };
        if fetch.pages.passes > PASSES_MAX {
            self.fetches.wanted.clear();
            self.fetches.end(id);
            let (user_data, status) = (submission.user_data, Status::Busy as u16);
            return self.reply(slot, &Completion { user_data, status, ..Completion::default() });
        }
        self.fetches.aim(id, at, want);
        if !more {
            // What was read ahead did not stay: this one it gets in hand.
            self.fetches.wanted.clear();
        }
        self.read_ahead(at, Some(id));
    }
}
