//! The whole comparison: rounds in which the peers take turns, session by session, with the cores as they are and with
//! cores that are kept awake; then, once, a look at the system calls of each.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::fs::statfs;
use serde::Serialize;

use crate::case::{Class, MANY, ONE, PeerName, Shape, shapes};
use crate::figures::{Failure, Figures};
use crate::proof::{self, Proof};
use crate::report;
use crate::session::Measured;
use crate::versions::{self, Version};

const TMPFS_MAGIC: i64 = 0x0102_1994;
const SCHED_IDLE: &str = "5";
/// The path of a Unix socket has at most 107 B, and these need up to 19 B below the directory.
const DIRECTORY_BYTES_MAX: usize = 88;
/// On a quiet machine it is near 0.
const LOAD_MAX: f64 = 0.5;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Values of 100 B only, two short rounds.
    #[arg(long)]
    quick: bool,
    /// Default 3, with --quick 2.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// How long each case runs. Default 400, with --quick 150.
    #[arg(long)]
    run_ms: Option<u64>,
    /// Leave these out.
    #[arg(long, value_delimiter = ',')]
    without: Vec<PeerName>,
    /// Only these classes.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Class>,
    /// A directory on the drive to be measured, with 6 GiB of room. What it makes in there is removed again.
    #[arg(long)]
    directory: PathBuf,
    /// Where results.json, results.md and results.svg go.
    #[arg(long)]
    output: PathBuf,
    /// The two cores: of the reactor or server, and of the clients. A library gets both.
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    cores: Vec<usize>,
    /// Print results.json instead of results.md.
    #[arg(long)]
    json: bool,
}

/// One case of one peer, with the figures of all rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    pub peer: PeerName,
    pub class: Class,
    pub value_bytes: usize,
    pub shape: Shape,
    /// Both cores were kept from halting.
    pub awake: bool,
    /// A place a round, empty where the session failed: only what ran in the same round is compared.
    pub rounds: Vec<Option<Figures>>,
}

impl Series {
    /// Of the rounds that are there.
    pub fn values(&self, of: fn(&Figures) -> f64) -> Vec<f64> {
        self.rounds.iter().flatten().map(of).collect()
    }
}

#[derive(Debug, Default, Serialize)]
pub struct Results {
    pub machine: String,
    #[serde(serialize_with = "versions::as_object")]
    pub versions: Vec<Version>,
    pub rounds: usize,
    pub run_ms: u64,
    pub seconds: u64,
    pub series: Vec<Series>,
    pub proofs: Vec<Proof>,
    /// What failed or was left out, and why.
    pub notes: Vec<String>,
}

impl Results {
    fn add(&mut self, round: usize, session: &Session, measured: Measured) {
        let Measured { shape, figures } = measured;
        let Session { peer, class, value_bytes, .. } = *session;
        let found = self.series.iter().position(|series| {
            let same = (series.peer, series.class, series.value_bytes, series.shape, series.awake);
            same == (peer, class, value_bytes, shape, session.awake)
        });
        let at = found.unwrap_or_else(|| {
            let (awake, rounds) = (session.awake, vec![None; self.rounds]);
            self.series.push(Series { peer, class, value_bytes, shape, awake, rounds });
            self.series.len() - 1
        });
        self.series[at].rounds[round] = Some(figures);
    }

