//! What is measured of callers: those with the greatest demand, so that a function that storms is named.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::{GaugeVec, IntGaugeVec, Registry};

use super::{catalogue, floats, forget, gauges};
use crate::activity::State;

/// The metrics of callers.
pub struct Callers {
    clients: IntGaugeVec,
    longest_wait: GaugeVec,
    longest_silence: GaugeVec,
    /// Application and user of those that are shown.
    shown: Mutex<HashSet<[String; 2]>>,
}

impl Callers {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            clients: gauges(registry, &catalogue::CALLER_CLIENTS),
            longest_wait: floats(registry, &catalogue::CALLER_LONGEST_WAIT_SECONDS),
            longest_silence: floats(registry, &catalogue::CALLER_LONGEST_IDLE_IN_TRANSACTION_SECONDS),
            shown: Mutex::default(),
        }
    }

    /// Shows these callers (application, user, clients by state, longest wait, longest silence in a transaction) and no
    /// others. Whoever reads meanwhile misses none that stays.
    pub fn show<'a>(&self, callers: impl Iterator<Item = (&'a str, &'a str, [usize; 5], Duration, Duration)>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = std::mem::take(&mut *shown);
        for (application, user, clients, wait, silence) in callers {
            for (state, count) in State::ALL.into_iter().zip(clients) {
                self.clients.with_label_values(&[application, user, state.as_str()]).set(count as i64);
            }
            self.longest_wait.with_label_values(&[application, user]).set(wait.as_secs_f64());
            self.longest_silence.with_label_values(&[application, user]).set(silence.as_secs_f64());
            let caller = [application.to_owned(), user.to_owned()];
            gone.remove(&caller);
            shown.insert(caller);
        }
        for [application, user] in &gone {
            let caller = [application.as_str(), user.as_str()];
            forget(&self.clients, caller, &State::ALL.map(State::as_str));
            forget(&self.longest_wait, caller, &[]);
            forget(&self.longest_silence, caller, &[]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_no_longer_among_them_is_not_shown() {
        let registry = Registry::new();
        let callers = Callers::new(&registry);
        let show = |names: &[&'static str]| {
            callers.show(names.iter().map(|name| (*name, "app", [1; 5], Duration::ZERO, Duration::ZERO)));
            registry.gather().iter().map(|family| family.get_metric().len()).sum::<usize>()
        };
        let each = State::ALL.len() + 2;
        assert_eq!(show(&["a", "b"]), 2 * each);
        assert_eq!(show(&["b"]), each);
        assert_eq!(show(&[]), 0);
    }
}
