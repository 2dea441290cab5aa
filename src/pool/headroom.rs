//! How many connections the database accepts, and who has them: read every few seconds on a backend that is given back, so
//! that nobody is kept from one for it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arc_swap::ArcSwapOption;

use super::Pool;
use crate::backend::{AskError, Backend};

/// Rounds of upkeep between two readings.
const ROUNDS: u32 = 15;

/// Connections of a PostgreSQL server. Backends of other users count, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headroom {
    /// `max_connections` less what is reserved for superusers.
    pub usable: usize,
    /// This pool's, as the server counts them: by user and database.
    pub own: usize,
    /// All others'.
    pub others: usize,
}

impl Headroom {
    /// Those that nobody has.
    pub fn free(&self) -> usize {
        self.usable.saturating_sub(self.own + self.others)
    }
}

/// The last reading.
#[derive(Debug, Default)]
pub(super) struct Reading {
    rounds: AtomicU32,
    due: AtomicBool,
    last: ArcSwapOption<Headroom>,
}

const CONNECTIONS: &str = "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int \
       - coalesce(current_setting('reserved_connections', true)::int, 0), \
     count(*) FILTER (WHERE usename = current_user AND datname = current_database()), count(*) \
     FROM pg_stat_activity WHERE backend_type = 'client backend'";

impl Pool {
    /// One round of upkeep.
    pub(super) fn keep_headroom(&self) {
        if self.headroom.rounds.fetch_add(1, Ordering::Relaxed).is_multiple_of(ROUNDS) {
            self.headroom.due.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it is time to read it again.
    #[inline]
    pub(crate) fn is_headroom_due(&self) -> bool {
        self.headroom.due.load(Ordering::Relaxed)
    }

    /// The same, for whoever asks first.
    pub(crate) fn reads_headroom(&self) -> bool {
        self.is_headroom_due() && self.headroom.due.swap(false, Ordering::Relaxed)
    }

    /// Reads it on a backend that nobody needs right now.
    pub(crate) async fn read_headroom(&self, backend: &mut Backend) {
        let answer = match backend.ask_safely(CONNECTIONS, &[]).await {
            Ok(answer) => answer,
            Err(AskError::Refused(error)) => {
                tracing::debug!(pool = %self.key, "cannot read how many connections there are: {error}");
                return;
            }
            Err(AskError::Io(_)) => return,
        };
        let number = |column: usize| -> Option<usize> { answer.rows.first()?.get(column)?.as_deref()?.parse().ok() };
        if let (Some(usable), Some(own), Some(all)) = (number(0), number(1), number(2)) {
            self.headroom.last.store(Some(Headroom { usable, own, others: all.saturating_sub(own) }.into()));
        }
    }

    /// The last reading, if there is any.
    pub fn headroom(&self) -> Option<Headroom> {
        self.headroom.last.load().as_deref().copied()
    }
}
