//! Sizes and durations as a person writes them: "64MiB", "5ms". A number without a unit is refused.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Visitor};

const SIZE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const TIME_UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// A number of bytes, written as "64MiB": a whole number and one of B, KiB, MiB, GiB, TiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    #[must_use]
    pub const fn kib(count: u64) -> ByteSize {
        ByteSize(count << 10)
    }

    #[must_use]
    pub const fn mib(count: u64) -> ByteSize {
        ByteSize(count << 20)
    }

    #[must_use]
    pub const fn gib(count: u64) -> ByteSize {
        ByteSize(count << 30)
    }
}

/// A duration in nanoseconds, written as "5ms": a whole number and one of ns, us, ms, s, m, h, d.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    #[must_use]
    pub const fn micros(count: u64) -> Nanos {
        Nanos(count * 1_000)
    }

    #[must_use]
    pub const fn millis(count: u64) -> Nanos {
        Nanos(count * 1_000_000)
    }
}

impl From<Nanos> for Duration {
    fn from(nanos: Nanos) -> Duration {
        Duration::from_nanos(nanos.0)
    }
}

/// How long a reactor polls for work before it sleeps: a duration, or "forever".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spin {
    /// Sleep after so long without work. Zero sleeps at once.
    For(Nanos),
    /// Never sleep: the lowest latency, and a core that is always busy.
    Forever,
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_units(text, &SIZE_UNITS).map(ByteSize).ok_or_else(|| {
            format!("{text:?} is not a size; write a whole number and B, KiB, MiB, GiB or TiB, as 64MiB")
        })
    }
}

impl FromStr for Nanos {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_units(text, &TIME_UNITS).map(Nanos).ok_or_else(|| {
            format!("{text:?} is not a duration; write a whole number and ns, us, ms, s, m, h or d, as 5ms")
        })
    }
}

impl FromStr for Spin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "forever" {
            return Ok(Spin::Forever);
        }
        text.parse().map(Spin::For).map_err(|error: String| format!("{error}, or forever"))
    }
}

/// A whole number and a unit; 0 needs none. `None` when it is anything else or does not fit 64 bits.
fn parse_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// In the largest unit that divides the value, so that the text reads back as the same value.
fn display_units(value: u64, units: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match units.iter().filter(|(_, factor)| value.is_multiple_of(*factor)).max_by_key(|(_, factor)| factor) {
        Some((name, factor)) if value > 0 => write!(f, "{}{name}", value / factor),
        _ => f.write_str("0"),
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display_units(self.0, &SIZE_UNITS, f)
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display_units(self.0, &TIME_UNITS, f)
    }
}

impl fmt::Display for Spin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spin::For(nanos) => nanos.fmt(f),
            Spin::Forever => f.write_str("forever"),
        }
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a size in quotes, such as \"64MiB\"")
    }
}

impl<'de> Deserialize<'de> for Nanos {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a duration in quotes, such as \"5ms\"")
    }
}

impl<'de> Deserialize<'de> for Spin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a duration in quotes, such as \"100us\", or \"forever\"")
    }
}

/// Reads a string and parses it; `expected` says what stands in the message when it is no string.
pub(super) fn from_text<'de, D, T>(deserializer: D, expected: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = String>,
{
    deserializer.deserialize_str(Text { expected, target: PhantomData })
}

struct Text<T> {
    expected: &'static str,
    target: PhantomData<T>,
}

impl<T: FromStr<Err = String>> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print_alike() {
        for (text, bytes) in [("0", 0), ("1B", 1), ("4KiB", 4_096), ("64MiB", 64 << 20), ("3TiB", 3 << 40)] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size.0, bytes);
            assert_eq!(size.to_string(), text);
        }
        assert_eq!("1024KiB".parse::<ByteSize>().unwrap().to_string(), "1MiB");
        assert_eq!("64 MiB".parse::<ByteSize>(), Ok(ByteSize::mib(64)));
    }

    #[test]
    fn sizes_that_are_refused() {
        for text in [
            "",
            "64",
            "64MB",
            "MiB",
            "-1B",
            "1.5GiB",
            "64mib",
            "64MiBx",
            "18014398509481984KiB",
            "99999999999999999999B",
        ] {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert!(error.contains("is not a size"), "{text}: {error}");
        }
    }

    #[test]
    fn durations_read_and_print_alike() {
        for (text, nanos) in [
            ("0", 0),
            ("7ns", 7),
            ("100us", 100_000),
            ("5ms", 5_000_000),
            ("2s", 2_000_000_000),
            ("1m", 60_000_000_000),
        ] {
            let duration: Nanos = text.parse().unwrap();
            assert_eq!(duration.0, nanos);
            assert_eq!(duration.to_string(), text);
        }
        assert_eq!("60s".parse::<Nanos>().unwrap().to_string(), "1m");
        assert!("5".parse::<Nanos>().unwrap_err().contains("is not a duration"));
        assert_eq!(("36h".parse(), "2h".parse()), (Ok(Nanos(129_600_000_000_000)), Ok(Nanos(7_200_000_000_000))));
        assert_eq!("168h".parse::<Nanos>().unwrap().to_string(), "7d");
        assert!("5w".parse::<Nanos>().is_err());
    }

    #[test]
    fn spin_is_a_duration_or_forever() {
        assert_eq!("forever".parse(), Ok(Spin::Forever));
        assert_eq!("0".parse(), Ok(Spin::For(Nanos(0))));
        assert_eq!("100us".parse(), Ok(Spin::For(Nanos::micros(100))));
        assert!("always".parse::<Spin>().unwrap_err().contains("or forever"));
        assert_eq!(Spin::Forever.to_string(), "forever");
    }
}
