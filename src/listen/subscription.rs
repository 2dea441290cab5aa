//! A client's side of the shared listener: its channels, and what has come for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::oneshot;

use super::Running;
use super::inbox::{Inbox, Taken};
use super::listener::Order;
use crate::cancel::Handle;
use crate::error::Error;
use crate::wire::HEADER;
use crate::wire::backend;

/// A client that listens. Dropped, it does not any more.
pub struct Subscription {
    listener: Running,
    inbox: Arc<Inbox>,
    channels: BTreeSet<String>,
    /// The newest echo that was asked for.
    echo: u64,
    /// How many messages had come when the client got its backend: none of them is from itself.
    before: u64,
}

/// Notifications that a client is sent at one time.
const BACKLOG: usize = 64 * 1024;

/// Channels of one client that are shared; with more it keeps its backend, and what they cost.
pub const MOST_CHANNELS: usize = 1_000;

/// How long a client waits to be let in, holding its backend.
const PATIENCE: Duration = Duration::from_secs(2);

impl Subscription {
    pub(super) fn new(listener: Running, client: Arc<Handle>) -> Self {
        Self { listener, inbox: Inbox::new(client), channels: BTreeSet::new(), echo: 0, before: 0 }
    }

    pub(super) fn inbox(&self) -> Arc<Inbox> {
        self.inbox.clone()
    }

    pub(super) fn note(&mut self, channels: &[String]) {
        self.channels.extend(channels.iter().cloned());
    }

    /// Listens to these, too, from the moment that [`super::hand_over`] marks with this number. `false`: the listener is
    /// gone, or does not answer. Not cancel-safe: the listener may have obeyed.
    pub async fn join(&mut self, channels: &[String], moment: u64) -> bool {
        let (done, joined) = oneshot::channel();
        let join = Order::Join { inbox: self.inbox(), channels: channels.to_vec(), moment, done };
        if self.listener.0.send(join).is_err() {
            return false;
        }
        let joined = tokio::time::timeout(PATIENCE, joined).await.is_ok_and(|answer| answer.is_ok());
        self.note(channels);
        if !joined {
            self.leave(channels.iter());
        }
        joined
    }

    /// Whether it listens to this channel.
    pub fn hears(&self, channel: &[u8]) -> bool {
        std::str::from_utf8(channel).is_ok_and(|channel| self.channels.contains(channel))
    }

    /// Its channels.
    pub fn channels(&self) -> &BTreeSet<String> {
        &self.channels
    }

    /// Listens to these no longer; what has come of them already is not told any more.
    pub fn leave<'a>(&mut self, channels: impl IntoIterator<Item = &'a String>) {
        let left: Vec<String> = channels.into_iter().filter_map(|channel| self.channels.take(channel)).collect();
        if !left.is_empty() {
            let _ = self.listener.0.send(Order::Leave { client: self.inbox.client(), channels: left });
        }
    }

    /// Asks for an echo: once it is there, all that was sent until now has come.
    pub fn ask_echo(&mut self) {
        self.echo += 1;
        let _ = self.listener.0.send(Order::Echo { inbox: self.inbox(), number: self.echo });
    }

    /// How many messages had come when the last echo did; `None`: it has not yet. The client's task is woken when it does.
    fn echoed(&self) -> Option<u64> {
        let gone = || self.listener.0.is_closed().then(|| self.inbox.come());
        self.inbox.echoed(self.echo).or_else(gone)
    }

    /// Whether the last echo is there, or never will be.
    pub fn has_echo(&self) -> bool {
        self.echoed().is_some()
    }

    /// The client gets a backend: what has come until now is not from itself.
    pub fn begin(&mut self) {
        self.before = self.inbox.come();
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
            let Some(Taken { message, number }) = self.inbox.take()? else { return Ok(()) };
            let body = message.get(HEADER..).unwrap_or_default();
            let Some((pid, _)) = backend::notification(body).filter(|(_, channel)| self.hears(channel)) else {
                continue;
            };
            if encoding != "UTF8" && !body.get(4..).is_some_and(<[u8]>::is_ascii) {
                return Err(self.inbox.give_up());
            }
            let start = out.len();
            out.extend_from_slice(&message);
            if own == Some(pid)
                && number > self.before
                && let Some(field) = out.get_mut(start + HEADER..start + HEADER + 4)
            {
                field.copy_from_slice(&self.inbox.pid().to_be_bytes());
            }
        }
        Ok(())
    }

    /// Whether all that had come when the last echo did has been delivered.
    pub fn is_told(&self) -> bool {
        self.echoed().is_some_and(|come| self.inbox.taken() >= come)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.inbox.close();
        let _ = self.listener.0.send(Order::Gone { client: self.inbox.client() });
    }
}
