//! Opening backends: under a place in every bound, several at once, with back-off after failures. Each attempt is a
//! task of its own, so that a client that gives up neither breaks a login nor frees a place too early.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use super::gate::{Gate, Place, Waiting};
use super::waits::Waits;
use super::{Lease, Member, Places, Pool, Stored, shutting_down};
use crate::backend::{Backend, ConnectError, Failed, Target, connect};
use crate::clock::Moment;
use crate::config::{HiddenState, PoolSize};
use crate::error::Error;
use crate::log::counted;
use crate::metrics::{Counted, metrics};
use crate::track::Params;

/// The first pause after a failure; each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause: a restarted database is found again within this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A failure whose pause ended longer ago says nothing of now.
const RECENT: Duration = Duration::from_secs(10);

/// What an attempt came to.
pub(super) enum Outcome {
    /// A lease on a new backend.
    Connected(Lease),
    /// Nothing yet; the place is kept, look again.
    Again(Places),
}

/// The last failures in a row.
#[derive(Debug)]
struct Trouble {
    failures: u32,
    until: Instant,
    error: ConnectError,
}

/// State of a pool's attempts.
#[derive(Debug)]
pub(super) struct Connector {
    slots: Arc<Gate>,
    connecting: AtomicUsize,
    /// Since when those go on that do.
    attempts: Mutex<Waits>,
    /// Attempts that wait for the right to connect.
    reserving: AtomicUsize,
    returned: Notify,
    trouble: Mutex<Option<Trouble>>,
    /// Whether the server's limits are known.
    surveyed: AtomicBool,
    /// Whether PostgreSQL has ever let us in.
    proven: AtomicBool,
}

impl Connector {
    pub(super) fn new(concurrency: usize) -> Self {
        Self {
            slots: Gate::new(concurrency),
            connecting: AtomicUsize::new(0),
            attempts: Mutex::default(),
            reserving: AtomicUsize::new(0),
            returned: Notify::new(),
            trouble: Mutex::new(None),
            surveyed: AtomicBool::new(false),
            proven: AtomicBool::new(false),
        }
    }

    /// Attempts under way.
    pub(super) fn connecting(&self) -> usize {
        self.connecting.load(Ordering::Acquire)
    }

    /// Whether there has ever been a backend.
    pub(super) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Acquire)
    }

    /// For how long the database has not let us in, where the oldest attempt is under way; `None`: none is.
    pub(super) fn silent(&self) -> Option<Duration> {
        self.attempts().oldest().map(|began| Moment::now().since(began))
    }

    fn attempts(&self) -> std::sync::MutexGuard<'_, Waits> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn resize(&self, concurrency: usize) {
        self.slots.resize(concurrency);
    }

    /// Asks the server for its limits again at the next connect: the setting that they bear on changed.
    pub(super) fn survey_again(&self) {
        self.surveyed.store(false, Ordering::Release);
    }

    /// The database's own error, if the last attempts failed and others go on, or ended a moment ago: an error of long ago is
    /// not what keeps anybody waiting.
    pub(super) fn last_error(&self) -> Option<ConnectError> {
        match self.connecting() {
            0 => self.recent_error(),
            _ => self.trouble().as_ref().map(|trouble| trouble.error.clone()),
        }
    }

    /// The same, if the next attempt's time was not long ago.
    pub(super) fn recent_error(&self) -> Option<ConnectError> {
        let trouble = self.trouble();
        let recent = trouble.as_ref().filter(|trouble| trouble.until + RECENT > Instant::now());
        recent.map(|trouble| trouble.error.clone())
    }

    /// Forgets failures, because what caused them (a password, an address) was changed.
    pub(super) fn forget_trouble(&self) {
        *self.trouble() = None;
    }

    fn trouble(&self) -> std::sync::MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: ConnectError) {
        let mut trouble = self.trouble();
        let failures = trouble.as_ref().map_or(0, |trouble| trouble.failures);
        let pause = (FIRST_PAUSE * 2_u32.saturating_pow(failures)).min(LONGEST_PAUSE);
        *trouble = Some(Trouble { failures: failures.saturating_add(1).min(10), until: Instant::now() + pause, error });
    }

    /// How long to wait before the next attempt.
    ///
    /// # Errors
    /// The last attempt's error, where another would only yield the same.
    fn pause(&self) -> Result<Option<Instant>, ConnectError> {
        match &*self.trouble() {
            Some(trouble) if trouble.until > Instant::now() => {
                if trouble.error.is_passing() {
                    Ok(Some(trouble.until))
                } else {
                    Err(trouble.error.clone())
                }
            }
            _ => Ok(None),
        }
    }
}

