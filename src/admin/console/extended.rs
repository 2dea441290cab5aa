//! The extended protocol on the console: statements and portals by name.

use std::collections::hash_map::Entry;

use super::command::Command;
use super::session::{Portal, Session, Trouble, malformed};
use crate::error::{Error, Side, SqlState};
use crate::wire::backend;
use crate::wire::frontend::{Named, Parse};
use crate::wire::rows::{self, Bind, Formats};
use crate::wire::split_cstr;

/// Statements and portals that an operator may have.
const MOST_NAMES: usize = 100;

/// Tables that an operator may have read in part. With thousands of clients each is megabytes.
const MOST_HALF_READ: usize = 2;

impl Session<'_> {
    pub(super) fn parse(&mut self, body: &[u8]) -> Result<(), Trouble> {
        let Parse { name, text, .. } = Parse::decode(body).ok_or_else(malformed)?;
        let command = self.read(text)?;
        if self.statements.len() >= MOST_NAMES && !self.statements.contains_key(name) {
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

    pub(super) fn bind(&mut self, body: &[u8]) -> Result<(), Trouble> {
        let Bind { portal, statement, parameters, formats } = Bind::decode(body).ok_or_else(malformed)?;
        let command = self.statement(statement)?.clone();
        self.check(&command)?;
        if parameters > 0 {
            let message = format!("bind message supplies {parameters} parameters, but commands take none");
            return Err(Error::protocol(message).into());
        }
        let is_new = !self.portals.contains_key(portal);
        if !is_new && !portal.is_empty() {
            let message = format!("cursor \"{}\" already exists", String::from_utf8_lossy(portal));
            return Err(Error::new(Side::Client, SqlState::DUPLICATE_CURSOR, message).into());
        }
        if is_new && self.portals.len() >= MOST_NAMES {
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

    pub(super) fn describe(&mut self, body: &[u8]) -> Result<(), Trouble> {
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

    pub(super) async fn execute(&mut self, body: &[u8]) -> Result<(), Trouble> {
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

    pub(super) fn close(&mut self, body: &[u8]) -> Result<(), Trouble> {
        match Named::decode(body).ok_or_else(malformed)? {
            Named::Statement(name) => drop(self.statements.remove(name)),
            Named::Portal(name) => drop(self.portals.remove(name)),
        }
        backend::bare(self.operator.socket.output(), backend::CLOSE_COMPLETE);
        Ok(())
    }
}

#[cold]
fn no_portal(name: &[u8]) -> Error {
    let message = format!("portal \"{}\" does not exist", String::from_utf8_lossy(name));
    Error::new(Side::Client, SqlState::INVALID_CURSOR_NAME, message)
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
