//! What this machine offers, what is missing, and what to do about it. Reads only; changes nothing.

mod machine;
mod nvme;
mod placement;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_sys::uring::{TaskRun, Uring, UringOptions};

use crate::config::{self, Config, Memory, shown};
use crate::device::controller_name::Name;
use crate::device::occupant::what_is_on;
use crate::device::open::{OpenOptions, node, open};

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Check {
    pub name: &'static str,
    pub state: State,
    pub found: String,
    /// A command or a setting, where there is something to gain.
    pub remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ok,
    /// It works, but not as well as it could.
    Warning,
    /// It is not there; a fallback is used.
    Missing,
    /// An appliance cannot run like this.
    Broken,
}

impl State {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Missing => "missing",
            State::Broken => "broken",
        }
    }
}

impl Check {
    fn new(name: &'static str, state: State, found: impl Into<String>) -> Check {
        Check { name, state, found: found.into(), remedy: None }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Check {
        self.remedy = Some(remedy.into());
        self
    }
}

/// All checks; with a `path`, also the tier that a device there would get by this configuration, and why. May block for a
/// read of it.
#[must_use]
pub fn checks(path: Option<&Path>, config: &Config) -> Vec<Check> {
    let mut all = machine::hugepages(Path::new(machine::SYSFS));
    all.extend([machine::hugetlbfs(), machine::memlock(), io_uring(), machine::cores()]);
    all.extend([machine::governor(Path::new(machine::SYSFS)), machine::iommu(), nvme::vfio(), nvme::spdk()]);
    all.extend(nvme::controllers());
    if let Some(path) = path {
        all.extend(tier(path, config));
        all.push(placement::of(path, &config.reactors.cores));
    }
    all
}

/// What a configuration asks of this machine.
#[must_use]
pub fn configured(config: &Config) -> Vec<Check> {
    let mounts = text("/proc/mounts").unwrap_or_default();
    vec![memory(config, Memory::of_this_machine()), flight(config, &mounts)]
}

fn memory(config: &Config, memory: Memory) -> Check {
    let (name, shards) = ("memory", config.format.shards);
    let available = memory.available_bytes.map_or(String::new(), |bytes| format!("; {} available", shown(bytes)));
    let found = format!("{}{available}", config.memory_needed(shards));
    match config.memory_warnings(shards, memory) {
        Err(error) => Check::new(name, State::Broken, format!("{found}: {error}")),
        Ok(warnings) if warnings.is_empty() => Check::new(name, State::Ok, found),
        Ok(warnings) => Check::new(name, State::Warning, found).remedy(warnings.join("; ")),
    }
}

fn flight(config: &Config, mounts: &str) -> Check {
    let name = "flight recorder";
    if !config.flight_recorder() {
        return Check::new(name, State::Missing, "none: buffered writes do not survive kill -9 of the daemon")
            .remedy("set flight.directory, to /dev/shm for example");
    }
    let directory = &config.flight.directory;
    if !directory.is_dir() {
        return Check::new(name, State::Broken, format!("{} is no directory", directory.display()))
            .remedy("set flight.directory, to /dev/shm for example");
    }
    // The mount that a path lies in is the longest that it begins with.
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((Path::new(words.next()?), words.next()?))
    });
    let under =
        mounts.filter(|(place, _)| directory.starts_with(place)).max_by_key(|(place, _)| place.as_os_str().len());
    match under {
        Some((_, "tmpfs" | "ramfs")) => Check::new(name, State::Ok, format!("{} is in memory", directory.display())),
        _ => Check::new(name, State::Warning, format!("{} is not known to be in memory", directory.display()))
            .remedy("set flight.directory to a tmpfs, or each record may cost a disk write"),
    }
}

fn io_uring() -> Check {
    let options = UringOptions { iopoll: false, task_run: TaskRun::Cooperative, span: None, held: None };
    let ring = fs::File::open("/dev/null").and_then(|file| Uring::<()>::new(file, 1, &options));
    let Err(error) = ring else { return Check::new("io_uring", State::Ok, "works") };
    let remedy = match text("/proc/sys/kernel/io_uring_disabled").as_deref() {
        Some("1" | "2") => "allow it: `sysctl kernel.io_uring_disabled=0`",
        _ => "allow the io_uring system calls in the container's seccomp profile",
    };
    Check::new("io_uring", State::Missing, format!("{error}; writes go through pwritev2, one at a time")).remedy(remedy)
}

