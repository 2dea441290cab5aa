//! What a pool does when nobody asks: backends that are too old, idle for too long or dead are closed, and a warm
//! minimum is kept ready.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Places, Pool};
use crate::clock::Moment;

/// How often.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

impl Pool {
    /// One round.
    pub(super) fn upkeep(self: &Arc<Self>) {
        let now = Moment::now();
        self.pressure.keep(self.sample());
        self.keep_headroom();
        self.keep_averages();
        if self.unreachable().is_some() {
            self.metrics.unreachable.inc_by(INTERVAL.as_secs());
        }
        let settings = self.settings.load();
        while self.has_surplus() {
            let Some(surplus) = self.store.take(0) else { break };
            self.close(surplus);
        }
        if self.is_held() {
            // One that was being opened when that began.
            self.close_idle();
        }
        let mut kept = Vec::new();
        let mut idle = self.store.len();
        while idle > 0 {
            // A place in the queue first: nobody who has one misses what is being looked at.
            let Some(place) = self.gate.try_enter() else { break };
            let Some((taken, usable)) = self.take(0, now) else { break };
            idle -= 1;
            let resting = now.since(taken.backend.idle_since);
            let idle_too_long =
                settings.idle_timeout.is_some_and(|limit| resting > limit) && idle + kept.len() + 1 > settings.min_idle;
            if !usable || idle_too_long {
                self.close(taken);
            } else {
                kept.push((taken, place));
            }
        }
        // The last one taken is the one that rested longest: it goes back first, and so to the bottom.
        for (taken, place) in kept.into_iter().rev() {
            self.store.put_back(taken);
            drop(place);
        }
    }

    /// The warm minimum.
    pub(super) fn keep_warm(self: &Arc<Self>) {
        self.warm_up(self.settings.load().min_idle);
    }

    /// Opens backends until `min_idle` are idle, as far as places are free.
    pub fn warm_up(self: &Arc<Self>, min_idle: usize) {
        let ready = self.store.len() + self.connector.connecting();
        let room = self.bounds.own().size().saturating_sub(self.bounds.own().inside());
        for _ in 0..min_idle.saturating_sub(ready).min(room) {
            let Some(place) = self.gate.try_enter() else { return };
            let pool = self.clone();
            let deadline = Instant::now() + pool.settings.load().connect_timeout;
            tokio::spawn(async move {
                let places = Places { application: None, user: None, _pool: place };
                if let Ok(super::connector::Outcome::Connected(lease)) = pool.connect_spare(places, deadline).await {
                    lease.release();
                }
            });
        }
    }
}
