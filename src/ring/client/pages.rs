//! Page spaces: pages of one size by number.

use crate::ring::protocol::commit::{Entry, What};
use crate::ring::protocol::{PAGE_ENTRY_BYTES, PAGE_HEADER_BYTES, PAGES_MAX, Status, page_request_bytes_max};
use crate::types::{Durability, ObjectKind, PageSize};

use super::{Client, ClientError, Object, Request, Snapshot, Version};

/// A page space that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    pub object: Object,
    /// Of each page. Fixed when the space was made.
    pub size: PageSize,
}

/// A page that was asked for, with its version; `None`: it was never written.
pub type FoundPage = Option<(Version, Vec<u8>)>;

/// The pages of a read's reply, in the order of the numbers that were asked for: version and bytes; `None`: never written.
///
/// # Errors
/// `Broken` when the reply is not one to so many pages of that size.
pub fn pages(
    reply: &[u8],
    count: usize,
    size: PageSize,
) -> Result<impl Iterator<Item = Option<(Version, &[u8])>>, ClientError> {
    let broken = || ClientError::Broken("a reply does not hold the pages that were asked for".into());
    let (headers, bytes) = reply.split_at_checked(count * PAGE_HEADER_BYTES).ok_or_else(broken)?;
    if bytes.len() != count * size.bytes() {
        return Err(broken());
    }
    let (headers, _) = headers.as_chunks::<PAGE_HEADER_BYTES>();
    Ok(headers.iter().zip(bytes.chunks_exact(size.bytes())).map(|(header, page)| {
        let version = u64::from_le_bytes(*header.first_chunk().expect("a header has 16 bytes"));
        (version != 0).then_some((version, page))
    }))
}

impl Client {
    /// Finds a page space by name, or makes it with pages of that size and that default durability. One that is there stays
    /// as it is: look at what was given. Blocks.
    ///
    /// # Errors
    /// `PagesTooLarge` for pages over the daemon's `limits.value_bytes_max`; else as `open_space`.
    pub fn open_pages(&mut self, name: &str, create: Option<(PageSize, Durability)>) -> Result<Pages, ClientError> {
        if let Some((size, _)) = create.filter(|(size, _)| size.bytes() > self.value_bytes_max()) {
            let (bytes, bytes_max) = (size.bytes(), self.value_bytes_max());
            return Err(ClientError::PagesTooLarge { count: 1, bytes, bytes_max });
        }
        let (object, attributes) = self.open_by(name, &Request::OpenPages { name, create })?;
        let [_, _, _, form, ..] = attributes.to_le_bytes();
        let size = PageSize::from_wire(form).filter(|_| object.kind == ObjectKind::Pages);
        let size = size.ok_or_else(|| ClientError::Broken("a page space has no page size".into()))?;
        Ok(Pages { object, size })
    }

    /// Writes pages, each a number and a whole page: all of them or none. Gives the version that all of them have. Blocks.
    ///
    /// # Errors
    /// `BadPage`, `PagesTooLarge`, `ArenaTooSmall`; else as `wait`.
    pub fn write_pages(
        &mut self,
        pages: Pages,
        writes: &[(u64, &[u8])],
        durability: Option<Durability>,
    ) -> Result<Version, ClientError> {
        self.check_pages(pages, writes.len(), PAGE_ENTRY_BYTES)?;
        if let Some((number, page)) = writes.iter().find(|(_, page)| page.len() != pages.size.bytes()) {
            return Err(ClientError::BadPage { number: *number, bytes: page.len(), page_bytes: pages.size.bytes() });
        }
        self.change_pages(pages, writes.iter().map(|(number, page)| (*number, What::Put(page))), durability)
    }

    /// Forgets pages, as if they had never been written: all of them or none. Those that never were are no error. Blocks.
    ///
    /// # Errors
    /// As `write_pages`.
    pub fn discard_pages(
        &mut self,
        pages: Pages,
        numbers: &[u64],
        durability: Option<Durability>,
    ) -> Result<Version, ClientError> {
        self.check_pages(pages, numbers.len(), 0)?;
        self.change_pages(pages, numbers.iter().map(|number| (*number, What::Delete)), durability)
    }

    fn change_pages<'a>(
        &mut self,
        pages: Pages,
        changes: impl Iterator<Item = (u64, What<'a>)>,
        durability: Option<Durability>,
    ) -> Result<Version, ClientError> {
        let changes: Vec<([u8; 8], What<'a>)> = changes.map(|(number, what)| (number.to_be_bytes(), what)).collect();
        let object = pages.object.id;
        let entries: Vec<Entry<'_>> = changes.iter().map(|(key, what)| Entry { object, key, what: *what }).collect();
        let request = Request::WritePages { space: pages.object, entries: &entries, durability };
        Ok(self.call(&request)?.0.ok()?.version)
    }

    /// Reads pages as they are at one moment, in the order of the numbers: version and bytes; `None`: never written.
    /// Blocks.
    ///
    /// # Errors
    /// `PagesTooLarge`, `ArenaTooSmall`; else as `wait`.
    pub fn read_pages(&mut self, pages: Pages, numbers: &[u64]) -> Result<Vec<FoundPage>, ClientError> {
        self.read_pages_of(pages, numbers, None)
    }

    /// The same, as a snapshot sees them. Blocks.
    ///
    /// # Errors
    /// `SnapshotGone` when the daemon gave it up; else as `read_pages`.
    pub fn read_pages_at(
        &mut self,
        snapshot: Snapshot,
        pages: Pages,
        numbers: &[u64],
    ) -> Result<Vec<FoundPage>, ClientError> {
        self.read_pages_of(pages, numbers, Some(snapshot))
    }

    fn read_pages_of(
        &mut self,
        pages: Pages,
        numbers: &[u64],
        snapshot: Option<Snapshot>,
    ) -> Result<Vec<FoundPage>, ClientError> {
        self.check_pages(pages, numbers.len(), PAGE_HEADER_BYTES)?;
        let reply_bytes_max = numbers.len() * (PAGE_HEADER_BYTES + pages.size.bytes());
        let request = Request::ReadPages { space: pages.object, numbers, snapshot, relaxed: false, reply_bytes_max };
        let (answer, reply) = self.call(&request)?;
        answer.ok()?;
        let found = self::pages(&reply, numbers.len(), pages.size)?;
        Ok(found.map(|page| page.map(|(version, bytes)| (version, bytes.to_vec()))).collect())
    }

    /// Refuses what no request may hold, with the numbers.
    fn check_pages(&self, pages: Pages, count: usize, header_bytes: usize) -> Result<(), ClientError> {
        let page_bytes = if header_bytes > 0 { pages.size.bytes() } else { 0 };
        let bytes = count * (header_bytes + page_bytes);
        let bytes_max = page_request_bytes_max(self.value_bytes_max());
        if count == 0 {
            return Err(ClientError::Status(Status::BadRequest));
        }
        if count > PAGES_MAX || bytes > bytes_max {
            return Err(ClientError::PagesTooLarge { count, bytes, bytes_max });
        }
        Ok(())
    }
}
