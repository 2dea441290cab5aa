//! Borrowing: a lease at once where a place is free and a backend idle, otherwise a wait in the queue, within
//! `borrow_timeout`, for a place and then for a backend.

use std::collections::btree_map::Entry;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use prometheus::Histogram;

use super::{Borrower, Lease, Places, Pool, connector, gate};
use crate::clock::Moment;
use crate::config::PoolSettings;
use crate::error::{Error, Side, SqlState};
use crate::metrics::metrics;

/// A wait, seen by those who look; counted when it is over, however it ends.
struct Wait<'a> {
    pool: &'a Pool,
    asked: Instant,
    /// How long before the client's last lease had ended.
    pause: Option<Duration>,
    outcome: Option<&'a Histogram>,
}

impl<'a> Wait<'a> {
    fn new(pool: &'a Pool, rests: Option<Moment>) -> Self {
        let asked = Instant::now();
        pool.pressure.ask();
        *pool.waits().entry(asked).or_default() += 1;
        pool.pressure.wait(pool.active.load(Ordering::Acquire) + pool.waiting.load(Ordering::Acquire) + 1);
        Self { pool, asked, pause: rests.map(|rests| Moment::now().since(rests)), outcome: None }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut waits = self.pool.waits();
        if let Entry::Occupied(mut same) = waits.entry(self.asked) {
            *same.get_mut() -= 1;
            if *same.get() == 0 {
                same.remove();
            }
        }
        drop(waits);
        let wait = self.asked.elapsed();
        if let Some(pause) = self.pause {
            self.pool.pressure.waited(wait, pause);
        }
        self.outcome.unwrap_or(&self.pool.metrics.borrow_wait.left).observe(wait.as_secs_f64());
    }
}

impl Pool {
    /// Waits for a lease, in order of arrival, at most `borrow_timeout`. Cancel-safe: dropped, it leaves the queue.
    ///
    /// # Errors
    /// 53300 when the time is over or the queue is full; the database's own error when it refuses us.
    pub async fn borrow(self: &Arc<Self>, who: Borrower<'_>) -> Result<Lease, Error> {
        match self.borrow_now(&who) {
            Some(lease) => Ok(lease),
            // Boxed: a client's task is as large as its largest wait, and most never wait.
            None => Box::pin(self.borrow_waiting(who)).await,
        }
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

    async fn borrow_waiting(self: &Arc<Self>, who: Borrower<'_>) -> Result<Lease, Error> {
        let mut wait = Wait::new(self, who.rests);
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
                if let Some(lease) = self.obtain(who.client, places, self.patience(wait.asked, &settings)).await? {
                    return Ok(lease);
                }
            }
        });
        let (outcome, result) = loop {
            let look = self.next_look(wait.asked, &settings);
            break match tokio::time::timeout_at(look.into(), &mut borrowing).await {
                Ok(Ok(lease)) => (&self.metrics.borrow_wait.waited, Ok(lease)),
                Ok(Err(error)) => (&self.metrics.borrow_wait.refused, Err(error)),
                Err(_) if self.patience(wait.asked, &settings) > Instant::now() => continue,
                Err(_) => {
                    let refused = self.timed_out(&settings, stage.load(Ordering::Relaxed));
                    (&self.metrics.borrow_wait.timed_out, Err(refused))
                }
            };
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
        client: u64,
        mut places: Places,
        deadline: Instant,
    ) -> Result<Option<Lease>, Error> {
        loop {
            let now = Moment::now();
            places = match self.take(client, now) {
                Some((taken, true)) => return Ok(Some(Lease::new(self.clone(), taken, places, now))),
                Some((dead, false)) => {
                    self.close(dead);
                    places
                }
                None => match self.connect(places, deadline).await? {
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

    /// 53300, naming the limit at whose gate the time ran out: 0 the application's, 1 the user's, 2 the pool's.
    #[cold]
    fn timed_out(&self, settings: &PoolSettings, stage: usize) -> Error {
        if self.is_held() {
            metrics().count_refusal("pause_timeout");
            return paused(settings);
        }
        metrics().count_refusal(match stage {
            0 if settings.max_leases_per_application.is_some() => "max_leases_per_application",
            1 => "max_leases",
            _ => "borrow_timeout",
        });
        let narrow = match (stage, settings.max_leases_per_application) {
            (0, Some(cap)) => Some(("max_leases_per_application", cap)),
            (1, _) => Some(("max_leases of this user", self.user.size())),
            _ => None,
        };
        if let Some(error) = self.connector.last_error(&self.target.load()) {
            return error.hint(format!(
                "pgfunnel kept trying for borrow_timeout ({:?}); pool {}: {}.",
                settings.borrow_timeout,
                self.key,
                self.figures()
            ));
        }
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
        format!("the database has been paused for longer than pause_timeout ({:?})", settings.pause_timeout),
    )
    .hint("RESUME on pgfunnel's console lets clients go on.")
}
