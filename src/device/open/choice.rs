//! Which tier: the best one whose first read succeeds, and why the better ones did not.

use std::time::{Duration, Instant};

use forebay_sys::dma::Pages;
use rustix::io::Errno;

use super::{Backing, OpenDevice, OpenOptions};
use crate::device::any::AnyDevice;
use crate::device::drive::Drive;
use crate::device::passthrough::Generic;
use crate::device::{BLOCK_BYTES, Device, DeviceError, Geometry, Operation, OperationKind, Tier};
use crate::error::{Error, Result};
use crate::types::{DeviceAddress, TierChoice};

/// How long the first read may take before the tier is given up.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// Before this, a polled passthrough command that fails can make the kernel read freed memory (an oops in `bio_poll`
/// from `nvme_ns_head_chr_uring_cmd_iopoll`, seen on 6.1.192), and its reactor's thread never ends.
const POLLED_PASSTHROUGH_SINCE: (u32, u32) = (6, 6);

impl OpenDevice {
    /// Takes the first tier whose first read succeeds, and notes why the better ones did not.
    pub(super) fn choose_tier(&mut self, block: bool, direct: bool, options: &OpenOptions) -> Result<()> {
        let mut tiers = Vec::new();
        if options.tier == TierChoice::Blocking {
            self.notes.push("io_uring was not tried: blocking writes were asked for".to_owned());
        } else if !direct {
            self.notes
                .push("no io_uring: this file system has no O_DIRECT, so writes pass through its cache".to_owned());
        } else if block {
            tiers = self.block_tiers(options);
        } else if options.tier != TierChoice::Passthrough {
            tiers.push(Tier::File);
        }
        for tier in tiers {
            let geometry =
                Geometry { tier, deallocate_bytes_max: self.deallocate_bytes_max(tier, options), ..self.geometry };
            match self.ring(geometry, None) {
                Err(error) => self.notes.push(format!("no {}: io_uring: {error}", tier.name())),
                Ok(device) => match self.probe(device) {
                    Ok(()) => {
                        self.geometry = geometry;
                        return Ok(());
                    }
                    Err(error) => self.notes.push(format!("no {}: its first read failed: {error}", tier.name())),
                },
            }
        }
        if matches!(options.tier, TierChoice::Passthrough | TierChoice::Uring) {
            let why = if self.notes.is_empty() { "it is no NVMe namespace".to_owned() } else { self.notes.join("; ") };
            return Err(Error::new(format!("the tier that was asked for cannot be had: {why}"))
                .remedy("use --tier auto, which takes the best that works"));
        }
        self.first_read(self.device(None)?)
    }

    /// Only by NVMe commands: the kernel's ioctl for a block device blocks its thread until the drive is done.
    fn deallocate_bytes_max(&self, tier: Tier, options: &OpenOptions) -> u32 {
        match (&self.backing, tier) {
            (Backing::File { generic: Some(generic), .. }, Tier::Passthrough { .. }) if options.deallocate => {
                generic.namespace.deallocate_bytes_max
            }
            _ => 0,
        }
    }

    pub(super) fn first_read(&self, device: AnyDevice) -> Result<()> {
        self.probe(device).map_err(|error| {
            Error::new(format!("the first block cannot be read: {error}"))
                .remedy("look for errors of the drive in `dmesg`")
        })
    }

    /// Reads the first block. Only a real read shows whether O_DIRECT and polling work.
    fn probe(&self, mut device: AnyDevice) -> Result<(), DeviceError> {
        let region = self.region(BLOCK_BYTES as usize, Pages::Ordinary).map_err(|error| DeviceError::from(&error))?;
        let buffer = region.split(BLOCK_BYTES as usize).pop().expect("a region of one block is one buffer");
        let address = DeviceAddress(0);
        let read = Operation { tag: 0, kind: OperationKind::Read, address, bytes: BLOCK_BYTES, buffer };
        device.submit(read).map_err(|_| DeviceError::INVALID)?;
        device.kick(true);
        let started = Instant::now();
        while started.elapsed() < PROBE_TIMEOUT {
            if let Some(completion) = device.poll() {
                return completion.result;
            }
            std::thread::yield_now();
        }
        Err(DeviceError::Errno(Errno::TIMEDOUT.raw_os_error()))
    }

