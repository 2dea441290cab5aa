//! Spans of sampled traces for an OpenTelemetry collector: how long a client waited for a backend, and how long the
//! database took. Built with the feature `otlp`; without it `otlp_endpoint` cannot be set, and nothing here costs anything.
//! A client never waits for a collector: what it has no time for is dropped, and counted.

#[cfg(feature = "otlp")]
mod export;

#[cfg(feature = "otlp")]
pub use export::{finish, is_on, send, start};

use crate::clock::Moment;
use crate::trace::TraceContext;
use crate::track::Command;

/// A client's query, or what it asked for in vain.
#[derive(Debug)]
pub struct Query {
    /// The trace, and the span that this is part of.
    pub parent: TraceContext,
    /// The pool's database.
    pub database: String,
    /// The pool's user.
    pub user: String,
    /// The client's `application_name`.
    pub application: String,
    /// The command words.
    pub command: Command,
    /// When it was asked.
    pub asked: Moment,
    /// When there was a backend for it; `None`: there was none.
    pub served: Option<Moment>,
    /// When it was answered.
    pub answered: Moment,
    /// The SQLSTATE that it failed with.
    pub sqlstate: Option<String>,
}

/// Whether spans are exported.
#[cfg(not(feature = "otlp"))]
pub const fn is_on() -> bool {
    false
}

/// Nothing: nobody asks for it.
#[cfg(not(feature = "otlp"))]
pub fn send(_query: Query) {}

/// Nothing: there is no endpoint.
#[cfg(not(feature = "otlp"))]
pub fn start(_endpoint: &str) -> Result<(), String> {
    Ok(())
}

/// Nothing.
#[cfg(not(feature = "otlp"))]
pub async fn finish() {}
