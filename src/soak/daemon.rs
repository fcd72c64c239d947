//! `forebay serve` as a child process. Killed when it is dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{Error, Result};
use crate::ring::client::{Client, ClientError, ConnectOptions};

const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// Of its log, in an error.
const LOG_LINES: usize = 5;

/// A daemon that this process started.
pub struct Daemon {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts it by this command, which has it listen on `socket`. What it says goes to `log`. Does not wait until it is
    /// ready.
    ///
    /// # Errors
    /// When the log cannot be written, or the program not be started.
    pub fn start(mut command: Command, socket: &Path, log: &Path) -> Result<Daemon> {
        let named = |error: std::io::Error, what: &Path| Error::from(error).context(what.display());
        let file = File::create(log).map_err(|error| named(error, log))?;
        let program = PathBuf::from(command.get_program());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn();
        let child = child.map_err(|error| named(error, &program))?;
        Ok(Daemon { child, socket: socket.to_owned(), log: log.to_owned() })
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A number that the log names as `name=number`.
    #[must_use]
    pub fn logged(&self, name: &str) -> Option<u64> {
        let log = self.log();
        let (_, rest) = log.split_once(&format!(" {name}="))?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }

    /// Whether it ended, and how.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// A connection, as soon as it listens, unless `wait` says meanwhile not to wait any more. Blocks.
    ///
    /// # Errors
    /// A daemon that ended, with the last lines of its log; what a connection may fail of.
    pub fn connect(&mut self, options: &ConnectOptions, wait: &dyn Fn() -> bool) -> Result<Client> {
        loop {
            match Client::connect(&self.socket, options) {
                Ok(client) => return Ok(client),
                Err(ClientError::NoDaemon { .. } | ClientError::Disconnected) if wait() => {
                    if let Some(status) = self.ended()? {
                        return Err(self.failure(status));
                    }
                    std::thread::sleep(LOOK_INTERVAL);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// That it ended by itself.
    #[must_use]
    pub fn failure(&self, status: ExitStatus) -> Error {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LOG_LINES)..].join(" | ");
        Error::new(format!("the daemon ended by itself, {status}; the end of its log: {last}"))
    }

    /// SIGKILL, and the end of the process. Blocks until then.
    pub fn kill(&mut self) {
        // It cannot fail for a child that was not waited for; one that was is gone.
        _ = self.child.kill();
        _ = self.child.wait();
    }

    /// SIGTERM, and how it ended. Blocks for at most `patience`.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self, patience: Duration) -> Result<ExitStatus> {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).map_err(std::io::Error::from)?;
        }
        self.wait(patience)
    }

    /// How it ended. Blocks for at most `patience`.
    ///
    /// # Errors
    /// When it does not end.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(Error::new(format!("the daemon does not end within {patience:?}")));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
