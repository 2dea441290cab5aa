//! What a client listens to by the pool's listener, and which of its statements bear on that.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Session;
use crate::listen::{Listeners, Start, Subscription};
use crate::track::Effects;
use crate::track::channels::{Unlisten, unlistened};

/// What a client listens to, and what it may have told those who do.
pub(super) struct Listening {
    pub(super) listeners: Arc<Listeners>,
    pub(super) shared: Option<Box<Shared>>,
    /// Its backend becomes the listener when it is given back.
    pub(super) start: Option<Box<Start>>,
    pub(super) notified: Notified,
}

/// Whether the client's transaction may have notified the client itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notified {
    /// No.
    No,
    /// It may.
    May,
    /// The listener has been asked for an echo, behind which all has come. The backend's ReadyForQuery waits for it.
    Awaited,
}

/// Channels that the pool's listener listens to for the client.
pub(super) struct Shared {
    pub(super) subscription: Subscription,
    /// What a statement that is bound would unlisten.
    bound: Vec<Unlisten>,
    /// What was sent to be unlistened.
    sent: VecDeque<Unlisten>,
    /// What the backend has said to have unlistened, unless the transaction is rolled back.
    done: Vec<String>,
}

impl Shared {
    pub(super) fn new(subscription: Subscription) -> Box<Self> {
        Box::new(Self { subscription, bound: Vec::new(), sent: VecDeque::new(), done: Vec::new() })
    }
}

impl Listening {
    pub(super) fn new(listeners: Arc<Listeners>) -> Self {
        Self { listeners, shared: None, start: None, notified: Notified::No }
    }

    pub(super) fn hears(&self, channel: &[u8]) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.subscription.hears(channel))
    }

    /// Whether anything has come.
    #[inline]
    pub(super) fn has_news(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.subscription.has_news())
    }

    /// Whether the end of its transaction may tell it something that it must hear before what it sends next is done.
    #[inline]
    pub(super) fn may_hear_itself(&self) -> bool {
        self.shared.is_some() && self.notified != Notified::No
    }

    /// A text that may notify or unlisten is sent to be run.
    pub(super) fn note(&mut self, effects: Effects, text: &[u8]) {
        self.bind(effects, text);
        self.execute();
    }

    /// It is bound.
    pub(super) fn bind(&mut self, effects: Effects, text: &[u8]) {
        if effects.any(Effects::NOTIFIES | Effects::CODE) && self.notified == Notified::No {
            self.notified = Notified::May;
        }
        if let Some(shared) = self.shared.as_mut().filter(|_| effects.any(Effects::UNLISTENS)) {
            shared.bound = unlistened(text.split(|byte| *byte == 0).next().unwrap_or_default());
        }
    }

    /// What is bound is executed.
    #[inline]
    pub(super) fn execute(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.sent.extend(shared.bound.drain(..));
        }
    }

    /// It gets a backend: what has come until now is not from itself.
    #[inline]
    pub(super) fn begin(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.subscription.begin();
        }
    }

    /// An `UNLISTEN` is done.
    pub(super) fn unlistened(&mut self) {
        let Some(shared) = &mut self.shared else { return };
        let known = shared.subscription.channels();
        match shared.sent.pop_front() {
            Some(Unlisten::All) => shared.done = known.iter().cloned().collect(),
            Some(Unlisten::One(name)) if known.contains(&name) && !shared.done.contains(&name) => {
                shared.done.push(name);
            }
            _ => {}
        }
    }

    /// What was done last is undone, or may be.
    pub(super) fn roll_back(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.done.clear();
        }
    }

    /// What was done holds.
    pub(super) fn commit(&mut self) {
        let Some(shared) = &mut self.shared else { return };
        let done = std::mem::take(&mut shared.done);
        shared.subscription.leave(&done);
        if shared.subscription.channels().is_empty() {
            self.shared = None;
        }
    }

    /// Everything sent has been answered.
    #[inline]
    pub(super) fn settle(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.bound.clear();
            shared.sent.clear();
        }
    }
}

impl Session {
    /// Whether a text with these effects must wait until all before it is answered: what it tells the client that listens,
    /// or ends, is for the ReadyForQuery behind it, and for no earlier one.
    pub(super) fn must_hear_first(&mut self, effects: Effects) -> bool {
        let waits = self.listening.shared.is_some()
            && effects.any(Effects::NOTIFIES | Effects::CODE | Effects::UNLISTENS)
            && !self.pipeline.is_certain();
        self.undecided |= waits;
        waits
    }
}
