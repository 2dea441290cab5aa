//! What a client's session starts with: its entry among the clients, its settings, and what PostgreSQL reports with them
//! in force.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use super::startup::Arrival;
use super::{Refusal, Shared};
use crate::activity::State;
use crate::cancel::{Entry, Handle, Order, Who};
use crate::error::{Error, Side, SqlState};
use crate::pool::Pool;
use crate::session::told_to_leave;
use crate::trace::{self, TraceContext};
use crate::track::{Params, Settings, options};
use crate::wire::startup::Startup;

/// Enters a client that has proved who it is, and finds out what it is to be told of its parameters. That may take a
/// backend: from its entry on it is seen to wait for one, and can be told to leave.
pub(super) async fn enter(
    shared: &Shared,
    pool: &Arc<Pool>,
    arrival: &Arrival,
    key_length: usize,
) -> Result<(Entry, Arc<Params>), Refusal> {
    let mut settings = settings(&arrival.startup)?;
    // Not one of PostgreSQL's.
    let parameter = settings.remove(trace::PARAMETER);
    let (application, traced) = TraceContext::of_application(settings.get("application_name").unwrap_or_default());
    let who = Who {
        pool: pool.clone(),
        application: application.into(),
        trace: parameter.and_then(|value| TraceContext::parse(value.as_bytes())).or(traced),
        peer: arrival.peer,
        tls: arrival.tls.is_some(),
    };
    let entry = shared.clients.enter(who, key_length)?;
    entry.handle.activity.set(State::Waiting);
    let params = tokio::select! {
        biased;
        params = pool.resolve(settings) => params?,
        order = told(&entry.handle) => return Err(told_to_leave(order).into()),
    };
    entry.handle.activity.set(State::Idle);
    Ok((entry, params))
}

/// Waits for an order to leave.
async fn told(handle: &Handle) -> Order {
    poll_fn(|cx| {
        handle.listen(cx.waker());
        match handle.order() {
            Order::None => Poll::Pending,
            order => Poll::Ready(order),
        }
    })
    .await
}

/// What the client wants its session to start with.
fn settings(startup: &Startup) -> Result<Settings, Error> {
    let mut settings = requested(startup)?;
    // RESET ALL leaves these alone, so they would stay in force for the next client.
    for name in ["role", "session_authorization"] {
        if settings.remove(name).is_some() {
            return Err(Error::new(
                Side::Client,
                SqlState::FEATURE_NOT_SUPPORTED,
                format!("parameter \"{name}\" cannot be set at connection start through a connection pool"),
            )
            .hint("Use SET ROLE or SET SESSION AUTHORIZATION after connecting."));
        }
    }
    Ok(settings)
}

/// As PostgreSQL has it, whatever the order in the packet: the switches of the last `options` first, then what stands there by
/// its own name (`src/backend/utils/init/postinit.c`, `process_startup_options`).
fn requested(startup: &Startup) -> Result<Settings, Error> {
    let mut settings = Settings::default();
    if let Some((_, switches)) = startup.parameters.iter().rfind(|(name, _)| name == "options") {
        for (name, value) in options::settings(switches)? {
            settings.set(&name, value);
        }
    }
    for (name, value) in &startup.parameters {
        match name.as_str() {
            "user" | "database" | "replication" | "options" => {}
            name if name.starts_with("_pq_.") => {}
            name => settings.set(name, value.clone()),
        }
    }
    Ok(settings)
}
