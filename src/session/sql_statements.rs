//! SQL's `PREPARE`, `EXECUTE` and `DEALLOCATE`. A client has one name space for them and the protocol's messages, as in
//! PostgreSQL: before a text is sent, each name in it is replaced by the server-side one (see `sql_names`), and what the
//! backend lacks is put in front. What a text has done is told by its command tags.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{BufMut, BytesMut};
use postgres_protocol::message::frontend;

use super::Session;
use super::expect::{Expect, Run};
use super::parsed_under::{put_now, put_then};
use super::sql_names::{Deed, Need, Resolved};
use crate::backend::Backend;
use crate::clock::Moment;
use crate::prepared::{self, Prepared, Statement, Unnamed};
use crate::track::{Effects, PinReason};
use crate::wire::backend::{self, Status};
use crate::wire::frontend as tag;
use crate::wire::frontend::{put_named, put_parse};
use crate::wire::{HEADER, Header, split_cstr};

impl Session {
    /// What a text says about session state that it does not say itself: effects of the statements that it executes, each
    /// noted with its own text.
    pub(super) fn sql_note(&mut self, resolved: &Resolved, lease: &mut Backend) -> Effects {
        let mut all = Effects::NONE;
        for Need { statement, .. } in resolved.needs.iter().filter(|need| need.runs) {
            let effects = statement.effects | self.suspicion(Some(statement.text()));
            if effects != Effects::NONE {
                self.note_effects(effects, statement.text(), lease);
                self.listening.bind(effects, statement.text());
            }
            all.add(effects);
            if !statement.is_plain() {
                // BEGIN by EXECUTE and the like leave PostgreSQL in a state that it reports as an error later.
                lease.expires = Some(Moment::now());
            }
        }
        all
    }

    /// Puts what the backend lacks in front of a text.
    pub(super) fn sql_put_needs(&mut self, resolved: &Resolved, lease: &mut Backend) {
        // A failed transaction takes nothing; what the text says is refused likewise.
        if lease.status == Status::Failed {
            return;
        }
        for need in &resolved.needs {
            match need.runs {
                true => self.ensure_prepared(&need.statement, lease),
                false => self.ensure_name(&need.statement, lease),
            }
        }
    }

    /// The same, for a text that is about to be executed.
    pub(super) fn sql_prepare(&mut self, resolved: &Resolved, lease: &mut Backend) {
        if resolved.lists {
            // A Sync of ours must end nothing.
            return self.sql_list(!self.batch.has_bound && self.pipeline.is_empty(), lease);
        }
        // For what it will have prepared.
        self.make_room(lease);
        self.sql_put_needs(resolved, lease);
    }

    /// Before a statement that is about statements is bound: with what its names mean now. `true`: the backend has it
    /// under the client's own name.
    pub(super) fn sql_bind(&mut self, statement: &Statement, portal: &[u8], lease: &mut Backend) -> bool {
        let resolved = self.sql_resolve_bound(statement.effects, statement.text(), lease);
        let is_listed = resolved.as_ref().is_some_and(|resolved| resolved.lists && self.sql.listed);
        match &resolved {
            Some(_) if is_listed => {}
            Some(resolved) if statement.effects.any(Effects::NAMES) => self.sql_parse(statement, resolved, lease),
            _ => self.ensure_prepared(statement, lease),
        }
        self.sql.bind(portal, resolved);
        is_listed
    }

    /// The same for the unnamed one; without a portal, before it is described.
    pub(super) fn sql_bind_unnamed(
        &mut self,
        effects: Effects,
        definition: &[u8],
        portal: Option<&[u8]>,
        lease: &mut Backend,
    ) {
        let text = definition.split(|byte| *byte == 0).next().unwrap_or_default();
        let resolved = match portal {
            Some(_) => self.sql_resolve_bound(effects, text, lease),
            None => self.sql_resolve(text, effects, lease).inspect(|resolved| self.sql_put_needs(resolved, lease)),
        };
        if let (Some(resolved), Unnamed::Version(version)) = (&resolved, lease.statements.unnamed)
            && !resolved.lists
        {
            self.client.join(&mut lease.socket);
            put_parse(lease.socket.output(), b"", &spelled(definition, resolved));
            self.pipeline.push(Expect::OwnUnnamed(version));
        }
        if let Some(portal) = portal {
            self.sql.bind(portal, resolved);
        }
    }

    /// The effects and definition of the unnamed statement that the backend has, if it has any effects.
    pub(super) fn unnamed_of(&self, lease: &Backend) -> Option<(Effects, Arc<[u8]>)> {
        let there = lease.statements.unnamed;
        match self.statements.unnamed().filter(|unnamed| there == Unnamed::Version(unnamed.version)) {
            Some(unnamed) => Some((unnamed.effects, unnamed.definition.clone())),
            // Its Parse is still to be answered.
            None => self.unnamed.clone(),
        }
    }

