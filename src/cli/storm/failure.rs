//! Why an environment failed, in a form that can be counted.

use std::io;
use std::time::Duration;

use postgres_protocol::message::backend::ErrorFields;
use tokio_postgres::fallible_iterator::FallibleIterator;

use crate::auth::scram::ClientFailure;

/// What an environment was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// TCP, TLS, login.
    Connect,
    /// The query right after the login.
    FirstQuery,
    /// One of its transactions.
    Transaction,
}

impl Phase {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Phase::Connect => "connect",
            Phase::FirstQuery => "first query",
            Phase::Transaction => "transaction",
        }
    }
}

/// A code to count by and a message to show: an SQLSTATE and what the server said, or the kind of an IO error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: String,
    pub(super) message: String,
    from_server: bool,
}

impl Failure {
    pub(super) fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), from_server: false }
    }

    /// Whether this is what the server itself said in an ErrorResponse.
    pub(super) fn is_from_server(&self) -> bool {
        self.from_server
    }

    /// The server closed the connection without a word.
    pub(super) fn closed() -> Self {
        Self::new("closed", "the server closed the connection without an ErrorResponse")
    }

    /// The server did something that the protocol does not allow, or that this client cannot do.
    pub(super) fn protocol(message: impl Into<String>) -> Self {
        Self::new("protocol", message)
    }

    pub(super) fn timeout(limit: Duration) -> Self {
        Self::new("timeout", format!("no answer within {limit:?}"))
    }

    /// The handshake failed: a certificate that does not fit, or the connection broke.
    pub(super) fn tls(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Self::new("tls", error.to_string()),
            _ => error.into(),
        }
    }

    /// The fields of an ErrorResponse (manual, "Error and Notice Message Fields").
    pub(super) fn from_fields(mut fields: ErrorFields<'_>) -> io::Result<Self> {
        let (mut severity, mut code, mut message, mut detail) = (String::new(), String::new(), String::new(), None);
        while let Some(field) = fields.next()? {
            let value = String::from_utf8_lossy(field.value_bytes());
            match field.type_() {
                b'S' => severity = value.into_owned(),
                b'C' => code = value.into_owned(),
                b'M' => message = value.into_owned(),
                b'D' => detail = Some(value.into_owned()),
                _ => {}
            }
        }
        let detail = detail.map(|d| format!(" ({d})")).unwrap_or_default();
        Ok(Self { code, message: format!("{severity}: {message}{detail}"), from_server: true })
    }
}

impl From<ClientFailure> for Failure {
    fn from(error: ClientFailure) -> Self {
        Self::new("scram", error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // The kind's name, "ConnectionReset", is a stabler key than the system's text.
        Self { code: format!("{:?}", error.kind()), message: error.to_string(), from_server: false }
    }
}
