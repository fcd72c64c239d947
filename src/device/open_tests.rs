//! Opening, and the devices that come of it, on real files.

use std::path::Path;

use super::*;
use crate::device::scratch::{Scratch, operation, pool, run};
use crate::device::{DeviceError, OperationKind};
use crate::types::TierChoice;

const DEFAULT: OpenOptions = OpenOptions {
    operations_max: 4,
    read_only: false,
    tier: TierChoice::Auto,
    durability: DriveDurability::Auto,
    deallocate: true,
    lock_wait: Duration::ZERO,
    buffer_bytes: 0,
    hugepages: false,
    command_timeout: Duration::from_secs(1),
};
const BLOCKING: OpenOptions = OpenOptions { tier: TierChoice::Blocking, ..DEFAULT };
const FLUSH: DriveDurability = DriveDurability::Flush;

fn refused(path: &Path, options: &OpenOptions) -> String {
    match open(path, options) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error.to_string(),
    }
}

/// Opens both ways, with and without a flush of their own; the first one says why if io_uring is refused here.
fn both_ways(scratch: &Scratch, test: impl Fn(&OpenDevice)) {
    let flushed = |options| OpenOptions { durability: FLUSH, ..options };
    for options in [DEFAULT, BLOCKING, flushed(DEFAULT), flushed(BLOCKING)] {
        let device = open(scratch.path(), &options).unwrap();
        eprintln!("{}: {}; {:?}", device.tier().name(), device.durability(), device.notes());
        assert_eq!(options.tier == TierChoice::Blocking, device.notes().iter().any(|note| note.contains("asked for")));
        assert!(options.durability != FLUSH || device.durability().contains("write, then fdatasync"));
        test(&device);
    }
}

#[test]
fn what_is_written_is_in_the_file_and_is_read_back() {
    let scratch = Scratch::file(1 << 20);
    both_ways(&scratch, |opened| {
        let region = DmaRegion::allocate(4 * 8192, Pages::Ordinary).unwrap();
        let span = region.span();
        let mut pool = crate::buffer::Pool::new(region, 8192);
        let mut device = opened.device(Some(&span)).unwrap();
        assert_eq!((device.geometry().capacity_bytes, device.geometry().operations_max), (1 << 20, 4));
        let mut write = operation(&mut pool, OperationKind::WriteDurable, 12288, 8192);
        let fill = if opened.tier() == Tier::FileBlocking { 0xbb } else { 0xaa };
        write.buffer.fill(fill);
        let written = run(&mut device, write);
        assert_eq!((written.result, written.operation.tag, device.in_flight()), (Ok(()), 12288, 0));
        let bytes = std::fs::read(scratch.path()).unwrap();
        assert!(bytes[12288..20480].iter().all(|b| *b == fill) && bytes[20480..].iter().all(|b| *b == 0));
        // A second reactor's device sees it.
        let read = run(&mut opened.device(None).unwrap(), operation(&mut pool, OperationKind::Read, 12288, 8192));
        assert_eq!((read.result, &read.operation.buffer[..]), (Ok(()), &written.operation.buffer[..]));
    });
}

#[test]
fn a_full_device_gives_the_operation_back_and_takes_it_later() {
    let scratch = Scratch::file(1 << 20);
    both_ways(&scratch, |opened| {
        let (mut pool, mut device) = (pool(8, 4096), opened.device(None).unwrap());
        for i in 0..4 {
            device.submit(operation(&mut pool, OperationKind::WriteDurable, i * 4096, 4096)).unwrap();
        }
        let back = device.submit(operation(&mut pool, OperationKind::Read, 0, 4096)).unwrap_err();
        assert_eq!((back.tag, back.kind, device.in_flight()), (0, OperationKind::Read, 4));
        device.kick(true);
        let mut ended = 0;
        while device.in_flight() > 0 {
            ended += u32::from(device.poll().is_some_and(|completion| completion.result.is_ok()));
        }
        assert_eq!(ended, 4);
        assert_eq!(run(&mut device, back).result, Ok(()));
    });
}

