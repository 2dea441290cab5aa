//! Lines about what is slow: queries, and waits for a backend.

use std::time::Duration;

use super::Session;
use super::timing::Answered;
use crate::pool::Lease;

impl Session {
    /// Logs a query that took longer than `log_slow_query`, or waited longer than `log_slow_borrow`.
    #[inline]
    pub(super) fn log_what_is_slow(&self, took: &Answered, lease: &Lease) {
        let settings = self.pool.settings.load();
        if settings.log_slow_query.is_some_and(|limit| took.total() > limit) {
            self.log_slow("slow query", took.total(), took, lease);
        }
        if settings.log_slow_borrow.is_some_and(|limit| took.waited() > limit) {
            self.log_slow("slow borrow", took.waited(), took, lease);
        }
    }

    #[cold]
    fn log_slow(&self, event: &'static str, time: Duration, took: &Answered, lease: &Lease) {
        let (pool, message) = (self.pool.key.to_string(), format!("{time:?}"));
        if crate::log::is_first(event, &pool, "", &message) {
            tracing::info!(
                client = self.handle.id,
                backend = lease.identity.pid,
                pool,
                application = &*self.handle.application,
                waited_ms = took.waited().as_millis() as u64,
                database_ms = took.database().as_millis() as u64,
                "{event}: {message}"
            );
        }
    }
}
