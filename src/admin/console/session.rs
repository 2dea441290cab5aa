//! One operator: PostgreSQL's protocol, simple and extended, around commands and tables. An answer is written piece by
//! piece; what is read is bounded.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::vec::IntoIter;

use super::command::Command;
use super::views::{Row, View};
use super::{Console, PATIENCE};
use crate::admin::Watched;
use crate::cancel::ConsoleEntry;
use crate::client::{Access, Operator, not_allowed};
use crate::error::{Error, Side, SqlState};
use crate::net::Socket;
use crate::wire::backend::{self, Severity, Status};
use crate::wire::frontend;
use crate::wire::rows::{self, Formats};
use crate::wire::{HEADER, split_cstr};

/// Commands are short.
fn limit(_tag: u8) -> usize {
    64 * 1024
}

/// An answer is sent in pieces of about this size.
const PIECE: usize = 64 * 1024;

/// What was bound.
pub(super) struct Portal {
    pub(super) command: Command,
    pub(super) formats: Formats,
    /// The rows to come, once it runs.
    pub(super) rows: Option<IntoIter<Row>>,
}

/// An operator's session.
pub(super) struct Session<'a> {
    console: &'a Arc<Console>,
    pub(super) operator: Operator,
    entry: ConsoleEntry,
    pub(super) statements: HashMap<Vec<u8>, Command>,
    pub(super) portals: HashMap<Vec<u8>, Portal>,
    status: Status,
    /// After an error, up to Sync.
    skipping: bool,
}

/// Why a session ends.
pub(super) enum End {
    /// The operator left, or is gone.
    Left,
    /// It is told why.
    Told(Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        error.downcast().map_or(End::Left, End::Told)
    }
}

impl<'a> Session<'a> {
    pub(super) fn new(console: &'a Arc<Console>, operator: Operator, entry: ConsoleEntry) -> Self {
        Self {
            console,
            operator,
            entry,
            statements: HashMap::new(),
            portals: HashMap::new(),
            status: Status::Idle,
            skipping: false,
        }
    }

    /// Serves the operator to its end.
    pub(super) async fn run(&mut self) {
        let console = self.console.clone();
        let end = tokio::select! {
            Err(end) = self.serve() => end,
            () = console.closed() => End::Told(ending()),
        };
        if let End::Told(error) = end {
            backend::error(self.operator.socket.output(), Severity::Fatal, &error);
            let _ = tokio::time::timeout(PATIENCE, self.operator.socket.flush()).await;
            self.operator.socket.shutdown().await;
        }
    }

