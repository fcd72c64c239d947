//! The values of options that have a form of their own: `rw`, `bssplit`, `random_distribution`, `percentile_list`.

use super::job::Sizes;
use super::units::parse_bytes;

/// More pairs than this are no short range: read them in several scans.
const SCAN_PAIRS_MAX: u32 = 10_000;

/// What `rw=` says: in which order, and whether it reads, writes or does both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction {
    pub random: bool,
    /// `None`: a mix, whose share `rwmixread` gives.
    pub read_percent: Option<u32>,
}

pub fn parse_direction(text: &str) -> Result<Direction, String> {
    let (random, read_percent) = match text {
        "read" => (false, Some(100)),
        "write" => (false, Some(0)),
        "rw" | "readwrite" => (false, None),
        "randread" => (true, Some(100)),
        "randwrite" => (true, Some(0)),
        "randrw" => (true, None),
        _ => {
            return Err(format!("rw={text} is not supported; use write, read, rw, randwrite, randread or randrw"));
        }
    };
    Ok(Direction { random, read_percent })
}

/// One size, as `bs=` takes it.
pub fn parse_size(key: &str, text: &str) -> Result<Sizes, String> {
    if text.contains([',', '-']) {
        return Err(format!("{key}={text}: one size is expected here; use bssplit= for a mix"));
    }
    Ok(Sizes(vec![(value_bytes(key, text)?, 100)]))
}

/// "4k/60:64k/40". Sizes without a share divide what the others leave.
pub fn parse_bssplit(text: &str) -> Result<Sizes, String> {
    let mut sizes = Vec::new();
    for part in text.split(':') {
        let (size, percent) = part.split_once('/').unwrap_or((part, ""));
        let percent = match percent {
            "" => None,
            digits => Some(digits.parse::<u32>().ok().filter(|p| *p <= 100).ok_or_else(|| {
                format!("bssplit={text}: {digits:?} is not a share; write size/percent, as in 4k/60:64k/40")
            })?),
        };
        sizes.push((value_bytes("bssplit", size)?, percent));
    }
    let given: u32 = sizes.iter().filter_map(|(_, percent)| *percent).sum();
    let open = u32::try_from(sizes.iter().filter(|(_, percent)| percent.is_none()).count()).unwrap_or(u32::MAX);
    if given > 100 || (open == 0 && given != 100) || open > 100 - given {
        return Err(format!("bssplit={text}: the shares add up to {given}; make them 100"));
    }
    let mut rest = 100 - given;
    let mut left = open;
    let sizes = sizes.into_iter().map(|(bytes, percent)| {
        let percent = percent.unwrap_or_else(|| {
            let share = rest / left;
            rest -= share;
            left -= 1;
            share
        });
        (bytes, percent)
    });
    Ok(Sizes(sizes.collect()))
}

fn value_bytes(key: &str, text: &str) -> Result<u32, String> {
    let bytes = parse_bytes(text).map_err(|cause| format!("{key}: {cause}"))?;
    u32::try_from(bytes)
        .ok()
        .filter(|bytes| *bytes as usize <= crate::ring::protocol::VALUE_BYTES_MAX)
        .ok_or_else(|| format!("{key}={text}: a value has at most 16m"))
}

/// What `random_distribution=` says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Distribution {
    #[default]
    Random,
    Zipf(f64),
    Latest(f64),
}

/// `random`, `zipf:1.1` or `latest:0.99`: the number is theta.
pub fn parse_distribution(text: &str) -> Result<Distribution, String> {
    let wrong =
        || format!("random_distribution={text} is not supported; use random, zipf:θ or latest:θ with θ from 0 to 10");
    let (name, theta) = text.split_once(':').map_or((text, None), |(name, theta)| (name, Some(theta)));
    let theta = theta.map(|theta| theta.parse::<f64>().ok().filter(|theta| (0.0..=10.0).contains(theta)));
    match (name, theta) {
        ("random", None) => Ok(Distribution::Random),
        ("zipf", None) => Ok(Distribution::Zipf(1.1)),
        ("zipf", Some(Some(theta))) => Ok(Distribution::Zipf(theta)),
        // As YCSB has it.
        ("latest", None) => Ok(Distribution::Latest(0.99)),
        ("latest", Some(Some(theta))) => Ok(Distribution::Latest(theta)),
        _ => Err(wrong()),
    }
}

