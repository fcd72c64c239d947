//! Reads a backup line by line. Nothing of it is trusted before its end was read: there its digest is compared.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use forebay::error::Error;
use forebay::ring::protocol::name_is_valid;
use zstd::stream::read::Decoder;

use super::files::{SEAL, SEAL_BYTES};
use crate::cli::dump::{Counts, Head, LINE_BYTES_MAX, Line, Stream};

/// Of the lines below.
pub const FORMAT: u32 = 1;

/// Where the reading of an object stands.
enum Order {
    /// Before the first.
    None,
    /// Keys, or page numbers, of this space rise.
    Keys {
        object: String,
        last: Option<Vec<u8>>,
    },
    Events(Extent),
}

/// What a backup has of a stream.
#[derive(Clone, Debug)]
pub struct Extent {
    pub object: String,
    /// The first event that the stream kept, the head before it, and the offset after its last.
    pub first: u64,
    pub head: Option<String>,
    pub next: u64,
    /// The first event that stands in this backup, and the one that comes next.
    pub from: u64,
    expected: u64,
}

pub struct Reader {
    pub path: PathBuf,
    pub head: Head,
    pub counts: Counts,
    /// The names of all objects so far: each stands there once.
    objects: HashSet<String>,
    /// What it holds of each stream, as far as it was read.
    pub extents: Vec<Extent>,
    /// Values and pages that stand in it.
    pub written: u64,
    /// Of all before the end line, once that was read.
    pub digest: Option<String>,
    input: Option<BufReader<Decoder<'static, BufReader<File>>>>,
    hasher: blake3::Hasher,
    order: Order,
    peeked: Option<Line>,
    number: u64,
    text: Vec<u8>,
}

impl Reader {
    /// # Errors
    /// It is not there, or its first line is no head of this format.
    pub fn open(path: &Path) -> Result<Reader, Error> {
        let named = |error: Error| error.context(format_args!("read {}", path.display()));
        let open = || {
            let file = File::open(path)?;
            let decoder = Decoder::with_buffer(BufReader::with_capacity(1 << 17, file))?.single_frame();
            Ok(BufReader::with_capacity(1 << 17, decoder))
        };
        let input = open().map_err(|error: std::io::Error| named(error.into()))?;
        let head = Head {
            format: FORMAT,
            appliance: String::new(),
            cuts: 0,
            sequence: 0,
            parent: None,
            snapshot: 0,
            taken_unix_ms: 0,
        };
        let (hasher, order, input) = (blake3::Hasher::new(), Order::None, Some(input));
        let (counts, extents, text) = (Counts::default(), Vec::new(), Vec::new());
        let (path, number, written, objects) = (path.to_owned(), 0, 0, HashSet::new());
        let (peeked, digest) = (None, None);
        let mut reader = Reader {
            path,
            head,
            counts,
            objects,
            extents,
            written,
            digest,
            input,
            hasher,
            order,
            peeked,
            number,
            text,
        };
        match reader.take()? {
            Some(Line::Backup(head)) if head.format == FORMAT => {
                reader.head = head;
                Ok(reader)
            }
            Some(Line::Backup(head)) => Err(reader.damaged(&format!(
                "it has the format {}, and this program reads {FORMAT}: use the release that wrote it",
                head.format
            ))),
            _ => Err(reader.damaged("it does not begin with the head of a backup")),
        }
    }

    pub fn damaged(&self, cause: &str) -> Error {
        Error::new(format!("{}: damaged, line {}: {cause}", self.path.display(), self.number))
    }

    /// The next line, which stays; `None` behind the last.
    ///
    /// # Errors
    /// Why the file is no whole backup.
    pub fn peek(&mut self) -> Result<Option<&mut Line>, Error> {
        if self.peeked.is_none() {
            self.peeked = self.read()?;
        }
        Ok(self.peeked.as_mut())
    }

    /// Takes the next line.
    ///
    /// # Errors
    /// As `peek`.
    pub fn take(&mut self) -> Result<Option<Line>, Error> {
        match self.peeked.take() {
            Some(line) => Ok(Some(line)),
            None => self.read(),
        }
    }

    /// Reads to the end, of which the digest is compared.
    ///
    /// # Errors
    /// As `peek`.
    pub fn finish(&mut self, each: &mut dyn FnMut(&Reader)) -> Result<(), Error> {
        while self.take()?.is_some() {
            each(self);
        }
        Ok(())
    }

