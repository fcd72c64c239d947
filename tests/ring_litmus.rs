//! The two fences of the wake-up protocol: of two sides that each write and then look, at least one sees the other.
//! Many rounds, each with its own delay, so that the two meet within a store's way out of the core. In a test binary of
//! its own, one test after the other, because both need two cores to themselves.
#![cfg(feature = "server")]

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering, fence};
    use std::time::{Duration, Instant};

    use forebay::ring::client::{Client, Request};
    use forebay::ring::protocol::{Completion, Opcode, Submission};
    use forebay::ring::segment::{Layout, Shape};
    use forebay::ring::server::{Rights, SessionId, pair_in_process};
    use forebay_sys::net::{PollFd, PollFlags, wait};
    use forebay_sys::spsc::{Consumer, Producer};

    const ROUNDS: u64 = 200_000;
    /// On a busy machine there are fewer rounds.
    const TIME_MAX: Duration = Duration::from_secs(4);
    const SHAPE: Shape = Shape {
        reactors: 1,
        sq_entries: 16,
        cq_entries: 16,
        arena_bytes: 4_096,
        shards: 1,
        key_bytes_max: 1_024,
        value_bytes_max: 4_096,
        lineage: forebay::types::Lineage::NONE,
    };
    const NOOP: Submission = Submission {
        opcode: Opcode::Noop as u8,
        user_data: 0,
        flags: 0,
        key_bytes: 0,
        object: 0,
        payload_offset: 0,
        value_bytes: 0,
        reply_bytes_max: 0,
        reply_offset: 0,
        arg0: 0,
        arg1: 0,
    };

    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    #[derive(Default)]
    #[repr(align(128))]
    struct Line(AtomicU64);

    /// Lets two threads begin a round at the same moment.
    #[derive(Default)]
    struct Meeting {
        arrived: [Line; 2],
        clutter: [Line; 12],
        last: AtomicU64,
    }

    impl Meeting {
        fn meet(&self, side: usize, round: u64) {
            self.arrived[side].0.store(round, Ordering::SeqCst);
            until(|| self.arrived[1 - side].0.load(Ordering::SeqCst) >= round);
        }

        /// Side 1 tells side 0 before they meet that this is the last round.
        fn is_last(&self, round: u64, since: Instant) -> bool {
            let last = round == ROUNDS || since.elapsed() > TIME_MAX;
            if last {
                self.last.store(round, Ordering::SeqCst);
            }
            last
        }

        /// Writes lines that the other side wrote last. What this side writes next waits behind them in its core, while
        /// what it reads next does not: a missing fence shows.
        fn clutter(&self, round: u64) {
            self.clutter.iter().for_each(|line| line.0.store(round, Ordering::Relaxed));
        }

        /// Up to some hundreds of nanoseconds, another in every round.
        fn dither(round: u64) {
            (0..round % 1_009).for_each(|_| std::hint::black_box(()));
        }
    }

    /// Waits for the other side, but not for one that failed.
    fn until(mut done: impl FnMut() -> bool) {
        let mut spins = 0u32;
        let mut since = None;
        while !done() {
            spins += 1;
            if spins > 10_000 {
                let since = since.get_or_insert_with(Instant::now);
                assert!(since.elapsed() < Duration::from_secs(10), "the other side is gone");
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }

    /// Two cores, one for each side, or none: then the test is skipped.
    fn cores() -> Option<[core_affinity::CoreId; 2]> {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        if cores.len() < 2 {
            println!("skipped: two cores are needed, and this process may use {}", cores.len());
        }
        Some([*cores.first()?, *cores.get(1)?])
    }

    #[test]
    fn a_flush_or_a_last_look_sees_the_other() {
        let _alone = ONE_AT_A_TIME.lock();
        let Some([here, there]) = cores() else { return };
        core_affinity::set_for_current(here);
        let (parts, mut rings) = pair_in_process(SessionId(1), Rights::ReadWrite, SHAPE).unwrap();
        let mut client = Client::from_parts(parts, Duration::ZERO).unwrap();
        let meeting = &Meeting::default();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                core_affinity::set_for_current(there);
                for round in 1.. {
                    meeting.meet(0, round * 2);
                    meeting.clutter(round);
                    client.submit(round, &Request::Noop { reactor: 0 }).unwrap();
                    client.flush();
                    meeting.meet(0, round * 2 + 1);
                    until(|| client.poll(&mut Vec::new()).unwrap().is_some());
                    if meeting.last.load(Ordering::SeqCst) == round {
                        break;
                    }
                }
            });
            let ring = &mut rings[0];
            let since = Instant::now();
            for round in 1.. {
                let last = meeting.is_last(round, since);
                meeting.clutter(round);
                meeting.meet(1, round * 2);
                Meeting::dither(round);
                ring.set_need_wakeup(true);
                fence(Ordering::SeqCst);
                let seen = ring.peek().unwrap().is_some();
                meeting.meet(1, round * 2 + 1);
                let rung = wait(&mut [PollFd::new(ring.doorbell(), PollFlags::IN)], Some(Duration::ZERO)).unwrap() > 0;
                assert!(seen || rung, "round {round}: the reactor sleeps over a request");
                ring.doorbell().drain();
                ring.set_need_wakeup(false);
                let submission = ring.peek().unwrap().unwrap();
                ring.advance();
                ring.post(&Completion { user_data: submission.user_data, ..Completion::default() });
                ring.finish_turn();
                if last {
                    break;
                }
            }
        });
    }

    #[test]
    fn a_finished_turn_or_a_last_look_sees_the_other() {
        let _alone = ONE_AT_A_TIME.lock();
        let Some([here, there]) = cores() else { return };
        core_affinity::set_for_current(here);
        let (parts, mut rings) = pair_in_process(SessionId(1), Rights::ReadWrite, SHAPE).unwrap();
        let layout = Layout::read_from(&parts.map).unwrap();
        let mut submissions = Producer::new(parts.map.clone(), layout.submissions(0)).unwrap();
        let mut completions = Consumer::new(parts.map.clone(), layout.completions(0)).unwrap();
        let need_wakeup = parts.map.atomic_u32(layout.client_need_wakeup(0)).unwrap();
        let meeting = &Meeting::default();
        let ring = &mut rings[0];
        std::thread::scope(|scope| {
            scope.spawn(move || {
                core_affinity::set_for_current(there);
                for round in 1.. {
                    meeting.meet(0, round * 3);
                    assert!(ring.peek().unwrap().is_some());
                    ring.advance();
                    meeting.meet(0, round * 3 + 1);
                    meeting.clutter(round);
                    ring.post(&Completion::default());
                    ring.finish_turn();
                    meeting.meet(0, round * 3 + 2);
                    if meeting.last.load(Ordering::SeqCst) == round {
                        break;
                    }
                }
            });
            let since = Instant::now();
            for (round, ticket) in (1..).zip(1u32..) {
                let last = meeting.is_last(round, since);
                assert!(submissions.push(&NOOP.to_words()).unwrap());
                meeting.meet(1, round * 3);
                meeting.clutter(round);
                meeting.meet(1, round * 3 + 1);
                Meeting::dither(round);
                need_wakeup.store(ticket, Ordering::Relaxed);
                fence(Ordering::SeqCst);
                let seen = completions.peek().unwrap().is_some();
                meeting.meet(1, round * 3 + 2);
                let woken = parts.connection.receive(&mut [0u8; 8]).is_ok();
                assert!(seen || woken, "round {round}: the client sleeps over an answer");
                need_wakeup.store(0, Ordering::Relaxed);
                completions.pop().unwrap().unwrap();
                completions.publish();
                if last {
                    break;
                }
            }
        });
    }
}
