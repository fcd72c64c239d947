//! Sizes and times as fio writes them, and as its reports print them.

use std::time::Duration;

/// Bytes from "4096", "4k", "64KiB" or "1g". As in fio, k, m, g and t are powers of 1,024.
///
/// # Errors
/// A sentence that says what is expected.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size; write a number of bytes, or one with k, m, g or t, as in 64k");
    let (digits, unit) = split_number(text);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

/// A time from "10", "10s", "5m", "200ms" or "50us"; a bare number counts in `unit`.
///
/// # Errors
/// A sentence that says what is expected.
pub fn parse_duration(text: &str, unit: Duration) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time; write a number with us, ms, s, m, h or d, as in 10s");
    let (digits, suffix) = split_number(text);
    let unit = match suffix.to_ascii_lowercase().as_str() {
        "" => unit,
        "us" | "usec" => Duration::from_micros(1),
        "ms" | "msec" => Duration::from_millis(1),
        "s" | "sec" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3_600),
        "d" => Duration::from_secs(86_400),
        _ => return Err(wrong()),
    };
    let number: u32 = digits.parse().map_err(|_| wrong())?;
    unit.checked_mul(number).ok_or_else(wrong)
}

fn split_number(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    (&text[..digits], text[digits..].trim_start())
}

/// "683k" as fio shortens counts: three digits, then k, M or G, in powers of 1,000.
#[must_use]
pub fn short_count(value: f64) -> String {
    shorten(value, 1_000.0, &["", "k", "M", "G"])
}

/// "76.4MiB": three digits in powers of 1,024.
#[must_use]
pub fn short_bytes(value: f64) -> String {
    shorten(value, 1_024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// "80.1MB": three digits in powers of 1,000.
#[must_use]
pub fn short_bytes_decimal(value: f64) -> String {
    shorten(value, 1_000.0, &["B", "kB", "MB", "GB", "TB"])
}

fn shorten(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut place = 0;
    while value >= step * 0.9995 && place + 1 < units.len() {
        value /= step;
        place += 1;
    }
    // Whole numbers stay whole: fio prints "512B" and "16", but "18.4k".
    let decimals = if place == 0 && value.fract() == 0.0 || value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}{}", units[place])
}

/// The unit in which fio would print latencies up to `ns`: its name and its nanoseconds.
#[must_use]
pub fn latency_unit(ns: f64) -> (&'static str, f64) {
    match ns {
        ns if ns < 20_000.0 => ("nsec", 1.0),
        ns if ns < 20_000_000.0 => ("usec", 1_000.0),
        _ => ("msec", 1_000_000.0),
    }
}

/// As `latency_text`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn nanoseconds_text(ns: u64) -> String {
    latency_text(ns as f64)
}

/// "1.23 ms": three digits, in the unit that leaves one to three before the point.
#[must_use]
pub fn latency_text(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 999.5 => (ns, "ns"),
        ns if ns < 999_500.0 => (ns / 1e3, "µs"),
        ns if ns < 999_500_000.0 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    let number = format!("{value:.decimals$}");
    let number = if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
    format!("{number} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in
            [("4096", 4096), ("4k", 4096), ("4K", 4096), ("64KiB", 65_536), ("2m", 2 << 20), ("1g", 1 << 30)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "4x", "-4k", "4.5k", "50%", "99999999999t"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_take_the_callers_unit_when_bare() {
        let second = Duration::from_secs(1);
        for (text, ms) in [("10", 10_000), ("10s", 10_000), ("5m", 300_000), ("200ms", 200), ("0", 0)] {
            assert_eq!(parse_duration(text, second), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(parse_duration("50", Duration::from_micros(1)), Ok(Duration::from_micros(50)));
        for text in ["", "s", "1.5s", "10 parsecs", "-1"] {
            assert!(parse_duration(text, second).is_err(), "{text}");
        }
    }

    #[test]
    fn latencies_have_three_digits_and_a_unit() {
        for (ns, text) in
            [(0.0, "0 ns"), (350.0, "350 ns"), (1_000.0, "1 µs"), (1_234.0, "1.23 µs"), (99_960.0, "100 µs")]
        {
            assert_eq!(latency_text(ns), text);
        }
        assert_eq!((latency_text(75_100_000.0), latency_text(1.38e9)), ("75.1 ms".into(), "1.38 s".into()));
    }

    #[test]
    fn counts_are_shortened_to_three_digits() {
        assert_eq!(short_count(683_211.0), "683k");
        assert_eq!(short_count(18_412.0), "18.4k");
        assert_eq!(short_count(16.0), "16");
        assert_eq!(short_count(999_990.0), "1.00M");
        assert_eq!(short_bytes(80_111_206.4), "76.4MiB");
        assert_eq!(short_bytes(512.0), "512B");
        assert_eq!(short_bytes_decimal(80_111_206.4), "80.1MB");
    }
}
