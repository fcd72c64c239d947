//! A real NVMe target in a process of its own: SPDK's `nvmf_tgt` with drives in memory, over vfio-user (the rings and
//! doorbells of PCIe) and TCP on loopback. It needs no root, no hugepages and no IOMMU.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub const SUBSYSTEM: &str = "nqn.2026-01.io.forebay:test";
pub const BLOCK_BYTES: u32 = 512;
pub const DRIVE_BYTES: u64 = 32 << 20;
/// A plain drive in memory.
pub const PLAIN: u32 = 1;
/// One that can be told to fail.
pub const FAULTY: u32 = 2;

/// A target polls a core whole; two of them, and a test that polls too, are too much for a small machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub struct Target {
    process: Child,
    directory: PathBuf,
    pub port: u16,
    _turn: MutexGuard<'static, ()>,
}

impl Target {
    /// Starts a target and waits until it serves. None, said on standard error, where there is none to start.
    pub fn start(test: &str) -> Option<Target> {
        Target::with_drive(test, DRIVE_BYTES)
    }

    /// The same, with a plain drive of another size.
    pub fn with_drive(test: &str, plain_bytes: u64) -> Option<Target> {
        let Some(program) = std::env::var_os("FOREBAY_SPDK_TARGET") else {
            // Not `eprintln`: a test that did nothing must not keep that to itself.
            let _ = writeln!(io::stderr(), "skipped: {test}: FOREBAY_SPDK_TARGET does not name SPDK's nvmf_tgt");
            return None;
        };
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = std::env::temp_dir().join(format!("forebay-spdk-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join("endpoint")).expect("the files, the port and the process are the test's own");
        let port = TcpListener::bind("127.0.0.1:0")
            .expect("the files, the port and the process are the test's own")
            .local_addr()
            .expect("the files, the port and the process are the test's own")
            .port();
        fs::write(directory.join("config.json"), config(&directory.join("endpoint"), port, plain_bytes))
            .expect("the files, the port and the process are the test's own");
        let memory_mib = (1 << 10) + (plain_bytes >> 20);
        let log =
            fs::File::create(directory.join("log")).expect("the files, the port and the process are the test's own");
        let process = Command::new(&program)
            .args(["--no-huge", "--no-pci", "--disable-cpumask-locks", "--cpumask", "[0]", "--mem-size"])
            .arg(memory_mib.to_string())
            .arg("--rpc-socket")
            .arg(directory.join("rpc"))
            .arg("--json")
            .arg(directory.join("config.json"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the files, the port and the process are the test's own"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let mut target = Target { process, directory, port, _turn: turn };
        let begun = Instant::now();
        while target.rpc("framework_wait_init", "{}").is_err() {
            let ended = target.process.try_wait().expect("the files, the port and the process are the test's own");
            assert!(ended.is_none() && begun.elapsed() < Duration::from_secs(120), "no target: {}", target.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(target)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Where it listens for vfio-user. One client at a time.
    pub fn endpoint(&self) -> String {
        self.directory
            .join("endpoint")
            .to_str()
            .expect("the files, the port and the process are the test's own")
            .to_owned()
    }

    /// Lets the next `count` operations of a kind ("read", "write", "flush") on the faulty drive fail ("failure"), or
    /// never end ("pending").
    pub fn inject(&self, kind: &str, error: &str, count: u32) {
        let params = format!(r#"{{"name":"EE_Memory2","io_type":"{kind}","error_type":"{error}","num":{count}}}"#);
        self.rpc("bdev_error_inject_error", &params).expect("the files, the port and the process are the test's own");
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill().expect("the files, the port and the process are the test's own");
        self.process.wait().expect("the files, the port and the process are the test's own");
    }

    fn rpc(&self, method: &str, params: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(self.directory.join("rpc"))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        write!(stream, r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)?;
        let (mut answer, mut byte) = (Vec::new(), [0]);
        // The answer is one object; the connection stays open.
        let mut depth = 0;
        while stream.read(&mut byte)? == 1 {
            answer.push(byte[0]);
            depth += i32::from(byte[0] == b'{') - i32::from(byte[0] == b'}');
            if depth == 0 && byte[0] == b'}' {
                break;
            }
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        if answer.contains("\"result\"") { Ok(answer) } else { Err(io::Error::other(answer)) }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn config(endpoint: &Path, port: u16, plain_bytes: u64) -> String {
    let call = |method: &str, params: String| format!(r#"{{"method":"{method}","params":{{{params}}}}}"#);
    let memory = |name: &str, bytes: u64| {
        let blocks = bytes / u64::from(BLOCK_BYTES);
        call("bdev_malloc_create", format!(r#""name":"{name}","num_blocks":{blocks},"block_size":{BLOCK_BYTES}"#))
    };
    let namespace = |number: u32, name: &str| {
        let namespace = format!(r#""namespace":{{"nsid":{number},"bdev_name":"{name}"}}"#);
        call("nvmf_subsystem_add_ns", format!(r#""nqn":"{SUBSYSTEM}",{namespace}"#))
    };
    let listen = |address: String| {
        let address = format!(r#""listen_address":{{{address}}}"#);
        call("nvmf_subsystem_add_listener", format!(r#""nqn":"{SUBSYSTEM}",{address}"#))
    };
    let bdev = [
        memory("Memory1", plain_bytes),
        memory("Memory2", DRIVE_BYTES),
        call("bdev_error_create", r#""base_name":"Memory2""#.into()),
    ]
    .join(",");
    let nvmf = [
        call("nvmf_create_transport", r#""trtype":"VFIOUSER""#.into()),
        call("nvmf_create_transport", r#""trtype":"TCP""#.into()),
        call(
            "nvmf_create_subsystem",
            format!(r#""nqn":"{SUBSYSTEM}","allow_any_host":true,"serial_number":"FB1","model_number":"memory""#),
        ),
        namespace(PLAIN, "Memory1"),
        namespace(FAULTY, "EE_Memory2"),
        listen(format!(r#""trtype":"VFIOUSER","traddr":"{}","trsvcid":"0""#, endpoint.display())),
        listen(format!(r#""trtype":"TCP","adrfam":"IPv4","traddr":"127.0.0.1","trsvcid":"{port}""#)),
    ]
    .join(",");
    format!(r#"{{"subsystems":[{{"subsystem":"bdev","config":[{bdev}]}},{{"subsystem":"nvmf","config":[{nvmf}]}}]}}"#)
}
