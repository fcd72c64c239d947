//! Watches the drive's health: a thread of its own asks, because the answer takes an admin command that blocks.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::device::health::{Reading, warnings_in};
use crate::device::open::OpenDevice;
use crate::error::Result;
use crate::metrics::DriveGauges;
use crate::ring::protocol::stats;

/// How often the drive is asked. Its own log changes more slowly.
const INTERVAL: Duration = Duration::from_secs(10);

/// The watching thread. Ends when this is dropped, which may wait for the command under way: 10 s at most.
pub struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Asks the drive now and then, and keeps `gauges` up to date. None where nobody answers.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(device: &OpenDevice, gauges: &Arc<DriveGauges>) -> Result<Option<Watch>> {
        let Some(source) = device.health() else { return Ok(None) };
        let (gauges, (stop, stopped)) = (gauges.clone(), mpsc::channel());
        let watch = move || {
            let mut seen = Seen::default();
            loop {
                for line in seen.take(source.read(), &gauges) {
                    tracing::warn!("{line}");
                }
                if !matches!(stopped.recv_timeout(INTERVAL), Err(RecvTimeoutError::Timeout)) {
                    return gauges.set(Default::default());
                }
            }
        };
        let thread = std::thread::Builder::new().name("drive-health".into()).spawn(watch)?;
        Ok(Some(Watch { stop: Some(stop), thread: Some(thread) }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What was told already.
#[derive(Default)]
struct Seen {
    critical_warning: u8,
    unknown: bool,
    partly: bool,
}

impl Seen {
    /// Takes an answer over into the gauges. Gives the lines that a person should see: each change once.
    fn take(&mut self, answer: io::Result<Reading>, gauges: &DriveGauges) -> Vec<String> {
        let (health, partly) = match answer {
            Ok(Reading::Whole(health)) => (health, None),
            Ok(Reading::Temperature(health, why)) => (health, Some(why)),
            Err(error) => {
                gauges.set(Default::default());
                let told = std::mem::replace(&mut self.unknown, true);
                let line = format!("the drive's health is not known: {error}");
                return if told { Vec::new() } else { vec![line] };
            }
        };
        gauges.set([
            if partly.is_some() { stats::DRIVE_TEMPERATURE_KNOWN } else { stats::DRIVE_ALL_KNOWN },
            health.critical_warning.into(),
            health.temperature_kelvin.into(),
            health.spare_percent.into(),
            health.used_percent.into(),
            health.media_errors,
        ]);
        let before = std::mem::replace(&mut self.critical_warning, health.critical_warning);
        self.unknown = false;
        let came = warnings_in(health.critical_warning & !before).map(|words| format!("the drive warns: {words}"));
        let went =
            warnings_in(before & !health.critical_warning).map(|words| format!("the drive warns no more: {words}"));
        let told = std::mem::replace(&mut self.partly, partly.is_some());
        let partly = partly.filter(|_| !told).map(|why| {
            format!("of the drive's health only the temperature is known ({why}); `forebay doctor`, run as root, shows the rest")
        });
        came.chain(went).chain(partly).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::health::Health;

    fn told(gauges: &DriveGauges) -> Vec<u64> {
        gauges.get().map(|(_, value)| value).collect()
    }

    #[test]
    fn a_warning_is_told_once_when_it_comes_and_once_when_it_goes() {
        let (mut seen, gauges) = (Seen::default(), DriveGauges::default());
        let mut take = |critical_warning: u8| {
            let health = Health { critical_warning, temperature_kelvin: 300, spare_percent: 90, ..Health::default() };
            seen.take(Ok(Reading::Whole(health)), &gauges)
        };
        assert_eq!(take(0), [""; 0]);
        assert_eq!(take(0b100), ["the drive warns: reliability is degraded"]);
        assert_eq!(take(0b100), [""; 0]);
        let both = ["the drive warns: the media is read-only", "the drive warns no more: reliability is degraded"];
        assert_eq!(take(0b1000), both);
        assert_eq!(told(&gauges), [1, 0b1000, 300, 90, 0, 0]);
        let hot = Health { critical_warning: 0b10, temperature_kelvin: 350, ..Health::default() };
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let lines = seen.take(Ok(Reading::Temperature(hot, denied())), &gauges);
        assert!(lines[0].contains("temperature") && lines[2].contains("permission denied"), "{lines:?}");
        assert_eq!(seen.take(Ok(Reading::Temperature(hot, denied())), &gauges), [""; 0]);
        assert_eq!(told(&gauges), [2, 0b10, 350, 0, 0, 0]);
        let refused = || Err(io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(seen.take(refused(), &gauges)[0].contains("is not known"));
        assert_eq!(seen.take(refused(), &gauges), [""; 0]);
        assert_eq!(told(&gauges), [0; 6], "what is old is not shown as if it were known");
    }
}
