//! Connections: who gets in, who does not and why, and that nobody can hold up the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay::ring::client::{Client, ClientError, ConnectOptions};
use forebay::ring::server::{Listener, Mailbox};
use forebay_sys::net::{PollFd, PollFlags, Socket, SocketListener, wait};

use crate::toy::{Appliance, options, socket_path};

const SECOND: Duration = Duration::from_secs(1);

/// What the daemon says to a message.
fn words_for(appliance: &Appliance, message: Option<&[u8]>) -> String {
    let connection = Socket::connect(&appliance.socket, SECOND).unwrap();
    if let Some(message) = message {
        connection.send(message, &[]).unwrap();
    }
    wait(&mut [PollFd::new(&connection, PollFlags::IN)], Some(5 * SECOND)).unwrap();
    let mut answer = [0u8; 512];
    assert_eq!(connection.receive(&mut answer).unwrap(), 512);
    assert_eq!(answer[12], 1, "refused");
    String::from_utf8_lossy(&answer[32..]).trim_end_matches('\0').to_owned()
}

#[test]
fn garbage_is_refused_with_a_reason() {
    let appliance = Appliance::start("garbage", 8, 100);
    assert!(words_for(&appliance, Some(b"GET / HTTP/1.1")).contains("is this a Forebay client?"));
    assert!(words_for(&appliance, Some(&[0; 64])).contains("FBRING01"));
    assert!(words_for(&appliance, Some(&[0; 4_096])).contains("64 B"));
    let mut hello = [0u8; 64];
    hello[..8].copy_from_slice(b"FBRING01");
    hello[8] = 2;
    assert!(words_for(&appliance, Some(&hello)).contains("version 2"));
    appliance.connect().sync().unwrap();
}

#[test]
fn a_silent_peer_is_let_go_and_holds_up_nobody() {
    let appliance = Appliance::start("silent", 8, 100);
    let silent: Vec<Socket> = (0..20).map(|_| Socket::connect(&appliance.socket, SECOND).unwrap()).collect();
    let start = Instant::now();
    appliance.connect().sync().unwrap();
    assert!(start.elapsed() < SECOND, "others had to wait");
    assert!(words_for(&appliance, None).contains("no hello came"));
    drop(silent);
}

#[test]
fn as_many_clients_as_allowed_and_no_more() {
    let appliance = Appliance::start("many", 3, 100);
    let mut clients: Vec<Client> = (0..3).map(|_| appliance.connect()).collect();
    let error = Client::connect(&appliance.socket, &ConnectOptions::default()).unwrap_err();
    assert!(error.to_string().contains("3 clients are connected"), "{error}");
    clients.pop();
    let deadline = Instant::now() + 5 * SECOND;
    while Client::connect(&appliance.socket, &ConnectOptions::default()).is_err() {
        assert!(Instant::now() < deadline, "the place of a client that left was not given back");
        std::thread::sleep(Duration::from_millis(5));
    }
    clients.iter_mut().for_each(|client| client.sync().unwrap());
}

#[test]
fn wishes_beyond_the_offer_are_refused() {
    let appliance = Appliance::start("wishes", 8, 100);
    let connect = |options| Client::connect(&appliance.socket, &options).map(|mut client| client.sync());
    let sizes = ConnectOptions { sq_entries: 64, cq_entries: 128, arena_bytes: 8 << 20, ..ConnectOptions::default() };
    connect(sizes).unwrap().unwrap();
    let refused = |options| connect(options).unwrap_err().to_string();
    assert!(refused(ConnectOptions { arena_bytes: 1 << 40, ..sizes }).contains("at most"));
    assert!(refused(ConnectOptions { sq_entries: 100, ..sizes }).contains("power of two"));
}

#[test]
fn a_client_that_talks_out_of_turn_is_ended() {
    let appliance = Appliance::start("talks", 8, 100);
    let connection = Socket::connect(&appliance.socket, SECOND).unwrap();
    let mut hello = [0u8; 64];
    hello[..8].copy_from_slice(b"FBRING01");
    hello[8] = 1;
    connection.send(&hello, &[]).unwrap();
    let mut answer = [0u8; 512];
    wait(&mut [PollFd::new(&connection, PollFlags::IN)], Some(5 * SECOND)).unwrap();
    let message = connection.receive_with_descriptors(&mut answer, 8).unwrap();
    assert_eq!((message.bytes, message.descriptors.len(), answer[12]), (512, 2, 0));
    connection.send(b"more", &[]).unwrap();
    wait(&mut [PollFd::new(&connection, PollFlags::IN)], Some(5 * SECOND)).unwrap();
    assert_eq!(connection.receive(&mut answer).unwrap(), 512);
    assert!(String::from_utf8_lossy(&answer).contains("nothing after its hello"));
}

#[test]
fn sockets_are_taken_over_only_from_the_dead() {
    let appliance = Appliance::start("alive", 8, 100);
    let start = |socket: &std::path::Path| {
        Listener::start(options(socket, 1), vec![Arc::new(Mailbox::new().unwrap())]).map_err(|error| error.to_string())
    };
    assert!(start(&appliance.socket).unwrap_err().contains("another daemon listens"));
    appliance.connect().sync().unwrap();

    let stale = socket_path("stale");
    let listener = SocketListener::bind(&stale, 0o600, 1).unwrap();
    let kept = socket_path("stale-kept");
    std::fs::hard_link(&stale, &kept).unwrap();
    drop(listener);
    std::fs::rename(&kept, &stale).unwrap();
    drop(start(&stale).unwrap());
    assert!(!stale.exists(), "a listener takes its socket along");

    let file = socket_path("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(start(&file).unwrap_err().contains("is not a socket"));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    std::fs::remove_file(&file).unwrap();
    assert!(start(std::path::Path::new("/nonexistent/x.sock")).unwrap_err().contains("choose a socket"));
    assert!(start(std::path::Path::new(&"/tmp/x".repeat(40))).unwrap_err().contains("107 bytes"));
}

#[test]
fn nobody_there_is_said_so() {
    let error = Client::connect(&socket_path("nobody"), &ConnectOptions::default()).unwrap_err();
    assert!(matches!(error, ClientError::NoDaemon { .. }));
    assert!(error.to_string().contains("forebay serve"));
    // A listener that never answers.
    let socket = socket_path("mute");
    let _listener = SocketListener::bind(&socket, 0o600, 4).unwrap();
    let impatient = ConnectOptions { timeout: Duration::from_millis(50), ..ConnectOptions::default() };
    let error = Client::connect(&socket, &impatient).unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
}
