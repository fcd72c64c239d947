//! The tier `spdk` against a real target over vfio-user and TCP: devices, whole appliances, trouble.
//! Without FOREBAY_SPDK_TARGET each test says that it is skipped. Needs no root and no hugepages.

#[path = "spdk/target.rs"]
mod target;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use forebay::appliance::embedded::Embedded;
use forebay::appliance::prepare::{FormatOptions, SegmentSize, format_device};
use forebay::buffer::Pool;
use forebay::config::Config;
use forebay::device::any::AnyDevice;
use forebay::device::open::{OpenDevice, OpenOptions, open};
use forebay::device::{Completion, Device, DeviceError, Operation, OperationKind, Tier};
use forebay::ring::client::{Client, ConnectOptions, Write};
use forebay::types::{DeviceAddress, DriveDurability, Durability, TierChoice};
use forebay_sys::dma::{DmaRegion, Pages};

use target::{DRIVE_BYTES, FAULTY, PLAIN, SUBSYSTEM, Target};

const OPTIONS: OpenOptions = OpenOptions {
    operations_max: 4,
    read_only: false,
    tier: TierChoice::Auto,
    durability: DriveDurability::Auto,
    deallocate: true,
    lock_wait: Duration::ZERO,
    buffer_bytes: 128 << 20,
    hugepages: false,
    command_timeout: Duration::from_secs(4),
};
/// Nothing here takes so long. What does is a hang.
const HANG: Duration = Duration::from_secs(60);

fn names(target: &Target, namespace: u32) -> [PathBuf; 2] {
    let vfio_user = format!("vfio-user:{}@{namespace}", target.endpoint());
    [vfio_user.into(), format!("tcp:127.0.0.1:{}/{SUBSYSTEM}@{namespace}", target.port).into()]
}

fn pool(opened: &OpenDevice) -> Pool {
    Pool::new(opened.region(8 * 8192, Pages::Ordinary).expect("SPDK has 64 KiB"), 8192)
}

fn operation(pool: &mut Pool, kind: OperationKind, address: u64, fill: u8) -> Operation {
    let mut buffer = pool.take().expect("the pool has buffers for this test");
    buffer.fill(fill);
    Operation { tag: address, kind, address: DeviceAddress(address), bytes: 8192, buffer }
}

fn run(device: &mut AnyDevice, operation: Operation) -> Completion {
    device.submit(operation).expect("nothing else is under way");
    device.kick(true);
    wait(device)
}

fn wait(device: &mut AnyDevice) -> Completion {
    let begun = Instant::now();
    loop {
        if let Some(completion) = device.poll() {
            return completion;
        }
        assert!(begun.elapsed() < HANG, "an operation hangs");
        std::thread::yield_now();
    }
}

#[test]
fn a_device_reads_back_fills_up_and_refuses_what_is_not_whole() {
    let Some(target) = Target::start("device") else { return };
    for name in names(&target, PLAIN) {
        let opened = open(&name, &OPTIONS).unwrap();
        assert_eq!((opened.tier(), opened.geometry().capacity_bytes), (Tier::Spdk, DRIVE_BYTES));
        assert!(opened.durability().contains("then flush") && opened.name() == name.to_str().unwrap());
        let (mut pool, mut device) = (pool(&opened), opened.device(None).unwrap());
        for i in 0..4 {
            let fill = u8::try_from(i + 1).unwrap();
            device.submit(operation(&mut pool, OperationKind::WriteDurable, i * 8192, fill)).unwrap();
        }
        let back = device.submit(operation(&mut pool, OperationKind::Read, 4096, 0)).unwrap_err();
        assert_eq!((back.tag, device.in_flight()), (4096, 4));
        device.kick(true);
        for _ in 0..4 {
            assert_eq!(wait(&mut device).result, Ok(()));
        }
        assert_eq!(device.in_flight(), 0);
        // Another reactor's device sees it, at an address between two writes.
        let read = run(&mut opened.device(None).unwrap(), back);
        assert_eq!(read.result, Ok(()));
        assert!(read.operation.buffer[..4096].iter().all(|b| *b == 1));
        assert!(read.operation.buffer[4096..].iter().all(|b| *b == 2));
        for address in [1, 512, DRIVE_BYTES - 4096, u64::MAX - 4095] {
            let refused = run(&mut device, Operation { address: DeviceAddress(address), ..read_of(&mut pool) });
            assert_eq!((refused.result, device.in_flight()), (Err(DeviceError::INVALID), 0), "{address}");
            pool.give(refused.operation.buffer);
        }
        let foreign = DmaRegion::allocate(8192, Pages::Ordinary).unwrap().split(8192).pop().unwrap();
        let refused = run(&mut device, Operation { buffer: foreign, ..read_of(&mut pool) });
        assert_eq!(refused.result, Err(DeviceError::INVALID), "memory that the controller cannot reach");
    }
}

