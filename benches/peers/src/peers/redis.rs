//! Redis, over its Unix socket and measured by its own redis-benchmark: the server on the first core (its background
//! syncs on both), the clients on the second.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Peer, Setup};
use crate::case::{Class, KEYS, Shape, key};
use crate::figures::{Failure, Figures};

const START_TIMEOUT: Duration = Duration::from_secs(10);
const ATTEMPTS_MAX: u32 = 5;
/// What redis-benchmark says then.
const OWN_END: &str = "All clients disconnected";

pub struct Redis {
    server: Child,
    socket: PathBuf,
    class: Class,
    value_bytes: usize,
}

impl Redis {
    pub fn start(setup: &Setup<'_>) -> Result<Redis, Failure> {
        let (append, sync) = match setup.class {
            Class::Strict => ("yes", "always"),
            Class::Buffered => ("yes", "everysec"),
            Class::Memory | Class::Read => ("no", "no"),
        };
        let [first, second] = setup.cores;
        let socket = setup.directory.join("redis.sock");
        let log = File::create(setup.directory.join("redis.log"))?;
        let server = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", append, "--appendfsync", sync])
            // A rewrite of the file in the middle would be measured too.
            .args(["--auto-aof-rewrite-percentage", "0"])
            .args(["--server_cpulist", &first.to_string(), "--bio_cpulist", &format!("{first},{second}")])
            .arg("--unixsocket")
            .arg(&socket)
            .arg("--dir")
            .arg(setup.directory)
            .stdout(log.try_clone()?)
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| format!("redis-server: {error}; install it, see benches/peers/run"))?;
        // From here on the server is stopped when this is dropped.
        let mut redis = Redis { server, socket, class: setup.class, value_bytes: setup.value_bytes };
        let stream = redis.connect().map_err(|error| {
            let said = std::fs::read_to_string(setup.directory.join("redis.log")).unwrap_or_default();
            format!("redis-server does not listen on {}: {error}\n{said}", redis.socket.display())
        })?;
        core_affinity::set_for_current(core_affinity::CoreId { id: second });
        each_key_once(stream, setup.value_bytes)?;
        Ok(redis)
    }

    fn connect(&mut self) -> Result<UnixStream, Failure> {
        let begun = Instant::now();
        loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => return Ok(stream),
                Err(error) if begun.elapsed() > START_TIMEOUT => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
            if let Some(status) = self.server.try_wait()? {
                return Err(format!("it ended with {status}").into());
            }
        }
    }

    /// `requests` of them. A short run of redis-benchmark 7 now and then takes its own end for lost connections, and is asked again.
    fn benchmark(&self, shape: Shape, requests: u64) -> Result<Figures, Failure> {
        let mut tried = 1;
        loop {
            match self.benchmark_once(shape, requests) {
                Err(error) if tried < ATTEMPTS_MAX && error.to_string().contains(OWN_END) => tried += 1,
                ended => return ended,
            }
        }
    }

    fn benchmark_once(&self, shape: Shape, requests: u64) -> Result<Figures, Failure> {
        let test = if self.class == Class::Read { "get" } else { "set" };
        let output = Command::new("redis-benchmark")
            .arg("-s")
            .arg(&self.socket)
            .args(["-t", test, "-c", &shape.clients.to_string(), "-P", &shape.depth.to_string()])
            .args(["-n", &requests.to_string(), "-d", &self.value_bytes.to_string(), "-r", &KEYS.to_string()])
            .args(["--csv", "--precision", "3"])
            .output()
            .map_err(|error| format!("redis-benchmark: {error}; install it, see benches/peers/run"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(table(&text).ok_or_else(|| {
            let (status, errors) = (output.status, String::from_utf8_lossy(&output.stderr));
            format!("redis-benchmark of {requests} requests ended with {status} and said: {text}{errors}")
        })?)
    }
}

impl Peer for Redis {
    fn measure(&mut self, shape: Shape, run: Duration) -> Result<Figures, Failure> {
        // It takes a number of requests, not a time: a short run tells how many.
        let at_once = (shape.clients * shape.depth) as u64;
        let (mut requests, mut count) = (at_once.max(200), 0);
        loop {
            let begun = Instant::now();
            let figures = self.benchmark(shape, requests)?;
            count += requests;
            let wanted = figures.per_second * run.as_secs_f64();
            if requests as f64 >= wanted * 0.7 || begun.elapsed() >= run * 2 {
                // All of them, for what is counted meanwhile counts all.
                return Ok(Figures { count, ..figures });
            }
            requests = (wanted as u64).min(requests * 50).next_multiple_of(at_once);
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The keys that redis-benchmark will use.
fn each_key_once(mut stream: UnixStream, value_bytes: usize) -> Result<(), Failure> {
    const ANSWER: &[u8] = b"+OK\r\n";
    let value = "x".repeat(value_bytes);
    let places: Vec<u32> = (0..KEYS).collect();
    for some in places.chunks(100) {
        let mut requests = Vec::new();
        for place in some {
            let key = key(*place);
            write!(requests, "*3\r\n$3\r\nSET\r\n${}\r\n{}\r\n", key.len(), String::from_utf8_lossy(&key))?;
            write!(requests, "${value_bytes}\r\n{value}\r\n")?;
        }
        stream.write_all(&requests)?;
        let mut answers = vec![0; ANSWER.len() * some.len()];
        stream.read_exact(&mut answers)?;
        if answers.chunks(ANSWER.len()).any(|answer| answer != ANSWER) {
            return Err(format!("redis-server answered {}", String::from_utf8_lossy(&answers)).into());
        }
    }
    Ok(())
}

/// The line of figures below the line of their names.
fn table(text: &str) -> Option<Figures> {
    let fields =
        |line: &str| -> Vec<String> { line.split(',').map(|field| field.trim_matches('"').to_owned()).collect() };
    let mut lines = text.lines();
    let (names, values) = (fields(lines.next()?), fields(lines.next()?));
    let value = |name: &str| -> Option<f64> { values.get(names.iter().position(|known| known == name)?)?.parse().ok() };
    Some(Figures {
        per_second: value("rps")?,
        p50_us: value("p50_latency_ms")? * 1e3,
        p99_us: value("p99_latency_ms")? * 1e3,
        count: 0,
        flushes: None,
    })
}
