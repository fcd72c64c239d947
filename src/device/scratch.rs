//! Files for the tests of this module, removed when they are over.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use forebay_sys::dma::{DmaRegion, Pages};

use super::{Completion, Device, Operation, OperationKind};
use crate::buffer::Pool;
use crate::types::DeviceAddress;

pub struct Scratch(PathBuf);

impl Scratch {
    /// A name that nobody else uses, with no file behind it yet.
    pub fn name() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        Scratch(std::env::temp_dir().join(format!("forebay-device-{}-{next}", std::process::id())))
    }

    /// A file of `bytes` zeros.
    pub fn file(bytes: u64) -> Scratch {
        let scratch = Scratch::name();
        let length = usize::try_from(bytes).unwrap();
        std::fs::write(&scratch.0, vec![0; length]).unwrap();
        scratch
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub fn pool(count: usize, buffer_bytes: usize) -> Pool {
    Pool::new(DmaRegion::allocate(count * buffer_bytes, Pages::Ordinary).unwrap(), buffer_bytes)
}

pub fn operation(pool: &mut Pool, kind: OperationKind, address: u64, bytes: u32) -> Operation {
    Operation { tag: address, kind, address: DeviceAddress(address), bytes, buffer: pool.take().unwrap() }
}

/// Carries out one operation, and waits for it.
pub fn run(device: &mut impl Device, operation: Operation) -> Completion {
    device.submit(operation).unwrap();
    device.kick(true);
    loop {
        if let Some(completion) = device.poll() {
            return completion;
        }
    }
}
