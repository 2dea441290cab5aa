//! How long a client's query takes, and how long of that it is the database's.

use std::time::Duration;

use crate::clock::Moment;
use crate::metrics::PoolMetrics;

/// The query that is being answered: everything up to one ReadyForQuery.
#[derive(Debug, Default)]
pub(super) struct Timing {
    /// The clock, as it was when it was looked at in this wake-up.
    now: Option<Moment>,
    /// When the client asked it.
    asked: Option<Moment>,
    /// When there was a backend for it.
    served: Option<Moment>,
    /// When its answer began, if it came in parts.
    began: Option<Moment>,
    /// When the last one was answered.
    rests: Option<Moment>,
}

/// A query that has been answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    /// When it was asked.
    asked: Moment,
    /// When there was a backend for it.
    served: Moment,
    /// When it was answered.
    at: Moment,
}

impl Answered {
    /// When it was asked, when there was a backend for it, and when it was answered.
    pub(super) fn moments(&self) -> [Moment; 3] {
        [self.asked, self.served, self.at]
    }

    /// How long it took in all.
    pub(super) fn total(&self) -> Duration {
        self.at.since(self.asked)
    }

    /// How long of that it waited for a backend.
    pub(super) fn waited(&self) -> Duration {
        self.served.since(self.asked)
    }

    /// How long of that was the database's.
    pub(super) fn database(&self) -> Duration {
        self.at.since(self.served)
    }
}

impl Timing {
    /// Now, as this wake-up has it: the clock is looked at once.
    #[inline]
    pub(super) fn now(&mut self) -> Moment {
        *self.now.get_or_insert_with(Moment::now)
    }

    /// The wake-up is over.
    #[inline]
    pub(super) fn rest(&mut self) {
        self.now = None;
    }

    /// The client asks something that needs a backend.
    #[inline]
    pub(super) fn ask(&mut self) {
        self.asked = Some(self.now());
    }

    /// When the client asked what it has no backend for.
    pub(super) fn asked(&self) -> Moment {
        self.asked.unwrap_or_else(Moment::now)
    }

    /// It has one since then.
    pub(super) fn serve(&mut self, since: Moment) {
        self.served = Some(since);
    }

    /// The client asks something of a backend that it has.
    #[inline]
    pub(super) fn ask_served(&mut self) {
        if self.asked.is_none() {
            let now = self.now();
            (self.asked, self.served) = (Some(now), Some(now));
        }
    }

    /// Part of its answer is there, and not its end.
    #[inline]
    pub(super) fn begin(&mut self) {
        if self.began.is_none() && self.asked.is_some() {
            self.began = Some(self.now());
        }
    }

    /// Since when nothing has been asked; `None`: nothing ever was.
    pub(super) fn rests(&self) -> Option<Moment> {
        self.rests
    }

    /// It is answered; `more`: what was sent behind it is next. Returns when that was, and what it took.
    #[inline]
    pub(super) fn answer(&mut self, more: bool, metrics: &PoolMetrics) -> (Moment, Option<Answered>) {
        let now = Moment::now();
        self.now = Some(now);
        let mut answered = None;
        if let (Some(asked), Some(served)) = (self.asked, self.served) {
            metrics.query.observe(now.seconds_since(asked));
            metrics.query_database.observe(now.seconds_since(served));
            metrics.query_first.observe(self.began.unwrap_or(now).seconds_since(asked));
            answered = Some(Answered { asked, served, at: now });
        }
        (self.asked, self.served) = if more { (Some(now), Some(now)) } else { (None, None) };
        (self.began, self.rests) = (None, Some(now));
        (now, answered)
    }
}
