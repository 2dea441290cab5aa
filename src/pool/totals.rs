//! What a pool has done since it is there, and in the last minute: PgBouncer's `SHOW STATS`.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Pool;

/// Over how long averages are: PgBouncer's default `stats_period`.
const PERIOD: Duration = Duration::from_secs(60);

/// What has been done. Times are in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Times that a client got a backend.
    pub leases: u64,
    /// Transactions of clients that are not pinned.
    pub transactions: u64,
    /// Queries: everything up to one ReadyForQuery.
    pub queries: u64,
    /// Bytes from clients.
    pub received: u64,
    /// Bytes to clients.
    pub sent: u64,
    /// For how long backends were lent.
    pub lease_time: u64,
    /// For how long queries ran in the database.
    pub query_time: u64,
    /// For how long clients waited for a backend.
    pub wait_time: u64,
}

impl Totals {
    /// Both together.
    pub fn plus(&self, other: &Totals) -> Totals {
        self.with(other, u64::wrapping_add)
    }

    fn with(&self, other: &Totals, combine: fn(u64, u64) -> u64) -> Totals {
        Totals {
            leases: combine(self.leases, other.leases),
            transactions: combine(self.transactions, other.transactions),
            queries: combine(self.queries, other.queries),
            received: combine(self.received, other.received),
            sent: combine(self.sent, other.sent),
            lease_time: combine(self.lease_time, other.lease_time),
            query_time: combine(self.query_time, other.query_time),
            wait_time: combine(self.wait_time, other.wait_time),
        }
    }

    /// As PgBouncer has it: counts per second, times per transaction, query and transaction.
    fn averages(&self, since: &Totals, time: Duration) -> Totals {
        let done = self.with(since, u64::saturating_sub);
        let per_second = |count: u64| (count as f64 / time.as_secs_f64().max(0.001)) as u64;
        let per = |time: u64, count: u64| time.checked_div(count).unwrap_or(0);
        Totals {
            leases: per_second(done.leases),
            transactions: per_second(done.transactions),
            queries: per_second(done.queries),
            received: per_second(done.received),
            sent: per_second(done.sent),
            lease_time: per(done.lease_time, done.transactions),
            query_time: per(done.query_time, done.queries),
            wait_time: per(done.wait_time, done.transactions),
        }
    }
}

/// The last two moments at which a period ended.
#[derive(Debug)]
pub(super) struct Periods(Mutex<[(Instant, Totals); 2]>);

impl Periods {
    pub(super) fn new() -> Self {
        Self(Mutex::new([(Instant::now(), Totals::default()); 2]))
    }
}

impl Pool {
    /// Since it is there.
    pub fn totals(&self) -> Totals {
        let metrics = &self.metrics;
        let micros = |seconds: f64| (seconds * 1e6) as u64;
        let wait = &metrics.borrow_wait;
        let waits = [&wait.at_once, &wait.waited, &wait.timed_out, &wait.refused, &wait.left];
        Totals {
            leases: metrics.lease_held.get_sample_count(),
            transactions: metrics.transactions.get(),
            queries: metrics.query.get_sample_count(),
            received: metrics.received.get(),
            sent: metrics.sent.get(),
            // Those that run included, as are their queries.
            lease_time: u64::try_from(self.sample().lent.as_micros()).unwrap_or(u64::MAX),
            query_time: micros(metrics.query_database.get_sample_sum()),
            wait_time: micros(waits.iter().map(|wait| wait.get_sample_sum()).sum()),
        }
    }

    /// In the last whole minute; before there is one, since the pool is there.
    pub fn averages(&self) -> Totals {
        let [(began, before), (ended, after)] = *self.periods.0.lock().unwrap_or_else(PoisonError::into_inner);
        match ended.checked_duration_since(began).filter(|time| !time.is_zero()) {
            Some(time) => after.averages(&before, time),
            None => self.totals().averages(&before, began.elapsed()),
        }
    }

    /// One round of upkeep.
    pub(super) fn keep_averages(&self) {
        let mut periods = self.periods.0.lock().unwrap_or_else(PoisonError::into_inner);
        let [_, last] = *periods;
        if last.0.elapsed() >= PERIOD {
            *periods = [last, (Instant::now(), self.totals())];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_of_the_time_between() {
        let before = Totals { transactions: 100, queries: 200, query_time: 1_000, wait_time: 7, ..Totals::default() };
        let after = Totals {
            transactions: 160,
            queries: 320,
            query_time: 61_000,
            wait_time: 127,
            lease_time: 120_000,
            ..before
        };
        let averages = after.averages(&before, Duration::from_secs(60));
        assert_eq!((averages.transactions, averages.queries, averages.received), (1, 2, 0));
        assert_eq!((averages.lease_time, averages.query_time, averages.wait_time), (2_000, 500, 2));
        assert_eq!(before.averages(&before, Duration::ZERO), Totals::default(), "nothing was done");
    }
}
