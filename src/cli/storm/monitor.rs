//! Watches the server while the storm runs: how many client backends it has at most, our own connection not counted.

use std::time::Duration;

use postgres_protocol::escape::escape_literal;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::client::Client;
use super::failure::Failure;
use super::plan::Plan;
use super::target::Target;

/// Often enough to see a peak that lasts, seldom enough to cost the server next to nothing.
const INTERVAL: Duration = Duration::from_millis(50);

/// A running watch.
pub(super) struct Monitor {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Watched>,
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Watched {
    /// Client backends at one time, at most.
    pub(super) most: u64,
    /// Why the watch ended before the storm did, if so.
    pub(super) failure: Option<String>,
}

impl Monitor {
    /// Connects and takes a first look, so that a monitor that cannot work is known before the storm.
    pub(super) async fn start(target: Target, plan: &Plan, database: Option<&str>) -> Result<Self, String> {
        let limit = plan.connect_timeout;
        let query = query(database);
        let mut watched = Watched::default();
        let first = async {
            let mut client = Client::connect(&target).await?;
            watched.most = count(&mut client, &query).await?;
            Ok(client)
        };
        let first = tokio::time::timeout(limit, first).await.unwrap_or_else(|_| Err(Failure::timeout(limit)));
        let client = first.map_err(|f: Failure| format!("the monitor cannot watch: {} ({})", f.message, f.code))?;
        let (stop, stopped) = oneshot::channel();
        Ok(Self { stop, task: tokio::spawn(watch(client, query, limit, watched, stopped)) })
    }

    /// Ends the watch.
    pub(super) async fn stop(self) -> Watched {
        // The receiver is gone only if the watch has ended by itself.
        let _ = self.stop.send(());
        let ended = self.task.await;
        ended.unwrap_or_else(|e| Watched { most: 0, failure: Some(e.to_string()) })
    }
}

async fn watch(
    mut client: Client,
    query: String,
    limit: Duration,
    mut watched: Watched,
    mut stopped: oneshot::Receiver<()>,
) -> Watched {
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let counted = tokio::time::timeout(limit, count(&mut client, &query)).await;
        match counted.unwrap_or_else(|_| Err(Failure::timeout(limit))) {
            Ok(now) => watched.most = watched.most.max(now),
            Err(failure) => {
                watched.failure = Some(failure.message);
                return watched;
            }
        }
    }
    // Nothing depends on a polite good-bye.
    let _ = tokio::time::timeout(limit, client.terminate()).await;
    watched
}

async fn count(client: &mut Client, query: &str) -> Result<u64, Failure> {
    let answer = client.query(query).await?;
    answer.and_then(|a| a.parse().ok()).ok_or_else(|| Failure::protocol("the count of backends is no number"))
}

fn query(database: Option<&str>) -> String {
    let only = database.map(|d| format!(" AND datname = {}", escape_literal(d))).unwrap_or_default();
    format!(
        "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity \
         WHERE backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid(){only}"
    )
}
