//! Backups that go on from each other: read to their ends, and put together to what the last one stands for.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use forebay::error::Error;
use forebay::types::PageSize;

use super::files::{check_seal, path_of, sequences};
use super::prior::{begun, keyed, pass, seek};
use super::reader::{Extent, Reader};
use crate::cli::context::Failure;
use crate::cli::dump::reading::{Item, Told, check_cursor, page_bytes};
use crate::cli::dump::{Counts, Head, Line, head_bytes};
use crate::cli::progress::Progress;

/// A backup that was read to its end.
pub struct Whole {
    pub path: PathBuf,
    pub head: Head,
    pub counts: Counts,
    pub written: u64,
    pub digest: String,
    extents: HashMap<String, Extent>,
}

impl Whole {
    /// Where a stream ended.
    pub fn next_of(&self, stream: &str) -> Option<u64> {
        self.extents.get(stream).map(|extent| extent.next)
    }
}

/// Reads a backup to its end.
///
/// # Errors
/// Why it is no whole one.
pub fn whole(path: &Path, progress: &mut Progress) -> Result<Whole, Error> {
    check_seal(path)?;
    let (mut reader, name) = (Reader::open(path)?, path.display());
    reader.finish(&mut |reader| {
        let Counts { pairs, pages, events, .. } = reader.counts;
        progress.show(|| format!("checking {name}: {pairs} pairs, {pages} pages and {events} events so far"));
    })?;
    let Some(digest) = reader.digest.take() else { return Err(reader.damaged("it has no end")) };
    let Reader { path, head, counts, extents, written, .. } = reader;
    let extents = extents.into_iter().map(|extent| (extent.object.clone(), extent)).collect();
    Ok(Whole { path, head, counts, written, digest, extents })
}

/// The files of the backups that the one of this number goes on from, and of it itself; the first is whole by itself.
///
/// # Errors
/// One is missing, or is another than its name says.
pub fn files(directory: &Path, sequence: u64) -> Result<Vec<PathBuf>, Error> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for number in (1..=sequence).rev() {
        let path = path_of(directory, number);
        let reader = Reader::open(&path).map_err(|error| match paths.last() {
            Some(after) => error.context(format_args!("{} goes on from it", after.display())),
            None => error,
        })?;
        if reader.head.sequence != number {
            return Err(reader.damaged(&format!("it is backup {}, under another's name", reader.head.sequence)));
        }
        paths.push(path);
        if reader.head.parent.is_none() {
            paths.reverse();
            return Ok(paths);
        }
    }
    Err(Error::new(format!("{}: damaged: it goes on from none", path_of(directory, 1).display())))
}

/// Reads all of a chain, and holds each backup against the digest that the next one names.
///
/// # Errors
/// Damage, of whatever kind; nothing was written anywhere.
pub fn check(directory: &Path, sequence: u64) -> Result<Vec<Whole>, Error> {
    let mut progress = Progress::new();
    let mut chain: Vec<Whole> = Vec::new();
    for path in files(directory, sequence)? {
        let next = whole(&path, &mut progress)?;
        if let Some(before) = chain.last() {
            let same = (&before.head.appliance, before.head.cuts) == (&next.head.appliance, next.head.cuts);
            if next.head.parent.as_ref() != Some(&before.digest) || !same {
                let (own, other) = (next.path.display(), before.path.display());
                return Err(Error::new(format!("damaged: {own} does not go on from the {other} that is there")));
            }
        }
        chain.push(next);
    }
    Ok(chain)
}

/// The newest backup, or the one that is asked for.
///
/// # Errors
/// There is none.
pub fn choose(directory: &Path, at: Option<u64>) -> Result<u64, Error> {
    let found = sequences(directory)?;
    let Some((first, last)) = found.first().zip(found.last()) else {
        return Err(
            Error::new(format!("{} holds no backup", directory.display())).remedy("`forebay backup DIR` writes one")
        );
    };
    match at {
        Some(at) if !found.contains(&at) => Err(Error::new(format!(
            "{} holds no backup {at}; the first is {first}, the last {last}",
            directory.display()
        ))),
        Some(at) => Ok(at),
        None => Ok(*last),
    }
}

/// What a chain that was checked stands for, in the order of an export.
pub struct Merge<'a> {
    chain: &'a [Whole],
    /// Those before the last, and whether each has the object at hand.
    before: Vec<(Reader, bool)>,
    last: Reader,
    counts: Counts,
    each: &'a mut dyn FnMut(Item) -> Result<(), Failure>,
}