fn read_of(pool: &mut Pool) -> Operation {
    operation(pool, OperationKind::Read, 0, 0)
}

#[test]
fn a_write_is_durable_only_when_its_flush_is() {
    let Some(target) = Target::start("flush") else { return };
    for name in names(&target, FAULTY) {
        let opened = open(&name, &OPTIONS).unwrap();
        let (mut pool, mut device) = (pool(&opened), opened.device(None).unwrap());
        target.inject("write", "failure", 1);
        let failed = run(&mut device, operation(&mut pool, OperationKind::WriteDurable, 0, 1));
        assert!(matches!(failed.result, Err(DeviceError::Nvme(_))), "{:?}", failed.result);
        let again = run(&mut device, operation(&mut pool, OperationKind::WriteDurable, 0, 1));
        assert_eq!(again.result, Ok(()), "an error of one write is no other's");
        // The flush of several writes fails: none of them is durable, and none after them.
        target.inject("flush", "failure", 1);
        for address in [8192, 16384] {
            device.submit(operation(&mut pool, OperationKind::WriteDurable, address, 2)).unwrap();
        }
        device.kick(true);
        let results = [wait(&mut device), wait(&mut device)].map(|completion| completion.result);
        assert!(results.iter().all(|result| matches!(result, Err(DeviceError::Nvme(_)))), "{results:?}");
        let later = run(&mut device, operation(&mut pool, OperationKind::WriteDurable, 0, 3));
        assert!(later.result.is_err() && device.in_flight() == 0, "{:?}", later.result);
        let read = run(&mut device, operation(&mut pool, OperationKind::Read, 0, 0));
        assert_eq!(read.result, Ok(()), "readers go on");
    }
}

#[test]
fn what_is_deallocated_is_gone_and_its_neighbours_are_not() {
    let Some(target) = Target::start("deallocate") else { return };
    for name in names(&target, FAULTY) {
        let opened = open(&name, &OPTIONS).unwrap();
        assert_eq!(opened.geometry().deallocate_bytes_max, u32::MAX - 4095);
        let (mut pool, mut device) = (pool(&opened), opened.device(None).unwrap());
        for address in [0, 8192, 1 << 20] {
            let written = run(&mut device, operation(&mut pool, OperationKind::WriteDurable, address, 7));
            pool.give(written.operation.buffer);
        }
        // Longer than its buffer, which is not touched: all from the second block on, but the last.
        let told = Operation { bytes: 1 << 20, address: DeviceAddress(4096), ..deallocation(&mut pool) };
        let told = run(&mut device, told);
        assert_eq!((told.result, device.in_flight()), (Ok(()), 0));
        pool.give(told.operation.buffer);
        for (address, expected) in [(0, [7, 0]), (8192, [0, 0]), (1 << 20, [0, 7])] {
            let read = run(&mut device, operation(&mut pool, OperationKind::Read, address, 1));
            let found = [0, 4096].map(|at| read.operation.buffer[at]);
            assert_eq!((read.result, found), (Ok(()), expected), "{name:?} at {address}");
            pool.give(read.operation.buffer);
        }
        target.inject("unmap", "failure", 1);
        let refused = run(&mut device, deallocation(&mut pool));
        assert!(matches!(refused.result, Err(DeviceError::Nvme(_))), "{:?}", refused.result);
        let written = run(&mut device, operation(&mut pool, OperationKind::WriteDurable, 0, 3));
        assert_eq!(written.result, Ok(()), "and that is no write's fault");
        let options = OpenOptions { deallocate: false, ..OPTIONS };
        drop(device);
        drop(opened);
        assert_eq!(open(&name, &options).unwrap().geometry().deallocate_bytes_max, 0);
    }
}

