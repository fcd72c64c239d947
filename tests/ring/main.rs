//! The rings from end to end: the client against a small reactor of the tests' own.
#![cfg(feature = "server")]

#[cfg(test)]
mod calls;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod listener;
#[cfg(test)]
mod sleep;
#[cfg(test)]
mod toy;
