//! How long a client's query takes, and how long of that it is the database's.

use crate::clock::Moment;
use crate::metrics::PoolMetrics;

/// The query that is being answered: everything up to one ReadyForQuery.
#[derive(Debug, Default)]
pub(super) struct Timing {
    /// When the client asked it.
    asked: Option<Moment>,
    /// When there was a backend for it.
    served: Option<Moment>,
}

impl Timing {
    /// The client asks something that needs a backend.
    pub(super) fn ask(&mut self) {
        self.asked = Some(Moment::now());
    }

    /// It has one since then.
    pub(super) fn serve(&mut self, since: Moment) {
        self.served = Some(since);
    }

    /// The client asks something of a backend that it has.
    #[inline]
    pub(super) fn ask_served(&mut self) {
        if self.asked.is_none() {
            let now = Moment::now();
            (self.asked, self.served) = (Some(now), Some(now));
        }
    }

    /// It is answered; `more`: what was sent behind it is next. Returns when that was.
    #[inline]
    pub(super) fn answer(&mut self, more: bool, metrics: &PoolMetrics) -> Moment {
        let now = Moment::now();
        if let (Some(asked), Some(served)) = (self.asked, self.served) {
            metrics.query.observe(now.seconds_since(asked));
            metrics.query_database.observe(now.seconds_since(served));
        }
        (self.asked, self.served) = if more { (Some(now), Some(now)) } else { (None, None) };
        now
    }
}
