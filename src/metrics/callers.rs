//! What is measured of callers: those with the greatest demand, so that a function that storms is named.

use std::time::Duration;

use prometheus::{GaugeVec, IntGaugeVec, Registry};

use super::{catalogue, floats, gauges};
use crate::activity::State;

/// The metrics of callers.
pub struct Callers {
    clients: IntGaugeVec,
    longest_wait: GaugeVec,
    longest_silence: GaugeVec,
}

impl Callers {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            clients: gauges(registry, &catalogue::CALLER_CLIENTS),
            longest_wait: floats(registry, &catalogue::CALLER_LONGEST_WAIT_SECONDS),
            longest_silence: floats(registry, &catalogue::CALLER_LONGEST_IDLE_IN_TRANSACTION_SECONDS),
        }
    }

    /// Shows these callers (application, user, clients by state, longest wait, longest silence in a transaction) and no
    /// others.
    pub fn show<'a>(&self, callers: impl Iterator<Item = (&'a str, &'a str, [usize; 5], Duration, Duration)>) {
        self.clients.reset();
        self.longest_wait.reset();
        self.longest_silence.reset();
        for (application, user, clients, wait, silence) in callers {
            for (state, count) in State::ALL.into_iter().zip(clients) {
                self.clients.with_label_values(&[application, user, state.as_str()]).set(count as i64);
            }
            self.longest_wait.with_label_values(&[application, user]).set(wait.as_secs_f64());
            self.longest_silence.with_label_values(&[application, user]).set(silence.as_secs_f64());
        }
    }
}
