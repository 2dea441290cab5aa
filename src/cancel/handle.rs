//! What other tasks know of a client: what it does, which backend it has right now, and what it is told to do.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use atomic_waker::AtomicWaker;
use tokio::sync::Notify;

use super::Who;
use crate::activity::{Activity, State};
use crate::backend::{self, Identity};
use crate::clock::Moment;
use crate::log::counted;
use crate::pool::Pool;
use crate::trace::TraceContext;
use crate::track::{Effects, PinReason};

/// What a client is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Go on.
    None = 0,
    /// Leave as soon as no lease is held.
    Drain = 1,
    /// Leave now.
    Stop = 2,
    /// The same, because an operator wants it.
    Kill = 3,
}

/// What other tasks know of a client.
pub struct Handle {
    /// Its number, unique in this process; never 0.
    pub id: u64,
    /// Its process id as told in BackendKeyData.
    pub pid: i32,
    key: Box<[u8]>,
    /// Its pool.
    pub pool: Arc<Pool>,
    /// The `application_name` that it logged in with, without a trace context.
    pub application: Box<str>,
    /// The trace context that it logged in with.
    pub trace: Option<Box<TraceContext>>,
    /// Where it comes from; `None`: a Unix socket.
    pub peer: Option<SocketAddr>,
    /// It is connected by TLS.
    pub tls: bool,
    /// When it logged in.
    pub since: Instant,
    /// What it is doing.
    pub activity: Activity,
    /// Boxed, like the trace context: few have one.
    pinned: Mutex<Option<Box<Pinned>>>,
    lease: Mutex<Current>,
    quiet: Notify,
    order: AtomicU8,
    waker: AtomicWaker,
}

/// Why a client keeps its backend beyond its transaction.
#[derive(Debug, Clone)]
pub struct Pinned {
    reasons: Effects,
    /// The command words of the statement that pinned it last.
    pub by: Box<str>,
    /// Since when it is pinned.
    pub since: Instant,
}

impl Pinned {
    /// The reasons.
    pub fn reasons(&self) -> impl Iterator<Item = PinReason> {
        self.reasons.reasons()
    }
}

#[derive(Default)]
struct Current {
    backend: Option<Arc<Identity>>,
    /// When its lease began.
    since: Moment,
    cancels: u32,
    /// One was given up: nobody knows whether and when it comes.
    doubtful: bool,
    /// The client waits for a backend that runs what it asks; what becomes of its wait.
    wait: Option<Wait>,
}

/// A client's wait for a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Waiting,
    Cancelled,
}

impl Handle {
    pub(super) fn new(id: u64, pid: i32, key: Vec<u8>, who: Who, order: u8) -> Self {
        Self {
            id,
            pid,
            key: key.into(),
            pool: who.pool,
            application: who.application,
            trace: who.trace.map(Box::new),
            peer: who.peer,
            tls: who.tls,
            since: Instant::now(),
            activity: Activity::default(),
            pinned: Mutex::default(),
            lease: Mutex::default(),
            quiet: Notify::new(),
            order: AtomicU8::new(order),
            waker: AtomicWaker::new(),
        }
    }

    /// The secret behind [`Handle::pid`].
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    fn lease(&self) -> MutexGuard<'_, Current> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows what pins it from now on, and the statement that did last.
    pub fn show_pins(&self, pins: Effects, by: &str) {
        let reasons = pins.only(Effects::PINS);
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let since = pinned.as_ref().map_or_else(Instant::now, |pinned| pinned.since);
        *pinned = reasons.pins().then(|| Box::new(Pinned { reasons, by: by.into(), since }));
    }

