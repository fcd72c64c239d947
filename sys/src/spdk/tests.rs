//! The queue pairs against a real target, over vfio-user and TCP.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::dma::{DmaBuffer, DmaRegion};

#[path = "../../../tests/spdk/target.rs"]
mod target;

use target::{BLOCK_BYTES, DRIVE_BYTES, FAULTY, PLAIN, SUBSYSTEM, Target};

const TIMEOUT: Duration = Duration::from_secs(4);
/// A command that takes longer than this hangs, whatever else the machine does.
const HANG: Duration = Duration::from_secs(60);

fn transports(target: &Target) -> [Transport; 2] {
    let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
    [
        Transport::VfioUser { directory: target.endpoint() },
        Transport::Tcp { host, port: target.port, subsystem: SUBSYSTEM.to_owned() },
    ]
}

fn env(transport: &Transport) -> Env {
    Env::start(transport, EnvMemory::Ordinary { bytes: 64 << 20 }).unwrap()
}

fn attach(transport: &Transport, namespace: u32) -> Arc<Controller> {
    let options = AttachOptions { namespace: Some(namespace), timeout: TIMEOUT };
    Controller::attach(env(transport), transport, &options).unwrap()
}

fn buffers(transport: &Transport, count: usize) -> Vec<DmaBuffer> {
    DmaRegion::allocate_spdk(env(transport), count * 4096).unwrap().split(4096)
}

fn wait<T>(pair: &mut QueuePair<T>) -> Ended<T> {
    let begun = Instant::now();
    loop {
        if let Some(ended) = pair.poll() {
            return ended;
        }
        assert!(begun.elapsed() < HANG, "a command hangs");
        std::thread::yield_now();
    }
}

/// Carries one command out on the first 4 KiB.
fn run(pair: &mut QueuePair<u32>, command: Command, buffer: DmaBuffer) -> Ended<u32> {
    pair.submit(command, 0, 4096 / BLOCK_BYTES, buffer, 1).unwrap();
    pair.kick();
    wait(pair)
}

#[test]
fn what_is_written_is_read_back_by_another_queue_pair() {
    let Some(target) = Target::start("read-back") else { return };
    for (fill, transport) in (1..).zip(transports(&target)) {
        let controller = attach(&transport, PLAIN);
        let identity = controller.identity();
        assert_eq!((identity.block_bytes, identity.blocks), (BLOCK_BYTES, DRIVE_BYTES / u64::from(BLOCK_BYTES)));
        assert_eq!((identity.serial.as_str(), identity.model.as_str(), identity.namespace), ("FB1", "memory", PLAIN));
        assert!(identity.volatile_cache && identity.transfer_bytes_max >= 4096, "{identity:?}");
        let mut buffers = buffers(&transport, 4);
        let mut writer = QueuePair::new(&controller, 4).unwrap();
        for (block, command) in [(8, Command::Write), (16, Command::WriteThrough)] {
            let mut buffer = buffers.pop().unwrap();
            buffer.fill(fill + u8::try_from(block).unwrap());
            writer.submit(command, block, 8, buffer, block).unwrap();
        }
        writer.kick();
        let ended = [wait(&mut writer), wait(&mut writer)];
        assert!(ended.iter().all(|ended| ended.status.is_success() && ended.buffer.is_some()), "{ended:?}");
        writer.flush(0).unwrap();
        let flushed = wait(&mut writer);
        assert!(flushed.status.is_success() && flushed.buffer.is_none(), "{flushed:?}");
        assert_eq!(writer.in_flight(), 0);
        // From another thread: a queue pair belongs to whoever holds it.
        let buffer = buffers.pop().unwrap();
        let mut reader = QueuePair::new(&controller, 1).unwrap();
        let read = std::thread::spawn(move || {
            reader.submit(Command::Read, 12, 8, buffer, 7).unwrap();
            reader.kick();
            wait(&mut reader)
        });
        let read = read.join().unwrap();
        assert!(read.status.is_success() && read.context == 7, "{read:?}");
        let buffer = read.buffer.unwrap();
        assert!(buffer[..2048].iter().all(|b| *b == fill + 8) && buffer[2048..].iter().all(|b| *b == fill + 16));
    }
}

