//! A client's statements on its backend under its own names, and no others: for a text that asks which there are, and for
//! good where texts cannot be read.

use postgres_protocol::message::frontend;

use super::Session;
use super::expect::{Expect, Run};
use super::parsed_under::{put_now, put_then};
use super::sql_statements::{RUN_REPLIES, put_run, run_name};
use crate::backend::Backend;
use crate::prepared;
use crate::track::{Effects, PinReason};
use crate::wire::backend::Status;
use crate::wire::frontend as tag;
use crate::wire::frontend::{put_named, put_parse};

impl Session {
    /// Before a text that asks which prepared statements there are: the client's own, under its own names, and no others of
    /// ours. Rare enough that all that the backend has is closed for it, and these behind it. `synced`: each with a Sync
    /// of its own, so that one that can no longer be prepared does no harm.
    pub(super) fn sql_list(&mut self, synced: bool, lease: &mut Backend) {
        if lease.status == Status::Failed {
            return;
        }
        self.sql.listed = true;
        // Until it is undone, whoever gets this backend must not find them.
        lease.residue.add(PinReason::Prepare.effect());
        self.sql_put_own(synced, lease);
    }

    /// Before a text that cannot be read, or not whole: the client stays with its backend, which gets its statements under
    /// its own names. From then on its texts, and messages about statements, go as they are. `false`: once what was sent
    /// is answered.
    #[cold]
    pub(super) fn sql_own(&mut self, lease: &mut Backend) -> bool {
        // What a failed transaction is told is refused in any case.
        if self.sql.own || self.statements.is_empty() || lease.status == Status::Failed {
            return true;
        }
        if !self.pipeline.is_empty() {
            if self.batch.is_open {
                self.client.join(&mut lease.socket);
                frontend::flush(lease.socket.output());
                self.batch.is_flushed = true;
            }
            self.barrier = true;
            return false;
        }
        self.sql_put_own(!self.batch.is_open || !self.batch.has_bound, lease);
        self.sql.own = true;
        let known: Vec<_> = self.statements.iter().map(|(_, statement)| statement.clone()).collect();
        self.statements.clear();
        self.note_effects(PinReason::Prepare.effect() | Effects::UNSEEN, b"", lease);
        known.iter().for_each(|statement| self.note_own(statement.effects, statement.text(), lease));
        true
    }

    /// Effects of a statement that will be bound under a name that is not looked up.
    pub(super) fn note_own(&mut self, effects: Effects, text: &[u8], lease: &mut Backend) {
        let effects = effects | self.suspicion(Some(text));
        self.guard_sequences(effects, lease);
        self.note_effects(effects, text, lease);
        self.listening.bind(effects, text);
    }

    /// Before a Query that asks which statements there are, among those that go by the client's own names.
    pub(super) fn sql_hide_own(&mut self, lease: &mut Backend) {
        if self.sql.own && !self.batch.is_open && lease.status != Status::Failed {
            self.client.join(&mut lease.socket);
            lease.put_close_own();
            frontend::sync(lease.socket.output());
            self.pipeline.push(Expect::OwnTry(0));
        }
    }

    /// Instead of those that the backend has.
    fn sql_put_own(&mut self, synced: bool, lease: &mut Backend) {
        self.client.join(&mut lease.socket);
        let ours = lease.statements.ids();
        lease.statements.clear();
        let out = lease.socket.output();
        ours.iter().for_each(|id| put_named(out, tag::CLOSE, b'S', &prepared::server_name(*id)));
        let closed = ours.len() + lease.put_close_own();
        self.sql_expect_own(closed, synced, lease);
        let own: Vec<_> = self.statements.iter().map(|(name, statement)| (name.to_vec(), statement.clone())).collect();
        for (name, statement) in own {
            if synced {
                self.sql_save(lease);
            }
            let difference = self.difference(statement.params.as_ref(), lease);
            let sets = if difference.is_empty() { 0 } else { 2 * (RUN_REPLIES + difference.len()) };
            let out = lease.socket.output();
            put_named(out, tag::CLOSE, b'S', &name);
            put_then(out, &difference);
            let replies = match &statement.sql {
                Some(_) => {
                    put_run(out, statement.text(), &[]);
                    RUN_REPLIES
                }
                None => {
                    put_parse(out, &name, &statement.definition);
                    1
                }
            };
            put_now(out, &difference);
            self.sql_expect_own(1 + sets + replies, synced, lease);
            if synced {
                self.sql_restore(lease);
            }
        }
        if synced {
            // The last one that failed has left what it was run by.
            put_named(lease.socket.output(), tag::CLOSE, b'S', &run_name());
            self.sql_expect_own(1, synced, lease);
        }
    }

    fn sql_expect_own(&mut self, replies: usize, synced: bool, lease: &mut Backend) {
        if synced {
            frontend::sync(lease.socket.output());
        }
        self.pipeline.push(if synced { Expect::OwnTry(0) } else { Expect::OwnRun(Run::Now, replies) });
    }

    /// Behind it.
    pub(super) fn sql_unlist(&mut self, lease: &mut Backend) {
        self.client.join(&mut lease.socket);
        let out = lease.socket.output();
        for (name, _) in self.statements.iter() {
            put_named(out, tag::CLOSE, b'S', name);
        }
        frontend::sync(out);
        self.pipeline.push(Expect::Prefix);
        self.sql.listed = false;
        if !self.pins.any(PinReason::Prepare.effect()) {
            lease.residue.remove(PinReason::Prepare.effect());
        }
    }
}
