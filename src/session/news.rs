//! Telling a client what it listens to, when PostgreSQL would: between transactions, before ReadyForQuery.

use std::task::Poll;

use super::listening::Notified;
use super::replies::{Fate, body};
use super::{BACKLOG, Session};
use crate::backend::Backend;
use crate::cancel::Order;
use crate::error::Error;
use crate::listen;
use crate::wire::backend as tag;
use crate::wire::{HEADER, Header};

impl Session {
    /// Tells what has come, to a client between transactions.
    ///
    /// # Errors
    /// Notifications were lost: the session must end.
    pub(super) fn tell_news(&mut self) -> Result<(), Error> {
        match &mut self.listening.shared {
            Some(shared) if self.client.backlog() < BACKLOG => {
                shared.subscription.deliver(None, self.params.encoding(), self.client.output())
            }
            _ => Ok(()),
        }
    }

    /// Whether there is something to tell to a client that keeps its backend. It can be told at once.
    #[inline]
    pub(super) fn has_news(&self, lease: &Backend) -> bool {
        self.listening.has_news() && self.client.backlog() < BACKLOG && self.is_between(lease)
    }

    /// The same without a backend. In a transaction nothing is told (manual, "NOTIFY").
    #[inline]
    pub(super) fn may_tell_news(&self) -> bool {
        self.listening.has_news() && self.put_off.is_nothing()
    }

    /// Whether something has come since it was looked for, and can be dealt with at once: who waits must look again. What
    /// waits for the client to read is no reason, that wakes by itself.
    pub(super) fn is_rung(&self, lease: &Backend) -> bool {
        let can_be_told = self.client.backlog() < BACKLOG && !lease.socket.has_passed();
        self.has_news(lease)
            || can_be_told
                && self.listening.notified == Notified::Awaited
                && self
                    .listening
                    .shared
                    .as_ref()
                    .is_none_or(|shared| shared.subscription.has_echo() || shared.subscription.has_news())
    }

    /// Whether a ReadyForQuery is there and waits for [`Session::is_told`].
    #[inline]
    pub(super) fn holds_ready(&self) -> bool {
        self.listening.notified == Notified::Awaited
    }

    /// Before a ReadyForQuery is passed on: outside a transaction, what has come is told first, and a client that may have
    /// notified itself waits for that. `false`: not yet.
    pub(super) fn is_told(&mut self, header: Header, lease: &mut Backend) -> bool {
        if body(lease, header) != b"I" {
            return true;
        }
        self.listening.commit();
        let Some(shared) = &mut self.listening.shared else {
            self.listening.notified = Notified::No;
            return true;
        };
        if self.listening.notified == Notified::May {
            shared.subscription.ask_echo();
            self.listening.notified = Notified::Awaited;
        }
        let own = self.holds_ready().then_some(lease.identity.pid);
        let Some(shared) = &mut self.listening.shared else { return true };
        lease.socket.join(&mut self.client);
        // If any were lost, the session ends as soon as it is idle.
        let lost = shared.subscription.deliver(own, self.params.encoding(), self.client.output()).is_err();
        if own.is_none() {
            return true;
        }
        if !lost && !shared.subscription.is_told() {
            return false;
        }
        self.listening.notified = Notified::No;
        lease.notified = false;
        true
    }

    /// A NotificationResponse of its own backend: not for the client if the listener tells it, and with the process id
    /// that the client knows if it is its own.
    pub(super) fn notification(&mut self, header: Header, lease: &mut Backend) -> Fate {
        let Some((pid, channel)) = tag::notification(body(lease, header)) else { return Fate::Pass };
        if self.listening.hears(channel) || listen::is_marker(channel) {
            return Fate::Swallow;
        }
        if pid == lease.identity.pid
            && let Some(field) = lease.socket.unseen_mut().get_mut(HEADER..HEADER + 4)
        {
            field.copy_from_slice(&self.handle.pid.to_be_bytes());
        }
        Fate::Pass
    }

    /// Tells what its backend was told while it answered questions of ours, on channels that the listener does not tell.
    pub(super) fn tell_heard(&mut self, lease: &mut Backend) {
        let (heard, listening, out) = (std::mem::take(&mut lease.notifications), &self.listening, self.client.output());
        listen::each(&heard, |message| {
            let channel = tag::notification(message.get(HEADER..).unwrap_or_default()).map(|(_, channel)| channel);
            if channel.is_some_and(|channel| !listening.hears(channel) && !listen::is_marker(channel)) {
                out.extend_from_slice(message);
            }
        });
    }

    /// Whether another may just have notified this client by the backend that it gets: that must have come first, so that
    /// it is not taken for the client's own.
    #[inline]
    pub(super) fn must_hear_out(&self, lease: &Backend) -> bool {
        lease.notified && self.listening.shared.is_some() && lease.owner != self.handle.id
    }

    /// Waits for that, but not longer than the client may.
    pub(super) async fn hear_out(&mut self, lease: &mut Backend) {
        let Some(shared) = &mut self.listening.shared else { return };
        lease.notified = false;
        shared.subscription.ask_echo();
        std::future::poll_fn(|cx| {
            self.handle.listen(cx.waker());
            match shared.subscription.has_echo() || self.handle.order() >= Order::Stop {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
}
