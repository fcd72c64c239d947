//! What a drive says of its health: the SMART log of its controller. Bytes and bits as in the NVM Express Base
//! Specification 2.1, figure 206.

use std::fs::File;
use std::io;
#[cfg(feature = "spdk")]
use std::{sync::Arc, time::Duration};

use forebay_sys::uring::nvme::NvmeCommand;

use super::hwmon::{Hwmon, Temperature};
use super::nvme;
use crate::bytes::{get_u16, get_u64};

/// Admin command opcode (figure 89).
const GET_LOG_PAGE: u8 = 0x02;
/// Log page 02h, SMART / Health Information.
const LOG_SMART: u32 = 0x02;
const SMART_BYTES: u16 = 512;
/// For the log of the whole controller.
const ALL_NAMESPACES: u32 = 0xffff_ffff;
const ZERO_CELSIUS_KELVIN: i32 = 273;

/// What the critical warnings mean, bit by bit.
const WARNINGS: [&str; 6] = [
    "spare capacity is below its threshold",
    "temperature is beyond its threshold",
    "reliability is degraded",
    "the media is read-only",
    "the backup of volatile memory has failed",
    "the persistent memory region is read-only",
];

/// A drive's health, as it says itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Bit by bit as in `warnings_in`.
    pub critical_warning: u8,
    pub temperature_kelvin: u16,
    pub spare_percent: u8,
    /// Of its rated life; may go beyond 100.
    pub used_percent: u8,
    /// Blocks that could not be read back as they were written.
    pub media_errors: u64,
}

impl Health {
    fn parse(log: &[u8; SMART_BYTES as usize]) -> Health {
        // 16 bytes; what does not fit 8 is said as the most that does.
        let media_errors = if get_u64(log, 168) == 0 { get_u64(log, 160) } else { u64::MAX };
        Health {
            critical_warning: log[0],
            temperature_kelvin: get_u16(log, 1),
            spare_percent: log[3],
            used_percent: log[5],
            media_errors,
        }
    }

    /// Asks the kernel's driver. Blocks for an admin command.
    ///
    /// # Errors
    /// Only root may, or the controller refuses.
    pub fn read(device: &File) -> io::Result<Health> {
        let mut log = [0; SMART_BYTES as usize];
        // NUMD, the number of dwords from 0, stands in bits 31:16.
        let cdw10 = (u32::from(SMART_BYTES) / 4 - 1) << 16 | LOG_SMART;
        let command = NvmeCommand { opcode: GET_LOG_PAGE, nsid: ALL_NAMESPACES, cdw10, ..NvmeCommand::default() };
        nvme::admin(device, command, &mut log)?;
        Ok(Health::parse(&log))
    }
}

/// The critical warnings in words.
pub fn warnings_in(critical_warning: u8) -> impl Iterator<Item = &'static str> {
    WARNINGS.iter().enumerate().filter(move |(bit, _)| critical_warning >> bit & 1 != 0).map(|(_, words)| *words)
}

#[must_use]
pub fn celsius(kelvin: u16) -> i32 {
    i32::from(kelvin) - ZERO_CELSIUS_KELVIN
}

/// The place of the temperature among the critical warnings.
const WARNING_TEMPERATURE: u8 = 1 << 1;

/// What came of asking a drive.
pub enum Reading {
    Whole(Health),
    /// The drive may not be asked, and why; what the kernel shows to everybody.
    Temperature(Health, io::Error),
}

impl Reading {
    fn temperature(found: Temperature, why: io::Error) -> Reading {
        let critical_warning = if found.alarm { WARNING_TEMPERATURE } else { 0 };
        let health = Health { critical_warning, temperature_kelvin: found.kelvin, ..Health::default() };
        Reading::Temperature(health, why)
    }
}

/// Where a drive is asked while it serves. Holds it open.
pub enum Source {
    Kernel(File, Option<Hwmon>),
    #[cfg(feature = "spdk")]
    Spdk(Arc<forebay_sys::spdk::Controller>),
}

impl Source {
    /// Blocks for an admin command: never on a reactor's thread.
    ///
    /// # Errors
    /// Only root may, the controller refuses, or it is gone.
    pub fn read(&self) -> io::Result<Reading> {
        match self {
            Source::Kernel(device, hwmon) => match Health::read(device) {
                Ok(health) => Ok(Reading::Whole(health)),
                Err(why) => match hwmon.as_ref().and_then(Hwmon::read) {
                    Some(temperature) => Ok(Reading::temperature(temperature, why)),
                    None => Err(why),
                },
            },
            #[cfg(feature = "spdk")]
            Source::Spdk(controller) => {
                Ok(Reading::Whole(Health::parse(&controller.smart_log(Duration::from_secs(10))?)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::hwmon::tests::Tree;

    #[test]
    fn the_log_is_read_as_the_specification_has_it() {
        let mut log = [0; SMART_BYTES as usize];
        (log[0], log[1], log[2], log[3], log[5], log[160]) = (0b1010, 0x2c, 0x01, 99, 101, 7);
        let expected = Health {
            critical_warning: 0b1010,
            temperature_kelvin: 300,
            spare_percent: 99,
            used_percent: 101,
            media_errors: 7,
        };
        assert_eq!(Health::parse(&log), expected);
        log[175] = 1;
        assert_eq!(Health::parse(&log).media_errors, u64::MAX);
        let words: Vec<_> = warnings_in(0b1010).collect();
        assert_eq!(words, ["temperature is beyond its threshold", "the media is read-only"]);
        assert_eq!((celsius(300), celsius(263)), (27, -10));
    }

    #[test]
    fn what_is_no_nvme_device_is_an_error() {
        assert!(Source::Kernel(File::open("/dev/null").unwrap(), None).read().is_err());
    }

    #[test]
    fn who_may_not_ask_the_drive_sees_its_temperature() {
        let tree = Tree::new("health", "hwmon0");
        tree.say("temp1_input", "71850");
        tree.say("temp1_alarm", "1");
        // As the kernel refuses an ordinary user, /dev/null refuses everybody.
        let source = Source::Kernel(File::open("/dev/null").unwrap(), Hwmon::at(&tree.disk()));
        let Ok(Reading::Temperature(health, _)) = source.read() else { panic!("the temperature is there") };
        let words: Vec<_> = warnings_in(health.critical_warning).collect();
        assert_eq!((celsius(health.temperature_kelvin), words), (72, vec![WARNINGS[1]]));
        drop(tree);
        assert!(source.read().is_err(), "it is gone");
    }
}
