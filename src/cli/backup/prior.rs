//! The backup that one goes on from, read beside the appliance: both are in the order of their keys.

use forebay::error::Error;

use super::chain::Whole;
use super::reader::Reader;
use crate::cli::context::Failure;
use crate::cli::dump::Line;

/// None where the backup is whole by itself.
pub struct Prior<'a>(pub Option<(Reader, &'a Whole)>);

/// The object that a line begins.
pub fn begun(line: &Line) -> Option<&str> {
    match line {
        Line::Space(space) => Some(&space.object),
        Line::Pages(pages) => Some(&pages.object),
        Line::Stream(stream) => Some(&stream.object),
        _ => None,
    }
}

/// The key and version that a line names. Of a page its number; as a scan has it.
pub fn keyed(line: &Line) -> Option<(Vec<u8>, u64)> {
    match line {
        Line::Pair(pair) => {
            let key = match (&pair.key, &pair.key_hex) {
                (Some(key), _) => key.clone().into_bytes(),
                (None, hex) => crate::cli::bytes::from_hex(hex.as_deref()?.as_bytes())?,
            };
            Some((key, pair.version))
        }
        Line::Page(page) => Some((page.number.to_be_bytes().to_vec(), page.version)),
        _ => None,
    }
}

impl Prior<'_> {
    /// Whether there are versions to compare with.
    pub fn knows_keys(&self) -> bool {
        self.0.is_some()
    }

    /// Goes to an object, if it is the next one. Where it ended, if it is a stream.
    pub fn begin(&mut self, name: &str) -> Result<Option<u64>, Failure> {
        let Some((reader, whole)) = &mut self.0 else { return Ok(None) };
        if reader.peek()?.is_none_or(|line| begun(line) != Some(name)) {
            return Ok(None);
        }
        reader.take()?;
        Ok(whole.next_of(name))
    }

    /// The version that it has of a key. Keys are asked for in their order.
    pub fn version_of(&mut self, key: &[u8]) -> Result<Option<u64>, Failure> {
        let Some((reader, _)) = &mut self.0 else { return Ok(None) };
        Ok(seek(reader, key)?.map(|(version, _)| version))
    }

    /// Passes over the rest of the object.
    pub fn end(&mut self) -> Result<(), Failure> {
        Ok(self.0.as_mut().map_or(Ok(()), |(reader, _)| pass(reader))?)
    }
}

/// Goes on to a key of the object at hand. Its version, and whether its value or page stands there.
pub fn seek(reader: &mut Reader, key: &[u8]) -> Result<Option<(u64, bool)>, Error> {
    while let Some(line) = reader.peek()? {
        let has_value = match line {
            Line::Pair(pair) => pair.has_value(),
            Line::Page(page) => page.page.is_some(),
            _ => false,
        };
        match keyed(line) {
            Some((own, _)) if own.as_slice() < key => _ = reader.take()?,
            Some((own, version)) if own == key => return Ok(Some((version, has_value))),
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// Passes over the rest of the object at hand.
pub fn pass(reader: &mut Reader) -> Result<(), Error> {
    while reader.peek()?.is_some_and(|line| begun(line).is_none() && !matches!(line, Line::End(_))) {
        reader.take()?;
    }
    Ok(())
}