    fn read(&mut self) -> Result<Option<Line>, Error> {
        let Some(input) = &mut self.input else { return Ok(None) };
        self.text.clear();
        self.number += 1;
        let read = input.take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut self.text);
        match read {
            Err(error) => return Err(self.damaged(&error.to_string())),
            Ok(_) if self.text.last() != Some(&b'\n') => return Err(self.damaged("it ends before its end line")),
            Ok(_) => {}
        }
        let line: Line = match serde_json::from_slice(&self.text) {
            Ok(line) => line,
            Err(error) => return Err(self.damaged(&error.to_string())),
        };
        if let Line::End(end) = &line {
            let digest = self.hasher.finalize().to_hex().to_string();
            if end.digest.as_ref() != Some(&digest) || end.counts() != self.counts {
                return Err(self.damaged("what stands before it is not what was written"));
            }
            self.digest = Some(digest);
            self.check_end()?;
        } else {
            self.hasher.update(&self.text);
            self.counts.add(&line);
        }
        self.check_order(&line)?;
        Ok(Some(line))
    }

    /// Whether nothing but the seal stands behind the end line. Sees the checksum of the whole too.
    fn check_end(&mut self) -> Result<(), Error> {
        let Some(mut input) = self.input.take() else { return Ok(()) };
        let mut rest = Vec::new();
        let mut read = || {
            let ended = input.fill_buf()?.is_empty();
            input.get_mut().get_mut().take(SEAL_BYTES as u64 + 1).read_to_end(&mut rest)?;
            Ok::<_, std::io::Error>(ended)
        };
        match read() {
            Ok(true) if rest.len() == SEAL_BYTES && rest.starts_with(&SEAL) => Ok(()),
            Ok(_) => Err(self.damaged("what stands behind it is not its seal alone")),
            Err(error) => Err(self.damaged(&error.to_string())),
        }
    }

    /// Whether a line may stand here: merging relies on it.
    fn check_order(&mut self, line: &Line) -> Result<(), Error> {
        let fits = match line {
            Line::Backup(_) => self.number == 1,
            Line::Space(_) | Line::Pages(_) | Line::Stream(_) | Line::End(_) => self.ends_object(),
            _ => true,
        };
        let fits = fits
            && match line {
                Line::Space(space) => self.begins(&space.object),
                Line::Pages(pages) => self.begins(&pages.object),
                Line::Stream(stream) => self.begins_stream(stream),
                Line::Pair(pair) => {
                    self.written += u64::from(pair.has_value());
                    let key = match (&pair.key, &pair.key_hex) {
                        (Some(key), None) => Some(key.clone().into_bytes()),
                        (None, Some(hex)) => crate::cli::bytes::from_hex(hex.as_bytes()),
                        _ => None,
                    };
                    key.is_some_and(|key| !key.is_empty() && self.rises(&pair.object, key))
                }
                Line::Page(page) => {
                    self.written += u64::from(page.page.is_some());
                    self.rises(&page.object, page.number.to_be_bytes().to_vec())
                }
                Line::Trimmed(trimmed) => self.of_stream(&trimmed.object).is_some_and(|extent| {
                    let next = trimmed.next.unwrap_or(extent.next);
                    let grows = next >= extent.next;
                    extent.next = next;
                    extent.first = extent.first.max(trimmed.first);
                    extent.expected = extent.expected.max(trimmed.first);
                    extent.head.clone_from(&trimmed.head);
                    grows && extent.first <= extent.next
                }),
                Line::Event(event) => self.of_stream(&event.object).is_some_and(|extent| {
                    let comes_next = event.offset == extent.expected && event.offset < extent.next;
                    extent.expected = event.offset.saturating_add(1);
                    comes_next
                }),
                Line::Cursor(cursor) => {
                    self.of_stream(&cursor.object).is_some_and(|extent| extent.expected == extent.next)
                }
                Line::Backup(_) | Line::End(_) => true,
            };
        if fits { Ok(()) } else { Err(self.damaged("it may not stand here")) }
    }

    fn of_stream(&mut self, object: &str) -> Option<&mut Extent> {
        match &mut self.order {
            Order::Events(extent) if extent.object == object => Some(extent),
            _ => None,
        }
    }

    fn begins(&mut self, object: &str) -> bool {
        self.order = Order::Keys { object: object.to_owned(), last: None };
        self.is_new(object)
    }

    fn begins_stream(&mut self, stream: &Stream) -> bool {
        let (Some(from), Some(next)) = (stream.from, stream.next) else { return false };
        let (object, first, head) = (stream.object.clone(), stream.first, stream.head.clone());
        self.order = Order::Events(Extent { object, first, head, next, from, expected: from });
        first <= from && from <= next && self.is_new(&stream.object)
    }

    fn is_new(&mut self, object: &str) -> bool {
        name_is_valid(object.as_bytes()) && self.objects.insert(object.to_owned())
    }

    fn rises(&mut self, name: &str, key: Vec<u8>) -> bool {
        match &mut self.order {
            Order::Keys { object, last } if object == name && last.as_ref().is_none_or(|last| *last < key) => {
                *last = Some(key);
                true
            }
            _ => false,
        }
    }

    /// Whether the object before is whole.
    fn ends_object(&mut self) -> bool {
        match std::mem::replace(&mut self.order, Order::None) {
            Order::Events(extent) => {
                let whole = extent.expected == extent.next;
                self.extents.push(extent);
                whole
            }
            _ => true,
        }
    }
}
