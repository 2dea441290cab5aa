//! pgfunnel: a PostgreSQL connection-pooling proxy for AWS Lambda and other serverless callers.

pub mod error;

pub mod wire;

pub mod auth;
