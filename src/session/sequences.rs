//! `currval` and `lastval` of the client that had the backend before: they cannot be asked for, only discarded, and must be
//! before another client asks. As long as nobody ever has, nothing is discarded; from then on it is whenever the owner
//! changes.

use std::sync::atomic::Ordering;

use super::Session;
use super::expect::{Expect, Run};
use super::query::Unsent;
use super::sql_statements::{RUN_REPLIES, put_run};
use crate::backend::Backend;
use crate::error::{Error, Side, SqlState};
use crate::track::{Effects, PinReason};
use crate::wire::HEADER;
use crate::wire::backend::Status;

impl Session {
    /// Before a Query with these effects, of which so many bytes have been examined; a long one's start.
    ///
    /// # Errors
    /// Another client's would be found by it, or might be.
    pub(super) fn sequences_before(
        &mut self,
        examined: usize,
        is_start: bool,
        effects: Effects,
        lease: &Backend,
    ) -> Result<(), Unsent> {
        let may_ask = is_start || effects.any(PinReason::Sequence.effect());
        if !may_ask || !lease.foreign_sequences {
            return Ok(());
        }
        if self.cannot_forget_yet(lease) {
            return Err(Unsent::Wait);
        }
        // Nothing can be discarded in a failed transaction, which the text may end, and go on.
        let text = self.client.unseen().get(HEADER..HEADER + examined).unwrap_or_default();
        if lease.status == Status::Failed && text.contains(&b';') {
            self.forget_sequences_in_time();
            return Err(Unsent::Refused(not_its_own()));
        }
        Ok(())
    }

    /// Whether they can be discarded only once it is known whether a transaction has failed by then.
    pub(super) fn cannot_forget_yet(&mut self, lease: &Backend) -> bool {
        let hangs = lease.foreign_sequences && !self.pipeline.is_certain();
        self.undecided |= hangs;
        hangs
    }

    /// Whether a statement with these effects is sent only once everything before it is answered.
    pub(super) fn must_be_answered_first(&mut self, effects: Effects, lease: &Backend) -> bool {
        self.must_hear_first(effects) || effects.any(PinReason::Sequence.effect()) && self.cannot_forget_yet(lease)
    }

    /// Before a text with these effects: another client's value must not be found.
    pub(super) fn guard_sequences(&mut self, effects: Effects, lease: &mut Backend) {
        if effects.any(PinReason::Sequence.effect()) {
            self.forget_sequences_in_time();
            self.forget_sequences(lease);
        }
    }

    /// From now on they are discarded whenever the owner changes.
    pub(super) fn forget_sequences_in_time(&self) {
        self.pool.sequences.store(true, Ordering::Release);
    }

    /// Has the backend forget another client's: as part of the client's batch, if it has begun.
    pub(super) fn forget_sequences(&mut self, lease: &mut Backend) {
        // In a failed transaction nothing is told, either.
        if !lease.foreign_sequences || lease.status == Status::Failed {
            return;
        }
        self.client.join(&mut lease.socket);
        if !self.batch.has_sent {
            self.discard_sequences(lease);
        } else if !self.pipeline.forgets() {
            // It may be skipped: they are forgotten once it is answered.
            put_run(lease.socket.output(), b"DISCARD SEQUENCES", &[]);
            self.pipeline.push(Expect::OwnRun(Run::Forgets, RUN_REPLIES));
        }
    }

    /// The same in front of everything.
    pub(super) fn discard_sequences(&mut self, lease: &mut Backend) {
        lease.put_discard_sequences();
        lease.foreign_sequences = false;
        self.pipeline.push(Expect::Prefix);
    }
}

/// 55000, PostgreSQL's own where there is no value.
#[cold]
fn not_its_own() -> Error {
    Error::new(
        Side::Proxy,
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        "currval and lastval are not yet defined in this session",
    )
    .detail("The text may ask for them behind the end of a failed transaction, and another client used this connection before.")
    .hint("Send ROLLBACK by itself and try again: pgfunnel keeps them apart from now on.")
}
