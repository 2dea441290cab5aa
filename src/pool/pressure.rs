//! Pressure: demand for a pool's backends against what there is. Three counters on the hot path, a sample of them each
//! second, and what follows from two samples.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Moment;

/// How long samples are kept.
const KEPT: usize = 15 * 60;

/// A pool that makes its clients wait for less than this on average is large enough.
const SHORT_WAIT: Duration = Duration::from_millis(5);

/// More backends than this are not looked for.
const MOST: usize = 10_000;

/// A pool's counters, and their past.
#[derive(Debug)]
pub(super) struct Pressure {
    /// Clients that asked for a lease.
    asked: AtomicU64,
    /// Leases that have ended.
    ended: AtomicU64,
    /// Nanoseconds at which leases ended, less those at which leases began: with those that run, how long backends were
    /// lent altogether.
    lent: AtomicI64,
    samples: Mutex<VecDeque<Sample>>,
}

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When, since the process began.
    pub at: Duration,
    /// Clients that had asked for a lease until then.
    pub asked: u64,
    /// Leases that had ended.
    pub ended: u64,
    /// For how long backends had been lent, all together.
    pub lent: Duration,
    /// Clients that held a lease.
    pub active: usize,
    /// Clients that waited for one.
    pub waiting: usize,
    /// Backends that may be.
    pub size: usize,
}

impl Pressure {
    pub(super) fn new() -> Self {
        Self { asked: AtomicU64::new(0), ended: AtomicU64::new(0), lent: AtomicI64::new(0), samples: Mutex::default() }
    }

    /// A client asks for a lease.
    #[inline]
    pub(super) fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// A lease begins.
    #[inline]
    pub(super) fn begin(&self, now: Moment) {
        self.lent.fetch_sub(nanos(now), Ordering::Relaxed);
    }

    /// A lease ends.
    #[inline]
    pub(super) fn end(&self, now: Moment) {
        self.lent.fetch_add(nanos(now), Ordering::Relaxed);
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// What is now.
    pub(super) fn now(&self, active: usize, waiting: usize, size: usize) -> Sample {
        let now = Moment::now();
        let running = nanos(now).saturating_mul(i64::try_from(active).unwrap_or(i64::MAX));
        // A lease that begins or ends right now may be half counted.
        let lent = self.lent.load(Ordering::Relaxed).saturating_add(running).max(0);
        Sample {
            at: now.since(Moment::default()),
            asked: self.asked.load(Ordering::Relaxed),
            ended: self.ended.load(Ordering::Relaxed),
            lent: Duration::from_nanos(lent.unsigned_abs()),
            active,
            waiting,
            size,
        }
    }

    /// Keeps a sample; one comes each second.
    pub(super) fn keep(&self, sample: Sample) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() >= KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// The kept samples, the oldest first.
    pub(super) fn history(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// How many backends would have served the demand of the last `window` until `now` without making clients wait.
    pub(super) fn needed(&self, now: &Sample, window: Duration) -> usize {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let from = samples.iter().rev().find(|sample| sample.at + window <= now.at).or_else(|| samples.front());
        from.map_or(0, |from| from.needed_until(now))
    }
}

fn nanos(now: Moment) -> i64 {
    i64::try_from(now.nanos()).unwrap_or(i64::MAX)
}

impl Sample {
    /// How many backends would have served the demand since this sample with less than [`SHORT_WAIT`] on average.
    fn needed_until(&self, now: &Sample) -> usize {
        let seconds = now.at.saturating_sub(self.at).as_secs_f64();
        let lent = now.lent.saturating_sub(self.lent).as_secs_f64();
        // Who had to wait already when it began wants to be served, too.
        let asked = (now.asked - self.asked) as f64 + self.waiting as f64;
        // The leases that ended, and those that have begun and run.
        let leases = (now.ended - self.ended) as f64 + now.active as f64;
        if seconds <= 0.0 || leases <= 0.0 || lent <= 0.0 {
            return 0;
        }
        let mean = lent / leases;
        // Little's law: so many leases at one time, if none had to wait.
        let load = asked.max(leases.min(asked + self.active as f64)) / seconds * mean;
        backends_for(load, mean)
    }
}

/// The fewest servers that make the mean wait shorter than [`SHORT_WAIT`] when `load` servers are busy on average and a
/// customer takes `mean` seconds: Erlang's C formula, by the recursion of his B formula.
fn backends_for(load: f64, mean: f64) -> usize {
    let mut blocked = 1.0;
    for servers in 1..=MOST {
        blocked = load * blocked / (servers as f64 + load * blocked);
        let free = servers as f64 - load;
        if free > 0.0 {
            let waits = blocked / (1.0 - load / servers as f64 * (1.0 - blocked));
            if waits * mean / free < SHORT_WAIT.as_secs_f64() {
                return servers;
            }
        }
    }
    MOST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_erlang_says() {
        // Load 2, 3 servers: 4/9 of the customers wait, on average 0.444 of a service time (Erlang's tables).
        assert_eq!(backends_for(2.0, 0.010), 3, "4.4 ms");
        assert_eq!(backends_for(2.0, 0.012), 4, "5.3 ms is too long");
        assert_eq!(backends_for(0.1, 0.001), 1);
        assert_eq!(backends_for(10.0, 1.0), 17, "3.1 % wait, on average a seventh of a second");
        assert_eq!(backends_for(1e9, 1.0), MOST);
    }

    fn sample(seconds: u64, asked: u64, ended: u64, lent: f64, active: usize, waiting: usize) -> Sample {
        let at = Duration::from_secs(seconds);
        Sample { at, asked, ended, lent: Duration::from_secs_f64(lent), active, waiting, size: 20 }
    }

    #[test]
    fn demand_counts_those_who_wait() {
        let nothing = sample(0, 0, 0, 0.0, 0, 0);
        // 100 leases of 10 ms each second.
        assert_eq!(nothing.needed_until(&sample(10, 1_000, 1_000, 10.0, 0, 0)), 2);
        // 500 ask at once for a second each, of which 20 at a time are served.
        let storm = nothing.needed_until(&sample(10, 500, 180, 200.0, 20, 300));
        assert!((50..75).contains(&storm), "{storm}");
        // Nothing ends: as many as run, and as wait.
        assert!(nothing.needed_until(&sample(10, 30, 0, 180.0, 20, 10)) >= 27);
        assert_eq!(nothing.needed_until(&sample(10, 0, 0, 0.0, 0, 0)), 0);
    }

    #[test]
    fn how_long_backends_are_lent() {
        let pressure = Pressure::new();
        let at = |seconds: u64| Moment::default() + Duration::from_secs(seconds);
        pressure.begin(at(1));
        pressure.begin(at(2));
        pressure.end(at(5));
        pressure.end(at(7));
        let sample = pressure.now(0, 0, 20);
        assert_eq!((sample.lent, sample.ended), (Duration::from_secs(9), 2));
        (0..2 * KEPT).for_each(|_| pressure.keep(sample));
        assert_eq!(pressure.history().len(), KEPT);
    }
}
