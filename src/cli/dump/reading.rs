//! An export, line by line: what each asks for, and what makes one damaged.

use std::collections::HashMap;

use forebay::ring::client::{Creation, Retention};
use forebay::ring::protocol::{OFFSETS_END, TTL_MS_MAX, name_is_valid};
use forebay::types::{Compression, ObjectKind, PageSize};

use super::{Counts, Line, Pages, Space, Stream, head_bytes, made_with};
use crate::cli::bytes::from_base64;

/// What a good line asks for. Objects are counted from 0, in the order of the file.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    Object(Told),
    Pair { object: usize, key: Vec<u8>, value: Vec<u8>, until_unix_ms: Option<u64> },
    Page { object: usize, number: u64, page: Vec<u8> },
    Event { object: usize, event: Vec<u8>, offset: u64 },
    Cursor { object: usize, name: String, offset: u64 },
    End,
}

/// What is said of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub name: String,
    pub kind: ObjectKind,
    pub creation: Creation,
    /// Of a page space.
    pub page: Option<PageSize>,
    /// Of a stream: where it begins, the head before that where its events are linked, and what it keeps.
    pub first: u64,
    pub head: Vec<u8>,
    pub retention: Retention,
}

impl Told {
    fn new(name: String, kind: ObjectKind, creation: Creation) -> Told {
        let (page, first, head, retention) = (None, 0, Vec::new(), Retention::default());
        Told { name, kind, creation, page, first, head, retention }
    }

    pub fn space(space: Space) -> Result<Told, String> {
        let (durability, compression) = made_with(&space.durability, &space.compression)?;
        Ok(Told::new(space.object, ObjectKind::Space, Creation { durability, compression, chained: false }))
    }

    pub fn pages(pages: Pages) -> Result<Told, String> {
        let (durability, _) = made_with(&pages.durability, "none")?;
        let size = PageSize::new(pages.page_bytes);
        let page = Some(size.ok_or_else(|| format!("no page can have {} B", pages.page_bytes))?);
        Ok(Told { page, ..Told::new(pages.object, ObjectKind::Pages, durability.into()) })
    }

    pub fn stream(stream: Stream) -> Result<Told, String> {
        let retention = stream.retention();
        let (durability, compression) = made_with(&stream.durability, Compression::None.name())?;
        let creation = Creation { durability, compression, chained: stream.chained };
        if retention.bytes.is_some_and(|bytes| bytes == 0 || bytes == u64::MAX) {
            return Err("retain_bytes is no bound".into());
        }
        if stream.retain_age_ms.is_some_and(|ms| !(1..=TTL_MS_MAX).contains(&ms)) {
            return Err("retain_age_ms is not 1 ms to 100 years".into());
        }
        let head = head_bytes(stream.head.as_deref())?;
        if !head.is_empty() && !stream.chained {
            return Err("it has a head, and is not chained".into());
        }
        if stream.first >= OFFSETS_END {
            return Err(format!("no stream comes as far as {}", stream.first));
        }
        let (first, told) = (stream.first, Told::new(stream.object, ObjectKind::Stream, creation));
        Ok(Told { first, head, retention, ..told })
    }
}

/// An object that the file told of.
struct Known {
    number: usize,
    kind: ObjectKind,
    /// The least offset that the next event of a stream may have.
    next: u64,
    page: Option<PageSize>,
}

/// Reads lines one after another, and knows what came before.
#[derive(Default)]
pub struct Reading {
    known: HashMap<String, Known>,
    pub counts: Counts,
    pub ended: bool,
}

impl Reading {
    /// What the next line asks for.
    ///
    /// # Errors
    /// What is wrong with it. Nothing of it counts then.
    pub fn line(&mut self, text: &[u8]) -> Result<Item, String> {
        if self.ended {
            return Err("it stands behind the end line".into());
        }
        let line: Line =
            serde_json::from_slice(text).map_err(|error| format!("it is no line of an export: {error}"))?;
        let mut counts = self.counts;
        counts.add(&line);
        let item = self.item(line)?;
        self.counts = counts;
        Ok(item)
    }