    /// The tiers to try on a block device, best first. Finds its generic device.
    fn block_tiers(&mut self, options: &OpenOptions) -> Vec<Tier> {
        let Backing::File { drive, generic, .. } = &mut self.backing else { return Vec::new() };
        let polls = drive.as_ref().is_some_and(|drive| drive.polls);
        if !polls {
            self.notes.push("no IOPOLL: the queue has no polled hardware queues (queue/io_poll is 0)".to_owned());
        }
        let path = drive.as_ref().and_then(Drive::generic).filter(|_| options.tier != TierChoice::Uring);
        if let (Some(path), Some(drive)) = (path, drive) {
            match Generic::open(&path, drive, options.read_only, options.durability) {
                Ok(found) => *generic = Some(found),
                Err(why) => self.notes.push(format!("no passthrough: {why}")),
            }
        }
        let avoided = polls && generic.is_some() && options.tier == TierChoice::Auto && !kernel_is_since();
        if avoided {
            let (major, minor) = POLLED_PASSTHROUGH_SINCE;
            self.notes.push(format!(
                "no passthrough with IOPOLL: before Linux {major}.{minor} a command that fails can stop its thread for ever; \
                 --tier passthrough takes it all the same"
            ));
            self.notes.push(
                "no block with IOPOLL: passthrough by interrupts was faster where both were measured, and tells the drive \
                 what is given up; --tier uring takes it all the same"
                    .to_owned(),
            );
        }
        ways(polls, generic.is_some(), options.tier, avoided)
    }
}

/// The ways to a block device in the order in which they are tried. `avoided`: passthrough does not poll.
fn ways(polls: bool, generic: bool, choice: TierChoice, avoided: bool) -> Vec<Tier> {
    let passthrough = |polled| Tier::Passthrough { polled };
    let block = |polled| Tier::Block { polled };
    // Not by the block layer to keep polling: docs/architecture.md, "The passthrough tier".
    let order = match avoided {
        true => [passthrough(false), block(true), block(false)].to_vec(),
        false => [passthrough(true), passthrough(false), block(true), block(false)].to_vec(),
    };
    let possible = |tier: &Tier| match *tier {
        Tier::Passthrough { polled } => generic && (polls || !polled),
        Tier::Block { polled } => choice != TierChoice::Passthrough && (polls || !polled),
        _ => false,
    };
    order.into_iter().filter(possible).collect()
}

/// Whether this kernel polls passthrough commands without the fault. One that does not tell its release does not.
fn kernel_is_since() -> bool {
    let release = rustix::system::uname();
    release.release().to_str().ok().and_then(version_of).is_some_and(|version| version >= POLLED_PASSTHROUGH_SINCE)
}

/// The first two numbers of a kernel's release, as 6.1 of `6.1.0-42-amd64`.
fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_does_not_poll_passthrough_by_itself() {
        let polled = |tiers: Vec<Tier>| tiers.contains(&Tier::Passthrough { polled: true });
        assert!(polled(ways(true, true, TierChoice::Auto, false)));
        let avoided = ways(true, true, TierChoice::Auto, true);
        assert_eq!(avoided[..2], [Tier::Passthrough { polled: false }, Tier::Block { polled: true }]);
        assert!(!polled(avoided) && polled(ways(true, true, TierChoice::Passthrough, false)));
        assert_eq!(
            ways(false, true, TierChoice::Uring, false),
            [Tier::Passthrough { polled: false }, Tier::Block { polled: false }]
        );
        assert_eq!(ways(false, false, TierChoice::Uring, false), [Tier::Block { polled: false }]);
    }

    #[test]
    fn a_kernel_tells_its_version() {
        assert_eq!(version_of("6.1.0-42-amd64"), Some((6, 1)));
        assert_eq!(version_of("6.18-rc3"), Some((6, 18)));
        assert_eq!(version_of("unknown"), None);
    }
}
