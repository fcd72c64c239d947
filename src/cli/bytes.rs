//! Keys and values on the command line: text or hexadecimal in, raw bytes, hexadecimal or JSON out.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use forebay::error::Error;
use forebay::ring::protocol::VALUE_BYTES_MAX;
use serde_json::{Map, Value};

use super::context::{Failure, Output};

/// An argument's bytes: as they are, or what the hexadecimal digits say.
pub fn decode(argument: OsString, hex: bool) -> Result<Vec<u8>, Failure> {
    let bytes = argument.into_vec();
    if !hex {
        return Ok(bytes);
    }
    from_hex(&bytes).ok_or_else(|| {
        let text = String::from_utf8_lossy(&bytes);
        Failure::Usage(Error::new(format!("{text:?} is not hexadecimal")).remedy("write pairs of digits, as 00ff"))
    })
}

/// The bytes that pairs of digits say; `None` where they are none.
pub fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    text.chunks(2).map(pair).collect()
}

pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all text");
        text
    })
}

pub fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// `None` where the text is none.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// The bytes of a file, or of standard input for "-". More than the largest value is an error, not memory.
pub fn read_source(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let limit = VALUE_BYTES_MAX as u64 + 1;
    let read = if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(|error| Error::from(error).context(format_args!("read {}", path.display())))?;
    if bytes.len() > VALUE_BYTES_MAX {
        return Err(Error::new(format!(
            "{} holds more than {VALUE_BYTES_MAX} B (16 MiB), the most that any value or event \
                                       may have",
            path.display()
        ))
        .remedy("split it over several keys or events")
        .into());
    }
    Ok(bytes)
}

/// Prints bytes as they are, or as hexadecimal.
pub fn print(out: &mut Output, bytes: &[u8], hex: bool) -> Result<(), Failure> {
    if hex { out.raw(to_hex(bytes).as_bytes()) } else { out.raw(bytes) }
}

/// Puts bytes into a JSON object: as "name" when they are UTF-8, else, or when asked to, as "name_hex".
pub fn insert(object: &mut Map<String, Value>, name: &str, bytes: &[u8], hex: bool) {
    match std::str::from_utf8(bytes) {
        Ok(text) if !hex => object.insert(name.into(), text.into()),
        _ => object.insert(format!("{name}_hex"), to_hex(bytes).into()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_reads_back() {
        assert_eq!(decode("00fFa1".into(), true).unwrap(), [0, 255, 161]);
        assert_eq!(to_hex(&[0, 255, 161]), "00ffa1");
        assert_eq!(decode("00".into(), false).unwrap(), b"00");
        for text in ["0", "0g", "+1", "0x00"] {
            assert!(matches!(decode(text.into(), true), Err(Failure::Usage(_))), "{text}");
        }
    }

    #[test]
    fn json_marks_what_is_not_text() {
        let mut object = Map::new();
        insert(&mut object, "key", b"k", false);
        insert(&mut object, "value", &[0xff], false);
        insert(&mut object, "event", b"k", true);
        assert_eq!(Value::Object(object).to_string(), r#"{"event_hex":"6b","key":"k","value_hex":"ff"}"#);
    }
}
