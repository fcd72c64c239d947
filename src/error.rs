//! One error type for what a person reads: a cause, and what to do about it.

use std::fmt;

/// An error that ends an operation: one line with its cause, and what to do where that is known.
#[derive(Debug)]
pub struct Error {
    cause: String,
    remedy: Option<String>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(cause: impl Into<String>) -> Self {
        Error { cause: cause.into(), remedy: None }
    }

    /// Adds what to do: a command or a setting, in the imperative.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Puts `what` before the cause: "open /dev/x: permission denied".
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.cause = format!("{what}: {}", self.cause);
        self
    }

    #[must_use]
    pub fn cause(&self) -> &str {
        &self.cause
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)?;
        if let Some(remedy) = &self.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::new(error.to_string())
    }
}
