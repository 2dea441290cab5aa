//! Questions of our own to a backend that is between transactions: lookups, and statements that clean it.

use std::io;
use std::time::Duration;

use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;
use thiserror::Error as ThisError;

use super::{Backend, note_parameter};
use crate::error::Error;
use crate::log::counted;
use crate::prepared::Unnamed;
use crate::track::Effects;
use crate::wire::backend::{self as tag, ErrorFields, Status};
use crate::wire::{HEADER, Header};

/// A row: each column's text, or NULL.
pub type Row = Vec<Option<String>>;

/// What a question yields.
#[derive(Debug, Default)]
pub struct Answer {
    /// The rows, all of them; questions of ours have few.
    pub rows: Vec<Row>,
}

/// Why there is no answer.
#[derive(Debug, ThisError)]
pub enum AskError {
    /// PostgreSQL refused the statement; the backend is between transactions again.
    #[error("{0}")]
    Refused(Error),
    /// The backend is lost.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl AskError {
    /// As a client sees it.
    pub fn into_error(self) -> Error {
        match self {
            AskError::Refused(error) => error,
            AskError::Io(error) => lost(&error),
        }
    }
}

/// 08006: the connection to the database broke.
fn lost(why: &io::Error) -> Error {
    use crate::error::{Side, SqlState};
    Error::new(Side::Database, SqlState::CONNECTION_FAILURE, "the connection to the database was lost")
        .detail(why.to_string())
}

/// How long PostgreSQL may take to answer a question of ours; none of them takes it milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Rows of our own questions are short; a longer one is not an answer to them.
fn limit(_tag: u8) -> usize {
    1024 * 1024
}

impl Backend {
    /// Runs one statement with text parameters, in its own transaction. The unnamed statement is used.
    ///
    /// # Errors
    /// See [`AskError`]; after `Io` the backend is marked broken.
    pub async fn ask(&mut self, sql: &str, arguments: &[&str]) -> Result<Answer, AskError> {
        self.statements.unnamed = Unnamed::Unknown;
        let out = self.socket.output();
        frontend::parse("", sql, [], out)?;
        bind_text("", arguments, out)?;
        frontend::execute("", 0, out)?;
        frontend::sync(out);
        self.collect().await
    }

    /// Removes every trace of the last owner that PostgreSQL can remove (manual, `DISCARD`). On failure the backend is
    /// marked broken.
    pub async fn clean(&mut self) {
        let outcome = async {
            frontend::query("DISCARD ALL", self.socket.output())?;
            self.collect().await
        };
        match outcome.await {
            Ok(_) if !self.residue.any(Effects::INDELIBLE) => {
                self.statements.clear();
                self.statements.unnamed = Unnamed::Absent;
                self.forget_own_statements();
                self.params = None;
                self.residue = Effects::NONE;
                self.foreign_sequences = false;
                self.unclean = false;
                self.owner = 0;
            }
            Ok(_) => self.broken = true,
            Err(error) => {
                let backend = self.identity.pid;
                counted!(WARN, "a backend cannot be cleaned", "", "", { backend, }, "{error}");
                self.broken = true;
            }
        }
    }

    /// A round trip that does nothing, behind which a late cancel signal has been used up.
    pub async fn barrier(&mut self) {
        frontend::sync(self.socket.output());
        let _ = self.collect().await;
    }

    /// Sends what waits and reads up to the next ReadyForQuery.
    pub(super) async fn collect(&mut self) -> Result<Answer, AskError> {
        let timed_out = |_| Err(AskError::Io(io::ErrorKind::TimedOut.into()));
        let result = tokio::time::timeout(PATIENCE, self.collect_inner()).await.unwrap_or_else(timed_out);
        if matches!(result, Err(AskError::Io(_))) {
            self.broken = true;
        }
        self.socket.give_back();
        result
    }

    async fn collect_inner(&mut self) -> Result<Answer, AskError> {
        self.socket.flush().await?;
        let mut answer = Answer::default();
        let mut refused = None;
        loop {
            let Header { tag, total } = self.socket.message(limit).await?;
            let body = self.socket.unseen().get(HEADER..total).unwrap_or_default();
            match tag {
                tag::DATA_ROW => answer.rows.push(row(body)),
                tag::NOTIFICATION => {
                    self.notifications.extend_from_slice(self.socket.unseen().get(..total).unwrap_or_default());
                }
                tag::PARAMETER_STATUS => note_parameter(&mut self.reported, body),
                tag::ERROR => {
                    let fields = ErrorFields::decode(body);
                    if fields.is_fatal() {
                        return Err(io::Error::new(io::ErrorKind::ConnectionAborted, fields.into_error()).into());
                    }
                    refused.get_or_insert_with(|| fields.into_error());
                }
                tag::READY => {
                    self.status =
                        Status::decode(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                    self.socket.consume(total);
                    return refused.map_or(Ok(answer), |error| Err(AskError::Refused(error)));
                }
                _ => {}
            }
            self.socket.consume(total);
        }
    }
}

pub(super) fn bind_text(statement: &str, values: &[&str], out: &mut bytes::BytesMut) -> io::Result<()> {
    let put = |value: &&str, out: &mut bytes::BytesMut| {
        out.extend_from_slice(value.as_bytes());
        Ok(IsNull::No)
    };
    frontend::bind("", statement, [], values.iter(), put, [], out).map_err(too_large)
}

pub(super) fn too_large(error: frontend::BindError) -> io::Error {
    match error {
        frontend::BindError::Serialization(error) => io::Error::new(io::ErrorKind::InvalidInput, error),
        frontend::BindError::Conversion(error) => io::Error::new(io::ErrorKind::InvalidInput, error),
    }
}

/// The columns of a DataRow body; a malformed rest yields NULLs.
fn row(body: &[u8]) -> Row {
    let Some((count, mut rest)) = body.split_first_chunk::<2>() else { return Vec::new() };
    (0..u16::from_be_bytes(*count))
        .map(|_| {
            let (length, behind) = rest.split_first_chunk::<4>()?;
            let length = usize::try_from(i32::from_be_bytes(*length)).ok();
            let value = length.map(|length| behind.get(..length).unwrap_or_default());
            rest = behind.get(length.unwrap_or(0)..).unwrap_or_default();
            value.map(|value| String::from_utf8_lossy(value).into_owned())
        })
        .collect()
}
