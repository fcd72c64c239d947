use super::*;
use crate::load::job::{Job, Order, Sizes, Target};
use crate::types::{Durability, ObjectKind};
use std::time::Duration;

fn one(text: &str) -> Job {
    let file = parse(text, "t.fio").unwrap();
    assert_eq!(file.warnings, Vec::<String>::new());
    file.jobs.into_iter().next().unwrap()
}

fn errors(text: &str) -> String {
    parse(text, "t.fio").unwrap_err().to_string()
}

#[test]
fn a_full_job_is_read() {
    let job = one("# a comment\n[global]\niodepth=16 ; another\nbs=4k\n\n[put]\nrw=randrw\nspace=orders\nkeys=10k\n\
                   rwmixread=70\nruntime=5\ntime_based\nramp_time=500ms\nrate_iops=1000\nthinktime=20\nfsync=8\n\
                   verify=crc32c\ndurability=strict\nkey_size=20\ngroup_reporting=1\nnumjobs=2\n\
                   random_distribution=zipf:1.1\npercentile_list=50:99:99.9\n");
    assert_eq!(job.name, "put");
    assert_eq!(job.target, Target { kind: ObjectKind::Space, name: "orders".into() });
    assert_eq!((job.order, job.read_percent, job.keys, job.key_bytes), (Order::Zipf(1.1), 70, 10_240, 20));
    assert_eq!(job.sizes, Sizes(vec![(4_096, 100)]));
    assert_eq!((job.iodepth, job.numjobs, job.rate_iops, job.sync_every), (16, 2, Some(1_000), Some(8)));
    assert_eq!((job.runtime, job.ramp_time), (Some(Duration::from_secs(5)), Duration::from_millis(500)));
    assert_eq!(job.thinktime, Duration::from_micros(20));
    assert_eq!(job.durability, Some(Durability::Strict));
    assert!(job.time_based && job.verify && job.group_reporting);
    assert_eq!(job.percentiles, [50.0, 99.0, 99.9]);
    assert_eq!(job.operations_max, None);
}

#[test]
fn compression_belongs_to_spaces_and_its_data_to_all_of_a_space() {
    let job = one("[p]\nrw=randwrite\nspace=s\ncompression=zstd\nbuffer_compress_percentage=60\n");
    assert_eq!((job.compression, job.compress_percent), (Some(crate::types::Compression::Zstd), 60));
    assert!(errors("[p]\nrw=write\nstream=s\nsize=1k\ncompression=lz4\n").contains("only the values of a space"));
    assert!(errors("[p]\nrw=randwrite\ncompression=gzip\n").contains("use none, lz4, zstd or delta"));
    assert!(errors("[p]\nrw=randwrite\ncompression=delta\n").contains("use none, lz4 or zstd"));
    let both = "[a]\nrw=randwrite\nspace=s\nbuffer_compress_percentage=60\n[b]\nrw=randread\nspace=s\n";
    assert!(errors(both).contains("another buffer_compress_percentage"), "{}", errors(both));
}

#[test]
fn pages_have_numbers_and_one_size() {
    let job = one("[p]\nrw=randwrite\npages=heap\nkeys=50\n");
    assert_eq!(job.target, Target { kind: ObjectKind::Pages, name: "heap".into() });
    assert_eq!((job.sizes, job.keys, job.operations_max), (Sizes(vec![(16 << 10, 100)]), 50, Some(50)));
    assert_eq!(one("[p]\nrw=read\npages=heap\nkeys=9\n").sizes, Sizes(vec![(128 << 10, 100)]));
    assert_eq!(one("[p]\nrw=read\npages=heap\nsize=1m\nbs=64k\n").keys, 16);
    assert!(errors("[p]\nrw=write\npages=p\nbs=5k\nkeys=1\n").contains("a power of two"));
    assert!(errors("[p]\nrw=write\npages=p\nbssplit=4k/50:8k/50\nkeys=1\n").contains("all have one size"));
    assert!(errors("[p]\nrw=write\npages=p\nspace=s\nkeys=1\n").contains("keep one"));
    assert!(errors("[p]\nrw=write\npages=p\nkeys=1\ncompression=lz4\n").contains("compression= needs a space="));
}