    fn item(&mut self, line: Line) -> Result<Item, String> {
        match line {
            Line::Space(space) => self.object(Told::space(space)?),
            Line::Pages(pages) => self.object(Told::pages(pages)?),
            Line::Stream(stream) if stream.from.is_some() || stream.next.is_some() => Err(OF_BACKUP.into()),
            Line::Stream(stream) => self.object(Told::stream(stream)?),
            Line::Pair(mut pair) => {
                let (key, value) = (pair.key_bytes()?, pair.value_bytes()?);
                let object = self.known(&pair.object, ObjectKind::Space)?.number;
                Ok(Item::Pair { object, key, value, until_unix_ms: pair.until_unix_ms })
            }
            Line::Page(page) => {
                let known = self.known(&page.object, ObjectKind::Pages)?;
                let bytes = page_bytes(page.page, known.page)?;
                Ok(Item::Page { object: known.number, number: page.number, page: bytes })
            }
            Line::Event(mut event) => {
                let (bytes, offset) = (event.bytes()?, event.offset);
                let known = self.known(&event.object, ObjectKind::Stream)?;
                if offset < known.next {
                    return Err(format!("its offset {offset} is not above those before it"));
                }
                known.next = offset.checked_add(1).ok_or("its offset is the last there can be")?;
                Ok(Item::Event { object: known.number, event: bytes, offset })
            }
            Line::Cursor(cursor) => {
                let known = self.known(&cursor.object, ObjectKind::Stream)?;
                check_cursor(&cursor.name, cursor.offset, known.next)?;
                Ok(Item::Cursor { object: known.number, name: cursor.name, offset: cursor.offset })
            }
            Line::End(end) => {
                self.ended = true;
                let (said, found) = (end.counts(), self.counts);
                match () {
                    () if end.digest.is_some() => Err(OF_BACKUP.into()),
                    () if said == found => Ok(Item::End),
                    () => Err(format!("it counts {said}; and {found}, all good ones, stand before it")),
                }
            }
            Line::Backup(_) | Line::Trimmed(_) => Err(OF_BACKUP.into()),
        }
    }

    fn object(&mut self, told: Told) -> Result<Item, String> {
        if self.known.contains_key(&told.name) {
            return Err(format!("{:?} was told of before", told.name));
        }
        let known = Known { number: self.known.len(), kind: told.kind, next: told.first, page: told.page };
        self.known.insert(told.name.clone(), known);
        Ok(Item::Object(told))
    }

    fn known(&mut self, name: &str, kind: ObjectKind) -> Result<&mut Known, String> {
        match self.known.get_mut(name) {
            Some(known) if known.kind == kind => Ok(known),
            Some(_) => Err(format!("{name:?} is no {}", kind.name())),
            None => Err(format!("no line before it tells of the {} {name:?}", kind.name())),
        }
    }
}

const OF_BACKUP: &str = "it is of a backup, which `forebay restore` reads";

/// The bytes of a page that has this size.
pub fn page_bytes(page: Option<String>, size: Option<PageSize>) -> Result<Vec<u8>, String> {
    let bytes = from_base64(&page.ok_or("it has no page")?).ok_or("page is not base64")?;
    let expected = size.map_or(0, PageSize::bytes);
    if bytes.len() == expected {
        return Ok(bytes);
    }
    Err(format!("page has {} B, where pages have {expected} B", bytes.len()))
}

