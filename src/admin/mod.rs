//! What operators and load balancers look at: `/healthz`, `/readyz` and `/metrics` on a port of their own.

mod survey;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::activity::State;
use crate::cancel::Clients;
use crate::metrics::metrics;
use crate::pool::Registry;
pub use survey::{Caller, Clock, Survey};

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
}

/// Answers until the process ends.
pub async fn serve(listener: TcpListener, registry: Arc<Registry>, clients: Arc<Clients>, readiness: Readiness) {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(move || ready(readiness.clone())))
        .route("/metrics", get(move || scrape(registry.clone(), clients.clone())));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!("the HTTP server ended: {error}");
    }
}

async fn ready(readiness: Readiness) -> impl IntoResponse {
    if readiness.draining.load(Ordering::Acquire) {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn scrape(registry: Arc<Registry>, clients: Arc<Clients>) -> impl IntoResponse {
    let survey = Survey::of(&clients);
    for pool in registry.all() {
        pool.observe(&survey.pools.get(&pool.key).map(|clock| clock.clients).unwrap_or_default());
    }
    let callers = survey.callers.iter().map(|(caller, clock)| {
        let [waiting, transaction] = [State::Waiting, State::IdleInTransaction].map(|state| clock.longest(state));
        (caller.application.as_str(), caller.user.as_str(), clock.clients, waiting, transaction)
    });
    metrics().callers.show(callers);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics().render())
}