#[test]
fn full_queues_give_the_buffer_back_and_lose_nothing() {
    let Some(target) = Target::start("full") else { return };
    for transport in transports(&target) {
        let controller = attach(&transport, PLAIN);
        // Fewer slots than SPDK has requests, and more.
        for entries in [2, 2_000] {
            let mut pair = QueuePair::new(&controller, entries).unwrap();
            let mut buffers = buffers(&transport, 1_024);
            let mut under_way = 0;
            let refused = loop {
                match pair.submit(Command::Read, 0, 8, buffers.pop().unwrap(), under_way) {
                    Ok(()) => under_way += 1,
                    Err(refused) => break refused,
                }
            };
            assert_eq!((refused.refusal, refused.context, pair.in_flight()), (Refusal::Full, under_way, under_way));
            assert!(under_way == 2 || (256..1_024).contains(&under_way), "{under_way} under way");
            pair.kick();
            let mut seen = vec![false; under_way as usize];
            for _ in 0..under_way {
                let ended = wait(&mut pair);
                let seen = &mut seen[ended.context as usize];
                assert!(ended.status.is_success() && !std::mem::replace(seen, true), "{ended:?}");
            }
            let last = run(&mut pair, Command::Read, refused.buffer.unwrap());
            assert_eq!((last.status.is_success(), pair.in_flight()), (true, 0));
        }
    }
}

#[test]
fn dropping_a_queue_pair_waits_for_what_is_under_way() {
    let Some(target) = Target::start("drop") else { return };
    for transport in transports(&target) {
        let controller = attach(&transport, PLAIN);
        let mut buffers = buffers(&transport, 33);
        let last = buffers.pop().unwrap();
        let mut pair = QueuePair::new(&controller, 32).unwrap();
        for (i, mut buffer) in (0_u32..).zip(buffers) {
            buffer.fill(u8::try_from(i + 1).unwrap());
            pair.submit(Command::Write, u64::from(i) * 8, 8, buffer, i).unwrap();
        }
        drop(pair);
        let mut pair = QueuePair::new(&controller, 1).unwrap();
        pair.submit(Command::Read, 31 * 8, 8, last, 0).unwrap();
        let read = wait(&mut pair);
        assert!(read.status.is_success() && read.buffer.unwrap().iter().all(|b| *b == 32));
    }
}

#[test]
fn an_error_of_the_drive_ends_its_command_and_no_other() {
    let Some(target) = Target::start("errors") else { return };
    for transport in transports(&target) {
        let controller = attach(&transport, FAULTY);
        let mut pair = QueuePair::new(&controller, 4).unwrap();
        let mut buffers = buffers(&transport, 1);
        for (kind, command) in [("write", Command::Write), ("read", Command::Read)] {
            target.inject(kind, "failure", 1);
            let failed = run(&mut pair, command, buffers.pop().unwrap());
            assert!(!failed.status.is_success(), "{kind}: {failed:?}");
            let again = run(&mut pair, command, failed.buffer.unwrap());
            assert!(again.status.is_success(), "{kind}: {again:?}");
            buffers.extend(again.buffer);
        }
        target.inject("flush", "failure", 1);
        pair.flush(9).unwrap();
        assert!(!wait(&mut pair).status.is_success());
        let outside = buffers.pop().unwrap();
        pair.submit(Command::Read, DRIVE_BYTES / u64::from(BLOCK_BYTES), 8, outside, 1).unwrap();
        let outside = wait(&mut pair).status;
        assert_eq!(outside.field() & 0x7ff, 0x80, "LBA out of range: {outside:?}");
    }
}

/// One command never ends. The queue pair is given up after the timeout, and everything comes back.
fn loses(mut pair: QueuePair<u32>, buffers: Vec<DmaBuffer>) {
    let begun = Instant::now();
    let (mut taken, mut ended, mut failed) = (0, 0, 0);
    for (context, buffer) in (0..).zip(buffers) {
        let command = if context == 0 { Command::Write } else { Command::Read };
        match pair.submit(command, 0, 8, buffer, context) {
            Ok(()) => taken += 1,
            // Over TCP the admin queue may have broken first.
            Err(refused) => assert_eq!((refused.refusal, refused.context), (Refusal::Lost, context)),
        }
    }
    pair.kick();
    while pair.in_flight() > 0 {
        ended += 1;
        failed += u32::from(!wait(&mut pair).status.is_success());
    }
    let took = begun.elapsed();
    assert!(ended == taken && (taken == 0) == (failed == 0), "{taken} taken, {ended} ended, {failed} failed");
    assert!(took < TIMEOUT * 3 / 2, "given up after {took:?}, the timeout is {TIMEOUT:?}");
    let more = DmaRegion::allocate_spdk(
        Env::start(&SOMEWHERE, EnvMemory::Hugepages { directory: "/dev/hugepages".into() }).unwrap(),
        4096,
    )
    .unwrap();
    let more = pair.submit(Command::Read, 0, 8, more.split(4096).pop().unwrap(), 1).unwrap_err();
    assert_eq!((more.refusal, more.context), (Refusal::Lost, 1));
    let begun = Instant::now();
    drop(pair);
    assert!(begun.elapsed() < TIMEOUT, "dropping it took {:?}", begun.elapsed());
}

