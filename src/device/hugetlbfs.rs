//! Where SPDK may take hugepages from: it maps files in a hugetlbfs, and by itself takes the first one that is mounted,
//! whoever may write there.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::process::getuid;

const MOUNTS: &str = "/proc/self/mounts";

/// The mount of 2 MiB pages that this user may write to: their own, which `setup/host.sh config --user` makes, before one
/// that is everybody's. None where there is none.
#[must_use]
pub fn mount() -> Option<PathBuf> {
    best(&std::fs::read_to_string(MOUNTS).ok()?, |path| {
        access(path, Access::WRITE_OK | Access::EXEC_OK).ok()?;
        Some(path.metadata().ok()?.uid() == getuid().as_raw())
    })
}

/// `owned`: None where it cannot be written to, else whether it is this user's.
fn best(mounts: &str, owned: impl Fn(&Path) -> Option<bool>) -> Option<PathBuf> {
    // "hugetlbfs /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0"
    let fits = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (path, kind, options) = (Path::new(words.next()?), words.next()?, words.next()?);
        let of_2_mib = options.split(',').any(|option| option == "pagesize=2M");
        (kind == "hugetlbfs" && of_2_mib).then(|| Some((path, owned(path)?))).flatten()
    });
    fits.reduce(|best, next| if next.1 && !best.1 { next } else { best }).map(|(path, _)| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_s_own_comes_first_and_what_may_not_be_written_never() {
        let mounts = "tmpfs /dev tmpfs rw 0 0\n\
            hugetlbfs /closed hugetlbfs rw,pagesize=2M 0 0\nhugetlbfs /large hugetlbfs rw,pagesize=1024M 0 0\n\
            hugetlbfs /all hugetlbfs rw,relatime,pagesize=2M 0 0\nhugetlbfs /own hugetlbfs rw,pagesize=2M,mode=700 0 0\n";
        let of = |path: &Path| match path.to_str().unwrap() {
            "/own" => Some(true),
            "/all" | "/large" | "/dev" => Some(false),
            _ => None,
        };
        assert_eq!(best(mounts, of), Some("/own".into()));
        assert_eq!(best(mounts, |path| of(path).filter(|own| !own)), Some("/all".into()));
        assert_eq!(best(mounts, |_| None), None);
    }
}
