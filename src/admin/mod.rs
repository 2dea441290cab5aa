//! What operators, load balancers and monitoring look at, on a port of its own: `/healthz`, `/readyz`, `/metrics` and the
//! live page, and metrics for CloudWatch, which look at clients and pools and change nothing; and, among the databases,
//! the admin console, which does.

mod access;
mod cloudwatch;
mod console;
mod diagnosis;
mod http;
mod live;
mod room;
mod snapshot;
mod survey;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use crate::activity::State;
use crate::cancel::Clients;
use crate::metrics::metrics;
use crate::pool::Registry;
pub use cloudwatch::Reporter;
pub use console::{Console, MOST as MOST_CONSOLES, Shutdown, Wish};
pub use diagnosis::{Diagnosis, Facts, Holders, PoolFacts, Severity, diagnose};
pub use http::serve;
pub use room::MOST_CONNECTIONS as MOST_REQUESTS;
pub use survey::{Caller, Clock, Crowd, Seen, Survey};

/// Whether new clients should be sent here.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    draining: Arc<AtomicBool>,
}

impl Readiness {
    /// From now on, no.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether it is no.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// What is looked at.
pub struct Watched {
    /// The pools.
    pub registry: Arc<Registry>,
    /// Logged-in clients.
    pub clients: Arc<Clients>,
    /// Clients, those that log in included.
    pub count: Arc<AtomicUsize>,
    /// Whether new ones should come.
    pub readiness: Readiness,
    /// Open admin consoles.
    pub consoles: Arc<AtomicUsize>,
}

impl Watched {
    fn connected(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }
}

/// Fills in what is only known to those who look.
fn look(watched: &Watched) {
    let survey = Survey::of(&watched.clients);
    for pool in watched.registry.all() {
        pool.observe(&survey.pools.get(&pool.key).map(|crowd| crowd.clock.clients).unwrap_or_default());
    }
    let callers = survey.callers.iter().map(|(caller, clock)| {
        let [waiting, transaction] = [State::Waiting, State::IdleInTransaction].map(|state| clock.longest(state));
        (caller.application.as_str(), caller.user.as_str(), clock.clients, waiting, transaction)
    });
    metrics().callers.show(callers);
    metrics().clients_tls.set(survey.tls as i64);
    let entered: usize = survey.pools.values().flat_map(|crowd| crowd.clock.clients).sum();
    metrics().clients_logging_in.set(watched.connected().saturating_sub(entered) as i64);
    metrics().draining.set(i64::from(watched.readiness.is_draining()));
    metrics().show_workers(&Handle::current().metrics());
}

async fn scrape(watched: &Watched) -> impl IntoResponse + use<> {
    look(watched);
    // Whoever is served by this thread does not wait for it.
    let text = spawn_blocking(|| metrics().render()).await;
    text.map(|text| ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}
