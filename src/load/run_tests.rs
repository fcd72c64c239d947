use super::*;
use crate::load::fake::{Fake, Faults};
use crate::load::operation::Kind;
use std::time::{Duration, Instant};

fn run_on(fake: &Fake, text: &str) -> Report {
    run(text, "t.fio", &LoadOptions::default(), |options| fake.connect(options)).unwrap()
}

const PUT: &str = "[put]\nrw=randwrite\nspace=s\nkeys=500\nvalue_size=100\niodepth=8\nverify=crc32c\n";
const APPEND: &str = "[append]\nrw=write\nstream=t\nbs=128\nsize=64000\niodepth=8\nverify=crc32c\n";

#[test]
fn puts_then_gets_are_counted_and_verified() {
    let fake = Fake::default();
    let text =
        format!("{PUT}[get]\nstonewall\nrw=randread\nspace=s\nkeys=500\nnumber_ios=700\niodepth=4\nverify=crc32c\n");
    let report = run_on(&fake, &text);
    assert!(!report.failed(), "{report}");
    let [put, get] = report.jobs.as_slice() else { panic!("two jobs") };
    assert_eq!((put.stats.write.operations, put.stats.write.bytes, put.stats.read.operations), (500, 50_000, 0));
    assert_eq!((get.stats.read.operations, get.stats.read.bytes, get.filled), (700, 70_000, 0));
    assert_eq!(put.stats.write.lat.count(), 500);
    assert_eq!(put.durability, Some(crate::types::Durability::Strict));
    assert_eq!(report.verdicts.len(), 1);
    assert_eq!((report.verdicts[0].checked, report.verdicts[0].wrong), (500, 0));
}

#[test]
fn keys_with_a_time_to_live_may_be_gone_when_they_are_read() {
    let fake = Fake::default();
    // The fake lets such keys go at once.
    let text = "[a]\nrw=randrw\nspace=s\nkeys=50\nvalue_size=100\nnumber_ios=400\nttl=1s\n";
    let report = run_on(&fake, text);
    assert!(!report.failed(), "{report}");
    let (read, write) = (&report.jobs[0].stats.read, &report.jobs[0].stats.write);
    assert_eq!(read.operations + write.operations, 400);
    assert!(write.operations > 50 && read.bytes < 100 * read.operations, "{report}");
}

#[test]
fn compressed_spaces_are_driven_verified_and_reported() {
    for codec in ["lz4", "zstd"] {
        let fake = Fake::default();
        let text = format!(
            "[global]\ncompression={codec}\nbuffer_compress_percentage=70\nspace=s\nkeys=200\nvalue_size=2k\n\
             verify=crc32c\n[put]\nrw=randwrite\niodepth=8\n[scan]\nstonewall\nrw=randread\nscan_length=5\n\
             number_ios=50\n[get]\nstonewall\nrw=randread\nnumber_ios=300\niodepth=4\n"
        );
        let report = run_on(&fake, &text);
        assert!(!report.failed(), "{report}");
        let found = report.jobs[0].stats.compression;
        assert_eq!((found.values, found.plain_bytes, found.compressed), (200, 200 * 2_048, 200));
        assert!((2.0..4.0).contains(&found.ratio()), "{found:?}");
        assert_eq!(report.jobs[2].stats.read.bytes, 300 * 2_048, "plain bytes count");
        let text = report.to_string();
        assert!(text.contains("compression  : 400.0KiB stored as") || text.contains("compression  : 400KiB"), "{text}");
        let json = report.to_json(false);
        assert_eq!(json["jobs"][0]["forebay"]["compression"]["codec"], codec);
        assert_eq!(json["jobs"][0]["forebay"]["compression"]["plain_bytes"], 200 * 2_048);

        // Noise stays plain and is tried rarely; another codec is refused.
        let noise = format!("[put]\nrw=randwrite\nspace=n\nkeys=200\nvalue_size=2k\ncompression={codec}\n");
        let found = run_on(&fake, &noise).jobs[0].stats.compression;
        assert_eq!((found.compressed, found.stored_bytes), (0, 200 * 2_049));
        assert!(found.tried < 25, "{found:?}");
        let report = run_on(&fake, &noise.replace(codec, "none"));
        assert!(report.cause().is_some_and(|cause| cause.contains("compression=")), "{report}");
    }
    let damaged = Fake::with(Faults { damage_write: Some(100), ..Faults::default() });
    let report = run_on(&damaged, &PUT.replace("verify", "compression=lz4\nbuffer_compress_percentage=80\nverify"));
    assert!(report.failed(), "{report}");
}

