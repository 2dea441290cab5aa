//! What the live page is told each second: one snapshot for all who watch, made only while somebody does. Who reads too
//! slowly misses some.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use tokio::sync::{Semaphore, watch};
use tokio::time::MissedTickBehavior;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::WatchStream;

use super::Watched;
use super::snapshot::Snapshot;

/// Viewers at one time.
pub(super) const MOST_VIEWERS: usize = 50;

/// The feed of the page.
#[derive(Clone)]
pub(super) struct Live {
    snapshots: watch::Sender<Arc<str>>,
    viewers: Arc<Semaphore>,
}

impl Live {
    /// Begins, and goes on until the process ends.
    pub(super) fn start(watched: Arc<Watched>) -> Self {
        let live = Self { snapshots: watch::channel("".into()).0, viewers: Arc::new(Semaphore::new(MOST_VIEWERS)) };
        let snapshots = live.snapshots.clone();
        tokio::spawn(async move {
            let mut second = tokio::time::interval(Duration::from_secs(1));
            second.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                second.tick().await;
                if snapshots.receiver_count() == 0 {
                    continue;
                }
                match serde_json::to_string(&Snapshot::of(&watched)) {
                    Ok(snapshot) => drop(snapshots.send(snapshot.into())),
                    Err(error) => tracing::error!("the live page cannot be told: {error}"),
                }
            }
        });
        live
    }

    /// Server-sent events (HTML standard, "Server-sent events"): a snapshot each second.
    pub(super) fn watch(&self) -> Response {
        let Ok(viewer) = self.viewers.clone().try_acquire_owned() else {
            return (StatusCode::SERVICE_UNAVAILABLE, "too many are watching\n").into_response();
        };
        let stream = WatchStream::from_changes(self.snapshots.subscribe()).map(move |snapshot| {
            let _watches = &viewer;
            Ok::<_, Infallible>(Event::default().data(&*snapshot))
        });
        Sse::new(stream).into_response()
    }
}

/// Of each pool: clients that held a lease, that waited, and the most backends, in each second of the last 15 minutes,
/// the oldest first.
pub(super) fn history(watched: &Watched) -> BTreeMap<String, Vec<[usize; 3]>> {
    let pools = watched.registry.all().into_iter();
    pools
        .map(|pool| {
            let seconds = pool.history().into_iter().map(|sample| [sample.active, sample.waiting, sample.size]);
            (pool.key.to_string(), seconds.collect())
        })
        .collect()
}
