//! What the process is told while it runs, by signals and on the admin console: to reload, and to end.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::{Failure, warm};
use crate::admin::{Shutdown, Wish};
use crate::client::Shared;
use crate::config::{Config, ConfigErrors};
use crate::metrics::metrics;
use crate::net::tls::ServerTls;

/// What we are told, by signals and on the admin console.
pub(super) struct Orders {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    wishes: mpsc::Receiver<Wish>,
}

/// How to end.
pub(super) enum End {
    /// Running transactions may take so long.
    Drain(Duration),
    /// As long as they like.
    WaitForServers,
    /// Clients may stay as long as they like.
    WaitForClients,
}

impl Orders {
    pub(super) fn new(wishes: mpsc::Receiver<Wish>) -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            wishes,
        })
    }

    /// Waits for the order to end, reloading on the way; returns how. A second one does not wait.
    pub(super) async fn end(&mut self, shared: &Arc<Shared>) -> End {
        loop {
            let wish = tokio::select! {
                _ = self.terminate.recv() => return End::Drain(shared.config.load().drain_timeout),
                _ = self.interrupt.recv() => return End::Drain(Duration::ZERO),
                _ = self.hangup.recv() => {
                    // It is in the log.
                    let _ = reload(shared).await;
                    continue;
                }
                wish = self.wishes.recv() => wish,
            };
            match wish {
                Some(Wish::Reload(reply)) => {
                    // Who asked may be gone.
                    let _ = reply.send(reload(shared).await);
                }
                Some(Wish::Set { key, value, reply }) => {
                    let _ = reply.send(put_in_force(shared, move |config| config.set(&key, &value)).await);
                }
                Some(Wish::Shutdown(Shutdown::Now)) => return End::Drain(Duration::ZERO),
                Some(Wish::Shutdown(Shutdown::WaitForServers)) => return End::WaitForServers,
                Some(Wish::Shutdown(Shutdown::WaitForClients)) => return End::WaitForClients,
                // Consoles are there as long as the server is.
                None => std::future::pending().await,
            }
        }
    }
}

/// Reads the configuration again. Whoever watches must see that it failed, also if nobody waits for the answer.
async fn reload(shared: &Arc<Shared>) -> Result<(), String> {
    let outcome = put_in_force(shared, Config::reload).await;
    match &outcome {
        Ok(()) => {
            tracing::info!("configuration reloaded");
            metrics().count_reload();
        }
        Err(error) => {
            for mistake in error.lines() {
                tracing::error!("configuration not reloaded, the old one stays in force: {mistake}");
            }
            metrics().count_failed_reload();
        }
    }
    outcome
}

/// Puts another configuration in force, made from the one that is: all of it or, if anything is wrong, nothing.
async fn put_in_force(
    shared: &Arc<Shared>,
    make: impl FnOnce(&Config) -> Result<Config, ConfigErrors> + Send + 'static,
) -> Result<(), String> {
    let old = shared.config.load_full();
    let read = move || -> Result<_, Failure> {
        let config = make(&old).map_err(|errors| errors.to_string())?;
        let tls = ServerTls::build(&config.client_tls)?;
        Ok((config, tls))
    };
    let made = tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())?;
    let (config, tls) = made.map_err(|error| error.to_string())?;
    let config = Arc::new(config);
    shared.registry.reload(config.clone()).map_err(|error| error.to_string())?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    show_config(&config);
    shared.tls.store(tls.map(Arc::new));
    shared.config.store(config);
    shared.auth_query.clear();
    warm(shared);
    Ok(())
}

/// Shows the configuration in force in the metrics.
pub(super) fn show_config(config: &Config) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    metrics().show_config(now.as_secs_f64(), &config.fingerprint(), config.max_clients);
}