    /// Before the unnamed statement is described. `false`: what it means hangs on answers to come.
    pub(super) fn describe_unnamed(&mut self, lease: &mut Backend) -> bool {
        match self.unnamed_of(lease).filter(|(effects, _)| effects.any(Effects::NAMES)) {
            Some(_) if !self.pipeline.is_certain() => {
                self.undecided = true;
                false
            }
            Some((_, definition)) => {
                self.sql_bind_unnamed(Effects::NAMES, &definition, None, lease);
                true
            }
            None => true,
        }
    }

    /// Before a statement that names others is described.
    pub(super) fn sql_describe(&mut self, statement: &Statement, lease: &mut Backend) {
        match self.sql_resolve(statement.text(), Effects::NAMES, lease) {
            Some(resolved) => {
                self.sql_put_needs(&resolved, lease);
                self.sql_parse(statement, &resolved, lease);
            }
            None => self.ensure_prepared(statement, lease),
        }
    }

    fn sql_resolve_bound(&mut self, effects: Effects, text: &[u8], lease: &mut Backend) -> Option<Box<Resolved>> {
        let resolved = self.sql_resolve(text, effects, lease);
        match &resolved {
            Some(resolved) => {
                self.sql_part(resolved);
                let executed = self.sql_note(resolved, lease);
                self.guard_sequences(executed, lease);
                self.batch.clears |= executed.any(Effects::CLEARS);
                self.sql_prepare(resolved, lease);
            }
            None => self.note_effects(PinReason::Prepare.effect(), text, lease),
        }
        resolved
    }

    /// Parses a statement anew, with what its names mean now.
    fn sql_parse(&mut self, statement: &Statement, resolved: &Resolved, lease: &mut Backend) {
        let definition = spelled(&statement.definition, resolved).into();
        lease.statements.outdate(statement.id);
        let Statement { id, ref name, effects, said, ref params, ref private, .. } = *statement;
        self.ensure_prepared(
            &Statement {
                id,
                name: name.clone(),
                definition,
                effects,
                said,
                private: private.clone(),
                sql: None,
                params: params.clone(),
            },
            lease,
        );
    }

    /// A portal is executed. `false`: more of the message is needed first.
    #[cold]
    pub(super) fn sql_execute(&mut self, header: Header) -> bool {
        let Some(body) = self.client.unseen().get(HEADER..header.total) else { return false };
        if let Some((portal, _)) = split_cstr(body) {
            self.barrier |= self.sql.execute(portal);
        }
        true
    }

    /// Two names of one statement part when a text deallocates one of them.
    pub(super) fn sql_part(&mut self, resolved: &Resolved) {
        for (name, statement) in &resolved.parted {
            self.statements.insert(name, statement.clone(), self.told_nothing());
        }
    }

    /// Before a Query in a batch that has not ended. `true`: what it needs is put in front of it first, as part of that
    /// batch; a Sync would end it.
    pub(super) fn sql_joins(&mut self, resolved: &Resolved, lease: &mut Backend) -> bool {
        let lacks = |need: &Need, lease: &mut Backend| match lease.statements.get(need.statement.id) {
            Prepared::At(_) => false,
            Prepared::Outdated => need.runs,
            Prepared::Absent => true,
        };
        if !self.batch.is_open || resolved.lists || !resolved.needs.iter().any(|need| lacks(need, lease)) {
            return false;
        }
        self.sql_put_needs(resolved, lease);
        self.sql_waits(lease)
    }

    /// Before a Query with names. `true`: what they mean hangs on answers to come, or what they need cannot be put in
    /// front of it yet.
    pub(super) fn sql_waits(&mut self, lease: &mut Backend) -> bool {
        if self.batch.is_open && !self.pipeline.is_empty() {
            // Something of the same batch may fail, and the Query be skipped with it.
            self.client.join(&mut lease.socket);
            frontend::flush(lease.socket.output());
            self.batch.is_flushed = true;
            self.barrier = true;
            return true;
        }
        self.undecided = !self.pipeline.is_certain();
        self.undecided
    }

    /// Puts what the backend lacks in front of a Query, each with a Sync of its own: what is executed without one makes
    /// the Query part of a transaction (since PostgreSQL 18), and an error would have it skipped.
    pub(super) fn sql_try_all(&mut self, resolved: &Resolved, lease: &mut Backend) {
        if resolved.lists {
            return self.sql_list(!self.batch.is_open, lease);
        }
        self.make_room(lease);
        // A failed transaction takes nothing; what the text says is refused likewise.
        if lease.status != Status::Failed {
            resolved.needs.iter().for_each(|need| self.sql_try(need, lease));
        }
    }

    pub(super) fn sql_try(&mut self, need: &Need, lease: &mut Backend) {
        let Need { statement, runs } = need;
        match lease.statements.get(statement.id) {
            Prepared::At(_) => return,
            Prepared::Outdated if !runs => return,
            Prepared::Outdated | Prepared::Absent => {}
        }
        self.client.join(&mut lease.socket);
        let difference = self.difference(statement.params.as_ref(), lease);
        // Whatever comes of it, the transaction that it is in goes on; what is prepared is not undone.
        self.sql_save(lease);
        let out = lease.socket.output();
        // A text that failed half-way may have left more than is known.
        put_named(out, tag::CLOSE, b'S', &statement.name);
        put_then(out, &difference);
        match statement.prepare() {
            _ if !runs => put_parse(out, &statement.name, &[0, 0, 0]),
            Some(text) => put_run(out, &text, &[]),
            None => put_parse(out, &statement.name, &statement.definition),
        }
        put_now(out, &difference);
        frontend::sync(out);
        self.pipeline.push(Expect::OwnTry(statement.id));
        self.sql_restore(lease);
        self.note_prepared(statement, *runs, lease);
    }

