//! The NVMe drives of this machine: who drives each controller, and what its namespaces say of themselves.

use std::path::{Path, PathBuf};

use super::{Check, State, entries, file_name, text};
use crate::device::drive::Drive;
use crate::device::health::{Health, celsius, warnings_in};
use crate::device::hwmon::Hwmon;
use crate::device::nvme::Namespace;

/// The class of an NVMe controller on the PCI bus.
const CLASS: &str = "0x010802";

/// Whether the kernel can hand a whole controller to a user-space driver.
pub fn vfio() -> Check {
    if Path::new("/sys/bus/pci/drivers/vfio-pci").exists() {
        return Check::new("VFIO", State::Ok, "vfio-pci is loaded");
    }
    Check::new("VFIO", State::Missing, "vfio-pci is not loaded; a whole controller cannot be taken over")
        .remedy("only for the tier spdk: `setup/host.sh config --bind ADDRESS`")
}

/// Whether this build can drive a controller by itself.
pub fn spdk() -> Check {
    #[cfg(feature = "spdk")]
    {
        let (year, month) = forebay_sys::spdk::VERSION;
        Check::new("SPDK", State::Ok, format!("this build has SPDK {year}.{month:02}"))
    }
    #[cfg(not(feature = "spdk"))]
    Check::new("SPDK", State::Missing, "this build is without, so without the tier spdk (pcie:, vfio-user:, tcp:)")
        .remedy("only for that tier: `cargo build --release --features spdk` (vendor/README.md)")
}

/// One check for each NVMe controller on the PCI bus, whatever driver has it, and one for each of its namespaces.
pub fn controllers() -> Vec<Check> {
    let is_nvme = |device: &PathBuf| text(device.join("class")).is_some_and(|class| class.starts_with(CLASS));
    let all: Vec<PathBuf> = entries("/sys/bus/pci/devices").into_iter().filter(is_nvme).collect();
    if all.is_empty() {
        return vec![Check::new("NVMe", State::Missing, "no controller on the PCI bus")];
    }
    all.iter().flat_map(|device| std::iter::once(controller(device)).chain(namespaces(device))).collect()
}

fn controller(device: &Path) -> Check {
    let driver = std::fs::read_link(device.join("driver")).map_or("no driver".to_owned(), |link| file_name(&link));
    let node = text(device.join("numa_node")).filter(|node| node != "-1");
    let node = node.map_or("the only one".to_owned(), |node| format!("{node}, cores {}", cores_of(&node)));
    let found = format!("{}: driver {driver}, NUMA node {node}", file_name(device));
    match driver.as_str() {
        "nvme" | "vfio-pci" | "uio_pci_generic" => Check::new("NVMe", State::Ok, found),
        _ => Check::new("NVMe", State::Warning, found).remedy("load a driver: `modprobe nvme`"),
    }
}

fn cores_of(node: &str) -> String {
    text(format!("/sys/devices/system/node/node{node}/cpulist")).unwrap_or_else(|| "unknown".to_owned())
}

/// The namespaces that the kernel's driver shows of a controller.
fn namespaces(device: &Path) -> Vec<Check> {
    let shown = entries(device.join("nvme")).into_iter().flat_map(entries);
    let disks = shown.filter(|path| path.join("queue").is_dir()).map(|path| visible(&file_name(&path)));
    disks.filter_map(|name| namespace(&name)).collect()
}

/// With native multipath a controller's own disk is hidden, "nvme0c1n2"; what can be opened is "nvme0n2".
fn visible(name: &str) -> String {
    let Some((subsystem, rest)) = name.split_once('c') else { return name.to_owned() };
    match rest.split_once('n') {
        Some((_, namespace)) => format!("{subsystem}n{namespace}"),
        None => name.to_owned(),
    }
}

fn namespace(name: &str) -> Option<Check> {
    let drive = Drive::at(&Path::new("/sys/class/block").join(name))?;
    let polls = if drive.polls { "queues polled" } else { "queues not polled" };
    let mut found = format!("/dev/{name}: blocks of {} B, {polls}", drive.logical_block_bytes);
    let mut remedies = Vec::new();
    if !drive.polls {
        remedies.push("for polling: `setup/host.sh config --poll-queues N`, and reboot".to_owned());
    }
    let opened = drive.generic().map(std::fs::File::open);
    let health = opened.as_ref().and_then(|opened| Health::read(opened.as_ref().ok()?).ok());
    let temperature = Hwmon::of(name).and_then(|hwmon| hwmon.read());
    if let Some(health) = health {
        found += &format!("; {} C, {} % used", celsius(health.temperature_kelvin), health.used_percent);
        remedies.extend(
            warnings_in(health.critical_warning).map(|warning| format!("the drive warns: {warning}; replace it")),
        );
    } else if let Some(temperature) = temperature {
        found += &format!("; {} C (its monitor)", celsius(temperature.kelvin));
        remedies.push("run as root to see its whole health".to_owned());
        remedies.extend(temperature.alarm.then(|| "the drive is too warm: look at its cooling".to_owned()));
    }
    if let Some(Ok(file)) = &opened
        && let Ok(namespace) = Namespace::identify(file)
    {
        let cache = if namespace.volatile_cache {
            "volatile write cache (no power-loss protection of it), FUA on each write"
        } else {
            "no volatile write cache (power loss takes nothing that was completed)"
        };
        let deallocates = if namespace.deallocate_bytes_max > 0 { "deallocates" } else { "does not deallocate" };
        let Namespace { model, serial, atomic_write_bytes, .. } = &namespace;
        found += &format!(
            "; {model}, serial {serial}; {cache}; {deallocates}; {atomic_write_bytes} B written whole at power loss (AWUPF)"
        );
        remedies.extend(namespace.unusable().map(|why| format!("it cannot be used: {why}")));
    } else {
        found += if drive.volatile_cache { "; volatile write cache" } else { "; no volatile write cache" };
        remedies.push("run as root to see what the drive says of itself".to_owned());
    }
    let check = Check::new("NVMe", if remedies.is_empty() { State::Ok } else { State::Warning }, found);
    Some(if remedies.is_empty() { check } else { check.remedy(remedies.join("; ")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_path_has_the_name_of_its_disk() {
        assert_eq!(visible("nvme0c1n2"), "nvme0n2");
        assert_eq!(visible("nvme10n1"), "nvme10n1");
    }
}
