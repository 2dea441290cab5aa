//! Pools: who may have a backend, which one, and when it is given up. `borrow` is all that the rest sees of
//! reservations and bounds, the fair queue, connecting and bb8.

mod borrow;
mod bounds;
mod certify;
mod connector;
mod deserted;
mod gate;
mod headroom;
mod hold;
mod lease;
mod params;
mod pressure;
mod refused;
mod registry;
mod reload;
mod roster;
mod store;
mod totals;
mod upkeep;
mod waits;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;

pub use gate::{Gate, Place};
pub use headroom::Headroom;
pub use lease::Lease;
pub use registry::{PoolKey, Registry, configured_credential, no_database};
pub use roster::{Doing, Member};

use crate::activity::State;
use crate::backend::Target;
use crate::clock::Moment;
use crate::config::PoolSettings;
use crate::error::{Error, Side, SqlState};
use crate::metrics::{PoolMetrics, WINDOWS};
use crate::prepared;
use crate::wire::backend::Status;
use bounds::Bounds;
use certify::Certified;
use connector::Connector;
use deserted::Age;
use headroom::Reading;
use hold::Hold;
use params::KnownParams;
pub(crate) use params::Outcome;
use pressure::Pressure;
pub use pressure::Sample;
use roster::Roster;
use store::{Store, Stored, Taken};
use totals::Periods;
pub use totals::Totals;
use waits::Waits;

/// An idle backend is looked at in the kernel before it is lent only if nobody had it for so long: the runtime notices
/// a closed connection about as fast, and the system call is then a small part of what the transaction costs.
const PROBE_AFTER: Duration = Duration::from_millis(10);

/// The backends of one database and user.
pub struct Pool {
    /// What clients ask for.
    pub key: PoolKey,
    /// Its settings now.
    pub settings: Arc<ArcSwap<PoolSettings>>,
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
    /// Leases are capped per `application_name`.
    capped: AtomicBool,
    /// Its metrics.
    pub metrics: PoolMetrics,
    /// Clients logged in to it.
    pub clients: Arc<AtomicUsize>,
    /// Clients that hold a lease.
    pub active: AtomicUsize,
    /// Backends that listen for its clients.
    listening: AtomicUsize,
    pressure: Pressure,
    headroom: Reading,
    /// Who may have a lease: the queue.
    gate: Arc<Gate>,
    hold: Mutex<Hold>,
    roster: Roster,
    periods: Periods,
    bounds: Bounds,
    registry: Weak<Registry>,
    user: Arc<Gate>,
    applications: Mutex<HashMap<String, Arc<Gate>>>,
    /// Increased when what it connects to changes; older backends are not lent any more.
    generation: AtomicU64,
    waiting: AtomicUsize,
    /// Since when those wait who do.
    waits: Mutex<Waits>,
    closing: AtomicUsize,
    store: Store,
    connector: Connector,
    /// What is known of parameters.
    pub(crate) params: KnownParams,
    made: Moment,
    age: Age,
}

/// Who borrows.
#[derive(Debug, Clone, Copy)]
pub struct Borrower<'a> {
    /// The client's number; 0: none.
    pub client: u64,
    /// Its `application_name`.
    pub application: &'a str,
    /// Since when it has had no lease; `None`: it never had one.
    pub rests: Option<Moment>,
    /// When it asks.
    pub asks: Moment,
}

/// The places that a lease holds: those of its application and user, where they have a limit, and the pool's.
#[derive(Debug)]
struct Places {
    application: Option<Place>,
    user: Option<Place>,
    _pool: Place,
}

impl Pool {
    /// An idle backend for this client, and whether it can be used now.
    #[inline]
    fn take(&self, client: u64, now: Moment) -> Option<(Taken, bool)> {
        let mut taken = self.store.take(client)?;
        let probe = now.since(taken.backend.idle_since) > PROBE_AFTER;
        let usable = self.is_current(&taken) && taken.backend.is_usable(now, probe);
        Some((taken, usable))
    }