#[test]
fn events_are_appended_verified_and_read_in_order() {
    let report = run_on(
        &Fake::default(),
        &format!("{APPEND}[read]\nstonewall\nrw=read\nstream=t\nbs=128\niodepth=4\nruntime=9\n"),
    );
    assert!(!report.failed(), "{report}");
    assert_eq!(report.jobs[0].stats.write.operations, 500);
    assert_eq!(report.verdicts[0].checked, 500);
    assert_eq!((report.jobs[1].stats.read.operations, report.jobs[1].filled), (500, 0), "the whole stream, once");
}

#[test]
fn what_a_reader_would_miss_is_written_first() {
    let fake = Fake::default();
    let text = "[get]\nrw=randread\nkeys=300\nvalue_size=64\niodepth=4\nverify=crc32c\n";
    let report = run_on(&fake, text);
    assert!(!report.failed(), "{report}");
    assert_eq!((report.jobs[0].filled, fake.writes(), fake.syncs()), (300, 300, 1));
    assert_eq!(report.jobs[0].stats.read.operations, 300);
    assert_eq!(run_on(&fake, text).jobs[0].filled, 0, "they are there now");
    let report = run_on(&fake, "[r]\nrw=read\nstream=e\nsize=6400\nbs=64\n");
    assert_eq!((report.jobs[0].filled, report.jobs[0].stats.read.operations), (100, 100), "{report}");
    let report = run_on(&fake, "[r]\nrw=read\nstream=empty\nruntime=1\n");
    assert!(report.failed() && report.to_string().contains("there is nothing to read; give size="), "{report}");
}

#[test]
fn a_reader_finds_values_larger_than_its_own_size() {
    let fake = Fake::default();
    run_on(&fake, "[w]\nrw=randwrite\nspace=s\nkeys=50\nbs=9000\n");
    let report = run_on(&fake, "[r]\nrw=randread\nspace=s\nkeys=50\nbs=100\n");
    assert!(!report.failed(), "{report}");
    assert_eq!(report.jobs[0].stats.read.bytes, 50 * 9_000);
}

#[test]
fn a_lost_or_damaged_write_is_found() {
    for (text, faults, part) in [
        (PUT, Faults { lose_write: Some(77), ..Faults::default() }, "is gone"),
        (PUT, Faults { damage_write: Some(77), ..Faults::default() }, "differs from what was written"),
        (APPEND, Faults { lose_write: Some(77), ..Faults::default() }, "holds event 77, not 76"),
        (APPEND, Faults { damage_write: Some(77), ..Faults::default() }, "holds event 77, not 76"),
        (
            APPEND,
            Faults { lose_write: Some(500), ..Faults::default() },
            "events 499 to 499 were acknowledged and are gone",
        ),
    ] {
        let report = run_on(&Fake::with(faults), text);
        assert_eq!(report.verdicts[0].wrong, 1, "{report}");
        assert_eq!(report.jobs[0].failure.as_ref().unwrap().code, Failure::WRONG_DATA);
        assert!(report.failed() && report.to_string().contains(part), "{part:?} is missing in {report}");
    }
}

