//! Names of controllers that SPDK drives: `pcie:0000:00:04.0`, `vfio-user:/run/target`, `tcp:192.0.2.1:4420/NQN`, each
//! with `@2` for one namespace of several.

use std::path::Path;

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

    /// Other hosts may use the namespace too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.kind == "tcp"
    }
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
}
