//! Idle backends. bb8 holds them, most recently used first; it never opens, tests or reaps one itself (its waiters are
//! unfair, its size is fixed, and it hides connect errors). Those used last are kept at hand in front of it, which saves
//! bb8's locks and finds the one that a client had before. A count says how many may be taken, so that bb8's `get` is
//! only called when it cannot wait.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bb8::{ManageConnection, PooledConnection, QueueStrategy};

use super::gate::Place;
use super::lease::Terms;
use super::roster::Member;
use crate::backend::Backend;
use crate::metrics::Counted;

/// A backend and its places in the bounds that pools share, which it keeps as long as it exists.
pub(super) struct Stored {
    pub(super) backend: Box<Backend>,
    pub(super) _places: Vec<Place>,
    /// Shows that it is connected by TLS, if it is.
    pub(super) _tls: Option<Counted>,
    /// What those see who look; it knows the pool's generation when it was opened.
    pub(super) member: Arc<Member>,
    /// While it is lent.
    pub(super) terms: Option<Terms>,
}

/// What bb8 asks about its connections.
#[derive(Debug)]
pub(super) struct Manager;

impl ManageConnection for Manager {
    type Connection = Stored;
    type Error = Infallible;

    fn connect(&self) -> impl Future<Output = Result<Stored, Infallible>> + Send {
        // Never asked for: a backend is only taken when one is there.
        std::future::pending()
    }

    fn is_valid(&self, _: &mut Stored) -> impl Future<Output = Result<(), Infallible>> + Send {
        std::future::ready(Ok(()))
    }

    fn has_broken(&self, stored: &mut Stored) -> bool {
        stored.backend.broken
    }
}

/// A backend that was taken out; dropped, it goes back to bb8, unless it is broken. Boxed: it moves with every lease.
pub(super) type Taken = Box<PooledConnection<'static, Manager>>;

/// How many are kept at hand; the others are bb8's.
const AT_HAND: usize = 32;

/// The idle backends of one pool.
pub(super) struct Store {
    idle: bb8::Pool<Manager>,
    /// Those used last, the last one last, each with the client that had it.
    at_hand: Mutex<Vec<(u64, Taken)>>,
    /// How many there are in all.
    count: AtomicUsize,
    /// How many of them bb8 has.
    stored: AtomicUsize,
}

impl Store {
    pub(super) fn new() -> Self {
        let idle = bb8::Pool::builder()
            .max_size(u32::MAX / 2)
            .min_idle(None)
            .max_lifetime(None)
            .idle_timeout(None)
            .test_on_check_out(false)
            .queue_strategy(QueueStrategy::Lifo)
            .build_unchecked(Manager);
        Self { idle, at_hand: Mutex::default(), count: AtomicUsize::new(0), stored: AtomicUsize::new(0) }
    }

    /// How many are idle.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Takes the one that this client (0: nobody) had last, if it is at hand, or else the one that was used last.
    #[inline]
    pub(super) fn take(&self, client: u64) -> Option<Taken> {
        let mut at_hand = self.at_hand();
        let Some(last) = at_hand.len().checked_sub(1) else {
            drop(at_hand);
            return self.take_stored();
        };
        let same = at_hand.iter().rposition(|(owner, _)| *owner == client && client != 0);
        let (_, taken) = at_hand.remove(same.unwrap_or(last));
        self.count.fetch_sub(1, Ordering::AcqRel);
        Some(taken)
    }

    fn take_stored(&self) -> Option<Taken> {
        self.stored.fetch_update(Ordering::AcqRel, Ordering::Acquire, |stored| stored.checked_sub(1)).ok()?;
        self.count.fetch_sub(1, Ordering::AcqRel);
        match pin!(self.idle.get_owned()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(taken) => taken.ok().map(Box::new),
            Poll::Pending => None,
        }
    }

    /// Puts one back, where its owner finds it. It counts from here on.
    #[inline]
    pub(super) fn put_back(&self, taken: Taken) {
        let mut at_hand = self.at_hand();
        // What has rested longest makes room.
        let stored = (at_hand.len() >= AT_HAND).then(|| at_hand.remove(0));
        at_hand.push((taken.backend.owner, taken));
        self.count.fetch_add(1, Ordering::AcqRel);
        drop(at_hand);
        if let Some(stored) = stored {
            drop(stored);
            self.stored.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn at_hand(&self) -> MutexGuard<'_, Vec<(u64, Taken)>> {
        self.at_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a new one.
    pub(super) fn add(&self, stored: Stored) {
        // Counted first, so that who takes it at once does not count it out before it was counted in.
        self.count.fetch_add(1, Ordering::AcqRel);
        match self.idle.add(stored) {
            Ok(()) => self.stored.fetch_add(1, Ordering::AcqRel),
            Err(_) => self.count.fetch_sub(1, Ordering::AcqRel),
        };
    }
}
