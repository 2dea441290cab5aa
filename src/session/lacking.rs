//! What a backend lacks is put in front of the client's own messages, and what it has too much of is closed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BufMut;

use super::Session;
use super::expect::{Expect, Run};
use super::sql_names::Need;
use crate::backend::Backend;
use crate::prepared::{self, Prepared};
use crate::wire::backend::Status;
use crate::wire::frontend as tag;
use crate::wire::frontend::{put_named, put_parse};

/// The type `text` (`src/include/catalog/pg_type.dat`).
const TEXT: [u8; 4] = 25u32.to_be_bytes();

impl Session {
    /// Sees to it that a statement's name is taken on this backend, whatever it means.
    pub(super) fn ensure_name(&mut self, statement: &prepared::Statement, lease: &mut Backend) {
        if lease.statements.get(statement.id) == Prepared::Absent {
            // It may have more than is known; if this is skipped, that is still so. Of all texts, a failed transaction takes
            // the empty one.
            self.client.join(&mut lease.socket);
            put_named(lease.socket.output(), tag::CLOSE, b'S', &statement.name);
            self.pipeline.push(Expect::OwnRun(Run::Now, 1));
            put_parse(lease.socket.output(), &statement.name, &[0, 0, 0]);
            self.pipeline.push(Expect::OwnParse(statement.id));
            self.note_prepared(statement, false, lease);
        }
    }

    /// Before a Bind of a statement that this backend lacks. A failed transaction takes no Parse, but PostgreSQL compares the
    /// numbers of parameters before it refuses the Bind (`exec_bind_message` of `src/backend/tcop/postgres.c`): it gets an
    /// empty text that has as many, which it does take.
    #[cold]
    pub(super) fn ensure_bindable(&mut self, statement: &prepared::Statement, lease: &mut Backend) {
        let surely_failed = lease.status == Status::Failed && self.pipeline.is_certain() && !self.batch.has_bound;
        let lacks = lease.statements.get(statement.id) == Prepared::Absent;
        if !(surely_failed && lacks && statement.sql.is_none() && statement.ends_nothing()) {
            return self.ensure_prepared(statement, lease);
        }
        let count = statement.parameters();
        let mut definition = vec![0];
        definition.put_u16(count);
        definition.resize(3 + 4 * usize::from(count), 0);
        // A number alone has no type; `text` will do.
        definition.get_mut(3..).unwrap_or_default().chunks_exact_mut(4).for_each(|oid| oid.copy_from_slice(&TEXT));
        self.client.join(&mut lease.socket);
        put_parse(lease.socket.output(), &statement.name, &definition);
        self.pipeline.push(Expect::OwnParse(statement.id));
        self.note_prepared(statement, false, lease);
    }

    /// Before a statement is used that must be prepared under settings of another time: what puts those in force is
    /// executed, and so would make a transaction of the client's batch (a `DISCARD ALL` in a Query behind it is refused
    /// then). As long as nothing is bound, a Sync of ours ends nothing. `false`: once what was sent is answered.
    #[cold]
    pub(super) fn prepare_early(&mut self, statement: &Arc<prepared::Statement>, lease: &mut Backend) -> bool {
        let runs = statement.sql.is_some() || !self.difference(statement.params.as_ref(), lease).is_empty();
        if self.batch.has_bound || !runs || matches!(lease.statements.get(statement.id), Prepared::At(_)) {
            return true;
        }
        if self.sql_waits(lease) {
            return false;
        }
        if lease.status == Status::Idle {
            self.sql_try(&Need { statement: statement.clone(), runs: true }, lease);
        }
        true
    }

    /// Sends a Parse of ours in front, if this backend does not have the statement.
    #[inline]
    pub(super) fn ensure_prepared(&mut self, statement: &prepared::Statement, lease: &mut Backend) {
        match lease.statements.get(statement.id) {
            Prepared::At(_) => return,
            Prepared::Outdated => self.close_statement(statement.id, lease),
            Prepared::Absent => {}
        }
        let difference = self.difference(statement.params.as_ref(), lease);
        self.run_then(&difference, lease);
        match statement.prepare() {
            Some(text) => self.sql_run(&text, statement.id, lease),
            None => {
                self.client.join(&mut lease.socket);
                put_parse(lease.socket.output(), &statement.name, &statement.definition);
                self.pipeline.push(Expect::OwnParse(statement.id));
            }
        }
        self.run_now(&difference, lease);
        self.note_prepared(statement, true, lease);
    }

    /// Notes that a statement was prepared here on the client's behalf; without its meaning, only its name counts.
    pub(super) fn note_prepared(&mut self, statement: &prepared::Statement, means: bool, lease: &mut Backend) {
        if self.changes_parse || self.changed_schema {
            // What it means here, it may mean for this transaction only.
            self.local_parses.push(statement.id);
        }
        self.remember_prepared(statement, self.pool.schema.load(Ordering::Relaxed), lease);
        if !means {
            lease.statements.outdate(statement.id);
        }
    }

    pub(super) fn remember_prepared(&mut self, statement: &prepared::Statement, schema: u64, lease: &mut Backend) {
        lease.statements.insert(statement, schema);
        self.make_room(lease);
    }

    /// Closes what this backend has too many of.
    #[inline]
    pub(super) fn make_room(&mut self, lease: &mut Backend) {
        while let Some(evicted) = lease.statements.surplus() {
            self.close_statement(evicted, lease);
        }
    }

    pub(super) fn close_statement(&mut self, id: u64, lease: &mut Backend) {
        self.client.join(&mut lease.socket);
        put_named(lease.socket.output(), tag::CLOSE, b'S', format!("{}{id}", prepared::prefix()).as_bytes());
        self.pipeline.push(Expect::OwnClose(id));
    }

    /// Closes what only clients had that are gone, or have closed it: their texts can be read by whoever gets the backend.
    #[inline]
    pub(super) fn close_abandoned(&mut self, lease: &mut Backend) {
        let abandoned = lease.statements.take_abandoned();
        if !abandoned.is_empty() {
            let out = lease.socket.output();
            abandoned.iter().for_each(|id| put_named(out, tag::CLOSE, b'S', &prepared::server_name(*id)));
            postgres_protocol::message::frontend::sync(out);
            self.pipeline.push(Expect::Prefix);
        }
    }
}
