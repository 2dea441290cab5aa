//! Borrowing: a lease at once where a place is free and a backend idle, otherwise a wait in the queue, within
//! `borrow_timeout`, for a place and then for a backend.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use prometheus::Histogram;

use super::{Borrower, Lease, Places, Pool, connector, gate};
use crate::clock::{Alarm, Moment};
use crate::config::PoolSettings;
use crate::error::{Error, Side, SqlState};
use crate::metrics::metrics;

/// A wait, seen by those who look; counted when it is over, however it ends.
struct Wait<'a> {
    pool: &'a Pool,
    who: Borrower<'a>,
    outcome: Option<&'a Histogram>,
}

impl<'a> Wait<'a> {
    fn new(pool: &'a Pool, who: Borrower<'a>) -> Self {
        pool.pressure.ask();
        pool.waits().enter(who.asks);
        pool.pressure.wait(pool.active.load(Ordering::Acquire) + pool.waiting.load(Ordering::Acquire) + 1);
        Self { pool, who, outcome: None }
    }

    /// Whether it has taken too long.
    fn poll_patience(&self, cx: &mut Context<'_>, alarm: &mut Alarm, settings: &PoolSettings) -> Poll<()> {
        loop {
            ready!(alarm.poll(cx, self.pool.next_look(self.who.asks, settings)));
            if self.pool.patience(self.who.asks, settings) <= Moment::now() {
                return Poll::Ready(());
            }
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.pool.waits().leave(self.who.asks);
        let wait = Moment::now().since(self.who.asks);
        if let Some(rests) = self.who.rests {
            self.pool.pressure.waited(wait, self.who.asks.since(rests));
        }
        self.outcome.unwrap_or(&self.pool.metrics.borrow_wait.left).observe(wait.as_secs_f64());
    }
}

impl Pool {
    /// Waits for a lease, in order of arrival, at most `borrow_timeout`; the alarm is the task's. Cancel-safe: dropped, it
    /// leaves the queue.
    ///
    /// # Errors
    /// 53300 when the time is over or the queue is full; the database's own error when it refuses us, and 08001 when it does
    /// not answer.
    pub async fn borrow(self: &Arc<Self>, who: Borrower<'_>, alarm: &mut Alarm) -> Result<Lease, Error> {
        match self.borrow_now(&who) {
            Some(lease) => Ok(lease),
            None => self.borrow_waiting(who, alarm).await,
        }
    }

    /// The same for pgfunnel itself.
    ///
    /// # Errors
    /// As [`Pool::borrow`].
    pub async fn borrow_for_errand(self: &Arc<Self>) -> Result<Lease, Error> {
        let who = Borrower { client: 0, application: "", rests: None, asks: Moment::now() };
        self.borrow(who, &mut Alarm::default()).await
    }

    /// A lease without waiting: a free place and an idle backend.
    #[inline]
    pub fn borrow_now(self: &Arc<Self>, who: &Borrower<'_>) -> Option<Lease> {
        let lease = self.enter_and_take(who)?;
        self.pressure.ask();
        self.metrics.borrow_wait.at_once.observe(0.0);
        Some(lease)
    }

    #[inline]
    fn enter_and_take(self: &Arc<Self>, who: &Borrower<'_>) -> Option<Lease> {
        if self.store.len() == 0 {
            return None;
        }
        let application = match self.application_gate(who.application) {
            Some(gate) => Some(gate.try_enter()?),
            None => None,
        };
        let user = match self.user.is_limited() {
            true => Some(self.user.try_enter()?),
            false => None,
        };
        let places = Places { application, user, _pool: self.gate.try_enter()? };
        match self.take(who.client, who.asks)? {
            (taken, true) => Some(Lease::new(self.clone(), taken, places, who.asks)),
            (dead, false) => {
                self.close(dead);
                None
            }
        }
    }

