//! The error of a test: a text and the line whose `?` gave up.

use std::fmt;
use std::panic::Location;

/// What tests and helpers return.
pub type Result<T = ()> = std::result::Result<T, Failure>;

/// Why a test failed, and where. Not `Display`, so that everything else can become one by `?`.
pub struct Failure(String);

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: fmt::Display> From<E> for Failure {
    #[track_caller]
    fn from(error: E) -> Self {
        Self(format!("{error}\n  at {}", Location::caller()))
    }
}