    pub fn note(&mut self, note: String) {
        eprintln!("{note}");
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// One child process: a peer in a class at a size.
pub struct Session {
    pub peer: PeerName,
    pub class: Class,
    pub value_bytes: usize,
    pub awake: bool,
}

/// How sessions are run here.
#[derive(Clone)]
pub struct Runner {
    program: PathBuf,
    directory: PathBuf,
    cores: [usize; 2],
    run_ms: u64,
}

impl Runner {
    /// Runs a session, behind the words of `before` where there are any.
    pub fn session(&self, session: &Session, shapes: &[Shape], before: &[String]) -> Result<Vec<Measured>, Failure> {
        let mut words = before.iter().map(String::as_str).chain(self.program.to_str());
        let mut command = Command::new(words.next().ok_or("the program's path is not UTF-8")?);
        let shapes: Vec<String> = shapes.iter().map(Shape::to_string).collect();
        let output = command
            .args(words)
            .args(["session", "--peer", &spelt(&session.peer), "--class", &spelt(&session.class)])
            .args(["--value-bytes", &session.value_bytes.to_string(), "--shapes", &shapes.join(",")])
            .args(["--run-ms", &self.run_ms.to_string(), "--cores", &self.cores_list()])
            .arg("--directory")
            .arg(&self.directory)
            .stderr(Stdio::inherit())
            .output()?;
        if !output.status.success() {
            return Err(format!("ended with {}; what it said stands above", output.status).into());
        }
        let text = String::from_utf8(output.stdout)?;
        Ok(serde_json::from_str(text.lines().last().unwrap_or_default())?)
    }

    fn cores_list(&self) -> String {
        format!("{},{}", self.cores[0], self.cores[1])
    }

    /// As the cores are used by all: a library's threads on both.
    fn pin_all(&self) -> Result<(), Failure> {
        let mut set = rustix::thread::CpuSet::new();
        self.cores.iter().for_each(|core| set.set(*core));
        Ok(rustix::thread::sched_setaffinity(None, &set)
            .map_err(|error| format!("cores {}: {error}; name two others with --cores", self.cores_list()))?)
    }
}

/// As the command line spells a value.
fn spelt(value: &impl clap::ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// One spinner a core that runs only when nobody else wants to, so that the core never halts. They end with this.
struct Spinners(Vec<Child>);

impl Spinners {
    fn start(runner: &Runner) -> Result<Spinners, Failure> {
        let mut spinners = Spinners(Vec::new());
        for core in runner.cores {
            let child = Command::new("chrt")
                .args(["--idle", "0", "taskset", "--cpu-list", &core.to_string()])
                .arg(&runner.program)
                .arg("spin")
                .spawn()
                .map_err(|error| format!("chrt: {error}; install util-linux"))?;
            spinners.0.push(child);
        }
        Ok(spinners)
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a spinner does until it is killed, or nobody waits for it any more.
pub fn spin() {
    let parent = std::os::unix::process::parent_id();
    while std::os::unix::process::parent_id() == parent {
        (0..10_000_000).for_each(|_| std::hint::spin_loop());
    }
}

/// A file or a directory that goes when this is dropped, also when a step in between fails.
pub struct Removed(pub PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0).or_else(|_| std::fs::remove_dir_all(&self.0));
    }
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let cores = two_cores(&args.cores)?;
    as_they_are(&cores)?;
    probe(&args.output)?;
    let directory = scratch(&args.directory)?;
    let _made = ["session", "kept"].map(|name| Removed(directory.join(name)));
    let run_ms = args.run_ms.unwrap_or(if args.quick { 150 } else { 400 });
    let program = std::env::current_exe()?;
    let runner = Runner { program, directory: directory.clone(), cores, run_ms };
    runner.pin_all()?;
    let rounds = usize::from(args.rounds.unwrap_or(if args.quick { 2 } else { 3 }));
    let (machine, versions) = (report::machine(&directory), versions::all(|peer| is_wanted(args, peer)));
    let mut results = Results { machine, versions, rounds, run_ms, ..Results::default() };
    conditions().into_iter().for_each(|note| results.note(note));
    let begun = Instant::now();
    for round in 0..rounds {
        eprintln!("round {} of {rounds}, {} s", round + 1, begun.elapsed().as_secs());
        measure_round(args, &runner, round, &mut results)?;
    }
    eprintln!("system calls, {} s", begun.elapsed().as_secs());
    prove(args, &runner, &mut results);
    results.seconds = begun.elapsed().as_secs();
    write(args, &results)
}

fn two_cores(cores: &[usize]) -> Result<[usize; 2], Failure> {
    match *cores {
        [first, second] if first == second => {
            Err(format!("--cores {first},{second}: one core for both sides; name two, as 0,1").into())
        }
        [first, second] => Ok([first, second]),
        _ => Err("--cores takes two, as 0,1".into()),
    }
}

/// A core that somebody keeps from halting is not as cores are. Forebay's reactor asks for its own, and takes it back.
fn as_they_are(cores: &[usize]) -> Result<(), Failure> {
    for core in cores {
        let path = format!("/sys/devices/system/cpu/cpu{core}/power/pm_qos_resume_latency_us");
        if std::fs::read_to_string(&path).is_ok_and(|wish| wish.trim_end() == "n/a") {
            return Err(format!(
                "core {core} is kept from halting, by setup/host.sh or a daemon that was killed, so no peer would be measured as \
                 cores are; echo 0 > {path}"
            )
            .into());
        }
    }
    Ok(())
}

/// That the results can be written is known before they are measured.
fn probe(output: &Path) -> Result<(), Failure> {
    let file = output.join("results.probe");
    let done = std::fs::create_dir_all(output)
        .and_then(|()| std::fs::write(&file, "results"))
        .and_then(|()| std::fs::remove_file(&file));
    Ok(done.map_err(|error| format!("{}: {error}; name a directory with --output", output.display()))?)
}

/// The directory, absolute: a Redis server does not stay where it was started.
fn scratch(directory: &Path) -> Result<PathBuf, Failure> {
    std::fs::create_dir_all(directory)?;
    let directory = std::fs::canonicalize(directory)?;
    let name = directory.display();
    if statfs(&directory)?.f_type == TMPFS_MAGIC {
        return Err(format!("{name} is in memory, where a sync means nothing; name one on a drive").into());
    }
    if directory.as_os_str().len() > DIRECTORY_BYTES_MAX {
        return Err(
            format!("{name} is too long for the sockets in it; name one of {DIRECTORY_BYTES_MAX} B at most").into()
        );
    }
    Ok(directory)
}

/// What makes the figures doubtful from the start.
fn conditions() -> Vec<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut notes = Vec::new();
    let load = read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
    if load > LOAD_MAX {
        notes.push(format!(
            "the load of the machine was {load} at the start: a build just before, or others who use it"
        ));
    }
    // The policy is the 41st field, and the name in the second may hold spaces.
    let stat = read("/proc/self/stat");
    let policy = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(38));
    if policy == Some(SCHED_IDLE) {
        notes.push(
            "all of this ran at idle priority, as the spinners do: the cores awake were shared with them".to_owned(),
        );
    }
    notes
}

fn is_wanted(args: &Args, peer: PeerName) -> bool {
    (cfg!(feature = "rocksdb") || peer != PeerName::Rocksdb) && !args.without.contains(&peer)
}

fn peers_of<'a>(args: &'a Args, class: Class) -> impl Iterator<Item = PeerName> + 'a {
    PeerName::ALL.into_iter().filter(move |peer| is_wanted(args, *peer) && peer.setting(class).is_some())
}