#[test]
fn a_mix_as_ycsb_has_it_is_read() {
    let job = one("[e]\nrw=randrw\nrwmixread=95\nkeys=1k\ninsert_percent=100\nscan_length=1-100\n\
                   random_distribution=latest\nruntime=1");
    assert_eq!(
        (job.order, job.read_percent, job.insert_percent, job.modify_percent),
        (Order::Latest(0.99), 95, 100, 0)
    );
    assert_eq!(job.scan_length, Some((1, 100)));
    let job = one("[f]\nrw=randwrite\nkeys=1k\nmodify_percent=100");
    assert!(job.reads() && job.writes(), "what is modified has to be there");
    assert_eq!(one("[c]\nrw=randread\nkeys=1k\nmodify_percent=100").modify_percent, 0, "a share of no writes");
}

#[test]
fn transactions_and_their_tables_are_read() {
    let job = one("[t]\nrw=randrw\nspace=s\ntables=a/10:b/1k\nvalue_size=100\nruntime=1\niodepth=4\n\
                   transaction=move/70: read a, modify b*2\ntransaction=look/30: read b*3\n");
    assert_eq!((job.keys, job.tables.len(), job.transactions.len()), (1_034, 2, 2));
    assert_eq!((job.transactions[0].name.as_str(), job.transactions[1].percent), ("move", 30));
    assert!(job.reads() && job.writes());
    let all = ("transaction".to_owned(), "move/70: read a, modify b*2; look/30: read b*3".to_owned());
    assert!(job.options.contains(&all), "{:?}", job.options);
    // Headers of 12 B, keys of 16 B, versions of 8 B.
    assert_eq!((job.rows_read_max(), job.commit_bytes_max()), (3, 3 * 36 + 2 * 128));
}

#[test]
fn defaults_are_those_of_fio() {
    let job = one("[events]\nrw=write\nsize=1m");
    assert_eq!(job.target, Target { kind: ObjectKind::Stream, name: "events".into() });
    assert_eq!((job.order, job.read_percent, job.iodepth, job.numjobs), (Order::Sequential, 0, 1, 1));
    assert_eq!(job.operations_max, Some(256));
    let job = one("[kv]\nrw=randread\nsize=1m");
    assert_eq!(job.target, Target { kind: ObjectKind::Space, name: "kv".into() });
    assert_eq!((job.order, job.keys, job.operations_max), (Order::Shuffled, 256, Some(256)));
    let job = one("[kv]\nrw=randwrite\nkeys=50\nvalue_size=100");
    assert_eq!(job.operations_max, Some(50), "without a size or a time, every key once");
    assert_eq!(one("[kv]\nrw=read\nspace=s\nkeys=9").order, Order::Sequential);
}

#[test]
fn groups_begin_at_stonewalls_and_global_reaches_later_jobs_only() {
    let file = parse(
        "[global]\nrw=randwrite\nsize=1m\n[a]\n[b]\niodepth=2\n[c]\nstonewall\n[global]\niodepth=8\n[d]\nstonewall=0\n[e]\nstonewall",
        "t",
    )
    .unwrap();
    let seen: Vec<(&str, u32, u32)> = file.jobs.iter().map(|job| (job.name.as_str(), job.group, job.iodepth)).collect();
    assert_eq!(seen, [("a", 0, 1), ("b", 0, 2), ("c", 1, 1), ("d", 1, 8), ("e", 2, 8)]);
    assert_eq!(file.jobs[1].options, [("iodepth".to_owned(), "2".to_owned())]);
    assert_ne!(file.jobs[0].seed, file.jobs[1].seed);
}