#[test]
fn unaligned_oversized_and_outside_are_errors_and_never_extend_the_file() {
    let scratch = Scratch::file(1 << 20);
    both_ways(&scratch, |opened| {
        let (mut pool, mut device) = (pool(1, 8192), opened.device(None).unwrap());
        for (address, bytes) in [(1, 4096), (0, 512), (0, 16384), (1 << 20, 4096), ((1 << 20) - 4096, 8192), (0, 0)] {
            let ended = run(&mut device, operation(&mut pool, OperationKind::WriteDurable, address, bytes));
            assert_eq!((ended.result, device.in_flight()), (Err(DeviceError::INVALID), 0), "{address} {bytes}");
            pool.give(ended.operation.buffer);
        }
        assert_eq!(std::fs::metadata(scratch.path()).unwrap().len(), 1 << 20);
    });
}

#[test]
fn a_file_truncated_under_us_is_told() {
    for options in [DEFAULT, BLOCKING] {
        let scratch = Scratch::file(1 << 20);
        let opened = open(scratch.path(), &options).unwrap();
        let (mut pool, mut device) = (pool(2, 8192), opened.device(None).unwrap());
        File::options().write(true).open(scratch.path()).unwrap().set_len(4096).unwrap();
        let half = run(&mut device, operation(&mut pool, OperationKind::Read, 0, 8192));
        assert_eq!(half.result, Err(DeviceError::NotWhole));
        let none = run(&mut device, operation(&mut pool, OperationKind::Read, 65536, 8192));
        assert_eq!(none.result, Err(DeviceError::NotWhole));
    }
}

#[test]
fn a_device_opened_to_look_refuses_to_write() {
    let scratch = Scratch::file(1 << 20);
    for tier in [TierChoice::Auto, TierChoice::Blocking] {
        let opened = open(scratch.path(), &OpenOptions { read_only: true, tier, ..DEFAULT }).unwrap();
        let (mut pool, mut device) = (pool(2, 4096), opened.device(None).unwrap());
        assert_eq!(run(&mut device, operation(&mut pool, OperationKind::Read, 0, 4096)).result, Ok(()));
        let write = run(&mut device, operation(&mut pool, OperationKind::WriteDurable, 0, 4096));
        assert_eq!(write.result, Err(DeviceError::Errno(Errno::BADF.raw_os_error())));
    }
}

#[test]
fn dropping_a_device_with_writes_under_way_waits_for_them() {
    let scratch = Scratch::file(1 << 20);
    both_ways(&scratch, |opened| {
        let (mut pool, mut device) = (pool(4, 65536), opened.device(None).unwrap());
        for i in 0..4 {
            device.submit(operation(&mut pool, OperationKind::WriteDurable, i << 16, 1 << 16)).unwrap();
        }
        device.kick(true);
        drop(device);
        drop(pool);
    });
    assert!(open(scratch.path(), &DEFAULT).is_ok(), "the lock went with the device");
}

#[test]
fn a_second_opener_is_refused_and_told_what_to_do() {
    let scratch = Scratch::file(1 << 20);
    let first = open(scratch.path(), &DEFAULT).unwrap();
    for options in [DEFAULT, BLOCKING, OpenOptions { read_only: true, ..DEFAULT }] {
        let error = refused(scratch.path(), &options);
        assert!(error.contains("locked by another process; stop the daemon"), "{error}");
    }
    let device = first.device(None).unwrap();
    drop(first);
    assert!(refused(scratch.path(), &DEFAULT).contains("locked"), "a reactor's device still holds the lock");
    drop(device);
    let looking = OpenOptions { read_only: true, ..DEFAULT };
    let (_one, _two) = (open(scratch.path(), &looking).unwrap(), open(scratch.path(), &looking).unwrap());
    assert!(refused(scratch.path(), &DEFAULT).contains("locked"));
}

#[test]
fn what_cannot_be_used_is_named_with_its_remedy() {
    let missing = Scratch::name();
    let error = refused(missing.path(), &DEFAULT);
    assert!(error.contains(missing.path().to_str().unwrap()) && error.contains("forebay format"), "{error}");
    assert!(refused(&std::env::temp_dir(), &DEFAULT).contains("neither a file, a block device, nor an NVMe namespace"));
    assert!(
        refused(Path::new("/dev/null"), &DEFAULT).contains("neither a file, a block device, nor an NVMe namespace")
    );
    assert!(refused(Scratch::file(100).path(), &DEFAULT).contains("too small: 100 B"));
    // Read-only even for root: a file of the kernel's without a write operation.
    let read_only = Path::new("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size");
    if read_only.exists() {
        assert!(refused(read_only, &DEFAULT).contains("cannot be written"), "{}", refused(read_only, &DEFAULT));
    } else {
        eprintln!("skipped: {} is not there to be refused", read_only.display());
    }
}

