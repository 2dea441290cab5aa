//! Pools: who may have a backend, which one, and when it is given up. `borrow` is all that the rest sees of
//! reservations and bounds, the fair queue, connecting and bb8.

mod bounds;
mod certify;
mod connector;
mod gate;
mod lease;
mod params;
mod registry;
mod store;
mod upkeep;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

pub use gate::{Gate, Place};
pub use lease::Lease;
pub use registry::{PoolKey, Registry, configured_credential, no_database};

use crate::backend::Target;
use crate::config::PoolSettings;
use crate::error::{Error, Side, SqlState};
use crate::metrics::{PoolMetrics, metrics};
use crate::prepared;
use crate::wire::backend::Status;
use bounds::Bounds;
use certify::Certified;
use connector::Connector;
use params::KnownParams;
pub(crate) use params::Outcome;
use store::{Store, Stored, Taken};

/// An idle backend is looked at in the kernel before it is lent only if nobody had it for so long: the runtime notices
/// a closed connection about as fast, and the system call is then a small part of what the transaction costs.
const PROBE_AFTER: Duration = Duration::from_millis(1);

/// The backends of one database and user.
pub struct Pool {
    /// What clients ask for.
    pub key: PoolKey,
    /// Its settings now.
    pub settings: ArcSwap<PoolSettings>,
    /// What it connects to.
    pub target: ArcSwap<Target>,
    /// Statements that its clients prepare.
    pub statements: prepared::Registry,
    /// Schema changes seen; a fresh Parse never reuses a statement from before one.
    pub schema: AtomicU64,
    /// Changes of what the certificate is about, seen.
    catalogue: AtomicU64,
    /// Somebody asks for `currval` or `lastval`: nobody may meet another's.
    pub sequences: AtomicBool,
    certified: ArcSwap<Certified>,
    certifying: AtomicBool,
    /// Something in the database may change session state, or nobody knows.
    hides: AtomicBool,
    /// Something may change parameters until the transaction ends.
    locals: AtomicBool,
    /// A backend may need cleaning between two clients although nothing is known to be left in it.
    careful: AtomicBool,
    /// Its metrics.
    pub metrics: PoolMetrics,
    /// Clients logged in to it.
    pub clients: Arc<AtomicUsize>,
    /// Clients that hold a lease.
    pub active: AtomicUsize,
    /// Backends that listen for its clients.
    listening: AtomicUsize,
    /// Who may have a lease: the queue.
    gate: Arc<Gate>,
    bounds: Bounds,
    registry: Weak<Registry>,
    user: Arc<Gate>,
    applications: Mutex<HashMap<String, Arc<Gate>>>,
    /// Increased when what it connects to changes; older backends are not lent any more.
    generation: AtomicU64,
    waiting: AtomicUsize,
    closing: AtomicUsize,
    store: Store,
    connector: Connector,
    /// What is known of parameters.
    pub(crate) params: KnownParams,
}

/// What pgfunnel itself is called when it borrows for an errand of its own.
pub const ERRAND: &str = "";

/// The places that a lease holds: those of its application and user, where they have a limit, and the pool's.
#[derive(Debug)]
struct Places {
    application: Option<Place>,
    user: Option<Place>,
    _pool: Place,
}

impl Pool {
    /// Waits for a lease for a client with this `application_name`, in order of arrival, at most `borrow_timeout`. Cancel-safe: dropped, it leaves the queue.
    ///
    /// # Errors
    /// 53300 when the time is over or the queue is full; the database's own error when it refuses us.
    pub async fn borrow(self: &Arc<Self>, application: &str) -> Result<Lease, Error> {
        let result = match self.borrow_now(application) {
            Some(lease) => {
                self.metrics.borrow_wait.observe(0.0);
                return Ok(lease);
            }
            // Boxed: a client's task is as large as its largest wait, and most never wait.
            None => Box::pin(self.borrow_waiting(application)).await,
        };
        if let Err(error) = &result {
            if error.code == SqlState::TOO_MANY_CONNECTIONS && error.side == Side::Proxy {
                self.metrics.borrow_timed_out.inc();
            } else {
                self.metrics.borrow_refused.inc();
            }
        }
        result
    }

    /// A lease without waiting: a free place and an idle backend.
    #[inline]
    fn borrow_now(self: &Arc<Self>, application: &str) -> Option<Lease> {
        if self.store.len() == 0 {
            return None;
        }
        let application = match self.application_gate(application) {
            Some(gate) => Some(gate.try_enter()?),
            None => None,
        };
        let user = match self.user.is_limited() {
            true => Some(self.user.try_enter()?),
            false => None,
        };
        let places = Places { application, user, _pool: self.gate.try_enter()? };
        match self.take()? {
            (taken, true) => Some(Lease::new(self.clone(), taken, places)),
            (dead, false) => {
                self.close(dead);
                None
            }
        }
    }