/// Pairs of a scan: "100", or "1-100" for a length that is drawn evenly.
pub fn parse_scan_length(text: &str) -> Result<(u32, u32), String> {
    let (least, most) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u32>().ok().filter(|pairs| (1..=SCAN_PAIRS_MAX).contains(pairs));
    match (number(least), number(most)) {
        (Some(least), Some(most)) if least <= most => Ok((least, most)),
        _ => Err(format!("scan_length={text}: write pairs from 1 to {SCAN_PAIRS_MAX}, as in 100 or 1-100")),
    }
}

/// "50:99:99.9", at most 20 of them, as in fio.
pub fn parse_percentiles(text: &str) -> Result<Vec<f64>, String> {
    let wrong = || format!("percentile_list={text}: write up to 20 numbers from 0 to 100, as in 50:99:99.9");
    let mut percentiles = text
        .split(':')
        .map(|part| part.parse::<f64>().ok().filter(|p| *p > 0.0 && *p <= 100.0))
        .collect::<Option<Vec<f64>>>()
        .ok_or_else(wrong)?;
    percentiles.sort_by(f64::total_cmp);
    if percentiles.len() > 20 { Err(wrong()) } else { Ok(percentiles) }
}

/// True for a method that checks contents. All of them compare every byte here.
pub fn parse_verify(text: &str) -> Result<bool, String> {
    match text {
        "0" | "none" => Ok(false),
        "crc32c" | "crc32c-intel" | "crc32" | "crc16" | "crc7" | "crc64" | "md5" | "meta" | "pattern" | "sha1"
        | "sha256" | "sha512" | "sha3-224" | "sha3-256" | "sha3-384" | "sha3-512" | "xxhash" => Ok(true),
        _ => Err(format!("verify={text} is not supported; use crc32c")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions() {
        assert_eq!(parse_direction("randrw"), Ok(Direction { random: true, read_percent: None }));
        assert_eq!(parse_direction("write"), Ok(Direction { random: false, read_percent: Some(0) }));
        assert!(parse_direction("trim").is_err_and(|cause| cause.contains("randwrite")));
    }

    #[test]
    fn bssplit_shares_add_up() {
        assert_eq!(parse_bssplit("4k/60:64k/40"), Ok(Sizes(vec![(4_096, 60), (65_536, 40)])));
        assert_eq!(parse_bssplit("1k/50:2k:4k"), Ok(Sizes(vec![(1_024, 50), (2_048, 25), (4_096, 25)])));
        for text in ["4k/60:64k/50", "4k/60", "4k/x", "4k/100:8k/0:9k", "", "32m/100"] {
            assert!(parse_bssplit(text).is_err(), "{text}");
        }
        assert_eq!(parse_bssplit("1k/75:3k/25").map(|sizes| sizes.bytes_mean()), Ok(1_536));
    }

    #[test]
    fn distributions_and_percentiles() {
        assert_eq!(parse_distribution("random"), Ok(Distribution::Random));
        assert_eq!(parse_distribution("zipf:0.9"), Ok(Distribution::Zipf(0.9)));
        assert_eq!(parse_distribution("latest"), Ok(Distribution::Latest(0.99)));
        assert_eq!(parse_distribution("latest:1.2"), Ok(Distribution::Latest(1.2)));
        for text in ["zipf:-1", "zipf:x", "zipf:inf", "pareto:0.2", "zipfian:1", "random:1", "latest:", "latest:NaN"] {
            assert!(parse_distribution(text).is_err(), "{text}");
        }
        assert_eq!(parse_percentiles("99:50:99.9"), Ok(vec![50.0, 99.0, 99.9]));
        for text in ["", "0", "101", "50,99", "NaN"] {
            assert!(parse_percentiles(text).is_err(), "{text}");
        }
    }

    #[test]
    fn scan_lengths() {
        assert_eq!(parse_scan_length("100"), Ok((100, 100)));
        assert_eq!(parse_scan_length("1-100"), Ok((1, 100)));
        for text in ["", "0", "5-4", "0-4", "1-", "-3", "1-10001", "x"] {
            assert!(parse_scan_length(text).is_err(), "{text}");
        }
    }
}
