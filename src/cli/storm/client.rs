//! The client side of one connection: just enough of the protocol for a storm, at little CPU (it shares the machine
//! with the database that it measures). No time limits in here; callers set them.

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::failure::Failure;
use super::login;
use super::target::Target;
use crate::config::BackendTlsMode;
use crate::error::SqlState;
use crate::net::Io;

/// Room for the usual answer (a login's ParameterStatus messages, a small row) in one read.
const READ_RESERVE: usize = 1024;

/// A connection that is logged in and idle between calls.
pub(super) struct Client {
    io: Io,
    read: BytesMut,
}

impl Client {
    /// Connects, starts TLS as `sslmode` says, and logs in.
    pub(super) async fn connect(target: &Target) -> Result<Self, Failure> {
        let first_with_tls = !matches!(target.sslmode(), BackendTlsMode::Disable | BackendTlsMode::Allow);
        match Self::attempt(target, first_with_tls).await {
            // libpq's fallbacks: `allow` tries TLS when the server refuses without, `prefer` the other way round.
            Err(refused)
                if matches!(target.sslmode(), BackendTlsMode::Allow | BackendTlsMode::Prefer)
                    && refused.code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION.code() =>
            {
                Self::attempt(target, !first_with_tls).await
            }
            attempted => attempted,
        }
    }

    async fn attempt(target: &Target, with_tls: bool) -> Result<Self, Failure> {
        let (io, binding) = target.open(with_tls).await?;
        let mut client = Self { io, read: BytesMut::new() };
        login::log_in(&mut client, target, binding.as_deref()).await?;
        Ok(client)
    }

    /// Runs a simple query to its end and returns the first column of its first row, if it has one. After an error
    /// the connection is not to be used any more.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Option<String>, Failure> {
        self.send_query(sql).await?;
        let mut first = None;
        loop {
            match self.receive().await? {
                Message::DataRow(row) if first.is_none() => {
                    let range = row.ranges().next()?.flatten();
                    let column = range.and_then(|r| row.buffer().get(r)).unwrap_or_default();
                    first = Some(String::from_utf8_lossy(column).into_owned());
                }
                Message::ReadyForQuery(_) => return Ok(first),
                Message::CopyInResponse(_) => {
                    return Err(Failure::protocol("COPY FROM STDIN has nothing to read here"));
                }
                _ => {}
            }
        }
    }

    /// Sends a simple query and does not wait for its answer.
    pub(super) async fn send_query(&mut self, sql: &str) -> Result<(), Failure> {
        let mut message = BytesMut::with_capacity(sql.len() + 8);
        frontend::query(sql, &mut message)?;
        self.send(&message).await
    }

    /// Says good-bye and closes.
    pub(super) async fn terminate(mut self) -> Result<(), Failure> {
        let mut message = BytesMut::with_capacity(8);
        frontend::terminate(&mut message);
        self.send(&message).await?;
        Ok(self.io.shutdown().await?)
    }

    /// Closes with an RST instead of a FIN.
    pub(super) fn reset(self) {
        self.io.plain().reset_on_close();
    }

    /// Writes whole messages. A server that gave up on us while we were frozen has left its reason in our receive
    /// buffer; that is the error to report then, not the broken pipe.
    pub(super) async fn send(&mut self, messages: &[u8]) -> Result<(), Failure> {
        let written = async {
            self.io.write_all(messages).await?;
            self.io.flush().await
        };
        let Err(broken) = written.await else { return Ok(()) };
        loop {
            match self.receive().await {
                Ok(_) => {}
                Err(reason) if reason.is_from_server() => return Err(reason),
                Err(_) => return Err(broken.into()),
            }
        }
    }

    /// The next message; an ErrorResponse comes as the error that it is.
    pub(super) async fn receive(&mut self) -> Result<Message, Failure> {
        loop {
            match Message::parse(&mut self.read)? {
                Some(Message::ErrorResponse(error)) => return Err(Failure::from_fields(error.fields())?),
                Some(message) => return Ok(message),
                None => {}
            }
            self.read.reserve(READ_RESERVE);
            if self.io.read_buf(&mut self.read).await? == 0 {
                return Err(Failure::closed());
            }
        }
    }
}