    async fn borrow_waiting(self: &Arc<Self>, application: &str) -> Result<Lease, Error> {
        let settings = self.settings.load_full();
        if self.waiting.load(Ordering::Acquire) >= settings.max_waiting {
            return Err(self.queue_full(&settings));
        }
        let asked = Instant::now();
        let deadline = asked + settings.borrow_timeout;
        let _waiting = gate::Waiting::new(&self.waiting);
        let stage = AtomicUsize::new(0);
        let result = tokio::time::timeout_at(deadline.into(), async {
            let places = self.enter(application, &stage).await;
            self.obtain(places, deadline).await
        });
        let lease = match result.await {
            Ok(result) => result?,
            Err(_) => return Err(self.timed_out(&settings, stage.load(Ordering::Relaxed))),
        };
        self.metrics.borrow_wait.observe(asked.elapsed().as_secs_f64());
        Ok(lease)
    }

    /// Queues at every gate in turn; the narrow ones first, so that who waits there does not block the pool.
    async fn enter(&self, application: &str, stage: &AtomicUsize) -> Places {
        let application = match self.application_gate(application) {
            Some(gate) => Some(gate.enter().await),
            None => None,
        };
        stage.store(1, Ordering::Relaxed);
        let user = match self.user.is_limited() {
            true => Some(self.user.enter().await),
            false => None,
        };
        stage.store(2, Ordering::Relaxed);
        Places { application, user, _pool: self.gate.enter().await }
    }

    /// With a place: an idle backend, or a new one.
    async fn obtain(self: &Arc<Self>, mut places: Places, deadline: Instant) -> Result<Lease, Error> {
        loop {
            places = match self.take() {
                Some((taken, true)) => return Ok(Lease::new(self.clone(), taken, places)),
                Some((dead, false)) => {
                    self.close(dead);
                    places
                }
                None => match self.connect(places, deadline).await? {
                    connector::Outcome::Connected(lease) => return Ok(lease),
                    connector::Outcome::Again(places) => places,
                },
            };
        }
    }

    /// An idle backend, and whether it can be used.
    #[inline]
    fn take(&self) -> Option<(Taken, bool)> {
        let mut taken = self.store.take()?;
        let now = Instant::now();
        let probe = now.duration_since(taken.backend.idle_since) > PROBE_AFTER;
        let usable = self.is_current(&taken) && taken.backend.is_usable(now, probe);
        Some((taken, usable))
    }

    /// Closes a backend in the background. It keeps its places in the bounds until the server has closed its side.
    fn close(self: &Arc<Self>, mut taken: Taken) {
        let may_run = taken.backend.broken || taken.backend.status != Status::Idle;
        taken.backend.broken = true;
        // Without a runtime the process is ending, and every connection with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let pool = self.clone();
        pool.closing.fetch_add(1, Ordering::AcqRel);
        runtime.spawn(async move {
            taken.backend.close(may_run).await;
            drop(taken);
            pool.closing.fetch_sub(1, Ordering::AcqRel);
        });
    }

    fn application_gate(&self, application: &str) -> Option<Arc<Gate>> {
        let cap = self.settings.load().max_leases_per_application?;
        let mut gates = self.applications.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = gates.get(application) {
            if gate.size() != cap {
                gate.resize(cap);
            }
            return Some(gate.clone());
        }
        // Names come from clients; those that nobody uses now are forgotten before there are too many.
        if gates.len() >= 1_000 {
            gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        }
        let gate = Gate::new(cap);
        gates.insert(application.to_owned(), gate.clone());
        Some(gate)
    }

    /// Changes the number of backends that may be. Surplus idle ones are closed by the upkeep.
    pub fn resize(&self, size: usize) {
        self.gate.resize(size);
        self.bounds.own().resize(size);
    }

    /// Whether it lives where new backends go.
    #[inline]
    fn is_current(&self, taken: &Taken) -> bool {
        taken.generation == self.generation.load(Ordering::Relaxed)
    }

    /// Whether there are more backends than may be, since the pool was made smaller; those that are being closed do not
    /// count.
    #[inline]
    fn has_surplus(&self) -> bool {
        let own = self.bounds.own();
        let inside = own.inside();
        inside > own.size() && inside.saturating_sub(self.closing.load(Ordering::Acquire)) > own.size()
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

    /// Writes what a scrape shows of this pool.
    pub fn observe(&self) {
        let (database, user) = (self.key.database.as_str(), self.key.user.as_str());
        let closing = self.closing.load(Ordering::Acquire);
        let connecting = self.connector.connecting();
        let waiting = self.waiting.load(Ordering::Acquire);
        let active = self.active.load(Ordering::Acquire);
        let idle = self.clients.load(Ordering::Acquire).saturating_sub(active + waiting);
        for (state, count) in [("active", active), ("waiting", waiting), ("idle", idle)] {
            metrics().clients.with_label_values(&[database, user, state]).set(count as i64);
        }
        let states = [
            ("active", active),
            ("listening", self.listening.load(Ordering::Acquire)),
            ("idle", self.store.len()),
            ("connecting", connecting),
            ("closing", closing),
        ];
        for (state, count) in states {
            metrics().backends.with_label_values(&[database, user, state]).set(count as i64);
        }
        metrics().pool_size.with_label_values(&[database, user]).set(self.gate.size() as i64);
    }
}

#[cold]
fn shutting_down() -> Error {
    Error::new(Side::Proxy, SqlState::ADMIN_SHUTDOWN, "pgfunnel is shutting down")
}
