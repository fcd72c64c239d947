//! What memory this machine has left, and whether a configuration fits it.

use std::fs;
use std::path::Path;

use super::{ByteSize, Config};
use crate::error::{Error, Result};

const HUGEPAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
const HUGEPAGE_BYTES: u64 = 2 << 20;

/// Memory that can still be had. `None`: it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Of ordinary pages: of the machine, or of the control group that this process is in.
    pub available_bytes: Option<u64>,
    /// In free hugepages of 2 MiB, which are not among those.
    pub hugepage_bytes: u64,
}

impl Memory {
    /// Reads /proc and /sys.
    #[must_use]
    pub fn of_this_machine() -> Memory {
        let machine = text("/proc/meminfo").and_then(|text| meminfo_bytes(&text, "MemAvailable"));
        let group = text("/proc/self/cgroup").and_then(|text| group_bytes(Path::new("/sys/fs/cgroup"), &text));
        Memory {
            available_bytes: [machine, group].into_iter().flatten().min(),
            hugepage_bytes: text(HUGEPAGES).and_then(|text| text.parse().ok()).unwrap_or(0) * HUGEPAGE_BYTES,
        }
    }
}

impl Config {
    /// What an appliance of so many shards needs at most, in a line: the sum and its parts.
    #[must_use]
    pub fn memory_needed(&self, shards: u32) -> String {
        let parts = self.memory_parts(shards);
        let list: Vec<String> =
            parts.iter().map(|part| format!("{} {} ({})", shown(part.bytes), part.name, part.reason)).collect();
        format!("this configuration needs at most {}: {}", shown(self.memory_bytes(shards)), list.join(", "))
    }

    /// The sum of the parts.
    #[must_use]
    pub fn memory_bytes(&self, shards: u32) -> u64 {
        self.memory_parts(shards).iter().map(|part| part.bytes).fold(0, u64::saturating_add)
    }

    /// What a person should know of how this fits the machine.
    ///
    /// # Errors
    /// When not even the frame buffers fit, which are taken at the start. All else is taken as far as it is used.
    pub fn memory_warnings(&self, shards: u32, memory: Memory) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let buffers = self.frame_buffer_bytes(shards, self.reactors.count().min(shards));
        let huge = self.device.hugepages && memory.hugepage_bytes >= buffers;
        if self.device.hugepages && memory.hugepage_bytes > 0 && !huge {
            warnings.push(format!(
                "the frame buffers need {}, and {} are in free hugepages: they come from ordinary memory; reserve {} \
                 pages (`setup/host.sh config --hugepages NODE=COUNT`)",
                shown(buffers),
                shown(memory.hugepage_bytes),
                buffers.div_ceil(HUGEPAGE_BYTES)
            ));
        }
        let Some(available) = memory.available_bytes else { return Ok(warnings) };
        let ordinary = if huge { buffers } else { 0 };
        if !huge && buffers > available {
            return Err(Error::new(format!(
                "the frame buffers need {}, and {} of memory are available",
                shown(buffers),
                shown(available)
            ))
            .remedy("lower wal.frame_bytes_max or wal.frames_in_flight_max, or start fewer reactors"));
        }
        let needed = self.memory_bytes(shards) - ordinary;
        if needed > available {
            warnings.push(format!(
                "at most {} are needed, and {} of memory are available; lower limits.memory_bytes_max, \
                 limits.sessions_max or rings.arena_bytes, or the kernel may end the daemon when all of it is used",
                shown(needed),
                shown(available)
            ));
        }
        Ok(warnings)
    }
}

/// "3.2 GiB", for people.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
pub fn shown(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => ByteSize(bytes).to_string(),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes.div_ceil(1 << 20)),
        _ => format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64),
    }
}

fn text(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// A line of /proc/meminfo in bytes.
fn meminfo_bytes(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// What the control groups (version 2) above a process leave it; `None` where none of them has a limit.
fn group_bytes(root: &Path, membership: &str) -> Option<u64> {
    let group = membership.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let left = |group: &Path| {
        let bytes = |name: &str| text(root.join(group).join(name))?.parse::<u64>().ok();
        Some(bytes("memory.max")?.saturating_sub(bytes("memory.current")?))
    };
    Path::new(group).ancestors().filter_map(left).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_told_with_its_parts() {
        let config = Config::default();
        let line = config.memory_needed(4);
        assert!(line.starts_with("this configuration needs at most 5.0 GiB: 1.0 GiB spaces and streams"), "{line}");
        for part in config.memory_parts(4) {
            assert!(line.contains(part.name) && line.contains(&part.reason), "{line}");
        }
        assert_eq!([shown(5_000), shown(1 << 20), shown(3 << 29)], ["5000B", "1 MiB", "1.5 GiB"]);
    }

    #[test]
    fn what_is_taken_at_once_has_to_fit_and_the_rest_is_warned_of() {
        let mut config = Config::default();
        let on = |available_bytes, hugepage_bytes| Memory { available_bytes: Some(available_bytes), hugepage_bytes };
        let warnings = |config: &Config, memory| config.memory_warnings(4, memory).map_err(|error| error.to_string());
        assert_eq!(warnings(&config, on(64 << 30, 0)), Ok(vec![]));
        assert_eq!(warnings(&config, Memory::default()), Ok(vec![]), "nothing is known");
        let told = warnings(&config, on(2 << 30, 0)).expect("it may run");
        assert!(
            told.len() == 1 && told[0].contains("2.0 GiB of memory are available; lower limits.memory"),
            "{told:?}"
        );
        let refused = warnings(&config, on(1 << 20, 0)).expect_err("8 MiB of buffers do not fit");
        assert!(
            refused.contains("the frame buffers need 8 MiB, and 1 MiB") && refused.contains("lower wal."),
            "{refused}"
        );
        // Hugepages are memory that is not among what is available.
        let told = warnings(&config, on(1 << 20, 8 << 20)).expect("they hold the buffers");
        assert!(told.len() == 1 && told[0].contains("at most"), "{told:?}");
        let told = warnings(&config, on(64 << 30, 6 << 20)).expect("it may run");
        assert!(told.len() == 1 && told[0].contains("reserve 4 pages"), "{told:?}");
        config.device.hugepages = false;
        assert_eq!(warnings(&config, on(64 << 30, 6 << 20)), Ok(vec![]));
    }

    #[test]
    fn the_machine_is_read() {
        assert_eq!(meminfo_bytes("MemTotal: 9 kB\nMemAvailable:    2048 kB\n", "MemAvailable"), Some(2 << 20));
        assert!(Memory::of_this_machine().available_bytes.is_some_and(|bytes| bytes > 1 << 20));
        let root = std::env::temp_dir().join(format!("forebay-groups-{}", std::process::id()));
        fs::create_dir_all(root.join("a/b")).unwrap();
        for (name, value) in [("a/memory.max", "5000\n"), ("a/memory.current", "1000\n"), ("a/b/memory.max", "max\n")] {
            fs::write(root.join(name), value).unwrap();
        }
        let found = ["0::/a/b", "0::/", "1:name=x:/a\n", ""].map(|membership| group_bytes(&root, membership));
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(found, [Some(4_000), None, None, None], "the limit of the group above holds too");
    }
}