#[test]
fn memory_devices_of_one_disk_share_it() {
    let opened = OpenDevice::memory(&MemoryDisk::new(1 << 20), &DEFAULT);
    let mut pool = pool(2, 4096);
    let mut write = operation(&mut pool, OperationKind::WriteDurable, 8192, 4096);
    write.buffer.fill(9);
    assert_eq!(run(&mut opened.device(None).unwrap(), write).result, Ok(()));
    let read = run(&mut opened.device(None).unwrap(), operation(&mut pool, OperationKind::Read, 8192, 4096));
    assert!(read.operation.buffer.iter().all(|b| *b == 9));
    assert_eq!((opened.tier(), opened.durability().as_str()), (Tier::Memory, "none: memory"));
}

/// A loop device over a scratch file; None, with the reason printed, where that is not allowed.
struct Loop(String);

impl Loop {
    fn over(scratch: &Scratch) -> Option<Loop> {
        let output = std::process::Command::new("losetup").args(["--find", "--show"]).arg(scratch.path()).output();
        match output {
            Ok(output) if output.status.success() => {
                Some(Loop(String::from_utf8(output.stdout).unwrap().trim().into()))
            }
            Ok(output) => {
                eprintln!("skipped: no loop device: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                eprintln!("skipped: losetup: {error}");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_block_device_is_used_alone_and_its_tier_is_explained() {
    let scratch = Scratch::file(1 << 20);
    let Some(block) = Loop::over(&scratch) else { return };
    let path = Path::new(&block.0);
    assert_eq!(crate::device::occupant::what_is_on(path).unwrap(), None);
    let opened = open(path, &DEFAULT).unwrap();
    eprintln!("{}: {}; {:?}", opened.tier().name(), opened.durability(), opened.notes());
    assert_eq!(opened.geometry().capacity_bytes, 1 << 20);
    assert!(opened.tier() == Tier::Block { polled: false } || opened.tier() == Tier::FileBlocking);
    assert!(opened.notes().iter().any(|note| note.contains("io_poll")), "{:?}", opened.notes());
    assert!(refused(path, &DEFAULT).contains("locked by another process"), "{}", refused(path, &DEFAULT));
    let (mut pool, mut device) = (pool(2, 4096), opened.device(None).unwrap());
    let mut write = operation(&mut pool, OperationKind::WriteDurable, 4096, 4096);
    write.buffer.fill(3);
    assert_eq!(run(&mut device, write).result, Ok(()));
    let read = run(&mut device, operation(&mut pool, OperationKind::Read, 4096, 4096));
    assert_eq!((read.result, read.operation.buffer.iter().all(|b| *b == 3)), (Ok(()), true));
    assert!(crate::device::occupant::what_is_on(path).unwrap().unwrap().contains("unknown data"));
}

#[test]
#[cfg(not(feature = "spdk"))]
fn a_controller_needs_the_build_with_spdk() {
    for name in ["pcie:0000:00:04.0", "vfio-user:/run/target", "tcp:127.0.0.1:4420/nqn.2026-01.io.example:x@1"] {
        let error = refused(Path::new(name), &DEFAULT);
        assert!(error.contains(name) && error.contains("--features spdk"), "{error}");
    }
    let error = refused(Path::new("pcie:04.0"), &DEFAULT);
    assert!(error.contains("not the PCI address") && !error.contains("--features"), "no build would help: {error}");
}

#[test]
fn a_block_device_that_its_last_user_lets_go_in_a_moment_is_waited_for() {
    let scratch = Scratch::file(1 << 20);
    let Some(block) = Loop::over(&scratch) else { return };
    let exclusive = || {
        let flags = i32::try_from(OFlags::EXCL.bits()).unwrap();
        File::options().read(true).write(true).custom_flags(flags).open(&block.0).unwrap()
    };
    let user = exclusive();
    let refusal = refused(Path::new(&block.0), &DEFAULT);
    assert!(refusal.contains("in use"), "{refusal}");
    let opened = std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(user);
        });
        open(Path::new(&block.0), &OpenOptions { lock_wait: Duration::from_secs(20), ..DEFAULT })
    });
    assert!(opened.is_ok());
}