#[test]
fn options_of_fio_that_mean_nothing_here_are_warnings() {
    let file = parse("[global]\nioengine=libaio\ndirect=1\n[a]\nrw=randwrite\nsize=1m\nbs=1k\nbs=2k", "t.fio").unwrap();
    assert_eq!(file.warnings.len(), 3, "{:?}", file.warnings);
    assert!(file.warnings[0].starts_with("t.fio: line 2: ioengine"));
    assert!(file.warnings[1].starts_with("t.fio: line 3: direct"));
    assert!(file.warnings[2].starts_with("t.fio: line 8: bs replaces what line 7"));
}

#[test]
fn every_error_is_named_at_once_with_its_line() {
    let text = "stray=1\n[global]\nbs=4x\n[a]\nrw=trim\niodepth=0\nfrobnicate=1\n[a]\nrw=randwrite\nspace=s\nstream=t\n\
                runtime=soon\n[b]\nrw=write\n[c\n";
    let message = errors(text);
    for part in [
        "t.fio: 9 errors\n",
        "line 1: \"stray=1\" stands before the first section",
        "line 3: bs: \"4x\" is not a size",
        "line 5: rw=trim is not supported",
        "line 6: iodepth=0: write a whole number from 1",
        "line 7: unknown option \"frobnicate\"",
        "line 8: a job [a] stands above already",
        "line 11: job [a]: space= and stream= are both set",
        "line 12: runtime: \"soon\" is not a time",
        "line 15: \"[c\" is not a section",
    ] {
        assert!(message.contains(part), "{part:?} is missing in:\n{message}");
    }
    assert_eq!(message.lines().count(), 10, "{message}");
}

#[test]
fn contradictions_are_refused() {
    for (text, part) in [
        ("", "no job"),
        ("# nothing\n[global]\nbs=4k\n", "no job"),
        ("[]\n", "is not a section"),
        ("[a]\nspace=s\n", "rw= is missing"),
        ("[a]\nrw\n", "rw needs a value"),
        ("[a]\nrw=write\n", "nothing ends this job"),
        ("[a]\nrw=randwrite\nstream=s\nsize=1m", "a stream is read and written in order"),
        ("[a]\nrw=write\nstream=s\nsize=1m\nkeys=9", "a stream has no keys"),
        ("[a]\nrw=randwrite\nkeys=0\n", "there is no key"),
        ("[a]\nrw=randwrite\nkeys=1000\nkey_size=2", "cannot hold 1000 different keys; make it 3"),
        ("[a]\nrw=randwrite\nkeys=10\ntime_based", "time_based needs runtime="),
        ("[a]\nrw=randwrite\nkeys=10\nruntime=0", "runtime=0"),
        ("[a]\nrw=randwrite\nkeys=10\nbs=4k\nvalue_size=100", "keep one"),
        ("[a]\nrw=randwrite\nkeys=10\nbs=16\nverify=crc32c", "at least 32 B"),
        ("[a]\nrw=randwrite\nkeys=10\nbs=32m", "at most 16m"),
        ("[a]\nrw=randwrite\nkeys=10\ntime_based=yes", "time_based=yes"),
        ("[a]\nrw=randwrite\nkeys=10\ndurability=maybe", "unknown durability"),
        ("[a]\nrw=randwrite\nkeys=10\nttl=0s", "1 ms to 100 years"),
        ("[a]\nrw=randwrite\nkeys=10\nttl=soon", "ttl: "),
        ("[a]\nrw=randwrite\nkeys=10\nttl=5s\nverify=crc32c", "lets them go"),
        ("[a]\nrw=write\nstream=s\nsize=1m\nttl=5s", "only keys have a time to live"),
        ("[a]\nrw=randwrite\nkeys=10\nnumjobs=-1", "numjobs=-1"),
        ("[a]\nrw=randwrite\nsize=50%", "is not a size"),
        ("[a]\nrw=randwrite\nkeys=10\nverify=rot13", "verify=rot13"),
        ("[a]\nrw=randwrite\nkeys=10\nscan_length=5", "that of reads"),
        ("[a]\nrw=randread\nkeys=10\nscan_length=9-5", "scan_length=9-5"),
        ("[a]\nrw=read\nstream=s\nscan_length=5", "a stream has no keys; scan_length="),
        ("[a]\nrw=rw\nstream=s\nsize=1m\nmodify_percent=5", "a stream has no keys; modify_percent="),
        ("[a]\nrw=randwrite\nkeys=10\nmodify_percent=60\ninsert_percent=50", "make them 100 at most"),
        ("[a]\nrw=randwrite\nkeys=10\ninsert_percent=5\nkey_size=4", "no room for new keys; make it 12"),
        ("[a]\nrw=randwrite\nkeys=10\ninsert_percent=5\nverify=crc32c", "no new ones"),
        ("[a]\nrw=randwrite\ntables=a/10\n", "add transaction="),
        ("[a]\nrw=randrw\ntables=a\n", "write NAME/ROWS"),
        ("[a]\nrw=randrw\nruntime=1\ntables=a/10\ntransaction=t", "write NAME/PERCENT"),
        ("[a]\nrw=randrw\nruntime=1\ntables=a/10\ntransaction=t/50: read a", "add up to 50"),
        ("[a]\nrw=randrw\nruntime=1\ntransaction=t: read a", "name it in tables="),
        ("[a]\nrw=randrw\ntables=a/10\ntransaction=t: read a", "nothing ends this job"),
        ("[a]\nrw=randwrite\nruntime=1\ntables=a/10\ntransaction=t: read a", "use rw=randrw"),
        ("[a]\nrw=rw\nruntime=1\ntables=a/10\ntransaction=t: read a", "transactions are of keys; set space="),
        ("[a]\nrw=randrw\nruntime=1\ntables=a/10\nkeys=5\ntransaction=t: read a", "keys= has no meaning"),
        ("[a]\nrw=randrw\nruntime=1\ntables=a/10\nfsync=5\ntransaction=t: read a", "fsync= has no meaning"),
    ] {
        let message = errors(text);
        assert!(message.contains(part), "{text:?} gave {message:?}, not {part:?}");
        assert_eq!(message.lines().count(), 1, "{text:?}: one mistake, one error: {message}");
    }
}