/// SPDK was started long before; what it is then told does not matter.
const SOMEWHERE: Transport = Transport::VfioUser { directory: String::new() };

#[test]
fn a_killed_target_is_an_error_within_the_timeout_and_never_a_hang() {
    for over in [0, 1] {
        let Some(mut target) = Target::start("killed") else { return };
        let transport = &transports(&target)[over];
        let controller = attach(transport, PLAIN);
        let mut pair = QueuePair::new(&controller, 16).unwrap();
        let mut buffers = buffers(transport, 9);
        let warm = run(&mut pair, Command::Read, buffers.pop().unwrap());
        assert!(warm.status.is_success());
        buffers.extend(warm.buffer);
        target.kill();
        loses(pair, buffers);
        assert!(QueuePair::<u32>::new(&controller, 1).is_err(), "a lost controller has no queue pairs");
        let begun = Instant::now();
        drop(controller);
        assert!(begun.elapsed() < TIMEOUT * 5, "detaching took {:?}", begun.elapsed());
    }
}

#[test]
fn a_command_that_never_ends_gives_the_controller_up() {
    for over in [0, 1] {
        let Some(target) = Target::start("pending") else { return };
        let transport = &transports(&target)[over];
        let controller = attach(transport, FAULTY);
        let pair = QueuePair::new(&controller, 16).unwrap();
        target.inject("write", "pending", 1);
        loses(pair, buffers(transport, 9));
    }
}

#[test]
fn nobody_there_and_no_such_namespace_are_errors() {
    let Some(target) = Target::start("nobody") else { return };
    let [vfio_user, tcp] = transports(&target);
    for transport in [&vfio_user, &tcp] {
        for (namespace, word) in [(Some(9), "namespace 9"), (None, "several namespaces")] {
            let options = AttachOptions { namespace, timeout: TIMEOUT };
            let error = Controller::attach(env(transport), transport, &options).err().unwrap().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
    let nowhere = Transport::VfioUser { directory: "/nonexistent".to_owned() };
    let options = AttachOptions { namespace: None, timeout: TIMEOUT };
    assert!(Controller::attach(env(&vfio_user), &nowhere, &options).is_err());
    let pcie = Transport::Pcie { address: "0000:00:04.0".to_owned() };
    let error =
        Env::start(&pcie, EnvMemory::Hugepages { directory: "/dev/hugepages".into() }).err().unwrap().to_string();
    assert!(error.contains("PCI device"), "{error}");
}

#[test]
fn memory_of_spdk_is_zeroed_and_comes_back() {
    let Some(target) = Target::start("memory") else { return };
    let env = env(&transports(&target)[0]);
    for fill in 1..20 {
        let region = DmaRegion::allocate_spdk(env, 16 << 20).unwrap();
        let mut buffers = region.split(1 << 20);
        assert_eq!((buffers.len(), buffers[0].as_ptr().addr() % 4096), (16, 0));
        for buffer in &mut buffers {
            assert!(buffer.iter().all(|b| *b == 0));
            buffer.fill(fill);
        }
    }
    assert!(DmaRegion::allocate_spdk(env, 1 << 40).is_err());
}

#[test]
fn an_address_that_spdk_cannot_parse_is_refused() {
    let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
    for bad in ["", "a b", "a\0b", &"x".repeat(300)] {
        assert!(Transport::VfioUser { directory: bad.to_owned() }.id().is_err(), "{bad:?}");
        assert!(Transport::Tcp { host, port: 1, subsystem: bad.to_owned() }.id().is_err(), "{bad:?}");
    }
    assert!(Transport::Pcie { address: "0000:00:04.0".to_owned() }.id().is_ok());
}
