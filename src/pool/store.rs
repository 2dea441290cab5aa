//! Idle backends. bb8 holds them, most recently used first; it never opens, tests or reaps one itself (its waiters are
//! unfair, its size is fixed, and it hides connect errors). A count beside it says how many may be taken, so that
//! `get` is only called when it cannot wait.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bb8::{ManageConnection, PooledConnection, QueueStrategy};

use super::gate::Place;
use super::roster::Member;
use crate::backend::Backend;
use crate::metrics::Counted;

/// A backend and its places in the bounds that pools share, which it keeps as long as it exists.
pub(super) struct Stored {
    /// Boxed: it moves with every lease.
    pub(super) backend: Box<Backend>,
    pub(super) _places: Vec<Place>,
    /// Shows that it is connected by TLS, if it is.
    pub(super) _tls: Option<Counted>,
    /// What those see who look; it knows the pool's generation when it was opened.
    pub(super) member: Arc<Member>,
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

/// A backend that was taken out; dropped, it goes back, unless it is broken.
pub(super) type Taken = PooledConnection<'static, Manager>;

/// The idle backends of one pool.
#[derive(Debug)]
pub(super) struct Store {
    idle: bb8::Pool<Manager>,
    count: AtomicUsize,
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
        Self { idle, count: AtomicUsize::new(0) }
    }

    /// How many are idle.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Takes the most recently used one.
    #[inline]
    pub(super) fn take(&self) -> Option<Taken> {
        self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| count.checked_sub(1)).ok()?;
        match pin!(self.idle.get_owned()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(taken) => taken.ok(),
            Poll::Pending => None,
        }
    }

    /// Puts one back. It counts from here on.
    #[inline]
    pub(super) fn put_back(&self, taken: Taken) {
        drop(taken);
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// Adds a new one.
    pub(super) fn add(&self, stored: Stored) {
        if self.idle.add(stored).is_ok() {
            self.count.fetch_add(1, Ordering::AcqRel);
        }
    }
}
