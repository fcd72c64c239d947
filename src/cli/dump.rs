//! The lines of an export: what each says, and what makes one damaged. docs/operations.md describes them.

use std::collections::HashMap;

use forebay::ring::client::Creation;
use forebay::types::{Compression, ObjectKind};
use serde::Deserialize;

use super::bytes::from_hex;

/// The longest line: a key and a value of the largest size, every byte of them escaped as \u0000.
pub const LINE_BYTES_MAX: usize = 6 * ((16 << 20) + (1 << 10)) + (4 << 10);

/// A line as it stands in the file.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    Space {
        object: String,
        durability: String,
        compression: String,
    },
    Pair {
        object: String,
        key: Option<String>,
        key_hex: Option<String>,
        value: Option<String>,
        value_hex: Option<String>,
        #[serde(rename = "version")]
        _version: u64,
    },
    Stream {
        object: String,
        durability: String,
        first: u64,
    },
    Event {
        object: String,
        event: Option<String>,
        event_hex: Option<String>,
        offset: u64,
    },
    End {
        objects: u64,
        pairs: u64,
        events: u64,
    },
}

/// What a good line asks for. Objects are counted from 0, in the order of the file.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    Object { name: String, kind: ObjectKind, creation: Creation },
    Pair { object: usize, key: Vec<u8>, value: Vec<u8> },
    Event { object: usize, event: Vec<u8> },
    End,
}

/// An object that the file told of.
struct Known {
    number: usize,
    kind: ObjectKind,
    /// The least offset that the next event of a stream may have.
    next: u64,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub objects: u64,
    pub pairs: u64,
    pub events: u64,
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
        let line = serde_json::from_slice(text).map_err(|error| format!("it is no line of an export: {error}"))?;
        match line {
            Line::Space { object, durability, compression } => {
                let creation =
                    Creation { durability: durability.parse()?, compression: compression.parse()?, chained: false };
                self.object(object, ObjectKind::Space, creation, 0)
            }
            Line::Stream { object, durability, first } => {
                let creation =
                    Creation { durability: durability.parse()?, compression: Compression::None, chained: false };
                self.object(object, ObjectKind::Stream, creation, first)
            }
            Line::Pair { object, key, key_hex, value, value_hex, .. } => {
                let key = field("key", key, key_hex)?;
                let value = field("value", value, value_hex)?;
                let object = self.known(&object, ObjectKind::Space)?.number;
                self.counts.pairs += 1;
                Ok(Item::Pair { object, key, value })
            }
            Line::Event { object, event, event_hex, offset } => {
                let event = field("event", event, event_hex)?;
                let known = self.known(&object, ObjectKind::Stream)?;
                if offset < known.next {
                    return Err(format!("its offset {offset} is not above those before it"));
                }
                known.next = offset.checked_add(1).ok_or("its offset is the last there can be")?;
                let object = known.number;
                self.counts.events += 1;
                Ok(Item::Event { object, event })
            }
            Line::End { objects, pairs, events } => {
                self.ended = true;
                let said = Counts { objects, pairs, events };
                if said == self.counts { Ok(Item::End) } else { Err(counted(said, self.counts)) }
            }
        }
    }

    fn object(&mut self, name: String, kind: ObjectKind, creation: Creation, next: u64) -> Result<Item, String> {
        if self.known.contains_key(&name) {
            return Err(format!("{name:?} was told of before"));
        }
        let number = self.known.len();
        self.known.insert(name.clone(), Known { number, kind, next });
        self.counts.objects += 1;
        Ok(Item::Object { name, kind, creation })
    }

    fn known(&mut self, name: &str, kind: ObjectKind) -> Result<&mut Known, String> {
        match self.known.get_mut(name) {
            Some(known) if known.kind == kind => Ok(known),
            Some(_) => Err(format!("{name:?} is no {}", kind.name())),
            None => Err(format!("no line before it tells of the {} {name:?}", kind.name())),
        }
    }
}

fn counted(said: Counts, found: Counts) -> String {
    format!(
        "it counts {} objects, {} pairs and {} events, and {}, {} and {} good ones stand before it",
        said.objects, said.pairs, said.events, found.objects, found.pairs, found.events
    )
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

    #[test]
    fn good_lines_are_read() {
        let mut reading = Reading::default();
        let mut item = |line: &str| reading.line(line.as_bytes()).expect("it is good");
        let creation = Creation { durability: Durability::Strict, compression: Compression::Zstd, chained: false };
        assert_eq!(item(SPACE), Item::Object { name: "s".into(), kind: ObjectKind::Space, creation });
        let pair = item(r#"{"kind":"pair","object":"s","key":"k\u0000\n","value_hex":"00ff","version":7}"#);
        assert_eq!(pair, Item::Pair { object: 0, key: b"k\0\n".to_vec(), value: vec![0, 255] });
        item(STREAM);
        let event = item(r#"{"offset":5,"event":"","object":"t","kind":"event"}"#);
        assert_eq!(event, Item::Event { object: 1, event: Vec::new() });
        assert_eq!(item(r#"{"kind":"end","objects":2,"pairs":1,"events":1}"#), Item::End);
        assert!(reading.line(SPACE.as_bytes()).is_err_and(|cause| cause.contains("behind the end line")));
    }

    #[test]
    fn every_damage_has_its_cause() {
        let pair = |rest: &str| format!(r#"{{"kind":"pair","object":"s","version":1,{rest}}}"#);
        for (lines, cause) in [
            (vec![""], "no line of an export"),
            (vec!["{}"], "kind"),
            (vec![r#"{"kind":"table"}"#], "table"),
            (vec![&"[".repeat(100_000)], "no line of an export"),
            (vec![SPACE, SPACE], "told of before"),
            (vec![r#"{"kind":"space","object":"s","durability":"sometimes","compression":"none"}"#], "durability"),
            (vec![&pair(r#""key":"k","value":"v""#)], "no line before it tells of the space \"s\""),
            (vec![SPACE, &pair(r#""key":"k""#)], "neither value nor value_hex"),
            (vec![SPACE, &pair(r#""key":"k","value":"v","value_hex":"00""#)], "one of them is meant"),
            (vec![SPACE, &pair(r#""key_hex":"0","value":"v""#)], "key_hex is not pairs of digits"),
            (vec![SPACE, &pair(r#""key":"k","value":"v","extra":1"#)], "extra"),
            (vec![SPACE, r#"{"kind":"event","object":"s","event":"e","offset":0}"#], "\"s\" is no stream"),
            (vec![STREAM, r#"{"kind":"event","object":"t","event":"e","offset":4}"#], "offset 4 is not above"),
            (vec![STREAM, r#"{"kind":"event","object":"t","event":"e","offset":-1}"#], "no line of an export"),
            (
                vec![STREAM, r#"{"kind":"event","object":"t","event":"e","offset":18446744073709551615}"#],
                "the last there can be",
            ),
            (vec![STREAM, r#"{"kind":"end","objects":1,"pairs":0,"events":9}"#], "counts 1 objects, 0 pairs and 9"),
        ] {
            let found = damage(&lines);
            assert!(found.contains(cause), "{found}");
        }
    }
}
