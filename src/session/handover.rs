//! The two ends of a lease: borrowing a backend and bringing it to the client's state, and giving it back, or getting
//! it back from a client that is gone.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;

use super::expect::Expect;
use super::replies::Lost;
use super::sql_state::Sql;
use super::timing::Timing;
use super::{BACKLOG, End, LeaseEnd, Session, limits};
use crate::activity::State;
use crate::backend::{Backend, Unfinished};
use crate::cancel::{Handle, Order};
use crate::config::{HiddenState, Isolation, PoolMode};
use crate::error::{Error, Side, SqlState};
use crate::listen::Start;
use crate::metrics::metrics;
use crate::pool::{Borrower, Lease};
use crate::prepared::ClientStatements;
use crate::track::{Effects, PinReason};
use crate::wire::backend::Status;

/// Why there is no lease.
pub(super) enum NoLease {
    /// The client is told, and stays.
    Refused(Error),
    /// The client is gone.
    Gone,
}

/// What a backend needs before it serves another client.
enum Cleaning {
    /// Nothing: it carries nothing.
    None,
    /// What nobody may have seen, in front of the client's own bytes.
    Pipelined,
    /// The settings in force, among them a limit of time that could end the putting in force of others.
    Settings,
    /// What is known to be there, and must be known to be gone.
    Awaited,
    /// There may be something that no reset reaches.
    Impossible,
}

#[inline]
fn borrower<'a>(handle: &'a Handle, timing: &Timing) -> Borrower<'a> {
    Borrower { client: handle.id, application: &handle.application, rests: timing.rests(), asks: timing.asked() }
}

#[cold]
fn cannot_put(error: &std::io::Error) -> NoLease {
    NoLease::Refused(Error::new(Side::Client, SqlState::INVALID_PARAMETER_VALUE, error.to_string()))
}

impl Session {
    /// What this backend's last owner requires. Where a limit of its own could end it, nothing of this client's may
    /// stand behind it.
    #[inline]
    fn cleaning(&self, lease: &Backend) -> Cleaning {
        let cleaning = self.cleaning_of_residue(lease);
        let is_limited = match &lease.params {
            Some(in_force) => in_force.limits_statements && self.params.change_from(Some(in_force)).is_some(),
            None => lease.owner != 0,
        };
        match cleaning {
            Cleaning::None if is_limited => Cleaning::Settings,
            Cleaning::Pipelined if is_limited => Cleaning::Awaited,
            _ => cleaning,
        }
    }

    #[inline]
    fn cleaning_of_residue(&self, lease: &Backend) -> Cleaning {
        let is_plain =
            lease.residue == Effects::NONE && !lease.unclean && (lease.owner == 0 || !self.pool.is_careful());
        if lease.owner == self.handle.id || is_plain {
            return Cleaning::None;
        }
        let settings = self.pool.settings.load();
        if settings.isolation == Isolation::Strict && lease.owner != 0 {
            let custom = lease.params.as_ref().is_none_or(|params| params.settings.has_custom());
            let lasting = Effects::INDELIBLE | PinReason::Hidden.effect() | Effects::UNSEEN;
            return match custom || lease.residue.any(lasting) || self.pool.has_globals() {
                true => Cleaning::Impossible,
                false => Cleaning::Awaited,
            };
        }
        if lease.residue != Effects::NONE {
            return Cleaning::Awaited;
        }
        let clean = match settings.hidden_state {
            HiddenState::Off => false,
            HiddenState::Clean => true,
            HiddenState::Certify => lease.unclean || self.pool.may_hide(),
        };
        if clean { Cleaning::Pipelined } else { Cleaning::None }
    }

    /// Brings a backend's parameters to the client's, in front of its own bytes.
    pub(super) fn put_params(&mut self, lease: &mut Backend) -> std::io::Result<()> {
        if let Some(change) = self.params.change_from(lease.params.as_ref()) {
            lease.put_settings(&change)?;
            self.pipeline.push(Expect::Prefix);
            lease.params = Some(self.params.clone());
        }
        Ok(())
    }

    /// A backend without waiting, brought to this client's state: what nearly every transaction gets. Otherwise what is
    /// there of it, for [`Session::borrow`].
    #[inline]
    pub(super) fn borrow_now(&mut self) -> Result<Lease, Option<Lease>> {
        let who = borrower(&self.handle, &self.timing);
        let Some(mut lease) = self.pool.borrow_now(&who) else { return Err(None) };
        let ready = matches!(self.cleaning(&lease), Cleaning::None) && !self.must_hear_out(&lease);
        match ready && self.prepare(&mut lease).is_ok() {
            true => Ok(lease),
            false => Err(Some(lease)),
        }
    }

