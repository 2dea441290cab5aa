//! LISTEN and NOTIFY: a client's channels move from its backend to the pool's listener once a transaction has made them
//! its own, and what comes for it is told when PostgreSQL would tell it: between transactions, before ReadyForQuery.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;

use super::replies::{Fate, body};
use super::{BACKLOG, Session};
use crate::backend::AskError;
use crate::config::PoolMode;
use crate::error::Error;
use crate::listen::{self, Listener, Listeners, Start, Subscription};
use crate::pool::Lease;
use crate::track::channels::{Unlisten, unlistened};
use crate::track::{Effects, PinReason};
use crate::wire::backend as tag;
use crate::wire::{HEADER, Header};

/// What a client listens to, and what it may have told those who do.
pub(super) struct Listening {
    listeners: Arc<Listeners>,
    active: Option<Box<Active>>,
    /// Its backend becomes the listener when it is given back.
    pub(super) start: Option<Box<Start>>,
    notified: Notified,
}

/// Whether the client's transaction may have notified the client itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notified {
    No,
    May,
    /// The listener has been asked for a barrier, behind which all is told.
    Awaited,
}

struct Active {
    subscription: Subscription,
    /// What was sent to be unlistened.
    sent: VecDeque<Unlisten>,
    /// What the backend has said to have done, unless the transaction is rolled back.
    done: Vec<Unlisten>,
}

impl Listening {
    pub(super) fn new(listeners: Arc<Listeners>) -> Self {
        Self { listeners, active: None, start: None, notified: Notified::No }
    }

    /// Whether it listens by the pool's listener.
    #[inline]
    pub(super) fn is_active(&self) -> bool {
        self.active.is_some()
    }

    fn hears(&self, channel: &[u8]) -> bool {
        self.active.as_ref().is_some_and(|active| active.subscription.hears(channel))
    }

    /// Whether anything has come.
    #[inline]
    pub(super) fn has_news(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.subscription.has_news())
    }

    /// Whether the end of its transaction may tell it something that it must hear before what it sends next is done.
    #[inline]
    pub(super) fn may_hear_itself(&self) -> bool {
        self.is_active() && self.notified != Notified::No
    }

    /// A text is sent that may notify or unlisten.
    pub(super) fn note(&mut self, effects: Effects, text: &[u8]) {
        if effects.any(Effects::NOTIFIES | Effects::CODE) && self.notified == Notified::No {
            self.notified = Notified::May;
        }
        if let Some(active) = self.active.as_mut().filter(|_| effects.any(Effects::UNLISTENS)) {
            active.sent.extend(unlistened(text.split(|byte| *byte == 0).next().unwrap_or_default()));
        }
    }

    /// An `UNLISTEN` is done.
    pub(super) fn unlistened(&mut self) {
        if let Some(active) = &mut self.active {
            active.done.extend(active.sent.pop_front());
        }
    }

    /// What was done last is undone, or may be.
    pub(super) fn roll_back(&mut self) {
        if let Some(active) = &mut self.active {
            active.done.clear();
        }
    }

    /// What was done holds.
    pub(super) fn commit(&mut self) {
        let Some(active) = &mut self.active else { return };
        active.done.drain(..).for_each(|what| active.subscription.leave(&what));
        if active.subscription.is_empty() {
            self.active = None;
        }
    }

    /// Everything sent has been answered.
    #[inline]
    pub(super) fn settle(&mut self) {
        if let Some(active) = &mut self.active {
            active.sent.clear();
        }
    }

    /// `DISCARD ALL` was done.
    pub(super) fn discard(&mut self) {
        self.active = None;
    }

    /// Whether what the client waits for has happened.
    fn is_passed(&self) -> bool {
        self.notified == Notified::Awaited && self.active.as_ref().is_none_or(|active| active.subscription.is_passed())
    }
}

impl Session {
    /// Tells what has come, to a client between transactions.
    ///
    /// # Errors
    /// Notifications were lost: the session must end.
    pub(super) fn tell_news(&mut self) -> Result<(), Error> {
        match &mut self.listening.active {
            Some(active) if self.client.backlog() < BACKLOG => {
                active.subscription.deliver(None, self.params.encoding(), self.client.output())
            }
            _ => Ok(()),
        }
    }

    /// Whether a text with these effects must wait until all before it is answered: what it tells the client that listens,
    /// or ends, is for the ReadyForQuery behind it, and for no earlier one.
    pub(super) fn must_hear_first(&mut self, effects: Effects) -> bool {
        let waits = self.listening.is_active()
            && effects.any(Effects::NOTIFIES | Effects::CODE | Effects::UNLISTENS)
            && !self.pipeline.is_certain();
        self.undecided |= waits;
        waits
    }

    /// Whether there is something to tell to a client that keeps its backend.
    #[inline]
    pub(super) fn has_news(&self, lease: &Lease) -> bool {
        self.listening.has_news() && self.client.backlog() < BACKLOG && self.is_between(lease)
    }

    /// Whether a wake-up was meant for what is being waited for here.
    pub(super) fn is_rung(&self, lease: &Lease) -> bool {
        self.listening.is_passed() || self.has_news(lease)
    }

    /// Before a ReadyForQuery is passed on: outside a transaction, everything that was sent until now is told first. A
    /// client that may have notified itself waits for that. `false`: not yet.
    pub(super) fn is_told(&mut self, header: Header, lease: &mut Lease) -> bool {
        if body(lease, header) != b"I" {
            return true;
        }
        self.listening.commit();
        let Some(active) = &mut self.listening.active else {
            self.listening.notified = Notified::No;
            return true;
        };
        match self.listening.notified {
            Notified::No => {}
            Notified::May => {
                active.subscription.ask_barrier();
                self.listening.notified = Notified::Awaited;
                return false;
            }
            Notified::Awaited if !active.subscription.is_passed() => return false,
            Notified::Awaited => {
                self.listening.notified = Notified::No;
                lease.notified = false;
            }
        }
        lease.socket.join(&mut self.client);
        // If any were lost, the session ends as soon as it is idle.
        let (own, encoding) = (Some(lease.identity.pid), self.params.encoding());
        let _ = active.subscription.deliver(own, encoding, self.client.output());
        true
    }

