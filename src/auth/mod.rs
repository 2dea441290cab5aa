//! Login mechanisms as pure state machines: bytes in, decisions out; no IO and no clock.
//!
//! [`scram`] speaks SCRAM-SHA-256 and SCRAM-SHA-256-PLUS on both sides (towards clients as server, towards PostgreSQL
//! as client); [`md5`] computes PostgreSQL's old md5 responses. What is slow on purpose (PBKDF2) is in functions that
//! say so; callers run those away from the IO threads.

pub mod md5;
pub mod scram;

use thiserror::Error;

use crate::error::{Error, Side, SqlState};

/// Why a client's login failed: enough for the log; [`AuthFailure::to_error`] says what the client may learn.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthFailure {
    /// The proof does not fit the stored secret, or there is no such user: one answer for both.
    #[error("the password proof is wrong")]
    InvalidProof,
    /// The client's message breaks RFC 5802 or PostgreSQL's rules for it.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// The client asked for something that PostgreSQL does not support either.
    #[error("{0}")]
    Unsupported(&'static str),
    /// Channel binding failed: a downgrade, or somebody is in the middle.
    #[error("SCRAM channel binding: {0}")]
    ChannelBinding(&'static str),
}

impl AuthFailure {
    /// The FATAL error for the client, worded and coded as by PostgreSQL (`auth.c`, `auth-scram.c`).
    pub fn to_error(&self, user: &str) -> Error {
        let new = |code, message: &'static str| Error::new(Side::Client, code, message);
        match self {
            Self::InvalidProof => Error::new(
                Side::Client,
                SqlState::INVALID_PASSWORD,
                format!("password authentication failed for user \"{user}\""),
            ),
            Self::Malformed(detail) => new(SqlState::PROTOCOL_VIOLATION, "malformed SCRAM message").detail(*detail),
            Self::Unsupported(message) => new(SqlState::FEATURE_NOT_SUPPORTED, message),
            Self::ChannelBinding(detail) => {
                new(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, "SCRAM channel binding check failed").detail(*detail)
            }
        }
    }
}
