//! pgfunnel: a PostgreSQL connection-pooling proxy for AWS Lambda and other serverless callers.

pub mod error;

pub mod metrics;

pub mod config;

pub mod wire;

pub mod auth;

pub mod prepared;

pub mod track;

pub mod net;

pub mod backend;

pub mod secrets;

pub mod pool;

pub mod cancel;

pub mod session;

pub mod client;
