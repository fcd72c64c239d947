//! Both sides asleep and awake: no wake-up is ever lost, and an end is always noticed.

use std::time::Duration;

use forebay::ring::client::{Client, ClientError, ConnectOptions, Request, SubmitError};
use forebay::ring::protocol::EndReason;

use crate::toy::{Appliance, SHAPE, Store, pair, turn};

#[test]
fn two_sleepers_wake_each_other() {
    // Neither spins, so that nearly every step begins asleep; sleeps of the reactor's own accord take 20 s.
    let appliance = Appliance::start("sleepers", 8, 0);
    let options = ConnectOptions { spin: Duration::ZERO, ..ConnectOptions::default() };
    let (done, finished) = std::sync::mpsc::channel();
    for _ in 0..3 {
        let mut client = Client::connect(&appliance.socket, &options).unwrap();
        let done = done.clone();
        std::thread::spawn(move || {
            let mut reply = Vec::new();
            for round in 0..1_500u64 {
                for number in 0..=round % 3 {
                    client.submit(number, &Request::Noop { reactor: 0 }).unwrap();
                }
                for _ in 0..=round % 3 {
                    client.wait(&mut reply).unwrap();
                }
            }
            done.send(()).unwrap();
        });
    }
    for _ in 0..3 {
        finished.recv_timeout(Duration::from_secs(19)).expect("no wake-up is lost");
    }
}

#[test]
fn a_daemon_that_dies_wakes_its_clients() {
    let (mut client, rings) = pair(SHAPE);
    client.submit(0, &Request::Noop { reactor: 0 }).unwrap();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        drop(rings);
    });
    let error = client.wait(&mut Vec::new()).unwrap_err();
    assert!(matches!(error, ClientError::Disconnected), "{error}");
    killer.join().unwrap();
    let again = client.submit(0, &Request::Noop { reactor: 0 });
    assert!(matches!(again, Err(SubmitError::Client(ClientError::Disconnected))));
}

#[test]
fn polling_alone_notices_the_end_too() {
    let (mut client, rings) = pair(SHAPE);
    client.submit(0, &Request::Noop { reactor: 0 }).unwrap();
    drop(rings);
    let error = (0..100_000).find_map(|_| client.poll(&mut Vec::new()).err()).unwrap();
    assert!(matches!(error, ClientError::Disconnected), "{error}");
}

#[test]
fn answers_before_the_end_are_still_handed_out() {
    let (mut client, mut rings) = pair(SHAPE);
    for number in 0..3 {
        client.submit(number, &Request::Noop { reactor: 0 }).unwrap();
    }
    turn(&mut rings[0], &mut Store::default(), 2);
    rings[0].end(EndReason::Stopping);
    let mut reply = Vec::new();
    assert_eq!(client.wait(&mut reply).unwrap().user_data, 0);
    assert_eq!(client.wait(&mut reply).unwrap().user_data, 1);
    let error = client.wait(&mut reply).unwrap_err();
    assert!(matches!(error, ClientError::Ended(EndReason::Stopping)), "{error}");
}

#[test]
fn a_stopping_appliance_tells_its_clients() {
    let mut appliance = Appliance::start("stopping", 8, 100);
    let mut client = appliance.connect();
    client.sync().unwrap();
    appliance.stop();
    let error = client.sync().unwrap_err();
    assert!(matches!(error, ClientError::Ended(EndReason::Stopping)), "{error}");
    assert!(error.to_string().contains("connect again"));
}
