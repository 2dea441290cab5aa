//! What a pool does when nobody asks: backends that are too old, idle for too long or dead are closed, and a warm
//! minimum is kept ready.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Places, Pool};

/// How often.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

impl Pool {
    /// One round.
    pub(super) fn upkeep(self: &Arc<Self>) {
        let now = Instant::now();
        let settings = self.settings.load();
        let surplus = |idle: usize| idle + self.gate.inside() > self.gate.size() || idle > settings.min_idle;
        // A pool that was made smaller: the surplus goes, without places, since there are none for it.
        while self.is_overfull() {
            let Some(surplus) = self.store.take() else { break };
            self.close(surplus, Places::of_pool(None));
        }
        let mut kept = Vec::new();
        let mut idle = self.store.len();
        while idle > 0 {
            // A place first, so that a backend under examination counts.
            let Some(place) = self.gate.try_enter() else { break };
            let Some((taken, usable)) = self.take() else { break };
            idle -= 1;
            let places = Places::of_pool(Some(place));
            let resting = now.saturating_duration_since(taken.backend.idle_since);
            let idle_too_long =
                settings.idle_timeout.is_some_and(|limit| resting > limit) && surplus(idle + kept.len() + 1);
            if !usable || idle_too_long {
                self.close(taken, places);
            } else {
                kept.push((taken, places));
            }
        }
        // The last one taken is the one that rested longest: it goes back first, and so to the bottom.
        for (taken, places) in kept.into_iter().rev() {
            self.store.put_back(taken);
            drop(places);
        }
        self.warm_up(settings.min_idle);
    }

    /// Opens backends until `min_idle` are idle, as far as places are free.
    pub fn warm_up(self: &Arc<Self>, min_idle: usize) {
        let ready = self.store.len() + self.connector.connecting();
        for _ in ready..min_idle {
            if self.gate.waiting() > 0 {
                return;
            }
            let Some(place) = self.gate.try_enter() else { return };
            // Idle ones have no place: with as many as there may be, no other may come.
            if self.is_overfull() {
                return;
            }
            let pool = self.clone();
            let deadline = Instant::now() + pool.settings.load().connect_timeout;
            tokio::spawn(async move {
                let places = Places::of_pool(Some(place));
                if let Ok(super::connector::Outcome::Connected(lease)) = pool.connect_spare(places, deadline).await {
                    lease.release();
                }
            });
        }
    }

    /// Whether nobody uses it and nothing would be lost with it.
    pub(super) fn is_deserted(&self) -> bool {
        self.clients.load(Ordering::Acquire) == 0 && self.gate.inside() == 0 && self.store.len() == 0
    }
}
