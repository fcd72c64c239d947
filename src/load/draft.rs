//! A job while its section is read: each option is checked alone, then all of them together.

use super::fio_options;
use super::job::{Job, Order, Sizes, Target};
use super::profile::{self, Profile, Table};
use super::units::{parse_bytes, parse_duration};
use super::values::{self, Direction, Distribution};
use crate::bytes::len_u32;
use crate::ring::protocol::{KEY_BYTES_MAX, NAME_BYTES_MAX, RING_ENTRIES_MAX, TTL_MS_MAX};
use crate::types::{Compression, Durability, ObjectKind, PageHint, PageSize};
use std::collections::BTreeMap;
use std::time::Duration;

/// fio's own list.
const PERCENTILES: [f64; 17] =
    [1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99];
const KEYS_DEFAULT: u64 = 100_000;
const KEY_BYTES_DEFAULT: usize = 16;
const VALUE_BYTES_DEFAULT: u32 = 4_096;
/// The smallest value that has room for what a check needs to know.
pub const VERIFY_BYTES_MIN: u32 = 32;

/// New keys go on behind the others: a million a second would fill this many digits in eleven days.
const INSERT_KEY_BYTES_MIN: usize = 12;

/// Takes whether something is wrong, the option it is about, and what to say.
type Refuse<'a> = dyn FnMut(bool, &str, &dyn Fn() -> String) + 'a;

pub enum Outcome {
    Taken,
    /// fio knows the option, but it has no meaning here.
    Warned(String),
}

#[derive(Clone, Default)]
pub struct Draft {
    pub name: String,
    pub line: usize,
    pub options: Vec<(String, String)>,
    pub stonewall: bool,
    /// An option was refused, so that what seems to be missing may only be wrong.
    pub broken: bool,
    /// Where each option was set.
    lines: BTreeMap<String, usize>,
    space: Option<String>,
    stream: Option<String>,
    pages: Option<String>,
    direction: Option<Direction>,
    read_percent: Option<u32>,
    bs: Option<Sizes>,
    bssplit: Option<Sizes>,
    value_size: Option<Sizes>,
    key_size: Option<usize>,
    keys: Option<u64>,
    tables: Vec<Table>,
    transactions: Vec<Profile>,
    size: Option<u64>,
    number_ios: Option<u64>,
    iodepth: Option<u32>,
    numjobs: Option<u32>,
    runtime: Option<Duration>,
    ramp_time: Option<Duration>,
    time_based: bool,
    rate_iops: Option<u32>,
    thinktime: Option<Duration>,
    sync_every: Option<u32>,
    distribution: Distribution,
    modify_percent: Option<u32>,
    insert_percent: Option<u32>,
    scan_length: Option<(u32, u32)>,
    norandommap: bool,
    verify: bool,
    durability: Option<Durability>,
    ttl: Option<Duration>,
    compression: Option<Compression>,
    compress_percent: Option<u32>,
    group_reporting: bool,
    percentiles: Option<Vec<f64>>,
    seed: Option<u64>,
}

impl Draft {
    /// What a job section begins with, when this is [global].
    pub fn for_job(&self, name: &str, line: usize) -> Draft {
        Draft { name: name.to_owned(), line, options: Vec::new(), ..self.clone() }
    }

