//! A client's side of the shared listener: its channels, and what has come for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::oneshot;

use super::Running;
use super::inbox::Inbox;
use super::listener::Order;
use crate::cancel::Handle;
use crate::error::Error;
use crate::track::channels::Unlisten;
use crate::wire::HEADER;
use crate::wire::backend;

/// A client that listens. Dropped, it does not any more.
pub struct Subscription {
    listener: Running,
    inbox: Arc<Inbox>,
    channels: BTreeSet<String>,
    /// The newest barrier that was asked for.
    barrier: u64,
}

/// Notifications that a client is sent at one time.
const BACKLOG: usize = 64 * 1024;

impl Subscription {
    pub(super) fn new(listener: Running, client: Arc<Handle>) -> Self {
        Self { listener, inbox: Inbox::new(client), channels: BTreeSet::new(), barrier: 0 }
    }

    /// Of a client that has none yet.
    ///
    /// # Errors
    /// See [`Subscription::join`].
    pub async fn start(listener: Running, client: Arc<Handle>, channels: &[String], moment: u64) -> Option<Self> {
        let mut subscription = Self::new(listener, client);
        subscription.join(channels, moment).await.then_some(subscription)
    }

    pub(super) fn inbox(&self) -> Arc<Inbox> {
        self.inbox.clone()
    }

    pub(super) fn note(&mut self, channels: &[String]) {
        self.channels.extend(channels.iter().cloned());
    }

    /// Listens to these, too, from the moment that [`super::hand_over`] marks with this number. `false`: the listener is
    /// gone.
    pub async fn join(&mut self, channels: &[String], moment: u64) -> bool {
        let (done, joined) = oneshot::channel();
        let join = Order::Join { inbox: self.inbox(), channels: channels.to_vec(), moment, done };
        let joined = self.listener.0.send(join).is_ok() && joined.await.is_ok();
        if joined {
            self.note(channels);
        }
        joined
    }

    /// Whether it listens to this channel.
    pub fn hears(&self, channel: &[u8]) -> bool {
        std::str::from_utf8(channel).is_ok_and(|channel| self.channels.contains(channel))
    }

    /// Whether it listens to nothing.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// What an `UNLISTEN` takes away; what has come of it already is not told any more.
    pub fn leave(&mut self, what: &Unlisten) {
        let left = match what {
            Unlisten::All => std::mem::take(&mut self.channels).into_iter().collect(),
            Unlisten::One(channel) => self.channels.take(channel).into_iter().collect(),
        };
        let _ = self.listener.0.send(Order::Leave { client: self.inbox.client(), channels: left });
    }

    /// Asks for a barrier, if none is under way: once it is passed, all that was sent until now has come.
    pub fn ask_barrier(&mut self) {
        if self.is_passed() {
            self.barrier += 1;
            let _ = self.listener.0.send(Order::Barrier { inbox: self.inbox(), number: self.barrier });
        }
    }

    /// Whether the last barrier is passed, or never will be. The client's task is woken when it is.
    pub fn is_passed(&self) -> bool {
        self.inbox.passed() >= self.barrier || self.inbox.is_over() || self.listener.0.is_closed()
    }

    /// Whether anything has come.
    #[inline]
    pub fn has_news(&self) -> bool {
        self.inbox.any()
    }

    /// Appends what has come, as far as it fits, to a client of this encoding. `own`: the backend by which the client may
    /// have notified itself, known to it by another process id.
    ///
    /// # Errors
    /// Some notifications were lost, or are in an encoding that the client does not have; its session must end.
    pub fn deliver(&mut self, own: Option<i32>, encoding: &str, out: &mut BytesMut) -> Result<(), Error> {
        while out.len() < BACKLOG {
            let Some(message) = self.inbox.take()? else { return Ok(()) };
            let body = message.get(HEADER..).unwrap_or_default();
            let Some((pid, channel)) = backend::notification(body) else { continue };
            if self.hears(channel) {
                if encoding != "UTF8" && !body.get(4..).is_some_and(<[u8]>::is_ascii) {
                    return Err(self.inbox.give_up());
                }
                let start = out.len();
                out.extend_from_slice(&message);
                if own == Some(pid)
                    && let Some(field) = out.get_mut(start + HEADER..start + HEADER + 4)
                {
                    field.copy_from_slice(&self.inbox.pid().to_be_bytes());
                }
            }
        }
        Ok(())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let _ = self.listener.0.send(Order::Gone { client: self.inbox.client() });
    }
}
