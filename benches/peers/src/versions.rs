//! What was measured, and on what, by version: figures without it say nothing later.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serializer;

use crate::case::PeerName;

/// Of what, and which.
pub type Version = (&'static str, String);

/// What cargo built the libraries from.
const LOCK: &str = include_str!("../Cargo.lock");

/// Of what is here and can be told; of the peers only those wanted.
pub fn all(is_wanted: impl Fn(PeerName) -> bool) -> Vec<Version> {
    let mut versions: Vec<Version> = Vec::new();
    let mut add = |name, version: Option<String>| versions.extend(version.map(|version| (name, version)));
    add("date", said(Command::new("date").args(["--utc", "+%F"])));
    add("processor", processor(&read("/proc/cpuinfo")));
    add("Linux", linux(&read("/proc/sys/kernel/osrelease")));
    for peer in PeerName::ALL.into_iter().filter(|peer| is_wanted(*peer)) {
        add(peer.label(), version(peer));
    }
    versions
}

/// As an object: a list of pairs keeps their order, and a map would not.
pub fn as_object<S: Serializer>(versions: &[Version], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(versions.iter().map(|(name, version)| (name, version)))
}

fn version(peer: PeerName) -> Option<String> {
    let with = |version: &str, package: &str| Some(format!("{version}, crate {package} {}", locked(package)?));
    match peer {
        PeerName::Forebay => {
            let version = locked("forebay")?;
            Some(commit().map_or_else(|| version.to_owned(), |commit| format!("{version}, {commit}")))
        }
        PeerName::Redis => redis(&said(Command::new("redis-server").arg("--version"))?),
        PeerName::Rocksdb => with(&rocksdb(&read("/proc/self/maps"))?, "rocksdb"),
        PeerName::Lmdb => {
            let heed::LmdbVersion { major, minor, patch, .. } = heed::lmdb_version();
            with(&format!("{major}.{minor}.{patch}"), "heed")
        }
        PeerName::Redb => locked("redb").map(str::to_owned),
        PeerName::Fjall => locked("fjall").map(str::to_owned),
        PeerName::Sqlite => with(rusqlite::version(), "rusqlite"),
        PeerName::FileFdatasync | PeerName::FileDsync => None,
    }
}

/// As cargo built it here.
fn locked(package: &str) -> Option<&'static str> {
    let name = format!("name = \"{package}\"");
    let line = LOCK.lines().skip_while(|line| *line != name).nth(1)?;
    line.strip_prefix("version = \"")?.strip_suffix('"')
}

/// None where this is not a repository's own tree: what is above it is somebody else's.
fn commit() -> Option<String> {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2)?;
    let mut git = Command::new("git");
    git.env("GIT_CEILING_DIRECTORIES", tree.parent()?).arg("-C").arg(tree);
    // It would write what it learns of changed files into the index.
    said(git.args(["--no-optional-locks", "describe", "--always", "--dirty"]))
}

/// "Redis server v=7.0.15 sha=00000000:0 ..."
fn redis(said: &str) -> Option<String> {
    said.split_whitespace().find_map(|word| word.strip_prefix("v=")).map(str::to_owned)
}

/// The crate links the system's, whose version is in the name of the file that is mapped: "/usr/lib/librocksdb.so.7.8.3".
fn rocksdb(maps: &str) -> Option<String> {
    maps.lines().find_map(|line| line.split_once("/librocksdb.so.")).map(|(_, version)| version.to_owned())
}

/// The number alone of "6.1.0-18-amd64": the rest names who built it, or the host.
fn linux(release: &str) -> Option<String> {
    let number = release.split(|c: char| c != '.' && !c.is_ascii_digit()).next()?;
    (!number.is_empty()).then(|| number.to_owned())
}

/// The model's name, which not every architecture tells.
fn processor(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// None where the command is missing or fails.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_library_has_a_version() {
        let libraries = [PeerName::Forebay, PeerName::Lmdb, PeerName::Redb, PeerName::Fjall, PeerName::Sqlite];
        let names: Vec<&str> = libraries.iter().map(|peer| peer.label()).collect();
        let versions = all(|peer| libraries.contains(&peer));
        let told: Vec<_> = versions.iter().filter(|(name, _)| names.contains(name)).collect();
        assert_eq!(told.len(), libraries.len(), "{versions:?}");
        assert!(told.iter().all(|(_, version)| version.starts_with(|c: char| c.is_ascii_digit())), "{versions:?}");
        assert!(versions.iter().all(|(name, _)| *name != "RocksDB"), "{versions:?}");
        assert!(locked("rocksdb").is_some());
        assert_eq!(locked("nobody"), None);
    }

    #[cfg(feature = "rocksdb")]
    #[test]
    fn the_systems_rocksdb_has_a_version() {
        // Who calls nothing of it is not linked with it, and the tests call nothing else.
        drop(rocksdb::Options::default());
        let version = version(PeerName::Rocksdb).expect("it is linked");
        assert!(
            version.starts_with(|c: char| c.is_ascii_digit()) && version.contains(", crate rocksdb 0."),
            "{version}"
        );
    }

    #[test]
    fn versions_are_found_in_what_is_said() {
        let some = |version: &str| Some(version.to_owned());
        assert_eq!(redis("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64"), some("7.0.15"));
        assert_eq!(redis("command not found"), None);
        assert_eq!(rocksdb("7f-80 r-xp 0 fe:00 1  /lib/x/librocksdb.so.7.8.3\n"), some("7.8.3"));
        assert_eq!(rocksdb("7f-80 r-xp 0 fe:00 1  /lib/x/libc.so.6\n"), None);
        for (release, number) in [("6.1.0-18-amd64\n", "6.1.0"), ("6.18.44\n", "6.18.44"), ("7.0+\n", "7.0")] {
            assert_eq!(linux(release), some(number));
        }
        assert_eq!(linux(""), None);
        assert_eq!(processor("processor\t: 0\nmodel name\t: A processor\n"), some("A processor"));
    }
}