/// Whether a cursor may be called so, and stands in its stream, whose next event has the offset `next`.
pub fn check_cursor(name: &str, offset: u64, next: u64) -> Result<(), String> {
    if !name_is_valid(name.as_bytes()) {
        return Err("no cursor can be called so".into());
    }
    if offset > next {
        return Err(format!("the cursor {name:?} stands at {offset}, and the stream ends at {next}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay::types::Durability;

    fn damage(lines: &[&str]) -> String {
        let mut reading = Reading::default();
        let (last, before) = lines.split_last().expect("there are lines");
        for line in before {
            reading.line(line.as_bytes()).expect("it is good");
        }
        let counts = reading.counts;
        let cause = reading.line(last.as_bytes()).expect_err("it is no good");
        assert_eq!(reading.counts, counts, "nothing of it counts");
        cause
    }

    const SPACE: &str = r#"{"kind":"space","object":"s","durability":"strict","compression":"zstd"}"#;
    const STREAM: &str = r#"{"kind":"stream","object":"t","durability":"memory","first":5}"#;
    const PAGES: &str = r#"{"kind":"pages","object":"p","durability":"strict","page_bytes":4096}"#;

    #[test]
    fn good_lines_are_read() {
        let mut reading = Reading::default();
        let mut item = |line: &str| reading.line(line.as_bytes()).expect("it is good");
        let Item::Object(told) = item(SPACE) else { panic!("a space") };
        let creation = Creation { durability: Durability::Strict, compression: Compression::Zstd, chained: false };
        assert_eq!((told.name.as_str(), told.kind, told.creation), ("s", ObjectKind::Space, creation));
        let pair = item(r#"{"kind":"pair","object":"s","key":"k\u0000\n","value_hex":"00ff","version":7}"#);
        let (key, value) = (b"k\0\n".to_vec(), vec![0, 255]);
        assert_eq!(pair, Item::Pair { object: 0, key, value, until_unix_ms: None });
        let Item::Pair { until_unix_ms, .. } =
            item(r#"{"kind":"pair","object":"s","key":"l","value":"","version":7,"until_unix_ms":99}"#)
        else {
            panic!("a pair")
        };
        assert_eq!(until_unix_ms, Some(99));
        item(STREAM);
        let event = item(r#"{"offset":5,"event":"","object":"t","kind":"event"}"#);
        assert_eq!(event, Item::Event { object: 1, event: Vec::new(), offset: 5 });
        let cursor = item(r#"{"kind":"cursor","object":"t","name":"c","offset":6}"#);
        assert_eq!(cursor, Item::Cursor { object: 1, name: "c".into(), offset: 6 });
        item(PAGES);
        let page = format!(
            r#"{{"kind":"page","object":"p","number":9,"version":1,"page":"{}"}}"#,
            "AAAA".repeat(1_365) + "AA=="
        );
        assert_eq!(item(&page), Item::Page { object: 2, number: 9, page: vec![0; 4_096] });
        assert_eq!(item(r#"{"kind":"end","objects":3,"pairs":2,"pages":1,"events":1,"cursors":1}"#), Item::End);
        assert!(reading.line(SPACE.as_bytes()).is_err_and(|cause| cause.contains("behind the end line")));
    }

    #[test]
    fn every_damage_has_its_cause() {
        let pair = |rest: &str| format!(r#"{{"kind":"pair","object":"s","version":1,{rest}}}"#);
        let page = |rest: &str| format!(r#"{{"kind":"page","object":"p","version":1,{rest}}}"#);
        let stream = |rest: &str| format!(r#"{{"kind":"stream","object":"t","durability":"strict","first":5,{rest}}}"#);
        for (lines, cause) in [
            (vec![""], "no line of an export"),
            (vec!["{}"], "kind"),
            (vec![r#"{"kind":"table"}"#], "table"),
            (vec![&"[".repeat(100_000)], "no line of an export"),
            (vec![SPACE, SPACE], "told of before"),
            (vec![r#"{"kind":"space","object":"s","durability":"sometimes","compression":"none"}"#], "durability"),
            (vec![&pair(r#""key":"k","value":"v""#)], "no line before it tells of the space \"s\""),
            (vec![&STREAM.replace(":5", ":9223372036854775808")], "as far as 9223372036854775808"),
            (vec![&stream(&format!(r#""head":"{}""#, "00".repeat(32)))], "is not chained"),
            (vec![SPACE, &pair(r#""key":"k""#)], "neither value nor value_hex"),
            (vec![SPACE, &pair(r#""key":"k","value":"v","value_hex":"00""#)], "one of them is meant"),
            (vec![SPACE, &pair(r#""key_hex":"0","value":"v""#)], "key_hex is not pairs of digits"),
            (vec![SPACE, &pair(r#""key":"k","value":"v","extra":1"#)], "extra"),
            (vec![SPACE, &pair(r#""key":"k","value":"v","until_unix_ms":-1"#)], "no line of an export"),
            (vec![SPACE, r#"{"kind":"event","object":"s","event":"e","offset":0}"#], "\"s\" is no stream"),
            (vec![STREAM, r#"{"kind":"event","object":"t","event":"e","offset":4}"#], "offset 4 is not above"),
            (vec![STREAM, r#"{"kind":"event","object":"t","event":"e","offset":-1}"#], "no line of an export"),
            (
                vec![STREAM, r#"{"kind":"event","object":"t","event":"e","offset":18446744073709551615}"#],
                "the last there can be",
            ),
            (vec![STREAM, r#"{"kind":"end","objects":1,"pairs":0,"events":9}"#], "it counts 1 object, 0 pairs"),
            (vec![STREAM, r#"{"kind":"cursor","object":"t","name":"c","offset":6}"#], "the stream ends at 5"),
            (vec![STREAM, r#"{"kind":"cursor","object":"t","name":"","offset":5}"#], "no cursor can be called so"),
            (vec![&stream(r#""retain_bytes":0"#)], "retain_bytes"),
            (vec![&stream(r#""retain_age_ms":99999999999999999"#)], "retain_age_ms"),
            (vec![&stream(r#""chained":true,"head":"00""#)], "head is not 32 pairs"),
            (vec![&stream(r#""from":5,"next":6"#)], "forebay restore"),
            (vec![r#"{"kind":"trimmed","object":"t","first":6}"#], "forebay restore"),
            (vec![&PAGES.replace("4096", "4097")], "no page can have 4097 B"),
            (vec![PAGES, &page(r#""number":1"#)], "it has no page"),
            (vec![PAGES, &page(r#""number":1,"page":"AAAA""#)], "page has 3 B, where pages have 4096 B"),
            (vec![PAGES, &page(r#""number":1,"page":"A!""#)], "page is not base64"),
            (vec![PAGES, &page(r#""number":-1,"page":"AAAA""#)], "no line of an export"),
        ] {
            let found = damage(&lines);
            assert!(found.contains(cause), "{found}");
        }
    }
}