    /// Waits for a backend, if there is not one already, and brings it to this client's state.
    pub(super) async fn borrow(&mut self, mut there: Option<Lease>) -> Result<Lease, NoLease> {
        let mut lease = loop {
            let mut lease = match there.take() {
                Some(lease) => lease,
                None => self.wait_for_lease().await?,
            };
            let cleaning = self.cleaning(&lease);
            match cleaning {
                Cleaning::None => break lease,
                Cleaning::Pipelined => {
                    lease.put_cleaning().map_err(|error| cannot_put(&error))?;
                    lease.foreign_sequences = false;
                    lease.unclean = false;
                    self.pipeline.push(Expect::Prefix);
                    self.pipeline.push(Expect::Prefix);
                    break lease;
                }
                // Dropped, it is closed, and a new one may be opened.
                Cleaning::Impossible => continue,
                Cleaning::Settings | Cleaning::Awaited => {}
            }
            let mut cancelled = self.handle.waits_cancelled();
            match cleaning {
                Cleaning::Settings => lease.reset_settings().await,
                _ => Box::pin(lease.clean()).await,
            }
            cancelled |= self.handle.waits_cancelled();
            if cancelled {
                lease.release();
                return Err(NoLease::Refused(limits::cancelled()));
            }
            if !lease.broken {
                break lease;
            }
        };
        if self.must_hear_out(&lease) {
            Box::pin(self.hear_out(&mut lease)).await;
        }
        self.prepare(&mut lease).map_err(|error| cannot_put(&error))?;
        Ok(lease)
    }

    /// From here on it is this client's: what differs is put in front of the client's own bytes.
    #[inline]
    fn prepare(&mut self, lease: &mut Lease) -> std::io::Result<()> {
        self.listening.begin();
        if lease.owner != self.handle.id {
            lease.foreign_sequences |= lease.owner != 0;
            lease.owner = self.handle.id;
        }
        if lease.foreign_sequences && self.pool.sequences.load(Ordering::Relaxed) {
            self.discard_sequences(lease);
        }
        self.close_abandoned(lease);
        self.put_params(lease)?;
        self.begin_put_off(lease)?;
        // A cancel is not meant for what stands in front of the client's own.
        self.handle.attach(&lease.identity, lease.since(), !self.pipeline.has_prefix());
        self.timing.serve(lease.since());
        self.handle.activity.set_at(State::Active, lease.since());
        Ok(())
    }