    /// From AuthenticationOk on.
    async fn serve(&mut self) -> Result<std::convert::Infallible, End> {
        let (pid, key) = (self.entry.pid, self.entry.key.clone());
        let out = self.operator.socket.output();
        backend::authentication_ok(out);
        // A version that drivers can read, and whose features they do not miss.
        let version = concat!("15.0 (pgfunnel ", env!("CARGO_PKG_VERSION"), ")");
        for (name, value) in [
            ("server_version", version),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("TimeZone", "UTC"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
        ] {
            backend::put_parameter_status(out, name, value);
        }
        backend::key_data(out, pid, &key);
        rows::ready(out, self.status);
        loop {
            self.flush().await?;
            self.operator.socket.give_back();
            let header = self.operator.socket.message(limit).await?;
            let body = self.operator.socket.unseen().get(HEADER..header.total).unwrap_or_default().to_vec();
            self.operator.socket.consume(header.total);
            self.take(header.tag, &body).await?;
        }
    }

    async fn flush(&mut self) -> Result<(), End> {
        match tokio::time::timeout(PATIENCE, self.operator.socket.flush()).await {
            Ok(flushed) => Ok(flushed?),
            Err(_) => Err(End::Left),
        }
    }

    /// One message.
    async fn take(&mut self, tag: u8, body: &[u8]) -> Result<(), End> {
        let done = match tag {
            frontend::TERMINATE => return Err(End::Left),
            frontend::SYNC => {
                self.skipping = false;
                if self.status == Status::Idle {
                    self.portals.clear();
                }
                rows::ready(self.operator.socket.output(), self.status);
                return Ok(());
            }
            _ if self.skipping => return Ok(()),
            frontend::QUERY | frontend::FUNCTION_CALL => {
                let done = if tag == frontend::QUERY { self.query(body).await } else { Err(no_functions().into()) };
                self.refuse_if(done)?;
                self.skipping = false;
                rows::ready(self.operator.socket.output(), self.status);
                return Ok(());
            }
            frontend::PARSE => self.parse(body),
            frontend::BIND => self.bind(body),
            frontend::DESCRIBE => self.describe(body),
            frontend::EXECUTE => self.execute(body).await,
            frontend::CLOSE => self.close(body),
            // What is left of a COPY that was refused is passed over, as by PostgreSQL.
            frontend::FLUSH | frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL => return Ok(()),
            _ => return Err(End::Told(Error::protocol(format!("invalid frontend message type {tag}")))),
        };
        self.refuse_if(done)
    }

    /// An error is told; it fails the transaction, and what is behind it in the same batch is skipped.
    fn refuse_if(&mut self, done: Result<(), Trouble>) -> Result<(), End> {
        match done {
            Ok(()) => Ok(()),
            Err(Trouble::End(end)) => Err(end),
            Err(Trouble::Error(error)) => {
                backend::error(self.operator.socket.output(), Severity::Error, &error);
                self.skipping = true;
                if self.status == Status::Transaction {
                    self.status = Status::Failed;
                }
                Ok(())
            }
        }
    }

    async fn query(&mut self, body: &[u8]) -> Result<(), Trouble> {
        let (text, _) = split_cstr(body).ok_or_else(malformed)?;
        let command = self.read(text)?;
        let mut portal = Portal { command, formats: Formats::default(), rows: None };
        if let Command::Show(view) = &portal.command {
            rows::description(self.operator.socket.output(), view.columns, &portal.formats);
        }
        self.perform(&mut portal, 0).await
    }

    pub(super) fn read(&self, text: &[u8]) -> Result<Command, Error> {
        let text = std::str::from_utf8(text)
            .map_err(|_| Error::new(Side::Client, SqlState::CHARACTER_NOT_IN_REPERTOIRE, "commands are in UTF-8"))?;
        let command = Command::parse(text)?;
        self.check(&command)?;
        Ok(command)
    }

    pub(super) fn check(&self, command: &Command) -> Result<(), Error> {
        match command {
            _ if self.status != Status::Failed => Ok(()),
            Command::End(_) => Ok(()),
            _ => Err(Error::aborted_transaction()),
        }
    }

    /// Runs what was bound, or goes on with it, for at most so many rows (0: all).
    pub(super) async fn perform(&mut self, portal: &mut Portal, most: usize) -> Result<(), Trouble> {
        // As it is now: who is no operator any more since a reload is none on an open console either.
        let access = Access::of(&self.console.watched.registry.config().console, &self.operator.user);
        let access = access.ok_or_else(|| End::Told(not_allowed(&self.operator.user)))?;
        let tag = match &portal.command {
            Command::Empty => {
                backend::bare(self.operator.socket.output(), backend::EMPTY_QUERY);
                return Ok(());
            }
            Command::Show(view) => {
                let rows = match &mut portal.rows {
                    Some(rows) => rows,
                    none => none.insert(read(view, &self.console.watched).await?.into_iter()),
                };
                let mut sent = 0;
                while most == 0 || sent < most {
                    let Some(row) = rows.next() else { break };
                    let out = self.operator.socket.output();
                    rows::row(out, &row, &portal.formats);
                    sent += 1;
                    if out.len() >= PIECE {
                        self.flush().await?;
                    }
                }
                if most > 0 && sent == most {
                    backend::bare(self.operator.socket.output(), backend::PORTAL_SUSPENDED);
                    return Ok(());
                }
                // Its memory, too.
                *rows = Vec::new().into_iter();
                "SHOW"
            }
            Command::Nothing(tag) => {
                if matches!(*tag, "DISCARD ALL" | "DEALLOCATE ALL") {
                    self.statements.clear();
                }
                tag
            }
            Command::Begin => {
                self.status = Status::Transaction;
                "BEGIN"
            }
            Command::End(tag) => {
                let failed = self.status == Status::Failed;
                self.status = Status::Idle;
                self.portals.clear();
                if failed { "ROLLBACK" } else { tag }
            }
            Command::Do(action) => {
                if access != Access::Admin {
                    return Err(admins_only(action.tag()).into());
                }
                tracing::info!(user = self.operator.user, "an operator says on the admin console: {action}");
                let (console, cancelled) = (self.console.clone(), self.entry.cancelled.clone());
                tokio::select! {
                    done = console.act(action) => done?,
                    () = cancelled.notified() => return Err(user_cancelled().into()),
                    () = gone(&mut self.operator.socket) => return Err(End::Left.into()),
                }
                action.tag()
            }
        };
        rows::complete(self.operator.socket.output(), tag);
        Ok(())
    }
}

/// Makes a table. With thousands of clients that takes milliseconds, in which nobody's transaction should stand still.
async fn read(view: &'static View, watched: &Arc<Watched>) -> Result<Vec<Row>, Error> {
    let watched = watched.clone();
    let made = tokio::task::spawn_blocking(move || (view.rows)(&watched)).await;
    made.map_err(|_| Error::new(Side::Proxy, SqlState::INTERNAL_ERROR, "the table could not be made"))
}

/// What goes wrong with a message.
pub(super) enum Trouble {
    /// It is refused.
    Error(Error),
    /// The session ends.
    End(End),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Error(error)
    }
}

impl From<End> for Trouble {
    fn from(end: End) -> Self {
        Trouble::End(end)
    }
}

/// Waits until the operator is gone. What it says meanwhile is kept.
async fn gone(socket: &mut Socket) {
    loop {
        if socket.unseen().len() > limit(0) {
            // It talks on, and so is there.
            std::future::pending::<()>().await;
        }
        match std::future::poll_fn(|cx| socket.poll_fill(cx)).await {
            Ok(n) if n > 0 => {}
            _ => return,
        }
    }
}

#[cold]
pub(super) fn malformed() -> Error {
    Error::protocol("malformed message")
}

#[cold]
fn no_functions() -> Error {
    Error::new(Side::Client, SqlState::FEATURE_NOT_SUPPORTED, "there are no functions on the admin console")
}

#[cold]
fn admins_only(command: &str) -> Error {
    let message = format!("permission denied for {command}: you may only look");
    Error::new(Side::Client, SqlState::INSUFFICIENT_PRIVILEGE, message)
        .hint("Users in admin_users of pgfunnel's configuration may do everything.")
}

#[cold]
fn user_cancelled() -> Error {
    Error::new(Side::Client, SqlState::QUERY_CANCELED, "canceling statement due to user request")
        .hint("A PAUSE that was not complete is taken back.")
}

#[cold]
fn ending() -> Error {
    Error::new(Side::Proxy, SqlState::ADMIN_SHUTDOWN, "terminating connection because pgfunnel is shutting down")
}
