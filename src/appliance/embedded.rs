//! An appliance inside this process, on a file or device of its own: what `load` runs without a daemon.

use std::path::{Path, PathBuf};

use crate::appliance::prepare::{FormatOptions, SegmentSize, format_device};
use crate::appliance::scratch::Scratch;
use crate::appliance::{Appliance, Started, open_options};
use crate::config::Config;
use crate::device::open::{OpenDevice, open};
use crate::error::{Error, Result};

/// A formatted device with its appliance, started and stopped as often as wanted.
pub struct Embedded {
    config: Config,
    device_path: PathBuf,
    device: OpenDevice,
    temporary: Option<Temporary>,
    socket: PathBuf,
    running: Option<Appliance>,
}

/// The directories of a temporary appliance: for its file and its socket, and in memory for its flight recorders.
#[derive(Clone, Debug)]
pub struct Temporary {
    directories: Vec<PathBuf>,
}

impl Temporary {
    /// Makes them, and puts the recorders there.
    ///
    /// # Errors
    /// When the place for temporary files cannot be written.
    pub fn make(config: &mut Config) -> Result<Temporary> {
        let name = format!("forebay-{}", uuid::Uuid::new_v4().simple());
        let directory = std::env::temp_dir().join(&name);
        std::fs::create_dir(&directory)
            .map_err(|error| Error::new(format!("make {}: {error}", directory.display())).remedy("set TMPDIR"))?;
        let mut directories = vec![directory];
        if config.flight_recorder() {
            let in_memory = config.flight.directory.join(&name);
            // Where there is no memory file system, a recorder on a disk still serves a killed daemon.
            if std::fs::create_dir(&in_memory).is_ok() {
                directories.push(in_memory);
            }
            config.flight.directory.clone_from(&directories[directories.len() - 1]);
        }
        Ok(Temporary { directories })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directories[0].join(name)
    }

    /// Removes them with all that is in them, also under a running appliance.
    pub fn remove(&self) {
        for directory in &self.directories {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

impl Embedded {
    /// Formats a file in a temporary place, of `format.capacity` or with room for `log_bytes` of log, and starts.
    /// `progress` gets lines for a person. The place is removed with this value.
    ///
    /// # Errors
    /// No room for the file, or what a start may fail of.
    pub fn temporary(
        config: Config,
        temporary: Temporary,
        log_bytes: u64,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Embedded> {
        let device_path = temporary.file("device");
        let made = Embedded::formatted(&config, &device_path, log_bytes, progress);
        if made.is_err() {
            temporary.remove();
        }
        made?;
        let mut embedded = Embedded::on(config, &device_path, Some(temporary))?;
        embedded.start(progress)?;
        Ok(embedded)
    }

    fn formatted(config: &Config, device_path: &Path, log_bytes: u64, progress: &mut dyn FnMut(&str)) -> Result<()> {
        let scratch = Scratch::plan(config, log_bytes, &std::env::temp_dir())?;
        let options = FormatOptions {
            capacity_bytes: Some(scratch.capacity_bytes),
            segment_size: SegmentSize::Bytes(scratch.segment_bytes),
            shards: config.format.shards,
            force: false,
        };
        let mut zeroing = |done: u64, total: u64| progress(&format!("zeroing: {} of {} MiB", done >> 20, total >> 20));
        format_device(device_path, &options, &mut zeroing)?;
        Ok(())
    }

    /// Starts on a device that was formatted before.
    ///
    /// # Errors
    /// What a start may fail of.
    pub fn on_device(config: Config, device: &Path, progress: &mut dyn FnMut(&str)) -> Result<Embedded> {
        let mut embedded = Embedded::on(config, device, None)?;
        embedded.start(progress)?;
        Ok(embedded)
    }

    fn on(config: Config, device_path: &Path, temporary: Option<Temporary>) -> Result<Embedded> {
        let device = open(device_path, &open_options(&config))?;
        let socket = match &temporary {
            Some(temporary) => temporary.file("socket"),
            None => std::env::temp_dir().join(format!("forebay-{}.sock", uuid::Uuid::new_v4().simple())),
        };
        Ok(Embedded { config, device_path: device_path.to_owned(), device, temporary, socket, running: None })
    }

    /// Recovers and starts. Blocks.
    ///
    /// # Errors
    /// As `Appliance::start`.
    pub fn start(&mut self, progress: &mut dyn FnMut(&str)) -> Result<()> {
        self.running = Some(Appliance::start(&self.config, &self.device, &self.socket, None, progress)?);
        Ok(())
    }

    /// Stops in good order; everything is on the device then. Blocks.
    ///
    /// # Errors
    /// As `Appliance::stop`.
    pub fn stop(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), Appliance::stop)
    }

    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    #[must_use]
    pub fn device_path(&self) -> &Path {
        &self.device_path
    }

    /// What the last start found.
    #[must_use]
    pub fn started(&self) -> Option<&Started> {
        self.running.as_ref().map(|appliance| &appliance.started)
    }

    /// Leaves the temporary device where it is.
    pub fn keep(&mut self) {
        self.temporary = None;
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::error!(%error, "the embedded appliance did not stop in good order");
        }
        if let Some(temporary) = &self.temporary {
            temporary.remove();
        }
    }
}