#[test]
fn an_overwrite_that_was_lost_leaves_a_stale_value_and_is_found() {
    // The second pass over ten keys loses one write: the first pass's value still stands there.
    let text = "[w]\nrw=write\nspace=s\nkeys=10\nnumber_ios=20\nbs=64\nverify=crc32c\n";
    let report = run_on(&Fake::with(Faults { lose_write: Some(15), ..Faults::default() }), text);
    assert_eq!(report.verdicts[0].wrong, 1);
    assert!(report.to_string().contains("key 4: has version 5, but 15 was acknowledged"), "{report}");
}

#[test]
fn reading_back_after_a_restart_asks_only_for_what_was_promised() {
    for (durability, wrong) in [("memory", 0), ("buffered", 1)] {
        let fake = Fake::default();
        let mut report = run_on(&fake, &format!("{APPEND}durability={durability}\n"));
        fake.lose_tail(3);
        let mut client = fake.connect(&connect_options(DEPTH, [WALK_BYTES].into_iter())).unwrap();
        report.verify_after_restart(&mut client).unwrap();
        let verdict = report.verdicts.last().unwrap();
        assert!(verdict.restarted);
        assert_eq!((verdict.checked, verdict.wrong), (500, wrong), "{durability}: {report}");
    }
}

#[test]
fn clones_are_reported_alone_or_together() {
    let text = "[w]\nrw=randwrite\nkeys=100\nbs=64\nnumjobs=3\nverify=crc32c\n";
    let report = run_on(&Fake::default(), text);
    assert_eq!(report.jobs.iter().map(|job| job.stats.write.operations).collect::<Vec<_>>(), [100, 100, 100]);
    let report = run_on(&Fake::default(), &format!("{text}group_reporting\n"));
    assert!(!report.failed(), "{report}");
    assert_eq!((report.jobs.len(), report.jobs[0].threads), (1, 3));
    assert_eq!((report.jobs[0].stats.write.operations, report.verdicts[0].checked), (300, 100));
}

#[test]
fn a_mix_reads_and_writes_and_syncs() {
    let fake = Fake::default();
    let report = run_on(&fake, "[m]\nrw=randrw\nrwmixread=30\nkeys=1000\nbs=64\niodepth=4\nfsync=10\nverify=crc32c\n");
    assert!(!report.failed(), "{report}");
    let stats = &report.jobs[0].stats;
    assert_eq!(stats.read.operations + stats.write.operations, 1_000);
    assert!((200..400).contains(&stats.read.operations), "{}", stats.read.operations);
    assert_eq!(stats.sync.count(), stats.write.operations / 10);
}

#[test]
fn a_full_device_and_a_dead_daemon_end_a_job_with_the_cause() {
    let report = run_on(&Fake::with(Faults { full_after: Some(100), ..Faults::default() }), PUT);
    let failure = report.jobs[0].failure.as_ref().unwrap();
    assert_eq!(failure.code, Failure::NO_SPACE);
    assert!(failure.text.contains("the namespace is full"), "{failure}");
    assert_eq!(report.jobs[0].stats.write.operations, 100);
    assert_eq!((report.verdicts[0].checked, report.verdicts[0].wrong), (100, 0), "what was acknowledged is there");

    for options in ["", "rate_iops=100000\n", "runtime=60\ntime_based\nthinktime=10\n"] {
        let begin = Instant::now();
        let report = run_on(&Fake::with(Faults { die_at: Some(100), ..Faults::default() }), &format!("{PUT}{options}"));
        let failure = report.jobs[0].failure.as_ref().unwrap();
        assert_eq!(failure.code, Failure::DISCONNECTED, "{failure}");
        assert!(begin.elapsed() < Duration::from_secs(30), "{options}: it did not wait for the end of its time");
    }
}

#[test]
fn a_daemon_that_cannot_be_reached_fails_every_job() {
    let refuse = |_: &ConnectOptions| Err(ClientError::Refused("not today".into()));
    let report = run(PUT, "t.fio", &LoadOptions::default(), refuse).unwrap();
    assert!(report.failed() && report.to_string().contains("not today"), "{report}");
}

