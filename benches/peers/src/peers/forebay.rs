//! Forebay: an appliance on a file, its reactor polling on the first core, one thread of clients on the second.

use std::time::{Duration, Instant};

use forebay::appliance::Appliance;
use forebay::appliance::prepare::{FormatOptions, SegmentSize, format_device};
use forebay::config::{ByteSize, Config, Spin};
use forebay::device::open::{OpenOptions, open};
use forebay::ring::client::{Client, ConnectOptions, Object, Request, SubmitError, Write};
use forebay::types::Durability;

use super::{Peer, Setup};
use crate::case::{Class, KEYS, Shape, key, place};
use crate::figures::{Failure, Figures, Latencies, figures};

const DEVICE_BYTES: u64 = 4 << 30;

pub struct Forebay {
    sessions: Vec<Session>,
    /// Runs as long as this does.
    _appliance: Appliance,
    socket: std::path::PathBuf,
    class: Class,
    value: Vec<u8>,
}

/// A connection with what it has in flight.
struct Session {
    client: Client,
    space: Object,
    number: u64,
    /// In each value: no client writes what another one did.
    own: u64,
}

impl Forebay {
    pub fn start(setup: &Setup<'_>) -> Result<Forebay, Failure> {
        let path = setup.kept.join("forebay.img");
        let made = path.metadata().map_or(0, |metadata| metadata.len()) == DEVICE_BYTES;
        let capacity_bytes = (!made).then_some(DEVICE_BYTES);
        let options =
            FormatOptions { capacity_bytes, segment_size: SegmentSize::Bytes(64 << 20), shards: 4, force: true };
        format_device(&path, &options, &mut |_, _| {})?;
        let mut config = Config::default();
        config.reactors.cores = vec![setup.cores[0]];
        config.reactors.spin = Spin::Forever;
        config.limits.sessions_max = 128;
        config.rings.arena_bytes = ByteSize::mib(4);
        let device = open(&path, &OpenOptions::default())?;
        let socket = setup.directory.join("socket");
        let appliance = Appliance::start(&config, &device, &socket, None, &mut |_| {})?;
        core_affinity::set_for_current(core_affinity::CoreId { id: setup.cores[1] });
        let value = vec![7; setup.value_bytes];
        let mut forebay = Forebay { sessions: Vec::new(), _appliance: appliance, socket, class: setup.class, value };
        forebay.connect(1)?;
        forebay.each_key_once()?;
        Ok(forebay)
    }

    fn connect(&mut self, clients: usize) -> Result<(), Failure> {
        let durability = match self.class {
            Class::Strict => Durability::Strict,
            Class::Buffered => Durability::Buffered,
            Class::Memory | Class::Read => Durability::Memory,
        };
        self.sessions.truncate(clients);
        while self.sessions.len() < clients {
            let mut client = Client::connect(&self.socket, &ConnectOptions::default())?;
            let space = client.open_space("bench", Some(durability))?;
            let number = self.sessions.len() as u64 * u64::from(KEYS) / clients as u64;
            let own = (self.sessions.len() as u64) << 48;
            self.sessions.push(Session { client, space, number, own });
        }
        Ok(())
    }

    fn each_key_once(&mut self) -> Result<(), Failure> {
        const IN_FLIGHT: usize = 64;
        let Session { client, space, .. } = &mut self.sessions[0];
        let (mut reply, mut done) = (Vec::new(), 0);
        for number in 0..KEYS {
            while client.in_flight() >= IN_FLIGHT {
                client.wait(&mut reply)?.ok()?;
                done += 1;
            }
            let (key, how) = (key(number), Write::default());
            let request = Request::Put { space: *space, key: &key, value: &self.value, how };
            client.submit(0, &request).map_err(|error| format!("{error:?}"))?;
        }
        while done < KEYS {
            client.wait(&mut reply)?.ok()?;
            done += 1;
        }
        Ok(())
    }
}

impl Peer for Forebay {
    fn measure(&mut self, shape: Shape, run: Duration) -> Result<Figures, Failure> {
        self.connect(shape.clients)?;
        let (class, value) = (self.class, self.value.as_mut_slice());
        let mut latencies = Latencies::default();
        let mut reply = Vec::with_capacity(8 << 10);
        let begun = Instant::now();
        let since_begun = || u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let run_ns = u64::try_from(run.as_nanos())?;
        let (mut open, mut answered) = (true, Vec::with_capacity(shape.depth));
        while open || self.sessions.iter().any(|session| session.client.in_flight() > 0) {
            for session in &mut self.sessions {
                // One look at the clock for what goes out together, and one for what comes, as redis-benchmark has it: before the
                // first and behind the last.
                if open && session.client.in_flight() < shape.depth {
                    let now = since_begun();
                    while session.client.in_flight() < shape.depth {
                        session.submit(class, value, now)?;
                    }
                }
                while let Some(answer) = session.client.poll(&mut reply)? {
                    let answer = answer.ok()?;
                    if class == Class::Read && reply.len() != value.len() {
                        return Err(format!("a get gave {} B instead of {}", reply.len(), value.len()).into());
                    }
                    answered.push(answer.user_data);
                }
                if !answered.is_empty() {
                    let now = since_begun();
                    answered.drain(..).for_each(|begun| latencies.add(Duration::from_nanos(now - begun)));
                    open = now < run_ns;
                }
            }
        }
        Ok(figures(vec![latencies], begun, Instant::now()))
    }
}

impl Session {
    /// One request, with the time of its start as its name.
    fn submit(&mut self, class: Class, value: &mut [u8], now_ns: u64) -> Result<(), Failure> {
        let key = key(place(self.number));
        self.number += 1;
        value[..8].copy_from_slice(&(self.number | self.own).to_le_bytes());
        let request = if class == Class::Read {
            Request::Get { space: self.space, key: &key, relaxed: false, value_bytes_max: value.len() }
        } else {
            Request::Put { space: self.space, key: &key, value, how: Write::default() }
        };
        match self.client.submit(now_ns, &request) {
            Ok(()) => Ok(()),
            Err(SubmitError::Full) => Err("the ring is full".into()),
            Err(SubmitError::Client(error)) => Err(error.into()),
        }
    }
}
