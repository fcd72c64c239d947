//! The lines of an export and of a backup: what each says. docs/operations.md describes them.

pub mod reading;

use forebay::ring::client::Retention;
use forebay::types::{Compression, Durability};
use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::bytes::from_hex;

/// The longest line: a key and a value of the largest size, every byte of them escaped as \u0000.
pub const LINE_BYTES_MAX: usize = 6 * ((16 << 20) + (1 << 10)) + (4 << 10);

#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line {
    /// Only in a backup: its first line.
    Backup(Head),
    Space(Space),
    Pair(Pair),
    Pages(Pages),
    Page(Page),
    Stream(Stream),
    /// Only in a backup: events of the stream were trimmed while it was written.
    Trimmed(Trimmed),
    Event(Event),
    Cursor(Cursor),
    End(End),
}

/// How a backup begins.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    pub format: u32,
    /// The namespace's UUID.
    pub appliance: String,
    /// Of its `forebay repair --cut`.
    pub cuts: u32,
    pub sequence: u64,
    /// The digest of the backup that this one goes on from; none: it is whole by itself.
    pub parent: Option<String>,
    /// Of the snapshot: a later one has a larger number.
    pub snapshot: u64,
    pub taken_unix_ms: u64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Space {
    pub object: String,
    pub durability: String,
    pub compression: String,
}

/// In a backup without a value where an earlier one has it.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    pub object: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_hex: Option<String>,
    pub version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_unix_ms: Option<u64>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pages {
    pub object: String,
    pub durability: String,
    pub page_bytes: usize,
}

/// The bytes in base64; in a backup none where an earlier one has them.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    pub object: String,
    pub number: u64,
    pub version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    pub object: String,
    pub durability: String,
    pub first: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chained: bool,
    /// Of a chained one: before the first event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_age_ms: Option<u64>,
    /// Only in a backup: the first event in it, and the offset after the last one of the stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Trimmed {
    pub object: String,
    pub first: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// Of a run: the offset after its last event, now that it is read up to its state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    pub object: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_hex: Option<String>,
    pub offset: u64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    pub object: String,
    pub name: String,
    pub offset: u64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    pub objects: u64,
    pub pairs: u64,
    #[serde(default)]
    pub pages: u64,
    pub events: u64,
    #[serde(default)]
    pub cursors: u64,
    /// Only in a backup: BLAKE3 of all before this line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub objects: u64,
    pub pairs: u64,
    pub pages: u64,
    pub events: u64,
    pub cursors: u64,
}

impl Counts {
    /// Counts a line.
    pub fn add(&mut self, line: &Line) {
        match line {
            Line::Space(_) | Line::Pages(_) | Line::Stream(_) => self.objects += 1,
            Line::Pair(_) => self.pairs += 1,
            Line::Page(_) => self.pages += 1,
            Line::Event(_) => self.events += 1,
            Line::Cursor(_) => self.cursors += 1,
            Line::Backup(_) | Line::Trimmed(_) | Line::End(_) => {}
        }
    }

    pub fn end(self, digest: Option<String>) -> Line {
        let Counts { objects, pairs, pages, events, cursors } = self;
        Line::End(End { objects, pairs, pages, events, cursors, digest })
    }
}

impl End {
    pub fn counts(&self) -> Counts {
        let End { objects, pairs, pages, events, cursors, .. } = *self;
        Counts { objects, pairs, pages, events, cursors }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = [(self.objects, "object"), (self.pairs, "pair"), (self.pages, "page"), (self.events, "event")];
        for (count, of) in all {
            write!(f, "{count} {of}{}, ", if count == 1 { "" } else { "s" })?;
        }
        write!(f, "{} cursor{}", self.cursors, if self.cursors == 1 { "" } else { "s" })
    }
}

impl Pair {
    /// With the value, where it is given.
    pub fn line(object: &str, key: &[u8], value: Option<&[u8]>, version: u64, until_unix_ms: Option<u64>) -> Line {
        let (key, key_hex) = text(key);
        let (value, value_hex) = value.map_or((None, None), text);
        Line::Pair(Pair { object: object.into(), key, key_hex, value, value_hex, version, until_unix_ms })
    }

    pub fn key_bytes(&mut self) -> Result<Vec<u8>, String> {
        field("key", self.key.take(), self.key_hex.take())
    }

    pub fn has_value(&self) -> bool {
        self.value.is_some() || self.value_hex.is_some()
    }

    pub fn value_bytes(&mut self) -> Result<Vec<u8>, String> {
        field("value", self.value.take(), self.value_hex.take())
    }
}

impl Event {
    pub fn line(object: &str, offset: u64, event: &[u8]) -> Line {
        let (event, event_hex) = text(event);
        Line::Event(Event { object: object.into(), event, event_hex, offset })
    }

    pub fn bytes(&mut self) -> Result<Vec<u8>, String> {
        field("event", self.event.take(), self.event_hex.take())
    }
}

impl Stream {
    pub fn retention(&self) -> Retention {
        Retention { bytes: self.retain_bytes, age: self.retain_age_ms.map(Duration::from_millis) }
    }
}

/// What a space or page space promises, and how its values are stored.
pub fn made_with(durability: &str, compression: &str) -> Result<(Durability, Compression), String> {
    Ok((durability.parse()?, compression.parse()?))
}

/// A head as it stands in a line: 32 bytes.
pub fn head_bytes(head: Option<&str>) -> Result<Vec<u8>, String> {
    let Some(head) = head else { return Ok(Vec::new()) };
    from_hex(head.as_bytes()).filter(|head| head.len() == 32).ok_or_else(|| "head is not 32 pairs of digits".into())
}

/// Bytes as text, or as hexadecimal where they are none.
fn text(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(super::bytes::to_hex(bytes))),
    }
}

/// Bytes that stand as text, or as hexadecimal.
fn field(name: &str, text: Option<String>, hex: Option<String>) -> Result<Vec<u8>, String> {
    match (text, hex) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(hex)) => from_hex(hex.as_bytes()).ok_or_else(|| format!("{name}_hex is not pairs of digits")),
        (Some(_), Some(_)) => Err(format!("it has {name} and {name}_hex; one of them is meant")),
        (None, None) => Err(format!("it has neither {name} nor {name}_hex")),
    }
}
