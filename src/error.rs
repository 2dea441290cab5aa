//! The error type that can reach a client: whose fault it is, its SQLSTATE, and what to do about it.
//! Holds only text that pgfunnel wrote itself or that PostgreSQL sent for this very client, never a secret.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, DerefMut};

pub use tokio_postgres::error::SqlState;

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client broke the protocol, a limit or its credentials.
    Client,
    /// pgfunnel itself: a limit of its own, a shutdown, a bug.
    Proxy,
    /// PostgreSQL refused, failed or vanished.
    Database,
}

impl Side {
    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Proxy => "proxy",
            Side::Database => "database",
        }
    }
}

/// An error as it is reported to a client. Boxed: what may fail is no larger for that, and an idle client's task is as
/// large as all that its session may come to.
#[derive(Debug, Clone)]
pub struct Error(Box<Fields>);

/// The fields of an ErrorResponse (manual, "Error and Notice Message Fields") and the side at fault.
#[derive(Debug, Clone)]
pub struct Fields {
    /// Whose fault it is.
    pub side: Side,
    /// The SQLSTATE that PostgreSQL itself would use.
    pub code: SqlState,
    /// Field `M`.
    pub message: Cow<'static, str>,
    /// Field `D`.
    pub detail: Option<Cow<'static, str>>,
    /// Field `H`.
    pub hint: Option<Cow<'static, str>>,
}

impl Error {
    /// An error of `side` with an SQLSTATE and a message.
    pub fn new(side: Side, code: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Fields { side, code, message: message.into(), detail: None, hint: None }))
    }

    /// A message that breaks the protocol: 08P01.
    pub fn protocol(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Side::Client, SqlState::PROTOCOL_VIOLATION, message)
    }

    /// A statement in a transaction that has failed: 25P02, as PostgreSQL says it.
    #[cold]
    pub fn aborted_transaction() -> Self {
        let message = "current transaction is aborted, commands ignored until end of transaction block";
        Self::new(Side::Client, SqlState::IN_FAILED_SQL_TRANSACTION, message)
    }

    /// The same error with a detail line.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The same error with a hint: the setting or action that mends it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl Error {
    /// The message for those who watch. PostgreSQL's words about data repeat it (`invalid input syntax for type integer:
    /// "…"`, `Key (email)=(…)`, what a function raises), and are for the client alone.
    pub fn shown(&self) -> &str {
        if self.quotes_data() { "the database refused a value" } else { &self.message }
    }

    /// Data exception, integrity constraint violation, raised by PL/pgSQL (manual, "PostgreSQL Error Codes").
    fn quotes_data(&self) -> bool {
        self.side == Side::Database && ["22", "23", "P0"].iter().any(|class| self.code.code().starts_with(class))
    }
}

impl Deref for Error {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        &self.0
    }
}

impl DerefMut for Error {
    fn deref_mut(&mut self) -> &mut Fields {
        &mut self.0
    }
}

/// As in the log: without data.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.shown(), self.code.code())?;
        if self.quotes_data() {
            return Ok(());
        }
        if let Some(detail) = &self.detail {
            write!(f, "; {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
