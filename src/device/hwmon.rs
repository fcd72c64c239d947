//! The temperature of an NVMe controller as the kernel shows it to everybody: its hardware monitor (`nvme/host/hwmon.c`,
//! since Linux 5.5, with CONFIG_NVME_HWMON). The kernel asks the controller itself, at most once a second.

use std::fs::{read_dir, read_link, read_to_string};
use std::path::{Path, PathBuf};

/// What is known of a drive's health without asking the drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Temperature {
    pub kelvin: u16,
    /// The drive says that it is beyond its threshold: bit 1 of the critical warnings.
    pub alarm: bool,
}

/// The monitor of one controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hwmon(PathBuf);

impl Hwmon {
    /// That of the NVMe disk with this name ("nvme0n1"); of the first controller that has one.
    #[must_use]
    pub fn of(disk: &str) -> Option<Hwmon> {
        Hwmon::at(&Path::new("/sys/class/block").join(disk))
    }

    /// The same, by the directory in which the kernel describes the disk.
    #[must_use]
    pub fn at(disk: &Path) -> Option<Hwmon> {
        let owner = disk.join("device").canonicalize().ok()?;
        // With native multipath the owner is a subsystem, which links its controllers.
        let mut controllers: Vec<PathBuf> =
            named(&owner, "nvme").into_iter().filter(|path| read_link(path).is_ok()).collect();
        controllers.push(owner);
        controllers.iter().find_map(|controller| Hwmon::below(controller))
    }

    /// It stands with the controller, and before Linux 5.19 or so with its PCI function, in a folder of monitors or not.
    fn below(controller: &Path) -> Option<Hwmon> {
        let places = [controller.to_owned(), controller.join("device")];
        let found = places.iter().flat_map(|place| named(place, "hwmon"));
        let mut found = found.flat_map(|path| named(&path, "hwmon").into_iter().chain([path]));
        found.find(|path| path.join("temp1_input").exists()).map(Hwmon)
    }

    /// Blocks for a command when nobody asked in the last second.
    #[must_use]
    pub fn read(&self) -> Option<Temperature> {
        let number = |name: &str| read_to_string(self.0.join(name)).ok()?.trim().parse::<i64>().ok();
        // In thousandths of a degree Celsius, from whole Kelvin.
        let kelvin = (number("temp1_input")? + 273_150) / 1_000;
        Some(Temperature {
            kelvin: u16::try_from(kelvin).ok()?,
            alarm: number("temp1_alarm").is_some_and(|on| on != 0),
        })
    }
}

fn named(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
pub mod tests {
    use std::fs::{create_dir_all, remove_dir_all, write};
    use std::os::unix::fs::symlink;

    use super::*;

    /// A made-up /sys with a disk whose monitor stands at `place` below the controller nvme0; removed with it.
    pub struct Tree(PathBuf);

    impl Tree {
        pub fn new(name: &str, place: &str) -> Tree {
            let tree = Tree(std::env::temp_dir().join(format!("forebay-hwmon-{name}-{}", std::process::id())));
            let controller = tree.0.join("0000:01:00.0/nvme0");
            create_dir_all(tree.disk()).unwrap();
            create_dir_all(&controller).unwrap();
            symlink(tree.0.join("0000:01:00.0"), controller.join("device")).unwrap();
            create_dir_all(controller.join(place)).unwrap();
            symlink(controller.join(place), tree.0.join("monitor")).unwrap();
            symlink(controller, tree.disk().join("device")).unwrap();
            tree
        }

        pub fn disk(&self) -> PathBuf {
            self.0.join("block/nvme0n1")
        }

        pub fn say(&self, file: &str, value: &str) {
            write(self.0.join("monitor").join(file), format!("{value}\n")).unwrap();
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_temperature_is_found_where_kernels_put_it() {
        for (name, place) in [("own", "hwmon3"), ("folder", "hwmon/hwmon3"), ("function", "device/hwmon/hwmon3")] {
            let tree = Tree::new(name, place);
            assert_eq!(Hwmon::at(&tree.disk()), None, "{place}: a monitor without a temperature");
            tree.say("temp1_input", "49850");
            let hwmon = Hwmon::at(&tree.disk()).unwrap();
            assert_eq!(hwmon.read(), Some(Temperature { kelvin: 323, alarm: false }));
            tree.say("temp1_input", "-1150");
            tree.say("temp1_alarm", "1");
            assert_eq!(hwmon.read(), Some(Temperature { kelvin: 272, alarm: true }));
            tree.say("temp1_input", "hot");
            assert_eq!(hwmon.read(), None);
        }
    }

    #[test]
    fn a_subsystem_s_controllers_are_looked_at() {
        let tree = Tree::new("paths", "hwmon0");
        tree.say("temp1_input", "26850");
        let subsystem = tree.0.join("nvme-subsys0");
        let disk = subsystem.join("nvme0n1");
        create_dir_all(&disk).unwrap();
        symlink(&subsystem, disk.join("device")).unwrap();
        symlink(tree.0.join("0000:01:00.0/nvme0"), subsystem.join("nvme0")).unwrap();
        assert_eq!(Hwmon::at(&disk).and_then(|hwmon| hwmon.read()), Some(Temperature { kelvin: 300, alarm: false }));
        assert_eq!(Hwmon::at(&tree.0), None);
    }
}