    async fn borrow_waiting(self: &Arc<Self>, who: Borrower<'_>, alarm: &mut Alarm) -> Result<Lease, Error> {
        let mut wait = Wait::new(self, who);
        let settings = self.settings.load_full();
        if self.waiting.load(Ordering::Acquire) >= settings.max_waiting {
            wait.outcome = Some(&self.metrics.borrow_wait.refused);
            metrics().count_refusal("max_waiting");
            return Err(self.queue_full(&settings));
        }
        let _waiting = gate::Waiting::new(&self.waiting);
        let stage = AtomicUsize::new(0);
        let mut borrowing = pin!(async {
            loop {
                let places = self.enter(who.application, &stage).await;
                if let Some(lease) = self.obtain(&who, places, &settings).await? {
                    return Ok(lease);
                }
            }
        });
        let done = std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = borrowing.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
            }
            wait.poll_patience(cx, alarm, &settings).map(|()| None)
        });
        let (outcome, result) = match done.await {
            Some(Ok(lease)) => (&self.metrics.borrow_wait.waited, Ok(lease)),
            Some(Err(error)) => (&self.metrics.borrow_wait.refused, Err(error)),
            None => {
                let (outcome, error) = self.timed_out(&wait, &settings, stage.load(Ordering::Relaxed));
                (outcome, Err(error))
            }
        };
        wait.outcome = Some(outcome);
        result
    }

    /// Queues at every gate in turn; the narrow ones first, so that who waits there does not block the pool.
    async fn enter(&self, application: &str, stage: &AtomicUsize) -> Places {
        let application = match self.application_gate(application) {
            Some(gate) => Some(gate.enter().await),
            None => None,
        };
        loop {
            stage.store(1, Ordering::Relaxed);
            let user = match self.user.is_limited() {
                true => Some(self.user.enter().await),
                false => None,
            };
            stage.store(2, Ordering::Relaxed);
            let mut turn = pin!(self.gate.enter());
            let _pool = tokio::select! {
                biased;
                _pool = &mut turn => return Places { application, user, _pool },
                () = self.began_to_be_held(), if user.is_some() => {
                    // The user has other pools, which are not held. Here it keeps its turn.
                    drop(user);
                    turn.await
                }
            };
            if let Some(user) = self.user.try_enter() {
                return Places { application, user: Some(user), _pool };
            }
        }
    }

    /// With a place: an idle backend, or a new one. `None`: the pool is held meanwhile, and the place is given up.
    async fn obtain(
        self: &Arc<Self>,
        who: &Borrower<'_>,
        mut places: Places,
        settings: &PoolSettings,
    ) -> Result<Option<Lease>, Error> {
        loop {
            let now = Moment::now();
            places = match self.take(who.client, now) {
                Some((taken, true)) => return Ok(Some(Lease::new(self.clone(), taken, places, now))),
                Some((dead, false)) => {
                    self.close(dead);
                    places
                }
                // Boxed: few wait for that, and all others would carry it.
                None => match Box::pin(self.connect(places, self.patience(who.asks, settings).instant())).await? {
                    connector::Outcome::Connected(lease) => return Ok(Some(lease)),
                    connector::Outcome::Again(_) if self.is_held() => return Ok(None),
                    connector::Outcome::Again(places) => places,
                },
            };
        }
    }

    /// The figures that explain a refusal.
    fn figures(&self) -> String {
        format!(
            "{} of {} backends lent, {} listening, {} idle, {} connecting, {} closing, {} clients waiting",
            self.active.load(Ordering::Acquire),
            self.gate.size(),
            self.listening.load(Ordering::Acquire),
            self.store.len(),
            self.connector.connecting(),
            self.closing.load(Ordering::Acquire),
            self.waiting.load(Ordering::Acquire),
        )
    }

    /// Why the time ran out, and how that is counted. What the database is to blame for is no refusal of ours: who is told
    /// to raise a limit then is misled.
    #[cold]
    fn timed_out(&self, wait: &Wait<'_>, settings: &PoolSettings, stage: usize) -> (&Histogram, Error) {
        let outcomes = &self.metrics.borrow_wait;
        if self.is_held() {
            metrics().count_refusal("pause_timeout");
            return (&outcomes.refused, paused(settings));
        }
        if let Some(error) = self.of_database(wait.who.asks, stage) {
            let error = error.hint(format!(
                "pgfunnel kept trying for borrow_timeout ({:?}); pool {}: {}.",
                settings.borrow_timeout,
                self.key,
                self.figures()
            ));
            return (&outcomes.refused, error);
        }
        (&outcomes.timed_out, self.no_backend(settings, stage))
    }

    /// What the database answered last, if that was an error; or that it has said nothing for most of the time that a client
    /// has waited since `asked`, while nothing was lent that could have come back.
    fn of_database(&self, asked: Moment, stage: usize) -> Option<Error> {
        if let Some(error) = self.connector.last_error() {
            return Some(self.told(&error, &self.target.load()));
        }
        let silent = self.connector.silent()?;
        // A user's limit is shared with other pools, whose leases may be what it waits for.
        let elsewhere = stage == 1 && self.connector.connecting() < self.user.size();
        let blame = self.active.load(Ordering::Acquire) == 0 && !elsewhere && 2 * silent >= Moment::now().since(asked);
        blame.then(|| self.target.load().unreachable(&format!("no answer for {:.1} s", silent.as_secs_f64())))
    }

    /// 53300, naming the limit at whose gate the time ran out: 0 the application's, 1 the user's, 2 the pool's.
    fn no_backend(&self, settings: &PoolSettings, stage: usize) -> Error {
        let (counted, narrow) = match (stage, settings.max_leases_per_application) {
            (0, Some(cap)) => ("max_leases_per_application", Some(("max_leases_per_application", cap))),
            (1, _) => ("max_leases", Some(("max_leases of this user", self.user.size()))),
            _ => ("borrow_timeout", None),
        };
        metrics().count_refusal(counted);
        Error::new(
            Side::Proxy,
            SqlState::TOO_MANY_CONNECTIONS,
            format!("no backend became free within borrow_timeout ({:?})", settings.borrow_timeout),
        )
        .detail(format!("Pool {}: {}.", self.key, self.figures()))
        .hint(match narrow {
            Some((setting, value)) => {
                format!("Shorten transactions, or raise {setting} ({value}), which is what held this client up.")
            }
            None => "Shorten transactions, or raise pool_size or borrow_timeout.".to_owned(),
        })
    }

    #[cold]
    fn queue_full(&self, settings: &PoolSettings) -> Error {
        Error::new(
            Side::Proxy,
            SqlState::TOO_MANY_CONNECTIONS,
            format!("too many clients are waiting for a backend (max_waiting = {})", settings.max_waiting),
        )
        .detail(format!("Pool {}: {}.", self.key, self.figures()))
        .hint("Shorten transactions, or raise pool_size or max_waiting.")
    }
}

/// 57P03, as a server that does not let anybody in for now.
#[cold]
fn paused(settings: &PoolSettings) -> Error {
    Error::new(
        Side::Proxy,
        SqlState::CANNOT_CONNECT_NOW,
        format!("the database has been paused for longer than pause_timeout ({:?})", settings.pause_patience()),
    )
    .hint("RESUME on pgfunnel's console lets clients go on.")
}