    /// What pins it; `None`: nothing.
    pub fn pinned(&self) -> Option<Pinned> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner).as_deref().cloned()
    }

    /// From now on the client has this backend, and has had it since then. Cancels go there at once if it `is_ready`,
    /// otherwise from [`Handle::ready`] on; so does one that came while the client waited.
    #[inline]
    pub fn attach(self: &Arc<Self>, identity: &Arc<Identity>, since: Moment, is_ready: bool) {
        let mut current = self.lease();
        current.backend = Some(identity.clone());
        current.since = since;
        current.doubtful = false;
        if current.wait != Some(Wait::Cancelled) {
            current.wait = if is_ready { None } else { Some(Wait::Waiting) };
        } else if is_ready {
            drop(current);
            self.ready();
        }
    }

    /// The backend has come to what the client asks. A cancel that has come before is sent now.
    pub fn ready(self: &Arc<Self>) {
        if self.lease().wait.take() == Some(Wait::Cancelled) {
            let handle = self.clone();
            tokio::spawn(async move {
                if let Err(error) = handle.cancel().await {
                    counted!(WARN, "a cancel request could not be passed on", "", "", {}, "{error}");
                }
            });
        }
    }

    /// From now on cancels go nowhere. `true`: one is still under way or was given up, so the backend must not change
    /// hands before [`Handle::quiet`].
    #[inline]
    #[must_use]
    pub fn detach(&self) -> bool {
        self.activity.set(State::Idle);
        let mut current = self.lease();
        current.backend = None;
        current.wait = None;
        current.cancels > 0 || current.doubtful
    }

    /// Notes that the client waits for a backend. `true`: it was cancelled since it began to.
    pub fn waits_cancelled(&self) -> bool {
        let mut current = self.lease();
        let cancelled = current.wait.take() == Some(Wait::Cancelled);
        if !cancelled {
            current.wait = Some(Wait::Waiting);
            self.activity.set(State::Waiting);
        }
        cancelled
    }

    /// Waits until no cancel is under way. `false`: one was given up, and may still come.
    pub async fn quiet(&self) -> bool {
        loop {
            let notified = self.quiet.notified();
            {
                let current = self.lease();
                if current.cancels == 0 {
                    return !current.doubtful;
                }
            }
            notified.await;
        }
    }

    /// Cancels what this client runs, if it has a backend.
    pub async fn cancel(&self) -> io::Result<bool> {
        let Some(identity) = ({
            let mut current = self.lease();
            let backend = current.backend.clone();
            if current.wait.is_some() {
                current.wait = Some(Wait::Cancelled);
                self.waker.wake();
                return Ok(true);
            }
            current.cancels += u32::from(backend.is_some());
            backend
        }) else {
            return Ok(false);
        };
        let mut under_way = UnderWay { handle: self, done: false };
        backend::cancel(&identity).await?;
        under_way.done = true;
        Ok(true)
    }

    /// The backend that it has right now.
    pub fn backend(&self) -> Option<Arc<Identity>> {
        self.lease().backend.clone()
    }

    /// Its process id.
    pub fn backend_pid(&self) -> Option<i32> {
        self.backend().map(|identity| identity.pid)
    }

    /// How long it has had its lease; `None`: it has none.
    pub fn holds_for(&self) -> Option<Duration> {
        let current = self.lease();
        current.backend.as_ref().map(|_| Moment::now().since(current.since))
    }

    /// Registers the task to wake for an order.
    pub fn listen(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Wakes the client's task: something has come for it.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// The order in force.
    #[inline]
    pub fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::None,
            1 => Order::Drain,
            2 => Order::Stop,
            _ => Order::Kill,
        }
    }

    /// Gives an order; a stronger one stays.
    pub fn give(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.waker.wake();
    }
}

/// A cancel that is counted; dropped, also half-way, it is not any more.
struct UnderWay<'a> {
    handle: &'a Handle,
    /// The server has closed the connection that it came by, and so has sent the signal.
    done: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut current = self.handle.lease();
        current.cancels -= 1;
        current.doubtful |= !self.done;
        drop(current);
        self.handle.quiet.notify_waiters();
    }
}
