//! Whatever device a path turned out to be, without a virtual call.

use super::blocking::BlockingDevice;
use super::memory::MemoryDevice;
use super::passthrough::PassthroughDevice;
#[cfg(feature = "spdk")]
use super::spdk::SpdkDevice;
use super::uring::UringDevice;
use super::{Completion, Device, Geometry, Operation};

/// One of the devices. Made by `OpenDevice::device`, one for every reactor.
pub enum AnyDevice {
    #[cfg(feature = "spdk")]
    Spdk(SpdkDevice),
    Passthrough(PassthroughDevice),
    Uring(UringDevice),
    Blocking(BlockingDevice),
    Memory(MemoryDevice),
}

macro_rules! each {
    ($any:expr, $device:ident => $call:expr) => {
        match $any {
            #[cfg(feature = "spdk")]
            AnyDevice::Spdk($device) => $call,
            AnyDevice::Passthrough($device) => $call,
            AnyDevice::Uring($device) => $call,
            AnyDevice::Blocking($device) => $call,
            AnyDevice::Memory($device) => $call,
        }
    };
}

impl AnyDevice {
    /// What was asked for and could not be had, for people.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        match self {
            AnyDevice::Passthrough(device) => device.note(),
            AnyDevice::Uring(device) => device.note(),
            _ => None,
        }
    }
}

impl Device for AnyDevice {
    fn geometry(&self) -> Geometry {
        each!(self, device => device.geometry())
    }

    fn submit(&mut self, operation: Operation) -> Result<(), Operation> {
        each!(self, device => device.submit(operation))
    }

    fn kick(&mut self, waited_for: bool) {
        each!(self, device => device.kick(waited_for));
    }

    fn poll(&mut self) -> Option<Completion> {
        each!(self, device => device.poll())
    }

    fn in_flight(&self) -> u32 {
        each!(self, device => device.in_flight())
    }
}
