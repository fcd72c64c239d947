//! What every subcommand is given: the configuration, where to print, and how to reach the daemon.

use std::io::{self, BufWriter, ErrorKind, IsTerminal, StdoutLock, Write};
use std::path::PathBuf;

use forebay::config::{self, Config};
use forebay::error::Error;
use forebay::ring::client::{Client, ClientError, ConnectOptions, Creation, Object, Pages};
use forebay::ring::protocol::Status;
use forebay::types::{Durability, PageSize};

/// Options of every subcommand.
#[derive(Debug, clap::Args)]
pub struct Globals {
    /// Read this configuration; configs/ holds presets. Without it the defaults hold.
    #[arg(long, global = true, display_order = 900, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The daemon's socket. Default: rings.socket, else $XDG_RUNTIME_DIR/forebay.sock, else /run/forebay.sock.
    #[arg(long, global = true, display_order = 901, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print JSON, one object a line.
    #[arg(long, global = true, display_order = 902)]
    pub json: bool,
}

/// How a subcommand ends when it does not end well.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 1.
    Operation(Error),
    /// The arguments make no sense: exit code 2.
    Usage(Error),
    /// The reader of our output went away.
    OutputClosed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Operation(error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Failure::Operation(error.into())
    }
}

/// Standard output, buffered.
pub struct Output {
    stream: BufWriter<StdoutLock<'static>>,
    pub terminal: bool,
}

impl Output {
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(bytes).map_err(closed)
    }

    pub fn line(&mut self, text: impl AsRef<[u8]>) -> Result<(), Failure> {
        self.raw(text.as_ref())?;
        self.raw(b"\n")
    }

    pub fn json(&mut self, value: &serde_json::Value) -> Result<(), Failure> {
        self.line(value.to_string())
    }

    pub fn flush(&mut self) -> Result<(), Failure> {
        self.stream.flush().map_err(closed)
    }
}

fn closed(error: io::Error) -> Failure {
    match error.kind() {
        ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::Operation(Error::from(error).context("write standard output")),
    }
}

pub struct Context {
    pub config: Config,
    /// The file that it was read from.
    pub config_path: Option<PathBuf>,
    pub json: bool,
    pub out: Output,
    /// What `--socket` names.
    pub socket: Option<PathBuf>,
}

impl Context {
    pub fn new(globals: Globals) -> Result<Context, Failure> {
        let config = globals.config.as_deref().map_or_else(|| Ok(Config::default()), Config::load)?;
        let stdout = io::stdout();
        let out = Output { terminal: stdout.is_terminal(), stream: BufWriter::new(stdout.lock()) };
        Ok(Context { config, config_path: globals.config, json: globals.json, out, socket: globals.socket })
    }

    /// Checks the configuration that options have changed. `flags` are those that were given, each with the key that
    /// it sets: an error names what the user wrote.
    pub fn check(&self, flags: &[(bool, &str, &str)]) -> Result<(), Failure> {
        let named = |error: Error| {
            let given = flags.iter().filter(|(given, ..)| *given);
            let message = given.fold(error.to_string(), |message, (_, key, flag)| message.replace(key, flag));
            Failure::Usage(Error::new(message))
        };
        self.config.check().map_err(named)
    }

    /// The socket of the daemon to talk to.
    pub fn client_socket(&self) -> PathBuf {
        let named = self.socket.as_ref().or(self.config.rings.socket.as_ref());
        named.cloned().unwrap_or_else(config::default_for_client)
    }

    /// Connects to the daemon. Blocks.
    pub fn connect(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&self.client_socket(), &ConnectOptions::default())?)
    }

    /// Connects and finds a space.
    pub fn space(&self, name: &str, create: Option<Creation>) -> Result<(Client, Object), Failure> {
        let mut client = self.connect()?;
        let opened = match create {
            Some(creation) => client.create_space(name, creation),
            None => client.open_space(name, None),
        };
        let space = opened.map_err(|error| missing("space", name, error))?;
        Ok((client, space))
    }

    /// Connects and finds a page space.
    pub fn pages(&self, name: &str, create: Option<(PageSize, Durability)>) -> Result<(Client, Pages), Failure> {
        let mut client = self.connect()?;
        let pages = client.open_pages(name, create).map_err(|error| missing("page space", name, error))?;
        Ok((client, pages))
    }

    /// Connects and finds a chained stream, or makes it.
    pub fn chained(&self, name: &str, durability: Durability) -> Result<(Client, Object), Failure> {
        let mut client = self.connect()?;
        let stream = client.open_chained(name, durability).map_err(|error| missing("stream", name, error))?;
        Ok((client, stream))
    }

    /// Connects and finds a stream.
    pub fn stream(&self, name: &str, create: Option<Durability>) -> Result<(Client, Object), Failure> {
        let mut client = self.connect()?;
        let stream = client.open_stream(name, create).map_err(|error| missing("stream", name, error))?;
        Ok((client, stream))
    }
}

/// Refuses a key that the daemon would not take, and says why.
pub fn check_key(client: &Client, key: &[u8]) -> Result<(), Failure> {
    if key.is_empty() {
        return Err(Failure::Usage(Error::new("the key is empty").remedy("name one of at least 1 byte")));
    }
    check_bytes("the key", key.len(), client.key_bytes_max(), "limits.key_bytes_max")
}

/// Refuses a value or event that the daemon would not take, and says why.
pub fn check_value(client: &Client, object: Object, value: &[u8]) -> Result<(), Failure> {
    check_bytes("the value", value.len(), client.value_bytes_max_in(object), "limits.value_bytes_max")
}

fn check_bytes(what: &str, bytes: usize, bytes_max: usize, limit: &str) -> Result<(), Failure> {
    if bytes <= bytes_max {
        return Ok(());
    }
    Err(Error::new(format!("{what} has {bytes} B, and the daemon takes at most {bytes_max} B ({limit})"))
        .remedy(format!("split it, or raise {limit} in the daemon's configuration"))
        .into())
}

fn missing(kind: &str, name: &str, error: ClientError) -> Failure {
    Failure::Operation(match error {
        ClientError::Status(Status::UnknownObject) => {
            Error::new(format!("no {kind} is named {name:?}")).remedy("a write with --create makes one")
        }
        ClientError::Status(Status::WrongKind) => {
            Error::new(format!("{name:?} is not a {kind}")).remedy("choose another name, or the other subcommands")
        }
        other => Error::from(other).context(format_args!("open {kind} {name:?}")),
    })
}

/// How a write is to be done, for the subcommands that write.
#[derive(Debug, clap::Args)]
pub struct WriteArgs {
    /// Ask for more or less than the default of the space or stream: memory, buffered or strict.
    #[arg(long, value_name = "DURABILITY")]
    pub durability: Option<Durability>,
    /// Create the space or stream if there is none, with this default durability. Without a value: the
    /// configuration's `defaults.durability`.
    #[arg(long, value_name = "DURABILITY", num_args = 0..=1, require_equals = true)]
    pub create: Option<Option<Durability>>,
}

impl WriteArgs {
    pub fn created_with(&self, config: &Config) -> Option<Durability> {
        self.create.map(|durability| durability.unwrap_or(config.defaults.durability))
    }
}
