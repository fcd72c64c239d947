//! Where the daemon listens and where a client looks, when nobody says.
//!
//! root: /run/forebay.sock. Others: $XDG_RUNTIME_DIR/forebay.sock, which only they can reach. There is no fallback
//! to a world-writable directory: anybody could wait there in the daemon's place.

use std::env;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const SYSTEM: &str = "/run/forebay.sock";
const NAME: &str = "forebay.sock";

/// Where a daemon of this user listens.
///
/// # Errors
/// An ordinary user without `XDG_RUNTIME_DIR` has no safe default.
pub fn default_for_daemon() -> Result<PathBuf> {
    for_daemon(is_root(), runtime_directory().as_deref())
}

/// Where a client of this user looks: its own daemon's socket if there is one, else the system's.
#[must_use]
pub fn default_for_client() -> PathBuf {
    for_client(runtime_directory().as_deref())
}

fn for_daemon(root: bool, runtime: Option<&Path>) -> Result<PathBuf> {
    match runtime {
        _ if root => Ok(PathBuf::from(SYSTEM)),
        Some(directory) => Ok(directory.join(NAME)),
        None => Err(Error::new("there is no default place for the socket: XDG_RUNTIME_DIR is not set")
            .remedy("name one with --socket or rings.socket")),
    }
}

fn for_client(runtime: Option<&Path>) -> PathBuf {
    runtime.map(|directory| directory.join(NAME)).filter(|own| own.exists()).unwrap_or_else(|| PathBuf::from(SYSTEM))
}

fn runtime_directory() -> Option<PathBuf> {
    env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute())
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_of_root_and_of_a_user() {
        let runtime = Path::new("/run/user/7");
        assert_eq!(for_daemon(true, Some(runtime)).unwrap(), Path::new("/run/forebay.sock"));
        assert_eq!(for_daemon(false, Some(runtime)).unwrap(), Path::new("/run/user/7/forebay.sock"));
        assert!(for_daemon(false, None).unwrap_err().to_string().contains("--socket"));
    }

    #[test]
    fn a_client_prefers_its_own_daemon() {
        let directory = env::temp_dir().join(format!("forebay-socket-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        assert_eq!(for_client(Some(&directory)), Path::new(SYSTEM));
        std::fs::write(directory.join(NAME), "").unwrap();
        assert_eq!(for_client(Some(&directory)), directory.join(NAME));
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(for_client(None), Path::new(SYSTEM));
    }
}
