//! Whether the reactors' cores are on the NUMA node of the drive.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::{Check, State, entries, file_name, text};
use crate::device::controller_name::Name;
use crate::device::drive::sysfs;
use crate::device::open::node;

const NODES: &str = "/sys/devices/system/node";

/// The drive below `path`, beside `reactors.cores`.
pub fn of(path: &Path, cores: &[usize]) -> Check {
    let nodes = entries(NODES).iter().filter(|path| is_node(path)).count();
    let at = node_of(path).and_then(|node| Some((node, text(format!("{NODES}/node{node}/cpulist"))?)));
    check(at.as_ref().map(|(node, list)| (*node, list.as_str())), nodes, cores)
}

fn is_node(path: &Path) -> bool {
    file_name(path).strip_prefix("node").is_some_and(|number| number.parse::<u32>().is_ok())
}

/// The NUMA node that the kernel names for the drive or the controller; None where it names none.
fn node_of(path: &Path) -> Option<u32> {
    let device = match Name::parse(path) {
        Some(name) if name.kind == "pcie" => PathBuf::from("/sys/bus/pci/devices").join(name.address),
        Some(_) => return None,
        None => {
            let metadata = node(path).metadata().ok()?;
            let block = metadata.file_type().is_block_device();
            sysfs(if block { metadata.rdev() } else { metadata.dev() })
        }
    };
    let device = device.canonicalize().ok()?;
    let told = device.ancestors().find_map(|path| text(path.join("numa_node")))?;
    // -1: not told.
    told.parse().ok()
}

fn check(at: Option<(u32, &str)>, nodes: usize, cores: &[usize]) -> Check {
    let name = "placement";
    let Some((node, list)) = at.filter(|_| nodes > 1) else {
        return Check::new(
            name,
            State::Ok,
            if nodes > 1 { "the kernel names no NUMA node of the drive" } else { "one NUMA node" },
        );
    };
    let remedy = format!("name cores of {list} in reactors.cores");
    let near = numbers(list);
    let far: Vec<String> = cores.iter().filter(|core| !near.contains(core)).map(ToString::to_string).collect();
    match far.is_empty() {
        true if cores.is_empty() => {
            let found =
                format!("the drive is at NUMA node {node}, and reactors are not pinned: they may run at another");
            Check::new(name, State::Warning, found).remedy(remedy)
        }
        true => Check::new(name, State::Ok, format!("the drive and reactors.cores are at NUMA node {node}")),
        false => {
            let found = format!(
                "the drive is at NUMA node {node}, and of reactors.cores {} are at another: each of their commands crosses over",
                far.join(", ")
            );
            Check::new(name, State::Warning, found).remedy(remedy)
        }
    }
}

/// The cores of a list as the kernel writes it: "0-3,8".
fn numbers(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_of_another_node_are_named() {
        let state = |at, nodes, cores: &[usize]| check(at, nodes, cores).state;
        assert_eq!(numbers("0-2,8"), [0, 1, 2, 8]);
        assert_eq!(numbers(""), [0; 0]);
        let at = Some((1, "4-7,12-15"));
        assert_eq!(state(at, 2, &[4, 15]), State::Ok);
        assert_eq!(state(at, 2, &[]), State::Warning);
        assert_eq!((state(at, 1, &[]), state(None, 2, &[0])), (State::Ok, State::Ok));
        let far = check(at, 2, &[3, 4, 8]);
        assert!(far.state == State::Warning && far.found.contains("reactors.cores 3, 8 are at another"), "{far:?}");
        assert!(far.remedy.unwrap().contains("4-7,12-15"));
    }
}
