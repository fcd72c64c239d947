//! The changes of a step as JSON: what `replay --json` prints and `step` takes.

use forebay::run::step::Change;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::cli::bytes::{self, from_hex};

/// A line that says a step. What `replay` says beside the changes is passed over.
#[derive(Deserialize)]
pub struct StepLine {
    changes: Vec<Line>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    put: Option<String>,
    delete: Option<String>,
    event: Option<String>,
    key: Option<String>,
    key_hex: Option<String>,
    value: Option<String>,
    value_hex: Option<String>,
}

/// A change that owns its bytes.
pub enum Owned {
    Put { space: String, key: Vec<u8>, value: Vec<u8> },
    Delete { space: String, key: Vec<u8> },
    Event { stream: String, event: Vec<u8> },
}

impl Owned {
    pub fn as_change(&self) -> Change<'_> {
        match self {
            Owned::Put { space, key, value } => Change::Put { space, key, value },
            Owned::Delete { space, key } => Change::Delete { space, key },
            Owned::Event { stream, event } => Change::Event { stream, event },
        }
    }
}

/// The changes of a line.
///
/// # Errors
/// What is wrong with it.
pub fn read(line: &str) -> Result<Vec<Owned>, String> {
    let line: StepLine = serde_json::from_str(line).map_err(|error| format!("it is no step: {error}"))?;
    line.changes.into_iter().map(owned).collect()
}

fn owned(line: Line) -> Result<Owned, String> {
    let Line { put, delete, event, key, key_hex, value, value_hex } = line;
    let (key, value) = (field("key", key, key_hex)?, field("value", value, value_hex)?);
    match (put, delete, event, key, value) {
        (Some(space), None, None, Some(key), Some(value)) => Ok(Owned::Put { space, key, value }),
        (None, Some(space), None, Some(key), None) => Ok(Owned::Delete { space, key }),
        (None, None, Some(stream), None, Some(event)) => Ok(Owned::Event { stream, event }),
        _ => Err("a change is put, key and value, or delete and key, or event and value".into()),
    }
}

fn field(name: &str, text: Option<String>, hex: Option<String>) -> Result<Option<Vec<u8>>, String> {
    match (text, hex) {
        (Some(_), Some(_)) => Err(format!("it has {name} and {name}_hex; one of them is meant")),
        (None, Some(hex)) => {
            from_hex(hex.as_bytes()).map(Some).ok_or_else(|| format!("{name}_hex is not pairs of digits"))
        }
        (text, None) => Ok(text.map(String::into_bytes)),
    }
}

/// A change as an object.
pub fn json(change: &Change<'_>) -> Value {
    let mut object = Map::new();
    let (what, name, key, value) = match *change {
        Change::Put { space, key, value } => ("put", space, Some(key), Some(value)),
        Change::Delete { space, key } => ("delete", space, Some(key), None),
        Change::Event { stream, event } => ("event", stream, None, Some(event)),
    };
    object.insert(what.into(), name.into());
    if let Some(key) = key {
        bytes::insert(&mut object, "key", key, false);
    }
    if let Some(value) = value {
        bytes::insert(&mut object, "value", value, false);
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_again() {
        let changes = [
            Change::Put { space: "s", key: b"k", value: &[0xff] },
            Change::Delete { space: "s", key: &[0xfe] },
            Change::Event { stream: "t", event: b"" },
        ];
        let line = serde_json::json!({ "offset": 7, "changes": changes.iter().map(json).collect::<Vec<_>>() });
        let again = read(&line.to_string()).unwrap();
        assert_eq!(again.iter().map(Owned::as_change).collect::<Vec<_>>(), changes);
    }

    #[test]
    fn what_is_no_change_is_told() {
        for (changes, cause) in [
            (r#"{"put":"s","key":"k"}"#, "put, key and value"),
            (r#"{"put":"s","delete":"s","key":"k","value":"v"}"#, "put, key and value"),
            (r#"{"event":"t","key":"k","value":"v"}"#, "put, key and value"),
            (r#"{"put":"s","key_hex":"0","value":"v"}"#, "pairs of digits"),
            (r#"{"put":"s","key":"k","key_hex":"00","value":"v"}"#, "one of them is meant"),
            (r#"{"put":"s","key":"k","value":"v","ttl":1}"#, "ttl"),
            ("7", "no step"),
        ] {
            let found = read(&format!(r#"{{"changes":[{changes}]}}"#)).err().expect("it is none");
            assert!(found.contains(cause), "{found}");
        }
    }
}