fn deallocation(pool: &mut Pool) -> Operation {
    operation(pool, OperationKind::Deallocate, 0, 9)
}

#[test]
fn a_killed_target_vanishes_within_the_timeout() {
    for over in [0, 1] {
        let Some(mut target) = Target::start("vanish") else { return };
        let opened = open(&names(&target, PLAIN)[over], &OPTIONS).unwrap();
        let (mut pool, mut device) = (pool(&opened), opened.device(None).unwrap());
        target.kill();
        let begun = Instant::now();
        for kind in [OperationKind::WriteDurable, OperationKind::Read] {
            device.submit(operation(&mut pool, kind, 0, 1)).unwrap();
        }
        device.kick(true);
        for _ in 0..2 {
            assert_eq!(wait(&mut device).result, Err(DeviceError::Vanished));
        }
        let took = begun.elapsed();
        assert!(took < OPTIONS.command_timeout * 3 / 2 && device.in_flight() == 0, "after {took:?}");
        let later = run(&mut device, operation(&mut pool, OperationKind::WriteDurable, 0, 1));
        assert_eq!(later.result, Err(DeviceError::Vanished));
    }
}

/// Flight recorders and a configuration of one test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("forebay-spdk-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("the temporary directory is writable");
        Place(path)
    }

    fn config(&self) -> Config {
        Config::parse(&self.text(), Path::new("test.toml")).expect("the configuration is valid")
    }

    fn text(&self) -> String {
        let flights = self.0.display();
        format!(
            "device.hugepages = false\nformat.segment_bytes = \"1MiB\"\nreactors.count = 2\nreactors.spin = \"50us\"\n\
             wal.frame_bytes_max = \"64KiB\"\nlimits.value_bytes_max = \"256KiB\"\nlimits.memory_bytes_max = \"64MiB\"\n\
             limits.keys_max = 10000\nflight.directory = \"{flights}\"\n"
        )
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn format(name: &Path) -> Result<(), String> {
    let options =
        FormatOptions { capacity_bytes: None, segment_size: SegmentSize::Bytes(1 << 20), shards: 4, force: false };
    format_device(name, &options, &mut |_, _| {}).map(drop).map_err(|error| error.to_string())
}

fn start(place: &Place, name: &Path) -> (Embedded, Client) {
    let embedded = Embedded::on_device(place.config(), name, &mut |_| {}).expect("the appliance starts");
    let client = Client::connect(embedded.socket(), &ConnectOptions::default()).expect("the daemon listens");
    (embedded, client)
}

#[test]
fn an_appliance_formats_serves_and_recovers() {
    let Some(target) = Target::start("appliance") else { return };
    let place = Place::new("appliance");
    for (name, other) in names(&target, PLAIN).into_iter().zip(names(&target, FAULTY)) {
        // The same drive is formatted over one way, and found to be taken over the other.
        let formatted = format(&name);
        if name.to_str().unwrap().starts_with("tcp") {
            assert!(formatted.unwrap_err().contains("holds a Forebay namespace"));
            assert!(format(&other).is_ok());
        } else {
            formatted.unwrap();
        }
        let name = if name.to_str().unwrap().starts_with("tcp") { other } else { name };
        let value = |key: u32| vec![key.to_le_bytes()[0]; 100 * key as usize];
        let (mut embedded, mut client) = start(&place, &name);
        assert_eq!(embedded.started().unwrap().tier, Tier::Spdk);
        let space = client.open_space("space", Some(Durability::Strict)).unwrap();
        for key in 0..200_u32 {
            client.put(space, &key.to_le_bytes(), &value(key), Write::default()).unwrap();
        }
        drop(client);
        embedded.stop().unwrap();
        drop(embedded);
        let (_embedded, mut client) = start(&place, &name);
        let space = client.open_space("space", None).unwrap();
        for key in 0..200_u32 {
            assert_eq!(client.get(space, &key.to_le_bytes()).unwrap().unwrap().1, value(key));
        }
    }
}

#[test]
fn clients_of_an_appliance_get_an_error_when_the_target_dies() {
    let Some(mut target) = Target::start("dies") else { return };
    let place = Place::new("dies");
    let name = names(&target, PLAIN)[0].clone();
    format(&name).unwrap();
    let (embedded, mut client) = start(&place, &name);
    let space = client.open_space("space", Some(Durability::Strict)).unwrap();
    client.put(space, b"before", b"1", Write::default()).unwrap();
    target.kill();
    let begun = Instant::now();
    client.put(space, b"after", b"2", Write::default()).unwrap_err();
    assert!(begun.elapsed() < HANG, "after {:?}", begun.elapsed());
    assert_eq!(client.get(space, b"before").unwrap().unwrap().1, b"1", "readers go on");
    drop(client);
    drop(embedded);
    assert!(begun.elapsed() < HANG, "stopped after {:?}", begun.elapsed());
}

/// `forebay serve`. Killed with SIGKILL when it is dropped.
struct Daemon(Child);

impl Daemon {
    fn start(place: &Place, name: &Path) -> (Daemon, Client) {
        let (config, socket) = (place.0.join("config.toml"), place.0.join("socket"));
        fs::write(&config, place.text()).expect("the place is writable");
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.arg("serve").arg("--config").arg(config).arg("--device").arg(name).arg("--socket").arg(&socket);
        let mut daemon = Daemon(command.stdin(Stdio::null()).spawn().expect("the program starts"));
        let begun = Instant::now();
        loop {
            if let Ok(client) = Client::connect(&socket, &ConnectOptions::default()) {
                return (daemon, client);
            }
            let ended = daemon.0.try_wait().expect("the child is ours");
            assert!(ended.is_none() && begun.elapsed() < HANG, "the daemon does not listen: {ended:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// tests/end_to_end/kill.rs has more writers and kills, on any device; here it is the target that sees its host vanish.
#[test]
fn what_was_acknowledged_survives_kill_9_of_the_daemon() {
    let Some(target) = Target::start("kill-9") else { return };
    let place = Place::new("kill-9");
    let [vfio_user, tcp] = [names(&target, PLAIN)[0].clone(), names(&target, FAULTY)[1].clone()];
    for name in [vfio_user, tcp] {
        format(&name).unwrap();
        let mut acknowledged = 0_u32;
        for life in 0..5_u64 {
            let (daemon, mut client) = Daemon::start(&place, &name);
            let space = client.open_space("space", Some(Durability::Strict)).unwrap();
            let mut found = |key: u32| client.get(space, &key.to_le_bytes()).unwrap().map(|(_, value)| value);
            let value = |key: u32| vec![key.to_le_bytes()[0]; 500];
            for key in 0..acknowledged {
                assert_eq!(found(key), Some(value(key)), "acknowledged before life {life}");
            }
            // The one that nobody answered may be there.
            acknowledged += u32::from(found(acknowledged) == Some(value(acknowledged)));
            assert_eq!(found(acknowledged), None, "nobody asked for it");
            let mut put = |key: u32| client.put(space, &key.to_le_bytes(), &value(key), Write::default());
            put(acknowledged).expect("the daemon lives");
            acknowledged += 1;
            let begun = Instant::now();
            let killer = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(40 + 23 * life));
                drop(daemon);
            });
            while put(acknowledged).is_ok() {
                acknowledged += 1;
            }
            assert!(begun.elapsed() < HANG, "life {life}");
            killer.join().unwrap();
        }
    }
}

#[test]
fn a_name_that_leads_nowhere_says_what_to_do() {
    let refused = |name: &str, options: &OpenOptions| {
        let error = open(Path::new(name), options).err().unwrap().to_string();
        assert!(error.contains(name) && error.contains("; "), "{error}");
        error
    };
    assert!(refused("vfio-user:/nonexistent", &OPTIONS).contains("no target listens"));
    assert!(refused("pcie:ffff:ff:1f.7", &OPTIONS).contains("lspci"));
    for bad in ["tcp:127.0.0.1", "tcp:127.0.0.1/nqn", "tcp:host:4420/nqn", "tcp:127.0.0.1:99999/nqn"] {
        assert!(refused(bad, &OPTIONS).contains("tcp:192.0.2.1:4420"), "{bad}");
    }
    let blocking = OpenOptions { tier: TierChoice::Blocking, ..OPTIONS };
    assert!(refused("vfio-user:/nonexistent", &blocking).contains("--tier auto"));
}
