//! pgfunnel: a PostgreSQL connection-pooling proxy for AWS Lambda and other serverless callers.
//!
//! Many short-lived *clients* come in, a small bounded set of *backends* goes out. The life of one transaction
//! (request, lease, relay, release) reads top-down in [`session`]. A module may use only what stands above it here;
//! [`activity`], [`clock`], [`config`], [`counts`], [`error`], [`log`], [`metrics`], [`trace`] and [`trouble`] are
//! leaves that all may use.

pub mod activity;
pub mod clock;
pub mod config;
pub mod counts;
pub mod error;
pub mod log;
pub mod metrics;
pub mod trace;
pub mod trouble;

pub mod wire;

pub mod auth;
pub mod track;

pub mod spans;

pub mod prepared;

pub mod net;

pub mod backend;

pub mod secrets;

pub mod pool;

pub mod cancel;

pub mod listen;

pub mod session;

pub mod client;

pub mod admin;

pub mod server;

pub mod cli;