#[test]
fn with_a_rate_a_stall_is_paid_by_all_that_should_have_started_meanwhile() {
    let faults = Faults { stall_at: Some((200, Duration::from_millis(200))), ..Faults::default() };
    let late = |options: &str| {
        let text = format!("[w]\nrw=randwrite\nkeys=1000\nbs=64\n{options}");
        let report = run_on(&Fake::with(faults), &text);
        assert!(!report.failed(), "{report}");
        let lat = &report.jobs[0].stats.write.lat;
        assert_eq!(lat.count(), 1_000);
        lat.values().filter(|(ns, _)| *ns > 50_000_000).map(|(_, count)| count).sum::<u64>()
    };
    // 2,000 a second: 400 starts fall into the stall, 300 of them more than 50 ms before its end.
    assert!(late("rate_iops=2000\n") >= 250);
    assert!(late("") < 250, "closed loop: only those in flight notice");
}

#[test]
fn time_ends_a_job_and_the_ramp_is_not_counted() {
    let report = run_on(
        &Fake::default(),
        "[w]\nrw=randwrite\nkeys=10\nbs=64\nruntime=300ms\ntime_based\nramp_time=300ms\nrate_iops=100\n",
    );
    let count = report.jobs[0].stats.write.operations;
    assert!((1..=31).contains(&count), "{count} of 60 fall behind the ramp");
}

#[test]
fn limits_of_the_daemon_are_told_before_the_job() {
    let report = run_on(&Fake::default(), "[w]\nrw=randwrite\nkeys=10\nbs=2m\n");
    assert!(report.to_string().contains("over the daemon's limits"), "{report}");
    let fake = Fake::default();
    run_on(&fake, "[w]\nrw=write\nstream=x\nsize=4k\n");
    assert!(run_on(&fake, "[w]\nrw=randwrite\nspace=x\nkeys=1\n").to_string().contains("other kind"));
}

#[test]
fn a_read_modify_write_reads_then_writes_its_key() {
    let fake = Fake::default();
    let text = "[f]\nrw=randrw\nrwmixread=50\nmodify_percent=100\nkeys=200\nnumber_ios=1000\nbs=64\niodepth=4\n\
                verify=crc32c\nrandom_distribution=zipf:0.99\n";
    let report = run_on(&fake, text);
    assert!(!report.failed(), "{report}");
    let stats = &report.jobs[0].stats;
    let count = |kind| stats.timelines.get(kind).map_or(0, |timeline| timeline.total().operations());
    let modified = count(Kind::Modify);
    assert!((400..600).contains(&modified), "{modified}");
    assert_eq!((count(Kind::Read), count(Kind::Write)), (1_000, modified), "every operation reads");
    assert_eq!((stats.read.operations, stats.write.operations), (1_000, modified));
    assert_eq!(fake.writes(), 200 + modified, "after the keys that were missing");
    let timeline = |kind| stats.timelines.get(kind).unwrap().total();
    let (whole, write) = (timeline(Kind::Modify), timeline(Kind::Write));
    assert!(whole.percentile(50.0) > write.percentile(50.0), "the whole is longer than its write");
}

#[test]
fn scans_ask_every_shard_and_new_keys_come_behind_the_others() {
    let fake = Fake::default();
    let text = "[e]\nrw=randrw\nrwmixread=90\ninsert_percent=100\nscan_length=3-20\nkeys=300\nnumber_ios=1000\n\
                bs=64\niodepth=4\nnumjobs=2\ngroup_reporting\nrandom_distribution=latest\n";
    let report = run_on(&fake, text);
    assert!(!report.failed(), "{report}");
    let stats = &report.jobs[0].stats;
    let count = |kind| stats.timelines.get(kind).map_or(0, |timeline| timeline.total().operations());
    let (scans, inserts) = (count(Kind::Scan), count(Kind::Insert));
    assert_eq!((scans + inserts, count(Kind::Read), count(Kind::Write)), (2_000, 0, 0));
    assert!((150..250).contains(&inserts), "{inserts}");
    assert_eq!((stats.read.operations, fake.writes()), (scans, 300 + inserts));
    assert!(stats.read.bytes > scans * 64 * 3, "some pairs came: {} B", stats.read.bytes);
    let report =
        run_on(&fake, "[all]\nrw=read\nspace=e\nkeys=300\nscan_length=100\nbs=64\nnumber_ios=3\nverify=crc32c\n");
    assert!(!report.failed(), "{report}");
    // Three scans from keys 0, 100 and 200 of 100 pairs of each of four shards: all that there are.
    assert!(report.jobs[0].stats.read.bytes >= 300 * 64, "{}", report.jobs[0].stats.read.bytes);
}

