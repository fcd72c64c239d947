//! The files of a directory of backups: how they are named, and how one is written so that no crash leaves a half one.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use forebay::error::Error;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use zstd::stream::write::Encoder;

use crate::cli::context::Failure;
use crate::cli::dump::{Counts, Line};

/// Behind zstd's frame stands one that its programs skip: this, and BLAKE3 of the bytes before. It finds damage that
/// decompressing passes over.
pub const SEAL: [u8; 8] = [0x50, 0x2a, 0x4d, 0x18, 32, 0, 0, 0];
pub const SEAL_BYTES: usize = SEAL.len() + 32;
const LEVEL: i32 = 3;
const SUFFIX: &str = ".backup";
const UNFINISHED: &str = "unfinished";

fn failed(what: &str, path: &Path, error: impl Into<Error>) -> Error {
    error.into().context(format_args!("{what} {}", path.display()))
}

/// The backup of this number.
pub fn path_of(directory: &Path, sequence: u64) -> PathBuf {
    directory.join(format!("{sequence:06}{SUFFIX}"))
}

/// The numbers of all backups in a directory, rising.
///
/// # Errors
/// When it cannot be read.
pub fn sequences(directory: &Path) -> Result<Vec<u64>, Error> {
    let entries = fs::read_dir(directory).map_err(|error| failed("read the directory", directory, error))?;
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| failed("read the directory", directory, error))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)).and_then(|name| name.parse().ok());
        // Another spelling of a number is no file of ours.
        found.extend(number.filter(|number| *number > 0 && path_of(Path::new(""), *number).as_os_str() == name));
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether a file has every byte as it was written.
///
/// # Errors
/// It has not, or cannot be read.
pub fn check_seal(path: &Path) -> Result<(), Error> {
    let read = || {
        let mut file = File::open(path)?;
        let sealed_bytes = file.metadata()?.len().checked_sub(SEAL_BYTES as u64);
        let Some(sealed_bytes) = sealed_bytes else { return Ok(false) };
        let (mut hasher, mut seal) = (blake3::Hasher::new(), [0; SEAL_BYTES]);
        let (mut left, mut piece) = (sealed_bytes, vec![0; 1 << 20]);
        while left > 0 {
            let part = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
            file.read_exact(&mut piece[..part])?;
            hasher.update(&piece[..part]);
            left -= part as u64;
        }
        file.read_exact(&mut seal)?;
        let (begin, digest) = seal.split_at(SEAL.len());
        Ok::<_, io::Error>(begin == SEAL && digest == hasher.finalize().as_bytes())
    };
    match read().map_err(|error| failed("read", path, error))? {
        true => Ok(()),
        false => Err(Error::new(format!("{}: damaged: its bytes are not those that were written", path.display()))),
    }
}

/// Hashes what goes to a file.
struct Sealing {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
}

impl Write for Sealing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Makes a directory, and those above it, so that a power cut takes none of them.
fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().map(|above| if above == Path::new("") { Path::new(".") } else { above });
    above.map_or(Ok(()), make_directory)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    above.map_or(Ok(()), |above| File::open(above)?.sync_all())
}

/// A directory into which this process alone writes backups.
pub struct Directory {
    pub path: PathBuf,
    handle: File,
}

impl Directory {
    /// Opens it, and makes it where it is not there.
    ///
    /// # Errors
    /// When another backup writes to it, or the system refuses.
    pub fn open(path: &Path) -> Result<Directory, Error> {
        make_directory(path).map_err(|error| failed("make the directory", path, error))?;
        let handle = File::open(path).map_err(|error| failed("open the directory", path, error))?;
        match flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Directory { path: path.to_owned(), handle }),
            Err(Errno::WOULDBLOCK) => Err(Error::new(format!("another backup writes to {}", path.display()))
                .remedy("wait until it has ended (`fuser -v` names it)")),
            Err(errno) => Err(failed("lock the directory", path, io::Error::from(errno))),
        }
    }
}

/// A backup that is being written, under another name. Dropped before its end, it is gone.
pub struct Writer<'a> {
    directory: &'a Directory,
    path: PathBuf,
    last_path: PathBuf,
    encoder: Option<Encoder<'static, Sealing>>,
    hasher: blake3::Hasher,
    line: Vec<u8>,
}

/// What was written.
pub struct Written {
    pub path: PathBuf,
    pub file_bytes: u64,
}

impl<'a> Writer<'a> {
    /// # Errors
    /// What the system refuses.
    pub fn create(directory: &'a Directory, sequence: u64) -> Result<Writer<'a>, Error> {
        // One that a crash left is written over: the lock says that nobody else writes it.
        let (path, last_path) = (directory.path.join(UNFINISHED), path_of(&directory.path, sequence));
        let new = |path: &Path| {
            let file = BufWriter::with_capacity(1 << 20, File::create(path)?);
            let mut encoder = Encoder::new(Sealing { file, hasher: blake3::Hasher::new() }, LEVEL)?;
            encoder.include_checksum(true)?;
            Ok(encoder)
        };
        let encoder = Some(new(&path).map_err(|error: io::Error| failed("write", &path, error))?);
        Ok(Writer { directory, path, last_path, encoder, hasher: blake3::Hasher::new(), line: Vec::new() })
    }

    /// # Errors
    /// What the system refuses.
    pub fn line(&mut self, line: &Line) -> Result<(), Failure> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, line).map_err(|error| Error::new(error.to_string()))?;
        self.line.push(b'\n');
        self.hasher.update(&self.line);
        if let Some(encoder) = &mut self.encoder {
            encoder.write_all(&self.line).map_err(|error| failed("write", &self.path, error))?;
        }
        Ok(())
    }

    /// Ends it with the counts and the digest, makes it durable, and gives it its name.
    ///
    /// # Errors
    /// What the system refuses. Nothing has the name then.
    pub fn finish(mut self, counts: Counts) -> Result<Written, Failure> {
        let digest = self.hasher.finalize().to_hex().to_string();
        self.line(&counts.end(Some(digest)))?;
        let encoder = self.encoder.take();
        let finish = || {
            let finished = encoder.map_or_else(|| Err(io::ErrorKind::BrokenPipe.into()), Encoder::finish);
            let Sealing { mut file, hasher } = finished?;
            file.write_all(&SEAL)?;
            file.write_all(hasher.finalize().as_bytes())?;
            let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            fs::rename(&self.path, &self.last_path)?;
            self.directory.handle.sync_all()?;
            file.metadata()
        };
        let metadata = finish().map_err(|error| failed("write", &self.last_path, error))?;
        Ok(Written { path: self.last_path.clone(), file_bytes: metadata.len() })
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        // It has another name by then, or is no backup: that it stays does no harm.
        _ = fs::remove_file(&self.path);
    }
}
