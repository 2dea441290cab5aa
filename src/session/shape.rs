//! What a client knows of a statement's result. Drivers keep how its rows were described, and count on PostgreSQL to refuse
//! the statement (0A000) as soon as it would have others. A backend that parses it anew cannot know that it had: it is
//! compared here, where the schema has changed since the client parsed it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Session;
use super::expect::Expect;
use super::replies::{Fate, body};
use crate::backend::Backend;
use crate::error::{Error, Side, SqlState};
use crate::prepared::{Prepared, Statement, Told};
use crate::wire::backend::{self, Status};
use crate::wire::frontend::put_named;
use crate::wire::{Header, frontend as tag};

/// Instead of a shape: there are no rows.
const NO_ROWS: u64 = 0;

/// Whether a client's statement can be used on this backend.
enum Fits {
    /// It is there, with the rows that the client knows of; or PostgreSQL will see that they have changed.
    Here,
    /// It must be parsed.
    Lacks,
    /// The backend is being asked.
    Wait,
    /// It would have other rows.
    Changed,
}

impl Session {
    /// What is known of a statement that is parsed now.
    pub(super) fn told_nothing(&self) -> Told {
        Told { schema: self.pool.schema.load(Ordering::Relaxed), shape: None }
    }

    /// Whether a statement must be parsed on this backend before it is used by the message that comes next. `Err`: whether
    /// that was taken, and refused; it waits otherwise.
    #[inline]
    pub(super) fn lacks(
        &mut self,
        header: Header,
        statement: &Arc<Statement>,
        told: Told,
        lease: &mut Backend,
    ) -> Result<bool, bool> {
        match self.fits(statement, told, lease) {
            Fits::Here => Ok(false),
            Fits::Lacks if self.prepare_early(statement, lease) => Ok(true),
            Fits::Lacks | Fits::Wait => Err(false),
            Fits::Changed => {
                self.skip_request(header, lease);
                self.refuse_in_batch(result_changed(), lease);
                Err(true)
            }
        }
    }

    #[inline]
    fn fits(&mut self, statement: &Arc<Statement>, told: Told, lease: &mut Backend) -> Fits {
        match lease.statements.get(statement.id) {
            Prepared::At(at) if at == told.schema => Fits::Here,
            there => self.fits_since(there, statement, told, lease),
        }
    }

    #[inline(never)]
    fn fits_since(&mut self, there: Prepared, statement: &Arc<Statement>, told: Told, lease: &mut Backend) -> Fits {
        let lacks = match there {
            // Not what the client has parsed: the schema has changed in between.
            Prepared::At(at) if at < told.schema => {
                lease.statements.outdate(statement.id);
                true
            }
            there => !matches!(there, Prepared::At(_)),
        };
        let unknown = if lacks { Fits::Lacks } else { Fits::Here };
        let Some(shape) = told.shape else { return unknown };
        if lacks && told.schema == self.pool.schema.load(Ordering::Relaxed) {
            return unknown;
        }
        match lease.statements.shape(statement.id) {
            Some(now) if !lacks => return if now == shape { Fits::Here } else { Fits::Changed },
            _ => {}
        }
        match lease.status {
            // It takes neither a Parse nor the Bind.
            Status::Failed if self.pipeline.is_certain() => unknown,
            Status::Failed => {
                self.undecided = true;
                Fits::Wait
            }
            Status::Idle | Status::Transaction => {
                self.ask_shape(statement, lease);
                Fits::Wait
            }
        }
    }

    /// Asks how a statement's rows are described on this backend. Nothing is sent behind that before it is answered.
    fn ask_shape(&mut self, statement: &Arc<Statement>, lease: &mut Backend) {
        if !self.prepare_early(statement, lease) {
            return;
        }
        self.ensure_prepared(statement, lease);
        self.client.join(&mut lease.socket);
        put_named(lease.socket.output(), tag::DESCRIBE, b'S', &statement.name);
        postgres_protocol::message::frontend::flush(lease.socket.output());
        self.pipeline.push(Expect::OwnShape(statement.id));
        self.batch.is_open = true;
        self.batch.has_sent = true;
        self.batch.is_flushed = true;
        self.barrier = true;
    }

    /// Replies to that; an error is the client's.
    pub(super) fn take_shape_reply(&mut self, id: u64, header: Header, now: usize, lease: &mut Backend) -> Fate {
        match header.tag {
            backend::ERROR => return self.error(header, now, lease),
            backend::NOTIFICATION => return self.notification(header, lease),
            backend::PARAMETER_STATUS => lease.note_parameter(header),
            backend::ROW_DESCRIPTION | backend::NO_DATA => {
                self.pipeline.pop();
                let shape = shape(header, lease);
                lease.statements.describe(id, shape);
            }
            _ => {}
        }
        Fate::Swallow
    }

    /// Before a Describe of the unnamed portal: what is remembered of its answer.
    pub(super) fn expect_rows(&self, portal: &[u8]) -> Expect {
        let number = if portal.is_empty() { self.batch.undescribed } else { 0 };
        let name = if number == 0 { None } else { self.statements.name(number) };
        Expect::Describe(number, name.map(Box::from).unwrap_or_default())
    }

    /// Whether how rows are described is looked at.
    pub(super) fn looks_at_rows(&self) -> bool {
        match self.pipeline.front() {
            Some(Expect::Describe(_, name)) => !name.is_empty(),
            Some(Expect::OwnShape(_)) => true,
            _ => false,
        }
    }

    /// The last message of the answer to a Describe of the client's.
    pub(super) fn described(&mut self, header: Header, lease: &mut Backend) {
        if !matches!(self.pipeline.front(), Some(Expect::Describe(..))) {
            return;
        }
        let Some(Expect::Describe(number, name)) = self.pipeline.pop() else { return };
        if !name.is_empty() {
            let shape = shape(header, lease);
            if let Some(id) = self.statements.tell(&name, number, shape) {
                lease.statements.describe(id, shape);
            }
        }
    }
}

fn shape(header: Header, lease: &Backend) -> u64 {
    match header.tag {
        backend::ROW_DESCRIPTION => backend::row_shape(body(lease, header)),
        _ => NO_ROWS,
    }
}

/// As PostgreSQL says it, as long as the statement exists.
#[cold]
fn result_changed() -> Error {
    Error::new(Side::Database, SqlState::FEATURE_NOT_SUPPORTED, "cached plan must not change result type")
}