    /// Takes one option.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub fn apply(&mut self, key: &str, value: Option<&str>, line: usize) -> Result<Outcome, String> {
        if is_flag(key) {
            let on = parse_flag(key, value)?;
            match key {
                "time_based" => self.time_based = on,
                "group_reporting" => self.group_reporting = on,
                "norandommap" => self.norandommap = on,
                _ => self.stonewall = on,
            }
        } else if fio_options::is_known(key) {
            return Ok(Outcome::Warned(format!("{key} is an option of fio that has no meaning here; it is ignored")));
        } else {
            let value = value.filter(|value| !value.is_empty());
            if !self.apply_target(key, value)? && !self.apply_pace(key, value)? {
                return Err(format!("unknown option {key:?}; see docs/load.md for those there are"));
            }
        }
        if key == "transaction" {
            return Ok(self.note_transaction(value.unwrap_or_default(), line));
        }
        self.options.push((key.to_owned(), value.unwrap_or("1").to_owned()));
        let earlier = self.lines.insert(canonical(key).to_owned(), line);
        match earlier.filter(|earlier| *earlier > self.line) {
            Some(earlier) => Ok(Outcome::Warned(format!("{key} replaces what line {earlier} set"))),
            None => Ok(Outcome::Taken),
        }
    }

    /// Each of these lines adds to those before it.
    fn note_transaction(&mut self, value: &str, line: usize) -> Outcome {
        self.lines.insert("transaction".to_owned(), line);
        match self.options.iter_mut().find(|(key, _)| key == "transaction") {
            Some((_, all)) => *all = format!("{all}; {value}"),
            None => self.options.push(("transaction".to_owned(), value.to_owned())),
        }
        Outcome::Taken
    }

    /// Options that say what is read and written. `false`: not one of these.
    fn apply_target(&mut self, key: &str, value: Option<&str>) -> Result<bool, String> {
        let text = || value.ok_or_else(|| format!("{key} needs a value, as in {key}=..."));
        match key {
            "rw" | "readwrite" => self.direction = Some(values::parse_direction(text()?)?),
            "rwmixread" => self.read_percent = Some(number(key, text()?, 0, 100)?),
            "rwmixwrite" => self.read_percent = Some(100 - number::<u32>(key, text()?, 0, 100)?),
            "bs" | "blocksize" => self.bs = Some(values::parse_size(key, text()?)?),
            "value_size" => self.value_size = Some(values::parse_size(key, text()?)?),
            "bssplit" => self.bssplit = Some(values::parse_bssplit(text()?)?),
            "key_size" => self.key_size = Some(number(key, text()?, 1, KEY_BYTES_MAX)?),
            "keys" => self.keys = Some(bytes(key, text()?)?),
            "tables" => self.tables = profile::parse_tables(text()?)?,
            "transaction" => self.transactions.push(profile::parse_profile(text()?)?),
            "space" => self.space = Some(object_name(key, text()?)?),
            "stream" => self.stream = Some(object_name(key, text()?)?),
            "pages" => self.pages = Some(object_name(key, text()?)?),
            "random_distribution" => self.distribution = values::parse_distribution(text()?)?,
            "modify_percent" => self.modify_percent = Some(number(key, text()?, 0, 100)?),
            "insert_percent" => self.insert_percent = Some(number(key, text()?, 0, 100)?),
            "scan_length" => self.scan_length = Some(values::parse_scan_length(text()?)?),
            "verify" => self.verify = values::parse_verify(text()?)?,
            "durability" => self.durability = Some(text()?.parse()?),
            "ttl" => self.ttl = Some(time_to_live(text()?)?),
            "compression" => self.compression = Some(text()?.parse()?),
            "buffer_compress_percentage" => self.compress_percent = Some(number(key, text()?, 0, 100)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Options that say how much, how fast and how it is reported. `false`: not one of these.
    fn apply_pace(&mut self, key: &str, value: Option<&str>) -> Result<bool, String> {
        let text = || value.ok_or_else(|| format!("{key} needs a value, as in {key}=..."));
        let time = |unit| parse_duration(text()?, unit).map_err(|cause| format!("{key}: {cause}"));
        let second = Duration::from_secs(1);
        match key {
            "size" => self.size = Some(bytes(key, text()?)?),
            "number_ios" => self.number_ios = Some(bytes(key, text()?)?),
            "iodepth" => self.iodepth = Some(number(key, text()?, 1, RING_ENTRIES_MAX)?),
            "numjobs" => self.numjobs = Some(number(key, text()?, 1, 1_024)?),
            "runtime" | "timeout" => self.runtime = Some(time(second)?),
            "ramp_time" => self.ramp_time = Some(time(second)?),
            "rate_iops" => self.rate_iops = Some(number(key, text()?, 1, 1_000_000_000)?),
            "thinktime" => self.thinktime = Some(time(Duration::from_micros(1))?),
            "fsync" | "fdatasync" => self.sync_every = Some(number(key, text()?, 0, u32::MAX)?),
            "percentile_list" => self.percentiles = Some(values::parse_percentiles(text()?)?),
            "randseed" => self.seed = Some(number(key, text()?, 0, u64::MAX)?),
            "description" => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn line_of(&self, key: &str) -> usize {
        self.lines.get(key).copied().unwrap_or(self.line)
    }

    /// The checked job.
    ///
    /// # Errors
    /// Everything that does not fit together, each with its line.
    pub fn finish(&self, group: u32, place: u64) -> Result<Job, Vec<(usize, String)>> {
        let direction = self.direction.unwrap_or(Direction { random: false, read_percent: Some(100) });
        let target = self.target(direction);
        let sizes = [&self.bssplit, &self.value_size, &self.bs].into_iter().flatten().next().cloned();
        let sizes = sizes.unwrap_or_else(|| Sizes(vec![(self.bytes_default(direction), 100)]));
        let per_value = sizes.bytes_mean().max(1);
        let rows = self.tables.iter().map(|table| table.rows).reduce(u64::saturating_add);
        let keys = rows.or(self.keys).or_else(|| self.size.map(|size| size / per_value)).unwrap_or(KEYS_DEFAULT);
        let errors = self.contradictions(direction, &target, &sizes, keys);
        if !errors.is_empty() {
            return Err(errors);
        }
        let whole = (target.kind != ObjectKind::Stream && self.runtime.is_none()).then_some(keys);
        let order = match (direction.random, self.distribution) {
            (false, _) => Order::Sequential,
            (true, Distribution::Zipf(theta)) => Order::Zipf(theta),
            (true, Distribution::Latest(theta)) => Order::Latest(theta),
            (true, Distribution::Random) if self.norandommap => Order::Uniform,
            (true, Distribution::Random) => Order::Shuffled,
        };
        Ok(Job {
            name: self.name.clone(),
            target,
            order,
            read_percent: direction.read_percent.or(self.read_percent).unwrap_or(50),
            modify_percent: self.modify_percent.filter(|_| direction.read_percent != Some(100)).unwrap_or(0),
            insert_percent: self.insert_percent.filter(|_| direction.read_percent != Some(100)).unwrap_or(0),
            transactions: self.transactions.clone(),
            tables: self.tables.clone(),
            scan_length: self.scan_length,
            operations_max: self.number_ios.or_else(|| self.size.map(|size| size.div_ceil(per_value))).or(whole),
            sizes,
            key_bytes: self.key_size.unwrap_or(KEY_BYTES_DEFAULT),
            keys,
            iodepth: self.iodepth.unwrap_or(1),
            numjobs: self.numjobs.unwrap_or(1),
            runtime: self.runtime,
            time_based: self.time_based,
            ramp_time: self.ramp_time.unwrap_or_default(),
            rate_iops: self.rate_iops,
            thinktime: self.thinktime.unwrap_or_default(),
            sync_every: self.sync_every.filter(|every| *every > 0),
            verify: self.verify,
            durability: self.durability,
            ttl: self.ttl,
            compression: self.compression,
            compress_percent: self.compress_percent.unwrap_or(0),
            group_reporting: self.group_reporting,
            group,
            percentiles: self.percentiles.clone().unwrap_or_else(|| PERCENTILES.to_vec()),
            seed: self.seed.unwrap_or(0) ^ place << 32,
            options: self.options.clone(),
        })
    }

    /// As in fio, a job without a target has its own, named as the job.
    fn target(&self, direction: Direction) -> Target {
        if let Some(name) = &self.pages {
            return Target { kind: ObjectKind::Pages, name: name.clone() };
        }
        match (&self.space, &self.stream) {
            (Some(name), _) => Target { kind: ObjectKind::Space, name: name.clone() },
            (None, Some(name)) => Target { kind: ObjectKind::Stream, name: name.clone() },
            (None, None) if direction.random => Target { kind: ObjectKind::Space, name: self.name.clone() },
            (None, None) => Target { kind: ObjectKind::Stream, name: self.name.clone() },
        }
    }

    fn bytes_default(&self, direction: Direction) -> u32 {
        let hint = if direction.random { PageHint::Random } else { PageHint::Sequential };
        if self.pages.is_some() { len_u32(hint.page_size().bytes()) } else { VALUE_BYTES_DEFAULT }
    }

    /// Of a job on pages.
    fn contradictions_of_pages(&self, sizes: &Sizes, refuse: &mut Refuse<'_>) {
        if self.pages.is_none() {
            return;
        }
        refuse(self.space.is_some() || self.stream.is_some(), "pages", &|| {
            "pages= is set beside space= or stream=; keep one".into()
        });
        let page = sizes.bytes_min() == sizes.bytes_max() && PageSize::new(sizes.bytes_max() as usize).is_some();
        refuse(!page, "bs", &|| "a page has 4KiB to 2MiB, a power of two, and all have one size; as in bs=16k".into());
        for (key, set) in [
            ("key_size", self.key_size.is_some()),
            ("compression", self.compression.is_some()),
            ("insert_percent", self.insert_percent.is_some()),
            ("scan_length", self.scan_length.is_some()),
        ] {
            refuse(set, key, &|| format!("pages have numbers and one size; {key}= needs a space="));
        }
    }

    /// Of a job of transactions, or of one that has only their tables.
    fn contradictions_of_transactions(&self, direction: Direction, target: &Target, refuse: &mut Refuse<'_>) {
        if self.transactions.is_empty() {
            refuse(!self.broken && !self.tables.is_empty(), "tables", &|| {
                "tables= has rows for transactions, and there is none; add transaction=, or use keys=".into()
            });
            return;
        }
        let checked = profile::check(&self.tables, &self.transactions);
        refuse(!self.broken && checked.is_err(), "transaction", &|| checked.clone().err().unwrap_or_default());
        refuse(target.kind != ObjectKind::Space, "transaction", &|| "transactions are of keys; set space=".into());
        refuse(self.direction.is_some() && direction.read_percent.is_some(), "rw", &|| {
            "a transaction reads and writes; use rw=randrw, or rw=rw for rows in order".into()
        });
        refuse(!self.broken && self.number_ios.is_none() && self.runtime.is_none(), "transaction", &|| {
            "nothing ends this job; set number_ios= or runtime=".into()
        });
        for (key, set) in [
            ("keys", self.keys.is_some()),
            ("rwmixread", self.read_percent.is_some()),
            ("modify_percent", self.modify_percent.is_some()),
            ("insert_percent", self.insert_percent.is_some()),
            ("scan_length", self.scan_length.is_some()),
            ("size", self.size.is_some()),
            ("fsync", self.sync_every.is_some()),
            ("ttl", self.ttl.is_some()),
            ("compression", self.compression.is_some()),
        ] {
            refuse(set, key, &|| format!("{key}= has no meaning for transactions; leave it out"));
        }
    }

    fn contradictions(&self, direction: Direction, target: &Target, sizes: &Sizes, keys: u64) -> Vec<(usize, String)> {
        let mut errors = Vec::new();
        let mut refuse = |wrong: bool, key: &str, cause: &dyn Fn() -> String| {
            if wrong {
                errors.push((self.line_of(key), format!("job [{}]: {}", self.name, cause())));
            }
        };
        let stream = target.kind == ObjectKind::Stream;
        let whole = !self.broken;
        let endless = whole && self.size.is_none() && self.number_ios.is_none() && self.runtime.is_none();
        let writes = direction.read_percent != Some(100);
        let sizes_given = [&self.bs, &self.value_size, &self.bssplit].into_iter().flatten();
        let key_bytes = self.key_size.unwrap_or(KEY_BYTES_DEFAULT);
        let digits = keys.saturating_sub(1).checked_ilog10().map_or(1, |log| log as usize + 1);
        refuse(whole && self.direction.is_none(), "rw", &|| {
            "rw= is missing; say what it does, as in rw=randwrite".into()
        });
        refuse(self.space.is_some() && self.stream.is_some(), "stream", &|| {
            "space= and stream= are both set; keep one".into()
        });
        refuse(self.stream.is_some() && self.space.is_none() && direction.random, "rw", &|| {
            "a stream is read and written in order; use rw=write, read or rw, or a space= instead".into()
        });
        refuse(stream && self.lines.contains_key("keys"), "keys", &|| {
            "a stream has no keys; use size= or a space=".into()
        });
        refuse(stream && self.compression.is_some(), "compression", &|| {
            "only the values of a space are compressed; leave out compression=, or use a space=".into()
        });
        refuse(self.compression == Some(Compression::Delta), "compression", &|| {
            "load writes values that have nothing in common; use none, lz4 or zstd (`cargo bench --bench compression` measures \
             delta)"
                .into()
        });
        refuse(stream && self.ttl.is_some(), "ttl", &|| {
            "only keys have a time to live; leave out ttl=, or use a space=".into()
        });
        refuse(sizes_given.count() > 1, "bs", &|| "bs=, value_size= and bssplit= all set the size; keep one".into());
        refuse(whole && self.time_based && self.runtime.is_none(), "time_based", &|| {
            "time_based needs runtime=".into()
        });
        refuse(self.runtime == Some(Duration::ZERO), "runtime", &|| "runtime=0 would end at once; leave it out".into());
        refuse(self.number_ios == Some(0), "number_ios", &|| "number_ios=0 does nothing; leave it out".into());
        refuse(self.size == Some(0), "size", &|| "size=0 does nothing; leave it out".into());
        refuse(self.size.is_some() && sizes.bytes_mean() == 0 && self.runtime.is_none(), "size", &|| {
            "values of 0 B never fill size=; set number_ios= or runtime=".into()
        });
        refuse(keys == 0 && self.size != Some(0), "keys", &|| "there is no key; make keys= or size= larger".into());
        refuse(endless && stream && writes, "rw", &|| "nothing ends this job; set size= or runtime=".into());
        refuse(!stream && key_bytes < digits, "key_size", &|| {
            format!("key_size={key_bytes} cannot hold {keys} different keys; make it {digits}")
        });
        self.contradictions_of_mixes(direction, stream, key_bytes, &mut refuse);
        self.contradictions_of_pages(sizes, &mut refuse);
        self.contradictions_of_transactions(direction, target, &mut refuse);
        refuse(self.verify && writes && sizes.bytes_min() < VERIFY_BYTES_MIN, "verify", &|| {
            format!("verify needs values of at least {VERIFY_BYTES_MIN} B; raise bs= or value_size=")
        });
        errors
    }

    /// Of what YCSB and the like need: new keys, values that are read before they are written, short ranges.
    fn contradictions_of_mixes(&self, direction: Direction, stream: bool, key_bytes: usize, refuse: &mut Refuse<'_>) {
        let (modify, insert) = (self.modify_percent.unwrap_or(0), self.insert_percent.unwrap_or(0));
        for (key, set) in [
            ("modify_percent", modify > 0),
            ("insert_percent", insert > 0),
            ("scan_length", self.scan_length.is_some()),
        ] {
            refuse(stream && set, key, &|| format!("a stream has no keys; {key}= needs a space="));
        }
        refuse(modify + insert > 100, "insert_percent", &|| {
            format!(
                "modify_percent={modify} and insert_percent={insert} are shares of the writes; make them 100 at most"
            )
        });
        refuse(self.scan_length.is_some() && direction.read_percent == Some(0), "scan_length", &|| {
            "scan_length= is that of reads, and this job only writes; use rw=randread or randrw".into()
        });
        refuse(insert > 0 && key_bytes < INSERT_KEY_BYTES_MIN && !stream, "key_size", &|| {
            format!("key_size={key_bytes} leaves no room for new keys; make it {INSERT_KEY_BYTES_MIN}")
        });
        refuse(self.ttl.is_some() && self.verify && !stream, "verify", &|| {
            "verify looks for every key at the end, and ttl= lets them go; leave out one".into()
        });
        refuse(insert > 0 && self.verify && !stream, "verify", &|| {
            "verify knows the keys= and no new ones; leave out verify= or insert_percent=".into()
        });
    }
}

fn is_flag(key: &str) -> bool {
    matches!(key, "time_based" | "group_reporting" | "norandommap" | "stonewall" | "wait_for_previous")
}

/// One name for options that fio lets stand under two.
fn canonical(key: &str) -> &str {
    match key {
        "readwrite" => "rw",
        "blocksize" => "bs",
        "timeout" => "runtime",
        "fdatasync" => "fsync",
        "rwmixwrite" => "rwmixread",
        "wait_for_previous" => "stonewall",
        _ => key,
    }
}

fn parse_flag(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("" | "1") => Ok(true),
        Some("0") => Ok(false),
        Some(value) => Err(format!("{key}={value}: write {key}, {key}=1 or {key}=0")),
    }
}

fn bytes(key: &str, text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|cause| format!("{key}: {cause}"))
}

fn number<T>(key: &str, text: &str, min: T, max: T) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let number = text.parse::<T>().ok().filter(|number| *number >= min && *number <= max);
    number.ok_or_else(|| format!("{key}={text}: write a whole number from {min} to {max}"))
}

fn time_to_live(text: &str) -> Result<Duration, String> {
    let ttl = parse_duration(text, Duration::from_secs(1)).map_err(|cause| format!("ttl: {cause}"))?;
    let ttls = Duration::from_millis(1)..=Duration::from_millis(TTL_MS_MAX);
    if ttls.contains(&ttl) { Ok(ttl) } else { Err(format!("ttl={text}: a time to live has 1 ms to 100 years")) }
}

fn object_name(key: &str, text: &str) -> Result<String, String> {
    if text.len() > NAME_BYTES_MAX {
        return Err(format!("{key}: a name has at most {NAME_BYTES_MAX} bytes"));
    }
    Ok(text.to_owned())
}
