//! One operator: PostgreSQL's protocol, simple and extended, around commands and tables. An answer is written piece by
//! piece; what is read is bounded.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::Arc;
use std::vec::IntoIter;

use super::command::Command;
use super::views::{Row, View};
use super::{Console, PATIENCE};
use crate::admin::Watched;
use crate::cancel::ConsoleEntry;
use crate::client::{Access, Operator};
use crate::error::{Error, Side, SqlState};
use crate::net::Socket;
use crate::wire::backend::{self, Severity, Status};
use crate::wire::frontend::{self, Named, Parse};
use crate::wire::rows::{self, Bind, Formats};
use crate::wire::{HEADER, split_cstr};

/// Commands are short.
fn limit(_tag: u8) -> usize {
    64 * 1024
}

/// An answer is sent in pieces of about this size.
const PIECE: usize = 64 * 1024;

/// Statements and portals that an operator may have.
const MOST_NAMES: usize = 100;

/// Tables that an operator may have read in part. With thousands of clients each is megabytes.
const MOST_HALF_READ: usize = 2;

/// What was bound.
struct Portal {
    command: Command,
    formats: Formats,
    /// The rows to come, once it runs.
    rows: Option<IntoIter<Row>>,
}

/// An operator's session.
pub(super) struct Session<'a> {
    console: &'a Arc<Console>,
    operator: Operator,
    entry: ConsoleEntry,
    statements: HashMap<Vec<u8>, Command>,
    portals: HashMap<Vec<u8>, Portal>,
    status: Status,
    /// After an error, up to Sync.
    skipping: bool,
}

/// Why a session ends.
enum End {
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

    fn read(&self, text: &[u8]) -> Result<Command, Error> {
        let text = std::str::from_utf8(text)
            .map_err(|_| Error::new(Side::Client, SqlState::CHARACTER_NOT_IN_REPERTOIRE, "commands are in UTF-8"))?;
        let command = Command::parse(text)?;
        self.check(&command)?;
        Ok(command)
    }

    fn check(&self, command: &Command) -> Result<(), Error> {
        match command {
            _ if self.status != Status::Failed => Ok(()),
            Command::End(_) => Ok(()),
            _ => {
                let aborted = "current transaction is aborted, commands ignored until end of transaction block";
                Err(Error::new(Side::Client, SqlState::IN_FAILED_SQL_TRANSACTION, aborted))
            }
        }
    }

    fn parse(&mut self, body: &[u8]) -> Result<(), Trouble> {
        let Parse { name, text, .. } = Parse::decode(body).ok_or_else(malformed)?;
        let command = self.read(text)?;
        if self.statements.len() >= MOST_NAMES {
            return Err(too_many_names().into());
        }
        match self.statements.entry(name.to_vec()) {
            Entry::Occupied(known) if !known.key().is_empty() => {
                let message = format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(name));
                return Err(Error::new(Side::Client, SqlState::DUPLICATE_PSTATEMENT, message).into());
            }
            Entry::Occupied(mut unnamed) => drop(unnamed.insert(command)),
            Entry::Vacant(new) => drop(new.insert(command)),
        }
        backend::bare(self.operator.socket.output(), backend::PARSE_COMPLETE);
        Ok(())
    }

    fn bind(&mut self, body: &[u8]) -> Result<(), Trouble> {
        let Bind { portal, statement, parameters, formats } = Bind::decode(body).ok_or_else(malformed)?;
        let command = self.statement(statement)?.clone();
        self.check(&command)?;
        if parameters > 0 {
            let message = format!("bind message supplies {parameters} parameters, but commands take none");
            return Err(Error::protocol(message).into());
        }
        if self.portals.len() >= MOST_NAMES {
            return Err(too_many_names().into());
        }
        self.portals.insert(portal.to_vec(), Portal { command, formats, rows: None });
        backend::bare(self.operator.socket.output(), backend::BIND_COMPLETE);
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<&Command, Error> {
        self.statements.get(name).ok_or_else(|| {
            let message = format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name));
            Error::new(Side::Client, SqlState::INVALID_SQL_STATEMENT_NAME, message)
        })
    }

    fn describe(&mut self, body: &[u8]) -> Result<(), Trouble> {
        let whole = Formats::default();
        let (command, formats, is_statement) = match Named::decode(body).ok_or_else(malformed)? {
            Named::Statement(name) => (self.statement(name)?, &whole, true),
            Named::Portal(name) => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                (&portal.command, &portal.formats, false)
            }
        };
        let out = &mut bytes::BytesMut::new();
        if is_statement {
            rows::no_parameters(out);
        }
        match command {
            Command::Show(view) => rows::description(out, view.columns, formats),
            _ => backend::bare(out, backend::NO_DATA),
        }
        self.operator.socket.output().extend_from_slice(out);
        Ok(())
    }

    async fn execute(&mut self, body: &[u8]) -> Result<(), Trouble> {
        let (name, rest) = split_cstr(body).ok_or_else(malformed)?;
        let most = rest.first_chunk::<4>().ok_or_else(malformed)?;
        let is_half_read = |portal: &&Portal| portal.rows.as_ref().is_some_and(|rows| rows.len() > 0);
        let half_read = self.portals.values().filter(is_half_read).count();
        let mut portal = self.portals.remove(name).ok_or_else(|| no_portal(name))?;
        if portal.rows.is_none() && half_read >= MOST_HALF_READ {
            return Err(too_many_half_read().into());
        }
        let done = self.perform(&mut portal, usize::try_from(i32::from_be_bytes(*most)).unwrap_or(0)).await;
        self.portals.insert(name.to_vec(), portal);
        done
    }

    fn close(&mut self, body: &[u8]) -> Result<(), Trouble> {
        match Named::decode(body).ok_or_else(malformed)? {
            Named::Statement(name) => drop(self.statements.remove(name)),
            Named::Portal(name) => drop(self.portals.remove(name)),
        }
        backend::bare(self.operator.socket.output(), backend::CLOSE_COMPLETE);
        Ok(())
    }

    /// Runs what was bound, or goes on with it, for at most so many rows (0: all).
    async fn perform(&mut self, portal: &mut Portal, most: usize) -> Result<(), Trouble> {
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
                if failed { "ROLLBACK" } else { tag }
            }
            Command::Do(action) => {
                if self.operator.access != Access::Admin {
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
enum Trouble {
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
fn malformed() -> Error {
    Error::protocol("malformed message")
}

#[cold]
fn no_portal(name: &[u8]) -> Error {
    let message = format!("portal \"{}\" does not exist", String::from_utf8_lossy(name));
    Error::new(Side::Client, SqlState::INVALID_CURSOR_NAME, message)
}

#[cold]
fn no_functions() -> Error {
    Error::new(Side::Client, SqlState::FEATURE_NOT_SUPPORTED, "there are no functions on the admin console")
}

#[cold]
fn too_many_names() -> Error {
    Error::new(Side::Client, SqlState::PROGRAM_LIMIT_EXCEEDED, "too many prepared statements on the admin console")
}

#[cold]
fn too_many_half_read() -> Error {
    let message = format!("more than {MOST_HALF_READ} tables of the admin console are read in part");
    Error::new(Side::Client, SqlState::PROGRAM_LIMIT_EXCEEDED, message).hint("Read them to their end, or close them.")
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