/// An attempt while it goes on.
struct Attempt<'a> {
    connector: &'a Connector,
    began: Moment,
    _counted: Waiting<'a>,
}

impl<'a> Attempt<'a> {
    fn new(connector: &'a Connector) -> Self {
        let began = Moment::now();
        connector.attempts().enter(began);
        Self { connector, began, _counted: Waiting::new(&connector.connecting) }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.connector.attempts().leave(self.began);
    }
}

/// Keeps an attempt's places in the bounds until the server has closed its side.
pub(super) fn give_up(failed: Failed, places: Vec<Place>) {
    tokio::spawn(async move {
        failed.closed().await;
        drop(places);
    });
}

impl Pool {
    /// One attempt to open a backend for who holds `places`.
    pub(super) async fn connect(self: &Arc<Self>, places: Places, deadline: Instant) -> Result<Outcome, Error> {
        if let Some(until) = self.connector.pause().map_err(|error| self.told(&error, &self.target.load()))? {
            tokio::time::sleep_until(until.min(deadline).into()).await;
            return Ok(Outcome::Again(places));
        }
        let (answer, result) = oneshot::channel();
        let pool = self.clone();
        tokio::spawn(async move {
            let outcome = pool.attempt(places, deadline, false).await;
            // Nobody waits any more: a new backend goes to the idle ones.
            if let Err(Ok(Outcome::Connected(lease))) = answer.send(outcome) {
                lease.release();
            }
        });
        result.await.unwrap_or_else(|_| Err(shutting_down()))
    }

    /// As [`Pool::connect`], for nobody in particular: no pause is waited out.
    pub(super) async fn connect_spare(self: &Arc<Self>, places: Places, deadline: Instant) -> Result<Outcome, Error> {
        match self.connector.pause().map_err(|error| self.told(&error, &self.target.load()))? {
            Some(_) => Ok(Outcome::Again(places)),
            None => self.attempt(places, deadline, true).await,
        }
    }

    /// Takes in a new backend with its places in the bounds; it is idle then.
    pub(super) async fn keep(&self, backend: Backend, target: &Target, places: Vec<Place>, generation: u64) {
        self.connector.proven.store(true, Ordering::Release);
        self.metrics.connected.inc();
        let tls = backend.socket.io().is_tls().then(|| {
            self.metrics.connects_tls.inc();
            Counted::new(&self.metrics.backends_tls)
        });
        let backend = Box::new(self.welcome(backend, target).await);
        let member = Member::new(&backend, generation);
        self.roster.enter(&member);
        self.store.add(Stored { backend, _places: places, _tls: tls, member, terms: None });
    }

    async fn attempt(self: &Arc<Self>, places: Places, deadline: Instant, spare: bool) -> Result<Outcome, Error> {
        let reserved = tokio::time::timeout_at(deadline.into(), self.reserve(spare)).await;
        let Ok(Some((slot, reserved))) = reserved else { return Ok(Outcome::Again(places)) };
        // Looked at behind the bounds: who pauses the pool waits for those who are there, and all others see it here.
        if self.is_held()
            || (self.store.len() > 0 && !spare)
            || self.connector.pause().is_ok_and(|pause| pause.is_some())
        {
            return Ok(Outcome::Again(places));
        }
        let generation = self.generation.load(Ordering::Acquire);
        let target = self.target.load_full();
        let opened = {
            let _attempt = Attempt::new(&self.connector);
            connect(&target).await
        };
        match opened {
            Ok(backend) => {
                self.connector.forget_trouble();
                self.keep(backend, &target, reserved, generation).await;
                Ok(match self.store.take(0) {
                    Some(taken) => Outcome::Connected(Lease::new(self.clone(), taken, places, Moment::now())),
                    None => Outcome::Again(places),
                })
            }
            Err(failed) => {
                self.metrics.connect_failed.inc();
                if target.demands_tls() {
                    self.metrics.connects_tls.inc();
                }
                let told = self.told(&failed.error, &target);
                counted!(WARN, "connecting to the database failed", self.key, told.code.code(), {}, "{told}");
                metrics().count_connect_error(&told);
                self.connector.failed(failed.error.clone());
                let passing = failed.error.is_passing();
                drop(slot);
                give_up(failed, reserved);
                if passing { Ok(Outcome::Again(places)) } else { Err(told) }
            }
        }
    }