/// The device, and what power loss takes from it.
fn tier(path: &Path, config: &Config) -> Vec<Check> {
    let config::Device { tier, durability, deallocate, .. } = config.device;
    let (read_only, lock_wait) = (true, Duration::ZERO);
    let options = OpenOptions { read_only, lock_wait, tier, durability, deallocate, ..OpenOptions::default() };
    match open(path, &options) {
        Err(error) => vec![Check::new("device", State::Broken, error.to_string())],
        Ok(device) => {
            let mut found = format!(
                "{}: {}; {}; {}",
                device.label(),
                device.tier().name(),
                device.durability(),
                device.deallocation()
            );
            for note in device.notes() {
                found += &format!("; {note}");
            }
            if Name::parse(path).is_none() {
                found += &match what_is_on(&node(path)) {
                    Ok(Some(what)) => format!("; holds {what}"),
                    Ok(None) => "; holds nothing that is known".to_owned(),
                    Err(error) => format!("; {error}"),
                };
            }
            let state = if device.notes().is_empty() { State::Ok } else { State::Warning };
            vec![Check::new("device", state, found), power_loss(device.volatile_cache())]
        }
    }
}

/// A drive does not say that it has capacitors: one whose cache they protect says that it has no volatile one.
fn power_loss(volatile_cache: Option<bool>) -> Check {
    let name = "power loss";
    match volatile_cache {
        Some(false) => Check::new(name, State::Ok, "takes nothing that was completed: no volatile write cache"),
        Some(true) => Check::new(
            name,
            State::Warning,
            "takes what is in the drive's volatile write cache: each strict write waits until it is through",
        )
        .remedy("take a drive with power-loss protection where that wait is too long"),
        None => Check::new(name, State::Warning, "not known: the kernel does not say what drive this is on")
            .remedy("name a block device, or a file on one"),
    }
}

fn text(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number(path: impl AsRef<Path>) -> Option<u64> {
    text(path)?.parse().ok()
}

/// What is in a directory, sorted; nothing when it cannot be read.
fn entries(directory: impl AsRef<Path>) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    all.sort();
    all
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_says_what_it_found_and_what_could_be_better() {
        let all = checks(None, &Config::default());
        for name in [
            "hugepages",
            "hugetlbfs",
            "locked memory",
            "io_uring",
            "cores",
            "frequency governor",
            "IOMMU",
            "SPDK",
            "NVMe",
        ] {
            let check = all.iter().find(|check| check.name == name).unwrap();
            assert!(!check.found.is_empty(), "{name}");
            assert!(check.state != State::Warning || check.remedy.is_some(), "{check:?}");
        }
        assert!(all.iter().all(|check| !["device", "power loss", "placement"].contains(&check.name)));
    }

    #[test]
    fn a_path_gets_its_tier_or_the_reason_why_not() {
        let path = std::env::temp_dir().join(format!("forebay-doctor-{}", std::process::id()));
        fs::write(&path, [0; 8192]).unwrap();
        let all = checks(Some(&path), &Config::default());
        fs::remove_file(&path).unwrap();
        let of = |name: &str| all.iter().find(|check| check.name == name).unwrap();
        assert!(of("device").state != State::Broken && of("device").found.contains("file ("), "{all:?}");
        assert!(!of("power loss").found.is_empty() && !of("placement").found.is_empty());
        let gone = tier(&path, &Config::default()).pop().unwrap();
        assert!(gone.state == State::Broken && gone.found.contains("forebay format"), "{gone:?}");
    }

    #[test]
    fn power_loss_takes_what_a_volatile_cache_holds() {
        assert_eq!(power_loss(Some(false)).state, State::Ok);
        for cache in [Some(true), None] {
            assert!(power_loss(cache).state == State::Warning && power_loss(cache).remedy.is_some());
        }
    }

    #[test]
    fn a_configuration_is_held_against_the_machine() {
        let mut config = Config::default();
        let with = |available_bytes| Memory { available_bytes: Some(available_bytes), hugepage_bytes: 0 };
        assert_eq!(memory(&config, with(1 << 20)).state, State::Broken);
        assert_eq!(memory(&config, with(1 << 30)).state, State::Warning);
        assert_eq!(memory(&config, with(1 << 50)).state, State::Ok);
        let mounts = "/dev/x1 / ext4 rw 0 0\ntmpfs /dev tmpfs rw 0 0";
        config.flight.directory = "/dev".into();
        assert_eq!(flight(&config, mounts).state, State::Ok);
        config.flight.directory = "/".into();
        assert_eq!(flight(&config, mounts).state, State::Warning);
        config.flight.directory = "/nonexistent".into();
        assert_eq!(flight(&config, mounts).state, State::Broken);
        config.flight.directory = "".into();
        assert_eq!(flight(&config, mounts).state, State::Missing);
    }
}