    /// Closes a backend in the background. It keeps its places in the bounds until the server has closed its side.
    fn close(self: &Arc<Self>, mut taken: Taken) {
        let may_run = taken.backend.broken || taken.backend.status != Status::Idle;
        taken.backend.broken = true;
        taken.member.set(Doing::Closing);
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

    #[inline]
    fn application_gate(&self, application: &str) -> Option<Arc<Gate>> {
        if self.capped.load(Ordering::Relaxed) { self.capped_gate(application) } else { None }
    }

    #[cold]
    fn capped_gate(&self, application: &str) -> Option<Arc<Gate>> {
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
    fn is_current(&self, stored: &Stored) -> bool {
        stored.member.generation == self.generation.load(Ordering::Relaxed)
    }

    /// Whether there are more backends than may be, since the pool was made smaller; those that are being closed do not
    /// count.
    #[inline]
    fn has_surplus(&self) -> bool {
        let own = self.bounds.own();
        let inside = own.inside();
        inside > own.size() && inside.saturating_sub(self.closing.load(Ordering::Acquire)) > own.size()
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the client has been waiting that waits longest; zero: nobody waits.
    pub fn oldest_wait(&self) -> Duration {
        self.waits().oldest().map_or(Duration::ZERO, |asked| Moment::now().since(asked))
    }

    /// Why backends cannot be opened, if that was so a moment ago.
    pub fn unreachable(&self) -> Option<Error> {
        self.connector.recent_error().map(|error| self.told(&error, &self.target.load()))
    }

    /// How long the database has not answered a login that is under way; `None`: none is.
    pub fn silent(&self) -> Option<Duration> {
        self.connector.silent()
    }

    /// How many of its backends are idle.
    pub fn idle(&self) -> usize {
        self.store.len()
    }

    /// How many are being opened.
    pub fn connecting(&self) -> usize {
        self.connector.connecting()
    }

    /// How many backends would have served the demand of the last `window` without making clients wait.
    pub fn needed(&self, now: &Sample, window: Duration) -> usize {
        self.pressure.needed(now, window)
    }

    /// Demand for its backends now, and what was used of them until now.
    pub fn sample(&self) -> Sample {
        let (active, waiting) = (self.active.load(Ordering::Acquire), self.waiting.load(Ordering::Acquire));
        self.pressure.now(active, waiting, self.gate.size())
    }

    /// A sample for each second of the last 15 minutes, the oldest first.
    pub fn history(&self) -> Vec<Sample> {
        self.pressure.history()
    }

    /// Writes what a scrape shows of this pool, whose clients are in these states (see [`State`]).
    pub fn observe(&self, clients: &[usize; 5]) {
        for (gauge, count) in self.metrics.clients.iter().zip(clients) {
            gauge.set(*count as i64);
        }
        let now = self.sample();
        let held = |state: State| clients.get(state as usize).copied().unwrap_or(0);
        let [in_transaction, pinned] = [State::IdleInTransaction, State::Pinned].map(held);
        let members = self.backends();
        let doing = |doing| members.iter().filter(|member| member.doing() == doing).count();
        let [cancelling, cleaning] = [Doing::Cancelling, Doing::Cleaning].map(doing);
        let backends = [
            // Those that pgfunnel has lent to itself, too.
            now.active.saturating_sub(in_transaction + pinned + cancelling + cleaning),
            in_transaction,
            pinned,
            cancelling,
            cleaning,
            self.listening.load(Ordering::Acquire),
            self.store.len(),
            self.connector.connecting(),
            self.closing.load(Ordering::Acquire),
        ];
        for (gauge, count) in self.metrics.backends.iter().zip(backends) {
            gauge.set(count as i64);
        }
        self.metrics.size.set(now.size as i64);
        self.metrics.paused.set(i64::from(self.is_held()));
        if let Some(headroom @ Headroom { own, others, .. }) = self.headroom() {
            for (gauge, count) in self.metrics.connections.iter().zip([own, others, headroom.free()]) {
                gauge.set(count as i64);
            }
        }
        self.metrics.oldest_waiter.set(self.oldest_wait().as_secs_f64());
        self.metrics.pressure.set((now.active + now.waiting) as f64 / now.size.max(1) as f64);
        for (gauge, window) in self.metrics.needed.iter().zip(WINDOWS) {
            gauge.set(self.pressure.needed(&now, Duration::from_secs(window)) as i64);
        }
    }
}

#[cold]
fn shutting_down() -> Error {
    Error::new(Side::Proxy, SqlState::ADMIN_SHUTDOWN, "pgfunnel is shutting down")
}
