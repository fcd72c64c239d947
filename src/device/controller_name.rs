//! Names of controllers that SPDK drives: `pcie:0000:00:04.0`, `vfio-user:/run/target`, `tcp:192.0.2.1:4420/NQN`, each
//! with `@2` for one namespace of several.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;

use crate::error::{Error, Result};

const KINDS: [&str; 3] = ["pcie", "vfio-user", "tcp"];

/// A name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub text: String,
    /// "pcie", "vfio-user" or "tcp".
    pub kind: &'static str,
    pub address: String,
    pub namespace: Option<u32>,
}

impl Name {
    /// None for the path of a file or block device; `./tcp:x` is a file.
    #[must_use]
    pub fn parse(path: &Path) -> Option<Name> {
        let text = path.to_str()?;
        let (kind, rest) = text.split_once(':')?;
        let kind = KINDS.into_iter().find(|known| *known == kind)?;
        let numbered = rest.rsplit_once('@').and_then(|(address, number)| Some((address, number.parse().ok()?)));
        let (address, namespace) = numbered.map_or((rest, None), |(address, number)| (address, Some(number)));
        Some(Name { text: text.to_owned(), kind, address: address.to_owned(), namespace })
    }

    /// Whether it can be a name of its kind at all, whatever this build drives and this machine has.
    ///
    /// # Errors
    /// What is wrong with it, with a right one.
    pub fn check(&self) -> Result<()> {
        let malformed = |what: &str, right: &str| Err(Error::new(what).remedy(format!("name one as {right}")));
        if self.namespace == Some(0) {
            return malformed("namespace 0 of a controller; they are numbered from 1", "pcie:0000:01:00.0@1");
        }
        match self.kind {
            "pcie" if !is_pci_address(&self.address) => malformed(
                "not the PCI address of a controller",
                "pcie:0000:01:00.0, with @2 behind it for its namespace 2 (`lspci -D | grep -i nvme` lists them)",
            ),
            "vfio-user" if self.address.is_empty() => {
                malformed("no directory of a vfio-user target", "vfio-user:/run/target")
            }
            "tcp" => self.tcp().map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Host, port and subsystem of an NVMe/TCP target.
    ///
    /// # Errors
    /// When the address does not have these parts.
    pub fn tcp(&self) -> Result<(IpAddr, u16, String)> {
        let parts = self.address.split_once('/').and_then(|(at, subsystem)| {
            let (host, port) = at.rsplit_once(':')?;
            Some((host.trim_matches(['[', ']']).parse().ok()?, port.parse().ok()?, subsystem.to_owned()))
        });
        parts.filter(|(_, _, subsystem)| !subsystem.is_empty()).ok_or_else(|| {
            Error::new("not an address of NVMe/TCP").remedy("name one as tcp:192.0.2.1:4420/nqn.2026-01.io.example:x")
        })
    }

    /// Other hosts may use the namespace too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.kind == "tcp"
    }
}

/// A full one, domain:bus:device.function, as "0000:01:00.0".
fn is_pci_address(text: &str) -> bool {
    let hex = |part: &str, digits: RangeInclusive<usize>| {
        digits.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let Some((rest, function)) = text.rsplit_once('.') else { return false };
    let parts: Vec<&str> = rest.split(':').collect();
    let [domain, bus, device] = parts[..] else { return false };
    hex(domain, 4..=8) && hex(bus, 2..=2) && hex(device, 2..=2) && matches!(function.as_bytes(), [b'0'..=b'7'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_controllers_are_told_from_paths() {
        let parse = |text: &str| Name::parse(Path::new(text));
        let parts = |text: &str| parse(text).map(|name| (name.kind, name.address, name.namespace)).unwrap();
        assert_eq!(parts("pcie:0000:00:04.0"), ("pcie", "0000:00:04.0".into(), None));
        assert_eq!(parts("vfio-user:/run/a@b@2"), ("vfio-user", "/run/a@b".into(), Some(2)));
        assert_eq!(parts("tcp:[::1]:4420/nqn.x:y@1"), ("tcp", "[::1]:4420/nqn.x:y".into(), Some(1)));
        for path in ["forebay.img", "/dev/nvme0n1", "./tcp:x", "/a/pcie:0", "disk:1", "vfio-user"] {
            assert_eq!(parse(path), None, "{path}");
        }
    }

    #[test]
    fn a_name_that_none_can_have_is_told_before_anything_is_tried() {
        let check = |text: &str| Name::parse(Path::new(text)).unwrap().check();
        for text in ["pcie:0000:00:04.0", "pcie:10000:e1:00.7@3", "vfio-user:/run/a", "tcp:[::1]:4420/nqn.x:y@1"] {
            assert!(check(text).is_ok(), "{text}");
        }
        for (text, wrong) in [
            ("pcie:04.0", "not the PCI address"),
            ("pcie:0000:00:04.8", "not the PCI address"),
            ("pcie:0000:00:04.0@x", "not the PCI address"),
            ("pcie:0000:00:04.0@0", "numbered from 1"),
            ("pcie:", "not the PCI address"),
            ("vfio-user:", "no directory"),
            ("tcp:host:4420/nqn", "not an address"),
            ("tcp:192.0.2.1:4420/", "not an address"),
            ("tcp:192.0.2.1:99999/nqn", "not an address"),
        ] {
            let told = check(text).unwrap_err().to_string();
            assert!(told.contains(wrong) && told.contains("name one as"), "{text}: {told}");
        }
    }
}
