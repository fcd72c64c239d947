//! Memory, cores and the IOMMU. The remedies are those of `setup/host.sh status`.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Check, State, entries, file_name, number, text};
use crate::device::hugetlbfs::mount;

pub const SYSFS: &str = "/sys";
const HUGEPAGES: &str = "hugepages/hugepages-2048kB";

/// One check for each NUMA node.
pub fn hugepages(sysfs: &Path) -> Vec<Check> {
    let nodes = entries(sysfs.join("devices/system/node")).into_iter().filter_map(|path| {
        let node = file_name(&path).strip_prefix("node")?.parse::<u32>().ok()?;
        Some(of_node(node, &path.join(HUGEPAGES)))
    });
    let mut all: Vec<Check> = nodes.collect();
    if all.is_empty() {
        // A kernel without NUMA.
        all.push(of_node(0, &sysfs.join("kernel/mm").join(HUGEPAGES)));
    }
    all
}

fn of_node(node: u32, directory: &Path) -> Check {
    let name = "hugepages";
    let of = |name: &str| number(directory.join(name));
    let Some((free, all)) = of("free_hugepages").zip(of("nr_hugepages")) else {
        return Check::new(name, State::Missing, format!("node {node}: this kernel has none of 2 MiB"));
    };
    let remedy = format!("`setup/host.sh config --hugepages {node}=COUNT`");
    match (free, all) {
        (_, 0) => {
            let found = format!("node {node}: none of 2 MiB; DMA buffers of its cores come from ordinary memory");
            Check::new(name, State::Missing, found).remedy(format!("reserve some: {remedy}"))
        }
        (0, _) => Check::new(name, State::Warning, format!("node {node}: all {all} of 2 MiB are in use"))
            .remedy(format!("reserve more: {remedy}")),
        _ => Check::new(name, State::Ok, format!("node {node}: {free} of {all} free (2 MiB)")),
    }
}

/// Where SPDK takes hugepages from.
pub fn hugetlbfs() -> Check {
    let name = "hugetlbfs";
    match mount() {
        Some(path) => Check::new(name, State::Ok, format!("{}, for the tier spdk", path.display())),
        None => Check::new(name, State::Missing, "none of 2 MiB pages that this user may write to")
            .remedy("only for the tier spdk: `setup/host.sh config --hugepages NODE=COUNT --user NAME`"),
    }
}

pub fn memlock() -> Check {
    let limits = text("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max locked memory"));
    let limit = line.and_then(|line| line.split_whitespace().nth(3)).unwrap_or("unknown");
    let name = "locked memory";
    match limit.parse::<u64>() {
        Ok(bytes) if bytes < (64 << 20) => {
            let found = format!(
                "limit {} KiB, for this shell (forebay.service has its own): io_uring buffers stay unregistered",
                bytes >> 10
            );
            Check::new(name, State::Warning, found).remedy("`setup/host.sh config --user NAME`, and log in again")
        }
        Ok(bytes) => Check::new(name, State::Ok, format!("limit {} KiB", bytes >> 10)),
        Err(_) => Check::new(name, State::Ok, limit),
    }
}

pub fn cores() -> Check {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let isolated = text("/sys/devices/system/cpu/isolated").unwrap_or_default();
    if !isolated.is_empty() {
        return Check::new("cores", State::Ok, format!("{cores} usable, isolated: {isolated}"));
    }
    let found = format!("{cores} usable, none isolated: the tail of latency is the scheduler's");
    Check::new("cores", State::Warning, found).remedy(
        "boot with `isolcpus=managed_irq,domain,LIST nohz_full=LIST rcu_nocbs=LIST`, and name LIST in reactors.cores",
    )
}

/// Of every core: the slowest one may be a reactor's.
pub fn governor(sysfs: &Path) -> Check {
    let name = "frequency governor";
    let mut counts = BTreeMap::<String, usize>::new();
    for core in entries(sysfs.join("devices/system/cpu")) {
        if let Some(governor) = text(core.join("cpufreq/scaling_governor")) {
            *counts.entry(governor).or_default() += 1;
        }
    }
    let all: usize = counts.values().sum();
    let shown: Vec<String> =
        counts.iter().map(|(governor, count)| format!("{governor} on {count} of {all} cores")).collect();
    match counts.get("performance") {
        _ if all == 0 => Check::new(name, State::Ok, "none (virtual machine, or fixed frequency)"),
        Some(count) if *count == all => Check::new(name, State::Ok, shown.join(", ")),
        _ => Check::new(name, State::Warning, shown.join(", ")).remedy("`cpupower frequency-set -g performance`"),
    }
}

pub fn iommu() -> Check {
    if entries("/sys/class/iommu").is_empty() {
        return Check::new("IOMMU", State::Missing, "none active, so no vfio-pci").remedy(
            "only for the tier spdk: enable it in the firmware, and boot with `intel_iommu=on` or `amd_iommu=on`",
        );
    }
    Check::new("IOMMU", State::Ok, "active")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A machine of two NUMA nodes and four cores.
    fn machine(name: &str, pages: [(&str, &str); 2], governors: &[&str]) -> std::path::PathBuf {
        let root = std::env::temp_dir().join(format!("forebay-machine-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for (node, (free, all)) in pages.into_iter().enumerate() {
            let directory = root.join(format!("devices/system/node/node{node}")).join(HUGEPAGES);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("free_hugepages"), free).unwrap();
            fs::write(directory.join("nr_hugepages"), all).unwrap();
        }
        for (core, governor) in governors.iter().enumerate() {
            let directory = root.join(format!("devices/system/cpu/cpu{core}/cpufreq"));
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("scaling_governor"), governor).unwrap();
        }
        root
    }

    #[test]
    fn every_node_and_every_core_counts() {
        let root = machine("mixed", [("3\n", "8\n"), ("0\n", "0\n")], &["performance", "performance", "powersave"]);
        let (pages, speed) = (hugepages(&root), governor(&root));
        assert_eq!(pages.iter().map(|check| check.state).collect::<Vec<_>>(), [State::Ok, State::Missing]);
        assert!(pages[0].found.contains("node 0: 3 of 8 free"), "{pages:?}");
        assert!(pages[1].remedy.as_ref().unwrap().contains("host.sh config --hugepages 1=COUNT"), "{pages:?}");
        assert_eq!(
            (speed.state, speed.found.as_str()),
            (State::Warning, "performance on 2 of 3 cores, powersave on 1 of 3 cores")
        );
        let root = machine("used", [("0\n", "8\n"), ("8\n", "8\n")], &["performance"; 4]);
        assert_eq!((hugepages(&root)[0].state, governor(&root).state), (State::Warning, State::Ok));
        let root = machine("bare", [("x", "y"), ("", "")], &[]);
        assert_eq!((hugepages(&root)[1].state, governor(&root).state), (State::Missing, State::Ok));
        for name in ["mixed", "used", "bare"] {
            fs::remove_dir_all(machine(name, [("0", "0"); 2], &[])).unwrap();
        }
    }
}
