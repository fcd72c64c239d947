//! Descriptors: none leaks over 10,000 connections, and running out of them refuses a client and no more. In a test
//! binary of its own, where nothing else opens any.
#![cfg(feature = "server")]

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use forebay::ring::client::{Client, ConnectOptions};
    use forebay::ring::protocol::Completion;
    use forebay::ring::segment::Shape;
    use forebay::ring::server::{Access, Control, Listener, ListenerOptions, Mailbox, SessionRing};

    const OFFER: Shape = Shape {
        reactors: 1,
        sq_entries: 16,
        cq_entries: 16,
        arena_bytes: 1 << 20,
        shards: 1,
        key_bytes_max: 1_024,
        value_bytes_max: 4_096,
        lineage: forebay::types::Lineage::NONE,
    };

    /// A reactor that answers everything with `Ok`.
    fn reactor(mailbox: &Mailbox, stop: &AtomicBool) {
        let mut sessions: Vec<Box<SessionRing>> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            while let Some(control) = mailbox.receive() {
                match control {
                    Control::Open(ring) => sessions.push(ring),
                    Control::Close(id) => sessions.retain(|ring| ring.id() != id),
                }
            }
            for ring in &mut sessions {
                while let Ok(Some(submission)) = ring.peek() {
                    ring.advance();
                    ring.post(&Completion { user_data: submission.user_data, ..Completion::default() });
                }
                ring.finish_turn();
            }
            std::thread::yield_now();
        }
    }

    fn with_appliance(name: &str, work: impl FnOnce(&Path)) {
        let socket = std::env::temp_dir().join(format!("forebay-{}-{name}.sock", std::process::id()));
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let options = ListenerOptions {
            socket: socket.clone(),
            mode: 0o600,
            access: Access::default(),
            sessions_max: 1_000,
            offer: OFFER,
            arena_bytes_max: 1 << 30,
            orders: None,
        };
        let listener = Listener::start(options, vec![mailbox.clone()]).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // By a panic too: a scope waits for its threads before it lets one through.
            scopeguard::defer!(stop.store(true, Ordering::Relaxed));
            scope.spawn(|| reactor(&mailbox, &stop));
            work(&socket);
        });
        drop(listener);
    }

    fn count(directory: &str) -> usize {
        std::fs::read_dir(directory).unwrap().count()
    }

    fn settle(what: &str, settled: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !settled() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn ten_thousand_connections_leave_nothing_behind() {
        // Whoever started this may have left descriptors open: what comes on top counts.
        let open_max = count("/proc/self/fd") + 15;
        with_appliance("connects", |socket| {
            let connect = || Client::connect(socket, &ConnectOptions::default());
            connect().unwrap().sync().unwrap();
            settle("the first client stays", || count("/proc/self/fd") < open_max);
            let maps = || std::fs::read_to_string("/proc/self/maps").unwrap().matches("forebay-ring").count();
            for round in 0..10_000 {
                match connect() {
                    Ok(mut client) if round % 10 == 0 => client.sync().unwrap(),
                    Ok(_) => {}
                    Err(error) => panic!("connection {round}: {error}"),
                }
            }
            settle("descriptors leaked", || count("/proc/self/fd") < open_max);
            settle("mappings leaked", || maps() == 0);
        });
        without_descriptors();
    }

    /// Runs `a_process_without_descriptors` with few of them.
    fn without_descriptors() {
        let this = std::env::current_exe().unwrap();
        let script = "ulimit -n $((40 + $(ls /proc/self/fd | wc -l))) && exec \"$0\" --ignored --exact tests::a_process_without_descriptors";
        let output = Command::new("sh").arg("-c").arg(script).arg(this).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    #[test]
    #[ignore = "run by the other test, with few descriptors"]
    fn a_process_without_descriptors() {
        with_appliance("few", |socket| {
            // Both sides of every connection are in this process, so either may be the one that runs out. What a refused
            // connection held comes back a moment later, so one more may get in after a refusal.
            let mut clients = Vec::new();
            let mut refusals = 0;
            while refusals < 20 {
                match Client::connect(socket, &ConnectOptions::default()) {
                    Ok(client) => clients.push(client),
                    Err(_) => refusals += 1,
                }
                assert!(clients.len() < 100, "descriptors do not run out");
            }
            assert!(clients.len() > 2);
            clients.iter_mut().for_each(|client| client.sync().unwrap());
            clients.truncate(1);
            settle("nobody can connect any more", || Client::connect(socket, &ConnectOptions::default()).is_ok());
            clients[0].sync().unwrap();
        });
    }
}