#[test]
fn a_scan_of_what_is_damaged_is_found() {
    let fake = Fake::with(Faults { damage_write: Some(77), ..Faults::default() });
    run_on(&fake, "[w]\nrw=write\nspace=s\nkeys=200\nbs=64\n");
    let text = "[r]\nrw=read\nspace=s\nkeys=200\nscan_length=50\nbs=64\niodepth=2\nnumber_ios=4\nverify=crc32c\n";
    let report = run_on(&fake, text);
    assert!(report.to_string().contains("differs from what was written"), "{report}");
}

#[test]
fn a_failure_ends_operations_of_several_requests() {
    for (options, part) in [("modify_percent=100", "put of key"), ("insert_percent=100\nscan_length=50", "put of key")]
    {
        let fake = Fake::with(Faults { full_after: Some(150), ..Faults::default() });
        let text = format!("[m]\nrw=randrw\nkeys=100\nnumber_ios=9000\nbs=64\niodepth=8\n{options}\n");
        let report = run_on(&fake, &text);
        let failure = report.jobs[0].failure.as_ref().unwrap();
        assert_eq!(failure.code, Failure::NO_SPACE);
        assert!(failure.text.contains(part), "{failure}");
    }
}

const TRANSFERS: &str = "[t]\nrw=randrw\nspace=s\ntables=branches/3:accounts/40\nvalue_size=100\nnumber_ios=500\n\
                         iodepth=8\nnumjobs=2\ngroup_reporting\nverify=crc32c\n\
                         transaction=transfer/60: read branches, modify accounts*2\n\
                         transaction=close/30: modify branches*3, read accounts*5\n\
                         transaction=look/10: read accounts*3\n";

#[test]
fn transactions_read_then_commit_and_try_again_after_a_conflict() {
    let fake = Fake::default();
    let report = run_on(&fake, TRANSFERS);
    assert!(!report.failed(), "{report}");
    let stats = &report.jobs[0].stats;
    let [transfer, close, look] = stats.transactions.as_slice() else { panic!("three profiles") };
    let committed = [transfer, close, look].map(|profile| profile.committed());
    assert_eq!(committed.iter().sum::<u64>(), 1_000);
    for (found, expected) in committed.into_iter().zip([600, 300, 100]) {
        assert!(found.abs_diff(expected) < 80, "{committed:?}");
    }
    let conflicts: u64 = stats.transactions.iter().map(|profile| profile.conflicts).sum();
    assert!(conflicts > 100, "sixteen at a time on three branches: {report}");
    // Every try reads; only the last one of each writes.
    assert_eq!((stats.read.operations, stats.write.operations), (1_000 + conflicts, 1_000));
    let rows = 2 * committed[0] + 3 * committed[1];
    assert_eq!((fake.writes(), stats.write.bytes), (43 + rows, rows * 100), "after the keys that were missing");
    let count = |kind| stats.timelines.get(kind).map_or(0, |timeline| timeline.total().operations());
    assert_eq!([Kind::Read, Kind::Write, Kind::Transaction].map(count), [1_000 + conflicts, 1_000, 1_000]);
    assert!(stats.transactions[0].latency.percentile(50.0) > stats.write.lat.percentile(50.0));
    assert_eq!((report.verdicts[0].checked, report.verdicts[0].wrong), (43, 0), "{report}");
    let text = report.to_string();
    assert!(text.contains("transaction: 1000 of them") && text.contains("    transfer: "), "{text}");
    let json = &report.to_json(false)["jobs"][0]["forebay"]["transactions"];
    assert_eq!((json[1]["name"].as_str(), json[1]["committed"].as_u64()), (Some("close"), Some(committed[1])));
    assert_eq!((json[2]["lat_ns"]["N"].as_u64(), json[2]["given_up"].as_u64()), (Some(committed[2]), Some(0)));
}