    /// In front of what may fail, within a transaction.
    pub(super) fn sql_save(&mut self, lease: &mut Backend) {
        if lease.status == Status::Transaction {
            self.sql_try_run(&[&format!("SAVEPOINT {}s", prepared::prefix())], lease);
        }
    }

    /// Behind it.
    pub(super) fn sql_restore(&mut self, lease: &mut Backend) {
        if lease.status == Status::Transaction {
            let name = format!("SAVEPOINT {}s", prepared::prefix());
            self.sql_try_run(&[&format!("ROLLBACK TO {name}"), &format!("RELEASE {name}")], lease);
        }
    }

    /// Statements of ours with a Sync of their own.
    fn sql_try_run(&mut self, texts: &[&str], lease: &mut Backend) {
        let out = lease.socket.output();
        texts.iter().for_each(|text| put_run(out, text.as_bytes(), &[]));
        frontend::sync(out);
        self.pipeline.push(Expect::OwnTry(0));
    }

    /// Runs a statement of ours within the client's batch or transaction, leaving its unnamed statement and portal
    /// alone. `prepares`: the statement that it prepares.
    pub(super) fn sql_run(&mut self, text: &[u8], prepares: u64, lease: &mut Backend) {
        self.client.join(&mut lease.socket);
        let out = lease.socket.output();
        // A text that failed half-way may have left more than is known.
        put_named(out, tag::CLOSE, b'S', &prepared::server_name(prepares));
        put_run(out, text, &[]);
        self.pipeline.push(Expect::OwnRun(Run::Prepares(prepares), RUN_REPLIES + 1));
    }

    /// The tag of a `PREPARE` or `DEALLOCATE` has come.
    pub(super) fn sql_done(&mut self, lease: &mut Backend) {
        let listed = self.sql.running.as_ref().is_some_and(|running| running.lists);
        match self.sql.running.as_mut().and_then(|running| running.deeds.pop_front()) {
            Some(Deed::Prepare(name, statement)) if listed => {
                self.statements.insert(&name, statement, self.told_nothing())
            }
            Some(Deed::Prepare(name, statement)) => {
                // Not before: the text may not have got so far, or have taken all that there was.
                lease.statements.insert(&statement, self.pool.schema.load(Ordering::Relaxed));
                self.statements.insert(&name, statement, self.told_nothing());
            }
            Some(Deed::Deallocate(name, id)) => {
                self.statements.remove(&name);
                lease.statements.remove(id);
            }
            None => {}
        }
    }

    /// An error has come: what was under way has not been done.
    pub(super) fn sql_failed(&mut self) {
        self.sql.drop_bound();
        self.sql.end();
    }

    /// Everything has been answered.
    #[cold]
    pub(super) fn sql_answered(&mut self, lease: &mut Backend) {
        self.sql.end();
        if lease.status == Status::Idle {
            // Portals end with their transaction.
            self.sql_failed();
        }
        if self.sql.listed {
            self.sql_unlist(lease);
        }
    }
}

/// A definition with the server-side names.
fn spelled(definition: &[u8], resolved: &Resolved) -> Vec<u8> {
    let types = definition.iter().position(|byte| *byte == 0).and_then(|end| definition.get(end..));
    [&resolved.text[..], types.unwrap_or_default()].concat()
}

/// Replies to what [`put_run`] puts, if all goes well and there are no rows.
pub(super) const RUN_REPLIES: usize = 7;

/// Runs a statement with text parameters, under a name of its own, which an earlier one that failed may have left, with
/// its portal.
pub(super) fn put_run(out: &mut BytesMut, text: &[u8], values: &[&str]) {
    let name = run_name();
    put_named(out, tag::CLOSE, b'P', &name);
    put_named(out, tag::CLOSE, b'S', &name);
    put_parse(out, &name, &[text, &[0, 0, 0]].concat());
    backend::message(tag::BIND, out, |out| {
        for _portal_and_statement in 0..2 {
            out.put_slice(&name);
            out.put_u8(0);
        }
        // Formats, of parameters and of results: text.
        out.put_u16(0);
        out.put_u16(values.len() as u16);
        for value in values {
            out.put_u32(value.len() as u32);
            out.put_slice(value.as_bytes());
        }
        out.put_u16(0);
    });
    backend::message(tag::EXECUTE, out, |out| {
        out.put_slice(&name);
        out.put_slice(&[0; 5]);
    });
    put_named(out, tag::CLOSE, b'P', &name);
    put_named(out, tag::CLOSE, b'S', &name);
}

/// The name of what [`put_run`] runs, and of its portal.
pub(super) fn run_name() -> Vec<u8> {
    [prepared::prefix().as_bytes(), b"run"].concat()
}