    /// Waits in the pool's queue. A client that leaves, cancels or is told to stop while it waits leaves the queue.
    async fn wait_for_lease(&mut self) -> Result<Lease, NoLease> {
        let who = borrower(&self.handle, &self.timing);
        let mut borrowing = pin!(self.pool.borrow(who, self.limits.alarm()));
        let (client, handle) = (&mut self.client, &self.handle);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = borrowing.as_mut().poll(cx) {
                return Poll::Ready(result.map_err(NoLease::Refused));
            }
            handle.listen(cx.waker());
            let order = handle.order();
            // Who may stay for its transaction has none yet, and does not wait for an operator to resume its pool.
            if order >= Order::Stop || (order == Order::Drain && handle.pool.is_held()) {
                return Poll::Ready(Err(NoLease::Refused(limits::told_to_leave(order))));
            }
            if handle.waits_cancelled() {
                return Poll::Ready(Err(NoLease::Refused(limits::cancelled())));
            }
            while client.unseen().len() < BACKLOG {
                match client.poll_fill(cx) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(Err(NoLease::Gone)),
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Ends the lease of a transaction that has left nothing to do, as nearly all do. Otherwise it is there for
    /// [`Session::give_back`].
    #[inline]
    pub(super) fn give_back_now(&mut self, mut lease: Lease) -> Option<Lease> {
        let is_plain = self.mode == PoolMode::Transaction
            && !self.is_pinned()
            && !self.changed_schema
            && self.listening.start.is_none()
            && !lease.residue.any(Effects::PARAMETERS)
            && !lease.limits_idleness()
            && !self.pool.is_headroom_due();
        if !is_plain || self.handle.detach() {
            return Some(lease);
        }
        lease.unclean |= self.pool.may_hide();
        self.count_bytes();
        self.limits.relax(self.client.io());
        self.end_transaction(&mut lease);
        lease.release_at(self.timing.now());
        None
    }

    fn count_bytes(&mut self) {
        let (received, sent) = self.client.take_counts();
        self.pool.metrics.received.inc_by(received);
        self.pool.metrics.sent.inc_by(sent);
    }

    #[inline]
    fn end_transaction(&mut self, lease: &mut Backend) {
        self.pool.metrics.transactions.inc();
        self.saids.clear();
        self.pipeline.give_back();
        lease.socket.give_back();
    }

    /// Ends the lease. `Some`: the session, too.
    pub(super) async fn give_back(&mut self, mut lease: Lease, end: LeaseEnd) -> Option<End> {
        self.count_bytes();
        if self.handle.detach() {
            if !self.handle.quiet().await {
                // It may yet come, and must not hit the next owner.
                lease.broken = true;
            } else if matches!(end, LeaseEnd::Done) {
                lease.barrier().await;
            }
        }
        let start = self.listening.start.take();
        let changed_schema = std::mem::take(&mut self.changed_schema);
        // What is known of the catalogue when the next client comes says nothing about what could be done until now.
        lease.unclean |= changed_schema || self.pool.may_hide();
        if changed_schema {
            self.pool.schema.fetch_add(1, Ordering::Relaxed);
            self.pool.doubt_certificate();
        }
        self.limits.relax(self.client.io());
        if lease.residue.any(Effects::PARAMETERS) {
            lease.params = None;
        }
        if self.mode == PoolMode::Session {
            // A whole session was spent here, and what functions did in it cannot be seen.
            lease.residue.add(Effects::UNSEEN);
        }
        if let LeaseEnd::Done = end {
            return self.give_back_done(lease, start, changed_schema).await;
        }
        if lease.status != Status::Idle {
            metrics().rolled_back.inc();
        }
        // Whole messages are still forwarded: the other side must be where we think it is.
        lease.socket.join(&mut self.client);
        self.client.join(&mut lease.socket);
        // What was parsed in a transaction that is rolled back now.
        self.local_parses.drain(..).for_each(|id| lease.statements.outdate(id));
        // Nobody has them any more, also while the client is told goodbye.
        self.statements = ClientStatements::default();
        self.sql = Sql::default();
        Some(match end {
            LeaseEnd::Done => return None,
            LeaseEnd::ClientGone(polite) => {
                lease.recover(self.unfinished(polite), self.pins);
                if polite { End::Left } else { End::Gone }
            }
            LeaseEnd::Ended(error) => {
                lease.recover(self.unfinished(false), self.pins);
                End::Ended(Some(error))
            }
            LeaseEnd::BackendLost(lost) => {
                lease.broken = true;
                drop(lease);
                End::Ended(match lost {
                    Lost::Said => None,
                    Lost::Broke(error) => Some(limits::backend_lost(&error)),
                    Lost::Confused(error) => Some(error),
                })
            }
        })
    }

    /// Its transaction is over.
    async fn give_back_done(
        &mut self,
        mut lease: Lease,
        start: Option<Box<Start>>,
        changed_schema: bool,
    ) -> Option<End> {
        if self.breaks_statement_mode(&lease) {
            lease.recover(self.unfinished(false), self.pins);
            return Some(End::Ended(Some(limits::transaction_in_statement_mode())));
        }
        self.end_transaction(&mut lease);
        if self.is_pinned() {
            // Draining: the client has to go although it is pinned.
            lease.recover(self.unfinished(true), self.pins);
            return Some(End::Ended(Some(limits::shutting_down())));
        }
        lease.residue.remove(Effects::PARAMETERS);
        if changed_schema && self.pool.is_stale() && self.pool.settings.load().hidden_state != HiddenState::Off {
            // What it made may hide something from the next statement on.
            self.pool.certify(&mut lease).await;
        }
        if self.pool.reads_headroom() {
            self.pool.read_headroom(&mut lease).await;
        }
        if lease.limits_idleness() {
            lease.reset_settings().await;
        }
        match start {
            Some(start) => start.run(lease),
            None => lease.release(),
        }
        None
    }

    fn unfinished(&self, polite: bool) -> Unfinished {
        Unfinished {
            outstanding: self.pipeline.outstanding(),
            open_batch: self.batch.is_open || self.batch.is_skipped,
            copy_in: self.copy_in,
            torn: self.request.rest() > 0 && !self.request.is_dropped,
            rest: self.reply.rest(),
            polite,
        }
    }
}