    /// A NotificationResponse of its own backend: not for the client if the listener tells it, and with the process id
    /// that the client knows if it is its own.
    pub(super) fn notification(&mut self, header: Header, lease: &mut Lease) -> Fate {
        let Some((pid, channel)) = tag::notification(body(lease, header)) else { return Fate::Pass };
        if self.listening.hears(channel) {
            return Fate::Swallow;
        }
        if pid == lease.identity.pid
            && let Some(field) = lease.socket.unseen_mut().get_mut(HEADER..HEADER + 4)
        {
            field.copy_from_slice(&self.handle.pid.to_be_bytes());
        }
        Fate::Pass
    }

    /// Notifications that came with the answers to our own questions: on channels of which nobody else tells it.
    pub(super) fn tell_own(&mut self, notifications: &[u8]) {
        let listening = &self.listening;
        tell(notifications, self.client.output(), |channel| !listening.hears(channel));
    }

    /// Before a client that listens does anything on a backend by which another may just have notified it: the two must
    /// not be taken for one.
    pub(super) async fn hear_out(&mut self, lease: &mut Lease) {
        let Some(active) = self.listening.active.as_mut().filter(|_| lease.notified) else { return };
        lease.notified = false;
        active.subscription.ask_barrier();
        std::future::poll_fn(|cx| {
            self.handle.listen(cx.waker());
            match active.subscription.is_passed() {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
    }

    /// A client that is pinned by nothing but what it listens to hands that over to the pool's listener. Where that cannot
    /// be, it stays pinned.
    ///
    /// # Errors
    /// The backend is lost.
    pub(super) async fn share_channels(&mut self, lease: &mut Lease) -> Result<(), AskError> {
        let is_all = self.pins.only(Effects::PINS) == PinReason::Listen.effect() && self.mode() != PoolMode::Session;
        if !is_all || !lease.may_listen() || self.params.encoding() != "UTF8" {
            return Ok(());
        }
        // A cancel that comes now is not meant for our question.
        if self.handle.detach() && !self.handle.quiet().await {
            lease.broken = true;
            return Err(AskError::Io(std::io::ErrorKind::ConnectionAborted.into()));
        }
        let outcome = self.move_channels(lease).await;
        self.handle.attach(&lease.identity);
        match outcome {
            Ok(true) => {
                self.pins.remove(PinReason::Listen.effect());
                lease.residue.remove(PinReason::Listen.effect());
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(AskError::Refused(error)) => {
                tracing::warn!(client = self.handle.id, "cannot share what the client listens to: {error}");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// `false`: they stay where they are.
    async fn move_channels(&mut self, lease: &mut Lease) -> Result<bool, AskError> {
        let answer = lease.ask_safely("SELECT channel FROM pg_catalog.pg_listening_channels() channel", &[]).await?;
        let listening = &self.listening;
        let all = answer.rows.into_iter().flatten().flatten();
        let channels: Vec<String> = all.filter(|channel| !listening.hears(channel.as_bytes())).collect();
        tell(&answer.notifications, self.client.output(), |channel| {
            channels.iter().any(|new| new.as_bytes() == channel)
        });
        if channels.is_empty() {
            lease.run("UNLISTEN *").await?;
            return Ok(true);
        }
        let moment = listen::moment();
        loop {
            let listener = match self.listening.listeners.of(&self.pool) {
                Listener::Running(listener) => listener,
                // Its own is lost, and it will be told so.
                Listener::Wanted(_) if self.listening.is_active() => return Ok(false),
                Listener::Wanted(mut start) => {
                    let subscription = start.subscribe(self.handle.clone(), channels);
                    self.listening.active = Some(Active::new(subscription));
                    self.listening.start = Some(Box::new(start));
                    return Ok(true);
                }
            };
            if let Some(active) = &mut self.listening.active {
                if active.subscription.join(&channels, moment).await {
                    break;
                }
                return Ok(false);
            }
            let started = Subscription::start(listener, self.handle.clone(), &channels, moment).await;
            self.listening.active = started.map(Active::new);
            if self.listening.is_active() {
                break;
            }
        }
        match listen::hand_over(lease, moment).await {
            Ok(before) => {
                tell(&before, self.client.output(), |channel| channels.iter().any(|new| new.as_bytes() == channel));
                Ok(true)
            }
            Err(error) => {
                let leave = channels.into_iter().map(Unlisten::One);
                self.listening.active.iter_mut().for_each(|active| active.done.extend(leave.clone()));
                self.listening.commit();
                Err(error)
            }
        }
    }
}

impl Active {
    fn new(subscription: Subscription) -> Box<Self> {
        Box::new(Self { subscription, sent: VecDeque::new(), done: Vec::new() })
    }
}

/// Passes notifications on whose channel `is_meant`.
fn tell(mut notifications: &[u8], out: &mut BytesMut, is_meant: impl Fn(&[u8]) -> bool) {
    while let Ok(Some(header)) = Header::peek(notifications, tag::limit)
        && let Some((message, rest)) = notifications.split_at_checked(header.total)
    {
        let channel = tag::notification(message.get(HEADER..).unwrap_or_default()).map(|(_, channel)| channel);
        if channel.is_some_and(&is_meant) {
            out.extend_from_slice(message);
        }
        notifications = rest;
    }
}