fn classes(args: &Args) -> impl Iterator<Item = Class> + '_ {
    Class::ALL.into_iter().filter(|class| args.only.is_empty() || args.only.contains(class))
}

fn measure_round(args: &Args, runner: &Runner, round: usize, results: &mut Results) -> Result<(), Failure> {
    for class in classes(args) {
        let sizes: &[usize] = if args.quick || class == Class::Read { &[100] } else { &[100, 1_024, 4_096] };
        for value_bytes in sizes.iter().copied() {
            for awake in [false, true] {
                let _spinners = awake.then(|| Spinners::start(runner)).transpose()?;
                for peer in peers_of(args, class) {
                    let session = Session { peer, class, value_bytes, awake };
                    match runner.session(&session, &shapes(peer, class, value_bytes), &[]) {
                        Ok(all) => all.into_iter().for_each(|measured| results.add(round, &session, measured)),
                        Err(error) => {
                            results.note(format!("{}, {class:?}, {value_bytes} B: {error}", peer.label()));
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// Who syncs how often for what it acknowledges.
fn prove(args: &Args, runner: &Runner, results: &mut Results) {
    // Traced calls are slow, and a few of them prove little.
    let runner = &Runner { run_ms: runner.run_ms.max(300), ..runner.clone() };
    for class in classes(args).filter(|class| *class != Class::Read) {
        for peer in peers_of(args, class) {
            let session = Session { peer, class, value_bytes: 100, awake: false };
            match proof::trace(runner, &session, &[ONE, MANY], &args.output) {
                Ok(found) => results.proofs.extend(found),
                Err(error) => results.note(format!("{}, {class:?}, system calls: {error}", peer.label())),
            }
        }
    }
}

fn write(args: &Args, results: &Results) -> Result<(), Failure> {
    let file = |name: &str| -> PathBuf { Path::new(&args.output).join(name) };
    let json = serde_json::to_string_pretty(results)?;
    let markdown = report::markdown(results);
    // First of all, and without a stop: who cannot have the files still reads it, and who closed the pipe has the files.
    let printed = writeln!(std::io::stdout(), "{}", if args.json { &json } else { &markdown });
    std::fs::write(file("results.json"), &json)?;
    std::fs::write(file("results.md"), &markdown)?;
    crate::plot::draw(results, &file("results.svg"))?;
    eprintln!(
        "{}",
        ["results.json", "results.md", "results.svg"].map(|name| file(name).display().to_string()).join(" ")
    );
    Ok(printed?)
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches};

    use super::*;

    fn parsed(words: &[&str]) -> Result<Args, clap::Error> {
        let all = ["run", "--directory", "d", "--output", "o"].iter().chain(words);
        Args::from_arg_matches(&Args::augment_args(clap::Command::new("run")).try_get_matches_from(all)?)
    }

    #[test]
    fn a_run_has_a_round_and_two_cores() {
        assert_eq!(parsed(&["--rounds", "1"]).expect("a round").rounds, Some(1));
        assert!(parsed(&["--rounds", "0"]).is_err());
        assert_eq!(two_cores(&[2, 1]).expect("two cores"), [2, 1]);
        for wrong in [&[0, 0][..], &[0], &[0, 1, 2]] {
            assert!(two_cores(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_round_that_failed_leaves_its_place_empty() {
        let mut results = Results { rounds: 3, ..Results::default() };
        let session = Session { peer: PeerName::Redb, class: Class::Strict, value_bytes: 100, awake: false };
        let figures = |per_second| Figures { per_second, p50_us: 1.0, p99_us: 2.0, count: 1, flushes: None };
        for (round, per_second) in [(0, 5.0), (2, 7.0)] {
            results.add(round, &session, Measured { shape: ONE, figures: figures(per_second) });
        }
        let [series] = results.series.as_slice() else { panic!("one series") };
        assert_eq!(series.rounds, [Some(figures(5.0)), None, Some(figures(7.0))]);
        let json = serde_json::to_value(series).expect("JSON");
        assert_eq!((&json["rounds"][0]["per_second"], &json["rounds"][1]), (&5.0.into(), &serde_json::Value::Null));
    }

    #[test]
    fn what_was_made_goes_also_after_a_failure() {
        let directory = std::env::temp_dir().join(format!("forebay-peers-{}", std::process::id()));
        let made = ["kept", "strace.log"].map(|name| Removed(directory.join(name)));
        std::fs::create_dir_all(made[0].0.join("below")).expect("a directory");
        std::fs::write(&made[1].0, "").expect("a file");
        drop(made);
        // Only an empty one can be removed so.
        std::fs::remove_dir(&directory).expect("nothing is left");
    }

    #[test]
    fn an_output_that_takes_no_file_is_refused() {
        assert!(probe(Path::new("/proc/self")).is_err());
        let directory = std::env::temp_dir().join(format!("forebay-peers-probe-{}", std::process::id()));
        probe(&directory).expect("a directory that takes files");
        std::fs::remove_dir(&directory).expect("nothing is left");
    }
}