#[test]
fn a_lost_update_and_a_torn_commit_are_found() {
    let report = run_on(&Fake::with(Faults { blind_commits: true, ..Faults::default() }), TRANSFERS);
    assert!(report.verdicts[0].wrong > 0, "{report}");
    assert!(report.to_string().contains("an update is lost"), "{report}");
    // One of the two rows of a transfer, the last that is written to it.
    let torn = "[t]\nrw=rw\nspace=s\ntables=a/10\nvalue_size=64\nnumber_ios=5\nverify=crc32c\n\
                transaction=t: modify a*2\n";
    let report = run_on(&Fake::with(Faults { lose_write: Some(10 + 4), ..Faults::default() }), torn);
    assert_eq!(report.verdicts[0].wrong, 1, "{report}");
    assert!(report.to_string().contains("but 12 was acknowledged"), "{report}");
}

#[test]
fn a_transaction_that_only_writes_reads_nothing_and_one_that_meets_no_end_of_conflicts_is_given_up() {
    let text = "[t]\nrw=randrw\nspace=s\ntables=a/50\nvalue_size=64\nnumber_ios=20\niodepth=4\nverify=crc32c\n\
                transaction=t: write a*3\n";
    let report = run_on(&Fake::default(), text);
    assert!(!report.failed(), "{report}");
    let stats = &report.jobs[0].stats;
    assert_eq!((stats.read.operations, stats.write.operations, stats.write.bytes), (0, 20, 20 * 3 * 64));
    let report = run_on(&Fake::with(Faults { locked: true, ..Faults::default() }), &text.replace("=20", "=2"));
    let given_up = &report.jobs[0].stats.transactions[0];
    assert_eq!((given_up.committed(), given_up.conflicts, given_up.given_up), (0, 2_000, 2), "{report}");
}

#[test]
fn a_failure_ends_transactions_in_any_state() {
    for (faults, code) in [
        (Faults { full_after: Some(200), ..Faults::default() }, Failure::NO_SPACE),
        (Faults { die_at: Some(200), ..Faults::default() }, Failure::DISCONNECTED),
        (Faults { damage_write: Some(20), ..Faults::default() }, Failure::WRONG_DATA),
    ] {
        let report = run_on(&Fake::with(faults), TRANSFERS);
        let failure = report.jobs[0].failure.as_ref().unwrap();
        assert_eq!(failure.code, code, "{failure}");
    }
    let large = TRANSFERS.replace("value_size=100", "value_size=400k");
    assert!(run_on(&Fake::default(), &large).to_string().contains("over the daemon's limit"));
    let fake = Fake::default();
    run_on(&fake, "[w]\nrw=randwrite\nspace=s\nkeys=9\ncompression=lz4\n");
    assert!(run_on(&fake, TRANSFERS).to_string().contains("load commits plain values"));
}

#[test]
fn a_rate_bounds_transactions_and_their_ramp_is_not_counted() {
    let text = TRANSFERS.replace("number_ios=500", "runtime=300ms\ntime_based\nramp_time=300ms\nrate_iops=200");
    let report = run_on(&Fake::default(), &text);
    assert!(!report.failed(), "{report}");
    let committed: u64 = report.jobs[0].stats.transactions.iter().map(|profile| profile.committed()).sum();
    assert!((1..=122).contains(&committed), "{committed} of 240 fall behind the ramp");
}