    /// The right to open a backend: a turn to connect, and a place in every bound; an idle backend of another pool makes
    /// room if it must. `None`: a backend of this pool came free first, which serves as well.
    async fn reserve(&self, spare: bool) -> Option<(Place, Vec<Place>)> {
        let _reserving = Waiting::new(&self.connector.reserving);
        // Who gives one back looks for us after that, and we look for it after having said that we wait.
        if self.store.len() > 0 && !spare {
            return None;
        }
        let registry = self.registry.upgrade()?;
        let reserved = async {
            let slot = self.connector.slots.enter().await;
            (slot, self.bounds.enter(|gate| registry.evict(gate, Some(self))).await)
        };
        tokio::select! {
            biased;
            reserved = reserved => Some(reserved),
            () = self.connector.returned.notified(), if !spare => None,
        }
    }

    /// Who waits to open a backend need not, if one came back.
    #[inline]
    pub(super) fn note_returned(&self) {
        if self.connector.reserving.load(Ordering::SeqCst) > 0 {
            self.connector.returned.notify_one();
        }
    }

    /// What a new backend tells the pool, and what the pool gives it.
    async fn welcome(&self, mut backend: Backend, target: &Target) -> Backend {
        let settings = self.settings.load();
        self.params.learn(&backend.reported);
        backend.params = Some(Arc::new(Params::default()));
        backend.expires =
            settings.max_lifetime.map(|limit| Moment::now() + lifetime(limit, backend.identity.pid.unsigned_abs()));
        if !self.connector.surveyed.swap(true, Ordering::AcqRel) {
            self.survey(&mut backend, target).await;
            if settings.hidden_state != HiddenState::Off {
                self.certify(&mut backend).await;
            }
        }
        backend
    }

    /// Asks the server how many connections it accepts, and sizes the pool by it or warns.
    async fn survey(&self, backend: &mut Backend, target: &Target) {
        const LIMITS: &str = "SELECT pg_catalog.current_setting('max_connections'), \
             pg_catalog.current_setting('superuser_reserved_connections'), \
             pg_catalog.current_setting('reserved_connections', true)";
        let answer = match backend.ask(LIMITS, &[]).await {
            Ok(answer) => answer,
            Err(error) => {
                counted!(WARN, "cannot ask the server for its limits", self.key, "", {}, "{error}");
                self.connector.survey_again();
                return;
            }
        };
        let number = |column: usize| -> usize {
            let text = answer.rows.first().and_then(|row| row.get(column)?.as_deref());
            text.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        let (all, reserved) = (number(0), number(1) + number(2));
        let usable = all.saturating_sub(reserved);
        match self.settings.load().size {
            PoolSize::Share(share) if usable > 0 => {
                let size = ((usable as f64 * share) as usize).max(1);
                tracing::info!(pool = %self.key, "pool_size is {size}: {}% of max_connections {all} - {reserved} reserved", share * 100.0);
                self.resize(size);
            }
            PoolSize::Count(size) if usable > 0 && size > usable => tracing::warn!(
                pool = %self.key,
                "pool_size = {size} is more than the server at {} accepts: max_connections {all} - {reserved} reserved = {usable}",
                target.endpoint
            ),
            _ => {}
        }
    }
}

/// Up to a tenth below `limit`, so that backends opened together, whose process ids differ little, do not all end
/// together.
fn lifetime(limit: Duration, pid: u32) -> Duration {
    let tenth = u64::try_from(limit.as_millis() / 10).unwrap_or(u64::MAX).max(1);
    limit - Duration::from_millis(u64::from(pid).wrapping_mul(7919) % tenth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_opened_together_do_not_end_together() {
        for minutes in [1, 10, 60, 24 * 60] {
            let limit = Duration::from_secs(60 * minutes);
            for first in [1, 4711, 4_000_000] {
                let ends: Vec<Duration> = (first..first + 20).map(|pid| lifetime(limit, pid)).collect();
                assert!(ends.iter().all(|end| *end > limit * 9 / 10 && *end <= limit), "{limit:?}: {ends:?}");
                let same_second = |one: &Duration| ends.iter().filter(|end| end.as_secs() == one.as_secs()).count();
                assert!(ends.iter().map(same_second).max() < Some(10), "{limit:?}: {ends:?}");
            }
        }
    }

    #[test]
    fn the_shortest_lifetime_is_one() {
        assert_eq!(lifetime(Duration::from_millis(1), 4711), Duration::from_millis(1));
    }
}
