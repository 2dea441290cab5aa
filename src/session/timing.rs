//! How long a client's query takes, and how long of that it is the database's.

use std::time::Instant;

use crate::metrics::PoolMetrics;

/// The query that is being answered: everything up to one ReadyForQuery.
#[derive(Debug, Default)]
pub(super) struct Timing {
    /// When the client asked it.
    asked: Option<Instant>,
    /// When there was a backend for it.
    served: Option<Instant>,
}

impl Timing {
    /// The client asks something that needs a backend.
    pub(super) fn ask(&mut self) {
        self.asked = Some(Instant::now());
    }

    /// It has one since then.
    pub(super) fn serve(&mut self, since: Instant) {
        self.served = Some(since);
    }

    /// The client asks something of a backend that it has.
    #[inline]
    pub(super) fn ask_served(&mut self) {
        if self.asked.is_none() {
            let now = Instant::now();
            (self.asked, self.served) = (Some(now), Some(now));
        }
    }

    /// It is answered; `more`: what was sent behind it is next.
    #[inline]
    pub(super) fn answer(&mut self, more: bool, metrics: &PoolMetrics) {
        let now = Instant::now();
        if let (Some(asked), Some(served)) = (self.asked, self.served) {
            metrics.query.observe(now.saturating_duration_since(asked).as_secs_f64());
            metrics.query_database.observe(now.saturating_duration_since(served).as_secs_f64());
        }
        (self.asked, self.served) = if more { (Some(now), Some(now)) } else { (None, None) };
    }
}
