//! A client's statements on its backend under its own names, and no others: for a text that asks which there are.

use postgres_protocol::message::frontend;

use super::Session;
use super::pipeline::Expect;
use super::sql_statements::{RUN_REPLIES, put_run};
use super::statements::{put_named, put_parse};
use crate::pool::Lease;
use crate::prepared;
use crate::track::PinReason;
use crate::wire::backend::Status;
use crate::wire::frontend as tag;

impl Session {
    /// Before a text that asks which prepared statements there are: the client's own, under its own names, and no others of
    /// ours. Rare enough that all that the backend has is closed for it, and these behind it. `synced`: each with a Sync
    /// of its own, so that one that can no longer be prepared does no harm.
    pub(super) fn sql_list(&mut self, synced: bool, lease: &mut Lease) {
        if lease.status == Status::Failed {
            return;
        }
        self.sql.listed = true;
        // Until it is undone, whoever gets this backend must not find them.
        lease.residue.add(PinReason::Prepare.effect());
        self.sql_put_own(synced, lease);
    }

    fn sql_put_own(&mut self, synced: bool, lease: &mut Lease) {
        self.client.join(&mut lease.socket);
        if synced {
            self.sql_save(lease);
        }
        let ours = lease.statements.ids();
        lease.statements.clear();
        let out = lease.socket.output();
        for id in &ours {
            put_named(out, tag::CLOSE, b'S', &prepared::server_name(*id));
        }
        let closed = ours.len() + lease.put_close_own();
        let mut expected: Vec<_> = (0..closed).map(|_| Expect::OwnRun(0, 1)).collect();
        let out = lease.socket.output();
        for (name, statement) in self.statements.iter() {
            put_named(out, tag::CLOSE, b'S', name);
            expected.push(Expect::OwnRun(0, 1));
            if statement.sql.is_some() {
                put_run(out, statement.text(), &[]);
                expected.push(Expect::OwnRun(0, RUN_REPLIES));
            } else {
                put_parse(out, name, &statement.definition);
                expected.push(Expect::OwnRun(0, 1));
            }
            if synced {
                frontend::sync(out);
                self.pipeline.push(Expect::OwnTry(0));
                expected.clear();
            }
        }
        if synced && !expected.is_empty() {
            frontend::sync(out);
            self.pipeline.push(Expect::OwnTry(0));
            expected.clear();
        }
        expected.into_iter().for_each(|expect| self.pipeline.push(expect));
        if synced {
            self.sql_restore(lease);
        }
    }

    /// Behind it.
    pub(super) fn sql_unlist(&mut self, lease: &mut Lease) {
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