#[test]
fn a_header_that_is_not_closed_hides_no_later_error() {
    let message = errors("[a\niodepth=many\n[b]\nrw=sideways\n[\nbs=x\n");
    let lines: Vec<&str> = message.lines().collect();
    let expected = ["t.fio: 5 errors", "line 1: \"[a\"", "line 2: iodepth", "line 4: ", "line 5: \"[\"", "line 6: bs"];
    assert_eq!(lines.len(), expected.len(), "{message}");
    assert!(lines.iter().zip(expected).all(|(line, part)| line.contains(part)), "{message}");
}

#[test]
fn no_text_makes_it_panic() {
    let good = "[global]\nbs=4k/50:8k\n[a]\nrw=randwrite\nkeys=10\nbssplit=4k/60:64k/40\npercentile_list=50:99\n\
                tables=a/5:b/9\ntransaction=t/60: read a*2, modify b\n";
    for cut in 0..good.len() {
        let _ = parse(&good[..cut], "t");
        for byte in ["=", "[", "]", ":", "/", "\u{e9}", "\0", "9999999999999999999999"] {
            let _ = parse(&format!("{}{byte}{}", &good[..cut], &good[cut..]), "t");
        }
    }
}

#[test]
fn every_job_file_that_comes_along_is_read_without_a_warning() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/load");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = parse(&std::fs::read_to_string(&path).unwrap(), &path.to_string_lossy()).unwrap();
        assert_eq!(file.warnings, Vec::<String>::new());
        count += 1;
    }
    assert!(count >= 18, "{count}");
}

#[test]
fn a_size_that_values_of_nothing_never_fill_is_refused() {
    let error = errors("[j]\nrw=randwrite\nbs=0\nsize=1m");
    assert!(error.contains("line 4: job [j]: values of 0 B never fill size="), "{error}");
}
