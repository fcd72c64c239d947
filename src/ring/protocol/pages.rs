//! Requests on pages: their bounds, and which requests an object of each kind takes.

use super::{Opcode, VALUE_BYTES_MAX, commit};
use crate::types::ObjectKind;

/// Pages of one request.
pub const PAGES_MAX: usize = 64;
/// Of a page number: the key of a page's record.
pub const PAGE_NUMBER_BYTES: usize = 8;
/// Before each page in a write.
pub const PAGE_ENTRY_BYTES: usize = commit::HEADER_BYTES + PAGE_NUMBER_BYTES;
/// For each page in a reply.
pub const PAGE_HEADER_BYTES: usize = 16;

/// The most that a request on pages carries, or is answered with, where a value may have so many bytes: so many bytes of
/// pages, and what stands before each.
#[must_use]
pub const fn page_request_bytes_max(value_bytes_max: usize) -> usize {
    value_bytes_max + PAGES_MAX * PAGE_ENTRY_BYTES
}

impl Opcode {
    /// Whether it is about pages.
    #[must_use]
    #[inline]
    pub fn is_on_pages(self) -> bool {
        matches!(self, Opcode::WritePages | Opcode::ReadPages)
    }

    /// Whether an object of this kind takes it.
    #[must_use]
    #[inline]
    pub fn suits(self, kind: ObjectKind) -> bool {
        match kind {
            ObjectKind::Space => !self.is_on_stream() && !self.is_on_pages(),
            ObjectKind::Stream => self.is_on_stream(),
            ObjectKind::Pages => self.is_on_pages() || matches!(self, Opcode::Scan | Opcode::ScanAt),
        }
    }

    /// The most that it carries behind its key, whatever the daemon's limits are.
    #[must_use]
    pub fn value_bytes_max(self) -> usize {
        if self.is_on_pages() { page_request_bytes_max(VALUE_BYTES_MAX) } else { VALUE_BYTES_MAX }
    }
}
