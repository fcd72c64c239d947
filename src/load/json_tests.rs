use super::*;
use crate::load::fake::Fake;
use crate::load::run::{LoadOptions, run};
use std::collections::BTreeSet;

/// The keys of `fio --output-format=json` (3.33), one path a line.
const KEYS: &str = include_str!("fio_json_keys.txt");

fn report() -> Report {
    let text = "[global]\nbs=64\npercentile_list=50:99:99.9\n[a]\nrw=randrw\nkeys=2000\niodepth=2\nfsync=100\n";
    let fake = Fake::default();
    run(text, "t", &LoadOptions::default(), |options| fake.connect(options)).unwrap()
}

/// The paths of all keys; a list counts as its first element.
fn paths(value: &Value, prefix: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = format!("{prefix}/{key}");
                into.insert(path.clone());
                paths(value, &path, into);
            }
        }
        Value::Array(items) => items.first().into_iter().for_each(|item| paths(item, prefix, into)),
        _ => {}
    }
}

#[test]
fn it_has_every_key_of_fio_and_only_ours_besides() {
    let mut ours = BTreeSet::new();
    paths(&report().to_json(false), "", &mut ours);
    let theirs: BTreeSet<String> = KEYS.lines().map(str::to_owned).collect();
    assert!(theirs.len() > 200);
    let missing: Vec<_> = theirs.difference(&ours).collect();
    assert!(missing.is_empty(), "fio has {missing:?}");
    let known = |path: &str| {
        // We give percentiles of the total and of syncs too, as fio does with lat_percentiles=1.
        path.contains("/forebay") || path.contains("/lat_ns/percentile") || path.contains(" options/")
    };
    let unknown: Vec<_> = ours.difference(&theirs).filter(|path| !known(path)).collect();
    assert!(unknown.is_empty(), "fio has no {unknown:?}");
}

#[test]
fn its_numbers_agree_with_each_other() {
    let json = report().to_json(true);
    let job = &json["jobs"][0];
    let read = &job["read"];
    let total = read["total_ios"].as_u64().unwrap() + job["write"]["total_ios"].as_u64().unwrap();
    assert_eq!(total, 2_000);
    assert_eq!(read["io_bytes"].as_u64().unwrap(), read["total_ios"].as_u64().unwrap() * 64);
    let clat = &read["clat_ns"];
    let bins: u64 = clat["bins"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(Some(bins), clat["N"].as_u64());
    let at = |percent: &str| clat["percentile"][percent].as_u64().unwrap();
    assert!(clat["min"].as_u64().unwrap() <= at("50.000000") && at("50.000000") <= at("99.900000"));
    let classes =
        ["latency_ns", "latency_us", "latency_ms"].iter().flat_map(|name| job[*name].as_object().unwrap().values());
    let sum: f64 = classes.map(|share| share.as_f64().unwrap()).sum();
    assert!((sum - 100.0).abs() < 1e-6, "{sum}");
    assert_eq!(job["job options"]["rw"], "randrw");
    assert_eq!(json["global options"]["bs"], "64");
}

#[test]
fn the_calendar_knows_leap_years() {
    assert_eq!(calendar(0), "Thu Jan  1 00:00:00 1970");
    assert_eq!(calendar(1_795_226_743), "Sat Nov 21 02:05:43 2026");
    assert_eq!(calendar(951_782_400), "Tue Feb 29 00:00:00 2000");
    assert_eq!(calendar(1_735_689_599), "Tue Dec 31 23:59:59 2024");
}