impl<'a> Merge<'a> {
    /// # Errors
    /// A file went away.
    pub fn new(chain: &'a [Whole], each: &'a mut dyn FnMut(Item) -> Result<(), Failure>) -> Result<Merge<'a>, Error> {
        let mut readers = chain.iter().map(|whole| Reader::open(&whole.path)).collect::<Result<Vec<_>, _>>()?;
        let Some(last) = readers.pop() else { return Err(Error::new("there is no backup")) };
        let before = readers.into_iter().map(|reader| (reader, false)).collect();
        Ok(Merge { chain, before, last, counts: Counts::default(), each })
    }

    /// Gives one item after another. How many there were.
    ///
    /// # Errors
    /// Damage, also of what changed since it was checked; and what `each` says.
    pub fn run(mut self) -> Result<Counts, Failure> {
        let mut number = 0;
        while let Some(line) = self.last.take()? {
            let Some(name) = begun(&line) else { continue };
            let name = name.to_owned();
            for (reader, has) in &mut self.before {
                *has = reader.peek()?.is_some_and(|line| begun(line) == Some(name.as_str()));
                if *has {
                    reader.take()?;
                }
            }
            let (told, is_stream) = match line {
                Line::Space(space) => (Told::space(space), false),
                Line::Pages(pages) => (Told::pages(pages), false),
                Line::Stream(stream) => (Told::stream(stream), true),
                _ => continue,
            };
            let mut told = told.map_err(|cause| self.last.damaged(&cause))?;
            if is_stream {
                self.stream(number, &mut told)?;
            } else {
                let page = told.page;
                self.give(Item::Object(told))?;
                self.keys(number, page)?;
            }
            for (reader, _) in self.before.iter_mut().filter(|(_, has)| *has) {
                pass(reader)?;
            }
            number += 1;
        }
        if self.chain.last().map(|whole| &whole.digest) != self.last.digest.as_ref() {
            return Err(self.last.damaged("it changed while it was read").into());
        }
        self.give(Item::End)?;
        Ok(self.counts)
    }

    fn give(&mut self, item: Item) -> Result<(), Failure> {
        match item {
            Item::Object(_) => self.counts.objects += 1,
            Item::Pair { .. } => self.counts.pairs += 1,
            Item::Page { .. } => self.counts.pages += 1,
            Item::Event { .. } => self.counts.events += 1,
            Item::Cursor { .. } => self.counts.cursors += 1,
            Item::End => {}
        }
        (self.each)(item)
    }

    fn keys(&mut self, object: usize, page: Option<PageSize>) -> Result<(), Failure> {
        while let Some((key, version)) = self.last.peek()?.and_then(|line| keyed(line)) {
            let line = self.last.take()?;
            let line = match line {
                Some(Line::Pair(pair)) if pair.has_value() => Line::Pair(pair),
                Some(Line::Page(page)) if page.page.is_some() => Line::Page(page),
                _ => self.value(&key, version)?,
            };
            let item = item(object, line, page).map_err(|cause| self.last.damaged(&cause))?;
            self.give(item)?;
        }
        Ok(())
    }

    /// The line with the value that a key has at this version: it stands in the newest backup that has one.
    fn value(&mut self, key: &[u8], version: u64) -> Result<Line, Failure> {
        for (reader, _) in self.before.iter_mut().rev().filter(|(_, has)| *has) {
            match seek(reader, key)? {
                Some((own, true)) if own == version => {
                    return reader.take()?.ok_or_else(|| reader.damaged("it ends too soon").into());
                }
                Some((own, false)) if own == version => {}
                _ => break,
            }
        }
        Err(self.last.damaged("the value of this key stands in no backup before it").into())
    }

    fn stream(&mut self, object: usize, told: &mut Told) -> Result<(), Failure> {
        let missing = |reader: &Reader| Failure::from(reader.damaged("events of this stream are in no backup"));
        let extents: Vec<Option<&Extent>> = self.chain.iter().map(|whole| whole.extents.get(&told.name)).collect();
        let Some(Some(last)) = extents.last() else { return Err(missing(&self.last)) };
        let (first, next) = (last.first, last.next);
        told.first = first;
        told.head = head_bytes(last.head.as_deref()).map_err(|cause| self.last.damaged(&cause))?;
        // Each has what came after the one before, as far back as the stream goes.
        let mut begin = extents.len() - 1;
        while let Some(from) = extents[begin].map(|extent| extent.from).filter(|from| *from > first) {
            if begin == 0 || extents[begin - 1].is_none_or(|before| before.next != from) {
                return Err(missing(&self.last));
            }
            begin -= 1;
        }
        self.give(Item::Object(told.clone()))?;
        let last = self.before.len();
        for number in begin..=last {
            let reader = self.before.get_mut(number).map_or(&mut self.last, |(reader, _)| reader);
            while let Some(Line::Event(_) | Line::Trimmed(_)) = reader.peek()? {
                if let Some(Line::Event(mut event)) = reader.take()?
                    && event.offset >= first
                {
                    let (offset, event) = (event.offset, event.bytes().map_err(|cause| reader.damaged(&cause))?);
                    self.counts.events += 1;
                    (self.each)(Item::Event { object, event, offset })?;
                }
            }
        }
        while let Some(Line::Cursor(_)) = self.last.peek()? {
            if let Some(Line::Cursor(cursor)) = self.last.take()? {
                let (name, offset) = (cursor.name, cursor.offset);
                check_cursor(&name, offset, next).map_err(|cause| self.last.damaged(&cause))?;
                self.give(Item::Cursor { object, name, offset })?;
            }
        }
        Ok(())
    }
}

fn item(object: usize, line: Line, size: Option<PageSize>) -> Result<Item, String> {
    match line {
        Line::Pair(mut pair) => {
            let (key, value) = (pair.key_bytes()?, pair.value_bytes()?);
            Ok(Item::Pair { object, key, value, until_unix_ms: pair.until_unix_ms })
        }
        Line::Page(page) => {
            let number = page.number;
            Ok(Item::Page { object, number, page: page_bytes(page.page, size)? })
        }
        _ => Err("it is no pair and no page".into()),
    }
}
