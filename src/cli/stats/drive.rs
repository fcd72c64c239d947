//! What the drive says of its health.

use forebay::device::health::{celsius, warnings_in};
use forebay::ring::protocol::stats;
use serde_json::{Value, json};

/// What the drive said last.
pub struct Drive {
    critical_warning: u8,
    temperature_celsius: i32,
    /// Only the drive itself says it.
    asked: Option<Asked>,
}

struct Asked {
    spare_percent: u64,
    used_percent: u64,
    media_errors: u64,
}

impl Drive {
    /// None: it is not known.
    pub fn of(counters: &[u64]) -> Option<Drive> {
        let word = |at: usize| counters.get(at).copied();
        let known = word(stats::DRIVE_HEALTH_KNOWN).filter(|known| *known != 0)?;
        let asked = Asked {
            spare_percent: word(stats::DRIVE_SPARE_PERCENT)?,
            used_percent: word(stats::DRIVE_USED_PERCENT)?,
            media_errors: word(stats::DRIVE_MEDIA_ERRORS)?,
        };
        Some(Drive {
            critical_warning: u8::try_from(word(stats::DRIVE_CRITICAL_WARNING)?).ok()?,
            temperature_celsius: celsius(u16::try_from(word(stats::DRIVE_TEMPERATURE_KELVIN)?).ok()?),
            asked: (known == stats::DRIVE_ALL_KNOWN).then_some(asked),
        })
    }

    fn warnings(&self) -> Vec<&'static str> {
        warnings_in(self.critical_warning).collect()
    }

    pub fn json(&self) -> Value {
        let asked = self.asked.as_ref();
        json!({
            "critical_warning": self.critical_warning,
            "critical_warnings": self.warnings(),
            "temperature_celsius": self.temperature_celsius,
            "spare_percent": asked.map(|asked| asked.spare_percent),
            "used_percent": asked.map(|asked| asked.used_percent),
            "media_errors": asked.map(|asked| asked.media_errors),
        })
    }

    pub fn lines(&self) -> Vec<String> {
        let warnings = if self.critical_warning == 0 { "none".to_owned() } else { self.warnings().join("; ") };
        let said = |of: fn(&Asked) -> String| {
            let why = "not known: the kernel lets only root ask the drive; `forebay doctor`, run as root, shows it";
            self.asked.as_ref().map_or_else(|| why.to_owned(), of)
        };
        [
            ("drive warnings", warnings),
            ("drive temperature", format!("{} C", self.temperature_celsius)),
            ("drive spare", said(|asked| format!("{} %", asked.spare_percent))),
            ("drive used", said(|asked| format!("{} %", asked.used_percent))),
            ("drive media errors", said(|asked| asked.media_errors.to_string())),
        ]
        .map(|(name, value)| format!("{name:<20} {value}"))
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay::ring::protocol::stats::NAMES;

    fn counters(words: [u64; stats::DRIVE.len()]) -> Vec<u64> {
        let mut counters = vec![0; NAMES.len()];
        stats::DRIVE.iter().zip(words).for_each(|(at, word)| counters[*at] = word);
        counters
    }

    #[test]
    fn the_drive_is_told_in_words_and_units() {
        assert!(Drive::of(&counters([0; 6])).is_none() && Drive::of(&[1, 2]).is_none());
        let drive = Drive::of(&counters([1, 0b101, 310, 97, 3, 12])).unwrap();
        let lines = drive.lines();
        assert!(lines[0].ends_with("spare capacity is below its threshold; reliability is degraded"), "{lines:?}");
        assert!(lines[1].ends_with(" 37 C") && lines[2].ends_with(" 97 %") && lines[3].ends_with(" 3 %"), "{lines:?}");
        let json = drive.json();
        assert_eq!((json["temperature_celsius"].as_i64(), json["media_errors"].as_u64()), (Some(37), Some(12)));
        assert_eq!(json["critical_warnings"].as_array().map(Vec::len), Some(2));
        let drive = Drive::of(&counters([2, 0b10, 310, 0, 0, 0])).unwrap();
        let (lines, json) = (drive.lines(), drive.json());
        assert!(lines[1].ends_with(" 37 C") && lines[2].contains("not known: the kernel lets only root"), "{lines:?}");
        assert!(json["spare_percent"].is_null() && json["temperature_celsius"] == 37, "{json}");
    }
}
